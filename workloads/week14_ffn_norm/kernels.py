"""RMSNorm in Triton, with or without the residual addition before it, forward and backward; drop-in modules around it.

Bytes decide: each value is read once and written once, in its own type, and everything between is float32 in registers. With the
residual, x + residual is written too, since the next block needs it: 4 movements a value where two kernels would take 5.
Backward keeps one factor a row and recomputes the rest; the gain's gradient is summed within a program first, then over programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from workloads.lm import EPSILON, RMSNorm

WIDEST = 16_384  # a row is one program's, in registers
PROGRAMS_A_PROCESSOR = 4


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no annotations, and its kernels' arguments none that mypy knows
def _forward(x, residual, gain, out, total, factor, columns, epsilon,  # type: ignore[no-untyped-def]
             ADDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        value += tl.load(residual + row + column, mask=inside, other=0.0).to(tl.float32)
        narrow = value.to(total.dtype.element_ty)
        tl.store(total + row + column, narrow, mask=inside)
        value = narrow.to(tl.float32)  # the norm is of what the next block will read
    scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / columns + epsilon)
    tl.store(factor + tl.program_id(0), scale)
    weight = tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + column, (value * scale * weight).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]  # as above
def _backward(grad_out, grad_total, total, gain, factor, grad_x, grad_gain, rows, columns,  # type: ignore[no-untyped-def]
              ADDS: tl.constexpr, BLOCK: tl.constexpr):
    program, programs = tl.program_id(0), tl.num_programs(0)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    weight = tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
    gathered = tl.zeros((BLOCK,), dtype=tl.float32)
    for turn in range(0, tl.cdiv(rows, programs)):
        row = program.to(tl.int64) + turn * programs
        here = inside & (row < rows)
        at = row * columns + column
        scale = tl.load(factor + row, mask=row < rows, other=0.0)
        normal = tl.load(total + at, mask=here, other=0.0).to(tl.float32) * scale
        upstream = tl.load(grad_out + at, mask=here, other=0.0).to(tl.float32)
        gathered += upstream * normal
        weighted = upstream * weight
        gradient = (weighted - normal * (tl.sum(weighted * normal, axis=0) / columns)) * scale
        if ADDS:
            gradient += tl.load(grad_total + at, mask=here, other=0.0).to(tl.float32)
        tl.store(grad_x + at, gradient.to(grad_x.dtype.element_ty), mask=here)
    tl.store(grad_gain + program * columns + column, gathered, mask=inside)


def _shape(columns: int) -> tuple[int, int]:
    """Block and warps for a row of `columns`."""
    if columns > WIDEST:
        raise ValueError(f"a row of {columns} values is wider than the {WIDEST} that one program holds")
    block = triton.next_power_of_2(columns)
    return block, min(16, max(1, block // 256))


class _Normed(torch.autograd.Function):
    """(x, residual or None, gain) to (normed, x + residual); rows are all but the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, gain: Tensor) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        residual = residual.contiguous() if residual is not None else None
        columns = x.shape[-1]
        rows, (block, warps) = x.numel() // columns, _shape(columns)
        out, factor = torch.empty_like(x), torch.empty(rows, device=x.device, dtype=torch.float32)
        total = torch.empty_like(x) if residual is not None else x
        _forward[(rows,)](x, residual if residual is not None else x, gain, out, total, factor, columns, EPSILON,
                          ADDS=residual is not None, BLOCK=block, num_warps=warps)
        ctx.save_for_backward(total, gain, factor)
        ctx.adds = residual is not None
        if residual is None:
            ctx.mark_non_differentiable(total := x.detach())
        return out, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        grad_out = gradients[0].contiguous()
        grad_total = gradients[1].contiguous() if ctx.adds else grad_out  # without a residual nothing reads it
        total, gain, factor = ctx.saved_tensors
        columns = total.shape[-1]
        rows, (block, warps) = total.numel() // columns, _shape(columns)
        programs = min(rows, _processors(total) * PROGRAMS_A_PROCESSOR)
        grad_x = torch.empty_like(total)
        grad_gain = torch.empty(programs, columns, device=total.device, dtype=torch.float32)
        _backward[(programs,)](grad_out, grad_total, total, gain, factor, grad_x, grad_gain, rows, columns,
                               ADDS=ctx.adds, BLOCK=block, num_warps=warps)
        return grad_x, grad_x if ctx.adds else None, grad_gain.sum(0).to(gain.dtype)


def _processors(on: Tensor) -> int:
    return torch.cuda.get_device_properties(on.device).multi_processor_count if on.is_cuda else 1


class FusedRMSNorm(RMSNorm):
    """Drop-in for lm.RMSNorm: the same weight under the same name, one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Normed.apply(x, None, self.weight)[0]
        return out


class FusedAddRMSNorm(RMSNorm):
    """x + residual, and its RMSNorm, in one kernel: (normed, sum)."""

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # it takes one more
        both: tuple[Tensor, Tensor] = _Normed.apply(x, residual, self.weight)
        return both


def fuse_norms(model: nn.Module) -> int:
    """Put a FusedRMSNorm in the place of every plain one, with its weight; returns how many."""
    found = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is RMSNorm:
                fused = FusedRMSNorm(len(child.weight))
                fused.weight = child.weight
                setattr(parent, name, fused)
                found += 1
    return found
