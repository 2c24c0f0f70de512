"""Week 03's own mathematics against independent answers: shards, crops, steps, stream order, MinHash, and the dashboard's page."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from click.testing import CliRunner
from datasketch import MinHash
from PIL import Image
from playwright.sync_api import Browser
from torch import Tensor

from workloads import measure
from workloads.spec import Context, check_kept, discover
from workloads.week03_data import augment, canary, dashboard, duplicates, engine, images, leakage, loaders, minhash, run, shards
from workloads.week03_data.consumer import FixedStep, Resident, Training
from workloads.week03_data.engine import Inline, Ring, Stage, Torchvision
from workloads.week03_data.findings import AGAIN, HOST, PEER, RESIDENT, RING, Rung, Story, every_step, observed
from workloads.week03_data.minhash import CurvePoint
from workloads.week03_data.shards import Entry, Plan, Shard
from workloads.week03_data.timeline import Batch, Step, drive, idle_percent, wall_ms, windows
from workloads.week03_data.usage import watched

pytestmark = [
    # webdataset leaves a shard to the collector where its reader stops before the end.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO name='.+tar':pytest.PytestUnraisableExceptionWarning"),
    # From 0.29 on; TorchCodec takes over, and the README says what waits for that.
    pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision are deprecated:DeprecationWarning")]
WORKLOAD = discover()["week03"]
PLAN = Plan(shards=2, a_shard=48, height=48, width=64, photo_side=96)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As a run on a CPU has it: tensors are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def silent(_: str) -> None:
    """Nobody waits for a test's progress."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shard, ...]:
    return shards.write(tmp_path_factory.mktemp("shards"), PLAN, "cpu", silent)


def entries(corpus: Sequence[Shard]) -> list[Entry]:
    return [entry for shard in corpus for entry in shard.entries]


# ---------------------------------------------------------------------------------------------------- pictures and shards


def test_jpegs_of_full_size_are_as_heavy_as_photographs() -> None:
    pixels, labels, behind = images.originals(3, shards.FULL.height, shards.FULL.width, 5, images.photographs(128, "cpu"))
    sizes = [len(images.encode(p.numpy())) for p in pixels]
    assert all(60_000 <= size <= 110_000 for size in sizes), sizes
    assert len(labels) == len(behind) == 3


def test_pictures_follow_from_their_seed() -> None:
    photos = images.photographs(64, "cpu")
    one, again, other = (images.originals(2, 32, 48, seed, photos)[0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("edit", "shape"), [
    ("re-encoded", (60, 80)), ("flipped", (60, 80)), ("recoloured", (60, 80)), ("cropped", (57, 76))])
def test_an_edit_keeps_what_it_should(edit: str, shape: tuple[int, int]) -> None:
    jpeg = images.encode(images.originals(1, 60, 80, 3, images.photographs(96, "cpu"))[0][0].numpy())
    copy = images.edited(jpeg, edit, np.random.default_rng(0))
    assert images.decode(copy).shape[:2] == images.extent(copy) == shape
    assert copy != jpeg


def test_a_flip_mirrors_a_resize_scales_and_an_exact_copy_is_exact() -> None:
    jpeg = images.encode(images.originals(1, 60, 80, 3, images.photographs(96, "cpu"))[0][0].numpy())
    random = np.random.default_rng(0)
    assert images.edited(jpeg, "exact", random) is jpeg
    flipped = images.decode(images.edited(jpeg, "flipped", random)).astype(int)
    assert np.abs(flipped[:, ::-1] - images.decode(jpeg)).mean() < 8 < np.abs(flipped - images.decode(jpeg)).mean()
    height, width = images.decode(images.edited(jpeg, "resized", random)).shape[:2]
    assert (height, width) != (60, 80) and width / height == pytest.approx(80 / 60, rel=0.05)
    with pytest.raises(ValueError, match="no edit is called 'blurred'"):
        images.edited(jpeg, "blurred", random)


def test_captions_are_edited_as_said() -> None:
    random = np.random.default_rng(1)
    text = images.caption(2, 1, random)
    assert "triangle" in text and "a cat" in text
    assert images.recaptioned(text, "same", random) == text
    assert images.recaptioned(text, "recased", random).lower().replace(";", ",") == text.lower()
    assert sorted(images.recaptioned(text, "reordered", random).split(", ")) == sorted(text.split(", "))
    with pytest.raises(ValueError, match="no edit of a caption"):
        images.recaptioned(text, "translated", random)


def test_a_shard_holds_what_its_index_says_and_webdataset_reads_it(corpus: tuple[Shard, ...]) -> None:
    read = {sample["__key__"]: sample for sample in wds.WebDataset(str(corpus[0].path), shardshuffle=False)}
    assert len(read) == PLAN.a_shard
    for entry, jpeg in zip(corpus[0].entries, shards.jpegs(corpus), strict=False):
        sample = read[entry.key]
        assert (sample["jpg"], int(sample["cls"]), sample["txt"].decode()) == (jpeg, entry.label, entry.caption)
        assert Image.open(io.BytesIO(jpeg)).size == (entry.width, entry.height)


def test_every_kind_of_edit_is_planted_and_its_source_is_in_the_shard(corpus: tuple[Shard, ...]) -> None:
    for shard in corpus:
        known = {entry.key: entry for entry in shard.entries}
        copies = [entry for entry in shard.entries if entry.source]
        assert {entry.edit for entry in copies} == set(images.EDITS)
        assert all(known[copy.source].source == "" and known[copy.source].label == copy.label for copy in copies)
        assert len({copy.source for copy in copies}) == len(copies) == PLAN.duplicates


def test_writing_goes_on_where_it_stopped_and_mends_what_was_broken(tmp_path: Path) -> None:
    said: list[str] = []
    whole = shards.write(tmp_path, PLAN, "cpu", said.append)
    assert said[-1].startswith(f"[{'#' * shards.BAR}] shard 2 of 2, ")
    kept = whole[0].path.stat().st_mtime_ns
    broken = bytearray(whole[1].path.read_bytes())
    broken[whole[1].entries[0].offset + 99] ^= 1  # one bit of one picture
    whole[1].path.write_bytes(broken)
    said.clear()
    again = shards.write(tmp_path, PLAN, "cpu", said.append)
    assert said[0] == "1 of 2 shards are there, with the right checksums"
    assert again == whole
    assert whole[0].path.stat().st_mtime_ns == kept
    assert {path.suffix for path in tmp_path.iterdir()} == {".tar", ".json"}
    whole[0].path.with_suffix(".json").write_text("{")
    assert shards.write(tmp_path, PLAN, "cpu", silent) == whole


def test_without_room_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="No space left on device: shards need"):
        shards.write(tmp_path, PLAN, "cpu", silent)
    done = CliRunner().invoke(shards.main, [str(tmp_path)])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert done.output.startswith("Error: No space left on device: shards need 2.6 GB")


def test_a_plan_that_cannot_hold_every_edit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 of at least 12 pictures"):
        replace(PLAN, a_shard=11)


# ---------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("interleaved", [False, True])
def test_all_crops_at_once_are_torchs_crops_one_by_one(interleaved: bool) -> None:
    random = np.random.default_rng(0)
    shapes = np.array([(40, 60), (33, 20), (90, 70), (8, 9)])
    pictures = [torch.from_numpy(random.integers(0, 256, (h, w, 3) if interleaved else (3, h, w), dtype=np.uint8)) for h, w in shapes]
    boxes = augment.draw(shapes[:, 0], shapes[:, 1], random)
    boxes = augment.Boxes(boxes.edges, np.array([True, False, True, False]))
    starts = torch.from_numpy(np.cumsum([0, *(p.numel() for p in pictures)])[:-1])
    mine = augment.resample(torch.cat([p.flatten() for p in pictures]), starts, torch.from_numpy(shapes), torch.from_numpy(boxes.edges),
                            torch.from_numpy(boxes.mirrored), 24, interleaved=interleaved)
    torch.testing.assert_close(mine, augment.one_by_one(pictures, boxes, 24, interleaved=interleaved), rtol=0, atol=1e-4)


def test_boxes_lie_in_their_pictures_and_have_the_areas_asked_for() -> None:
    heights, widths = np.full(4000, 375), np.full(4000, 500)
    boxes = augment.draw(heights, widths, np.random.default_rng(0))
    top, left, tall, wide = boxes.edges.T
    assert (top >= 0).all() and (left >= 0).all() and (top + tall <= 375).all() and (left + wide <= 500).all()
    assert 0.24 < (tall * wide / (375 * 500)).min() < 0.27
    assert 0.45 < boxes.mirrored.mean() < 0.55


@pytest.mark.parametrize("decoder", ["pil", "turbo"])
def test_a_host_crop_is_about_that_of_the_other_decoder(decoder: loaders.HostDecoder) -> None:
    jpeg = images.encode(images.originals(1, 96, 128, 3, images.photographs(96, "cpu"))[0][0].numpy())
    mine = loaders.crop(jpeg, decoder, 32, np.random.default_rng(4)).astype(int)
    boxes = augment.draw(np.array([96]), np.array([128]), np.random.default_rng(4))
    top, left, tall, wide = boxes.edges[0]
    part = Image.fromarray(images.decode(jpeg)).crop((left, top, left + wide, top + tall)).resize((32, 32), Image.Resampling.BILINEAR)
    expected = np.asarray(part).transpose(2, 0, 1).astype(int)
    assert np.abs(mine - (expected[:, :, ::-1] if boxes.mirrored[0] else expected)).mean() < 1.5


# ---------------------------------------------------------------------------------------------------- loaders


def test_shards_are_split_among_workers_the_same_way_every_time(corpus: tuple[Shard, ...]) -> None:
    """Two workers read different shards; together they read all; the same seed gives the same order."""
    def keys(seed: int) -> list[list[str]]:
        named = loaders.stream(corpus, seed).batched(24, collation_fn=lambda s: [one["__key__"] for one in s], partial=False)
        data = loaders._loader(named, 2, batch_size=None)
        batches = iter(data)
        found = [next(batches) for _ in range(4)]  # by turns of the two workers: one epoch
        loaders.stop(data)
        return found

    once = keys(7)
    one, other = ({key[:5] for batch in once[worker::2] for key in batch} for worker in (0, 1))
    assert {len(one), len(other), len(one | other)} == {1, 2}
    assert {key for batch in once for key in batch} == {entry.key for entry in entries(corpus)}
    assert keys(7) == once
    assert keys(8) != once


def loader(name: str, corpus: tuple[Shard, ...], batch: int = 8, size: int = 24) -> engine.Ring | engine.Inline | loaders.HostLoader:
    if name in ("pil", "turbo"):
        return loaders.HostLoader.map_style(corpus, name, size, batch, 0, 0, "cpu")
    if name == HOST:
        return loaders.HostLoader.webdataset(corpus, size, batch, 0, 0, "cpu")
    stage = Stage(Torchvision("cpu"), size, "cpu", room=batch * 3 * 128 * 128, fused=name == RING, seed=0)
    raw = loaders.raw_batches(corpus, batch, 0, 0)
    return Ring(raw, stage, batch) if name == RING else Inline(raw, stage)


@pytest.mark.parametrize("name", ["pil", "turbo", HOST, "inline", RING])
def test_every_loader_hands_over_normalised_batches_without_end(name: str, corpus: tuple[Shard, ...]) -> None:
    held = loader(name, corpus)
    try:
        for _ in range(2 * PLAN.shards * PLAN.a_shard // 8 + 1):  # past two epochs
            batch = held.next()
        assert batch.images.shape == (8, 3, 24, 24) and batch.labels.shape == (8,)
        assert -2.1 < float(batch.images.min()) < float(batch.images.max()) < 2.6
        assert 0.2 < float(batch.images.std()) < 2
    finally:
        held.close()


def test_what_the_ring_hands_over_stays_until_the_next_batch_is_asked_for(corpus: tuple[Shard, ...]) -> None:
    ring, inline = loader(RING, corpus), loader("inline", corpus)
    try:
        for _ in range(8):
            mine, expected = ring.next(), inline.next()
            time.sleep(0.01)  # the ring fills its other buffers meanwhile
            assert torch.equal(mine.labels, expected.labels)
            torch.testing.assert_close(mine.images, expected.images, rtol=0, atol=1e-4)
        assert 0 <= (ring.depth() or 0) < engine.SLOTS
        assert len(ring.decode_rates()) >= 8 and ring.decode_rates() == []
    finally:
        ring.close()
        inline.close()


def test_a_loaders_workers_are_forked_when_it_is_made_and_a_rings_thread_starts_at_its_first_batch(corpus: tuple[Shard, ...]) -> None:
    """So that several can be made before any thread runs."""
    host = loaders.HostLoader.map_style(corpus, "turbo", 24, 8, 1, 0, "cpu")
    raw = loaders.raw_batches(corpus, 8, 1, 0)
    ring = Ring(raw, Stage(Torchvision("cpu"), 24, "cpu", room=8 * 3 * 128 * 128, fused=True, seed=0), 8)
    try:
        assert len(host._data._iterator._workers) == len(raw._iterator._workers) == 1
        assert ring._produced is None
        assert host.next().images.shape == ring.next().images.shape == (8, 3, 24, 24)
        assert ring._produced is not None
    finally:
        host.close()
        ring.close()


def test_a_ring_that_nobody_asked_is_closed(corpus: tuple[Shard, ...]) -> None:
    loader(RING, corpus).close()


class Stuck(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, at: int) -> int:
        time.sleep(1)
        return at


def test_every_stream_gets_a_queue_of_its_own_unless_the_environment_or_an_earlier_start_says_otherwise(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine.QUEUES, "1")
    assert engine.own_queues().startswith("1 hardware queues")
    assert os.environ[engine.QUEUES] == "1", "what the environment says stays"
    monkeypatch.delenv(engine.QUEUES)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert engine.own_queues().startswith("CUDA had started without CUDA_DEVICE_MAX_CONNECTIONS=32")
    assert engine.QUEUES not in os.environ, "it would say what is not so"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert engine.own_queues().startswith("32 hardware queues")
    assert os.environ[engine.QUEUES] == "32"


def test_a_worker_that_never_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "ANSWER_S", 0.2)
    data = loaders._loader(Stuck(), 1, batch_size=1)
    with pytest.raises(RuntimeError, match=r"timed out after 0\.2 seconds"):
        next(iter(data))
    loaders.stop(data)


def test_a_batch_of_bytes_is_page_locked_whole(corpus: tuple[Shard, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    raw = next(iter(loaders.raw_batches(corpus, 8, 0, 0)))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda held: held.clone())  # which needs a GPU
    pinned = torch.utils.data._utils.pin_memory.pin_memory(raw)
    assert isinstance(pinned, loaders.Raw) and pinned.joined is not raw.joined
    assert all(torch.equal(one, other) for one, other in zip(pinned.jpegs(), raw.jpegs(), strict=True))
    assert torch.equal(pinned.labels, raw.labels)


def test_resident_data_are_copies_of_a_loaders_batches(corpus: tuple[Shard, ...]) -> None:
    ring, again = loader(RING, corpus), loader(RING, corpus)
    try:
        resident = Resident.of(ring)
        for _ in range(8):
            mine, expected = resident.next(), again.next()
            assert torch.equal(mine.images, expected.images) and torch.equal(mine.labels, expected.labels)
    finally:
        ring.close()
        again.close()


class Broken:
    interleaved = False

    def __call__(self, jpegs: Sequence[Tensor]) -> list[Tensor]:
        raise RuntimeError(f"no such marker in {len(jpegs)} pictures")


def test_what_breaks_in_the_rings_thread_is_raised_in_the_training_loop(corpus: tuple[Shard, ...]) -> None:
    ring = Ring(loaders.raw_batches(corpus, 8, 0, 0), Stage(Broken(), 24, "cpu", room=0, fused=True, seed=0), 8)
    with pytest.raises(RuntimeError, match="no such marker in 8 pictures"):
        ring.next()
    ring.close()


def test_pictures_that_are_above_the_room_are_refused(corpus: tuple[Shard, ...]) -> None:
    ring = Ring(loaders.raw_batches(corpus, 8, 0, 0), Stage(Torchvision("cpu"), 24, "cpu", room=999, fused=True, seed=0), 8)
    with pytest.raises(ValueError, match="bytes of pixels is above the engine's room of 999"):
        ring.next()
    ring.close()


def test_a_decoder_that_skips_or_changes_pictures_is_found(corpus: tuple[Shard, ...]) -> None:
    class Shifted(Torchvision):
        def __call__(self, jpegs: Sequence[Tensor]) -> list[Tensor]:
            return [picture.add(3) for picture in super().__call__(jpegs)]

    class Cut(Torchvision):
        def __call__(self, jpegs: Sequence[Tensor]) -> list[Tensor]:
            return [picture[:, 1:] for picture in super().__call__(jpegs)]

    sample = [loaders.as_tensor(jpeg) for jpeg in list(shards.jpegs(corpus))[:4]]

    def stage(decoder: engine.BatchDecoder) -> Stage:
        return Stage(decoder, 24, "cpu", room=0, fused=False, seed=0)

    assert run.parity(stage(Torchvision("cpu")), sample, interleaved=False) == [0.0] * 4
    assert min(run.parity(stage(Shifted("cpu")), sample, interleaved=False)) >= 2.9
    with pytest.raises(RuntimeError, match=r"a picture of \(48, 64, 3\) was decoded as \(47, 64, 3\)|a picture of"):
        run.parity(stage(Cut("cpu")), sample, interleaved=False)


# ---------------------------------------------------------------------------------------------------- steps


class Slow(Resident):
    """A loader whose every batch comes after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__([Batch(torch.zeros(1), torch.zeros(1))])
        self.seconds = seconds

    def next(self) -> Batch:
        time.sleep(self.seconds)
        return super().next()


def test_idle_is_the_wait_and_busy_is_the_step() -> None:
    told: list[tuple[int | None, float]] = []
    steps = drive(Slow(0.02), FixedStep(0.01), 5, "cpu", each=lambda depth, wait: told.append((depth, wait)))
    assert len(steps) == len(told) == 5
    assert all(step.idle_ms >= step.wait_ms >= 20 and step.busy_ms >= 10 for step in steps)
    assert [wait for _, wait in told] == [step.wait_ms for step in steps]
    assert drive(Slow(0), FixedStep(0), 3, "cpu", until=0.0) != [] and drive(Slow(0), FixedStep(0), 0, "cpu") == []


def test_shares_and_windows_of_known_steps() -> None:
    steps = [Step(1.0, 1.0, 3.0, None), Step(0.0, 0.0, 4.0, 2), Step(2.0, 3.0, 1.0, 0)]
    assert wall_ms(steps) == 12.0
    assert idle_percent(steps) == pytest.approx(100 * 4 / 12)
    assert [len(window) for window in windows(steps * 8, 10)] == [10, 14]
    assert [len(window) for window in windows(steps, 10)] == [3]


def test_the_processors_use_is_seen_and_a_gpu_that_is_not_there_is_said() -> None:
    with watched("cpu") as usage:
        until = time.monotonic() + 0.15
        while time.monotonic() < until:
            math.sqrt(2)
    assert usage.cpu is not None and 0 < usage.cpu <= 100
    assert (usage.gpu, usage.unseen) == ([], "no GPU in this run")


# ---------------------------------------------------------------------------------------------------- MinHash


def test_signatures_are_datasketchs_bit_for_bit() -> None:
    words = torch.randint(2**32, (20, 37), generator=torch.Generator().manual_seed(0))
    words[0] = torch.tensor([0, 1, 2**31, 2**32 - 1] + [5] * 33)
    for row, mine in zip(words.tolist(), minhash.signatures(words), strict=True):
        sketch = MinHash(minhash.PERMUTATIONS, hashfunc=lambda word: word)
        for word in row:
            sketch.update(word)
        assert sketch.hashvalues.tolist() == mine.tolist()
    assert torch.equal(torch.from_numpy(minhash.by_datasketch(words.numpy())), minhash.signatures(words))


def test_signatures_in_parts_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.randint(2**32, (9, 11), generator=torch.Generator().manual_seed(0))
    whole = minhash.signatures(words)
    monkeypatch.setattr(minhash, "ROOM_BYTES", 1)
    assert torch.equal(minhash.signatures(words), whole)


def test_agreement_estimates_jaccard() -> None:
    one, other = torch.arange(1000)[None], torch.arange(500, 1500)[None]
    share = (minhash.signatures(one) == minhash.signatures(other)).double().mean()
    assert float(share) == pytest.approx(1 / 3, abs=4 * 0.042)


def test_shingles_of_text_ignore_case_and_punctuation_and_padding_changes_no_set() -> None:
    words = minhash.text_shingles(["Hello, World", "hello world!", "hello there, world", "hi"])
    assert torch.equal(words[0].unique(), words[1].unique())
    assert len(words[0].unique()) == len("hello world") - minhash.GRAM + 1
    assert len(words[3].unique()) == 1


def test_shingles_of_a_picture_withstand_a_mirror_but_not_another_picture() -> None:
    pictures, _, _ = images.originals(3, 96, 128, 0, images.photographs(128, "cpu"))
    thumbs = torch.stack([images.thumbnail(p.permute(2, 0, 1), minhash.SIDE) for p in pictures])
    words, mirrored = minhash.image_shingles(thumbs), minhash.image_shingles(thumbs.flip(-1))
    assert words.shape == (3, 98) and all(len(row.unique()) == 98 for row in words)
    assert torch.equal(words, mirrored)
    assert float((words[0] == words[1]).double().mean()) < 0.4


def test_candidates_share_a_band_and_clusters_are_connected() -> None:
    sketches = torch.arange(4 * minhash.PERMUTATIONS).view(4, -1).clone()
    lsh = minhash.index(0.5)
    sketches[3, :lsh.r] = sketches[1, :lsh.r]  # the first band, and nothing else
    assert minhash.candidates(sketches[:, None], lsh) == {(1, 3)}
    assert minhash.alike(sketches[:, None], {(1, 3)}, lsh.r / minhash.PERMUTATIONS) == {(1, 3)}
    assert minhash.alike(sketches[:, None], {(1, 3)}, (lsh.r + 1) / minhash.PERMUTATIONS) == set()
    assert minhash.clusters(6, {(4, 5), (1, 3), (3, 4)}) == [0, 1, 2, 1, 1, 1]


def test_a_pair_is_found_where_one_in_any_view_is_like_the_other_as_it_is() -> None:
    sketches = torch.arange(3 * 2 * minhash.PERMUTATIONS).view(3, 2, -1).clone()
    sketches[0, 1] = sketches[2, 0]  # the second view of the first is the third
    sketches[1, 1] = sketches[0, 1] + 1
    assert minhash.candidates(sketches, minhash.index(0.5)) == {(0, 2)}
    assert minhash.alike(sketches, {(0, 1), (0, 2)}, 0.9) == {(0, 2)}
    sketches[0, 0] = sketches[1, 1]  # and now the second view of the second is the first: the later one may be the one that is cropped
    assert (0, 1) in minhash.candidates(sketches, minhash.index(0.5))
    assert minhash.alike(sketches, {(0, 1), (0, 2)}, 0.9) == {(0, 1), (0, 2)}
    views = sketches.clone()
    views[1, 1] = views[2, 1]  # alike in their crops alone
    assert (1, 2) not in minhash.candidates(views, minhash.index(0.5))


def test_a_picture_is_looked_for_as_its_own_crops() -> None:
    picture = torch.arange(3 * 400 * 800).view(3, 400, 800)
    plain, *crops = minhash.views(picture)
    assert torch.equal(plain, picture)
    assert [(tuple(crop.shape[1:]), int(crop[0, 0, 0])) for crop in crops] == [
        ((380, 760), top * 800 + left) for top, left in ((5, 10), (5, 30), (15, 10), (15, 30))]


def test_the_s_curve_is_the_one_of_theory() -> None:
    curve = minhash.s_curve(minhash.index(0.5), 120, 3, "cpu")
    assert [point.theory for point in curve] == sorted(point.theory for point in curve)
    assert curve[0].theory < 0.01 and curve[-1].theory > 0.99
    assert duplicates.curve_gap(curve) < 4.5
    assert duplicates.curve_gap([CurvePoint(0.5, 0, 400, 0.5)]) == pytest.approx(20)


def test_planted_pairs_are_found_and_held_against_the_truth(corpus: tuple[Shard, ...]) -> None:
    every = entries(corpus)
    thumbs = duplicates.thumbnails(corpus, Stage(Torchvision("cpu"), 24, "cpu", room=0, fused=False, seed=0))
    found, pairs = duplicates.find_pictures(thumbs, every)
    truth = {tuple(sorted((at, source))) for at, source in enumerate(duplicates.sources(every)) if source >= 0}
    assert duplicates.planted(every).keys() == truth
    assert (found.pairs, found.right) == (len(pairs), len(pairs & truth))
    assert [kind.edit for kind in found.kinds] == list(images.EDITS)
    assert sum(kind.found for kind in found.kinds) == found.right and found.kinds[0].found == found.kinds[0].planted == 2
    assert found.right >= 0.9 * len(truth)


def test_a_split_tests_on_copies_of_what_it_trains_on() -> None:
    sources = [-1] * 40 + [0, 1, 2, 3]
    parts = leakage.split(sources, 20, seed=0)
    assert len(parts.train) == 20 and len(parts.test) == 8 and int(parts.planted.sum()) == 4
    assert {sources[at] for at in parts.test[parts.planted].tolist()} <= set(parts.train.tolist())
    assert not set(parts.test.tolist()) & set(parts.train.tolist())
    assert not {0, 1, 2, 3} & set(parts.test[~parts.planted].tolist())


def test_leaked_copies_raise_the_score_and_removing_them_takes_it_back() -> None:
    """Labels that are coin tosses: only memory can be right, and only on the copies."""
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (48, 3, 16, 16), generator=random, dtype=torch.uint8)
    pictures = torch.nn.functional.interpolate(pictures.float(), 32).to(torch.uint8)
    labels = torch.randint(8, (48,), generator=random)
    pictures, labels = torch.cat((pictures, pictures[:12])), torch.cat((labels, labels[:12]))
    sources = [-1] * 48 + list(range(12))
    cluster = [*range(48), *range(12)]
    leak = leakage.leak(pictures, labels, sources, cluster, most=36, steps=50, seed=1)
    assert (leak.tested, leak.removed, leak.planted) == (24, 12, 12)
    assert leak.cleaned == leak.clean and leak.leaky > leak.clean + 25


# ---------------------------------------------------------------------------------------------------- the dashboard


def steps_of(idle: float, count: int = 30) -> list[Step]:
    return [Step(idle, idle, 10.0, 1) for _ in range(count)]


def test_prometheus_scrapes_the_run() -> None:
    with dashboard.Exporter() as exporter:
        exporter.stepped(RING, 2, 500.0)
        exporter.stepped(RING, 1, 250.0)
        exporter.window(RING, steps_of(10.0), 64, 28_000.0, 97.0)
        connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=5)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert (answer.status, answer.getheader("Content-Type", "").split(";")[0]) == (200, "text/plain")
        assert run._scraped(exporter.port).startswith("The Prometheus endpoint served 9 series")
        port = exporter.port
    values = {line.split("{")[0].split()[0]: float(line.split()[-1]) for line in text.splitlines() if not line.startswith("#")}
    p = dashboard.PREFIX
    assert values[f"{p}_steps_total"] == 2 and values[f"{p}_input_wait_seconds_total"] == 0.75
    assert values[f"{p}_queue_depth_batches"] == 1 and values[f"{p}_input_idle_ratio"] == 0.5
    assert values[f"{p}_images_per_second"] == 3200 and values[f"{p}_decoded_images_per_second"] == 28_000
    assert values[f"{p}_gpu_utilisation_ratio"] == 0.97
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/metrics")


def test_the_page_shows_steps_before_and_after(browser: Browser, tmp_path: Path) -> None:
    tracks = {name: dashboard.Track(title, steps_of(idle), rates, 640 / (0.3 + 0.03 * idle)) for name, title, idle, rates in (
        ("pil", "PIL </script><b>in process", 30.0, []), (RING, "ring", 0.0, [20_000.0, 30_000.0]), (PEER, "the peer", 10.0, []))}
    (tmp_path / "dashboard.json").write_text(dashboard.content(tracks, RING, batch=64, demand=2500.0, device="a device"), encoding="utf-8")
    done = CliRunner().invoke(dashboard.main, [str(tmp_path)])
    path = tmp_path / "dashboard.html"
    assert (done.exit_code, done.output) == (0, f"{path}\n")
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(path.as_uri())
    assert page.locator("#summary").inner_text() == ("a device, batch 64. On data that is on the device already the network takes 2,500 "
                                                     "images/s: that is the demand.")
    rows = page.locator("#loaders tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["PIL </script><b>in process", "ring", "the peer"]
    assert rows[0].split("\t")[3:] == ["75.0%", "30.0 ms"] and rows[1].split("\t")[3:] == ["0.0%", "0.0 ms"]

    def drawn(side: str, kind: str) -> float:
        return sum(float(bar.get_attribute("width") or 0) for bar in page.locator(f"#{side} rect.{kind}").all())

    assert drawn("left", "idle") / drawn("left", "busy") == pytest.approx(3, rel=0.02)
    assert page.locator("#right rect.idle").count() == 0
    assert page.locator("#left").get_by_text("not told by this loader").count() == 1  # it decodes nothing on the device
    page.select_option("#after", "pil")
    assert drawn("right", "idle") / drawn("right", "busy") == pytest.approx(3, rel=0.02)
    assert faults == []
    page.close()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"tracks":[]}'])
def test_what_is_no_dashboard_ends_in_one_line(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "dashboard.json").write_text(content)
    done = CliRunner().invoke(dashboard.main, [str(tmp_path)])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert done.output.startswith(f"Error: {tmp_path}/dashboard.json cannot be shown: ")


# ---------------------------------------------------------------------------------------------------- findings


def story(ring_idle: float = 0.5) -> Story:
    """A run on a GPU as it would be: data on the device takes 10 ms a step, the ring waits `ring_idle` ms more, the host 10."""
    arms = {RESIDENT: 0.0, AGAIN: 0.0, RING: ring_idle, HOST: 10.0}
    blocks: dict[str, list[Sequence[Step]]] = {arm: [steps_of(idle, 40) for _ in range(8)] for arm, idle in arms.items()}
    rungs = [Rung(HOST, 16, "libjpeg-turbo, host", 5000.0, steps_of(10.0)),
             Rung(RING, 8, "torchvision, device", 9000.0, steps_of(ring_idle)),
             Rung(PEER, 8, "nvImageCodec, device", failed="nvImageCodec left 3 of 256 pictures undecoded")]
    told = Story("cuda", 64, 224, True, 6400.0, 5000.0, 1800.0, 88.0, rungs, blocks)
    told.usage.jpeg = [30.0, 50.0]
    told.usage.gpu, told.errors = [96.0, 97.0, 98.0, 97.0], {"torchvision": [0.5, 1.25]}
    told.canary = [("naive", 19, 20), ("ours", 0, 20)]
    return told


def test_the_ratio_is_of_blocks_that_took_turns_and_idle_is_its_share() -> None:
    found = observed(story())
    check_kept(WORKLOAD, found)
    values = {metric.name: metric.estimate.value for metric in found.metrics}
    assert values["loader_ratio"] == pytest.approx(10 / 10.5, rel=1e-5)
    assert values["input_idle"] == pytest.approx(100 * 0.5 / 10.5, rel=1e-5)
    assert values["host_ratio"] == 0.5 and values["ring_over_host"] == pytest.approx(20 / 10.5, rel=1e-5)
    assert values["jpeg_engines"] == 40.0
    assert (values["gpu_utilisation"], values["decode_error"], values["noise"]) == (97.0, 1.25, 0.0)
    assert (values["canary_naive"], values["canary_ours"]) == (0.95, 0.0)
    assert set(dict(found.not_measured)) == {"duplicate_precision", "duplicate_recall", "signatures_same"}
    ladder = next(table for table in found.tables if table.name == "ladder")
    assert ladder.column("of demand") == (50.0, pytest.approx(100 * 10 / 10.5, rel=1e-5), None)
    assert ladder.column("note")[2] == "nvImageCodec left 3 of 256 pictures undecoded"
    assert any("nvImageCodec ring was not measured" in note for note in found.notes)


def test_too_few_blocks_judge_nothing_and_say_so() -> None:
    told = story()
    told.blocks = {arm: blocks[:5] for arm, blocks in told.blocks.items()}
    told.usage.gpu, told.usage.unseen = [], "NVML says Not Supported"
    found = observed(told)
    check_kept(WORKLOAD, found)
    missing = dict(found.not_measured)
    assert missing["loader_ratio"] == missing["input_idle"] == "the ring was timed over 200 steps"
    assert missing["gpu_utilisation"] == "NVML says Not Supported"


def test_a_consumer_that_nothing_starves_is_said() -> None:
    assert not any("no input size starves it" in note for note in observed(story()).notes)
    told = story()
    told.starved = False
    assert any("no input size starves it" in note for note in observed(told).notes)


def test_no_round_of_the_canary_is_no_metric() -> None:
    told = story()
    told.canary = [("naive", 0, 0), ("ours", 0, 0)]
    found = observed(told)
    check_kept(WORKLOAD, found)
    assert not any(metric.name.startswith("canary") for metric in found.metrics)


def test_the_peer_and_the_host_are_compared_in_rounds_of_their_own_and_the_ring_is_judged_in_its_own() -> None:
    told = story()
    told.beside = {arm: [steps_of(idle, 40) for _ in range(6)] for arm, idle in ((RESIDENT, 0.0), (RING, 1.0), (PEER, 2.0), (HOST, 5.0))}
    told.blocks = {arm: told.blocks[arm] for arm in (RESIDENT, AGAIN, RING)}
    told.parts = [("shards", 41.5)]
    found = observed(told)
    check_kept(WORKLOAD, found)
    values = {metric.name: metric.estimate.value for metric in found.metrics}
    assert values["loader_ratio"] == pytest.approx(10 / 10.5, rel=1e-5)
    assert (values["host_ratio"], values["peer_ratio"]) == pytest.approx((10 / 15, 10 / 12), rel=1e-5)
    assert (values["ring_over_host"], values["ring_over_peer"]) == pytest.approx((15 / 11, 12 / 11), rel=1e-5)
    assert next(table for table in found.tables if table.name == "parts").rows == (("shards", 41.5),)
    assert {step["part"] for step in json.loads(gzip.decompress(every_step(told)))} == {"ladder", "judged", "beside"}


def test_the_page_shows_the_rings_judged_blocks_where_its_rung_is_missing() -> None:
    told = story()
    assert len(told.tracks()[RING].steps) == 30
    told.rungs = told.rungs[:1]
    assert len(told.tracks()[RING].steps) == 8 * 40
    told.blocks = {}
    assert list(told.tracks()) == [HOST]


def test_every_step_is_in_the_file() -> None:
    steps = json.loads(gzip.decompress(every_step(story())))
    assert len(steps) == 2 * 30 + 4 * 8 * 40
    assert [(step["loader"], step["part"]) for step in steps[60::320]] == [(arm, "judged") for arm in (RESIDENT, AGAIN, RING, HOST)]
    assert steps[0] == {"loader": HOST, "part": "ladder", "block": None, "step": 0, "wait_ms": 10.0, "idle_ms": 10.0,
                        "busy_ms": 10.0, "depth": 1}


@pytest.fixture
def bench(corpus: tuple[Shard, ...], tmp_path: Path) -> Iterator[run.Bench]:
    """A run on a CPU, just before its ladder."""
    with dashboard.Exporter() as exporter:
        yield run.Bench(Context(tmp_path, "cpu", smoke=True, progress=silent), replace(run.SMOKE, rungs=("pil", PEER), readers=0), corpus,
                        FixedStep(0), exporter, Story("cpu", 8, size=24, demand=1000.0), time.monotonic())


def test_a_peer_that_fails_is_a_row_with_the_reason_and_ours_that_fails_is_an_error(
        bench: run.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.peer = Broken()
    run._ladder(bench)
    ours, peer = bench.story.rungs
    assert len(ours.steps) == 20 and not ours.failed
    assert (list(peer.steps), peer.failed, bench.peer_missing) == ([], *["no such marker in 8 pictures"] * 2)
    assert bench.peer is None  # and takes no part in the judged blocks
    bench.sizes = replace(bench.sizes, rungs=(RING,))
    monkeypatch.setattr(run, "Torchvision", lambda _: Broken())
    with pytest.raises(RuntimeError, match="no such marker"):
        run._ladder(bench)


def test_a_hosts_rung_that_fails_is_a_row(bench: run.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.sizes = replace(bench.sizes, rungs=("pil", "turbo"), workers=0)
    monkeypatch.setattr(bench.consumer, "step_s", 0.001)

    def dead(self: loaders.Pictures, at: int) -> loaders.Cropped:
        if self._decoder == "turbo":
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.\nIt is possible that")
        return np.zeros((3, 24, 24), np.uint8), 0

    monkeypatch.setattr(loaders.Pictures, "__getitem__", dead)
    run._ladder(bench)
    pil, turbo = bench.story.rungs
    assert (len(pil.steps), turbo.failed) == (20, "DataLoader worker (pid 7) is killed by signal: Bus error.")


def test_where_time_has_run_out_what_is_not_judged_is_left_out_and_named_and_what_is_judged_is_measured(bench: run.Bench) -> None:
    bench.began -= run.BUDGET_S
    run._ladder(bench)
    run._beside(bench)
    bench.plain, bench.story.duplicates = torch.zeros(1), duplicates.Report(1, (), (1, 1), measure.exact(1.0), (1.0, 1.0), (), ())
    run._leaks(bench)
    run._judged(bench)
    assert {rung.failed for rung in bench.story.rungs if rung.name != PEER} == {"time ran out"}
    bench.story.duplicates = None
    found = observed(bench.story)
    check_kept(WORKLOAD, found)
    assert {"loader_ratio", "input_idle"} <= {metric.name for metric in found.metrics}
    assert "Time ran out after 0 of 6 rounds of GPU-resident, ring, WebDataset turbo" in found.notes
    assert "Time ran out after 0 of 2 seeds of the leakage" in found.notes
    bench.began -= run.STOP_S
    run._judged(bench)
    assert dict(observed(bench.story).not_measured)["loader_ratio"] == "the ring was timed over 0 steps"


def test_the_ring_falls_back_on_torchvision_where_the_peers_decoder_fails_in_it(bench: run.Bench) -> None:
    bench.story.engine, bench.peer = PEER, Broken()
    run._judged(bench)
    assert {arm: len(blocks) for arm, blocks in bench.story.blocks.items()} == dict.fromkeys((RESIDENT, AGAIN, RING), run.SMOKE.blocks)
    assert (bench.story.engine, bench.no_peer) == ("torchvision", "no such marker in 8 pictures")
    assert "for nvImageCodec failed: no such marker in 8 pictures" in bench.story.notes[-1]


def test_rungs_worth_most_are_measured_first_and_shown_in_the_ladders_order(bench: run.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def rung(_: run.Bench, name: str, workers: int, decoder: str) -> Rung:
        measured.append(name)
        return Rung(name, workers, decoder, 1.0, steps_of(1.0))

    monkeypatch.setattr(run, "_rung", rung)
    bench.sizes, bench.peer = replace(bench.sizes, rungs=run.RUNGS), Broken()
    run._ladder(bench)
    assert tuple(measured) == run.URGENT
    assert [rung.name for rung in bench.story.rungs] == list(run.RUNGS)


def test_a_ring_that_breaks_is_said_and_the_blocks_it_had_are_kept(bench: run.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    train, calls = run._train, 0

    def breaks(*of: object) -> list[Step]:
        nonlocal calls
        calls += 1
        if calls > 6 * 6 + 3:  # six rounds, the first of which is not counted, and one block
            raise RuntimeError("the ring broke")
        return train(*of)

    monkeypatch.setattr(run, "_train", breaks)
    with pytest.raises(RuntimeError, match="the ring broke"):
        run._judged(bench)
    assert [len(blocks) for blocks in bench.story.blocks.values()] == [6, 5, 5]
    bench.story.blocks[AGAIN].append(bench.story.blocks[AGAIN][0])
    assert bench.story.over(RESIDENT, AGAIN) is not None and bench.story.over(RESIDENT, RING) is None
    bench.story.blocks[RESIDENT].append(bench.story.blocks[RESIDENT][0])
    assert bench.story.over(RESIDENT, AGAIN) is not None  # by those rounds that both took part in


def test_what_fails_after_the_judged_blocks_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: run.Bench) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure\nand more")

    for part in ("_duplicates", "_ladder", "_beside"):
        monkeypatch.setattr(run, part, fails)
    found = run.run(Context(tmp_path, "cpu", smoke=True, progress=silent))
    check_kept(WORKLOAD, found)
    assert {"loader_ratio", "input_idle", "decode_error"} <= {metric.name for metric in found.metrics}
    assert {"duplicate_precision", "duplicate_recall", "signatures_same"} <= set(dict(found.not_measured))
    assert sum(note.endswith("is missing, for it failed: CUDA error: unspecified launch failure") for note in found.notes) == 3
    assert any(note.startswith("The Prometheus endpoint served") for note in found.notes)
    assert [name for name, _ in next(table for table in found.tables if table.name == "parts").rows] == [
        "shards", "decoders", "size", "judged", "leaks", "scrape"]


def test_the_input_is_the_largest_that_starves_and_hopeless_ones_are_not_tried(bench: run.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def drive(_: object, __: object, steps: int, *___: object) -> list[Step]:
        tried.append(bench.story.size)
        return [Step(0.0, 0.0, 1000 * bench.story.batch / (500 * (64 / bench.story.size) ** 2), None)] * steps

    monkeypatch.setattr(run, "_alone", lambda *_: 1000.0)
    monkeypatch.setattr(run, "drive", drive)
    bench.sizes = replace(bench.sizes, inputs=(64, 48, 40, 32, 24), workers=0)
    run._choose_size(bench)
    assert (tried, bench.story.starved) == ([64, 64, 40, 40], True)  # 48 would ask for 889 of the 1250; each twice, warm first
    assert bench.story.demand == pytest.approx(1280)
    bench.sizes, bench.story.demand = replace(bench.sizes, inputs=(64, 62)), 9999.0
    tried.clear()
    run._choose_size(bench)
    assert (tried, bench.story.starved) == ([64, 64, 62, 62], False)  # the smallest is tried in any case


def test_the_ring_takes_a_much_faster_decoder_and_then_has_no_peer(bench: run.Bench) -> None:
    told = bench.story
    told.errors = {"torchvision": [0.5], PEER: [0.1]}
    told.decoders = {"torchvision": [10.0] * 6, PEER: [8.5] * 6}
    run._choose_engine(told, silent)
    assert (told.engine, bench.no_peer) == ("torchvision", "it was not tried")
    told.decoders = {"torchvision": [10.0] * 6, PEER: [4.0] * 6}
    run._choose_engine(told, silent)
    bench.peer = Broken()
    assert (told.engine, bench.no_peer) == (PEER, "it is the ring's own decoder")
    assert bench.workers_of(RING)[1].startswith("nvImageCodec") and bench.make("augment")._stage._decoder is bench.peer
    assert next(m for m in observed(told).metrics if m.name == "decode_error").detail == "1 pictures, nvImageCodec"
    told.engine, told.errors = "torchvision", {"torchvision": [0.5], PEER: [3.0]}
    run._choose_engine(told, silent)
    assert told.engine == "torchvision"  # fast, and wrong


def test_a_batch_that_the_shards_cannot_fill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch: at most 256, for 1 readers share 256 pictures"):
        run.run(Context(tmp_path, "cpu", smoke=True, batch=257, progress=silent))


def test_too_little_shared_memory_is_said_before_a_worker_dies_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    with pytest.raises(OSError, match=r"workers need 0\.7 MB of /dev/shm, and 0\.0 MB are free"):
        run.run(Context(tmp_path, "cpu", smoke=True, progress=silent))


def test_there_are_no_more_workers_than_shared_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 4 * 10**9}))
    told, sizes = Story("cuda", 256), replace(run.FULL, workers=32, readers=16)
    fitted = run._fitted(sizes, told)
    assert fitted.workers == (4 * 10**9 - 2 * 16 * 3 * 256 * 110_000) // (3 * 256 * 3 * 224 * 224) == 11
    assert told.notes == ["11 workers and not 32, for 4,000 MB of /dev/shm are free"]
    assert run._fitted(replace(sizes, workers=11), told).workers == 11 and len(told.notes) == 1


# ---------------------------------------------------------------------------------------------------- on a GPU


@pytest.fixture
def photographs_on_gpu() -> list[Tensor]:
    pixels, _, _ = images.originals(128, shards.FULL.height, shards.FULL.width, 0, images.photographs(512, "cuda"))
    return [loaders.as_tensor(images.encode(p.numpy())) for p in pixels]


def gpu_stage(fused: bool = False) -> Stage:
    return Stage(Torchvision("cuda"), 128, "cuda", room=128 * 3 * 375 * 500 if fused else 0, fused=fused, seed=0)


@pytest.mark.gpu
def test_decoding_by_the_stream_rule_overwrites_nothing_and_the_naive_call_does(photographs_on_gpu: list[Tensor]) -> None:
    stage, size = gpu_stage(), 3 * shards.FULL.height * shards.FULL.width
    ours: Callable[[Sequence[Tensor]], object] = lambda jpegs: run._decode(stage, jpegs)  # noqa: E731  one name for both calls
    ours(photographs_on_gpu)  # the decoder's own start
    assert canary.corrupted(ours, photographs_on_gpu, size, 20) == (0, 20)
    naive, counted = canary.corrupted(Torchvision("cuda"), photographs_on_gpu, size, 20)
    assert counted == 20, "decoding began before the stream was idle"
    if torch.cuda.get_device_capability() == (9, 0):
        assert naive > 0, "this torchvision no longer has the race: the canary, and the rule, can go"


@pytest.mark.gpu
def test_gpu_decoding_is_libjpegs(photographs_on_gpu: list[Tensor]) -> None:
    assert max(run.parity(gpu_stage(), photographs_on_gpu, interleaved=False)) <= 2.0


@pytest.mark.gpu
def test_the_ring_on_the_gpu_hands_over_what_the_cpu_makes(tmp_path: Path) -> None:
    corpus = shards.write(tmp_path, PLAN, "cuda", silent)
    stages = [Stage(Torchvision(device), 24, device, room=8 * 3 * 128 * 128, fused=device == "cuda", seed=0) for device in ("cuda", "cpu")]
    raw = [loaders.raw_batches(corpus, 8, 0, 0) for _ in stages]
    ring, inline = Ring(raw[0], stages[0], 8), Inline(raw[1], stages[1])
    try:
        for _ in range(6):
            mine, expected = ring.next(), inline.next()
            assert torch.equal(mine.labels.cpu(), expected.labels)
            assert float((mine.images.cpu().float() - expected.images).abs().mean()) < 2 / augment.DEVIATION
    finally:
        ring.close()
        inline.close()


@pytest.mark.gpu
def test_a_captured_step_trains_as_one_that_is_launched() -> None:
    random = torch.Generator("cuda").manual_seed(0)
    batches = [Batch(torch.randn(16, 3, 64, 64, generator=random, device="cuda").to(torch.bfloat16, memory_format=torch.channels_last),
                     torch.randint(8, (16,), generator=random, device="cuda")) for _ in range(3)]
    captured, launched = Training(0), Training(0)
    for batch in (batches[0],) * 3:  # what capturing takes to warm up
        launched._step(batch)
    for batch in (batches[0], *batches):
        captured(batch)
    for batch in batches:
        launched._step(batch)
    assert captured.uncaptured == ""
    for mine, expected in zip(captured.model.parameters(), launched.model.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0.05, atol=0.02)
    captured(Batch(batches[0].images[:8], batches[0].labels[:8]))  # another shape is captured anew
    assert captured.uncaptured == "" and captured._input is not None and len(captured._input.labels) == 8


@pytest.mark.gpu
def test_signatures_on_the_gpu_are_datasketchs() -> None:
    words = torch.randint(2**32, (64, 98), generator=torch.Generator().manual_seed(0))
    assert torch.equal(minhash.signatures(words.cuda()).cpu(), torch.from_numpy(minhash.by_datasketch(words.numpy())))


@pytest.mark.gpu
def test_stamps_measure_the_gpus_time() -> None:
    start = measure.stamp("cuda")
    torch.cuda._sleep(50_000_000)
    end = measure.stamp("cuda")
    assert measure.host_ms(start, end) < measure.device_ms(start, end)
