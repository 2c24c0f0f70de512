"""The sweep: publishing ended after any of its steps and swept comes to the same end, once; and nobody's command is lost."""

import contextlib
import dataclasses
import io
import json
import re
import subprocess
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sample_week import WEEK01, files, paths, result
from test_publish import STEPS, Asked, ask, card, signs

from bot import publish, store, sweep
from bot.__main__ import cli
from bot.artifact import Checked
from bot.cards import accepting_card, lost_card, waits_for
from bot.checklist import tick, ticks
from bot.errors import HubError
from bot.history import History
from bot.hub import Hub, signed
from bot.kickoff import kickoff
from bot.report import Where, report
from localhub.state import Job, Run, User, Workflow
from workloads.plan import planned
from workloads.spec import Request, dumps

WEEKS = {"week01": WEEK01}
NOTHING = "0 cards wait, 0 of them settled, 0 failed, 0 cancelled, 0 rescued; 0 commands asked for again, 0 logs ticked; 2 API calls\n"
BENCH = Workflow(1, ".github/workflows/bench.yml", "bench", ("issue_comment",), (), ())


@pytest.fixture
def hub(localhub: Any) -> Hub:
    return Hub(*localhub.hub_args, pause_s=0, sleep=lambda _: None)


@pytest.fixture
def here(localhub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of the branch as it was before anything happened: the sweep has to catch up."""
    folder = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(localhub.git.path), str(folder)], check=True)
    monkeypatch.chdir(folder)
    return folder


def swept(localhub: Any) -> Result:
    """`bench sweep`, as its workflow runs it."""
    env = {"GITHUB_REPOSITORY": localhub.repo, "GITHUB_TOKEN": localhub.token, "GITHUB_API_URL": localhub.url, "GITHUB_RUN_ID": "7777",
           "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REF_NAME": "main", "SPRINTBENCH_FAST": "1", "SPRINTBENCH_BRANCH": ""}
    localhub.requests.clear()
    return CliRunner().invoke(cli, ["sweep"], env=env, prog_name="bench")


def writes(localhub: Any) -> list[str]:
    return [request.path.split("/", 4)[4] for request in localhub.requests if request.method != "GET"]


def zipped(held: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    return packed.getvalue()


@dataclasses.dataclass
class Left:
    """A command whose GPU job has ended, and its Actions run, as the report job finds them."""

    asked: Asked
    checked: Checked
    run: Run


def leave(localhub: Any, hub: Hub) -> Left:
    asked = ask(localhub, hub)
    comment = asked.place.comment
    home = "https://github.com/sprinter/sprint"
    where = Where("https://github.com", "sprinter/sprint", "main", queued_s=90.0, comment_url=f"{home}/issues/1#issuecomment-{comment}",
                  run_url=f"{home}/actions/runs/4242")
    place = dataclasses.replace(asked.place, where=where)
    started = f"{asked.command.created + timedelta(seconds=90):%Y-%m-%dT%H:%M:%SZ}"
    made = result(run=place.request_id, commit=localhub.git.head(), started=started)
    held = files(made)
    checked = Checked(made, {name: content for name, content in held.items() if name != "result.json"})
    run = Run(4242, 1, BENCH, "issue_comment", {}, User("member", 1002), localhub.git.head(), "", datetime.now(UTC), status="completed",
              conclusion="failure", artifacts={"result-week01": zipped(held)})
    localhub.hub.runs.append(run)
    return Left(dataclasses.replace(asked, place=place), checked, run)


def report_job(hub: Hub, left: Left) -> None:
    publish.publish(hub, "main", left.asked.ledger, left.checked, WEEKS, left.asked.place)


def end(localhub: Any, left: Left) -> tuple[Any, ...]:
    """What people see, less commit ids: the one comment, the issue, every file, the reactions, and how many commits there are."""
    head = localhub.git.head()
    held = {path: localhub.git.read(head, path) for path in paths(localhub, head)}
    return (re.sub(r"[0-9a-f]{40}", "SHA", card(localhub)), localhub.hub.issues[0].body, held, signs(left.asked),
            len(localhub.git.log("main")))


def wanted(left: Left) -> tuple[Any, ...]:
    """The same as it follows from the result by the pure functions, without any hub."""
    made, place = left.checked.result, left.asked.place
    text = report(WEEK01, made, dataclasses.replace(place.where, ledger="0" * 40), History()).split("\n", 1)[1]
    url = f"https://github.com/sprinter/sprint/issues/1#issuecomment-{place.card}"
    entry = store.entry(left.checked)
    return (re.sub(r"[0-9a-f]{40}", "SHA", f"<!-- sprintbench:card {made.run} run=4242 -->\n{text}"),
            tick(kickoff(planned(1), WEEK01).body, ticks(WEEK01, made, url)),
            {"README.md": b"# A sprint\n", **entry, **store.pages(store.Ledger({}).with_files(entry), WEEKS)}, ["eyes", "rocket"], 2)


# ---------------------------------------------------------------------------------------------------- the crash matrix


def test_the_report_job_itself_comes_to_that_end(hub: Hub, localhub: Any, here: Path) -> None:
    left = leave(localhub, hub)
    report_job(hub, left)
    assert wanted(left) == end(localhub, left)
    done = swept(localhub)
    assert (done.exit_code, done.stdout) == (0, NOTHING)


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_ended_at_any_step_and_swept_it_ends_the_same(hub: Hub, localhub: Any, here: Path, step: str, applied: bool) -> None:
    left = leave(localhub, hub)
    method = "PATCH" if step in STEPS[3:6] else "POST"
    localhub.fault(method, step, times=4, reset=True, apply=applied)
    with contextlib.suppress(HubError):  # an issue that was written after all is seen to be so, and nothing fails
        report_job(hub, left)
    assert all(fault.times < 4 for fault in localhub.service.faults)
    localhub.service.faults.clear()
    done = swept(localhub)
    assert done.exit_code == 0, done.output
    assert wanted(left) == end(localhub, left)
    assert len(localhub.requests) <= 20
    again = swept(localhub)
    assert again.exit_code == 0
    assert (writes(localhub), len(localhub.requests)) == ([], 2)
    assert wanted(left) == end(localhub, left)


@pytest.mark.parametrize("step", STEPS)
def test_a_sweep_ended_at_any_step_is_finished_by_the_next(hub: Hub, localhub: Any, here: Path, step: str) -> None:
    left = leave(localhub, hub)
    [waiting] = sweep.look(hub, WEEKS, "github-actions[bot]").waiting
    localhub.fault("PATCH" if step in STEPS[3:6] else "POST", step, times=4, reset=True, apply=True)
    with contextlib.suppress(HubError):
        sweep.settle(hub, "main", left.asked.ledger, waiting, WEEKS, Where("https://github.com", "sprinter/sprint", "main"))
    assert all(fault.times < 4 for fault in localhub.service.faults)
    localhub.service.faults.clear()
    assert swept(localhub).exit_code == 0
    assert wanted(left) == end(localhub, left)


def test_half_published_and_the_artifact_gone_it_follows_from_the_ledger(hub: Hub, localhub: Any, here: Path) -> None:
    left = leave(localhub, hub)
    localhub.fault("PATCH", "/issues/1$", times=4, status=502)
    with pytest.raises(HubError):
        report_job(hub, left)
    left.run.artifacts.clear()
    assert swept(localhub).exit_code == 0
    assert wanted(left) == end(localhub, left)


def test_two_runs_in_one_sweep(hub: Hub, localhub: Any, here: Path) -> None:
    first = leave(localhub, hub)
    issue = localhub.hub.issues[0]
    command = localhub.comment_as("member", 1, "/bench week01")
    body = card(localhub).replace(first.asked.place.request_id, f"c{command.id}").replace("run=4242", "run=4243")
    localhub.comment_as("github-actions[bot]", 1, body)
    made = dataclasses.replace(first.checked.result, run=f"c{command.id}")
    localhub.hub.runs.append(dataclasses.replace(first.run, id=4243, artifacts={"result-week01": zipped(files(made))}))
    assert swept(localhub).stdout.startswith("2 cards wait, 2 of them settled, 0 failed,")
    assert [waits_for(comment.body) for comment in issue.comments] == [None] * 4
    assert [len(localhub.git.log("main")), *(f"c{n}".encode() in localhub.git.read("main", "SCOREBOARD.md")
                                            for n in (first.asked.place.comment, command.id))] == [3, True, True]


# ---------------------------------------------------------------------------------------------------- what cannot be published


def test_a_run_that_works_is_left_alone(hub: Hub, localhub: Any, here: Path) -> None:
    left = leave(localhub, hub)
    left.run.status, left.run.conclusion = "in_progress", None
    left.run.jobs = (Job("Gate", "success"), Job("Bench week01", "in_progress", started=left.asked.command.created))
    before = end(localhub, left)[1:]
    assert swept(localhub).stdout.startswith("1 cards wait, 0 of them settled, 0 failed,")
    assert (writes(localhub), before) == ([f"issues/comments/{left.asked.place.card}"], end(localhub, left)[1:])
    assert f"It works since {left.asked.command.created:%H:%M} UTC." in card(localhub)
    assert waits_for(card(localhub)) == left.checked.result.request
    swept(localhub)
    assert writes(localhub) == [], "what it says is said"


@pytest.mark.parametrize(("conclusion", "word"), [("cancelled", "cancelled"), ("failure", "failure"), (None, "unknown")])
def test_a_lost_run_says_so(hub: Hub, localhub: Any, here: Path, conclusion: Any, word: str) -> None:
    left = leave(localhub, hub)
    left.run.artifacts.clear()
    left.run.conclusion = conclusion
    if conclusion is None:
        localhub.hub.runs.clear()
    assert swept(localhub).exit_code == 0
    run, place = left.checked.result.run, left.asked.place
    assert card(localhub) == signed(lost_card(run, left.checked.result.request, word, place.where), run, "4242")
    assert (signs(left.asked), len(localhub.git.log("main"))) == (["eyes", "confused"], 1)
    swept(localhub)
    assert writes(localhub) == []


def test_a_hostile_artifact_is_refused(hub: Hub, localhub: Any, here: Path) -> None:
    left = leave(localhub, hub)
    left.run.artifacts["result-week01"] = zipped({"../result.json": b"{}"})
    assert swept(localhub).exit_code == 0
    assert "failed: the result was refused" in card(localhub)
    assert (signs(left.asked), len(localhub.git.log("main"))) == (["eyes", "confused"], 1)


def test_a_result_for_another_commit_is_refused(hub: Hub, localhub: Any, here: Path) -> None:
    left = leave(localhub, hub)
    left.run.artifacts["result-week01"] = zipped(files(dataclasses.replace(left.checked.result, commit="1" * 40)))
    swept(localhub)
    assert "the result is of another commit" in card(localhub)


def test_one_refusal_keeps_no_other_waiting(hub: Hub, localhub: Any, here: Path) -> None:
    left = leave(localhub, hub)
    other = localhub.comment_as("github-actions[bot]", 1, card(localhub).replace(left.asked.place.request_id, "c5").replace("4242", "4243"))
    localhub.hub.runs.append(dataclasses.replace(left.run, id=4243, artifacts={}))
    localhub.fault("PATCH", f"/issues/comments/{left.asked.place.card}$", status=403, message="Resource not accessible by integration")
    done = swept(localhub)
    assert (done.exit_code, "1 of them settled, 1 failed" in done.stdout) == (1, True)
    assert "left no result" in other.body
    assert swept(localhub).exit_code == 0
    localhub.hub.issues[0].comments.remove(other)
    assert wanted(left) == end(localhub, left)


def test_a_card_that_cannot_be_shown_keeps_no_other_waiting(hub: Hub, localhub: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect that nobody knows of has to be planted."""
    left = leave(localhub, hub)
    monkeypatch.setattr("bot.store.plots", lambda result: result.no_such_thing)
    other = localhub.comment_as("github-actions[bot]", 1, card(localhub).replace(left.asked.place.request_id, "c5").replace("4242", "4243"))
    localhub.hub.runs.append(dataclasses.replace(left.run, id=4243, artifacts={}))
    done = swept(localhub)
    assert (done.exit_code, "1 of them settled, 1 failed" in done.stdout) == (1, True)
    assert "the bot failed to show it, and the log of the sweep says where" in localhub.hub.issues[0].comments[1].body
    assert "left no result" in other.body


def test_a_ledger_broken_by_hand_costs_no_result(hub: Hub, localhub: Any, here: Path) -> None:
    left = leave(localhub, hub)
    localhub.put({"results/week01/c1/result.json": b"{}"})
    assert swept(localhub).exit_code == 1
    assert waits_for(card(localhub)) is not None
    localhub.put({"results/week01/c1/result.json": None})
    assert swept(localhub).exit_code == 0
    assert wanted(left)[:4] == end(localhub, left)[:4]


def test_an_outage_leaves_everything_for_the_next_sweep(hub: Hub, localhub: Any, here: Path) -> None:
    left = leave(localhub, hub)
    localhub.fault("GET", "/actions/runs/4242$", times=4, status=502)
    assert swept(localhub).exit_code == 1
    assert swept(localhub).exit_code == 0
    assert wanted(left) == end(localhub, left)


@pytest.mark.parametrize("fault", [{"status": 502}, {"reset": True}, {"html": True}, {"status": 429, "headers": {"retry-after": "0"}}])
@pytest.mark.parametrize("path", ["/artifacts$", "/zip$", "/storage/"])
def test_an_artifact_is_fetched_in_foul_weather(hub: Hub, localhub: Any, path: str, fault: dict[str, Any]) -> None:
    left = leave(localhub, hub)
    localhub.fault("GET", path, **fault)
    expected = b"<!DOCTYPE html>" if path == "/storage/" and "html" in fault else left.run.artifacts["result-week01"]
    held = hub.artifact("4242", "result-week01")
    assert held is not None and held.startswith(expected)


@pytest.mark.parametrize("status", [404, 410])
def test_an_artifact_that_is_gone(hub: Hub, localhub: Any, status: int) -> None:
    leave(localhub, hub)
    localhub.fault("GET", "/zip$", status=status)
    assert hub.artifact("4242", "result-week01") is None
    assert hub.artifact("4242", "another") is None
    localhub.fault("GET", "/artifacts$", status=403)
    with pytest.raises(HubError):
        hub.artifact("4242", "result-week01")
    localhub.fault("GET", "/runs/4242$", status=403)
    with pytest.raises(HubError):
        hub.workflow_run("4242")


# ---------------------------------------------------------------------------------------------------- commands without an answer


def written(localhub: Any, body: str = "/bench week01", login: str = "member", minutes_ago: float = 60) -> Any:
    """A command whose event got lost."""
    if not localhub.hub.issues:
        localhub.open_issue("Week 01 - a title")
    comment = localhub.comment_as(login, 1, body)
    comment.created = comment.updated = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    return comment


def answers(localhub: Any) -> list[str]:
    return [comment.body for comment in localhub.hub.issues[0].comments if comment.user.login == "github-actions[bot]"]


def test_a_lost_command_is_asked_for_again_once(localhub: Any, here: Path) -> None:
    command = written(localhub)
    done = swept(localhub)
    assert done.stdout == NOTHING.replace("0 commands", "1 commands").replace("2 API", "5 API")
    assert answers(localhub) == [signed(sweep.UNHEARD, f"c{command.id}", "7777")]
    assert [reaction.content for reaction in command.reactions] == ["eyes"]
    swept(localhub)
    assert (writes(localhub), len(answers(localhub))) == ([], 1)


def test_an_event_that_comes_after_the_sweep_is_ignored(localhub: Any, hub: Hub, here: Path) -> None:
    """The claim and the card are taken, which is what the gate asks for: see test_gate."""
    command = written(localhub)
    swept(localhub)
    found = hub.find_card(1, f"c{command.id}")
    assert (hub.claim(command.id), found and found.workflow_run) == (False, "7777")


def test_a_command_whose_gate_died_after_its_claim(localhub: Any, hub: Hub, here: Path) -> None:
    command = written(localhub)
    hub.claim(command.id)
    assert "1 commands asked for again" in swept(localhub).stdout
    assert answers(localhub) == [signed(sweep.UNHEARD, f"c{command.id}", "7777")]


def test_a_sweep_that_died_after_its_claim(localhub: Any, here: Path) -> None:
    written(localhub)
    localhub.fault("POST", "/comments$", times=4, status=503)
    assert swept(localhub).exit_code == 1
    assert "1 commands asked for again" in swept(localhub).stdout
    assert len(answers(localhub)) == 1


def test_the_gate_may_be_faster(localhub: Any, hub: Hub) -> None:
    for claim in (hub.claim, lambda number: hub.post_card(1, f"c{number}", "4242", "answered")):
        command = written(localhub)
        [*_, left] = sweep.look(hub, WEEKS, "github-actions[bot]").unheard
        claim(command.id)
        left = dataclasses.replace(left, claimed=claim != hub.claim)
        assert not sweep.ask_again(hub, left, "7777")


def test_a_stranger_gets_one_reaction_and_no_words(localhub: Any, here: Path) -> None:
    command = written(localhub, login="stranger")
    for _ in range(2):
        assert "0 commands asked for again" in swept(localhub).stdout
    assert ([reaction.content for reaction in command.reactions], answers(localhub), writes(localhub)) == (["-1"], [], [])


@pytest.mark.parametrize("minutes", [5, 25 * 60])
def test_only_commands_of_today_that_had_their_time(localhub: Any, here: Path, minutes: float) -> None:
    written(localhub, minutes_ago=minutes)
    swept(localhub)
    assert (answers(localhub), writes(localhub)) == ([], [])


def test_what_is_no_command_is_left_alone(localhub: Any, hub: Hub, here: Path) -> None:
    written(localhub, "nice work")
    written(localhub, "/bench week01", login="github-actions[bot]")
    written(localhub).updated += timedelta(minutes=1)
    swept(localhub)
    assert writes(localhub) == []


@pytest.mark.parametrize("change", [{"html_url": "https://github.com/sprinter/sprint/pull/1#issuecomment-7"}, {"user": None},
                                    {"performed_via_github_app": {"id": 1}}])
def test_comments_that_localhub_has_none_of(change: dict[str, Any]) -> None:
    moment = "2026-11-23T12:00:00Z"
    comment = {"id": 7, "body": "/bench week01", "user": {"login": "member", "id": 1002, "type": "User"}, "created_at": moment,
               "updated_at": moment, "issue_url": "https://api.github.com/repos/sprinter/sprint/issues/1",
               "html_url": "https://github.com/sprinter/sprint/issues/1#issuecomment-7"}
    assert sweep._command(json.loads(json.dumps(comment)), "github-actions[bot]") is not None
    assert sweep._command({**comment, **change}, "github-actions[bot]") is None


def test_a_flood_takes_several_sweeps(localhub: Any, here: Path) -> None:
    commands = [written(localhub) for _ in range(sweep.MOST + 1)]
    assert "20 commands asked for again, 0 logs ticked; 62 API calls" in swept(localhub).stdout
    assert "1 commands asked for again" in swept(localhub).stdout
    assert len(answers(localhub)) == len(commands)


# ---------------------------------------------------------------------------------------------------- baselines and logs


def test_an_acceptance_that_was_cut_is_finished(hub: Hub, localhub: Any, here: Path) -> None:
    localhub.put({"results/week01/c7/result.json": dumps(result()).encode()})
    asked = ask(localhub, hub, body="/accept c7")
    request = Request("accept", "week01", runs=(7,))
    hub.edit_card(asked.place.card, asked.place.request_id, "4242", accepting_card(request, "week01", asked.place.where))
    localhub.hub.runs.append(Run(4242, 1, BENCH, "issue_comment", {}, User("member", 1002), localhub.git.head(), "", datetime.now(UTC),
                                 status="completed", conclusion="failure"))
    assert "1 of them settled" in swept(localhub).stdout
    assert localhub.git.read("main", "results/week01/c7/accepted.json")
    assert "is the new baseline" in card(localhub)
    assert swept(localhub).stdout == NOTHING


LOG = "### What sped up\n\nall\n\n### What broke\n\nnothing\n\n### What's next\n\nweek 2\n"


@pytest.mark.parametrize(("opener", "author", "ticked"), [
    ("github-actions[bot]", "member", True), ("github-actions[bot]", "stranger", False), ("stranger", "stranger", True),
    ("sprinter", "member", False)])
def test_a_log_is_ticked(hub: Hub, localhub: Any, here: Path, opener: str, author: str, ticked: bool) -> None:
    """By the issue's author, or by somebody who may write where the bot opened it."""
    plan = kickoff(planned(1), WEEK01)
    issue = localhub.open_issue(plan.title, plan.body, login=opener)
    comment = localhub.comment_as(author, issue.number, LOG)
    assert f"{int(ticked)} logs ticked" in swept(localhub).stdout
    assert (f"— logged ([c{comment.id}](" in issue.body) is ticked
    assert "0 logs ticked" in swept(localhub).stdout
    assert writes(localhub) == []


def test_a_log_on_another_issue_ticks_nothing(hub: Hub, localhub: Any, here: Path) -> None:
    issue = localhub.open_issue("Anything", kickoff(planned(1), WEEK01).body.split("\n", 1)[1])
    localhub.comment_as("sprinter", issue.number, LOG)
    assert "0 logs ticked" in swept(localhub).stdout
    assert "[x]" not in issue.body


def test_a_second_run_comes_along(hub: Hub, localhub: Any, here: Path) -> None:
    left = leave(localhub, hub)
    run = left.asked.place.request_id
    left.run.artifacts["second-week01"] = zipped(files(dataclasses.replace(left.checked.result, run=f"{run}-2")))
    assert "1 of them settled" in swept(localhub).stdout
    assert localhub.git.read("main", f"results/week01/{run}-2/result.json")


# ---------------------------------------------------------------------------------------------------- out of a spool


def spooled(localhub: Any, left: Left, held: dict[str, bytes], **changes: Any) -> Run:
    """A later run whose bench job found a result in its machine's spool."""
    workflow = dataclasses.replace(BENCH, id=2, path=changes.pop("path", BENCH.path))
    artifacts = {f"spooled-{left.checked.result.week}-{left.asked.place.request_id}": zipped(held)}
    run = Run(4299, 2, workflow, changes.pop("event", "issue_comment"), {}, User("member", 1002), localhub.git.head(), "",
              datetime.now(UTC), status="completed", conclusion="success", artifacts=artifacts, **changes)
    localhub.hub.runs.append(run)
    return run


def lose(localhub: Any, hub: Hub) -> Left:
    """The runner died after it had measured, before it could hand over: the card says so."""
    left = leave(localhub, hub)
    left.run.artifacts.clear()
    assert "1 of them settled" in swept(localhub).stdout
    assert "failed: the GPU job left no result" in card(localhub)
    return left


def test_what_a_spool_held_becomes_the_report(hub: Hub, localhub: Any, here: Path) -> None:
    left = lose(localhub, hub)
    assert "0 rescued" in swept(localhub).stdout
    spooled(localhub, left, files(left.checked.result))
    assert "1 rescued" in swept(localhub).stdout
    assert "### week01 · met" in card(localhub)
    assert localhub.git.read("main", f"results/week01/{left.asked.place.request_id}/result.json")
    assert swept(localhub).stdout == NOTHING


@pytest.mark.parametrize("changes", [{"path": ".github/workflows/ci.yml"}, {"event": "pull_request"}, {"head_repository": 2}])
def test_a_spool_of_another_kind_is_none(hub: Hub, localhub: Any, here: Path, changes: dict[str, Any]) -> None:
    """Anybody's pull request can upload an artifact of any name."""
    left = lose(localhub, hub)
    spooled(localhub, left, files(left.checked.result), **changes)
    assert "0 rescued" in swept(localhub).stdout


def test_a_spool_that_does_not_hold_is_left_out(hub: Hub, localhub: Any, here: Path) -> None:
    left = lose(localhub, hub)
    spooled(localhub, left, files(dataclasses.replace(left.checked.result, run="c1")))
    done = swept(localhub)
    assert "0 rescued" in done.stdout
    assert "is left out: the result is of another run" in done.stderr
    assert "left no result" in card(localhub)
    localhub.hub.runs.remove(left.run)
    assert "0 rescued" in swept(localhub).stdout, "its own run was deleted, so nobody knows its commit"
