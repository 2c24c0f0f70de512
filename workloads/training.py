"""How a decoder is trained here: AdamW on batches of tokens, in bf16 autocast on a GPU, and what was seen on the way.

A plain loop in nanoGPT's spirit. The host never waits for the GPU but every `LOOK` steps, to see whether time is up or the
loss is no number; losses and gradient norms stay on the device until the end.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from workloads import lm, measure
from workloads.lm import Config, Decoder, Places

Batches = Iterator[npt.NDArray[np.int64]]  # each (B, T + 1)

BETAS = (0.9, 0.95)
LOOK = 40
SPIKE, SPIKE_WINDOW = 4.0, 50  # a gradient norm this many times the median of so many steps before it is a spike
BLOWN_UP = 1.0  # a final loss this many nats above the lowest one seen is divergence, too


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: learning rate up linearly over `warmup` of the steps, then down by a cosine to `last` of its height."""

    steps: int
    learning_rate: float
    warmup: float = 0.05
    last: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0

    def rate(self, step: int) -> float:
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        return self.learning_rate * (self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True, slots=True)
class Course:
    """What a training saw: loss (nats a token) and gradient norm before clipping, step by step, and `tokens` a step.

    `seconds` are from the first step that was not compiling to the last, `timed` the steps they hold.
    """

    losses: tuple[float, ...]
    norms: tuple[float, ...]
    tokens: int
    seconds: float
    timed: int

    @property
    def tokens_per_s(self) -> float:
        return self.timed * self.tokens / self.seconds

    def spikes(self, after: int) -> tuple[int, int]:
        """Steps from `after` on whose gradient norm is SPIKE times the median of the SPIKE_WINDOW steps before, or no number; and
        how many steps that is of."""
        found, watched = 0, range(max(after, 1), len(self.norms))
        for i in watched:
            before = [n for n in self.norms[max(0, i - SPIKE_WINDOW):i] if math.isfinite(n)]
            found += not math.isfinite(self.norms[i]) or (bool(before) and self.norms[i] > SPIKE * median(before))
        return found, len(watched)

    @property
    def diverged(self) -> bool:
        """Whether the loss is no number, or ended above that of the untrained network, its first, or BLOWN_UP above its own lowest."""
        if not all(map(math.isfinite, self.losses)):
            return True
        few = max(1, min(10, len(self.losses) // 4))  # one batch is noisy
        last = float(np.mean(self.losses[-few:]))
        lowest = min(float(np.mean(self.losses[i:i + few])) for i in range(len(self.losses) - few + 1))
        return last > self.losses[0] or last > lowest + BLOWN_UP


class Trainer:
    """A network with its optimiser. `compiled` compiles the head and its loss, `whole` the whole loss as one graph; `restart`
    makes network and optimiser as new, in place, so that what is compiled serves many trainings."""

    def __init__(self, model: Decoder, at: Places, *, compiled: bool, whole: bool = False) -> None:
        self.model, self.at = model, at
        self.device = model.embedding.weight.device
        wide = [p for p in model.parameters() if p.dim() > 1]
        flat = [p for p in model.parameters() if p.dim() == 1]  # gains and biases: decaying those would pull norms to zero
        groups: list[dict[str, Any]] = [{"params": wide}, {"params": flat, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=self.device.type == "cuda")
        self._head = lm.compile_for(head_loss, self.device.type) if compiled and not whole else head_loss
        self._loss = lm.compile_for(self.loss, self.device.type) if whole else self.loss

    def restart(self, seed: int) -> None:
        self.model.restart(seed)
        self.forget()

    def forget(self) -> None:
        """The optimiser as new."""
        self.optimizer.state.clear()

    def loss(self, batch: Tensor) -> Tensor:
        """Mean loss of (B, T + 1) tokens in nats."""
        with autocast(self.device):
            hidden = self.model.hidden(batch[:, :-1], self.at)
            return self._head(hidden, self.model.embedding.weight, batch[:, 1:])

    def step(self, batch: Tensor, rate: float, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """One optimisation step; loss and gradient norm stay on the device."""
        for group, decay in zip(self.optimizer.param_groups, (recipe.weight_decay, 0.0), strict=True):
            group["lr"], group["weight_decay"] = rate, decay
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch annotates this method only in part
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norm.detach()

    def train(self, batches: Batches, recipe: Recipe, *, until: float = math.inf, progress: Callable[[str], None] | None = None) -> Course:
        """Train for `recipe.steps` steps, or until time.monotonic() reaches `until`, or until the loss is no number."""
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        tokens = 0

        def some(steps: range) -> None:
            nonlocal tokens
            for step in steps:
                batch = self.moved(next(batches))
                tokens = batch[:, 1:].numel()
                loss, norm = self.step(batch, recipe.rate(step), recipe)
                losses.append(loss)
                norms.append(norm)

        seconds, timed = 0.0, 0
        edges = sorted({*range(0, recipe.steps, LOOK), min(2, recipe.steps), recipe.steps})  # compiling falls into the first two steps
        for start, end in itertools.pairwise(edges):
            _, passed = measure.seconds(lambda start=start, end=end: some(range(start, end)))  # type: ignore[misc]  # bound here
            if start >= 2 or recipe.steps <= 2:
                seconds, timed = seconds + passed, timed + end - start
            now = float(losses[-1])
            if progress and (end == recipe.steps or (start // LOOK) % 5 == 0):
                progress(f"step {end} of {recipe.steps}, loss {now:.3f}, {timed * tokens / seconds if seconds else 0:,.0f} tokens/s")
            if not math.isfinite(now) or time.monotonic() >= until:
                break
        seen, felt = (tuple(torch.stack(values).tolist()) for values in (losses, norms))
        return Course(seen, felt, tokens, seconds or passed, timed or end - start)

    def moved(self, batch: npt.NDArray[np.int64]) -> Tensor:
        """A batch on the network's device, without waiting for it."""
        tensor = torch.from_numpy(batch)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU. On a CPU float32: few have bf16 units, and without them it is a hundred times slower."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


@contextlib.contextmanager
def attention_kernel(device: str, config: Config, batch: int, progress: Callable[[str], None]) -> Iterator[str]:
    """On CUDA, the fastest attention kernel that is right for this shape, for all that runs inside; says in a few words which."""
    if device == "cpu":
        yield "as torch chooses on a CPU"
        return

    def fastest(arms: dict[str, Callable[[], object]]) -> str:
        times = measure.time_interleaved(arms, device="cuda", blocks=6, block_ms=5.0, warmup_s=0.1)
        medians = {name: median(times[name]) for name in arms}
        progress("attention, forward and backward: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in medians.items()))
        return min(medians, key=medians.__getitem__)

    shape = (batch, config.heads, config.trained_length, config.head_width)
    chosen = lm.choose_attention((SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION), shape, fastest)
    others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    ranked = list(dict.fromkeys([chosen, *others])) if chosen else others
    with sdpa_kernel(ranked, set_priority=True):
        yield f"{chosen.name}, the fastest that is right" if chosen else "as torch chooses: neither cuDNN's nor FlashAttention's was right"


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the tied head, in float32; compiled, logits are widened as they are read."""
    return F.cross_entropy(F.linear(hidden, weight).float().flatten(0, 1), targets.flatten())


@torch.no_grad()
def losses_of(model: Decoder, rows: Tensor, at: Places, *, at_once: int = 8) -> Tensor:
    """Nats of each next token of (N, T + 1) tokens, (N, T) in float32; `at_once` rows at a time, the last time
    filled up, so that what is compiled for a shape meets one shape."""
    found = []
    for some in torch.split(rows, at_once):
        full = some if len(some) == at_once else torch.cat([some, some[:1].expand(at_once - len(some), -1)])
        with autocast(rows.device):
            logits = model(full[:, :-1], at)
        found.append(F.cross_entropy(logits.float().transpose(1, 2), full[:, 1:], reduction="none")[:len(some)])
    return torch.cat(found)


def steps_within(budget_s: float, seconds_a_step: Sequence[float], most: int) -> int:
    """How many steps each of several trainings can have so that all of them together fit the budget; the same for all."""
    return max(1, min(most, math.floor(budget_s / sum(seconds_a_step))))
