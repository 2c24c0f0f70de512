"""The weekly post, ready to copy: the plan's words, filled with what the week's newest judged run measured; pure.

Nothing in it but the plan, numbers of judged runs, and how other runs ended. Whoever posts it adds the why.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot.acceptance import earned, hold_back, judge, validity
from bot.compare import change_text, difference
from bot.kickoff import title
from bot.report import Where, bound_text, gpu_text, interval_text, metric_name, state_text, value_text, verdict_text
from workloads.plan import POST_TEMPLATE, TITLE, WEEKS
from workloads.spec import Metric, Observed, Result, Unit, Workload

# Units of time and rate, and ratios of those: what can speed up.
SPEED: tuple[Unit, ...] = ("x", "s", "ms", "us", "img/s", "tok/s", "TFLOP/s", "GB/s")
MOST = 5  # of one kind under one heading


def post(workload: Workload, runs: Sequence[Result], where: Where) -> str:
    """The answer to `/post`, in Markdown. `runs` are every run of the week, oldest first."""
    judged = [run for run in runs if not hold_back(run)]
    if not judged:
        return f"No post yet: {workload.key} has no judged run, so there is no number to tell. {_latest(workload, runs)}\n"
    newest = judged[-1]
    after = runs[runs.index(judged[-2]) + 1:] if len(judged) > 1 else runs
    like = [run for run in judged[:-1] if gpu_text(run.machine) == gpu_text(newest.machine)]
    better, worse = _moves(like[-1], newest) if like else ([], [])
    text = "\n\n".join((
        f"{TITLE}: {title(workload.plan)}",
        _measured(workload, newest),
        _section("What sped up", _sped_up(workload, newest) + _few(better), "nothing that the runs show"),
        _section("What broke", _broke(workload, newest, after) + _few(worse), "no run failed and no target was missed"),
        _section("What's next", _next(workload, newest, judged), "the plan is done"),
        "\n".join(_links(newest, where)) or f"Run: {newest.run}",
    ))
    return f"{POST_TEMPLATE}, after you have read it:\n\n```text\n{text}\n```\n"


def _latest(workload: Workload, runs: Sequence[Result]) -> str:
    if not runs:
        return f"It has no run at all: `/bench {workload.key}` makes the first."
    newest = runs[-1]
    return f"The newest of its {len(runs)} run{'s' if len(runs) > 1 else ''}, {newest.run}: {state_text(newest, judge(workload, newest))}."


def _section(heading: str, lines: Sequence[str], nothing: str) -> str:
    return "\n".join((heading, *(f"- {line}" for line in lines or [nothing])))


def _few(lines: Sequence[str]) -> list[str]:
    return [*lines[:MOST], *([f"{len(lines) - MOST} more of this kind"] if len(lines) > MOST else [])]


def _number(metric: Metric, bound: float | None = None) -> str:
    return interval_text(metric.estimate, metric.unit, bound).replace("(", "(95% interval ")


def _measured(workload: Workload, run: Result) -> str:
    verdicts = judge(workload, run)
    lines = [f"- {metric_name(v.target.text, v.metric)}: {_number(v.metric, v.target.bound) if v.metric else 'not measured'}; "
             f"target {bound_text(v.target)}: {verdict_text(v)}" for v in verdicts]
    checked = "" if validity(run)[0] == "valid" else ", machine not checked"
    return "\n".join((f"Measured on {gpu_text(run.machine)}, {run.started[:10]}, run {run.run}{checked}", *lines))


def _sped_up(workload: Workload, run: Result) -> list[str]:
    return [f"{metric_name(v.target.text, v.metric)}: {value_text(v.metric.estimate, v.metric.unit)}, target met"
            for v in judge(workload, run) if v.metric and v.verdict == "met" and v.target.unit in SPEED]


def _moves(before: Result, after: Result) -> tuple[list[str], list[str]]:
    """What is better and what is worse in `after`: only like against like, and only where the intervals do not overlap."""
    old, new = (run.pooled() or Observed(metrics=()) for run in (before, after))
    moved: dict[str, list[str]] = {"better": [], "worse": []}
    for metric in new.metrics:
        was = old.metric(metric.name)
        if was and was.detail == metric.detail and metric.name != "noise" and (seen := difference(was, metric)) in moved:
            moved[seen].append(f"{metric_name(metric.text, metric)}: {value_text(metric.estimate, metric.unit)}, {seen} than "
                               f"{value_text(was.estimate, was.unit)} in run {before.run}{_by(was, metric)}")
    return moved["better"], moved["worse"]


def _by(was: Metric, metric: Metric) -> str:
    change = change_text(was, metric)
    return f" ({change})" if change else ""


def _broke(workload: Workload, newest: Result, since: Sequence[Result]) -> list[str]:
    """Targets missed, and the runs since the judged run before that failed or were spoilt by their machine."""
    missed = [f"missed: {v.target.text} {bound_text(v.target)}, measured {_number(v.metric, v.target.bound)}"
              for v in judge(workload, newest) if v.metric and v.verdict == "missed"]
    ended = [f"run {run.run} of {run.started[:10]}{', smoke' if run.request.smoke else ''}: {state_text(run, judge(workload, run))}"
             for run in reversed(since) if run.status != "ok" or validity(run)[0] == "invalid"]
    return missed + _few(ended)


def _next(workload: Workload, newest: Result, judged: Sequence[Result]) -> list[str]:
    lines = []
    for v in judge(workload, newest):
        if v.verdict == "missed":
            lines.append(f"reach {v.target.text} {bound_text(v.target)}")
        elif v.verdict == "not judged":
            lines.append(f"get {v.target.text} judged; why it is not yet: {v.reason}")
    had = {item for run in judged for item in earned(workload, run)}
    lines += [f"show: {d.text}" for i, d in enumerate(workload.deliverables) if f"deliverable/{i}" not in had]
    following = next((week for week in WEEKS if week.week == workload.plan.week + 1), None)
    return lines + ([f"{title(following)}: {following.targets}"] if following else [])


def _links(run: Result, where: Where) -> list[str]:
    observed = run.pooled()
    charted = [table.name for table in observed.tables if table.chart] if observed else []
    folder = ("results", run.week, run.run)
    links = [("Run", where.url("tree", where.branch, *folder)),
             *(("Plot", where.url("blob", where.branch, *folder, f"{name}.png")) for name in charted[:1])]
    return [f"{name}: {url}" for name, url in links if url]
