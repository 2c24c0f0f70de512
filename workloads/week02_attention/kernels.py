"""Our own attention kernel in Triton, forward: online softmax over tiles, in bf16, and in fp8 with one e4m3 scale a head.

A program owns `rows` queries of one head and walks over its keys, `keys` at a time. It keeps the running maximum m, the running
sum l and the unnormalised output in registers, and rescales the last two when m grows (Milakov and Gimelshein 2018,
arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135), so the S x S scores never reach memory. Tiles that no mask touches are
walked first, without one. What is made for Hopper: tiles come by the bulk copy engine (tensor descriptors) into a ring of
`stages` buffers while the tensor cores work on earlier ones, a row of warps is a multiple of one warpgroup, and in fp8 V lies
transposed, since Hopper's fp8 matrix instruction takes both operands with the summed axis contiguous.

fp8 here means that both products run on e4m3 operands. Each head of Q, K and V is scaled so that its largest number is 448;
the probabilities, at most 1, are multiplied by 256 before they are rounded (Shah et al. 2024, arXiv:2407.08608, section 3.3).

Without a GPU the kernels run in Triton's interpreter, which is chosen when triton is first imported: TRITON_INTERPRET=1.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

E4M3 = torch.float8_e4m3fn
E4M3_LARGEST = 448.0
LOG2E = 1.4426950408889634
P_BITS = tl.constexpr(8)  # probabilities are rounded to e4m3 times 2**8: 256 is its largest power of two below 448
WIDTHS = (16, 32, 64, 128)
QUANTISED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Tiles:
    """One launch shape: queries and keys of a tile, warps of a program, buffers in flight; tiles by the copy engine (`tma`),
    or by each thread's own loads."""

    rows: int
    keys: int
    warps: int
    stages: int
    tma: bool = True

    def __str__(self) -> str:
        return f"{self.rows} x {self.keys}, {self.warps} warps, {self.stages} stages{'' if self.tma else ', no copy engine'}"


# What an H100 can hold: 227 KiB of shared memory for Q and the ring, 64 K registers for scores and output. Each list has a
# launch without the copy engine, so that one is left where that engine cannot be used. Sorted by hope, best first.
TILES = {
    (64, False): (Tiles(128, 128, 8, 3), Tiles(256, 64, 8, 4), Tiles(128, 128, 4, 3), Tiles(128, 64, 4, 4), Tiles(128, 64, 8, 4),
                  Tiles(64, 128, 4, 3), Tiles(64, 64, 4, 4), Tiles(128, 64, 4, 3, tma=False)),
    (128, False): (Tiles(128, 128, 8, 2), Tiles(128, 128, 8, 3), Tiles(128, 64, 8, 3), Tiles(128, 64, 4, 3), Tiles(256, 64, 8, 3),
                   Tiles(64, 128, 4, 2), Tiles(64, 64, 4, 2), Tiles(128, 64, 8, 3, tma=False)),
    (64, True): (Tiles(128, 128, 8, 4), Tiles(128, 128, 4, 3), Tiles(128, 64, 4, 4), Tiles(64, 128, 4, 4), Tiles(64, 64, 4, 4),
                 Tiles(128, 64, 4, 3, tma=False)),
    (128, True): (Tiles(128, 128, 8, 3), Tiles(128, 128, 8, 4), Tiles(128, 256, 8, 2), Tiles(128, 64, 8, 4), Tiles(128, 64, 4, 4),
                  Tiles(64, 128, 4, 3), Tiles(64, 64, 4, 4), Tiles(128, 64, 8, 3, tma=False)),
}
SMALL = Tiles(32, 16, 4, 2)  # for the narrow heads of tests


def tiles_for(width: int, fp8: bool) -> tuple[Tiles, ...]:
    """The launch shapes worth trying for heads of `width`, the likeliest first."""
    return TILES.get((width, fp8), (SMALL,))


@dataclass(frozen=True, slots=True)
class Quantised:
    """Q, K (B, H, S, D) and V transposed (B, H, D, S rounded up to 16) in e4m3, and the (B, H) float32 scales that undo it."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale_q: Tensor
    scale_k: Tensor
    scale_v: Tensor


def forward_bf16(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, tiles: Tiles | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V for (B, H, S, D) in bf16; each query sees all keys, or with `causal` those up to its own."""
    return launch_bf16(q, k, v, causal=causal, tiles=tiles)[0]


def forward_fp8(heads: Quantised, *, causal: bool, tiles: Tiles | None = None) -> Tensor:
    """As `forward_bf16`, from operands in e4m3; the output is bf16."""
    return launch_fp8(heads, causal=causal, tiles=tiles)[0]


def launch_bf16(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, tiles: Tiles | None = None) -> tuple[Tensor, Any]:
    """`forward_bf16`, and the machine code that did it; None for the code where the interpreter did."""
    check(q, k, v)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    return out, _launch(attention_forward_bf16, q, k, v, out, None, causal=causal, tiles=tiles or tiles_for(q.shape[-1], False)[0])


def launch_fp8(heads: Quantised, *, causal: bool, tiles: Tiles | None = None) -> tuple[Tensor, Any]:
    out = torch.empty(heads.q.shape, dtype=torch.bfloat16, device=heads.q.device)
    return out, _launch(attention_forward_fp8, heads.q, heads.k, heads.v, out, heads, causal=causal,
                        tiles=tiles or tiles_for(heads.q.shape[-1], True)[0])


def matrix_instruction(ptx: str) -> str:
    """The matrix instruction that a kernel's PTX uses, with its operand types; "" where it uses none."""
    found = re.search(r"(?:wgmma\.mma_async|mma)\.sync\.[\w.]+", ptx)
    return found.group() if found else ""


def check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises ValueError for what the kernels cannot take, and says what they can."""
    if q.dim() != 4 or q.shape != k.shape or q.shape != v.shape or 0 in q.shape:
        raise ValueError(f"attention takes q, k, v of one shape (B, H, S, D), not {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}")
    if q.shape[-1] not in WIDTHS or {q.dtype, k.dtype, v.dtype} != {torch.bfloat16}:
        raise ValueError(f"the Triton kernels take heads of {', '.join(map(str, WIDTHS))} in bf16, not {q.shape[-1]} in {q.dtype}")


def quantise(q: Tensor, k: Tensor, v: Tensor) -> Quantised:
    """bf16 (B, H, S, D) to e4m3: two kernels a tensor, one for each head's largest number and one that scales and rounds."""
    check(q, k, v)
    q8, scale_q = _quantised(q.contiguous(), transposed=False)
    k8, scale_k = _quantised(k.contiguous(), transposed=False)
    v8, scale_v = _quantised(v.contiguous(), transposed=True)
    return Quantised(q8, k8, v8, scale_q, scale_k, scale_v)


def _quantised(x: Tensor, *, transposed: bool) -> tuple[Tensor, Tensor]:
    batch, heads, length, width = x.shape
    with torch.autocast(x.device.type, enabled=False):  # it would copy x to float32 first
        largest = torch.linalg.vector_norm(x, ord=math.inf, dim=(-2, -1)).float()
    scale = largest.clamp_min(1e-12) / E4M3_LARGEST
    padded = triton.cdiv(length, 16) * 16  # the copy engine wants rows of whole 16 bytes
    rounded = torch.empty((batch, heads, width, padded) if transposed else x.shape, dtype=E4M3, device=x.device)
    quantise_heads[(triton.cdiv(length, QUANTISED_ROWS), batch * heads)](
        x, rounded, scale, length, padded, D=width, ROWS=QUANTISED_ROWS, TRANSPOSED=transposed,
        WIDE=triton.knobs.runtime.interpret)
    return rounded, scale


def _launch(kernel: Any, q: Tensor, k: Tensor, v: Tensor, out: Tensor, scales: Quantised | None, *, causal: bool, tiles: Tiles) -> Any:
    batch, heads, length, width = q.shape
    total = batch * heads
    v_row = v.shape[-1]
    inputs: tuple[object, ...] = (q, k, v)
    if tiles.tma:
        flat = [total * length, width]
        inputs = (TensorDescriptor(q, flat, [width, 1], [tiles.rows, width]), TensorDescriptor(k, flat, [width, 1], [tiles.keys, width]),
                  TensorDescriptor(v, [total * width, length], [v_row, 1], [width, tiles.keys]) if scales else
                  TensorDescriptor(v, flat, [width, 1], [tiles.keys, width]))
    if scales:
        inputs += (scales.scale_q, scales.scale_k, scales.scale_v)
    return kernel[(triton.cdiv(length, tiles.rows), total)](
        *inputs, out, LOG2E / math.sqrt(width), length, v_row, D=width, ROWS=tiles.rows, KEYS=tiles.keys, CAUSAL=causal,
        EVEN=length % max(tiles.rows, tiles.keys) == 0, TMA=tiles.tma, WIDE=triton.knobs.runtime.interpret,
        num_warps=tiles.warps, num_stages=tiles.stages)


# ---------------------------------------------------------------------------------------------------- on the GPU


@triton.jit
def attention_forward_bf16(q, k, v, out, scale, length, v_row, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
                           CAUSAL: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr, WIDE: tl.constexpr):
    _forward(q, k, v, out, scale, 1.0, length, v_row, D, ROWS, KEYS, CAUSAL, False, EVEN, TMA, WIDE)


@triton.jit
def attention_forward_fp8(q, k, v, scale_q, scale_k, scale_v, out, scale, length, v_row, D: tl.constexpr, ROWS: tl.constexpr,
                          KEYS: tl.constexpr, CAUSAL: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr, WIDE: tl.constexpr):
    head = tl.program_id(1)
    scale *= tl.load(scale_q + head) * tl.load(scale_k + head)
    _forward(q, k, v, out, scale, tl.load(scale_v + head), length, v_row, D, ROWS, KEYS, CAUSAL, True, EVEN, TMA, WIDE)


@triton.jit
def _forward(q, k, v, out, scale, out_scale, length, v_row, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
             CAUSAL: tl.constexpr, FP8: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr, WIDE: tl.constexpr):
    block, head = tl.program_id(0), tl.program_id(1)
    if CAUSAL:
        block = tl.num_programs(0) - 1 - block  # the longest walks first: short ones fill the gaps at the end
    start = block * ROWS
    rows = start + tl.arange(0, ROWS)
    base = head * length
    m = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    query = _tile(q, base + start, 0, base + length, D, D, ROWS, D, EVEN, TMA)
    if CAUSAL:
        whole = start // KEYS * KEYS
        last = tl.minimum(start + ROWS, length)
    else:
        whole = length // KEYS * KEYS
        last = length
    acc, total, m = _walk(acc, total, m, query, k, v, 0, whole, rows, base, head, length, v_row, scale, D, KEYS,
                          False, CAUSAL, FP8, EVEN, TMA, WIDE)
    if CAUSAL or not EVEN:
        acc, total, m = _walk(acc, total, m, query, k, v, whole, last, rows, base, head, length, v_row, scale, D, KEYS,
                              True, CAUSAL, FP8, EVEN, TMA, WIDE)
    acc = acc * (out_scale / total)[:, None]
    places = out + (base + rows).to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
    if EVEN:
        tl.store(places, _narrow(acc, False, WIDE))
    else:
        tl.store(places, _narrow(acc, False, WIDE), mask=rows[:, None] < length)


@triton.jit
def _walk(acc, total, m, query, k, v, first, last, rows, base, head, length, v_row, scale, D: tl.constexpr, KEYS: tl.constexpr,
          MASKED: tl.constexpr, CAUSAL: tl.constexpr, FP8: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr, WIDE: tl.constexpr):
    """Take the keys from `first` to `last` into the running softmax. `scale` is positive and for powers of two."""
    for start in range(first, last, KEYS):
        start = tl.multiple_of(start, KEYS)
        keys = start + tl.arange(0, KEYS)
        key = _tile(k, base + start, 0, base + length, D, D, KEYS, D, EVEN, TMA)
        s = _product(query, key.T, tl.zeros([query.shape[0], KEYS], tl.float32), WIDE)
        if MASKED:
            s = tl.where(rows[:, None] >= keys[None, :] if CAUSAL else keys[None, :] < length, s, float("-inf"))
        higher = tl.maximum(m, tl.max(s, 1) * scale)
        shift = higher - P_BITS if FP8 else higher  # the factor is in total too, so it cancels
        p = tl.exp2(s * scale - shift[:, None])
        fade = tl.exp2(m - higher)
        total = total * fade + tl.sum(p, 1)
        acc = acc * fade[:, None]
        if FP8:
            value = _tile(v, head * D, start, head * D + D, length, v_row, D, KEYS, EVEN, TMA).T
            p = _narrow(p, True, WIDE)
        else:
            value = _tile(v, base + start, 0, base + length, D, D, KEYS, D, EVEN, TMA)
            if TMA and not EVEN:
                value = tl.where((keys < length)[:, None], value, 0.0)  # rows of the next head: 0 times infinity would be NaN
            p = _narrow(p, False, WIDE)
        acc = _product(p, value, acc, WIDE)
        m = higher
    return acc, total, m


@triton.jit
def _tile(source, top, left, bottom, right, row, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr):
    """HEIGHT x WIDTH numbers from (top, left); zero outside (bottom, right), but for the copy engine, which knows no heads."""
    if TMA:
        tile = source.load([top, left])
    else:
        rows, columns = top + tl.arange(0, HEIGHT), left + tl.arange(0, WIDTH)
        places = source + rows.to(tl.int64)[:, None] * row + columns[None, :]
        inside = (rows < bottom)[:, None] & (columns < right)[None, :]
        tile = tl.load(places) if EVEN else tl.load(places, mask=inside, other=0.0)
    return tile


@triton.jit
def _product(a, b, acc, WIDE: tl.constexpr):
    """a b + acc on the tensor cores; the interpreter multiplies bf16 as if it were integers, so there in float32."""
    return tl.dot(a.to(tl.float32), b.to(tl.float32), acc) if WIDE and a.dtype == tl.bfloat16 else tl.dot(a, b, acc)


@triton.jit
def _narrow(x, FP8: tl.constexpr, WIDE: tl.constexpr):
    """float32 to e4m3 or bf16, to nearest. The interpreter cuts bits off, or drops the carry of a rounded mantissa, so there x
    is first rounded to the mantissa's 4 or 8 bits (Veltkamp's splitting)."""
    if WIDE:
        wide = x * (2.0**20 + 1 if FP8 else 2.0**16 + 1)
        x = wide - (wide - x)
    return x.to(tl.float8e4nv if FP8 else tl.bfloat16)


@triton.jit
def quantise_heads(x, rounded, scale, length, padded, D: tl.constexpr, ROWS: tl.constexpr, TRANSPOSED: tl.constexpr,
                   WIDE: tl.constexpr):
    head = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, D)
    inside = (rows < length)[:, None]
    wide = tl.load(x + (head * length + rows).to(tl.int64)[:, None] * D + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    narrow = _narrow(wide / tl.load(scale + head), True, WIDE)
    if TRANSPOSED:
        places = rounded + (head * D + columns).to(tl.int64)[:, None] * padded + rows[None, :]
        tl.store(places, narrow.T, mask=(rows < padded)[None, :])  # zeros into the padding too, so that every store is of 16 bytes
    else:
        tl.store(rounded + (head * length + rows).to(tl.int64)[:, None] * D + columns[None, :], narrow, mask=inside)
