"""`generate` of transformers in three forms, its continuous batching, and the float32 reference that every answer is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils.logging import disable_progress_bar

from workloads import corpus
from workloads.week10_serving.traffic import Ask

disable_progress_bar()  # bars would fill the log of a run

Tokens = tuple[int, ...]

TOLERANCE_NATS = 0.25  # two steps of bf16 between 16 and 32, where logits lie: a tie that rounding may decide either way
NO_END = -1  # an end-of-text token that no model writes: every request gets all the tokens it asked for
PAD = 0  # masked out, so any token will do

TINY = LlamaConfig(vocab_size=corpus.VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                   num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0)
LLAMA_8B = LlamaConfig(vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
                       num_key_value_heads=8, max_position_embeddings=8192, bos_token_id=128_000, eos_token_id=128_001,
                       # said by name: a config.json alone names none, and vLLM would take it for a model that only embeds
                       architectures=["LlamaForCausalLM"])
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def save_random(folder: Path, config: LlamaConfig) -> Path:
    """A checkpoint of random weights in float32, with the tokenizer of `corpus` and a plain chat template."""
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = corpus.tokenizer()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=tokenizer.id_to_token(0), chat_template=TEMPLATE).save_pretrained(folder)
    return folder


def load(folder: Path, device: str, dtype: torch.dtype) -> Any:
    """A checkpoint whose end-of-text token, penalties and other habits are forgotten: `generate` would fill them in wherever a
    request names none."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model.generation_config = GenerationConfig()
    return model.to(device).eval()


def random_model(config: LlamaConfig, device: str, dtype: torch.dtype) -> Any:
    """Random weights made on the device: 8B would take minutes through the host."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None  # as in `load`
    return model


def generated(model: Any, batch: Sequence[Ask], cache: Literal["dynamic", "static"] = "dynamic") -> list[Tokens]:
    """One batch through `generate`, left-padded, greedy, until its longest request is done; each request's own tokens.

    With `cache` "static" transformers compiles the decoding step on a GPU by itself; on a CPU it does not.
    """
    width = max(len(ask.prompt) for ask in batch)
    longest = max(ask.new_tokens for ask in batch)
    rows = [torch.tensor(ask.prompt[::-1]) for ask in batch]
    prompts = pad_sequence(rows, batch_first=True, padding_value=PAD).flip(1).to(model.device)
    mask = torch.tensor([[0] * (width - len(ask.prompt)) + [1] * len(ask.prompt) for ask in batch], device=model.device)
    config = GenerationConfig(max_new_tokens=longest, do_sample=False, pad_token_id=PAD,
                              cache_implementation="static" if cache == "static" else None)
    with torch.no_grad():
        out = model.generate(prompts, attention_mask=mask, generation_config=config)[:, width:].tolist()
    assert len(out[0]) == longest, "the end-of-text token must end nothing"
    return [tuple(row[:ask.new_tokens]) for row, ask in zip(out, batch, strict=True)]


def in_batches(model: Any, requests: Sequence[Ask], size: int, cache: Literal["dynamic", "static"] = "dynamic") -> list[Tokens]:
    """All requests in batches of `size`, in the order in which they arrived: sorting them by length is not vanilla."""
    return [tokens for first in range(0, len(requests), size) for tokens in generated(model, requests[first:first + size], cache)]


def batching_config(device: str) -> ContinuousBatchingConfig:
    """Pages and batch sized by the free memory on a GPU, less than half of it, for a static batch lives beside; on a CPU small ones."""
    if device == "cuda":
        return ContinuousBatchingConfig(max_memory_percent=0.4)
    return ContinuousBatchingConfig(page_size=32, num_blocks=64, max_batch_tokens=256)


def greedy(most_tokens: int) -> GenerationConfig:
    """For continuous batching: `most_tokens`, each the best."""
    return GenerationConfig(max_new_tokens=most_tokens, do_sample=False, pad_token_id=PAD, eos_token_id=NO_END)


def continuous(model: Any, requests: Sequence[Ask]) -> list[Tokens]:
    """All requests at once through transformers' continuous batching. Raises RuntimeError where one got no answer."""
    with model.continuous_batching_context_manager(
            generation_config=greedy(max(ask.new_tokens for ask in requests)),
            continuous_batching_config=batching_config(model.device.type)) as manager:
        for i, ask in enumerate(requests):
            manager.add_request(list(ask.prompt), request_id=str(i), max_new_tokens=ask.new_tokens, eos_token_id=NO_END)
        done: dict[str, Tokens] = {}
        while len(done) < len(requests):
            result = manager.get_result(timeout=1.0)
            if result is None:
                if not manager.is_running():
                    raise RuntimeError(f"continuous batching stopped after {len(done)} of {len(requests)} requests")
            elif result.error:
                raise RuntimeError(f"continuous batching: {result.error}")
            elif result.is_finished():
                done[result.request_id] = tuple(result.generated_tokens)
    return [done[str(i)] for i in range(len(requests))]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of `total` tokens `right` are as good as the reference's best; the worst of all is `worst_nats` below it. A tie that rounding
    decides is some tenths of a nat; a token from an engine that computes something else may be nats away."""

    right: int = 0
    total: int = 0
    worst_nats: float = 0.0

    @property
    def share(self) -> float:
        return self.right / self.total if self.total else 1.0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.right + other.right, self.total + other.total, max(self.worst_nats, other.worst_nats))


def agreeing(reference: Any, requests: Sequence[Ask], answers: Sequence[Tokens], tolerance: float = TOLERANCE_NATS) -> Agreement:
    """How many of the answers' tokens `reference` rates at most `tolerance` nats below its best, given the same text before
    them. A greedy answer stays right after a tie that rounding decided otherwise."""
    found = Agreement()
    for ask, tokens in zip(requests, answers, strict=True):
        text = torch.tensor([[*ask.prompt, *tokens]], device=reference.device)
        with torch.no_grad():
            logits: Tensor = reference(text).logits[0, len(ask.prompt) - 1:-1].float()
        below = logits.amax(1) - logits.gather(1, text[0, len(ask.prompt):, None])[:, 0]
        found += Agreement(int((below <= tolerance).sum()), len(tokens), float(below.max()))
    return found


def weight_bytes(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def cache_bytes_a_token(config: Any, element_size: int) -> int:
    """Keys and values of every layer; a checkpoint without grouped queries, or without a width of its heads, need not name them."""
    heads = config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kept * width * element_size)


def identical(one: Sequence[Tokens], other: Sequence[Tokens]) -> tuple[int, int]:
    """Tokens that two engines wrote alike at the same place, and all tokens."""
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return sum(a == b for a, b in pairs), len(pairs)
