"""What a crash or an outage left behind, found and settled: cards that wait for a run that has ended, commands without an answer.

A card waits as long as its hidden line says so (bot.report.waits_for), and it is the last thing that publishing writes. So a
card that waits, while its workflow run has ended, is all there is to look for: its result is in the run's artifact, and what was
not done of publishing it is done; or the artifact is gone, and the ledger has it; or it is lost, and the card says so. The
artifact is asked first, because a run that was started again has an older result in the ledger.

A command that has no card never got an answer. The sweep doesn't run it: only a new comment starts the GPU job, and that door
stays the only one. It claims the command, so that an event that comes late after all is ignored, and asks to write it again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bot import control, gate, publish, watch
from bot.artifact import Rejected, open_artifact, open_second
from bot.board import Board
from bot.cards import cancelled_card, lost, lost_card, refused_card, waits_for
from bot.checklist import is_log, log_tick, tick
from bot.errors import UserError
from bot.hub import Card, Hub, HubIssue
from bot.kickoff import week_of
from bot.publish import Place
from bot.report import Where, duration_text
from bot.store import Ledger
from workloads.spec import Request, Workload

# The names under which bench.yml uploads.
ARTIFACT = "result-{week}"
SECOND_ARTIFACT = "second-{week}"
SPOOLED_ARTIFACT = "spooled-{week}-{run}"
REACH = timedelta(days=35)  # GitHub ends every workflow run by then
# Events have come half an hour late, and a gate that works has five minutes.
GRACE = timedelta(minutes=40)
# Who wrote a command yesterday has asked again by now, or does not need it any more.
HEARD = timedelta(hours=24)
# A spool hands over with the next job of its machine; one that has none in so long is not waited for.
RESCUED = timedelta(days=7)
MOST = 20  # of each kind in one sweep; the oldest first, the others the next time
NOT_TAKEN = f"No GPU runner took it within {duration_text(control.GIVEN_UP.total_seconds())}, so it was taken out of the queue."
UNHEARD = ("Nothing ran: this command was not answered in time, because GitHub did not deliver it or the job that reads commands "
           "failed. Write it again in a new comment.")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A card that waits for the report of `request`; `asked` is when the command was written, "" where it is gone."""

    issue: int
    card: Card
    request: Request
    asked: str

    def place(self, where: Where) -> Place:
        """Where its report goes. `where` says which repository; the links are the card's own."""
        return _place(self.card, where)


def _place(card: Card, where: Where) -> Place:
    comment, run = int(card.request_id[1:]), card.workflow_run
    page = where.url("issues", str(card.issue))
    there = replace(where, comment_url=f"{page}#issuecomment-{comment}", run_url=where.url("actions", "runs", run))
    return Place(card.issue, card.id, comment, run, there, card.week)


@dataclass(frozen=True, slots=True)
class Unheard:
    """A command that has no card; `claimed` where somebody put eyes on it, so probably the gate, before it died."""

    ask: gate.Ask
    claimed: bool


@dataclass(frozen=True, slots=True)
class Log:
    """A comment with the headings of a week's log; `user` is its author's number."""

    comment: int
    issue: int
    login: str
    user: int
    url: str


@dataclass(frozen=True, slots=True)
class Left:
    """What is left behind, perhaps: the cards that wait, those that said of late that a result is lost, the commands without a
    card, and the logs of late; at most MOST of each, oldest first."""

    waiting: tuple[Waiting, ...]
    lost: tuple[Waiting, ...]
    unheard: tuple[Unheard, ...]
    logs: tuple[Log, ...]


def look(hub: Hub, workloads: Mapping[str, Workload], bot_login: str) -> Left:
    """Everything there is to do."""
    now = hub.now()
    comments = hub.comments(now - REACH)
    asked = {f"c{comment['id']}": str(comment["created_at"]) for comment in comments}
    cards = [(comment, card) for comment in comments if (card := hub.card(comment))]
    waiting, gone = ([Waiting(_issue(comment), card, request, asked.get(card.request_id, "")) for comment, card in cards
                      if (request := of(comment["body"])) and request.week in workloads] for of in (waits_for, lost))
    answered = {card.request_id for _, card in cards}
    unheard = [Unheard(ask, bool(_count(comment, "eyes"))) for comment in comments
               if GRACE <= now - datetime.fromisoformat(comment["created_at"]) <= HEARD
               and (ask := _command(comment, bot_login)) and ask.request_id not in answered]
    logs = [Log(int(comment["id"]), _issue(comment), comment["user"]["login"], int(comment["user"]["id"]), str(comment["html_url"]))
            for comment in comments if (comment.get("user") or {}).get("type") == "User" and is_log(comment["body"] or "")
            and now - datetime.fromisoformat(comment["updated_at"]) <= HEARD]
    return Left(tuple(waiting[:MOST]), tuple(one for one in gone if now - one.card.updated <= RESCUED)[-MOST:], tuple(unheard[:MOST]),
                tuple(logs[:MOST]))


def _issue(comment: dict[str, Any]) -> int:
    return int(comment["issue_url"].rpartition("/")[2])


def _count(comment: dict[str, Any], reaction: str) -> int:
    return int((comment.get("reactions") or {}).get(reaction, 0))


def _command(comment: dict[str, Any], bot_login: str) -> gate.Ask | None:
    """The command that a comment is, as the gate would have read it. None too where it was edited, for then nobody knows what
    it said, and where it has the thumb down that strangers get."""
    if comment["updated_at"] != comment["created_at"] or _count(comment, "-1"):
        return None
    pull: dict[str, Any] | None = {} if "/pull/" in comment["html_url"] else None
    try:
        found = gate.read({"action": "created", "comment": comment, "sender": comment["user"],
                           "issue": {"number": _issue(comment), "state": "open", "pull_request": pull}}, bot_login)
    except UserError:  # its author has no account any more
        return None
    return found if isinstance(found, gate.Ask) else None


def tick_log(hub: Hub, log: Log) -> bool:
    """Tick "logged in the issue" of a Week issue for a log by the issue's author, or, where the bot opened it, by somebody who may
    write to the repository; whether that changed the issue."""
    told = log_tick(log.comment, log.url)

    def change(issue: HubIssue) -> str:
        theirs = issue.author == log.user or (not issue.author and hub.role(log.login, log.user) in gate.MAY_COMMAND)
        return tick(issue.body, [told]) if theirs and week_of(issue.title, issue.body) else issue.body

    return hub.edit_issue_body(log.issue, change)


def tend(hub: Hub, ledger: Ledger, where: Where) -> int:
    """What waits while nobody watches it: say on each card where its run stands, ring the one that waits long, and cancel what no
    GPU machine took in time; how many were cancelled. `where` says which repository."""
    comments = hub.comments(hub.now() - control.LONGEST_QUEUE)
    now, cards = hub.now(), [card for comment in comments if (card := hub.card(comment))]
    standings = control.line(hub, now, cards, ledger)
    waits = [one for one in standings if one.state == "waits"]
    late = [one for one in waits if now - one.since >= control.GIVEN_UP]
    # A command for all weeks is one workflow run: while one of its weeks works, the others are in good hands.
    busy = {one.run.card.workflow_run for one in standings if one not in late}
    ended = {run for run in dict.fromkeys(one.run.card.workflow_run for one in late) if run not in busy and hub.cancel(run)}
    late = [one for one in late if one.run.card.workflow_run in ended]
    for one in standings:
        there = _place(one.run.card, where).where
        if one in late:
            card = one.run.card
            hub.edit_card(card.id, card.name, card.workflow_run, cancelled_card(card.request_id, one.run.request, there, NOT_TAKEN))
        else:
            watch.show(hub, now, ledger, [one], there)
    in_line = [one for one in waits if one not in late]
    if in_line and len(in_line) == len(standings) and control.past_s(now, in_line[0].since) >= control.LONG_WAIT_S:
        logins = {f"c{comment['id']}": str((comment.get("user") or {}).get("login", "")) for comment in comments}
        watch.remind(hub, now, ledger, in_line[0], logins.get(in_line[0].run.card.request_id, ""), cards)
    return len(late)


def settle(hub: Hub, branch: str, ledger: Ledger, left: Waiting, workloads: Mapping[str, Workload], where: Where,
           board: Board | None = None) -> tuple[Ledger, bool]:
    """Bring a card to its end, if its workflow run has come to its own; the ledger after that, and whether it was so. `ledger`
    is that of now. Raises HubRefused as publish does."""
    run = hub.workflow_run(left.card.workflow_run)
    if run and not run.ended:
        return ledger, False
    place, request, request_id = left.place(where), left.request, left.card.request_id
    if request.command == "accept":
        return publish.accept(hub, branch, ledger, request, workloads, place), True
    workload = workloads[request.week or ""]
    packed = hub.artifact(left.card.workflow_run, ARTIFACT.format(week=request.week)) if run else None
    card = lost_card(request_id, request, run.conclusion if run else "unknown", place.where)
    if run and packed is not None:
        with tempfile.TemporaryDirectory(prefix="sprintbench-") as folder:
            zipped = Path(folder) / "result.zip"
            zipped.write_bytes(packed)
            try:
                checked = open_artifact(zipped, workload, request, request_id, run.commit, ledger.baseline(request))
            except Rejected as reason:
                card = refused_card(request_id, request, str(reason), place.where)
            else:
                there = _since(place, left, checked.result.started)
                again = hub.artifact(left.card.workflow_run, SECOND_ARTIFACT.format(week=request.week))
                zipped.write_bytes(again or b"")
                second = open_second(zipped, workload, request, request_id, run.commit) if again else None
                return publish.publish(hub, branch, ledger, checked, workloads, there, board, second), True
    if stored := ledger.find(request_id, request.week or ""):
        publish.announce(hub, branch, ledger, stored, workloads, _since(place, left, stored.started), board)
    else:
        publish.give_up(hub, place, card, ledger, workloads)
    return ledger, True


def rescue(hub: Hub, branch: str, ledger: Ledger, left: Waiting, workloads: Mapping[str, Workload], where: Where,
           board: Board | None = None) -> tuple[Ledger, bool]:
    """Publish a result that was lost and came out of its machine's spool with a later job; the ledger after that, and whether it
    was so. It is held against the commit of its own run, as ever."""
    packed = hub.rescued(SPOOLED_ARTIFACT.format(week=left.request.week, run=left.card.request_id))
    run = hub.workflow_run(left.card.workflow_run) if packed else None
    if not packed or not run:
        return ledger, False
    with tempfile.TemporaryDirectory(prefix="sprintbench-") as folder:
        zipped = Path(folder) / "result.zip"
        zipped.write_bytes(packed)
        try:
            checked = open_artifact(zipped, workloads[left.request.week or ""], left.request, left.card.request_id, run.commit,
                                    ledger.baseline(left.request))
        except Rejected as reason:
            sys.stderr.write(f"what a spool held for {left.card.request_id} is left out: {reason}\n")
            return ledger, False
    place = _since(left.place(where), left, checked.result.started)
    return publish.publish(hub, branch, ledger, checked, workloads, place, board), True


def _since(place: Place, left: Waiting, started: str) -> Place:
    return replace(place, where=replace(place.where, queued_s=publish.waited_s(left.asked, started)))


def ask_again(hub: Hub, left: Unheard, workflow_run: str) -> bool:
    """Answer a command that got no answer, once; whether that was so. A stranger gets what the gate gives: one reaction."""
    ask = left.ask
    if hub.role(ask.login, ask.user) not in gate.MAY_COMMAND:
        hub.react(ask.comment, "-1")
        return False
    ours = hub.find_card(ask.issue, ask.request_id) is None if left.claimed else hub.claim(ask.comment)
    if ours:
        hub.post_card(ask.issue, ask.request_id, workflow_run, UNHEARD)
    return ours
