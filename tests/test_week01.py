"""Week 01's own mathematics against independent answers; its smoke run is in test_weeks.py."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from workloads import measure, scenes
from workloads.spec import Context, Estimate, Metric, Observed, check_kept, discover
from workloads.week01_compile import precompile, run
from workloads.week01_compile.arms import MAX_AUTOTUNE, REGIMES, Trainer, Work, compiled, set_up, work_of
from workloads.week01_compile.kernels import Span, break_down, class_of, read_trace
from workloads.week01_compile.ladder import AGAIN, EAGER, GRAPH, Row, Sameness, Seen, observed
from workloads.week01_compile.models import FULL, SMOKE, Study, UNet, build
from workloads.week01_compile.precompile import cold_seconds


def test_kernel_time_is_summed_by_class_and_idle_is_what_no_kernel_covers() -> None:
    spans = (Span("sm90_xmma_gemm_bf16", 0, 1000), Span("triton_poi_fused_add", 500, 1000), Span("Memcpy DtoD", 3000, 1000))
    seen = break_down(spans)
    assert seen.milliseconds == {"matmul and conv": 1.0, "fused by compile": 1.0, "copy": 1.0}
    assert (seen.busy_ms, seen.wall_ms, seen.idle_share) == (2.5, 4.0, 0.375)


def test_a_trace_without_kernels_is_an_error() -> None:
    with pytest.raises(ValueError, match="no GPU work"):
        break_down(())


@pytest.mark.parametrize(("name", "kind"), [
    ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float>", "norm"),
    ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add>", "elementwise"),
    ("triton_tem_fused_mm_3", "matmul and conv"),
    ("triton_red_fused_native_group_norm_7", "fused by compile"),
    ("triton_poi_fused_convolution_backward_silu_3", "fused by compile"),
    ("triton_per_fused__scaled_dot_product_flash_attention_layer_norm_1", "fused by compile"),
    ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
    ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
    ("a_kernel_nobody_knows", "other"),
])
def test_kernels_are_classed_by_the_names_that_libraries_give_them(name: str, kind: str) -> None:
    assert class_of(name) == kind


def test_a_trace_is_cut_at_its_labels(tmp_path: Path) -> None:
    events = [
        {"ph": "X", "cat": "user_annotation", "name": "net eager", "ts": 100, "dur": 50},
        {"ph": "X", "cat": "kernel", "name": "before", "ts": 10, "dur": 5},
        {"ph": "X", "cat": "kernel", "name": "inside", "ts": 120, "dur": 5},
        {"ph": "M", "name": "process_name"},
    ]
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    assert read_trace(path, ["net eager", "absent"]) == {"net eager": [Span("inside", 120.0, 5.0)]}


def test_without_a_gpu_operators_count_their_own_time_once(tmp_path: Path) -> None:
    events = [{"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid} for cat, name, ts, dur, tid in (
        ("user_annotation", "net eager", 0, 100, 1), ("cpu_op", "aten::conv2d", 10, 50, 1), ("cpu_op", "aten::empty", 20, 10, 1),
        ("cpu_op", "aten::relu", 30, 5, 1), ("cpu_op", "aten::add", 70, 5, 1), ("cpu_op", "aten::mul", 20, 5, 2))]
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    assert read_trace(path, ["net eager"])["net eager"] == [
        Span("aten::conv2d", 10.0, 10.0), Span("aten::empty", 20.0, 10.0), Span("aten::relu", 30.0, 5.0), Span("aten::conv2d", 35.0, 25.0),
        Span("aten::add", 70.0, 5.0), Span("aten::mul", 20.0, 5.0)]


def test_flops_and_bytes_of_a_linear_layer_are_counted() -> None:
    layer, x = nn.Linear(64, 32, bias=False), torch.randn(8, 64)
    work = work_of(lambda: layer(x))
    assert work.flops == 2 * 8 * 64 * 32
    assert work.unfused_bytes == 4 * (8 * 64 + 64 * 32 + 8 * 32)


def test_the_reference_of_a_chunked_batch_is_that_of_the_whole_batch() -> None:
    study = SMOKE[2]
    trainer = Trainer(study, "cpu", run.REFERENCE_CHUNK + 1, 0, smoke=True)
    logits, gradients = run._reference(trainer)
    model = build(study, "cpu", smoke=True, seed=0).double()
    out = model(trainer.images.double())
    nn.functional.cross_entropy(out, trainer.labels).backward()
    torch.testing.assert_close(logits, out.detach())
    for mine, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)


def test_distance_is_relative_and_counts_all_tensors_together() -> None:
    assert run._distance([torch.tensor([3.0]), torch.tensor([0.0])], [torch.tensor([0.0]), torch.tensor([4.0])]) == pytest.approx(1.25)


def test_a_compiled_step_has_the_gradients_of_the_eager_step() -> None:
    trainer = Trainer(SMOKE[1], "cpu", 2, 0, smoke=True)
    reference = run._reference(trainer)
    eager = run._training_error(trainer, trainer.forward, reference)
    traced = run._training_error(trainer, compiled(trainer.forward, "default", "cpu"), reference)
    assert 0 < eager[1] < 0.05  # bf16 autocast against float64
    assert traced[1] <= 1.5 * eager[1]


@pytest.mark.parametrize(("slower", "faster"), [("channels_last", "contiguous"), ("contiguous", "channels_last")])
def test_the_baseline_has_the_layout_that_eager_is_faster_in(slower: str, faster: str, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(arms: dict[str, object], **_: object) -> measure.Timings:
        layouts = {arm: "channels_last" if "channels_last" in arm else "contiguous" for arm in arms}
        took = {arm: (2.0 if layout == slower else 1.0,) * 6 for arm, layout in layouts.items()}
        return measure.Timings("hot", took, True, 0.0, dict.fromkeys(arms, 1))

    monkeypatch.setattr(measure, "time_interleaved", timed)
    tuned, rows = run._tuned(Context(tmp_path, "cpu", smoke=True, progress=lambda _: None), SMOKE[2])
    assert tuned == replace(SMOKE[2], train_layout=faster, infer_layout=faster)
    assert [row[1] for row in rows][-2:] == ["bf16, searched", "bf16 channels_last, searched"]


def test_the_options_of_max_autotune_exist() -> None:
    assert callable(torch.compile(nn.Linear(2, 2), options=MAX_AUTOTUNE))
    with pytest.raises(RuntimeError, match="Unexpected optimization option"):
        torch.compile(nn.Linear(2, 2), options={"max_autotune_gem": True})


def test_a_rung_further_from_fp64_than_eager_allows_cannot_win() -> None:
    row = Row(SMOKE[0], "train", 4, work_of(lambda: torch.ones(2) + 1))
    row.times = {EAGER: (4.0,) * 6, "default": (2.0,) * 6, "max-autotune": (1.0,) * 6}
    row.errors = {EAGER: (0.01, 0.01), "default": (0.015, 0.01), "max-autotune": (0.01, 0.02)}
    assert row.best() == "default"
    row.errors["default"] = (0.0151, 0.01)
    assert row.best() is None


def test_compiling_that_takes_too_long_is_named_and_left_out() -> None:
    said: list[str] = []
    assert cold_seconds([(SMOKE[1], "latency", 1, ("default",))], device="cpu", smoke=True, limit_s=0.01, progress=said.append) == {}
    assert said == ["ViT 2 layers latency: default did not compile within 0 s"]


def test_a_network_that_does_not_compile_is_a_fault() -> None:
    with pytest.raises(RuntimeError, match="did not compile"):
        cold_seconds([(SMOKE[1], "latency", 1, ("default",))], device="nowhere", smoke=True, limit_s=60, progress=print)


def test_what_is_compiled_ahead_is_compiled_under_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    try:
        seen = []
        for start in (lambda: precompile.main("vit_b16", "latency", "channels_last", "cpu", 1, True, ()), lambda: set_up("cpu")):
            torch.set_float32_matmul_precision("highest")
            torch.set_num_threads(2)
            start()
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.fp32_precision, torch.get_num_threads()))
        assert seen == [("high", "tf32", 1)] * 2
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.set_num_threads(before[1])


def test_full_networks_are_the_ones_the_plan_names() -> None:
    millions = {s.key: sum(p.numel() for p in build(s, "cpu", smoke=False, seed=0).parameters()) / 1e6 for s in FULL}
    assert millions == pytest.approx({"resnet50": 23.5, "vit_b16": 85.8, "unet": 8.5}, abs=0.3)


def test_the_unet_labels_every_pixel() -> None:
    assert UNet(width=8, classes=9)(torch.zeros(2, 3, 32, 32)).shape == (2, 9, 32, 32)


def test_scenes_repeat_by_seed_and_their_masks_are_the_labelled_shape() -> None:
    one, again, other = (scenes.render(64, 48, seed, "cpu") for seed in (1, 1, 2))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)
    for label, mask in zip(one.labels, one.masks, strict=True):
        assert set(mask.unique().tolist()) == {0, int(label) + 1}
    covered = (one.masks > 0).float().mean((1, 2))
    assert float(covered.min()) > 0.02 and float(covered.max()) < 0.4


def test_a_circle_covers_its_area() -> None:
    scene = scenes.render(256, 96, 3, "cpu")
    circles = scene.masks[scene.labels == scenes.SHAPES.index("circle")] > 0
    area = circles.float().mean((1, 2)) * 4  # of the square [-1, 1]^2
    radius = (area / torch.pi).sqrt() / 0.85
    assert float(radius.min()) > 0.34 and float(radius.max()) < 0.61


def test_peak_memory_is_not_given_of_what_the_allocator_cannot_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run.measure, "peak_memory_mib", lambda call, _: call())
    ctx = Context(tmp_path, "cuda", smoke=False)
    seen = run._peaks(ctx, dict.fromkeys((EAGER, "default", "reduce-overhead", "max-autotune", GRAPH), lambda: 3.0))
    assert seen == {EAGER: 3.0, "default": 3.0, "reduce-overhead": None, "max-autotune": None, GRAPH: None}


@pytest.mark.parametrize(("most", "names", "with_args"), [
    (10_000, {"step", "mm", "gemm", "ac2g"}, True), (160, {"step", "gemm"}, True), (1, {"step", "gemm"}, False)])
def test_a_trace_gives_up_what_it_can_spare(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: int, names: set[str], with_args: bool) -> None:
    monkeypatch.setattr(run, "TRACE_BYTES", most)
    kinds = (("X", "user_annotation", "step"), ("X", "cpu_op", "mm"), ("X", "kernel", "gemm"), ("s", "ac2g", "ac2g"))
    events = [{"ph": ph, "cat": cat, "name": name, "ts": 1, "dur": 2, "tid": 3, "args": {"stream": 7}} for ph, cat, name in kinds]
    run._write_trace(Context(tmp_path, "cuda"), [{"traceEvents": events}])
    kept = json.loads(gzip.decompress((tmp_path / run.TRACE).read_bytes()))["traceEvents"]
    assert {e["name"] for e in kept} == names
    assert any("args" in e for e in kept if e["cat"] == "kernel") is with_args


def sameness(study: Study, gap: Estimate | None) -> Sameness:
    return Sameness(study, measure.share(16, 16), 0.9, gap)


def seen(gap: Estimate | None, error: float) -> Observed:
    """A run of one network, as it would be put into words."""
    rows = [Row(SMOKE[0], regime, 4, Work(1e9, 1e6), dict.fromkeys((EAGER, AGAIN, "default"), (2.0, 2.1, 1.9, 2.0, 2.0, 2.1)),
                {EAGER: (0.01, 0.01), "default": (error, 0.01)}, {"default": 1.0}, dict.fromkeys((EAGER, AGAIN, "default")))
            for regime in REGIMES]
    ceiling = Metric("ceiling", "a ceiling", "TFLOP/s", "higher", measure.exact(1.0))
    return observed(Seen("cpu", rows, {}, (ceiling, replace(ceiling, name="another")), (), (), "default", [sameness(SMOKE[0], gap)], {}, 1))


def test_a_loss_that_is_no_number_is_not_measured_and_the_rest_is_kept() -> None:
    found = seen(None, 0.01)
    check_kept(discover()["week01"], found)
    assert dict(found.not_measured) == {"loss_gap": "a final loss is not a number, or no seed of eager differs"}


def test_a_rung_that_overflows_is_wrong_and_its_error_a_gap() -> None:
    found = seen(Estimate("median", 0.5, 0.1, 0.9, (0.1, 0.5, 0.9)), float("nan"))
    check_kept(discover()["week01"], found)
    assert set(dict(found.not_measured)) == {"best_speedup", "worst_speedup"}
    ladder = next(t for t in found.tables if t.name == "ladder")
    assert [row[-3:] for row in ladder.rows if row[3] == "default"] == [(None, 0.01, "wrong")] * 3


def test_shares_are_one_number_a_picture() -> None:
    assert run._shares(torch.tensor([True, False])) == [1.0, 0.0]
    assert run._shares(torch.tensor([[[True, False], [True, True]], [[False, False], [False, False]]])) == [0.75, 0.0]
