"""Week 01's measurement: the ladder from tuned eager to max-autotune, checked against fp64, then timed side by side.

What to expect is in the package's docstring. Order: tune eager, compile cold in other processes, measure the ceilings, then network
by network: correctness of every rung first, timing second, the short training that compares final losses third. A rung whose
outputs or gradients are further from fp64 than 1.5 times eager's own error cannot win, however fast it is.
"""

from __future__ import annotations

import copy
import gzip
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from workloads import machine, measure
from workloads.spec import Cell, Context, Estimate, Observed
from workloads.week01_compile.arms import (
    REGIMES,
    RUNGS,
    Forward,
    Graph,
    Inferencer,
    Regime,
    Rung,
    Trainer,
    capture,
    compiled,
    data,
    set_up,
    work_of,
)
from workloads.week01_compile.kernels import break_down, read_trace
from workloads.week01_compile.ladder import AGAIN, EAGER, GRAPH, ColdSeconds, Row, Sameness, Seen, observed
from workloads.week01_compile.models import FULL, LAYOUTS, SMOKE, Layout, Study, build
from workloads.week01_compile.precompile import Job, cold_seconds

COLD_LIMIT_S = 140  # rungs that take longer to compile are named in the notes and not timed
REFERENCE_CHUNK = 16  # images at a time through the fp64 reference, where a network lets them be parted
SWEEP_BATCH = 32  # the plot over batch size has a point between latency (1) and throughput
SEEDS = (1, 2, 3)
REPLAYED = ("reduce-overhead", "max-autotune", GRAPH)
TRACE = "trace.json.gz"
TRACE_BYTES = 1_400_000
TRACE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset", "user_annotation", "cuda_runtime", "cpu_op")
Trace = dict[str, Any]
Arms = Mapping[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: the full run on a GPU, or the smoke test on a CPU."""

    studies: tuple[Study, ...]
    rungs: tuple[Rung, ...]
    sweep_rung: Rung  # for the plot over batch size
    blocks: int
    block_ms: float
    warmup_s: float
    loss_steps: int
    tail_steps: int
    further_steps: int
    eval_images: int
    eval_pixel_images: int
    trace_steps: int


FULL_SIZES = Sizes(FULL, RUNGS, "reduce-overhead", blocks=16, block_ms=25.0, warmup_s=0.7, loss_steps=40, tail_steps=10, further_steps=250,
                   eval_images=16_384, eval_pixel_images=256, trace_steps=2)
SMOKE_SIZES = Sizes(SMOKE, ("default",), "default", blocks=6, block_ms=1.0, warmup_s=0.0, loss_steps=3, tail_steps=1, further_steps=0,
                    eval_images=16, eval_pixel_images=4, trace_steps=1)


def run(ctx: Context) -> Observed:
    sizes = SMOKE_SIZES if ctx.smoke else FULL_SIZES
    if ctx.batch is not None:
        sizes = replace(sizes, studies=tuple(replace(s, train_batch=ctx.batch, infer_batch=ctx.batch) for s in sizes.studies))
    torch.backends.cudnn.benchmark = True
    set_up(ctx.device)

    baseline: list[tuple[Cell, ...]] = []
    studies: list[Study] = []
    for study in sizes.studies:
        tuned, cells = _tuned(ctx, study)
        studies.append(tuned)
        baseline += cells
        _free(ctx.device)
    sizes = replace(sizes, studies=tuple(studies))

    jobs: list[Job] = [(study, regime, _batch(study, regime), sizes.rungs) for study in sizes.studies for regime in REGIMES]
    jobs += [(study, "throughput", SWEEP_BATCH, (sizes.sweep_rung,)) for study in sizes.studies]
    if ctx.smoke:
        jobs = [(sizes.studies[1], "latency", 1, sizes.rungs)]  # walks the same path; each process imports torch for seconds
    ctx.progress(f"compiling cold in {len(jobs)} processes, at most {COLD_LIMIT_S} s")
    cold_s = cold_seconds(jobs, device=ctx.device, smoke=ctx.smoke, limit_s=COLD_LIMIT_S, progress=ctx.progress)
    ceilings = machine.ceilings(ctx.device)
    ctx.progress("measured ceilings: " + ", ".join(f"{m.estimate.value:.4g} {m.unit}" for m in ceilings))

    rows: list[Row] = []
    sweep: list[tuple[Cell, ...]] = []
    sameness: list[Sameness] = []
    traces: list[Trace] = []
    for study in sizes.studies:
        train, weights, loss_gap, trace = _train(ctx, sizes, study, cold_s)
        _free(ctx.device)
        throughput, agreement, accuracy = _infer(ctx, sizes, study, "throughput", cold_s, weights)
        _free(ctx.device)
        latency, _, _ = _infer(ctx, sizes, study, "latency", cold_s, weights)
        _free(ctx.device)
        sweep += _sweep(ctx, sizes, study, cold_s, (throughput, latency))
        _free(ctx.device)
        rows += [train, throughput, latency]
        traces.append(trace)
        sameness.append(Sameness(study, agreement, accuracy, loss_gap))

    _write_trace(ctx, traces)
    labels = [f"{row.study.title} {arm}" for row in rows if row.regime == "train" for arm in (EAGER, *RUNGS)]
    kernels = {label: break_down(spans) for label, spans in read_trace(ctx.out / TRACE, labels).items() if spans}
    return observed(Seen(ctx.device, rows, cold_s, ceilings, baseline, sweep, sizes.sweep_rung, sameness, kernels, sizes.trace_steps))


def _batch(study: Study, regime: Regime) -> int:
    return {"train": study.train_batch, "throughput": study.infer_batch, "latency": 1}[regime]


def _row(ctx: Context, sizes: Sizes, study: Study, regime: Regime, cold_s: ColdSeconds,
         call: Callable[[], object]) -> tuple[Row, list[Rung]]:
    """An empty row, and the rungs to fill it with: those that compiled in time."""
    batch = _batch(study, regime)
    rungs = [rung for rung in sizes.rungs if ctx.smoke or (study.key, regime, batch, rung) in cold_s]
    return Row(study, regime, batch, work_of(call), late=tuple(rung for rung in sizes.rungs if rung not in rungs)), rungs


# ---------------------------------------------------------------------------------------------------- training


def _train(ctx: Context, sizes: Sizes, study: Study, cold_s: ColdSeconds) -> tuple[Row, dict[str, Tensor], Estimate | None, Trace]:
    """Check, time, profile and train one network; the weights of the longest training, the loss gap and the trace go on."""
    trainer = Trainer(study, ctx.device, study.train_batch, ctx.seed, smoke=ctx.smoke)
    row, rungs = _row(ctx, sizes, study, "train", cold_s, partial(trainer.step, trainer.forward))
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    reference = _reference(trainer)
    ctx.progress(f"{row.name}: reference in float64 done")

    forwards: dict[str, Forward] = {EAGER: trainer.forward}
    for rung in rungs:
        forwards[rung] = compiled(trainer.forward, rung, ctx.device)
        _, row.warm_s[rung] = measure.seconds(partial(trainer.step, forwards[rung]))
        ctx.progress(f"{row.name}: {rung} compiled from the cache in {row.warm_s[rung]:.1f} s")
        trainer.model.load_state_dict(start)
    for arm, forward in forwards.items():
        row.errors[arm] = _training_error(trainer, forward, reference)
    arms: dict[str, Callable[[], object]] = {arm: partial(trainer.step, forward) for arm, forward in forwards.items()}
    arms[AGAIN] = arms[EAGER]
    if ctx.device == "cuda":
        graph = _recorded_step(ctx, study, start)
        row.errors[GRAPH] = (row.errors[EAGER][0], _distance(graph.value, reference[1]))  # its logits are eager's own kernels
        arms[GRAPH] = graph.replay
    ctx.progress(row.checks())

    row.times = _time(ctx, sizes, row.name, arms, "hot")
    row.peak_mib = _peaks(ctx, arms)
    best = row.best() or EAGER
    row.energy_j = {arm: measure.energy_j(arms[arm], seconds=0.5) for arm in (EAGER, best)}
    trace = _profile(ctx, sizes, study, {arm: arms[arm] for arm in (EAGER, best)})
    gap, weights = _final_losses(ctx, sizes, trainer, forwards, best)
    return row, weights, gap, trace


def _recorded_step(ctx: Context, study: Study, start: Mapping[str, Tensor]) -> Graph[list[Tensor]]:
    """The eager step as a CUDA graph, replayed once from the weights `start`, so that its value holds that step's gradients.

    On a trainer of its own: gradient accumulators belong to the stream that first used a weight, and those of the other
    arms would tie the capture to the default stream.
    """
    trainer = Trainer(study, ctx.device, study.train_batch, ctx.seed, smoke=ctx.smoke)

    def step() -> list[Tensor]:
        trainer.step(trainer.forward)
        return trainer.gradients()

    graph = capture(step)
    trainer.model.load_state_dict(start)
    graph.replay()
    return graph


def _reference(trainer: Trainer) -> tuple[Tensor, list[Tensor]]:
    """Logits and gradients of the held batch in float64."""
    model = copy.deepcopy(trainer.model).double()
    total = len(trainer.images)
    chunk = total if trainer.study.coupled else REFERENCE_CHUNK
    logits = []
    with torch.backends.cudnn.flags(enabled=False):  # convolutions of another library than the arms': no fault in common, and no search
        for images, labels in zip(trainer.images.split(chunk), trainer.labels.split(chunk), strict=True):
            out = model(images.double())
            (nn.functional.cross_entropy(out, labels) * len(images) / total).backward()
            logits.append(out.detach())
    return torch.cat(logits), [p.grad for p in model.parameters() if p.grad is not None]


def _training_error(trainer: Trainer, forward: Forward, reference: tuple[Tensor, list[Tensor]]) -> tuple[float, float]:
    """Relative L2 distance to the reference of logits and of all gradients together; third call, so that a recorded graph
    is checked in replay."""
    for _ in range(3):
        if trainer.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        trainer.optimizer.zero_grad(set_to_none=True)
        loss, logits = forward(trainer.images, trainer.labels)
        loss.backward()
    errors = _distance([logits.detach()], [reference[0]]), _distance(trainer.gradients(), reference[1])
    trainer.optimizer.zero_grad(set_to_none=True)
    return errors


def _distance(values: list[Tensor], reference: list[Tensor]) -> float:
    """||values - reference|| / ||reference|| over all tensors together, in float64."""
    off = sum(float((v.double() - r).square().sum()) for v, r in zip(values, reference, strict=True))
    return math.sqrt(off / sum(float(r.square().sum()) for r in reference))


def _final_losses(ctx: Context, sizes: Sizes, trainer: Trainer, forwards: Mapping[str, Forward],
                  arm: str) -> tuple[Estimate | None, dict[str, Tensor]]:
    """Train eager and the best rung from the same weights on the same pictures, seed by seed. The gap of their final losses
    (mean of the last steps) is a multiple of eager's own spread from seed to seed. One network trains on, and its weights
    are what inference is compared on: the argmax of an untrained network is a coin toss that rounding decides."""
    study = trainer.study
    final: dict[tuple[str, int], float] = {}
    for seed in SEEDS:
        weights = build(study, ctx.device, smoke=ctx.smoke, seed=seed).state_dict()
        for name in (EAGER, arm):
            _restart(trainer, weights)
            final[name, seed] = _steps(trainer, forwards[name], seed, sizes.loss_steps, sizes.tail_steps)
    eager = [final[EAGER, seed] for seed in SEEDS]
    spread = max(eager) - min(eager)
    gap = None
    if spread > 0 and all(map(math.isfinite, final.values())):
        gaps = tuple(abs(final[arm, seed] - final[EAGER, seed]) / spread for seed in SEEDS)
        gap = Estimate("median", statistics.median(gaps), min(gaps), max(gaps), gaps)
    ctx.progress(f"{study.title}: final losses of eager {', '.join(f'{v:.3f}' for v in eager)}; "
                 f"gap of {arm} over their spread {f'{gap.low:.2f} to {gap.high:.2f}' if gap else 'not measured'}")
    if sizes.further_steps:
        loss = _steps(trainer, forwards[arm], SEEDS[-1] + 1, sizes.further_steps, sizes.tail_steps)
        ctx.progress(f"{study.title}: trained on to loss {loss:.3f}")
    return gap, {name: value.clone() for name, value in trainer.model.state_dict().items()}


def _restart(trainer: Trainer, weights: Mapping[str, Tensor]) -> None:
    """Weights and optimiser state as new, in place: what is compiled or recorded holds their addresses."""
    trainer.model.load_state_dict(weights)
    for state in trainer.optimizer.state.values():
        for value in state.values():
            value.zero_()


def _steps(trainer: Trainer, forward: Forward, seed: int, steps: int, tail: int) -> float:
    """Train on fresh pictures, the same for the same seed; the mean loss of the last `tail` steps. Warms up the learning rate."""
    total = torch.zeros((), device=trainer.device)
    for step in range(steps):
        images, labels = data(trainer.study, len(trainer.images), seed * 1_000_000 + step, trainer.device)
        trainer.images.copy_(images)
        trainer.labels.copy_(labels)
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.study.learning_rate * min(1.0, (step + 1) / 20)
        loss = trainer.step(forward)
        if step >= steps - tail:
            total += loss
    return float(total) / tail


def _tuned(ctx: Context, study: Study) -> tuple[Study, list[tuple[Cell, ...]]]:
    """`study` in the memory layouts that its eager baseline is faster in, and what tuning that baseline is worth: a training step
    from float32 as it comes up to bf16 in both layouts with cudnn.benchmark. A search for the fastest float32 convolutions would
    take a minute a network."""
    searched: dict[str, Layout] = {"bf16, searched": "contiguous", "bf16 channels_last, searched": "channels_last"}
    names = ("fp32", "TF32", "bf16", "bf16 channels_last", *searched)
    trainers = {name: Trainer(replace(study, train_layout="channels_last" if "channels_last" in name else "contiguous"), ctx.device,
                              study.train_batch, ctx.seed, smoke=ctx.smoke, bf16=name.startswith("bf16")) for name in names}

    def step(name: str) -> None:
        torch.backends.cudnn.benchmark = name in searched
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "fp32"
        trainers[name].step(trainers[name].forward)

    try:
        times = measure.time_interleaved({name: partial(step, name) for name in names}, device=ctx.device, blocks=6, block_ms=1.0,
                                         warmup_s=0.0)
    except torch.OutOfMemoryError:
        return study, [(study.title, name, study.train_batch, "out of memory", None, None, None) for name in names]
    finally:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        trainers.clear()
    medians = {name: statistics.median(times[name]) for name in names}
    ctx.progress(f"{study.title} train, eager: " + ", ".join(f"{name} {ms:.4g} ms" for name, ms in medians.items()))
    gains = {name: measure.ratio(times["fp32"], times[name]) for name in names}
    tuned = replace(study, train_layout=searched[min(searched, key=medians.__getitem__)], infer_layout=_faster_layout(ctx, study))
    return tuned, [(study.title, name, study.train_batch, medians[name], gain.value, gain.low, gain.high) for name, gain in gains.items()]


def _faster_layout(ctx: Context, study: Study) -> Layout:
    """In which the eager baseline infers a full batch faster; a single image waits for the host in either."""
    calls: dict[str, Callable[[], object]] = {}
    for layout in LAYOUTS:
        inferencer = Inferencer(replace(study, infer_layout=layout), ctx.device, study.infer_batch, ctx.seed, smoke=ctx.smoke)
        calls[layout] = partial(inferencer.call, inferencer.model)
    times = measure.time_interleaved(calls, device=ctx.device, blocks=6, block_ms=1.0, warmup_s=0.0)
    medians = {layout: statistics.median(times[layout]) for layout in LAYOUTS}
    ctx.progress(f"{study.title} throughput, eager: " + ", ".join(f"{layout} {ms:.4g} ms" for layout, ms in medians.items()))
    return min(LAYOUTS, key=medians.__getitem__)


# ---------------------------------------------------------------------------------------------------- inference


def _infer(ctx: Context, sizes: Sizes, study: Study, regime: Regime, cold_s: ColdSeconds,
           weights: Mapping[str, Tensor]) -> tuple[Row, Estimate, float]:
    """Check and time one network's inference on trained weights; its agreement with eager, and eager's accuracy, go on."""
    inferencer = Inferencer(study, ctx.device, _batch(study, regime), ctx.seed, smoke=ctx.smoke)
    inferencer.model.load_state_dict(weights)
    row, rungs = _row(ctx, sizes, study, regime, cold_s, partial(inferencer.call, inferencer.model))
    reference = _inference_reference(inferencer)
    models: dict[str, Callable[[Tensor], Tensor]] = {EAGER: inferencer.model}
    for rung in rungs:
        models[rung] = compiled(inferencer.model, rung, ctx.device)
        _, row.warm_s[rung] = measure.seconds(partial(inferencer.call, models[rung]))
        ctx.progress(f"{row.name}: {rung} compiled from the cache in {row.warm_s[rung]:.1f} s")
    arms: dict[str, Callable[[], object]] = {}
    for arm, model in models.items():
        arms[arm] = call = partial(inferencer.call, model)
        row.errors[arm] = _inference_error(call, reference)
    arms[AGAIN] = arms[EAGER]
    if ctx.device == "cuda":
        graph = capture(partial(inferencer.call, inferencer.model))

        def replayed() -> Tensor:
            graph.replay()
            return graph.value

        row.errors[GRAPH] = _inference_error(replayed, reference)
        arms[GRAPH] = graph.replay
    ctx.progress(row.checks())
    row.times = _time(ctx, sizes, row.name, arms, "latency" if regime == "latency" else "hot")
    row.peak_mib = _peaks(ctx, arms)
    agreement, accuracy = _agreement(ctx, sizes, inferencer, models)
    return row, agreement, accuracy


def _inference_reference(inferencer: Inferencer) -> Tensor:
    model = copy.deepcopy(inferencer.model).double()
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=False):
        return torch.cat([model(images.double()) for images in torch.split(inferencer.images, REFERENCE_CHUNK)])


def _inference_error(call: Callable[[], Tensor], reference: Tensor) -> tuple[float, float]:
    for _ in range(3):
        logits = call()
    error = _distance([logits], [reference])
    return error, error


def _agreement(ctx: Context, sizes: Sizes, inferencer: Inferencer,
               models: Mapping[str, Callable[[Tensor], Tensor]]) -> tuple[Estimate, float]:
    """How often the worst rung and eager name the same class on pictures none of them was trained on; and eager's own
    accuracy, so that one sees the network had learnt something. Pictures are the trials: the pixels of one are no
    independent witnesses, so a dense network has one share a picture."""
    study, batch = inferencer.study, len(inferencer.images)
    count = sizes.eval_pixel_images if study.dense else sizes.eval_images
    if batch == 1:
        count = min(count, 64)  # latency: the rungs were checked against fp64; this only walks the path
    same: dict[str, list[float]] = {arm: [] for arm in models}
    right: list[float] = []
    for first in range(0, count, batch):
        images, labels = data(study, batch, 10_000_000 + first, ctx.device)
        inferencer.images.copy_(images)
        expected = inferencer.call(models[EAGER]).argmax(1)
        right += _shares(expected == labels)
        for arm, model in models.items():
            same[arm] += _shares(inferencer.call(model).argmax(1) == expected)
    worst = min(same.values(), key=sum)
    accuracy = statistics.fmean(right)
    ctx.progress(f"{study.title}: argmax agrees with eager in {statistics.fmean(worst):.5f} of {len(worst)} pictures, "
                 f"accuracy {accuracy:.4f}")
    return measure.mean(worst) if study.dense else measure.share(int(sum(worst)), len(worst)), accuracy


def _shares(same: Tensor) -> list[float]:
    """(N, ...) booleans to the share of each of the N pictures."""
    return [float(f"{share:.7g}") for share in same.flatten(1).double().mean(1).tolist()] if same.dim() > 1 else same.double().tolist()


def _sweep(ctx: Context, sizes: Sizes, study: Study, cold_s: ColdSeconds, rows: tuple[Row, Row]) -> list[tuple[Cell, ...]]:
    """Speedup by batch size, for the plot: the two regimes' own points and one between."""
    rung = sizes.sweep_rung
    points = {row.batch: row.times for row in rows if rung in row.times}
    if (study.key, "throughput", SWEEP_BATCH, rung) in cold_s and SWEEP_BATCH not in points:
        inferencer = Inferencer(study, ctx.device, SWEEP_BATCH, ctx.seed, smoke=ctx.smoke)
        model = compiled(inferencer.model, rung, ctx.device)
        points[SWEEP_BATCH] = _time(ctx, sizes, f"{study.title} batch {SWEEP_BATCH}", {
            EAGER: partial(inferencer.call, inferencer.model), rung: partial(inferencer.call, model)}, "hot")
    gains = {batch: measure.ratio(times[EAGER], times[rung]) for batch, times in sorted(points.items())}
    return [(study.title, batch, gain.value, gain.low, gain.high) for batch, gain in gains.items()]


# ---------------------------------------------------------------------------------------------------- shared steps


def _time(ctx: Context, sizes: Sizes, what: str, arms: Arms, mode: measure.Mode) -> Mapping[str, tuple[float, ...]]:
    return measure.time_interleaved(arms, device=ctx.device, mode=mode, blocks=sizes.blocks, block_ms=sizes.block_ms,
                                    warmup_s=sizes.warmup_s, seed=ctx.seed, progress=lambda line: ctx.progress(f"{what}, {line}")).samples


def _peaks(ctx: Context, arms: Arms) -> dict[str, float | None]:
    """Peak memory by arm, None for those that replay a CUDA graph: a replay asks the allocator for nothing, so what it would
    show is what the other arms hold."""
    return {arm: None if arm in REPLAYED else measure.peak_memory_mib(call, ctx.device) for arm, call in arms.items()}


def _free(device: measure.Device) -> None:
    """Give everything of the last network back before the next one: graphs, caches, compiled code."""
    torch.compiler.reset()
    measure.free(device)


def _profile(ctx: Context, sizes: Sizes, study: Study, arms: Arms) -> Trace:
    """A Chrome trace of a few steps of each arm, each in a labelled part that ends with a synchronisation."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if ctx.device == "cuda" else [])
    with profile(activities=activities, record_shapes=ctx.profile, acc_events=True) as profiler:
        for arm, step in arms.items():
            step()  # the profiler's own first call
            if ctx.device == "cuda":
                torch.cuda.synchronize()
            with record_function(f"{study.title} {arm}"):
                for _ in range(sizes.trace_steps):
                    step()
                if ctx.device == "cuda":
                    torch.cuda.synchronize()
    path = ctx.out / f"{study.key}.trace.json"
    profiler.export_chrome_trace(str(path))
    trace: Trace = json.loads(path.read_text())
    path.unlink()
    return trace


def _write_trace(ctx: Context, traces: list[Trace]) -> None:
    """One gzipped Chrome trace for all networks; where it would be too large to keep, the CPU operators go first, and the
    arrows that start at them; then what the profiler says of each kernel beyond name and time."""
    events = [e for trace in traces for e in trace["traceEvents"] if e.get("ph") != "X" or e.get("cat") in TRACE_CATEGORIES]
    if not ctx.profile:
        events = [{k: v for k, v in e.items() if k != "args" or e.get("cat") == "kernel" or e.get("ph") != "X"} for e in events]
    lean = [e for e in events if e.get("cat") not in ("cpu_op", "cuda_runtime", "ac2g", "fwdbwd")]
    bare = [{k: v for k, v in e.items() if k != "args" or e.get("ph") != "X"} for e in lean]
    for kept in (events, lean, bare):
        packed = gzip.compress(json.dumps({"schemaVersion": 1, "traceEvents": kept}).encode(), mtime=0)
        if len(packed) <= TRACE_BYTES:
            break
    (ctx.out / TRACE).write_bytes(packed)
