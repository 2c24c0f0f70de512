"""A comment's event to a decision: is it a command, may its author give it, is it new; and one answer to the author.

What needs no network is `read`, and most events end there. A stranger gets one reaction and no words, so nobody can make
the bot talk. Whatever goes wrong on the way to GitHub, the answer is no: a command runs only after every question was
answered with yes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, assert_never

from bot import commands, control
from bot.acceptance import hold_back
from bot.cards import accepting_card, every_week_card, queued_card
from bot.compare import compare
from bot.errors import HubError, HubRefused, UserError
from bot.forecast import dry_run
from bot.kickoff import week_of
from bot.opening import open_issue
from bot.post import post
from bot.report import Where, code
from workloads.plan import WEEKS
from workloads.spec import Request, Result, Workload, dumps

if TYPE_CHECKING:  # PyGithub takes a third of a second to import, and most events never need it
    from bot.hub import Card, Hub, Reaction
    from bot.store import Ledger

JOB_MIN = 300  # what bench.yml gives the GPU job, less half an hour to start and to hand over
MAY_COMMAND = ("write", "maintain", "admin")

NO_COMMAND = "no command"
NOT_NEW = "not a new comment"
NOT_A_PERSON = "not written by a person"
PULL_REQUEST = "on a pull request"
FORGED = "the sender is not the author"
STRANGER = "its author may not write to the repository"
UNANSWERED = "GitHub gave no answer, so nothing was accepted; run this job again"
DUPLICATE = "this command was taken by another workflow run"
CLOSED = "Nothing ran: this issue is closed or locked. Open it again, then write the command in a new comment."
WHICH_WEEK = "Nothing ran: this is no Week issue, so name a week after the command, for example `week01`."


@dataclass(frozen=True, slots=True)
class Ask:
    """A command by a person, before it is known whether they may give it."""

    comment: int
    issue: int
    login: str
    user: int
    title: str
    open: bool
    command: Request | commands.Refusal

    @property
    def request_id(self) -> str:
        return f"c{self.comment}"


@dataclass(frozen=True, slots=True)
class Leg:
    """One week of a command, for the jobs that come after: its card by name (bot.hub.Card) and number, and the commit that is
    measured in turn with this one (40 hexadecimal digits, or "")."""

    request: Request
    name: str
    card: int
    baseline: str = ""

    def output(self) -> dict[str, str]:
        """What GitHub's matrix holds: texts, since it reads numbers as floats."""
        return {"week": self.request.week or "", "request": dumps(self.request), "name": self.name, "card": str(self.card),
                "baseline": self.baseline}


@dataclass(frozen=True, slots=True)
class Decision:
    """What the next jobs are told. `run` says whether the GPU job runs, `accept` whether a baseline is written; `reason` is for
    the log, in this file's words."""

    verdict: Literal["accepted", "refused", "ignored"]
    reason: str
    run: bool = False
    request: Request | None = None
    request_id: str = ""
    issue: int = 0
    card: int = 0
    accept: bool = False
    legs: tuple[Leg, ...] = ()

    def outputs(self) -> str:
        """The lines for $GITHUB_OUTPUT: words of a closed set, numbers and one-line JSON of those, so no text can add a line."""
        values = {"verdict": self.verdict, "accepted": _json(self.verdict == "accepted"), "run": _json(self.run),
                  "accept": _json(self.accept), "request": dumps(self.request) if self.request else "", "request_id": self.request_id,
                  "issue": self.issue or "", "card": self.card or "",
                  "legs": json.dumps([leg.output() for leg in self.legs], separators=(",", ":")) if self.legs else ""}
        return "".join(f"{name}={value}\n" for name, value in values.items())


def _json(value: bool) -> str:
    return "true" if value else "false"


# ---------------------------------------------------------------------------------------------------- without the network


def read(event: Any, bot_login: str) -> Ask | Decision:
    """The command in an `issue_comment` event, or the decision where there is none to take further. Raises UserError for
    what is no such event."""
    comment, issue, sender = (_object(event, name) for name in ("comment", "issue", "sender"))
    author = _object(comment, "user")
    body, login = comment.get("body"), author.get("login")
    if not isinstance(body, str | None) or not isinstance(login, str):
        raise _malformed("comment")
    command = commands.parse(body)
    if command is None:
        return Decision("ignored", NO_COMMAND)
    if event.get("action") != "created":
        return Decision("ignored", NOT_NEW)
    if author.get("type") != "User" or comment.get("performed_via_github_app") or login.lower() == bot_login.lower():
        return Decision("ignored", NOT_A_PERSON)
    if issue.get("pull_request") is not None:
        return Decision("refused", PULL_REQUEST)
    if _number(sender, "id") != _number(author, "id"):
        return Decision("refused", FORGED)
    return Ask(_number(comment, "id"), _number(issue, "number"), login, _number(author, "id"), str(issue.get("title", "")),
               issue.get("state") == "open" and issue.get("locked") is not True, command)


def asked_at(event: Any) -> str:
    """When the comment was written, as GitHub writes a moment; "" where the event does not say."""
    return str(_object(event, "comment").get("created_at") or "")


def _object(data: Any, name: str) -> dict[str, Any]:
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, dict):
        raise _malformed(name)
    return value


def _number(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if type(value) is not int or value <= 0:
        raise _malformed(name)
    return value


def _malformed(name: str) -> UserError:
    return UserError(f"the event is no issue_comment event: its {name} is missing or of another type")


# ---------------------------------------------------------------------------------------------------- with the network


def answer(ask: Ask, hub: Hub, weeks: dict[str, Workload], where: Where, workflow_run: str, ledger: Callable[[], Ledger]) -> Decision:
    """Authorise, claim and answer one command; `workflow_run` is the id of this Actions run, and `ledger` reads the runs so
    far, for the commands that speak of them. Never raises HubError: where GitHub does not answer, the command is refused."""
    try:
        if hub.role(ask.login, ask.user) not in MAY_COMMAND:
            _try_reaction(hub, ask, "-1")
            return Decision("refused", STRANGER)
        return _carry_out(ask, hub, weeks, where, workflow_run, ledger)
    except HubError as error:
        sys.stderr.write(f"{error}\n")
        _try_reaction(hub, ask, "confused")
        return Decision("refused", UNANSWERED)


def _try_reaction(hub: Hub, ask: Ask, content: Reaction) -> None:
    """A sign to the author; the decision stands without it."""
    try:
        hub.react(ask.comment, content)
    except HubError as error:
        sys.stderr.write(f"{error}\n")


def _carry_out(ask: Ask, hub: Hub, weeks: dict[str, Workload], where: Where, workflow_run: str, ledger: Callable[[], Ledger]) -> Decision:
    made = {} if _claimed(hub, ask) else {card.name: card for card in hub.cards(ask.issue) if card.request_id == ask.request_id}
    if any(card.workflow_run != workflow_run for card in made.values()):
        return Decision("ignored", DUPLICATE)
    try:
        reply = _prepare(ask, hub, weeks, where, ledger)
    except UserError as error:  # a ledger that somebody broke by hand
        reply = _Reply("refused", f"Nothing ran: {code(str(error))}.")
    # Where there is a card this job is run again: whether there is room was asked when it ran first, or by what runs it again.
    if reply.starts and not made and (why := control.refusal(hub, ask.issue, ask.user, [start.request for start in reply.starts])):
        reply = _Reply("refused", why)
    card = _write(hub, ask, made, ask.request_id, workflow_run, reply.text)
    legs = tuple(Leg(start.request, start.name, card if start.name == ask.request_id else
                     _write(hub, ask, made, start.name, workflow_run, start.card), start.baseline) for start in reply.starts)
    return Decision(reply.verdict, "answered", bool(legs) and not reply.accept, reply.request, ask.request_id, ask.issue, card,
                    reply.accept, legs)


def _write(hub: Hub, ask: Ask, made: dict[str, Card], name: str, workflow_run: str, text: str) -> int:
    """The number of the bot's comment `name` with this text, which is new or there already."""
    if name not in made:
        return hub.post_card(ask.issue, name, workflow_run, text)
    hub.edit_card(made[name].id, name, workflow_run, text)
    return made[name].id


def _claimed(hub: Hub, ask: Ask) -> bool:
    try:
        return hub.claim(ask.comment)
    except HubRefused as refusal:
        if refusal.status == 404:  # deleted meanwhile; it was given by somebody who may, so it stands
            return False
        raise


@dataclass(frozen=True, slots=True)
class _Start:
    """One week to measure, or the acceptance to write: the name and the text of its card."""

    request: Request
    name: str
    card: str
    baseline: str = ""


@dataclass(frozen=True, slots=True)
class _Reply:
    """The words for the author; `request` as it was asked for, and what the next jobs shall start, if anything."""

    verdict: Literal["accepted", "refused"]
    text: str
    request: Request | None = None
    starts: tuple[_Start, ...] = ()
    accept: bool = False


def _prepare(ask: Ask, hub: Hub, weeks: dict[str, Workload], where: Where, ledger: Callable[[], Ledger]) -> _Reply:
    if not ask.open:
        return _Reply("refused", CLOSED)
    asked = ask.command
    if isinstance(asked, commands.Refusal):
        return _Reply("refused", asked.reply)
    match asked.command:
        case "help":
            return _Reply("accepted", commands.help_text())
        case "compare":
            return _Reply("accepted", _compare(ask, asked, weeks, where, ledger()))
        case "kickoff":
            return _Reply("accepted", _kickoff(asked, hub, weeks))
        case "bench" if asked.week == "all":
            return _every_week(ask, asked, weeks, where, ledger)
        case "bench" | "post":
            return _on_week(ask, asked, weeks, where, ledger)
        case "status":
            return _Reply("accepted", control.status(hub, ledger, where))
        case "cancel":
            return _Reply("accepted", control.cancel(hub, ask.issue, _run(asked), where))
        case "retry":
            return _Reply("accepted", control.retry(hub, ask.issue, _run(asked), ask.user, ledger))
        case "accept":
            return _accept(ask, asked, weeks, where, ledger())
    assert_never(asked.command)


def _on_week(ask: Ask, asked: Request, weeks: dict[str, Workload], where: Where, ledger: Callable[[], Ledger]) -> _Reply:
    """The commands that measure a week, or speak of what was measured of it."""
    week = asked.week or week_of(ask.title)
    if week is None:
        return _Reply("refused", WHICH_WEEK)
    if week not in weeks:
        known = ", ".join(f"`{key}`" for key in weeks)
        return _Reply("accepted", f"Nothing ran: {week} has no workload yet. Weeks that run: {known}.")
    if asked.command == "post":
        return _Reply("accepted", post(weeks[week], ledger().week(week), where))
    request = replace(asked, week=week)
    if why := _beyond(weeks[week], request):
        return _Reply("refused", why)
    baseline = ledger().baseline(request) if request.vs is not None else ""
    if request.vs is not None and not baseline:
        return _Reply("refused", f"Nothing ran: [results/]({_results(where)}) has no run c{request.vs} of {week} with a known commit.")
    if asked.dry_run:
        return _Reply("accepted", dry_run(weeks[week], request, ledger().week(week)))
    card = queued_card(ask.request_id, request, where)
    return _Reply("accepted", card, request, (_Start(request, ask.request_id, card, baseline),))


def _beyond(workload: Workload, request: Request) -> str | None:
    """Why a request is more than this week, or one job, can hold; None where it is not."""
    if request.gpus > workload.most_gpus:
        return f"Nothing ran: {workload.key} can use {workload.most_gpus} GPU{'s' if workload.most_gpus > 1 else ''} and no more."
    if request.processes * workload.timeout_min > JOB_MIN:
        return (f"Nothing ran: {request.processes} processes of up to {workload.timeout_min} minutes are more than the {JOB_MIN} minutes "
                "that one job has. Ask for fewer with `--repeat`.")
    return None


def _every_week(ask: Ask, asked: Request, weeks: dict[str, Workload], where: Where, ledger: Callable[[], Ledger]) -> _Reply:
    """`/bench all`: each week that can run becomes a run of its own, with a comment of its own. Run again, it leaves out the
    weeks that ended well."""
    if asked.vs is not None:
        return _Reply("refused", "Nothing ran: `--vs` names a run of one week, so name that week in place of `all`.")
    requests = [replace(asked, week=key) for key, workload in weeks.items() if not _beyond(workload, asked)]
    if not requests:
        return _Reply("refused", f"Nothing ran: no week runs on {asked.gpus} GPUs, or that often.")
    held = ledger()
    if asked.dry_run:
        return _Reply("accepted", "\n".join(dry_run(weeks[r.week or ""], r, held.week(r.week or "")) for r in requests))
    done = {r.week for r in requests if (run := held.find(ask.request_id, r.week or "")) and run.status == "ok"}
    starts = tuple(_Start(r, f"{ask.request_id}/{r.week}", queued_card(ask.request_id, r, where)) for r in requests if r.week not in done)
    legs = [(r.week or "", "", "measured" if r.week in done else "") for r in requests]
    return _Reply("accepted", every_week_card(legs, where), asked, starts)


def _accept(ask: Ask, asked: Request, weeks: dict[str, Workload], where: Where, ledger: Ledger) -> _Reply:
    run = _found(ask, asked.runs[0], ledger)
    if run is None or run.week not in weeks:
        return _Reply("refused", f"Nothing was accepted: [results/]({_results(where)}), where finished runs are, has no c{asked.runs[0]}.")
    if why := hold_back(run):
        return _Reply("refused", f"Nothing was accepted: {run.run} is no baseline, for it is not judged ({why}).")
    if run.run in ledger.accepted(run.week):
        return _Reply("accepted", f"{run.run} is a baseline of {run.week} already.")
    request = replace(asked, week=run.week)
    card = accepting_card(request, run.week, where)
    return _Reply("accepted", card, request, (_Start(request, ask.request_id, card),), accept=True)


def _found(ask: Ask, number: int, ledger: Ledger) -> Result | None:
    """A run by its number: of this issue's week first, for `/bench all` gives one number to a run of each week."""
    return ledger.find(f"c{number}", week_of(ask.title) or "") or ledger.find(f"c{number}")


def _results(where: Where) -> str:
    return where.url("tree", where.branch, "results")


def _run(asked: Request) -> str | None:
    return f"c{asked.runs[0]}" if asked.runs else None


def _compare(ask: Ask, asked: Request, weeks: dict[str, Workload], where: Where, ledger: Ledger) -> str:
    first, second = (_found(ask, number, ledger) for number in asked.runs)
    if first is None or second is None:
        which = "neither of the two runs is" if first is second else "the first run is not" if first is None else "the second run is not"
        return f"Nothing to compare: {which} in [results/]({_results(where)}), where every finished run is."
    if first.week != second.week:
        return f"Nothing to compare: the first run is of {first.week}, the second of {second.week}. Two runs of one week are needed."
    if first.week not in weeks:
        return f"Nothing to compare: {first.week} has no workload here any more."
    return compare(weeks[first.week], first, second, where)


def _kickoff(asked: Request, hub: Hub, weeks: dict[str, Workload]) -> str:
    week = next(planned for planned in WEEKS if planned.key == asked.week)
    number, new = open_issue(hub, week, weeks.get(week.key), hub.week_issues())
    return f"Opened {week.key}: #{number}." if new else f"{week.key} has its issue already: #{number}."
