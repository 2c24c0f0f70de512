"""What eats the pictures: a ResNet-18 in training, or on a CPU a step of fixed length; and data that is on the device already."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import torch
import torchvision
from torch import Tensor, nn

from workloads import scenes
from workloads.week03_data.timeline import Batch, Loader

RESIDENT_BATCHES = 8  # different ones, so that no cache holds a batch


class Training:
    """ResNet-18, bf16 autocast, channels last, fused SGD: light a picture, so it asks for more of them than most networks do.

    A step is a copy and one CUDA graph, captured at the first batch of a shape: its hundreds of launches would else wait for the
    interpreter, which loaders' threads need too, and small inputs would ask for as many pictures as Python can launch steps for.
    """

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = torchvision.models.resnet18(num_classes=scenes.CLASSES).to("cuda", memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, fused=True)
        self.uncaptured = ""  # why steps are launched kernel by kernel all the same
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Batch | None = None

    def __call__(self, batch: Batch) -> None:
        if self.uncaptured:
            self._step(batch)
            return
        if self._graph is None or self._input is None or self._input.images.shape != batch.images.shape:
            try:
                self._capture(batch)
            except RuntimeError as error:
                self.uncaptured = next(iter(str(error).splitlines()), "no reason given")
            return
        self._input.images.copy_(batch.images)
        self._input.labels.copy_(batch.labels)
        self._graph.replay()

    def _capture(self, batch: Batch) -> None:
        """Three real steps on a copy of the batch, which choose algorithms and fill the optimizer's state; then record one."""
        self._graph, self._input = None, Batch(batch.images.clone(), batch.labels.clone())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step(self._input)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step(self._input)
        self._graph = graph

    def _step(self, batch: Batch) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(self.model(batch.images), batch.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class FixedStep:
    """Reads the batch and then takes `step_s` seconds: on a CPU, where a network's step would be the bottleneck."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s

    def __call__(self, batch: Batch) -> None:
        float(batch.images.mean())
        time.sleep(self.step_s)


Consumer = Callable[[Batch], None]


class Resident:
    """A loader of batches that lie on the device: what the consumer does where input costs nothing."""

    ahead = 0

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = itertools.cycle(batches)

    @classmethod
    def random(cls, batch: int, size: int, device: str, seed: int) -> Resident:
        random = torch.Generator(device).manual_seed(seed)

        def images() -> Tensor:
            pixels = torch.randn(batch, 3, size, size, generator=random, device=device)
            return pixels.to(dtype_of(device), memory_format=torch.channels_last)

        return cls([Batch(images(), torch.randint(scenes.CLASSES, (batch,), generator=random, device=device))
                    for _ in range(RESIDENT_BATCHES)])

    @classmethod
    def of(cls, loader: Loader) -> Resident:
        """Copies of the next batches of another loader: the same kind of pictures, for a GPU's power, and with it its clock, depends on
        what it computes with."""
        taken = (loader.next() for _ in range(RESIDENT_BATCHES))
        return cls([Batch(batch.images.clone(), batch.labels.clone()) for batch in taken])

    def next(self) -> Batch:
        return next(self._batches)

    def depth(self) -> int | None:
        return None

    def decode_rates(self) -> list[float]:
        return []

    def close(self) -> None:
        """Nothing runs."""


def dtype_of(device: str) -> torch.dtype:
    """What batches are handed over in: what autocast would make of them."""
    return torch.bfloat16 if device == "cuda" else torch.float32
