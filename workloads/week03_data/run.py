"""Week 03's measurement: shards, decoders checked and timed, the judged blocks, duplicates, the ladder of loaders, and the peer.

What to expect is in the package's docstring. Correctness comes before timing: parity of decoders and the canary first. In the judged
blocks the ring and the data on the device take turns, each block after enough steps to use up what a loader had ready; nothing else
runs then. The ladder measures every loader alone and inside training; at last the peer and the best host loader take turns with both.

A run that is stopped has nothing, so what is judged comes first, and what is not is cut short by the clock, or by its own failure,
and said. On an H200 the parts should take, in seconds: shards 45, decoders 25, size 30, judged 55, duplicates 65, leaks 15, ladder
110, beside 85; with the start that is 445. The table `parts` has what they took.
"""

from __future__ import annotations

import gc
import http.client
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from workloads import measure
from workloads.spec import Context, Observed, plain_text
from workloads.week03_data import DASHBOARD, DECODED, STEPS, canary, dashboard, duplicates, images, minhash, shards
from workloads.week03_data.consumer import Consumer, FixedStep, Resident, Training
from workloads.week03_data.dashboard import Exporter
from workloads.week03_data.engine import BatchDecoder, Inline, NvImageCodec, Ring, Stage, Torchvision, own_queues
from workloads.week03_data.findings import (
    AGAIN,
    DECODERS,
    HOST,
    HOSTS,
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
from workloads.week03_data.leakage import Leak, leak
from workloads.week03_data.loaders import PREFETCH, HostLoader, as_tensor, raw_batches
from workloads.week03_data.shards import Plan, Shard
from workloads.week03_data.timeline import Loader, Step, drive, wall_ms, windows
from workloads.week03_data.usage import Usage, watched

T = TypeVar("T")

STOP_S = 520  # not even a judged round begins after this: a full run ends within ten minutes
BUDGET_S = 470  # no other round, and no seed, begins after this
LADDER_S = 350  # no further rung begins after this: one takes up to 16 s, and the rounds with the peer about 85
STARVED = 1.25  # a consumer starves its baseline where it asks for this many times what turbo workers give alone
READERS = 16  # workers that only read bytes: where Python is slow, one reads 2,000 pictures a second
FASTER = 1.25  # the ring takes the peer's decoder where that is this many times as fast as torchvision
URGENT = ("turbo", HOST, RING, PEER, "gpu", "augment", "workers", "pil")  # rungs in the order they are measured in
SETTLE_S = 1.5  # after a block of a loader whose workers decode: they refill with all cores, and the next block should not wait for that
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
    beside_blocks: int
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
    shards.FULL, batch=256, inputs=(224, 208, 192, 176, 160, 144, 128), workers=0, readers=READERS, rungs=RUNGS, rung_steps=200, rung_s=6.0,
    alone_batches=150, blocks=8, beside_blocks=6, block_steps=40, checked=256, canary_rounds=20, timed_sets=2048, timing_blocks=8,
    block_ms=20.0, curve_trials=4000, leak_pictures=3000, leak_steps=700, leak_seeds=5)
SMOKE = Sizes(
    Plan(shards=2, a_shard=128, height=72, width=96, photo_side=128), batch=16, inputs=(48,), workers=1, readers=1,
    rungs=("pil", "turbo", HOST, RING), rung_steps=20, rung_s=3.0, alone_batches=4, blocks=6, beside_blocks=6, block_steps=3,
    checked=16, canary_rounds=0, timed_sets=16, timing_blocks=6, block_ms=1.0, curve_trials=40, leak_pictures=60, leak_steps=4,
    leak_seeds=2)


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
    plain: Tensor | None = None  # thumbnails of the pictures as they are
    cluster: list[int] = field(default_factory=list)  # of near-duplicates

    @property
    def no_peer(self) -> str:
        """Why there is no ring of the peer's beside ours, "" where there is."""
        if self.story.engine == PEER:
            return "it is the ring's own decoder"
        return (self.peer_missing or "it was not tried") if self.peer is None else ""

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
        decoder = self.peer if name == PEER or self.story.engine == PEER else Torchvision(device)
        if decoder is None:
            raise RuntimeError(self.peer_missing)
        raw = raw_batches(self.corpus, batch, self.sizes.readers, seed, device)
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
        return self.sizes.readers, f"{DECODERS[PEER if name == PEER else self.story.engine]}, {where}"


def run(ctx: Context) -> Observed:
    began = time.monotonic()
    cores = len(os.sched_getaffinity(0))
    sizes = SMOKE if ctx.smoke else replace(FULL, workers=cores, readers=min(READERS, cores))
    if ctx.batch is not None:
        sizes = replace(sizes, batch=ctx.batch)
    total = sizes.plan.shards * sizes.plan.a_shard
    if sizes.batch * sizes.readers > total:
        raise ValueError(f"batch: at most {total // sizes.readers}, for {sizes.readers} readers share {total} pictures")
    story = Story(ctx.device, sizes.batch, size=sizes.inputs[0])
    if ctx.device == "cuda":
        story.notes.append(own_queues())
    sizes = _fitted(sizes, story)
    measure.lone_thread(ctx.device)
    torch.backends.cudnn.benchmark = True
    with tempfile.TemporaryDirectory(prefix="sprintbench-shards-") as folder, Exporter() as exporter:
        ctx.progress(f"metrics at http://127.0.0.1:{exporter.port}/metrics")
        corpus = _part(ctx, story, "shards", lambda: shards.write(Path(folder), sizes.plan, ctx.device, ctx.progress))
        entries = [entry for shard in corpus for entry in shard.entries]
        story.shards_mb = sum(entry.size for entry in entries) / 1e6
        story.median_kb = statistics.median(entry.size for entry in entries) / 1e3
        consumer = Training(ctx.seed) if ctx.device == "cuda" else FixedStep(0.005)
        bench = Bench(ctx, sizes, corpus, consumer, exporter, story, began)
        for title, work in (("decoders", _decoders), ("size", _choose_size)):
            _part(ctx, story, title, partial(work, bench))
        for title, work in (("judged", _judged), ("duplicates", _duplicates), ("leaks", _leaks), ("ladder", _ladder), ("beside", _beside),
                            ("scrape", _scrape)):
            try:
                _part(ctx, story, title, partial(work, bench))
            except (RuntimeError, OSError) as error:  # told, and what it was to bring is missing: the other parts must not be lost
                ctx.progress(f"{title} failed: {_reason(error)}")
                story.notes.append(f"Of the part {title} some is missing, for it failed: {_reason(error)}")
    if isinstance(consumer, Training) and consumer.uncaptured:
        story.notes.append(f"The training step is launched kernel by kernel, for it could not be captured: {consumer.uncaptured}")
    shown = dashboard.content(story.tracks(), RING, batch=story.batch, demand=story.demand, device=_device(ctx))
    (ctx.out / DASHBOARD).write_text(shown, encoding="utf-8")
    (ctx.out / STEPS).write_bytes(every_step(story))
    return observed(story)


def _part(ctx: Context, story: Story, title: str, work: Callable[[], T]) -> T:
    """One part of the run, its time kept and told."""
    made, seconds = measure.seconds(work)
    story.parts.append((title, seconds))
    ctx.progress(f"== {title} took {seconds:.1f} s")
    return made


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _fitted(sizes: Sizes, story: Story) -> Sizes:
    """With no more workers than fit. Workers hand their batches over in shared memory, and are killed without a word where it is full,
    as it is in containers, which have 64 MB unless told otherwise. Raises OSError where not even one fits."""
    ready = (PREFETCH + 1) * sizes.batch
    a_worker = ready * 3 * sizes.inputs[0] ** 2
    detail = sizes.plan.height * sizes.plan.width / (shards.FULL.height * shards.FULL.width)
    readers = round(2 * sizes.readers * ready * shards.PICTURE_BYTES * detail)  # of two rings
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < readers + a_worker:
        raise OSError(f"workers need {(readers + a_worker) / 1e6:,.1f} MB of {SHARED_MEMORY}, and {free / 1e6:,.1f} MB are free")
    if free < readers + sizes.workers * a_worker:
        fit = (free - readers) // a_worker
        story.notes.append(f"{fit} workers and not {sizes.workers}, for {free / 1e6:,.0f} MB of {SHARED_MEMORY} are free")
        return replace(sizes, workers=fit)
    return sizes


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
        except (ImportError, RuntimeError) as error:
            bench.peer_missing = f"nvImageCodec failed: {_reason(error)}"
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
            bench.peer_missing = f"nvImageCodec failed: {_reason(error)}"
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
    _choose_engine(story, ctx.progress)


def _choose_engine(story: Story, progress: Callable[[str], None]) -> None:
    """The ring takes the peer's decoder where that is much faster: torchvision decodes one by one where it finds no JPEG engines."""
    times = {name: statistics.median(milliseconds) for name, milliseconds in story.decoders.items()}
    if PEER in times and times[TORCHVISION] > FASTER * times[PEER] and max(story.errors[PEER]) <= DECODED.bound:
        story.engine = PEER
        story.notes.append("The ring decodes with nvImageCodec, which is faster here than torchvision: no ring of the peer's is beside it")
        progress("the ring decodes with nvImageCodec")


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
    seen = [("naive", *canary.corrupted(decoder, jpegs, size, rounds)),
            ("ours", *canary.corrupted(partial(_decode, stage), jpegs, size, rounds))]
    bench.ctx.progress("stream race: " + ", ".join(f"{name} {wrong} of {of} rounds corrupted" for name, wrong, of in seen))
    return seen


# ---------------------------------------------------------------------------------------------------- duplicates


def _duplicates(bench: Bench) -> None:
    ctx, sizes = bench.ctx, bench.sizes
    entries = [entry for shard in bench.corpus for entry in shard.entries]
    pictures = duplicates.thumbnails(bench.corpus, bench.stage(Torchvision(ctx.device), fused=False))
    ctx.progress(f"{len(pictures):,} thumbnails in {pictures.shape[1]} views")
    image, pairs = duplicates.find_pictures(pictures, entries)
    text, _ = duplicates.find_captions(entries, ctx.device)
    for found in (image, text):
        ctx.progress(f"{found.of} duplicates: {found.right} of {found.pairs} pairs were planted; " + ", ".join(
            f"{kind.edit} {kind.found} of {kind.planted}" for kind in found.kinds))
    timed = minhash.image_shingles(pictures[:sizes.timed_sets, 0])
    same, speedup, rates = duplicates.check_signatures(timed, ctx.device, blocks=sizes.timing_blocks,
                                                       block_ms=sizes.block_ms, seed=ctx.seed)
    ctx.progress(f"MinHash {speedup.value:.1f} x datasketch, {same[0]} of {same[1]} signatures the same")
    curve = minhash.s_curve(minhash.index(minhash.IMAGE_THRESHOLD), sizes.curve_trials, ctx.seed, ctx.device)
    bench.story.duplicates = duplicates.Report(len(entries), (image, text), same, speedup, rates, tuple(curve), ())
    bench.plain, bench.cluster = pictures[:, 0].clone(), minhash.clusters(len(entries), pairs)


def _leaks(bench: Bench) -> None:
    """What leaked copies do to a test score, seed by seed."""
    ctx, sizes, report = bench.ctx, bench.sizes, bench.story.duplicates
    if report is None or bench.plain is None:
        return
    entries = [entry for shard in bench.corpus for entry in shard.entries]
    labels = torch.tensor([entry.label for entry in entries], device=ctx.device)
    leaks: list[Leak] = []
    for seed in range(sizes.leak_seeds):
        if bench.late(BUDGET_S):
            bench.story.notes.append(f"Time ran out after {seed} of {sizes.leak_seeds} seeds of the leakage")
            break
        leaks.append(leak(bench.plain, labels, duplicates.sources(entries), bench.cluster, most=sizes.leak_pictures, steps=sizes.leak_steps,
                          seed=seed))
        ctx.progress(f"accuracy {leaks[-1].leaky:.1f} leaky, {leaks[-1].cleaned:.1f} after MinHash, {leaks[-1].clean:.1f} clean")
    bench.story.duplicates, bench.plain = replace(report, leaks=tuple(leaks)), None


# ---------------------------------------------------------------------------------------------------- loaders


def _choose_size(bench: Bench) -> None:
    """The largest input at which the consumer asks for STARVED times what turbo workers give; the smallest where none does. Sizes at
    which it will ask for far too little, for what it asks for goes with the inverse of the area, are not tried."""
    ctx, sizes, story = bench.ctx, bench.sizes, bench.story
    host = bench.make("turbo")
    try:
        story.turbo_alone = _alone(bench, host, sizes.rung_s)  # workers hand over in bursts
    finally:
        host.close()
    ctx.progress(f"{sizes.workers} turbo workers alone give {story.turbo_alone:,.0f} img/s")
    wanted, story.demand = STARVED * story.turbo_alone, 0.0
    for size in sizes.inputs:
        if story.demand and story.demand * (story.size / size) ** 2 < 0.9 * wanted and size != sizes.inputs[-1]:
            continue
        story.size = size
        resident = bench.make(RESIDENT)
        drive(resident, bench.consumer, FIRST_STEPS * 2, ctx.device)
        story.demand = rate(drive(resident, bench.consumer, sizes.block_steps, ctx.device), story.batch)
        ctx.progress(f"at {size} px the consumer asks for {story.demand:,.0f} img/s")
        story.starved = story.demand >= wanted
        if story.starved:
            return


def _alone(bench: Bench, loader: Loader, seconds: float) -> float:
    """Pictures a second of a loader that nobody waits for, after what it had ready, over about `seconds`."""
    def take(most: int) -> int:
        until, taken = time.monotonic() + seconds, 0
        while taken < most and (taken == 0 or time.monotonic() < until):
            loader.next()
            taken += 1
        return taken

    take(loader.ahead + 1)
    taken, passed = measure.seconds(lambda: take(bench.sizes.alone_batches))
    return taken * bench.story.batch / passed


def _ladder(bench: Bench) -> None:
    """Every rung, those first that are worth most where time runs out."""
    ctx, story = bench.ctx, bench.story
    try:
        for name in sorted(bench.sizes.rungs, key=URGENT.index):
            workers, decoder = bench.workers_of(name)
            failed = bench.no_peer if name == PEER else ""
            if failed or bench.late(LADDER_S):
                story.rungs.append(Rung(name, workers, decoder, failed=failed or "time ran out"))
                continue
            try:
                rung = _rung(bench, name, workers, decoder)
            except (RuntimeError, OSError) as error:  # torch.OutOfMemoryError is one, and so is a DataLoader's dead worker
                if name == RING and not isinstance(error, torch.OutOfMemoryError):
                    raise
                rung = Rung(name, workers, decoder, failed=_reason(error))
                if name == PEER:
                    bench.peer, bench.peer_missing = None, rung.failed
            story.rungs.append(rung)
            if rung.failed:
                ctx.progress(f"{TITLES[name]}: {rung.failed}")
                continue
            trained = rate(rung.steps, story.batch)
            ctx.progress(f"{TITLES[name]}: {rung.alone:,.0f} img/s alone, {trained:,.0f} in training over {len(rung.steps)} steps, "
                         f"{100 * trained / story.demand:.1f}% of the demand")
    finally:
        story.rungs.sort(key=lambda rung: RUNGS.index(rung.name))


def _rung(bench: Bench, name: str, workers: int, decoder: str) -> Rung:
    """One loader alone, then in training, each after what it had ready."""
    sizes, device = bench.sizes, bench.ctx.device
    loader = bench.make(name)
    try:
        alone = _alone(bench, loader, sizes.rung_s / 3)
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
    """The ring beside copies of its own batches, nothing else running. Where the peer's decoder fails in it, torchvision's is taken."""
    story, sizes = bench.story, bench.sizes
    try:
        ring = bench.make(RING)
        try:
            resident = Resident.of(ring)
            story.blocks = {RESIDENT: [], AGAIN: [], RING: []}
            _rounds(bench, {RESIDENT: resident, AGAIN: resident, RING: ring}, story.blocks, sizes.blocks, STOP_S, story.usage, uncounted=1)
        finally:
            ring.close()
    except RuntimeError as error:
        if story.engine != PEER:
            raise
        bench.peer, bench.peer_missing, story.engine = None, _reason(error), TORCHVISION
        story.notes.append(f"So the ring decodes with torchvision after all, for nvImageCodec failed: {_reason(error)}")
        _judged(bench)


def _beside(bench: Bench) -> None:
    """The peer and the best host loader take turns with the ring and the data on the device."""
    story = bench.story
    arms = [RESIDENT, RING, *([] if bench.no_peer else [PEER]), story.best_host]
    loaders: dict[str, Loader] = {}
    try:
        for arm in arms:  # each forks its workers here, before any ring's thread runs
            loaders[arm] = bench.make(arm)
        story.beside = {arm: [] for arm in arms}
        _rounds(bench, loaders, story.beside, bench.sizes.beside_blocks, BUDGET_S, Usage())
    finally:
        for loader in loaders.values():
            loader.close()


def _rounds(bench: Bench, loaders: Mapping[str, Loader], blocks: Mapping[str, list[Sequence[Step]]], rounds: int, budget_s: float,
            ring_usage: Usage, *, uncounted: int = 0) -> None:
    """Into `blocks`, blocks of steps in turns, in one order: whoever refills its workers after its block disturbs the data on the device
    least. The first, `uncounted` rounds are for what compiles, and for buffers to fill among which is shuffled."""
    ctx, sizes = bench.ctx, bench.sizes
    names = ", ".join(TITLES[arm] for arm in loaders)
    for number in range(-uncounted, rounds):
        if bench.late(budget_s):
            bench.story.notes.append(f"Time ran out after {max(number, 0)} of {rounds} rounds of {names}")
            break
        gc.collect()  # and not within a block, which it would stop for a tenth of a second or more
        gc.disable()
        try:
            for arm, loader in loaders.items():
                first = loader.ahead + FIRST_STEPS if ctx.device == "cuda" else loader.ahead
                _train(bench, arm, loader, first, sizes.rung_s)
                loader.decode_rates()
                with watched(ctx.device) as usage:
                    steps = _train(bench, arm, loader, sizes.block_steps, sizes.rung_s)
                _show(bench, arm, steps, loader.decode_rates(), usage)
                if number >= 0:
                    blocks[arm].append(steps)
                    if arm == RING:
                        ring_usage.gpu += usage.gpu
                        ring_usage.jpeg += usage.jpeg
                        ring_usage.unseen = usage.unseen
                if arm in HOSTS and ctx.device == "cuda":
                    time.sleep(SETTLE_S)
        finally:
            gc.enable()
    medians = {arm: statistics.median(wall_ms(block) / len(block) for block in seen) for arm, seen in blocks.items() if seen}
    ctx.progress(f"{rounds} rounds: " + ", ".join(f"{TITLES[arm]} {ms:.3f} ms a step" for arm, ms in medians.items()))


def _scrape(bench: Bench) -> None:
    bench.story.notes.append(_scraped(bench.exporter.port))


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
