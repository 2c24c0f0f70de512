"""The local hub keeps state as GitHub does, answers with GitHub's statuses, and breaks when it is asked to."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import LocalHub
from jsonschema import Draft7Validator

from localhub.for_act import END, TURN, for_act
from localhub.jobs import Turns
from localhub.replies import Replies
from localhub.repository import Repository
from localhub.state import BOT, Hub, Job, Machine, read_workflow

WEBHOOKS = Path(__file__).parent / "cases" / "webhooks"


class Client:
    """The API with one account's token; paths are below the repository."""

    def __init__(self, local: LocalHub, login: str | None) -> None:
        token = {None: None, "github-actions[bot]": local.token}.get(login, f"ghp_{login}")
        self.base = f"{local.url}/repos/{local.repo}"
        self.http = httpx.Client(headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=10)

    def __call__(self, method: str, path: str, sent: Any = None, accept: str = "application/vnd.github+json") -> httpx.Response:
        return self.http.request(method, f"{self.base}{path}", json=sent, headers={"Accept": accept})


@pytest.fixture
def acting(localhub: LocalHub) -> Iterator[Callable[[str | None], Client]]:
    """The API as somebody: a login, or None for someone without a token."""
    made: list[Client] = []

    def client(login: str | None) -> Client:
        made.append(Client(localhub, login))
        return made[-1]

    yield client
    for one in made:
        one.http.close()


@pytest.fixture
def bot(acting: Callable[[str | None], Client]) -> Client:
    return acting("github-actions[bot]")


def test_a_role_for_everyone_with_an_account(bot: Client, localhub: LocalHub) -> None:
    localhub.add_user("keeper", 7, "maintain")
    roles = {login: bot("GET", f"/collaborators/{login}/permission").json() for login in ("sprinter", "Keeper", "stranger")}
    assert {login: (reply["role_name"], reply["permission"], reply["user"]["id"]) for login, reply in roles.items()} == {
        "sprinter": ("admin", "admin", 1001), "Keeper": ("maintain", "write", 7), "stranger": ("read", "read", 1003)}
    assert bot("GET", "/collaborators/nobody/permission").status_code == 404


def test_who_may_ask_and_write(localhub: LocalHub, acting: Callable[[str | None], Client]) -> None:
    stranger, member, nobody = acting("stranger"), acting("member"), acting(None)
    number = localhub.open_issue("An issue").number
    comment = localhub.comment_as("member", number, "mine").id
    assert [
        stranger("GET", "/collaborators/sprinter/permission").status_code, stranger("POST", "/labels", {"name": "x"}).status_code,
        stranger("PATCH", f"/issues/comments/{comment}", {"body": "theirs"}).status_code,
        stranger("PATCH", f"/issues/{number}", {"state": "closed"}).status_code,
        nobody("POST", f"/issues/{number}/comments", {"body": "x"}).status_code,
        nobody("GET", f"/issues/{number}").status_code, member("PATCH", f"/issues/comments/{comment}", {"body": "edited"}).status_code,
    ] == [403, 403, 403, 403, 401, 200, 200]
    wrong = httpx.get(f"{localhub.url}/repos/{localhub.repo}", headers={"Authorization": "Bearer ghp_wrong"})
    assert (wrong.status_code, wrong.json()["message"]) == (401, "Bad credentials")


def test_an_issue_from_opening_to_closing(bot: Client, localhub: LocalHub) -> None:
    milestone = bot("POST", "/milestones", {"title": "Month 1"}).json()["number"]
    made = bot("POST", "/issues", {"title": "Week 01", "body": "b", "labels": ["week"], "milestone": milestone})
    assert (made.status_code, made.json()["labels"][0]["name"], made.json()["milestone"]["title"]) == (201, "week", "Month 1")
    assert made.json()["user"]["login"] == "github-actions[bot]"
    path = "/issues/1"
    assert [one["name"] for one in bot("POST", f"{path}/labels", {"labels": ["a", "b"]}).json()] == ["week", "a", "b"]
    assert [one["name"] for one in bot("PUT", f"{path}/labels", {"labels": ["b", "week"]}).json()] == ["b", "week"]
    assert [one["name"] for one in bot("DELETE", f"{path}/labels/week").json()] == ["b"]
    assert bot("DELETE", f"{path}/labels/week").status_code == 404
    closed = bot("PATCH", path, {"state": "closed", "body": "new"}).json()
    assert (closed["state"], closed["body"], closed["title"], closed["closed_at"] is None) == ("closed", "new", "Week 01", False)
    queries = ("", "?state=all", "?state=closed&labels=b", "?state=all&labels=no")
    listed = {query: len(bot("GET", f"/issues{query}").json()) for query in queries}
    assert listed == {"": 0, "?state=all": 1, "?state=closed&labels=b": 1, "?state=all&labels=no": 0}
    assert bot("GET", "/milestones").json()[0]["closed_issues"] == 1
    assert bot("PATCH", path, {"state": "open", "milestone": None}).json()["milestone"] is None


def test_what_github_refuses_is_422(bot: Client, localhub: LocalHub) -> None:
    number = localhub.open_issue("An issue").number
    comment = localhub.comment_as("member", number, "x").id
    long = "x" * 65_537
    bot("POST", "/labels", {"name": "Week", "color": "ff0000"})
    bot("POST", "/milestones", {"title": "m"})
    for method, path, sent, said in (
            ("POST", "/issues", {"title": "t", "body": long}, "Body is too long"),
            ("PATCH", f"/issues/{number}", {"body": long}, "Body is too long"),
            ("POST", f"/issues/{number}/comments", {"body": long}, "Body is too long"),
            ("PATCH", f"/issues/comments/{comment}", {"body": long}, "Body is too long"),
            ("POST", "/issues", {"title": "t", "milestone": 9}, "Validation Failed"),
            ("POST", "/labels", {"name": "week"}, "Validation Failed"),
            ("POST", "/labels", {"name": "other", "color": "#ff000"}, "Validation Failed"),
            ("POST", "/milestones", {"title": "m"}, "Validation Failed")):
        reply = bot(method, path, sent)
        assert (reply.status_code, reply.json()["message"][:len(said)]) == (422, said), path
    assert len(localhub.hub.issues) == 1
    assert bot("POST", f"/issues/{number}/comments", {"body": "x" * 65_536}).status_code == 201


def test_a_person_reacts_once_in_each_way(bot: Client, localhub: LocalHub, acting: Callable[[str | None], Client]) -> None:
    comment = localhub.comment_as("member", localhub.open_issue("An issue").number, "/bench")
    path = f"/issues/comments/{comment.id}/reactions"
    statuses = [bot("POST", path, {"content": content}).status_code for content in ("eyes", "eyes", "rocket")]
    assert statuses == [201, 200, 201]
    assert acting("sprinter")("POST", path, {"content": "eyes"}).status_code == 201
    given = bot("GET", f"{path}?content=eyes").json()
    assert [one["user"]["login"] for one in given] == ["github-actions[bot]", "sprinter"]
    assert bot("DELETE", f"{path}/{given[1]['id']}").status_code == 403
    assert bot("DELETE", f"{path}/{given[0]['id']}").status_code == 204
    assert len(bot("GET", path).json()) == 2


def test_long_lists_come_in_pages(bot: Client, localhub: LocalHub) -> None:
    number = localhub.open_issue("An issue").number
    for place in range(7):
        localhub.comment_as("member", number, str(place))
    bodies, address = [], f"{localhub.url}/repos/{localhub.repo}/issues/{number}/comments?per_page=3"
    while address:
        reply = bot.http.get(address)
        bodies.append([one["body"] for one in reply.json()])
        address = reply.links.get("next", {}).get("url", "")
    assert bodies == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert set(reply.links) == {"first", "prev"}


def commit(bot: Client, parent: str, tree: list[dict[str, Any]], message: str = "m") -> str:
    base = bot("GET", f"/git/commits/{parent}").json()["tree"]["sha"]
    made = bot("POST", "/git/trees", {"base_tree": base, "tree": tree})
    assert made.status_code == 201, made.text
    sha = bot("POST", "/git/commits", {"message": message, "tree": made.json()["sha"], "parents": [parent]}).json()["sha"]
    assert isinstance(sha, str)
    return sha


def test_one_commit_of_text_bytes_and_a_removal(bot: Client, localhub: LocalHub) -> None:
    first = localhub.put({"old/a.txt": b"a\n", "old/b.txt": b"b\n"})
    blob = bot("POST", "/git/blobs", {"content": base64.b64encode(b"\x00\xff").decode(), "encoding": "base64"}).json()["sha"]
    sha = commit(bot, first, [{"path": "new/c.txt", "mode": "100644", "type": "blob", "content": "c é\n"},
                              {"path": "new/d.bin", "mode": "100644", "type": "blob", "sha": blob},
                              {"path": "old/a.txt", "mode": "100644", "type": "blob", "sha": None}])
    assert bot("PATCH", "/git/refs/heads/main", {"sha": sha}).json()["object"]["sha"] == sha
    blobs = [entry for entry in localhub.git.entries("main", recursive=True) if entry.kind == "blob"]
    assert {entry.path: localhub.git.blob(entry.sha) for entry in blobs} == {
        "README.md": b"# A sprint\n", "old/b.txt": b"b\n", "new/c.txt": "c é\n".encode(), "new/d.bin": b"\x00\xff"}
    changed = bot("GET", f"/compare/{first}...main").json()
    assert {one["filename"]: one["status"] for one in changed["files"]} == {
        "new/c.txt": "added", "new/d.bin": "added", "old/a.txt": "removed"}
    assert (changed["status"], changed["ahead_by"], changed["behind_by"]) == ("ahead", 1, 0)
    assert localhub.git.commit(sha).author.name == "github-actions[bot]"


def test_a_branch_only_moves_forward(bot: Client, localhub: LocalHub) -> None:
    first = localhub.git.head()
    mine = commit(bot, first, [{"path": "x", "mode": "100644", "type": "blob", "content": "mine"}])
    theirs = localhub.put({"y": b"theirs"})
    refused = bot("PATCH", "/git/refs/heads/main", {"sha": mine})
    assert (refused.status_code, refused.json()["message"]) == (422, "Update is not a fast forward")
    assert localhub.git.head() == theirs
    assert bot("GET", f"/compare/{theirs}...{mine}").json()["status"] == "diverged"
    assert bot("PATCH", "/git/refs/heads/main", {"sha": "0" * 40}).json()["message"] == "Object does not exist"
    assert bot("PATCH", "/git/refs/heads/none", {"sha": mine}).json()["message"] == "Reference does not exist"
    assert [bot("POST", "/git/refs", {"ref": "refs/heads/data", "sha": mine}).status_code for _ in range(2)] == [201, 422]
    assert bot("GET", "/git/ref/heads/data").json()["object"]["sha"] == mine
    assert bot("GET", "/git/ref/heads/dat").status_code == 404
    assert bot("PATCH", "/git/refs/heads/main", {"sha": mine, "force": True}).status_code == 200
    assert bot("DELETE", "/git/refs/heads/data").status_code == 204


@pytest.mark.parametrize("item", [
    {"path": "../x", "content": "x"}, {"path": "/x", "content": "x"}, {"path": "a//b", "content": "x"},
    {"path": ".git/config", "content": "x"},
    {"path": "x", "sha": "0" * 40}, {"path": "x", "sha": "0" * 40, "content": "x"}])
def test_a_tree_that_git_must_not_have_is_refused(bot: Client, item: dict[str, str]) -> None:
    assert bot("POST", "/git/trees", {"tree": [{"mode": "100644", "type": "blob", **item}]}).status_code == 422


def test_contents_are_replaced_by_their_sha(bot: Client, localhub: LocalHub) -> None:
    def put(text: str, sha: str | None) -> httpx.Response:
        content = base64.b64encode(text.encode()).decode()
        return bot("PUT", "/contents/a/b.md", {"message": "m", "content": content} | ({"sha": sha} if sha else {}))

    made = put("one", None)
    sha = made.json()["content"]["sha"]
    tries = [made, put("two", None), put("two", "0" * 40), put("two", sha), put("three", sha)]
    assert [reply.status_code for reply in tries] == [201, 422, 409, 200, 409]
    assert base64.b64decode(bot("GET", "/contents/a/b.md").json()["content"]) == b"two"
    assert bot("GET", "/contents/a/b.md?ref=main", accept="application/vnd.github.raw+json").content == b"two"
    assert [one["name"] for one in bot("GET", "/contents/a").json()] == ["b.md"]
    assert bot("GET", "/contents/none").status_code == 404


WORKFLOW = b"""
name: Weekly
on:
  workflow_dispatch:
    inputs:
      week: {description: Which, required: true, type: string}
  schedule: [{cron: "0 6 * * 1"}]
jobs:
  one: {runs-on: ubuntu-latest, steps: [{run: "true"}]}
"""


def test_a_workflow_is_dispatched_as_its_file_says(bot: Client, localhub: LocalHub) -> None:
    fired: list[Any] = []
    localhub.put({".github/workflows/weekly.yml": WORKFLOW, ".github/workflows/other.yml": b"on: push\njobs: {a: {}}\n"})
    localhub.hub.listeners.append(lambda event, facts, sender: fired.append((event, facts["inputs"], sender.login)))
    room = "/actions/workflows"
    assert [one["name"] for one in bot("GET", room).json()["workflows"]] == [".github/workflows/other.yml", "Weekly"]
    sent = [("weekly.yml", {"ref": "main", "inputs": {"week": "week01"}}), ("weekly.yml", {"ref": "main", "inputs": {"weak": "1"}}),
            ("weekly.yml", {"ref": "main"}), ("weekly.yml", {"ref": "no", "inputs": {"week": "week01"}}), ("other.yml", {"ref": "main"}),
            ("none.yml", {"ref": "main"})]
    assert [bot("POST", f"{room}/{file}/dispatches", body).status_code for file, body in sent] == [204, 422, 422, 422, 422, 404]
    assert fired == [("workflow_dispatch", {"week": "week01"}, "github-actions[bot]")]


def test_a_run_is_cancelled_and_run_again(bot: Client, localhub: LocalHub) -> None:
    fired: list[Any] = []
    localhub.put({".github/workflows/weekly.yml": WORKFLOW})
    localhub.hub.listeners.append(lambda event, facts, sender: fired.append((event, facts["run"].id, sender.login)))
    user = localhub.hub.users["member"]
    waits, works = (localhub.hub.add_run(localhub.hub.workflow("weekly.yml"), "schedule", {}, user, "a title") for _ in range(2))
    works.status, works.jobs = "in_progress", (Job("one", "in_progress"), Job("two", "queued"))
    room = "/actions/runs"
    assert bot("POST", f"{room}/{works.id}/rerun").status_code == 403
    assert [bot("POST", f"{room}/{run.id}/cancel").status_code for run in (waits, works, waits)] == [202, 202, 409]
    shown = [bot("GET", f"{room}/{run.id}").json() for run in (waits, works)]
    assert [(run["status"], run["conclusion"]) for run in shown] == [("completed", "cancelled"), ("in_progress", None)]
    jobs = bot("GET", f"{room}/{works.id}/jobs").json()["jobs"]
    assert [(job["status"], job["conclusion"], job["completed_at"]) for job in jobs] == [
        ("in_progress", None, None), ("queued", None, None)]
    assert bot("POST", f"{room}/{waits.id}/rerun").status_code == 201
    again = bot("GET", f"{room}/{waits.id}").json()
    assert (again["status"], again["conclusion"], again["run_attempt"], again["head_sha"]) == ("queued", None, 2, waits.sha)
    assert fired == [("rerun", waits.id, "github-actions[bot]")]
    assert [bot("POST", f"{room}/1/{verb}").status_code for verb in ("cancel", "rerun")] == [404, 404]


def test_only_administrators_see_runners(localhub: LocalHub, acting: Callable[[str | None], Client]) -> None:
    localhub.hub.machines.append(Machine(3, "gpu-one", ("self-hosted", "linux", "gpu"), busy=True))
    logins = ("github-actions[bot]", "member", None)
    assert [acting(login)("GET", "/actions/runners").status_code for login in logins] == [403, 403, 401]
    seen = acting("sprinter")("GET", "/actions/runners").json()
    assert [(one["name"], one["status"], one["busy"]) for one in seen["runners"]] == [("gpu-one", "online", True)]


def test_comments_of_all_issues_in_either_order(bot: Client, localhub: LocalHub) -> None:
    first, second = (localhub.comment_as("member", localhub.open_issue("An issue").number, body) for body in ("one", "two"))
    first.updated += timedelta(seconds=5)
    asked = ("", "&direction=desc", "&sort=created&direction=desc", "&sort=updated&direction=asc", "&sort=updated&direction=desc")
    told = [[one["body"] for one in bot("GET", f"/issues/comments?per_page=9{query}").json()] for query in asked]
    assert told == [["one", "two"], ["one", "two"], ["two", "one"], ["two", "one"], ["one", "two"]]
    assert second.updated < first.updated


def test_the_bots_own_comment_fires_nothing(localhub: LocalHub, acting: Callable[[str | None], Client]) -> None:
    fired: list[str] = []
    localhub.hub.listeners.append(lambda event, _, sender: fired.append(f"{event} by {sender.login}"))
    number = localhub.open_issue("An issue").number
    localhub.comment_as("github-actions[bot]", number, "/bench week01")
    acting("stranger")("POST", f"/issues/{number}/comments", {"body": "/bench week01"})
    assert fired == ["issues by sprinter", "issue_comment by stranger"]


def test_faults(bot: Client, localhub: LocalHub) -> None:
    number = localhub.open_issue("An issue").number
    path = f"/issues/{number}/comments"
    localhub.fault("POST", "/comments$", status=403, headers={"Retry-After": "7"}, message="You have exceeded a secondary rate limit")
    late = bot("POST", path, {"body": "a"})
    assert (late.status_code, late.headers["retry-after"], late.json()["message"][:18]) == (403, "7", "You have exceeded ")
    localhub.fault("POST", "/comments$", status=502, apply=True, times=2)
    assert [bot("POST", path, {"body": body}).status_code for body in "bcd"] == [502, 502, 201]
    localhub.fault("GET", "/comments$", reset=True)
    with pytest.raises(httpx.RemoteProtocolError):
        bot("GET", path)
    localhub.fault("GET", "/comments$", html=True)
    assert bot("GET", path).text.startswith("<!DOCTYPE html>")
    localhub.fault("GET", "/comments$", delay_s=0.3)
    reply = bot("GET", path)
    assert [one["body"] for one in reply.json()] == ["b", "c", "d"]
    assert reply.elapsed.total_seconds() >= 0.3
    statuses = [request.status for request in localhub.requests]
    assert statuses == [403, 502, 502, 201, 0, 200, 200]
    assert localhub.requests[0].login == "github-actions[bot]"
    assert localhub.requests[0].sent == {"body": "a"}


def test_urls_are_on_the_address_that_was_asked(bot: Client, localhub: LocalHub) -> None:
    localhub.open_issue("An issue")
    text = json.dumps(bot("GET", "/issues/1").json())
    assert text.count("://") == text.count(localhub.url)


def schema(name: str) -> Draft7Validator:
    definitions = json.loads((WEBHOOKS / "schema.json").read_text(encoding="utf-8"))["definitions"]
    return Draft7Validator({"$ref": f"#/definitions/{name}", "definitions": definitions})


def test_events_are_as_githubs_own(localhub: LocalHub) -> None:
    issue = localhub.open_issue("An issue", "body", ("week",))
    comment = localhub.comment_as("member", issue.number, "/bench week01")
    replies = Replies(localhub.hub, localhub.url)
    member, workflow = localhub.hub.users["member"], read_workflow(1, ".github/workflows/weekly.yml", WORKFLOW)
    ours = {"issue_comment.created": ("issue_comment$created", replies.issue_event("created", member, issue, comment)),
            "workflow_dispatch": ("workflow_dispatch$event", replies.dispatch_event(workflow, {"week": "week01"}, member))}
    for name, (definition, event) in ours.items():
        githubs = json.loads((WEBHOOKS / f"{name}.json").read_text(encoding="utf-8"))
        for payload in (githubs, event):
            assert [error.message for error in schema(definition).iter_errors(payload)] == []
    del event["sender"]
    assert [error.message for error in schema("workflow_dispatch$event").iter_errors(event)] == ["'sender' is a required property"]


def test_a_pull_requests_comment_says_so(localhub: LocalHub, bot: Client) -> None:
    hub = localhub.hub
    member = hub.users["member"]
    pull = hub.add_pull_request(member, "Faster")
    event = Replies(hub, localhub.url).issue_event("created", member, pull, localhub.comment_as("member", pull.number, "/bench"))
    assert [error.message for error in schema("issue_comment$created").iter_errors(event)] == []
    assert event["issue"]["pull_request"]["html_url"] == bot("GET", f"/issues/{pull.number}").json()["html_url"]
    localhub.open_issue("An issue")
    assert ["pull_request" in one for one in bot("GET", "/issues").json()] == [False, True]


CARRIED = """
on: issue_comment  # goes
cache-mode: none
jobs:
  gate:
    runs-on: ubuntu-latest
    concurrency: {group: gate, queue: max}
    outputs: {kept: "${{ steps.a.outputs.b }}"}
    steps: [{id: a, run: "echo needs.gate.result '1.10'"}]
  bench:
    name: Bench ${{ matrix.leg }}
    needs: gate
    if: needs.gate.result == 'success' && !cancelled()
    runs-on: [self-hosted, gpu]
    concurrency: gpu-${{ matrix.leg }}
    steps: [{uses: a/b@v1, with: {version: "3.11", on: yes}}, {run: x, if: "${{ always() }}"}, {id: c, run: x, if: cancelled()}]
  report:
    if: ${{ always() && needs.bench.result != 'skipped' }}
    runs-on: ubuntu-latest
    steps: [{run: "echo ${{ needs.bench.result }}"}]
"""


def test_a_workflow_is_carried_over_to_act() -> None:
    """What is added is a first and a last step for each job; what is left out is what act refuses or does not know."""
    made = for_act(CARRIED)
    parsed = yaml.safe_load(made.text)
    assert "cache-mode" not in parsed
    gate, bench, report = (parsed["jobs"][job] for job in ("gate", "bench", "report"))
    assert [[step.get("id") for step in job["steps"]] for job in (gate, bench, report)] == [
        [TURN, "a", END], [TURN, None, None, "c", END], [TURN, None, END]]
    assert [job["steps"][0]["env"] for job in (gate, bench, report)] == [
        {"NAME": "gate", "GROUP": "gate"}, {"NAME": "Bench ${{ matrix.leg }}", "GROUP": "gpu-${{ matrix.leg }}"},
        {"NAME": "report", "GROUP": ""}]
    assert not any("concurrency" in job for job in (gate, bench, report))
    assert gate["steps"][1]["run"] == "echo needs.gate.result '1.10'"
    assert list(gate["outputs"]) == ["kept", "localhub-cancelled"]
    known = "(needs.{0}.outputs.localhub-cancelled == 'true' && 'cancelled' || needs.{0}.result)"
    assert bench["if"] == f"{known.format('gate')} == 'success' && !cancelled()"
    assert report["steps"][1]["run"] == f"echo ${{{{ {known.format('bench')} }}}}"
    assert 'version: "3.11", on: yes' in made.text
    assert {job: (facts.self_hosted, facts.stays) for job, facts in made.jobs.items()} == {
        "gate": (False, False), "bench": (True, False), "report": (False, True)}
    assert made.jobs["bench"].steps == {TURN: False, "1": False, "2": True, "c": True, END: True}


def test_turns_are_taken_in_order(tmp_path: Path) -> None:
    """For the group first, then for the machine; who leaves, also without a turn, makes room."""
    turns = Turns()
    asked = {"a": ("one", True), "b": ("one", True), "c": ("two", True), "d": ("two", False), "e": ("", False), "f": ("one", False)}
    tickets = {name: tmp_path / name for name in asked}
    for name, (group, machine) in asked.items():
        tickets[name].mkdir()
        turns.join(tickets[name], group=group, machine=machine)

    def may() -> str:
        return "".join(name for name, ticket in tickets.items() if (ticket / "turn").exists())

    told = [may()]
    for name in "abcdf":
        turns.leave(tickets[name])
        told.append(may())
    # a works; c has its group and waits for the machine, b has nothing; so c comes before b there.
    assert told == ["ae", "ace", "acef", "acdef", "acdef", "acdef"]


def test_a_checkout_of_a_run_finds_its_commit(tmp_path: Path) -> None:
    """Also one that the branch has left behind, as actions/checkout does with `ref: ${{ github.sha }}`."""
    hub = Hub("sprinter/sprint", Repository.create(tmp_path / "bare"))
    old, _ = (hub.git.put({"x": text}, "m", BOT.person) for text in (b"1", b"2"))
    clone = Repository(tmp_path / "clone")
    clone.path.mkdir()
    clone.git("init", "--quiet")
    clone.git("fetch", "--quiet", "--depth", "1", f"file://{tmp_path / 'bare'}", old)
    assert clone.git("show", "FETCH_HEAD:x") == b"1"
