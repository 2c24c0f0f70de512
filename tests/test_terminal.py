"""Runs in a terminal: the words and numbers of the report, in tables of one row a run or a metric."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden import HISTORIES, NIGHTS, WORKLOAD, slowed, stored
from rich.console import Console

from bot.history import second_name
from bot.terminal import comparison, history, show
from workloads.spec import Observed, Result


def shown(part: object) -> str:
    console = Console(width=200, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(part)
    return captured.get()


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of a table, by the first."""
    cells = ([cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines() if line.startswith("│"))
    return {found[0]: found[1:] for found in cells}


def weeks_runs(kind: str) -> tuple[Result, ...]:
    result, known = HISTORIES[kind]
    return (*known.earlier, result, *([known.second] if known.second else []))


@pytest.mark.parametrize(("kind", "change", "limit", "said"), [
    ("unchanged", "-0.1%", "2.0%", "no change, 12 runs"), ("suspected", "-4.7%", "2.0%", "suspected worse, 12 runs"),
    ("confirmed", "-4.7%", "2.0%", "confirmed worse, 12 runs"), ("cleared", "-4.7%", "2.0%", "cleared by the second run, 12 runs"),
    ("insufficient", "-4.7%", "", "too few runs (3 of 5)")])
def test_a_run_beside_those_before_it(kind: str, change: str, limit: str, said: str) -> None:
    table = rows(shown(history(WORKLOAD, weeks_runs(kind), (), 30)))
    assert table["c4210"][-3:] == [change, limit, said]
    if HISTORIES[kind][1].second:
        assert table[second_name("c4210")][-3:] == [{"confirmed": "-4.4%", "cleared": "-0.3%"}[kind], "2.0%", said]
    assert table["c4101"][-3:] == ["", "", "too few runs (0 of 5)"]
    assert table["c4102"][:4] == ["2026-11-02", "NVIDIA H100 80GB HBM3", "", "3f2a9c1"]


def test_faster_is_up() -> None:
    assert rows(shown(history(WORKLOAD, (*NIGHTS, slowed(0.95, "c4210", 23)), (), 1)))["c4210"][-3:] == [
        "+5.3%", "2.0%", "suspected better, 12 runs"]


def test_runs_that_do_not_count_say_why_and_an_accepted_one_is_marked() -> None:
    smoke, crashed = (replace(stored(kind), run=run) for kind, run in (("smoke", "c1"), ("crashed", "c2")))
    nothing = replace(stored("ok"), run="c3", observed=(Observed(()),), request=replace(stored("ok").request, batch=8))
    table = rows(shown(history(WORKLOAD, (smoke, crashed, nothing, *NIGHTS), ("c4102",), 30)))
    assert table["c1"][-1] == "not judged (smoke run)"
    assert table["c2"][-1] == "failed: crashed"
    assert table["c3"][2:] == ["--batch 8", "3f2a9c1", "", "", "", "not measured"]
    assert table["c4102, accepted"][-1] == "too few runs (1 of 5)"
    assert table["c4107"][-1] == "no change, 5 runs"


def test_only_the_last_runs_are_shown_and_the_rest_counted() -> None:
    text = shown(history(WORKLOAD, NIGHTS, (), 2))
    assert [row for row in rows(text) if row.startswith("c")] == ["c4111", "c4112"]
    assert "10 older runs are not shown: --last 12 shows all." in text
    assert "not shown" not in shown(history(WORKLOAD, NIGHTS, (), 12))


def test_two_runs_side_by_side() -> None:
    one = stored("ok")
    other = replace(slowed(1.1, "c9", 24), commit="9" * 40, machine=replace(one.machine, driver="590.11"))
    text = shown(comparison(WORKLOAD, one, other))
    assert text.startswith("c4210: met · NVIDIA H100 80GB HBM3 · 2026-11-23 15:49:22 UTC\nc9: met · ")
    table = rows(text)
    assert table["compile speedup, best of three models (UNet, train, batch 16)"] == [
        "1.84 x (1.81 to 1.87)", "1.67 x (1.64 to 1.70)", "-9.1%", "differs: worse"]
    assert table["driver"] == ["580.159", "590.11"]
    assert table["commit"] == ["3f2a9c1", "9999999"]
    assert "Of 11 metrics: 1 worse, 6 without a difference seen, 4 measured once." in text
    assert "The same in both: GPU, CPU, system, Python, packages, options." in text


def test_two_runs_that_share_nothing_or_everything() -> None:
    text = shown(comparison(WORKLOAD, stored("oom"), stored("crashed")))
    assert "Neither run measured anything." in text
    assert "metric" not in rows(text)
    same = shown(comparison(WORKLOAD, stored("ok"), stored("ok")))
    assert "Nothing else that is recorded differed." in same
    table = rows(shown(comparison(WORKLOAD, stored("oom"), stored("smoke"))))
    half = [cells for name, cells in table.items() if name.startswith("compile")]
    assert [cells[0] for cells in half] == ["not measured"] * 2
    apart = replace(stored("ok"), commit="", request=replace(stored("ok").request, batch=8),
                    machine=replace(stored("ok").machine, gpus=2, driver="1", cores=2, system="x", python="3", packages=()))
    assert "The same in both" not in shown(comparison(WORKLOAD, stored("ok"), apart))


def test_metrics_defined_anew_have_no_change() -> None:
    one = stored("ok")
    best, *others = one.observed[0].metrics
    anew = replace(one, observed=(replace(one.observed[0], metrics=(replace(best, proxy="random weights"), *others)),))
    text = shown(comparison(WORKLOAD, one, anew))
    assert "proxy: random weights" in text
    assert [cells[2:] for cells in rows(text).values() if "not comparable: defined differently" in cells] == [
        ["", "not comparable: defined differently"]]
    assert "Of 11 metrics: 6 without a difference seen, 4 measured once, 1 not comparable." in text


def test_what_is_piped_is_wide_and_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    show(history(WORKLOAD, NIGHTS, (), 30))
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert max(map(len, told.splitlines())) > 100
    assert rows(told)["c4112"][-1] == "no change, 11 runs"


def test_a_terminal_has_colours_and_its_own_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "150"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    show(history(WORKLOAD, (*NIGHTS, slowed(1.05, "c4210", 23)), (), 30))
    assert "\x1b[33msuspected worse, 12 runs" in capsys.readouterr().out
