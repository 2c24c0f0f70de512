"""What people ask of runs that exist: which work and wait, stop one, run one again; and whether one more may be taken.

A run is a card of the bot's on an issue and the Actions run that its first line names. As long as the card waits for a report
it holds what is measured, and counts as one of those that wait or work; a sweep sees to cards whose run is dead.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tabulate import tabulate

from bot.errors import HubRefused, UserError
from bot.forecast import alike
from bot.report import Where, cancelled_card, cost_text, duration_text, gpu_hours_text, options, waits_for
from workloads.spec import Request

if TYPE_CHECKING:
    from bot.hub import Card, Hub, Job, Runner
    from bot.store import Ledger

MOST_QUEUED = 10
MOST_AN_HOUR = 6
HOUR = timedelta(hours=1)
# GitHub ends what no runner has taken for so long, so an older card waits in vain.
LONGEST_QUEUE = timedelta(hours=24)
# The jobs of no more runs than this, the oldest, are asked for: there are few GPU machines, and each question is a call.
MOST_AT_WORK = 3
# A free GPU machine takes a job within seconds, so after this long somebody should look at it.
LONG_WAIT_S = 600.0
# A month, as machines are billed.
SPENT_WITHIN = timedelta(days=30)

FULL = (f"Nothing ran: {MOST_QUEUED} runs wait or work already, and no more are taken. `/status` shows them; ask again when one of them "
        "has ended.")
TOO_MANY = (f"Nothing ran: {MOST_AN_HOUR} of your runs were taken within the hour, and that is as many as one person may ask for. "
            "Ask again later.")
UNKNOWN = "Nothing happened: no run of this issue has that number. A run is named after the comment that asked for it."
NONE_ACTIVE = "Nothing happened: no run of this issue waits or works."
NONE_YET = "Nothing happened: nothing has been measured on this issue yet."
# By this an answer is known for a run that was taken.
AGAIN = "runs again, with the same options at the same commit"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run whose report is to come: its card, and what it measures."""

    card: Card
    week: str
    request: Request


def _waiting(cards: list[Card]) -> list[Waiting]:
    """The runs among `cards` that wait or work, oldest first."""
    found = ((card, waits_for(card.text)) for card in sorted(cards, key=lambda card: card.id) if card.measures)
    return [Waiting(card, request.week, request) for card, request in found if request and request.week]


# ---------------------------------------------------------------------------------------------------- one more


def refusal(hub: Hub, user: int) -> str | None:
    """Why user `user` (a number) may have no further run now, in Markdown; None where they may. One job at a time asks this,
    so what one was told still holds when it has written its card. A run whose command was deleted counts for everybody, or
    deleting would be the way to more."""
    now = hub.now()
    comments = hub.comments(now - LONGEST_QUEUE)
    cards = [card for comment in comments if (card := hub.card(comment))]
    if len(_waiting(cards)) >= MOST_QUEUED:
        return FULL
    authors = {f"c{comment['id']}": (comment.get("user") or {}).get("id", user) for comment in comments}
    taken = [card for card in cards if card.created > now - HOUR and (card.measures or AGAIN in card.text)]
    return TOO_MANY if sum(authors.get(card.request_id, user) == user for card in taken) >= MOST_AN_HOUR else None


# ---------------------------------------------------------------------------------------------------- /status


@dataclass(slots=True)
class _Queue:
    """The runs as they follow one another: `ahead_s` is the time until the next begins, nan where that is not known."""

    now: datetime
    rows: list[tuple[str, ...]] = field(default_factory=list)
    ahead_s: float = 0.0
    waits: int = 0
    longest_s: float = 0.0

    def add(self, name: str, one: Waiting, job: Job | None, takes_s: float) -> None:
        if job and job.status == "completed":
            state, since, expected = "is being posted", one.card.updated, "its report in a minute"
        elif job and job.status == "in_progress":
            left_s = max(takes_s - self._past_s(job.started), 0.0)  # in this order, so that nan stays nan
            state, since, expected = "works", job.started, _expected("ends", left_s)
            self.ahead_s += left_s
        else:
            self.waits += 1
            self.longest_s = max(self.longest_s, self._past_s(one.card.updated))
            state, since, expected = f"waits, place {self.waits}", one.card.updated, _expected("starts", self.ahead_s)
            self.ahead_s += takes_s
        since_text = f"{since:%H:%M} UTC, {duration_text(self._past_s(since))}"
        self.rows.append((name, f"{one.week}{options(one.request)}", state, since_text, expected))

    def _past_s(self, since: datetime) -> float:
        return max(0.0, (self.now - since).total_seconds())


def status(hub: Hub, ledger: Callable[[], Ledger], where: Where) -> str:
    """The answer to `/status`, in Markdown: each run that works or waits, and how the GPU machines are."""
    now = hub.now()
    active = _waiting([card for comment in hub.comments(now - LONGEST_QUEUE) if (card := hub.card(comment))])
    runners = hub.runners()
    held = ledger()
    if not active:
        return "\n\n".join(("### Nothing works and nothing waits", _health(runners, None), _spent(held, now)))
    jobs = {one.card.id: hub.bench_job(one.card.workflow_run) for one in active[:MOST_AT_WORK]}
    begun = [one for one in active if (job := jobs.get(one.card.id)) and job.status in ("in_progress", "completed")]
    queue = _Queue(now)
    for one in (*begun, *(one for one in active if one not in begun)):
        past = [run.duration_s for run in alike(one.request, held.week(one.week))]
        queue.add(_name(one.card, where), one, jobs.get(one.card.id), statistics.median(past) if past else math.nan)
    table = tabulate(queue.rows, ("Run", "Measures", "State", "Since", "Expected"), tablefmt="github")
    return "\n\n".join((f"### {len(begun)} at work, {queue.waits} waiting", table,
                        "What is expected follows from the median of past runs with the same options, one run at a time. GitHub ends a run "
                        "that no machine has taken within 24 hours.",
                        _health(runners, queue.longest_s if queue.waits and not begun else None), _spent(held, now)))


def _spent(ledger: Ledger, now: datetime) -> str:
    """What the runs of the last month took, whatever became of them."""
    try:
        runs = ledger.runs()
    except UserError:  # somebody broke the ledger; what waits and works can be told all the same
        return "**GPU time:** not known, for a file under results/ is no result."
    recent = [run for of_week in runs.values() for run in of_week if datetime.fromisoformat(run.started) >= now - SPENT_WITHIN]
    cost = cost_text(recent)
    return (f"**GPU time, last {SPENT_WITHIN.days} days:** {gpu_hours_text(recent)} in {len(recent)} run{'' if len(recent) == 1 else 's'}"
            f"{f', {cost}' if cost else ''}.")


def _expected(what: str, seconds: float) -> str:
    return "not known: a run ahead has no like in the past" if math.isnan(seconds) else f"{what} in about {duration_text(seconds)}"


def _name(card: Card, where: Where) -> str:
    url = where.url("issues", str(card.issue))
    return f"[{card.request_id}]({url}#issuecomment-{card.id})" if url else card.request_id


def _health(runners: list[Runner] | None, idle_s: float | None) -> str:
    """How the GPU machines are. `idle_s`: nothing works, and a run has waited for so many seconds."""
    if runners is None:
        told = "**GPU runners:** they cannot be seen with this job's token, which may not administer the repository."
    elif not runners:
        told = "**GPU runners:** none is registered."
    else:
        online = [runner for runner in runners if runner.online]
        told = f"**GPU runners:** {len(online)} of {len(runners)} online, {sum(runner.busy for runner in online)} busy."
    if idle_s is None:
        return told
    late = " That is long for a free machine: see that one is online." if idle_s >= LONG_WAIT_S else ""
    return f"{told} Nothing works, and a run has waited {duration_text(idle_s)}.{late}"


# ---------------------------------------------------------------------------------------------------- /cancel


def cancel(hub: Hub, issue: int, run: str | None, where: Where) -> str:
    """Stop run `run` ("c7"), or the newest of the issue that has not ended, and say so on its card; what to answer."""
    cards = _cards(hub, issue)
    named = [card for card in cards if card.request_id == run] if run else [card for card in cards if waits_for(card.text)]
    if not named:
        return UNKNOWN if run else NONE_ACTIVE
    card = named[0]
    request, behind = waits_for(card.text), hub.workflow_run(card.workflow_run)
    if request is None or behind is None or behind.ended:
        return f"Nothing happened: {card.request_id} has ended already."
    job = hub.bench_job(card.workflow_run)
    if job and job.status == "completed":
        return f"Nothing happened: {card.request_id} is measured, and its report is on its way."
    try:
        hub.cancel(card.workflow_run)
    except HubRefused as refused:
        if refused.status != 409:
            raise
        return f"Nothing happened: {card.request_id} ended just now."
    hub.edit_card(card.id, card.request_id, card.workflow_run, cancelled_card(card.request_id, request, where))
    was = "It was at work; its GPU is free in a moment." if job and job.status == "in_progress" else "It had not begun."
    return f"Cancelled {card.request_id}. {was}"


def _cards(hub: Hub, issue: int) -> list[Card]:
    """The cards of the runs of an issue, newest first."""
    return sorted((card for card in hub.cards(issue) if card.measures), key=lambda card: -card.id)


# ---------------------------------------------------------------------------------------------------- /retry


def retry(hub: Hub, issue: int, run: str | None, user: int, ledger: Callable[[], Ledger]) -> str:
    """Run `run` ("c7"), or the newest of the issue, again: the same request at the same commit, under the same name and on
    the same card; what to answer. A run that ended well stays as it is."""
    cards = [card for card in _cards(hub, issue) if run in (None, card.request_id)]
    if not cards:
        return UNKNOWN if run else NONE_YET
    card = cards[0]
    behind = hub.workflow_run(card.workflow_run)
    if behind is None:
        return f"Nothing ran: GitHub has deleted the workflow run of {card.request_id}. Ask for a new run in its place."
    if not behind.ended:
        return f"Nothing ran: {card.request_id} has not ended yet. `/cancel {card.request_id}` stops it."
    held = ledger().find(card.request_id)
    if held and held.status == "ok":
        return f"Nothing ran: {card.request_id} ended well, and its result stays. Ask for a new run to measure again."
    if why := refusal(hub, user):
        return why
    try:
        hub.rerun(card.workflow_run)
    except HubRefused as refused:
        if refused.status not in (403, 404, 409, 422):
            raise
        return f"Nothing ran: GitHub does not take {card.request_id} again; after a month it never does. Ask for a new run instead."
    return f"{card.request_id} {AGAIN}. Its own comment shows how it goes."
