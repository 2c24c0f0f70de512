"""Pictures: PNGs of one size, the same for the same table, for every kind of chart and for whatever a table may hold."""

from __future__ import annotations

import io
import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from golden import NIGHTS, WORKLOAD, slowed, stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import tables

from bot.history import Trend, trend
from bot.plot import BAND, COLOURS, HEIGHT_PX, INK, MARKS, PLACES, ROW, SHADES, WIDTH_PX, _apart, _short, _with_room, draw, draw_trend
from workloads.spec import Cell, Chart, Column, Table

COLUMNS = (Column("arm"), Column("part"), Column("size"), Column("time", "ms"), Column("low", "ms"), Column("high", "ms"))
ROWS: tuple[tuple[Cell, ...], ...] = (
    ("eager", "conv", 1, 4.0, 3.9, 4.2),
    ("eager", "norm", 2, 2.0, 1.9, 2.1),
    ("compiled", "conv", 1, 3.5, 3.4, 3.6),
    ("compiled", "norm", 2, 0.5, None, 0.6),
)
LINES = Chart("lines", "size", "time", "arm", "low", "high", (1.5,), True)
BARS = Chart("bars", "arm", "time", low="low", high="high", marks=(1.5,))
STACKED = Chart("stacked", "arm", "time", "part")
HEATMAP = Chart("heatmap", "arm", "time", "part")


def table(chart: Chart | None, rows: tuple[tuple[Cell, ...], ...] = ROWS) -> Table:
    return Table("t", "Time by arm", COLUMNS, rows, chart)


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def painted(png: bytes, colour: str) -> int:
    """How many pixels have exactly this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels(png) == rgb).all(axis=-1).sum())


@pytest.mark.parametrize(
    "drawn",
    [*map(table, (LINES, BARS, STACKED, HEATMAP)), *stored("ok").observed[0].tables],
    ids=lambda t: f"{t.name}-{t.chart.kind}",
)
def test_a_chart_is_a_png_of_one_size_and_always_the_same(drawn: Table):
    png = draw(drawn)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert pixels(png).shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert draw(drawn) == png
    assert re.findall(rb"tEXt|iTXt|tIME|matplotlib", png) == []


def test_a_table_without_a_chart_has_no_picture():
    with pytest.raises(ValueError, match="the table t has no chart"):
        draw(table(None))


def test_each_line_has_its_colour():
    png = draw(table(LINES))
    assert [painted(png, colour) > 200 for colour in COLOURS[:3]] == [True, True, False]


def test_a_colour_that_comes_again_is_a_broken_line():
    rows: tuple[tuple[Cell, ...], ...] = tuple((f"line {i}", None, x, 1.0 + i, None, None) for i in range(9) for x in (1, 2))
    blue = (pixels(draw(table(Chart("lines", "size", "time", "arm"), rows))) == [0x00, 0x72, 0xB2]).all(axis=-1)
    inked = blue[:, WIDTH_PX // 4 : WIDTH_PX // 2].mean(axis=1)  # of each row of pixels between the points
    first, ninth = inked[HEIGHT_PX // 2 :].max(), inked[: HEIGHT_PX // 2].max()
    assert first == 1.0
    assert 0.5 < ninth < 0.9


def test_bars_are_as_high_as_their_values():
    rows: tuple[tuple[Cell, ...], ...] = (
        ("a", None, 1, 1.0, None, None),
        ("b", None, 1, 2.0, None, None),
        ("c", None, 1, None, None, None),
    )
    blue = (pixels(draw(table(replace(BARS, marks=()), rows))) == [0x00, 0x72, 0xB2]).all(axis=-1)
    heights = blue.sum(axis=0)
    left, right = heights[: WIDTH_PX // 3].max(), heights[WIDTH_PX // 3 :].max()
    assert right / left == pytest.approx(2.0, rel=0.02)
    assert heights[WIDTH_PX * 3 // 4 :].max() == 0


def test_a_gap_breaks_the_line():
    whole = tuple(("x", None, size, 2.0, None, None) for size in (1, 2, 4, 8, 16))
    broken = tuple(row if row[2] != 4 else (*row[:3], None, None, None) for row in whole)
    chart = Chart("lines", "size", "time", log_x=True)
    assert painted(draw(table(chart, broken)), COLOURS[0]) == pytest.approx(painted(draw(table(chart, whole)), COLOURS[0]) / 2, rel=0.2)


@pytest.mark.parametrize(("ends", "least", "most"), [(1, 0.2, 0.7), (4, 1.0, 1.0)])
def test_what_leads_from_a_line_that_ends_early_to_its_name_is_dotted(ends: int, least: float, most: float):
    rows: tuple[tuple[Cell, ...], ...] = (*(("long", None, x, 1.0, None, None) for x in (1, 4)),
                                          *(("short", None, x, 2.0, None, None) for x in {1, ends}))
    red, _, blue = np.moveaxis(pixels(draw(table(Chart("lines", "size", "time", "arm"), rows)))[:, WIDTH_PX // 4 : WIDTH_PX // 2], -1, 0)
    orange = (red.astype(int) - blue > 40).any(axis=0)  # of each column of pixels between the points
    assert least <= orange.mean() <= most


def test_numbers_under_an_axis_do_not_run_into_each_other():
    rates = [3e-4, 5.8e-4, 1e-3, 1.7e-3, 3e-3, 5.2e-3, 1e-2, 1e-1, 1.0]
    assert _with_room(rates, math.log) == [3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0]
    assert _with_room([1.0, 2.0, 3.0, 4.0], float) == [1.0, 2.0, 3.0, 4.0]
    assert _with_room([1.0, 1.01, 2.0], float) == [1.01, 2.0]
    assert _with_room([7.0], float) == [7.0]


def test_a_mark_is_drawn_and_has_room_above_the_data():
    above = draw(table(replace(BARS, marks=(40.0,))))
    blue = (pixels(above) == [0x00, 0x72, 0xB2]).all(axis=-1)
    assert blue.sum(axis=0).max() < HEIGHT_PX / 8


@pytest.mark.parametrize(
    "chart",
    [LINES, BARS, STACKED, HEATMAP, replace(HEATMAP, by=""), replace(LINES, by="", low="", high="", log_x=False)],
    ids=lambda c: c.kind,
)
@pytest.mark.parametrize(
    "rows",
    [
        (),
        (("a", None, None, None, None, None),),
        (("a", "b", -3, -2.5, None, None),),
        (("a", "b", 0, 0.0, 0.0, 0.0),),
        (("a", "b", "c", "d", "e", "f"),),
        (("a", "b", 1, 1e299, -1e299, 1e299), ("b", "b", 2, 1e-299, 5.0, -5.0)),
    ],
    ids=range(6),
)
def test_nothing_to_draw_is_still_a_picture(chart: Chart, rows: tuple[tuple[Cell, ...], ...]):
    assert pixels(draw(table(chart, rows))).shape == (HEIGHT_PX, WIDTH_PX, 3)


def test_numbers_on_an_axis_have_a_comma_at_each_thousand():
    assert [_short(value) for value in (0.25, 999.4, 2500, 9999.6, 12_500)] == ["0.25", "999.4", "2,500", "10,000", "12,500"]


def test_that_shares_add_up_to_a_whole_is_not_written():
    def drawn(rest: float) -> bytes:
        return draw(table(STACKED, (("a", "x", 1, 60.0, None, None), ("a", "y", 1, 40.0, None, None),
                                    ("b", "x", 1, 50.0, None, None), ("b", "y", 1, rest, None, None))))

    assert painted(drawn(50.0), INK) < painted(drawn(48.0), INK) - 200, "no sums above the bars"


@pytest.mark.parametrize("chart", [LINES, BARS, STACKED, HEATMAP], ids=lambda c: c.kind)
def test_more_than_a_picture_holds(chart: Chart):
    rows = tuple(
        (f"arm {i} with a long name that goes on", f"part {i % 20} of many parts there are", i, i / 7, i / 8, i / 6)
        for i in range(1, 3 * PLACES)
    )
    many = replace(chart, marks=tuple(float(i) for i in range(MARKS + 3)))
    assert pixels(draw(table(many, rows))).shape == (HEIGHT_PX, WIDTH_PX, 3)


def trended(factor: float = 1.05, accepted: tuple[str, ...] = (), nights: int = 12) -> Trend:
    told = trend(WORKLOAD, slowed(factor, "c4210", 23), NIGHTS[:nights], accepted)
    assert told is not None
    return told


def test_a_trend_is_a_png_of_the_same_size_and_always_the_same():
    png = draw_trend(trended())
    assert pixels(png).shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert draw_trend(trended()) == png
    assert draw_trend(trended(1.049)) != png
    assert re.findall(rb"tEXt|iTXt|tIME|matplotlib", png) == []


def test_a_trend_marks_this_run_and_what_it_is_held_against():
    png = draw_trend(trended())
    orange = (pixels(png) == [0xD5, 0x5E, 0x00]).all(axis=-1)
    blue = (pixels(png) == [0x00, 0x72, 0xB2]).all(axis=-1)
    assert np.argwhere(orange)[:, 1].min() > np.argwhere(blue)[:, 1].max()  # this run stands last
    assert np.median(np.argwhere(orange)[:, 0]) > np.argwhere(blue)[:, 0].max()  # and, slower, below all of them
    assert painted(png, BAND) > 20_000
    assert painted(draw_trend(trended(nights=3)), BAND) == 0  # too few runs for a limit


def test_a_trend_shows_where_a_level_was_accepted():
    whole, parted = (draw_trend(trended(1.0, accepted)) for accepted in ((), ("c4107",)))
    assert painted(parted, COLOURS[0]) < painted(whole, COLOURS[0])
    assert painted(parted, "#57606a") > painted(whole, "#57606a")
    band = [np.argwhere((pixels(png) == [0xDE, 0xED, 0xF5]).all(axis=-1))[:, 1].min() for png in (whole, parted)]
    assert band[1] > band[0] + WIDTH_PX / 5


def test_a_trend_of_a_second_run_shows_the_first():
    told = trend(WORKLOAD, slowed(1.047, "c4210-2", 24), (*NIGHTS, slowed(1.05, "c4210", 23)), ())
    assert told is not None
    assert [point.role for point in told.points[-2:]] == ["first", "this"]
    assert painted(draw_trend(told), COLOURS[1]) > painted(draw_trend(trended()), COLOURS[1])


def test_a_trend_of_what_has_no_unit_is_drawn():
    assert pixels(draw_trend(replace(trended(), unit=""))).shape == (HEIGHT_PX, WIDTH_PX, 3)


def test_a_heatmap_is_darker_where_there_is_more_and_blank_where_there_is_nothing():
    rows: tuple[tuple[Cell, ...], ...] = (
        ("a", "top", 1, 0.0, None, None),
        ("b", "top", 1, 0.5, None, None),
        ("a", "foot", 1, 1.0, None, None),
        ("b", "foot", 1, None, None, None),
    )
    seen = pixels(draw(table(HEATMAP, rows))).mean(axis=-1)
    nearly = lambda shade: np.argwhere(abs(seen - np.mean([int(shade[i : i + 2], 16) for i in (1, 3, 5)])) < 1)  # noqa: E731
    light, middle, dark = (nearly(SHADES[i]) for i in (0, 2, 4))
    assert min(map(len, (light, middle, dark))) > 10_000
    (light_y, light_x), (middle_y, middle_x), (dark_y, dark_x) = (np.median(where, axis=0) for where in (light, middle, dark))
    assert light_x == pytest.approx(dark_x, abs=20) and light_y == pytest.approx(middle_y, abs=20)
    assert light_x < middle_x and light_y < dark_y
    assert seen[int(dark_y), int(middle_x)] == 255


@given(tables(charted=True))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_chart_that_the_contract_allows_is_drawn(drawn: Table):
    assert pixels(draw(drawn)).shape == (HEIGHT_PX, WIDTH_PX, 3)


@given(st.lists(st.floats(0, 1), max_size=16).map(sorted))
def test_labels_keep_their_order_and_a_row_apart(wanted: list[float]):
    heights = _apart(wanted)
    row = min(ROW, 1 / max(1, len(wanted)))
    assert all(0 <= height <= 1 + 1e-9 for height in heights)
    assert all(above - below >= row - 1e-9 for below, above in itertools.pairwise(heights))


def test_labels_with_room_stay_where_they_are():
    assert _apart([0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9])
    assert _apart([0.5, 0.5]) == pytest.approx([0.5 - ROW / 2, 0.5 + ROW / 2])
