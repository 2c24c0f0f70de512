"""What people ask of runs that exist: which work and wait, stop one, run one again; and whether one more may be taken.

A run is a card of the bot's on an issue and the Actions run that its first line names. As long as the card waits for a report
it holds what is measured, and counts as one of those that wait or work; a sweep sees to cards whose run is dead.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from tabulate import tabulate

from bot.cards import cancelled_card, waits_for
from bot.errors import HubRefused, UserError
from bot.forecast import alike
from bot.report import Where, command, cost_text, duration_text, gpu_hours_text, options
from workloads.spec import Request

if TYPE_CHECKING:
    from bot.hub import Card, Hub, Runner
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
# What no machine has taken by then is cancelled by the sweep: who asked has gone home.
GIVEN_UP = timedelta(hours=6)
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


def refusal(hub: Hub, issue: int, user: int, requests: Sequence[Request]) -> str | None:
    """Why user `user` (a number) may not have `requests` measured now, in Markdown; None where they may. One job at a time asks
    this, so what one was told still holds when it has written its cards. A run whose command was deleted counts for everybody,
    or deleting would be the way to more; the weeks of one command count as one. A command for many weeks may need more places
    than there are, so it is taken when nothing waits."""
    now = hub.now()
    comments = hub.comments(now - LONGEST_QUEUE)
    cards = [card for comment in comments if (card := hub.card(comment))]
    waiting = _waiting(cards)
    for one in waiting:
        if one.card.issue == issue and one.request in requests:
            return (f"Nothing new ran: {one.card.request_id} asks for the same (`{command(one.request)}`), and its report is still to "
                    "come. `--repeat` measures more than once.")
    if waiting and len(waiting) + max(1, len(requests)) > MOST_QUEUED:
        return FULL
    authors = {f"c{comment['id']}": (comment.get("user") or {}).get("id", user) for comment in comments}
    taken = {(card.request_id, again) for card in cards if card.created > now - HOUR and ((again := AGAIN in card.text) or card.measures)}
    return TOO_MANY if sum(authors.get(run, user) == user for run, _ in taken) >= MOST_AN_HOUR else None


# ---------------------------------------------------------------------------------------------------- /status


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one run is in line: "posting", "works" or "waits"; since when; its place among those that wait (from 1; 0 where it
    does not); and the seconds until it starts or, where it works, ends: nan where no run like it, or like one ahead, is known."""

    run: Waiting
    state: Literal["posting", "works", "waits"]
    since: datetime
    place: int
    left_s: float

    @property
    def expected(self) -> str:
        """What is expected next, in words."""
        if self.state == "posting":
            return "its report in a minute"
        if math.isnan(self.left_s):
            return "not known: a run ahead has no like in the past"
        return f"{'ends' if self.state == 'works' else 'starts'} in about {duration_text(self.left_s)}"


def line(hub: Hub, now: datetime, cards: list[Card], held: Ledger) -> list[Standing]:
    """The runs among `cards` that wait or work, in the order in which they follow one another on one machine."""
    active = _waiting(cards)
    runs = list(dict.fromkeys(one.card.workflow_run for one in active))[:MOST_AT_WORK]
    seen = {run: hub.bench_jobs(run) for run in runs}
    jobs = {one.card.id: seen.get(one.card.workflow_run, {}).get(one.week) for one in active}
    begun = [one for one in active if (job := jobs[one.card.id]) and job.status in ("in_progress", "completed")]
    found: list[Standing] = []
    ahead_s, place = 0.0, 0
    for one in (*begun, *(one for one in active if one not in begun)):
        past = [run.duration_s for run in alike(one.request, held.week(one.week))]
        takes_s = statistics.median(past) if past else math.nan
        job = jobs[one.card.id]
        if job and job.status == "completed":
            found.append(Standing(one, "posting", one.card.updated, 0, 0.0))
        elif job and job.status == "in_progress":
            left_s = max(takes_s - past_s(now, job.started), 0.0)  # in this order, so that nan stays nan
            found.append(Standing(one, "works", job.started, 0, left_s))
            ahead_s += left_s
        else:
            place += 1
            # A run that is run again has an old card; its job says since when it waits this time.
            found.append(Standing(one, "waits", job.started if job else one.card.created, place, ahead_s))
            ahead_s += takes_s
    return found


def recent(hub: Hub) -> tuple[datetime, list[Card]]:
    """GitHub's time, and the bot's cards of as long ago as a run may wait."""
    comments = hub.comments(hub.now() - LONGEST_QUEUE)
    return hub.now(), [card for comment in comments if (card := hub.card(comment))]


def past_s(now: datetime, since: datetime) -> float:
    return max(0.0, (now - since).total_seconds())


def status(hub: Hub, ledger: Callable[[], Ledger], where: Where) -> str:
    """The answer to `/status`, in Markdown: each run that works or waits, and how the GPU machines are."""
    held = ledger()
    now, cards = recent(hub)
    standings = line(hub, now, cards, held)
    waiting = [one for one in standings if one.state == "waits"]
    idle_s = max((past_s(now, one.since) for one in waiting), default=None) if len(waiting) == len(standings) else None
    health = "\n\n".join((_health(hub.runners(), idle_s), last_seen(held), _spent(held, now)))
    if not standings:
        return "\n\n".join(("### Nothing works and nothing waits", health))
    rows = [(_name(one.run.card, where), f"{one.run.week}{options(one.run.request)}", _state(one),
             f"{one.since:%H:%M} UTC, {duration_text(past_s(now, one.since))}", one.expected) for one in standings]
    return "\n\n".join((f"### {len(standings) - len(waiting)} at work, {len(waiting)} waiting",
                        tabulate(rows, ("Run", "Measures", "State", "Since", "Expected"), tablefmt="github"),
                        "What is expected follows from the median of past runs with the same options, one run at a time. What no "
                        f"machine has taken within {duration_text(GIVEN_UP.total_seconds())} is cancelled.", health))


def _spent(ledger: Ledger, now: datetime) -> str:
    """What the runs of the last month took, whatever became of them."""
    try:
        runs = ledger.runs()
    except UserError:  # somebody broke the ledger; what waits and works can be told all the same
        return "**GPU time:** not known, for a file under results/ is no result."
    spent = [run for of_week in runs.values() for run in of_week if datetime.fromisoformat(run.started) >= now - SPENT_WITHIN]
    cost = cost_text(spent)
    return (f"**GPU time, last {SPENT_WITHIN.days} days:** {gpu_hours_text(spent)} in {len(spent)} run{'' if len(spent) == 1 else 's'}"
            f"{f', {cost}' if cost else ''}.")


def _state(one: Standing) -> str:
    return {"posting": "is being posted", "works": "works", "waits": f"waits, place {one.place}"}[one.state]


def last_seen(held: Ledger) -> str:
    """When a GPU machine last handed over a result, by the ledger."""
    try:
        newest = held.newest()
    except UserError:  # somebody broke that file by hand
        newest = None
    if newest is None:
        return "No GPU runner has handed over a result yet."
    end = datetime.fromisoformat(newest.started) + timedelta(seconds=newest.duration_s)
    return f"A GPU runner last handed over a result at {end:%Y-%m-%d %H:%M} UTC ({newest.run})."


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
    """Stop run `run` ("c7"), or the newest of the issue that has not ended, and say so on its card; what to answer. Of a command
    for many weeks every week that has not been measured is stopped."""
    cards = _cards(hub, issue)
    named = [card for card in cards if card.request_id == run] if run else [card for card in cards if waits_for(card.text)]
    if not named:
        return UNKNOWN if run else NONE_ACTIVE
    name, workflow_run = named[0].request_id, named[0].workflow_run
    waiting = _waiting([card for card in cards if card.request_id == name])
    behind = hub.workflow_run(workflow_run)
    if not waiting or behind is None or behind.ended:
        return f"Nothing happened: {name} has ended already."
    jobs = hub.bench_jobs(workflow_run)
    states = {one.card.id: job.status if (job := jobs.get(one.week)) else "" for one in waiting}
    open_ = [one for one in waiting if states[one.card.id] != "completed"]
    if not open_:
        return f"Nothing happened: {name} is measured, and its report is on its way."
    if not hub.cancel(workflow_run):
        return f"Nothing happened: {name} ended just now."
    for one in open_:
        hub.edit_card(one.card.id, one.card.name, workflow_run, cancelled_card(name, one.request, where))
    was = "It was at work; its GPU is free in a moment." if "in_progress" in states.values() else "It had not begun."
    return f"Cancelled {name}. {was}"


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
    held = ledger()
    ended = [held.find(one.request_id, one.week) for one in cards if one.request_id == card.request_id]
    if all(result and result.status == "ok" for result in ended):
        return f"Nothing ran: {card.request_id} ended well, and its result stays. Ask for a new run to measure again."
    if why := refusal(hub, issue, user, ()):
        return why
    try:
        hub.rerun(card.workflow_run)
    except HubRefused as refused:
        if refused.status not in (403, 404, 409, 422):
            raise
        return f"Nothing ran: GitHub does not take {card.request_id} again; after a month it never does. Ask for a new run instead."
    return f"{card.request_id} {AGAIN}. Its own comment shows how it goes."
