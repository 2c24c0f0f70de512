"""Where a run stands under the ceilings it measured: shares of the matrix and memory ceilings, and points of a roofline; pure.

A week says how near it comes by metrics or columns in % whose words name a ceiling, MFU or MBU. Where a table has both shares for
a row, and the run measured both ceilings, the row is a point: its share of the matrix ceiling gives the FLOP/s it reached, its
share of the memory ceiling the bytes a second, and their quotient the arithmetic intensity (Williams, Waterman & Patterson 2009,
Communications of the ACM 52).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from bot.report import metric_name
from workloads.spec import Cell, Column, Observed, Table, Unit

NEARNESS = re.compile(r"\b(ceiling|mfu|mbu)\b", re.IGNORECASE)
MEMORY = re.compile(r"\b(copy|memory|bandwidth|bytes?|mbu)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Position:
    """How near something came to what the device reaches, in %; None where it was not said. `group` is what it is a case of."""

    group: str
    label: str
    matrix: float | None
    memory: float | None


@dataclass(frozen=True, slots=True)
class Roofline:
    """A run's positions; `tflops` and `gbs` are the ceilings it measured itself, None where it did not."""

    positions: tuple[Position, ...]
    tflops: float | None
    gbs: float | None

    def points(self) -> tuple[tuple[Position, float, float], ...]:
        """(position, FLOP per byte, TFLOP/s) of each position that has both shares, under ceilings that are known."""
        if self.tflops is None or self.gbs is None:
            return ()
        return tuple((p, p.matrix * self.tflops * 10 / (p.memory * self.gbs / 100), p.matrix * self.tflops / 100)
                     for p in self.positions if p.matrix and p.memory and p.matrix > 0 and p.memory > 0)


def roofline(observed: Observed | None) -> Roofline | None:
    """The positions of a run under its ceilings; None where it says nothing of them."""
    if observed is None:
        return None
    named = [(f"{m.text} {m.name.replace('_', ' ')}", m) for m in observed.metrics if m.unit == "%"]
    found = [Position("", metric_name(m.text, m), *_shares(words, m.estimate.value)) for words, m in named if NEARNESS.search(words)]
    found += [position for table in observed.tables for position in _rows(table)]
    return Roofline(tuple(found), _ceiling(observed, "TFLOP/s"), _ceiling(observed, "GB/s")) if found else None


def _ceiling(observed: Observed, unit: Unit) -> float | None:
    return next((m.estimate.value for m in observed.metrics
                 if m.unit == unit and m.name.startswith("ceiling") and m.estimate.value > 0), None)


def _shares(words: str, share: float) -> tuple[float | None, float | None]:
    return (None, share) if MEMORY.search(words) else (share, None)


def _rows(table: Table) -> list[Position]:
    shares = [place for place, column in enumerate(table.columns) if column.unit == "%" and NEARNESS.search(column.name)]
    if not shares:
        return []
    found = []
    for row in table.rows:
        told = [_shares(table.columns[place].name, number) for place in shares if (number := _number(row[place])) is not None]
        matrix = next((m for m, _ in told if m is not None), None)
        memory = next((m for _, m in told if m is not None), None)
        if told:
            found.append(Position(_group(row), _label(table.columns, row) or table.title, matrix, memory))
    return found


def _number(cell: Cell) -> float | None:
    return None if cell is None or isinstance(cell, str) else float(cell)


def _group(row: Sequence[Cell]) -> str:
    return row[0] if row and isinstance(row[0], str) else ""


def _label(columns: Sequence[Column], row: Sequence[Cell]) -> str:
    """What names a row: its cells up to the first one that is measured, "ResNet50, train, batch 128, default"."""
    naming = takewhile(lambda pair: pair[0].unit in ("", "count") and not isinstance(pair[1], float), zip(columns, row, strict=True))
    return ", ".join(cell if isinstance(cell, str) else f"{column.name} {cell}" for column, cell in naming if cell is not None)
