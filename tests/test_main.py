"""The command line as a person and as a workflow meets it: whole outputs, exit codes, and one clear line for what went wrong."""

import json
import os
import resource
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from golden import NIGHTS, slowed, stored
from sample_week import TRACE, WEEK01, files, result

from bot import commands, gate, store
from bot.__main__ import cli, main
from bot.errors import UserError
from bot.history import History
from bot.report import Where, report
from workloads.spec import Failure, Request, discover, dumps
from workloads.spec import Result as Run

ROOT = Path(__file__).parent.parent


def bench(*arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin, env=env, prog_name="bench")


def lay(root: Path, held: dict[str, bytes]) -> Path:
    for name, content in held.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def house(here: Path) -> Path:
    """A working directory that holds nothing but what marks a repository of this project."""
    return lay(here, {"workloads/plan.py": b""})


# ---------------------------------------------------------------------------------------------------- parse


@pytest.mark.parametrize(("comment", "verdict", "request_", "reply"), [
    (b"hello", "ignored", None, None),
    (b"/bench week01", "accepted", Request("bench", "week01"), None),
    (b"/help\r\n", "accepted", Request("help"), commands.help_text()),
    (b"/status", "accepted", Request("status"), None),
    (b"/accept c1", "accepted", Request("accept", runs=(1,)), None),
    (b"/bench \xff\xfe", "refused", None, commands.parse("/bench $").reply),  # type: ignore[union-attr]
])
def test_parse(comment: bytes, verdict: str, request_: Request | None, reply: str | None) -> None:
    done = bench("parse", stdin=comment)
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert json.loads(done.stdout) == {"verdict": verdict, "request": json.loads(dumps(request_)) if request_ else None, "reply": reply}


# ---------------------------------------------------------------------------------------------------- in Actions


@pytest.fixture
def job(localhub: Any, here: Path) -> dict[str, str]:
    """The environment of a job on localhub's repository, in a fresh checkout of it."""
    subprocess.run(["git", "clone", "-q", str(localhub.git.path), "."], cwd=here, check=True)
    outputs = here.parent / "outputs"
    outputs.write_text("")
    return {"GITHUB_REPOSITORY": localhub.repo, "GITHUB_TOKEN": localhub.token, "GITHUB_API_URL": localhub.url, "GITHUB_RUN_ID": "4242",
            "GITHUB_SHA": localhub.git.head(), "GITHUB_REF_NAME": "main", "GITHUB_SERVER_URL": "https://github.com",
            "SPRINTBENCH_FAST": "1", "SPRINTBENCH_BRANCH": "", "GITHUB_OUTPUT": str(outputs),
            "GITHUB_EVENT_PATH": str(here.parent / "event.json")}


def comment(localhub: Any, job: dict[str, str], body: str, login: str = "member", title: str = "Week 01 - a title") -> Any:
    issue = localhub.open_issue(title)
    made = localhub.comment_as(login, issue.number, body)
    user = {"login": login, "id": localhub.hub.users[login].id, "type": "User"}
    Path(job["GITHUB_EVENT_PATH"]).write_text(json.dumps({
        "action": "created", "sender": user, "issue": {"number": issue.number, "title": title, "state": "open"},
        "comment": {"id": made.id, "body": body, "user": user, "created_at": "2026-11-23T11:59:00Z"}}))
    return made


def outputs(job: dict[str, str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in Path(job["GITHUB_OUTPUT"]).read_text().splitlines())


def accepted(localhub: Any, job: dict[str, str], body: str = "/bench week01") -> dict[str, str]:
    """The environment of the report job after the gate accepted a command."""
    comment(localhub, job, body)
    assert bench("gate", env=job).exit_code == 0
    told = outputs(job)
    folder = Path(job["GITHUB_OUTPUT"]).parent / "artifact"
    [leg] = json.loads(told["legs"])
    return {**job, "REQUEST": leg["request"], "REQUEST_ID": told["request_id"], "ISSUE": told["issue"], "NAME": leg["name"],
            "CARD": leg["card"], "JOB_RESULT": "success", "ARTIFACT": str(folder), "SECOND": str(folder.with_name("second"))}


def leave(env: dict[str, str], made: Run) -> None:
    folder = Path(env["ARTIFACT"])
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "result.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files(made).items():
            archive.writestr(name, content)


def card(localhub: Any) -> str:
    return str(localhub.hub.issues[0].comments[-1].body)


def test_gate_and_report(localhub: Any, job: dict[str, str]) -> None:
    env = accepted(localhub, job)
    leave(env, result(run=env["REQUEST_ID"], commit=env["GITHUB_SHA"]))
    done = bench("report", env=env)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{env['REQUEST_ID']}: ok, stored in {localhub.git.head()} and posted\n"
    assert "### week01 · met" in card(localhub)
    assert "waited 1 min 00 s" in card(localhub)
    assert len(localhub.requests) <= 15


def test_gate_ignores_talk_without_a_word_to_github(localhub: Any, job: dict[str, str]) -> None:
    comment(localhub, job, "nice work")
    done = bench("gate", env=job)
    assert (done.exit_code, done.stdout) == (0, f"ignored: {gate.NO_COMMAND}\n")
    assert (outputs(job)["accepted"], outputs(job)["verdict"]) == ("false", "ignored")
    assert localhub.requests == []


def test_gate_answers_from_the_checkout(localhub: Any, job: dict[str, str], here: Path) -> None:
    lay(here, {"results/week01/c7/result.json": dumps(result()).encode()})
    comment(localhub, job, "/post")
    assert bench("gate", env=job).exit_code == 0
    assert (outputs(job)["accepted"], outputs(job)["run"]) == ("true", "false")
    assert "Run: https://github.com/sprinter/sprint/tree/main/results/week01/c7\n" in card(localhub)
    assert len(localhub.requests) == 3


def test_gate_reads_the_branch_that_results_go_to(localhub: Any, job: dict[str, str]) -> None:
    main = localhub.git.head()
    localhub.put({"results/week01/c7/result.json": dumps(result()).encode()})
    localhub.git.set_ref("refs/heads/scoreboard", localhub.git.head())
    localhub.git.set_ref("refs/heads/main", main)
    comment(localhub, job, "/post")
    assert bench("gate", env={**job, "SPRINTBENCH_BRANCH": "scoreboard"}).exit_code == 0
    assert "Run: https://github.com/sprinter/sprint/tree/scoreboard/results/week01/c7\n" in card(localhub)
    assert len(localhub.requests) <= 15


@pytest.mark.parametrize(("event", "words"), [
    ("[]", "no issue_comment event"), ("{", "the event is no JSON"), ("[" * 10**5, "the event is no JSON"),
    (None, "the event cannot be read: No such file")])
def test_gate_refuses_a_malformed_event(localhub: Any, job: dict[str, str], event: str | None, words: str) -> None:
    if event is not None:
        Path(job["GITHUB_EVENT_PATH"]).write_text(event)
    done = bench("gate", env=job)
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)
    assert Path(job["GITHUB_OUTPUT"]).read_text() == ""


def test_gate_needs_its_environment(job: dict[str, str], localhub: Any) -> None:
    comment(localhub, job, "/bench week01")
    done = bench("gate", env={**job, "GITHUB_TOKEN": ""})
    assert str(done.exception).startswith("GITHUB_TOKEN is not set")


def test_gate_is_cheap(localhub: Any, job: dict[str, str]) -> None:
    comment(localhub, job, "/bench week01", "member")
    event = json.loads(Path(job["GITHUB_EVENT_PATH"]).read_text())
    Path(job["GITHUB_EVENT_PATH"]).write_text(json.dumps({**event, "action": "edited"}))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "bot", "gate"], cwd=ROOT, env={**os.environ, **job},
                          capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout == f"ignored: {gate.NOT_NEW}\n"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_a_lost_job(localhub: Any, job: dict[str, str]) -> None:
    env = {**accepted(localhub, job), "JOB_RESULT": "failure"}
    done = bench("report", env=env)
    assert (done.exit_code, done.stdout) == (0, "the GPU job left no result; the card says so\n")
    assert "The job ended as `failure`" in card(localhub)
    assert len(localhub.git.log("main")) == 1


def test_a_cancelled_job_without_a_result(localhub: Any, job: dict[str, str]) -> None:
    env = {**accepted(localhub, job), "JOB_RESULT": "cancelled"}
    assert bench("report", env=env).exit_code == 0
    assert "### week01 · cancelled · next: ask again when it is wanted\n" in card(localhub)
    assert f"`/retry {env['REQUEST_ID']}` runs it again" in card(localhub)
    assert "failed" not in card(localhub)


def test_a_rejected_result(localhub: Any, job: dict[str, str]) -> None:
    env = accepted(localhub, job)
    leave(env, result(run="c1", commit=env["GITHUB_SHA"]))
    done = bench("report", env=env)
    assert (done.exit_code, done.stdout) == (0, "the result was refused: the result is of another run\n")
    assert "the result is of another run" in card(localhub)
    assert len(localhub.git.log("main")) == 1


def test_an_outage_leaves_the_card_for_the_next_attempt(localhub: Any, job: dict[str, str]) -> None:
    env = accepted(localhub, job)
    leave(env, result(run=env["REQUEST_ID"], commit=env["GITHUB_SHA"]))
    localhub.fault("POST", "/git/", times=9, status=502)
    assert bench("report", env=env).exit_code == 1
    assert "· queued ·" in card(localhub)
    localhub.service.faults.clear()
    assert bench("report", env=env).exit_code == 0
    assert "### week01 · met" in card(localhub)


def test_a_bug_is_told_on_the_card(localhub: Any, job: dict[str, str]) -> None:
    """A ledger that somebody broke by hand is nothing the bot expects."""
    localhub.put({"results/week01/c1/result.json": b"{}"})
    subprocess.run(["git", "pull", "-q"], check=True)
    env = accepted(localhub, {**job, "GITHUB_SHA": localhub.git.head()})
    leave(env, result(run=env["REQUEST_ID"], commit=env["GITHUB_SHA"]))
    done = bench("report", env=env)
    assert "results/week01/c1/result.json is no result" in str(done.exception)
    assert "the bot failed to show it" in card(localhub)


def test_results_may_go_to_a_branch_of_their_own(localhub: Any, job: dict[str, str]) -> None:
    localhub.git.set_ref("refs/heads/scoreboard", localhub.git.head())
    localhub.put({"README.md": b"# Moved on\n"})
    env = {**accepted(localhub, job), "SPRINTBENCH_BRANCH": "scoreboard"}
    leave(env, result(run=env["REQUEST_ID"], commit=env["GITHUB_SHA"]))
    assert bench("report", env=env).exit_code == 0
    assert localhub.git.read("scoreboard", "SCOREBOARD.md")
    assert localhub.git.read("main", "SCOREBOARD.md") is None


def test_a_second_run_is_stored_beside_the_first(localhub: Any, job: dict[str, str]) -> None:
    env = accepted(localhub, job)
    run = env["REQUEST_ID"]
    leave(env, result(run=run, commit=env["GITHUB_SHA"]))
    leave({**env, "ARTIFACT": env["SECOND"]}, result(run=f"{run}-2", commit=env["GITHUB_SHA"], started="2026-11-23T13:00:00Z"))
    assert bench("report", env=env).exit_code == 0
    assert localhub.git.read("main", f"results/week01/{run}-2/result.json")
    assert "### week01 · met" in card(localhub)


def test_a_second_run_that_does_not_hold_is_left_out(localhub: Any, job: dict[str, str]) -> None:
    env = accepted(localhub, job)
    run = env["REQUEST_ID"]
    leave(env, result(run=run, commit=env["GITHUB_SHA"]))
    leave({**env, "ARTIFACT": env["SECOND"]}, result(run=run, commit=env["GITHUB_SHA"]))
    done = bench("report", env=env)
    assert (done.exit_code, done.stderr) == (0, "the second run is left out: the result is of another run\n")
    assert localhub.git.read("main", f"results/week01/{run}-2/result.json") is None


def test_an_acceptance_is_written_by_the_report(localhub: Any, job: dict[str, str]) -> None:
    localhub.put({"results/week01/c7/result.json": dumps(result()).encode()})
    subprocess.run(["git", "pull", "-q"], check=True)
    env = accepted(localhub, job, "/accept c7")
    done = bench("report", env=env)
    assert (done.exit_code, done.stdout) == (0, "c7 is a baseline of week01\n")
    assert localhub.git.read("main", "results/week01/c7/accepted.json")


def test_the_gpu_job_is_told_where_the_history_is(localhub: Any, job: dict[str, str]) -> None:
    localhub.git.set_ref("refs/heads/scoreboard", localhub.git.head())
    accepted(localhub, {**job, "SPRINTBENCH_BRANCH": "scoreboard"})
    assert outputs(job)["ledger"] == localhub.git.head()


@pytest.mark.parametrize(("factor", "runs", "told", "words"), [
    (1.05, 12, "true", "c4210: suspected_regression"), (1.0, 12, "false", "c4210: unchanged"), (1.05, 3, "false", "c4210: insufficient")])
def test_a_run_that_looks_changed_is_measured_once_more(here: Path, job: dict[str, str], factor: float, runs: int, told: str,
                                                        words: str) -> None:
    nights = {f"ledger/results/week01/{night.run}/result.json": dumps(night).encode() for night in NIGHTS[:runs]}
    lay(here, {"out/result.json": dumps(slowed(factor, "c4210", 23)).encode(), **nights})
    done = bench("again", "--out", "out", "--ledger", "ledger", env=job)
    assert (done.exit_code, done.stdout) == (0, f"{words}\n")
    assert Path(job["GITHUB_OUTPUT"]).read_text() == f"again={told}\n"


def test_a_run_that_failed_is_not_measured_once_more(here: Path, job: dict[str, str]) -> None:
    lay(here, {"out/result.json": dumps(stored("crashed")).encode()})
    assert bench("again", "--out", "out", env=job).stdout == f"{stored('crashed').run}: nothing to compare with\n"


def test_watch(localhub: Any, job: dict[str, str]) -> None:
    """The run of the card has no job yet, so it waits, until a report has taken its place."""
    env = accepted(localhub, job)
    leave(env, result(run=env["REQUEST_ID"], commit=env["GITHUB_SHA"]))
    assert bench("report", env=env).exit_code == 0
    done = bench("watch", env=env)
    assert (done.exit_code, done.stdout.split(";")[0]) == (0, "looked 1 times")
    assert "### week01 · met" in card(localhub)


def test_nothing_to_watch(localhub: Any, job: dict[str, str]) -> None:
    comment(localhub, job, "nice work")
    assert str(bench("watch", env=job).exception) == f"there is nothing to watch: {gate.NO_COMMAND}"


def test_kickoff(localhub: Any, job: dict[str, str]) -> None:
    assert bench("kickoff", env={**job, "WEEK": "week02"}).stdout == "week02: issue 1 opened\n"
    assert bench("kickoff", "week02", env=job).stdout == "week02: issue 1 was there already\n"
    assert bench("kickoff", env={**job, "WEEK": ""}).stdout == "week01: issue 2 opened\n"
    assert str(bench("kickoff", "week17", env=job).exception) == "a week is written week01 to week16"


def test_kickoff_after_the_last_week(localhub: Any, job: dict[str, str]) -> None:
    for week in range(1, 17):
        localhub.open_issue(f"Week {week:02d} - by hand")
    assert bench("kickoff", env=job).stdout == "every week has its issue\n"


# ---------------------------------------------------------------------------------------------------- on a laptop


def test_render(here: Path) -> None:
    newer = result(run="c8", started="2026-11-23T13:00:00Z")
    lay(here, {f"results/week01/{run.run}/result.json": dumps(run).encode() for run in (result(), newer)})
    done = bench("render", "results/week01/c8")
    assert (done.exit_code, done.stdout) == (0, report(WEEK01, newer, Where(), History((result(),))))


@pytest.mark.parametrize(("held", "words"), [
    ({"other": b""}, "result.json: No such file"), ({"result.json": b"{}"}, "result.json is no result: Result: run, request"),
    ({"result.json": dumps(result(request=Request("bench", "week16"))).encode()}, "is of week16, which has no workload here")])
def test_render_says_what_is_wrong(here: Path, held: dict[str, bytes], words: str) -> None:
    lay(here / "out", held)
    assert words in str(bench("render", "out").exception)


def test_compare_takes_names_and_folders(here: Path) -> None:
    runs = [result(run=f"c{n}", started=f"2026-11-2{n}T13:00:00Z") for n in (1, 2)]
    lay(here, {f"results/week01/{run.run}/result.json": dumps(run).encode() for run in runs} | {"out/result.json": dumps(runs[1]).encode()})
    done = bench("compare", "c1", "c2")
    assert (done.exit_code, "week01: c2 against c1" in done.stdout) == (0, True)
    assert bench("compare", "results/week01/c1", "out").stdout == done.stdout


@pytest.mark.parametrize(("a", "b", "words"), [
    ("c1", "c9", "'c9' is neither a run in results/ nor a folder"), ("nowhere", "c1", "'nowhere' is neither a run"),
    ("c1", "empty", "empty/result.json: No such file"), ("c1", "other", "other/result.json is of week16, which has no workload")])
def test_compare_says_what_is_wrong(here: Path, a: str, b: str, words: str) -> None:
    lay(here, {"results/week01/c1/result.json": dumps(result(run="c1")).encode(), "empty/notes": b"",
               "other/result.json": dumps(result(request=Request("bench", "week16"))).encode()})
    done = bench("compare", a, b)
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)


def test_compare_keeps_weeks_apart(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(here, {"one/result.json": dumps(result()).encode(), "two/result.json": dumps(result(request=Request("bench", "week02"))).encode()})
    monkeypatch.setattr("bot.__main__.discover", lambda: {"week01": WEEK01, "week02": WEEK01})
    assert str(bench("compare", "one", "two").exception) == "one is of week01 and two of week02: only runs of one week can be compared"


def test_history(here: Path) -> None:
    runs = [result(run=f"c{n}", started=f"2026-11-2{n}T13:00:00Z") for n in range(1, 8)]
    lay(here, {f"results/week01/{run.run}/result.json": dumps(run).encode() for run in runs} | {"results/week01/c2/accepted.json": b"{}"})
    done = bench("history", "week01")
    assert done.exit_code == 0
    assert "c2, accepted" in done.stdout
    assert "no change, 5 runs" in done.stdout
    assert "4 older runs are not shown" in bench("history", "week01", "--last", "3").stdout


def test_history_says_what_is_wrong(here: Path) -> None:
    assert str(bench("history", "week17").exception) == "'week17' is no week that is built here: " + ", ".join(discover())
    assert str(bench("history", "week01").exception) == (
        "results/week01/ holds no run here: `bench run week01 --smoke --out d` makes one, `bench record d` stores it")


def test_record_then_redraw(house: Path) -> None:
    made = result(run="r20261123120000")
    lay(house / "out", files(made))
    done = bench("record", "out")
    assert done.exit_code == 0
    assert "results/week01/r20261123120000: ok; now commit" in done.stdout
    assert (house / "results/week01/r20261123120000/trace.json.gz").read_bytes() == TRACE
    assert (house / "results/week01/r20261123120000/speedup.png").read_bytes().startswith(b"\x89PNG")
    assert (bench("redraw", "--check").exit_code, bench("redraw").stdout) == (0, "")
    assert bench("record", "out").stdout.count("\n") == 1
    (house / "SCOREBOARD.md").write_text((house / "SCOREBOARD.md").read_text().replace("r20261123120000", "r1"))
    done = bench("redraw", "--check")
    assert (done.exit_code, done.stderr) == (1, "out of date: SCOREBOARD.md; run `bench redraw` and commit what it writes\n")
    assert bench("redraw").stdout == "SCOREBOARD.md\n"
    assert bench("redraw", "--check").exit_code == 0


def test_a_third_run_is_recorded_with_its_trend(house: Path) -> None:
    for day in (1, 2, 3):
        made = result(run=f"r2026112{day}", started=f"2026-11-2{day}T13:00:00Z")
        lay(house / f"out{day}", files(made))
        assert bench("record", f"out{day}").exit_code == 0
    assert [path.parent.name for path in house.glob("results/*/*/trend.png")] == ["r20261123"]
    assert bench("redraw").stdout == ""


def test_record_distrusts_a_directory(house: Path) -> None:
    made = result(run="r20261123120000")
    lay(house / "out", {**files(made), "notes.txt": b"hi"})
    assert str(bench("record", "out").exception) == "out: it holds a file that week01 does not make"


def test_record_overwrites_no_other_run(house: Path) -> None:
    lay(house / "one", files(result(run="r1")))
    lay(house / "two", files(result(run="r1", duration_s=99.0)))
    assert bench("record", "one").exit_code == 0
    assert "results/week01/r1 holds another run of that name" in str(bench("record", "two").exception)


def test_redraw_finds_a_scoreboard_missing(house: Path) -> None:
    assert bench("redraw", "--check").exit_code == 1
    assert bench("redraw").exit_code == 0
    assert (house / "SCOREBOARD.md").read_bytes() == store.pages(store.Ledger({}), {"week01": WEEK01})["SCOREBOARD.md"]


@pytest.mark.parametrize("arguments", [["redraw"], ["redraw", "--check"], ["docs"], ["record", "out"]])
def test_what_writes_the_repository_does_so_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    lay(tmp_path / "out", files(result(run="r1")))
    monkeypatch.chdir(tmp_path)
    assert "run it in the folder that holds README.md" in str(bench(*arguments).exception)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_page_is_written_whole_or_not_at_all(house: Path) -> None:
    lay(house, {"SCOREBOARD.md": b"By hand\n"})
    (house / "SCOREBOARD.md.part").mkdir()
    assert isinstance(bench("redraw").exception, OSError)
    (house / "SCOREBOARD.md.part").rmdir()
    assert (house / "SCOREBOARD.md").read_bytes() == b"By hand\n"
    assert bench("redraw").exit_code == 0
    assert sorted(path.name for path in house.iterdir()) == ["SCOREBOARD.md", "workloads"]


def test_docs(house: Path) -> None:
    lay(house, {"README.md": b"# A\n\n<!-- sprintbench:commands -->\n<!-- /sprintbench:commands -->\n"})
    done = bench("docs", "--check")
    assert done.exit_code == 1
    assert "PLAN.md" in done.stderr
    assert bench("docs").exit_code == 0
    assert commands.help_text().strip() in (house / "README.md").read_text()
    assert bench("docs", "--check").exit_code == 0


RUNNER = """
import pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
print(sys.argv[1:])
if "--smoke" not in sys.argv:
    sys.exit(2)
out.mkdir(parents=True, exist_ok=True)
out.joinpath("result.json").write_bytes(pathlib.Path("prepared.json").read_bytes())
"""


def stage(here: Path, made: Run) -> None:
    """Put a `runner` into the working directory that leaves a prepared result."""
    lay(here, {"runner/__main__.py": RUNNER.encode(), "runner/__init__.py": b"", "prepared.json": dumps(made).encode()})


def test_run_prints_the_report(here: Path, capfd: Any) -> None:
    made = result(request=Request("bench", "week01", smoke=True))
    stage(here, made)
    options = ["--smoke", "--batch", "8", "--repeat", "2", "--profile", "--timeout-min", "3"]
    done = bench("run", "week01", *options, "--out", "kept")
    assert (done.exit_code, done.stdout) == (0, report(WEEK01, made, Where()))
    assert set(options) < set(json.loads(capfd.readouterr().err.replace("'", '"')))
    assert (here / "kept/result.json").exists()


def test_run_tells_a_failed_run_by_its_exit_code(here: Path) -> None:
    failed = result(status="timeout", failure=Failure("it took too long"), observed=(), files=())
    stage(here, failed)
    done = bench("run", "week01", "--smoke")
    assert (done.exit_code, done.stdout) == (1, report(WEEK01, failed, Where()))


def test_run_leaves_the_last_word_to_a_runner_that_cannot(here: Path) -> None:
    stage(here, result())
    assert (bench("run", "week01").exit_code, bench("run", "week01").stdout) == (2, "")


def test_demo_is_localhubs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, bool]] = []
    shown = types.ModuleType("localhub.demo")
    shown.main = lambda out, serve: asked.append((out, serve))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "localhub.demo", shown)
    assert bench("demo", "--serve").exit_code == 0
    assert asked == [(Path("build/demo"), True)]


def test_a_demo_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "localhub.demo", None)
    told = bench("demo").exception
    assert isinstance(told, UserError)
    assert "pip install '.[demo]'" in str(told)


# ---------------------------------------------------------------------------------------------------- help and errors


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_help(name: str) -> None:
    done = bench(*([name] if name else []), "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: bench{' ' + name if name else ''} ")
    assert all(command.help for command in cli.commands.values())


@pytest.mark.parametrize("arguments", [
    ["nonsense"], ["run"], ["run", "week17"], ["run", "week1"], ["run", "--", "--help"], ["run", "week01", "--batch", "0"],
    ["render", "nowhere"]])
def test_usage_is_exit_2(arguments: list[str]) -> None:
    assert bench(*arguments).exit_code == 2


def test_main_words_what_a_person_can_put_right(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (here / "out").mkdir()
    monkeypatch.setattr(sys, "argv", ["bench", "render", "out"])
    with pytest.raises(SystemExit) as left:
        main()
    assert (left.value.code, capsys.readouterr().err) == (2, "bench: out/result.json: No such file or directory\n")


def test_main_says_that_something_failed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "report"])
    for name, value in {"GITHUB_REPOSITORY": "a/b", "GITHUB_TOKEN": "t", "REQUEST": "not JSON", "REQUEST_ID": "c1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (1, "")
    assert said.err.startswith("Traceback")
    assert said.err.endswith("bench: something failed; the details are above\n")


def test_the_console_script(here: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "bot", "parse"], cwd=ROOT, input="/bench", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["verdict"] == "accepted"
