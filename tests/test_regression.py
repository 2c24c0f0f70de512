"""Verdicts against history: known answers, properties that hold for any history, and Student's t against published tables."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.regression import FLOOR, MOST_RUNS, Better, Change, classify, expected, paired, t_quantile

ROOT = Path(__file__).parent.parent
STEADY = [100.0] * 10
# A spread of about 1%: the limit is near 3.5%.
NOISY = [100.0, 101.0, 99.0, 100.5, 98.8, 101.4, 99.6, 100.2, 99.1, 100.9]

values = st.floats(0.1, 1e4)
near = st.floats(0.8, 1.25)
histories = st.lists(st.floats(0.9, 1.12), min_size=5, max_size=40)
directions: st.SearchStrategy[Better] = st.sampled_from(("lower", "higher"))

# From the best verdict to the worst. A run that is cleared is one in which nothing was found.
RANK = {"improvement_confirmed": 0, "improvement_suspected": 1, "unchanged": 2, "cleared": 2, "suspected_regression": 3,
        "confirmed_regression": 4}


# ---------------------------------------------------------------------------------------------------- known answers


@given(st.lists(near, max_size=40), near)
def test_what_is_expected_is_what_leaves_a_run_unchanged(history: list[float], value: float) -> None:
    told = expected(history)
    assert (told is None) == (len(history) < 5)
    if told:
        low, median, high = told
        assert low < median < high
        if min(abs(value / low - 1), abs(value / high - 1)) > 1e-6:
            assert (classify(history, value).kind == "unchanged") == (low < value < high)


@pytest.mark.parametrize(("value", "confirm", "kind"), [
    (100.0, None, "unchanged"), (101.9, None, "unchanged"), (98.1, None, "unchanged"),
    (102.1, None, "suspected_regression"), (97.9, None, "improvement_suspected"),
    (105.0, 104.0, "confirmed_regression"), (95.0, 94.0, "improvement_confirmed"),
    (105.0, 100.0, "cleared"), (95.0, 100.0, "cleared"), (105.0, 95.0, "cleared"), (95.0, 105.0, "cleared"),
    (100.0, 105.0, "unchanged"), (100.0, 100.0, "unchanged")])
def test_a_steady_history(value: float, confirm: float | None, kind: str) -> None:
    told = classify(STEADY, value, confirm=confirm)
    assert (told.kind, told.n) == (kind, 10)
    assert told.limit == pytest.approx(FLOOR)
    assert told.delta == pytest.approx(value / 100 - 1)


@pytest.mark.parametrize(("value", "confirm", "kind"), [
    (95.0, None, "suspected_regression"), (105.0, None, "improvement_suspected"), (95.0, 94.0, "confirmed_regression"),
    (105.0, 106.0, "improvement_confirmed"), (95.0, 101.0, "cleared"), (100.0, 95.0, "unchanged")])
def test_where_more_is_better(value: float, confirm: float | None, kind: str) -> None:
    told = classify(STEADY, value, confirm=confirm, better="higher")
    assert (told.kind, told.delta) == (kind, pytest.approx(value / 100 - 1))


def test_exactly_at_the_limit_is_within_it() -> None:
    assert classify(STEADY, 102.0).kind == classify(STEADY, 100 / 1.02).kind == "unchanged"
    assert classify(STEADY, 102.0 * (1 + 1e-7)).kind == "suspected_regression"
    assert classify([0.1] * 7, 0.1 * 1.05, floor=0.05).kind == "unchanged"
    limit = classify(NOISY, 100.0).limit
    middle = math.exp(statistics.median(map(math.log, NOISY)))
    assert classify(NOISY, middle * (1 + limit)).kind == "unchanged"
    assert classify(NOISY, middle * (1 + limit) * 1.0001).kind == "suspected_regression"


def test_the_limit_by_hand() -> None:
    """The formula of the docstring once more, with the spread spelled out as Mosteller & Tukey have it."""
    logs = [math.log(v) for v in NOISY]
    m = statistics.median(logs)
    mad = statistics.median(abs(x - m) for x in logs)
    u = [(x - m) / (9 * mad) for x in logs]
    assert max(map(abs, u)) < 1
    top = math.sqrt(len(u) * sum((x - m) ** 2 * (1 - k * k) ** 4 for x, k in zip(logs, u, strict=True)))
    spread = top / abs(sum((1 - k * k) * (1 - 5 * k * k) for k in u))
    assert spread == pytest.approx(statistics.stdev(logs), rel=0.1)
    expected = math.exp(2.8214 * spread * math.sqrt(1 + math.pi / 20)) - 1
    told = classify(NOISY, 102.0)
    assert told == Change("unchanged", pytest.approx(expected, rel=1e-4), pytest.approx(102 / math.sqrt(100.0 * 100.2) - 1), 10)
    assert told.limit_below == pytest.approx(1 - 1 / (1 + told.limit))


def test_too_few_runs_say_nothing() -> None:
    assert classify([], 5.0) == Change("insufficient", math.inf, 0.0, 0)
    assert classify([4.0], 5.0) == Change("insufficient", math.inf, pytest.approx(0.25), 1)
    assert classify([4.0] * 4, 500.0, confirm=500.0) == Change("insufficient", math.inf, pytest.approx(124), 4)
    assert classify([4.0] * 4, 4.0).limit_below == 1.0
    assert classify([4.0] * 5, 4.0).kind == "unchanged"


def test_the_last_thirty_count() -> None:
    old = [1.0, 900.0] * 20
    assert classify([*old, *[100.0] * MOST_RUNS], 101.0) == classify([100.0] * MOST_RUNS, 101.0)
    assert classify([*old, *[100.0] * MOST_RUNS], 101.0).n == 30


def test_outliers_in_history_hardly_move_the_limit() -> None:
    spoilt = [*NOISY[:8], 150.0, 180.0]
    assert classify(spoilt, 100.0).limit < 2 * classify(NOISY, 100.0).limit
    assert classify(spoilt, 110.0).kind == "suspected_regression"
    assert classify([*[100.0] * 6, 103.0, 104.0, 97.0], 105.0).kind == "suspected_regression"  # the MAD is 0


def test_the_floor_is_a_choice() -> None:
    assert classify(STEADY, 103.0, floor=0.05).kind == "unchanged"
    assert classify(STEADY, 101.5, floor=0.01).kind == "suspected_regression"
    assert classify(STEADY, 100.0, floor=1e-9).limit == pytest.approx(2.8214 * 0.002 * math.sqrt(1 + math.pi / 20), rel=0.01)


BAD = (0.0, -1.0, math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_measurement_is_refused(bad: float) -> None:
    for call in (lambda: classify([*STEADY, bad], 1.0), lambda: classify([bad, *STEADY * 5], 1.0), lambda: classify([1.0, bad], 1.0)):
        with pytest.raises(ValueError, match="history: a run's median is a positive, finite number, not"):
            call()
    with pytest.raises(ValueError, match="value: a run's median"):
        classify([], bad)
    with pytest.raises(ValueError, match="confirm: a run's median"):
        classify(STEADY, 1.0, confirm=bad)
    with pytest.raises(ValueError, match="baseline: a run's median"):
        paired([bad], [1.0])
    with pytest.raises(ValueError, match="values: a run's median"):
        paired([1.0], [bad])
    for floor in (lambda: classify(STEADY, 1.0, floor=bad), lambda: paired(STEADY, STEADY, floor=bad)):
        with pytest.raises(ValueError, match=r"floor: a share above 0, such as 0\.02, not"):
            floor()


def test_a_direction_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="better: lower or higher, not 'faster'"):
        classify(STEADY, 1.0, better="faster")  # type: ignore[arg-type]


def test_the_ends_of_what_a_float_holds() -> None:
    told = classify([5e-324] * 5, 1.7e308, confirm=1.7e308)
    assert (told.kind, math.isfinite(told.delta)) == ("confirmed_regression", True)
    assert classify([1.7e308] * 5, 5e-324).delta == -1.0
    assert math.isfinite(classify([1e-300, 1e300] * 3, 1.0).limit)


# ---------------------------------------------------------------------------------------------------- properties


@given(histories, near, st.none() | near, directions, st.floats(1e-6, 1e6))
def test_the_unit_does_not_matter(history: list[float], value: float, confirm: float | None, better: Better, unit: float) -> None:
    one = classify(history, value, confirm=confirm, better=better)
    other = classify([v * unit for v in history], value * unit, confirm=confirm and confirm * unit, better=better)
    assert other == Change(one.kind, pytest.approx(one.limit, rel=1e-6), pytest.approx(one.delta, rel=1e-6, abs=1e-9), one.n)


@given(histories, near, near, directions)
def test_the_order_of_the_two_runs_does_not_matter(history: list[float], one: float, two: float, better: Better) -> None:
    kinds = {classify(history, one, confirm=two, better=better).kind, classify(history, two, confirm=one, better=better).kind}
    assert len(kinds) == 1 or kinds == {"cleared", "unchanged"}
    assert all("suspected" not in kind for kind in kinds)


@given(histories, near, near, st.none() | near)
def test_a_worse_value_never_has_a_better_verdict(history: list[float], one: float, two: float, confirm: float | None) -> None:
    lower, higher = sorted((one, two))
    assert RANK[classify(history, lower, confirm=confirm).kind] <= RANK[classify(history, higher, confirm=confirm).kind]
    assert (RANK[classify(history, higher, confirm=confirm, better="higher").kind]
            <= RANK[classify(history, lower, confirm=confirm, better="higher").kind])


@given(histories, near, near, near)
def test_a_worse_second_run_never_has_a_better_verdict(history: list[float], value: float, one: float, two: float) -> None:
    lower, higher = sorted((one, two))
    assert RANK[classify(history, value, confirm=lower).kind] <= RANK[classify(history, value, confirm=higher).kind]


@given(histories, near, st.none() | near)
def test_a_rate_mirrors_a_time(history: list[float], value: float, confirm: float | None) -> None:
    time = classify(history, value, confirm=confirm)
    rate = classify([1 / v for v in history], 1 / value, confirm=confirm and 1 / confirm, better="higher")
    assert (rate.kind, rate.n) == (time.kind, time.n)
    assert rate.limit == pytest.approx(time.limit, rel=1e-6)
    assert (1 + rate.delta) * (1 + time.delta) == pytest.approx(1)


@given(histories, near, st.none() | near)
def test_the_direction_only_names_the_side(history: list[float], value: float, confirm: float | None) -> None:
    swapped = {"suspected_regression": "improvement_suspected", "confirmed_regression": "improvement_confirmed"}
    swapped |= {improved: worse for worse, improved in swapped.items()}
    lower, higher = (classify(history, value, confirm=confirm, better=better) for better in ("lower", "higher"))
    assert (higher.kind, higher.limit, higher.delta) == (swapped.get(lower.kind, lower.kind), lower.limit, lower.delta)


@given(histories, near, st.floats(0.001, 0.5))
def test_the_verdict_follows_from_delta_and_limit(history: list[float], value: float, floor: float) -> None:
    told = classify(history, value, floor=floor)
    assert told.limit >= floor
    assert told.n == min(len(history), MOST_RUNS)
    if told.kind == "unchanged":
        assert -told.limit_below - 1e-8 <= told.delta <= told.limit + 1e-8
    else:
        assert told.delta > told.limit - 1e-8 or told.delta < -told.limit_below + 1e-8
    assert classify(history, value, floor=floor, confirm=value).kind in ("unchanged", "confirmed_regression", "improvement_confirmed")


@given(histories, near, st.randoms(use_true_random=False))
def test_of_the_last_thirty_the_order_does_not_matter(history: list[float], value: float, order: random.Random) -> None:
    recent = history[-MOST_RUNS:]
    assert classify(order.sample(recent, len(recent)), value) == classify(history, value)


@given(st.floats(0.9, 1.1), st.integers(5, 40), near)
def test_runs_that_all_agree_leave_the_floor(level: float, count: int, value: float) -> None:
    told = classify([level] * count, level * value)
    assert told.limit == pytest.approx(FLOOR)
    assert (told.kind == "unchanged") == (-0.02 / 1.02 - 1e-9 <= value - 1 <= 0.02 + 1e-9)


SPEED = """
import random, sys, time
sys.path.insert(0, sys.argv[1])
from bot.regression import classify
order = random.Random(0)
made = [[order.gauss(100, 1) for _ in range(30)] for _ in range(10_000)]
start = time.process_time()
kinds = {classify(history, 103.0).kind for history in made}
taken = time.process_time() - start
print(sorted(kinds), taken, sorted({"numpy", "scipy", "matplotlib", "click"} & set(sys.modules)))
"""


def test_ten_thousand_verdicts_take_less_than_a_second_and_no_library() -> None:
    """In a Python of its own without site-packages, so that neither a library nor the coverage of this test counts."""
    done = [subprocess.run([sys.executable, "-I", "-S", "-c", SPEED, str(ROOT)], capture_output=True, text=True, check=True).stdout
            for _ in range(2)]
    kinds, modules = "['suspected_regression', 'unchanged']", "[]"
    assert all(text.startswith(f"{kinds} ") and text.endswith(f" {modules}\n") for text in done)
    assert min(float(text.removeprefix(kinds).removesuffix(f"{modules}\n")) for text in done) < 1


# ---------------------------------------------------------------------------------------------------- pairs

FAST = [100.0, 101.0, 99.5, 100.4, 99.2, 100.8]


@pytest.mark.parametrize(("factor", "better", "kind"), [
    (1.05, "lower", "regression"), (1.05, "higher", "improvement"), (0.95, "lower", "improvement"),
    (0.95, "higher", "regression"), (1.019, "lower", "no difference"), (1.0, "lower", "no difference"), (1.02, "lower", "no difference"),
    (0.982, "higher", "no difference")])
def test_pairs_that_agree(factor: float, better: Better, kind: str) -> None:
    told = paired(FAST, [v * factor for v in FAST], better=better)
    assert (told.kind, told.n) == (kind, 6)
    assert (told.delta, told.low, told.high) == (pytest.approx(factor - 1),) * 3


def test_the_paired_interval_by_hand() -> None:
    new = [105.0, 104.0, 106.0, 103.0, 105.5, 104.5]
    logs = [math.log(b / a) for a, b in zip(FAST, new, strict=True)]
    reach = 4.0321 * statistics.stdev(logs) / math.sqrt(6)
    told = paired(FAST, new)
    mean = statistics.fmean(logs)
    assert (told.delta, told.low, told.high) == tuple(pytest.approx(math.expm1(v), rel=1e-4) for v in (mean, mean - reach, mean + reach))
    assert told.kind == "regression"
    assert told.low > 0


def test_an_interval_that_holds_nothing_apart_is_no_difference() -> None:
    wild = paired(FAST, [v * f for v, f in zip(FAST, (1.3, 0.9, 1.25, 1.0, 1.2, 1.1), strict=True)])
    assert wild.kind == "no difference"
    assert wild.low < 0 < 0.02 < wild.delta < wild.high


def test_too_few_pairs() -> None:
    assert paired([], []) == type(paired([], []))("insufficient", 0.0, -1.0, math.inf, 0)
    one = paired([2.0], [3.0])
    assert (one.kind, one.delta, one.low, one.high, one.n) == ("insufficient", pytest.approx(0.5), -1.0, math.inf, 1)
    five = paired(FAST[:5], [v * 2 for v in FAST[:5]])
    assert (five.kind, five.low) == ("insufficient", pytest.approx(1.0))


def test_pairs_are_of_two() -> None:
    with pytest.raises(ValueError, match="6 of the baseline and 5 of the new are not pairs"):
        paired(FAST, FAST[:5])


@given(st.lists(st.tuples(values, near), min_size=6, max_size=12), st.floats(1e-3, 1e3), directions)
def test_turning_the_pairs_over_turns_the_verdict_over(pairs: list[tuple[float, float]], unit: float, better: Better) -> None:
    before, after = [a for a, _ in pairs], [a * f for a, f in pairs]
    told, back = paired(before, after, better=better), paired(after, before, better=better)
    over = {"regression": "improvement", "improvement": "regression"}
    assert back.kind == over.get(told.kind, told.kind)
    assert (1 + back.delta) * (1 + told.delta) == pytest.approx(1)
    assert told.low <= told.delta <= told.high
    rescaled = paired([v * unit for v in before], [v * unit for v in after], better=better)
    assert (rescaled.kind, rescaled.delta) == (told.kind, pytest.approx(told.delta, abs=1e-9))


# ---------------------------------------------------------------------------------------------------- Student's t

# One-sided quantiles as published: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
TABLE = {
    1: (3.078, 6.314, 12.706, 31.821), 2: (1.886, 2.920, 4.303, 6.965), 3: (1.638, 2.353, 3.182, 4.541), 4: (1.533, 2.132, 2.776, 3.747),
    5: (1.476, 2.015, 2.571, 3.365), 6: (1.440, 1.943, 2.447, 3.143), 7: (1.415, 1.895, 2.365, 2.998), 9: (1.383, 1.833, 2.262, 2.821),
    10: (1.372, 1.812, 2.228, 2.764), 19: (1.328, 1.729, 2.093, 2.539), 29: (1.311, 1.699, 2.045, 2.462), 30: (1.310, 1.697, 2.042, 2.457),
    100: (1.290, 1.660, 1.984, 2.364)}


@pytest.mark.parametrize("df", TABLE)
def test_t_is_as_published(df: int) -> None:
    assert tuple(round(t_quantile(p, df), 3) for p in (0.90, 0.95, 0.975, 0.99)) == TABLE[df]


def test_t_in_closed_form() -> None:
    for p in (0.6, 0.9, 0.99, 0.995, 0.9999):
        assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)  # Cauchy
        assert t_quantile(p, 2) == pytest.approx((2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p))), rel=1e-9)
    assert t_quantile(0.5, 7) == pytest.approx(0, abs=1e-12)
    assert t_quantile(0.995, 2000) == pytest.approx(statistics.NormalDist().inv_cdf(0.995), rel=2e-3)


@pytest.mark.parametrize(("p", "df"), [(0.4, 5), (1.0, 5), (math.nan, 5), (0.9, 0)])
def test_t_of_nothing_is_refused(p: float, df: int) -> None:
    with pytest.raises(ValueError, match="t: p from"):
        t_quantile(p, df)
