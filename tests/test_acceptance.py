"""Verdicts: each rule by which a target is met, missed or not judged, and what a run proves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden import BEST, SAME, WORKLOAD, WORST, stored
from hypothesis import given
from hypothesis import strategies as st

from bot.acceptance import Verdict, earned, hold_back, judge, proven, validity
from workloads.spec import Estimate, Failure, Metric, Observed, Result, Target, Telemetry, Workload


def spread(low: float, value: float, high: float) -> Estimate:
    return Estimate("median", value, low, high, (value,))


def seen(*metrics: Metric, excused: tuple[tuple[str, str], ...] = ()) -> Result:
    return replace(stored("ok"), observed=(Observed(metrics, not_measured=excused),))


def verdict_of(target: Target, result: Result, workload: Workload = WORKLOAD) -> tuple[str, str]:
    verdict = next(v for v in judge(workload, result) if v.target == target)
    return verdict.verdict, verdict.reason


def good(target: Target) -> Metric:
    return target.measured(spread(target.bound, target.bound + 1, target.bound + 2))


def test_a_good_run_meets_every_target_in_their_order():
    verdicts = judge(WORKLOAD, stored("ok"))
    assert verdicts == tuple(Verdict(t, "met", "", stored("ok").observed[0].metric(t.name)) for t in (BEST, WORST, SAME))


@pytest.mark.parametrize(("low", "value", "high", "said"), [
    (1.5, 1.5, 1.5, "met"), (1.5, 1.6, 1.7, "met"), (1.49999, 1.6, 1.7, "missed"), (1.0, 1.4999, 9.9, "missed")])
def test_a_lower_bound_is_judged_by_the_low_end(low: float, value: float, high: float, said: str):
    assert verdict_of(BEST, seen(BEST.measured(spread(low, value, high)), good(WORST), good(SAME))) == (said, "")


@pytest.mark.parametrize(("low", "value", "high", "said"), [
    (12.0, 12.0, 12.0, "met"), (9.0, 11.0, 12.0, "met"), (9.0, 11.0, 12.0001, "missed")])
def test_an_upper_bound_is_judged_by_the_high_end(low: float, value: float, high: float, said: str):
    late = Target("p95", "latency", "<=", 12.0, "ms")
    workload = replace(WORKLOAD, targets=(*WORKLOAD.targets, late))
    assert verdict_of(late, seen(late.measured(spread(low, value, high))), workload) == (said, "")


@given(st.floats(-1e6, 1e6), st.sampled_from([">=", "<="]))
def test_a_bound_exactly_reached_is_met(bound: float, op):
    target = Target("any", "any target", op, bound, "ms")
    whole = replace(WORKLOAD, targets=(*WORKLOAD.targets, target))
    assert verdict_of(target, seen(target.measured(spread(bound, bound, bound))), whole) == ("met", "")


@pytest.mark.parametrize(("kind", "reason"), [
    ("smoke", "smoke run"), ("crashed", "crashed"), ("timeout", "timeout"), ("oom", "out of memory"), ("invalid", "invalid run")])
def test_nothing_of_such_a_run_is_judged_or_proven(kind: str, reason: str):
    result = stored(kind)
    assert hold_back(result) == reason
    verdicts = judge(WORKLOAD, result)
    assert [(v.verdict, v.reason) for v in verdicts] == [("not judged", reason)] * 3
    assert proven(WORKLOAD, result, verdicts) == ()
    assert earned(WORKLOAD, result) == ()


def test_a_failed_run_keeps_what_it_saw():
    result = replace(stored("ok"), status="timeout", failure=Failure("stopped"))
    verdict = judge(WORKLOAD, result)[0]
    assert (verdict.verdict, verdict.reason) == ("not judged", "timeout")
    assert verdict.metric == stored("ok").observed[0].metric("best_speedup")


def test_a_target_nobody_measured_is_not_judged_and_says_why():
    assert verdict_of(SAME, seen(good(BEST), excused=(("parity", "no reference weights"),))) == ("not judged", "no reference weights")
    assert verdict_of(WORST, seen(good(BEST), good(SAME))) == ("not judged", "not measured by this run")


def test_a_proxy_never_scores():
    assert verdict_of(SAME, seen(SAME.measured(spread(1, 1, 1), proxy="random weights"))) == ("not judged", "proxy: random weights")


def test_a_number_in_another_unit_is_not_judged():
    parity = replace(good(SAME), unit="%")
    assert verdict_of(SAME, seen(parity)) == ("not judged", "measured in %, promised in no unit")
    best = replace(good(BEST), unit="")
    assert verdict_of(BEST, seen(best, good(SAME))) == ("not judged", "measured in no unit, promised in x")


def test_a_process_cannot_hide_behind_the_first():
    result = replace(stored("missed"), observed=(
        Observed((good(BEST), good(SAME))), Observed((good(SAME),), not_measured=(("best_speedup", "did not compile"),)),
        Observed((BEST.measured(spread(2, 2, 2), proxy="half of it"), good(SAME)))))
    assert verdict_of(BEST, result) == ("not judged", "did not compile")
    assert verdict_of(BEST, replace(result, observed=(result.observed[0], result.observed[2], result.observed[2]))) == (
        "not judged", "proxy: half of it")


def test_several_processes_are_judged_by_the_worst_end_of_all():
    assert [v.verdict for v in judge(WORKLOAD, stored("missed"))] == ["met", "missed", "met"]


@pytest.mark.parametrize(("parity", "reason"), [
    (SAME.measured(spread(0.9, 0.9, 0.9)), "its proof was missed: argmax agreement with eager, worst of three models"),
    (SAME.measured(spread(1, 1, 1), proxy="a"), "its proof was not judged: argmax agreement with eager, worst of three models")])
def test_without_its_proof_a_target_is_not_judged(parity: Metric, reason: str):
    assert verdict_of(BEST, seen(good(BEST), parity)) == ("not judged", reason)


def test_validity():
    assert validity(stored("ok")) == ("valid", ())
    assert validity(stored("smoke")) == ("unchecked", ())
    assert validity(stored("invalid")) == ("invalid", (
        "hardware thermal slowdown in 3% of samples", "GPU at 89 C", "1 other process on the GPU",
        "SM clock at 1410 of 1980 MHz"))


def test_a_run_without_telemetry_is_judged():
    assert hold_back(replace(stored("ok"), telemetry=None)) == ""


def test_a_deliverable_is_shown_by_targets_met_and_files_brought():
    assert earned(WORKLOAD, stored("ok")) == (
        "target/best_speedup", "target/worst_speedup", "target/parity", "deliverable/0", "deliverable/1")
    assert earned(WORKLOAD, stored("missed")) == ("target/best_speedup", "target/parity", "deliverable/1")
    assert earned(WORKLOAD, replace(stored("missed"), files=())) == ("target/best_speedup", "target/parity")
    assert proven(WORKLOAD, stored("missed"), judge(WORKLOAD, stored("missed"))) == (WORKLOAD.deliverables[1],)


def test_thresholds_of_validity_are_about_more_than_them():
    calm = stored("ok").telemetry
    assert isinstance(calm, Telemetry)
    edge = replace(calm, temperature_highest=87, throttled=(("software thermal slowdown", 0.05),), sm_clock_median=1485,
                   sm_clock_lowest=1485)
    assert validity(replace(stored("ok"), telemetry=edge)) == ("valid", ())


def test_a_batch_size_of_the_commenters_own_is_an_experiment():
    chosen = replace(stored("ok"), request=replace(stored("ok").request, batch=64))
    assert hold_back(chosen) == "batch size of its own"
    assert {(v.verdict, v.reason) for v in judge(WORKLOAD, chosen)} == {("not judged", "batch size of its own")}
    assert earned(WORKLOAD, chosen) == ()
    assert hold_back(replace(chosen, telemetry=stored("invalid").telemetry)) == "invalid run"
