"""What the arms showed, as metrics, tables and notes: loss over learning rate, paired seeds, latency, norms, and the loop's own speed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from workloads import measure
from workloads.lm import FeedForwardKind, NormKind
from workloads.spec import Cell, Chart, Column, Estimate, Metric, Observed, Table, plain_text
from workloads.week14_ffn_norm import DECODE, PARAMETERS, PPL, PREFILL, STABLE

TITLES = {"gelu": "GELU", "swiglu": "SwiGLU", "geglu": "GEGLU", "relu2": "ReLU^2", "layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}


@dataclass(frozen=True, slots=True)
class Arm:
    """A feed-forward with a norm."""

    feed_forward: FeedForwardKind
    norm: NormKind

    @property
    def name(self) -> str:
        return f"{TITLES[self.feed_forward]} + {TITLES[self.norm]}"


BASELINE, CANDIDATE = Arm("gelu", "layernorm"), Arm("swiglu", "rmsnorm")


@dataclass(frozen=True, slots=True)
class Run:
    """One training: held-out loss (nats a token, that of the untrained network where it diverged), and how steady it was: `spikes`
    among the `watched` of its `steps`, those after its warm-up. `final`: at the arm's best rate, to be compared; otherwise one of
    the sweep, which is shorter and finds that rate."""

    arm: Arm
    rate: float
    seed: int
    loss: float
    diverged: bool
    spikes: int
    watched: int
    steps: int
    final: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """An arm's size and speed; `why` it has no runs, or was not trained as the others were."""

    arm: Arm
    parameters: int
    hidden: int
    tokens_per_s: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class NormTime:
    """One norm kernel: milliseconds, bytes a call, distance to float64; `why` it was not timed."""

    kernel: str
    work: str
    bytes: float
    ms: tuple[float, ...] = ()
    error: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """One training loop: parameters, tokens a second as often as measured, and operations a token; `why` it has none."""

    loop: str
    parameters: int
    tokens_per_s: tuple[float, ...] = ()
    flops_a_token: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """All of a run before it is put into words. Latency: milliseconds by arm ("baseline", "again", "candidate"), None where it
    could not be taken, and why."""

    device: str
    untrained: float
    grid: tuple[float, ...]
    shapes: Sequence[Shape]
    runs: Sequence[Run]
    latency_parameters: tuple[int, int]  # baseline, candidate
    prefill: dict[str, tuple[float, ...]] | None
    decode: dict[str, tuple[float, ...]] | None
    why: dict[str, str]
    norms: Sequence[NormTime]
    paces: Sequence[Pace]
    ceilings: tuple[Metric, Metric]
    notes: Sequence[str]

    def sweep(self, arm: Arm) -> list[Run]:
        """Its runs of the sweep, by rate."""
        return sorted((run for run in self.runs if run.arm == arm and not run.final), key=lambda run: run.rate)

    def best_rate(self, arm: Arm) -> float | None:
        """The sweep's rate of the lowest loss, among those that did not diverge."""
        able = [run for run in self.sweep(arm) if not run.diverged]
        return min(able, key=lambda run: run.loss).rate if able else None

    def at_best(self, arm: Arm) -> list[Run]:
        """The final runs, all at the best rate, by seed."""
        return sorted((run for run in self.runs if run.arm == arm and run.final), key=lambda run: run.seed)

    def ratios(self, arm: Arm) -> tuple[float, ...]:
        """Perplexity over the baseline's, seed by seed, over the seeds that both have."""
        other = {run.seed: run.loss for run in self.at_best(BASELINE)}
        return tuple(float(f"{math.exp(run.loss - other[run.seed]):.9g}") for run in self.at_best(arm) if run.seed in other)

    def sensitivity(self, arm: Arm) -> float | None:
        """LR sensitivity (Wortsman et al. 2023): the mean over the grid of min(loss, untrained loss), less the best loss."""
        losses = [min(run.loss, self.untrained) for run in self.sweep(arm) if run.rate in self.grid]
        return statistics.fmean(losses) - min(losses) if losses else None

    def diverged(self, arm: Arm) -> float | None:
        """The share of the grid that diverged."""
        found = [run.diverged for run in self.sweep(arm) if run.rate in self.grid]
        return sum(found) / len(found) if found else None


def observed(seen: Seen) -> Observed:
    metrics: list[Metric] = []
    missing: list[tuple[str, str]] = []
    mine, theirs = seen.latency_parameters[1], seen.latency_parameters[0]
    metrics.append(PARAMETERS.measured(measure.exact(mine / theirs), detail=f"{mine:,} over {theirs:,}, the network of the latencies"))

    ratios = seen.ratios(CANDIDATE)
    if len(ratios) >= 3:
        rates = " and ".join(f"{rate:g}" for rate in (seen.best_rate(CANDIDATE), seen.best_rate(BASELINE)))
        metrics.append(PPL.measured(measure.geomean(ratios), detail=f"{len(ratios)} seeds, rates {rates}"))
    else:
        missing.append((PPL.name, f"{len(ratios)} seeds of both arms, and 3 are needed"))
    for target, times in ((PREFILL, seen.prefill), (DECODE, seen.decode)):
        if times:
            ratio = measure.ratio(times["candidate"], times["baseline"])
            metrics.append(target.measured(ratio, detail="time over time: below 1 is faster"))
        else:
            missing.append((target.name, seen.why.get(target.name, "was not timed")))
    steady = seen.at_best(CANDIDATE)
    if steady:
        total, spikes = sum(run.watched for run in steady), sum(run.spikes for run in steady)
        metrics.append(STABLE.measured(measure.share(total - spikes, total), detail=f"{len(steady)} runs, {spikes} spikes"))
    else:
        missing.append((STABLE.name, "no rate of the grid trained without diverging"))

    floors = [(100 * max(again.high - 1, 1 - again.low), what) for what, times in (("prefill", seen.prefill), ("decode", seen.decode))
              if times for again in (measure.noise(times["baseline"], times["again"]),)]
    if floors:
        floor, what = max(floors)
        metrics.append(Metric("noise", "noise floor, the baseline against itself", "%", "lower", measure.exact(floor), f"{what}, worst"))
    for arm in (BASELINE, CANDIDATE):
        key, sensitivity = f"{arm.feed_forward}_{arm.norm}", seen.sensitivity(arm)
        if sensitivity is not None:
            name = f"lr_sensitivity_{key}"
            metrics.append(Metric(name, f"LR sensitivity, {arm.name}", "", "lower", measure.exact(sensitivity), "nats"))
    for arm in (s.arm for s in seen.shapes if s.arm not in (BASELINE, CANDIDATE)):
        if len(found := seen.ratios(arm)) >= 3:
            name = f"ppl_{arm.feed_forward}_{arm.norm}"
            metrics.append(Metric(name, f"perplexity, {arm.name} over the baseline", "x", "lower", measure.geomean(found),
                                  f"{len(found)} seeds"))
    metrics += seen.ceilings
    peak = 1e12 * seen.ceilings[0].estimate.value
    ours = [p for p in seen.paces if p.tokens_per_s and p.flops_a_token]
    if ours and seen.device == "cuda":  # a CPU's bf16 ceiling says nothing of its float32
        best = max((p for p in ours if p.parameters == ours[0].parameters), key=lambda p: statistics.median(p.tokens_per_s))
        rate = statistics.median(best.tokens_per_s)
        metrics.append(Metric("mfu", "model FLOP/s of the measured matmul ceiling, our loop", "%", "higher",
                              measure.exact(100 * rate * best.flops_a_token / peak), f"{best.loop}; the bar is 50 %"))
    return Observed(tuple(metrics), _tables(seen), (*seen.notes, *map(plain_text, _of_rates(seen) + _of_power(seen))),
                    tuple(missing))


# ---------------------------------------------------------------------------------------------------- what the numbers can carry


def _of_rates(seen: Seen) -> list[str]:
    """Whether the sweep went far enough and fine enough for every arm to have its own best rate."""
    ends, costs = [], []
    for arm in (s.arm for s in seen.shapes):
        able = [run for run in seen.sweep(arm) if not run.diverged]
        if len(able) < 2:
            continue
        first, second = sorted(able, key=lambda run: run.loss)[:2]
        costs.append(second.loss - first.loss)
        if first in (able[0], seen.sweep(arm)[-1]):
            ends.append(f"{arm.name} at {first.rate:g}")
    if not costs:
        return []
    found = [f"Rates: the second best of an arm costs {min(costs):.3f} to {max(costs):.3f} nats in the sweep"]
    return [*found, f"Rates: best at the end of those tried, so a better one may lie beyond: {', '.join(ends)}"] if ends else found


def _of_power(seen: Seen) -> list[str]:
    """What the seeds of the judged pair could have shown: so that "not better" is not taken for "worse"."""
    logs = [math.log(ratio) for ratio in seen.ratios(CANDIDATE)]
    if len(logs) < 3:
        return []
    between, margin = measure.mean(logs), math.log(PPL.bound)
    reach = between.high - between.value
    if between.high <= margin:
        verdict = "all of the interval is within the margin"
    elif between.low > margin:
        verdict = "all of the interval is beyond the margin: worse, and not for want of seeds"
    else:
        verdict = "the margin is inside the interval: these seeds show neither that it is kept nor that it is not"
    spread = statistics.stdev(logs)
    return [f"Power: the difference of the pair has a deviation of {spread:.4f} nats over {len(logs)} seeds; the interval reaches "
            f"{reach:.4f} nats to each side, and its high end decides",
            f"Power: {verdict}",
            f"Power: with this deviation, a mean difference of {margin - reach:+.4f} nats or lower counts as within the margin"]


# ---------------------------------------------------------------------------------------------------- tables


def _tables(seen: Seen) -> tuple[Table, ...]:
    arm, nats, low, high = Column("arm"), Column("nats a token"), Column("low"), Column("high")
    return (
        Table("rates", "Held-out loss by learning rate, diverged runs at the untrained loss", (arm, Column("learning rate"), nats),
              tuple((s.arm.name, run.rate, min(run.loss, seen.untrained)) for s in seen.shapes for run in seen.sweep(s.arm)),
              Chart("lines", x="learning rate", y="nats a token", by="arm", log_x=True)),
        Table("arms", "Every arm at its own best learning rate", (
            arm, Column("parameters", "count"), Column("hidden width", "count"), Column("best rate"), Column("seeds", "count"), nats,
            Column("perplexity over baseline", "x"), low, high, Column("LR sensitivity"), Column("share of rates diverged"),
            Column("spikes in 1,000 steps"), Column("train", "tok/s"), Column("check")), tuple(_arm_cells(seen))),
        Table("seeds", "Perplexity against GELU + LayerNorm, paired seeds: below 0 is better", (
            arm, Column("change", "%"), low, high), tuple((s.arm.name, *(100 * (end - 1) for end in (e.value, e.low, e.high)))
            for s in seen.shapes if s.arm != BASELINE for e in (_ratio(seen, s.arm),) if e),
            Chart("bars", x="arm", y="change", low="low", high="high", marks=(0.0, 100 * (PPL.bound - 1)))),
        Table("latency", "Prefill and decode, compiled against compiled", (
            Column("what"), Column("arm"), Column("time", "ms"), Column("over baseline", "x"), Column("low", "x"), Column("high", "x"),
            Column("check")), tuple(_latency_cells(seen))),
        Table("norms", "Norm kernels, bytes read and written", (
            Column("kernel"), Column("rate", "GB/s"), low, high, Column("of copy ceiling", "%"), Column("error to fp64"), Column("check")),
            tuple(_norm_cells(seen)),
            Chart("bars", x="kernel", y="rate", low="low", high="high", marks=(seen.ceilings[1].estimate.value,))),
        Table("loops", "Training loops", (
            Column("loop"), Column("parameters", "count"), Column("rate", "tok/s"), low, high, Column("MFU", "%"), Column("check")),
            tuple(_pace_cells(seen)), Chart("bars", x="loop", y="rate", low="low", high="high")))


def _ratio(seen: Seen, arm: Arm) -> Estimate | None:
    found = seen.ratios(arm)
    return measure.geomean(found) if len(found) >= 2 else None


def _arm_cells(seen: Seen) -> list[tuple[Cell, ...]]:
    cells: list[tuple[Cell, ...]] = []
    for s in seen.shapes:
        runs, ratio = seen.at_best(s.arm), _ratio(seen, s.arm)
        watched = sum(run.watched for run in runs)
        cells.append((
            s.arm.name, s.parameters, s.hidden, seen.best_rate(s.arm), len(runs),
            statistics.fmean(run.loss for run in runs) if runs else None,
            *((ratio.value, ratio.low, ratio.high) if ratio and s.arm != BASELINE else (None, None, None)), seen.sensitivity(s.arm),
            seen.diverged(s.arm), 1000 * sum(run.spikes for run in runs) / watched if watched else None, s.tokens_per_s, s.why or "done"))
    return cells


def _latency_cells(seen: Seen) -> list[tuple[Cell, ...]]:
    cells: list[tuple[Cell, ...]] = []
    names = {"baseline": BASELINE.name, "again": f"{BASELINE.name} again", "candidate": CANDIDATE.name}
    for target, times in ((PREFILL, seen.prefill), (DECODE, seen.decode)):
        if not times:
            cells.append((target.name, None, None, None, None, None, seen.why.get(target.name, "was not timed")))
            continue
        for arm, ms in times.items():
            ratio = measure.ratio(ms, times["baseline"])
            cells.append((target.name, names[arm], statistics.median(ms), ratio.value, ratio.low, ratio.high, "done"))
    return cells


def _norm_cells(seen: Seen) -> list[tuple[Cell, ...]]:
    cells: list[tuple[Cell, ...]] = []
    for norm in seen.norms:
        rate = measure.median([float(f"{norm.bytes / ms / 1e6:.7g}") for ms in norm.ms]) if norm.ms else None
        share = 100 * rate.value / seen.ceilings[1].estimate.value if rate else None
        cells.append((f"{norm.kernel}, {norm.work}", *((rate.value, rate.low, rate.high) if rate else (None, None, None)), share,
                      norm.error, norm.why or "right"))
    return cells


def _pace_cells(seen: Seen) -> list[tuple[Cell, ...]]:
    cells: list[tuple[Cell, ...]] = []
    peak = 1e12 * seen.ceilings[0].estimate.value
    for pace in seen.paces:
        many = pace.tokens_per_s
        rate = measure.mean(many) if len(many) > 1 else measure.exact(many[0]) if many else None
        mfu = 100 * rate.value * pace.flops_a_token / peak if rate and pace.flops_a_token and seen.device == "cuda" else None
        cells.append((pace.loop, pace.parameters, *((rate.value, rate.low, rate.high) if rate else (None, None, None)), mfu,
                      pace.why or "measured"))
    return cells


def sweep_json(seen: Seen) -> str:
    """Every run, one object each."""
    return json.dumps([{"feed_forward": r.arm.feed_forward, "norm": r.arm.norm, "learning_rate": r.rate, "seed": r.seed,
                        "held_out_nats": round(r.loss, 6), "diverged": r.diverged, "spikes": r.spikes, "watched": r.watched,
                        "steps": r.steps, "final": r.final}
                       for r in seen.runs], indent=1, allow_nan=False) + "\n"
