"""One toggle over every way to compute attention: `attend(q, k, v, backend=...)`, and which of them this machine has.

The naive path is tuned as far as three operators go: the scale goes onto Q, which is D/S as large as the scores, and the mask is
filled in place. Every other path is one fused kernel, or several behind one call.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from workloads.week02_attention import kernels

Backend = Literal["naive", "math", "efficient", "flash", "cudnn", "default", "flex", "fa4", "triton", "fp8"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
FUSED_BF16: tuple[Backend, ...] = ("efficient", "flash", "cudnn", "default", "flex", "fa4", "triton")
FORWARD_ONLY: tuple[Backend, ...] = ("triton", "fp8")
COMPILED: tuple[Backend, ...] = ("flex", "fa4", "triton", "fp8")  # these build code at first use, so they go through a trial first
TITLES: dict[Backend, str] = {
    "naive": "naive", "math": "SDPA math", "efficient": "SDPA efficient", "flash": "FlashAttention-2", "cudnn": "cuDNN",
    "default": "default SDPA", "flex": "FlexAttention", "fa4": "FlashAttention-4", "triton": "our Triton bf16", "fp8": "our Triton fp8"}
SDPA: dict[Backend, SDPBackend] = {
    "math": SDPBackend.MATH, "efficient": SDPBackend.EFFICIENT_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION}
# What a profile must show for a backend to be the one it says: parts of kernel names, lower case. On a CPU, of operators.
PROOFS: dict[str, dict[Backend, tuple[str, ...]]] = {
    "cuda": {"naive": ("softmax",), "math": ("softmax",), "efficient": ("fmha_cutlass", "efficient_attention"),
             "flash": ("flash_fwd", "pytorch_flash"), "cudnn": ("cudnn",), "default": ("cudnn", "flash_fwd", "fmha_cutlass"),
             "flex": ("flex_attention", "triton_tem_fused"), "fa4": ("flashattentionforward", "flash_attn_cute", "flash_fwd_sm90"),
             "triton": ("attention_forward_bf16",), "fp8": ("attention_forward_fp8",)},
    "cpu": {"naive": ("aten::_softmax",), "math": ("_scaled_dot_product_attention_math",),
            "flash": ("_scaled_dot_product_flash_attention",),
            "default": ("_scaled_dot_product_flash_attention",)}}
FLEX_SHAPES = 64  # shapes that one process may compile FlexAttention for; past torch's own 8 it would fall back to unfused code


@dataclass(frozen=True, slots=True)
class Toggle:
    """A backend as networks hold it: called with (B, H, S, D) q, k, v and the mask. `tiles` are for our own kernels."""

    backend: Backend = "naive"
    tiles: kernels.Tiles | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        return attend(q, k, v, backend=self.backend, causal=causal, tiles=self.tiles)


def attend(q: Tensor, k: Tensor, v: Tensor, *, backend: Backend, causal: bool = False, tiles: kernels.Tiles | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V by `backend`; q, k, v and the result are (B, H, S, D), and with `causal` a query sees the keys
    up to its own.

    `tiles` is the launch shape of "triton" and "fp8", which are forward only. Raises ValueError for a backend that does not
    exist or shapes it does not take, and RuntimeError where a library has no kernel for them.
    """
    match backend:
        case "naive":
            return naive(q, k, v, causal=causal)
        case "math" | "efficient" | "flash" | "cudnn":
            with sdpa_kernel(SDPA[backend]):
                return scaled_dot_product_attention(q, k, v, is_causal=causal)
        case "default":
            return scaled_dot_product_attention(q, k, v, is_causal=causal)
        case "flex":
            return _flex(q.device.type)(q, k, v, block_mask=_causal_blocks(q.shape[-2], str(q.device)) if causal else None)
        case "fa4":
            out = _flash_attention_4()(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=causal)
            return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)  # it also returns the log-sum-exp
        case "triton":
            return kernels.forward_bf16(q, k, v, causal=causal, tiles=tiles)
        case "fp8":
            return kernels.forward_fp8(kernels.quantise(q, k, v), causal=causal, tiles=tiles)
        case _:
            raise ValueError(f"no attention backend {backend!r}: one of {', '.join(BACKENDS)}")


def naive(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Three operators in the inputs' own precision, the scores in memory between them; of any floating type."""
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.mT
    if causal:
        scores = scores.masked_fill_(_future(q.shape[-2], str(q.device)), -math.inf)
    return torch.softmax(scores, -1, dtype=scores.dtype) @ v  # with its type said, autocast leaves it alone


def hindrance(backend: Backend, device: str) -> str | None:
    """Why `backend` cannot run on `device` ("cuda" or "cpu"), as far as it shows without trying; None where nothing speaks against it."""
    if backend == "fa4" and (importlib.util.find_spec("flash_attn") is None or importlib.util.find_spec("flash_attn.cute") is None):
        return "flash-attn-4 is not installed: the extra attention brings it"
    if device == "cuda":
        if backend in ("fa4", "triton", "fp8") and torch.cuda.get_device_capability() < (9, 0):
            return "made for compute capability 9.0 and up"
        return None
    if backend in ("efficient", "cudnn", "fa4"):
        return "needs a GPU"
    if backend == "flex":
        return "compiled for a GPU; on a CPU it would first build C++ for a minute"
    if backend in ("triton", "fp8") and not triton.knobs.runtime.interpret:
        return "needs a GPU: here there is only the interpreter of Triton"
    return None


@functools.lru_cache(maxsize=2)
def _future(length: int, device: str) -> Tensor:
    """(S, S), true where the key comes after the query."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu_(1)


@functools.cache
def _flex(device: str) -> Any:
    """FlexAttention, compiled for each shape it meets; on a CPU uncompiled, forward only."""
    if device == "cpu":
        return flex_attention
    from torch._dynamo import config  # takes seconds, and only this backend needs it

    config.recompile_limit = FLEX_SHAPES
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


@functools.lru_cache(maxsize=4)
def _causal_blocks(length: int, device: str) -> BlockMask:
    return create_block_mask(_up_to_own, None, None, length, length, device=device)


def _up_to_own(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001  # FlexAttention's own signature
    return query >= key


@functools.cache
def _flash_attention_4() -> Any:
    from flash_attn.cute import flash_attn_func  # the extra `attention`; imports a compiler

    return flash_attn_func
