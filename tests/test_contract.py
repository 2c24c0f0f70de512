"""The judge has teeth: what GitHub would refuse or drop is found, and what it allows is not."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import pytest
from conftest import LocalHub

from localhub.contract import Exchange, Judge
from localhub.replies import Replies
from localhub.slim_openapi import KEPT, OUTSIDE_THE_REPOSITORY, REPO, slim

ROOM = "/repos/sprinter/sprint"


def test_the_description_is_githubs(judge: Judge) -> None:
    assert judge.spec["info"]["version"] == "23.0.2"
    assert judge.spec["info"]["x-source-sha256"] == "829b4bebb19a53133289f7b0bc819f4f1118115821db2ca9f25e9ee995a7da2a"
    kept = {REPO + path: methods for path, methods in KEPT.items()} | OUTSIDE_THE_REPOSITORY
    assert {path: " ".join(key for key in item if key != "parameters") for path, item in judge.spec["paths"].items()} == kept


def test_the_cut_keeps_what_is_referred_to_and_drops_prose() -> None:
    a, b = "#/components/schemas/a", "#/components/schemas/b"
    schema = {"description": "prose", "properties": {"title": {"type": "string", "example": "x"}}, "items": {"$ref": b}}
    operation = {"summary": "prose", "responses": {"200": {"content": {"application/json": {"schema": {"$ref": a}}}}}}
    kept = {REPO + path: methods for path, methods in KEPT.items()} | OUTSIDE_THE_REPOSITORY
    full = {"openapi": "3.0.3", "info": {"title": "t", "version": "1", "license": {}, "contact": {}},
            "paths": {path: dict.fromkeys([*methods.split(), "trace"], operation) for path, methods in kept.items()} | {"/gists": {}},
            "components": {"schemas": {"a": schema, "b": {"type": "null", "title": "prose"}, "c": {}}}}
    cut = slim(full, "0" * 64)
    assert cut["components"] == {"schemas": {
        "a": {"properties": {"title": {"type": "string"}}, "items": {"$ref": b}}, "b": {"type": "null"}}}
    assert cut["paths"].keys() == kept.keys()
    assert cut["paths"]["/user"] == {"get": {"responses": operation["responses"]}}
    assert cut["info"] == {"title": "t", "version": "1", "license": {}, "x-source-sha256": "0" * 64}


@pytest.fixture
def issue(localhub: LocalHub) -> dict[str, Any]:
    return Replies(localhub.hub, localhub.url).issue(localhub.open_issue("An issue", "b", ("week",)))


def found(judge: Judge, method: str, path: str, sent: Any, status: int, reply: Any, query: tuple[tuple[str, str], ...] = ()) -> str:
    return "\n".join(judge.violations(Exchange(method, ROOM + path, query, sent, status, reply)))


@pytest.mark.parametrize(("sent", "expected"), [
    ({"title": "t", "lables": ["week"]}, "request: undocumented property 'lables'"),
    ({"body": "no title"}, "request: body: 'title' is a required property"),
    ({"title": ["t"]}, "request: title: ['t'] is not of type 'string'"),
    ({"title": "t", "labels": "week"}, "request: labels: 'week' is not of type 'array'"),
    (None, "request: a body is required"),
])
def test_a_wrong_issue_is_found(judge: Judge, issue: dict[str, Any], sent: Any, expected: str) -> None:
    assert expected in found(judge, "POST", "/issues", sent, 201, issue)


@pytest.mark.parametrize(("method", "path", "sent", "expected"), [
    ("POST", "/issues/comments/1/reactions", {"content": "tada"}, "request: content: 'tada' is not one of ['+1', '-1'"),
    ("PATCH", "/git/ref/heads/main", {"sha": "0" * 40}, "undocumented path or method"),
    ("PATCH", "/git/refs/heads/main", {"sha": "0" * 40, "force": "yes"}, "request: force: 'yes' is not of type 'boolean'"),
    ("POST", "/git/trees", {"tree": [{"path": "x", "mod": "100644"}]}, "request: undocumented property 'mod'"),
    ("POST", "/git/trees", {"tree": [{"path": "x", "mode": "644"}]}, "request: tree/0/mode: '644' is not one of"),
    ("GET", "/issue/1", None, "undocumented path or method"),
])
def test_a_wrong_request_is_found_whatever_was_answered(judge: Judge, method: str, path: str, sent: Any, expected: str) -> None:
    exchange = Exchange(method, ROOM + path, (), sent, 502, None)
    assert expected in "\n".join(judge.request_violations(exchange))


@pytest.mark.parametrize(("query", "expected"), [
    (("state", "opne"), "query state: body: 'opne' is not one of ['open', 'closed', 'all']"),
    (("label", "week"), "query: undocumented parameter 'label'"),
    (("per_page", "many"), "query per_page: body: 'many' is not of type 'integer'"),
])
def test_a_wrong_query_is_found(judge: Judge, query: tuple[str, str], expected: str) -> None:
    assert expected == found(judge, "GET", "/issues", None, 200, [], (query,))


def test_a_wrong_reply_is_found(judge: Judge, issue: dict[str, Any]) -> None:
    assert found(judge, "GET", "/issues/1", None, 200, issue) == ""
    broken = copy.deepcopy(issue)
    del broken["user"]["avatar_url"]
    assert "'avatar_url' is a required property" in found(judge, "GET", "/issues/1", None, 200, broken)
    assert "is not of type 'integer'" in found(judge, "GET", "/issues/1", None, 200, issue | {"number": "1"})
    assert "is not a 'date-time'" in found(judge, "GET", "/issues/1", None, 200, issue | {"created_at": "yesterday"})
    assert found(judge, "GET", "/issues/1", None, 418, issue) == "reply: undocumented status 418\nreply: an error without a message"
    assert found(judge, "GET", "/issues/1", None, 202, issue) == "reply: undocumented status 202"
    assert found(judge, "DELETE", "/issues/comments/1", None, 204, {}) == "reply: status 204 has no body"


def test_only_the_named_slips_are_forgiven(judge: Judge, issue: dict[str, Any]) -> None:
    assert issue["state_reason"] is None, "nullable enum"
    assert found(judge, "POST", "/issues", {"title": "t"}, 422, {"message": "Validation Failed", "errors": ["anything"]}) == ""
    assert found(judge, "POST", "/issues/1/labels", ["week"], 200, issue["labels"]) == ""
    assert "is not one of" in found(judge, "GET", "/issues/1", None, 200, issue | {"state_reason": "bored"})
    assert found(judge, "POST", "/issues", {"title": "t"}, 422, {}) == "reply: an error without a message"
    assert "1 is not of type 'string'" in found(judge, "POST", "/issues/1/labels", [1], 200, issue["labels"])


def test_the_hub_has_every_exchange_judged(localhub: LocalHub) -> None:
    localhub.open_issue("An issue")
    room, token = f"{localhub.url}{ROOM}", {"Authorization": f"Bearer {localhub.token}"}
    assert httpx.post(f"{room}/issues/1/comments", json={"body": "x", "in_reply_to": 1}, headers=token).status_code == 201
    assert localhub.violations == [f"POST {ROOM}/issues/1/comments: request: undocumented property 'in_reply_to'"]
    localhub.fault("GET", "/issues$", status=500)
    assert httpx.get(f"{room}/issues?stat=all", headers=token).status_code == 500
    assert localhub.violations[1:] == [f"GET {ROOM}/issues: query: undocumented parameter 'stat'"]
    localhub.violations.clear()
