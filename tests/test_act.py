"""End to end: the real workflow files, run by act on a commit of this checkout, against a local hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import Played

from localhub import demo
from localhub.demo import Local
from localhub.repository import Person, Repository
from localhub.state import BOT, Comment, Run, now
from localhub.workflows import CannotRun, alive, descendants, stand_ins

WEEK01 = "workloads/week01_compile/run.py"
SPRINTER = Person("sprinter", "1001+sprinter@users.noreply.github.com")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    """A hub of its own with this checkout in it; a test fails where an exchange was not as GitHub's description says."""
    with demo.local_hub(demo.snapshot(demo.ROOT, tmp_path / "sprint.git")) as local:
        yield local
    assert local.service.violations == []


def comment(local: Local, login: str, body: str) -> Comment:
    """A comment on the Week issue, which is opened where there is none; its workflow has ended when this returns."""
    hub = local.hub
    with hub.lock:
        issue = hub.issues[0] if hub.issues else hub.add_issue(hub.users["sprinter"], "Week 01 - PyTorch 2.x compile + profiling", "")
        made = hub.add_comment(hub.users[login], issue.number, body)
    local.workflows.wait(240)
    return made


def ends(run: Run) -> dict[str, str]:
    return {job.name: job.conclusion for job in run.jobs}


def replies(local: Local) -> list[str]:
    return [comment.body for comment in local.hub.issues[0].comments if comment.user == BOT]


def writes(local: Local) -> list[str]:
    """What was asked of the API beside reading, less the repository's name."""
    return [f"{one.method} {one.path.split('/', 4)[4]}" for one in local.service.requests if one.method != "GET"]


@pytest.mark.slow
def test_a_command_becomes_a_posted_result(played: Played) -> None:
    """The whole way; what is checked in play() (one comment, one commit with the scoreboard, pictures) has been checked."""
    hub = played.local.hub
    kickoff, bench = hub.runs[:2]
    assert ends(kickoff) == {"Kickoff": "success"}
    assert ends(bench) == {"Gate": "success", "Bench": "success", "Report": "success"}
    command, card = hub.issues[0].comments[:2]
    assert (command.user.login, card.user) == ("sprinter", BOT)
    assert {one.user for one in command.reactions} == {BOT}
    assert "week01" in card.body.splitlines()[2]
    head = hub.git.head()
    result = json.loads(hub.git.read(head, f"results/week01/c{command.id}/result.json") or b"")
    assert (result["status"], result["run"], result["request"]["smoke"], result["commit"]) == ("ok", f"c{command.id}", True, bench.sha)
    assert b"week01" in (hub.git.read(head, "SCOREBOARD.md") or b"")
    assert len(hub.git.log(head)) <= 3, "the checkout, perhaps the kickoff's scoreboard, and the result"


@pytest.mark.slow
def test_the_demo_leaves_what_it_says(played: Played) -> None:
    hub = played.local.hub
    card = hub.issues[0].comments[1]
    assert (played.out / "comment.md").read_text(encoding="utf-8") == card.body
    assert (played.out / "issue-body.md").read_text(encoding="utf-8") == hub.issues[0].body
    assert (played.out / "SCOREBOARD.md").read_bytes() == hub.git.read("main", "SCOREBOARD.md")
    assert all(path.read_bytes().startswith(demo.PNG) for path in played.out.glob("*.png"))
    assert [str(path) for path in sorted(played.out.iterdir()) if str(path) not in played.told] == []


@pytest.mark.slow
def test_report_spends_few_calls(played: Played) -> None:
    command = played.local.hub.issues[0].comments[0]
    asked = [one.path for one in played.requests]
    first = next(place for place, path in enumerate(asked) if path.endswith(f"/comments/{command.id}/reactions"))
    assert len(asked) - first <= 15


def test_an_outsider_starts_nothing(local: Local) -> None:
    made = comment(local, "stranger", "/bench week01 --smoke")
    assert ends(local.hub.runs[-1]) == {"Gate": "success", "Bench": "skipped", "Report": "skipped"}
    assert replies(local) == []
    assert writes(local) == [f"POST issues/comments/{made.id}/reactions"]


def test_talk_starts_nothing(local: Local) -> None:
    comment(local, "sprinter", "Looks good to me")
    comment(local, "sprinter", "and/or, see /bench week01")
    assert [ends(run) for run in local.hub.runs] == [
        {"Gate": "skipped", "Bench": "skipped", "Report": "skipped"}, {"Gate": "success", "Bench": "skipped", "Report": "skipped"}]
    assert (replies(local), local.service.requests) == ([], [])


def test_the_gate_alone_says_how_things_are(local: Local) -> None:
    comment(local, "sprinter", "/status")
    comment(local, "sprinter", "/cancel")
    assert [ends(run) for run in local.hub.runs] == [{"Gate": "success", "Bench": "skipped", "Report": "skipped"}] * 2
    status, cancel = replies(local)
    assert "### Nothing works and nothing waits\n" in status
    assert "no run of this issue waits or works" in cancel


def test_hostile_text_stays_text(local: Local, tmp_path: Path) -> None:
    """Shell, expression and output injection, each in a comment by somebody who may give commands."""
    mark = tmp_path / "PWNED"
    bodies = (f'/bench week01 --smoke"; touch {mark}; echo PWNED-$((6*7)); #', f"/bench week01 $(touch {mark})`touch {mark}`",
              "/bench ${{ secrets.GITHUB_TOKEN }}", "/bench week01 --smoke\u2028run=true", "/bench nothing\nrun=true\naccepted=true")
    for body in bodies:
        comment(local, "sprinter", body)
        run = local.hub.runs[-1]
        assert ends(run) == {"Gate": "success", "Bench": "skipped", "Report": "skipped"}, body
        assert "PWNED-42" not in run.log
        assert local.workflows.token not in run.log
    assert not mark.exists()
    for reply in replies(local):
        assert not any(word in reply for word in ("PWNED", "touch", "secrets", "ghs_", "run=true"))


@pytest.mark.slow
def test_a_run_that_fails_says_so(local: Local) -> None:
    broken = b'"""A week that breaks."""\n\n\ndef run(ctx: object) -> None:\n    raise RuntimeError("the GPU is on fire")\n'
    with local.hub.lock:
        local.hub.git.put({WEEK01: broken}, "Break it", SPRINTER)
    made = comment(local, "sprinter", "/bench week01 --smoke")
    assert ends(local.hub.runs[-1]) == {"Gate": "success", "Bench": "failure", "Report": "success"}
    [card] = replies(local)
    assert "the GPU is on fire" in card
    assert "not judged" in card or "failed" in card
    result = json.loads(local.hub.git.read("main", f"results/week01/c{made.id}/result.json") or b"")
    assert result["status"] != "ok"


def test_kickoff_opens_a_week_once(local: Local) -> None:
    local.workflows.schedule("kickoff.yml")
    local.workflows.wait()
    with local.hub.lock:
        for _ in range(2):
            local.hub.dispatch(local.hub.workflow("kickoff.yml"), {"week": "week01"}, local.hub.users["sprinter"])
    local.workflows.wait()
    assert [run.conclusion for run in local.hub.runs] == ["success"] * 3
    assert [run.event for run in local.hub.runs] == ["schedule", "workflow_dispatch", "workflow_dispatch"]
    assert [issue.title for issue in local.hub.issues] == ["Week 01 - PyTorch 2.x compile + profiling"]


# ---------------------------------------------------------------------------------------------------- localhub's own part

SMALL = """
name: small
on:
  issue_comment:
    types: [created]
jobs:
  one:
    runs-on: {label}
    steps:
      - run: {run}
  two:
    needs: one
    runs-on: ubuntu-latest
    steps:
      - run: echo two
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Local]:
    with demo.local_hub(Repository.create(tmp_path / "small.git")) as local:
        yield local


# act sometimes loses the last words of a step that ends within a few milliseconds of them.
HEARD = "sleep 0.5"


def put_small(local: Local, label: str, run: str) -> None:
    local.hub.git.put({".github/workflows/small.yml": SMALL.format(label=label, run=run).encode()}, "small", SPRINTER)


def test_a_job_that_no_runner_takes_is_an_error(small: Local) -> None:
    """act itself skips such a job and ends well."""
    put_small(small, "macos-13", "echo one")
    comment(small, "sprinter", "x")
    run = small.hub.runs[-1]
    assert (run.conclusion, ends(run)) == ("failure", {"one": "failure", "two": "skipped"})
    assert run.note == "No runner takes one: its labels are not mapped."


def test_a_step_that_fails_fails_the_run(small: Local) -> None:
    put_small(small, "ubuntu-latest", f"echo before; {HEARD}; exit 3")
    comment(small, "sprinter", "x")
    run = small.hub.runs[-1]
    assert (run.conclusion, ends(run)) == ("failure", {"one": "failure", "two": "skipped"})
    assert run.jobs[0].log.splitlines()[:2] == [f"▸ echo before; {HEARD}; exit 3", "before"]
    assert run.jobs[0].log.splitlines()[-1] == "! exit status 3"


def test_a_run_is_run_again_as_it_was(small: Local) -> None:
    """The same event at the same commit under the same id, whatever the branch holds by then; a cancelled run stays out."""
    put_small(small, "ubuntu-latest", f"echo $GITHUB_RUN_ID $GITHUB_SHA; {HEARD}; exit 3")
    comment(small, "sprinter", "x")
    run = small.hub.runs[-1]
    before = run.jobs[0].log.splitlines()[:2]
    put_small(small, "ubuntu-latest", "echo changed")
    with small.hub.lock:
        small.hub.rerun(run, small.hub.users["sprinter"])
    small.workflows.wait(60)
    assert (run.attempt, run.conclusion, run.jobs[0].log.splitlines()[:2], len(small.hub.runs)) == (2, "failure", before, 1)
    with small.hub.lock:
        small.hub.rerun(run, small.hub.users["sprinter"])
        small.hub.cancel(run)
    comment(small, "sprinter", "y")
    assert (run.conclusion, run.jobs, small.hub.runs[-1].conclusion) == ("cancelled", (), "success")


def test_nothing_of_this_machine_reaches_a_step(small: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALHUB_TEST_SECRET", "leak")
    put_small(small, "ubuntu-latest", f"env; {HEARD}")
    comment(small, "sprinter", "x")
    run = small.hub.runs[-1]
    assert run.conclusion == "success"
    assert f"GITHUB_SHA={run.sha}" in run.log
    assert "leak" not in run.log


def test_an_action_without_a_stand_in_is_named() -> None:
    with pytest.raises(CannotRun, match="actions/cache has no stand-in"):
        stand_ins("steps:\n  - uses: actions/cache@27d5ce7f107fe9357f9df03efb73ab90386fccae # v5\n")


def test_the_end_leaves_no_process(tmp_path: Path) -> None:
    """Not even one that left act's session, as the child of a GPU run does."""
    pids = tmp_path / "pids"
    sleeper = f"echo $$ >> {pids}; setsid sleep 321 & echo $! >> {pids}; sleep 321"
    began = time.monotonic()
    with demo.local_hub(Repository.create(tmp_path / "small.git")) as local:
        put_small(local, "ubuntu-latest", sleeper)
        with local.hub.lock:
            local.hub.add_comment(local.hub.users["sprinter"], local.hub.add_issue(local.hub.users["sprinter"], "t").number, "x")
        while not pids.exists() or len(pids.read_text().split()) < 2:
            assert time.monotonic() - began < 30, local.hub.runs[-1].log
            time.sleep(0.05)
    assert local.hub.runs[-1].conclusion == "cancelled"
    while [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() - began < 60, "killed processes are gone as soon as the system has reaped them"
        time.sleep(0.05)


def test_ctrl_c_ends_the_demo_and_all_that_it_started(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from localhub.demo import main; main(Path(sys.argv[1]), False)"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], cwd=demo.ROOT, env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as playing:
        assert playing.stdout is not None
        said = []
        for line in playing.stdout:
            said.append(line)
            if "bench / Bench: Measure" in line:
                break
        began = time.monotonic()
        started = descendants(playing.pid)
        playing.send_signal(signal.SIGINT)
        said += playing.stdout
        assert playing.wait(timeout=20) == 130, said
    assert said[-1] == "Ended.\n"
    assert started, "act, a shell, the runner"
    while any(alive(pid, moment) for pid, moment in started):
        assert time.monotonic() - began < 20
        time.sleep(0.05)


def test_a_demo_that_cannot_keep_its_word_exits_with_1(tmp_path: Path) -> None:
    """The demo's checks are real: on a checkout whose week breaks, it ends with the reason."""
    checkout = Repository(tmp_path / "checkout")
    demo.snapshot(demo.ROOT, tmp_path / "copy.git")
    subprocess.run(["git", "clone", "--quiet", str(tmp_path / "copy.git"), str(checkout.path)], check=True)
    (checkout.path / WEEK01).write_text("def run(ctx):\n    raise RuntimeError('no')\n", encoding="utf-8")
    code = "from pathlib import Path; from localhub.demo import main; main(Path('out'), False)"
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout.path, capture_output=True, text=True, check=False,
                          env={"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout.path), "HOME": str(tmp_path)})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "The demo failed: the workflow bench failed." in done.stderr
    assert "RuntimeError" in (checkout.path / "out" / "workflow.log").read_text(encoding="utf-8")


def test_a_sweep_answers_what_got_lost(local: Local) -> None:
    """Of an event that never came, GitHub knows the comment and nothing else."""
    hub = local.hub
    with hub.lock:
        issue = hub.add_issue(hub.users["sprinter"], "Week 01 - PyTorch 2.x compile + profiling", "")
        made = Comment(next(hub.ids), issue.number, hub.users["sprinter"], "/bench --smoke", *[now() - timedelta(hours=1)] * 2)
        issue.comments.append(made)
    for _ in range(2):
        local.workflows.schedule("sweep.yml")
        local.workflows.wait(240)
    assert [ends(run) for run in hub.runs] == [{"Sweep": "success"}] * 2
    [reply] = replies(local)
    assert reply.startswith(f"<!-- sprintbench:card c{made.id} run={hub.runs[0].id} ")
