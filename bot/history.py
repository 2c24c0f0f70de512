"""Which earlier runs a run may be held against, and what comes of it: its change, its trend, its pairs; pure.

Like is compared with like: the same week, GPU model, number of GPUs and options; runs that ended well, in full, on a machine
that behaved; and those since a person last accepted a change of level (the accepted run is the first of its segment). What
comes of a run depends on older runs only, and on its own second run, so what was drawn for it stays as later runs arrive.

A second run of one command, made to decide a suspicion, carries its name and "-2": c12-2. The two are one question, so neither
is in the other's history; both are in that of later runs.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bot.acceptance import validity
from bot.regression import MOST_RUNS, Change, Paired, classify, expected, paired
from workloads.spec import Estimate, Metric, Observed, Request, Result, Unit, Workload, pooled

SECOND = "-2"
TREND = "trend.png"
TREND_RUNS = 40  # earlier runs that a picture shows
NEAR_RUNS = 200  # comparable runs among which those that measured a metric are looked for


@dataclass(frozen=True, slots=True)
class History:
    """What is known beside a run: the week's older runs, which runs of the week people accepted, and the second run of the same
    command, once there is one."""

    earlier: tuple[Result, ...] = ()
    accepted: tuple[str, ...] = ()
    second: Result | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A run in its trend. `role`: "past" is in the limit's history, "before" is of a segment before it, "first" and "this" are the
    run itself: "first" where it was run twice and this is the second."""

    run: str
    started: str
    estimate: Estimate
    role: Literal["before", "past", "first", "this"]


@dataclass(frozen=True, slots=True)
class Trend:
    """The headline metric over comparable runs, oldest first, this run last. `median`, `low` and `high` are what a run is held
    against, None where there are too few; `starts` are the points that begin an accepted segment."""

    text: str
    unit: Unit
    points: tuple[Point, ...]
    median: float | None
    low: float | None
    high: float | None
    starts: tuple[int, ...]


# ---------------------------------------------------------------------------------------------------- runs


def age(run: Result) -> tuple[str, int, str]:
    """What runs are ordered by: when they started, then the comment that asked for them, then first and second."""
    return run.started, *number(run.run)


def number(run: str) -> tuple[int, str]:
    """What the names of runs of one kind are ordered by: c9, c9-2, c10."""
    return int(first_name(run)[1:]), run


def first_name(run: str) -> str:
    """The name of a command's first run: "c12" of "c12" and "c12-2"."""
    return run.removesuffix(SECOND)


def second_name(run: str) -> str:
    return first_name(run) + SECOND


def counts(run: Result) -> bool:
    """Whether a run enters history: it ended well, in full, and nothing speaks against its machine."""
    return run.status == "ok" and not run.request.smoke and validity(run)[0] != "invalid"


def alike(a: Result, b: Result) -> bool:
    """Whether two runs measured the same thing on the same kind of machine."""
    return _kind(a) == _kind(b)


def _kind(run: Result) -> tuple[str, int, Request]:
    return run.machine.gpu, run.machine.gpus, _asked(run.request)


@functools.cache
def _asked(request: Request) -> Request:
    """A request without what changes nothing about the measurement; every other option, one not yet invented too, does."""
    return replace(request, vs=request.vs and 1, dry_run=False, runs=())


def comparable(result: Result, runs: Sequence[Result]) -> tuple[Result, ...]:
    """Of `runs` those that `result` may be held against, whatever was accepted since; oldest first, by `age`."""
    if not counts(result):
        return ()
    own, stem = age(result), first_name(result.run)
    return tuple(sorted((run for run in runs if alike(run, result) and age(run) < own and first_name(run.run) != stem and counts(run)),
                        key=age))


def near(result: Result, history: History) -> History:
    """The same history with no more of it than is needed to tell what came of `result`, for a ledger that has grown long."""
    own = [run for run in history.earlier if run.run == first_name(result.run)]
    return replace(history, earlier=(*comparable(result, history.earlier)[-NEAR_RUNS:], *own))


def past(result: Result, runs: Sequence[Result], accepted: Collection[str]) -> tuple[Result, ...]:
    """Of `runs` the history of `result`, oldest first: comparable, older, and since the last of them that was accepted."""
    found = comparable(result, runs)
    start = max((place for place, run in enumerate(found) if run.run in accepted), default=0)
    return found[start:]


# ---------------------------------------------------------------------------------------------------- numbers


def measured(result: Result, name: str) -> Metric | None:
    """A metric of a run, its processes pooled; None where it has none, or one that is no amount: ratios of what is 0 or below
    say nothing."""
    seen = [metric for observed in result.observed if (metric := observed.metric(name))]
    if not seen:
        return None
    metric = replace(seen[0], estimate=pooled([one.estimate for one in seen]))
    return metric if metric.estimate.value > 0 else None


def change(workload: Workload, result: Result, runs: Sequence[Result], accepted: Collection[str], confirm: Result | None = None,
           metric: str = "") -> Change | None:
    """`result` beside its history by its headline metric, or by another of that name. `confirm` is its second run; where
    `result` is itself a second run, its first is looked up in `runs`, and both are told the same. None where the run does not
    enter history, or did not measure that metric."""
    name = metric or workload.headline.name
    first, second = pair(name, result, runs, confirm)
    own, other = measured(first, name), measured(second, name) if second else None
    if own is None or not counts(first):
        return None
    values = _values(name, own, past(first, runs, accepted))
    return classify(values, own.estimate.value, confirm=other.estimate.value if other else None, better=own.better)


def pair(name: str, result: Result, runs: Sequence[Result], confirm: Result | None) -> tuple[Result, Result | None]:
    """The first and the second run of one command, where there are two that may decide anything together about the metric `name`;
    else `result` alone. Where `result` is the second itself, the first is one of `runs`."""
    first, second = result, confirm
    if result.run.endswith(SECOND):
        found = next((run for run in runs if run.run == first_name(result.run)), None)
        first, second = (found, result) if found else (result, None)
    if second and counts(first) and counts(second) and alike(first, second):
        own, other = measured(first, name), measured(second, name)
        if own and other and _same(own, other):
            return first, second
    return result, None


def _values(name: str, own: Metric, runs: Iterable[Result]) -> list[float]:
    """What `runs` measured of the same number as `own`."""
    return [seen.estimate.value for run in runs if (seen := measured(run, name)) and _same(seen, own)]


def _same(a: Metric, b: Metric) -> bool:
    return (a.unit, a.better, a.proxy) == (b.unit, b.better, b.proxy)


def against(workload: Workload, baseline: Sequence[Observed], observed: Sequence[Observed]) -> Paired | None:
    """The headline metric of interleaved processes of two commits, pair by pair; None where there are no pairs. A pair in which
    one of the two did not measure it is left out."""
    if not baseline:
        return None
    target = workload.headline
    values = [(a.estimate.value, b.estimate.value) for before, after in zip(baseline, observed, strict=True)
              if (a := before.metric(target.name)) and (b := after.metric(target.name)) and min(a.estimate.value, b.estimate.value) > 0]
    return paired([a for a, _ in values], [b for _, b in values], better="higher" if target.op == ">=" else "lower")


def trend(workload: Workload, result: Result, runs: Sequence[Result], accepted: Collection[str]) -> Trend | None:
    """How the headline metric came to where `result` has it; None with fewer than two comparable runs before it."""
    target = workload.headline
    first, second = pair(target.name, result, runs, None)
    own = measured(first, target.name)
    if own is None:
        return None
    before = [(run, seen) for run in comparable(first, runs) if (seen := measured(run, target.name)) and _same(seen, own)][-TREND_RUNS:]
    if len(before) < 2:
        return None
    held = {run.run for run in past(first, runs, accepted)}
    points = [Point(run.run, run.started, seen.estimate, "past" if run.run in held else "before") for run, seen in before]
    if second:
        again = measured(second, target.name)
        assert again is not None, "a pair measured the metric twice"
        points += [Point(first.run, first.started, own.estimate, "first"), Point(second.run, second.started, again.estimate, "this")]
    else:
        points.append(Point(first.run, first.started, own.estimate, "this"))
    low, median, high = expected(_values(target.name, own, past(first, runs, accepted))) or (None, None, None)
    return Trend(target.text, own.unit, tuple(points), median, low, high,
                 tuple(place for place, point in enumerate(points) if point.run in accepted and point.role in ("before", "past")))


def bands(workload: Workload, runs: Iterable[Result], accepted: Collection[str]) -> dict[str, tuple[float, float]]:
    """Between which values of the headline metric each run was expected, by run: what `trend` says of each, in one pass over the
    runs of a week, oldest first. A run that had too little history is left out."""
    found: dict[str, tuple[float, float]] = {}
    segments: dict[Hashable, dict[Hashable, list[tuple[str, float]]]] = {}  # by kind of run and kind of number: (first run, value)
    numbers: dict[str, Hashable] = {}
    for run in filter(counts, runs):
        kind, first, seen = _kind(run), first_name(run.run), measured(run, workload.headline.name)
        before = segments.get(kind, {})
        if run.run in accepted:
            segments[kind] = {}
        if seen is None:
            continue
        number = (seen.unit, seen.better, seen.proxy)
        numbers[run.run] = (kind, number)
        if first != run.run and numbers.get(first) == (kind, number):
            limits = found.get(first)
        else:
            told = expected([value for name, value in before.get(number, [])[-MOST_RUNS - 1:] if name != first])
            limits = told and (told[0], told[2])
        if limits:
            found[run.run] = limits
        segments.setdefault(kind, {}).setdefault(number, []).append((first, seen.estimate.value))
    return found
