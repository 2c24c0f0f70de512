"""What runs, what waits, stop, again, and no more than there is room for: commands through the gate against a hub whose Actions
runs a test moves along by hand."""

import dataclasses
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sample_week import WEEK01, files, result

from bot import commands, control, gate
from bot.artifact import Checked
from bot.cards import lost_card, queued_card
from bot.errors import HubRefused
from bot.hub import BENCH_JOB, Hub
from bot.publish import Place, publish
from bot.report import Where
from bot.store import Ledger
from localhub.state import Job, Machine, Run
from workloads.spec import Failure, Price, Request, Result, dumps

BOT = "github-actions[bot]"
WHERE = Where("https://github.com", "sprinter/sprint", "main")
WORKFLOW = b"name: bench\non: issue_comment\njobs: {gate: {name: Gate}, bench: {name: Bench}, report: {name: Report}}\n"


def past(*runs: Result) -> Ledger:
    return Ledger({f"results/{run.week}/{run.run}/result.json": dumps(run).encode() for run in runs})


@dataclasses.dataclass
class Scene:
    """An issue of week 1. `say` is a person's comment with the Actions run of its gate; `held` the ledger as that finds it."""

    local: Any
    hub: Hub
    issue: int
    held: Ledger = dataclasses.field(default_factory=lambda: Ledger({}))

    def say(self, body: str, login: str = "member", issue: int = 0) -> gate.Decision:
        comment = self.local.comment_as(login, issue or self.issue, body)
        workflow = self.local.hub.workflow("bench.yml")
        run = self.local.hub.add_run(workflow, "issue_comment", {"comment": comment.id}, comment.user, "a title")
        return self.judge(run)

    def judge(self, run: Run) -> gate.Decision:
        """The gate job of an Actions run; one that lets nothing through ends it."""
        comment = next(c for i in self.local.hub.issues for c in i.comments if c.id == run.payload["comment"])
        user = {"login": comment.user.login, "id": comment.user.id, "type": "User"}
        found = gate.read({"action": "created", "sender": user, "comment": {"id": comment.id, "body": comment.body, "user": user},
                           "issue": {"number": comment.issue, "title": "Week 01 - a title", "state": "open"}}, BOT)
        assert isinstance(found, gate.Ask)
        decision = gate.answer(found, self.hub, {"week01": WEEK01}, WHERE, str(run.id), lambda: self.held)
        if not decision.run:
            run.status, run.conclusion = "completed", "success"
        return decision

    def another(self) -> int:
        """A further issue of week 1: what is asked for there is no repetition."""
        return int(self.local.open_issue("Week 01 - a title").number)

    def move(self, decision: gate.Decision, state: Any, *, started: int = 0) -> Run:
        """The run behind a decision: its bench job waits, works since `started` seconds ago, or has ended."""
        run = self.behind(decision)
        begun = self.local.hub.created - timedelta(seconds=started)
        run.status = "queued" if state == "queued" else "in_progress"
        run.jobs = (Job("Gate", "success"), Job("Bench week01", state, started=begun))
        return run

    def end(self, decision: gate.Decision, conclusion: Any = "failure") -> Run:
        run = self.behind(decision)
        run.status, run.conclusion = "completed", conclusion
        return run

    def behind(self, decision: gate.Decision) -> Run:
        found: Run = next(run for run in self.local.hub.runs if f"c{run.payload['comment']}" == decision.request_id)
        return found

    def card(self, decision: gate.Decision) -> str:
        return str(self.local.hub.comment(decision.card).body)

    def answer(self, body: str, login: str = "member", issue: int = 0) -> str:
        """What the bot says to a command, less its mark."""
        decision = self.say(body, login, issue)
        assert not decision.run
        text = self.card(decision).split("\n\n", 1)[1]
        assert commands.parse(text) is None
        assert not re.search(r"(?m)^/", text)
        return text

    def lose(self, decision: gate.Decision) -> None:
        """The report job found nothing."""
        assert decision.request is not None
        self.end(decision)
        run = str(self.behind(decision).id)
        self.hub.edit_card(decision.card, decision.request_id, run, lost_card(decision.request_id, decision.request, "failure", WHERE))


@pytest.fixture
def scene(localhub: Any) -> Scene:
    localhub.put({".github/workflows/bench.yml": WORKFLOW})
    hub = Hub(*localhub.hub_args, pause_s=0, sleep=lambda _: None)
    return Scene(localhub, hub, localhub.open_issue("Week 01 - a title").number)


def rows(answer: str) -> list[list[str]]:
    """The cells of a table's rows, without the headline and links."""
    lines = [line for line in answer.splitlines() if line.startswith("| ")]
    return [[re.sub(r"\[(c\d+)\]\([^)]*\)", r"\1", cell.strip()) for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_job_that_measures_has_its_name() -> None:
    workflow = yaml.safe_load((Path(__file__).parent.parent / ".github/workflows/bench.yml").read_text())
    name = workflow["jobs"]["bench"]["name"].replace("${{ matrix.leg.week }}", "week01")
    assert (named := BENCH_JOB.fullmatch(name)) and named[1] == "week01"


# ---------------------------------------------------------------------------------------------------- /status


def test_nothing_to_see(scene: Scene) -> None:
    assert scene.answer("/status") == (
        "### Nothing works and nothing waits\n\n"
        "**GPU runners:** they cannot be seen with this job's token, which may not administer the repository.\n\n"
        "No GPU runner has handed over a result yet.\n\n"
        "**GPU time, last 30 days:** 0.0 GPU-hours in 0 runs.")


def test_what_works_and_what_waits(scene: Scene) -> None:
    """The runs take 600 s each: one works since 90 s, so the next starts in 510 s and the one after that in 1,110 s."""
    scene.held = past(*(result(run=f"c{n}", duration_s=s) for n, s in ((1, 500.0), (2, 600.0), (3, 10_000.0))))
    people = ("member", "member", "sprinter", "member")
    posted, works, waits, last = (scene.say("/bench week01", login, scene.another()) for login in people)
    scene.move(posted, "success")
    scene.move(works, "in_progress", started=90)
    scene.move(waits, "queued")
    scene.local.requests.clear()
    answer = scene.answer("/status")
    assert len(scene.local.requests) <= 15
    assert answer.startswith("### 2 at work, 2 waiting\n")
    told = rows(answer)
    assert [row[:3] for row in told] == [
        [posted.request_id, "week01", "is being posted"], [works.request_id, "week01", "works"],
        [waits.request_id, "week01", "waits, place 1"], [last.request_id, "week01", "waits, place 2"]]
    assert [row[4].split(" min ")[0] for row in told] == [
        "its report in a minute", "ends in about 8", "starts in about 8", "starts in about 18"]
    assert re.fullmatch(r"\d\d:\d\d UTC, 1 min \d\d s", told[1][3])
    assert f"[{works.request_id}](https://github.com/sprinter/sprint/issues/3#issuecomment-{works.card})" in answer
    assert "A GPU runner last handed over a result at 2026-11-23 14:46 UTC (c3)." in answer


def test_a_late_run_ends_now_and_without_a_past_nothing_is_promised(scene: Scene) -> None:
    scene.held = past(result(run="c1", duration_s=60.0))
    works, smoke, last = scene.say("/bench"), scene.say("/bench --smoke"), scene.say("/bench", issue=scene.another())
    scene.move(works, "in_progress", started=100)
    told = [(row[1], row[4]) for row in rows(scene.answer("/status"))]
    unknown = "not known: a run ahead has no like in the past"
    assert told == [("week01", "ends in about 0 s"), ("week01 --smoke", "starts in about 0 s"), ("week01", unknown)]
    scene.end(works)
    scene.held = Ledger({})
    assert rows(scene.answer("/status"))[0][4] == unknown
    assert last.run and smoke.run


@pytest.mark.parametrize(("minutes", "late"), [(1, False), (12, True)])
def test_a_run_that_no_machine_takes(scene: Scene, minutes: int, late: bool) -> None:
    waits = scene.say("/bench")
    scene.local.hub.comment(waits.card).created -= timedelta(minutes=minutes, seconds=20)
    answer = scene.answer("/status")
    assert re.search(rf"Nothing works, and a run has waited {minutes} min \d\d s\.", answer)
    assert ("see that one is online" in answer) == late


def test_who_may_sees_the_machines(scene: Scene, localhub: Any) -> None:
    scene.hub = Hub(localhub.repo, "ghp_sprinter", localhub.url, pause_s=0)
    assert scene.hub.runners() == []
    assert "none is registered" in control.status(scene.hub, lambda: scene.held, WHERE)
    labels = ("self-hosted", "gpu")
    localhub.hub.machines += [Machine(1, "a", labels, busy=True), Machine(2, "b", labels), Machine(3, "c", labels, "offline")]
    assert "**GPU runners:** 2 of 3 online, 1 busy." in control.status(scene.hub, lambda: scene.held, Where())
    localhub.fault("GET", "/runners", status=409, message="no")
    with pytest.raises(HubRefused):
        scene.hub.runners()


def test_what_a_month_cost(scene: Scene) -> None:
    now = scene.hub.now()
    moments = [f"{now - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}" for days in (1, 29, 31)]
    scene.held = past(*(result(run=f"c{n}", started=started, gpu_seconds=5400.0, price=Price(2.0, "USD"))
                        for n, started in enumerate(moments, 1)))
    told = "\n\n**GPU time, last 30 days:** 3.0 GPU-hours in 2 runs, 6.00 USD."
    assert scene.answer("/status").endswith(told)
    scene.say("/bench")
    assert scene.answer("/status").endswith(told)
    scene.held = past(result(started=moments[0], gpu_seconds=5400.0))
    assert scene.answer("/status").endswith("last 30 days:** 1.5 GPU-hours in 1 run.")


def test_a_broken_ledger_hides_no_queue(scene: Scene) -> None:
    scene.held = Ledger({"results/week02/c9/result.json": b"{}"})
    waits = scene.say("/bench")
    answer = scene.answer("/status")
    assert rows(answer)[0][0] == waits.request_id
    assert answer.endswith("**GPU time:** not known, for a file under results/ is no result.")


def test_a_run_without_a_known_place_has_no_link(scene: Scene) -> None:
    waits = scene.say("/bench")
    assert f"| {waits.request_id} " in control.status(scene.hub, lambda: scene.held, Where())


# ---------------------------------------------------------------------------------------------------- /cancel


def test_cancel_what_waits(scene: Scene) -> None:
    first, second = scene.say("/bench"), scene.say("/bench --smoke")
    run = scene.move(second, "queued")
    scene.local.requests.clear()
    assert scene.answer("/cancel") == f"Cancelled {second.request_id}. It had not begun."
    assert len(scene.local.requests) <= 15
    assert (run.status, run.conclusion) == ("completed", "cancelled")
    assert scene.card(second).startswith(f"<!-- sprintbench:card {second.request_id} run={run.id} -->\n\n### week01 · cancelled · ")
    assert "`/bench week01 --smoke` asks anew" in scene.card(second)
    assert "queued" in scene.card(first)
    assert scene.answer(f"/cancel {second.request_id}") == f"Nothing happened: {second.request_id} has ended already."
    assert scene.answer("/cancel") == f"Cancelled {first.request_id}. It had not begun."
    assert scene.answer("/cancel") == control.NONE_ACTIVE


def test_cancel_what_works(scene: Scene) -> None:
    """Its runner has seconds to write what it has; the report job that follows shows that as cancelled, too."""
    asked = scene.say("/bench")
    run = scene.move(asked, "in_progress")
    assert scene.answer(f"/cancel {asked.request_id}") == f"Cancelled {asked.request_id}. It was at work; its GPU is free in a moment."
    assert (run.status, run.conclusion) == ("in_progress", "cancelled")
    attempt(scene, asked, status="cancelled", failure=Failure("cancelled before it ended"), observed=(), files=())
    assert f"<!-- sprintbench:card {asked.request_id} run={run.id} -->\n\n### week01 · cancelled · next: ask again" in scene.card(asked)
    assert "failed: cancelled" not in scene.card(asked)


def test_what_cannot_be_cancelled(scene: Scene) -> None:
    measured, dead, elsewhere = scene.say("/bench"), scene.say("/bench --batch 2"), scene.local.open_issue("Week 02 - another").number
    scene.move(measured, "success")
    scene.end(dead)
    help_ = scene.say("/help")
    for named in ("c1", help_.request_id):
        assert scene.answer(f"/cancel {named}") == control.UNKNOWN
    assert scene.answer(f"/cancel {dead.request_id}", issue=elsewhere) == control.UNKNOWN
    assert scene.answer("/cancel") == f"Nothing happened: {dead.request_id} has ended already."
    assert "is measured, and its report is on its way" in scene.answer(f"/cancel {measured.request_id}")
    assert scene.behind(measured).conclusion is None


def test_a_run_that_ends_while_it_is_cancelled(scene: Scene) -> None:
    asked = scene.say("/bench")
    scene.local.fault("POST", "/cancel$", status=409, message="Cannot cancel a workflow run that is completed.")
    assert scene.answer("/cancel") == f"Nothing happened: {asked.request_id} ended just now."
    assert "queued" in scene.card(asked)


def test_a_cancel_that_github_forbids_says_nothing_happened(scene: Scene) -> None:
    scene.say("/bench")
    scene.local.fault("POST", "/cancel$", status=403, message="Resource not accessible by integration")
    assert scene.say("/cancel") == gate.Decision("refused", gate.UNANSWERED)


def all_weeks(scene: Scene) -> tuple[gate.Decision, list[int]]:
    """A command for two weeks, as two legs of one workflow run."""
    comment = scene.local.comment_as("member", scene.issue, "/bench all")
    run = scene.local.hub.add_run(scene.local.hub.workflow("bench.yml"), "issue_comment", {"comment": comment.id}, comment.user, "a title")
    name = f"c{comment.id}"
    cards = [scene.hub.post_card(scene.issue, f"{name}/{week}", str(run.id), queued_card(name, Request("bench", week), WHERE))
             for week in ("week01", "week02")]
    return gate.Decision("accepted", "", True, Request("bench", "all"), name, scene.issue, 0), cards


def test_cancel_leaves_the_weeks_that_are_measured(scene: Scene) -> None:
    asked, (first, second) = all_weeks(scene)
    run = scene.behind(asked)
    run.status, run.jobs = "in_progress", (Job("Bench week01", "success"), Job("Bench week02", "in_progress"))
    assert scene.answer(f"/cancel {asked.request_id}") == f"Cancelled {asked.request_id}. It was at work; its GPU is free in a moment."
    assert "queued" in scene.local.hub.comment(first).body, "its report is on its way"
    assert "### week02 · cancelled" in scene.local.hub.comment(second).body


def test_all_weeks_are_run_again_until_each_has_ended_well(scene: Scene) -> None:
    asked, _ = all_weeks(scene)
    scene.end(asked)
    one = result(run=asked.request_id)
    scene.held = past(one)
    assert "runs again" in scene.answer(f"/retry {asked.request_id}")
    scene.end(asked)
    scene.held = past(one, result(run=asked.request_id, request=Request("bench", "week02")))
    assert "ended well, and its result stays" in scene.answer(f"/retry {asked.request_id}")


# ---------------------------------------------------------------------------------------------------- /retry


def attempt(scene: Scene, asked: gate.Decision, **changes: Any) -> None:
    """The GPU job and the report job of a run, with the checkout that every attempt of it has."""
    assert asked.request is not None
    run = scene.behind(asked)
    made = result(run=asked.request_id, request=asked.request, commit=run.sha, **changes)
    kept = {name: content for name, content in files(made).items() if name != "result.json"}
    place = Place(scene.issue, asked.card, int(asked.request_id[1:]), str(run.id), WHERE)
    publish(scene.hub, "main", Ledger({}, run.sha, scene.hub.tree(run.sha)), Checked(made, kept), {"week01": WEEK01}, place)
    scene.end(asked)


CRASHED: dict[str, Any] = {"status": "crashed", "failure": Failure("it fell"), "observed": (), "files": ()}


def test_a_run_that_failed_runs_again(scene: Scene) -> None:
    """One comment and one entry, however often: the attempt that went well takes the place of the one that failed."""
    asked = scene.say("/bench week01 --smoke")
    run = scene.behind(asked)
    attempt(scene, asked, **CRASHED)
    scene.held = past(result(run=asked.request_id, **CRASHED))
    comments = len(scene.local.hub.issues[0].comments)
    scene.local.requests.clear()
    assert scene.answer("/retry") == (
        f"{asked.request_id} runs again, with the same options at the same commit. Its own comment shows how it goes.")
    assert len(scene.local.requests) <= 15
    assert (run.status, run.attempt, run.sha) == ("queued", 2, scene.behind(asked).sha)
    again = scene.judge(run)
    assert again == asked
    assert "### week01 · queued" in scene.card(asked)
    attempt(scene, asked)
    assert "failed" not in scene.card(asked)
    assert len(scene.local.hub.issues[0].comments) == comments + 2, "the command and its answer"
    tree = [entry.path for entry in scene.local.git.entries("main", recursive=True) if entry.path.endswith("result.json")]
    assert tree == [f"results/week01/{asked.request_id}/result.json"]
    assert b'"status":"ok"' in scene.local.git.read("main", tree[0]).replace(b" ", b"")
    assert len(scene.local.git.log("main")) == 4, "README, workflow, the failure, the result in its place"


def test_a_result_that_ended_well_stays(scene: Scene) -> None:
    """A person can run anything again on the workflow run's page; the ledger and the card then keep what they have."""
    asked = scene.say("/bench week01 --smoke")
    attempt(scene, asked)
    before, head = scene.card(asked), scene.local.git.head()
    scene.held = past(result(run=asked.request_id))
    assert "ended well, and its result stays" in scene.answer(f"/retry {asked.request_id}")
    assert scene.behind(asked).attempt == 1
    attempt(scene, asked, **CRASHED)
    assert (scene.card(asked), scene.local.git.head()) == (before, head)


def test_a_lost_and_a_cancelled_run_run_again(scene: Scene) -> None:
    lost, cancelled = scene.say("/bench"), scene.say("/bench --smoke")
    scene.lose(lost)
    scene.answer("/cancel")
    for asked in (cancelled, lost):
        assert "runs again" in scene.answer(f"/retry {asked.request_id}")
        assert scene.judge(scene.behind(asked)) == asked
        assert "### week01 · queued" in scene.card(asked)


def test_what_cannot_run_again(scene: Scene) -> None:
    assert scene.answer("/retry") == control.NONE_YET
    assert scene.answer("/retry c1") == control.UNKNOWN
    asked = scene.say("/bench")
    for state in ("queued", "in_progress"):
        scene.move(asked, state)
        assert f"{asked.request_id} has not ended yet" in scene.answer("/retry")
    scene.lose(asked)
    scene.local.fault("POST", "/rerun$", status=403, message="Unable to retry this workflow run because it was created over a month ago")
    assert f"GitHub does not take {asked.request_id} again" in scene.answer("/retry")
    scene.local.hub.runs.remove(scene.behind(asked))
    assert "GitHub has deleted the workflow run" in scene.answer("/retry")


def test_a_retry_that_github_never_answers(scene: Scene) -> None:
    scene.lose(scene.say("/bench"))
    scene.local.fault("POST", "/rerun$", times=9, status=410, message="Gone")
    assert scene.say("/retry") == gate.Decision("refused", gate.UNANSWERED)


def test_a_retry_delivered_twice_is_one_run(scene: Scene) -> None:
    asked = scene.say("/bench")
    scene.lose(asked)
    first = scene.say("/retry")
    scene.end(asked)
    delivered = scene.behind(first)
    twin = scene.local.hub.add_run(delivered.workflow, "issue_comment", delivered.payload, delivered.actor, "a title")
    assert scene.judge(twin) == gate.Decision("ignored", gate.DUPLICATE)
    assert scene.behind(asked).attempt == 2


@pytest.mark.parametrize("fault", [{"status": 502, "apply": True}, {"reset": True, "apply": True}, {"status": 502}])
def test_one_retry_is_one_run(scene: Scene, fault: dict[str, Any]) -> None:
    asked = scene.say("/bench")
    scene.lose(asked)
    scene.local.fault("POST", "/rerun$", **fault)
    assert "runs again" in scene.answer("/retry")
    assert scene.behind(asked).attempt == 2


# ---------------------------------------------------------------------------------------------------- one more


def waiting(scene: Scene) -> int:
    return sum("### week01 · queued" in c.body for c in scene.local.hub.issues[0].comments)


def test_a_persons_share_of_an_hour(scene: Scene) -> None:
    asked = [scene.say(f"/bench --batch {n}") for n in range(1, 7)]
    scene.lose(asked[0])
    over = scene.say("/bench")
    assert (over.verdict, over.run, over.request) == ("refused", False, None)
    assert control.TOO_MANY in scene.card(over)
    assert scene.answer(f"/retry {asked[0].request_id}") == control.TOO_MANY
    assert scene.say("/bench", "sprinter").run
    assert scene.say("/bench --dry-run").verdict == "accepted"
    scene.local.hub.comment(asked[1].card).created -= timedelta(minutes=61)
    assert "runs again" in scene.answer(f"/retry {asked[0].request_id}")
    assert control.TOO_MANY in scene.card(scene.say("/bench --batch 9"))


def test_the_same_request_again_is_the_same_run(scene: Scene) -> None:
    first = scene.say("/bench --smoke")
    again = scene.say("/bench week01 --smoke", "sprinter")
    assert (again.verdict, again.run, again.legs) == ("refused", False, ())
    assert f"Nothing new ran: {first.request_id} asks for the same (`/bench week01 --smoke`)" in scene.card(again)
    assert scene.say("/bench --smoke --repeat 2").run
    scene.lose(first)
    assert scene.say("/bench --smoke").run


def test_deleting_commands_is_no_way_to_more(scene: Scene) -> None:
    for n in range(1, 7):
        scene.say(f"/bench --batch {n}")
    comments = scene.local.hub.issues[0].comments
    comments[:] = [comment for comment in comments if comment.user.login == BOT]
    assert control.TOO_MANY in scene.card(scene.say("/bench"))


def test_a_hundred_commands_in_a_minute(scene: Scene) -> None:
    people = ["member", "sprinter"]
    for number in range(18):
        people.append(scene.local.add_user(f"writer{number}", 2000 + number, "write").login)
    for place in range(100):
        scene.say(f"/bench week01 --batch {place + 1}", people[place % len(people)])
    comments = scene.local.hub.issues[0].comments
    assert waiting(scene) == control.MOST_QUEUED
    assert sum(control.FULL in comment.body for comment in comments) == 90
    assert len(comments) == 200
    assert max(sum(f"card c{c.id} " in other.body for other in comments) for c in comments[::2]) == 1
    writes = sum(request.method != "GET" for request in scene.local.requests)
    assert writes == 2 * 100, "the claim and the answer"
    assert len(scene.local.requests) <= 8 * 100


def test_room_again_once_one_has_ended(scene: Scene) -> None:
    asked = [scene.say(f"/bench --batch {n}", ("member", "sprinter")[n % 2]) for n in range(1, 11)]
    assert control.FULL in scene.card(scene.say("/bench"))
    scene.lose(asked[3])
    assert scene.say("/bench").run
    assert waiting(scene) == control.MOST_QUEUED


def test_a_gate_that_runs_again_needs_no_room(scene: Scene) -> None:
    asked = [scene.say(f"/bench --batch {n}", ("member", "sprinter")[n % 2]) for n in range(1, 11)]
    assert scene.judge(scene.behind(asked[0])) == asked[0]
    assert asked[0].request == Request("bench", "week01", batch=1)
