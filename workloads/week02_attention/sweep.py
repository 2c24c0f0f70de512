"""Every backend at every point: checked against float64 first, then timed side by side; and the launch shapes of our own kernels.

A backend that cannot do a point is a cell with the reason, and so is one that runs out of memory. The naive path, when it has no
room, still gives its error (on the two heads that are checked) and the others their absolute rates.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import triton

from workloads import measure
from workloads.spec import Context, Estimate
from workloads.week02_attention import kernels, shapes
from workloads.week02_attention.backends import BACKENDS, COMPILED, FUSED_BF16, TITLES, Backend, Toggle, hindrance
from workloads.week02_attention.points import ERROR_FACTOR, Errors, Inputs, Point, Reference, draw, ratio_of_errors
from workloads.week02_attention.trials import Trial, in_words

OUT_OF_MEMORY = "out of memory"
AGAIN, KERNEL_ONLY = "again", "kernel only"
TileKey = tuple[Backend, int, bool, bool]  # head width, causal, lengths of whole tiles


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to time: blocks of `block_ms` a point, after `warmup_s` of warm-up."""

    blocks: int
    block_ms: float
    warmup_s: float


@dataclass(frozen=True, slots=True)
class Arm:
    """One backend at one point: raw milliseconds, or why there are none; `error_ratio` is its error over its yardstick's, `proved`
    says that a profile showed the kernel it claims to be."""

    times: tuple[float, ...] = ()
    errors: Errors | None = None
    error_ratio: float | None = None
    peak_mib: float | None = None
    failed: str = ""
    proved: bool = True

    @property
    def right(self) -> bool:
        return self.error_ratio is not None and self.error_ratio <= ERROR_FACTOR

    @property
    def ms(self) -> float:
        return statistics.median(self.times)


@dataclass(frozen=True, slots=True)
class Seen:
    """A point of the sweep with all its arms; `again` is the default backend a second time, `kernel_only` our fp8 kernel on operands
    that are already e4m3, both () where they were not asked for."""

    point: Point
    arms: Mapping[Backend, Arm]
    again: tuple[float, ...] = ()
    kernel_only: tuple[float, ...] = ()
    naive_errors: Errors | None = None

    def rate(self, times: Sequence[float]) -> Estimate:
        """TFLOP/s by the convention of points.py."""
        return measure.median([float(f"{self.point.tera_operations / (ms / 1000):.7g}") for ms in times])

    def gain(self, backend: Backend, over: Backend) -> Estimate | None:
        """How many times faster `backend` is than `over`; None where one of them was not timed."""
        mine, theirs = self.arms.get(backend, Arm()).times, self.arms.get(over, Arm()).times
        return measure.ratio(theirs, mine) if mine and theirs else None

    def line(self) -> str:
        """For the person who waits."""
        rates = ", ".join(f"{b} {self.rate(arm.times).value:.4g}" for b, arm in self.arms.items() if arm.times)
        wrong = "".join(f"; {b} WRONG by {arm.error_ratio:.3g}" for b, arm in self.arms.items() if arm.times and not arm.right)
        return f"{self.point}: {rates or 'nothing'} TFLOP/s{wrong}"

    def best(self) -> Backend | None:
        """The fastest fused bf16 backend that is right, and that is what it says."""
        able = [b for b in FUSED_BF16 if b in self.arms and self.arms[b].times and self.arms[b].right and self.arms[b].proved]
        return min(able, key=lambda b: self.arms[b].ms, default=None)


@dataclass(slots=True)
class Able:
    """What takes part: launch shapes by key, and for a backend that does not, the reason; `unproved` are those whose profile showed
    another kernel than they claim."""

    reasons: dict[Backend, str] = field(default_factory=dict)
    tiles: dict[TileKey, kernels.Tiles] = field(default_factory=dict)
    tried: dict[tuple[Backend, int, bool], Trial] = field(default_factory=dict)
    unproved: set[Backend] = field(default_factory=set)

    def toggle(self, backend: Backend, point: Point) -> Toggle | str:
        """How to call `backend` at `point`, or why not."""
        if backend in self.reasons:
            return self.reasons[backend]
        if backend in ("triton", "fp8"):
            tiles = self.tiles.get((backend, point.width, point.causal, _whole(point.length)))
            return Toggle(backend, tiles) if tiles else "no launch shape passed its trial"
        if backend in COMPILED:
            trial = self.tried.get((backend, point.width, point.causal), Trial(backend, point.width, point.causal, (), "not tried"))
            done = [step for step in trial.steps if (step.length, step.backward) == (point.length, point.backward)]
            if not done:
                return f"no trial of this shape{': ' if trial.broke else ''}{trial.broke}"
            if done[0].failed:
                return done[0].failed
        return Toggle(backend)


def able(device: str, trials: Sequence[Trial]) -> Able:
    """Who takes part, from what is installed and how the trials went; launch shapes still have to be chosen (`tune`)."""
    found = Able({b: why for b in BACKENDS if (why := hindrance(b, device))})
    found.tried = {(t.backend, t.width, t.causal): t for t in trials}
    for backend in COMPILED:
        mine = [t for t in trials if t.backend == backend]
        if backend not in found.reasons and mine and not any(step.failed == "" for t in mine for step in t.steps):
            steps = [step for t in mine for step in t.steps]
            found.reasons[backend] = steps[0].failed if steps else mine[0].broke
    return found


def tune(ctx: Context, found: Able, pace: Pace) -> list[tuple[TileKey, kernels.Tiles, float, bool]]:
    """Choose the launch shapes of our kernels by time, among those whose trial was right; every one timed, with whether it won."""
    rows: list[tuple[TileKey, kernels.Tiles, float, bool]] = []
    for (backend, width, causal), trial in found.tried.items():
        if backend not in ("triton", "fp8") or backend in found.reasons:
            continue
        for length in sorted({step.length for step in trial.steps}):
            usable = [s.tiles for s in trial.steps if s.length == length and not s.failed and s.tiles and s.error_ratio <= ERROR_FACTOR]
            if not usable:
                continue
            key = (backend, width, causal, _whole(length))
            inputs = draw(shapes.point(length, width, causal, False, smoke=ctx.smoke), ctx.device, seed=length)
            heads = kernels.quantise(inputs.q, inputs.k, inputs.v) if backend == "fp8" else None
            calls = {str(tiles): _own(inputs, heads, causal, tiles) for tiles in usable}
            times = measure.time_interleaved(calls, device=ctx.device, blocks=pace.blocks, block_ms=pace.block_ms, warmup_s=pace.warmup_s)
            won = min(usable, key=lambda tiles: statistics.median(times[str(tiles)]))
            found.tiles[key] = won
            rows += [(key, tiles, statistics.median(times[str(tiles)]), tiles == won) for tiles in usable]
            ctx.progress(f"{TITLES[backend]}, D {width}, {'causal' if causal else 'full'}, S {length}: {won} of {len(usable)}")
    return rows


def _own(inputs: Inputs, heads: kernels.Quantised | None, causal: bool, tiles: kernels.Tiles | None) -> Callable[[], object]:
    if heads:
        return partial(kernels.forward_fp8, heads, causal=causal, tiles=tiles)
    return partial(kernels.forward_bf16, inputs.q, inputs.k, inputs.v, causal=causal, tiles=tiles)


def see(ctx: Context, found: Able, point: Point, pace: Pace, *, again: bool) -> Seen:
    """Check and time every backend at `point`."""
    inputs = draw(point, ctx.device, ctx.seed + point.length)
    reference = Reference.of(inputs, point)
    measure.free(ctx.device)
    arms: dict[Backend, Arm] = {}
    calls: dict[str, Callable[[], object]] = {}
    for backend in BACKENDS:
        toggle = shapes.takes_part(backend, point, smoke=ctx.smoke) or found.toggle(backend, point)
        if isinstance(toggle, str):
            arms[backend] = Arm(failed=toggle)
            continue
        arms[backend] = _checked(ctx, backend, toggle, inputs, reference)
        measure.free(ctx.device)
        if not arms[backend].failed:
            calls[backend] = inputs.call(toggle, point)
    if again and "default" in calls:
        calls[AGAIN] = calls["default"]
    if "fp8" in calls and isinstance(toggle := found.toggle("fp8", point), Toggle):
        calls[KERNEL_ONLY] = _own(inputs, kernels.quantise(inputs.q, inputs.k, inputs.v), point.causal, toggle.tiles)
    times = _timed(ctx, point, calls, pace)
    arms = {b: replace(arm, times=times.get(b, ()), failed=OUT_OF_MEMORY if b in calls and b not in times else arm.failed,
                       proved=b not in found.unproved) for b, arm in arms.items()}
    return Seen(point, arms, times.get(AGAIN, ()), times.get(KERNEL_ONLY, ()), reference.naive)


def _checked(ctx: Context, backend: Backend, toggle: Toggle, inputs: Inputs, reference: Reference) -> Arm:
    """Errors and peak memory of one run; a run without room or without a kernel is told, and nothing else is forgiven."""
    try:
        ratio, errors = ratio_of_errors(backend, reference, inputs, toggle)
        peak = measure.peak_memory_mib(inputs.call(toggle, reference.point), ctx.device)
    except torch.OutOfMemoryError:
        return Arm(failed=OUT_OF_MEMORY)
    except (RuntimeError, triton.TritonError) as error:  # torch's "no available kernel", Dynamo's and Triton's compilers
        return Arm(failed=in_words(error))
    return Arm(errors=errors, error_ratio=ratio, peak_mib=peak)


def _timed(ctx: Context, point: Point, calls: Mapping[str, Callable[[], object]], pace: Pace) -> Mapping[str, tuple[float, ...]]:
    """All arms interleaved; without the unfused ones where memory gives out in the loop that it did not give out before."""
    def timed(arms: Mapping[str, Callable[[], object]]) -> Mapping[str, tuple[float, ...]]:
        return measure.time_interleaved(arms, device=ctx.device, blocks=pace.blocks, block_ms=pace.block_ms, warmup_s=pace.warmup_s,
                                        seed=ctx.seed).samples

    if not calls:
        return {}
    try:
        return timed(calls)
    except torch.OutOfMemoryError:
        ctx.progress(f"{point}: out of memory while timing; again without the unfused backends")
    measure.free(ctx.device)
    fused = {name: call for name, call in calls.items() if name not in ("naive", "math")}
    return timed(fused) if fused else {}


def _whole(length: int) -> bool:
    """Whether a length is of whole tiles, for any launch shape: the largest is 256."""
    return length % 256 == 0
