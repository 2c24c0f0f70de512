"""The two tasks that attention is judged on: a small decoder that predicts bytes of real source code, and a small ViT that names shapes.

Both are pre-norm transformers without dropout, whose attention is a toggle. The text is Python's own standard library: it is on
every machine that runs this, and it differs between Python versions, so numbers compare within one run only.
"""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from workloads import scenes
from workloads.week02_attention.backends import Toggle
from workloads.week02_attention.points import Point

HELD_OUT_EVERY = 10  # of the library's files, by name: no held-out file was trained on
BYTES = 256


@dataclass(frozen=True, slots=True)
class Size:
    """A transformer, what it reads, and how it is trained: `length` positions (bytes, or patches), `side` and `patch` pixels."""

    width: int
    depth: int
    heads: int
    length: int
    batch: int
    steps: int
    evaluated: int
    learning_rate: float = 1e-3
    side: int = 0
    patch: int = 0

    @classmethod
    def of(cls, point: Point, *, depth: int, steps: int, evaluated: int, side: int = 0, patch: int = 0) -> Size:
        """The network whose attention has the shape of `point`."""
        return cls(point.heads * point.width, depth, point.heads, point.length, point.batch, steps, evaluated, side=side, patch=patch)


class Attention(nn.Module):
    """Multi-head self-attention; `toggle` computes it."""

    def __init__(self, size: Size, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = size.heads, causal
        self.qkv, self.out = nn.Linear(size.width, 3 * size.width), nn.Linear(size.width, size.width)
        self.toggle = Toggle()

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(self.toggle(q, k, v, causal=self.causal).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, size: Size, causal: bool) -> None:
        super().__init__()
        self.attention, self.first, self.second = Attention(size, causal), nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.feed = nn.Sequential(nn.Linear(size.width, 4 * size.width), nn.GELU(), nn.Linear(4 * size.width, size.width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.feed(self.second(x))


class Decoder(nn.Module):
    """(B, S) bytes -> (B, S, 256) logits of the next."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(BYTES, size.width), nn.Parameter(0.02 * torch.randn(size.length, size.width))
        self.blocks = nn.ModuleList(Block(size, causal=True) for _ in range(size.depth))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, BYTES)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embed(text) + self.place[:text.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Classifier(nn.Module):
    """A ViT (Dosovitskiy et al. 2021, arXiv:2010.11929) that averages its patches: (B, 3, side, side) -> (B, classes) logits."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, size.width, size.patch, stride=size.patch)
        self.place = nn.Parameter(0.02 * torch.randn(size.length, size.width))
        self.blocks = nn.ModuleList(Block(size, causal=False) for _ in range(size.depth))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, scenes.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).mT + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def switch(model: nn.Module, toggle: Toggle) -> None:
    """Let every attention of `model` be computed by `toggle`."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.toggle = toggle


def library_text(most: int) -> tuple[bytes, bytes]:
    """Source of Python's standard library, to train on and held out (every tenth file), each at most `most` bytes: the modules at its
    top and in its packages, by name, tests and installed packages left out. Raises FileNotFoundError where there is no source."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
    files = sorted(path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts))
    if len(files) < HELD_OUT_EVERY:
        raise FileNotFoundError(f"no source of the standard library under {root}: install Python with its .py files")
    held = files[::HELD_OUT_EVERY]
    return _joined([path for path in files if path not in set(held)], most), _joined(held, most)


def _joined(files: list[Path], most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    for path in files:
        if size >= most:
            break
        parts.append(path.read_bytes())
        size += len(parts[-1])
    return b"\n".join(parts)[:most]


@dataclass(frozen=True, slots=True)
class Task:
    """What a network learns: fresh batches by seed, and a held-out set; `score` is one number an item (bits a byte, or 1 where the
    shape was named)."""

    name: str
    metric: str
    size: Size
    build: Callable[[Size], nn.Module]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    held: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    score: Callable[[Tensor, Tensor], Tensor]

    def loss(self, model: nn.Module, inputs: Tensor, wanted: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            logits = model(inputs)
        return nn.functional.cross_entropy(logits.float().flatten(0, -2), wanted.flatten())


def decoder_task(size: Size, device: str, most_bytes: int) -> Task:
    train, held = (torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device) for text in library_text(most_bytes))

    def windows(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        taken = text[starts[:, None] + torch.arange(size.length + 1, device=device)].long()
        return taken[:, :-1], taken[:, 1:]

    def batch(seed: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(seed)
        return windows(train, torch.randint(len(train) - size.length - 1, (size.batch,), generator=random).to(device))

    def held_out() -> Iterator[tuple[Tensor, Tensor]]:
        starts = torch.linspace(0, len(held) - size.length - 2, size.evaluated).long().to(device)
        for some in starts.split(size.batch):
            yield windows(held, some)

    def bits(logits: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.float().mT, wanted, reduction="none").mean(1) / math.log(2)

    return Task("decoder", "bits a byte", size, Decoder, batch, held_out, bits)


def classifier_task(size: Size, device: str) -> Task:
    def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
        scene = scenes.render(count, size.side, seed, device, colour_cue=0.7)
        return scene.images, scene.labels

    def held_out() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, size.evaluated, size.batch):
            yield pictures(min(size.batch, size.evaluated - first), 10_000_000 + first)

    return Task("classifier", "accuracy", size, Classifier, lambda seed: pictures(size.batch, seed), held_out,
                lambda logits, wanted: (logits.argmax(-1) == wanted).float())


def trained(task: Task, toggle: Toggle, seed: int, device: str) -> tuple[nn.Module, float]:
    """A network trained from `seed` with `toggle`, and its mean loss over the last tenth; the same seed draws the same weights and
    the same batches whatever computes attention."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = task.build(task.size)
    switch(model, toggle)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.size.learning_rate, weight_decay=0.01, fused=device == "cuda")
    tail = max(1, task.size.steps // 10)
    total = torch.zeros((), device=device)
    for step in range(task.size.steps):
        for group in optimizer.param_groups:  # warm up, then straight down to a tenth
            group["lr"] = task.size.learning_rate * min((step + 1) / max(1, task.size.steps // 20), 1 - 0.9 * step / task.size.steps)
        loss = task.loss(model, *task.batch(1_000_000 * seed + step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= task.size.steps - tail:
            total += loss.detach()
    return model.eval(), float(total) / tail


@torch.no_grad()  # and no inference mode: a mask cached under it could not be used in training
def scores(task: Task, model: nn.Module, toggle: Toggle) -> list[float]:
    """One number for each held-out item, always the same items in the same order."""
    switch(model, toggle)
    found: list[float] = []
    for inputs, wanted in task.held():
        with torch.autocast(inputs.device.type, torch.bfloat16):
            logits = model(inputs)
        found += task.score(logits, wanted).double().tolist()
    return found
