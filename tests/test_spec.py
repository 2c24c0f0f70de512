"""The contract: what holds is read back as it was, and every way to lie is refused where it is built or read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy
import pytest
from golden import BEST, KINDS, SAME, WORKLOAD, WORST, stored
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from strategies import estimates, requests, results

from workloads.plan import planned
from workloads.spec import (
    Chart,
    Column,
    Deliverable,
    Estimate,
    Failure,
    Machine,
    Metric,
    Observed,
    Price,
    Request,
    Result,
    Retry,
    SpecError,
    Table,
    Target,
    Telemetry,
    Workload,
    cautions,
    check_kept,
    check_text,
    discover,
    dumps,
    faults,
    loads,
    passing,
    percentile,
    plain_text,
    pooled,
    price,
)

ACTIVE = (
    "`x`",
    "a|b",
    "<b>",
    "[a](b)",
    "@me",
    "#1",
    "a\nb",
    "a\rb",
    "*x*",
    "~x~",
    "$x$",
    "!x",
    "a\\b",
    "https://x",
    "www.x.org",
    "GH-1",
    "é",
    "",
    "x" * 161,
)


def plain(kind: str = "ok") -> dict[str, Any]:
    """A stored run as the JSON a liar may change."""
    read = json.loads(dumps(stored(kind)))
    assert isinstance(read, dict)
    return read


def exact(value: float) -> Estimate:
    return Estimate("exact", value, value, value, (value,))


# ---------------------------------------------------------------------------------------------------- round trips


@given(results())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_what_is_written_is_read_back(result: Result):
    assert loads(Result, dumps(result)) == result


@given(requests)
def test_a_request_is_one_line(request_: Request):
    line = dumps(request_)
    assert "\n" not in line and " " not in line
    assert loads(Request, line) == request_


@pytest.mark.parametrize("kind", KINDS)
def test_stored_runs_are_written_the_same_way(kind: str):
    result = stored(kind)
    assert dumps(loads(Result, dumps(result).encode())) == dumps(result)
    assert dumps(result).endswith("}\n")


def test_samples_take_one_line():
    assert '"samples": [1.0, 2.0, 4.0]' in dumps(Observed((BEST.measured(Estimate("median", 2, 1, 4, (1.0, 2.0, 4.0))),)))


def test_text_with_brackets_survives_the_compact_form():
    failure = Failure('a [ \n 1,\n 2 ] "b" {', "[\n 1,\n 2\n]")
    result = replace(stored("timeout"), failure=failure)
    assert loads(Result, dumps(result)).failure == failure


# ---------------------------------------------------------------------------------------------------- broken and forged JSON


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        ("9" * 5000, "not JSON"),
        ("[]", "an object is needed"),
        ("null", "an object is needed"),
        ('{"a": NaN}', "NaN is not a measurement"),
        ('{"a": -Infinity}', "-Infinity is not a measurement"),
        ('{"run": "c1", "run": "c2"}', "run given twice"),
        ('{"run": "c1", "request": {"command": "bench", "command": "bench"}}', "command given twice"),
        ('{"evil": 1, "evil": 2}', "evil given twice"),
        ('{"evil": 1, "run": 2}', "Result: 1 unknown fields"),
        ('{"run": "c1"}'.encode("utf-16"), "not JSON"),
        ("{}", "run, request, commit, started, duration_s, status, machine missing"),
    ],
)
def test_what_is_no_result_is_refused(text: str | bytes, rule: str):
    with pytest.raises(SpecError, match=rule):
        loads(Result, text)


def test_a_number_beyond_any_float_is_refused():
    """JSON reads it as infinity, which no NaN check of the parser sees."""
    text = dumps(stored("ok"))
    first = re.search(r'"samples": \[([^,\]]+)', text)
    assert first
    with pytest.raises(SpecError, match=r"samples\[0\]: too large"):
        loads(Result, text[:first.start(1)] + "1e999" + text[first.end(1):])


Change = Callable[[dict[str, Any]], object]
LIES: list[tuple[str, Change]] = [
    ("unknown fields", lambda r: r.update(evil=1)),
    ("unknown fields", lambda r: r["observed"][0]["metrics"][0]["estimate"].update(verdict="met")),
    ("machine missing", lambda r: r.pop("machine")),
    ("schema 2 is not 1", lambda r: r.update(schema=2)),
    ("int is needed", lambda r: r.update(schema=True)),
    ("too large", lambda r: r["machine"].update(cores=10**40)),
    ("too large", lambda r: r.update(duration_s=1e308)),
    ("float is needed", lambda r: r.update(duration_s="12")),
    ("float is needed", lambda r: r.update(duration_s=True)),
    ("duration_s: seconds", lambda r: r.update(duration_s=-1)),
    ("str is needed", lambda r: r.update(run=1)),
    ("run: c<comment id>", lambda r: r.update(run="c0")),
    ("run: c<comment id>", lambda r: r.update(run="../c1")),
    ("run: c<comment id>", lambda r: r.update(run="c1-3")),
    ("baseline: as many processes", lambda r: r.update(baseline=r["observed"] * 2)),
    ("table trend: trend.png is the picture", lambda r: r["observed"][0]["tables"][0].update(name="trend")),
    ("commit: 40", lambda r: r.update(commit="main")),
    ("started: ", lambda r: r.update(started="yesterday")),
    ("one of 'ok'", lambda r: r.update(status="met")),
    ("a result is of one week", lambda r: r["request"].update(week="all")),
    ("a result is of one week", lambda r: r["request"].update(command="compare")),
    ("a value of another type", lambda r: r["request"].update(week=1)),
    ("one observation for each process", lambda r: r["request"].update(repeat=2)),
    ("one observation for each process", lambda r: r["observed"].append(r["observed"][0])),
    ("a failure, and only a failure", lambda r: r.update(failure={"message": "x"})),
    ("a failure, and only a failure", lambda r: r.update(status="crashed")),
    ("files: plain lower-case names", lambda r: r.update(files=["../../etc/passwd"])),
    ("files: plain lower-case names", lambda r: r.update(files=[".github"])),
    ("trace.json.gz given twice", lambda r: r["files"].append("trace.json.gz")),
    ("a list is needed", lambda r: r.update(files="trace.json.gz")),
    ("2 items are needed", lambda r: r["machine"]["packages"][0].append("x")),
    (r"Result.machine.packages\[0\]: a list is needed", lambda r: r["machine"]["packages"].__setitem__(0, "ab")),
    (r"estimate.samples\[0\]: float is needed", lambda r: r["observed"][0]["metrics"][0]["estimate"]["samples"].__setitem__(0, True)),
    (r"estimate.samples\[0\]: too large", lambda r: r["observed"][0]["metrics"][0]["estimate"]["samples"].__setitem__(0, 10**400)),
    (r"estimate.samples: a list is needed", lambda r: r["observed"][0]["metrics"][0]["estimate"].update(samples="1")),
    ("best_speedup given twice", lambda r: r["observed"][0]["metrics"].append(r["observed"][0]["metrics"][0])),
    ("speedup given twice", lambda r: r["observed"][0]["tables"].append(r["observed"][0]["tables"][0])),
    ("one of", lambda r: r["observed"][0]["metrics"][0].update(unit="parsecs")),
    ("one of", lambda r: r["observed"][0]["metrics"][0]["estimate"].update(kind="best")),
    ("does not follow from its samples", lambda r: r["observed"][0]["metrics"][0]["estimate"].update(value=1.86)),
    ("lies inside its interval", lambda r: r["observed"][0]["metrics"][0]["estimate"].update(low=1.86)),
    ("a ratio, and only a ratio", lambda r: r["observed"][0]["metrics"][0]["estimate"].update(baseline=[])),
    ("needs raw samples", lambda r: r["observed"][0]["metrics"][0]["estimate"].update(samples=[])),
    ("metric name", lambda r: r["observed"][0]["metrics"][0].update(name="Best Speedup")),
    ("a row has 5 cells", lambda r: r["observed"][0]["tables"][0]["rows"][0].pop()),
    ("a value of another type", lambda r: r["observed"][0]["tables"][0]["rows"].append([True, 1, 1, 1, 1])),
    ("too large", lambda r: r["observed"][0]["tables"][0]["rows"].append(["x", 10**400, 1, 1, 1])),
    ("a chart names columns", lambda r: r["observed"][0]["tables"][0]["chart"].update(y="money")),
    ("a chart names columns", lambda r: r["observed"][0]["tables"][0]["chart"].update(x="")),
    ("an object is needed", lambda r: r["observed"].__setitem__(0, [])),
    ("a value of another type", lambda r: r.update(telemetry=[])),
]


@pytest.mark.parametrize(("rule", "lie"), LIES, ids=[f"{i}-{rule}" for i, (rule, _) in enumerate(LIES)])
def test_a_lie_is_refused(rule: str, lie: Change):
    forged = plain()
    lie(forged)
    with pytest.raises(SpecError, match=rule):
        loads(Result, json.dumps(forged))


@pytest.mark.parametrize("text", ACTIVE)
@pytest.mark.parametrize(
    "place",
    [
        lambda r, t: r["observed"][0]["metrics"][0].update(text=t),
        lambda r, t: r["observed"][0]["tables"][0].update(title=t),
        lambda r, t: r["observed"][0]["tables"][0]["columns"][0].update(name=t),
        lambda r, t: r["observed"][0]["tables"][0]["rows"][0].__setitem__(0, t),
        lambda r, t: r["observed"][0]["notes"].append(t),
        lambda r, t: r["observed"][0]["not_measured"].append(["a", t]),
    ],
)
def test_text_that_could_act_is_refused_everywhere(text: str, place: Callable[[dict[str, Any], str], object]):
    forged = plain()
    place(forged, text)
    with pytest.raises(SpecError):
        loads(Result, json.dumps(forged))


@pytest.mark.parametrize("text", [t for t in ACTIVE if t])
@pytest.mark.parametrize(
    "place",
    [
        lambda r, t: r["observed"][0]["metrics"][0].update(detail=t),
        lambda r, t: r["observed"][0]["metrics"][0].update(proxy=t),
        lambda r, t: r["machine"].update(gpu=t),
        lambda r, t: r["machine"]["packages"][0].__setitem__(1, t),
        lambda r, t: r["telemetry"]["throttled"][0].__setitem__(0, t),
    ],
)
def test_text_that_may_be_empty_is_held_to_the_same(text: str, place: Callable[[dict[str, Any], str], object]):
    forged = plain()
    place(forged, text)
    with pytest.raises(SpecError):
        loads(Result, json.dumps(forged))


# ---------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("kind", "samples", "baseline", "value"),
    [
        ("median", (3.0, 1.0, 2.0, 10.0), (), 2.5),
        ("mean", (1.0, 2.0, 6.0), (), 3.0),
        ("geomean", (0.5, 2.0, 8.0), (), 2.0),
        ("ratio", (1.0, 2.0, 3.0), (5.0, 3.0, 9.0), 2.5),
        ("share", (3.0, 4.0), (), 0.75),
        ("p50", (1.0, 2.0, 3.0, 4.0), (), 2.5),
        ("p95", tuple(map(float, range(101))), (), 95.0),
        ("p99", (0.0, 1.0), (), 0.99),
        ("exact", (7.0,), (), 7.0),
    ],
)
def test_a_value_follows_from_its_samples(kind: Any, samples: tuple[float, ...], baseline: tuple[float, ...], value: float):
    assert Estimate(kind, value, value, value, samples, baseline).derived() == pytest.approx(value, rel=1e-12)
    with pytest.raises(SpecError, match="does not follow from its samples"):
        Estimate(kind, value * 1.001, value, value * 2, samples, baseline)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 100))
def test_percentile_is_numpys(samples: list[float], percent: float):
    assert percentile(samples, percent) == pytest.approx(float(numpy.percentile(samples, percent)), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "samples", "baseline", "rule"),
    [
        ("share", (5.0, 4.0), (), "hits and trials"),
        ("share", (-1.0, 4.0), (), "hits and trials"),
        ("share", (0.0, 0.0), (), "hits and trials"),
        ("share", (1.0,), (), "hits and trials"),
        ("exact", (1.0, 1.0), (), "one sample"),
        ("ratio", (0.0,), (1.0,), "positive samples"),
        ("geomean", (1.0, 0.0), (), "positive samples"),
        ("median", (float("nan"),), (), "NaN and infinity"),
        ("ratio", (1.0,), (float("inf"),), "NaN and infinity"),
        ("mean", (1.0,), (1.0,), "only a ratio"),
    ],
)
def test_samples_that_cannot_be(kind: Any, samples: tuple[float, ...], baseline: tuple[float, ...], rule: str):
    with pytest.raises(SpecError, match=rule):
        Estimate(kind, 1.0, 1.0, 1.0, samples, baseline)


def test_pooled_is_the_median_process_with_every_interval():
    several = [Estimate("median", v, v - 0.5, v + 1, (v,)) for v in (2.0, 9.0, 4.0)]
    assert pooled(several) == Estimate("median", 4.0, 1.5, 10.0, (2.0, 9.0, 4.0))
    assert pooled(several[:1]) is several[0]


@given(st.lists(estimates(), min_size=1, max_size=5))
def test_pooled_covers_every_process(several: list[Estimate]):
    whole = pooled(several)
    assert all(whole.low <= e.low <= e.high <= whole.high for e in several)


def test_a_result_pools_each_metric_and_keeps_the_first_tables():
    result = stored("missed")
    whole = result.pooled()
    assert whole is not None
    assert whole.tables == result.observed[0].tables
    one = [o.metric("worst_speedup") for o in result.observed]
    worst = whole.metric("worst_speedup")
    assert worst is not None and worst.estimate.low == min(m.estimate.low for m in one if m)
    assert stored("oom").pooled() is None


# ---------------------------------------------------------------------------------------------------- the promise


def test_a_target_writes_its_metric():
    assert BEST.measured(exact(2), detail="UNet") == Metric("best_speedup", BEST.text, "x", "higher", exact(2), "UNet")
    assert Target("t", "time", "<=", 1, "ms").measured(exact(2), proxy="cpu") == Metric("t", "time", "ms", "lower", exact(2), "", "cpu")


def promise(**changes: Any) -> Workload:
    return replace(WORKLOAD, **changes)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"targets": (BEST, BEST, SAME)}, "best_speedup given twice"),
        ({"headline": Target("x", "x", ">=", 1, "x")}, "the headline is one of the targets"),
        ({"targets": (BEST,)}, "a proof names a target of this week"),
        ({"targets": (BEST, WORST, replace(SAME, proof="best_speedup"))}, "stands on its own"),
        ({"deliverables": WORKLOAD.deliverables[:1]}, "in its words"),
        ({"plan": planned(2)}, "in its words"),
    ],
)
def test_a_promise_holds_together(changes: dict[str, Any], rule: str):
    with pytest.raises(SpecError, match=rule):
        promise(**changes)


def test_a_deliverable_says_what_proves_it():
    with pytest.raises(SpecError, match="say what proves it"):
        Deliverable("a demo")


def test_names_of_a_week():
    assert (WORKLOAD.key, WORKLOAD.folder, WORKLOAD.files) == ("week01", "week01_compile", ("trace.json.gz",))
    assert (WORKLOAD.target("parity"), WORKLOAD.target("other")) == (SAME, None)


def test_discover_finds_every_week_in_order():
    found = discover()
    assert list(found) == sorted(found)
    assert found["week01"].plan == planned(1)


@pytest.mark.parametrize(
    ("observed", "rule"),
    [
        (Observed(()), "target best_speedup must be measured"),
        (
            Observed((BEST.measured(exact(2)), WORST.measured(exact(2)), SAME.measured(exact(1))), not_measured=(("parity", "no"),)),
            "and not both",
        ),
        (
            Observed((replace(BEST.measured(exact(2)), unit="s"), WORST.measured(exact(2)), SAME.measured(exact(1)))),
            "is in s, the target in x",
        ),
        (
            Observed((BEST.measured(exact(2)), WORST.measured(exact(2)), replace(SAME.measured(exact(1)), unit="x"))),
            "is in x, the target in no unit",
        ),
        (
            Observed((replace(BEST.measured(exact(2)), text="other"), WORST.measured(exact(2)), SAME.measured(exact(1)))),
            "best_speedup was renamed",
        ),
        (
            Observed((replace(BEST.measured(exact(2)), better="lower"), WORST.measured(exact(2)), SAME.measured(exact(1)))),
            "best_speedup was renamed",
        ),
        (
            Observed((BEST.measured(exact(2)), WORST.measured(exact(2)), SAME.measured(exact(1))), not_measured=(("speed", "no"),)),
            "speed is no target",
        ),
    ],
)
def test_a_promise_not_kept(observed: Observed, rule: str):
    with pytest.raises(SpecError, match=rule):
        check_kept(WORKLOAD, observed)


def test_a_promise_kept():
    check_kept(WORKLOAD, stored("ok").observed[0])
    check_kept(
        WORKLOAD, Observed((BEST.measured(exact(2), detail="UNet"), WORST.measured(exact(2))), not_measured=(("parity", "no weights"),))
    )


# ---------------------------------------------------------------------------------------------------- the other values


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"week": "week17"}, "week: "),
        ({"week": "week1"}, "week: "),
        ({"batch": 0}, "batch: "),
        ({"batch": 10_000}, "batch: "),
        ({"gpus": 9}, "gpus: "),
        ({"repeat": 0}, "repeat: "),
        ({"vs": 0}, "a run is"),
        ({"runs": (10**19,)}, "a run is"),
    ],
)
def test_a_request_out_of_bounds(changes: dict[str, Any], rule: str):
    with pytest.raises(SpecError, match=rule):
        replace(Request("bench", "week01"), **changes)


def test_a_table_is_read_by_column():
    table = Table("t", "t", (Column("a"), Column("b", "ms")), ((1, 2.0), (3, None)), Chart("lines", "a", "b"))
    assert table.column("b") == (2.0, None)
    with pytest.raises(SpecError, match="NaN and infinity"):
        replace(table, rows=((1, float("nan")),))
    with pytest.raises(SpecError, match="a given twice"):
        replace(table, columns=(Column("a"), Column("a")))
    with pytest.raises(SpecError, match="table name"):
        replace(table, name="../t")


@pytest.mark.parametrize("failure", [("", ""), ("m" * 401, ""), ("m", "x" * 4001)])
def test_a_failure_has_bounds(failure: tuple[str, str]):
    with pytest.raises(SpecError, match="failure: "):
        Failure(*failure)


CALM = Telemetry(0.5, 100, 1980, 1700, 1980, 61, 500.0, 690.0, 70_000, (), 0)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, ()),
        ({"throttled": (("software thermal slowdown", 0.05),)}, ()),
        ({"throttled": (("software thermal slowdown", 0.051),)}, ("software thermal slowdown in 5% of samples",)),
        ({"throttled": (("software power cap", 1.0),)}, ()),
        ({"throttled": (("hardware slowdown", 0.01),)}, ("hardware slowdown in 1% of samples",)),
        ({"throttled": (("hardware slowdown", 0.0),)}, ()),
        ({"temperature_highest": 87}, ()),
        ({"temperature_highest": 88}, ("GPU at 88 C",)),
        ({"foreign": 2}, ("2 other processes on the GPU",)),
        ({"sm_clock_median": 1485, "sm_clock_lowest": 1485}, ()),
        ({"sm_clock_median": 1484, "sm_clock_lowest": 1484}, ("SM clock at 1484 of 1980 MHz",)),
        ({"sm_clock_limit": 0, "sm_clock_median": 0, "sm_clock_lowest": 0}, ()),
        ({"sm_clock_lowest": 210}, ()),
        ({"ecc_errors": 0}, ()),
        ({"ecc_errors": 1}, ("1 uncorrected ECC error",)),
        ({"ecc_errors": 12}, ("12 uncorrected ECC errors",)),
        ({"persistence": False}, ()),
    ],
)
def test_faults(changes: dict[str, Any], found: tuple[str, ...]):
    assert faults(replace(CALM, **changes)) == found


HOT, SLOW, BROKEN = {"temperature_highest": 91}, {"sm_clock_median": 1300, "sm_clock_lowest": 1300}, {"ecc_errors": 1}


@pytest.mark.parametrize(
    ("changes", "may_pass"),
    [
        ({}, False),
        (HOT, True),
        ({"foreign": 1}, True),
        ({"throttled": (("hardware thermal slowdown", 0.2), ("software thermal slowdown", 0.2))}, True),
        (SLOW, True),
        (SLOW | {"throttled": (("software power cap", 0.49),)}, True),
        (SLOW | {"throttled": (("software power cap", 0.5),)}, False),
        ({"throttled": (("hardware power brake", 0.1),)}, False),
        (BROKEN, False),
        (HOT | BROKEN, False),
    ],
)
def test_a_rest_cures_heat_and_company_and_nothing_else(changes: dict[str, Any], may_pass: bool):
    assert passing(replace(CALM, **changes)) is may_pass


def test_persistence_mode_is_a_caution_where_it_is_known_to_be_off():
    told = {state: cautions(replace(CALM, persistence=state)) for state in (True, False, None)}
    assert told == {True: (), False: ("persistence mode is off (nvidia-smi -pm 1 turns it on)",), None: ()}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2.49 USD", Price(2.49, "USD")),
        (" 3EUR\n", Price(3.0, "EUR")),
        ("12345.6789 JPY", Price(12345.6789, "JPY")),
    ],
)
def test_a_price_is_read(text: str, read: Price):
    assert price(text) == read


BAD_PRICES = ["", "2.49", "USD", "2.49 usd", "2,49 EUR", "$2.49", "-1 USD", "0 USD", "0.0000 USD", "1e3 USD", "nan USD", "1234567 USD",
              "2.49 USDT", "2.49  USD", "2.49 USD/h", "٢ USD", "1.23456 USD"]


@pytest.mark.parametrize("text", BAD_PRICES)
def test_what_is_no_price_is_refused(text: str):
    with pytest.raises(SpecError, match="price"):
        price(text)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"gpu_seconds": -1.0}, "gpu_seconds"),
        ({"gpu_seconds": float("nan")}, "gpu_seconds"),
        ({"price": (float("inf"), "USD")}, "above 0"),
        ({"price": (0.0, "USD")}, "above 0"),
        ({"price": (1.0, "US$")}, "three capital letters"),
        ({"retry": ((), 1.0, "ran again")}, "because of its faults"),
        ({"retry": (("<b>",), 1.0, "ran again")}, "retry: text"),
        ({"retry": (("GPU at 91 C",), -1.0, "ran again")}, "retry: seconds"),
    ],
)
def test_cost_and_retry_have_bounds(changes: dict[str, Any], rule: str):
    kinds: dict[str, Any] = {"price": lambda v: Price(*v), "retry": lambda v: Retry(*v), "gpu_seconds": float}
    with pytest.raises(SpecError, match=rule):
        replace(stored("ok"), **{name: kinds[name](value) for name, value in changes.items()})


def test_telemetry_and_machines_are_checked():
    with pytest.raises(SpecError, match="telemetry"):
        replace(CALM, power_median=float("nan"))
    with pytest.raises(SpecError, match="the lowest clock"):
        replace(CALM, sm_clock_lowest=1981)
    with pytest.raises(SpecError, match="counted from 0"):
        replace(CALM, ecc_errors=-1)
    with pytest.raises(SpecError, match="machine"):
        Machine("<b>", 1, 1, "", "", 1, 1, "", "", ())


def test_the_week_of_a_result():
    assert stored("ok").week == "week01"


@given(st.text(max_size=200) | st.text("wW./gGhH-1 |", max_size=200))
@example("www.www.gh-gh-1//" * 12)
def test_any_text_can_be_made_plain(text: str):
    check_text(plain_text(text), "text")


def test_plain_text_keeps_what_it_can():
    assert plain_text("Intel(R) Xeon(R) @ 2.20GHz") == "Intel(R) Xeon(R) 2.20GHz"
    assert plain_text("see https://www.x.org, GH-12") == "see https:/www x.org, gh 12"
    assert plain_text("@|`") == "unnamed"
