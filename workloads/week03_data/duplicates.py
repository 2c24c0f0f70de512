"""Near-duplicates in the shards: found by MinHash in pictures and captions, and held against what was planted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workloads import measure
from workloads.spec import Estimate
from workloads.week03_data import images, minhash
from workloads.week03_data.engine import Stage
from workloads.week03_data.leakage import Leak
from workloads.week03_data.loaders import as_tensor
from workloads.week03_data.shards import Entry, Shard, jpegs

AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Kind:
    """How many of the pairs made by one kind of edit were found; in pictures (`of` "image") or captions ("text")."""

    of: str
    edit: str
    found: int
    planted: int

    @property
    def recall(self) -> Estimate:
        return measure.share(self.found, self.planted)


@dataclass(frozen=True, slots=True)
class Found:
    """What one kind of shingle found: pairs, how many of them were planted, and recall by kind of edit."""

    of: str
    pairs: int
    right: int
    kinds: tuple[Kind, ...]
    rows: int
    bands: int

    @property
    def precision(self) -> Estimate | None:
        return measure.share(self.right, self.pairs) if self.pairs else None

    @property
    def worst(self) -> Kind:
        """The kind of edit least often found."""
        return min(self.kinds, key=lambda kind: kind.found / kind.planted)


@dataclass(frozen=True, slots=True)
class Report:
    """All of the week's second half."""

    pictures: int
    found: tuple[Found, ...]
    same_signatures: tuple[int, int]  # equal to datasketch's, of how many
    speedup: Estimate
    per_second: tuple[float, float]  # signatures a second, ours and datasketch's
    curve: tuple[minhash.CurvePoint, ...]
    leaks: tuple[Leak, ...]


def thumbnails(shards: Sequence[Shard], stage: Stage) -> Tensor:
    """(N, V, 3, SIDE, SIDE) uint8 of every picture in each of its views, decoded by the engine's planar decoder."""
    every = [as_tensor(jpeg) for jpeg in jpegs(shards)]
    made = []
    with stage.alone():
        for first in range(0, len(every), AT_ONCE):
            for picture in stage.decode(every[first:first + AT_ONCE]):
                made.append(torch.stack([images.thumbnail(view, minhash.SIDE) for view in minhash.views(picture)]))
        held = torch.stack(made)
        stage.finish()
    return held


def find_pictures(thumbnails: Tensor, entries: Sequence[Entry]) -> tuple[Found, minhash.Pairs]:
    """Near-duplicates among (N, V, 3, SIDE, SIDE) thumbnails."""
    flat, shape = thumbnails.flatten(0, 1), thumbnails.shape[:2]
    words, signs = (take(flat).unflatten(0, shape) for take in (minhash.image_shingles, minhash.image_signs))

    def hold(_: Tensor, pairs: minhash.Pairs) -> minhash.Pairs:
        return minhash.alike(signs, pairs, minhash.SIGNS_ALIKE)

    return _find("image", words, entries, minhash.IMAGE_THRESHOLD, hold, images.EDITS, lambda entry: entry.edit)


def find_captions(entries: Sequence[Entry], device: str) -> tuple[Found, minhash.Pairs]:
    """Near-duplicates among captions."""
    words = minhash.text_shingles([entry.caption for entry in entries]).to(device)

    def hold(sketches: Tensor, pairs: minhash.Pairs) -> minhash.Pairs:
        return minhash.alike(sketches, pairs, minhash.TEXT_THRESHOLD)

    return _find("text", words[:, None], entries, minhash.TEXT_THRESHOLD, hold, images.CAPTION_EDITS, lambda entry: entry.caption_edit)


def _find(of: str, words: Tensor, entries: Sequence[Entry], threshold: float, hold: Callable[[Tensor, minhash.Pairs], minhash.Pairs],
          edits: Sequence[str], edit_of: Callable[[Entry], str]) -> tuple[Found, minhash.Pairs]:
    """Sign (N, V, L) words, index, keep the candidates that `hold`, and look at the truth; recall by kind in the order of `edits`."""
    sketches = minhash.signatures(words.flatten(0, 1)).unflatten(0, words.shape[:2])
    lsh = minhash.index(threshold)
    pairs = hold(sketches, minhash.candidates(sketches, lsh))
    truth = planted(entries)
    copies = {edit: [pair in pairs for pair, entry in truth.items() if edit_of(entry) == edit] for edit in edits}
    recall = tuple(Kind(of, edit, sum(seen), len(seen)) for edit, seen in copies.items() if seen)
    return Found(of, len(pairs), len(pairs & truth.keys()), recall, lsh.r, lsh.b), pairs


def planted(entries: Sequence[Entry]) -> dict[tuple[int, int], Entry]:
    """Every planted pair, the smaller index first, with the entry of the copy."""
    where = {entry.key: at for at, entry in enumerate(entries)}
    return {tuple(sorted((where[entry.source], at))): entry  # type: ignore[misc]  # sorted() of a pair is a pair
            for at, entry in enumerate(entries) if entry.source}


def sources(entries: Sequence[Entry]) -> list[int]:
    """For every entry the index of the one it is a copy of, or -1."""
    where = {entry.key: at for at, entry in enumerate(entries)}
    return [where[entry.source] if entry.source else -1 for entry in entries]


def check_signatures(words: Tensor, device: measure.Device, *, blocks: int, block_ms: float,
                     seed: int) -> tuple[tuple[int, int], Estimate, tuple[float, float]]:
    """Our signatures of (N, L) words beside datasketch's, both from 32-bit hashes on: how many are equal, then how fast."""
    here, host = words, words.cpu().numpy()
    same = (minhash.signatures(here).cpu() == torch.from_numpy(minhash.by_datasketch(host))).all(1)
    times = measure.time_interleaved({"datasketch": lambda: minhash.by_datasketch(host), "ours": lambda: minhash.signatures(here)},
                                     device=device, mode="latency", blocks=blocks, block_ms=block_ms, warmup_s=0.0, seed=seed)
    rates = tuple(1000 * len(words) / measure.median(times[arm]).value for arm in ("ours", "datasketch"))
    return (int(same.sum()), len(same)), measure.ratio(times["datasketch"], times["ours"]), (rates[0], rates[1])


def curve_gap(curve: Sequence[minhash.CurvePoint]) -> float:
    """The farthest that measurement is from theory, in standard errors of a share of so many trials."""
    return max(abs(p.hits / p.trials - p.theory) / math.sqrt(max(p.theory * (1 - p.theory), 1 / p.trials) / p.trials) for p in curve)
