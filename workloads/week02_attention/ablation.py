"""What was seen, as metrics, tables and one file: every backend at every shape, beside naive, FlashAttention-2 and default SDPA."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from workloads import measure
from workloads.spec import Cell, Chart, Column, Estimate, Metric, Observed, Table, Target, plain_text
from workloads.week02_attention import ERROR, EVALUATED, SPEEDUP, TRAINED, kernels
from workloads.week02_attention.backends import BACKENDS, FUSED_BF16, TITLES, Backend
from workloads.week02_attention.dispatch import SHOWN, Launched
from workloads.week02_attention.points import Point
from workloads.week02_attention.steps import Step
from workloads.week02_attention.sweep import Able, Arm, Seen, TileKey

FUSED_BASELINES: tuple[Backend, ...] = ("flash", "default")
ABLATION_TABLE = "ablation"
RAW = "raw times (ms)"
KERNEL_ONLY = "our fp8, kernel only"
COMPARED: tuple[tuple[Backend, Backend], ...] = (("triton", "flash"), ("triton", "cudnn"), ("fp8", "flash"), ("fp8", "cudnn"))


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What a profile of one backend showed."""

    backend: Backend
    launched: Sequence[Launched]
    proved: bool
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One trained network under one backend: its metric, and the change against naive in percent of naive's metric."""

    task: str
    metric: str
    backend: Backend
    value: float | None = None
    delta: Estimate | None = None
    failed: str = ""


@dataclass(frozen=True, slots=True)
class TrainedPair:
    """One task trained from the same seeds naive and fused: the metric of each, seed by seed."""

    task: str
    metric: str
    fused: Backend
    seeds: tuple[int, ...]
    naive_values: tuple[float, ...]
    fused_values: tuple[float, ...]

    @property
    def deltas(self) -> Estimate:
        """The median seed's change in percent; the interval runs from the least to the most changed seed."""
        changes = tuple(kept(100 * abs(on - off) / off) for on, off in zip(self.fused_values, self.naive_values, strict=True))
        return Estimate("median", statistics.median(changes), min(changes), max(changes), changes)


@dataclass(slots=True)
class Story:
    """All of a run before it is put into words."""

    device: str
    ceilings: tuple[Metric, Metric]
    able: Able
    points: tuple[Point, ...]
    anchors: tuple[int, ...]
    plot_width: int
    dispatch: list[Dispatch] = field(default_factory=list)
    tuned: list[tuple[TileKey, kernels.Tiles, float, bool]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    evaluated: list[Evaluated] = field(default_factory=list)
    trained: list[TrainedPair] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def kept(value: float) -> float:
    """Seven digits: finer than anything measured here."""
    return float(f"{value:.7g}")


def delta(off: Sequence[float], on: Sequence[float]) -> Estimate | None:
    """How far `on` is from `off` in percent of `off`'s mean, item by item, with Student's interval; its sign is dropped. None of a
    network that got nothing right, or whose numbers are none."""
    base = statistics.fmean(off)
    if not base or not all(map(math.isfinite, (base, *on))):
        return None
    changes = [kept(100 * (mine - theirs) / base) for mine, theirs in zip(on, off, strict=True)]
    return measure.mean(changes if statistics.fmean(changes) >= 0 else [-change for change in changes])


def observed(story: Story) -> Observed:
    metrics: list[Metric] = []
    missing: list[tuple[str, str]] = []

    def add(target: Target, found: tuple[Estimate, str] | str) -> None:
        if isinstance(found, str):
            missing.append((target.name, found))
        else:
            metrics.append(target.measured(found[0], detail=found[1]))

    worst = _worst_gain(story)
    add(SPEEDUP, (worst[0], f"{worst[2].point}, {TITLES[worst[1]]}") if worst else "no right fused backend was timed beside naive")
    add(ERROR, _worst_error(story))
    add(EVALUATED, _worst_delta(story))
    pairs = [(pair.deltas, f"{pair.task}, {TITLES[pair.fused]}, {len(pair.seeds)} seeds") for pair in story.trained]
    add(TRAINED, max(pairs, key=lambda pair: pair[0].high) if pairs else "time ran out before networks were trained")
    metrics += _beside(story, worst)
    metrics += story.ceilings
    noise = [(measure.noise(seen.arms["default"].times, seen.again), seen.point) for seen in story.seen if seen.again]
    if noise:
        reach, where = max(((max(e.high - 1, 1 - e.low), point) for e, point in noise), key=lambda pair: pair[0])
        metrics.append(Metric("noise", "noise floor, default SDPA against itself", "%", "lower", measure.exact(kept(100 * reach)),
                              f"{where}, worst"))
    return Observed(tuple(metrics), tuple(_tables(story)), tuple(_notes(story)), tuple(missing))


def _worst_gain(story: Story) -> tuple[Estimate, Backend, Seen] | None:
    """The least gain of the best backend over naive, by the low end of its interval, with the backend and the shape."""
    gains = [(gain, best, seen) for seen in story.seen if (best := seen.best()) and (gain := seen.gain(best, "naive"))]
    return min(gains, key=lambda found: found[0].low, default=None)


def _worst_error(story: Story) -> tuple[Estimate, str] | str:
    ratios = [(arm.error_ratio, f"{seen.point}, {TITLES[b]}") for seen in story.seen for b, arm in seen.arms.items()
              if b in FUSED_BF16 and arm.error_ratio is not None]
    if not ratios:
        return "no fused backend was checked"
    ratio, where = max(ratios)
    return (measure.exact(kept(ratio)), where) if math.isfinite(ratio) else f"an output is not a number: {where}"


def _worst_delta(story: Story) -> tuple[Estimate, str] | str:
    deltas = [(e.delta, f"{e.task}, {e.metric}, {TITLES[e.backend]}") for e in story.evaluated if e.delta]
    return max(deltas, key=lambda pair: pair[0].high) if deltas else "no trained network was evaluated under two backends"


def _beside(story: Story, worst: tuple[Estimate, Backend, Seen] | None) -> Iterator[Metric]:
    """What stands beside the targets: the same winner at the same shape over the two baselines that are fused themselves, and our
    own kernels at the anchor; then rates, and what networks gained."""
    if worst:
        _, best, seen = worst
        for over in FUSED_BASELINES:
            if gain := seen.gain(best, over):
                where = f"{seen.point}, {TITLES[best]}"
                yield Metric(f"best_over_{over}", f"the same kernel over {TITLES[over]}", "x", "higher", gain, where)
    anchor = next((s for s in story.seen if s.point == story.points[0]), None)
    if anchor is None:
        return
    for mine, over in COMPARED:
        if gain := anchor.gain(mine, over):
            yield Metric(f"{mine}_over_{over}", f"{TITLES[mine]} over {TITLES[over]}", "x", "higher", gain, str(anchor.point))
    if winner := anchor.best():
        for over in ("naive", *FUSED_BASELINES):
            if gain := anchor.gain(winner, over):
                where = f"{anchor.point}, {TITLES[winner]}"
                yield Metric(f"anchor_over_{over}", f"best fused over {TITLES[over]}", "x", "higher", gain, where)
    for seen in story.seen:
        p = seen.point
        if p.length in story.anchors:
            for backend, arm in seen.arms.items():
                if arm.times:
                    name = f"rate_{backend}_s{p.length}_d{p.width}_{p.mask}_{'both' if p.backward else 'forward'}"
                    yield Metric(name, f"{TITLES[backend]} rate", "TFLOP/s", "higher", seen.rate(arm.times), str(p))
    for step in story.steps:
        if step.step_gain and step.backend != "naive":
            yield Metric(f"step_{step.network}_{step.phase}_{step.backend}",
                         f"{step.network} {step.phase} step, {TITLES[step.backend]} over naive", "x", "higher", step.step_gain,
                         str(step.point))


# ---------------------------------------------------------------------------------------------------- tables


RATE, LOW, HIGH = Column("rate", "TFLOP/s"), Column("low", "TFLOP/s"), Column("high", "TFLOP/s")
LENGTH = Column("sequence length")


def _tables(story: Story) -> Iterator[Table]:
    ceiling = story.ceilings[0].estimate.value
    for name, causal, backward in (("forward", False, False), ("forward_backward", True, True)):
        words = f"{'causal' if causal else 'full'}, {'forward + backward' if backward else 'forward'}"
        yield Table(name, f"Attention rate by sequence length, D {story.plot_width}, {words}", (LENGTH, Column("backend"), RATE, LOW, HIGH),
                    tuple(_rates(story, causal, backward)),
                    Chart("lines", x=LENGTH.name, y="rate", by="backend", low="low", high="high",
                          marks=(kept(ceiling),) if story.device == "cuda" else (), log_x=True))
    gained = [(f"{step.network} {step.phase} {step.backend}", step.step_gain) for step in story.steps
              if step.backend != "naive" and step.step_gain]
    yield Table("step_speedup", "Speedup of a whole step over naive attention",
                (Column("step"), Column("speedup", "x"), Column("low", "x"), Column("high", "x")),
                tuple((label, gain.value, gain.low, gain.high) for label, gain in gained),
                Chart("bars", x="step", y="speedup", low="low", high="high", marks=(1.0,)))
    yield Table(ABLATION_TABLE, "Every backend at every shape", ABLATION_COLUMNS, tuple(_ablation(story)))
    yield Table("dispatch", "Which kernels ran: a profile of one call, the longest kernels first", (
        Column("backend"), Column("kernels"), Column("GPU time" if story.device == "cuda" else "CPU time", "us"),
        Column("is what it says")),
        tuple((TITLES[d.backend], plain_text(", ".join(k.name[:50] for k in d.launched[:SHOWN]) or d.failed or "none"),
               kept(sum(k.microseconds for k in d.launched)) if d.launched else None,
               "yes" if d.proved else "no" if d.launched else "not run") for d in story.dispatch))
    yield Table("launch_shapes", "Launch shapes of our kernels, forward", (
        Column("kernel"), Column("D"), Column("mask"), LENGTH, Column("queries x keys"), RATE, Column("registers", "count"),
        Column("spilled", "count"), Column("matrix instruction"), Column("error over yardstick"), Column("chosen")),
        tuple(_launch_shapes(story)))
    yield Table("evaluation", "One trained network, evaluated under each backend", (
        Column("task"), Column("metric"), Column("backend"), Column("value"), Column("delta", "%"), Column("low", "%"), Column("high", "%"),
        Column("note")),
        tuple((e.task, e.metric, TITLES[e.backend], finite(e.value),
               *((e.delta.value, e.delta.low, e.delta.high) if e.delta else (None, None, None)),
               plain_text(e.failed) if e.failed else "the baseline" if e.backend == "naive" else None) for e in story.evaluated))
    yield Table("training", "The same task from the same seeds, trained naive and fused", (
        Column("task"), Column("metric"), Column("fused by"), Column("seed", "count"), Column("naive"), Column("fused"),
        Column("delta", "%")),
        tuple((p.task, p.metric, TITLES[p.fused], seed, kept(off), kept(on), change) for p in story.trained
              for seed, off, on, change in zip(p.seeds, p.naive_values, p.fused_values, p.deltas.samples, strict=True)))
    yield Table("amdahl", "Kernel speedup, share of the naive step, and what the step gained", (
        Column("network"), Column("phase"), Column("shape"), Column("backend"), Column("step", "ms"), Column("kernel speedup", "x"),
        Column("share of attention", "%"), Column("prediction by Amdahl", "x"), Column("limit by Amdahl", "x"), Column("step speedup", "x"),
        Column("low", "x"), Column("high", "x"), Column("note")), tuple(map(_amdahl_cells, story.steps)))


ABLATION_COLUMNS = (
    LENGTH, Column("D"), Column("mask"), Column("direction"), Column("backend"), Column("batch", "count"), Column("heads", "count"),
    Column("time", "ms"), RATE, LOW, HIGH, Column("of matmul ceiling", "%"), Column("over naive", "x"), Column("its low end", "x"),
    Column("over FlashAttention-2", "x"), Column("over default SDPA", "x"), Column("peak memory", "MiB"), Column("error, output"),
    Column("error, worst gradient"), Column("error, outlier head"), Column("largest difference"), Column("error over yardstick"),
    Column("check"))


def _rates(story: Story, causal: bool, backward: bool) -> Iterator[tuple[Cell, ...]]:
    """In the order of BACKENDS, so that a backend has the same colour in every plot that has them all."""
    mine = sorted((s for s in story.seen if (s.point.width, s.point.causal, s.point.backward) == (story.plot_width, causal, backward)),
                  key=lambda s: s.point.length)
    for backend in BACKENDS:
        for seen in mine:
            if times := seen.arms[backend].times:
                rate = seen.rate(times)
                yield seen.point.length, TITLES[backend], rate.value, rate.low, rate.high
    for seen in mine:
        if seen.kernel_only:
            rate = seen.rate(seen.kernel_only)
            yield seen.point.length, KERNEL_ONLY, rate.value, rate.low, rate.high


def _ablation(story: Story) -> Iterator[tuple[Cell, ...]]:
    for seen in story.seen:
        for backend, arm in seen.arms.items():
            yield _ablation_cells(story, seen, backend, arm)
        if seen.kernel_only:
            arm = Arm(seen.kernel_only, seen.arms["fp8"].errors, seen.arms["fp8"].error_ratio)
            yield _ablation_cells(story, seen, "fp8", arm, KERNEL_ONLY)


def _ablation_cells(story: Story, seen: Seen, backend: Backend, arm: Arm, title: str = "") -> tuple[Cell, ...]:
    p = seen.point
    rate = seen.rate(arm.times) if arm.times else None

    def over(other: Backend) -> Estimate | None:
        theirs = seen.arms[other].times
        return measure.ratio(theirs, arm.times) if arm.times and theirs and (backend != other or title) else None

    naive, flash, default = (over(other) for other in ("naive", "flash", "default"))
    e = arm.errors
    return (p.length, p.width, p.mask, p.direction, title or TITLES[backend], p.batch, p.heads, kept(arm.ms) if arm.times else None,
            *((rate.value, rate.low, rate.high, kept(100 * rate.value / story.ceilings[0].estimate.value)) if rate else (None,) * 4),
            naive.value if naive else None, naive.low if naive else None, flash.value if flash else None,
            default.value if default else None, arm.peak_mib,
            *((finite(e.plain[0]), finite(max(e.plain[1:])) if p.backward else None, finite(max(e.outlier)), finite(e.largest))
              if e else (None,) * 4), finite(arm.error_ratio), checked(arm))


def checked(arm: Arm) -> str:
    if arm.failed:
        return plain_text(arm.failed)
    if not arm.right:
        return "wrong"
    return "right" if arm.proved else "right, but its profile shows another kernel"


def finite(value: float | None) -> float | None:
    """A value that overflowed is wrong, and its error a gap."""
    return kept(value) if value is not None and math.isfinite(value) else None


def _launch_shapes(story: Story) -> Iterator[tuple[Cell, ...]]:
    timed = {(key, tiles): (ms, won) for key, tiles, ms, won in story.tuned}
    for (backend, width, causal), trial in story.able.tried.items():
        for step in trial.steps:
            if step.tiles is None:
                continue
            found = next(((key, *value) for (key, tiles), value in timed.items()
                          if tiles == step.tiles and key[:3] == (backend, width, causal) and key[3] == (step.length % 256 == 0)), None)
            wanted = (step.length, width, causal, False)
            point = next((p for p in story.points if (p.length, p.width, p.causal, p.backward) == wanted), None)
            rate = kept(point.tera_operations / found[1] * 1000) if found and point else None
            yield (TITLES[backend], width, "causal" if causal else "full", step.length, str(step.tiles), rate, step.registers or None,
                   step.spilled if step.registers else None, step.instruction or None, kept(step.error_ratio) if not step.failed else None,
                   plain_text(step.failed) if step.failed else ("yes" if found and found[2] else "no" if found else "not timed"))


def _amdahl_cells(step: Step) -> tuple[Cell, ...]:
    gain, p = step.step_gain, step.point
    return (step.network, step.phase, f"B {p.batch}, H {p.heads}, S {p.length}, D {p.width}, {p.mask}",
            TITLES[step.backend], kept(step.step_ms) if step.step_ms else None,
            *((kept(step.kernel_gain), kept(100 * step.share), kept(step.predicted), kept(step.limit), gain.value, gain.low, gain.high)
              if gain else (None,) * 7), plain_text(step.failed) if step.failed else None)


def _notes(story: Story) -> Iterator[str]:
    yield "Operations: 4 B H S^2 D forward, half with a causal mask, backward 2.5 times forward; naive does the masked half too, uncredited"
    yield "Errors: relative L2 to float64 of the first head and of one with outliers; right is at most twice that of the naive path in bf16"
    yield "fp8 is held against arithmetic that is exact but for e4m3 with a scale a head; the judged speedup is of bf16 alone"
    yield "Our fp8 times hold the quantising of q, k and v; the row kernel only does not"
    yield "Peak memory: the most that tensors held during one call, the inputs of all arms included"
    yield "Text: the standard library of the Python that ran. Pictures: rendered shapes"
    for backend, why in story.able.reasons.items():
        yield plain_text(f"{TITLES[backend]}: {why}")
    yield from story.notes


def as_json(story: Story, told: Observed) -> str:
    """The ablation table of `told` row by row, each with all of its raw times in milliseconds, for whoever wants to work with it."""
    raw: list[tuple[float, ...]] = []
    for seen in story.seen:
        raw += [arm.times for arm in seen.arms.values()]
        raw += [seen.kernel_only] if seen.kernel_only else []
    table = next(table for table in told.tables if table.name == ABLATION_TABLE)
    names = [f"{c.name} ({c.unit})" if c.unit else c.name for c in table.columns]
    rows = [{**dict(zip(names, cells, strict=True)), RAW: times} for cells, times in zip(table.rows, raw, strict=True)]
    return "[" + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "]\n"
