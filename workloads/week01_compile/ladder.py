"""What the ladder showed, as metrics, tables and notes: every rung beside eager, the ceilings, and what compiling cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workloads import measure
from workloads.spec import Cell, Chart, Column, Estimate, Metric, Observed, Table
from workloads.week01_compile import BEST, JUDGED, LOSS, SAME, WORST
from workloads.week01_compile.arms import RUNGS, Regime, Rung, Work
from workloads.week01_compile.kernels import IDLE, Breakdown
from workloads.week01_compile.models import Study

ERROR_FACTOR = 1.5  # a rung may be this much further from fp64 than eager bf16 is (the rule of PyTorch's own dynamo benchmarks)
EAGER, AGAIN, GRAPH = "eager", "eager again", "CUDA graph"
ColdSeconds = Mapping[tuple[str, Regime, int, Rung], float]


@dataclass(slots=True)
class Row:
    """One network in one regime: raw milliseconds by arm, distance to fp64 of outputs and gradients, and what it cost."""

    study: Study
    regime: Regime
    batch: int
    work: Work
    times: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    warm_s: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float | None] = field(default_factory=dict)
    energy_j: dict[str, float | None] = field(default_factory=dict)
    late: tuple[Rung, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.study.title} {self.regime}"

    def speedup(self, arm: str) -> Estimate:
        return measure.ratio(self.times[EAGER], self.times[arm])

    def right(self, arm: str) -> bool:
        """Whether the arm is as near to fp64 as eager is, within ERROR_FACTOR."""
        return all(mine <= ERROR_FACTOR * eager for mine, eager in zip(self.errors[arm], self.errors[EAGER], strict=True))

    def checks(self) -> str:
        return f"{self.name}: " + ", ".join(f"{arm} {'right' if self.right(arm) else 'WRONG'}" for arm in self.errors)

    def best(self) -> Rung | None:
        """The fastest compile rung that is right; the manual CUDA graph compiles nothing and does not compete."""
        able = [rung for rung in RUNGS if rung in self.times and self.right(rung)]
        return min(able, key=self._median_ms, default=None)

    def _median_ms(self, arm: str) -> float:
        return statistics.median(self.times[arm])


@dataclass(frozen=True, slots=True)
class Sameness:
    """One network's proof of equal answers: argmax agreement on trained weights, eager's accuracy there, and the gap of
    final losses over eager's spread from seed to seed, None where a loss was no number or no seed differed."""

    study: Study
    agreement: Estimate
    accuracy: float
    loss_gap: Estimate | None


@dataclass(frozen=True, slots=True)
class Seen:
    """All of a run before it is put into words."""

    device: str
    rows: Sequence[Row]
    cold_s: ColdSeconds
    ceilings: tuple[Metric, Metric]
    baseline: Sequence[tuple[Cell, ...]]
    sweep: Sequence[tuple[Cell, ...]]
    sweep_rung: Rung
    sameness: Sequence[Sameness]
    kernels: Mapping[str, Breakdown]
    traced_steps: int


def observed(seen: Seen) -> Observed:
    judged = [row for row in seen.rows if row.regime == JUDGED]
    winners = [(row, row.best()) for row in judged]
    won = [(row.speedup(rung), f"{row.study.title}, batch {row.batch}, {rung}") for row, rung in winners if rung is not None]
    metrics: list[Metric] = []
    not_measured: list[tuple[str, str]] = []
    if len(won) == len(judged):
        best, worst = max(won, key=lambda w: w[0].low), min(won, key=lambda w: w[0].low)
        metrics += [BEST.measured(best[0], detail=best[1]), WORST.measured(worst[0], detail=worst[1])]
    else:
        without = ", ".join(row.study.title for row, rung in winners if rung is None)
        not_measured += [(target.name, f"no compiled rung of {without} passed the fp64 check") for target in (BEST, WORST)]
    least = min(seen.sameness, key=lambda s: s.agreement.low)
    metrics.append(SAME.measured(least.agreement, detail=f"{least.study.title}, {'pixels' if least.study.dense else 'images'}"))
    gaps = [(s.loss_gap, s.study.title) for s in seen.sameness if s.loss_gap]
    if len(gaps) == len(seen.sameness):
        widest, network = max(gaps, key=lambda gap: gap[0].high)
        metrics.append(LOSS.measured(widest, detail=f"{network}, {len(widest.samples)} seeds"))
    else:
        not_measured.append((LOSS.name, "a final loss is not a number, or no seed of eager differs"))
    floor, where = max((max(again.high - 1, 1 - again.low), row.study.title) for row in judged for again in (row.speedup(AGAIN),))
    metrics.append(Metric("noise", "noise floor, eager against itself", "%", "lower", measure.exact(100 * floor), f"{where}, worst"))
    metrics += seen.ceilings
    for row in seen.rows:
        for arm in row.times:
            if arm != EAGER:
                name = f"{row.study.key}_{row.regime}_{arm.lower().replace('-', '_').replace(' ', '_')}"
                metrics.append(Metric(name, f"{row.name}, {arm} over eager", "x", "higher", row.speedup(arm), f"batch {row.batch}"))
    return Observed(tuple(metrics), _tables(seen), _notes(seen), tuple(not_measured))


def _tables(seen: Seen) -> tuple[Table, ...]:
    network, x, low, high = Column("network"), Column("speedup", "x"), Column("low", "x"), Column("high", "x")
    batch, regime, rung, time_ms = Column("batch", "count"), Column("regime"), Column("rung"), Column("time", "ms")
    return (
        Table("speedup", f"Inference speedup over tuned eager by batch size, {seen.sweep_rung}", (network, batch, x, low, high),
              tuple(seen.sweep),
              Chart("lines", x="batch", y="speedup", by="network", low="low", high="high", marks=(1.2, 1.5), log_x=True)),
        Table("kernel_time", f"{'GPU' if seen.device == 'cuda' else 'CPU'} time of one training step by class of kernel",
              (Column("arm"), Column("class"), time_ms),
              tuple(_kernel_cells(seen)), Chart("stacked", x="arm", y="time", by="class")),
        Table("ladder", "Every rung in every regime", (
            network, regime, batch, rung, time_ms, x, low, high, Column("of matmul ceiling", "%"),
            Column("unfused bytes of copy ceiling", "%"), Column("peak memory", "MiB"), Column("energy", "J"),
            Column("output error to fp64"), Column("gradient error to fp64"), Column("check")), tuple(_ladder_cells(seen))),
        Table("compile_cost", "What compiling costs, and the steps that pay for it", (
            network, regime, rung, Column("cold", "s"), Column("warm", "s"), Column("break-even", "steps")), tuple(_cost_cells(seen))),
        Table("baseline", "What tuning the eager baseline is worth, one training step", (
            network, Column("eager"), batch, time_ms, Column("gain over fp32", "x"), low, high), tuple(seen.baseline)),
        Table("sameness", "Same answers: agreement on trained weights, and final loss after a short training", (
            network, Column("argmax agreement"), Column("its low end"), Column("eager accuracy"), Column("loss gap over spread"),
            Column("worst seed")), tuple(_sameness_cells(seen))))


def _ladder_cells(seen: Seen) -> list[tuple[Cell, ...]]:
    peak_tflops, peak_gbs = (m.estimate.value for m in seen.ceilings)
    cells: list[tuple[Cell, ...]] = []
    for row in seen.rows:
        for arm, times in row.times.items():
            ms, checked = statistics.median(times), EAGER if arm == AGAIN else arm
            gain = row.speedup(arm) if arm != EAGER else None
            cells.append((
                row.study.title, row.regime, row.batch, arm, ms,
                *((gain.value, gain.low, gain.high) if gain else (None, None, None)),
                100 * row.work.flops / ms / 1e9 / peak_tflops, 100 * row.work.unfused_bytes / ms / 1e6 / peak_gbs,
                row.peak_mib[arm], row.energy_j.get(arm), *map(_finite, row.errors[checked]), "right" if row.right(checked) else "wrong"))
    return cells


def _cost_cells(seen: Seen) -> list[tuple[Cell, ...]]:
    """Break-even: cold compile time over the time that one step or call saves; None where nothing is saved."""
    cells: list[tuple[Cell, ...]] = []
    for row in seen.rows:
        for rung in row.warm_s:
            saved_ms = statistics.median(row.times[EAGER]) - statistics.median(row.times[rung])
            cold_s = next((s for (key, regime, batch, name), s in seen.cold_s.items()
                           if (key, regime, batch, name) == (row.study.key, row.regime, row.batch, rung)), None)
            cells.append((row.study.title, row.regime, rung, cold_s, row.warm_s[rung],
                          math.ceil(cold_s * 1000 / saved_ms) if cold_s is not None and saved_ms > 0 else None))
    return cells


def _kernel_cells(seen: Seen) -> list[tuple[Cell, ...]]:
    cells: list[tuple[Cell, ...]] = []
    for label, part in seen.kernels.items():
        cells += [(label, kind, ms / seen.traced_steps) for kind, ms in sorted(part.milliseconds.items())]
        cells.append((label, IDLE, (part.wall_ms - part.busy_ms) / seen.traced_steps))
    return cells


def _sameness_cells(seen: Seen) -> list[tuple[Cell, ...]]:
    return [(s.study.title, s.agreement.value, s.agreement.low, s.accuracy,
             s.loss_gap.value if s.loss_gap else None, s.loss_gap.high if s.loss_gap else None) for s in seen.sameness]


def _finite(value: float) -> float | None:
    """A rung that overflowed is wrong, and its error a gap."""
    return value if math.isfinite(value) else None


def _notes(seen: Seen) -> tuple[str, ...]:
    late = [f"{row.name} {rung}: not compiled, so not timed" for row in seen.rows for rung in row.late]
    idle = [f"{label}: {'GPU idle' if seen.device == 'cuda' else 'between operators'} for {part.idle_share:.1%} of a profiled step"
            for label, part in seen.kernels.items()]
    traced = ["On a CPU a compiled rung is traced and run as it is, without generated code"] if seen.device == "cpu" else []
    return (
        f"Judged regime, declared before the run: {JUDGED}. Throughput and latency are published beside it",
        "Eager baseline: bf16 (autocast in training), cudnn.benchmark, fused AdamW, fused attention, in the faster memory layout; "
        "every rung has the same",
        *(f"{s.study.title}: {s.study.train_layout} in training, {s.study.infer_layout} in inference" for s in seen.sameness),
        "max-autotune here searches matrix products only: searching convolutions and pointwise kernels takes minutes a network",
        "Cold compile seconds: all networks and regimes side by side on this machine, caches empty. Warm: caches full",
        "Peak memory: of one call, and with it what the other rungs hold; not known of rungs that replay a CUDA graph",
        "Unfused bytes: what eager operators read and write. A fused rung above 100% of the copy ceiling moved fewer",
        *traced, *idle, *late)
