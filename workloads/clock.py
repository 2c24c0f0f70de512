"""The clock of measurements for processes that do without torch, as a load client does; `workloads.measure` has all else."""

from __future__ import annotations

import time


def clock_s() -> float:
    """Seconds on the one clock that all processes of a machine share (Linux: CLOCK_MONOTONIC), for what starts in one process
    and ends in another, as a request does."""
    return time.perf_counter()
