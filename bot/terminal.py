"""Runs in a terminal: two side by side, and a week's history; the only rich."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bot.acceptance import judge
from bot.compare import WORDS, change_text, difference, pairs, summary
from bot.history import change, counts, measured, pair, second_name
from bot.regression import FEWEST_RUNS, Change, ChangeKind
from bot.report import Where, differences, gpu_text, interval_text, metric_name, options, share_text, state_text, value_text
from workloads.spec import Result, Workload

PIPED_COLUMNS = 180  # of what is no terminal, and so has no width of its own

# What a change is called, and its colour; the words say it all where there are no colours.
KINDS: dict[ChangeKind, tuple[str, str]] = {
    "insufficient": ("too few runs", "dim"), "unchanged": ("no change", ""), "cleared": ("cleared by the second run", ""),
    "suspected_regression": ("suspected worse", "yellow"), "confirmed_regression": ("confirmed worse", "bold red"),
    "improvement_suspected": ("suspected better", "cyan"), "improvement_confirmed": ("confirmed better", "bold green")}
COLOURS = {"better": "green", "worse": "red"}


def show(*parts: Group | Table | Text | str) -> None:
    """Print to stdout, as wide as the terminal is."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=PIPED_COLUMNS)
    console.print(*parts, sep="\n")


def comparison(workload: Workload, a: Result, b: Result) -> Group:
    """`b` against `a`, both of `workload`'s week: their metrics, and what else differed."""
    both = pairs(workload, a, b)
    metrics = _table(f"{workload.key}: {b.run} against {a.run}", "metric", a.run, b.run, "change", "95% intervals", right=(1, 2, 3))
    for x, y in both:
        told = difference(x, y) if x and y else None
        moved = change_text(x, y) if x and y and told != "not comparable" else ""
        names = dict.fromkeys(metric_name(m.text, m) for m in (x, y) if m)
        metrics.add_row(" / ".join(names), *(interval_text(m.estimate, m.unit) if m else "not measured" for m in (x, y)), moved,
                        Text(WORDS[told][1] if told else "", style=COLOURS.get(told or "", "")))
    rows, same = differences(a, b, Where())
    others = _table("What else differed", "what", a.run, b.run)
    for row in rows:
        others.add_row(*(cell.replace("`", "") for cell in row))
    alike = f"The same in both: {', '.join(same)}." if same else ""
    return Group(*(_run(workload, run) for run in (a, b)), "", *([metrics] if both else []), summary(both), "",
                 others if rows else "Nothing else that is recorded differed.", alike)


def _run(workload: Workload, run: Result) -> Text:
    machine = f"{gpu_text(run.machine)}, smoke" if run.request.smoke else gpu_text(run.machine)
    return Text(f"{run.run}: {state_text(run, judge(workload, run))} · {machine} · {run.started.replace('T', ' ').rstrip('Z')} UTC")


def history(workload: Workload, runs: Sequence[Result], accepted: Sequence[str], last: int) -> Group:
    """The `last` runs of a week, oldest first, each held against those before it."""
    target = workload.headline
    table = _table(f"{workload.key}: {target.text}", "run", "day", "machine", "options", "commit", "value", "change", "limit",
                   "against history", right=(5, 6, 7))
    for place in range(max(0, len(runs) - last), len(runs)):
        run = runs[place]
        second = next((other for other in runs if run.run != second_name(run.run) == other.run), None)
        told = change(workload, run, runs[:place], accepted, second)
        metric = measured(run, target.name)
        first, twice = pair(target.name, run, runs[:place], None)
        moved, limit = _numbers(told and replace(told, delta=_own_delta(told, first, twice, target.name) if twice else told.delta))
        said, style = _said(workload, run, told)
        table.add_row(f"{run.run}, accepted" if run.run in accepted else run.run, run.started[:10], gpu_text(run.machine),
                      options(run.request).strip(), run.commit[:7], value_text(metric.estimate, metric.unit) if metric else "",
                      moved, limit, Text(said, style=style))
    hidden = len(runs) - len(table.rows)
    return Group(table, *([f"{hidden} older runs are not shown: --last {len(runs)} shows all."] if hidden else []))


def _own_delta(told: Change, first: Result, second: Result, name: str) -> float:
    """Where a second run itself lies: what it is told is of the first."""
    one, two = (metric.estimate.value for run in (first, second) if (metric := measured(run, name)))
    return (1 + told.delta) * two / one - 1


def _numbers(told: Change | None) -> tuple[str, str]:
    if told is None or told.n == 0:
        return "", ""
    limit = told.limit if told.delta > 0 else told.limit_below
    sign = "-" if told.delta < 0 else "+"
    return f"{sign}{share_text(told.delta, limit)}", "" if told.kind == "insufficient" else share_text(limit, told.delta)


def _said(workload: Workload, run: Result, told: Change | None) -> tuple[str, str]:
    if told is None:
        return ("not measured" if counts(run) else state_text(run, judge(workload, run))), "dim"
    words, style = KINDS[told.kind]
    return (f"{words} ({told.n} of {FEWEST_RUNS})" if told.kind == "insufficient" else f"{words}, {told.n} runs"), style


def _table(title: str, *columns: str, right: Sequence[int] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place in right else "left", overflow="fold")
    return table
