"""End to end: the real workflow files, run by act on a commit of this checkout, against a local hub."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sample_week import files
from sample_week import result as sample_result

from localhub import demo
from localhub.demo import Local
from localhub.processes import alive, descendants
from localhub.repository import Person, Repository
from localhub.state import BOT, Comment, Run, now
from localhub.workflows import CannotRun, stand_ins
from runner.spool import keep
from workloads.spec import dumps

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


def stages(run: Run) -> dict[str, str]:
    """The jobs of a bench run without the week in their names."""
    return {name.split()[0]: end for name, end in ends(run).items()}


SKIPPED = {"Gate": "success", "Watch": "skipped", "Bench": "skipped", "Report": "skipped"}


def replies(local: Local) -> list[str]:
    return [comment.body for comment in local.hub.issues[0].comments if comment.user == BOT]


def writes(local: Local) -> list[str]:
    """What was asked of the API beside reading, less the repository's name."""
    return [f"{one.method} {one.path.split('/', 4)[4]}" for one in local.service.requests if one.method != "GET"]


def test_an_outsider_starts_nothing(local: Local) -> None:
    made = comment(local, "stranger", "/bench week01 --smoke")
    assert stages(local.hub.runs[-1]) == SKIPPED
    assert replies(local) == []
    assert writes(local) == [f"POST issues/comments/{made.id}/reactions"]


def test_talk_starts_nothing(local: Local) -> None:
    comment(local, "sprinter", "Looks good to me")
    comment(local, "sprinter", "and/or, see /bench week01")
    assert [stages(run) for run in local.hub.runs] == [{**SKIPPED, "Gate": "skipped"}, SKIPPED]
    assert (replies(local), local.service.requests) == ([], [])


def test_a_comment_on_a_pull_request_starts_nothing(local: Local) -> None:
    hub = local.hub
    with hub.lock:
        pull = hub.add_pull_request(hub.users["sprinter"], "Faster")
        hub.add_comment(hub.users["sprinter"], pull.number, "/bench week01 --smoke")
    local.workflows.wait(60)
    [run] = hub.runs
    assert set(ends(run).values()) == {"skipped"}
    assert (len(pull.comments), pull.comments[0].reactions, local.service.requests) == (1, [], [])


def test_the_gate_alone_says_how_things_are(local: Local) -> None:
    comment(local, "sprinter", "/status")
    comment(local, "sprinter", "/cancel")
    assert [stages(run) for run in local.hub.runs] == [SKIPPED] * 2
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
        assert stages(run) == SKIPPED, body
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
    assert stages(local.hub.runs[-1]) == {"Gate": "success", "Watch": "success", "Bench": "failure", "Report": "success"}
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
    assert local.service.violations == []


# act sometimes loses the last words of a step that ends within a few milliseconds of them.
HEARD = "sleep 0.5"


def put_small(local: Local, label: str, run: str) -> None:
    local.hub.git.put({".github/workflows/small.yml": SMALL.format(label=label, run=run).encode()}, "small", SPRINTER)


def put(local: Local, jobs: str) -> None:
    """A workflow of such jobs, which every comment starts; `{HEARD}` keeps what a step says last."""
    text = f"name: small\non: issue_comment\njobs:\n{textwrap.indent(textwrap.dedent(jobs).strip(), '  ')}\n"
    local.hub.git.put({".github/workflows/small.yml": text.replace("{HEARD}", HEARD).encode()}, "small", SPRINTER)


def begin(local: Local) -> Run:
    """Starts a run, and waits for nothing."""
    hub = local.hub
    with hub.lock:
        issue = hub.issues[0] if hub.issues else hub.add_issue(hub.users["sprinter"], "An issue")
        hub.add_comment(hub.users["sprinter"], issue.number, "x")
        return hub.runs[-1]


def ask(local: Local, method: str, path: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {local.workflows.token}"}
    return httpx.request(method, f"{local.url}/repos/{local.hub.name}/actions/runs/{path}", headers=headers, timeout=10)


def states(local: Local, run: Run) -> dict[str, str]:
    """How its jobs are, by the API."""
    return {job["name"]: job["conclusion"] or job["status"] for job in ask(local, "GET", f"{run.id}/jobs").json()["jobs"]}


def until(true: Callable[[], bool], *runs: Run) -> None:
    last_moment = time.monotonic() + 30
    while not true():
        assert time.monotonic() < last_moment, [(run.status, run.jobs, run.note) for run in runs]
        time.sleep(0.05)


def log(run: Run, name: str) -> list[str]:
    [job] = [job for job in run.jobs if job.name == name]
    return job.log.splitlines()


def test_runs_overlap_as_far_as_their_groups_let_them(small: Local, tmp_path: Path) -> None:
    """Of one group one job works at a time, and one on the one machine; what needs neither waits for nobody."""
    seen, go = tmp_path / "seen", tmp_path / "go"
    put(small, f"""
        free:
          runs-on: ubuntu-latest
          steps: [{{run: "echo free; {HEARD}"}}]
        gpu:
          name: GPU ${{{{ matrix.leg }}}}
          strategy: {{fail-fast: false, matrix: {{leg: [1, 2]}}}}
          runs-on: [self-hosted, gpu]
          concurrency: {{group: "gpu-${{{{ matrix.leg }}}}", cancel-in-progress: false, queue: max}}
          steps:
            - run: echo in >> {seen}; until [ -e {go} ]; do sleep 0.05; done; sleep 0.3; echo out >> {seen}
        """)
    first = begin(small)
    until(lambda: sorted(states(small, first).values()) == ["in_progress", "queued", "success"], first)
    second = begin(small)
    until(lambda: states(small, second) == {"free": "success", "GPU 1": "queued", "GPU 2": "queued"}, second)
    assert [run.status for run in (first, second)] == ["in_progress", "in_progress"]
    assert seen.read_text().split() == ["in"]
    go.touch()
    small.workflows.wait(60)
    assert seen.read_text().split() == ["in", "out"] * 4
    assert [run.conclusion for run in (first, second)] == ["success", "success"]


def test_a_job_at_work_is_seen_at_work(small: Local, tmp_path: Path) -> None:
    go = tmp_path / "go"
    put(small, f"""
        one:
          name: First
          runs-on: ubuntu-latest
          steps: [{{run: "echo hello; until [ -e {go} ]; do sleep 0.05; done"}}]
        two:
          needs: one
          runs-on: ubuntu-latest
          steps: [{{run: "sleep 1.1"}}]
        """)
    run = begin(small)
    until(lambda: states(small, run) == {"First": "in_progress"} and "hello" in run.jobs[0].log, run)
    [job] = ask(small, "GET", f"{run.id}/jobs").json()["jobs"]
    assert (job["status"], job["conclusion"], job["completed_at"]) == ("in_progress", None, None)
    assert timedelta(0) <= now() - datetime.fromisoformat(job["started_at"]) < timedelta(seconds=30)
    page = httpx.get(f"{small.url}/{small.hub.name}/actions/runs/{run.id}").text
    assert ("in_progress" in page, "hello" in page) == (True, True)
    go.touch()
    small.workflows.wait(60)
    one, two = ask(small, "GET", f"{run.id}/jobs").json()["jobs"]
    assert (one["conclusion"], two["conclusion"], one["started_at"]) == ("success", "success", job["started_at"])
    assert one["started_at"] <= one["completed_at"] <= two["started_at"] < two["completed_at"]


def test_a_run_at_work_is_cancelled(small: Local) -> None:
    """As on GitHub: the step's own process is asked to stop, steps and jobs that run always still do, and the rest does not."""
    put(small, """
        one:
          runs-on: ubuntu-latest
          steps:
            - run: |
                mkdir out
                exec python -uc "
                import signal, sys, time
                def stop(*_):
                    print('asked to stop'), open('out/word', 'w').write('half'), time.sleep(0.5), sys.exit(0)
                signal.signal(signal.SIGINT, stop)
                print('at work')
                time.sleep(300)"
            - run: sleep 1; echo never
            - run: echo never
            - if: ${{ always() }}
              uses: actions/upload-artifact@v7
              with: {name: result, path: out}
        other:
          runs-on: ubuntu-latest
          if: always()
          steps: [{run: "sleep 2; echo not stopped; {HEARD}"}]
        polite:
          runs-on: ubuntu-latest
          steps: [{run: "trap 'exit 0' INT; while true; do sleep 0.1; done"}]
        three:
          needs: one
          runs-on: ubuntu-latest
          steps: [{run: echo never}]
        four:
          needs: polite
          runs-on: ubuntu-latest
          steps: [{run: echo never}]
        two:
          needs: [one, other]
          if: ${{ always() }}
          runs-on: ubuntu-latest
          steps: [{run: "echo one ${{ needs.one.result }}, other ${{ needs.other.result }}; {HEARD}"}]
        """)
    run = begin(small)
    until(lambda: "at work" in run.log, run)
    assert ask(small, "POST", f"{run.id}/cancel").status_code == 202
    assert ask(small, "GET", f"{run.id}").json()["status"] == "in_progress"
    small.workflows.wait(60)
    assert (run.conclusion, ends(run)) == (
        "cancelled",
        {"one": "cancelled", "polite": "cancelled", "other": "success", "three": "skipped", "four": "skipped", "two": "success"})
    assert "asked to stop" in log(run, "one")
    assert "never" not in log(run, "one")
    assert "not stopped" in log(run, "other")
    assert "one cancelled, other success" in log(run, "two")
    assert zipfile.ZipFile(io.BytesIO(run.artifacts["result"])).read("word") == b"half"
    assert ask(small, "POST", f"{run.id}/cancel").status_code == 409


def test_a_job_that_waits_is_cancelled_and_keeps_nobody_waiting(small: Local, tmp_path: Path) -> None:
    go = tmp_path / "go"
    put(small, f"""
        gpu:
          runs-on: ubuntu-latest
          concurrency: gpu
          steps: [{{run: "echo mine; until [ -e {go} ]; do sleep 0.05; done"}}]
        report:
          needs: gpu
          if: always() && needs.gpu.result == 'cancelled'
          runs-on: ubuntu-latest
          steps: [{{run: "echo reported; {HEARD}"}}]
        """)
    works = begin(small)
    until(lambda: states(small, works) == {"gpu": "in_progress"}, works)
    waits = begin(small)
    until(lambda: states(small, waits) == {"gpu": "queued"}, waits)
    last = begin(small)
    assert ask(small, "POST", f"{waits.id}/cancel").status_code == 202
    until(lambda: waits.status == "completed", waits)
    assert (waits.conclusion, ends(waits)) == ("cancelled", {"gpu": "cancelled", "report": "success"})
    assert (log(waits, "gpu"), "reported" in waits.log) == ([], True)
    assert works.status == "in_progress"
    go.touch()
    small.workflows.wait(60)
    assert [ends(run) for run in (works, last)] == [{"gpu": "success", "report": "skipped"}] * 2


@pytest.mark.slow
def test_a_step_that_will_not_stop_is_killed_with_all_below_it(small: Local, tmp_path: Path) -> None:
    """7.5 s after SIGINT comes SIGTERM, 2.5 s later the end, as GitHub's documentation has it."""
    pids = tmp_path / "pids"
    put(small, f"""
        one:
          runs-on: ubuntu-latest
          steps:
            - run: |
                trap 'echo SIGINT' INT; trap 'echo SIGTERM' TERM
                setsid sleep 322 & echo $! > {pids}
                while true; do sleep 0.1; done
            - if: always()
              run: echo cleaned; {HEARD}
        """)
    run = begin(small)
    until(pids.exists, run)
    assert ask(small, "POST", f"{run.id}/cancel").status_code == 202
    small.workflows.wait(60)
    words = [line for line in log(run, "one") if line in ("SIGINT", "SIGTERM", "cleaned")]
    assert (ends(run), words) == ({"one": "cancelled"}, ["SIGINT", "SIGTERM", "cleaned"])
    assert 10 <= run.jobs[0].duration_s < 20
    until(lambda: not Path(f"/proc/{pids.read_text().strip()}").exists(), run)


def test_what_a_job_leaves_running_ends_with_it(small: Local, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    put(small, f"""
        one:
          runs-on: ubuntu-latest
          steps: [{{run: "setsid sleep 323 >/dev/null 2>&1 </dev/null & echo $! > {pid}; {HEARD}"}}]
        """)
    run = begin(small)
    small.workflows.wait(60)
    assert run.conclusion == "success"
    until(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists(), run)


def test_each_leg_of_a_matrix_is_a_job(small: Local) -> None:
    """With a name, an end, an artifact and a log of its own; one that is skipped is one job, without legs."""
    put(small, """
        gate:
          runs-on: ubuntu-latest
          outputs: {legs: "${{ steps.legs.outputs.legs }}"}
          steps:
            - id: legs
              run: echo 'legs=[{"week":"week01"},{"week":"week02"}]' >> "$GITHUB_OUTPUT"
        bench:
          name: Bench ${{ matrix.leg.week }}
          needs: gate
          strategy: {fail-fast: false, matrix: {leg: "${{ fromJSON(needs.gate.outputs.legs || '[{}]') }}"}}
          runs-on: [self-hosted, gpu]
          concurrency: gpu
          steps:
            - run: mkdir out; echo "of ${{ matrix.leg.week }}" | tee out/word; {HEARD}
            - if: ${{ always() }}
              uses: actions/upload-artifact@v7
              with: {name: "result-${{ matrix.leg.week }}", path: out}
            - if: ${{ matrix.leg.week == 'week01' }}
              run: echo fails; {HEARD}; exit 3
        report:
          name: Report ${{ matrix.leg.week }}
          needs: [gate, bench]
          if: ${{ always() }}
          strategy: {fail-fast: false, matrix: {leg: "${{ fromJSON(needs.gate.outputs.legs || '[{}]') }}"}}
          runs-on: ubuntu-latest
          steps:
            - uses: actions/download-artifact@v8
              with: {name: "result-${{ matrix.leg.week }}", path: in}
            - run: echo "read $(cat in/word) after ${{ needs.bench.result }}"; {HEARD}
        plain:
          needs: gate
          strategy: {matrix: {leg: "${{ fromJSON(needs.gate.outputs.legs) }}", python: [3]}}
          runs-on: ubuntu-latest
          steps: [{run: "true"}]
        never:
          name: Never ${{ matrix.leg.week }}
          needs: gate
          if: ${{ needs.gate.outputs.legs == '' }}
          strategy: {fail-fast: false, matrix: {leg: "${{ fromJSON(needs.gate.outputs.legs || '[{}]') }}"}}
          runs-on: ubuntu-latest
          steps: [{run: "true"}]
        """)
    run = begin(small)
    small.workflows.wait(60)
    assert states(small, run) == {
        "gate": "success", "Bench week01": "failure", "Bench week02": "success", "Report week01": "success", "Report week02": "success",
        "plain (week01, 3)": "success", "plain (week02, 3)": "success", "Never ${{ matrix.leg.week }}": "skipped"}
    for week, other in (("week01", "week02"), ("week02", "week01")):
        bench, report = log(run, f"Bench {week}"), log(run, f"Report {week}")
        assert (f"of {week}" in bench, f"read of {week} after failure" in report) == (True, True)
        assert not any(other in line for line in (*bench, *report))
        assert zipfile.ZipFile(io.BytesIO(run.artifacts[f"result-{week}"])).read("word") == f"of {week}\n".encode()
    assert list(run.artifacts) == ["result-week01", "result-week02"]


def test_another_commit_is_checked_out_beside_the_runs_own(small: Local) -> None:
    git = small.hub.git
    old = git.put({"word": b"old"}, "old", SPRINTER)
    git.put({"word": b"new"}, "new", SPRINTER)
    put(small, f"""
        one:
          runs-on: ubuntu-latest
          steps:
            - uses: actions/checkout@v7
              with: {{ref: "${{{{ github.sha }}}}", persist-credentials: false}}
            - if: ${{{{ github.event.action == 'created' }}}}
              uses: actions/checkout@v7
              with: {{ref: {old}, path: baseline, persist-credentials: false}}
            - if: ${{{{ github.event.action == 'edited' }}}}
              uses: actions/checkout@v7
              with: {{ref: {old}, path: never}}
            - run: echo "$(cat word) $(cat baseline/word) $(git rev-parse HEAD) $(git -C baseline rev-parse HEAD)"; [ ! -e never ]; {HEARD}
        """)
    run = begin(small)
    small.workflows.wait(60)
    assert run.conclusion == "success", run.log
    assert f"new old {run.sha} {old}" in log(run, "one")


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
            if "bench / Bench week01: Measure" in line:
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


# ---------------------------------------------------------------------------------------------------- the real workflow, further commands

QUICK = '''"""A week that ends at once."""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

FAST = Target("fast", "how fast it is", ">=", 2.0, "x")
WORKLOAD = Workload(plan=planned({number}), name="quick", targets=(FAST,), headline=FAST,
                    deliverables=tuple(Deliverable(text, by=(FAST,)) for text in planned({number}).deliverables))
'''
QUICK_RUN = '''"""Nothing but an answer."""

import time

from workloads.spec import Context, Estimate, Observed

from . import FAST


def run(ctx: Context) -> Observed:
    time.sleep({sleep})
    {then}
    return Observed((FAST.measured(Estimate("exact", 3.0, 3.0, 3.0, (3.0,))),))
'''


def only_quick_weeks(local: Local, **weeks: str) -> None:
    """In place of the real weeks: those named, each with a line of its run."""
    with local.hub.lock:
        git = local.hub.git
        gone: dict[str, bytes | None] = {entry.path: None for entry in git.entries(git.head(), "workloads/", recursive=True)
                                         if entry.kind == "blob" and entry.path.startswith("workloads/week")}
        for week, then in weeks.items():
            folder = f"workloads/{week}_quick"
            gone[f"{folder}/__init__.py"] = QUICK.format(number=int(week[4:])).encode()
            gone[f"{folder}/run.py"] = QUICK_RUN.format(then=then, sleep=120 if then == "slow" else 0).replace("    slow\n", "").encode()
        git.put(gone, "Quick weeks", SPRINTER)


def test_all_weeks_each_with_a_comment_of_its_own(local: Local) -> None:
    only_quick_weeks(local, week02='raise RuntimeError("the GPU is on fire")', week03="pass")
    made = comment(local, "sprinter", "/bench all --smoke")
    run = local.hub.runs[-1]
    assert {name: end for name, end in ends(run).items() if name.startswith(("Bench", "Report"))} == {
        "Bench week02": "failure", "Bench week03": "success", "Report week02": "success", "Report week03": "success"}
    summary, broken, fine = replies(local)
    assert summary.startswith(f"<!-- sprintbench:card c{made.id} run={run.id} answer -->\n\n### All weeks · every week has ended")
    assert "the GPU is on fire" in broken
    assert "### week03 · not judged (smoke run)" in fine
    held = [entry.path for entry in local.hub.git.entries("main", "results/", recursive=True) if f"/c{made.id}/result" in entry.path]
    assert held == [f"results/{week}/c{made.id}/result.json" for week in ("week02", "week03")]


def test_what_an_earlier_job_left_in_the_spool_is_handed_over(local: Local, tmp_path: Path) -> None:
    only_quick_weeks(local, week02="pass")
    lost, place = sample_result(run="c3"), tmp_path / "spool"
    (tmp_path / "lost").mkdir()
    for name, content in files(lost).items():
        (tmp_path / "lost" / name).write_bytes(content)
    keep(place, tmp_path / "lost", lost)
    local.workflows.machine["SPRINTBENCH_SPOOL"] = str(place)
    comment(local, "sprinter", "/bench week02 --smoke")
    run = local.hub.runs[-1]
    assert set(run.artifacts) == {"result-week02", "spooled-week01-c3"}
    with zipfile.ZipFile(io.BytesIO(run.artifacts["spooled-week01-c3"])) as handed:
        assert {name: handed.read(name) for name in handed.namelist()} == files(lost)
    assert [path.name for path in place.iterdir()] == [".lock"], "this job's own result and the old one have both been handed over"


def test_a_baseline_is_written_by_the_job_that_may(local: Local) -> None:
    with local.hub.lock:
        local.hub.git.put({"results/week01/c7/result.json": dumps(sample_result()).encode()}, "A run", SPRINTER)
    comment(local, "sprinter", "/accept c7")
    assert ends(local.hub.runs[-1])["Report week01"] == "success"
    assert [end for name, end in ends(local.hub.runs[-1]).items() if name.startswith(("Bench", "Watch"))] == ["skipped"] * 2
    assert b'"c7"' in (local.hub.git.read("main", "results/week01/c7/accepted.json") or b"")
    [card] = replies(local)
    assert "is the new baseline" in card


@pytest.mark.slow
def test_a_run_at_work_is_cancelled_by_a_comment(local: Local) -> None:
    only_quick_weeks(local, week01="slow")
    with local.hub.lock:
        issue = local.hub.add_issue(local.hub.users["sprinter"], "Week 01 - PyTorch 2.x compile + profiling", "")
        local.hub.add_comment(local.hub.users["sprinter"], issue.number, "/bench --smoke")
    began = time.monotonic()
    while not any(job.name == "Bench week01" and job.conclusion == "in_progress" for job in local.hub.runs[0].jobs):
        assert time.monotonic() - began < 90, local.hub.runs[0].log
        time.sleep(0.1)
    time.sleep(3)  # the runner has begun
    comment(local, "sprinter", "/cancel")
    first, second = local.hub.runs
    assert (first.conclusion, second.conclusion) == ("cancelled", "success")
    card, answer = replies(local)
    assert "### week01 · cancelled · " in card
    assert "It was at work; its GPU is free in a moment." in answer
