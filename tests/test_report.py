"""The comment: golden pairs whole, then the rules that no example shows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from golden import BEST, FOLDER, HISTORIES, KINDS, NIGHTS, SAME, WORKLOAD, slowed, stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import results

from bot.acceptance import judge
from bot.cards import lost_card, queued_card, refused_card, waits_for
from bot.commands import parse
from bot.history import History
from bot.report import (
    LIMIT,
    Where,
    block,
    bound_text,
    code,
    command,
    cost_text,
    duration_text,
    fenced,
    figure,
    interval_text,
    printable,
    report,
    share_text,
    sparkline,
    state_text,
    value_text,
)
from workloads.spec import Chart, Column, Estimate, Failure, Metric, Observed, Price, Request, Result, Retry, Table, Target, dumps

WHERE = Where(
    server="https://github.com",
    repo="sprinter/sprint",
    branch="main",
    ledger="b" * 40,
    queued_s=41.0,
    comment_url="https://github.com/sprinter/sprint/issues/1#issuecomment-4210",
    run_url="https://github.com/sprinter/sprint/actions/runs/77",
)
NOWHERE = Where()
hostile = st.text(st.characters(), max_size=400) | st.text("`@/<>![]()|\n\r\t \u202e\x1b[31m", max_size=400)


def html(markdown: str) -> str:
    return cmarkgfm.github_flavored_markdown_to_html(markdown, options=Options.CMARK_OPT_UNSAFE)


def spread(low: float, value: float, high: float) -> Estimate:
    return Estimate("median", value, low, high, (value,))


def with_metrics(*metrics: Metric, tables: tuple[Table, ...] = (), notes: tuple[str, ...] = ()) -> Result:
    return replace(stored("ok"), observed=(Observed(metrics, tables, notes),))


# ---------------------------------------------------------------------------------------------------- whole reports


@pytest.mark.parametrize("kind", KINDS)
def test_golden(kind: str, request: pytest.FixtureRequest):
    expected = FOLDER / f"{kind}.report.md"
    actual = report(WORKLOAD, stored(kind), WHERE)
    if request.config.getoption("--update-golden"):
        expected.write_text(actual, encoding="utf-8")
    assert expected.read_text(encoding="utf-8") == actual


@pytest.mark.parametrize("kind", HISTORIES)
def test_golden_beside_history(kind: str, request: pytest.FixtureRequest):
    result, history = HISTORIES[kind]
    expected, actual = FOLDER / f"history-{kind}.report.md", report(WORKLOAD, result, WHERE, history)
    if request.config.getoption("--update-golden"):
        expected.write_text(actual, encoding="utf-8")
    assert expected.read_text(encoding="utf-8") == actual
    assert parse(actual) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_one_comment_that_is_no_command(kind: str):
    text = report(WORKLOAD, stored(kind), WHERE)
    assert text.splitlines()[0] == f"<!-- sprintbench:card {stored(kind).run} -->"
    assert [line for line in text.splitlines() if line.startswith("/")] == []
    assert parse(text) is None
    assert text.count("<details>") == text.count("</details>\n") == text.count("<details><summary>")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_unknown_is_invented_without_a_repository(kind: str):
    text = report(WORKLOAD, stored(kind), NOWHERE)
    assert re.findall(r"\]\(|http|None|waited|comment\]", text.split("End of the log")[0]) == []


def test_headlines():
    def headline(result: Result) -> str:
        return report(WORKLOAD, result, NOWHERE).splitlines()[2]

    best = "compile speedup, best of three models (target >= 1.5 x)"
    assert headline(stored("ok")) == f"### week01 · met · 1.84 x {best} · no action needed"
    assert headline(stored("smoke")) == f"### week01 · not judged (smoke run) · 1.03 x {best} · next: run it in full"
    assert headline(stored("missed")) == (
        "### week01 · missed · 1.19 x compile speedup, worst of three models (target >= 1.2 x) · next: profile it"
    )
    profiled = replace(stored("missed"), request=replace(stored("missed").request, profile=True))
    assert headline(profiled).endswith(" · next: read the profile")
    chosen = replace(stored("ok"), request=replace(stored("ok").request, batch=64))
    assert headline(chosen).endswith(" · next: run it without a batch size")
    assert "- `/bench week01` runs it as the week declares it, to be judged\n" in report(WORKLOAD, chosen, WHERE)
    assert headline(stored("oom")) == "### week01 · failed: out of memory · next: try a smaller batch"
    assert headline(stored("timeout")) == "### week01 · failed: timeout · next: try the smoke run, or fewer processes"
    assert headline(stored("invalid")) == (
        "### week01 · INVALID: hardware thermal slowdown in 3% of samples and 3 more · "
        f"1.83 x {best} · next: run it again once the machine is quiet"
    )


def test_a_week_that_is_judged_in_part_says_so():
    some = with_metrics(SAME.measured(spread(1, 1, 1)), BEST.measured(spread(2, 2, 2)))
    assert state_text(some, judge(WORKLOAD, some)) == "met 2 of 3, the rest not judged"
    assert report(WORKLOAD, some, NOWHERE).splitlines()[2].endswith("next: see below what is not judged, and why")
    proxied = with_metrics(SAME.measured(spread(1, 1, 1), proxy="random weights"), BEST.measured(spread(2, 2, 2)))
    text = report(WORKLOAD, proxied, NOWHERE)
    assert "(proxy: random weights)**" in text
    assert "not judged (proxy: random weights)" in text
    none = with_metrics(SAME.measured(spread(1, 1, 1), proxy="a"))
    assert report(WORKLOAD, none, NOWHERE).splitlines()[2] == (
        "### week01 · not judged (not measured by this run) · next: see below what is not judged, and why"
    )


def test_acceptance_counts_what_earlier_runs_earned():
    assert "**Acceptance 3/5 → 5/5**" in report(WORKLOAD, stored("ok"), NOWHERE, History((stored("missed"), stored("smoke"))))
    text = report(WORKLOAD, stored("missed"), NOWHERE, History((stored("ok"),)))
    assert "**Acceptance 5/5 → 5/5**" in text
    assert "- shown before: Benchmarks on" in text
    smoke = report(WORKLOAD, stored("smoke"), NOWHERE, History((stored("ok"),)))
    assert "**Acceptance 5/5 → 5/5**, from earlier runs: nothing of this run is judged (smoke run)." in smoke


@pytest.mark.parametrize(
    ("kind", "offers"),
    [
        ("ok", ["/bench week01 --repeat 3"]),
        ("missed", ["/bench week01 --repeat 3 --profile"]),
        ("smoke", ["/bench week01"]),
        ("crashed", ["/bench week01 --smoke", "/bench week01"]),
        ("timeout", ["/bench week01 --smoke", "/bench week01"]),
        ("oom", ["/bench week01 --batch 256", "/bench week01 --smoke"]),
        ("invalid", ["/bench week01"]),
    ],
)
def test_every_offered_command_is_one(kind: str, offers: list[str]):
    text = report(WORKLOAD, stored(kind), NOWHERE)
    found = re.findall(r"^- `(/bench[^`]*)`", text, re.MULTILINE)
    assert found == offers
    assert [command(asked) for asked in map(parse, found) if isinstance(asked, Request)] == offers


def test_nothing_is_offered_where_nothing_is_to_do():
    result = stored("ok")
    thrice = replace(result, request=replace(result.request, repeat=3), observed=result.observed * 3)
    assert "**Next**" not in report(WORKLOAD, thrice, NOWHERE)


def test_a_cancelled_run_may_be_asked_for_again():
    cancelled = replace(stored("timeout"), status="cancelled")
    assert "**Next**\n\n- `/bench week01` asks for the same again\n\n" in report(WORKLOAD, cancelled, NOWHERE)


def test_several_gpus_and_another_process_are_counted():
    result = stored("ok")
    assert result.telemetry is not None
    both = replace(result, machine=replace(result.machine, gpus=2), gpu_seconds=744.8, telemetry=replace(result.telemetry, throttled=()))
    text = report(WORKLOAD, both, NOWHERE)
    assert "2 x NVIDIA H100 80GB HBM3 · 1 process of up to 20 samples · took 6 min 12 s · 12.4 GPU-minutes · 0.52 USD" in text
    assert re.search(r"\| throttled +\| never ", text)
    assert "1 other process;" in report(WORKLOAD, stored("invalid"), NOWHERE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ecc_errors": 2}, "**INVALID: 2 uncorrected ECC errors.** Nothing of this run is judged. "),
        ({"ecc_errors": 2}, " · next: see to the GPU, its memory fails (bench doctor)\n"),
        ({"ecc_errors": 2}, ", 2 ECC errors, no other processes; "),
        ({"ecc_errors": 1}, ", 1 ECC error, no other processes; "),
        ({"ecc_errors": 0}, ", no ECC errors, no other processes; "),
        ({"ecc_errors": None}, "median 512 W, no other processes; "),
        ({"ecc_errors": None}, "| uncorrected ECC errors | not counted by this GPU "),
        ({"persistence": None}, "| persistence mode       | not told by this GPU "),
        ({"persistence": False}, "0.5 s apart. To set right: persistence mode is off (nvidia-smi -pm 1 turns it on).\n"),
        ({"sm_clock_limit": 0}, "| SM clock               | median 1980, lowest 1755 MHz "),
    ],
)
def test_the_telemetry_is_told(changes: dict[str, Any], words: str):
    result = stored("ok")
    assert result.telemetry is not None
    assert words in report(WORKLOAD, replace(result, telemetry=replace(result.telemetry, **changes)), NOWHERE)


@pytest.mark.parametrize(
    ("retry", "words"),
    [
        (Retry(("GPU at 91 C",), 74.2, "ran again"),
         "This is a second try: the first was invalid (GPU at 91 C), and the GPU rested 1 min 14 s between them."),
        (Retry(("GPU at 91 C",), 300.0, "not quiet"),
         "There was no second try: after 5 min 00 s the GPU was still hot, shared or slowed down."),
        (Retry(("GPU at 91 C",), 0.0, "no time"), "There was no second try: it might not have ended before the job must."),
        (Retry(("GPU at 91 C",), 12.0, "cancelled"), "There was no second try: it was cancelled, 12 s into the rest before it."),
    ],
)
def test_a_second_try_is_told(retry: Retry, words: str):
    text = report(WORKLOAD, replace(stored("ok"), retry=retry), NOWHERE)
    assert f"samples 0.5 s apart. {words}\n" in text


def costing(gpu_seconds: float, *price: Any) -> Result:
    return replace(stored("ok"), gpu_seconds=gpu_seconds, price=Price(*price) if price else None)


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ((), ""),
        ((costing(3600.0),), ""),
        ((costing(0.0, 2.49, "USD"),), ""),
        ((costing(5400.0, 2.49, "USD"),), "3.74 USD"),
        ((costing(1.0, 2.49, "USD"),), "under 0.01 USD"),
        ((costing(3600.0, 2.0, "USD"), costing(1800.0, 3.0, "EUR"), costing(1800.0, 2.0, "USD")), "1.50 EUR + 3.00 USD"),
        ((costing(3600.0, 1000.0, "USD"), costing(60.0), costing(0.0)), "1,000.00 USD (1 of 2 runs have no price)"),
    ],
)
def test_costs_are_summed_by_currency(runs: tuple[Result, ...], text: str):
    assert cost_text(runs) == text


def test_a_run_without_a_commit_names_none():
    text = report(WORKLOAD, replace(stored("ok"), commit=""), WHERE)
    assert "commit" not in text.split("<details>")[0]
    assert "git checkout" not in text


def test_noise_limits_stand_beside_ratios_only_where_an_arm_met_itself():
    quiet = with_metrics(BEST.measured(spread(2, 2, 2)), SAME.measured(spread(1, 1, 1)))
    assert "noise limit" not in report(WORKLOAD, quiet, NOWHERE)
    other = Metric("noise", "eager against itself", "x", "lower", spread(1, 1, 1))
    assert "noise limit" not in report(WORKLOAD, with_metrics(other), NOWHERE)


# ---------------------------------------------------------------------------------------------------- beside history


def lines(result: Result, history: History) -> str:
    """Everything but the tables of a report without links."""
    return "\n".join(line for line in report(WORKLOAD, result, NOWHERE, history).splitlines() if not line.startswith("|"))


def slower(factor: float, run: str = "c4210", day: int = 23) -> Result:
    """A run of a week whose headline is a time, in which less is better."""
    base = slowed(1, run, day)
    return replace(base, observed=(Observed((TIME.measured(spread(*(v * factor for v in (9.9, 10.0, 10.1)))),)),))


TIME = Target("latency", "latency", "<=", 12, "ms")
TIMED = replace(WORKLOAD, targets=(TIME,), headline=TIME, deliverables=tuple(replace(d, by=(TIME,)) for d in WORKLOAD.deliverables))


def test_a_time_is_slower_or_faster():
    nights = tuple(slower(1 + wobble / 1000, f"c{4100 + day}", day) for day, wobble in enumerate((3, -5, 1, 8, -2, 0, -7), 1))

    def told(factor: float, second: float | None = None, earlier: tuple[Result, ...] = nights) -> tuple[str, str]:
        history = History(earlier, (), slower(second, "c4210-2", 24) if second else None)
        text = report(TIMED, slower(factor), NOWHERE, history).splitlines()
        return text[2], next(line for line in text if "Against history" in line)

    headline, line = told(1.05)
    assert " · suspected 5.0% slower · " in headline
    assert headline.endswith("· next: a second run decides")
    assert line.startswith("**Against history: suspected 5.0% slower** than the median of 7 runs (limit 2.0%): latency. One run in")
    headline, line = told(0.95, 0.94)
    assert " · confirmed 5.0% faster · " in headline
    assert headline.endswith("· no action needed")
    assert line == ("**Against history: confirmed 5.0% faster** than the median of 7 runs (limit 2.0%): latency. "
                    "The second run, c4210-2, was 6.0% faster too.")
    assert told(1.01)[1] == "Against history: no change in latency (1.0% slower than the median of 7 runs); could have seen >= 2.0%."
    assert told(1.05, 1.0)[1].endswith("but the second run, c4210-2, was 0.0% faster, so there is nothing to tell.")
    assert told(1.05, None, ())[1] == "Against history: too few runs to say (0 of 5)."
    by_hand = tuple(replace(run, run=f"r{run.run[1:]}") for run in nights[:2])
    assert told(1.05, None, by_hand)[1] == "Against history: too few runs to say (2 of 5)."


def test_a_change_just_beyond_the_limit_reads_so():
    assert [share_text(0.0184, beside) for beside in (None, 0.0184, 0.0181, 0.01836)] == ["1.8%", "1.8%", "1.84%", "1.840%"]
    assert share_text(-0.5, 0.5) == "50.0000%"
    assert share_text(12.5) == "1,250.0%"


def test_nothing_is_said_of_history_where_none_is_known_or_the_run_does_not_count():
    assert "Against history" not in report(WORKLOAD, stored("ok"), NOWHERE)
    for kind in ("smoke", "crashed", "invalid", "oom"):
        text = report(WORKLOAD, stored(kind), NOWHERE, History(NIGHTS))
        assert re.findall("Against history|Trend of|What else changed|change seen from", text) == []


def test_what_else_changed_is_told_where_something_did():
    assert "What else changed" not in lines(slowed(1.05, "c4210", 23), History(NIGHTS))
    moved = slowed(1.05, "c4210", 23, replace(stored("ok"), machine=replace(stored("ok").machine, driver="590.11")))
    assert "\n**What else changed since c4112**\n" in lines(moved, History(NIGHTS))
    assert "<details><summary>What else changed since c4112</summary>" in lines(moved, History(NIGHTS[:2] + NIGHTS[-1:]))


def test_a_confirmed_change_may_be_accepted_where_it_has_a_comment():
    history = HISTORIES["confirmed"][1]
    assert "- `/accept c4210` makes this" in lines(slowed(1.05, "c4210", 23), history)
    second = slowed(1.047, "c4210-2", 24)
    text = report(WORKLOAD, second, NOWHERE, History((*NIGHTS, slowed(1.05, "c4210", 23))))
    assert "**Against history: confirmed 4.7% lower (worse)** than the median of 12 runs" in text
    assert "- `/accept c4210` makes this" in text
    by_hand = History(NIGHTS, (), slowed(1.047, "r7-2", 24))
    assert "/accept" not in lines(slowed(1.05, "r7", 23), by_hand)


def test_interleaved_pairs():
    def told(factor: float, lacking: int = 0) -> tuple[str, str]:
        ours = tuple(slowed(factor + n / 1000, "c1", 1).observed[0] for n in range(6))
        others = [slowed(1 - n / 2000, "c1", 1).observed[0] for n in range(6)]
        for place in range(lacking):  # the other commit may not have measured it
            others[place] = replace(others[place], metrics=others[place].metrics[1:])
        result = replace(stored("ok"), request=replace(stored("ok").request, vs=7), observed=ours, baseline=tuple(others),
                         baseline_commit="1" * 40)
        text = report(WORKLOAD, result, NOWHERE, History(NIGHTS)).splitlines()
        assert "Against history" not in "\n".join(text)
        return text[2], next(line for line in text if "interleaved" in line)

    headline, line = told(1.05)
    assert " · 5.1% lower (worse) than c7 · " in headline
    assert headline.endswith(" · next: see what else changed")
    assert line.startswith("**Against c7, 6 interleaved pairs of processes: 5.1% lower (worse)** (compile speedup,")
    headline, line = told(0.95)
    assert " · 4.9% higher (better) than c7 · " in headline
    assert headline.endswith(" · no action needed")
    assert told(1.0)[1] == ("Against c7, 6 interleaved pairs of processes: no difference seen (compile speedup, best of three models, "
                            "99% interval -0.8% to +0.1%; a difference counts from 2.0%).")
    assert told(1.05, 1)[1] == "Against c7, 5 interleaved pairs of processes: too few to say, 6 are needed."


# ---------------------------------------------------------------------------------------------------- length


def test_a_long_report_drops_whole_sections_in_order_and_says_so():
    wide = tuple(Table(f"t{i}", f"wide {i}", tuple(Column(f"c{j}") for j in range(30)), (("x" * 100,) * 30,) * 40) for i in range(3))
    notes = tuple(f"note {i} {'n' * 140}" for i in range(200))
    tables = (*wide, stored("ok").observed[0].tables[0])
    text = report(WORKLOAD, with_metrics(BEST.measured(spread(2, 2, 2)), tables=tables, notes=notes), WHERE)
    assert len(text) <= LIMIT
    assert text.endswith("4 sections were left out for length; all of it is in result.json.\n")
    assert "Table: " not in text
    assert "- note 199 " in text
    text = report(WORKLOAD, with_metrics(tables=wide[:1], notes=notes * 3), WHERE)
    assert text.endswith("2 sections were left out for length; all of it is in result.json.\n")
    assert text.count("<details>") == text.count("</details>")
    assert "<summary>Environment</summary>" in text


def test_the_longest_log_fits():
    for tail in ("@" * 4000, "`" * 4000, "/\n" * 2000):
        text = report(WORKLOAD, replace(stored("crashed"), failure=Failure("m" * 400, tail)), WHERE)
        assert len(text) <= LIMIT
        assert "left out" not in text


def test_a_long_table_is_cut_by_rows():
    tall = Table("tall", "tall one", (Column("n"), Column("t", "ms")), tuple((i, i / 7) for i in range(45)))
    text = report(WORKLOAD, with_metrics(tables=(tall,)), NOWHERE)
    assert "|  39 |     5.57 |\n\n5 more rows are in result.json." in text


# ---------------------------------------------------------------------------------------------------- the picture in text


def charted(chart: Chart, *rows: tuple[str | float | None, ...]) -> Table:
    return Table("t", "times", (Column("arm"), Column("part"), Column("time", "ms")), rows, chart)


@pytest.mark.parametrize(
    ("table", "lines"),
    [
        (charted(Chart("bars", "arm", "time"), ("a", None, 1.0), ("b", None, 8.0)), ["- all `▁█` 1.00 to 8.00 ms"]),
        (
            charted(Chart("stacked", "arm", "time", "part"), ("a", "x", 1.0), ("a", "y", 2.0), ("b", "x", 1.5), ("b", "y", None)),
            ["- all `█▁` 1.50 to 3.00 ms"],
        ),
        (
            charted(Chart("lines", "arm", "time", "part"), (1.0, "x", 4.0), (2.0, "x", None), (1.0, "y", None)),
            ["- x `▄·` 4.00 to 4.00 ms", "- y: no number"],
        ),
    ],
)
def test_sparklines(table: Table, lines: list[str]):
    text = report(WORKLOAD, with_metrics(tables=(table,)), NOWHERE)
    assert "\n".join(("times, time over arm:", "", *lines, "", "**Acceptance")) in text


def test_sparkline_spans_lowest_to_highest():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0, None, 5.0]) == "▄·▄"
    assert sparkline([]) == ""


# ---------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (spread(1.81, 1.84, 1.87), "1.84 (1.81 to 1.87)"),
        (spread(812.29, 812.31, 812.33), "812.31 (812.29 to 812.33)"),
        (spread(1190.0, 1234.5, 1280.0), "1,234 (1,190 to 1,280)"),
        (spread(0.999, 0.9995, 0.9998), "0.9995 (0.9990 to 0.9998)"),
        (spread(3e-7, 3.1e-7, 3.2e-7), "3.1e-07 (3e-07 to 3.2e-07)"),
        (spread(2e12, 2e12, 2e12), "2e+12"),
        (spread(0, 0, 0), "0"),
        (spread(3, 3, 3), "3"),
        (spread(18734, 18734, 18734), "18,734"),
        (spread(0.41, 0.41, 0.41), "0.41"),
        (spread(-0.001, 0, 0.5), "0.000 (-0.001 to 0.500)"),
        (spread(1.84, 1.84, 1.84 + 1e-9), "1.8400 (1.8400 to 1.8400)"),
    ],
)
def test_numbers_for_people(estimate: Estimate, text: str):
    assert interval_text(estimate, "") == text


def test_an_edge_is_seen_on_its_own_side_of_the_bound():
    assert interval_text(spread(1.4996, 1.6, 1.7), "x", 1.5) == "1.6000 x (1.4996 to 1.7000)"
    assert interval_text(spread(1.5, 1.6, 1.7), "x", 1.5) == "1.60 x (1.50 to 1.70)"
    assert interval_text(spread(1.5 - 1e-15, 1.6, 1.7), "x", 1.5) == "1.600000000 x (1.500000000 to 1.700000000)"


@given(st.floats(-1e15, 1e15), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(-1e6, 1e6))
def test_every_number_is_written_near_itself(value: float, below: float, above: float, bound: float):
    text = interval_text(spread(value - below, value, value + above), "", bound)
    assert float(text.split(" ")[0].replace(",", "")) == pytest.approx(value, rel=6e-3, abs=max(below + above, 1e-12))


def test_other_texts_for_people():
    assert figure(-0.0001, 2) == "0.00"
    assert value_text(spread(1.81, 1.84, 1.87), "x") == "1.84 x"
    assert bound_text(Target("a", "a", "<=", 1_500_000, "img/s")) == "<= 1,500,000 img/s"
    assert [duration_text(s) for s in (0.4, 48, 59.6, 372.4, 86_700)] == ["0 s", "48 s", "1 min 00 s", "6 min 12 s", "24 h 05 min"]


# ---------------------------------------------------------------------------------------------------- hostile text


@given(hostile)
def test_free_text_cannot_act(text: str):
    def failed(message: str, log_tail: str) -> str:
        return report(WORKLOAD, replace(stored("crashed"), failure=Failure(message, log_tail)), WHERE)

    markdown = failed(f"it said {text}"[:400], f"it said\n{text}")
    assert [line for line in markdown.split("\n") if line.startswith("/")] == []
    assert re.findall("@(?!\u2060)|[\r\x1b\u202e\ud800-\udfff]", markdown) == []
    acted, quiet = html(markdown), html(failed("it said", "it said"))
    for tag in ("<a ", "<img", "<h", "<details>", "</details>", "<table>", "<pre", "<code", "<li>", "<strong>", "<p>", "<!--"):
        assert acted.count(tag) == quiet.count(tag)


def test_code_and_fences_outgrow_what_is_inside():
    assert code("a `b` ``c``") == "``` a `b` ``c`` ```"
    assert code("two\nlines\x07 @me") == "`two lines @\u2060me`"
    assert code("\u202e\x00") == "`(nothing)`"
    assert fenced("a\n````\n/bench week01\n") == "`````text\na\n````\n /bench week01\n`````"
    assert printable("a\r\nb\rc\x1b[31md\u200be\ud800") == "a\nb\ncde"


# ---------------------------------------------------------------------------------------------------- cards and blocks


def test_cards():
    request = Request("bench", "week01", smoke=True)
    assert queued_card("c12", request, WHERE) == (
        f"<!-- sprintbench:card c12 -->\n\n<!-- sprintbench:waits {dumps(request)} -->\n\n"
        "### week01 · queued · this comment becomes the report\n\n"
        "Accepted: `/bench week01 --smoke`. It waits for a GPU runner; nothing more needs to be done.\n\n"
        f"[the command]({WHERE.comment_url}) · [workflow run]({WHERE.run_url})\n"
    )
    assert lost_card("c12", request, "failure", NOWHERE) == (
        f"<!-- sprintbench:card c12 -->\n\n<!-- sprintbench:lost {dumps(request)} -->\n\n"
        "### week01 · failed: the GPU job left no result · next: look at its log, then ask again\n\n"
        "The job ended as `failure`, before it could hand one over: the runner died or lost its connection, or the job ran out of time. "
        "A machine with a spool hands over what it measured with its next job, and this comment then becomes the report.\n\n"
        "**Next**\n\n- `/bench week01 --smoke` asks again.\n"
    )
    assert refused_card("c12", request, "a link in the `zip`", NOWHERE) == (
        "<!-- sprintbench:card c12 -->\n\n### week01 · failed: the result was refused · next: look at the job's log, then ask again\n\n"
        "What the GPU job left does not hold as a result: `` a link in the `zip` ``. Nothing of it was kept.\n\n"
        "**Next**\n\n- `/bench week01 --smoke` asks again.\n"
    )


def test_only_a_queued_card_waits():
    request = Request("bench", "week01", smoke=True, batch=4)
    queued = queued_card("c12", request, WHERE)
    assert waits_for(queued) == request
    assert waits_for(queued.replace("\n", "\r\n")) == request
    assert [waits_for(text) for text in (lost_card("c12", request, "failure", WHERE), refused_card("c12", request, "a", WHERE), "",
                                         "a log\n" + queued, queued.replace('"week01"', '"week01'))] == [None] * 5


def test_a_block_shows_the_table_and_every_plot():
    text = block(WORKLOAD, stored("ok"), "../../results/week01/c4210")
    assert text.startswith("Run [c4210](../../results/week01/c4210) of 2026-11-23: commit `3f2a9c1` · NVIDIA H100 80GB HBM3 · ")
    assert text.endswith(
        "\n\n![Speedup over tuned eager by batch size](../../results/week01/c4210/speedup.png)"
        "\n\n![GPU time of a training step by class of kernel](../../results/week01/c4210/kernels.png)"
    )


@given(results(), st.lists(results(), max_size=1))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_result_that_the_contract_allows_is_reported(result: Result, earlier: list[Result]):
    text = report(WORKLOAD, result, WHERE, History(tuple(earlier)))
    assert len(text) <= LIMIT
    assert [line for line in text.split("\n") if line.startswith("/")] == []
    sections = text.split("<summary>End of the log</summary>")[0]
    assert sections.count("<details>") == sections.count("</details>") + (sections != text)
