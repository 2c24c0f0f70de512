"""Two runs side by side: a golden answer whole, then the rules of what counts as a difference."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden import BEST, FOLDER, SAME, WORKLOAD, stored
from hypothesis import HealthCheck, given, settings
from strategies import results

from bot.commands import parse
from bot.compare import Difference, change_text, compare, difference
from bot.report import LIMIT, Where
from workloads.spec import Estimate, Metric, Observed, Result, Unit

WHERE = Where("https://github.com", "sprinter/sprint", "main")
OK = stored("ok")


def spread(low: float, value: float, high: float) -> Estimate:
    return Estimate("median", value, low, high, (value,))


def exact(value: float) -> Estimate:
    return Estimate("exact", value, value, value, (value,))


def latency(estimate: Estimate, unit: Unit = "ms", proxy: str = "", detail: str = "") -> Metric:
    return Metric("latency", "latency", unit, "lower", estimate, detail, proxy)


def seen(*metrics: Metric) -> Result:
    return replace(OK, observed=(Observed(metrics),))


def row(text: str, start: str) -> list[str]:
    """The cells of the one table row that starts so."""
    [found] = [line for line in text.split("\n") if line.startswith(f"| {start} ")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_golden(request: pytest.FixtureRequest):
    later = replace(stored("missed"), run="c4301", commit="9" * 40, started="2026-11-24T08:00:00Z", machine=replace(
        OK.machine, driver="590.11", packages=(("torch", "2.12.0+cu130"), *OK.machine.packages[1:], ("numpy", "2.4.0"))))
    expected, actual = FOLDER / "compare.md", compare(WORKLOAD, OK, later, WHERE)
    if request.config.getoption("--update-golden"):
        expected.write_text(actual, encoding="utf-8")
    assert expected.read_text(encoding="utf-8") == actual


def test_two_runs_of_the_same_differ_in_nothing():
    text = compare(WORKLOAD, OK, replace(OK, run="c9"), Where())
    assert "Of 11 metrics: 7 without a difference seen, 4 measured once." in text
    assert text.endswith("**What else differed**\n\nNothing that is recorded. The same in both: GPU, driver, CPU, system, Python, "
                         "packages, options, commit.\n")
    assert "http" not in text


def test_runs_without_a_number_say_so():
    text = compare(WORKLOAD, stored("oom"), stored("crashed"), WHERE)
    assert "): failed: out of memory · NVIDIA H100 80GB HBM3 · 2026-11-23 15:49:22 UTC\n" in text
    assert "\n\nNeither run measured anything.\n\n**What else differed**\n\n" in text
    half = compare(WORKLOAD, stored("oom"), stored("smoke"), WHERE)
    assert "Of 11 metrics: 11 measured by one run only." in half
    assert row(half, "compile speedup, best")[1:] == [
        "not measured", "1.03 x (1.02 to 1.05)", "", "", "not judged (out of memory) → not judged (smoke run)"]
    assert row(half, "torch  ") == ["torch", "2.11.0+cu130", "2.11.0+cpu"]
    assert row(half, "triton") == ["triton", "3.6.0", "absent"]
    assert row(half, "GPU") == ["GPU", "1 x NVIDIA H100 80GB HBM3, 81,559 MiB", "none"]
    assert row(half, "driver") == ["driver", "580.159", "not recorded"]
    assert "· CPU, smoke ·" in half


@pytest.mark.parametrize(("before", "after", "expected"), [
    (latency(spread(9, 10, 11)), latency(spread(7, 8, 8.9)), "better"),
    (latency(spread(9, 10, 11)), latency(spread(11.1, 12, 13)), "worse"),
    (latency(spread(9, 10, 11)), latency(spread(11, 12, 13)), "no difference seen"),
    (latency(spread(9, 10, 11)), latency(spread(9.9, 9.9, 9.9)), "no difference seen"),
    (BEST.measured(spread(1, 2, 3)), BEST.measured(spread(4, 5, 6)), "better"),
    (BEST.measured(spread(4, 5, 6)), BEST.measured(spread(1, 2, 3)), "worse"),
    (latency(exact(10)), latency(exact(9)), "measured once"),
    (latency(spread(9, 10, 11)), latency(exact(5)), "measured once"),
    (latency(exact(10), "count"), latency(exact(9), "count"), "better"),
    (latency(exact(10), "MiB"), latency(exact(10), "MiB"), "no difference seen"),
    (latency(exact(10)), latency(exact(10), "s"), "not comparable"),
    (latency(exact(10)), latency(exact(10), proxy="random weights"), "not comparable"),
    (latency(exact(10)), replace(latency(exact(10)), better="higher"), "not comparable"),
])
def test_what_counts_as_a_difference(before: Metric, after: Metric, expected: Difference):
    assert difference(before, after) == expected


@pytest.mark.parametrize(("before", "after", "expected"), [
    (10, 11.23, "+12.3%"), (10, 10, "+0.0%"), (-10, -5, "+50.0%"), (10, 9.9999, "+0.0%"), (10, 5, "-50.0%"), (0, 5, ""),
    (1, 10.99, "+999.0%"), (1, 11, "+1e+03%"), (1e-300, 1e300, "+inf%"),
])
def test_change(before: float, after: float, expected: str):
    assert change_text(latency(exact(before)), latency(exact(after))) == expected


def test_a_number_seen_elsewhere_or_defined_anew_is_told_so():
    text = compare(WORKLOAD, seen(BEST.measured(spread(2, 2, 2), detail="UNet"), SAME.measured(exact(1)), latency(exact(5))),
                   seen(BEST.measured(spread(1.9, 1.9, 2), detail="ViT"), SAME.measured(exact(1)), latency(exact(5), "s")), WHERE)
    name = "compile speedup, best of three models (UNet) / compile speedup, best of three models (ViT)"
    assert row(text, name)[3:] == ["-5.0%", "no difference seen", "met → met"]
    assert row(text, "latency")[1:] == ["5 ms", "5 s", "", "not comparable: defined differently", ""]


def test_one_metric_is_one():
    assert "Of 1 metric: 1 better." in compare(WORKLOAD, seen(latency(spread(5, 5, 5))), seen(latency(spread(4, 4, 4))), WHERE)


@pytest.mark.parametrize(("before", "after", "cells", "link"), [
    ("1" * 40, "2" * 40, [f"[`1111111`](https://github.com/sprinter/sprint/commit/{'1' * 40})",
                          f"[`2222222`](https://github.com/sprinter/sprint/commit/{'2' * 40})"], True),
    ("", "2" * 40, ["not recorded", f"[`2222222`](https://github.com/sprinter/sprint/commit/{'2' * 40})"], False),
])
def test_commits(before: str, after: str, cells: list[str], link: bool):
    text = compare(WORKLOAD, replace(OK, commit=before), replace(OK, commit=after), WHERE)
    assert row(text, "commit")[1:] == cells
    url = f"https://github.com/sprinter/sprint/compare/{before}...{after}"
    assert (f"\n\n[What changed between the two commits]({url})\n\nThe same in both: GPU" in text) == link
    bare = compare(WORKLOAD, replace(OK, commit=before), replace(OK, commit=after), Where())
    assert row(bare, "commit")[2] == "`2222222`"
    assert "](" not in bare


def test_what_was_not_recorded_is_not_called_the_same():
    none = replace(OK, commit="")
    assert compare(WORKLOAD, none, none, WHERE).endswith("packages, options.\n")


def test_nothing_the_same():
    other = replace(OK, commit="", request=replace(OK.request, batch=8), machine=replace(
        OK.machine, gpus=2, driver="1", cores=2, system="x", python="3", packages=()))
    text = compare(WORKLOAD, replace(OK, commit="", machine=replace(OK.machine, packages=(("torch", "2"),))), other, WHERE)
    assert "The same in both" not in text
    assert row(text, "options")[1:] == ["none", "`--batch 8`"]


def test_a_long_answer_loses_rows_and_says_so():
    many = [tuple(Metric(f"m{i}", "n" * 160, "ms", "lower", spread(i, i, i), "d" * 160, c * 160) for i in range(1, 201)) for c in "pq"]
    assert "\n\n160 more metrics are in the two result.json.\n" in compare(WORKLOAD, seen(*many[0]), seen(*many[1]), WHERE)
    wide = [replace(seen(*metrics), machine=replace(OK.machine, packages=tuple((f"p{i:0150}", v * 160) for i in range(50))))
            for v, metrics in zip("12", many, strict=True)]
    text = compare(WORKLOAD, *wide, WHERE)
    assert len(text) <= LIMIT
    assert "\n\n180 more metrics are in the two result.json.\n" in text
    assert "\n\n30 more rows are in the two result.json.\n" in text
    packages = tuple((f"p{i}", "1") for i in range(50))
    text = compare(WORKLOAD, OK, replace(OK, machine=replace(OK.machine, packages=packages)), WHERE)
    assert "\n\n14 more rows are in the two result.json.\n" in text


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(results(), results())
def test_whatever_was_stored_can_be_compared(a: Result, b: Result):
    text = compare(WORKLOAD, a, b, WHERE)
    assert len(text) <= LIMIT
    assert [line for line in text.splitlines() if line.startswith("/")] == []
    assert parse(text) is None
