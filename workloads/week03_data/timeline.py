"""A training loop's steps as seen from the input's side: what the host waited, what the GPU idled, and what stood in the queue."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from workloads import measure


@dataclass(frozen=True, slots=True)
class Batch:
    """(N, 3, S, S) normalised pictures and (N,) labels on the device that trains."""

    images: Tensor
    labels: Tensor


class Loader(Protocol):
    """What a training loop takes its batches from. A batch may be overwritten once the next one is asked for and the stream that was
    current then has come past that point."""

    ahead: int  # batches that may be ready before anybody asked

    def next(self) -> Batch: ...

    def depth(self) -> int | None:
        """Batches that are ready now; None where nobody knows."""

    def decode_rates(self) -> list[float]:
        """Pictures a second of each batch that was decoded on the training machine's device since the last call."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One step, in ms: `wait` of the host for its batch; `idle` of the GPU from the last step's end to this one's begin, the kernels of
    decoding not counted as work; `busy` from begin to end. `depth` is the queue when the batch was asked for."""

    wait_ms: float
    idle_ms: float
    busy_ms: float
    depth: int | None


def drive(loader: Loader, step: Callable[[Batch], None], steps: int, device: measure.Device, *, until: float = math.inf,
          each: Callable[[int | None, float], None] | None = None) -> list[Step]:
    """Train for `steps` steps, or until time.monotonic() reaches `until`, at least one of those asked for. The host waits for the GPU
    at the end alone; `each` is told queue depth and wait (ms) of every step as it goes."""
    seen = []
    last = measure.stamp(device)
    for _ in range(steps):
        depth, asked = loader.depth(), measure.stamp("cpu")
        batch = loader.next()
        begin = measure.stamp(device)
        step(batch)
        end = measure.stamp(device)
        seen.append((asked, last, begin, end, depth))
        if each:
            each(depth, measure.host_ms(asked, begin))
        last = end
        if time.monotonic() >= until:
            break
    return [Step(measure.host_ms(asked, begin), measure.device_ms(before, begin), measure.device_ms(begin, end), depth)
            for asked, before, begin, end, depth in seen]


def wall_ms(steps: Sequence[Step]) -> float:
    return sum(step.idle_ms + step.busy_ms for step in steps)


def idle_percent(steps: Sequence[Step]) -> float:
    """The share of the wall time in which the training stream waited for its input."""
    return 100 * sum(step.idle_ms for step in steps) / wall_ms(steps)


def windows(steps: Sequence[Step], length: int) -> list[Sequence[Step]]:
    """The steps in runs of `length`; what is left over joins the last."""
    cuts = [*range(0, max(1, len(steps) - length + 1), length), len(steps)]
    return [steps[first:last] for first, last in itertools.pairwise(cuts)]
