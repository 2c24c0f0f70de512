"""Week 02's measurement: trials, ceilings, launch shapes, proof of dispatch, then the sweep, the two tasks, whole steps, more sweep.

What to expect is in the package's docstring. The sweep is done in two parts: the anchors come before the tasks, the other shapes
after them, until `BUDGET_S` is spent; what was left out is said. Correctness comes before timing, at every shape.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial

import torch
import triton

from workloads import machine, measure
from workloads.spec import Context, Observed
from workloads.week02_attention import ABLATION, shapes
from workloads.week02_attention.ablation import Dispatch, Evaluated, Story, TrainedPair, as_json, delta, observed
from workloads.week02_attention.backends import BACKENDS, TITLES, Backend, Toggle
from workloads.week02_attention.dispatch import launched, proved
from workloads.week02_attention.networks import Size, Task, classifier_task, decoder_task, scores, trained
from workloads.week02_attention.points import Point, draw
from workloads.week02_attention.steps import steps
from workloads.week02_attention.sweep import Able, Pace, able, see, tune
from workloads.week02_attention.trials import in_words, jobs, run_trials

BUDGET_S = 540  # no further part begins after this; a full run ends within ten minutes
TRIALS_S = 130
FUSED: Backend = "flash"  # what networks are trained with, against naive: the plan's toggle
SEEDS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: the full run on a GPU, or the smoke test on a CPU."""

    sweep: Pace
    tuning: Pace
    stepping: Pace
    decoder: Size
    classifier: Size
    long_decoder: Size
    vit_base: Size
    text_bytes: int
    first: int  # points of the sweep that come before the tasks


FULL = Sizes(
    sweep=Pace(blocks=8, block_ms=10.0, warmup_s=0.1), tuning=Pace(blocks=6, block_ms=5.0, warmup_s=0.05),
    stepping=Pace(blocks=8, block_ms=50.0, warmup_s=0.5),
    decoder=Size.of(shapes.DECODER, depth=6, steps=400, evaluated=256),
    classifier=Size.of(shapes.CLASSIFIER, depth=6, steps=400, evaluated=4096, side=96, patch=8),
    long_decoder=Size(width=1024, depth=8, heads=8, length=4096, batch=4, steps=1, evaluated=4),
    vit_base=Size(width=768, depth=12, heads=12, length=196, batch=128, steps=1, evaluated=128, side=224, patch=16),
    text_bytes=16 * 2**20, first=12)
SMOKE = Sizes(
    sweep=Pace(6, 0.2, 0.0), tuning=Pace(6, 0.2, 0.0), stepping=Pace(6, 0.5, 0.0),
    decoder=Size(width=32, depth=1, heads=2, length=32, batch=4, steps=8, evaluated=8),
    classifier=Size(width=32, depth=1, heads=2, length=16, batch=8, steps=8, evaluated=16, side=32, patch=8),
    long_decoder=Size(width=32, depth=1, heads=2, length=64, batch=2, steps=1, evaluated=2),
    vit_base=Size(width=32, depth=1, heads=2, length=16, batch=2, steps=1, evaluated=2, side=32, patch=8),
    text_bytes=2**18, first=4)


def run(ctx: Context) -> Observed:
    began = time.monotonic()
    sizes = SMOKE if ctx.smoke else FULL
    if ctx.batch is not None:  # of the tasks and of the steps; the sweep's batch follows from its tokens
        sizes = replace(sizes, **{name: replace(getattr(sizes, name), batch=ctx.batch)
                                  for name in ("decoder", "classifier", "long_decoder", "vit_base")})
    measure.lone_thread(ctx.device)

    wanted = jobs(ctx.smoke, ctx.device)
    ctx.progress(f"{len(wanted)} trials of backends that build code, side by side, at most {TRIALS_S} s")
    trials = run_trials(wanted, device=ctx.device, smoke=ctx.smoke, limit_s=TRIALS_S, progress=ctx.progress)
    found = able(ctx.device, trials)
    for backend, why in found.reasons.items():
        ctx.progress(f"{TITLES[backend]} takes no part: {why}")
    ceilings = machine.ceilings(ctx.device)
    ctx.progress("measured ceilings: " + ", ".join(f"{m.estimate.value:.4g} {m.unit}" for m in ceilings))
    plan = shapes.plan(smoke=ctx.smoke)
    story = Story(ctx.device, ceilings, found, plan.points, plan.anchors, plan.plot_width)
    story.tuned = tune(ctx, found, sizes.tuning)
    story.dispatch = _dispatch(ctx, found, plan.points)

    def late() -> bool:
        return time.monotonic() - began > BUDGET_S

    def sweep(points: tuple[Point, ...]) -> None:
        for point in points:
            if late():
                break
            seen = see(ctx, found, point, sizes.sweep, again=point.length in plan.anchors)
            story.seen.append(seen)
            measure.free(ctx.device)
            ctx.progress(seen.line())

    sweep(plan.points[:sizes.first])
    for task in (decoder_task(sizes.decoder, ctx.device, sizes.text_bytes), classifier_task(sizes.classifier, ctx.device)):
        if not late():
            _parity(ctx, found, task, story)
    long, vit = decoder_task(sizes.long_decoder, ctx.device, sizes.text_bytes), classifier_task(sizes.vit_base, ctx.device)
    for task, training in ((long, True), (vit, True), (long, False), (vit, False)):
        if not late():
            story.steps += steps(ctx, found, task, sizes.stepping, training=training)
            measure.free(ctx.device)
            ctx.progress(f"{task.name}, {'training' if training else 'inference'}: " + ", ".join(
                f"{s.backend} {s.step_gain.value:.3f} x" for s in story.steps[-8:] if s.network == task.name and s.step_gain))
    sweep(plan.points[sizes.first:])

    left = len(plan.points) - len(story.seen)
    if left:
        story.notes.append(f"Time ran out before {left} of {len(plan.points)} shapes of the sweep: {plan.points[-left]} and those after it")
    told = observed(story)
    (ctx.out / ABLATION).write_text(as_json(story, told), encoding="utf-8")
    return told


def _dispatch(ctx: Context, found: Able, points: tuple[Point, ...]) -> list[Dispatch]:
    """Profile one forward call of every backend, at the second forward shape; a backend whose kernel is not seen cannot win."""
    point = [where for where in points if not where.backward][1]
    inputs = draw(point, ctx.device, ctx.seed)
    rows = []
    for backend in BACKENDS:
        toggle = shapes.takes_part(backend, point, smoke=ctx.smoke) or found.toggle(backend, point)
        if isinstance(toggle, str):
            rows.append(Dispatch(backend, (), False, toggle))
            continue
        try:
            names = launched(partial(toggle, inputs.q, inputs.k, inputs.v, causal=point.causal), ctx.device)
        except (RuntimeError, triton.TritonError) as error:
            rows.append(Dispatch(backend, (), False, in_words(error)))
            continue
        rows.append(Dispatch(backend, names, proved(backend, names, ctx.device)))
        if not rows[-1].proved:
            found.unproved.add(backend)
        ctx.progress(f"{TITLES[backend]} ran {names[0].name[:90] if names else 'nothing'}: {'proved' if rows[-1].proved else 'NOT PROVED'}")
    return rows


def _parity(ctx: Context, found: Able, task: Task, story: Story) -> None:
    """Train from each seed naive and fused; evaluate the first naive network under every backend."""
    naive_values: list[float] = []
    fused_values: list[float] = []
    for seed in SEEDS:
        naive, loss = trained(task, Toggle("naive"), seed, ctx.device)
        off = scores(task, naive, Toggle("naive"))
        naive_values.append(statistics.fmean(off))
        if seed == SEEDS[0]:
            story.evaluated += _evaluated(ctx, found, task, naive, off)
        fused, fused_loss = trained(task, Toggle(FUSED), seed, ctx.device)
        fused_values.append(statistics.fmean(scores(task, fused, Toggle(FUSED))))
        ctx.progress(f"{task.name}, seed {seed}: losses {loss:.4f} naive, {fused_loss:.4f} fused; {task.metric} {naive_values[-1]:.4f} and "
                     f"{fused_values[-1]:.4f}")
    if min(naive_values) > 0 and all(map(math.isfinite, (*naive_values, *fused_values))):
        story.trained.append(TrainedPair(task.name, task.metric, FUSED, SEEDS, tuple(naive_values), tuple(fused_values)))


def _evaluated(ctx: Context, found: Able, task: Task, model: torch.nn.Module, off: list[float]) -> list[Evaluated]:
    size = task.size
    point = Point(size.batch, size.heads, size.length, size.width // size.heads, task.name == "decoder", False)
    rows = [Evaluated(task.name, task.metric, "naive", statistics.fmean(off))]
    for backend in BACKENDS[1:]:
        toggle = found.toggle(backend, point)
        if isinstance(toggle, str):
            rows.append(Evaluated(task.name, task.metric, backend, failed=toggle))
            continue
        try:
            on = scores(task, model, toggle)
        except (RuntimeError, triton.TritonError) as error:
            rows.append(Evaluated(task.name, task.metric, backend, failed=in_words(error)))
            continue
        change = delta(off, on)
        note = "" if change else "no delta: not a number, or of 0"
        rows.append(Evaluated(task.name, task.metric, backend, statistics.fmean(on), change, note))
    seen = ", ".join(f"{row.backend} {row.value:.5f}" for row in rows if row.value is not None)
    ctx.progress(f"{task.name}, {task.metric} of one network: {seen}")
    return rows
