"""Every verb against a real HTTP server whose exchanges GitHub's own description judges, in fair weather and in foul."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from bot.errors import HubError, HubRefused, Moved
from bot.hub import Hub, HubIssue, signed

PNG = b"\x89PNG\r\n\x1a\n\xff\xfe"


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def hub(localhub: Any, waits: list[float]) -> Hub:
    return Hub(*localhub.hub_args, pause_s=0, sleep=waits.append)


@pytest.fixture
def issue(localhub: Any) -> int:
    number: int = localhub.open_issue("Week 01 - a title", "the body").number
    return number


def sent(localhub: Any) -> list[str]:
    return [f"{request.method} {request.status}" for request in localhub.requests]


# ---------------------------------------------------------------------------------------------------- people


@pytest.mark.parametrize(("login", "number", "role"), [
    ("sprinter", 1001, "admin"), ("Member", 1002, "write"), ("stranger", 1003, "read"), ("nobody", 9, "none"), ("member", 7, "none")])
def test_role(hub: Hub, login: str, number: int, role: str) -> None:
    assert role == hub.role(login, number)


def test_role_when_github_says_no(hub: Hub, localhub: Any) -> None:
    localhub.fault("GET", "/permission", status=403, message="Resource not accessible by integration")
    with pytest.raises(HubRefused, match="Resource not accessible") as refused:
        hub.role("member", 1002)
    assert refused.value.status == 403
    assert len(localhub.requests) == 1


# ---------------------------------------------------------------------------------------------------- comments


def test_only_the_first_claims(hub: Hub, localhub: Any, issue: int) -> None:
    comment = localhub.comment_as("member", issue, "/bench").id
    assert [hub.claim(comment), hub.claim(comment)] == [True, False]


def test_a_reaction_to_a_deleted_comment_is_not_missed(hub: Hub, localhub: Any) -> None:
    hub.react(1, "rocket")
    assert sent(localhub) == ["POST 404"]


def test_a_refused_reaction_is_an_error(hub: Hub, localhub: Any) -> None:
    localhub.fault("POST", "/reactions", status=403, message="no")
    with pytest.raises(HubRefused):
        hub.react(1, "rocket")


def test_a_card_is_posted_found_and_edited(hub: Hub, localhub: Any, issue: int) -> None:
    card = hub.post_card(issue, "c7", "4242", "<!-- sprintbench:card c7 -->\n\nqueued\n")
    found = hub.find_card(issue, "c7")
    assert found is not None
    assert (card, "4242") == (found.id, found.workflow_run)
    assert hub.find_card(issue, "c8") is None
    hub.edit_card(card, "c7", "4243", "done")
    again = hub.find_card(issue, "c7")
    assert again is not None
    assert again.workflow_run == "4243"
    assert [comment.body for comment in localhub.hub.issues[0].comments] == ["<!-- sprintbench:card c7 run=4243 answer -->\n\ndone"]


def test_a_mark_in_another_hand_is_no_card(hub: Hub, localhub: Any, issue: int) -> None:
    localhub.comment_as("stranger", issue, signed("forged", "c7", "1"))
    localhub.comment_as("github-actions[bot]", issue, "quoting:\n" + signed("forged", "c7", "1"))
    localhub.comment_as("github-actions[bot]", issue, "\n" + signed("forged", "c7", "1"))
    assert hub.find_card(issue, "c7") is None


def test_a_card_is_found_on_the_second_page(hub: Hub, localhub: Any, issue: int) -> None:
    for _ in range(100):
        localhub.comment_as("stranger", issue, "+1")
    card = hub.post_card(issue, "c7", "4242", "queued")
    found = hub.find_card(issue, "c7")
    assert found is not None and found.id == card


FOUL: dict[str, dict[str, Any]] = {
    "502, not carried out": {"status": 502}, "502, carried out": {"status": 502, "apply": True},
    "cut before": {"reset": True}, "cut after": {"reset": True, "apply": True},
    "a page for an answer": {"html": True}, "a page, carried out": {"html": True, "apply": True},
    "a rate limit": {"status": 403, "headers": {"retry-after": "3"}}, "429": {"status": 429},
}


@pytest.mark.parametrize("fault", FOUL)
def test_one_card_however_foul_the_weather(hub: Hub, localhub: Any, issue: int, fault: str) -> None:
    localhub.fault("POST", "/comments$", **FOUL[fault])
    card = hub.post_card(issue, "c7", "4242", "queued")
    assert [card] == [comment.id for comment in localhub.hub.issues[0].comments]


def test_a_card_is_not_posted_for_ever(hub: Hub, localhub: Any, issue: int, waits: list[float]) -> None:
    localhub.fault("POST", "/comments$", times=9, status=503)
    with pytest.raises(HubError, match="503"):
        hub.post_card(issue, "c7", "4242", "queued")
    assert sum(request.method == "POST" for request in localhub.requests) == 4
    assert len(waits) == 3


# ---------------------------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize(("fault", "expected"), [
    ({"status": 503}, 0), ({"status": 503, "headers": {"retry-after": "7"}}, 7), ({"status": 403, "headers": {"retry-after": "2"}}, 2),
    ({"status": 429}, 60), ({"status": 403, "message": "You have exceeded a secondary rate limit"}, 60),
    ({"reset": True}, 0), ({"html": True}, 0),
])
def test_a_question_waits_as_told(hub: Hub, localhub: Any, waits: list[float], fault: dict[str, Any], expected: float) -> None:
    localhub.fault("GET", "/permission", **fault)
    assert hub.role("member", 1002) == "write"
    assert [expected] == waits


def test_a_used_up_limit_is_waited_for(hub: Hub, localhub: Any, waits: list[float]) -> None:
    reset = str(int(time.time()) + 30)
    localhub.fault("GET", "/permission", status=403, headers={"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset})
    assert hub.role("member", 1002) == "write"
    assert 25 < waits[0] <= 31


def test_it_does_not_wait_for_an_hour(hub: Hub, localhub: Any, waits: list[float]) -> None:
    localhub.fault("GET", "/permission", status=429, headers={"retry-after": "3600"})
    with pytest.raises(HubError, match="rate limit"):
        hub.role("member", 1002)
    assert waits == []


def test_pauses_grow(localhub: Any, waits: list[float]) -> None:
    localhub.fault("GET", "/permission", times=3, status=500)
    assert Hub(*localhub.hub_args, pause_s=1.0, sleep=waits.append).role("member", 1002) == "write"
    assert [2 <= waits[0] <= 3, 4 <= waits[1] <= 6, 8 <= waits[2] <= 12] == [True] * 3


def test_nobody_is_there(waits: list[float]) -> None:
    with pytest.raises(HubError, match="ConnectionError"):
        Hub("a/b", "token", "http://127.0.0.1:9", pause_s=0, sleep=waits.append).role("member", 1002)
    assert len(waits) == 3


# ---------------------------------------------------------------------------------------------------- issues


def test_an_issue(hub: Hub, localhub: Any, issue: int) -> None:
    found = hub.issue(issue)
    assert (issue, "Week 01 - a title", "the body", "open") == (found.number, found.title, found.body, found.state)
    assert found.url.endswith(f"/issues/{issue}")


def test_a_body_is_written_only_if_it_changes(hub: Hub, localhub: Any, issue: int) -> None:
    def tick(found: HubIssue) -> str:
        return found.body.replace("[ ]", "[x]") + "!" * (not found.body.endswith("!"))

    assert [hub.edit_issue_body(issue, tick), hub.edit_issue_body(issue, tick)] == [True, False]
    assert sent(localhub) == ["GET 200", "PATCH 200", "GET 200"]
    assert localhub.hub.issues[0].body == "the body!"


def test_a_week_issue_by_a_stranger_does_not_count(hub: Hub, localhub: Any) -> None:
    localhub.open_issue("Week 02 - b", login="stranger")
    assert hub.week_issues() == {}
    mine = localhub.open_issue("Week 02 - b", login="sprinter").number
    renamed = localhub.open_issue("Renamed", "<!-- sprintbench:week week03 -->\n\nbody").number
    localhub.open_issue("Week 02 - again", login="sprinter")
    localhub.open_issue("Something else", login="sprinter")
    assert {"week02": mine, "week03": renamed} == hub.week_issues()


@pytest.mark.parametrize("fault", FOUL)
def test_one_issue_however_foul_the_weather(hub: Hub, localhub: Any, fault: str) -> None:
    milestone = hub.ensure_milestone("Month 1")
    localhub.fault("POST", "/issues$", **FOUL[fault])
    number = hub.open_week("week03", "Week 03 - c", "body", ("week",), milestone)
    assert [number] == [issue.number for issue in localhub.hub.issues]
    assert {"week03": number} == hub.week_issues()


def test_labels_and_milestones_are_made_once(hub: Hub, localhub: Any) -> None:
    for _ in range(2):
        hub.ensure_label("week", "0e8a16", "A week of the sprint")
    assert [(label.name, label.color) for label in localhub.hub.labels.values() if label.name == "week"] == [("week", "0e8a16")]
    assert hub.ensure_milestone("Month 1") == hub.ensure_milestone("Month 1") != hub.ensure_milestone("Month 2")
    assert [milestone.title for milestone in localhub.hub.milestones] == ["Month 1", "Month 2"]


def test_a_label_that_may_not_be_made(hub: Hub, localhub: Any) -> None:
    localhub.fault("POST", "/labels", status=403, message="no")
    with pytest.raises(HubRefused):
        hub.ensure_label("week", "0e8a16", "A week of the sprint")


# ---------------------------------------------------------------------------------------------------- the repository


def base(hub: Hub) -> tuple[str, str]:
    sha = hub.head("main")
    return sha, hub.tree(sha)


def test_one_commit_for_many_files(hub: Hub, localhub: Any) -> None:
    sha, tree = base(hub)
    made = hub.commit("main", sha, tree, {"results/a.json": b"{}\n", "results/a.png": PNG, "SCOREBOARD.md": "é\n".encode()}, "A run")
    assert made == hub.head("main") == localhub.git.head()
    assert [b"{}\n", PNG, "é\n".encode(), b"# A sprint\n"] == [
        hub.read(path, made) for path in ("results/a.json", "results/a.png", "SCOREBOARD.md", "README.md")]
    assert {"results/a.json", "results/a.png", "SCOREBOARD.md"} == set(hub.changed(sha, made))
    assert hub.read("results/b.json", made) is None


def test_a_branch_that_moved_is_not_overwritten(hub: Hub, localhub: Any) -> None:
    sha, tree = base(hub)
    theirs = localhub.put({"theirs.txt": b"1"})
    with pytest.raises(Moved):
        hub.commit("main", sha, tree, {"results/a.png": PNG}, "A run")
    assert theirs == hub.head("main")
    before = len(localhub.requests)
    hub.commit("main", theirs, hub.tree(theirs), {"results/a.png": PNG}, "A run")
    assert not [request for request in localhub.requests[before:] if request.path.endswith("/git/blobs")]


@pytest.mark.parametrize(("status", "message", "error"), [
    (409, "Conflict", Moved), (422, "Update is not a fast forward", Moved), (422, "Repository rule violations found", HubRefused),
    (403, "Resource not accessible by integration", HubRefused)])
def test_what_a_branch_may_say(hub: Hub, localhub: Any, status: int, message: str, error: type[Exception]) -> None:
    sha, tree = base(hub)
    localhub.fault("PATCH", "/git/refs/", status=status, message=message)
    with pytest.raises(HubRefused) as refused:
        hub.commit("main", sha, tree, {"a": b"1"}, "A run")
    assert error is type(refused.value)


def test_a_commit_survives_lost_answers(hub: Hub, localhub: Any) -> None:
    sha, tree = base(hub)
    for path in ("/git/blobs", "/git/trees", "/git/commits"):
        localhub.fault("POST", path, status=502, apply=True)
    localhub.fault("PATCH", "/git/refs/", reset=True, apply=True)
    assert hub.commit("main", sha, tree, {"a.png": PNG}, "A run") == localhub.git.head()


def test_too_many_changes_are_not_guessed(hub: Hub, localhub: Any) -> None:
    first = localhub.git.head()
    last = localhub.put({f"f/{n}.txt": b"1" for n in range(301)})
    with pytest.raises(HubError, match="more than 300 files"):
        hub.changed(first, last)


def test_a_file_that_may_not_be_read(hub: Hub, localhub: Any) -> None:
    localhub.fault("GET", "/contents/", status=403, message="no")
    with pytest.raises(HubRefused):
        hub.read("README.md", "main")


STRANGE: list[tuple[str, Callable[[Hub], object]]] = [
    ("[]", lambda hub: hub.head("main")), ('{"object": {"sha": 5}}', lambda hub: hub.head("main")),
    ('{"user": {"id": "7"}, "role_name": "admin"}', lambda hub: hub.role("a", 7)), ('{"a": 1}', lambda hub: hub.find_card(1, "c7")),
    ('{"sha": "other"}', lambda hub: hub.commit("main", "0", "0", {"a": PNG}, "m")), ("", lambda hub: hub.issue(1)),
    ('{"encoding": "none", "content": ""}', lambda hub: hub.read("large.bin", "main")),
    *((answer, lambda hub: graphql(hub)) for answer in (
        "[]", '{"message": "no"}', '{"data": null}', '{"data": {"b": 1}}', '{"errors": ["no"]}', '{"errors": [{}], "data": {"a": 1}}'))]


@pytest.mark.parametrize(("answer", "ask"), STRANGE, ids=range(len(STRANGE)))
def test_an_answer_of_another_shape_is_none(answer: str, ask: Callable[[Hub], object], serve: Callable[[str], str]) -> None:
    with pytest.raises(HubError, match="something else"):
        ask(Hub("a/b", "token", serve(answer), pause_s=0, sleep=lambda _: None))


@pytest.fixture
def serve() -> Any:
    """A server that answers everything with one text."""
    servers = []

    def start(text: str, status: int = 200) -> str:
        class Parrot(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Parrot)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def graphql(hub: Hub) -> object:
    return hub.graphql("query A($b: ID!) { a(b: $b) }", {"b": "1"}, read=lambda data: data["a"])


def test_graphql_answers_with_data(serve: Any) -> None:
    assert graphql(Hub("a/b", "token", serve('{"data": {"a": 5}, "errors": []}'), pause_s=0)) == 5


@pytest.mark.parametrize(("api", "address"), [
    ("http://127.0.0.1:9", "http://127.0.0.1:9/graphql"), ("http://127.0.0.1:9/api/v3", "http://127.0.0.1:9/api/graphql")])
def test_graphql_has_an_address_of_its_own(api: str, address: str) -> None:
    with pytest.raises(HubError, match=f"POST {address}: ConnectionError"):
        graphql(Hub("a/b", "token", api, pause_s=0, sleep=lambda _: None))


@pytest.mark.parametrize(("error", "said"), [
    ('{"type": "FORBIDDEN", "path": ["a"], "message": "Resource not accessible by integration"}',
     "GraphQL: FORBIDDEN Resource not accessible by integration"),
    ('{"message": "Field\\n \'a\' does not exist"}', "GraphQL: Field 'a' does not exist")])
def test_graphql_says_no_with_200(serve: Any, waits: list[float], error: str, said: str) -> None:
    with pytest.raises(HubRefused) as refused:
        graphql(Hub("a/b", "token", serve(f'{{"data": {{"a": 5}}, "errors": [{error}]}}'), pause_s=0, sleep=waits.append))
    assert (str(refused.value), refused.value.status, waits) == (said, 200, [])


@pytest.mark.parametrize(("error", "wait"), [
    ('{"type": "RATE_LIMITED", "message": "too much"}', 60), ('{"message": "You have exceeded a secondary rate limit."}', 60),
    ('{"message": "Something went wrong while executing your query. This may be the result of a timeout"}', 0)])
def test_graphql_is_waited_for(serve: Any, waits: list[float], error: str, wait: float) -> None:
    with pytest.raises(HubError, match="GraphQL: ") as failed:
        graphql(Hub("a/b", "token", serve(f'{{"errors": [{error}]}}'), pause_s=0, sleep=waits.append))
    assert (type(failed.value) is HubRefused, waits) == (False, [wait] * 3)


def test_a_refusal_without_a_reason(serve: Any) -> None:
    with pytest.raises(HubRefused, match="404 without a reason"):
        Hub("a/b", "token", serve("<html>", 404), pause_s=0).issue(1)


def test_pages_have_an_end(serve: Any) -> None:
    many = "[" + ", ".join(['{"user": null, "title": "x", "body": null}'] * 100) + "]"
    assert Hub("a/b", "token", serve(many), pause_s=0).week_issues() == {}
