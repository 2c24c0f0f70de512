"""What a faster kernel is worth to a whole step: a network timed with each backend, its attention alone, and Amdahl's line between.

If attention takes the share p of a naive step and gets s times faster, the step gets 1 / (1 - p + p / s) times faster, and never
more than 1 / (1 - p) (Amdahl 1967). p is the time of the naive kernel alone, once a layer, over the naive step; alone, too, a kernel
reads inputs that lie in memory as they do in the network.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import triton
from torch import Tensor

from workloads import measure
from workloads.spec import Context, Estimate
from workloads.week02_attention.backends import Backend, Toggle
from workloads.week02_attention.networks import Task, switch
from workloads.week02_attention.points import Point, draw
from workloads.week02_attention.sweep import OUT_OF_MEMORY, Able, Pace
from workloads.week02_attention.trials import in_words

TRAINED_BY: tuple[Backend, ...] = ("naive", "flash", "cudnn", "default")
INFERRED_BY: tuple[Backend, ...] = ("naive", "flash", "cudnn", "default", "triton", "fp8")


@dataclass(frozen=True, slots=True)
class Step:
    """One network with one backend against naive: how much faster attention alone is, its share of the naive step, what Amdahl's law
    makes of the two, and how much faster the step was. `failed` says why there is nothing."""

    network: str
    phase: str
    backend: Backend
    point: Point
    step_ms: float = 0.0
    kernel_gain: float = 0.0
    share: float = 0.0
    step_gain: Estimate | None = None
    failed: str = ""

    @property
    def predicted(self) -> float:
        return amdahl(self.share, self.kernel_gain)

    @property
    def limit(self) -> float:
        return amdahl(self.share, float("inf"))


def amdahl(share: float, gain: float) -> float:
    """The gain of a whole whose `share` gets `gain` times faster."""
    return 1 / (1 - share + share / gain)


def steps(ctx: Context, found: Able, task: Task, pace: Pace, *, training: bool) -> list[Step]:
    """Time whole steps of `task`'s network, interleaved over its backends, and its attention alone in the same way."""
    size = task.size
    point = Point(size.batch, size.heads, size.length, size.width // size.heads, task.name == "decoder", training)
    phase = "training" if training else "inference"
    wanted = TRAINED_BY if training else INFERRED_BY
    toggles = {b: found.toggle(b, point) for b in wanted}
    torch.manual_seed(ctx.seed)
    with torch.device(ctx.device):
        model = task.build(size)
    inputs, labels = task.batch(ctx.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=ctx.device == "cuda")

    def train(toggle: Toggle) -> None:
        switch(model, toggle)
        optimizer.zero_grad(set_to_none=True)
        task.loss(model, inputs, labels).backward()
        optimizer.step()

    @torch.no_grad()
    def infer(toggle: Toggle) -> Tensor:
        switch(model, toggle)
        with torch.autocast(ctx.device, torch.bfloat16):
            return model(inputs)

    whole = {b: partial(train if training else infer, toggle) for b, toggle in toggles.items() if isinstance(toggle, Toggle)}
    failed = {b: toggle for b, toggle in toggles.items() if isinstance(toggle, str)}
    for backend in list(whole):
        try:
            whole[backend]()
        except (RuntimeError, triton.TritonError) as error:
            failed[backend] = OUT_OF_MEMORY if isinstance(error, torch.OutOfMemoryError) else in_words(error)
            del whole[backend]
            optimizer.zero_grad(set_to_none=True)
            measure.free(ctx.device)
    alone_inputs = draw(point, ctx.device, ctx.seed).laid_out()
    alone = {b: alone_inputs.call(toggle, point) for b, toggle in toggles.items() if b in whole and isinstance(toggle, Toggle)}
    times = _interleaved(ctx, whole, pace)
    kernel = _interleaved(ctx, alone, pace)
    measure.free(ctx.device)
    return [_step(task.name, phase, backend, point, size.depth, times, kernel, failed.get(backend, "")) for backend in wanted]


def _interleaved(ctx: Context, arms: Mapping[Backend, Callable[[], object]], pace: Pace) -> Mapping[str, tuple[float, ...]]:
    if not arms:
        return {}
    return measure.time_interleaved({str(b): call for b, call in arms.items()}, device=ctx.device, blocks=pace.blocks,
                                    block_ms=pace.block_ms, warmup_s=pace.warmup_s, seed=ctx.seed).samples


def _step(network: str, phase: str, backend: Backend, point: Point, depth: int, times: Mapping[str, tuple[float, ...]],
          kernel: Mapping[str, tuple[float, ...]], failed: str) -> Step:
    if failed:
        return Step(network, phase, backend, point, failed=failed)
    if "naive" not in times:
        return Step(network, phase, backend, point, statistics.median(times[backend]), failed="naive was not timed")
    share = depth * statistics.median(kernel["naive"]) / statistics.median(times["naive"])
    gain = statistics.median(kernel["naive"]) / statistics.median(kernel[backend])
    return Step(network, phase, backend, point, statistics.median(times[backend]), gain, min(share, 0.999),
                measure.ratio(times["naive"], times[backend]))
