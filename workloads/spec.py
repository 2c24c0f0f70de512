"""The contract between measuring and judging: frozen values, and the only reader and writer of result JSON (schema 1).

Everything here is standard library, so the bot can read a result without numpy or torch. A value that breaks a rule
raises `SpecError` where it is built, so a result that exists is a result that holds: finite numbers, known units, unique
names, values that follow from their raw samples, and texts that cannot act as Markdown.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import json
import math
import pkgutil
import re
import statistics
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from workloads.plan import PlannedWeek

SCHEMA = 1

Unit = Literal["", "x", "%", "s", "ms", "us", "img/s", "tok/s", "TFLOP/s", "GB/s", "MiB", "J", "W", "steps", "count"]
Kind = Literal["median", "mean", "geomean", "ratio", "share", "p50", "p95", "p99", "exact"]
Status = Literal["ok", "error", "crashed", "out of memory", "timeout", "cancelled", "disk full"]
Command = Literal["bench", "compare", "accept", "retry", "cancel", "status", "post", "kickoff", "help"]

# Texts of a result may reach Markdown, so they cannot hold what Markdown or GitHub act on: no | < > [ ] ` * @ #, no line
# end, no "//" or "www." (autolinks), no "GH-12" (issue reference).
TEXT = re.compile(r"[A-Za-z0-9 ._,;:()+/%=^-]{1,160}", re.ASCII)
ACTIVE_TEXT = re.compile(r"//|www\.|\bgh-\d", re.IGNORECASE)
NAME = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)
FILE = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}(\.[a-z0-9]{1,8}){1,2}", re.ASCII)
# "-2" is the second, independent run of the same command, made before anybody is told of a change.
RUN = re.compile(r"[cr][1-9][0-9]{0,18}(-2)?", re.ASCII)
WEEK = re.compile(r"week(0[1-9]|1[0-6])", re.ASCII)
COMMIT = re.compile(r"([0-9a-f]{40})?", re.ASCII)
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
LOG_TAIL_CHARS = 4000
# Fewer fresh-process pairs than this and chance alone parts them too often (bot.regression).
PAIRS = 6
MOST_GPUS = 8


class SpecError(ValueError):
    """A value breaks the contract; the text names the field and the rule."""


def check(holds: bool, rule: str) -> None:
    if not holds:
        raise SpecError(rule)


def check_text(text: str, where: str) -> None:
    if not _harmless(text):
        raise SpecError(f"{where}: text must be 1-160 of letters, digits, space and ._,;:()+/%=^-, and hold no link")


@functools.lru_cache(4096)  # run after run has the same texts
def _harmless(text: str) -> bool:
    return bool(TEXT.fullmatch(text)) and not ACTIVE_TEXT.search(text)


def plain_text(text: str) -> str:
    """`text` from outside (a processor's name, an exception) made to pass `check_text`; "unnamed" where nothing is left."""
    spaced = " ".join(re.sub(r"[^A-Za-z0-9 ._,;:()+/%=^-]", " ", text).split())
    for active, harmless in ((r"//+", "/"), (r"(?i)www\.", "www "), (r"(?i)\bgh-(?=\d)", "gh ")):
        spaced = re.sub(active, harmless, spaced)
    return spaced[:160].strip() or "unnamed"


def check_finite(values: Sequence[float], where: str) -> None:
    check(all(map(math.isfinite, values)), f"{where}: NaN and infinity are not measurements")


def check_unique(names: Sequence[str], where: str) -> None:
    if len(set(names)) < len(names):
        raise SpecError(f"{where}: {', '.join(name for name, count in Counter(names).items() if count > 1)} given twice")


# ---------------------------------------------------------------------------------------------------- numbers


def percentile(samples: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile by linear interpolation between order statistics (Hyndman & Fan type 7, numpy's default)."""
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its 95% interval [low, high] and the raw samples both come from.

    value is: median, mean, p50, p95, p99 of `samples`; geomean = their geometric mean, for factors; ratio = median(baseline) /
    median(samples), so a time ratio above 1 is a speed-up; share = samples[0] hits of samples[1] trials; exact = the one
    sample, counted and not sampled.
    Raises SpecError where value does not follow from the samples (relative 1e-6) or lies outside its interval.
    """

    kind: Kind
    value: float
    low: float
    high: float
    samples: tuple[float, ...]
    baseline: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check(len(self.samples) > 0, "an estimate needs raw samples")
        check_finite((self.value, self.low, self.high, *self.samples, *self.baseline), "estimate")
        check(self.low <= self.value <= self.high, "an estimate lies inside its interval")
        check((self.kind == "ratio") == bool(self.baseline), "a ratio, and only a ratio, has a baseline")
        if self.kind == "share":
            check(len(self.samples) == 2 and 0 <= self.samples[0] <= self.samples[1] and self.samples[1] > 0,
                  "the samples of a share are hits and trials")
        if self.kind == "exact":
            check(len(self.samples) == 1, "an exact value has one sample")
        if self.kind == "ratio":
            check(statistics.median(self.samples) > 0, "a ratio is of positive samples")
        if self.kind == "geomean":
            check(min(self.samples) > 0, "a geometric mean is of positive samples")
        derived = self.derived()
        if not math.isclose(self.value, derived, rel_tol=1e-6, abs_tol=1e-12):
            raise SpecError(f"the value {self.value:.6g} does not follow from its samples ({self.kind} is {derived:.6g})")

    def derived(self) -> float:
        match self.kind:
            case "median":
                return statistics.median(self.samples)
            case "mean":
                return statistics.fmean(self.samples)
            case "geomean":
                return math.exp(statistics.fmean(map(math.log, self.samples)))
            case "ratio":
                return statistics.median(self.baseline) / statistics.median(self.samples)
            case "share":
                return self.samples[0] / self.samples[1]
            case "p50" | "p95" | "p99":
                return percentile(self.samples, float(self.kind[1:]))
            case "exact":
                return self.samples[0]


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """The same number from several independent processes: the median process, and an interval that covers every one."""
    if len(estimates) == 1:
        return estimates[0]
    values = tuple(e.value for e in estimates)
    return Estimate("median", statistics.median(values), min(e.low for e in estimates), max(e.high for e in estimates), values)


# ---------------------------------------------------------------------------------------------------- the promise


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number under its field name. `detail` says where it was seen (model, batch size, rung of the ladder);
    `proxy` names what stood in for something absent, and then the number never scores a target."""

    name: str
    text: str
    unit: Unit
    better: Literal["higher", "lower"]
    estimate: Estimate
    detail: str = ""
    proxy: str = ""

    def __post_init__(self) -> None:
        check(bool(NAME.fullmatch(self.name)), "metric name: lower-case letters, digits and _, at most 48")
        check_text(self.text, f"metric {self.name}")
        if self.detail:
            check_text(self.detail, f"metric {self.name}, detail")
        if self.proxy:
            check_text(self.proxy, f"metric {self.name}, proxy")


@dataclass(frozen=True, slots=True)
class Target:
    """A bound the week promises to meet. Judged by the worse end of the measured interval; where `proof` names another
    target (a correctness metric), only if that one is met too."""

    name: str
    text: str
    op: Literal[">=", "<="]
    bound: float
    unit: Unit
    proof: str = ""

    def measured(self, estimate: Estimate, *, detail: str = "", proxy: str = "") -> Metric:
        """The metric for this target; name, text and unit come from here, so they are written once."""
        return Metric(self.name, self.text, self.unit, "higher" if self.op == ">=" else "lower", estimate, detail, proxy)


@dataclass(frozen=True, slots=True)
class Deliverable:
    """One thing the plan says will exist: shown by targets met (`by`), by files of a judged run (`files`), or both."""

    text: str
    by: tuple[Target, ...] = ()
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(bool(self.by or self.files), f"deliverable {self.text!r}: say what proves it")


@dataclass(frozen=True, slots=True)
class Workload:
    """A week's promise: the plan's week, what is measured for it and what proves each deliverable. `timeout_min` is for one
    process; with `most_gpus` above 1 the week's run(ctx) is a rank of torchrun."""

    plan: PlannedWeek
    name: str
    targets: tuple[Target, ...]
    deliverables: tuple[Deliverable, ...]
    headline: Target
    timeout_min: int = 15
    most_gpus: int = 1

    def __post_init__(self) -> None:
        check(1 <= self.most_gpus <= MOST_GPUS, f"{self.key}: 1 to {MOST_GPUS} GPUs")
        names = [t.name for t in self.targets]
        check_unique(names, f"{self.key} targets")
        check(self.headline in self.targets, f"{self.key}: the headline is one of the targets")
        check(all(t.proof in ("", *names) for t in self.targets), f"{self.key}: a proof names a target of this week")
        proofs = [self.target(t.proof) for t in self.targets]
        check(all(not proof.proof for proof in proofs if proof), f"{self.key}: a proof stands on its own")
        check(tuple(d.text for d in self.deliverables) == self.plan.deliverables, f"{self.key}: deliverables are the plan's, in its words")

    @property
    def key(self) -> str:
        """The week's name in commands, paths and results: "week07"."""
        return self.plan.key

    @property
    def folder(self) -> str:
        return f"{self.key}_{self.name}"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files a run may leave beside result.json; anything else in an artifact is refused."""
        return tuple(dict.fromkeys(name for d in self.deliverables for name in d.files))

    def target(self, name: str) -> Target | None:
        return next((t for t in self.targets if t.name == name), None)


@functools.cache
def discover() -> dict[str, Workload]:
    """Every week's promise by key ("week01"), in order: each folder workloads/weekNN_name that is a package."""
    import workloads

    folders = sorted(m.name for m in pkgutil.iter_modules(workloads.__path__) if re.fullmatch(r"week\d\d_[a-z0-9_]+", m.name))
    found = [importlib.import_module(f"workloads.{name}").WORKLOAD for name in folders]
    for name, workload in zip(folders, found, strict=True):
        check(name == workload.folder, f"workloads/{name} holds the promise of {workload.folder}")
    check_unique([w.key for w in found], "workloads")
    return {w.key: w for w in found}


# ---------------------------------------------------------------------------------------------------- what is observed

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    unit: Unit = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """How to draw a table; `x`, `y`, `by`, `low`, `high` are names of its columns.

    lines: y over a numeric x, one line for each value of `by`, a bar from `low` to `high` at each point;
    bars: y for each text x; stacked: y stacked over `by` for each text x; heatmap: y as colour and number in a cell for each x
    and `by`, both in the order of their first rows. `marks` are horizontal reference lines at y (a heatmap has none).
    """

    kind: Literal["lines", "bars", "stacked", "heatmap"]
    x: str
    y: str
    by: str = ""
    low: str = ""
    high: str = ""
    marks: tuple[float, ...] = ()
    log_x: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text, numbers and gaps (None); `chart` makes it a plot too, in <name>.png."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    chart: Chart | None = None

    def __post_init__(self) -> None:
        check(bool(NAME.fullmatch(self.name)), "table name: lower-case letters, digits and _, at most 48")
        check(self.name != "trend", "table trend: trend.png is the picture of a run's history")
        check_text(self.title, f"table {self.name}")
        names = [c.name for c in self.columns]
        check_unique(names, f"table {self.name}, columns")
        for name in names:
            check_text(name, f"table {self.name}, column")
        for row in self.rows:
            check(len(row) == len(names), f"table {self.name}: a row has {len(names)} cells")
            for cell in row:
                if isinstance(cell, str):
                    check_text(cell, f"table {self.name}, cell")
                elif cell is not None:
                    check_finite((cell,), f"table {self.name}")
        if self.chart:
            c = self.chart
            used = {c.x, c.y, *filter(None, (c.by, c.low, c.high))}
            check(used <= set(names), f"table {self.name}: a chart names columns of its table")
            check_finite(c.marks, f"table {self.name}, marks")

    def column(self, name: str) -> tuple[Cell, ...]:
        place = [c.name for c in self.columns].index(name)
        return tuple(row[place] for row in self.rows)


@dataclass(frozen=True, slots=True)
class Observed:
    """What one process of a week saw: never a judgement.

    `primary` tables are shown first; `not_measured` gives, by target name, why a target has no metric; `notes` are plain
    sentences for the report's details.
    """

    metrics: tuple[Metric, ...]
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    not_measured: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_unique([m.name for m in self.metrics], "metrics")
        check_unique([t.name for t in self.tables], "tables")
        for note in (*self.notes, *(why for _, why in self.not_measured)):
            check_text(note, "note")

    def metric(self, name: str) -> Metric | None:
        return next((m for m in self.metrics if m.name == name), None)


def check_kept(workload: Workload, observed: Observed) -> None:
    """Raise SpecError unless `observed` speaks to every target of `workload`, once, in its unit and direction."""
    excused = dict(observed.not_measured)
    for target in workload.targets:
        metric = observed.metric(target.name)
        check((metric is None) == (target.name in excused),
              f"{workload.key}: target {target.name} must be measured, or not measured with a reason, and not both")
        if metric is not None:
            check(metric.unit == target.unit,
                  f"{workload.key}: {target.name} is in {metric.unit or 'no unit'}, the target in {target.unit or 'no unit'}")
            check(metric == target.measured(metric.estimate, detail=metric.detail, proxy=metric.proxy),
                  f"{workload.key}: {target.name} was renamed")
    for name in excused:
        check(workload.target(name) is not None, f"{workload.key}: {name} is no target")


@dataclass(frozen=True, slots=True)
class Context:
    """What a week's run(ctx) is given. `batch` overrides the week's batch size; `smoke` asks for the same code, tiny, on a
    CPU in under 30 s; `progress` takes one line for the person who waits."""

    out: Path
    device: Literal["cuda", "cpu"]
    smoke: bool = False
    batch: int | None = None
    gpus: int = 1
    profile: bool = False
    seed: int = 0
    progress: Callable[[str], None] = print


# ---------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True, slots=True)
class Request:
    """What a command asks for: enums and integers only, so that it may travel as one line of JSON.

    `week` is a key, "all", or None where the issue says it; `vs` and `runs` are the numbers of run ids.
    """

    command: Command
    week: str | None = None
    smoke: bool = False
    batch: int | None = None
    gpus: int = 1
    repeat: int = 1
    profile: bool = False
    vs: int | None = None
    dry_run: bool = False
    runs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check(self.week is None or self.week == "all" or bool(WEEK.fullmatch(self.week)), "week: week01 to week16, or all")
        check(self.batch is None or 1 <= self.batch <= 9999, "batch: 1 to 9999")
        check(1 <= self.gpus <= MOST_GPUS, f"gpus: 1 to {MOST_GPUS}")
        check(1 <= self.repeat <= 20, "repeat: 1 to 20")
        check(all(0 < run < 10**19 for run in (*self.runs, *((self.vs,) if self.vs is not None else ()))), "a run is c<comment id>")

    @property
    def pairs(self) -> int:
        """How many pairs of fresh processes `vs` asks for, of the other run's commit and of this one; 0 without it."""
        return 0 if self.vs is None else max(self.repeat, PAIRS)

    @property
    def processes(self) -> int:
        """How many processes run, one after another."""
        return 2 * self.pairs or self.repeat


@dataclass(frozen=True, slots=True)
class Machine:
    """What ran where. `packages` are (name, version) of the libraries that matter; `gpu` is "" on a machine without one."""

    gpu: str
    gpus: int
    gpu_memory_mib: int
    driver: str
    cpu: str
    cores: int
    memory_mib: int
    system: str
    python: str
    packages: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for text in (self.gpu, self.driver, self.cpu, self.system, self.python, *(t for pair in self.packages for t in pair)):
            if text:
                check_text(text, "machine")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """NVML's view of a run, sampled every `period_s` seconds: clocks in MHz, temperature in Celsius, power in watts.

    `throttled` holds (reason, share of the samples under load that had it); `foreign` counts other processes seen on the GPU;
    `ecc_errors` counts the memory errors that ECC could not correct and that came while the run lasted, and `persistence` is
    the driver's persistence mode: None where the GPU does not tell.
    """

    period_s: float
    samples: int
    sm_clock_median: int
    sm_clock_lowest: int
    sm_clock_limit: int
    temperature_highest: int
    power_median: float
    power_highest: float
    memory_highest_mib: int
    throttled: tuple[tuple[str, float], ...]
    foreign: int
    ecc_errors: int | None = None
    persistence: bool | None = None

    def __post_init__(self) -> None:
        check_finite((self.period_s, self.power_median, self.power_highest, *(share for _, share in self.throttled)), "telemetry")
        for reason, _ in self.throttled:
            check_text(reason, "telemetry")
        check(self.sm_clock_lowest <= self.sm_clock_median, "telemetry: the lowest clock is at most the median one")
        check(self.ecc_errors is None or self.ecc_errors >= 0, "telemetry: errors are counted from 0")


# Thresholds of validity: a hardware slow-down at any time, or a thermal limit for more than 5% of the samples under load,
# changes what was measured. A GPU at its power cap does what it was built for, and both arms of a comparison share it: there
# the clock decides (nvbench discards a sample below 75% of the default clock).
HARD_REASONS = ("hardware slowdown", "hardware thermal slowdown", "hardware power brake")
POWER_CAP = "software power cap"
SOFT_SHARE = 0.05
HOTTEST_C = 87
LOWEST_CLOCK_SHARE = 0.75
# From this share on it is the power cap that holds the clock down: what the run itself draws, and draws again after a rest.
CAPPED_SHARE = 0.5
POWER_BRAKE = "hardware power brake"  # pulled from outside the GPU, as a power supply does: no rest of the GPU releases it


def faults(telemetry: Telemetry) -> tuple[str, ...]:
    """Why a run must not enter history, in plain words; empty where nothing speaks against it."""
    return tuple(words for words, _ in _faults(telemetry))


def passing(telemetry: Telemetry) -> bool:
    """Whether there are faults, and all of them may be gone once the GPU is cool and alone: heat, other processes, low clocks."""
    found = _faults(telemetry)
    return bool(found) and all(passes for _, passes in found)


def _faults(telemetry: Telemetry) -> list[tuple[str, bool]]:
    """Each fault in words, and whether a rest may cure it."""
    found = []
    for reason, share in telemetry.throttled:
        if reason != POWER_CAP and share > (0 if reason in HARD_REASONS else SOFT_SHARE):
            found.append((f"{reason} in {share:.0%} of samples", reason != POWER_BRAKE))
    if telemetry.temperature_highest > HOTTEST_C:
        found.append((f"GPU at {telemetry.temperature_highest} C", True))
    if telemetry.foreign:
        found.append((f"{telemetry.foreign} other process{'es' if telemetry.foreign > 1 else ''} on the GPU", True))
    if telemetry.sm_clock_limit and telemetry.sm_clock_median < LOWEST_CLOCK_SHARE * telemetry.sm_clock_limit:
        capped = dict(telemetry.throttled).get(POWER_CAP, 0.0) >= CAPPED_SHARE
        found.append((f"SM clock at {telemetry.sm_clock_median} of {telemetry.sm_clock_limit} MHz", not capped))
    if telemetry.ecc_errors:
        found.append((f"{telemetry.ecc_errors} uncorrected ECC error{'s' if telemetry.ecc_errors > 1 else ''}", False))
    return found


def cautions(telemetry: Telemetry) -> tuple[str, ...]:
    """What people should know and set right, though the numbers stand. With persistence mode off, the driver unloads whenever
    nothing holds the GPU, and forgets clocks that were locked; while a run lasts its telemetry holds the GPU, so the run is valid."""
    return ("persistence mode is off (nvidia-smi -pm 1 turns it on)",) if telemetry.persistence is False else ()


@dataclass(frozen=True, slots=True)
class Retry:
    """What the runner did about a first try that was invalid, whose faults are `first` in words: `then` is "ran again" where the
    result is of a second try, after `waited_s` seconds of cool-down, and else why there was none and the first try stands."""

    first: tuple[str, ...]
    waited_s: float
    then: Literal["ran again", "not quiet", "no time", "cancelled"]

    def __post_init__(self) -> None:
        check(bool(self.first), "retry: a first try is run again because of its faults")
        for fault in self.first:
            check_text(fault, "retry")
        check(math.isfinite(self.waited_s) and self.waited_s >= 0, "retry: seconds")


CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
PRICE = re.compile(r"(\d{1,6}(?:\.\d{1,4})?) ?([A-Z]{3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Price:
    """What one GPU costs for an hour; `currency` by its three letters (ISO 4217)."""

    gpu_hour: float
    currency: str

    def __post_init__(self) -> None:
        check(math.isfinite(self.gpu_hour) and self.gpu_hour > 0, "price: above 0 for a GPU-hour")
        check(bool(CURRENCY.fullmatch(self.currency)), "price: a currency of three capital letters, as USD")


def price(text: str) -> Price:
    """ "2.49 USD" as a Price. Raises SpecError for anything else."""
    found = PRICE.fullmatch(text.strip())
    check(found is not None, "a price for one GPU-hour is a number and a currency, as in 2.49 USD")
    assert found is not None
    return Price(float(found[1]), found[2])


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run has no result: one sentence for people, and the end of its log (untrusted text)."""

    message: str
    log_tail: str = ""

    def __post_init__(self) -> None:
        check(0 < len(self.message) <= 400, "failure: a message of 1 to 400 characters")
        check(len(self.log_tail) <= LOG_TAIL_CHARS, f"failure: a log tail of at most {LOG_TAIL_CHARS} characters")


@dataclass(frozen=True, slots=True)
class Result:
    """All that leaves the GPU: what was asked, what ran where, what was observed; one `Observed` for each process.

    `duration_s` is from the start to the end, with a first try that was invalid and the rest after it; `gpu_seconds` is the
    time for which the run had its GPUs to itself, times their number, and `price` what one of them costs, where that is known.
    `baseline` holds the processes of another commit, `baseline_commit`, that took turns with those of `observed` (--vs), pair by
    pair. A second, independent run of one command carries its name and "-2".
    """

    run: str
    request: Request
    commit: str
    started: str
    duration_s: float
    status: Status
    machine: Machine
    telemetry: Telemetry | None = None
    failure: Failure | None = None
    observed: tuple[Observed, ...] = ()
    files: tuple[str, ...] = ()
    gpu_seconds: float = 0.0
    price: Price | None = None
    retry: Retry | None = None
    baseline: tuple[Observed, ...] = ()
    baseline_commit: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        check(self.schema == SCHEMA, f"schema {self.schema} is not {SCHEMA}")
        check(bool(RUN.fullmatch(self.run)), "run: c<comment id>, or r<time> for a run started by hand")
        check(self.request.command == "bench" and self.request.week not in (None, "all"), "a result is of one week")
        check(bool(COMMIT.fullmatch(self.commit)), "commit: 40 hexadecimal digits, or nothing")
        check(_is_moment(self.started), "started: a moment of the calendar, as 2026-11-23T15:49:22Z")
        check(math.isfinite(self.duration_s) and self.duration_s >= 0, "duration_s: seconds")
        check(math.isfinite(self.gpu_seconds) and self.gpu_seconds >= 0, "gpu_seconds: seconds")
        check((self.status == "ok") == (self.failure is None), "a failure, and only a failure, says why")
        check(self.status != "ok" or len(self.observed) == (self.request.pairs or self.request.repeat),
              "one observation for each process asked for")
        check(len(self.baseline) in (0, len(self.observed)), "baseline: as many processes as were observed, or none")
        check(self.status != "ok" or bool(self.baseline) == bool(self.request.pairs), "a baseline where --vs asks for one, and only there")
        check(bool(COMMIT.fullmatch(self.baseline_commit)) and bool(self.baseline) <= bool(self.baseline_commit),
              "baseline_commit: the 40 hexadecimal digits of what took turns")
        check(all(FILE.fullmatch(name) for name in self.files), "files: plain lower-case names")
        check_unique(self.files, "files")

    @property
    def week(self) -> str:
        assert self.request.week is not None, "checked when it was built"
        return self.request.week

    def pooled(self) -> Observed | None:
        """The processes as one: each metric pooled, tables and notes of the first; None where nothing was observed."""
        if not self.observed:
            return None
        first, *others = self.observed
        if not others:
            return first
        both = [[o.metric(m.name) for o in others] for m in first.metrics]
        metrics = tuple(dataclasses.replace(m, estimate=pooled([m.estimate, *(o.estimate for o in more if o)]))
                        for m, more in zip(first.metrics, both, strict=True))
        return dataclasses.replace(first, metrics=metrics)


def _is_moment(text: str) -> bool:
    try:
        return bool(MOMENT.fullmatch(text) and datetime.fromisoformat(text))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Accepted:
    """A run whose numbers are the baseline from then on, and the comment that said so ("c7")."""

    run: str
    by: str
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        check(self.schema == SCHEMA, f"schema {self.schema} is not {SCHEMA}")
        check(bool(RUN.fullmatch(self.run) and RUN.fullmatch(self.by)), "a run and a comment: c and a number")


# ---------------------------------------------------------------------------------------------------- the doctor


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `bench doctor` looked at: green is as it should be, with amber a run works but something is amiss or cannot
    be seen, with red it does not. `fix` is the command or the settings page that mends it; green needs none."""

    part: Literal["machine", "repository"]
    level: Literal["green", "amber", "red"]
    what: str
    told: str
    fix: str = ""

    def __post_init__(self) -> None:
        check(bool(self.what and self.told), "a finding says what was looked at, and what was seen")
        check((self.level == "green") == (not self.fix), "a fix for amber and red, and for them alone")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    findings: tuple[Finding, ...]


# ---------------------------------------------------------------------------------------------------- JSON

T = TypeVar("T")


def dumps(value: Any) -> str:
    """JSON of one of this module's values: one line for a Request, indented and stable for a Result."""
    plain = dataclasses.asdict(value)
    if isinstance(value, Request):
        return json.dumps(plain, allow_nan=False, separators=(",", ":"))
    return _compact(json.dumps(plain, allow_nan=False, indent=1)) + "\n"


def _compact(text: str) -> str:
    """Lists of plain numbers and strings on one line, so that raw samples do not take a line each."""
    # A raw line end is never inside a JSON string, so "[" + line end is always the start of a list.
    return re.sub(r"\[\n\s*([^\[\]{}]*?)\n\s*\]", lambda m: "[" + re.sub(r",\n\s*", ", ", m.group(1)) + "]", text)


def loads(kind: type[T], text: str | bytes) -> T:
    """`text` as a `kind` (Result, Request, Observed...), strictly. Raises SpecError for anything else: broken JSON, NaN,
    1e999, a key given twice, an unknown or missing field, a wrong type, nesting without end."""
    try:
        plain = _JSON.decode(text if isinstance(text, str) else text.decode())
    except SpecError:
        raise
    except (ValueError, RecursionError) as error:
        raise SpecError(f"not JSON: {type(error).__name__}") from error
    try:
        return typing.cast(T, _reader(typing.cast(Any, kind))(plain))
    except _Misfit as error:
        raise SpecError(f"{kind.__name__}{error}") from None


def _refuse_constant(name: str) -> None:
    raise SpecError(f"{name} is not a measurement")


# An object stays the tuple of its pairs, in which a key given twice can still be seen; a list is a list.
_JSON = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=tuple)


class _Misfit(SpecError):
    """A value of another type than its place needs; the text begins with the way to it, which grows on the way out."""


_Reader = Callable[[Any], Any]


@functools.cache
def _reader(kind: Any) -> _Reader:
    """What reads a value of plain JSON as `kind`: made once a type, since asking a type what it is takes longer than reading."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _class_reader(typing.cast(type, kind))
    if origin is Literal:
        return _literal_reader(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union_reader(arguments)
    if arguments == (float, ...):
        return _read_numbers
    if origin is tuple:
        return _list_reader(arguments[0]) if arguments[-1] is Ellipsis else _tuple_reader(arguments)
    return {float: _read_float, int: _read_int}.get(kind) or _plain_reader(kind)


def _class_reader(kind: type) -> _Reader:
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    # Under the class's own strings, not JSON's equal ones: a call then finds its parameters at once.
    readers = {f.name: (f.name, _reader(hints[f.name])) for f in fields}
    required = [f.name for f in fields if f.default is dataclasses.MISSING]

    def read(plain: Any) -> Any:
        if type(plain) is not tuple:
            raise _Misfit(": an object is needed")
        values, key = {}, ""
        try:
            for key, value in plain:
                name, reader = readers[key]
                values[name] = reader(value)
        except KeyError:  # of `readers`: they themselves raise nothing but SpecError
            check_unique([key for key, _ in plain], "JSON")
            raise _Misfit(f": {len({key for key, _ in plain} - readers.keys())} unknown fields") from None
        except _Misfit as error:
            raise _Misfit(f".{key}{error}") from None
        if len(values) < len(plain):
            check_unique([key for key, _ in plain], "JSON")
        if len(values) < len(readers) and (missing := [name for name in required if name not in values]):
            raise _Misfit(f": {', '.join(missing)} missing")
        return kind(**values)

    return read


def _literal_reader(values: tuple[str, ...]) -> _Reader:
    def read(plain: Any) -> Any:
        if type(plain) is not str or plain not in values:
            raise _Misfit(f": one of {', '.join(map(repr, values))} is needed")
        return plain

    return read


def _union_reader(kinds: tuple[Any, ...]) -> _Reader:
    """Of JSON's types each stands for one of `kinds` at most, so a value says by its own which reader it needs."""
    readers = {tuple if dataclasses.is_dataclass(kind) else kind: _reader(kind) for kind in kinds}
    if float in readers:
        readers.setdefault(int, readers[float])

    def read(plain: Any) -> Any:
        reader = readers.get(type(plain))
        if reader is None:
            raise _Misfit(": a value of another type is needed")
        return reader(plain)

    return read


def _list_reader(kind: Any) -> _Reader:
    """What reads a list of any length."""
    reader = _reader(kind)

    def read(plain: Any) -> Any:
        return _read_items(itertools.repeat(reader), plain)

    return read


def _tuple_reader(kinds: tuple[Any, ...]) -> _Reader:
    """What reads a list of as many items as `kinds`."""
    readers = [_reader(kind) for kind in kinds]

    def read(plain: Any) -> Any:
        if type(plain) is list and len(plain) != len(readers):
            raise _Misfit(f": {len(readers)} items are needed")
        return _read_items(readers, plain)

    return read


def _read_items(readers: Iterable[_Reader], plain: Any) -> tuple[Any, ...]:
    if type(plain) is not list:
        raise _Misfit(": a list is needed")
    items: list[Any] = []
    try:
        for reader, item in zip(readers, plain):  # noqa: B905  of a list of any length there are as many readers as one likes
            items.append(reader(item))
    except _Misfit as error:
        raise _Misfit(f"[{len(items)}]{error}") from None
    return tuple(items)


def _read_numbers(plain: Any) -> Any:
    """Raw samples, most of every result: all at once; what is no number is named the long way."""
    if plain == []:
        return ()
    if type(plain) is list and set(map(type, plain)) <= {float, int} and min(plain) > -1e300 and max(plain) < 1e300:
        return tuple(map(float, plain))
    return _read_items(itertools.repeat(_read_float), plain)


def _read_float(plain: Any) -> Any:
    if type(plain) is not float and type(plain) is not int:
        raise _Misfit(": float is needed")
    if not -1e300 < plain < 1e300:
        raise _Misfit(": too large")
    return float(plain)


def _read_int(plain: Any) -> Any:
    if type(plain) is not int:
        raise _Misfit(": int is needed")
    if not -10**19 < plain < 10**19:
        raise _Misfit(": too large")
    return plain


def _plain_reader(kind: type) -> _Reader:
    def read(plain: Any) -> Any:
        if type(plain) is not kind:
            raise _Misfit(f": {kind.__name__} is needed")
        return plain

    return read
