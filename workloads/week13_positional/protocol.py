"""How a network is held to a text longer than it was trained at: losses of the same tokens under several contexts, pass keys
by depth and length, and cached decoding against the parallel forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workloads import corpus, lm
from workloads.lm import Decoder, Position, Session
from workloads.training import autocast, losses_of

Rows = npt.NDArray[np.int64]


def whole(model: Decoder, rows: Tensor, position: Position, *, at_once: int) -> Tensor:
    """Nats of each next token of (N, T + 1) tokens with all that came before as context, (N, T)."""
    return losses_of(model, rows, lm.places(model.config, rows.shape[1] - 1, rows.device, position), at_once=at_once)


def strided(model: Decoder, rows: Tensor, window: int, stride: int, *, at_once: int, position: Position | None = None) -> Tensor:
    """As `whole`, with a context of `window` tokens that slides by `stride`: the strongest baseline that never leaves the
    trained length. A target after the first window has at least window - stride tokens before it."""
    at = lm.places(model.config, window, rows.device, position)
    starts = range(0, rows.shape[1] - window, stride)
    if (rows.shape[1] - 1 - window) % stride:
        raise ValueError(f"windows of {window} that slide by {stride} do not end with {rows.shape[1] - 1} tokens")
    windows = torch.stack([row[s:s + window + 1] for row in rows for s in starts])
    nats = losses_of(model, windows, at, at_once=at_once * max(1, rows.shape[1] // window)).view(len(rows), len(starts), window)
    return torch.cat([nats[:, 0], nats[:, 1:, window - stride:].flatten(1)], dim=1)


def parted(model: Decoder, rows: Tensor, window: int, *, at_once: int, position: Position | None = None) -> Tensor:
    """As `strided`, over windows that do not overlap: a weaker baseline, since the first tokens of each have no context; under
    a scaled `position`, what the scaling costs short texts."""
    return strided(model, rows, window, window, at_once=at_once, position=position)


def by_position(nats: Tensor, bucket: int) -> list[tuple[int, float]]:
    """Mean loss of each `bucket` of target positions, as (position in the middle, nats)."""
    means = nats.mean(0).split(bucket)
    return [(i * bucket + len(part) // 2, float(part.mean())) for i, part in enumerate(means)]


def ratios(nats: Tensor, baseline: Tensor, last: int) -> tuple[float, ...]:
    """Perplexity over that of the baseline, one factor for each document, on the `last` tokens of each."""
    return tuple(float(f"{r:.7g}") for r in (nats - baseline)[:, -last:].double().mean(1).exp().tolist())


# ---------------------------------------------------------------------------------------------------- pass keys


@dataclass(frozen=True, slots=True)
class Trial:
    """A text of `length` tokens with a key at `depth`; rows are filled up behind it, which causal attention does not see."""

    length: int
    depth: float
    row: Rows


def trials(filler: Rows, lengths: Sequence[int], depths: Sequence[float], each: int) -> list[Trial]:
    """`each` texts for every length and depth, in documents `filler` (N, longest), with keys of a fixed seed."""
    draw, found = np.random.default_rng(7), []
    for length in lengths:
        for depth in depths:
            for _ in range(each):
                row = filler[draw.integers(len(filler))].copy()
                corpus.plant_key(row[:length], corpus.random_key(draw), depth)
                found.append(Trial(length, depth, row))
    return found


@torch.no_grad()
def keys_found(model: Decoder, some: Sequence[Trial], position: Position, *, at_once: int) -> list[bool]:
    """Whether each key is the greedy continuation of its question, digit for digit. One parallel forward tells: greedy decoding
    gives the key exactly where each digit is the argmax after those before it."""
    device, digits = model.embedding.weight.device, corpus.KEY_DIGITS
    longest = len(some[0].row)
    at = lm.places(model.config, longest, device, position)
    found: list[bool] = []
    for begin in range(0, len(some), at_once):
        part = some[begin:begin + at_once]
        rows = torch.from_numpy(np.stack([trial.row for trial in part])).to(device)
        ends = torch.tensor([trial.length for trial in part], device=device)
        with autocast(device):
            hidden = model.hidden(rows, at)
        answer = ends[:, None] - digits + torch.arange(digits, device=device)  # places of the digits
        line = torch.arange(len(part), device=device)[:, None]
        said = model.logits(hidden[line, answer - 1].float()).argmax(-1)
        found += (said == rows[line, answer]).all(1).tolist()
    return found


# ---------------------------------------------------------------------------------------------------- exact decoding


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cached against parallel logits of one text: positions whose argmax agrees, of how many, and the largest difference."""

    same: int
    positions: int
    largest: float


@torch.no_grad()
def agreement(model: Decoder, text: Tensor, position: Position, *, graph: bool) -> Agreement:
    """Decode (T,) tokens one at a time from a cache, and hold every position's logits against one parallel forward in the
    network's own precision."""
    parallel = model(text[None], lm.places(model.config, len(text), text.device, position))[0]
    session = Session(model, 1, len(text), position=position, graph=graph)
    steps = torch.stack([session.step(token)[0].clone() for token in text[:, None]])
    same = int((steps.argmax(-1) == parallel.argmax(-1)).sum())
    return Agreement(same, len(text), float((steps.float() - parallel.float()).abs().max()))
