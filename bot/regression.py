"""Did a number get worse? History and a new value -> a verdict with the limit it was held against; pure, standard library.

The unit of replication is the run, never the iteration: what repeats inside one process shares that process's luck (its
memory layout, its clocks, its neighbours), so a test on iterations calls every other run a change. Here each run is one
number, the run's median, taken as ln: noise of a time or a rate is a share of it, and a rate then mirrors a time.

`classify` asks whether a new run lies where one more run of the same code would: within

    L = max(ln(1 + floor), t(0.99, n - 1) * s * sqrt(1 + pi / 2n))

of the median m of the last n runs (5 to 30). s is their spread; the root widens it for the new run's own scatter and for the
error of a median (variance pi/2n, normal theory); t pays for s being an estimate. One run beyond L is a suspicion: some
machines hiccup in one run of twenty. A second, independent run beyond L on the same side confirms it, any other clears it.

s is the biweight midvariance's root (Mosteller & Tukey 1977, Data Analysis and Regression; Lax 1985, JASA 80), started from
the median absolute deviation, and at least NOISE_FLOOR: as deaf to outliers as the MAD, which it starts from, but less scattered
itself, so that about the same power costs a third fewer false alarms. benchmarks/significance.py measures both.

`paired` needs no history: fresh processes of two versions in turn, and Student's interval of the mean ln-ratio of the pairs.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Literal

ChangeKind = Literal["insufficient", "unchanged", "suspected_regression", "confirmed_regression", "cleared",
                     "improvement_suspected", "improvement_confirmed"]
PairedKind = Literal["insufficient", "no difference", "regression", "improvement"]
Better = Literal["lower", "higher"]

FEWEST_RUNS, MOST_RUNS = 5, 30
FEWEST_PAIRS = 6
FLOOR = 0.02  # a change smaller than this is nobody's news
NOISE_FLOOR = 0.002  # runs that agree better than this do so by luck, or because a number was rounded
LEVEL = 0.99  # of the limit, one-sided: two runs have to pass it
PAIRED_LEVEL = 0.995  # of the paired interval, one-sided: a 99% interval
CUT = 9.0  # in MADs: what lies beyond has no say in the spread (Mosteller & Tukey's constant)
TOUCHING = 1e-9  # in ln units: a value exactly at the limit stays within it, however its digits were rounded
LARGEST_LN = 700.0  # exp(709.8) is the last one that a float can hold


@dataclass(frozen=True, slots=True)
class Change:
    """A run beside its history of `n` runs (the last 30 at most).

    `delta` is the run over their median, less 1: +0.05 is 5% above, whichever way is better. `limit` is what a change has to
    exceed to be seen, and so the least effect that could have been: +limit above the median, -`limit_below` below it, which is
    the same ratio turned over. Where there are too few runs, limit is infinite, for nothing could have been seen; delta is 0
    where there is none.
    """

    kind: ChangeKind
    limit: float
    delta: float
    n: int

    @property
    def limit_below(self) -> float:
        """The limit as a share below the median: 1 - 1 / (1 + limit)."""
        return 1.0 if math.isinf(self.limit) else self.limit / (1 + self.limit)


@dataclass(frozen=True, slots=True)
class Paired:
    """`n` interleaved pairs: `delta` is values over baseline, less 1, as a geometric mean; `low` and `high` its 99% interval
    (-1 to infinity where fewer than two pairs say nothing)."""

    kind: PairedKind
    delta: float
    low: float
    high: float
    n: int


def classify(history: Sequence[float], value: float, *, confirm: float | None = None, floor: float = FLOOR,
             better: Better = "lower") -> Change:
    """What `value` is beside `history`, the medians of earlier runs of the same thing, oldest first; `confirm` is the median
    of a second run of the same commit, made independently.

    "insufficient" below 5 runs. "unchanged" up to the limit, whatever `confirm` says. Beyond it "suspected_regression" or
    "improvement_suspected"; with `confirm` "confirmed_regression" or "improvement_confirmed" where both lie beyond the limit on
    the same side, in either order, else "cleared". Raises ValueError for a number that is not positive and finite, a floor that
    is not above 0, or a direction that is neither.
    """
    _check(floor, better)
    told = _logs(history, "history")
    x = _log(value, "value")
    second = None if confirm is None else _log(confirm, "confirm")
    recent = sorted(told[-MOST_RUNS:])
    n = len(recent)
    if n < FEWEST_RUNS:
        return Change("insufficient", math.inf, _relative(x - _median(recent)) if n else 0.0, n)
    middle, limit = _limit(recent, floor)
    first = _side(x - middle, limit)
    kind: ChangeKind = "unchanged"
    if first:
        worse = (first > 0) == (better == "lower")
        if second is None:
            kind = "suspected_regression" if worse else "improvement_suspected"
        elif _side(second - middle, limit) == first:
            kind = "confirmed_regression" if worse else "improvement_confirmed"
        else:
            kind = "cleared"
    return Change(kind, max(floor, _relative(limit)), _relative(x - middle), n)


def expected(history: Sequence[float], *, floor: float = FLOOR) -> tuple[float, float, float] | None:
    """(lowest, median, highest): between the outer two `classify` calls a run unchanged. None below 5 runs; raises as it does."""
    _check(floor, "lower")
    recent = sorted(_logs(history[-MOST_RUNS:], "history"))
    if len(recent) < FEWEST_RUNS:
        return None
    middle, limit = _limit(recent, floor)
    return math.exp(middle - limit), math.exp(middle), math.exp(middle + limit)


def paired(baseline: Sequence[float], values: Sequence[float], *, floor: float = FLOOR, better: Better = "lower") -> Paired:
    """What `values` are beside `baseline`: run medians of fresh processes that took turns (ABBA), pair by pair.

    "insufficient" below 6 pairs; "regression" or "improvement" where the 99% t interval of the mean ln-ratio excludes 0 and the
    mean is beyond `floor`; else "no difference". Raises ValueError as `classify` does, and where the two are not of one length.
    """
    _check(floor, better)
    before, after = _logs(baseline, "baseline"), _logs(values, "values")
    if len(before) != len(after):
        raise ValueError(f"pairs: {len(before)} of the baseline and {len(after)} of the new are not pairs")
    ratios = [b - a for a, b in zip(before, after, strict=True)]
    n = len(ratios)
    mean = math.fsum(ratios) / n if n else 0.0
    reach = math.inf
    if n > 1:
        variance = math.fsum((ratio - mean) ** 2 for ratio in ratios) / (n - 1)
        reach = t_quantile(PAIRED_LEVEL, n - 1) * math.sqrt(variance / n)
    kind: PairedKind = "no difference"
    if n < FEWEST_PAIRS:
        kind = "insufficient"
    elif abs(mean) > reach and (side := _side(mean, math.log1p(floor))):
        kind = "regression" if (side > 0) == (better == "lower") else "improvement"
    return Paired(kind, _relative(mean), _relative(mean - reach), _relative(mean + reach) if n > 1 else math.inf, n)


# ---------------------------------------------------------------------------------------------------- input


def _check(floor: float, better: str) -> None:
    if not (math.isfinite(floor) and floor > 0):
        raise ValueError(f"floor: a share above 0, such as 0.02, not {floor!r}")
    if better not in ("lower", "higher"):
        raise ValueError(f"better: lower or higher, not {better!r}")


def _log(value: float, name: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: a run's median is a positive, finite number, not {value!r}")
    return math.log(value)


def _logs(values: Sequence[float], name: str) -> list[float]:
    try:
        logs = list(map(math.log, values))
    except ValueError:
        logs = [math.nan]
    if not math.isfinite(sum(logs)):  # no ln of a float is beyond 745, so the sum is finite where each is
        return [_log(value, name) for value in values]
    return logs


# ---------------------------------------------------------------------------------------------------- the limit


def _limit(ordered: Sequence[float], floor: float) -> tuple[float, float]:
    """The median of ln values in order, and how far from it one more run of the same may lie."""
    n = len(ordered)
    middle = _median(ordered)
    return middle, max(math.log1p(floor), _factor(n) * max(NOISE_FLOOR, _spread(ordered, middle)))


@functools.cache
def _factor(n: int) -> float:
    return t_quantile(LEVEL, n - 1) * math.sqrt(1 + math.pi / (2 * n))


def _spread(ordered: Sequence[float], middle: float) -> float:
    """The root of the biweight midvariance: a standard deviation to which what lies far out adds little, then nothing. Where
    more than half of the runs agree to the digit, the MAD is 0 and says nothing of scale; NOISE_FLOOR takes its place."""
    deviations = [x - middle for x in ordered]
    squares: list[float] = list(map(mul, deviations, deviations))
    cut = (CUT * max(_median(sorted(map(abs, deviations))), NOISE_FLOOR / 1.4826)) ** 2
    rests = [max(0.0, 1 - square / cut) for square in squares]  # with u^2 = square / cut, 1 - u^2; beyond the cut nothing
    weights: list[float] = list(map(mul, rests, rests))
    above: float = sum(map(mul, squares, map(mul, weights, weights)))
    below = 5 * sum(weights) - 4 * sum(rests)  # of (1 - u^2) (1 - 5 u^2); above 0, for half give 0.92 or more, no other below -0.8
    return math.sqrt(len(ordered) * above) / below


def _side(distance: float, limit: float) -> int:
    if abs(distance) <= limit + TOUCHING:
        return 0
    return 1 if distance > 0 else -1


def _median(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _relative(log: float) -> float:
    """An ln-ratio as a share: ln(1.05) is 0.05."""
    return math.expm1(min(log, LARGEST_LN))


# ---------------------------------------------------------------------------------------------------- Student's t


@functools.cache
def t_quantile(p: float, df: int) -> float:
    """Student's t: the quantile `p` (0.5 to below 1) at `df` whole degrees of freedom, by halving the angle's range until it is
    a float's width. The distribution is in closed form: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4."""
    if not 0.5 <= p < 1 or df < 1:
        raise ValueError(f"t: p from 0.5 to below 1 and df of 1 or more, not {p!r} and {df!r}")
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, df) < 2 * p - 1 else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _within(angle: float, df: int) -> float:
    """The probability that |t| is at most sqrt(df) * tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    steps = ((k / (k + 1)) * cosine * cosine for k in range(1 + odd, df - 2 + odd, 2))
    terms = itertools.accumulate(steps, float.__mul__, initial=cosine if odd else 1.0)
    series = sine * math.fsum(terms)
    if odd:
        return 2 / math.pi * (angle + (series if df > 1 else 0.0))
    return series
