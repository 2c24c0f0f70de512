"""One decoder-only language model with three toggles (positions, feed-forward, norm), its key-value cache and its decoding.

With its defaults it is Llama without grouped queries: pre-norm, RMSNorm, SwiGLU, rotary positions in the half-split layout,
no biases, tied embeddings. `llama_weights` renames its weights to transformers' names, and tests hold the two together.

Positions are no part of the weights: a forward pass is given `Places`, so one trained network runs under any scaling of its
rotary frequencies, and one compiled graph serves them all. Methods, with s the factor and L the trained length
- rope: w_i = base^(-2i/d) (Su et al. 2021)          - pi: w_i / s, linear interpolation (Chen et al. 2023)
- ntk: base s^(d/(d-2)), NTK-aware (bloc97, 2023)    - dynamic: base (sT/L - s + 1)^(d/(d-2)) for a text of T > L tokens
- yarn: pi where a frequency turns less than once in L, rope where it turns over 32 times, a ramp between, and attention
  sharpened by (0.1 ln s + 1)^2, folded into cos and sin (Peng et al. 2023)
- alibi: no rotation; a key at distance n costs n times its head's slope (Press et al. 2021)       - none: NoPE

Dynamic frequencies depend on the length of the text. Cached keys are rotated, so a cache keeps the frequencies of its
capacity from first to last token; letting them drift as the text grows would mix keys of several rotations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

PositionKind = Literal["rope", "pi", "ntk", "dynamic", "yarn", "alibi", "none"]
FeedForwardKind = Literal["gelu", "swiglu", "geglu", "relu2"]
NormKind = Literal["rmsnorm", "layernorm"]
P = ParamSpec("P")
R = TypeVar("R")
ROTARY: tuple[PositionKind, ...] = ("rope", "pi", "ntk", "dynamic", "yarn")
GATED: tuple[FeedForwardKind, ...] = ("swiglu", "geglu")

YARN_FAST, YARN_SLOW = 32.0, 1.0  # turns within the trained length from which on a frequency is kept, up to which it is interpolated
EPSILON = 1e-5
MASK_BLOCK = 128  # tokens on a side of FlexAttention's blocks, its own default
INIT_STD = 0.02


@dataclass(frozen=True, slots=True)
class Position:
    """How a network is told where a token stands; `factor` is s, how many times the trained length it is stretched to."""

    kind: PositionKind = "rope"
    factor: float = 1.0
    base: float = 10_000.0


@dataclass(frozen=True, slots=True)
class Config:
    """A network's shape. `hidden` 0 means 4 widths, or for gated feed-forwards 8/3 rounded down to a multiple of 64, so that
    the third matrix costs no parameters."""

    width: int = 768
    layers: int = 5
    heads: int = 6
    vocabulary: int = 4096
    trained_length: int = 2048
    position: Position = Position()
    feed_forward: FeedForwardKind = "swiglu"
    norm: NormKind = "rmsnorm"
    hidden: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads or self.head_width % 2:
            raise ValueError(f"a width of {self.width} does not give {self.heads} heads of an even width")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def hidden_width(self) -> int:
        return self.hidden or (8 * self.width // 3 // 64 * 64 or 64 if self.feed_forward in GATED else 4 * self.width)


# ---------------------------------------------------------------------------------------------------- positions


def inverse_frequencies(position: Position, head_width: int, trained_length: int, length: int) -> tuple[Tensor, float]:
    """Radians a token for each pair of a head's dimensions, (head_width / 2,) in float32, and what cos and sin are multiplied
    by. `length` matters to `dynamic` alone."""
    base, s = position.base, position.factor
    exponent = torch.arange(0, head_width, 2, dtype=torch.float64) / head_width
    match position.kind:
        case "ntk":
            base *= s ** (head_width / (head_width - 2))
        case "dynamic":
            base *= (s * max(length, trained_length) / trained_length - (s - 1)) ** (head_width / (head_width - 2))
    frequencies: Tensor = base**-exponent
    if position.kind == "pi":
        return (frequencies / s).float(), 1.0
    if position.kind != "yarn":
        return frequencies.float(), 1.0

    def dimension(turns: float) -> float:
        """The dimension pair that makes so many turns within the trained length."""
        return head_width * math.log(trained_length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(dimension(YARN_FAST)), 0), min(math.ceil(dimension(YARN_SLOW)), head_width - 1)
    ramp = ((torch.arange(head_width // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)
    return (frequencies * (1 - ramp) + frequencies / s * ramp).float(), 0.1 * math.log(s) + 1 if s > 1 else 1.0


def alibi_slopes(heads: int) -> Tensor:
    """(heads,) in float32: 2^(-8/n), 2^(-16/n), ...; where the count is no power of two, every other slope of the next one
    follows, as in the paper's code."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / whole) for i in range(whole)]
    slopes += [2.0 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
    return torch.tensor(slopes, dtype=torch.float32)


class Places(NamedTuple):
    """What attention needs to know of positions 0 to length - 1. cos, sin: (length, head_width) in float32, or slopes:
    (heads,) and, on CUDA, the block mask of FlexAttention; all None for NoPE."""

    cos: Tensor | None = None
    sin: Tensor | None = None
    slopes: Tensor | None = None
    mask: BlockMask | None = None


def places(config: Config, length: int, device: str | torch.device, position: Position | None = None) -> Places:
    """The places of a text of `length` tokens, under `position` in place of the config's own where that is given."""
    position = position or config.position
    if position.kind == "none":
        return Places()
    if position.kind == "alibi":
        on_gpu = torch.device(device).type == "cuda"
        mask = causal_mask(length, device) if on_gpu else None
        return Places(slopes=alibi_slopes(config.heads).to(device), mask=mask)
    frequencies, factor = inverse_frequencies(position, config.head_width, config.trained_length, length)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies.double())  # float32 would be 5e-4 off at 8,192
    angles = torch.cat([angles, angles], dim=1)
    return Places(cos=(angles.cos() * factor).float().to(device), sin=(angles.sin() * factor).float().to(device))


def causal_mask(length: int, device: str | torch.device) -> BlockMask:
    """What torch's create_block_mask makes of the causal rule, without its boolean of length x length: the blocks below the
    diagonal are full, those on it partial, and where the last row is not a whole block, all of that row."""
    count = -(-length // MASK_BLOCK)
    row = torch.arange(count, device=device)
    full = row[:, None] > row
    partial = row[:, None] == row
    if length % MASK_BLOCK:
        full[-1], partial[-1] = False, True

    def ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
        """How many of each row, and their columns, those of the mask first."""
        return blocks.sum(1).int()[None, None], blocks.int().argsort(dim=1, descending=True, stable=True).int()[None, None]

    made: BlockMask = BlockMask.from_kv_blocks(*ordered(partial), *ordered(full), BLOCK_SIZE=MASK_BLOCK, mask_mod=_causal,
                                               seq_lengths=(length, length))
    return made


def _causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001  FlexAttention's signature
    return query >= key


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: (B, H, T, head_width), turned in float32 whatever its own type; pairs are (i, i + head_width / 2)."""
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    """FlexAttention compiled on its own, for eager networks: uncompiled it would write the T x T scores to memory."""
    return torch.compile(flex_attention, dynamic=False)


def attend(q: Tensor, k: Tensor, v: Tensor, at: Places) -> Tensor:
    """Causal attention, all (B, H, T, head_width). ALiBi on CUDA goes through FlexAttention, which adds the penalty to scores in
    registers; on a CPU through the plain bias of (H, T, T), which is what it is tested against."""
    if at.slopes is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if at.mask is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=alibi_bias(at.slopes, q.shape[2]).to(q.dtype))
    slopes = at.slopes

    def penalty(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001  as above
        return score - slopes[head] * (query - key)

    # In a compiled network it is part of the graph; and only outside one may a compiler be asked for.
    flex: Any = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
    out: Tensor = flex(q, k, v, score_mod=penalty, block_mask=at.mask)
    return out


def alibi_bias(slopes: Tensor, length: int) -> Tensor:
    """(H, length, length): the penalty, and minus infinity for what comes later."""
    place = torch.arange(length, device=slopes.device)
    distance = place[:, None] - place
    return torch.where(distance >= 0, -slopes[:, None, None] * distance, -torch.inf)


def _attend_cached(q: Tensor, keys: Tensor, values: Tensor, slopes: Tensor | None, at: Tensor) -> Tensor:
    """q: (B, H, n, head_width) at positions `at` (n,) over a cache of (B, H, capacity, head_width), of which later places are
    ignored. Plain, so that a recorded step depends on no library's choice of kernel; scores and penalties in float32, for bf16
    would round a distance of 8,000 by 16."""
    distance = at[:, None] - torch.arange(keys.shape[2], device=at.device)
    scores = (q @ keys.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    if slopes is not None:
        scores = scores - slopes[:, None, None] * distance
    return scores.masked_fill(distance < 0, -torch.inf).softmax(-1).to(q.dtype) @ values


def _as_a_block_has_them(shape: tuple[int, int, int, int], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random q, k, v and output gradient, each (B, H, T, head_width) in bf16, with a block's strides: v is a view of one matrix
    with all three, rotated q and k are dense in its order, and so is the gradient. Kernels copy what they cannot read as it lies."""
    batch, heads, length, width = shape
    random = torch.Generator(device).manual_seed(0)
    q, k, gradient = (torch.randn(batch, length, heads, width, device=device, dtype=torch.bfloat16, generator=random).transpose(1, 2)
                      for _ in range(3))
    together = torch.randn(batch, length, 3, heads, width, device=device, dtype=torch.bfloat16, generator=random)
    return q, k, together.permute(2, 0, 3, 1, 4)[2], gradient


def choose_attention(candidates: tuple[SDPBackend, ...], shape: tuple[int, int, int, int],
                     best: Callable[[dict[str, Callable[[], object]]], str]) -> SDPBackend | None:
    """The fastest of `candidates` that is right: forward and backward of causal bf16 attention on (B, H, T, head_width), laid out
    as `Block` lays it out and held against float32 on the plain path. `best` names the fastest of the arms it is given. None
    where none is right."""
    q, k, v, gradient = _as_a_block_has_them(shape, "cuda")

    def call(backend: SDPBackend, inputs: tuple[Tensor, ...], towards: Tensor) -> tuple[Tensor, ...]:
        q, k, v = (x.detach().requires_grad_() for x in inputs)
        with sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.detach(), *torch.autograd.grad(out, (q, k, v), towards)

    few = (slice(0, 1), slice(0, 1))
    reference = call(SDPBackend.MATH, tuple(x[few].float() for x in (q, k, v)), gradient[few].float())
    arms: dict[str, Callable[[], object]] = {}
    for backend in candidates:
        try:
            seen = call(backend, (q, k, v), gradient)
        except RuntimeError:  # not in this build, or not for this shape
            continue
        if all(float((x[few].float() - r).norm() / r.norm()) < 0.02 for x, r in zip(seen, reference, strict=True)):
            arms[backend.name] = lambda backend=backend: call(backend, (q, k, v), gradient)  # type: ignore[misc]  # one lambda a backend
    return SDPBackend.__members__[best(arms)] if arms else None


# ---------------------------------------------------------------------------------------------------- modules


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last dimension, computed in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON) * self.weight.float()).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / deviation * gain + bias over the last dimension, computed in float32 (Ba et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight.float(), self.bias.float(), EPSILON).to(x.dtype)


class FeedForward(nn.Module):
    """GELU or ReLU^2 between two matrices, or SwiGLU or GEGLU (Shazeer 2020) with gate and value in one wide matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.kind = config.feed_forward
        wide = config.hidden_width * (2 if self.kind in GATED else 1)
        self.up = nn.Linear(config.width, wide, bias=False)
        self.down = nn.Linear(config.hidden_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up: Tensor = self.up(x)
        match self.kind:
            case "gelu":
                up = F.gelu(up)
            case "relu2":
                up = F.relu(up).square()
            case "swiglu":
                gate, value = up.chunk(2, dim=-1)
                up = F.silu(gate) * value
            case "geglu":
                gate, value = up.chunk(2, dim=-1)
                up = F.gelu(gate) * value
        out: Tensor = self.down(up)
        return out


class Attention(nn.Module):
    """Causal self-attention; queries, keys and values in one matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def heads_of(self, x: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, width) to rotated queries and keys, and values, each (B, H, T, head_width)."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if cos is not None and sin is not None:
            q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        return q, k, v

    def joined(self, out: Tensor) -> Tensor:
        joined: Tensor = self.out(out.transpose(1, 2).flatten(2))
        return joined


NORMS: dict[NormKind, type[RMSNorm] | type[LayerNorm]] = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to what came in."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = NORMS[config.norm](config.width)
        self.attention = Attention(config)
        self.feed_forward_norm = NORMS[config.norm](config.width)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, at: Places) -> Tensor:
        q, k, v = self.attention.heads_of(self.attention_norm(x), at.cos, at.sin)
        x = x + self.attention.joined(attend(q, k, v, at))
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out

    def filling(self, x: Tensor, at: Places, keys: Tensor, values: Tensor) -> Tensor:
        """As forward, and what a cache (B, H, capacity, head_width) needs of these first tokens is written to it."""
        q, k, v = self.attention.heads_of(self.attention_norm(x), at.cos, at.sin)
        keys[:, :, :k.shape[2]] = k
        values[:, :, :v.shape[2]] = v
        x = x + self.attention.joined(attend(q, k, v, at))
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out

    def cached(self, x: Tensor, at: Places, keys: Tensor, values: Tensor, here: Tensor) -> Tensor:
        """(B, n, width) at positions `here` (n,), with everything before them in the cache."""
        cos, sin = (at.cos[here], at.sin[here]) if at.cos is not None and at.sin is not None else (None, None)
        q, k, v = self.attention.heads_of(self.attention_norm(x), cos, sin)
        keys.index_copy_(2, here, k)
        values.index_copy_(2, here, v)
        x = x + self.attention.joined(_attend_cached(q, keys, values, at.slopes, here))
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class Decoder(nn.Module):
    """The network. Weights follow from `seed` alone, on any device."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = NORMS[config.norm](config.width)
        self.restart(seed)

    @torch.no_grad()
    def restart(self, seed: int) -> None:
        """Weights as new, in place: normal of 0.02, and less where a matrix adds to the residual stream (GPT-2)."""
        random = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            std = INIT_STD / math.sqrt(2 * self.config.layers) if name.endswith(("out.weight", "down.weight")) else INIT_STD
            weight.copy_(torch.randn(weight.shape, generator=random) * std)

    def compile_blocks(self) -> None:
        """Compile one block and use its code for all: blocks differ in weights alone, and the whole network takes longer."""
        for block in self.blocks:
            block.compile(fullgraph=True, dynamic=False)

    def hidden(self, tokens: Tensor, at: Places) -> Tensor:
        """(B, T) tokens to (B, T, width) before the head. Under autocast the residual stream is of its type."""
        x = self._embedded(tokens)
        for block in self.blocks:
            x = block(x, at)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embedding.weight)

    def forward(self, tokens: Tensor, at: Places) -> Tensor:
        """(B, T) tokens to (B, T, vocabulary) logits."""
        return self.logits(self.hidden(tokens, at))

    def filling(self, tokens: Tensor, at: Places, cache: Cache) -> Tensor:
        """As forward, for the first tokens of a text, and their keys and values go to the cache."""
        x = self._embedded(tokens)
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            x = block.filling(x, at, keys, values)  # type: ignore[operator]  # torch types submodules as Tensor | Module
        return self.logits(self.norm(x))

    def cached(self, tokens: Tensor, at: Places, cache: Cache, here: Tensor) -> Tensor:
        """(B, n) tokens at positions `here` (n,) of a text whose earlier tokens are in the cache, to (B, n, vocabulary)."""
        x = self._embedded(tokens)
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            x = block.cached(x, at, keys, values, here)  # type: ignore[operator]  # as above
        return self.logits(self.norm(x))

    def _embedded(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embedding(tokens)
        kind = x.device.type
        return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def compile_for(function: Callable[P, R], device: str) -> Callable[P, R]:
    """`function` through torch.compile, whole graph, static shapes. On a CPU the graph is traced and run as it is: generating
    Inductor's C++ would take a minute for a smoke test."""
    found: Callable[P, R] = torch.compile(function, fullgraph=True, dynamic=False, backend="eager" if device == "cpu" else "inductor")
    return found


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def flops_a_token(config: Config, length: int) -> float:
    """Floating-point operations of training on one token: 6 for each weight of a matrix product (the tied head once, the
    embedding look-up never), and attention, counted half for being causal: 6 x layers x length x width."""
    hidden = config.hidden_width * (3 if config.feed_forward in GATED else 2)
    weights = config.layers * (4 * config.width**2 + config.width * hidden) + config.vocabulary * config.width
    return 6.0 * weights + 6.0 * config.layers * length * config.width


def llama_weights(model: Decoder) -> dict[str, Tensor]:
    """The weights under the names of transformers' LlamaForCausalLM (RMSNorm and SwiGLU only). Raises ValueError otherwise."""
    if (model.config.norm, model.config.feed_forward) != ("rmsnorm", "swiglu"):
        raise ValueError("Llama has RMSNorm and SwiGLU")
    found = {"model.embed_tokens.weight": model.embedding.weight, "lm_head.weight": model.embedding.weight,
             "model.norm.weight": model.norm.weight}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        q, k, v = block.attention.qkv.weight.chunk(3)
        gate, up = block.feed_forward.up.weight.chunk(2)
        for name, weight in (("self_attn.q_proj", q), ("self_attn.k_proj", k), ("self_attn.v_proj", v),
                             ("self_attn.o_proj", block.attention.out.weight), ("mlp.gate_proj", gate), ("mlp.up_proj", up),
                             ("mlp.down_proj", block.feed_forward.down.weight), ("input_layernorm", block.attention_norm.weight),
                             ("post_attention_layernorm", block.feed_forward_norm.weight)):
            found[f"model.layers.{i}.{name}.weight"] = weight
    return {name: weight.detach() for name, weight in found.items()}


# ---------------------------------------------------------------------------------------------------- decoding


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys (rotated) and values, one tensor a layer, each (B, H, capacity, head_width); what is beyond the text is ignored. One
    tensor for all layers would be copied whole at every compiled step, for Inductor writes in place to what it was given and not
    to a slice of it."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))


class Session:
    """One batch of texts being written: prefill, then step by step, on CUDA as one graph a step.

    The position is fixed for `capacity` tokens when the session opens (see the module's head on dynamic frequencies). Weights
    are used as they are: give a network in bf16 to decode in bf16. `compiled` fuses the step; `graph` records it.
    """

    def __init__(self, model: Decoder, batch: int, capacity: int, *, position: Position | None = None, graph: bool = False,
                 compiled: bool = False) -> None:
        config, weight = model.config, model.embedding.weight
        self.model, self.capacity = model, capacity
        self.places = places(config, capacity, weight.device, position)
        shape = (batch, config.heads, capacity, config.head_width)
        self.cache = Cache(*(tuple(torch.zeros(shape, device=weight.device, dtype=weight.dtype) for _ in range(config.layers))
                             for _ in range(2)))
        self.length = 0
        self._token = torch.zeros(batch, 1, dtype=torch.int64, device=weight.device)
        self._here = torch.zeros(1, dtype=torch.int64, device=weight.device)
        self._one = compile_for(self._once, weight.device.type) if compiled else self._once
        self._graph: torch.cuda.CUDAGraph | None = None
        if graph:
            with torch.no_grad():
                self._graph, self._out = recorded(self._one)
        self.reset()

    def reset(self) -> None:
        self.length = 0
        for part in (*self.cache.keys, *self.cache.values):
            part.zero_()

    @torch.no_grad()
    def prefill(self, tokens: Tensor) -> Tensor:
        """(B, T) first tokens to their logits (B, T, vocabulary)."""
        assert self.length == 0, "a prompt comes first"
        length = tokens.shape[1]
        self._fits(length)
        self.length = length
        return self.model.filling(tokens, first(self.places, length), self.cache)

    @torch.no_grad()
    def step(self, token: Tensor) -> Tensor:
        """(B,) next tokens to the logits of what follows, (B, vocabulary); overwritten by the next step where it is a graph."""
        self._fits(1)
        self._token.copy_(token[:, None])
        self._here.fill_(self.length)
        self.length += 1
        if self._graph is None:
            return self._one()
        self._graph.replay()
        return self._out

    def generate(self, prompt: Tensor, count: int) -> Tensor:
        """(B, T) prompts to the `count` tokens that follow greedily, (B, count)."""
        token = self.prefill(prompt)[:, -1].argmax(-1)
        found = [token]
        for _ in range(count - 1):
            token = self.step(token).argmax(-1)
            found.append(token)
        return torch.stack(found, dim=1)

    def _once(self) -> Tensor:
        return self.model.cached(self._token, self.places, self.cache, self._here)[:, -1]

    def _fits(self, more: int) -> None:
        if self.length + more > self.capacity:
            raise ValueError(f"a text of {self.length + more} tokens does not fit a cache of {self.capacity}")


def first(at: Places, length: int) -> Places:
    """The places of the first `length` tokens; an ALiBi mask is made anew for them."""
    if at.cos is not None and at.sin is not None:
        return Places(cos=at.cos[:length], sin=at.sin[:length])
    if at.mask is not None:
        assert at.slopes is not None
        return at._replace(mask=causal_mask(length, at.slopes.device))
    return at


def recorded(work: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """`work` as a CUDA graph and the tensor its result appears in. Warm-up runs go to a side stream, as torch's notes ask, and the
    recording to the same one, so that no node of a backward pass belongs to another stream than its gradient."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch annotates this class only in part
    side.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):  # and back to the stream of before, should recording fail
        for _ in range(3):
            work()
        with torch.cuda.graph(graph, stream=side):
            out = work()
    torch.cuda.current_stream().wait_stream(side)
    return graph, out


def stretched(config: Config, kind: PositionKind, length: int) -> Position:
    """A position of `kind` that reaches from the trained length to `length`."""
    return replace(config.position, kind=kind, factor=length / config.trained_length)
