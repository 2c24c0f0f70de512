"""What the bot asks of GitHub, as about fifteen verbs that are safe to repeat; the only importer of PyGithub.

PyGithub authenticates, paces and connects. Its object layer is left out on purpose: it hides the status code that tells a
claim won (201) from a claim lost (200), fetches on its own, and takes an HTML page with status 200 for success. Its own
retries repeat a POST that GitHub may have carried out, so they are off, and all retrying is in `_ask` and `_once`.
"""

from __future__ import annotations

import base64
import email.utils
import functools
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

T = TypeVar("T")


class _Unanswered(HubError):
    """No usable answer to one exchange; `after_s` is what GitHub asked to wait."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    data: Any


@dataclass(frozen=True, slots=True)
class Card:
    """The bot's own comment for one request. `workflow_run` is the Actions run that made it."""

    id: int
    workflow_run: str


@dataclass(frozen=True, slots=True)
class HubIssue:
    number: int
    title: str
    body: str
    state: str
    url: str


def signed(body: str, request_id: str, workflow_run: str) -> str:
    """`body` under the hidden first line by which the bot finds its comment again, with the Actions run that wrote it. The
    mark is honoured on the bot's own comments only."""
    text = body.removeprefix(f"<!-- sprintbench:card {request_id} -->").lstrip("\n")
    return f"<!-- sprintbench:card {request_id} run={workflow_run} -->\n\n{text}"


class Hub:
    """One repository on GitHub (or on the server at `api_url`), as `login`."""

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

    def find_card(self, issue: int, request_id: str) -> Card | None:
        """The bot's comment for a request, if it has made one."""
        start = f"<!-- sprintbench:card {request_id} run="
        for comment in self._pages(f"/issues/{issue}/comments", {}):
            body = comment.get("body") or ""
            first = body.splitlines()[0] if body else ""
            author = comment.get("user") or {}
            if author.get("login") == self._login and first.startswith(start):
                return Card(comment["id"], first.removeprefix(start).removesuffix(" -->"))
        return None

    def post_card(self, issue: int, request_id: str, workflow_run: str, body: str) -> int:
        """Comment on an issue, once however often it is tried; the comment's id."""
        def find() -> int | None:
            card = self.find_card(issue, request_id)
            return card.id if card else None

        return self._once(find, "POST", f"/issues/{issue}/comments", {"body": signed(body, request_id, workflow_run)},
                          read=lambda r: _whole(r, "id"))

    def edit_card(self, card: int, request_id: str, workflow_run: str, body: str) -> None:
        """Replace the text of the bot's comment. Raises HubRefused (404) where somebody deleted it."""
        self._ask("PATCH", f"/issues/comments/{card}", {"body": signed(body, request_id, workflow_run)}, read=lambda r: _whole(r, "id"))

    # ------------------------------------------------------------------------------------------------ issues

    def issue(self, number: int) -> HubIssue:
        return self._ask("GET", f"/issues/{number}", read=lambda r: _issue(r.data))

    def edit_issue_body(self, number: int, change: Callable[[HubIssue], str]) -> bool:
        """Make the body what `change` says of the issue as it is right now; True if that altered it. The last writer wins on
        GitHub, so the issue is read immediately before it is written, and `change` touches only the bot's own words."""
        issue = self.issue(number)
        body = change(issue)
        if body != issue.body:
            self._ask("PATCH", f"/issues/{number}", {"body": body}, read=lambda r: _whole(r, "number"))
        return body != issue.body

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

    # ------------------------------------------------------------------------------------------------ asking

    def _pages(self, path: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for page in range(1, MOST_PAGES + 1):
            items = self._ask("GET", path, query={**query, "per_page": PAGE, "page": page}, read=_objects)
            yield from items
            if len(items) < PAGE:
                return

    def _once(self, find: Callable[[], T | None], verb: str, path: str, body: dict[str, Any], *, read: Callable[[Reply], T]) -> T:
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
        try:
            status, headers, text = self._requester.requestJson(verb, self._root + path, dict(query), None, body)
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
            return read(Reply(status, json.loads(text)))
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


def _objects(reply: Reply) -> list[dict[str, Any]]:
    if not isinstance(reply.data, list):
        raise ValueError("no list")
    return reply.data


def _name(file: dict[str, Any]) -> str:
    return str(file["filename"])


def _same(sha: str, expected: str) -> str:
    if sha != expected:
        raise ValueError("GitHub stored other bytes")
    return sha


def _issue(data: dict[str, Any]) -> HubIssue:
    return HubIssue(int(data["number"]), str(data["title"]), data["body"] or "", str(data["state"]), str(data["html_url"]))


def _content(reply: Reply) -> bytes:
    if reply.data["encoding"] != "base64":
        raise ValueError("GitHub leaves out the content of a large file")
    return base64.b64decode(_text(reply, "content"))
