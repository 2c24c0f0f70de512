"""Week 14's measurement: eight arms over a grid of learning rates and paired seeds, then latency, norm kernels and the loop's speed.

What to expect, and the margins, are in the package's docstring. Order: the text, the ceilings, training speed beside transformers'
Trainer, latency of the judged pair, the norm kernels, and last, with all the time that is left, the trainings: a quarter of it for
short ones, each arm over the whole grid and at two rates beside its best one, and the rest for long ones at that best rate, with
all seeds. Of each kind all have the same number of steps, and for the same seed the same tokens in the same order. The arms are
small, so their steps are recorded as CUDA graphs. What cannot run, or does not fit in memory, is a row that says why.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from workloads import corpus, lm, machine, measure
from workloads.lm import Config, Decoder, Session
from workloads.spec import Context, Observed, plain_text
from workloads.training import Batches, Course, Recipe, Trainer, attention_kernel, losses_of, steps_within
from workloads.week14_ffn_norm import DECODE, PREFILL, peer
from workloads.week14_ffn_norm.findings import BASELINE, CANDIDATE, Arm, NormTime, Pace, Run, Seen, Shape, observed, sweep_json
from workloads.week14_ffn_norm.kernels import FusedAddRMSNorm, FusedRMSNorm

ARMS = (BASELINE, Arm("gelu", "rmsnorm"), Arm("swiglu", "layernorm"), CANDIDATE, Arm("geglu", "layernorm"), Arm("geglu", "rmsnorm"),
        Arm("relu2", "layernorm"), Arm("relu2", "rmsnorm"))
PAIR = (BASELINE, CANDIDATE)
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0)  # to far beyond where arms learn; at the last some may diverge
BESIDE = (3**-0.5, 3**0.5)  # times the grid's best rate, half-way to its neighbours: two rates more for each arm
SWEEP_SHARE = 1 / 4  # of the time for trainings
WARMUP, LEAST_WARMUP = 0.1, 50  # share of the steps, and steps, where they are no more than a quarter
SPARE = 0.05  # of a budget, for a GPU that is slower when it is warm
# Published, and not measured here: modded-nanogpt's readme, June 2026: under 400M tokens in about 84 s on 8 H100, 124M parameters.
ANCHOR = Pace("modded-nanogpt record, each of 8 H100", 124_000_000, (round(400e6 / 84 / 8, -4),), why="published, at most this; an anchor")
ERROR_BOUND = 0.01  # of bf16 norms to float64


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: the full run on a GPU, or the smoke test on a CPU."""

    small: Config  # the arms are trained at this size
    large: Config  # latency and training speed are taken at this one
    larger: Config | None  # beside the published anchor
    batch: int  # rows of small.trained_length
    large_batch: int
    prefill_batch: int
    grid: tuple[float, ...]
    seeds: int
    pair_seeds: int
    end_s: float  # trainings have what is left until then
    trainings_s: float  # at most
    most_steps: int
    least_steps: int
    held_out: int  # rows
    most_bytes: int | None
    norm_shape: tuple[int, int]
    blocks: int
    block_ms: float
    warmup_s: float
    pace_steps: int
    peer_steps: tuple[int, int]
    peer_repeats: int


FULL_SIZES = Sizes(
    Config(width=384, layers=4, trained_length=512), Config(), Config(width=1024, layers=8, heads=8), batch=32, large_batch=32,
    prefill_batch=8, grid=GRID, seeds=3, pair_seeds=12, end_s=535.0, trainings_s=390.0, most_steps=6000, least_steps=100, held_out=256,
    most_bytes=12_000_000, norm_shape=(65_536, 1024), blocks=30, block_ms=20.0, warmup_s=1.0, pace_steps=30, peer_steps=(10, 40),
    peer_repeats=2)
SMOKE_SIZES = Sizes(
    Config(width=32, layers=1, heads=2, trained_length=32), Config(width=32, layers=1, heads=2, trained_length=64), None, batch=2,
    large_batch=2, prefill_batch=1, grid=(1e-2, 3.0), seeds=2, pair_seeds=3, end_s=600.0, trainings_s=4.0, most_steps=5, least_steps=5,
    held_out=4, most_bytes=25_000, norm_shape=(64, 64), blocks=6, block_ms=1.0, warmup_s=0.0, pace_steps=3, peer_steps=(1, 8),
    peer_repeats=1)


@dataclass(slots=True)
class Ready:
    """An arm whose code is compiled, and recorded on a GPU. `reader` has its weights to be evaluated and is not compiled: a forward
    without gradients would be compiled again. Seconds: of a step, and of what surrounds a training."""

    arm: Arm
    trainer: Trainer
    reader: Decoder
    step_s: float
    untrained: float = math.nan
    around_s: float = 0.0


def run(ctx: Context) -> Observed:
    sizes = SMOKE_SIZES if ctx.smoke else FULL_SIZES
    if ctx.batch is not None:
        sizes = replace(sizes, batch=ctx.batch, large_batch=ctx.batch)
    return Laboratory(ctx, sizes).observe()


class Laboratory:
    """One run: the text, the arms, and what is seen."""

    def __init__(self, ctx: Context, sizes: Sizes) -> None:
        self.ctx, self.sizes, self.began = ctx, sizes, time.monotonic()
        measure.lone_thread(ctx.device)
        torch.set_float32_matmul_precision("high")
        torch._dynamo.config.recompile_limit = 64  # one block's code serves all arms
        self.text, seconds = measure.seconds(partial(corpus.load, most_bytes=sizes.most_bytes))
        ctx.progress(f"{len(self.text.stream) / 1e6:.1f}M tokens to train on, in {seconds:.0f} s")
        held_out = self.text.long_documents(sizes.small.trained_length + 1, sizes.held_out)
        self.held_out = torch.from_numpy(held_out).to(ctx.device)
        self.why: dict[str, str] = {}
        self.notes: list[str] = []

    def observe(self) -> Observed:
        ctx, sizes = self.ctx, self.sizes
        ceilings = machine.ceilings(ctx.device)
        ctx.progress("measured ceilings: " + ", ".join(f"{m.estimate.value:.4g} {m.unit}" for m in ceilings))
        with attention_kernel(ctx.device, sizes.large, sizes.large_batch, ctx.progress) as kernel:
            paces = self._paces()
            models = {arm: Decoder(self._large(arm), ctx.seed).to(ctx.device, torch.bfloat16).eval() for arm in PAIR}
            sizes_of_pair = lm.parameters(models[BASELINE]), lm.parameters(models[CANDIDATE])
            prefill = self._excused(PREFILL.name, partial(self._prefill, models))
            decode = self._excused(DECODE.name, partial(self._decode, models))
            del models
            norms = self._norms()
        with attention_kernel(ctx.device, sizes.small, sizes.batch, ctx.progress) as small_kernel:
            shapes, runs, untrained = self._trainings()
        paces.append(self._beside_anchor())
        paces.append(ANCHOR)
        tokens = sizes.batch * sizes.small.trained_length
        brief, long = (max((r.steps for r in runs if r.final == final), default=0) for final in (False, True))
        self.notes += [
            f"Arms: width {sizes.small.width}, layers {sizes.small.layers}, {sizes.small.trained_length} tokens a row, {tokens:,} tokens a "
            f"step, AdamW, warm-up and cosine; the same tokens in the same order for the same seed",
            f"{brief} steps for each of {len(sizes.grid) + len(BESIDE)} learning rates with the first seed, {long} steps for each seed at "
            f"the best of them by held-out loss",
            "LR sensitivity is over the grid, where a training that diverged counts as untrained",
            "Margins, stated before the run: perplexity 1.002, latency 1.02, high ends of 95% intervals",
            f"Latency and training speed: width {sizes.large.width}, layers {sizes.large.layers}, {sizes.large.trained_length:,} tokens; "
            f"bf16 weights for latency; decode is one recorded step at batch 1",
            "Transformers Trainer: as it comes, eager, bf16, fused AdamW, sdpa; the same Llama, held to our loss before it was timed",
            f"Attention kernel: {kernel}; of the arms: {small_kernel}",
            f"Text: sha256 {self.text.manifest.sha256[:16]}, all of it in corpus.json"]
        seen = Seen(ctx.device, untrained, sizes.grid, shapes, runs, sizes_of_pair, prefill, decode, self.why, norms, paces, ceilings,
                    tuple(map(plain_text, self.notes)))
        (ctx.out / "corpus.json").write_text(self.text.manifest.json(), encoding="utf-8")
        (ctx.out / "sweep.json").write_text(sweep_json(seen), encoding="utf-8")
        return observed(seen)

    def _large(self, arm: Arm) -> Config:
        return replace(self.sizes.large, feed_forward=arm.feed_forward, norm=arm.norm)

    # ------------------------------------------------------------------------------------------------ training speed

    def _paces(self) -> list[Pace]:
        """Tokens a second of our loop, compiled block by block and whole, and of transformers' Trainer."""
        sizes = self.sizes
        return [self._pace("ours, blocks compiled", sizes.large, whole=False), self._pace("ours, whole graph", sizes.large, whole=True),
                self._peer()]

    def _beside_anchor(self) -> Pace:
        """Our loop at about the anchor's size, where there is time for it."""
        loop, config = "ours at 100M, blocks compiled", self.sizes.larger
        if config is None or time.monotonic() - self.began > self.sizes.end_s + 15:
            return Pace(loop, 0, why="no time left" if config else "only on a GPU")
        with attention_kernel(self.ctx.device, config, self.sizes.large_batch, self.ctx.progress):
            return self._pace(loop, config, whole=False)

    def _pace(self, loop: str, config: Config, *, whole: bool) -> Pace:
        flops, count = lm.flops_a_token(config, config.trained_length), 0

        def measured() -> tuple[float, ...]:
            nonlocal count
            model = Decoder(config, self.ctx.seed).to(self.ctx.device)
            count = lm.parameters(model)
            if self.ctx.device == "cuda" and not whole:
                model.compile_blocks()
            at = lm.places(config, config.trained_length, self.ctx.device)
            trainer = Trainer(model, at, compiled=self.ctx.device == "cuda", whole=whole)
            batches = self.text.windows(config.trained_length, self.sizes.large_batch, 0)
            trainer.train(batches, Recipe(2, 1e-3))  # compiles
            return tuple(float(f"{trainer.train(batches, Recipe(self.sizes.pace_steps, 1e-3)).tokens_per_s:.7g}") for _ in range(3))

        rates = self._excused(loop, measured)
        if rates:
            self.ctx.progress(f"{loop}: {count / 1e6:.1f}M parameters, {statistics.median(rates):,.0f} tokens/s")
        return Pace(loop, count, rates or (), flops, self.why.get(loop, ""))

    def _peer(self) -> Pace:
        loop, config = "transformers Trainer", self.sizes.large
        model = Decoder(config, self.ctx.seed).to(self.ctx.device)
        rows = torch.from_numpy(next(self.text.windows(config.trained_length - 1, 4 * self.sizes.large_batch, 0)))

        def measured() -> tuple[float, ...]:
            apart = peer.losses_apart(model, rows[:1].to(self.ctx.device))
            if not apart < 1e-3:
                raise RuntimeError(f"its loss is {apart:.2g} nats from ours, so it is not the same network")
            return peer.tokens_a_second(model, rows, self.sizes.large_batch, steps=self.sizes.peer_steps,
                                        repeats=self.sizes.peer_repeats)

        rates = self._excused(loop, measured)
        if rates:
            self.ctx.progress(f"{loop}: {statistics.median(rates):,.0f} tokens/s")
        return Pace(loop, lm.parameters(model), rates or (), lm.flops_a_token(config, config.trained_length), self.why.get(loop, ""))

    # ------------------------------------------------------------------------------------------------ latency

    def _prefill(self, models: dict[Arm, Decoder]) -> dict[str, tuple[float, ...]]:
        """Milliseconds from a batch of prompts to the logits after each, both arms compiled as one graph."""
        sizes, arms = self.sizes, {}
        tokens = self._random_tokens(sizes.prefill_batch, sizes.large.trained_length)
        at = lm.places(sizes.large, sizes.large.trained_length, self.ctx.device)
        for arm, name in ((BASELINE, "baseline"), (CANDIDATE, "candidate")):
            arms[name] = self._prefill_call(models[arm], tokens, at)
        return self._times("prefill", arms)

    def _prefill_call(self, model: Decoder, tokens: Tensor, at: lm.Places) -> Callable[[], object]:
        def prefill(tokens: Tensor) -> Tensor:
            return model.logits(model.hidden(tokens, at)[:, -1])

        fused = lm.compile_for(prefill, self.ctx.device)

        def call() -> Tensor:
            with torch.no_grad():
                return fused(tokens)

        out = call()
        with torch.no_grad():
            self._same(out, prefill(tokens), "compiled prefill")
        return call

    def _decode(self, models: dict[Arm, Decoder]) -> dict[str, tuple[float, ...]]:
        """Milliseconds of one step in the middle of a text, batch 1, both arms compiled and recorded as a graph."""
        arms, capacity = {}, self.sizes.large.trained_length
        tokens = self._random_tokens(1, capacity // 2)
        for arm, name in ((BASELINE, "baseline"), (CANDIDATE, "candidate")):
            session = Session(models[arm], 1, capacity, graph=self.ctx.device == "cuda", compiled=True)
            plain = Session(models[arm], 1, capacity)
            for each in (session, plain):
                each.prefill(tokens)
            self._same(session.step(tokens[:, 0]), plain.step(tokens[:, 0]), "compiled decode")
            arms[name] = self._step_call(session, tokens)
        return self._times("decode", arms)

    @staticmethod
    def _step_call(session: Session, tokens: Tensor) -> Callable[[], object]:
        token = tokens[:, 0]

        def call() -> Tensor:
            session.length = tokens.shape[1]  # the same place each time
            return session.step(token)

        return call

    def _times(self, what: str, arms: dict[str, Callable[[], object]]) -> dict[str, tuple[float, ...]]:
        sizes = self.sizes
        times = measure.time_interleaved(
            {**arms, "again": arms["baseline"]}, device=self.ctx.device, blocks=sizes.blocks, block_ms=sizes.block_ms,
            warmup_s=sizes.warmup_s, seed=self.ctx.seed, progress=lambda line: self.ctx.progress(f"{what}, {line}"))
        return {name: times[name] for name in ("baseline", "again", "candidate")}

    def _random_tokens(self, batch: int, length: int) -> Tensor:
        return torch.from_numpy(next(self.text.windows(length - 1, batch, 5))).to(self.ctx.device)

    def _same(self, seen: Tensor, plain: Tensor, what: str) -> None:
        """Speed counts only where the answer is that of the eager network, within bf16."""
        apart = float(((seen.float() - plain.float()).norm() / plain.float().norm()).detach())
        if not apart < 0.05:
            raise RuntimeError(f"{what} is {apart:.2g} from eager")

    # ------------------------------------------------------------------------------------------------ norms

    def _norms(self) -> list[NormTime]:
        """Kernels of a norm alone and of a residual addition with its norm: checked against float64, then timed together."""
        (rows, width), device = self.sizes.norm_shape, self.ctx.device
        kind = torch.bfloat16 if device == "cuda" else torch.float32
        random = torch.Generator(device).manual_seed(self.ctx.seed + 1)
        x, residual = (torch.randn(rows, width, device=device, dtype=kind, generator=random) for _ in range(2))
        plain, layer = lm.RMSNorm(width).to(device), lm.LayerNorm(width).to(device)
        fused, fused_add = FusedRMSNorm(width).to(device), FusedAddRMSNorm(width).to(device)
        with torch.no_grad():
            gain = torch.randn(width, device=device, generator=random)
            for norm in (plain, layer, fused, fused_add):
                norm.weight.copy_(gain)

        def added(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
            total = x + residual
            return plain(total), total

        calls: dict[tuple[str, str], Callable[[], object]] = {
            ("compiled LayerNorm", "norm"): partial(lm.compile_for(layer, device), x),
            ("compiled RMSNorm", "norm"): partial(lm.compile_for(plain, device), x),
            ("eager rms_norm", "norm"): partial(F.rms_norm, x, (width,), gain.to(kind), lm.EPSILON),
            ("Triton", "norm"): partial(fused, x),
            ("compiled RMSNorm", "with add"): partial(lm.compile_for(added, device), x, residual),
            ("Triton", "with add"): partial(fused_add, x, residual), **self._liger(x, residual, gain)}
        total = {"norm": x.double(), "with add": (x + residual).double()}
        found: dict[tuple[str, str], NormTime] = {}
        arms: dict[str, Callable[[], object]] = {}
        for (kernel, work), call in calls.items():
            moved = x.numel() * x.element_size() * (2 if work == "norm" else 4)
            key, name = (kernel, work), f"{kernel}, {work}"
            if device == "cpu" and kernel in ("Triton", "Liger"):
                found[key] = NormTime(kernel, work, moved, why="needs a GPU")
                continue
            expected = self._normed(total[work][:256], gain, centred="LayerNorm" in kernel)

            def inferred(call: Callable[[], object] = call) -> object:
                with torch.no_grad():
                    return call()

            out = self._excused(name, inferred)
            first = out[0] if isinstance(out, tuple) else out
            if not isinstance(first, Tensor):
                found[key] = NormTime(kernel, work, moved, why=self.why[name])
                continue
            error = float((first[:256].double() - expected).norm() / expected.norm())
            found[key] = NormTime(kernel, work, moved, error=error, why="" if error < ERROR_BOUND else "wrong")
            if error < ERROR_BOUND:
                arms[name] = inferred
        if ("Liger", "norm") not in found:
            found["Liger", "norm"] = NormTime("Liger", "norm", 0.0, why="not installed: pip install liger-kernel")
        times = measure.time_interleaved(
            arms, device=device, blocks=self.sizes.blocks, block_ms=self.sizes.block_ms / 2, warmup_s=self.sizes.warmup_s,
            seed=self.ctx.seed, progress=lambda line: self.ctx.progress(f"norms, {line}"))
        return [replace(norm, ms=times[name]) if (name := f"{norm.kernel}, {norm.work}") in arms else norm for norm in found.values()]

    def _liger(self, x: Tensor, residual: Tensor, gain: Tensor) -> dict[tuple[str, str], Callable[[], object]]:
        if importlib.util.find_spec("liger_kernel") is None:
            return {}
        from liger_kernel.transformers.fused_add_rms_norm import LigerFusedAddRMSNorm  # an extra, and Triton with it
        from liger_kernel.transformers.rms_norm import LigerRMSNorm

        one, both = (kind(x.shape[1], eps=lm.EPSILON).to(x.device) for kind in (LigerRMSNorm, LigerFusedAddRMSNorm))
        with torch.no_grad():
            for norm in (one, both):
                norm.weight.copy_(gain)
        return {("Liger", "norm"): partial(one, x), ("Liger", "with add"): partial(both, x, residual)}

    @staticmethod
    def _normed(x: Tensor, gain: Tensor, *, centred: bool) -> Tensor:
        """The norm in float64."""
        if centred:
            x = x - x.mean(1, keepdim=True)
        return x / (x.square().mean(1, keepdim=True) + lm.EPSILON).sqrt() * gain.double()

    # ------------------------------------------------------------------------------------------------ the arms

    def _trainings(self) -> tuple[list[Shape], list[Run], float]:
        """The arms, all their runs, and the loss of an untrained network."""
        shapes, able = [], []
        for arm in ARMS:
            config = replace(self.sizes.small, feed_forward=arm.feed_forward, norm=arm.norm)
            shape, ready = self._ready(arm, config)
            shapes.append(shape)
            able += [ready] if ready else []
        left = min(self.sizes.trainings_s, self._left())
        kept = self._left() - left
        self.ctx.progress(f"{left:.0f} s for all trainings")
        sweep = self._sweep(able, SWEEP_SHARE * left)
        finals = self._finals(able, sweep, self._left() - kept)
        return shapes, sweep + finals, able[0].untrained if able else math.log(self.sizes.small.vocabulary)

    def _left(self) -> float:
        return max(0.0, self.sizes.end_s - (time.monotonic() - self.began))

    def _sweep(self, able: list[Ready], budget_s: float) -> list[Run]:
        """Every arm over the grid, and at two rates beside the best of it, with the first seed."""
        grid, found = self.sizes.grid, []
        steps = self._steps(budget_s, [(ready, len(grid) + len(BESIDE)) for ready in able])
        for ready in able:
            runs = [self._train(ready, rate, 0, steps) for rate in grid]
            best = min(runs, key=lambda run: (run.diverged, run.loss)).rate
            runs += [self._train(ready, float(f"{best * factor:.2g}"), 0, steps) for factor in BESIDE]
            self.ctx.progress(f"{ready.arm.name}: " + ", ".join(
                f"diverged at {run.rate:g}" if run.diverged else f"{run.loss:.3f} at {run.rate:g}" for run in runs))
            found += runs
        return found

    def _finals(self, able: list[Ready], sweep: list[Run], budget_s: float) -> list[Run]:
        """Every arm at its best rate of the sweep, seed by seed: the judged pair has more seeds than the others."""
        best: dict[Arm, Run] = {}
        for run in sorted((run for run in sweep if not run.diverged), key=lambda run: run.loss):
            best.setdefault(run.arm, run)
        seeds = {ready.arm: self.sizes.pair_seeds if ready.arm in PAIR else self.sizes.seeds for ready in able if ready.arm in best}
        able = [ready for ready in able if ready.arm in best]
        steps = self._steps(budget_s, [(ready, seeds[ready.arm]) for ready in able])
        found = []
        for seed in range(max(seeds.values(), default=0)):
            runs = [self._train(ready, best[ready.arm].rate, seed, steps, final=True) for ready in able if seed < seeds[ready.arm]]
            self.ctx.progress(f"seed {seed}: " + ", ".join(f"{run.arm.name} {run.loss:.4f}" for run in runs))
            found += runs
        return found

    def _steps(self, budget_s: float, trainings: list[tuple[Ready, int]]) -> int:
        """How many steps each of so many trainings of each arm can have."""
        around_s = sum(ready.around_s * count for ready, count in trainings)
        step_s = [ready.step_s * count for ready, count in trainings]
        fit = steps_within((1 - SPARE) * budget_s - around_s, step_s, self.sizes.most_steps) if step_s else 0
        steps = max(self.sizes.least_steps, fit)
        self.ctx.progress(f"{steps} steps for each of {sum(count for _, count in trainings)} trainings, {budget_s:.0f} s for all of them")
        return steps

    def _ready(self, arm: Arm, config: Config) -> tuple[Shape, Ready | None]:
        """An arm, and a trainer for it where it can be trained; step by step, and said so, where its step cannot be recorded."""
        model = Decoder(config, self.ctx.seed).to(self.ctx.device)
        shape = Shape(arm, lm.parameters(model), config.hidden_width)
        warmed, recorded = None, f"{arm.name}, recorded"
        if self.ctx.device == "cuda":
            warmed = self._excused(recorded, partial(self._warmed, model, config, graph=True))
        if warmed is None:
            warmed = self._excused(arm.name, partial(self._warmed, model, config, graph=False))
            if warmed is None:
                return replace(shape, why=self.why[arm.name]), None
            if recorded in self.why:
                shape = replace(shape, why=f"done, but not from a recording: {self.why[recorded]}")
        trainer, course = warmed
        ready = Ready(arm, trainer, Decoder(config).to(self.ctx.device).eval(), course.seconds / course.timed)
        ready.untrained, ready.around_s = measure.seconds(partial(self._restarted, ready, 0))
        self.ctx.progress(f"{arm.name}: {shape.parameters / 1e6:.2f}M parameters, {course.tokens_per_s:,.0f} tokens/s, "
                          f"{ready.around_s:.2f} s around a training")
        return replace(shape, tokens_per_s=course.tokens_per_s), ready

    def _warmed(self, model: Decoder, config: Config, *, graph: bool) -> tuple[Trainer, Course]:
        """A trainer whose code is compiled, and how fast it is."""
        on_gpu = self.ctx.device == "cuda"
        model.zero_grad(set_to_none=True)  # a recording that failed may have left some
        if on_gpu:
            model.compile_blocks()
        trainer = Trainer(model, lm.places(config, config.trained_length, self.ctx.device), compiled=on_gpu, graph=graph)
        return trainer, trainer.train(self._batches(0), self._recipe(min(42, 2 + self.sizes.most_steps), 1e-3))

    def _batches(self, seed: int) -> Batches:
        return self.text.windows(self.sizes.small.trained_length, self.sizes.batch, seed)

    @staticmethod
    def _recipe(steps: int, rate: float) -> Recipe:
        """Down to a rate of 0 at the end: what the last steps scatter would else be part of the difference between seeds."""
        return Recipe(steps, rate, warmup=max(WARMUP, min(0.25, LEAST_WARMUP / steps)), last=0.0)

    def _train(self, ready: Ready, rate: float, seed: int, steps: int, *, final: bool = False) -> Run:
        recipe = self._recipe(steps, rate)
        ready.trainer.restart(seed)
        course = ready.trainer.train(self._batches(seed), recipe)
        ready.step_s = course.seconds / course.timed
        loss = self._held_out(ready)
        diverged = course.diverged or not math.isfinite(loss)
        spikes, watched = course.spikes(after=recipe.rising)
        return Run(ready.arm, rate, seed, ready.untrained if diverged else loss, diverged, spikes, watched, len(course.losses), final)

    def _restarted(self, ready: Ready, seed: int) -> float:
        """The held-out loss of a network as new."""
        ready.trainer.restart(seed)
        return self._held_out(ready)

    def _held_out(self, ready: Ready) -> float:
        """Mean nats a token of the held-out rows."""
        ready.reader.load_state_dict(ready.trainer.model.state_dict())
        return float(losses_of(ready.reader, self.held_out, ready.trainer.at, at_once=min(64, len(self.held_out))).double().mean())

    # ------------------------------------------------------------------------------------------------ what cannot run

    def _excused(self, name: str, work: Callable[[], T]) -> T | None:
        """What `work` returns; None where it does not fit in memory or does not compile, and why under `name`."""
        try:
            return work()
        except (RuntimeError, triton.TritonError) as error:  # also torch's OutOfMemoryError, and what its compiler raises
            self.ctx.progress(f"{name} could not run: {type(error).__name__}: {error}")
            oom = isinstance(error, torch.OutOfMemoryError)
            self.why[name] = "out of memory" if oom else plain_text(f"{type(error).__name__}: {error}")[:80]
            return None
        finally:
            measure.free(self.ctx.device)
