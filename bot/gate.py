"""A comment's event to a decision: is it a command, may its author give it, is it new; and one answer to the author.

What needs no network is `read`, and most events end there. A stranger gets one reaction and no words, so nobody can make
the bot talk. Whatever goes wrong on the way to GitHub, the answer is no: a command runs only after every question was
answered with yes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, assert_never

from bot import commands, control
from bot.compare import compare
from bot.errors import HubError, HubRefused, UserError
from bot.forecast import dry_run
from bot.kickoff import week_of
from bot.opening import open_issue
from bot.post import post
from bot.report import Where, code, queued_card
from workloads.plan import WEEKS
from workloads.spec import Request, Workload, dumps

if TYPE_CHECKING:  # PyGithub takes a third of a second to import, and most events never need it
    from bot.hub import Hub, Reaction
    from bot.store import Ledger

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
class Decision:
    """What the next jobs are told. `run` says whether the GPU job runs; `reason` is for the log, in this file's words."""

    verdict: Literal["accepted", "refused", "ignored"]
    reason: str
    run: bool = False
    request: Request | None = None
    request_id: str = ""
    issue: int = 0
    card: int = 0

    def outputs(self) -> str:
        """The lines for $GITHUB_OUTPUT: words of a closed set, numbers and one-line JSON of those, so no text can add a line."""
        values = {"verdict": self.verdict, "accepted": _json(self.verdict == "accepted"), "run": _json(self.run),
                  "request": dumps(self.request) if self.request else "", "request_id": self.request_id,
                  "issue": self.issue or "", "card": self.card or ""}
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
    card = None if _claimed(hub, ask) else hub.find_card(ask.issue, ask.request_id)
    if card is not None and card.workflow_run != workflow_run:
        return Decision("ignored", DUPLICATE)
    try:
        reply = _prepare(ask, hub, weeks, where, ledger)
    except UserError as error:  # a ledger that somebody broke by hand
        reply = _Reply("refused", f"Nothing ran: {code(str(error))}.")
    if card is None:
        why = control.refusal(hub, ask.user) if reply.request else None
        reply = _Reply("refused", why) if why else reply
        number = hub.post_card(ask.issue, ask.request_id, workflow_run, reply.text)
    else:  # this job is run again; whether there is room was asked when it ran first, or by the command that runs it again
        number = card.id
        hub.edit_card(number, ask.request_id, workflow_run, reply.text)
    return Decision(reply.verdict, "answered", reply.request is not None, reply.request, ask.request_id, ask.issue, number)


def _claimed(hub: Hub, ask: Ask) -> bool:
    try:
        return hub.claim(ask.comment)
    except HubRefused as refusal:
        if refusal.status == 404:  # deleted meanwhile; it was given by somebody who may, so it stands
            return False
        raise


@dataclass(frozen=True, slots=True)
class _Reply:
    """The words for the author, and the request that the GPU job shall run, if any."""

    verdict: Literal["accepted", "refused"]
    text: str
    request: Request | None = None


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
            return _Reply("accepted", _compare(asked, weeks, where, ledger()))
        case "kickoff":
            return _Reply("accepted", _kickoff(asked, hub, weeks))
        case "bench" | "post":
            return _on_week(ask, asked, weeks, where, ledger)
        case "status":
            return _Reply("accepted", control.status(hub, ledger, where))
        case "cancel":
            return _Reply("accepted", control.cancel(hub, ask.issue, _run(asked), where))
        case "retry":
            return _Reply("accepted", control.retry(hub, ask.issue, _run(asked), ask.user, ledger))
        case "accept":
            return _Reply("accepted", commands.not_yet(f"`/{asked.command}`"))
    assert_never(asked.command)


def _on_week(ask: Ask, asked: Request, weeks: dict[str, Workload], where: Where, ledger: Callable[[], Ledger]) -> _Reply:
    """The commands that measure a week, or speak of what was measured of it."""
    if said := commands.unavailable(asked):
        return _Reply("accepted", said)
    week = asked.week or week_of(ask.title)
    if week is None:
        return _Reply("refused", WHICH_WEEK)
    if week not in weeks:
        known = ", ".join(f"`{key}`" for key in weeks)
        return _Reply("accepted", f"Nothing ran: {week} has no workload yet. Weeks that run: {known}.")
    if asked.command == "post":
        return _Reply("accepted", post(weeks[week], ledger().week(week), where))
    request = replace(asked, week=week)
    if asked.dry_run:
        return _Reply("accepted", dry_run(weeks[week], request, ledger().week(week)))
    return _Reply("accepted", queued_card(ask.request_id, request, where), request)


def _run(asked: Request) -> str | None:
    return f"c{asked.runs[0]}" if asked.runs else None


def _compare(asked: Request, weeks: dict[str, Workload], where: Where, ledger: Ledger) -> str:
    first, second = (ledger.find(f"c{number}") for number in asked.runs)
    if first is None or second is None:
        which = "neither of the two runs is" if first is second else "the first run is not" if first is None else "the second run is not"
        return f"Nothing to compare: {which} in [results/]({where.url('tree', where.branch, 'results')}), where every finished run is."
    if first.week != second.week:
        return f"Nothing to compare: the first run is of {first.week}, the second of {second.week}. Two runs of one week are needed."
    if first.week not in weeks:
        return f"Nothing to compare: {first.week} has no workload here any more."
    return compare(weeks[first.week], first, second, where)


def _kickoff(asked: Request, hub: Hub, weeks: dict[str, Workload]) -> str:
    week = next(planned for planned in WEEKS if planned.key == asked.week)
    number, new = open_issue(hub, week, weeks.get(week.key), hub.week_issues())
    return f"Opened {week.key}: #{number}." if new else f"{week.key} has its issue already: #{number}."
