"""Week 14's own mathematics against independent answers, and its kernels in Triton's interpreter; its smoke run is in test_weeks.py."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton

from workloads import corpus, lm, measure
from workloads.lm import Config, Decoder
from workloads.spec import Metric, check_kept, discover
from workloads.week14_ffn_norm import peer, run
from workloads.week14_ffn_norm.findings import BASELINE, CANDIDATE, Arm, NormTime, Pace, Run, Seen, Shape, observed, sweep_json
from workloads.week14_ffn_norm.kernels import WIDEST, FusedRMSNorm, _shape, fuse_norms

ROOT = Path(__file__).parent.parent
TINY = Config(width=32, layers=1, heads=2, vocabulary=64, trained_length=16)

# ---------------------------------------------------------------------------------------------------- kernels

# Triton decides at import whether it interprets, so its kernels run in a process of their own.
INTERPRETED = """
import torch
from workloads.lm import EPSILON, Config, Decoder, RMSNorm, places
from workloads.week14_ffn_norm import kernels

def close(seen, expected, most):
    error = float(((seen.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm()))
    assert error < most, f"{error} from the reference"

random = torch.Generator().manual_seed(0)
for kind, most in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
    for shape in ((3, 5, 48), (7, 64), (1, 1), (2, 129)):
        x, residual, grad, grad_total = (torch.randn(shape, dtype=kind, generator=random) for _ in range(4))
        gain = torch.randn(shape[-1], generator=random)
        for adds in (False, True):
            mine = [t.clone().requires_grad_() for t in ((x, residual, gain) if adds else (x, gain))]
            norm = (kernels.FusedAddRMSNorm if adds else kernels.FusedRMSNorm)(shape[-1])
            del norm.weight
            norm.weight = mine[-1]
            out = norm(*mine[:-1])
            outs = out if adds else (out,)
            gradients = torch.autograd.grad(outs, mine, (grad, grad_total)[: len(outs)])

            theirs = [t.double().requires_grad_() for t in ((x, residual, gain) if adds else (x, gain))]
            total = theirs[0] + theirs[1] if adds else theirs[0]
            expected = total / (total.square().mean(-1, keepdim=True) + EPSILON).sqrt() * theirs[-1]
            references = torch.autograd.grad((expected, total)[: len(outs)], theirs, (grad.double(), grad_total.double())[: len(outs)])
            for seen, reference in zip((*outs, *gradients), ((expected, total)[: len(outs)] + references)):
                if shape != (1, 1) or float(reference.detach().norm()) > 1e-3:  # the gradient of x / |x| is nothing but rounding
                    close(seen, reference, most if shape != (1, 1) else 0.05)

kernels._processors = lambda on: 1
kernels.PROGRAMS_A_PROCESSOR = 3  # fewer programs than rows, and not a divisor: sums over rows, and a last turn half empty
x, gain = torch.randn(10, 20, generator=random).requires_grad_(), torch.randn(20, generator=random).requires_grad_()
norm = kernels.FusedRMSNorm(20)
del norm.weight
norm.weight = gain
seen = torch.autograd.grad(norm(x).sin().sum(), (x, gain))
wide, wide_gain = x.detach().double().requires_grad_(), gain.detach().double().requires_grad_()
expected = wide / (wide.square().mean(-1, keepdim=True) + EPSILON).sqrt() * wide_gain
for a, b in zip(seen, torch.autograd.grad(expected.sin().sum(), (wide, wide_gain))):
    close(a, b, 1e-6)

config = Config(width=32, layers=2, heads=2, vocabulary=50, trained_length=8)
model = Decoder(config)
tokens, at = torch.randint(50, (2, 8), generator=random), places(config, 8, "cpu")
before = model(tokens, at)
assert kernels.fuse_norms(model) == 5
close(model(tokens, at), before, 1e-6)
print("right")
"""


@pytest.mark.slow
def test_the_norm_kernels_and_their_gradients_are_the_formula() -> None:
    done = subprocess.run([sys.executable, "-c", INTERPRETED], cwd=ROOT, check=False, capture_output=True, text=True,
                          env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stdout == "right\n", done.stderr


def test_a_fused_norm_takes_the_place_and_the_weight_of_a_plain_one() -> None:
    model = Decoder(replace(TINY, layers=2))
    names, weight = list(model.state_dict()), model.norm.weight
    assert fuse_norms(model) == 5 and fuse_norms(model) == 0
    assert isinstance(model.norm, FusedRMSNorm) and model.norm.weight is weight
    assert list(model.state_dict()) == names
    assert fuse_norms(Decoder(replace(TINY, norm="layernorm"))) == 0


def test_a_row_too_wide_for_one_program_is_said() -> None:
    assert _shape(1000) == (1024, 4)
    assert _shape(WIDEST)[0] == WIDEST
    with pytest.raises(ValueError, match="wider than the 16384"):
        _shape(WIDEST + 1)


@pytest.mark.gpu
def test_the_norm_kernels_are_right_on_a_gpu() -> None:
    x, residual = (torch.randn(1000, 768, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    plain, fused = lm.RMSNorm(768).cuda(), FusedRMSNorm(768).cuda()
    grads = []
    for norm in (plain, fused):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        grads.append((out.detach(), *torch.autograd.grad(out, (leaf, norm.weight), residual)))
    for a, b in zip(*grads, strict=True):
        assert float((a.float() - b.float()).norm() / b.float().norm()) < 1e-2


# ---------------------------------------------------------------------------------------------------- the arms and their peer


def test_every_arm_has_at_most_the_parameters_of_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "restart", lambda *_: None)  # counted, and not drawn
    for config in (run.FULL_SIZES.small, run.FULL_SIZES.large, run.SMOKE_SIZES.small):
        counts = {arm: lm.parameters(Decoder(replace(config, feed_forward=arm.feed_forward, norm=arm.norm))) for arm in run.ARMS}
        assert max(counts.values()) == counts[BASELINE]
        assert config.width < 100 or min(counts.values()) > 0.99 * counts[BASELINE]
    assert len(set(run.ARMS)) == 8


def test_the_peer_trains_the_same_network() -> None:
    model = Decoder(replace(TINY, vocabulary=corpus.VOCABULARY))
    rows = torch.randint(corpus.VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(0))
    assert peer.losses_apart(model, rows[:1]) < 1e-5
    with torch.no_grad():
        twin = peer.llama(model)
        model.norm.weight.mul_(3.0)
    assert abs(float(twin(rows, labels=rows).loss.detach()) - float(peer.llama(model)(rows, labels=rows).loss.detach())) > 1e-4


def test_the_peers_dataset_goes_round() -> None:
    rows = peer.Rows(torch.arange(6).view(2, 3), 5)
    assert len(rows) == 5 and rows[3]["input_ids"].tolist() == rows[1]["labels"].tolist() == [3, 4, 5]


def test_a_peers_rate_is_of_the_steps_between_and_noise_is_no_rate() -> None:
    assert peer.rate(10, 40, 2.0, 5.0, tokens=100) == 1000.0
    with pytest.raises(RuntimeError, match="40 steps took no longer than 10"):
        peer.rate(10, 40, 2.0, 1.9, tokens=100)


def test_the_norms_of_the_reference_are_torchs() -> None:
    x, gain = torch.randn(5, 16, dtype=torch.float64), torch.randn(16)
    torch.testing.assert_close(run.Laboratory._normed(x, gain, centred=True),
                               torch.nn.functional.layer_norm(x, (16,), gain.double(), eps=lm.EPSILON))
    torch.testing.assert_close(run.Laboratory._normed(x, gain, centred=False),
                               torch.nn.functional.rms_norm(x, (16,), gain.double(), eps=lm.EPSILON))


# ---------------------------------------------------------------------------------------------------- in words

CEILINGS = (Metric("ceiling_matmul", "a ceiling", "TFLOP/s", "higher", measure.exact(800.0)),
            Metric("ceiling_copy", "another", "GB/s", "higher", measure.exact(3000.0)))


def course(arm: Arm, rate: float, seed: int, loss: float, *, diverged: bool = False, spikes: int = 0) -> Run:
    return Run(arm, rate, seed, loss, diverged, spikes, 900, 1000)


def seen(runs: list[Run], **changes: object) -> Seen:
    whole = Seen("cuda", 8.0, (0.1, 1.0), [Shape(BASELINE, 100, 40), Shape(CANDIDATE, 99, 24)], runs, (100, 99),
                 {"baseline": (2.0,) * 6, "again": (2.02,) * 6, "candidate": (2.02,) * 6}, None, {"decode": "out of memory"},
                 [NormTime("Triton", "norm", 3e9, (2.0,) * 6, 0.001), NormTime("Liger", "norm", 3e9, why="not installed")],
                 [Pace("ours, blocks compiled", 10, (1e6, 1.1e6, 1.2e6), 4e8), Pace("ours, whole graph", 10, (1.3e6,), 4e8),
                  Pace("theirs", 10, why="out of memory"), run.ANCHOR], CEILINGS, ("a note",))
    return replace(whole, **changes)  # type: ignore[arg-type]  # fields of Seen


RUNS = [course(BASELINE, 0.1, 0, 3.0), course(BASELINE, 1.0, 0, 9.0, diverged=True), course(BASELINE, 0.1, 1, 3.1),
        course(BASELINE, 0.1, 2, 3.2), course(CANDIDATE, 0.1, 0, 4.0), course(CANDIDATE, 1.0, 0, 2.9, spikes=2),
        course(CANDIDATE, 1.0, 1, 3.0), course(CANDIDATE, 1.0, 2, 3.1)]


def test_arms_are_compared_each_at_its_own_best_rate_and_seed_by_seed() -> None:
    found = seen(RUNS)
    assert (found.best_rate(BASELINE), found.best_rate(CANDIDATE)) == (0.1, 1.0)
    assert found.ratios(CANDIDATE) == pytest.approx([math.exp(-0.1)] * 3)
    told = observed(found)
    check_kept(discover()["week14"], told)
    values = {m.name: m.estimate for m in told.metrics}
    assert values["ppl_ratio"].value == pytest.approx(math.exp(-0.1))
    assert values["prefill"].value == pytest.approx(1.01), "time over time, so below 1 is faster"
    assert values["parameters"].value == 0.99
    assert values["stable"].value == (2700 - 2) / 2700, "of the steps that were watched"
    assert values["noise"].value == pytest.approx(100 * (1 - 2.0 / 2.02), rel=1e-3)
    assert dict(told.not_measured) == {"decode": "out of memory"}


def test_sensitivity_is_wortsmans_and_a_diverged_run_counts_as_untrained() -> None:
    found = seen(RUNS)
    assert found.sensitivity(BASELINE) == pytest.approx((3.0 + 8.0) / 2 - 3.0)
    assert found.sensitivity(CANDIDATE) == pytest.approx((4.0 + 2.9) / 2 - 2.9)
    assert (found.diverged(BASELINE), found.diverged(CANDIDATE)) == (0.5, 0.0)
    assert found.sensitivity(Arm("geglu", "rmsnorm")) is None


def test_two_seeds_are_too_few_and_an_arm_that_always_diverges_has_no_best() -> None:
    short = observed(seen([run for run in RUNS if run.seed < 2]))
    assert dict(short.not_measured)["ppl_ratio"] == "2 seeds of both arms, and 3 are needed"
    lost = observed(seen([replace(run, diverged=True) if run.arm == CANDIDATE else run for run in RUNS]))
    check_kept(discover()["week14"], lost)
    assert set(dict(lost.not_measured)) == {"ppl_ratio", "decode", "stable"}


def test_speed_is_told_beside_its_ceiling() -> None:
    told = observed(seen(RUNS))
    table = {t.name: t for t in told.tables}
    assert table["norms"].column("rate") == (1500.0, None)
    assert table["norms"].column("of copy ceiling")[0] == 50.0
    assert table["norms"].column("check") == ("right", "not installed")
    mfu = told.metric("mfu")
    assert mfu is not None and mfu.estimate.value == pytest.approx(100 * 1.3e6 * 4e8 / 800e12)
    loops = dict(zip(table["loops"].column("loop"), table["loops"].column("check"), strict=True))
    assert loops["theirs"] == "out of memory" and loops[run.ANCHOR.loop].startswith("published")
    assert observed(seen(RUNS, device="cpu")).metric("mfu") is None


def test_every_run_is_in_the_sweep() -> None:
    rows = json.loads(sweep_json(seen(RUNS)))
    assert len(rows) == len(RUNS)
    assert rows[1] == {"feed_forward": "gelu", "norm": "layernorm", "learning_rate": 1.0, "seed": 0, "held_out_nats": 9.0,
                       "diverged": True, "spikes": 0, "watched": 900, "steps": 1000}


def test_what_does_not_fit_is_a_reason_and_not_an_end(tmp_path: Path) -> None:
    said: list[str] = []
    laboratory = object.__new__(run.Laboratory)
    laboratory.ctx, laboratory.why = run.Context(tmp_path, "cpu", smoke=True, progress=said.append), {}

    def fail() -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert laboratory._excused("decode", fail) is None
    assert laboratory.why == {"decode": "out of memory"} and said == ["decode could not run: OutOfMemoryError: CUDA out of memory"]
    assert laboratory._excused("prefill", lambda: 3.0) == 3.0

    def refuse() -> float:
        raise triton.runtime.OutOfResources(300_000, 232_448, "shared memory")

    assert laboratory._excused("Triton, norm", refuse) is None
    assert laboratory.why["Triton, norm"].startswith("OutOfResources: out of resource: shared memory")
