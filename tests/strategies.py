"""Random values of the contract, as wild as it allows, for property tests."""

from __future__ import annotations

import statistics
import string
from dataclasses import replace
from typing import get_args

from hypothesis import strategies as st

from workloads.spec import (
    ACTIVE_TEXT,
    LOG_TAIL_CHARS,
    Chart,
    Column,
    Estimate,
    Failure,
    Machine,
    Metric,
    Observed,
    Price,
    Request,
    Result,
    Retry,
    Status,
    Table,
    Telemetry,
    Unit,
    percentile,
)

texts = st.text(string.ascii_letters + string.digits + " ._,;:()+/%=^-", min_size=1, max_size=160).filter(
    lambda t: not ACTIVE_TEXT.search(t)
)
names = st.from_regex(r"[a-z][a-z0-9_]{0,47}", fullmatch=True)
units = st.sampled_from(get_args(Unit))
numbers = st.floats(-1e290, 1e290)
positive = st.floats(1e-9, 1e9)
wholes = st.integers(0, 10**18)


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    kind = draw(st.sampled_from(("median", "mean", "geomean", "ratio", "share", "p50", "p95", "p99", "exact")))
    baseline: tuple[float, ...] = ()
    if kind == "share":
        trials = draw(st.integers(1, 10**6))
        samples: tuple[float, ...] = (float(draw(st.integers(0, trials))), float(trials))
        value = samples[0] / samples[1]
    elif kind == "ratio":
        samples, baseline = (tuple(draw(st.lists(positive, min_size=1, max_size=5))) for _ in range(2))
        value = statistics.median(baseline) / statistics.median(samples)
    elif kind == "geomean":
        samples = tuple(draw(st.lists(positive, min_size=1, max_size=5)))
        value = statistics.geometric_mean(samples)
    else:
        samples = tuple(draw(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=1 if kind == "exact" else 5)))
        value = {"median": statistics.median, "mean": statistics.fmean, "exact": max}.get(kind, lambda s: percentile(s, float(kind[1:])))(
            samples
        )
    low, high = (draw(st.sampled_from((0.0, abs(value) * 0.1, 1.0, 1e200))) for _ in range(2))
    return Estimate(kind, value, value - low, value + high, samples, baseline)


def metrics(name: st.SearchStrategy[str] = names) -> st.SearchStrategy[Metric]:
    return st.builds(
        Metric, name, texts, units, st.sampled_from(("higher", "lower")), estimates(), texts | st.just(""), texts | st.just("")
    )


cells = texts | numbers | wholes | st.none()


@st.composite
def charts(draw: st.DrawFn, columns: tuple[str, ...]) -> Chart:
    one, maybe = st.sampled_from(columns), st.sampled_from((*columns, ""))
    return Chart(
        draw(st.sampled_from(("lines", "bars", "stacked", "heatmap"))),
        draw(one),
        draw(one),
        draw(maybe),
        draw(maybe),
        draw(maybe),
        tuple(draw(st.lists(numbers, max_size=3))),
        draw(st.booleans()),
    )


@st.composite
def tables(draw: st.DrawFn, *, charted: bool = False) -> Table:
    columns = tuple(draw(st.lists(st.builds(Column, texts, units), min_size=1, max_size=5, unique_by=lambda c: c.name)))
    # A column is mostly of one kind, so that charts have something to draw.
    kinds = [draw(st.sampled_from((texts | st.none(), st.floats(-100, 100) | st.none(), cells))) for _ in columns]
    rows = tuple(draw(st.lists(st.tuples(*kinds), max_size=8)))
    chart = charts(tuple(c.name for c in columns))
    name = draw(names.filter(lambda name: name != "trend"))
    return Table(name, draw(texts), columns, rows, draw(chart if charted else st.none() | chart))


observations = st.builds(
    Observed,
    st.lists(metrics(), max_size=4, unique_by=lambda m: m.name).map(tuple),
    st.lists(tables(), max_size=2, unique_by=lambda t: t.name).map(tuple),
    st.lists(texts, max_size=2).map(tuple),
    st.lists(st.tuples(names, texts), max_size=2).map(tuple),
)
packages = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
machines = st.builds(Machine, texts | st.just(""), wholes, wholes, texts, texts, wholes, wholes, texts, texts, packages)


@st.composite
def telemetries(draw: st.DrawFn) -> Telemetry:
    lowest, median = sorted((draw(wholes), draw(wholes)))
    return Telemetry(
        draw(positive),
        draw(wholes),
        median,
        lowest,
        draw(wholes),
        draw(wholes),
        draw(positive),
        draw(positive),
        draw(wholes),
        tuple(draw(st.lists(st.tuples(texts, positive), max_size=6))),
        draw(wholes),
        draw(st.none() | wholes),
        draw(st.none() | st.booleans()),
    )


prices = st.builds(Price, st.floats(1e-4, 1e6), st.from_regex(r"[A-Z]{3}", fullmatch=True))
retries = st.builds(
    Retry,
    st.lists(texts, min_size=1, max_size=3).map(tuple),
    st.floats(0, 1e9),
    st.sampled_from(("ran again", "not quiet", "no time", "cancelled")),
)
requests = st.builds(
    Request,
    st.just("bench"),
    st.from_regex("week(0[1-9]|1[0-6])", fullmatch=True),
    st.booleans(),
    st.none() | st.integers(1, 9999),
    st.integers(1, 8),
    st.integers(1, 3),
    st.booleans(),
)
failures = st.builds(Failure, st.text(min_size=1, max_size=400), st.text(max_size=LOG_TAIL_CHARS))


@st.composite
def results(draw: st.DrawFn) -> Result:
    status = draw(st.sampled_from(get_args(Status)))
    request = draw(requests)
    if draw(st.sampled_from((True, False, False, False))):
        request = replace(request, vs=7)
    # Six pairs of different processes would take long to draw, and say no more than six of the same.
    pairs = request.pairs if status == "ok" else 0
    several = st.lists(observations, min_size=request.repeat if status == "ok" else 0, max_size=request.repeat)
    seen = [draw(observations)] * pairs if pairs else draw(several)
    return Result(
        run=draw(st.from_regex(r"[cr][1-9][0-9]{0,18}(-2)?", fullmatch=True)),
        request=request,
        commit=draw(st.from_regex(r"([0-9a-f]{40})?", fullmatch=True)),
        started="2026-11-23T15:49:22Z",
        duration_s=draw(st.floats(0, 1e9)),
        status=status,
        machine=draw(machines),
        telemetry=draw(st.none() | telemetries()),
        failure=None if status == "ok" else draw(failures),
        observed=tuple(seen),
        baseline=(draw(observations),) * pairs,
        baseline_commit="1" * 40 if pairs else "",
        files=tuple(draw(st.lists(st.sampled_from(("trace.json.gz", "engine.onnx")), unique=True))),
        gpu_seconds=draw(st.floats(0, 1e9)),
        price=draw(st.none() | prices),
        retry=draw(st.none() | retries),
    )
