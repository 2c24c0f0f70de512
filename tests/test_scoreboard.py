"""The scoreboard: known runs in, known tables out, the same bytes in whatever order the runs came."""

from __future__ import annotations

from dataclasses import replace

from golden import WORKLOAD, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.scoreboard import PREFACE, page, render
from workloads.plan import WEEKS
from workloads.spec import Metric, Observed

WORKLOADS = {"week01": WORKLOAD}
EARLY = replace(stored("ok"), run="c1", started="2026-11-20T10:00:00Z")
RUNS = (
    EARLY,
    replace(stored("missed"), run="c2", started="2026-11-21T10:00:00Z"),
    replace(stored("smoke"), run="c3", started="2026-11-22T10:00:00Z"),
    replace(stored("invalid"), run="c4", started="2026-11-22T11:00:00Z"),
    replace(stored("oom"), run="c5", started="2026-11-22T12:00:00Z"),
)


def cells(text: str, start: str) -> list[str]:
    """The cells of the one table row that starts so."""
    (row,) = [line for line in text.split("\n") if line.startswith(f"| {start} ")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_nothing_was_run_yet():
    text = render({}, WORKLOADS)
    assert [cells(text, week.key) for week in WEEKS] == [[week.key, week.title, "not run", "", "", "", "", ""] for week in WEEKS]
    assert "**Weeks with every target met: 0 of 16** · weeks with a judged run: 0 of 16" in text
    assert text.endswith("## Latest runs\n\nNo run yet.")


def test_a_week_shows_its_newest_judged_run_and_its_latest():
    text = render({"week01": RUNS}, WORKLOADS)
    assert cells(text, "[week01](results/week01)") == [
        "[week01](results/week01)",
        WORKLOAD.plan.title,
        "1.84 x (1.81 to 1.87)",
        "2/3",
        "[c2](results/week01/c2)",
        "NVIDIA H100 80GB HBM3",
        "2026-11-21",
        "[c5](results/week01/c5) failed: out of memory",
    ]
    assert "**Weeks with every target met: 0 of 16** · weeks with a judged run: 1 of 16" in text
    assert cells(render({"week01": [EARLY]}, WORKLOADS), "[week01](results/week01)")[3] == "3/3"
    assert "**Weeks with every target met: 1 of 16**" in render({"week01": [EARLY]}, WORKLOADS)


def test_a_week_that_only_smoked_was_not_run():
    text = render({"week01": RUNS[2:3]}, WORKLOADS)
    assert cells(text, "[week01](results/week01)")[2:] == ["not run", "", "", "", "", "[c3](results/week01/c3) not judged (smoke run)"]


def test_latest_runs_are_the_ten_newest_first():
    text = render({"week01": [replace(EARLY, run=f"c{i}", started=f"2026-11-{i:02d}T10:00:00Z") for i in range(1, 13)]}, WORKLOADS)
    rows = [line.split("|")[1].strip() for line in text.split("## Latest runs")[1].split("\n") if line.startswith("| [c")]
    assert rows == [f"[c{i}](results/week01/c{i})" for i in range(12, 2, -1)]
    latest = render({"week01": RUNS}, WORKLOADS).split("## Latest runs")[1]
    assert cells(latest, "[c5](results/week01/c5)")[1:] == [
        "week01",
        "failed: out of memory",
        "",
        "NVIDIA H100 80GB HBM3",
        "2026-11-22 12:00:00",
        "1 min 37 s",
    ]
    assert cells(latest, "[c3](results/week01/c3)")[1:6] == [
        "week01",
        "not judged (smoke run)",
        "1.03 x (1.02 to 1.05)",
        "CPU, smoke",
        "2026-11-22 10:00:00",
    ]


def test_a_stand_in_is_named_and_gpus_are_counted():
    def proxied(metric: Metric) -> Metric:
        return replace(metric, proxy="random weights")

    seen = EARLY.observed[0]
    run = replace(EARLY, observed=(Observed(tuple(map(proxied, seen.metrics))),), machine=replace(EARLY.machine, gpus=4))
    text = render({"week01": [run]}, WORKLOADS)
    assert cells(text, "[week01](results/week01)")[2:6] == [
        "1.84 x (1.81 to 1.87), proxy",
        "0/3",
        "[c1](results/week01/c1)",
        "4 x NVIDIA H100 80GB HBM3",
    ]


def test_gpu_time_and_cost_are_summed_by_week_and_in_all():
    text = render({"week01": RUNS}, WORKLOADS).split("## GPU time")[1]
    assert text.startswith(
        "\n\n**0.7 GPU-hours · 1.75 USD (1 of 4 runs have no price)** in 5 runs, failed and invalid ones too.\n\n"
        "| week   | runs   | GPU-hours   | cost                                 |\n"
    )
    assert cells(text, "week01") == ["week01", "5", "0.7", "1.75 USD (1 of 4 runs have no price)"]
    unpriced = render({"week01": [replace(EARLY, price=None)]}, WORKLOADS)
    assert "**0.1 GPU-hours** in 1 run, failed" in unpriced
    assert cells(unpriced.split("## GPU time")[1], "week01") == ["week01", "1", "0.1", "no price"]
    assert "GPU time" not in render({"week01": RUNS[2:3]}, WORKLOADS)


@settings(deadline=None)
@given(st.permutations(range(len(RUNS))))
def test_the_order_of_runs_does_not_matter(places: list[int]):
    assert render({"week01": [RUNS[place] for place in places]}, WORKLOADS) == render({"week01": RUNS}, WORKLOADS)


def test_runs_of_a_week_without_a_promise_are_left_out():
    assert render({"week01": RUNS, "week02": RUNS}, WORKLOADS) == render({"week01": RUNS}, WORKLOADS)


def test_a_page_keeps_what_people_wrote():
    first = page("", {}, WORKLOADS)
    assert first.startswith(PREFACE)
    mine = first.replace("# Scoreboard", "# Our scoreboard\n\nHello.") + "\nThanks.\n"
    redrawn = page(mine, {"week01": RUNS}, WORKLOADS)
    assert redrawn.split("<!-- sprintbench:scoreboard -->")[0] == mine.split("<!-- sprintbench:scoreboard -->")[0]
    assert redrawn.endswith("\n<!-- /sprintbench:scoreboard -->\n\nThanks.\n")
    assert page(redrawn, {"week01": RUNS}, WORKLOADS) == redrawn
