"""The plan's week as a GitHub issue: title, body, labels and milestone; pure.

The first line of the body is a hidden marker. Every list of the plan that is ticked off is a list of checkboxes with an item
marker each (bot.checklist), so that a run can tick what it proves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bot.checklist import mark
from bot.report import bound_text
from workloads.plan import CADENCE, CRITERIA, MINIMUM, MONTHS, READING, WEEKS, PlannedWeek
from workloads.spec import Workload


@dataclass(frozen=True, slots=True)
class Kickoff:
    """What opens a week: `body` is Markdown, `labels` and `milestone` are created where they are missing."""

    title: str
    body: str
    labels: tuple[str, ...]
    milestone: str


def title(week: PlannedWeek) -> str:
    """The issue's title: "Week 01 - PyTorch 2.x compile + profiling"."""
    return f"Week {week.week:02d} - {week.title}"


def week_of(title: str, body: str = "") -> str | None:
    """The key of the week an issue is about, from its title, or else from the mark that kickoff puts first in the body."""
    named = re.match(r"Week (0[1-9]|1[0-6]) - ", title) or re.match(r"<!-- sprintbench:week week(0[1-9]|1[0-6]) -->", body)
    return f"week{named[1]}" if named else None


def milestone(month: int) -> str:
    """The month's milestone: "Month 1 - Training efficiency and ablations"."""
    return f"Month {month} - {MONTHS[month - 1]}"


def next_week(opened: Collection[int]) -> int | None:
    """The lowest week (1 to 16) that has no issue yet; None once all sixteen have."""
    return next((week.week for week in WEEKS if week.week not in opened), None)


def kickoff(week: PlannedWeek, workload: Workload | None) -> Kickoff:
    """The issue of one week. With a workload each of its targets is a checkbox that a run can tick; without one the plan's
    sentence is the one checkbox, for a person to tick."""
    targets = [(f"target/{t.name}", f"{t.text} {bound_text(t)}") for t in workload.targets] if workload else [("target/plan", week.targets)]
    reading = next(block for block in READING if block.month == week.month)
    body = "\n\n".join((
        f"<!-- sprintbench:week {week.key} -->",
        " · ".join(f"**{when}** {what}" for when, what in CADENCE),
        f"## Targets\n\nThe plan: {week.targets}.\n\n{_boxes(targets)}",
        f"## Deliverables\n\n{_boxes(_numbered('deliverable', week.deliverables))}",
        f"## Minimum each week\n\n{_boxes(_numbered('minimum', MINIMUM))}",
        f"## Hard-mode acceptance criteria\n\n{_boxes(_numbered('criteria', CRITERIA))}",
        f"## Reading list: {reading.name}\n\n{_boxes(_numbered('reading', (f'{topic}: {what}' for topic, what in reading.rows)))}",
        f"## How to measure\n\n{_how(week, workload)}",
    )) + "\n"
    return Kickoff(title(week), body, ("week", f"month-{week.month}"), milestone(week.month))


def _numbered(kind: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    return [(f"{kind}/{i}", text) for i, text in enumerate(texts)]


def _boxes(items: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- [ ] {text}{mark(item)}" for item, text in items)


def _how(week: PlannedWeek, workload: Workload | None) -> str:
    if workload is None:
        return f"This week has no workload yet, so there is nothing to measure. It comes as a folder `workloads/{week.key}_<name>/`."
    return ("Comment on this issue; the first line of the comment is the command.\n\n"
            "- `/bench` measures this week on the GPU runner and ticks what the run proves\n"
            "- `/bench --smoke` runs the same code in half a minute on a CPU; it is never judged\n"
            "- `/help` lists every command")
