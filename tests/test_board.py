"""The board: what goes on it, how far it moves and that it never moves back; and that nothing which goes wrong there stops anything."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from conftest import TOKEN, LocalHub
from graphql import GraphQLAbstractType, GraphQLResolveInfo, build_schema, execute_sync, parse, validate
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_week import WEEK01, observed, result
from slim_graphql import SLIM, slim
from test_main import accepted
from test_main import leave as hand_over
from test_publish import ask, end, ledger_at
from test_sweep import leave

from bot import board as boards
from bot.__main__ import cli
from bot.board import ADD, COLUMNS, MOVE, Board, Project, Status, project, reached
from bot.errors import UserError
from bot.hub import Hub
from bot.kickoff import kickoff
from bot.publish import open_week, publish
from localhub import demo, projects
from localhub.demo import Local
from localhub.replies import node
from localhub.state import Item
from localhub.state import Project as Held
from workloads.plan import planned
from workloads.spec import Estimate, Failure, Request

WEEKS = {"week01": WEEK01}
OWNERS = "ghp_sprinter"  # a token of the project's owner
URL = "https://github.com/users/sprinter/projects/3"
MISSING = "the project needs a single-select field Status with the options Todo, In Progress, Done; add {}"


@pytest.fixture
def hub(localhub: LocalHub) -> Hub:
    localhub.hub.project = Held("sprinter", 3)
    return Hub(*localhub.hub_args, pause_s=0, sleep=lambda _: None)


@pytest.fixture
def board(localhub: LocalHub, hub: Hub) -> Board:
    return reaching(localhub, hub)


def reaching(localhub: LocalHub, hub: Hub, token: str = OWNERS, number: int = 3) -> Board:
    projects = Hub(localhub.repo, token, localhub.url, pause_s=0, sleep=lambda _: None)
    return Board(Project("user", "sprinter", number), hub, projects)


def held(localhub: LocalHub) -> Held:
    assert localhub.hub.project is not None
    return localhub.hub.project


def shown(localhub: LocalHub) -> dict[int, str | None]:
    """What is on the board: the status by the number of the issue."""
    numbers = {node("I", issue.id): issue.number for issue in localhub.hub.issues}
    return {numbers[item.content]: item.status for item in held(localhub).items}


def put(localhub: LocalHub, status: str | None, archived: bool = False, title: str = "Week 01 - a title") -> int:
    """An issue that stands on the board already; its number."""
    issue = localhub.open_issue(title)
    held(localhub).items.append(Item(next(localhub.hub.ids), node("I", issue.id), status, archived))
    return issue.number


def mutations(localhub: LocalHub) -> list[str]:
    sent = [request.sent["query"] for request in localhub.requests if request.path == "/graphql"]
    return [name for query in sent for name in ("Add", "Move") if query.startswith(f"mutation {name}(")]


# ---------------------------------------------------------------------------------------------------- the address


@pytest.mark.parametrize(("url", "server", "expected"), [
    (URL, "https://github.com", Project("user", "sprinter", 3)),
    ("https://github.com/orgs/a-b_c/projects/120", "https://github.com", Project("organization", "a-b_c", 120)),
    ("http://127.0.0.1:8000/users/sprinter/projects/1", "http://127.0.0.1:8000", Project("user", "sprinter", 1)),
    ("https://github.example/orgs/x/projects/1", "https://github.example/", Project("organization", "x", 1))])
def test_an_address(url: str, server: str, expected: Project) -> None:
    assert project(url, server) == expected


@pytest.mark.parametrize("url", [
    "", "3", "users/sprinter/projects/3", "/users/sprinter/projects/3", "http://github.com/users/sprinter/projects/3",
    "https://github.com.evil.example/users/sprinter/projects/3", "https://evil.example/users/sprinter/projects/3",
    "https://github.com/sprinter/sprint/projects/3", "https://github.com/users/sprinter/projects/0", f"{URL}/", f"{URL}/views/1",
    f"{URL}?a", f"{URL}\n", "https://github.com/users/a/b/projects/3", "https://github.com/users//projects/3", f"{URL}{'0' * 9}",
    "https://github.com/users/sprinter/projects/\N{SUPERSCRIPT THREE}"])
def test_no_address(url: str) -> None:
    with pytest.raises(UserError) as refused:
        project(url, "https://github.com")
    assert str(refused.value) == ("PROJECT_URL is no address of a project: write https://github.com/users/NAME/projects/N or "
                                  "https://github.com/orgs/NAME/projects/N, with nothing after the number")


# ---------------------------------------------------------------------------------------------------- how far a run comes


def test_a_run_that_meets_all_is_done() -> None:
    assert reached(WEEK01, result()) == "Done"


def missed() -> Any:
    whole = observed()
    low = WEEK01.headline.measured(Estimate("exact", 0.5, 0.5, 0.5, (0.5,)))
    return dataclasses.replace(whole, metrics=tuple(low if one.name == low.name else one for one in whole.metrics))


@pytest.mark.parametrize("changes", [
    {"request": Request("bench", "week01", smoke=True)}, {"request": Request("bench", "week01", batch=8)}, {"observed": (missed(),)},
    {"status": "crashed", "failure": Failure("signal 11", ""), "observed": (), "files": ()}], ids=["smoke", "batch", "missed", "crashed"])
def test_any_other_run_is_progress(changes: dict[str, Any]) -> None:
    assert reached(WEEK01, result(**changes)) == "In Progress"


# ---------------------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize(("now", "status", "then"), [
    (None, "Todo", "Todo"), (None, "In Progress", "In Progress"), (None, "Done", "Done"),
    ("Todo", "Todo", "Todo"), ("Todo", "In Progress", "In Progress"), ("Todo", "Done", "Done"),
    ("In Progress", "Todo", "In Progress"), ("In Progress", "In Progress", "In Progress"), ("In Progress", "Done", "Done"),
    ("Done", "Todo", "Done"), ("Done", "In Progress", "Done"), ("Done", "Done", "Done"),
    ("Blocked", "Todo", "Blocked"), ("Blocked", "In Progress", "Blocked"), ("Blocked", "Done", "Blocked")])
def test_only_forward(localhub: LocalHub, board: Board, capsys: Any, now: str | None, status: Status, then: str) -> None:
    held(localhub).options = ("Blocked", "Todo", "In Progress", "Done")
    number = put(localhub, now)
    board.move(number, status, "week01")
    assert shown(localhub) == {number: then}
    assert mutations(localhub) == (["Add"] if now == then else ["Add", "Move"])
    assert capsys.readouterr().err == ""


def test_names_are_compared_less_their_case(localhub: LocalHub, board: Board) -> None:
    held(localhub).options = ("TODO", "In progress", "done")
    number = put(localhub, "TODO")
    seen = []
    for status in boards.FORWARD:
        board.move(number, status, "week01")
        seen.append(shown(localhub)[number])
    board.move(number, "In Progress", "week01")
    assert [*seen, shown(localhub)[number]] == ["TODO", "In progress", "done", "done"]


def test_what_a_person_archived_stays_so(localhub: LocalHub, board: Board, capsys: Any) -> None:
    number = put(localhub, "Todo", archived=True)
    board.move(number, "Done", "week01")
    assert (shown(localhub), capsys.readouterr().err) == ({number: "Todo"}, "")


def test_an_issue_that_is_not_on_the_board_comes_onto_it(localhub: LocalHub, board: Board) -> None:
    number = localhub.open_issue("Week 01 - a title").number
    for _ in range(2):
        board.move(number, "In Progress", "week01")
    assert shown(localhub) == {number: "In Progress"}
    assert mutations(localhub) == ["Add", "Move", "Add"]


def test_another_weeks_issue_stays_where_it_is(localhub: LocalHub, board: Board) -> None:
    number = put(localhub, "Todo", title="Week 02 - another")
    board.move(number, "Done", "week01")
    assert shown(localhub) == {number: "Todo"}
    assert [request.path for request in localhub.requests] == [f"/repos/sprinter/sprint/issues/{number}"]


def test_a_project_of_an_organization(localhub: LocalHub, board: Board, capsys: Any) -> None:
    localhub.hub.project = Held("acme", 3, "organization")
    number = localhub.open_issue("Week 01 - a title").number
    board.add(number)
    assert "Could not resolve to a user with the login of 'sprinter'" in capsys.readouterr().err
    dataclasses.replace(board, project=Project("organization", "acme", 3)).add(number)
    assert (shown(localhub), capsys.readouterr().err) == ({number: "Todo"}, "")


# ---------------------------------------------------------------------------------------------------- kickoff, runs


def test_kickoff_adds_the_issue_once(localhub: LocalHub, hub: Hub, board: Board) -> None:
    for _ in range(2):
        open_week(hub, "main", ledger_at(localhub, hub), WEEKS, "week03", board)
    assert shown(localhub) == {1: "Todo"}
    assert mutations(localhub) == ["Add", "Move", "Add"]


def test_after_the_last_week_nothing_is_added(localhub: LocalHub, hub: Hub, board: Board) -> None:
    for week in range(1, 17):
        localhub.open_issue(kickoff(planned(week), None).title)
    assert open_week(hub, "main", ledger_at(localhub, hub), WEEKS, None, board) is None
    assert shown(localhub) == {}


def test_runs_move_the_issue_as_far_as_they_show(localhub: LocalHub, hub: Hub, board: Board) -> None:
    asked = ask(localhub, hub)
    seen = []
    for name, changes in {"c1": {"request": Request("bench", "week01", smoke=True)}, "c2": {}, "c3": {"observed": (missed(),)}}.items():
        run = asked.checked(**changes)
        run = dataclasses.replace(run, result=dataclasses.replace(run.result, run=name))
        publish(hub, "main", ledger_at(localhub, hub), run, WEEKS, asked.place, board)
        seen.append(shown(localhub)[1])
    assert seen == ["In Progress", "Done", "Done"]


# ---------------------------------------------------------------------------------------------------- when it goes wrong


def options(*names: str) -> Callable[[LocalHub], None]:
    return lambda localhub: setattr(held(localhub), "options", names or None)


def weather(**fault: Any) -> Callable[[LocalHub], None]:
    return lambda localhub: localhub.fault("POST", "/graphql", times=99, **fault)


# What may be wrong with a board: how to make it so, how it is reached, and what the one line says then.
WRONG: dict[str, tuple[Callable[[LocalHub], None], dict[str, Any], str]] = {
    "no field": (options(), {}, MISSING.format("Todo, In Progress, Done")),
    "other options": (options("Backlog", "todo", "Doing", "Done"), {}, MISSING.format("In Progress")),
    "wrong number": (options("Todo"), {"number": 4}, "GraphQL: NOT_FOUND Could not resolve to a ProjectV2 with the number 4.;"),
    "wrong token": (options("Todo"), {"token": "ghp_no"}, "/graphql: HTTP 401 Bad credentials; PROJECT_TOKEN has to be one that may write"),
    "a stranger's token": (options("Todo"), {"token": "ghp_stranger"}, "NOT_FOUND Could not resolve to a ProjectV2 with the number 3."),
    "the workflows' token": (options("Todo"), {"token": TOKEN}, "GraphQL: FORBIDDEN Resource not accessible by integration; PROJECT_TOKEN"),
    "an outage": (weather(status=502), {}, "/graphql: HTTP 502"),
    "cut": (weather(reset=True), {}, "/graphql: ConnectionError"),
    "a page": (weather(html=True), {}, "something else than the JSON that was asked for"),
    "a limit": (weather(status=403, headers={"retry-after": "900"}), {}, "/graphql: rate limit"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_board_is_one_line(localhub: LocalHub, hub: Hub, capsys: Any, what: str) -> None:
    number = localhub.open_issue("Week 01 - a title").number
    prepare, reach, said = WRONG[what]
    prepare(localhub)
    reaching(localhub, hub, **reach).move(number, "Done", "week01")
    told = capsys.readouterr().err
    assert told.startswith(f'board: issue {number} did not come to "Done": ')
    assert (said in told, told.count("\n"), shown(localhub)) == (True, 1, {})


@pytest.mark.parametrize("what", ["no field", "the workflows' token", "an outage"])
def test_a_board_that_fails_leaves_everything_else_published(localhub: LocalHub, hub: Hub, capsys: Any, what: str) -> None:
    asked = ask(localhub, hub)
    prepare, reach, said = WRONG[what]
    prepare(localhub)
    publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place, reaching(localhub, hub, **reach))
    told, (card, body, files, signs, commits) = capsys.readouterr().err, end(localhub, asked)
    assert (said in told, told.count("\n"), shown(localhub)) == (True, 1, {})
    assert ("### week01 · met" in card, "[x]" in body, signs, commits) == (True, True, ["eyes", "rocket"], 2)
    assert f"results/week01/{asked.place.request_id}/result.json" in files


@pytest.mark.parametrize("fault", [
    {"status": 503}, {"status": 503, "apply": True}, {"reset": True, "apply": True}, {"html": True, "apply": True}, {"status": 429}],
    ids=["503", "503, carried out", "cut after", "a page, carried out", "429"])
def test_foul_weather_then_fine(localhub: LocalHub, board: Board, capsys: Any, fault: dict[str, Any]) -> None:
    number = localhub.open_issue("Week 01 - a title").number
    localhub.fault("POST", "/graphql", times=2, **fault)
    board.add(number)
    localhub.fault("POST", "/graphql", times=3, **fault)
    board.move(number, "Done", "week01")
    assert (shown(localhub), capsys.readouterr().err) == ({number: "Done"}, "")


def test_a_deleted_issue_is_one_line(localhub: LocalHub, board: Board, capsys: Any) -> None:
    board.add(7)
    assert capsys.readouterr().err == ('board: issue 7 did not come to "Todo": GET /issues/7: HTTP 404 Not Found\n')


NAMES = ("owner", "projectV2", "field", "id", "options", "name", "addProjectV2ItemById", "item", "fieldValueByName", "isArchived",
         "updateProjectV2ItemFieldValue", "projectV2Item")
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
                    max_leaves=12)


@settings(max_examples=30, deadline=None)
@given(JSON)
def test_an_answer_of_another_shape_is_an_error_that_the_hub_knows(data: Any) -> None:
    inside = [data, {"owner": {"projectV2": data}}, {"owner": {"projectV2": {"id": "1", "field": data}}}, {"addProjectV2ItemById": data},
              {"addProjectV2ItemById": {"item": {"id": "1", "isArchived": False, "fieldValueByName": data}}}]
    for one in inside:
        for read in (boards._columns, boards._item, boards._moved):
            try:
                read(one)
            except (ValueError, KeyError, TypeError):  # bot.hub makes HubError of these
                continue


# ---------------------------------------------------------------------------------------------------- in Actions


@pytest.fixture
def job(localhub: LocalHub, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a job with a board, in a fresh checkout."""
    folder = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(localhub.git.path), str(folder)], check=True)
    monkeypatch.chdir(folder)
    return {"GITHUB_REPOSITORY": localhub.repo, "GITHUB_TOKEN": localhub.token, "GITHUB_API_URL": localhub.url, "GITHUB_RUN_ID": "7777",
            "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REF_NAME": "main", "SPRINTBENCH_FAST": "1", "SPRINTBENCH_BRANCH": "",
            "GITHUB_SHA": localhub.git.head(), "GITHUB_OUTPUT": str(tmp_path / "outputs"),
            "GITHUB_EVENT_PATH": str(tmp_path / "event.json"), "PROJECT_URL": URL, "PROJECT_TOKEN": OWNERS}


def bench(job: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, env=job, prog_name="bench")


def test_bench_kickoff_adds(localhub: LocalHub, job: dict[str, str]) -> None:
    done = bench(job, "kickoff", "week01")
    assert (done.exit_code, done.stderr, shown(localhub)) == (0, "", {1: "Todo"})


def test_bench_report_moves(localhub: LocalHub, job: dict[str, str]) -> None:
    env = accepted(localhub, job)
    hand_over(env, result(run=env["REQUEST_ID"], commit=env["GITHUB_SHA"]))
    done = bench(env, "report")
    assert (done.exit_code, done.stderr, shown(localhub)) == (0, "", {1: "Done"})


def test_bench_sweep_moves(localhub: LocalHub, hub: Hub, job: dict[str, str]) -> None:
    leave(localhub, hub)
    assert bench(job, "sweep").exit_code == 0
    assert shown(localhub) == {1: "Done"}


def test_bench_sweep_moves_what_is_in_the_ledger_already(localhub: LocalHub, hub: Hub, job: dict[str, str]) -> None:
    left = leave(localhub, hub)
    waiting = localhub.hub.issues[0].comments[-1].body
    publish(hub, "main", left.asked.ledger, left.checked, WEEKS, left.asked.place)
    left.run.artifacts.clear()
    localhub.hub.issues[0].comments[-1].body = waiting
    assert bench(job, "sweep").exit_code == 0
    assert shown(localhub) == {1: "Done"}


@pytest.mark.parametrize(("changes", "said"), [
    ({"PROJECT_TOKEN": ""}, "PROJECT_URL is set and PROJECT_TOKEN is not: add the secret PROJECT_TOKEN, or remove the variable"),
    ({"PROJECT_URL": " "}, "PROJECT_TOKEN is set and PROJECT_URL is not: add the variable PROJECT_URL, or remove the secret"),
    ({"PROJECT_URL": f"{URL}/views/1"}, "PROJECT_URL is no address of a project: write https://github.com/users/NAME/projects/N or "
     "https://github.com/orgs/NAME/projects/N, with nothing after the number")])
def test_wrong_settings_are_said_and_stop_nothing(localhub: LocalHub, job: dict[str, str], changes: dict[str, str], said: str) -> None:
    done = bench({**job, **changes}, "kickoff", "week01")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "week01: issue 1 opened\n", f"board: {said}\n")
    assert shown(localhub) == {}


def test_without_settings_there_is_no_board(localhub: LocalHub, job: dict[str, str]) -> None:
    done = bench({**job, "PROJECT_URL": "", "PROJECT_TOKEN": ""}, "kickoff", "week01")
    assert (done.exit_code, done.stderr, shown(localhub)) == (0, "", {})
    assert not [request for request in localhub.requests if request.path == "/graphql"]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    with demo.local_hub(demo.snapshot(demo.ROOT, tmp_path / "sprint.git")) as local:
        yield local
    assert local.service.violations == []


def test_the_kickoff_workflow_adds(local: Local) -> None:
    """The real file, by act, with the variable and the secret as the repository's settings hold them."""
    local.hub.project = Held("sprinter", 1)
    local.hub.tokens["ghp_project"] = local.hub.users["sprinter"]
    local.workflows.variables["PROJECT_URL"] = f"{local.url}/users/sprinter/projects/1"
    local.workflows.secrets["PROJECT_TOKEN"] = "ghp_project"
    with local.hub.lock:
        local.hub.dispatch(local.hub.workflow("kickoff.yml"), {"week": "week01"}, local.hub.users["sprinter"])
    local.workflows.wait()
    [run] = local.hub.runs
    assert (run.conclusion, [item.status for item in local.hub.project.items]) == ("success", ["Todo"])
    assert "ghp_project" not in run.log


# ---------------------------------------------------------------------------------------------------- GitHub's own schema

SCHEMA = build_schema(SLIM.read_text(encoding="utf-8"))
KINDS = {"ProjectV2FieldConfiguration": "ProjectV2SingleSelectField", "ProjectV2ItemFieldValue": "ProjectV2ItemFieldSingleSelectValue"}


def kind(_: Any, __: Any, abstract: GraphQLAbstractType) -> str:
    return KINDS[abstract.name]


def selected(source: Any, info: GraphQLResolveInfo, **_: Any) -> Any:
    return source[info.path.key]  # by its alias, where it has one


def post(localhub: LocalHub, sent: Any, token: str = OWNERS) -> httpx.Response:
    return httpx.post(f"{localhub.url}/graphql", json=sent, headers={"authorization": f"Bearer {token}"} if token else {})


def exchanged(localhub: LocalHub, query: str, **variables: Any) -> dict[str, Any]:
    """What localhub answers to a query that GitHub's schema takes, with those variables; and the answer is one that the schema lets
    be: carried out on it, the query selects all of it again."""
    assert validate(SCHEMA, parse(query)) == []
    data: dict[str, Any] = post(localhub, {"query": query, "variables": variables}).json()["data"]
    again = execute_sync(SCHEMA, parse(query), data, variable_values=variables, field_resolver=selected, type_resolver=kind)
    assert (again.errors, again.data) == (None, data)
    return data


@pytest.mark.parametrize(("owner", "options"), [("user", ("Todo", "In Progress", "Done")), ("organization", ("Todo",)), ("user", None)])
def test_the_columns_are_as_the_schema_says(localhub: LocalHub, owner: Any, options: Any) -> None:
    localhub.hub.project = Held("sprinter", 3, owner, options)
    found = exchanged(localhub, COLUMNS % owner, owner="sprinter", number=3)
    assert found["owner"]["projectV2"]["id"] == "PVT_3"


def test_an_item_is_added_and_moved_as_the_schema_says(localhub: LocalHub, hub: Hub) -> None:
    issue = node("I", localhub.open_issue("Week 01 - a title").id)
    status = exchanged(localhub, COLUMNS % "user", owner="sprinter", number=3)["owner"]["projectV2"]["field"]
    for expected in (None, {"name": "In Progress"}):
        item = exchanged(localhub, ADD, project="PVT_3", issue=issue)["addProjectV2ItemById"]["item"]
        assert item["fieldValueByName"] == expected
        exchanged(localhub, MOVE, project="PVT_3", item=item["id"], field=status["id"], option=status["options"][1]["id"])


def test_the_slim_schema_is_githubs() -> None:
    text = SLIM.read_text(encoding="utf-8")
    head, _, body = text.partition("\n\n")
    assert head == "# sha256 3c62d0526d133cee53221c89de9b455ade24db78b9e7ad56d642c4c15bce2654"
    whole = body.replace("type ", '"""\nProse\n"""\ntype ').replace(": ID!", ': ID! @deprecated(reason: "x")')
    assert slim(whole.replace("(login", '("who" login') + "\ntype Other { id: ID! }\n").partition("\n\n")[2] == body


# ---------------------------------------------------------------------------------------------------- localhub's own part


@pytest.mark.parametrize(("sent", "said"), [
    ({"query": "query Other($a: ID!) { a }"}, "A query attribute must be specified"), ([], "A query attribute must be specified"),
    ({"query": COLUMNS % "user", "variables": {"owner": "sprinter", "number": "3"}}, "Variable $number was provided invalid value"),
    ({"query": COLUMNS % "user", "variables": {"owner": "sprinter", "number": True}}, "Variable $number was provided invalid value"),
    ({"query": COLUMNS % "user", "variables": {"owner": "sprinter", "number": 3, "more": ""}}, "Variable $more was provided invalid value"),
    ({"query": COLUMNS % "user", "variables": {"owner": "sprinter", "number": 9}}, "NOT_FOUND"),
    ({"query": ADD, "variables": {"project": "PVT_9", "issue": "I_1"}}, "NOT_FOUND"),
    ({"query": ADD, "variables": {"project": "PVT_3", "issue": "I_1"}}, "NOT_FOUND"),
    ({"query": MOVE, "variables": {"project": "PVT_3", "item": "PVTI_1", "field": "PVTSSF_3", "option": "00000000"}}, "NOT_FOUND")])
def test_localhub_refuses_as_github_does(localhub: LocalHub, hub: Hub, sent: Any, said: str) -> None:
    answer = post(localhub, sent)
    assert (answer.status_code, said in json.dumps(answer.json()["errors"])) == (200, True)


def test_localhub_moves_nothing_archived_and_answers_nobody_without_a_token(localhub: LocalHub, hub: Hub) -> None:
    put(localhub, "Todo", archived=True)
    item = node("PVTI", held(localhub).items[0].id)
    sent = {"query": MOVE, "variables": {"project": "PVT_3", "item": item, "field": "PVTSSF_3", "option": "00000002"}}
    assert post(localhub, sent).json()["errors"][0]["message"] == projects.ARCHIVED
    assert post(localhub, sent, token="").status_code == 401
