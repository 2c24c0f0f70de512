"""The decoder against independent answers: transformers' Llama and frequencies, plain formulas in float64, and itself without a cache."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from workloads import lm
from workloads.lm import Cache, Config, Decoder, FeedForwardKind, NormKind, Position, PositionKind, Session

SMALL = Config(width=64, layers=2, heads=4, vocabulary=97, trained_length=32)
KINDS: tuple[PositionKind, ...] = ("rope", "pi", "ntk", "dynamic", "yarn", "alibi", "none")


def tokens(batch: int, length: int, seed: int = 0, vocabulary: int = 97) -> Tensor:
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def decoder(config: Config, seed: int = 0, scale: float = 8.0) -> Decoder:
    """A network whose weights are large enough for attention to be far from uniform."""
    model = Decoder(config, seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(scale)
    return model


# ---------------------------------------------------------------------------------------------------- positions


def theirs(kind: str, head_width: int, trained: int, factor: float, length: int) -> tuple[Tensor, float]:
    config = LlamaConfig(hidden_size=4 * head_width, num_attention_heads=4, max_position_embeddings=trained, rope_parameters={
        "rope_type": kind, "rope_theta": 10_000.0, "factor": factor, "original_max_position_embeddings": trained})
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)


@pytest.mark.parametrize(("ours", "kind", "factor"), [
    ("pi", "linear", 4.0), ("yarn", "yarn", 4.0), ("yarn", "yarn", 16.0), ("yarn", "yarn", 1.5), ("dynamic", "dynamic", 4.0),
    ("dynamic", "dynamic", 1.0)])
@pytest.mark.parametrize(("head_width", "trained"), [(128, 2048), (64, 4096), (16, 64)])
def test_frequencies_are_those_of_transformers(ours: PositionKind, kind: str, factor: float, head_width: int, trained: int) -> None:
    expected, scale = theirs(kind, head_width, trained, factor, 4 * trained)
    found, mine = lm.inverse_frequencies(Position(ours, factor), head_width, trained, 4 * trained)
    assert found.dtype == torch.float32
    assert float(((found - expected) / expected).abs().max()) < 1e-6
    assert mine == pytest.approx(scale, abs=1e-9)


def test_ntk_is_dynamic_ntk_frozen_at_its_length() -> None:
    expected, _ = theirs("dynamic", 128, 2048, 1.0, 8192)  # base x (8192 / 2048)^(d / (d - 2))
    found, _ = lm.inverse_frequencies(Position("ntk", 4.0), 128, 2048, 1)
    assert float(((found - expected) / expected).abs().max()) < 1e-6


def test_dynamic_ntk_is_plain_rope_within_the_trained_length() -> None:
    plain, _ = lm.inverse_frequencies(Position("rope"), 64, 2048, 100)
    assert torch.equal(lm.inverse_frequencies(Position("dynamic", 4.0), 64, 2048, 2048)[0], plain)
    assert not torch.allclose(lm.inverse_frequencies(Position("dynamic", 4.0), 64, 2048, 2049)[0], plain, rtol=1e-6)


def test_yarn_keeps_the_fast_frequencies_and_interpolates_the_slow_ones() -> None:
    plain, _ = lm.inverse_frequencies(Position("rope"), 128, 2048, 1)
    yarn, _ = lm.inverse_frequencies(Position("yarn", 4.0), 128, 2048, 1)
    turns = 2048 * plain / (2 * math.pi)
    assert torch.equal(yarn[turns > 40], plain[turns > 40])
    torch.testing.assert_close(yarn[turns < 0.8], plain[turns < 0.8] / 4)


def test_a_factor_of_one_changes_nothing() -> None:
    plain = lm.inverse_frequencies(Position("rope"), 64, 2048, 2048)
    for kind in lm.ROTARY:
        frequencies, scale = lm.inverse_frequencies(Position(kind), 64, 2048, 2048)
        torch.testing.assert_close(frequencies, plain[0])
        assert scale == 1.0


def test_tables_are_right_far_out() -> None:
    at = lm.places(SMALL, 9000, "cpu")
    frequencies, _ = lm.inverse_frequencies(Position("rope"), SMALL.head_width, 32, 9000)
    assert at.cos is not None and at.cos.dtype == torch.float32
    for i, frequency in enumerate(frequencies.tolist()):
        assert float(at.cos[8999, i]) == pytest.approx(math.cos(8999 * frequency), abs=1e-6)
        assert float(at.cos[8999, i + SMALL.head_width // 2]) == pytest.approx(math.cos(8999 * frequency), abs=1e-6)


def test_scores_depend_on_distance_alone() -> None:
    at = lm.places(SMALL, 64, "cpu", Position("yarn", 2.0))
    q, k = (torch.randn(1, 1, 1, 16, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    assert at.cos is not None and at.sin is not None
    scores = [(lm._rotated(q, at.cos[i + 7], at.sin[i + 7]) * lm._rotated(k, at.cos[i], at.sin[i])).sum() for i in (0, 20, 50)]
    torch.testing.assert_close(scores[1], scores[0])
    torch.testing.assert_close(scores[2], scores[0])


@pytest.mark.parametrize("heads", [1, 4, 6, 8, 12])
def test_slopes_are_those_of_transformers_bloom(heads: int) -> None:
    bias = build_alibi_tensor(torch.ones(1, 5), heads, torch.float32)  # slope x place, (heads, 1, 5)
    torch.testing.assert_close(lm.alibi_slopes(heads), bias[:, 0, 1])


@pytest.mark.parametrize("length", [40, 128, 256, 300, 1024])
def test_a_causal_mask_is_torchs_own_without_the_square(length: int) -> None:
    expected, found = create_block_mask(lm._causal, None, None, length, length, device="cpu"), lm.causal_mask(length, "cpu")
    for ours, torchs in zip(found.as_tuple(), expected.as_tuple(), strict=True):
        assert torch.equal(ours, torchs) if isinstance(torchs, Tensor) else ours == torchs
    assert found.BLOCK_SIZE == expected.BLOCK_SIZE


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_alibi_by_flex_attention_is_alibi_by_a_bias() -> None:
    q, k, v = (torch.randn(2, 6, 40, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    slopes = lm.alibi_slopes(6)
    plain = lm.attend(q, k, v, lm.Places(slopes=slopes))
    mask = lm.causal_mask(40, "cpu")
    lm_flex, lm._compiled_flex = lm._compiled_flex, lambda: flex_attention
    try:
        flexed = lm.attend(q, k, v, lm.Places(slopes=slopes, mask=mask))
    finally:
        lm._compiled_flex = lm_flex
    torch.testing.assert_close(flexed, plain, atol=2e-6, rtol=1e-5)


def test_attention_is_tried_on_the_layout_that_it_will_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, heads=2)
    met: list[tuple[int, ...]] = []

    def watched(q: Tensor, k: Tensor, v: Tensor, at: lm.Places) -> Tensor:
        met.extend(t.stride() for t in (q, k, v))
        out = plain(q, k, v, at)
        out.register_hook(lambda gradient: met.append(gradient.stride()))
        return out

    plain = lm.attend
    monkeypatch.setattr(lm, "attend", watched)
    lm.Block(config)(torch.randn(3, 16, config.width), lm.places(config, 16, "cpu")).sum().backward()
    assert met == [t.stride() for t in lm._as_a_block_has_them((3, 2, 16, config.head_width), "cpu")]


def test_one_compiled_kernel_serves_every_call_with_alibi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call makes its penalty anew, as a function over its slopes; that must not be a new kernel each time."""
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(flex_attention, dynamic=False, backend=counter)
    monkeypatch.setattr(lm, "_compiled_flex", lambda: compiled)
    q, k, v = (torch.randn(1, 4, 128, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for _ in range(3):
        slopes = lm.alibi_slopes(4)
        mask = lm.causal_mask(128, "cpu")
        out = lm.attend(q, k, v, lm.Places(slopes=slopes, mask=mask))
    torch.testing.assert_close(out, lm.attend(q, k, v, lm.Places(slopes=slopes)), atol=2e-6, rtol=1e-5)
    assert counter.frame_count == 1


def test_alibi_adds_the_slope_times_the_distance() -> None:
    slopes = torch.tensor([0.5, 0.25])
    bias = lm.alibi_bias(slopes, 3)
    assert bias[0].tolist() == [[0.0, -math.inf, -math.inf], [-0.5, 0.0, -math.inf], [-1.0, -0.5, 0.0]]
    assert bias[1, 2].tolist() == [-0.5, -0.25, 0.0]


def test_without_positions_the_past_is_a_set() -> None:
    """NoPE in one layer cannot tell the order of what came before; rotary positions can."""
    text = tokens(1, 12)
    turned = torch.cat([text[:, :11].flip(1), text[:, 11:]], dim=1)
    for kind, same in (("none", True), ("rope", False), ("alibi", False)):
        config = replace(SMALL, layers=1, position=Position(kind))  # type: ignore[arg-type]  # three of the kinds
        model = decoder(config)
        at = lm.places(config, 12, "cpu")
        a, b = (model(t, at)[0, -1] for t in (text, turned))
        assert torch.allclose(a, b, atol=1e-4) is same, kind


# ---------------------------------------------------------------------------------------------------- the network


def llama(model: Decoder, position: Position) -> LlamaForCausalLM:
    config = model.config
    rope = {"rope_type": {"rope": "default", "pi": "linear", "yarn": "yarn"}[position.kind], "rope_theta": position.base}
    if position.kind != "rope":
        rope |= {"factor": position.factor, "original_max_position_embeddings": config.trained_length}
    theirs = LlamaForCausalLM(LlamaConfig(
        vocab_size=config.vocabulary, hidden_size=config.width, intermediate_size=config.hidden_width, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.heads, max_position_embeddings=config.trained_length,
        rms_norm_eps=lm.EPSILON, rope_parameters=rope, tie_word_embeddings=True, attn_implementation="sdpa"))
    theirs.load_state_dict(lm.llama_weights(model))
    return theirs.eval()


@pytest.mark.parametrize("position", [Position(), Position("pi", 4.0), Position("yarn", 4.0)], ids=lambda p: p.kind)
def test_the_decoder_is_llama(position: Position) -> None:
    model = decoder(SMALL)
    text = tokens(2, 128)
    with torch.no_grad():
        mine = model(text, lm.places(SMALL, 128, "cpu", position))
        expected = llama(model, position)(text).logits
    assert float(expected.std()) > 0.5
    torch.testing.assert_close(mine, expected, atol=2e-4, rtol=2e-4)


def test_its_gradients_are_llamas() -> None:
    model = decoder(SMALL, scale=4.0)
    reference = llama(model, Position())
    text = tokens(2, 33)
    for network, logits in ((model, model(text[:, :-1], lm.places(SMALL, 32, "cpu"))), (reference, reference(text[:, :-1]).logits)):
        F.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
        assert all(p.grad is not None for p in network.parameters())
    gradients = lm.llama_weights(model)
    for parameter in model.parameters():
        parameter.data = parameter.grad  # so that the renaming names gradients
    gradients = lm.llama_weights(model)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_only_a_llama_has_llamas_names() -> None:
    with pytest.raises(ValueError, match="RMSNorm and SwiGLU"):
        lm.llama_weights(Decoder(replace(SMALL, norm="layernorm")))


@pytest.mark.parametrize("kind", ["gelu", "relu2", "swiglu", "geglu"])
def test_feed_forwards_are_their_formulas(kind: FeedForwardKind) -> None:
    layer = lm.FeedForward(replace(SMALL, feed_forward=kind)).double()
    x = torch.randn(5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    up = x @ layer.up.weight.T
    gate, value = up[:, :up.shape[1] // 2], up[:, up.shape[1] // 2:]

    def gelu(z: Tensor) -> Tensor:
        return z * (1 + torch.erf(z / math.sqrt(2))) / 2

    inner = {"gelu": lambda: gelu(up), "relu2": lambda: up.clamp(min=0) ** 2, "swiglu": lambda: gate / (1 + torch.exp(-gate)) * value,
             "geglu": lambda: gelu(gate) * value}[kind]()
    torch.testing.assert_close(layer(x), inner @ layer.down.weight.T)


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_norms_are_their_formulas(kind: NormKind) -> None:
    norm = lm.NORMS[kind](64)
    random = torch.Generator().manual_seed(4)
    x = 3 * torch.randn(7, 64, generator=random) + 1
    with torch.no_grad():
        for weight in norm.parameters():
            weight.copy_(torch.randn(64, generator=random))
    wide, gain = x.double(), norm.weight.double()
    if kind == "rmsnorm":
        expected = wide / (wide.square().mean(1, keepdim=True) + lm.EPSILON).sqrt() * gain
    else:
        assert isinstance(norm, lm.LayerNorm)
        expected = (wide - wide.mean(1, keepdim=True)) / (wide.var(1, keepdim=True, correction=0) + lm.EPSILON).sqrt() * gain + norm.bias
    assert float(((norm(x) - expected).norm() / expected.norm()).detach()) < 1e-6


def test_a_gate_costs_no_parameters() -> None:
    for width in (256, 384, 512, 768, 1000):
        config = replace(SMALL, width=width, heads=1)
        plain, gated = (lm.parameters(lm.FeedForward(replace(config, feed_forward=kind))) for kind in ("gelu", "swiglu"))
        assert 0.85 * plain <= gated <= plain, width
    assert Config(width=768).hidden_width == 2048


def test_weights_follow_from_the_seed() -> None:
    one, again, other = Decoder(SMALL, 1), Decoder(SMALL, 2), Decoder(SMALL, 2)
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    again.restart(1)
    for a, b in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_shape_that_has_no_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="does not give 5 heads"):
        Config(width=64, heads=5)


def test_flops_are_those_that_torch_counts() -> None:
    """Those of matrix products, exactly; a CPU's fused attention is not counted by torch, a causal one does half of T x T."""
    config = replace(SMALL, width=128, heads=2, vocabulary=256)
    model, counter = Decoder(config), FlopCounterMode(display=False)
    with counter:
        model(tokens(1, 64, vocabulary=256), lm.places(config, 64, "cpu")).sum().backward()
    half_of_attention = 3 * config.layers * (2 * 2 * 64 * 128) / 2  # forward once and backward twice; QK and PV, 2 operations each
    assert lm.flops_a_token(config, 64) - half_of_attention == counter.get_total_flops() / 64


def test_autocast_makes_the_residual_stream_narrow() -> None:
    model = Decoder(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.hidden(tokens(1, 8), lm.places(SMALL, 8, "cpu")).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo asks every input for it
def test_a_compiled_block_serves_all_layers_and_every_scaling() -> None:
    model = decoder(SMALL)
    text = tokens(2, 40)
    expected = {kind: model(text, lm.places(SMALL, 40, "cpu", Position(kind, 4.0))) for kind in lm.ROTARY}
    torch.compiler.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for block in model.blocks:
        block.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    for kind, logits in expected.items():
        torch.testing.assert_close(model(text, lm.places(SMALL, 40, "cpu", Position(kind, 4.0))), logits, atol=1e-4, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1


# ---------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_are_those_of_the_whole_text(kind: PositionKind) -> None:
    """At every position, beyond four times the trained length, in float32."""
    position = Position(kind, 4.0)
    model = decoder(replace(SMALL, position=position)).double()
    text = tokens(2, 150)
    session = Session(model, 2, 150)
    with torch.no_grad():
        whole = model(text, lm.places(model.config, 150, "cpu"))
    begun = session.prefill(text[:, :5])
    stepped = torch.stack([session.step(text[:, i]) for i in range(5, 150)], dim=1)
    torch.testing.assert_close(torch.cat([begun, stepped], dim=1), whole, atol=1e-5, rtol=1e-5)  # rotation is in float32


def test_several_tokens_at_once_are_one_after_the_other() -> None:
    model = decoder(SMALL)
    text = tokens(1, 20)
    session = Session(model, 1, 20)
    session.prefill(text[:, :8])
    with torch.no_grad():
        some = model.cached(text[:, 8:14], session.places, session.cache, torch.arange(8, 14))
        whole = model(text, lm.places(SMALL, 20, "cpu"))
    torch.testing.assert_close(some, whole[:, 8:14], atol=1e-4, rtol=1e-4)


def test_greedy_text_is_what_the_whole_forward_would_write() -> None:
    model = decoder(SMALL)
    prompt = tokens(2, 6)
    written = Session(model, 2, 80).generate(prompt, 74)
    text = torch.cat([prompt, written], dim=1)
    with torch.no_grad():
        logits = model(text, lm.places(SMALL, 80, "cpu"))
    assert torch.equal(logits[:, 5:-1].argmax(-1), written)
    assert len(written.unique()) > 10


def test_keys_of_drifting_rotations_do_not_mix() -> None:
    """Why a session keeps the frequencies of its capacity: keys cached under the rotation of a shorter text give other logits."""
    config = replace(SMALL, position=Position("dynamic", 4.0))
    model = decoder(config)
    text = tokens(1, 100)
    with torch.no_grad():
        whole = model(text, lm.places(config, 100, "cpu"))[:, -1]
        drifting = Session(model, 1, 100)
        drifting.prefill(text[:, :1])
        for i in range(1, 100):
            drifting.places = lm.places(config, i + 1, "cpu")
            last = drifting.step(text[:, i])
    assert float((last - whole).norm() / whole.norm()) > 0.05


def test_a_session_begins_anew_and_says_when_it_is_full() -> None:
    model = decoder(SMALL)
    session = Session(model, 1, 10)
    text = tokens(1, 10)
    one = session.prefill(text)
    with pytest.raises(ValueError, match="a text of 11 tokens does not fit a cache of 10"):
        session.step(text[:, 0])
    session.reset()
    assert torch.equal(session.prefill(text), one)
    assert session.cache.bytes == 2 * 2 * 4 * 10 * 16 * 4
    assert Cache((torch.zeros(2),), (torch.zeros(2),)).bytes == 16


def test_a_step_that_is_compiled_writes_in_place() -> None:
    """Inductor reuses a graph's input where that itself is written to; into a slice of it, it writes a copy of the whole, every step."""
    session = lm.Session(Decoder(SMALL), 1, 32)
    graphs: list[str] = []

    def kept(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph.code)
        return make_boxed_func(graph.forward)

    with torch.no_grad():
        torch.compile(session._once, backend=aot_autograd(fw_compiler=kept), fullgraph=True, dynamic=False)()
    assert len(re.findall(r"= torch\.ops\.aten\.index_copy\.default\(arg", graphs[0])) == 2 * SMALL.layers, "keys and values of each layer"
    assert "scatter" not in graphs[0]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_recorded_step_is_the_step(kind: PositionKind) -> None:
    config = Config(layers=2, heads=6, trained_length=128, position=Position(kind, 4.0))
    model = decoder(config, scale=3.0).cuda()
    text = tokens(1, 512, vocabulary=4096).cuda()
    with torch.no_grad():
        whole = model(text, lm.places(config, 512, "cuda"))
    session = Session(model, 1, 512, graph=True)
    session.prefill(text[:, :128])
    stepped = torch.stack([session.step(text[:, i]).clone() for i in range(128, 512)], dim=1)
    torch.testing.assert_close(stepped, whole[:, 128:], atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
def test_alibi_on_a_gpu_makes_no_square_tensor() -> None:
    heads, length = 6, 16_384
    config = Config(heads=heads, position=Position("alibi"))
    q, k, v = (torch.randn(1, heads, length, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    at = lm.places(config, length, "cuda")
    lm.attend(q, k, v, at)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    lm.attend(q, k, v, at)
    assert torch.cuda.max_memory_allocated() - before < heads * length * length * 2 / 8
    few = tuple(x[:, :, :512].float() for x in (q, k, v))
    plain = lm.attend(*few, lm.Places(slopes=at.slopes))
    found = lm.attend(*(x[:, :, :512].contiguous() for x in (q, k, v)), lm.places(config, 512, "cuda"))
    assert float((found.float() - plain).norm() / plain.norm()) < 1e-2
