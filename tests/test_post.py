"""The weekly post: a golden one whole, then what stands under each heading, and that nothing unmeasured does."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from golden import BEST, FOLDER, SAME, WORKLOAD, WORST, stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import results

from bot.commands import parse
from bot.post import post
from bot.report import LIMIT, Where
from workloads.plan import planned
from workloads.spec import Estimate, Metric, Observed, Result, Target

WHERE = Where("https://github.com", "sprinter/sprint", "main")
OK = replace(stored("ok"), run="c1", started="2026-11-20T10:00:00Z")
MISSED = replace(stored("missed"), run="c5", started="2026-11-22T10:00:00Z", telemetry=None)


def spread(low: float, value: float, high: float) -> Estimate:
    return Estimate("median", value, low, high, (value,))


def seen(run: str, *metrics: Metric, not_measured: tuple[tuple[str, str], ...] = ()) -> Result:
    return replace(OK, run=run, observed=(Observed(metrics, not_measured=not_measured),))


def under(text: str, heading: str) -> list[str]:
    """The points under a heading of the post."""
    block = next(part for part in text.split("\n\n") if part.startswith(f"{heading}\n"))
    return [line.removeprefix("- ") for line in block.split("\n")[1:]]


def test_golden(request: pytest.FixtureRequest):
    between = [replace(stored(kind), run=f"c{n}", started=f"2026-11-21T0{n}:00:00Z")
               for n, kind in enumerate(("crashed", "invalid", "smoke"), start=2)]
    runs = [OK, *between, MISSED, replace(stored("oom"), run="c6", started="2026-11-22T12:00:00Z")]
    expected, actual = FOLDER / "post.md", post(WORKLOAD, runs, WHERE)
    if request.config.getoption("--update-golden"):
        expected.write_text(actual, encoding="utf-8")
    assert expected.read_text(encoding="utf-8") == actual


@pytest.mark.parametrize(("runs", "end"), [
    ([], "It has no run at all: `/bench week01` makes the first."),
    ([stored("smoke")], "The newest of its 1 run, c4212: not judged (smoke run)."),
    ([stored("smoke"), stored("oom")], "The newest of its 2 runs, c4215: failed: out of memory."),
])
def test_without_a_judged_run_there_is_nothing_to_post(runs: list[Result], end: str):
    assert post(WORKLOAD, runs, WHERE) == f"No post yet: week01 has no judged run, so there is no number to tell. {end}\n"


def test_where_all_is_well_no_fault_is_made_up():
    text = post(WORKLOAD, [OK], Where())
    assert under(text, "What sped up") == [
        "compile speedup, best of three models (UNet, train, batch 16): 1.84 x, target met",
        "compile speedup, worst of three models (ResNet50, train, batch 128): 1.24 x, target met"]
    assert under(text, "What broke") == ["no run failed and no target was missed"]
    assert under(text, "What's next") == [
        "Week 02 - Attention hot path: FlashAttention: >=1.5x attention kernel speedup, <=1% task metric delta"]
    assert text.endswith("\n\nRun: c1\n```\n")
    assert "http" not in text
    assert "not checked" not in text


def test_gains_and_losses_are_against_the_judged_run_before():
    before = seen("c1", WORST.measured(spread(1.1, 1.1, 1.1)), Metric("a", "time", "ms", "lower", spread(9, 10, 11)),
                  Metric("b", "memory", "MiB", "lower", spread(10, 10, 10)), Metric("c", "rate", "img/s", "higher", spread(9, 10, 11)),
                  Metric("zero", "faults", "count", "lower", spread(0, 0, 0)), Metric("noise", "itself", "%", "lower", spread(1, 1, 1)))
    after = seen("c2", WORST.measured(spread(1.1, 1.1, 1.1), detail="ViT"), Metric("a", "time", "ms", "lower", spread(4, 5, 6)),
                 Metric("b", "memory", "MiB", "lower", spread(20, 20, 20)), Metric("c", "rate", "img/s", "higher", spread(8, 9, 10)),
                 Metric("zero", "faults", "count", "lower", spread(3, 3, 3)), Metric("noise", "itself", "%", "lower", spread(2, 2, 2)),
                 Metric("new", "new", "ms", "lower", spread(1, 1, 1)))
    text = post(WORKLOAD, [before, stored("smoke"), after], WHERE)
    assert under(text, "What sped up") == ["time: 5.00 ms, better than 10.0 ms in run c1 (-50.0%)"]
    assert under(text, "What broke") == [
        "memory: 20 MiB, worse than 10 MiB in run c1 (+100.0%)", "faults: 3 count, worse than 0 count in run c1"]
    elsewhere = replace(before, machine=replace(before.machine, gpu="NVIDIA H200"))
    text = post(WORKLOAD, [elsewhere, after], WHERE)
    assert under(text, "What sped up") == ["nothing that the runs show"]
    assert under(text, "What broke") == ["no run failed and no target was missed"]


def test_of_many_failures_the_newest_are_told():
    crashed = [replace(stored("crashed"), run=f"c{n}", started=f"2026-11-21T{n}:00:00Z") for n in range(10, 17)]
    told = under(post(WORKLOAD, [*crashed, OK], WHERE), "What broke")
    assert told == [*(f"run c{n} of 2026-11-21: failed: crashed" for n in range(16, 11, -1)), "2 more of this kind"]
    smoke = replace(stored("crashed"), request=replace(stored("crashed").request, smoke=True))
    assert under(post(WORKLOAD, [OK, smoke], WHERE), "What broke") == ["run c4213 of 2026-11-23, smoke: failed: crashed"]


def test_what_is_not_judged_says_why():
    run = seen("c1", SAME.measured(spread(0.5, 0.5, 0.5)), BEST.measured(spread(2, 2, 2)),
               not_measured=(("worst_speedup", "no memory left"),))
    text = post(WORKLOAD, [run], WHERE)
    assert "- compile speedup, worst of three models: not measured; target >= 1.2 x: not judged (no memory left)\n" in text
    assert under(text, "What sped up") == ["nothing that the runs show"]
    assert under(text, "What's next")[:3] == [
        "get compile speedup, best of three models judged; why it is not yet: its proof was missed: argmax agreement with eager, "
        "worst of three models",
        "get compile speedup, worst of three models judged; why it is not yet: no memory left",
        "reach argmax agreement with eager, worst of three models >= 0.999"]


def test_after_the_last_week_nothing_is_next():
    plan = planned(16)
    target = Target("cost", "cost documented", ">=", 1, "count")
    last = replace(WORKLOAD, plan=plan, targets=(target,), headline=target, deliverables=tuple(
        replace(WORKLOAD.deliverables[0], text=text, by=(target,)) for text in plan.deliverables))
    run = replace(seen("c1", target.measured(spread(1, 1, 1))), request=replace(OK.request, week="week16"))
    assert under(post(last, [run], WHERE), "What's next") == ["the plan is done"]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(results(), max_size=3))
def test_whatever_was_stored_a_post_is_one_block_that_rings_nobody(runs: list[Result]):
    text = post(WORKLOAD, [*runs, OK], WHERE)
    assert len(text) <= LIMIT
    assert len(re.findall("(?m)^```", text)) == 2
    assert "@" not in text
    assert [line for line in text.splitlines() if line.startswith("/")] == []
    assert parse(text) is None
