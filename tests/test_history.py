"""Which runs a run is held against, and what comes of them: like with like, older only, since the last accepted level."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from golden import BEST, SAME, WORKLOAD, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.history import (
    NEAR_RUNS,
    History,
    against,
    alike,
    bands,
    change,
    counts,
    first_name,
    measured,
    near,
    pair,
    past,
    second_name,
    trend,
)
from workloads.spec import Estimate, Failure, Metric, Observed, Result, SpecError

OK = stored("ok")
LATENCY = "latency"


def run(number: int, speedup: float = 2.0, name: str = "", **changes: Any) -> Result:
    """The run c<number>, started in that minute, whose headline metric is `speedup`."""
    started = f"2026-11-01T{number // 60:02d}:{number % 60:02d}:00Z"
    asked = changes.get("request", OK.request)
    seen = (observed(speedup),) * (asked.pairs or asked.repeat)
    other = {"baseline": seen, "baseline_commit": "1" * 40} if asked.pairs else {}
    return replace(OK, **{"run": name or f"c{number}", "started": started, "observed": seen, **other, **changes})


def observed(value: float, proxy: str = "") -> Observed:
    estimate = Estimate("mean", value, value, value, (value,))
    other = Metric(LATENCY, "latency", "ms", "lower", Estimate("mean", 10 / value, -100, 100, (10 / value,)))
    return Observed((BEST.measured(estimate, proxy=proxy), other))


def names(runs: tuple[Result, ...]) -> list[str]:
    return [each.run for each in runs]


STEADY = tuple(run(number) for number in range(1, 11))
NEW = run(20, 1.9)


# ---------------------------------------------------------------------------------------------------- like with like


def test_history_is_older_and_in_order() -> None:
    assert names(past(NEW, (run(3), run(21), run(1), NEW, run(2)), ())) == ["c1", "c2", "c3"]
    assert past(run(1), STEADY, ()) == ()


OTHER = replace(OK.request, batch=8)


@pytest.mark.parametrize("changes", [
    {"request": replace(OK.request, batch=8)}, {"request": replace(OK.request, gpus=2)}, {"request": replace(OK.request, profile=True)},
    {"request": replace(OK.request, repeat=2)}, {"request": replace(OK.request, smoke=True)},
    {"request": replace(OK.request, vs=7)}, {"request": replace(OK.request, week="week02")},
    {"machine": replace(OK.machine, gpu="NVIDIA H200")}, {"machine": replace(OK.machine, gpus=2)},
    {"status": "crashed", "failure": Failure("it fell")}, {"telemetry": stored("invalid").telemetry}],
    ids=["batch", "gpus asked", "profile", "repeat", "smoke", "vs", "week", "model", "gpus", "failed", "invalid"])
def test_history_never_mixes(changes: dict[str, Any]) -> None:
    other = run(2, **changes)
    assert names(past(NEW, (run(1), other, run(3)), ())) == ["c1", "c3"]
    if counts(other):
        assert names(past(replace(other, run="c20", started=NEW.started), (run(1), other, run(3)), ())) == ["c2"]
    else:
        assert past(replace(other, run="c20", started=NEW.started), (run(1), run(3)), ()) == ()


@pytest.mark.parametrize("changes", [
    {"telemetry": None}, {"commit": "9" * 40}, {"machine": replace(OK.machine, driver="999", packages=(), cpu="other")},
    {"request": replace(OK.request, runs=(4,), dry_run=True)}, {"duration_s": 1.0}, {"files": ()}])
def test_what_may_differ(changes: dict[str, Any]) -> None:
    assert alike(run(1, **changes), NEW)
    assert names(past(NEW, (run(1, **changes),), ())) == ["c1"]


def test_runs_against_any_other_are_one_kind() -> None:
    one, two = (run(n, request=replace(OK.request, vs=v)) for n, v in ((1, 7), (2, 8)))
    assert alike(one, two)


def test_an_accepted_run_is_the_first_of_its_segment() -> None:
    assert names(past(NEW, STEADY, ("c4", "c8"))) == ["c8", "c9", "c10"]
    assert names(past(NEW, STEADY, ("c20", "c99"))) == names(STEADY)  # its own acceptance, and one of no run here
    assert names(past(run(8), STEADY, ("c8",))) == names(STEADY)[:7]
    elsewhere = (*STEADY[:5], run(6, request=OTHER), *STEADY[6:])
    assert names(past(NEW, elsewhere, ("c6",))) == names(STEADY[:5] + STEADY[6:])


def test_a_long_history_is_cut_without_changing_what_is_told() -> None:
    long = tuple(run(n, 2 + n % 7 / 100, request=OTHER if n % 3 == 0 else OK.request) for n in range(1, 900))
    first, second = run(950, 1.9), run(951, 1.9, "c950-2")
    for result, runs in ((first, long), (second, (*long, first))):
        whole = History(runs, ("c4", "c700"), None)
        cut = near(result, whole)
        assert len(cut.earlier) == NEAR_RUNS + (result is second)
        assert change(WORKLOAD, result, cut.earlier, cut.accepted) == change(WORKLOAD, result, runs, whole.accepted)
        assert trend(WORKLOAD, result, cut.earlier, cut.accepted) == trend(WORKLOAD, result, runs, whole.accepted)


def test_a_command_run_twice_is_one_question() -> None:
    assert (first_name("c12"), first_name("c12-2"), second_name("c12"), second_name("c12-2")) == ("c12", "c12", "c12-2", "c12-2")
    one, two = run(20, 1.8), run(21, 1.8, "c20-2")
    runs = (*STEADY, one, two)
    assert names(past(one, runs, ())) == names(past(two, runs, ())) == names(STEADY)
    assert names(past(run(22), runs, ()))[-2:] == ["c20", "c20-2"]
    late = replace(one, started=two.started.replace("21:00", "22:00"))
    assert names(past(late, (*STEADY, late, two), ())) == names(STEADY)


# ---------------------------------------------------------------------------------------------------- numbers


def test_a_metric_is_pooled_over_processes() -> None:
    thrice = run(1, request=replace(OK.request, repeat=3), observed=(observed(1.0), observed(3.0), observed(2.0)))
    metric = measured(thrice, BEST.name)
    assert metric is not None
    assert (metric.estimate.value, metric.estimate.samples) == (2.0, (1.0, 3.0, 2.0))
    assert metric == thrice.pooled().metric(BEST.name)  # type: ignore[union-attr]
    assert measured(thrice, "nothing") is None
    assert measured(run(1, observed=(), status="crashed", failure=Failure("it fell")), BEST.name) is None
    assert measured(run(1, -1.0), BEST.name) is None


def test_change_of_the_headline() -> None:
    told = change(WORKLOAD, NEW, STEADY, ())
    assert told is not None
    assert (told.kind, told.n, told.delta) == ("suspected_regression", 10, pytest.approx(-0.05))
    assert change(WORKLOAD, run(20, 2.1), STEADY, ()).kind == "improvement_suspected"  # type: ignore[union-attr]
    assert change(WORKLOAD, run(20, 1.99), STEADY, ()).kind == "unchanged"  # type: ignore[union-attr]
    assert change(WORKLOAD, NEW, STEADY[:4], ()).kind == "insufficient"  # type: ignore[union-attr]
    assert change(WORKLOAD, NEW, STEADY, ("c7",)).n == 4  # type: ignore[union-attr]


def test_change_of_another_metric_goes_its_own_way() -> None:
    told = change(WORKLOAD, NEW, STEADY, (), metric=LATENCY)
    assert told is not None
    assert (told.kind, told.delta) == ("suspected_regression", pytest.approx(1 / 0.95 - 1))
    assert change(WORKLOAD, NEW, STEADY, (), metric=SAME.name) is None


@pytest.mark.parametrize("changes", [
    {"request": replace(OK.request, smoke=True)}, {"status": "timeout", "failure": Failure("late")},
    {"telemetry": stored("invalid").telemetry}, {"observed": (Observed(()),)}, {"observed": (observed(-2.0),)}])
def test_no_change_without_a_number_that_counts(changes: dict[str, Any]) -> None:
    assert change(WORKLOAD, replace(NEW, **changes), STEADY, ()) is None


def test_numbers_defined_anew_start_anew() -> None:
    other = tuple(run(n, observed=(observed(2.0, proxy="random weights"),)) for n in range(1, 6))
    assert change(WORKLOAD, NEW, (*other, *STEADY[5:8]), ()).n == 3  # type: ignore[union-attr]
    without = tuple(replace(each, observed=(Observed(()),)) for each in STEADY)
    assert change(WORKLOAD, NEW, without, ()).n == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(("one", "two", "kind"), [
    (1.9, 1.88, "confirmed_regression"), (1.9, 2.0, "cleared"), (1.9, 2.2, "cleared"), (2.2, 2.1, "improvement_confirmed"),
    (2.0, 1.9, "unchanged")])
def test_a_second_run_decides_and_both_are_told_the_same(one: float, two: float, kind: str) -> None:
    first, second = run(20, one), run(25, two, "c20-2")
    told = change(WORKLOAD, first, STEADY, (), second)
    assert told is not None
    assert told.kind == kind
    between = run(22, 1.0)  # came between the two: it is in the history of neither
    assert change(WORKLOAD, second, (*STEADY, first, between), ()) == told


@pytest.mark.parametrize("changes", [
    {"status": "crashed", "failure": Failure("it fell")}, {"telemetry": stored("invalid").telemetry},
    {"machine": replace(OK.machine, gpu="NVIDIA H200")}])
def test_a_second_run_that_does_not_count_decides_nothing(changes: dict[str, Any]) -> None:
    second = run(25, 1.9, "c20-2", **changes)
    assert change(WORKLOAD, NEW, STEADY, (), second).kind == "suspected_regression"  # type: ignore[union-attr]
    assert pair(BEST.name, NEW, STEADY, second) == (NEW, None)
    lone = run(25, 1.9, "c20-2")
    assert change(WORKLOAD, lone, STEADY, ()).kind == "suspected_regression"  # type: ignore[union-attr]
    failed = run(20, 1.9, **changes)
    assert change(WORKLOAD, lone, (*STEADY, failed), ()).kind == "suspected_regression"  # type: ignore[union-attr]
    anew = run(25, name="c20-2", observed=(observed(1.9, proxy="random weights"),))
    assert change(WORKLOAD, NEW, STEADY, (), anew).kind == "suspected_regression"  # type: ignore[union-attr]


# ---------------------------------------------------------------------------------------------------- pairs


def test_pairs_of_two_commits() -> None:
    before = tuple(observed(2.0 + n / 100) for n in range(6))
    after = tuple(observed((2.0 + n / 100) * 0.9) for n in range(6))
    told = against(WORKLOAD, before, after)
    assert told is not None
    assert (told.kind, told.n, told.delta) == ("regression", 6, pytest.approx(-0.1))
    assert against(WORKLOAD, after, before).kind == "improvement"  # type: ignore[union-attr]
    assert against(WORKLOAD, (), after) is None
    broken = (Observed(()), observed(-1.0), *after[2:])
    assert (against(WORKLOAD, before, broken).kind, against(WORKLOAD, before, broken).n) == ("insufficient", 4)  # type: ignore[union-attr]


def test_where_less_is_better_more_is_worse() -> None:
    slower = replace(WORKLOAD, targets=(replace(BEST, op="<=", proof=""), SAME), headline=replace(BEST, op="<=", proof=""),
                     deliverables=tuple(replace(d, by=(SAME,)) if d.by else d for d in WORKLOAD.deliverables))
    assert against(slower, [observed(2.0)] * 6, [observed(2.2)] * 6).kind == "regression"  # type: ignore[union-attr]


def test_a_baseline_has_a_process_for_each_observed() -> None:
    seen = tuple(observed(2.0) for _ in range(6))
    paired = replace(OK.request, vs=7)
    assert run(1, request=paired, observed=seen, baseline=seen, baseline_commit="1" * 40).baseline == seen
    for rule, changes in (
            ("baseline: as many processes as were observed, or none", {"baseline": seen[:1], "baseline_commit": "1" * 40}),
            ("a baseline where --vs asks for one, and only there", {"baseline": ()}),
            ("baseline_commit: the 40 hexadecimal digits", {"baseline_commit": ""})):
        with pytest.raises(SpecError, match=rule):
            run(1, request=paired, observed=seen, **changes)
    with pytest.raises(SpecError, match="only there"):
        run(1, request=replace(OK.request, repeat=6), observed=seen, baseline=seen, baseline_commit="1" * 40)


# ---------------------------------------------------------------------------------------------------- trends


def test_a_trend_shows_every_comparable_run_and_where_a_level_was_accepted() -> None:
    told = trend(WORKLOAD, NEW, (*STEADY, run(11, request=OTHER), run(30)), ("c4",))
    assert told is not None
    assert [(p.run, p.role) for p in told.points] == [
        *((f"c{n}", "before") for n in (1, 2, 3)), *((f"c{n}", "past") for n in range(4, 11)), ("c20", "this")]
    assert (told.starts, told.unit, told.text) == ((3,), "x", BEST.text)
    assert (told.median, told.low, told.high) == (pytest.approx(2.0), pytest.approx(2 / 1.02), pytest.approx(2.04))


def test_a_trend_needs_two_runs_and_a_band_five() -> None:
    assert trend(WORKLOAD, NEW, STEADY[:1], ()) is None
    few = trend(WORKLOAD, NEW, STEADY[:2], ())
    assert few is not None
    assert (len(few.points), few.median, few.low, few.high) == (3, None, None, None)
    assert trend(WORKLOAD, replace(NEW, request=replace(OK.request, smoke=True)), STEADY, ()) is None
    assert trend(WORKLOAD, replace(NEW, observed=(Observed(()),)), STEADY, ()) is None
    assert len(trend(WORKLOAD, run(99), [run(n) for n in range(1, 60)], ()).points) == 41  # type: ignore[union-attr]


def test_a_trend_depends_on_older_runs_alone() -> None:
    second = run(25, 1.9, "c20-2")
    later = (run(21), second, run(30, 3.0))
    assert trend(WORKLOAD, NEW, (*STEADY, *later), ("c30",)) == trend(WORKLOAD, NEW, STEADY, ())


KINDS = ["", "", "", "again", "smoke", "batch", "proxy", "unmeasured"]


@given(st.lists(st.tuples(st.sampled_from([1.9, 2.0, 2.01, 2.3]), st.sampled_from(KINDS), st.booleans()), max_size=45))
@settings(max_examples=60)
def test_bands_are_those_of_the_trends(made: list[tuple[float, str, bool]]) -> None:
    runs: list[Result] = []
    for number, (value, kind, _) in enumerate(made, 1):
        changes: dict[str, Any] = {"smoke": {"request": replace(OK.request, smoke=True)}, "batch": {"request": OTHER},
                                   "proxy": {"observed": (observed(value, "random weights"),)},
                                   "unmeasured": {"observed": (Observed(()),)}}.get(kind, {})
        again = kind == "again" and runs and not runs[-1].run.endswith("-2")
        runs.append(run(number, value, second_name(runs[-1].run) if again else "", **changes))
    accepted = [one.run for one, (_, _, chosen) in zip(runs, made, strict=True) if chosen and len(made) < 30]
    drawn = [(one.run, trend(WORKLOAD, one, runs, accepted)) for one in runs]
    assert bands(WORKLOAD, runs, accepted) == {
        name: pytest.approx((told.low, told.high)) for name, told in drawn if told and told.low}


def test_a_second_run_shows_the_first_beside_it() -> None:
    first, second = run(20, 1.9), run(25, 1.88, "c20-2")
    told = trend(WORKLOAD, second, (*STEADY, first, run(22, 1.0)), ())
    assert told is not None
    assert [(p.run, p.role, p.estimate.value) for p in told.points[-3:]] == [
        ("c10", "past", 2.0), ("c20", "first", 1.9), ("c20-2", "this", 1.88)]
    anew = run(25, name="c20-2", observed=(observed(1.9, proxy="random weights"),))
    lone = trend(WORKLOAD, second, STEADY, ())
    assert lone is not None
    assert [p.role for p in lone.points[-2:]] == ["past", "this"]
    assert trend(WORKLOAD, anew, (*STEADY, first), ()) is None
