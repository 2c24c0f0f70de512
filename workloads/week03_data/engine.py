"""The data engine: batched JPEG decoding on a stream of its own, one kernel for all crops, and a ring of device buffers.

The stream rule. torchvision's CUDA decoder writes on a private stream that is not ordered after the caller's (pytorch/vision issue
and PR 9606), so memory that the caller freed a moment ago, and that queued kernels still read, is overwritten at once. Here the
decoder is only called while a stream of the engine's own is current, and after that stream is idle: what the allocator then hands
out belongs to this stream, and nothing on it is still to be read. canary.py shows the difference.

The queue rule. A process has eight hardware queues for all of its streams unless it asks for more, and nvJPEG opens fourteen streams
(two for each JPEG engine), so some share a queue with training. A picture there waits until the training step that stands before it is
over, and every picture behind it waits with it: a step of 19 ms and 12 ms of decoding took 31 ms, as if nothing overlapped, though
neither slowed the other. `own_queues` asks for 32. (CUDA C++ Programming Guide, environment variables.)
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg

from workloads import measure
from workloads.week03_data import augment
from workloads.week03_data.consumer import dtype_of
from workloads.week03_data.loaders import PREFETCH, Raw, stop
from workloads.week03_data.timeline import Batch

SLOTS = 4  # one in use, two ready, one being filled
REMEMBERED = 2000  # batches whose decoding was timed and not yet asked for
# One thread compiles at a time: torch's flag that it is tracing is the process's own up to 2.11, and another engine's thread that
# calls what is compiled then fails. A call only launches, so holding this costs microseconds.
COMPILED = threading.Lock()
LOOK_S = 1.0  # how often a waiting consumer looks whether the producer still lives
QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS"  # read once, when CUDA starts in a process
MOST_QUEUES = 32


def own_queues() -> str:
    """Ask for as many hardware queues as there can be, unless the environment says how many: before CUDA starts in this process, for
    later it is in vain. What came of it, as a sentence."""
    if QUEUES not in os.environ and torch.cuda.is_initialized():
        return f"CUDA had started without {QUEUES}={MOST_QUEUES}: decoding may wait for training steps that share its queue"
    return f"{os.environ.setdefault(QUEUES, str(MOST_QUEUES))} hardware queues for the streams of training and decoding"


class BatchDecoder(Protocol):
    """JPEGs on the host, (bytes,) uint8 each, to pictures on the device: planar (3, H, W), or `interleaved` (H, W, 3)."""

    interleaved: bool

    def __call__(self, jpegs: Sequence[Tensor]) -> list[Tensor]: ...


class Torchvision:
    """nvJPEG through torchvision on a GPU (by the chip's JPEG engines where there are any); on a CPU, libjpeg-turbo."""

    interleaved = False

    def __init__(self, device: measure.Device) -> None:
        self._device = device

    def __call__(self, jpegs: Sequence[Tensor]) -> list[Tensor]:
        pictures: list[Tensor] = decode_jpeg(list(jpegs), mode=ImageReadMode.RGB, device=self._device)
        return pictures


class NvImageCodec:
    """NVIDIA's nvImageCodec, the peer. Raises ModuleNotFoundError where it is not installed. Where nvJPEG is not, its call raises
    RuntimeError: a peer that quietly decoded on the CPU would be none."""

    interleaved = True

    def __init__(self) -> None:
        from nvidia import nvimgcodec  # an extra

        kinds = nvimgcodec.BackendKind
        self._decoder = nvimgcodec.Decoder(
            backends=[nvimgcodec.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU)])

    def __call__(self, jpegs: Sequence[Tensor]) -> list[Tensor]:
        stream = torch.cuda.current_stream().cuda_stream
        pictures: list[Any] = self._decoder.decode([jpeg.numpy() for jpeg in jpegs], cuda_stream=stream)
        if missing := sum(picture is None for picture in pictures):
            raise RuntimeError(f"nvImageCodec left {missing} of {len(pictures)} pictures undecoded")
        return [torch.as_tensor(picture, device="cuda") for picture in pictures]


class Stage:
    """From compressed bytes to a normalised batch, on the engine's own stream. `fused` crops all pictures in one kernel, else one by
    one; `room` is the most bytes that a batch of decoded pictures takes."""

    def __init__(self, decoder: BatchDecoder, size: int, device: measure.Device, *, room: int, fused: bool, seed: int) -> None:
        self.device, self.size = device, size
        self._decoder, self._fused = decoder, fused
        self._random = np.random.default_rng(seed)
        self._stream = torch.cuda.Stream() if device == "cuda" else None
        self._flat = torch.empty(room if fused else 0, dtype=torch.uint8, device=device)
        self.adopt()
        self._resample: Callable[..., Tensor] = torch.compile(augment.resample) if device == "cuda" else augment.resample
        self._decoded: collections.deque[tuple[int, measure.Stamp, measure.Stamp]] = collections.deque(maxlen=REMEMBERED)

    def adopt(self) -> None:
        """Let the engine write what the current stream has allocated so far: only after that stream's work, which may still read what
        lay in the same memory before."""
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream())

    @contextlib.contextmanager
    def alone(self) -> Iterator[torch.cuda.Stream | None]:
        """Inside, the engine's stream is current."""
        with torch.no_grad(), torch.cuda.stream(self._stream):  # None changes nothing
            yield self._stream

    def decode(self, jpegs: Sequence[Tensor]) -> list[Tensor]:
        """Pictures, by the stream rule; call it inside `alone`."""
        self.finish()
        return self._decoder(jpegs)

    def finish(self) -> None:
        """Wait until the engine's stream is idle."""
        if self._stream:
            self._stream.synchronize()

    def prepare(self, raw: Raw, out: Tensor, read: torch.cuda.Event | None = None) -> None:
        """Decode, and fill (N, 3, size, size) `out` once `read`, where given, has come; call it inside `alone`. Raises ValueError for
        pictures that are above the room."""
        start = measure.stamp(self.device)
        pictures = self.decode(raw.jpegs())
        self._decoded.append((len(pictures), start, measure.stamp(self.device)))
        if self._stream and read:
            self._stream.wait_event(read)  # here and not before: decoding need not wait for the buffer
        interleaved = self._decoder.interleaved
        shapes = np.array([picture.shape[:2] if interleaved else picture.shape[1:] for picture in pictures])
        boxes = augment.draw(shapes[:, 0], shapes[:, 1], self._random)
        if not self._fused:
            out.copy_(augment.one_by_one(pictures, boxes, self.size, interleaved=interleaved))
            return
        sizes = [picture.numel() for picture in pictures]
        starts = np.cumsum([0, *sizes])
        if starts[-1] > len(self._flat):
            raise ValueError(f"a batch of {starts[-1]} bytes of pixels is above the engine's room of {len(self._flat)}")
        torch.cat([picture.flatten() for picture in pictures], out=self._flat[:starts[-1]])
        table = np.column_stack((starts[:-1], shapes, boxes.edges, boxes.mirrored))  # one copy to the device for all of it
        at = torch.from_numpy(table.astype(np.int64)).to(self.device)
        with COMPILED:
            images = self._resample(self._flat, at[:, 0], at[:, 1:3], at[:, 3:7], at[:, 7] == 1, self.size, interleaved=interleaved)
        out.copy_(images)

    def decode_rates(self) -> list[float]:
        done = [self._decoded.popleft() for _ in range(len(self._decoded))]  # the engine's thread may add to it meanwhile
        return [1000 * count / measure.device_ms(start, end) for count, start, end in done]

    def batch(self, count: int) -> Tensor:
        return torch.empty(count, 3, self.size, self.size, dtype=dtype_of(self.device), device=self.device,
                           memory_format=torch.channels_last)


class Inline:
    """Decodes when it is asked, in the training loop's own thread: what the GPU gains by decoding, before anything overlaps."""

    def __init__(self, data: DataLoader[Raw], stage: Stage) -> None:
        self._data, self._stage = data, stage
        self._raw: Iterator[Raw] = iter(data)
        self.ahead = data.num_workers * PREFETCH

    def next(self) -> Batch:
        raw = next(self._raw)
        with self._stage.alone() as stream:
            images = self._stage.batch(len(raw.labels))
            self._stage.prepare(raw, images)
            labels = raw.labels.to(self._stage.device)
        if stream:
            training = torch.cuda.current_stream()
            training.wait_stream(stream)
            for held in (images, labels):
                held.record_stream(training)
        return Batch(images, labels)

    def depth(self) -> int | None:
        return None

    def decode_rates(self) -> list[float]:
        return self._stage.decode_rates()

    def close(self) -> None:
        self._raw = iter(())
        self._stage.finish()
        stop(self._data)


@dataclass(frozen=True, slots=True)
class Slot:
    """A device buffer and two points in time: when it was filled, and when the training stream had read it."""

    batch: Batch
    filled: torch.cuda.Event | None
    read: torch.cuda.Event | None


class Ring:
    """The engine whole: a thread decodes and crops into `SLOTS` device buffers, ahead of the training loop and on a stream of its own.

    Buffers pass from hand to hand by queues on the host and by events on the device, so neither side ever waits for the other's
    kernels but at the point where it needs what they make.
    """

    def __init__(self, data: DataLoader[Raw], stage: Stage, batch: int) -> None:
        self._data, self._stage = data, stage
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._in_use: Slot | None = None
        self._closing = threading.Event()
        self.ahead = data.num_workers * PREFETCH + SLOTS
        for _ in range(SLOTS):
            images, labels = stage.batch(batch), torch.empty(batch, dtype=torch.int64, device=stage.device)
            filled, read = (torch.cuda.Event(), torch.cuda.Event()) if stage.device == "cuda" else (None, None)
            self._free.put(Slot(Batch(images, labels), filled, read))
        stage.adopt()
        self._batches = iter(data)  # forks its workers
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ring")
        self._produced: Future[None] | None = None  # from the first call of `next` on: until then other loaders may fork, too

    def _produce(self, batches: Iterator[Raw]) -> None:
        for raw in itertools.takewhile(lambda _: not self._closing.is_set(), batches):
            slot = self._free.get()
            if self._closing.is_set():
                return
            with self._stage.alone():
                self._stage.prepare(raw, slot.batch.images, slot.read)
                slot.batch.labels.copy_(raw.labels)
                if slot.filled:
                    slot.filled.record()
            self._ready.put(slot)

    def next(self) -> Batch:
        self._give_back()
        if self._produced is None:
            self._produced = self._pool.submit(self._produce, self._batches)
        while True:
            try:
                slot = self._ready.get(timeout=LOOK_S)
                break
            except queue.Empty:
                if self._produced.done():
                    self._produced.result()  # raises what ended it
                    raise RuntimeError("the shards ran out of batches") from None
        if slot.filled:
            torch.cuda.current_stream().wait_event(slot.filled)
        self._in_use = slot
        return slot.batch

    def _give_back(self) -> None:
        if self._in_use:
            if self._in_use.read:
                self._in_use.read.record()
            self._free.put(self._in_use)
            self._in_use = None

    def depth(self) -> int | None:
        return self._ready.qsize()

    def decode_rates(self) -> list[float]:
        return self._stage.decode_rates()

    def close(self) -> None:
        self._closing.set()
        self._give_back()
        while self._produced and not self._produced.done():  # it may wait for a free buffer
            with contextlib.suppress(queue.Empty):
                self._free.put(self._ready.get(timeout=0.05))
        self._pool.shutdown()
        self._stage.finish()
        stop(self._data)
