"""A week's runs as the site shows them: what each is, the line its values are joined in, and the data of the charts; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bot.acceptance import Verdict, hold_back, judge, validity
from bot.report import bound_text, changes, duration_text, gpu_text, interval_text, options, printable, state_text, verdict_text
from bot.site.roofline import Roofline
from workloads.spec import Metric, Observed, Result, Unit, Workload

Kind = Literal["judged", "own batch", "invalid", "smoke", "failed"]
# What the legend calls a run that is not joined into a trend.
KINDS: dict[Kind, str] = {
    "own batch": "batch size of its own",
    "invalid": "invalid run",
    "smoke": "smoke run",
    "failed": "failed or cancelled",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What bot.history says of the headline metric of a week: `bands` holds, by run, the values between which the run was
    expected; `starts` are the runs that begin a segment, because a change was accepted."""

    bands: Mapping[str, tuple[float, float]]
    starts: frozenset[str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One run. `group` names what may be compared: the same GPUs and the same options; `segment` counts the accepted changes
    of its group. `changes` are (what, before, now) against `before`, the run before it in its group."""

    run: Result
    observed: Observed
    verdicts: tuple[Verdict, ...]
    kind: Kind
    state: str
    group: str
    segment: int
    before: str
    changes: tuple[tuple[str, str, str], ...]

    @property
    def files(self) -> tuple[str, ...]:
        """What lies beside its result.json."""
        return (*self.run.files, *(f"{table.name}.png" for table in self.observed.tables if table.chart))

    @property
    def tone(self) -> str:
        """The colour of its state, beside the words."""
        if self.kind in ("failed", "invalid"):
            return "bad"
        said = {v.verdict for v in self.verdicts}
        return "bad" if "missed" in said else "good" if "met" in said else "open"


def entries(workload: Workload, runs: Iterable[Result], accepted: Collection[str]) -> tuple[Entry, ...]:
    """Each run of a week with what is said of it; `runs` are oldest first, and each of `accepted` begins a segment."""
    found: list[Entry] = []
    last: dict[str, Result] = {}
    segments: dict[str, int] = {}
    for run in runs:
        verdicts, group = judge(workload, run), gpu_text(run.machine) + options(run.request)
        before = last.get(group)
        if run.run in accepted:
            segments[group] = segments.get(group, 0) + 1
        found.append(Entry(run, run.pooled() or Observed(metrics=()), verdicts, _kind(run), state_text(run, verdicts), group,
                           segments.get(group, 0), before.run if before else "", tuple(changes(before, run)) if before else ()))
        last[group] = run
    return tuple(found)


def _kind(run: Result) -> Kind:
    if run.status != "ok":
        return "failed"
    if run.request.smoke:
        return "smoke"
    if validity(run)[0] == "invalid":
        return "invalid"
    return "own batch" if hold_back(run) else "judged"


# ---------------------------------------------------------------------------------------------------- metrics


@dataclass(frozen=True, slots=True)
class Series:
    """One number over the runs of a week, for a chart of its own: the metric of each run, None where it has none."""

    name: str
    text: str
    unit: Unit
    better: Literal["higher", "lower"]
    bound: float | None
    bound_text: str
    metrics: tuple[Metric | None, ...]


def series(workload: Workload, runs: Sequence[Entry]) -> tuple[Series, ...]:
    """The week's targets in their order, then what else was measured, as the newest run with it calls it. A metric that
    changed its unit is another one."""
    promised = {(t.name, t.unit): t for t in workload.targets}
    held: dict[tuple[str, Unit], list[Metric | None]] = {key: [None] * len(runs) for key in promised}
    newest: dict[tuple[str, Unit], Metric] = {}
    for place, entry in reversed(list(enumerate(runs))):
        for metric in entry.observed.metrics:
            key = (metric.name, metric.unit)
            held.setdefault(key, [None] * len(runs))[place] = metric
            newest.setdefault(key, metric)
    found = [Series(t.name, t.text, t.unit, "higher" if t.op == ">=" else "lower", t.bound, bound_text(t), tuple(held[key]))
             for key, t in promised.items()]
    return (*found, *(Series(m.name, m.text, m.unit, m.better, None, "", tuple(held[key]))
                      for key, m in newest.items() if key not in promised))


# ---------------------------------------------------------------------------------------------------- the data of the charts


class Texts:
    """Texts by number, each once: ten thousand runs share few machines, states and files."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    def all(self) -> list[str]:
        return list(self._places)


def data(workload: Workload, runs: Sequence[Entry], numbers: Sequence[Series], expected: Expected, links: Mapping[str, str],
         position: Roofline | None) -> dict[str, Any]:
    """What page.js draws a week from, by column: whole arrays with a place for each run, texts by their place in `texts`."""
    texts = Texts()
    lines = list(dict.fromkeys((e.group, e.segment) for e in runs if e.kind == "judged"))
    groups = list(dict.fromkeys(group for group, _ in lines))
    places = {entry.run.run: place for place, entry in enumerate(runs)}
    kinds = ("judged", *KINDS)
    return {
        "week": workload.key,
        "links": dict(links),
        "headline": next(i for i, s in enumerate(numbers) if s.name == workload.headline.name),
        "kinds": kinds,
        "groups": groups,
        "lines": [groups.index(group) for group, _ in lines],
        "starts": sorted(places[run] for run in expected.starts if run in places),
        "runs": {
            "name": [e.run.run for e in runs],
            "started": [e.run.started for e in runs],
            "kind": [kinds.index(e.kind) for e in runs],
            "line": [lines.index((e.group, e.segment)) if e.kind == "judged" else -1 for e in runs],
            "tone": [texts.place(e.tone) for e in runs],
            "state": [texts.place(e.state) for e in runs],
            "group": [texts.place(e.group) for e in runs],
            "commit": [texts.place(e.run.commit) for e in runs],
            "took": [texts.place(duration_text(e.run.duration_s)) for e in runs],
            "files": [texts.place(" ".join(e.files)) for e in runs],
            "failure": [texts.place(failure_text(e.run)) for e in runs],
        },
        "changes": [[place, places[e.before], e.changes] for place, e in enumerate(runs) if e.changes],
        "metrics": [_metric(one, runs, expected.bands if one.name == workload.headline.name else {}, texts) for one in numbers],
        "roofline": _roofline(position),
        "texts": texts.all(),  # last, when every text has its place
    }


def failure_text(run: Result) -> str:
    return " ".join(printable(run.failure.message).split()) if run.failure else ""


def _metric(one: Series, runs: Sequence[Entry], bands: Mapping[str, tuple[float, float]], texts: Texts) -> dict[str, Any]:
    estimates = [m.estimate if m else None for m in one.metrics]
    limits = [bands.get(e.run.run) for e in runs] if bands else []
    said: list[int] = []
    if one.bound is not None:
        said = [texts.place(next(verdict_text(v) for v in e.verdicts if v.target.name == one.name)) for e in runs]
    return {
        "text": one.text, "unit": one.unit, "better": one.better, "bound": one.bound, "bound_text": one.bound_text,
        "value": [e and _short(e.value) for e in estimates],
        "low": [e and _short(e.low) for e in estimates],
        "high": [e and _short(e.high) for e in estimates],
        "shown": [e and interval_text(e, one.unit, one.bound) for e in estimates],
        "seen": [texts.place(_seen(m)) for m in one.metrics],
        "verdict": said,
        "limits": [pair and [*map(_short, pair)] for pair in limits],
    }


def _seen(metric: Metric | None) -> str:
    """Where a number was seen, and what stood in for something absent."""
    return "; ".join(filter(None, (metric.detail, f"proxy: {metric.proxy}" if metric.proxy else ""))) if metric else ""


def _roofline(position: Roofline | None) -> dict[str, Any] | None:
    points = position.points() if position else ()
    if position is None or not points:
        return None
    groups = list(dict.fromkeys(p.group for p, _, _ in points))
    return {"tflops": position.tflops, "gbs": position.gbs, "groups": groups,
            "points": [[p.label, groups.index(p.group), _short(x), _short(y), p.matrix and _short(p.matrix), p.memory and _short(p.memory)]
                       for p, x, y in points]}


def _short(value: float) -> float:
    """Enough digits for a pixel; what is read is the text beside it."""
    return float(f"{value:.7g}")
