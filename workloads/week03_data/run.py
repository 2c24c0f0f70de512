"""Week 03's measurement: shards, decoders checked and timed, duplicates, then the ladder of loaders and the judged blocks.

What to expect is in the package's docstring. Correctness comes before timing: parity of decoders and the canary first. The ladder
measures every loader alone and inside training; the judged blocks then let the ring, the data on the device, the best host loader
and the peer take turns, each block after enough steps to use up what a loader had ready. No part begins after `BUDGET_S`.
"""

from __future__ import annotations

import http.client
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from workloads import measure
from workloads.spec import Context, Observed, plain_text
from workloads.week03_data import DASHBOARD, STEPS, canary, dashboard, duplicates, images, minhash, shards
from workloads.week03_data.consumer import Consumer, FixedStep, Resident, Training
from workloads.week03_data.dashboard import Exporter
from workloads.week03_data.engine import BatchDecoder, Inline, NvImageCodec, Ring, Stage, Torchvision
from workloads.week03_data.findings import (
    AGAIN,
    HOST,
    ONE_CORE,
    PEER,
    RESIDENT,
    RING,
    TITLES,
    TORCHVISION,
    Rung,
    Story,
    every_step,
    kept,
    observed,
    rate,
)
from workloads.week03_data.leakage import leak
from workloads.week03_data.loaders import PREFETCH, HostLoader, as_tensor, raw_batches
from workloads.week03_data.shards import Plan, Shard
from workloads.week03_data.timeline import Loader, Step, drive, wall_ms, windows
from workloads.week03_data.usage import Usage, watched

BUDGET_S = 500  # no further part begins after this; a full run ends within ten minutes
LADDER_S = 370  # no further rung begins after this: the judged blocks need about 100 s
STARVED = 1.25  # a consumer starves its baseline where it asks for this many times what turbo workers give alone
READERS = 8  # workers that only read bytes
SHARED_MEMORY = "/dev/shm"  # noqa: S108  the kernel's own, where torch puts what workers hand over
HOST_SAMPLE = 32  # pictures decoded on one core, to time it
FIRST_STEPS = 8  # of a block, not timed, besides those that use up what was ready


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: the full run on a GPU, or the smoke test on a CPU."""

    plan: Plan
    batch: int
    inputs: tuple[int, ...]  # the network's input in pixels, the first that starves the baseline is taken
    workers: int
    readers: int
    rungs: tuple[str, ...]
    rung_steps: int
    rung_s: float
    alone_batches: int
    blocks: int
    block_steps: int
    checked: int  # pictures whose decoding is compared
    canary_rounds: int
    timed_sets: int
    timing_blocks: int
    block_ms: float
    curve_trials: int
    leak_pictures: int
    leak_steps: int
    leak_seeds: int


RUNGS = ("pil", "workers", "turbo", HOST, "gpu", "augment", RING, PEER)
FULL = Sizes(
    shards.FULL, batch=256, inputs=(224, 176, 128), workers=0, readers=READERS, rungs=RUNGS, rung_steps=300, rung_s=12.0, alone_batches=60,
    blocks=8, block_steps=40, checked=256, canary_rounds=20, timed_sets=256, timing_blocks=8, block_ms=20.0, curve_trials=4000,
    leak_pictures=3000, leak_steps=700, leak_seeds=5)
SMOKE = Sizes(
    Plan(shards=2, a_shard=128, height=72, width=96, photo_side=128), batch=16, inputs=(48,), workers=1, readers=1,
    rungs=("pil", "turbo", HOST, RING), rung_steps=20, rung_s=3.0, alone_batches=4, blocks=6, block_steps=3, checked=16, canary_rounds=0,
    timed_sets=16, timing_blocks=6, block_ms=1.0, curve_trials=40, leak_pictures=60, leak_steps=4, leak_seeds=2)


@dataclass(slots=True)
class Bench:
    """All that the parts of a run share."""

    ctx: Context
    sizes: Sizes
    corpus: tuple[Shard, ...]
    consumer: Consumer
    exporter: Exporter
    story: Story
    began: float
    peer: BatchDecoder | None = None
    peer_missing: str = ""

    def late(self, budget_s: float) -> bool:
        return time.monotonic() - self.began > budget_s

    @property
    def streamers(self) -> int:
        """Workers that WebDataset can use: a worker without a shard would wait for ever."""
        return min(self.sizes.workers, len(self.corpus))

    @property
    def room(self) -> int:
        """Bytes of a batch of the largest decoded pictures."""
        return self.story.batch * max(3 * entry.height * entry.width for shard in self.corpus for entry in shard.entries)

    def stage(self, decoder: BatchDecoder, *, fused: bool) -> Stage:
        return Stage(decoder, self.story.size, self.ctx.device, room=self.room, fused=fused, seed=self.ctx.seed)

    def make(self, name: str) -> Loader:
        """A loader by its name; each opens what it needs and starts its workers."""
        batch, seed, device, size = self.story.batch, self.ctx.seed, self.ctx.device, self.story.size
        if name in (RESIDENT, AGAIN):
            return Resident.random(batch, size, device, seed)
        if name in ("pil", "workers", "turbo"):
            workers = 0 if name == "pil" else self.sizes.workers
            return HostLoader.map_style(self.corpus, "turbo" if name == "turbo" else "pil", size, batch, workers, seed, device)
        if name == HOST:
            return HostLoader.webdataset(self.corpus, size, batch, self.streamers, seed, device)
        raw = raw_batches(self.corpus, batch, self.sizes.readers, seed)
        decoder = self.peer if name == PEER else Torchvision(device)
        if decoder is None:
            raise RuntimeError(self.peer_missing)
        if name in ("gpu", "augment"):
            return Inline(raw, self.stage(decoder, fused=name == "augment"))
        return Ring(raw, self.stage(decoder, fused=True), batch)

    def workers_of(self, name: str) -> tuple[int, str]:
        """How many worker processes a loader has, and who decodes."""
        if name == "pil":
            return 0, "PIL, host"
        if name in ("workers", "turbo", HOST):
            return self.streamers if name == HOST else self.sizes.workers, "PIL, host" if name == "workers" else "libjpeg-turbo, host"
        where = "device" if self.ctx.device == "cuda" else "host (no GPU in this run)"
        return self.sizes.readers, f"{'nvImageCodec' if name == PEER else 'torchvision'}, {where}"


def run(ctx: Context) -> Observed:
    began = time.monotonic()
    sizes = SMOKE if ctx.smoke else replace(FULL, workers=os.cpu_count() or 1)
    if ctx.batch is not None:
        sizes = replace(sizes, batch=ctx.batch)
    total = sizes.plan.shards * sizes.plan.a_shard
    if sizes.batch * sizes.readers > total:
        raise ValueError(f"batch: at most {total // sizes.readers}, for {sizes.readers} readers share {total} pictures")
    _check_shared_memory(sizes)
    measure.lone_thread(ctx.device)
    torch.backends.cudnn.benchmark = True
    story = Story(ctx.device, sizes.batch, size=sizes.inputs[0])
    with tempfile.TemporaryDirectory(prefix="sprintbench-shards-") as folder, Exporter() as exporter:
        ctx.progress(f"metrics at http://127.0.0.1:{exporter.port}/metrics")
        corpus = shards.write(Path(folder), sizes.plan, ctx.device, ctx.progress)
        entries = [entry for shard in corpus for entry in shard.entries]
        story.shards_mb = sum(entry.size for entry in entries) / 1e6
        story.median_kb = statistics.median(entry.size for entry in entries) / 1e3
        consumer = Training(ctx.seed) if ctx.device == "cuda" else FixedStep(0.005)
        bench = Bench(ctx, sizes, corpus, consumer, exporter, story, began)
        _decoders(bench)
        story.duplicates = _duplicates(bench)
        _choose_size(bench)
        _ladder(bench)
        _judged(bench)
        story.notes.append(_scraped(exporter.port))
    shown = dashboard.content(story.tracks(), RING, batch=story.batch, demand=story.demand, device=_device(ctx))
    (ctx.out / DASHBOARD).write_text(shown, encoding="utf-8")
    (ctx.out / STEPS).write_bytes(every_step(story))
    return observed(story)


def _check_shared_memory(sizes: Sizes) -> None:
    """Workers hand their batches over in shared memory, and are killed without a word where it is full: as it is in containers,
    which have 64 MB unless told otherwise."""
    needed = sizes.workers * (PREFETCH + 1) * sizes.batch * 3 * sizes.inputs[0] ** 2
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise OSError(f"workers need {needed / 1e6:,.1f} MB of {SHARED_MEMORY}, and {free / 1e6:,.1f} MB are free")


def _device(ctx: Context) -> str:
    return torch.cuda.get_device_name() if ctx.device == "cuda" else "CPU, smoke run"


# ---------------------------------------------------------------------------------------------------- decoders


def _decoders(bench: Bench) -> None:
    """Parity of every decoder with libjpeg, the canary, then throughput of each alone."""
    ctx, sizes, story = bench.ctx, bench.sizes, bench.story
    sample = [as_tensor(jpeg) for jpeg, _ in zip(shards.jpegs(bench.corpus), range(max(sizes.checked, sizes.batch)), strict=False)]
    torchvision = Torchvision(ctx.device)
    found: dict[str, BatchDecoder] = {TORCHVISION: torchvision}
    if ctx.device == "cuda":
        try:
            found[PEER] = NvImageCodec()
        except ModuleNotFoundError:
            bench.peer_missing = "nvidia-nvimgcodec-cu13 is not installed: pip install .[decoders]"
    else:
        bench.peer_missing = "nvImageCodec needs a GPU"
    errors: dict[str, list[float]] = {}
    calls: dict[str, Callable[[], object]] = {}
    for name, decoder in found.items():
        stage = bench.stage(decoder, fused=False)
        try:
            errors[name] = parity(stage, sample[:sizes.checked], interleaved=decoder.interleaved)
        except RuntimeError as error:
            if name != PEER:
                raise
            bench.peer_missing = f"nvImageCodec failed: {next(iter(str(error).splitlines()), '')}"
            continue
        calls[name] = partial(_decode, stage, sample[:sizes.batch])
        ctx.progress(f"{name} differs from libjpeg by {statistics.fmean(errors[name]):.3f} levels, worst picture {max(errors[name]):.3f}")
    bench.peer = found[PEER] if PEER in errors else None
    if bench.peer is None:
        story.notes.append(f"No peer beside the ring: {bench.peer_missing}")
    calls[ONE_CORE] = partial(_on_one_core, sample[:HOST_SAMPLE])
    story.errors = errors
    if ctx.device == "cuda":
        story.canary = _canary(bench, torchvision, sample[:sizes.batch])
    times = measure.time_interleaved(calls, device=ctx.device, mode="latency", blocks=sizes.timing_blocks, block_ms=sizes.block_ms,
                                     warmup_s=0.0, seed=ctx.seed)
    decoded = {name: min(len(sample), HOST_SAMPLE) if name == ONE_CORE else sizes.batch for name in calls}
    story.decoder_batch = sizes.batch
    story.decoders = {name: [kept(ms * sizes.batch / decoded[name]) for ms in times[name]] for name in calls}
    ctx.progress("decoding alone: " + ", ".join(f"{name} {1000 * sizes.batch / statistics.median(ms):,.0f} img/s"
                                                for name, ms in story.decoders.items()))


def _decode(stage: Stage, jpegs: Sequence[Tensor]) -> None:
    with stage.alone():
        stage.decode(jpegs)


def _on_one_core(jpegs: Sequence[Tensor]) -> None:
    for jpeg in jpegs:
        decode_jpeg(jpeg, mode=ImageReadMode.RGB)


def parity(stage: Stage, jpegs: Sequence[Tensor], *, interleaved: bool) -> list[float]:
    """Mean absolute difference from PIL's libjpeg, in levels, picture by picture. Raises RuntimeError for a picture of another size."""
    with stage.alone():
        pictures = [picture.cpu() for picture in stage.decode(jpegs)]
    errors = []
    for jpeg, picture in zip(jpegs, pictures, strict=True):
        expected = images.decode(jpeg.numpy().tobytes())
        mine = (picture if interleaved else picture.permute(1, 2, 0)).numpy()
        if mine.shape != expected.shape:
            raise RuntimeError(f"a picture of {expected.shape} was decoded as {mine.shape}")
        errors.append(kept(float(np.abs(mine.astype(np.int16) - expected).mean())))
    return errors


def _canary(bench: Bench, decoder: Torchvision, jpegs: Sequence[Tensor]) -> list[tuple[str, int, int]]:
    stage, rounds = bench.stage(decoder, fused=False), bench.sizes.canary_rounds
    size = 3 * bench.sizes.plan.height * bench.sizes.plan.width
    seen = [("naive", canary.corrupted(decoder, jpegs, size, rounds), rounds),
            ("ours", canary.corrupted(partial(_decode, stage), jpegs, size, rounds), rounds)]
    bench.ctx.progress("stream race: " + ", ".join(f"{name} {wrong} of {of} rounds corrupted" for name, wrong, of in seen))
    return seen


# ---------------------------------------------------------------------------------------------------- duplicates


def _duplicates(bench: Bench) -> duplicates.Report:
    ctx, sizes = bench.ctx, bench.sizes
    entries = [entry for shard in bench.corpus for entry in shard.entries]
    pictures = duplicates.thumbnails(bench.corpus, bench.stage(Torchvision(ctx.device), fused=False))
    image, pairs = duplicates.find_pictures(pictures, entries)
    text, _ = duplicates.find_captions(entries)
    for found in (image, text):
        ctx.progress(f"{found.of} duplicates: {found.right} of {found.pairs} pairs were planted; " + ", ".join(
            f"{kind.edit} {kind.found} of {kind.planted}" for kind in found.kinds))
    timed = minhash.image_shingles(pictures[:sizes.timed_sets, 0])
    same, speedup, rates = duplicates.check_signatures(timed, ctx.device, blocks=sizes.timing_blocks,
                                                       block_ms=sizes.block_ms, seed=ctx.seed)
    curve = minhash.s_curve(minhash.index(minhash.IMAGE_THRESHOLD), sizes.curve_trials, ctx.seed, ctx.device)
    labels = torch.tensor([entry.label for entry in entries], device=ctx.device)
    cluster = minhash.clusters(len(entries), pairs)
    leaks = [leak(pictures[:, 0], labels, duplicates.sources(entries), cluster, most=sizes.leak_pictures, steps=sizes.leak_steps, seed=seed)
             for seed in range(sizes.leak_seeds)]
    ctx.progress(f"MinHash {speedup.value:.1f} x datasketch, {same[0]} of {same[1]} signatures the same; accuracy "
                 + ", ".join(f"{one.leaky:.1f} leaky, {one.cleaned:.1f} after MinHash, {one.clean:.1f} clean" for one in leaks[:1]))
    return duplicates.Report(len(entries), (image, text), same, speedup, rates, tuple(curve), tuple(leaks))


# ---------------------------------------------------------------------------------------------------- loaders


def _choose_size(bench: Bench) -> None:
    """The largest input at which the consumer asks for STARVED times what turbo workers give; the smallest where none does."""
    ctx, sizes, story = bench.ctx, bench.sizes, bench.story
    host = bench.make("turbo")
    try:
        story.turbo_alone = _alone(bench, host)
    finally:
        host.close()
    for size in sizes.inputs:
        story.size = size
        resident = bench.make(RESIDENT)
        drive(resident, bench.consumer, FIRST_STEPS * 2, ctx.device)
        story.demand = rate(drive(resident, bench.consumer, sizes.block_steps, ctx.device), story.batch)
        ctx.progress(f"at {size} px the consumer asks for {story.demand:,.0f} img/s; turbo workers alone give {story.turbo_alone:,.0f}")
        story.starved = story.demand >= STARVED * story.turbo_alone
        if story.starved:
            return


def _alone(bench: Bench, loader: Loader) -> float:
    """Pictures a second of a loader that nobody waits for, after what it had ready."""
    def take(most: int) -> int:
        until, taken = time.monotonic() + bench.sizes.rung_s / 2, 0
        while taken < most and (taken == 0 or time.monotonic() < until):
            loader.next()
            taken += 1
        return taken

    take(loader.ahead + 1)
    taken, seconds = measure.seconds(lambda: take(bench.sizes.alone_batches))
    return taken * bench.story.batch / seconds


def _ladder(bench: Bench) -> None:
    ctx, story = bench.ctx, bench.story
    for name in bench.sizes.rungs:
        workers, decoder = bench.workers_of(name)
        failed = bench.peer_missing if name == PEER and bench.peer is None else ""
        if failed or bench.late(LADDER_S):
            story.rungs.append(Rung(name, workers, decoder, failed=failed or "time ran out"))
            continue
        try:
            rung = _rung(bench, name, workers, decoder)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if name != PEER and not isinstance(error, torch.OutOfMemoryError):
                raise
            rung = Rung(name, workers, decoder, failed=next(iter(str(error).splitlines()), "no reason given"))
            if name == PEER:
                bench.peer, bench.peer_missing = None, rung.failed
        story.rungs.append(rung)
        if rung.failed:
            ctx.progress(f"{TITLES[name]}: {rung.failed}")
            continue
        trained = rate(rung.steps, story.batch)
        ctx.progress(f"{TITLES[name]}: {rung.alone:,.0f} img/s alone, {trained:,.0f} in training over {len(rung.steps)} steps, "
                     f"{100 * trained / story.demand:.1f}% of the demand")


def _rung(bench: Bench, name: str, workers: int, decoder: str) -> Rung:
    """One loader alone, then in training, each after what it had ready."""
    sizes, device = bench.sizes, bench.ctx.device
    loader = bench.make(name)
    try:
        alone = _alone(bench, loader)
        _train(bench, name, loader, min(loader.ahead, 40) + 1, sizes.rung_s / 3)
        loader.decode_rates()  # those so far are of the warm-up
        with watched(device) as usage:
            steps = _train(bench, name, loader, sizes.rung_steps, sizes.rung_s)
        rung = Rung(name, workers, decoder, alone, steps, loader.decode_rates(), usage)
    finally:
        loader.close()
    _show(bench, name, steps, rung.decode_rates, usage)
    return rung


def _train(bench: Bench, name: str, loader: Loader, steps: int, seconds: float) -> list[Step]:
    return drive(loader, bench.consumer, steps, bench.ctx.device, until=time.monotonic() + seconds,
                 each=partial(bench.exporter.stepped, name))


def _show(bench: Bench, name: str, steps: Sequence[Step], decode_rates: Sequence[float], usage: Usage) -> None:
    gpu, _, _ = usage.medians()
    bench.exporter.window(name, windows(steps, 10)[-1], bench.story.batch, statistics.median(decode_rates) if decode_rates else None, gpu)


def _judged(bench: Bench) -> None:
    """Blocks of steps in turns, in one order: whoever refills its workers after its block disturbs the data on the device least."""
    ctx, sizes, story = bench.ctx, bench.sizes, bench.story
    arms = [RESIDENT, AGAIN, RING, *([PEER] if bench.peer else []), story.best_host]
    loaders: dict[str, Loader] = {}
    blocks: Mapping[str, list[list[Step]]] = {arm: [] for arm in arms}
    try:
        for arm in reversed(arms):  # the most workers are forked first, before a ring's thread runs
            loaders[arm] = bench.make(arm)
        for number in range(sizes.blocks):
            if bench.late(BUDGET_S):
                story.notes.append(f"Time ran out after {number} of {sizes.blocks} judged blocks")
                break
            for arm in arms:
                loader = loaders[arm]
                _train(bench, arm, loader, loader.ahead + FIRST_STEPS if ctx.device == "cuda" else loader.ahead, sizes.rung_s)
                loader.decode_rates()
                with watched(ctx.device) as usage:
                    steps = _train(bench, arm, loader, sizes.block_steps, sizes.rung_s)
                blocks[arm].append(steps)
                _show(bench, arm, steps, loader.decode_rates(), usage)
                if arm == RING:
                    story.usage.gpu += usage.gpu
                    story.usage.jpeg += usage.jpeg
                    story.usage.unseen = usage.unseen
    finally:
        for loader in loaders.values():
            loader.close()
    story.blocks = blocks
    medians = {arm: statistics.median(wall_ms(block) / len(block) for block in seen) for arm, seen in blocks.items() if seen}
    ctx.progress("judged blocks: " + ", ".join(f"{TITLES[arm]} {ms:.3f} ms a step" for arm, ms in medians.items()))


def _scraped(port: int) -> str:
    """One look at our own endpoint while the run lasts, in words."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    series = [line for line in lines if line.startswith(dashboard.PREFIX)]
    return plain_text(f"The Prometheus endpoint served {len(series)} series during the run")
