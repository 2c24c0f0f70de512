"""GitHub's GraphQL as far as a board needs it: one project (v2), and three operations, known by their names and answered.

This is no GraphQL engine: what an operation selects is not read, only its name and, of the first, the owner's kind. Of the
variables, names and types are checked. That the operations are GraphQL, and these answers what GitHub's schema lets them be, is
shown by tests/test_board.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from localhub.replies import JSON, node
from localhub.rest import Call, Reply, trouble
from localhub.state import BOT, Item, Project

PATH = "/graphql"
NAMED = re.compile(r"(query|mutation) (\w+)\(", re.ASCII)
OWNER = re.compile(r"\bowner: (user|organization)\(", re.ASCII)
ARCHIVED = "The item is archived and cannot be updated"


class Refused(Exception):
    """An entry of GraphQL's `errors`, with its `type`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def answer(call: Call) -> Reply:
    """Carries out one call. Whoever has a token hears HTTP 200, whatever GraphQL says in it."""
    if call.user is None:
        return trouble(401, "This endpoint requires you to be authenticated.")
    sent = call.body if isinstance(call.body, dict) else {}
    query, variables = str(sent.get("query", "")), sent.get("variables") or {}
    named = NAMED.match(query)
    if call.method != "POST" or named is None or named[2] not in OPERATIONS:
        return Reply(200, {"errors": [{"message": "A query attribute must be specified and must be a string."}]})
    root, types, operation = OPERATIONS[named[2]]
    for name in types.keys() | variables.keys():
        if name not in types or type(variables.get(name)) is not types[name]:
            return Reply(200, {"errors": [{"message": f"Variable ${name} was provided invalid value"}]})
    try:
        return Reply(200, {"data": {root: operation(call, query, variables)}})
    except Refused as refused:
        return Reply(200, {"data": {root: None}, "errors": [{"type": refused.kind, "path": [root], "message": str(refused)}]})


def columns(call: Call, query: str, variables: JSON) -> JSON:
    owner = OWNER.search(query)
    project = call.hub.project
    if project is None or (owner and owner[1], variables["owner"]) != (project.kind, project.owner):
        raise Refused("NOT_FOUND", f"Could not resolve to a {owner and owner[1]} with the login of '{variables['owner']}'.")
    if variables["number"] != project.number or not _allowed(call, project):
        raise Refused("NOT_FOUND", f"Could not resolve to a ProjectV2 with the number {variables['number']}.")
    # Of a field that is there and not single-select, the operation selects nothing.
    field = None if project.options is None else {"id": _field(project), "options": [
        {"id": _option(place), "name": name} for place, name in enumerate(project.options)]}
    return {"projectV2": {"id": _id(project), "field": field}}


def add(call: Call, _: str, variables: JSON) -> JSON:
    project = _project(call, variables)
    if variables["issue"] not in [node("I", issue.id) for issue in call.hub.issues]:
        raise Refused("NOT_FOUND", f"Could not resolve to a node with the global id of '{variables['issue']}'")
    item = next((item for item in project.items if item.content == variables["issue"]), None)
    if item is None:
        item = Item(next(call.hub.ids), variables["issue"])
        project.items.append(item)
    value = None if item.status is None else {"name": item.status}
    return {"item": {"id": node("PVTI", item.id), "isArchived": item.archived, "fieldValueByName": value}}


def move(call: Call, _: str, variables: JSON) -> JSON:
    project = _project(call, variables)
    item = next((item for item in project.items if node("PVTI", item.id) == variables["item"]), None)
    names = {_option(place): name for place, name in enumerate(project.options or ())}
    if item is None or variables["field"] != _field(project) or variables["option"] not in names:
        raise Refused("NOT_FOUND", "Could not resolve to a node with the global id that was given")
    if item.archived:
        raise Refused("UNPROCESSABLE", ARCHIVED)
    item.status = names[variables["option"]]
    return {"projectV2Item": {"id": variables["item"]}}


Operation = Callable[[Call, str, JSON], JSON]
# By name: the root field under which it answers, the types of its variables, and what it does.
OPERATIONS: Mapping[str, tuple[str, Mapping[str, type[Any]], Operation]] = {
    "Columns": ("owner", {"owner": str, "number": int}, columns),
    "Add": ("addProjectV2ItemById", {"project": str, "issue": str}, add),
    "Move": ("updateProjectV2ItemFieldValue", {"project": str, "item": str, "field": str, "option": str}, move),
}


def _project(call: Call, variables: JSON) -> Project:
    project = call.hub.project
    if project is None or variables["project"] != _id(project) or not _allowed(call, project):
        raise Refused("NOT_FOUND", f"Could not resolve to a node with the global id of '{variables['project']}'")
    return project


def _allowed(call: Call, project: Project) -> bool:
    """A project is private, so whoever is not let in does not learn of it; the workflows' own token is told that it never will be."""
    user = call.someone()
    if user == BOT:
        raise Refused("FORBIDDEN", "Resource not accessible by integration")
    return user.login == project.owner or call.hub.roles.get(user.login) == "admin"


def _id(project: Project) -> str:
    return node("PVT", project.number)


def _field(project: Project) -> str:
    return node("PVTSSF", project.number)


def _option(place: int) -> str:
    return f"{place:08x}"
