"""A week's issue, opened once and only once, by whoever asks: the Monday schedule, a person in Actions, or a comment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bot.kickoff import kickoff
from workloads.plan import PlannedWeek
from workloads.spec import Workload

if TYPE_CHECKING:  # the gate opens issues too, and imports PyGithub only with a hub to speak to
    from bot.hub import Hub

LABEL_COLOR = "0e8a16"


def open_issue(hub: Hub, week: PlannedWeek, workload: Workload | None, opened: Mapping[str, int]) -> tuple[int, bool]:
    """The number of a week's issue, and whether it is new. `opened` are the weeks that have one, by key (Hub.week_issues); a
    week among them keeps it, open or closed."""
    if week.key in opened:
        return opened[week.key], False
    plan = kickoff(week, workload)
    for label in plan.labels:
        hub.ensure_label(label, LABEL_COLOR, "A week of the sprint")
    return hub.open_week(week.key, plan.title, plan.body, plan.labels, hub.ensure_milestone(plan.milestone)), True
