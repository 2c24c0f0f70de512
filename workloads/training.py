"""How a decoder is trained here: AdamW on batches of tokens, in bf16 autocast on a GPU, and what was seen on the way.

A plain loop in nanoGPT's spirit. The host never waits for the GPU but every `LOOK` steps, to see whether time is up or the
loss is no number; losses and gradient norms stay on the device until the end. A network so small that the GPU is done before the
host has launched its kernels one by one can have its whole step recorded as a CUDA graph: then a launch a step is left.
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

    @property
    def rising(self) -> int:
        """The steps of the warm-up."""
        return max(1, round(self.warmup * self.steps))

    def rate(self, step: int) -> float:
        if step < self.rising:
            return self.learning_rate * (step + 1) / self.rising
        done = (step - self.rising) / max(1, self.steps - self.rising)
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
    makes network and optimiser as new, in place, so that what is compiled or recorded serves many trainings.

    `graph` records the whole step, from the batch to the new weights, as a CUDA graph the first time there is a batch; batches
    must then keep their shape, and recipes their weight decay and clipping. Raises ValueError where there is no GPU to record for.
    """

    def __init__(self, model: Decoder, at: Places, *, compiled: bool, whole: bool = False, graph: bool = False) -> None:
        self.model, self.at = model, at
        self.device = model.embedding.weight.device
        if graph and self.device.type != "cuda":
            raise ValueError(f"a step is recorded on a GPU, and this network is on a {self.device.type}")
        self.graph = graph
        self._tape: _Tape | None = None
        wide = [p for p in model.parameters() if p.dim() > 1]
        flat = [p for p in model.parameters() if p.dim() == 1]  # gains and biases: decaying those would pull norms to zero
        groups: list[dict[str, Any]] = [{"params": wide}, {"params": flat, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=self.device.type == "cuda", capturable=graph)
        self._head = lm.compile_for(head_loss, self.device.type) if compiled and not whole else head_loss
        self._loss = lm.compile_for(self.loss, self.device.type) if whole else self.loss

    def restart(self, seed: int) -> None:
        self.model.restart(seed)
        self.forget()

    @torch.no_grad()
    def forget(self) -> None:
        """The optimiser as new, in place: a recorded step reads its moments and its count of steps where they lie."""
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()

    def loss(self, batch: Tensor) -> Tensor:
        """Mean loss of (B, T + 1) tokens in nats."""
        with autocast(self.device, cached=not self.graph):
            hidden = self.model.hidden(batch[:, :-1], self.at)
            return self._head(hidden, self.model.embedding.weight, batch[:, 1:])

    def step(self, batch: Tensor, rate: float, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """One optimisation step; loss and gradient norm stay on the device."""
        if self.graph:
            if self._tape is None:
                self._tape = _Tape(self, batch.shape, recipe)
            return self._tape.play(batch, rate, recipe)
        self.set(rate, recipe)
        seen = self.learn(batch, recipe.clip)
        self.optimizer.zero_grad(set_to_none=True)
        return seen

    def set(self, rate: float | Tensor, recipe: Recipe) -> None:
        for group, decay in zip(self.optimizer.param_groups, (recipe.weight_decay, 0.0), strict=True):
            group["lr"], group["weight_decay"] = rate, decay

    def learn(self, batch: Tensor, clip: float) -> tuple[Tensor, Tensor]:
        """Forward, backward and the optimiser, with the rate that is set, adding to the gradients that are there."""
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch annotates this method only in part
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
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
        """A batch on the network's device, without waiting for it; a recorded step fetches it by itself."""
        tensor = torch.from_numpy(batch)
        on_gpu = self.device.type == "cuda" and not self.graph
        return tensor.pin_memory().to(self.device, non_blocking=True) if on_gpu else tensor


class _Tape:
    """A trainer's step as a CUDA graph, over tensors that stay where they are: a batch and a rate go in, loss and norm come out.

    Gradients lie in the graph's own memory: there are none when it is recorded, so each replay writes them anew and nothing has
    to clear them. Recording trains at a rate of 0, which changes no weight, and the optimiser forgets it.
    """

    def __init__(self, trainer: Trainer, shape: torch.Size, recipe: Recipe) -> None:
        self.batch = torch.zeros(shape, dtype=torch.int64, device=trainer.device)
        self.rate = torch.zeros((), device=trainer.device)
        self.fixed = recipe.weight_decay, recipe.clip
        self.ring = torch.empty((LOOK, *shape), dtype=torch.int64, pin_memory=True)  # pinning memory anew for each batch is slow
        self.turn = 0
        trainer.set(self.rate, recipe)

        def work() -> Tensor:
            trainer.optimizer.zero_grad(set_to_none=True)
            return torch.stack(trainer.learn(self.batch, recipe.clip))

        with measure.quiet_collector():  # freeing another graph would end the recording
            self.graph, self.out = lm.recorded(work)
        trainer.forget()

    def play(self, batch: Tensor, rate: float, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Raises ValueError for what was not recorded so."""
        if batch.shape != self.batch.shape:
            raise ValueError(f"a batch of {tuple(batch.shape)}, and the step was recorded for {tuple(self.batch.shape)}")
        if (recipe.weight_decay, recipe.clip) != self.fixed:
            raise ValueError("weight decay and clipping are part of a recorded step, and this recipe has others")
        if self.turn == len(self.ring):  # what is written next may not have been fetched
            torch.cuda.current_stream().synchronize()
            self.turn = 0
        self.batch.copy_(self.ring[self.turn].copy_(batch), non_blocking=True)
        self.turn += 1
        self.rate.fill_(rate)
        self.graph.replay()
        loss, norm = self.out.clone()
        return loss, norm


def autocast(device: torch.device, *, cached: bool = True) -> torch.autocast:
    """bf16 on a GPU. On a CPU float32: few have bf16 units, and without them it is a hundred times slower. `cached` keeps what was
    cast until the end, which a recorded graph must not."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=cached)


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
