"""Which shapes are measured, in the order of what they are worth: a run that is short of time leaves out the end of the list.

As in FlashAttention's papers a point holds 16,384 tokens of a hidden size of 2,048: the batch shrinks as sequences grow, and heads
are 2,048 / D. Lengths are those of ViT at 224 and 384 pixels (197 and 577, no multiples of a tile) and powers of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workloads.week02_attention.backends import BACKENDS, FORWARD_ONLY, Backend
from workloads.week02_attention.points import Point

TOKENS, HIDDEN = 16_384, 2_048
LENGTHS = (8192, 2048, 197, 4096, 1024, 16384, 577)  # the first two are where published numbers stand
WIDTHS = (128, 64)
FLEX_LENGTHS = (8192, 2048, 197)  # each shape is compiled anew, forward and backward
FA4_WIDTH = 128  # forward only, for the same reason; its compiler keeps nothing from one process to the next
ANCHORS = (8192, 2048)  # an A/A pair runs along here
TUNED, TUNED_ODD = 4096, 577  # where launch shapes are chosen: for lengths of whole tiles, and for others
DECODER, CLASSIFIER = Point(16, 6, 1024, 64, True, False), Point(128, 4, 144, 64, False, False)
TASKS = (DECODER, CLASSIFIER)  # the attention of the two networks that are evaluated under every backend

SMOKE_TOKENS, SMOKE_HIDDEN = 80, 32
SMOKE_LENGTHS = (64, 40)
SMOKE_WIDTHS = (16,)
SMOKE_TRIAL = 40


@dataclass(frozen=True, slots=True)
class Plan:
    """The sweep: `points` in order, each with the backends that take part."""

    points: tuple[Point, ...]
    anchors: tuple[int, ...]
    plot_width: int


def point(length: int, width: int, causal: bool, backward: bool, *, smoke: bool) -> Point:
    tokens, hidden = (SMOKE_TOKENS, SMOKE_HIDDEN) if smoke else (TOKENS, HIDDEN)
    return Point(max(1, tokens // length), hidden // width, length, width, causal, backward)


def plan(*, smoke: bool) -> Plan:
    return Plan(tuple(_in_order(smoke)), SMOKE_LENGTHS[:1] if smoke else ANCHORS, SMOKE_WIDTHS[0] if smoke else WIDTHS[0])


def _in_order(smoke: bool) -> Iterator[Point]:
    """Anchors in every mask and direction at the first width; then forward before backward, full before causal."""
    lengths, widths = (SMOKE_LENGTHS, SMOKE_WIDTHS) if smoke else (LENGTHS, WIDTHS)
    first = lengths[:1] if smoke else lengths[:3]
    cases = ((False, False), (True, True), (True, False), (False, True))  # causal, backward
    for group in (first, tuple(length for length in lengths if length not in first)):
        for causal, backward in cases:
            for width in widths:
                for length in group:
                    yield point(length, width, causal, backward, smoke=smoke)


def takes_part(backend: Backend, where: Point, *, smoke: bool) -> str | None:
    """Why `backend` is not asked for this point; None where it is."""
    if where.backward and backend in FORWARD_ONLY:
        return "forward only"
    if backend == "flex" and not smoke and where.length not in FLEX_LENGTHS:
        return "not compiled for this length"
    if backend == "fa4" and not smoke and (where.backward or where.width != FA4_WIDTH):
        return "not compiled for this shape"
    return None


def points_of(backend: Backend, *, smoke: bool) -> list[Point]:
    """The sweep's points that `backend` takes part in, in order."""
    assert backend in BACKENDS, "checked where it came in"
    return [where for where in plan(smoke=smoke).points if takes_part(backend, where, smoke=smoke) is None]
