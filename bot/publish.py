"""The sequences that write to GitHub, in the order that survives a crash: ledger, checklist, reaction, card.

Each step looks before it writes, so that a sequence may be cut anywhere and run again from its start. The ledger comes
first: once a result is in it nothing is lost, and what follows can be drawn from it again. The card comes last: as long as
it waits, something is left to do, and that is all that a sweep has to know. The board, where there is one, follows all that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from bot import store
from bot.acceptance import judge
from bot.artifact import Checked
from bot.board import Board, reached
from bot.cards import accepted_card, every_week_card, ring, waits_for
from bot.checklist import checks_tick, tick, ticks
from bot.errors import HubRefused
from bot.hub import Hub, HubIssue
from bot.kickoff import next_week, week_of
from bot.opening import open_issue
from bot.report import Where, gpu_text, notice, report, state_text
from bot.store import Ledger
from workloads.plan import planned
from workloads.spec import Request, Result, Workload

# The comment or its issue was deleted: nobody waits there any more, and the ledger has the result.
GONE = (404, 410)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the answer to a command goes: its issue, the card on it, the command's comment, and the Actions run that answers.
    `week` is that of the card where the command was for all of them, `branch` the default branch, `login` who asked."""

    issue: int
    card: int
    comment: int
    workflow_run: str
    where: Where
    week: str = ""
    branch: str = "main"
    login: str = ""

    @property
    def request_id(self) -> str:
        return f"c{self.comment}"

    @property
    def name(self) -> str:
        """The card's name (bot.hub.Card)."""
        return f"{self.request_id}/{self.week}" if self.week else self.request_id


def publish(hub: Hub, branch: str, ledger: Ledger, checked: Checked, workloads: Mapping[str, Workload], place: Place,
            board: Board | None = None, second: Checked | None = None) -> Ledger:
    """Store a checked result, tick what it proves, mark the command as done and turn the card into its report; the ledger
    with it. `second` is the run that was made again where the first looked changed; it is stored first, for what is said of the
    first depends on it. Raises HubRefused, after every step was tried, where one may not be done."""
    for one in filter(None, (second, checked)):
        ledger = store.put(hub, branch, ledger, one, workloads)
    # What the ledger holds is shown: of a run that was run again, the result that ended well stays.
    held = ledger.find(checked.result.run, checked.result.week) or checked.result
    announce(hub, branch, ledger, held, workloads, place, board)
    return ledger


def announce(hub: Hub, branch: str, ledger: Ledger, result: Result, workloads: Mapping[str, Workload], place: Place,
             board: Board | None = None) -> None:
    """All of `publish` that comes after the ledger, which holds `result`. Raises HubRefused as it does."""
    workload = workloads[result.week]
    where = replace(place.where, branch=branch, ledger=ledger.sha)
    text = report(workload, result, where, ledger.history(result))
    _each(lambda: _tick(hub, place, workload, result),
          lambda: hub.react(place.comment, "rocket" if result.status == "ok" else "confused"),
          lambda: _show(hub, place, text),
          lambda: _sum_up(hub, place, ledger, workloads),
          lambda: _alert(hub, place, notice(workload, result, ledger.history(result))),
          lambda: board.move(place.issue, reached(workload, result), workload.key) if board else None)


def give_up(hub: Hub, place: Place, card: str, ledger: Ledger, workloads: Mapping[str, Workload]) -> None:
    """Turn the card into `card`, which says why there is no result. The ledger holds real results only, so it stays as it is."""
    _each(lambda: hub.react(place.comment, "confused"),
          lambda: _show(hub, place, card),
          lambda: _sum_up(hub, place, ledger, workloads))


def accept(hub: Hub, branch: str, ledger: Ledger, request: Request, workloads: Mapping[str, Workload], place: Place) -> Ledger:
    """Write down that a run is the new baseline of its week, and say so on the card; the ledger with it. Raises HubRefused as
    publish does."""
    week, run = request.week or "", f"c{request.runs[0]}"
    baseline = ledger.find(run, week)
    if baseline is None:  # the gate saw it, so somebody took it out of the ledger since
        gone = f"Nothing was accepted: results/ has no {run} any more."
        _each(lambda: hub.react(place.comment, "confused"), lambda: _show(hub, place, gone))
        return ledger
    ledger = store.accept(hub, branch, ledger, baseline, place.request_id, workloads)
    text = accepted_card(week, run, gpu_text(baseline.machine), replace(place.where, branch=branch))
    _each(lambda: hub.react(place.comment, "rocket"), lambda: _show(hub, place, text))
    return ledger


def _each(*steps: Callable[[], None]) -> None:
    """Every step, even if GitHub refuses one before; then the first refusal that is not just somebody's deletion."""
    refused: HubRefused | None = None
    for step in steps:
        try:
            step()
        except HubRefused as refusal:
            sys.stderr.write(f"{refusal}\n")
            refused = refused or (None if refusal.status in GONE else refusal)
    if refused:
        raise refused


def _show(hub: Hub, place: Place, text: str) -> None:
    try:
        hub.edit_card(place.card, place.name, place.workflow_run, text)
    except HubRefused as refusal:
        if refusal.status not in GONE:
            raise
        card = hub.find_card(place.issue, place.name)  # posted anew by an attempt before this one
        if card is None:
            hub.post_card(place.issue, place.name, place.workflow_run, text)
        else:
            hub.edit_card(card.id, place.name, place.workflow_run, text)


def _tick(hub: Hub, place: Place, workload: Workload, result: Result) -> None:
    """Tick what `result` proves, on the issue of its own week: the command may have been given on another."""
    told = ticks(workload, result, f"{place.where.url('issues', str(place.issue))}#issuecomment-{place.card}")
    if not told:
        return
    if checks := hub.checks(place.branch):
        told = (*told, checks_tick(checks.passed, checks.commit, checks.url, result.run))
    seen: list[HubIssue] = []

    def change(issue: HubIssue) -> str:
        seen.append(issue)
        return tick(issue.body, told) if week_of(issue.title, issue.body) == workload.key else issue.body

    hub.edit_issue_body(place.issue, change)
    if week_of(seen[-1].title, seen[-1].body) != workload.key and (number := hub.week_issues().get(workload.key)):
        hub.edit_issue_body(number, change)


def _alert(hub: Hub, place: Place, text: str) -> None:
    """The one short reply that rings the person who asked; a command gets at most one, whatever it is for (bot.watch)."""
    name = f"{place.request_id}/notice"
    if text and hub.find_card(place.issue, name) is None:
        hub.post_card(place.issue, name, place.workflow_run, ring(place.login, text))


def _sum_up(hub: Hub, place: Place, ledger: Ledger, workloads: Mapping[str, Workload]) -> None:
    """The summary of a command for all weeks, as they stand by now: from the cards which of them wait, from the ledger how the
    others ended."""
    if not place.week:
        return
    cards = {card.name: card for card in hub.cards(place.issue) if card.request_id == place.request_id}
    legs = []
    for week, workload in workloads.items():
        card, held = cards.get(f"{place.request_id}/{week}"), ledger.find(place.request_id, week)
        if card or held:
            ended = state_text(held, judge(workload, held)) if held else "ended without a result"
            legs.append((week, str(card.id) if card else "", "" if card and waits_for(card.text) else ended))
    if place.request_id in cards:
        hub.edit_card(cards[place.request_id].id, place.request_id, place.workflow_run, every_week_card(legs, place.where))


def waited_s(asked: str, started: str) -> float | None:
    """Seconds from the comment to the start of its run, both as GitHub writes a moment; None where the first is not known, or
    the GPU machine's clock is behind."""
    if not asked:
        return None
    seconds = (datetime.fromisoformat(started) - datetime.fromisoformat(asked)).total_seconds()
    return seconds if seconds >= 0 else None


# ---------------------------------------------------------------------------------------------------- a new week


def open_week(hub: Hub, branch: str, ledger: Ledger, workloads: Mapping[str, Workload], key: str | None,
              board: Board | None = None) -> tuple[str, int, bool] | None:
    """Open the issue of week `key`, or of the first week without one, and see that the scoreboard is drawn; its key, its
    number and whether it is new, or None where all sixteen have one. A week that has an issue keeps it."""
    opened = hub.week_issues()
    number = next_week([_number(week) for week in opened]) if key is None else _number(key)
    made = None
    if number is not None:
        week = planned(number)
        made = (week.key, *open_issue(hub, week, workloads.get(week.key), opened))
    store.redraw(hub, branch, ledger, workloads)
    if made and board:
        board.add(made[1])
    return made


def _number(key: str) -> int:
    return int(key.removeprefix("week"))
