"""Latencies of requests, the goals that were fixed before the run, and when a share of requests is enough to claim one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Served:
    """One request, in seconds on one clock: when it was due, when its first and its last tokens came, and how many came.

    Latencies count from when it was due, not from when a busy client came to send it. `error` is "" where it was answered.
    """

    due: float
    sent: float
    first: float
    last: float
    tokens: int
    error: str = ""

    @property
    def ttft_ms(self) -> float:
        """Time to first token."""
        return _kept(1000 * (self.first - self.due))

    @property
    def tpot_ms(self) -> float:
        """Time per output token after the first: 0 where there is one token only."""
        return _kept(1000 * (self.last - self.first) / (self.tokens - 1)) if self.tokens > 1 else 0.0

    @property
    def e2e_ms(self) -> float:
        return _kept(1000 * (self.last - self.due))


@dataclass(frozen=True, slots=True)
class Goal:
    """What a request must keep to be good, in ms."""

    ttft_ms: float
    tpot_ms: float

    def kept_by(self, served: Served) -> bool:
        return not served.error and served.ttft_ms <= self.ttft_ms and served.tpot_ms <= self.tpot_ms


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of `trials` requests `misses` were no good; `claimed`: so few that `share` of all such requests being good is shown."""

    misses: int
    trials: int
    claimed: bool
    goodput: float  # good requests a second


def judge(goal: Goal, served: Sequence[Served], share: float = 0.95) -> Verdict:
    """Goodput (DistServe, Zhong et al. 2024) over the time from the first due request to the last answer, and MLPerf LoadGen's
    early-stopping rule for the claim. A request with an error is a miss."""
    good = sum(goal.kept_by(one) for one in served)
    misses = len(served) - good
    wall = max(max(one.last, one.due) for one in served) - min(one.due for one in served)
    return Verdict(misses, len(served), misses <= most_misses(len(served), share), good / max(wall, 1e-9))


def most_misses(trials: int, share: float, confidence: float = CONFIDENCE) -> int:
    """How many of `trials` may miss while a true share below `share` would show so few with a chance of at most 1 - confidence;
    -1 where even none is too many. The number of misses is binomial: 59 trials allow 0 for p95, 93 allow 1, 208 allow 5."""
    chance, misses = 0.0, 0
    while misses <= trials:
        chance += math.comb(trials, misses) * (1 - share) ** misses * share ** (trials - misses)
        if chance > 1 - confidence:
            return misses - 1
        misses += 1
    return trials


def _kept(ms: float) -> float:
    return float(f"{ms:.7g}")
