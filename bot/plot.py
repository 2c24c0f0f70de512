"""A table or a trend as a picture: PNG bytes, the same for the same data; the only matplotlib."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bot.history import Trend
from bot.report import figure
from workloads.spec import Cell, Chart, Table

Dash = str | tuple[int, tuple[float, float]]  # matplotlib's

WIDTH_PX, HEIGHT_PX, DPI = 1400, 800, 200
PLACES, SERIES, MARKS = 48, 12, 6  # what one picture can hold; the table has the rest
SMALLEST, LARGEST = 1e-12, 1e12  # and what an axis can name

# Okabe and Ito's colours, which any colour vision tells apart; each also has a marker and a hatch of its own, and where
# they come round again, lines are broken.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6e7781", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++", "ooo")
DASHES: tuple[Dash, ...] = ("-", (0, (4, 1.5)))
DOTS: Dash = (0, (1, 3))  # from the end of a line to its name across other lines, where nothing was measured
INK, FAINT, GRID, PAPER, BAND = "#24292f", "#57606a", "#d8dee4", "#ffffff", "#deedf5"
# A trend's runs by their role: colour, marker, and whether it is filled.
TREND_MARKS = {"before": (FAINT, "o", False), "past": (COLOURS[0], "o", True), "first": (COLOURS[1], "s", False),
               "this": (COLOURS[1], "s", True)}
SHADES = ("#f3f6fa", "#a6c8e4", "#4a90c2", "#0b4f8a", "#08264a")  # light to dark for any eye, and in grey; numbers stand in the cells
CELLS = 12  # what a heatmap can hold each way
TITLE_PT, TEXT_PT, SMALL_PT = 10.5, 9.0, 8.0
CHARACTER = 0.0135  # share of the paper's inner width that a figure of SMALL_PT takes
ROW = 0.058  # height of a line of text beside the axes, as a share of their height
WHOLE = 100.0  # what shares in percent add up to
LINE_CHARS = 74  # what fits under the axes side by side


@dataclass(frozen=True, slots=True)
class Point:
    """A value and its interval; y None is a gap."""

    y: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Label:
    """A text beside the axes that wants to stand at height `y`, and belongs to what ends at `x` (None: the axes' edge)."""

    text: str
    y: float
    colour: str
    x: float | None = None
    dash: Dash = "-"  # of the line that leads there


def draw(table: Table) -> bytes:
    """The chart of `table` as a PNG of 1400 x 800 pixels, legible at half that width. A cell that is no number is a gap.

    Raises ValueError where the table has no chart.
    """
    chart = table.chart
    if chart is None:
        raise ValueError(f"the table {table.name} has no chart")
    canvas, axes = _paper()
    marks = [mark for mark in chart.marks[:MARKS] if abs(mark) < LARGEST]
    if chart.kind == "heatmap":
        marks = []
    labels = {"lines": _lines, "bars": _bars, "stacked": _stacked, "heatmap": _heatmap}[chart.kind](axes, table, chart, marks)
    unit = next(c.unit for c in table.columns if c.name == chart.y)
    for mark in marks:
        axes.axhline(mark, color=FAINT, linewidth=1.1, linestyle=(0, (4, 3)), zorder=2.5)
    _label_beside(axes, [*labels, *(Label(f"{_short(mark)} {unit}".strip(), mark, FAINT) for mark in marks)])
    title, down = table.title, chart.by if chart.kind == "heatmap" else chart.y
    if chart.kind == "heatmap":
        title += f": {_named(table, chart.y)}"
    axes.set_title(textwrap.fill(title, 78), loc="left", fontsize=TITLE_PT, color=INK, fontweight="bold")
    for name, set_label in ((chart.x, axes.set_xlabel), (down, axes.set_ylabel)):
        set_label(_clipped(_named(table, name), 60), fontsize=TEXT_PT, color=INK)
    _dress(axes, rows=chart.kind == "heatmap")
    return _png(canvas)


def draw_trend(trend: Trend) -> bytes:
    """A run among its like as a PNG of the same size: each run with its interval, the band that a run is held against, and where
    a new level was accepted."""
    canvas, axes = _paper()
    here = len(trend.points) - 1
    held = [place for place, point in enumerate(trend.points) if point.role == "past"]
    labels = []
    if trend.median is not None and trend.low is not None and trend.high is not None and held:
        axes.fill_between([held[0] - 0.4, here + 0.4], trend.low, trend.high, color=BAND, linewidth=0, zorder=0.3)
        axes.plot([held[0] - 0.4, here + 0.4], [trend.median] * 2, color=FAINT, linewidth=1.1, linestyle=(0, (4, 3)), zorder=2)
        labels = [Label(f"{text} {_short(edge)} {trend.unit}".strip(), edge, FAINT) for text, edge in (
            ("limit", trend.high), ("median", trend.median), ("limit", trend.low))]
    axes.plot(range(here + 1), [point.estimate.value for point in trend.points], color=GRID, linewidth=1.4, zorder=1.5)
    for place, point in enumerate(trend.points):
        colour, marker, filled = TREND_MARKS[point.role]
        estimate = point.estimate
        axes.plot([place], [estimate.value], color=colour, marker=marker, markersize=8 if point.role in ("first", "this") else 5,
                  markerfacecolor=colour if filled else PAPER, markeredgewidth=1.4, linestyle="none", zorder=4)
        _whisker(axes, place, Point(estimate.value, estimate.low, estimate.high), colour)
    labels.append(Label("this run", trend.points[-1].estimate.value, COLOURS[1], here))
    _span_y(axes, [*(v for point in trend.points for v in (point.estimate.low, point.estimate.high)),
                   *(edge for edge in (trend.low, trend.high) if edge is not None)], above=0.12)
    for place in trend.starts:
        axes.axvline(place - 0.5, color=FAINT, linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
        axes.annotate(f"{trend.points[place].run} accepted", (place - 0.5, 1.0), (3, -3), xycoords=("data", "axes fraction"),
                      textcoords="offset points", va="top", ha="left", fontsize=SMALL_PT, color=FAINT)
    every = math.ceil((here + 1) / 8)
    shown = list(range(here, -1, -every))
    axes.set_xticks(shown, [f"{_clipped(trend.points[place].run, 20)}\n{trend.points[place].started[5:10]}" for place in shown])
    axes.set_xlim(-0.6, here + 0.6)
    _label_beside(axes, labels)
    axes.set_title(textwrap.fill(f"Trend: {trend.text}", 78), loc="left", fontsize=TITLE_PT, color=INK, fontweight="bold")
    axes.set_xlabel("run and day, oldest first", fontsize=TEXT_PT, color=INK)
    axes.set_ylabel(f"value ({trend.unit})" if trend.unit else "value", fontsize=TEXT_PT, color=INK)
    _dress(axes)
    return _png(canvas)


def _paper() -> tuple[FigureCanvasAgg, Axes]:
    canvas = FigureCanvasAgg(Figure(figsize=(WIDTH_PX / DPI, HEIGHT_PX / DPI), dpi=DPI, layout="constrained"))
    return canvas, canvas.figure.add_subplot()


def _png(canvas: FigureCanvasAgg) -> bytes:
    buffer = io.BytesIO()
    canvas.figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})  # no version: the same bytes after an update
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------- the four kinds


def _lines(axes: Axes, table: Table, chart: Chart, marks: Sequence[float]) -> list[Label]:
    series: dict[str, dict[float, Point]] = {}
    for name, x, point in zip(_texts(table, chart.by), map(_number, table.column(chart.x)), _points(table, chart), strict=True):
        if x is not None and (x > 0 or not chart.log_x):
            series.setdefault(name, {})[x] = point
    drawn = dict(list(series.items())[:SERIES])
    labels = []
    for place, (name, points) in enumerate(drawn.items()):
        xs = sorted(points)
        colour = COLOURS[place % len(COLOURS)]
        ys = [math.nan if (y := points[x].y) is None else y for x in xs]
        dash = DASHES[place // len(COLOURS) % len(DASHES)]
        axes.plot(xs, ys, color=colour, marker=_again(MARKERS, place), markersize=4.5, linewidth=1.8, linestyle=dash, zorder=3)
        for x in xs:
            _whisker(axes, x, points[x], colour)
        shown = [(x, y) for x in xs if (y := points[x].y) is not None]
        if shown:
            labels.append(Label(name, shown[-1][1], colour, shown[-1][0], dash))
    last = max((label.x for label in labels if label.x is not None), default=0.0)
    labels = [label if label.x == last else replace(label, dash=DOTS) for label in labels]
    if chart.log_x:
        axes.set_xscale("log", base=2)
    ticks = sorted({x for points in drawn.values() for x in points})
    if ticks and (chart.log_x or len(ticks) <= 10):
        axes.xaxis.set_major_locator(FixedLocator(_with_room(ticks, math.log if chart.log_x else float)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    _span_y(axes, [*_reach(p for points in drawn.values() for p in points.values()), *marks], above=0.06)
    return labels


def _with_room(ticks: Sequence[float], place: Callable[[float], float]) -> list[float]:
    """The last of sorted `ticks`, and of the others those whose numbers have room beside it and each other."""
    width = place(ticks[-1]) - place(ticks[0])
    kept = [ticks[-1]]
    for tick in reversed(ticks[:-1]):
        characters = (len(_short(tick)) + len(_short(kept[-1]))) / 2 + 1
        if place(kept[-1]) - place(tick) >= characters * CHARACTER * width:
            kept.append(tick)
    return kept[::-1]


def _bars(axes: Axes, table: Table, chart: Chart, marks: Sequence[float]) -> list[Label]:
    bars = dict(list(zip(_texts(table, chart.x), _points(table, chart), strict=True))[:PLACES])
    known = [(place, point, point.y) for place, point in enumerate(bars.values()) if point.y is not None]
    for (place, point, y), text in zip(known, _alike(y for _, _, y in known), strict=True):
        axes.bar(place, y, width=0.62, color=COLOURS[0], zorder=2)
        _whisker(axes, place, point, INK)
        _write_above(axes, place, max(0.0, y, point.high or 0.0), text, len(bars))
    _name_places(axes, list(bars))
    _span_y(axes, [0.0, *_reach(bars.values()), *marks], above=0.12)
    return []


def _stacked(axes: Axes, table: Table, chart: Chart, marks: Sequence[float]) -> list[Label]:
    heights: dict[str, dict[str, float]] = {}
    for x, name, point in zip(_texts(table, chart.x), _texts(table, chart.by), _points(table, chart), strict=True):
        heights.setdefault(x, {})[name] = max(0.0, point.y or 0.0)
    bars = list(heights)[:PLACES]
    names = list(dict.fromkeys(name for bar in bars for name in heights[bar]))[:SERIES]
    tops = [sum(heights[bar].get(name, 0.0) for name in names) for bar in bars]
    _span_y(axes, [0.0, *tops, *marks], above=0.12)
    floors = [0.0] * len(bars)
    labels = []
    for order, name in enumerate(names):
        colour = COLOURS[order % len(COLOURS)]
        values = [heights[bar].get(name, 0.0) for bar in bars]
        axes.bar(range(len(bars)), values, bottom=floors, width=0.62, color=colour, hatch=_again(HATCHES, order),
                 edgecolor=PAPER, linewidth=0.8, zorder=2)
        for place, (value, floor, text) in enumerate(zip(values, floors, _alike([*values, *tops])[:len(bars)], strict=True)):
            if value > ROW * axes.get_ylim()[1] and len(bars) <= 10:
                axes.text(place, floor + value / 2, text, ha="center", va="center", fontsize=SMALL_PT,
                          color=_ink_on(colour), zorder=4, bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0})
        labels.append(Label(name, floors[-1] + values[-1] / 2, colour, len(bars) - 1 + 0.31))
        floors = [floor + value for floor, value in zip(floors, values, strict=True)]
    if not all(abs(top - WHOLE) < 0.5 for top in tops):  # that shares add up to a whole is no news
        for place, (top, text) in enumerate(zip(tops, _alike(tops), strict=True)):
            _write_above(axes, place, top, text, len(bars))
    _name_places(axes, bars)
    return labels


def _heatmap(axes: Axes, table: Table, chart: Chart, _: Sequence[float]) -> list[Label]:
    """A cell for each x and `by`, first row at the top; its shade runs from the smallest value, or 0, to the largest."""
    xs, rows = _texts(table, chart.x), _texts(table, chart.by)
    values = {(x, row): point.y for x, row, point in zip(xs, rows, _points(table, chart), strict=True)}
    columns, names = (list(dict.fromkeys(texts))[:CELLS] for texts in (xs, rows))
    known = [y for (x, row), y in values.items() if y is not None and x in columns and row in names]
    shade = Normalize(min([0.0, *known]), max(known, default=0.0) or 1.0)
    shades = LinearSegmentedColormap.from_list("shades", SHADES)
    texts = dict(zip(known, _alike(known), strict=True))
    for across, x in enumerate(columns):
        for down, row in enumerate(names):
            y = values.get((x, row))
            colour = PAPER if y is None else to_hex(shades(float(shade(y))))
            axes.add_patch(Rectangle((across - 0.5, down - 0.5), 1, 1, facecolor=colour, edgecolor=PAPER, linewidth=1.5, zorder=2))
            axes.text(across, down, "" if y is None else texts[y], ha="center", va="center", color=_ink_on(colour), zorder=4,
                      fontsize=TEXT_PT if max(len(columns), len(names)) <= 8 else SMALL_PT - 1)
    _name_places(axes, columns)
    axes.set_xlim(-0.5, max(1, len(columns)) - 0.5)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [_clipped(name, 22) for name in names])
    return []


# ---------------------------------------------------------------------------------------------------- numbers and names


def _number(cell: Cell) -> float | None:
    """A cell as a number that an axis can show, or a gap."""
    if isinstance(cell, str) or cell is None or abs(cell) > LARGEST:
        return None
    return float(cell) if abs(cell) > SMALLEST else 0.0


def _points(table: Table, chart: Chart) -> list[Point]:
    columns = (chart.y, chart.low or chart.y, chart.high or chart.y)
    return [Point(*map(_number, cells)) for cells in zip(*(table.column(name) for name in columns), strict=True)]


def _texts(table: Table, column: str) -> list[str]:
    cells = table.column(column) if column else ("",) * len(table.rows)
    return [cell if isinstance(cell, str) else "" if cell is None else _short(cell) for cell in cells]


def _reach(points: Iterable[Point]) -> list[float]:
    """Every value that an axis must have room for."""
    return [v for point in points if point.y is not None for v in (point.y, point.low, point.high) if v is not None]


def _again(styles: Sequence[str], place: int) -> str:
    """The marker or hatch of the series at `place`: where the colours come round again, each meets another one."""
    return styles[(place + place // len(COLOURS)) % len(styles)]


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 999.5 else figure(value, 0)


def _alike(values: Iterable[float]) -> list[str]:
    """Numbers that stand side by side, all with the decimals that give the largest three digits."""
    values = list(values)
    largest = max(map(abs, values), default=0.0)
    decimals = min(9, max(0, 2 - math.floor(math.log10(largest)))) if largest else 0
    return [figure(value, decimals) for value in values]


def _clipped(text: str, most: int) -> str:
    """The head and the tail, for names in a row often differ in their tails."""
    return text if len(text) <= most else f"{text[:most - 10]}…{text[-9:]}"


# ---------------------------------------------------------------------------------------------------- what all kinds share


def _dress(axes: Axes, *, rows: bool = False) -> None:
    """Lines and numbers of the axes; `rows` where names stand on the upright one."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=SMALL_PT)
    if rows:
        return
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _named(table: Table, name: str) -> str:
    """A column's name with its unit; "" where a chart names none."""
    unit = next((c.unit for c in table.columns if c.name == name), "")
    return f"{name} ({unit})" if unit else name


def _span_y(axes: Axes, values: Sequence[float], above: float) -> None:
    """Room for every value, with a share of it free `above` for what is written there."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) or abs(high) or 1.0
    below = low - 0.06 * room
    axes.set_ylim(max(0.0, below) if low >= 0 else below, high + above * room)


def _whisker(axes: Axes, x: float, point: Point, colour: str) -> None:
    if point.y is None or point.low is None or point.high is None or point.low >= point.high:
        return
    reach = [[max(0.0, point.y - point.low)], [max(0.0, point.high - point.y)]]
    axes.errorbar([x], [point.y], yerr=reach, fmt="none", ecolor=colour, elinewidth=1.2, capsize=3, zorder=3)


def _write_above(axes: Axes, place: int, height: float, text: str, bars: int) -> None:
    axes.annotate(text, (place, height), (0, 4), textcoords="offset points", ha="center", va="bottom", color=INK, fontweight="bold",
                  fontsize=TEXT_PT if bars <= 8 else SMALL_PT if bars <= 16 else SMALL_PT - 2, zorder=4,
                  bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6})


def _name_places(axes: Axes, names: Sequence[str]) -> None:
    """The names of bars under the axes: side by side in short lines where they fit, else slanted or upright."""
    width = LINE_CHARS // max(1, len(names)) - 1
    fits = all(len(word) < width for name in names for word in re.split("[ -]", name))
    shown = [textwrap.fill(name, width) if fits else _clipped(name, 28) for name in names]
    slant = 0 if fits else 30 if len(names) <= 16 else 90
    axes.set_xticks(range(len(names)), shown, rotation=slant, ha="right" if slant == 30 else "center",
                    rotation_mode="anchor" if slant == 30 else "default")
    axes.set_xlim(-0.6, max(1, len(names)) - 0.4)


def _label_beside(axes: Axes, labels: Sequence[Label]) -> None:
    """Each label in its colour at the right of the axes, at the height of what it names or as near as there is room."""
    bottom, top = axes.get_ylim()
    named = sorted((label for label in labels if label.text), key=lambda label: label.y)
    heights = _apart([(label.y - bottom) / (top - bottom) for label in named])
    for label, height in zip(named, heights, strict=True):
        edge = ((1.0, (label.y - bottom) / (top - bottom)), "axes fraction")
        end, coordinates = edge if label.x is None else ((label.x, label.y), "data")
        axes.annotate(_clipped(label.text, 26), end, (1.025, height), xycoords=coordinates, textcoords="axes fraction",
                      va="center", ha="left", fontsize=TEXT_PT, color=_dark(label.colour),
                      fontweight="bold" if label.x is not None else "normal",
                      arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.9, "relpos": (0, 0.5), "linestyle": label.dash,
                                  "shrinkA": 1, "shrinkB": 0 if label.x is None else 4})


def _apart(wanted: Sequence[float]) -> list[float]:
    """Ascending heights moved as little as it takes to be a row apart and within the axes (0 to 1): neighbours that are
    too near share the mean of their places (isotonic regression by pooling adjacent violators, Ayer et al. 1955)."""
    row = min(ROW, 1 / max(1, len(wanted)))
    blocks: list[list[float]] = []
    for i, height in enumerate(wanted):
        blocks.append([height - i * row])
        while len(blocks) > 1 and fmean(blocks[-2]) >= fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    free = [fmean(block) for block in blocks for _ in block]
    highest = 1 - (len(wanted) - 1) * row
    return [min(max(place, 0.0), highest) + i * row for i, place in enumerate(free)]


def _ink_on(colour: str) -> str:
    return INK if _luma(*to_rgb(colour)) > 0.5 else PAPER


def _dark(colour: str) -> tuple[float, float, float]:
    """The colour, dark enough to be read as text on white."""
    red, green, blue = to_rgb(colour)
    share = min(1.0, 0.42 / _luma(red, green, blue))
    return red * share, green * share, blue * share


def _luma(red: float, green: float, blue: float) -> float:
    """How light a colour looks, 0 to 1 (ITU-R BT.601)."""
    return 0.299 * red + 0.587 * green + 0.114 * blue
