"""One shape of attention: how many operations it is, fresh inputs with outlier heads, and distances to float64.

Operations are counted as FlashAttention's authors do: 4 B H S^2 D forward, half of it with a causal mask, the backward pass 2.5
times the forward. Naive kernels do the masked half too, and are not credited for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from workloads.week02_attention.backends import naive

ERROR_FACTOR = 2.0  # a backend may be this much further from fp64 than the naive path in the same precision: flash-attn's own tests' rule
OUTLIERS, OUTLIER_SIZE, LOUD = 0.001, 10.0, 30.0  # share and spread of single outliers (FlashAttention-3's test), and a head that is louder
SMALLEST = 1e-9  # where the naive path has no error at all, as on one key
Call = Callable[..., Tensor]  # q, k, v, causal= -> out


@dataclass(frozen=True, slots=True)
class Point:
    """A shape of the sweep: (batch, heads, length, width), a mask or none, forward or with the backward pass."""

    batch: int
    heads: int
    length: int
    width: int
    causal: bool
    backward: bool

    @property
    def tera_operations(self) -> float:
        forward = 4 * self.batch * self.heads * self.length**2 * self.width * (0.5 if self.causal else 1.0)
        return forward * (3.5 if self.backward else 1.0) / 1e12

    @property
    def direction(self) -> str:
        return "forward + backward" if self.backward else "forward"

    @property
    def mask(self) -> str:
        return "causal" if self.causal else "full"

    def __str__(self) -> str:
        return f"S {self.length}, D {self.width}, {self.mask}, {self.direction}"


@dataclass(frozen=True, slots=True)
class Inputs:
    """q, k, v and the output's gradient, (B, H, S, D) in bf16. The last head of the last sample has outliers and is 30 times
    louder in v: an error that a quiet head hides shows there."""

    q: Tensor
    k: Tensor
    v: Tensor
    d_out: Tensor

    def call(self, attend: Call, point: Point) -> Callable[[], object]:
        """What is timed: the forward pass, or the forward pass and the gradients of q, k and v."""
        if not point.backward:
            return partial(attend, self.q, self.k, self.v, causal=point.causal)
        leaves = tuple(t.detach().requires_grad_() for t in (self.q, self.k, self.v))

        def both() -> tuple[Tensor, ...]:
            return torch.autograd.grad(attend(*leaves, causal=point.causal), leaves, self.d_out)

        return both

    def laid_out(self) -> Inputs:
        """The same numbers with the strides they have inside a network: q, k and v are views of one (B, S, 3, H, D) matrix, and the
        gradient is one of (B, S, H, D). What a kernel cannot read as it lies is copied first, and that is part of its time there."""
        q, k, v = torch.stack((self.q, self.k, self.v)).permute(1, 3, 0, 2, 4).contiguous().permute(2, 0, 3, 1, 4)
        return Inputs(q, k, v, self.d_out.transpose(1, 2).contiguous().transpose(1, 2))

    def head(self, sample: int, head: int) -> Inputs:
        """One head of one sample, as a shape of its own."""
        return Inputs(*(t[sample:sample + 1 or None, head:head + 1 or None] for t in (self.q, self.k, self.v, self.d_out)))


def draw(point: Point, device: str, seed: int) -> Inputs:
    """Fresh random inputs, the same for the same seed on one device."""
    random = torch.Generator(device).manual_seed(seed)
    shape = (point.batch, point.heads, point.length, point.width)
    q, k, v, d_out = (torch.randn(shape, generator=random, device=device, dtype=torch.float32) for _ in range(4))
    for t in (q, k, v):
        last = t[-1, -1]
        last += OUTLIER_SIZE * torch.randn(last.shape, generator=random, device=device) * (
            torch.rand(last.shape, generator=random, device=device) < OUTLIERS)
    v[-1, -1] *= LOUD
    return Inputs(*(t.to(torch.bfloat16) for t in (q, k, v, d_out)))


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative L2 distance to float64, tensor by tensor (the output, then dq, dk, dv), of the first head and of the outlier head;
    and the largest single difference in the output of the first."""

    plain: tuple[float, ...]
    outlier: tuple[float, ...]
    largest: float

    def over(self, other: Errors) -> float:
        """The worst of my errors over `other`'s, tensor by tensor; infinite where one is no number."""
        pairs = zip((*self.plain, *self.outlier), (*other.plain, *other.outlier), strict=True)
        ratios = [mine / max(theirs, SMALLEST) for mine, theirs in pairs]
        return max(ratios) if all(map(math.isfinite, ratios)) else math.inf


@dataclass(frozen=True, slots=True)
class Reference:
    """The two heads that are checked, in float64, and the naive path's errors on them in bf16: the yardstick.

    Heads do not influence each other, so two of them stand for all: the first, and the last with its outliers, which a wrong
    stride or a kernel that stops early would miss. Both fit in memory at lengths where the naive path on all heads does not.
    """

    point: Point
    heads: tuple[tuple[Tensor, ...], ...]
    naive: Errors

    @classmethod
    def of(cls, inputs: Inputs, point: Point) -> Reference:
        alone = [inputs.head(*place) for place in _PLACES]
        exact = tuple(_values(Inputs(h.q.double(), h.k.double(), h.v.double(), h.d_out.double()), naive, point) for h in alone)
        return cls(point, exact, _errors([_values(h, naive, point) for h in alone], exact))

    def allowed(self, inputs: Inputs) -> Errors:
        """The forward errors of arithmetic that is exact but for e4m3."""
        return _errors([(fake_quantised(h.q, h.k, h.v, causal=self.point.causal),) for h in (inputs.head(*place) for place in _PLACES)],
                       self.heads)

    def errors(self, inputs: Inputs, attend: Call) -> Errors:
        """Run `attend` once on all heads, and hold the two against float64."""
        values = _values(inputs, attend, self.point)
        return _errors([tuple(t[sample:sample + 1 or None, head:head + 1 or None] for t in values) for sample, head in _PLACES], self.heads)


_PLACES = ((0, 0), (-1, -1))  # sample and head of the two that are checked


def _values(inputs: Inputs, attend: Call, point: Point) -> tuple[Tensor, ...]:
    if not point.backward:
        return (attend(inputs.q, inputs.k, inputs.v, causal=point.causal),)
    leaves = tuple(t.detach().requires_grad_() for t in (inputs.q, inputs.k, inputs.v))
    out = attend(*leaves, causal=point.causal)
    return out.detach(), *torch.autograd.grad(out, leaves, inputs.d_out)


def _errors(heads: list[tuple[Tensor, ...]], exact: tuple[tuple[Tensor, ...], ...]) -> Errors:
    plain, outlier = (tuple(distance(t, r) for t, r in zip(values, reference, strict=True))
                      for values, reference in zip(heads, exact, strict=True))
    return Errors(plain, outlier, float((heads[0][0].double() - exact[0][0]).abs().max()))


def ratio_of_errors(backend: str, reference: Reference, inputs: Inputs, attend: Call) -> tuple[float, Errors]:
    """The worst of `attend`'s errors over the naive path's in bf16; for "fp8" over what e4m3 leaves possible (`fake_quantised`)."""
    errors = reference.errors(inputs, attend)
    return errors.over(reference.allowed(inputs) if backend == "fp8" else reference.naive), errors


def distance(value: Tensor, reference: Tensor) -> float:
    """||value - reference|| / ||reference|| in float64."""
    return float((value.double() - reference).norm() / reference.norm())


def fake_quantised(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Attention in float64 but for what e4m3 loses: q, k, v rounded with one scale a head, probabilities times 256. What an fp8
    kernel can reach at best; written without the kernel's tiles, so it is also the independent answer in its tests."""
    def rounded(x: Tensor) -> Tensor:
        scale = x.float().abs().amax((-2, -1), keepdim=True).clamp_min(1e-12) / 448
        return (x.float() / scale).to(torch.float8_e4m3fn).double() * scale  # scaled in float32, as any kernel does: ties fall alike

    q, k, v = rounded(q), rounded(k), rounded(v)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1), -math.inf)
    p = (scores - scores.amax(-1, keepdim=True)).exp()
    return (p * 256).float().to(torch.float8_e4m3fn).double() / 256 @ v / p.sum(-1, keepdim=True)
