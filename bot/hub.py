"""What the bot asks of GitHub, as some thirty verbs that are safe to repeat; the only importer of PyGithub.

PyGithub authenticates, paces and connects. Its object layer is left out on purpose: it hides the status code that tells a
claim won (201) from a claim lost (200), fetches on its own, and takes an HTML page with status 200 for success. Its own
retries repeat a POST that GitHub may have carried out, so they are off, and all retrying is in `_ask` and `_once`.
"""

from __future__ import annotations

import base64
import email.utils
import functools
import hashlib
import itertools
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import requests
from github import Auth, Github

from bot.errors import HubError, HubRefused, Moved
from bot.kickoff import week_of

Reaction = Literal["+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes"]

TRIES = 4
TIMEOUT_S = 20
# Longer than this is no pause but an outage: the job gives up, and a re-run goes on from where it stopped.
LONGEST_WAIT_S = 120.0
RATE_LIMIT_WAIT_S = 60.0
PAGE = 100
MOST_PAGES = 50
# GitHub's comparison of two commits lists no more files than this.
MOST_CHANGED = 300
ACTIONS_BOT = "github-actions[bot]"
CARD = re.compile(r"<!-- sprintbench:card (c\d+(?:/[a-z0-9]+)?) run=(\d+)( answer)? -->", re.ASCII)
BENCH = ".github/workflows/bench.yml"
# What the job that measures is called in bench.yml, leg by leg.
BENCH_JOB = re.compile(r"Bench (week\d\d)", re.ASCII)
# A little above what bot.artifact takes, so that what is too large is still seen to be.
MOST_ZIP_BYTES = 21 * 2**20
CHUNK_BYTES = 2**20
# GraphQL's own words for a failure of its own, which can come with HTTP 200.
PASSING = "something went wrong while executing your query"
HIDDEN = (403, 404)  # GitHub's answers where a token may not see something

T = TypeVar("T")


class _Unanswered(HubError):
    """No usable answer to one exchange; `after_s` is what GitHub asked to wait."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Reply:
    """`date` is GitHub's own clock, `location` where a redirection leads."""

    status: int
    data: Any
    date: str = ""
    location: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """The bot's own comment for one request. Its name is the request's id ("c7"), or, where one command leads to several
    comments, that and what each is about ("c7/week03"). `workflow_run` is the Actions run that made it; `measures` tells a run's
    card from the answer to a command that measures nothing."""

    id: int
    workflow_run: str
    name: str
    issue: int
    measures: bool
    text: str
    created: datetime
    updated: datetime

    @property
    def request_id(self) -> str:
        return self.name.partition("/")[0]

    @property
    def week(self) -> str:
        """The week of one of several comments; "" where the request has but one."""
        return self.name.partition("/")[2]


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """An Actions run: whether it has ended, how ("success", "failure", "cancelled"...), and the commit it ran at."""

    ended: bool
    conclusion: str
    commit: str


@dataclass(frozen=True, slots=True)
class Job:
    """The job that measures: "queued" (or another word for waiting), "in_progress" or "completed", and since when it works."""

    status: str
    started: datetime


@dataclass(frozen=True, slots=True)
class Runner:
    """A self-hosted runner; `labels` in lower case, as GitHub compares them."""

    online: bool
    busy: bool
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Overview:
    """The repository at a glance. `may` are the rights of this token ("pull", "push", "admin"...), empty where GitHub does not
    say."""

    default_branch: str
    public: bool
    archived: bool
    has_issues: bool
    may: frozenset[str]


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch that exists: whether it is protected in any way, and the kinds of rules that rulesets lay on it."""

    protected: bool
    rules: frozenset[str]


@dataclass(frozen=True, slots=True)
class ActionsSettings:
    """Settings > Actions > General. `allowed` is "all", "local_only" or "selected"; `rights` what workflows have
    that ask for none, "read" or "write"; `approves` whether they may approve pull requests."""

    enabled: bool
    allowed: str
    rights: str
    approves: bool


@dataclass(frozen=True, slots=True)
class WorkflowFile:
    """A workflow as Actions knows it: "active", or in what way it is disabled."""

    path: str
    state: str


@dataclass(frozen=True, slots=True)
class Checks:
    """How the newest workflow run of ci.yml on a branch ended, and its page."""

    passed: bool
    commit: str
    url: str


@dataclass(frozen=True, slots=True)
class HubIssue:
    """An issue; `author` is the number of its author, 0 where it was opened by the bot or the account is gone."""

    number: int
    title: str
    body: str
    state: str
    url: str
    node_id: str
    author: int = 0


def signed(body: str, name: str, workflow_run: str) -> str:
    """`body` under the hidden first line by which the bot finds its comment again, with the card's name and the Actions run
    that wrote it. The mark is honoured on the bot's own comments only. Each text on a run (bot.report's cards) has a mark
    already, and any other is marked as an answer."""
    text = re.sub(rf"\A<!-- sprintbench:card {re.escape(name.partition('/')[0])}(-2)? -->", "", body)
    answer = " answer" if text == body else ""
    return f"<!-- sprintbench:card {name} run={workflow_run}{answer} -->\n\n{text.lstrip(chr(10))}"


class Hub:
    """One repository on GitHub (or on the server at `api_url`), as `login`. `calls` counts what was asked of its API."""

    def __init__(self, repo: str, token: str, api_url: str, *, login: str = ACTIONS_BOT, pause_s: float = 1.0,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self._requester = Github(
            auth=Auth.Token(token), base_url=api_url, timeout=TIMEOUT_S, retry=None, lazy=True,
            seconds_between_requests=0, seconds_between_writes=pause_s, user_agent="sprintbench").requester
        self._root = f"/repos/{repo}"
        self._login = login
        self._pause_s = pause_s
        self._sleep = sleep
        self._uploaded: set[str] = set()
        self._now: datetime | None = None
        self.calls = 0

    # ------------------------------------------------------------------------------------------------ people

    def role(self, login: str, user_id: int) -> str:
        """The role of user `user_id` in the repository; "none" for a stranger, and where `login` is another's by now."""
        try:
            found = self._ask("GET", f"/collaborators/{quote(login, safe='')}/permission",
                              read=lambda r: (_whole(r, "user", "id"), _text(r, "role_name")))
        except HubRefused as refusal:
            if refusal.status == 404:
                return "none"
            raise
        return found[1] if found[0] == user_id else "none"

    # ------------------------------------------------------------------------------------------------ comments

    def claim(self, comment_id: int) -> bool:
        """Put the bot's eyes on a command. True: they are new, so the command is ours. False: they were there before."""
        return self._react(comment_id, "eyes") == 201

    def react(self, comment_id: int, content: Reaction) -> None:
        """Add a reaction; a comment that was deleted meanwhile needs none."""
        try:
            self._react(comment_id, content)
        except HubRefused as refusal:
            if refusal.status != 404:
                raise

    def _react(self, comment_id: int, content: Reaction) -> int:
        return self._ask("POST", f"/issues/comments/{comment_id}/reactions", {"content": content},
                         read=lambda r: (_whole(r, "id"), r.status)[1])

    def find_card(self, issue: int, name: str) -> Card | None:
        """The bot's comment of that name, if it has made one."""
        return next((card for card in self.cards(issue) if card.name == name), None)

    def cards(self, issue: int) -> Iterator[Card]:
        """The bot's cards and answers on an issue, oldest first."""
        return filter(None, map(self.card, self._pages(f"/issues/{issue}/comments", {})))

    def card(self, comment: dict[str, Any]) -> Card | None:
        """The card that a comment is, if it is the bot's and has the mark on its first line."""
        found = CARD.fullmatch("".join((comment.get("body") or "").splitlines()[:1]))
        mine = (comment.get("user") or {}).get("login") == self._login
        if not found or not mine:
            return None
        issue = int(comment["issue_url"].rpartition("/")[2])
        return Card(int(comment["id"]), found[2], found[1], issue, found[3] is None, comment["body"],
                    datetime.fromisoformat(comment["created_at"]), datetime.fromisoformat(comment["updated_at"]))

    def comments(self, since: datetime) -> list[dict[str, Any]]:
        """The comments of all issues that were written or edited since then, as an event would hold them, oldest first."""
        query = {"since": _stamp(since), "sort": "updated", "direction": "desc"}
        return sorted(self._pages("/issues/comments", query), key=lambda comment: int(comment["id"]))

    def post_card(self, issue: int, name: str, workflow_run: str, body: str) -> int:
        """Comment on an issue, once however often it is tried; the comment's id."""
        def find() -> int | None:
            card = self.find_card(issue, name)
            return card.id if card else None

        return self._once(find, "POST", f"/issues/{issue}/comments", {"body": signed(body, name, workflow_run)},
                          read=lambda r: _whole(r, "id"))

    def edit_card(self, card: int, name: str, workflow_run: str, body: str) -> None:
        """Replace the text of the bot's comment. Raises HubRefused (404) where somebody deleted it."""
        self._ask("PATCH", f"/issues/comments/{card}", {"body": signed(body, name, workflow_run)}, read=lambda r: _whole(r, "id"))

    # ------------------------------------------------------------------------------------------------ issues

    def issue(self, number: int) -> HubIssue:
        return self._ask("GET", f"/issues/{number}", read=lambda r: _issue(r.data))

    def edit_issue_body(self, number: int, change: Callable[[HubIssue], str]) -> bool:
        """Make the body what `change` says of the issue as it is right now; True if that altered it. The last writer wins on
        GitHub, so the issue is read immediately before it is written, every time, and `change` touches only the bot's own
        words."""
        attempt = 0
        while True:
            issue = self.issue(number)
            body = change(issue)
            if body == issue.body:
                return attempt > 0
            try:
                self._exchange("PATCH", f"/issues/{number}", {"body": body}, {}, lambda r: _whole(r, "number"))
                return True
            except _Unanswered as failure:
                attempt += 1
                self._wait(failure, attempt)

    def week_issues(self) -> dict[str, int]:
        """The issues of weeks, open or closed, by key ("week03"): known by their title, or by kickoff's mark where somebody
        changed it. Only an issue by the bot or somebody who belongs to the repository counts."""
        found: dict[str, int] = {}
        for issue in self._pages("/issues", {"state": "all", "sort": "created", "direction": "asc"}):
            known = (issue.get("user") or {}).get("login") == self._login \
                or issue.get("author_association") in ("OWNER", "MEMBER", "COLLABORATOR")
            if known and "pull_request" not in issue:
                week = week_of(str(issue.get("title")), issue.get("body") or "")
                if week:
                    found.setdefault(week, _issue(issue).number)
        return found

    def open_week(self, week: str, title: str, body: str, labels: tuple[str, ...], milestone: int) -> int:
        """Open the issue of a week, once however often it is tried; its number."""
        return self._once(lambda: self.week_issues().get(week), "POST", "/issues",
                          {"title": title, "body": body, "labels": list(labels), "milestone": milestone},
                          read=lambda r: _whole(r, "number"))

    def ensure_label(self, name: str, color: str, description: str) -> None:
        try:
            self._ask("POST", "/labels", {"name": name, "color": color, "description": description}, read=lambda r: _text(r, "name"))
        except HubRefused as refusal:
            if refusal.status != 422:  # 422: it is there already
                raise

    def ensure_milestone(self, title: str) -> int:
        """The number of the milestone with this title, made if need be."""
        def find() -> int | None:
            return next((m["number"] for m in self._pages("/milestones", {"state": "all"}) if m["title"] == title), None)

        return find() or self._once(find, "POST", "/milestones", {"title": title}, read=lambda r: _whole(r, "number"))

    # ------------------------------------------------------------------------------------------------ the repository

    def head(self, branch: str) -> str:
        """The commit a branch is at."""
        return self._ask("GET", f"/git/ref/heads/{quote(branch)}", read=lambda r: _text(r, "object", "sha"))

    def tree(self, commit: str) -> str:
        """The root tree of a commit."""
        return self._ask("GET", f"/git/commits/{commit}", read=lambda r: _text(r, "tree", "sha"))

    def changed(self, base: str, head: str) -> list[str]:
        """Paths that differ between two commits. Raises HubError where they are more than GitHub lists."""
        files = self._ask("GET", f"/compare/{base}...{head}", read=lambda r: [_name(f) for f in r.data["files"]])
        if len(files) >= MOST_CHANGED:
            raise HubError(f"more than {MOST_CHANGED} files changed since this job's commit")
        return files

    def read(self, path: str, ref: str) -> bytes | None:
        """A file of at most 1 MB at a commit; None where there is none."""
        try:
            return self._ask("GET", f"/contents/{quote(path)}", query={"ref": ref}, read=_content)
        except HubRefused as refusal:
            if refusal.status == 404:
                return None
            raise

    def commit(self, branch: str, base_sha: str, base_tree: str, files: dict[str, bytes], message: str) -> str:
        """Put `files` on top of `base_sha` as one commit and move the branch there; the new commit. Raises Moved where the
        branch is elsewhere by now. What is text travels inside the tree, so only binary files take a call of their own."""
        entries = [{"path": path, "mode": "100644", "type": "blob", **self._blob(content)} for path, content in sorted(files.items())]
        tree = self._ask("POST", "/git/trees", {"base_tree": base_tree, "tree": entries}, read=lambda r: _text(r, "sha"))
        made = self._ask("POST", "/git/commits", {"message": message, "tree": tree, "parents": [base_sha]}, read=lambda r: _text(r, "sha"))
        try:
            self._ask("PATCH", f"/git/refs/heads/{quote(branch)}", {"sha": made, "force": False}, read=lambda r: _text(r, "object", "sha"))
        except HubRefused as refusal:
            if refusal.status == 409 or (refusal.status == 422 and "fast forward" in str(refusal).lower()):
                raise Moved(f"{branch} has moved", refusal.status) from refusal
            raise
        return made

    def _blob(self, content: bytes) -> dict[str, str]:
        try:
            return {"content": content.decode()}
        except UnicodeDecodeError:
            sha = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            if sha not in self._uploaded:
                self._ask("POST", "/git/blobs", {"content": base64.b64encode(content).decode(), "encoding": "base64"},
                          read=lambda r: _same(_text(r, "sha"), sha))
                self._uploaded.add(sha)
            return {"sha": sha}

    # ------------------------------------------------------------------------------------------------ Actions

    def now(self) -> datetime:
        """The time by GitHub's clock, with which the times of comments can be compared: that of its last answer."""
        return self._now or self._ask("GET", "", read=lambda r: email.utils.parsedate_to_datetime(r.date))

    def workflow_run(self, number: str) -> WorkflowRun | None:
        """An Actions run; None where it was deleted."""
        try:
            return self._ask("GET", f"/actions/runs/{number}", read=lambda r: WorkflowRun(
                _text(r, "status") == "completed", str(r.data["conclusion"]), _text(r, "head_sha")))
        except HubRefused as refusal:
            if refusal.status == 404:
                return None
            raise

    def checks(self, branch: str) -> Checks | None:
        """How the tests of a branch ended when it was last pushed; None where none has ended or they cannot be seen."""
        query = {"branch": branch, "event": "push", "status": "completed", "per_page": 1}
        try:
            runs = self._ask("GET", "/actions/workflows/ci.yml/runs", query=query, read=lambda r: _objects(r, "workflow_runs"))
        except HubRefused as refusal:
            if refusal.status in (403, 404):
                return None
            raise
        return next((Checks(run["conclusion"] == "success", str(run["head_sha"]), str(run["html_url"])) for run in runs), None)

    def bench_jobs(self, workflow_run: str) -> dict[str, Job]:
        """The jobs of an Actions run that measure, by the key of their week, in its latest attempt; those that exist by now."""
        jobs = self._pages(f"/actions/runs/{workflow_run}/jobs", {}, within="jobs")
        found = ((BENCH_JOB.fullmatch(str(j["name"])), j) for j in jobs)
        return {named[1]: Job(str(j["status"]), datetime.fromisoformat(j["started_at"])) for named, j in found if named}

    def cancel(self, workflow_run: str) -> bool:
        """Stop an Actions run; False where it has ended already."""
        try:
            return self._ask("POST", f"/actions/runs/{workflow_run}/cancel", read=lambda _: True)
        except HubRefused as refusal:
            if refusal.status == 409:
                return False
            raise

    def rerun(self, workflow_run: str) -> None:
        """Run every job of an Actions run again, with the same event at the same commit. Raises HubRefused where it has not
        ended, or is more than a month old."""
        def find() -> bool | None:
            run = self.workflow_run(workflow_run)
            return True if run and not run.ended else None

        self._once(find, "POST", f"/actions/runs/{workflow_run}/rerun", None, read=lambda _: True)

    def runners(self) -> list[Runner] | None:
        """The self-hosted runners; None where this token may not see them."""
        try:
            return [Runner(r["status"] == "online", bool(r["busy"]), frozenset(str(label["name"]).lower() for label in r["labels"]))
                    for r in self._pages("/actions/runners", {}, within="runners")]
        except HubRefused as refusal:
            if refusal.status in HIDDEN:
                return None
            raise

    def artifact(self, workflow_run: str, name: str) -> bytes | None:
        """The newest zip that an Actions run left under `name`, cut at MOST_ZIP_BYTES; None where there is none any more."""
        try:
            held = self._ask("GET", f"/actions/runs/{workflow_run}/artifacts", query={"name": name},
                             read=lambda r: [int(a["id"]) for a in r.data["artifacts"] if not a["expired"]])
            return self._ask("GET", f"/actions/artifacts/{max(held)}/zip", read=_fetch) if held else None
        except HubRefused as refusal:
            if refusal.status in (404, 410):
                return None
            raise

    def rescued(self, name: str) -> bytes | None:
        """The newest zip of that name which a bench job left for a run of an earlier job; None where there is none. Anybody's pull
        request can upload an artifact of any name, so only bench.yml's own runs on a comment count."""
        held = self._ask("GET", "/actions/artifacts", query={"name": name}, read=lambda r: [
            (int(a["id"]), int(a["workflow_run"]["id"])) for a in r.data["artifacts"]
            if not a["expired"] and a["workflow_run"]["head_repository_id"] == a["workflow_run"]["repository_id"]])
        for artifact, run in sorted(held, reverse=True):
            made = self._ask("GET", f"/actions/runs/{run}", read=lambda r: (_text(r, "path").partition("@")[0], _text(r, "event")))
            if made == (BENCH, "issue_comment"):
                return self._ask("GET", f"/actions/artifacts/{artifact}/zip", read=_fetch)
        return None

    # ------------------------------------------------------------------------------------------------ GraphQL

    def graphql(self, query: str, variables: dict[str, str | int], *, read: Callable[[Any], T]) -> T:
        """What `read` makes of the data that answers `query`: a query, or a mutation with the same end however often it is carried
        out. Raises HubRefused where GraphQL says no, which it does with HTTP 200."""
        return self._ask("POST", self._requester.graphql_url, {"query": query, "variables": variables}, read=lambda r: read(_data(r)))

    # ------------------------------------------------------------------------------------------------ settings

    def overview(self) -> Overview:
        """Raises HubRefused where this token may not see the repository (404) or is none (401)."""
        return self._ask("GET", "", read=lambda r: Overview(
            _text(r, "default_branch"), not r.data["private"], bool(r.data["archived"]), bool(r.data["has_issues"]),
            frozenset(right for right, held in (r.data.get("permissions") or {}).items() if held)))

    def branch(self, name: str) -> Branch | None:
        """A branch; None where there is none of that name."""
        protected = self._unless_hidden(f"/branches/{quote(name)}", lambda r: bool(r.data["protected"]))
        if protected is None:
            return None
        rules = self._unless_hidden(f"/rules/branches/{quote(name)}", lambda r: frozenset(str(rule["type"]) for rule in r.data))
        return Branch(protected, rules or frozenset())

    def actions_settings(self) -> ActionsSettings | None:
        """None where this token may not see them. Where Actions are off, their workflows have no rights."""
        allowed = self._unless_hidden("/actions/permissions", lambda r: (
            bool(r.data["enabled"]), str(r.data.get("allowed_actions", "all"))))
        if allowed and not allowed[0]:
            return ActionsSettings(*allowed, "read", False)
        given = self._unless_hidden("/actions/permissions/workflow", lambda r: (
            _text(r, "default_workflow_permissions"), bool(r.data["can_approve_pull_request_reviews"])))
        return ActionsSettings(*allowed, *given) if allowed and given else None

    def fork_approval(self) -> str | None:
        """Whose pull requests from forks wait for an approval before they run; None where this token may not see it."""
        return self._unless_hidden("/actions/permissions/fork-pr-contributor-approval", lambda r: _text(r, "approval_policy"))

    def variable(self, name: str) -> str | None:
        """A variable of the repository for its workflows; None where it is not set, or may not be seen."""
        return self._unless_hidden(f"/actions/variables/{name}", lambda r: _text(r, "value"))

    def labels(self) -> frozenset[str]:
        return frozenset(str(label["name"]) for label in self._pages("/labels", {}))

    def workflows(self) -> list[WorkflowFile] | None:
        """The workflows of the default branch; None where this token may not see them."""
        try:
            return [WorkflowFile(str(w["path"]), str(w["state"])) for w in self._pages("/actions/workflows", {}, within="workflows")]
        except HubRefused as refusal:
            if refusal.status in HIDDEN:
                return None
            raise

    def _unless_hidden(self, path: str, read: Callable[[Reply], T]) -> T | None:
        try:
            return self._ask("GET", path, read=read)
        except HubRefused as refusal:
            if refusal.status in HIDDEN:
                return None
            raise

    # ------------------------------------------------------------------------------------------------ asking

    def _pages(self, path: str, query: dict[str, Any], *, within: str = "") -> Iterator[dict[str, Any]]:
        """The items of a list; `within` is where an answer holds it that is not the list itself."""
        for page in range(1, MOST_PAGES + 1):
            items = self._ask("GET", path, query={**query, "per_page": PAGE, "page": page}, read=lambda r: _objects(r, within))
            yield from items
            if len(items) < PAGE:
                return

    def _once(self, find: Callable[[], T | None], verb: str, path: str, body: dict[str, Any] | None, *,
              read: Callable[[Reply], T]) -> T:
        """A write that would have a second effect if repeated: after a failure, look whether it was carried out."""
        attempt = 0
        while True:
            try:
                return self._exchange(verb, path, body, {}, read)
            except _Unanswered as failure:
                attempt += 1
                self._wait(failure, attempt)
            found = find()
            if found is not None:
                return found

    def _ask(self, verb: str, path: str, body: dict[str, Any] | None = None, *, query: dict[str, Any] | None = None,
             read: Callable[[Reply], T]) -> T:
        """A question, or a write with the same end however often it is carried out."""
        attempt = 0
        while True:
            try:
                return self._exchange(verb, path, body, query or {}, read)
            except _Unanswered as failure:
                attempt += 1
                self._wait(failure, attempt)

    def pause(self, attempt: int) -> None:
        """Sleep before attempt number `attempt` of something that others do too: longer each time, and never all at once."""
        self._sleep(self._backoff_s(attempt))

    def _backoff_s(self, attempt: int) -> float:
        return self._pause_s * float(2**attempt) * random.uniform(1, 1.5)

    def _wait(self, failure: _Unanswered, attempt: int) -> None:
        """Sleep after failed attempt number `attempt`; raises `failure` where it was the last, or the next would come too late."""
        wait_s = failure.after_s if failure.after_s is not None else self._backoff_s(attempt)
        if attempt == TRIES or wait_s > LONGEST_WAIT_S:
            raise failure
        self._sleep(wait_s)

    def _exchange(self, verb: str, path: str, body: dict[str, Any] | None, query: dict[str, Any], read: Callable[[Reply], T]) -> T:
        what = f"{verb} {path}"
        url = path if "://" in path else self._root + path  # GraphQL's is no part of the repository
        self.calls += 1
        try:
            status, headers, text = self._requester.requestJson(verb, url, dict(query), None, body)
        except (requests.RequestException, RuntimeError) as error:  # RuntimeError: PyGithub on a redirect to another host
            raise _Unanswered(f"{what}: {type(error).__name__}") from error
        if status >= 500:
            raise _Unanswered(f"{what}: HTTP {status}", _retry_after(headers))
        if status >= 400:
            message = _message(text)
            if status == 429 or (status == 403 and _limited(headers, message)):
                after_s = _retry_after(headers)
                raise _Unanswered(f"{what}: rate limit", RATE_LIMIT_WAIT_S if after_s is None else after_s)
            raise HubRefused(f"{what}: HTTP {status} {message}", status)
        try:
            told = read(Reply(status, json.loads(text or "null"), headers.get("date", ""), headers.get("location", "")))
            self._now = email.utils.parsedate_to_datetime(headers["date"]) if "date" in headers else self._now
            return told
        except (ValueError, KeyError, TypeError) as error:
            raise _Unanswered(f"{what}: HTTP {status} with something else than the JSON that was asked for") from error


def _limited(headers: dict[str, Any], message: str) -> bool:
    return "retry-after" in headers or headers.get("x-ratelimit-remaining") == "0" or "rate limit" in message.lower()


def _retry_after(headers: dict[str, Any]) -> float | None:
    """Seconds that GitHub asks to wait. The reset time is compared with GitHub's own Date, so this machine's clock is not asked."""
    if str(headers.get("retry-after", "")).isdigit():
        return float(headers["retry-after"])
    if headers.get("x-ratelimit-remaining") == "0" and str(headers.get("x-ratelimit-reset", "")).isdigit() and "date" in headers:
        return max(0.0, float(headers["x-ratelimit-reset"]) - email.utils.parsedate_to_datetime(headers["date"]).timestamp())
    return None


def _message(text: str) -> str:
    """GitHub's own words for a refusal, for the log."""
    try:
        return str(json.loads(text)["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return "without a reason"


def _whole(reply: Reply, *keys: str) -> int:
    value = _at(reply, keys)
    if type(value) is not int:
        raise ValueError(f"{'.'.join(keys)} is no number")
    return value


def _text(reply: Reply, *keys: str) -> str:
    value = _at(reply, keys)
    if type(value) is not str:
        raise ValueError(f"{'.'.join(keys)} is no text")
    return value


def _at(reply: Reply, keys: tuple[str, ...]) -> Any:
    return functools.reduce(lambda data, key: data[key], keys, reply.data)


def _data(reply: Reply) -> Any:
    """The data of a GraphQL answer. What comes beside an error is no answer, whole or not."""
    answer = dict(reply.data)
    if not answer.get("errors"):
        return answer["data"]
    first = dict(answer["errors"][0])
    why = " ".join(f"{first.get('type', '')} {first['message']}".split())[:200]
    if "rate limit" in why.lower() or first.get("type") == "RATE_LIMITED":
        raise _Unanswered(f"GraphQL: {why}", RATE_LIMIT_WAIT_S)
    if PASSING in why.lower():
        raise _Unanswered(f"GraphQL: {why}")
    raise HubRefused(f"GraphQL: {why}", reply.status)


def _objects(reply: Reply, within: str) -> list[dict[str, Any]]:
    items = reply.data[within] if within else reply.data
    if not isinstance(items, list):
        raise ValueError("no list")
    return items


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")



def _fetch(reply: Reply) -> bytes:
    """What lies where GitHub points to: on another host, which is not shown the token."""
    try:
        with requests.get(reply.location, timeout=TIMEOUT_S, stream=True) as answer:
            answer.raise_for_status()
            return b"".join(itertools.islice(answer.iter_content(CHUNK_BYTES), MOST_ZIP_BYTES // CHUNK_BYTES))
    except requests.RequestException as error:
        raise _Unanswered(f"the artifact's storage: {type(error).__name__}") from error


def _name(file: dict[str, Any]) -> str:
    return str(file["filename"])


def _same(sha: str, expected: str) -> str:
    if sha != expected:
        raise ValueError("GitHub stored other bytes")
    return sha


def _issue(data: dict[str, Any]) -> HubIssue:
    author = data["user"] or {}
    return HubIssue(int(data["number"]), str(data["title"]), data["body"] or "", str(data["state"]), str(data["html_url"]),
                    str(data["node_id"]), int(author.get("id", 0)) if author.get("type") == "User" else 0)


def _content(reply: Reply) -> bytes:
    if reply.data["encoding"] != "base64":
        raise ValueError("GitHub leaves out the content of a large file")
    return base64.b64decode(_text(reply, "content"))
