"""The optional GitHub project beside the issues: a week's issue is on it, and moves forward with what its runs show.

The issue and its checklist say what is proven; the board is a picture of that for people, who move what they like. So the bot
only ever moves an issue forward, out of a column that it knows, and whatever goes wrong here is one line on stderr and stops
nothing. The workflows' own token cannot reach projects (v2), whose only complete API is GraphQL: a second Hub has one that can.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from bot.acceptance import judge
from bot.errors import HubError, HubRefused, UserError
from bot.hub import Hub
from bot.kickoff import week_of
from workloads.spec import Result, Workload

Status = Literal["Todo", "In Progress", "Done"]
FORWARD: tuple[Status, ...] = get_args(Status)

ADDRESS = re.compile(r"/(users|orgs)/([A-Za-z0-9_-]{1,64})/projects/([1-9][0-9]{0,8})", re.ASCII)

# %s is what GraphQL calls the owner's kind: names cannot be variables.
COLUMNS = """query Columns($owner: String!, $number: Int!) {
  owner: %s(login: $owner) {
    projectV2(number: $number) { id field(name: "Status") { ... on ProjectV2SingleSelectField { id options { id name } } } }
  }
}"""
# GitHub gives the item that is there where an issue is added a second time.
ADD = """mutation Add($project: ID!, $issue: ID!) {
  addProjectV2ItemById(input: {projectId: $project, contentId: $issue}) {
    item { id isArchived fieldValueByName(name: "Status") { ... on ProjectV2ItemFieldSingleSelectValue { name } } }
  }
}"""
MOVE = """mutation Move($project: ID!, $item: ID!, $field: ID!, $option: String!) {
  updateProjectV2ItemFieldValue(
    input: {projectId: $project, itemId: $item, fieldId: $field, value: {singleSelectOptionId: $option}}
  ) { projectV2Item { id } }
}"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Project:
    """A project as its address names it."""

    kind: Literal["user", "organization"]
    owner: str
    number: int


def project(url: str, server_url: str) -> Project:
    """The project at `url`, on the server of this repository. Raises UserError for any other address."""
    home = server_url.rstrip("/")
    found = ADDRESS.fullmatch(url.removeprefix(home)) if url.startswith(home) else None
    if found is None:
        raise UserError(f"PROJECT_URL is no address of a project: write {home}/users/NAME/projects/N or {home}/orgs/NAME/projects/N, "
                        "with nothing after the number")
    return Project("user" if found[1] == "users" else "organization", found[2], int(found[3]))


def reached(workload: Workload, result: Result) -> Status:
    """How far a week is by this run: "Done" where it is judged and meets every target, else "In Progress", whatever it is."""
    return "Done" if all(verdict.verdict == "met" for verdict in judge(workload, result)) else "In Progress"


@dataclass(frozen=True, slots=True)
class Columns:
    """The project's id, its field "Status", and that field's options: name, less its case, to id."""

    project: str
    field: str
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """An issue's place on the board; `status` is None where it has none."""

    id: str
    status: str | None
    archived: bool


@dataclass(frozen=True, slots=True)
class Board:
    """`hub` reads issues, `projects` has the token that reaches `project`."""

    project: Project
    hub: Hub
    projects: Hub

    def add(self, issue: int) -> None:
        """Put a week's issue on the board, as "Todo" where it has no status there."""
        self._forward(issue, "Todo", None)

    def move(self, issue: int, status: Status, week: str) -> None:
        """Move the issue of `week` forward to `status`, onto the board too where it is not on it. The issue of another week, on
        which the command may have been given, stays where it is."""
        self._forward(issue, status, week)

    def _forward(self, number: int, status: Status, week: str | None) -> None:
        try:
            issue = self.hub.issue(number)
            if week in (None, week_of(issue.title, issue.body)):
                self._place(issue.node_id, status)
        except (HubError, UserError) as error:
            sys.stderr.write(f'board: issue {number} did not come to "{status}": {error}\n')

    def _place(self, issue: str, status: Status) -> None:
        columns = self._ask(COLUMNS % self.project.kind, {"owner": self.project.owner, "number": self.project.number}, read=_columns)
        if missing := [name for name in FORWARD if name.casefold() not in columns.options]:
            raise UserError(f'the project needs a single-select field Status with the options {", ".join(FORWARD)}; '
                            f'add {", ".join(missing)}')
        item = self._ask(ADD, {"project": columns.project, "issue": issue}, read=_item)
        if not item.archived and _behind(item.status, status):  # GitHub moves nothing that is archived
            self._ask(MOVE, {"project": columns.project, "item": item.id, "field": columns.field,
                             "option": columns.options[status.casefold()]}, read=_moved)

    def _ask(self, query: str, variables: dict[str, str | int], read: Callable[[Any], T]) -> T:
        try:
            return self.projects.graphql(query, variables, read=read)
        except HubRefused as refusal:
            raise UserError(f"{refusal}; PROJECT_TOKEN has to be one that may write the project at PROJECT_URL") from refusal


def _behind(current: str | None, status: Status) -> bool:
    """Whether `status` is forward from `current`. From a column that the bot doesn't know, nothing is."""
    if current is None:
        return True
    known = [name.casefold() for name in FORWARD]
    return current.casefold() in known[:FORWARD.index(status)]


def _columns(data: Any) -> Columns:
    found = data["owner"]["projectV2"]
    status = dict(found["field"] or {})  # None: there is no such field; empty: it is no single-select one
    options = {str(one["name"]).casefold(): str(one["id"]) for one in status.get("options", ())}
    return Columns(str(found["id"]), str(status.get("id")), options)


def _item(data: Any) -> Item:
    found = data["addProjectV2ItemById"]["item"]
    name = dict(found["fieldValueByName"] or {}).get("name")
    return Item(str(found["id"]), None if name is None else str(name), bool(found["isArchived"]))


def _moved(data: Any) -> str:
    return str(data["updateProjectV2ItemFieldValue"]["projectV2Item"]["id"])
