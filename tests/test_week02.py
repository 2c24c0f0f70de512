"""Week 02's own mathematics against independent answers, its kernels in the interpreter and through the compiler; its smoke run is in
test_weeks.py."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from triton.compiler.errors import CompilationError

from workloads import measure
from workloads.spec import Context, Estimate, Metric, Observed, check_kept, discover
from workloads.week02_attention import kernels, run, shapes, sweep, trials
from workloads.week02_attention.ablation import Story, TrainedPair, as_json, delta, observed
from workloads.week02_attention.backends import BACKENDS, FORWARD_ONLY, FUSED_BF16, Backend, Toggle, attend, hindrance, naive
from workloads.week02_attention.dispatch import Launched, kernels_in, launched, proved
from workloads.week02_attention.networks import (
    Attention,
    Classifier,
    Decoder,
    Size,
    classifier_task,
    decoder_task,
    library_text,
    scores,
    switch,
    trained,
)
from workloads.week02_attention.points import Errors, Inputs, Point, Reference, distance, draw, fake_quantised, ratio_of_errors
from workloads.week02_attention.steps import Step, amdahl
from workloads.week02_attention.sweep import Able, Arm, Pace, Seen, able, see
from workloads.week02_attention.trials import Trial, Tried, run_trials

ROOT = Path(__file__).parent.parent
POINT = Point(2, 2, 40, 16, True, True)
TINY = Pace(6, 0.1, 0.0)
SMALL = Size(width=32, depth=2, heads=2, length=32, batch=8, steps=50, evaluated=16)


def by_hand(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Attention one query at a time, in float64: nothing in common with what it checks."""
    out = torch.empty_like(q, dtype=torch.float64)
    for sample in range(q.shape[0]):
        for head in range(q.shape[1]):
            for row in range(q.shape[2]):
                last = row + 1 if causal else q.shape[2]
                dots = [float(q[sample, head, row].double() @ k[sample, head, key].double()) for key in range(last)]
                weights = [math.exp((dot - max(dots)) / math.sqrt(q.shape[3])) for dot in dots]
                parts = [w / sum(weights) * v[sample, head, key].double() for key, w in enumerate(weights)]
                out[sample, head, row] = torch.stack(parts).sum(0)
    return out


def in_interpreter(code: str, *values: str) -> str:
    """Run `code` in a process whose Triton kernels are interpreted; its stdout."""
    done = subprocess.run(["env", "TRITON_INTERPRET=1", sys.executable, "-c", textwrap.dedent(code), *values],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------------------------------------------- one toggle


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", ["naive", "math", "flash", "default"])
def test_every_backend_of_this_machine_is_attention(backend: Backend, causal: bool) -> None:
    inputs = draw(Point(1, 2, 13, 16, causal, False), "cpu", 1)
    exact = by_hand(inputs.q, inputs.k, inputs.v, causal=causal)
    for head in range(2):  # the second has outliers and is louder: on its own
        assert distance(attend(inputs.q, inputs.k, inputs.v, backend=backend, causal=causal)[:, head], exact[:, head]) < 0.01


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("causal", [False, True])
def test_flexattention_is_asked_for_the_same_thing(causal: bool) -> None:
    inputs = draw(Point(1, 1, 13, 16, causal, False), "cpu", 1)
    out = attend(inputs.q.float(), inputs.k.float(), inputs.v.float(), backend="flex", causal=causal)
    assert distance(out, by_hand(inputs.q, inputs.k, inputs.v, causal=causal)) < 1e-5


def test_flashattention_4_is_called_in_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, None]:
        return naive(*(t.transpose(1, 2) for t in (q, k, v)), causal=causal).transpose(1, 2), None

    monkeypatch.setattr("workloads.week02_attention.backends._flash_attention_4", lambda: flash_attn_func)
    inputs = draw(Point(2, 3, 9, 16, True, False), "cpu", 1)
    assert torch.equal(attend(inputs.q, inputs.k, inputs.v, backend="fa4", causal=True), naive(inputs.q, inputs.k, inputs.v, causal=True))


def test_the_naive_path_has_the_gradients_of_the_library() -> None:
    inputs = draw(POINT, "cpu", 2)
    leaves = [t.double().requires_grad_() for t in (inputs.q, inputs.k, inputs.v)]
    mine, theirs = (torch.autograd.grad(attend(*leaves, backend=b, causal=True), leaves, inputs.d_out.double()) for b in ("naive", "math"))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_naive_path_stays_in_bf16_under_autocast() -> None:
    inputs = draw(POINT, "cpu", 2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = naive(inputs.q, inputs.k, inputs.v, causal=True)
    assert inside.dtype == torch.bfloat16 and torch.equal(inside, naive(inputs.q, inputs.k, inputs.v, causal=True))


def test_an_unknown_backend_is_refused_in_one_line() -> None:
    q = torch.zeros(1, 1, 4, 16)
    with pytest.raises(ValueError, match=r"no attention backend 'flesh': one of naive, math"):
        attend(q, q, q, backend="flesh")  # type: ignore[arg-type]


def test_what_this_machine_lacks_has_a_reason() -> None:
    reasons = {backend: hindrance(backend, "cpu") for backend in BACKENDS}
    assert {b for b, why in reasons.items() if why is None} == {"naive", "math", "flash", "default"}
    assert reasons["cudnn"] == "needs a GPU"
    assert "extra attention" in str(reasons["fa4"])


# ---------------------------------------------------------------------------------------------------- shapes and errors


def test_operations_follow_the_convention() -> None:
    full = Point(2, 16, 8192, 128, False, False)
    assert full.tera_operations == 4 * 2 * 16 * 8192**2 * 128 / 1e12
    assert replace(full, causal=True).tera_operations == full.tera_operations / 2
    assert replace(full, backward=True).tera_operations == 3.5 * full.tera_operations


def test_the_sweep_has_every_shape_once_and_the_anchors_first() -> None:
    points = shapes.plan(smoke=False).points
    assert len(points) == len(set(points)) == 7 * 2 * 2 * 2
    assert (points[0].length, points[0].width, points[0].causal, points[0].backward) == (8192, 128, False, False)
    assert {p.length for p in points[:12]} == {8192, 2048, 197}
    assert all(p.heads * p.width == 2048 and 0.9 < p.batch * p.length / 16384 <= 1 for p in points)


def test_who_takes_part_where() -> None:
    points = shapes.plan(smoke=False).points
    for backend in FORWARD_ONLY:
        assert len(shapes.points_of(backend, smoke=False)) == len([p for p in points if not p.backward])
    assert {p.length for p in shapes.points_of("flex", smoke=False)} == set(shapes.FLEX_LENGTHS)
    assert {(p.width, p.backward) for p in shapes.points_of("fa4", smoke=False)} == {(128, False)}
    assert len(shapes.points_of("cudnn", smoke=False)) == len(points)


def test_errors_are_of_the_first_head_and_of_the_outlier_head() -> None:
    inputs = draw(POINT, "cpu", 3)
    reference = Reference.of(inputs, POINT)
    assert len(reference.heads) == 2 and len(reference.heads[0]) == 4
    exact = by_hand(inputs.q, inputs.k, inputs.v, causal=True)
    torch.testing.assert_close(reference.heads[0][0][0, 0], exact[0, 0])
    torch.testing.assert_close(reference.heads[1][0][0, 0], exact[-1, -1])
    assert float(inputs.v[-1, -1].float().std()) > 20 * float(inputs.v[0, 0].float().std())


def spoiled(where: int) -> object:
    def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        out = naive(q, k, v, causal=causal)
        changed = out.clone()
        changed[where, where, -1] = changed[where, where, -1] * 1.5
        return changed

    return attention


@pytest.mark.parametrize("where", [0, -1])
def test_a_wrong_row_in_a_checked_head_is_wrong(where: int) -> None:
    inputs = draw(POINT, "cpu", 4)
    reference = Reference.of(inputs, POINT)
    right, _ = ratio_of_errors("flash", reference, inputs, Toggle("flash"))
    wrong, _ = ratio_of_errors("flash", reference, inputs, spoiled(where))  # type: ignore[arg-type]
    assert right < 2 < wrong


def test_an_output_that_is_no_number_is_infinitely_wrong() -> None:
    good = Errors((0.01,), (0.01,), 0.1)
    assert Errors((math.nan,), (0.01,), 0.1).over(good) == math.inf
    assert Errors((0.01,), (0.03,), 0.1).over(good) == pytest.approx(3)
    assert Errors((0.0,), (0.0,), 0.0).over(Errors((0.0,), (0.0,), 0.0)) == 0


def test_what_is_timed_with_the_backward_pass_has_its_gradients() -> None:
    inputs = draw(POINT, "cpu", 5)
    both = inputs.call(Toggle("naive"), POINT)()
    leaves = [t.clone().requires_grad_() for t in (inputs.q, inputs.k, inputs.v)]
    wanted = torch.autograd.grad(naive(*leaves, causal=True), leaves, inputs.d_out)
    for mine, theirs in zip(both, wanted, strict=True):  # type: ignore[call-overload]
        assert torch.equal(mine, theirs)


def test_inputs_are_laid_out_as_a_network_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def toggle(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        seen.extend((q, k, v))
        out = naive(q, k, v, causal=causal)
        out.register_hook(seen.append)
        return out

    attention = Attention(Size(width=32, depth=1, heads=2, length=8, batch=3, steps=1, evaluated=1), causal=False)
    monkeypatch.setattr(attention, "toggle", toggle)
    attention(torch.randn(3, 8, 32)).sum().backward()
    drawn = draw(Point(3, 2, 8, 16, False, True), "cpu", 0)
    laid = drawn.laid_out()
    for mine, network, plain in zip((laid.q, laid.k, laid.v, laid.d_out), seen, (drawn.q, drawn.k, drawn.v, drawn.d_out), strict=True):
        assert mine.stride() == network.stride()
        assert torch.equal(mine, plain)


def test_e4m3_costs_what_its_mantissa_says() -> None:
    """Rounding to 4 significant bits has a relative error of 2.6% on average; three independent ones make about 5%."""
    inputs = draw(Point(1, 2, 64, 64, False, False), "cpu", 6)
    q, k, v = inputs.q[:, :1], inputs.k[:, :1], inputs.v[:, :1]
    error = distance(fake_quantised(q, k, v, causal=False), naive(q.double(), k.double(), v.double(), causal=False))
    assert 0.02 < error < 0.08


# ---------------------------------------------------------------------------------------------------- our kernels


CASES = (  # length, width, causal, keys of a tile, tiles by the copy engine
    (64, 16, False, 16, True), (40, 16, True, 16, True), (33, 64, False, 64, True), (48, 64, True, 64, True), (1, 16, False, 16, True),
    (64, 128, True, 16, False), (50, 32, True, 16, False), (50, 32, False, 64, False))
INTERPRETED = """
    import json, sys
    import torch
    from workloads.week02_attention import kernels
    from workloads.week02_attention.points import Point, draw, fake_quantised, distance, naive

    found = []
    for length, width, causal, keys, tma in json.loads(sys.argv[1]):
        point = Point(1, 2, length, width, causal, False)
        i = draw(point, "cpu", 7)
        tiles = kernels.Tiles(32, keys, 4, 2, tma)
        outs = {"bf16": kernels.forward_bf16(i.q, i.k, i.v, causal=causal, tiles=tiles),
                "fp8": kernels.forward_fp8(kernels.quantise(i.q, i.k, i.v), causal=causal, tiles=tiles)}
        for name, out in outs.items():
            for h in range(2):
                one = i.head(0, h)
                exact = naive(one.q.double(), one.k.double(), one.v.double(), causal=causal)
                quantised = fake_quantised(one.q, one.k, one.v, causal=causal)
                found.append([f"{name}, {point}, head {h}, {tiles}", keys >= length, distance(out[:, h:h+1], exact),
                              distance(out[:, h:h+1], quantised), distance(quantised, exact)])

    q, k, v = (torch.randn(1, 2, 40, 16, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3))
    clean = kernels.forward_bf16(q, k, v, causal=False)
    k[0, 1], v[0, 1] = torch.inf, torch.inf
    apart = torch.equal(kernels.forward_bf16(q, k, v, causal=False)[0, 0], clean[0, 0])

    i = draw(Point(1, 2, 40, 16, False, False), "cpu", 8)
    heads = kernels.quantise(i.q, i.k, i.v)
    scale = i.v.float().abs().amax((-2, -1)) / 448
    wanted = (i.v.float() / scale[..., None, None]).to(torch.float8_e4m3fn).mT
    same = heads.v[..., :40].view(torch.uint8) == wanted.view(torch.uint8)
    normal = wanted.float().abs() >= 2.0**-6  # the interpreter cuts subnormal numbers off
    print(json.dumps({"errors": found, "apart": apart, "padded": heads.v.shape[-1], "rounded": bool(same[normal].all()),
                      "scales": torch.equal(heads.scale_v, scale), "padding": float(heads.v[..., 40:].float().abs().max())}))
"""


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """All that the tests below ask of the interpreter, from one process: importing torch is most of its time."""
    found: dict[str, Any] = json.loads(in_interpreter(INTERPRETED, json.dumps(CASES)))
    return found


@pytest.mark.slow
def test_our_kernels_are_attention_to_the_precision_of_their_format(interpreted: dict[str, Any]) -> None:
    """In every head, the outlier head too: bf16 within 1% of float64; e4m3 no further from float64 than exact arithmetic on the same
    e4m3 numbers, but for a tenth, and where one tile holds all keys (so that no running maximum moves a rounding) that very result."""
    assert len(interpreted["errors"]) == 2 * 2 * len(CASES)
    for name, one_tile, from_exact, from_quantised, allowed in interpreted["errors"]:
        if name.startswith("bf16"):
            assert from_exact < 0.01, name
        else:
            assert from_exact < 1.1 * allowed + 0.005 and from_quantised < (0.004 if one_tile else 0.05), name


@pytest.mark.slow
def test_another_heads_infinity_stays_there(interpreted: dict[str, Any]) -> None:
    """A tile that reaches past the last key of a head reads the next head's rows; its infinities must not become this one's NaN."""
    assert interpreted["apart"]


@pytest.mark.slow
def test_quantised_heads_are_torchs_own_rounding(interpreted: dict[str, Any]) -> None:
    assert (interpreted["padded"], interpreted["padding"], interpreted["rounded"], interpreted["scales"]) == (48, 0.0, True, True)


@pytest.mark.parametrize(("backend", "width", "instruction"), [
    ("bf16", 128, "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16"),
    ("fp8", 64, "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3")])
def test_our_kernels_compile_for_hopper_to_its_matrix_instructions(backend: str, width: int, instruction: str) -> None:
    """Through the real compiler and its assembler, which need no GPU: e4m3 operands in the instruction make fp8 really fp8, and
    tiles come by the copy engine."""
    import triton
    from triton.backends.compiler import GPUTarget

    tiles, kernel = kernels.tiles_for(width, backend == "fp8")[0], getattr(kernels, f"attention_forward_{backend}")
    element = "fp8e4nv" if backend == "fp8" else "bf16"
    kinds = {"q": f"tensordesc<{element}[{tiles.rows}, {width}]>", "k": f"tensordesc<{element}[{tiles.keys}, {width}]>",
             "v": f"tensordesc<{element}[{width}, {tiles.keys}]>" if backend == "fp8" else f"tensordesc<{element}[{tiles.keys}, {width}]>",
             "scale_q": "*fp32", "scale_k": "*fp32", "scale_v": "*fp32", "out": "*bf16", "scale": "fp32", "length": "i32", "v_row": "i32"}
    constants = {"D": width, "ROWS": tiles.rows, "KEYS": tiles.keys, "CAUSAL": True, "EVEN": False, "TMA": True, "WIDE": False}
    signature = {name: kinds.get(name, "constexpr") for name in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, {(kernel.arg_names.index(name),): value for name, value in constants.items()})
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": tiles.warps, "num_stages": tiles.stages})
    assert kernels.matrix_instruction(built.asm["ptx"]) == instruction
    assert "cp.async.bulk.tensor" in built.asm["ptx"]
    assert built.metadata.shared <= 227 * 1024
    assert len(built.asm["cubin"]) > 0


def test_the_matrix_instruction_is_read_from_ptx() -> None:
    older = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
    assert kernels.matrix_instruction(f"{older} {{%f1}}") == older
    assert kernels.matrix_instruction("add.f32 %f1, %f2, %f3;") == ""


def test_our_kernels_say_what_they_take() -> None:
    q = torch.zeros(1, 1, 8, 48, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="take heads of 16, 32, 64, 128 in bf16, not 48"):
        kernels.forward_bf16(q, q, q, causal=False)
    with pytest.raises(ValueError, match="of one shape"):
        kernels.check(q, q, q[0])


# ---------------------------------------------------------------------------------------------------- trials and dispatch


@pytest.mark.slow
def test_a_trial_that_breaks_says_why_and_one_that_is_late_too() -> None:
    said: list[str] = []
    broke, = run_trials([("triton", 16, False)], device="nowhere", smoke=True, limit_s=120, progress=said.append)
    assert broke.steps == () and broke.broke.startswith("RuntimeError: Expected one of cpu, cuda")
    late, = run_trials([("triton", 16, False)], device="cpu", smoke=True, limit_s=0.01, progress=said.append)
    assert late.broke == "killed, or stopped after 0 s"
    assert run_trials([], device="cpu", smoke=True, limit_s=1, progress=said.append) == []


def test_a_compiler_that_talks_does_not_spoil_a_trial(tmp_path: Path) -> None:
    """Compilers write to stdout as they like, and a process that is killed leaves half a line."""
    log = tmp_path / "0"
    step = trials.STEP + json.dumps(asdict(tried(40, None)))
    log.with_suffix(".out").write_text(f'AUTOTUNE flex\n{{"best": 1}}\n{step}\n{step[:40]}')
    log.with_suffix(".err").write_text("")
    late = "killed, or stopped after 130 s"
    assert trials._ended(("flex", 16, True), -9, log, 130.0) == Trial("flex", 16, True, (tried(40, None),), late)


def test_a_launch_that_breaks_the_context_ends_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("workloads.week02_attention.backends.naive", broken)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        trials.step("naive", POINT, None, "cpu")


def test_a_launch_that_is_refused_is_a_step_that_failed() -> None:
    step = trials.step("flex", Point(1, 1, 8, 16, False, True), None, "cpu")  # FlexAttention has no backward pass on a CPU
    assert step.failed.startswith("NotImplementedError: FlexAttention does not support backward on CPU")


def tried(length: int, tiles: kernels.Tiles | None, ratio: float = 1.0, failed: str = "") -> Tried:
    return Tried(length, False, tiles, 1.0, ratio, failed=failed)


def test_a_backend_without_a_good_trial_takes_no_part() -> None:
    one, two = kernels.Tiles(32, 16, 4, 2), kernels.Tiles(16, 16, 4, 2)
    found = Able()
    found.tried = {("flex", 16, True): Trial("flex", 16, True, (tried(40, None), tried(64, None, failed="no room")), "it broke"),
                   ("triton", 16, True): Trial("triton", 16, True, (tried(40, one, failed="no room"), tried(40, two)))}
    assert found.toggle("flex", Point(1, 1, 40, 16, True, False)) == Toggle("flex")
    assert found.toggle("flex", Point(1, 1, 64, 16, True, False)) == "no room"
    assert found.toggle("flex", Point(1, 1, 65, 16, True, False)) == "no trial of this shape: it broke"
    assert found.toggle("flex", Point(1, 1, 40, 16, False, False)) == "no trial of this shape: not tried"
    assert found.toggle("triton", Point(1, 1, 40, 16, True, False)) == "no launch shape passed its trial"
    found.tiles["triton", 16, True, False] = two
    assert found.toggle("triton", Point(1, 1, 41, 16, True, False)) == Toggle("triton", two)
    reasons = able("cpu", [Trial("flex", 16, True, (), "it broke")]).reasons
    assert reasons["cudnn"] == "needs a GPU"


def test_a_profile_proves_the_kernel() -> None:
    events = [{"ph": "X", "cat": cat, "name": name, "ts": 0, "dur": us} for cat, name, us in (
        ("cpu_op", "aten::scaled_dot_product_attention", 90), ("kernel", "void pytorch_flash::flash_fwd_kernel<Traits>", 20),
        ("kernel", "memset", 1), ("kernel", "memset", 2))]
    found = kernels_in(events)
    assert found == [Launched("void pytorch_flash::flash_fwd_kernel<Traits>", 20.0), Launched("memset", 3.0)]
    assert proved("flash", found, "cuda") and not proved("cudnn", found, "cuda")
    assert proved("cudnn", [Launched("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", 1.0)], "cuda")
    assert kernels_in([]) == []


@pytest.mark.parametrize("backend", ["naive", "math", "flash", "default"])
def test_a_profile_on_this_machine_names_each_backend(backend: Backend) -> None:
    inputs = draw(Point(1, 1, 16, 16, False, False), "cpu", 1)
    found = launched(lambda: attend(inputs.q, inputs.k, inputs.v, backend=backend), "cpu")
    assert proved(backend, found, "cpu")
    other: Backend = "math" if backend in ("flash", "default") else "flash"
    assert not proved(other, found, "cpu")


# ---------------------------------------------------------------------------------------------------- the sweep


def context(tmp_path: Path) -> Context:
    return Context(tmp_path, "cpu", smoke=True, progress=lambda _: None)


def test_a_point_has_every_backend_or_a_reason(tmp_path: Path) -> None:
    seen = see(context(tmp_path), able("cpu", ()), POINT, TINY, again=True)
    assert set(seen.arms) == set(BACKENDS)
    assert all(bool(arm.times) != bool(arm.failed) for arm in seen.arms.values())
    assert seen.arms["triton"].failed == "forward only" and len(seen.again) == 6
    assert seen.best() in ("flash", "default")


def test_a_backend_without_room_is_a_cell_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        if q.shape[0] > 1:  # on all heads; the two that are checked fit
            raise torch.OutOfMemoryError("CUDA out of memory")
        return naive(q, k, v, causal=causal)

    monkeypatch.setattr("workloads.week02_attention.backends.naive", no_room)
    seen = see(context(tmp_path), able("cpu", ()), POINT, TINY, again=False)
    assert seen.arms["naive"].failed == "out of memory" and seen.arms["flash"].times
    assert seen.gain("flash", "naive") is None
    found = observed(story([seen]))
    assert dict(found.not_measured)["kernel_speedup"] == "no right fused backend was timed beside naive"


def test_memory_that_gives_out_while_timing_costs_the_unfused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(arms: dict[str, object], **rest: object) -> object:
        if "naive" in arms:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(arms, **rest)  # type: ignore[arg-type]

    real = measure.time_interleaved
    monkeypatch.setattr(sweep.measure, "time_interleaved", picky)
    seen = see(context(tmp_path), able("cpu", ()), POINT, TINY, again=False)
    assert {b for b, arm in seen.arms.items() if arm.failed == "out of memory"} == {"naive", "math"}
    assert seen.arms["flash"].times


def test_launch_shapes_are_chosen_by_time_among_the_right_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, slow, wrong, refused = (kernels.Tiles(rows, 16, 4, 2) for rows in (16, 32, 64, 128))
    times = {str(quick): (1.0,) * 6, str(slow): (2.0,) * 6, str(wrong): (0.5,) * 6}
    monkeypatch.setattr(sweep.measure, "time_interleaved", lambda arms, **_: {name: times[name] for name in arms})
    found = Able()
    found.tried["triton", 16, False] = Trial("triton", 16, False, (
        tried(40, slow), tried(40, quick), tried(40, wrong, ratio=9.0), tried(40, refused, failed="OutOfResources: shared memory")))
    rows = sweep.tune(context(tmp_path), found, TINY)
    assert found.tiles == {("triton", 16, False, False): quick}
    assert [(tiles, won) for _, tiles, _, won in rows] == [(slow, False), (quick, True)]


# ---------------------------------------------------------------------------------------------------- tasks and steps


def test_the_library_is_split_by_file_and_the_same_every_time() -> None:
    train, held = library_text(200_000)
    assert (train, held) == library_text(200_000)
    assert len(train) == len(held) == 200_000 and b"def " in held
    assert train[:2000] not in held and held[:2000] not in train


def test_a_decoder_sees_no_byte_before_it_is_asked() -> None:
    model = Decoder(SMALL)
    text = torch.randint(256, (2, SMALL.length))
    later = text.clone()
    later[:, 20:] = 0
    assert torch.equal(model(text)[:, :20], model(later)[:, :20])
    assert not torch.equal(model(text)[:, 20:], model(later)[:, 20:])


def test_a_switch_reaches_every_attention() -> None:
    model = Classifier(replace(SMALL, length=16, side=32, patch=8))
    switch(model, Toggle("flash"))
    assert [m.toggle.backend for m in model.modules() if isinstance(m, Attention)] == ["flash", "flash"]
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 8)


def test_a_decoder_learns_and_backends_agree_on_it() -> None:
    task = decoder_task(SMALL, "cpu", 2**18)
    torch.manual_seed(1)
    before = sum(scores(task, Decoder(SMALL), Toggle("naive"))) / SMALL.evaluated
    model, loss = trained(task, Toggle("naive"), 1, "cpu")
    off = scores(task, model, Toggle("naive"))
    assert len(off) == SMALL.evaluated
    assert 3 < sum(off) / len(off) < before - 1 and loss < 5  # bits a byte start near log2(256)
    change = delta(off, scores(task, model, Toggle("flash")))
    assert change is not None and change.high < 0.5


def test_bits_a_byte_are_those_of_a_uniform_guess() -> None:
    task = decoder_task(SMALL, "cpu", 2**18)
    assert task.score(torch.zeros(2, 7, 256), torch.zeros(2, 7, dtype=torch.long)).tolist() == pytest.approx([8.0, 8.0])


def test_the_same_seed_trains_on_the_same_batches() -> None:
    size = replace(SMALL, length=16, side=32, patch=8, batch=4, steps=2)
    task = classifier_task(size, "cpu")
    assert torch.equal(task.batch(3)[0], task.batch(3)[0]) and not torch.equal(task.batch(3)[0], task.batch(4)[0])
    one, other = (trained(task, Toggle("naive"), 5, "cpu")[0] for _ in range(2))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sum(len(wanted) for _, wanted in task.held()) == size.evaluated


def test_the_delta_is_relative_and_without_a_sign() -> None:
    still, fell = delta([2.0, 4.0], [2.0, 4.0]), delta([2.0, 4.0, 3.0], [1.9, 3.9, 2.9])
    assert still is not None and still.value == 0
    assert fell is not None and fell.high >= fell.value == pytest.approx(100 * 0.1 / 3)
    assert delta([0.0, 0.0], [0.0, 1.0]) is None
    assert delta([2.0, 4.0], [2.0, math.nan]) is None


def test_amdahl() -> None:
    assert amdahl(0.5, 2.0) == pytest.approx(4 / 3)
    assert amdahl(0.75, math.inf) == pytest.approx(4)
    assert amdahl(0.3, 1.0) == pytest.approx(1)


# ---------------------------------------------------------------------------------------------------- put into words


def arm(ms: float, ratio: float = 1.0, *, proved_: bool = True) -> Arm:
    return Arm((ms,) * 6, Errors((0.01,), (0.01,), 0.1), ratio, 1.0, proved=proved_)


def seen(point: Point, **arms: Arm) -> Seen:
    every = {backend: arms.get(backend, Arm(failed="needs a GPU")) for backend in BACKENDS}
    return Seen(point, every, (1.0, 1.01, 1.0, 0.99, 1.0, 1.0) if "default" in arms else ())


def story(found: list[Seen]) -> Story:
    ceiling = Metric("ceiling_matmul", "a ceiling", "TFLOP/s", "higher", measure.exact(800.0))
    return Story("cuda", (ceiling, replace(ceiling, name="ceiling_copy")), able("cpu", ()), tuple(s.point for s in found),
                 (found[0].point.length,), found[0].point.width, seen=found)


P, Q = Point(2, 16, 8192, 128, False, False), Point(2, 16, 2048, 128, False, False)


def test_the_worst_shape_is_judged_and_a_wrong_or_unproved_kernel_cannot_win() -> None:
    found = observed(story([
        seen(P, naive=arm(10), flash=arm(2), cudnn=arm(1), default=arm(1.1), flex=arm(0.5, ratio=2.1), triton=arm(0.6, proved_=False)),
        seen(Q, naive=arm(4), flash=arm(2), default=arm(2.5), fp8=arm(0.1, ratio=1.0))]))
    speedup, error = found.metric("kernel_speedup"), found.metric("error_ratio")
    assert speedup is not None and speedup.estimate.value == 2.0 and "S 2048" in speedup.detail and "FlashAttention-2" in speedup.detail
    assert error is not None and error.estimate.value == 2.1 and "FlexAttention" in error.detail
    beside = found.metric("best_over_default")
    assert beside is not None and beside.estimate.value == 1.25
    anchor = found.metric("anchor_over_flash")
    assert anchor is not None and anchor.estimate.value == 2.0 and "cuDNN" in anchor.detail
    ours = found.metric("triton_over_flash")
    assert ours is not None and ours.estimate.value == pytest.approx(2 / 0.6)


def test_what_was_not_measured_is_said_and_the_promise_is_kept() -> None:
    found = observed(story([seen(P, naive=arm(10), flash=arm(2), default=arm(1))]))
    check_kept(discover()["week02"], found)
    assert set(dict(found.not_measured)) == {"metric_delta", "trained_delta"}
    rows = [row for row in next(t for t in found.tables if t.name == "ablation").rows if row[4] == "cuDNN"]
    assert rows[0][-1] == "needs a GPU"


def test_an_output_that_is_no_number_is_not_measured() -> None:
    found = observed(story([seen(P, naive=arm(10), flash=arm(2, ratio=math.inf), default=arm(1))]))
    assert dict(found.not_measured)["error_ratio"].startswith("an output is not a number")
    table = next(t for t in found.tables if t.name == "ablation")
    flash = next(row for row in table.rows if row[4] == "FlashAttention-2")
    assert flash[-2:] == (None, "wrong")


def test_rates_are_operations_over_time() -> None:
    one = seen(P, naive=arm(10.0), default=arm(2.0))
    assert one.rate(one.arms["default"].times).value == pytest.approx(P.tera_operations / 0.002)
    table = next(t for t in observed(story([one])).tables if t.name == "forward")
    assert {row[1]: row[2] for row in table.rows}["default SDPA"] == pytest.approx(P.tera_operations / 0.002)


def test_the_trained_delta_runs_from_the_least_to_the_most_changed_seed() -> None:
    pair = TrainedPair("decoder", "bits a byte", "flash", (1, 2, 3), (2.0, 2.0, 2.0), (2.0, 1.99, 2.04))
    assert (pair.deltas.low, pair.deltas.value, pair.deltas.high) == pytest.approx((0.0, 0.5, 2.0))


def test_the_file_has_every_row_and_its_raw_times() -> None:
    told = story([seen(P, naive=arm(10), flash=arm(2), default=arm(1))])
    rows = json.loads(as_json(told, observed(told)))
    assert [row["backend"] for row in rows][:2] == ["naive", "SDPA math"] and len(rows) == len(BACKENDS)
    assert (rows[0]["time (ms)"], rows[0]["raw times (ms)"], rows[1]["raw times (ms)"]) == (10.0, [10.0] * 6, [])


def test_amdahls_line_stands_beside_the_step() -> None:
    told = story([seen(P, naive=arm(10), default=arm(1))])
    gain = Estimate("ratio", 1.5, 1.4, 1.6, (2.0,), (3.0,))
    told.steps = [Step("decoder", "training", "default", P, 2.0, 4.0, 0.5, gain),
                  Step("decoder", "training", "flash", P, failed="out of memory")]
    row, failed = next(t for t in observed(told).tables if t.name == "amdahl").rows
    assert row[5:10] == (4.0, 50.0, pytest.approx(1.6), 2.0, 1.5)
    assert failed[-1] == "out of memory"


# ---------------------------------------------------------------------------------------------------- the whole


@pytest.mark.slow
def test_with_the_interpreter_our_kernels_walk_the_whole_path(tmp_path: Path) -> None:
    """As on a GPU: trial, choice of a launch shape, profile, sweep, evaluation of a trained network, whole steps."""
    told = in_interpreter("""
        import sys
        from pathlib import Path
        from workloads.spec import Context, dumps
        from dataclasses import asdict, replace
        from workloads.week02_attention import run, shapes, trials
        from workloads.week02_attention.sweep import Pace
        # One head, one tile: each interpreted launch takes a tenth of a second.
        shapes.SMOKE_TOKENS, shapes.SMOKE_HIDDEN, shapes.SMOKE_LENGTHS = 16, 16, (16,)
        small = {name: replace(getattr(run.SMOKE, name), width=16, heads=1, length=16, batch=1, evaluated=2, steps=2)
                 for name in ("decoder", "classifier", "long_decoder", "vit_base")}
        run.SMOKE = replace(run.SMOKE, tuning=Pace(1, 0.1, 0.0), **small)

        def both(wanted, *, device, **rest):  # fp8 in a process of its own, as it comes, and bf16 beside it in this one
            (point, tiles), = trials.steps_of(("triton", 16, False), True)
            return [*trials.run_trials(wanted, device=device, **rest),
                    trials.Trial("triton", 16, False, (trials.step("triton", point, tiles, device),))]

        run.run_trials = both
        print(dumps(run.run(Context(Path(sys.argv[1]), "cpu", smoke=True, progress=lambda line: print(line, file=sys.stderr)))))
    """, str(tmp_path))
    plain = json.loads(told)
    tables = {table["name"]: table["rows"] for table in plain["tables"]}
    timed = {row[4] for row in tables["ablation"] if row[7] is not None}
    assert {"our Triton bf16", "our Triton fp8", "our fp8, kernel only"} <= timed
    assert {row[2] for row in tables["evaluation"] if row[3] is not None} >= {"our Triton bf16", "our Triton fp8"}
    assert {row[10] for row in tables["launch_shapes"]} == {"yes"} and len(tables["launch_shapes"]) == 2
    assert all(0 < row[9] <= 2 for row in tables["launch_shapes"]), "each was held against float64"
    assert (tmp_path / "ablation.json").stat().st_size > 1000


def test_a_run_that_is_short_of_time_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BUDGET_S", -1)
    monkeypatch.setattr(run, "run_trials", lambda *_, **__: [])
    found = run.run(context(tmp_path))
    check_kept(discover()["week02"], found)
    assert {name for name, _ in found.not_measured} == {t.name for t in discover()["week02"].targets}
    assert any(note.startswith("Time ran out before 8 of 8 shapes") for note in found.notes)
    assert isinstance(found, Observed)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("length", [197, 1024])
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_gpu_every_backend_is_as_right_as_the_naive_path(backend: Backend, length: int, width: int, causal: bool) -> None:
    if why := hindrance(backend, "cuda"):
        pytest.fail(f"{backend}: {why}")
    point = Point(2, 3, length, width, causal, backend not in FORWARD_ONLY)
    inputs = draw(point, "cuda", 1)
    ratio, _ = ratio_of_errors(backend, Reference.of(inputs, point), inputs, Toggle(backend))
    assert ratio <= 2


@pytest.mark.gpu
@pytest.mark.parametrize(("width", "fp8"), sorted(kernels.TILES))
def test_on_a_gpu_every_launch_shape_is_right(width: int, fp8: bool) -> None:
    backend: Backend = "fp8" if fp8 else "triton"
    for tiles in kernels.tiles_for(width, fp8):
        for length in (577, 1024):
            step = trials.step(backend, Point(2, 3, length, width, True, False), tiles, "cuda")
            assert step.failed == "" and step.error_ratio <= 2, tiles
            assert step.instruction.startswith("wgmma"), tiles


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [b for b in FUSED_BF16 if b != "fa4"])
def test_on_a_gpu_a_profile_names_each_backend(backend: Backend) -> None:
    inputs = draw(Point(2, 4, 1024, 64, False, False), "cuda", 1)
    found = launched(lambda: attend(inputs.q, inputs.k, inputs.v, backend=backend), "cuda")
    assert proved(backend, found, "cuda"), found[:3]


def test_a_failure_is_told_by_the_line_that_says_what_it_was() -> None:
    at = SimpleNamespace(lineno=2, col_offset=1)
    assert trials.in_words(CompilationError("a\nb\nc", at, "K must be 32")) == "CompilationError: K must be 32"
    assert trials.in_words(RuntimeError("no available kernel\nat some line")) == "RuntimeError: no available kernel"
    assert trials.in_words(RuntimeError()) == "RuntimeError:"


def test_inputs_repeat_by_seed() -> None:
    one, again, other = (draw(POINT, "cpu", seed) for seed in (1, 1, 2))
    assert torch.equal(one.q, again.q) and not torch.equal(one.q, other.q)
    assert isinstance(one, Inputs) and one.head(-1, -1).v.shape == (1, 1, 40, 16)
    assert nn.functional.cosine_similarity(one.q.flatten().float(), one.k.flatten().float(), 0).abs() < 0.1
