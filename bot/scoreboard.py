"""SCOREBOARD.md from the ledger: all sixteen weeks and the latest runs, in one region that only the bot writes; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from bot.acceptance import hold_back, judge
from bot.history import age
from bot.regions import replace
from bot.report import cost_text, duration_text, gpu_hours_text, gpu_text, interval_text, state_text
from workloads.plan import TITLE, WEEKS, PlannedWeek
from workloads.spec import Result, Workload

REGION = "scoreboard"
LATEST = 10
PREFACE = f"""# Scoreboard

{TITLE}. The tables below are drawn from [results/](results) after each run; write above them, not inside.
"""


def page(text: str, runs: Mapping[str, Sequence[Result]], workloads: Mapping[str, Workload]) -> str:
    """The whole of SCOREBOARD.md: `text` as people left it ("" where there is none yet) with the tables of now."""
    return replace(text or PREFACE, REGION, render(runs, workloads))


def render(runs: Mapping[str, Sequence[Result]], workloads: Mapping[str, Workload]) -> str:
    """The tables, from every run of each week by its key, in any order. A week shows its judged run: the newest full one
    that ended well on a machine that behaved."""
    ordered = {key: sorted(runs.get(key, ()), key=age) for key in workloads}
    judged = {key: next((r for r in reversed(of_week) if not hold_back(r)), None) for key, of_week in ordered.items()}
    rows = [_week_row(week, workloads.get(week.key), ordered.get(week.key, []), judged.get(week.key)) for week in WEEKS]
    done = sum(_met(workloads[key], run) == len(workloads[key].targets) for key, run in judged.items() if run)
    every = [run for of_week in ordered.values() for run in of_week]
    newest = sorted(every, key=age, reverse=True)[:LATEST]
    measured = sum(run is not None for run in judged.values())
    latest = [_run_row(workloads[run.week], run) for run in newest]
    return "\n\n".join((
        tabulate(rows, headers=("week", "title", "headline (95% interval)", "targets met", "judged run", "GPU", "date", "latest run"),
                 tablefmt="github", disable_numparse=True),
        f"**Weeks with every target met: {done} of {len(WEEKS)}** · weeks with a judged run: {measured} of {len(WEEKS)}",
        *_spent(ordered, every),
        "## Latest runs",
        tabulate(latest, headers=("run", "week", "state", "headline", "machine", "started (UTC)", "took"),
                 tablefmt="github", disable_numparse=True) if latest else "No run yet.",
    ))


def _spent(weeks: Mapping[str, Sequence[Result]], every: Sequence[Result]) -> tuple[str, ...]:
    """GPU time and cost, by week and in all, of runs that ended in any way; nothing where none held a GPU."""
    rows = [(key, str(len(runs)), gpu_hours_text(runs).removesuffix(" GPU-hours"), cost_text(runs) or "no price")
            for key, runs in weeks.items() if any(run.gpu_seconds for run in runs)]
    if not rows:
        return ()
    cost = f" · {told}" if (told := cost_text(every)) else ""
    return ("## GPU time",
            f"**{gpu_hours_text(every)}{cost}** in {len(every)} run{'s' if len(every) > 1 else ''}, failed and invalid ones too.",
            tabulate(rows, headers=("week", "runs", "GPU-hours", "cost"), tablefmt="github", disable_numparse=True))


def _met(workload: Workload, run: Result) -> int:
    return sum(v.verdict == "met" for v in judge(workload, run))


def _headline(workload: Workload, run: Result) -> str:
    verdict = next(v for v in judge(workload, run) if v.target == workload.headline)
    if verdict.metric is None:
        return ""
    number = interval_text(verdict.metric.estimate, verdict.metric.unit, verdict.target.bound)
    return f"{number}, proxy" if verdict.metric.proxy else number


def _machine(run: Result) -> str:
    return f"{gpu_text(run.machine)}, smoke" if run.request.smoke else gpu_text(run.machine)


def _link(run: Result) -> str:
    return f"[{run.run}](results/{run.week}/{run.run})"


def _week_row(week: PlannedWeek, workload: Workload | None, runs: Sequence[Result], judged: Result | None) -> tuple[str, ...]:
    name = f"[{week.key}](results/{week.key})" if runs else week.key
    latest = f"{_link(runs[-1])} {state_text(runs[-1], judge(workload, runs[-1]))}" if workload and runs else ""
    if workload is None or judged is None:
        return name, week.title, "not run", "", "", "", "", latest
    return (name, week.title, _headline(workload, judged), f"{_met(workload, judged)}/{len(workload.targets)}", _link(judged),
            _machine(judged), judged.started[:10], latest)


def _run_row(workload: Workload, run: Result) -> tuple[str, ...]:
    return (_link(run), run.week, state_text(run, judge(workload, run)), _headline(workload, run), _machine(run),
            run.started.replace("T", " ").rstrip("Z"), duration_text(run.duration_s))
