"""WebDataset shards on disk: written in order behind a progress bar, resumed where a run stopped, and checked by SHA-256.

`python -m workloads.week03_data.shards DIR --images 20000` writes the full run's shards. Shard i follows from the seed and i alone.
Its tar is renamed into place before its index is, so an index that exists speaks of a whole tar; a shard whose tar no longer
has the index's checksum is written again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
import webdataset as wds
from torch import Tensor

from workloads.week03_data import images
from workloads.week03_data.images import Picture

DUPLICATES = 0.12  # of a shard's pictures
RESERVE = 1.2  # free space asked for, as a multiple of what the shards are expected to need
PICTURE_BYTES = 110_000
BAR = 30
MAKERS = 3  # shards made at a time: one is drawn while others are encoded and stored


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write: `shards` files of `a_shard` pictures each, `height` x `width` pixels before edits."""

    shards: int
    a_shard: int
    height: int
    width: int
    photo_side: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shards < 1 or self.a_shard < 2 * len(images.EDITS) or min(self.height, self.width) < 32:
            raise ValueError(f"shards: at least 1 of at least {2 * len(images.EDITS)} pictures of at least 32 x 32 pixels")

    @property
    def duplicates(self) -> int:
        """Near-duplicates in a shard: at least one of every kind."""
        return max(len(images.EDITS), round(DUPLICATES * self.a_shard))


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample as the index has it: where its JPEG lies in the tar, and the truth on it."""

    key: str
    offset: int
    size: int
    label: int
    caption: str
    height: int
    width: int
    source: str
    edit: str
    caption_edit: str


@dataclass(frozen=True, slots=True)
class Shard:
    path: Path
    sha256: str
    entries: tuple[Entry, ...]


FULL = Plan(shards=20, a_shard=1000, height=375, width=500, photo_side=768)


def write(folder: Path, plan: Plan, device: str, progress: Callable[[str], None]) -> tuple[Shard, ...]:
    """The shards of `plan` in `folder`, those that are there and whole left as they are.

    Raises FileExistsError where `folder` is a file, and OSError for a lack of space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed = RESERVE * plan.shards * plan.a_shard * PICTURE_BYTES * plan.height * plan.width / (FULL.height * FULL.width)
    free = shutil.disk_usage(folder).free
    found = {number: shard for number in range(plan.shards) if (shard := _whole(folder, plan, number))}
    if free < needed * (1 - len(found) / plan.shards):
        raise OSError(f"No space left on device: shards need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    if found:
        progress(f"{len(found)} of {plan.shards} shards are there, with the right checksums")
    photos = images.photographs(plan.photo_side, device)
    missing = sorted(set(range(plan.shards)) - set(found))
    with ThreadPoolExecutor(os.cpu_count()) as pool, ThreadPoolExecutor(MAKERS) as makers:
        def make(number: int) -> Shard:
            return _store(folder, plan, number, _pictures(plan, number, photos, pool))

        for number, shard in zip(missing, makers.map(make, missing), strict=True):
            found[number] = shard
            done = len(found)
            size = sum(entry.size for shard in found.values() for entry in shard.entries)
            filled = BAR * done // plan.shards
            progress(f"[{'#' * filled}{'.' * (BAR - filled)}] shard {done} of {plan.shards}, {size / 1e6:,.0f} MB of JPEG")
    return tuple(found[number] for number in range(plan.shards))


def _pictures(plan: Plan, number: int, photos: Tensor, pool: ThreadPoolExecutor) -> list[Picture]:
    """A shard's samples in the order they are stored: originals and, among them, near-duplicates of some."""
    random = np.random.default_rng((plan.seed, number))
    count = plan.a_shard - plan.duplicates
    upright = count // 4  # a quarter is portrait, as in a camera's folder
    parts = []
    for some, height, width, part in ((count - upright, plan.height, plan.width, 0), (upright, plan.width, plan.height, 1)):
        seed = (plan.seed * 1000 + number) * 100_000 + part * 50_000
        pixels, labels, behind = images.originals(some, height, width, seed, photos)
        parts.append((pool.map(images.encode, (p.numpy() for p in pixels)), labels, behind, height, width))
    made = [(jpeg, label, photo, height, width) for jpegs, labels, behind, height, width in parts
            for jpeg, label, photo in zip(jpegs, labels, behind, strict=True)]
    keys = [f"{number:05d}{place:05d}" for place in random.permutation(plan.a_shard)]
    pictures = [Picture(key, jpeg, label, images.caption(label, photo, random), height, width)
                for key, (jpeg, label, photo, height, width) in zip(keys, made, strict=False)]

    sources = [pictures[place] for place in random.choice(count, plan.duplicates, replace=False)]
    kinds = [images.EDITS[i % len(images.EDITS)] for i in range(plan.duplicates)]
    draws = random.spawn(plan.duplicates)
    copies = pool.map(images.edited, (source.jpeg for source in sources), kinds, draws)
    for i, (key, source, kind, jpeg) in enumerate(zip(keys[count:], sources, kinds, copies, strict=True)):
        height, width = images.extent(jpeg)
        words = images.CAPTION_EDITS[i % len(images.CAPTION_EDITS)]
        pictures.append(Picture(key, jpeg, source.label, images.recaptioned(source.caption, words, random), height, width,
                                source.key, kind, words))
    return sorted(pictures, key=lambda picture: picture.key)


def _name(plan: Plan, number: int) -> str:
    return f"s{plan.seed}-{plan.height}x{plan.width}-{plan.a_shard}-{number:05d}"


def _store(folder: Path, plan: Plan, number: int, pictures: Sequence[Picture]) -> Shard:
    path = folder / f"{_name(plan, number)}.tar"
    part = path.with_suffix(".part")
    with wds.TarWriter(str(part), encoder=False, mtime=0) as tar:
        for picture in pictures:
            tar.write({"__key__": picture.key, "jpg": picture.jpeg, "cls": str(picture.label).encode(), "txt": picture.caption.encode()})
    with tarfile.open(part) as tar:
        where = {member.name: (member.offset_data, member.size) for member in tar}
    entries = tuple(Entry(p.key, *where[f"{p.key}.jpg"], p.label, p.caption, p.height, p.width, p.source, p.edit, p.caption_edit)
                    for p in pictures)
    shard = Shard(path, _sha256(part), entries)
    part.rename(path)
    noted = path.with_suffix(".noted")
    noted.write_text(json.dumps({"sha256": shard.sha256, "entries": [asdict(entry) for entry in entries]}), encoding="utf-8")
    noted.rename(path.with_suffix(".json"))
    return shard


def _whole(folder: Path, plan: Plan, number: int) -> Shard | None:
    """The shard, where its index exists and its tar is the one that the index speaks of."""
    path = folder / f"{_name(plan, number)}.tar"
    try:
        noted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        shard = Shard(path, noted["sha256"], tuple(Entry(**entry) for entry in noted["entries"]))
        return shard if _sha256(path) == shard.sha256 else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as held:
        return hashlib.file_digest(held, "sha256").hexdigest()


def jpegs(shards: Sequence[Shard]) -> Iterator[bytes]:
    """Every sample's JPEG, in the order of the entries."""
    for shard in shards:
        data = shard.path.read_bytes()
        for entry in shard.entries:
            yield data[entry.offset:entry.offset + entry.size]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--images", "count", type=click.IntRange(1000, 1_000_000), default=FULL.shards * FULL.a_shard, show_default=True,
              help="How many pictures at least, in shards of 1,000.")
@click.option("--seed", type=click.IntRange(0, 9999), default=0, show_default=True)
def main(folder: Path, count: int, seed: int) -> None:
    """Write WebDataset shards of realistic JPEGs into FOLDER; run it again to go on where it stopped."""
    plan = Plan(math.ceil(count / FULL.a_shard), FULL.a_shard, FULL.height, FULL.width, FULL.photo_side, seed)
    try:
        write(folder, plan, "cuda" if torch.cuda.is_available() else "cpu", lambda line: click.echo(line, err=True))
    except OSError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
