"""Week 14's own mathematics against independent answers, and its kernels in Triton's interpreter; its smoke run is in test_weeks.py."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton

from workloads import corpus, lm, measure
from workloads.lm import Config, Decoder
from workloads.spec import Metric, check_kept, discover
from workloads.training import Course, Trainer
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


def swept(arm: Arm, rate: float, loss: float, *, diverged: bool = False) -> Run:
    return Run(arm, rate, 0, loss, diverged, 0, 90, 100)


def final(arm: Arm, rate: float, seed: int, loss: float, *, spikes: int = 0) -> Run:
    return Run(arm, rate, seed, loss, False, spikes, 900, 1000, final=True)


def seen(runs: list[Run], **changes: object) -> Seen:
    whole = Seen("cuda", 8.0, (0.1, 1.0), [Shape(BASELINE, 100, 40), Shape(CANDIDATE, 99, 24)], runs, (100, 99),
                 {"baseline": (2.0,) * 6, "again": (2.02,) * 6, "candidate": (2.02,) * 6}, None, {"decode": "out of memory"},
                 [NormTime("Triton", "norm", 3e9, (2.0,) * 6, 0.001), NormTime("Liger", "norm", 3e9, why="not installed")],
                 [Pace("ours, blocks compiled", 10, (1e6, 1.1e6, 1.2e6), 4e8), Pace("ours, whole graph", 10, (1.3e6,), 4e8),
                  Pace("theirs", 10, why="out of memory"), run.ANCHOR], CEILINGS, ("a note",))
    return replace(whole, **changes)  # type: ignore[arg-type]  # fields of Seen


SWEEP = [swept(BASELINE, 0.1, 3.5), swept(BASELINE, 1.0, 9.0, diverged=True), swept(BASELINE, 0.05, 4.0),
         swept(CANDIDATE, 0.1, 4.5), swept(CANDIDATE, 1.0, 3.4), swept(CANDIDATE, 0.6, 3.41)]
RUNS = [*SWEEP, final(BASELINE, 0.1, 0, 3.0), final(BASELINE, 0.1, 1, 3.1), final(BASELINE, 0.1, 2, 3.2),
        final(CANDIDATE, 1.0, 0, 2.9, spikes=2), final(CANDIDATE, 1.0, 1, 3.0), final(CANDIDATE, 1.0, 2, 3.1)]


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
    assert found.sensitivity(BASELINE) == pytest.approx((3.5 + 8.0) / 2 - 3.5), "the rate beside the grid is not of it"
    assert found.sensitivity(CANDIDATE) == pytest.approx((4.5 + 3.4) / 2 - 3.4)
    assert (found.diverged(BASELINE), found.diverged(CANDIDATE)) == (0.5, 0.0)
    assert found.sensitivity(Arm("geglu", "rmsnorm")) is None


def test_two_seeds_are_too_few_and_an_arm_that_always_diverges_has_no_best() -> None:
    short = observed(seen([run for run in RUNS if run.seed < 2]))
    assert dict(short.not_measured)["ppl_ratio"] == "2 seeds of both arms, and 3 are needed"
    lost = observed(seen([replace(run, diverged=True) if run.arm == CANDIDATE else run for run in RUNS
                          if not (run.arm == CANDIDATE and run.final)]))
    check_kept(discover()["week14"], lost)
    assert set(dict(lost.not_measured)) == {"ppl_ratio", "decode", "stable"}


def test_the_curve_of_the_rates_is_the_sweep_in_order() -> None:
    (table,) = (t for t in observed(seen(RUNS)).tables if t.name == "rates")
    assert table.rows == (("GELU + LayerNorm", 0.05, 4.0), ("GELU + LayerNorm", 0.1, 3.5), ("GELU + LayerNorm", 1.0, 8.0),
                          ("SwiGLU + RMSNorm", 0.1, 4.5), ("SwiGLU + RMSNorm", 0.6, 3.41), ("SwiGLU + RMSNorm", 1.0, 3.4))


def test_a_best_rate_at_the_end_of_the_rates_is_said() -> None:
    def notes(runs: list[Run]) -> list[str]:
        return [note for note in observed(seen(runs)).notes if note.startswith("Rates:")]

    assert notes(RUNS) == ["Rates: the second best of an arm costs 0.010 to 0.500 nats in the sweep",
                           "Rates: best at the end of those tried, so a better one may lie beyond: SwiGLU + RMSNorm at 1"]
    inside = [replace(run, loss=3.3) if run.rate == 0.6 else run for run in RUNS]
    assert notes(inside) == ["Rates: the second best of an arm costs 0.100 to 0.500 nats in the sweep"]
    assert notes([swept(BASELINE, 0.1, 3.0), swept(BASELINE, 1.0, 3.5)])[1].endswith("GELU + LayerNorm at 0.1"), "the lowest is an end"
    assert notes(RUNS[:1]) == []


@pytest.mark.parametrize(("differences", "verdict"), [
    ((-0.010, -0.012, -0.008), "all of the interval is within the margin"),
    ((-0.010, 0.012, 0.002), "the margin is inside the interval: these seeds show neither that it is kept nor that it is not"),
    ((0.010, 0.012, 0.008), "all of the interval is beyond the margin: worse, and not for want of seeds")])
def test_what_the_seeds_could_have_shown_is_said(differences: tuple[float, ...], verdict: str) -> None:
    runs = [*SWEEP, *(final(BASELINE, 0.1, seed, 3.0) for seed in range(3)),
            *(final(CANDIDATE, 1.0, seed, 3.0 + d) for seed, d in enumerate(differences))]
    power, told, needed = observed(seen(runs)).notes[-3:]
    deviation = torch.tensor(differences, dtype=torch.float64).std().item()
    reach = 4.30265 * deviation / math.sqrt(3)
    assert power == (f"Power: the difference of the pair has a deviation of {deviation:.4f} nats over 3 seeds; the interval reaches "
                     f"{reach:.4f} nats to each side, and its high end decides")
    assert told == f"Power: {verdict}"
    assert needed == (f"Power: with this deviation, a mean difference of {math.log(1.002) - reach:+.4f} nats or lower counts as within "
                      "the margin")


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
                       "diverged": True, "spikes": 0, "watched": 90, "steps": 100, "final": False}
    assert rows[-1]["final"] and rows[-1]["held_out_nats"] == 3.1


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


# ---------------------------------------------------------------------------------------------------- the trainings


def laboratory(tmp_path: Path, **sizes: object) -> run.Laboratory:
    found = object.__new__(run.Laboratory)
    found.ctx, found.why, found.began = run.Context(tmp_path, "cpu", smoke=True, progress=lambda _: None), {}, time.monotonic()
    found.sizes = replace(run.SMOKE_SIZES, **sizes)  # type: ignore[arg-type]  # fields of Sizes
    return found


def ready(arm: Arm, step_s: float) -> run.Ready:
    return run.Ready(arm, None, None, step_s, 8.3, 0.5)  # type: ignore[arg-type]  # nothing is trained


def test_an_arm_that_cannot_be_recorded_is_trained_step_by_step_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = laboratory(tmp_path)
    config = replace(found.sizes.small, feed_forward="gelu", norm="layernorm")
    made = Trainer(Decoder(config), lm.places(config, 32, "cpu"), compiled=False)

    def warmed(*_: object, graph: bool) -> tuple[Trainer, Course]:
        if graph:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return made, Course((8.0,), (1.0,), 64, 1.0, 1)

    monkeypatch.setattr(found, "_warmed", warmed)
    monkeypatch.setattr(found, "_restarted", lambda *_: 8.3)
    assert found._ready(BASELINE, config)[0].why == "", "on a CPU there is nothing to record"
    found.ctx = replace(found.ctx, device="cuda")
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_: module)
    shape, able = found._ready(BASELINE, config)
    assert able is not None and able.trainer is made and able.untrained == 8.3
    assert shape.why.startswith("done, but not from a recording: RuntimeError: CUDA error: operation not permitted")
    assert shape.tokens_per_s == 64.0

    def never(*_: object, graph: bool) -> tuple[Trainer, Course]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(found, "_warmed", never)
    assert found._ready(BASELINE, config) == (Shape(BASELINE, lm.parameters(Decoder(config)), 128, why="out of memory"), None)


def test_trainings_fit_their_time_with_what_surrounds_them(tmp_path: Path) -> None:
    found = laboratory(tmp_path, most_steps=10_000)
    pair = [(ready(BASELINE, 0.01), 5), (ready(CANDIDATE, 0.02), 5)]
    assert found._steps(101.0, pair) == int((0.95 * 101.0 - 5.0) / 0.15)
    assert found._steps(1.0, pair) == found.sizes.least_steps
    assert found._steps(1.0, []) == found.sizes.least_steps


def test_every_arm_is_tried_beside_its_best_rate_and_then_trained_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = laboratory(tmp_path, grid=(1e-3, 1e-2, 1.0), pair_seeds=3, seeds=2)
    other = Arm("relu2", "rmsnorm")
    able = [ready(BASELINE, 1.0), ready(CANDIDATE, 1.0), ready(other, 1.0)]
    best = {BASELINE: 1e-3, CANDIDATE: 1.7e-2, other: 0.0}

    def train(able: run.Ready, rate: float, seed: int, steps: int, *, final: bool = False) -> Run:
        diverged = rate >= 1 or able.arm == other
        return Run(able.arm, rate, seed, 8.3 if diverged else 3 + abs(rate - best[able.arm]), diverged, 0, 1, steps, final)

    monkeypatch.setattr(found, "_train", train)
    sweep = found._sweep(able, 1.0)
    assert [run.rate for run in sweep[:5]] == [1e-3, 1e-2, 1.0, 5.8e-4, 1.7e-3]
    assert [run.rate for run in sweep[5:10]] == [1e-3, 1e-2, 1.0, 5.8e-3, 1.7e-2]
    finals = found._finals(able, sweep, 1.0)
    assert [(run.arm, run.rate, run.seed) for run in finals] == [
        (arm, best[arm], seed) for seed in range(3) for arm in (BASELINE, CANDIDATE)], "and none for an arm that always diverged"
    assert all(run.final for run in finals) and not any(run.final for run in sweep)


def test_a_warm_up_is_a_tenth_and_at_least_fifty_steps_where_there_are_enough() -> None:
    assert [run.Laboratory._recipe(steps, 1.0).rising for steps in (5, 100, 360, 2000)] == [1, 25, 50, 200]
