"""The site: an index and a page for each week, as static files that work from a disk without a network; pure.

Everything of a run is untrusted: templates escape whatever they show, a week's data is JSON inside a JavaScript string, page.js
makes nodes and texts and never markup, and each page's Content-Security-Policy runs no script but the three files it came with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bot import store
from bot.acceptance import Verdict
from bot.history import age, bands
from bot.report import Where, bound_text, duration_text, figure, gpu_text, interval_text, metric_name
from bot.site.roofline import Roofline, roofline
from bot.site.week import KINDS, Entry, Expected, Series, data, entries, failure_text, series
from workloads.plan import TITLE, WEEKS, PlannedWeek
from workloads.spec import Workload

HERE = Path(__file__).parent
# What a page loads, by where it lies in the site. The version of uPlot is in its first line, its licence beside it.
ASSETS = {f"assets/{name}": HERE / name for name in ("page.css", "page.js", "icon.svg")} | {
    f"assets/{name}": HERE / "uplot" / name for name in ("uPlot.iife.min.js", "uPlot.min.css")} | {
    "assets/uPlot-LICENSE.txt": HERE / "uplot" / "LICENSE"}
PAGE = 25  # rows of a table of runs; page.js turns the pages
NEWEST = 20  # runs on the index
CHANGES = 50  # of the environment, on a week's page; each run's card has its own
SPARK_RUNS, SPARK_WIDTH, SPARK_HEIGHT = 40, 120, 28
# Shapes of marks, around (0, 0), 12 wide: a line of the trend has one of the first, filled; what is not joined has its own, hollow.
GROUP_SHAPES = ("M4 0A4 4 0 1 1-4 0A4 4 0 1 1 4 0Z", "M-3.6-3.6H3.6V3.6H-3.6Z", "M0-4.8L4.6 3.4H-4.6Z", "M0-5.2L4.2 0L0 5.2L-4.2 0Z")
KIND_SHAPES = {"own batch": "M0-5.2L5.2 0L0 5.2L-5.2 0Z", "invalid": "M0 4.8L4.8-3.6H-4.8Z", "smoke": "M4 0A4 4 0 1 1-4 0A4 4 0 1 1 4 0Z",
               "failed": "M-4.2-4.2L4.2 4.2M4.2-4.2L-4.2 4.2"}


TEMPLATES = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True, slots=True)
class Links:
    """Where a page finds a run's files and commit: in the repository on GitHub, or, where that is not known, in the checkout
    that lies at `near` as the site sees it ("../.."); a commit then has no page."""

    where: Where
    near: str = ""

    def results(self, view: str, *parts: str) -> str:
        """results/<parts> as GitHub shows it: `view` is blob, raw or tree."""
        return self.where.url(view, self.where.branch, "results", *parts) or "/".join((self.near, "results", *parts))

    def commit(self, sha: str) -> str:
        return self.where.url("commit", sha)

    def prefixes(self, week: str) -> dict[str, str]:
        """What page.js puts before the name of a run, or before a commit; "" where that has no page."""
        commits = self.where.url("commit")
        return {view: self.results(view, week) + "/" for view in ("raw", "blob", "tree")} | {"commit": commits and commits + "/"}


# ---------------------------------------------------------------------------------------------------- the whole


@dataclass(frozen=True, slots=True)
class Week:
    """A week that has a page: its promise, its runs oldest first, and the newest one that is judged."""

    workload: Workload
    expected: Expected
    runs: tuple[Entry, ...]
    judged: Entry | None

    @property
    def pictures(self) -> tuple[tuple[str, str], ...]:
        """(path in the ledger, title) of the plots of the judged run."""
        if self.judged is None:
            return ()
        folder = store.folder(self.judged.run)
        return tuple((f"{folder}/{table.name}.png", table.title) for table in self.judged.observed.tables if table.chart)


def weeks(ledger: store.Ledger, workloads: Mapping[str, Workload]) -> dict[str, Week]:
    """Every week that has a workload, by key. Raises UserError for a file that is no result."""
    runs = ledger.runs()
    found = {}
    for key, workload in workloads.items():
        of_week, accepted = runs.get(key, ()), frozenset(ledger.accepted(key))
        expected = Expected(bands(workload, of_week, accepted), accepted)
        told = entries(workload, of_week, accepted)
        found[key] = Week(workload, expected, told, next((e for e in reversed(told) if e.kind == "judged"), None))
    return found


def build(weeks: Mapping[str, Week], links: Links, pictures: Mapping[str, bytes] = MappingProxyType({})) -> dict[str, bytes]:
    """The files of the site, by path. `pictures` are those that its weeks name and that exist, by path in the ledger."""
    made = {path: source.read_bytes() for path, source in ASSETS.items()}
    made |= {path.replace("results/", "plots/", 1): content for path, content in pictures.items()}
    made["index.html"] = _page("index.html", weeks, links, **_index(weeks, links))
    for key, week in weeks.items():
        numbers, position = series(week.workload, week.runs), roofline(week.judged.observed if week.judged else None)
        if week.runs:
            made[f"data/{key}.js"] = script(data(week.workload, week.runs, numbers, week.expected, links.prefixes(key), position))
        made[f"{key}.html"] = _page("week.html", weeks, links, here=key, **_week(week, numbers, position, links, pictures))
    return made


def script(told: Any) -> bytes:
    """`told` as the JavaScript file that page.js reads: JSON in a string, so that nothing in it is ever code, in ASCII and without
    a "<", so that it may stand in a page too. Browsers read JSON faster than the same as a literal."""
    text = json.dumps(told, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return ("const sprintbench = JSON.parse('" + text.replace("\\", "\\\\").replace("'", "\\'") + "');\n").encode("ascii")


def _page(template: str, weeks: Mapping[str, Week], links: Links, **told: Any) -> bytes:
    return TEMPLATES.get_template(template).render(pages=tuple(weeks), home=links.where.url(), **told).encode()


# ---------------------------------------------------------------------------------------------------- the index


def _index(weeks: Mapping[str, Week], links: Links) -> dict[str, Any]:
    newest = sorted((e for week in weeks.values() for e in week.runs), key=lambda e: age(e.run), reverse=True)
    met = sum(week.judged is not None and all(v.verdict == "met" for v in week.judged.verdicts) for week in weeks.values())
    return {"title": "Scoreboard", "plan": TITLE, "here": "", "total": len(WEEKS), "met": met,
            "measured": sum(week.judged is not None for week in weeks.values()), "runs": sum(len(week.runs) for week in weeks.values()),
            "rows": [_score(week, weeks.get(week.key)) for week in WEEKS],
            "newest": [_row(weeks[e.run.week].workload, e, links) for e in newest[:NEWEST]]}


def _score(plan: PlannedWeek, week: Week | None) -> dict[str, Any]:
    row = {"key": plan.key, "title": plan.title, "page": week is not None, "tone": "open", "state": "not built", "headline": "",
           "target": "", "met": "", "gpu": "", "date": "", "spark": None}
    if week is None:
        return row
    headline = week.workload.headline
    row |= {"state": "not run", "target": f"{headline.text} {bound_text(headline)}"}
    if week.judged is None:
        return row | ({"state": f"no judged run; newest: {week.runs[-1].state}"} if week.runs else {})
    run = week.judged
    return row | {"tone": run.tone, "state": run.state, "headline": _headline(week.workload, run), "gpu": gpu_text(run.run.machine),
                  "met": f"{sum(v.verdict == 'met' for v in run.verdicts)} of {len(run.verdicts)} targets",
                  "date": run.run.started[:10], "run": run.run.run, "spark": _spark(week)}


def _of(workload: Workload, entry: Entry) -> Verdict:
    return next(v for v in entry.verdicts if v.target == workload.headline)


def _headline(workload: Workload, entry: Entry) -> str:
    verdict = _of(workload, entry)
    return _number(verdict) + (", proxy" if verdict.metric and verdict.metric.proxy else "")


def _number(verdict: Verdict) -> str:
    return interval_text(verdict.metric.estimate, verdict.metric.unit, verdict.target.bound) if verdict.metric else ""


def _spark(week: Week) -> dict[str, Any] | None:
    """The headline over the newest runs that compare with the judged one, as points of a line; None where there is no line."""
    run = week.judged
    assert run is not None, "only a judged week has a line"
    alike = [e for e in week.runs if e.kind == "judged" and (e.group, e.segment) == (run.group, run.segment)]
    values = [verdict.metric.estimate.value for e in alike if (verdict := _of(week.workload, e)).metric][-SPARK_RUNS:]
    if len(values) < 2:
        return None
    low, high, bound = min(values), max(values), week.workload.headline.bound
    room = (high - low) or abs(high) or 1.0
    if low - 2 * room <= bound <= high + 2 * room:  # else it would press the line flat
        low, high = min(low, bound), max(high, bound)

    def height(value: float) -> str:
        return f"{SPARK_HEIGHT - 3 - (value - low) / ((high - low) or 1.0) * (SPARK_HEIGHT - 6):.1f}"

    across = [f"{3 + place * (SPARK_WIDTH - 6) / (len(values) - 1):.1f}" for place in range(len(values))]
    points = " ".join(f"{x},{height(v)}" for x, v in zip(across, values, strict=True))
    return {"width": SPARK_WIDTH, "height": SPARK_HEIGHT, "points": points,
            "end": (across[-1], height(values[-1])), "target": height(bound) if low <= bound <= high else "", "runs": len(values)}


def _row(workload: Workload, entry: Entry, links: Links) -> dict[str, Any]:
    """A row of a table of runs; page.js makes the same of a week's data."""
    run = entry.run
    return {"run": run.run, "week": run.week, "state": entry.state, "tone": entry.tone, "headline": _headline(workload, entry),
            "machine": entry.group, "started": run.started.replace("T", " ").removesuffix("Z"), "took": duration_text(run.duration_s),
            "raw": links.results("raw", run.week, run.run, "result.json"), "sha": run.commit[:7],
            "commit": links.commit(run.commit), "why": failure_text(run)}


# ---------------------------------------------------------------------------------------------------- the page of a week


def _week(week: Week, numbers: Sequence[Series], position: Roofline | None, links: Links, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    workload, run = week.workload, week.judged
    groups = list(dict.fromkeys(e.group for e in week.runs if e.kind == "judged"))
    seen = {e.kind for e in week.runs}
    return {
        "title": f"{workload.key}: {workload.plan.title}", "plan": workload.plan, "key": workload.key, "total": len(week.runs),
        "judged": _row(workload, run, links) if run else None,
        "targets": [_target(workload, place, run) for place in range(len(workload.targets))],
        "promised": len(workload.targets), "numbers": [_figure(one) for one in numbers],
        "legend": [(group, "", *_look(place)) for place, group in enumerate(groups)]
        + [(KINDS[kind], kind, KIND_SHAPES[kind], kind.replace(" ", "-")) for kind in KINDS if kind in seen],
        "position": _position(position) if position else None,
        "changes": [(e.run.run, e.before, e.run.started[:10], e.changes) for e in reversed(week.runs) if e.changes][:CHANGES],
        "changed": sum(bool(e.changes) for e in week.runs), "page_size": PAGE,
        "rows": [_row(workload, e, links) for e in reversed(week.runs[-PAGE:])],
        "plots": [(path.replace("results/", "plots/", 1) if path in pictures else "", links.results("blob", *path.split("/")[1:]), text)
                  for path, text in week.pictures],
        "files": [(name, links.results("blob", workload.key, run.run.run, name)) for name in run.run.files] if run else [],
        "limits": bool(week.expected.bands), "history": links.results("tree", workload.key),
    }


def _look(place: int) -> tuple[str, str]:
    """The shape and the colour of the line, or group of points, at this place."""
    return GROUP_SHAPES[place % len(GROUP_SHAPES)], f"line{place % len(GROUP_SHAPES)}"


def _position(position: Roofline) -> dict[str, Any]:
    groups = dict.fromkeys(p.group for p, _, _ in position.points())
    known = ((position.tflops, "TFLOP/s in a matrix product"), (position.gbs, "GB/s in a copy"))
    return {"ceilings": [f"{figure(value, 0)} {what}" for value, what in known if value is not None],
            "points": len(position.points()), "legend": [(group, *_look(place)) for place, group in enumerate(groups)],
            "rows": [(p.label, [(name, "" if share is None else f"{figure(share, 1)}%", f"{min(max(share or 0.0, 0.0), 100.0):.1f}")
                                for name, share in (("matrix", p.matrix), ("memory", p.memory))]) for p in position.positions]}


def _target(workload: Workload, place: int, run: Entry | None) -> dict[str, str]:
    target = workload.targets[place]
    verdict = run.verdicts[place] if run else None
    return {"name": metric_name(target.text, verdict.metric if verdict else None), "bound": bound_text(target),
            "value": (_number(verdict) or "not measured") if verdict else "", "verdict": verdict.verdict if verdict else "not run",
            "reason": verdict.reason if verdict else "",
            "tone": {"met": "good", "missed": "bad"}.get(verdict.verdict, "open") if verdict else "open"}


def _figure(one: Series) -> dict[str, Any]:
    known = [m for m in one.metrics if m]
    newest = f"newest {interval_text(known[-1].estimate, one.unit, one.bound)}" if known else "not measured yet"
    unit = "" if one.unit in ("", "x") else f"in {one.unit}, "
    return {"text": one.text, "about": f"{unit}{one.better} is better",
            "bound": one.bound_text, "spoken": f"{one.text}: {len(known)} runs, {newest}. Arrow keys step through the runs."}
