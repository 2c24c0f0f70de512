"""Two runs of one week side by side: what moved by more than both intervals, and what else differed between the two; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from bot.acceptance import judge
from bot.report import (
    LIMIT,
    TABLE_ROWS,
    Where,
    commits_link,
    differences,
    figure,
    gpu_text,
    interval_text,
    metric_name,
    state_text,
    table_text,
    verdict_text,
)
from workloads.spec import Metric, Observed, Result, Unit, Workload

Difference = Literal["better", "worse", "no difference seen", "measured once", "not comparable"]
# A word for the summary and one for the table.
WORDS: dict[Difference, tuple[str, str]] = {
    "better": ("better", "differs: better"),
    "worse": ("worse", "differs: worse"),
    "no difference seen": ("without a difference seen", "no difference seen"),
    "measured once": ("measured once", "not known: measured once"),
    "not comparable": ("not comparable", "not comparable: defined differently"),
}
# What is counted is the same the next time; anything else that was seen once has no interval to tell a difference by.
COUNTED: tuple[Unit, ...] = ("", "count", "steps", "MiB")
# A change of more than this is no percentage that anybody reads as one.
LARGEST_PERCENT = 1000


def difference(before: Metric, after: Metric) -> Difference:
    """What `after` is beside `before`: "no difference seen" where their 95% intervals overlap, which is stricter than a test
    at 5% (Schenker & Gentleman 2001, The American Statistician 55); "not comparable" where the two were defined differently;
    "measured once" where one of them is no count and yet has no interval."""
    if (before.unit, before.better, before.proxy) != (after.unit, after.better, after.proxy):
        return "not comparable"
    a, b = before.estimate, after.estimate
    if "exact" in (a.kind, b.kind) and after.unit not in COUNTED:
        return "measured once"
    if a.low <= b.high and b.low <= a.high:
        return "no difference seen"
    return "better" if (b.value > a.value) == (after.better == "higher") else "worse"


def change_text(before: Metric, after: Metric) -> str:
    """How far the value moved, "+12.3%"; "" from zero, whose percentages are none."""
    a, b = before.estimate.value, after.estimate.value
    if a == 0:
        return ""
    percent = 100 * (b - a) / abs(a)
    if abs(percent) >= LARGEST_PERCENT:
        return f"{percent:+.3g}%"
    number = figure(percent, 1)
    return f"{number}%" if number.startswith("-") else f"+{number}%"


def compare(workload: Workload, a: Result, b: Result, where: Where) -> str:
    """The answer to `/compare A B`, in Markdown: `b` against `a`, both of `workload`'s week. At most LIMIT characters: the
    tables lose rows from their ends until it fits, and say so."""
    rows = TABLE_ROWS
    while len(text := _page(workload, a, b, where, rows)) > LIMIT:
        rows //= 2
    return text


def _page(workload: Workload, a: Result, b: Result, where: Where, rows: int) -> str:
    found = pairs(workload, a, b)
    return "\n\n".join(part for part in (
        f"### {workload.key} · {b.run} against {a.run}",
        "\n".join(f"- {_run(workload, run, where)}" for run in (a, b)),
        summary(found),
        _metrics(workload, a, b, found, rows),
        "**What else differed**",
        _others(a, b, where, rows),
    ) if part) + "\n"


def _run(workload: Workload, run: Result, where: Where) -> str:
    url = where.url("tree", where.branch, "results", run.week, run.run)
    name = f"[{run.run}]({url})" if url else run.run
    machine = f"{gpu_text(run.machine)}, smoke" if run.request.smoke else gpu_text(run.machine)
    return f"{name}: {state_text(run, judge(workload, run))} · {machine} · {run.started.replace('T', ' ').rstrip('Z')} UTC"


# ---------------------------------------------------------------------------------------------------- metrics

Pair = tuple[Metric | None, Metric | None]


def pairs(workload: Workload, a: Result, b: Result) -> list[Pair]:
    """Each metric of either run with its like in the other: targets first, then as the runs list them."""
    first, second = (run.pooled() or Observed(metrics=()) for run in (a, b))
    targets = [t.name for t in workload.targets]
    names = dict.fromkeys([*targets, *(m.name for m in (*first.metrics, *second.metrics))])
    return [(first.metric(name), second.metric(name)) for name in names if first.metric(name) or second.metric(name)]


def summary(found: Sequence[Pair]) -> str:
    """How many of the pairs of metrics differ, and what that means."""
    if not found:
        return "Neither run measured anything."
    seen = Counter(difference(x, y) for x, y in found if x and y)
    single = sum(x is None or y is None for x, y in found)
    told = [f"{seen[kind]} {WORDS[kind][0]}" for kind in WORDS if seen[kind]] + ([f"{single} measured by one run only"] if single else [])
    return (f"Of {len(found)} metric{'s' if len(found) > 1 else ''}: {', '.join(told)}. A metric differs where the two 95% intervals do "
            "not overlap. An interval covers the scatter within its run; from one run to the next a number can move further.")


def _metrics(workload: Workload, a: Result, b: Result, found: Sequence[Pair], most: int) -> str:
    if not found:
        return ""
    verdicts = [{v.target.name: verdict_text(v) for v in judge(workload, run)} for run in (a, b)]
    lines = []
    for x, y in found[:most]:
        one = x or y
        assert one is not None, "a pair has at least one metric"
        target = workload.target(one.name)
        bound = target.bound if target else None
        both = (x, y) if x and y else None
        lines.append((" / ".join(dict.fromkeys(metric_name(m.text, m) for m in (x, y) if m)),
                      *(interval_text(m.estimate, m.unit, bound) if m else "not measured" for m in (x, y)),
                      change_text(*both) if both and difference(*both) != "not comparable" else "",
                      WORDS[difference(*both)][1] if both else "",
                      " → ".join(said[one.name] for said in verdicts) if target else ""))
    return table_text(("metric", a.run, b.run, "change", "95% intervals", "verdicts"), lines) + _more(len(found) - most, "metrics")


def _more(left: int, what: str) -> str:
    return f"\n\n{left} more {what} are in the two result.json." if left > 0 else ""


# ---------------------------------------------------------------------------------------------------- everything else


def _others(a: Result, b: Result, where: Where, most: int) -> str:
    rows, same = differences(a, b, where)
    if not rows:
        return f"Nothing that is recorded. The same in both: {', '.join(same)}."
    return "\n\n".join(part for part in (
        table_text(("what", a.run, b.run), rows[:most]) + _more(len(rows) - most, "rows"),
        commits_link(a, b, where),
        f"The same in both: {', '.join(same)}." if same else "",
    ) if part)
