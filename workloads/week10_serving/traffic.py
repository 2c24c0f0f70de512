"""The requests of a run: prompts of random tokens with lognormal lengths, and when they arrive."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: the tokens of its prompt, and how many to write after it (the end-of-text token does not end it)."""

    prompt: tuple[int, ...]
    new_tokens: int

    def body(self, *, stream: bool) -> dict[str, Any]:
        """The request to /v1/completions, in vLLM's dialect of it: greedy, and exactly so many tokens. Their ids come back unless
        it streams: there their number is what counts, and every chunk would carry a list."""
        asked: dict[str, Any] = {"prompt": list(self.prompt), "max_tokens": self.new_tokens, "temperature": 0.0, "ignore_eos": True,
                                 "return_token_ids": not stream, "stream": stream}
        return asked | ({"stream_options": {"include_usage": True}} if stream else {})


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lognormal lengths in tokens, cut at `most`: the shape of chat traffic (ShareGPT's, as in vLLM's benchmarks)."""

    prompt_median: int
    prompt_most: int
    new_median: int
    new_most: int
    sigma: float = 0.8


def asks(count: int, lengths: Lengths, vocabulary: int, seed: int) -> tuple[Ask, ...]:
    """`count` requests, the same for the same seed. Prompts are random, so no two share a prefix that a cache could save."""
    draw = np.random.default_rng(seed)

    def drawn(median: int, most: int) -> list[int]:
        return [int(n) for n in np.clip(draw.lognormal(np.log(median), lengths.sigma, count).round(), 1, most)]

    prompts, news = drawn(lengths.prompt_median, lengths.prompt_most), drawn(lengths.new_median, lengths.new_most)
    return tuple(Ask(tuple(int(t) for t in draw.integers(0, vocabulary, size)), new) for size, new in zip(prompts, news, strict=True))


def arrivals(rate: float, count: int, seed: int) -> tuple[float, ...]:
    """When `count` requests of a Poisson process of `rate` a second arrive, in seconds from its start."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return tuple(float(f"{moment:.6f}") for moment in itertools.accumulate(gaps))


def tokens_of(requests: Sequence[Ask]) -> int:
    """Tokens that answer `requests`: each request's own, never what pads a batch."""
    return sum(ask.new_tokens for ask in requests)
