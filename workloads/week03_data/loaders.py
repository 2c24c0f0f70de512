"""Loaders whose host decodes: PIL in the training process, PIL and libjpeg-turbo in workers, WebDataset; and WebDataset's raw bytes.

All draw the same crops, hand over uint8, and normalise on the device, so what differs is who decodes where. Baselines are tuned: as
many workers as cores, pinned memory, persistent workers, an integer crop before any resizing.
"""

from __future__ import annotations

import functools
import io
import random as shard_order
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg

from workloads.week03_data import augment
from workloads.week03_data.consumer import dtype_of
from workloads.week03_data.shards import Shard
from workloads.week03_data.timeline import Batch

PREFETCH = 2  # batches ready in each worker
SHUFFLED = 1000  # samples among which WebDataset shuffles, as bytes, in every worker
ANSWER_S = 60.0  # without a batch for so long, workers are taken for dead: an error that can be told, where waiting on would lose the run

HostDecoder = Literal["pil", "turbo"]
Cropped = tuple[npt.NDArray[np.uint8], int]


@dataclass(frozen=True, slots=True)
class Raw:
    """A batch still compressed, on the host: its JPEGs one behind the other (uint8), the length of each, and labels. One tensor, for a
    worker hands over a file descriptor with every tensor."""

    joined: Tensor
    lengths: Tensor
    labels: Tensor

    def jpegs(self) -> tuple[Tensor, ...]:
        return self.joined.split(self.lengths.tolist())

    def pin_memory(self) -> Raw:
        """In page-locked memory; DataLoader's own thread calls it, so whoever decodes need not first fault in a worker's pages."""
        return Raw(*(held.pin_memory() for held in (self.joined, self.lengths, self.labels)))


def crop(jpeg: bytes, decoder: HostDecoder, size: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(3, size, size) uint8: decoded on this core, one random crop, resized with antialiasing, perhaps mirrored."""
    if decoder == "pil":
        with Image.open(io.BytesIO(jpeg)) as image:
            boxes = augment.draw(np.array([image.height]), np.array([image.width]), random)
            top, left, tall, wide = boxes.edges[0].tolist()
            part = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + wide, top + tall))
        pixels = np.asarray(part).transpose(2, 0, 1)
    else:
        whole = decode_jpeg(as_tensor(jpeg), mode=ImageReadMode.RGB)
        boxes = augment.draw(np.array([whole.shape[1]]), np.array([whole.shape[2]]), random)
        top, left, tall, wide = boxes.edges[0].tolist()
        pixels = torch.nn.functional.interpolate(whole[None, :, top:top + tall, left:left + wide], size=(size, size), mode="bilinear",
                                                 antialias=True)[0].numpy()
    return np.ascontiguousarray(pixels[:, :, ::-1] if boxes.mirrored[0] else pixels)


def as_tensor(jpeg: bytes) -> Tensor:
    return torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)


class Pictures(Dataset[Cropped]):
    """Samples by number, read from the shards at the places that the index gives: what a folder of files would be."""

    def __init__(self, shards: Sequence[Shard], decoder: HostDecoder, size: int, seed: int) -> None:
        self._where = [(shard.path, entry.offset, entry.size, entry.label) for shard in shards for entry in shard.entries]
        self._decoder, self._size, self._seed = decoder, size, seed

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, at: int) -> Cropped:
        path, offset, length, label = self._where[at]
        with path.open("rb") as tar:
            tar.seek(offset)
            jpeg = tar.read(length)
        return crop(jpeg, self._decoder, self._size, np.random.default_rng((self._seed, at))), label


def stack(samples: Sequence[Cropped]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.stack([pixels for pixels, _ in samples])), torch.tensor([label for _, label in samples])


def gather(samples: Sequence[dict[str, Any]]) -> Raw:
    jpegs = [sample["jpg"] for sample in samples]
    return Raw(as_tensor(b"".join(jpegs)), torch.tensor(list(map(len, jpegs))), torch.tensor([int(sample["cls"]) for sample in samples]))


def decoded(sample: dict[str, Any], *, size: int, seed: int) -> Cropped:
    return crop(sample["jpg"], "turbo", size, np.random.default_rng((seed, int(sample["__key__"])))), int(sample["cls"])


def stream(shards: Sequence[Shard], seed: int) -> wds.WebDataset:
    """Samples of all shards over and over, shard by shard, split among nodes and then workers, shuffled; every epoch in an order of
    its own that the seed gives."""
    urls = [str(shard.path) for shard in shards]
    return wds.WebDataset(urls, shardshuffle=len(urls), detshuffle=True, seed=seed, nodesplitter=wds.split_by_node,
                          empty_check=False).repeat().shuffle(SHUFFLED, initial=SHUFFLED // 8, rng=shard_order.Random(seed))


def raw_batches(shards: Sequence[Shard], batch: int, workers: int, seed: int, device: str = "cpu") -> DataLoader[Raw]:
    """WebDataset's bytes in batches, read by workers, page-locked where a GPU decodes them."""
    return _loader(stream(shards, seed).batched(batch, collation_fn=gather, partial=False), workers, batch_size=None,
                   pin_memory=device == "cuda")


def _loader(data: Any, workers: int, **options: Any) -> DataLoader[Any]:
    if workers:
        options |= {"prefetch_factor": PREFETCH, "persistent_workers": True, "timeout": ANSWER_S}
    return DataLoader(data, num_workers=workers, worker_init_fn=_one_thread, **options)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)  # of each worker: there is one for every core


class HostLoader:
    """A loader whose batches come from a DataLoader as uint8 and are normalised on the device."""

    def __init__(self, data: DataLoader[tuple[Tensor, Tensor]], device: str) -> None:
        self._data, self._device = data, device
        self._batches = self._over_and_over(iter(data))  # its workers are forked here, not at the first batch, when threads may run
        self.ahead = data.num_workers * PREFETCH

    @classmethod
    def map_style(cls, shards: Sequence[Shard], decoder: HostDecoder, size: int, batch: int, workers: int, seed: int,
                  device: str) -> HostLoader:
        data = Pictures(shards, decoder, size, seed)
        random = torch.Generator().manual_seed(seed)
        return cls(_loader(data, workers, batch_size=batch, shuffle=True, drop_last=True, collate_fn=stack, generator=random,
                           pin_memory=device == "cuda"), device)

    @classmethod
    def webdataset(cls, shards: Sequence[Shard], size: int, batch: int, workers: int, seed: int, device: str) -> HostLoader:
        samples = stream(shards, seed).map(functools.partial(decoded, size=size, seed=seed))
        batches = samples.batched(batch, collation_fn=stack, partial=False)
        return cls(_loader(batches, workers, batch_size=None, pin_memory=device == "cuda"), device)

    def _over_and_over(self, first: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        yield from first
        while True:
            yield from self._data

    def next(self) -> Batch:
        pixels, labels = next(self._batches)
        pixels, labels = (held.to(self._device, non_blocking=True) for held in (pixels, labels))
        return Batch(augment.normalised(pixels).to(dtype_of(self._device), memory_format=torch.channels_last), labels)

    def depth(self) -> int | None:
        return None  # DataLoader does not tell

    def decode_rates(self) -> list[float]:
        return []  # decoded in other processes

    def close(self) -> None:
        self._batches = iter(())
        stop(self._data)


def stop(data: DataLoader[Any]) -> None:
    """End the workers of a DataLoader, which persist until it is collected."""
    iterator, data._iterator = data._iterator, None
    if shutdown := getattr(iterator, "_shutdown_workers", None):
        shutdown()
