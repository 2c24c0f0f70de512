"""The spool: a result outlives its job, whole or not at all, also where the runner is killed outright at any step."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sample_week
from test_runner import environment, lay_out, result_in, run

from bot.artifact import open_directory
from runner import spool
from workloads import spec
from workloads.spec import Request, Result

REPO = Path(__file__).resolve().parent.parent
RESULT = sample_week.result(run="c7")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    lay_out(tmp_path, "week0[34]_*")
    return tmp_path


def measured(out: Path, result: Result = RESULT) -> Path:
    """An --out folder as a run leaves it."""
    out.mkdir(parents=True)
    for name, raw in sample_week.files(result).items():
        (out / name).write_bytes(raw)
    return out


def kept(place: Path, tmp_path: Path, run_: str = "c7") -> Path:
    result = sample_week.result(run=run_)
    return spool.keep(place, measured(tmp_path / f"out-{run_}", result), result)


def entries(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name != spool.LOCK)


def tree(top: Path) -> dict[str, bytes]:
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def command(place: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "runner.spool", "--spool", str(place), *arguments], cwd=REPO,
                          capture_output=True, text=True, check=False)


# ---------------------------------------------------------------------------------------------------- kept by a run


def test_a_run_leaves_a_copy_with_its_request_and_checksums(lab: Path) -> None:
    assert run(lab, "week03", "--smoke", "--run", "c123", SPRINTBENCH_SPOOL="spool").returncode == 0
    entry = lab / "spool" / "week03-c123"
    assert sorted(path.name for path in entry.iterdir()) == ["SHA256SUMS", "notes.txt", "request.json", "result.json"]
    assert (entry / "result.json").read_bytes() == (lab / "out" / "result.json").read_bytes()
    assert spec.loads(Request, (entry / "request.json").read_bytes()) == Request("bench", "week03", smoke=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=entry, check=True)
    assert entries(lab / "spool") == ["week03-c123"]


def test_a_failure_is_kept_too(lab: Path) -> None:
    assert run(lab, "week04", "--smoke", "--run", "c5", "--spool", "spool", BEHAVIOUR="raises").returncode == 1
    assert spec.loads(Result, (lab / "spool" / "week04-c5" / "result.json").read_bytes()).status == "error"


def test_without_a_spool_there_is_none(lab: Path) -> None:
    assert run(lab, "week03", "--smoke", SPRINTBENCH_SPOOL="").returncode == 0
    assert not (lab / "spool").exists()


def test_a_spool_that_cannot_be_used_costs_no_result(lab: Path) -> None:
    (lab / "spool").write_text("a file")
    done = run(lab, "week03", "--smoke", "--spool", "spool")
    assert done.returncode == 0
    assert "no copy in the spool spool: File exists" in done.stderr
    assert result_in(lab).status == "ok"


def test_a_copy_that_fails_leaves_no_part(tmp_path: Path) -> None:
    place = tmp_path / "spool"
    out = measured(tmp_path / "out")
    (out / "result.json").unlink()
    with pytest.raises(FileNotFoundError):
        spool.keep(place, out, RESULT)
    assert entries(place) == []


def test_the_newest_attempt_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    place = tmp_path / "spool"
    kept(place, tmp_path)
    again = sample_week.result(run="c7", duration_s=99.0)
    spool.keep(place, measured(tmp_path / "again", again), again)
    assert spec.loads(Result, (place / "week01-c7" / "result.json").read_bytes()).duration_s == 99.0
    assert entries(place) == ["week01-c7"]


def test_the_weeks_of_one_command_lie_side_by_side(tmp_path: Path) -> None:
    place = tmp_path / "spool"
    kept(place, tmp_path)
    other = sample_week.result(request=Request("bench", "week02"))
    spool.keep(place, measured(tmp_path / "other", other), other)
    assert entries(place) == ["week01-c7", "week02-c7"]


def test_the_spool_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MOST", 2)
    place = tmp_path / "spool"
    for number, name in enumerate(("c9", "c3", "c5")):
        os.utime(kept(place, tmp_path, name), (1000 + number, 1000 + number))
    kept(place, tmp_path, "c1")
    assert entries(place) == ["week01-c1", "week01-c5"]


# ---------------------------------------------------------------------------------------------------- kill -9

# Every open, mkdir, rename and remove of `keep` is a moment at which the kernel may take the process away. Each line on stdin is the
# number of those that a fresh process gets through; how it ended is a line on stdout.
KILLED = """
import os, signal, sys
from pathlib import Path
from runner import spool
from workloads import spec
place, out = Path(sys.argv[1]), Path(sys.argv[2])
result = spec.loads(spec.Result, (out / "result.json").read_bytes())
seen = last = 0
def watch(event, arguments):
    global seen
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"):
        seen += 1
        if seen > last:
            os.kill(os.getpid(), signal.SIGKILL)
for line in sys.stdin:
    last = int(line)
    if not (child := os.fork()):
        sys.addaudithook(watch)
        spool.keep(place, out, result)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextlib.contextmanager
def killing(place: Path, out: Path) -> Iterator[Callable[[int], int]]:
    """Keeps `out` in a process that ends at a given step; its exit code."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(place), str(out)], cwd=REPO, env=environment(), text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdin and keeper.stdout, "pipes were asked for"

        def killed_at(step: int) -> int:
            print(step, file=keeper.stdin, flush=True)
            return int(keeper.stdout.readline())

        yield killed_at
        keeper.stdin.close()
    assert keeper.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True], ids=["the first", "a second attempt"])
def test_killed_at_any_step_it_holds_the_old_entry_or_the_new_one(tmp_path: Path, before: bool) -> None:
    place, new = tmp_path / "spool", sample_week.result(run="c7", duration_s=99.0)
    out = measured(tmp_path / "new", new)
    whole, old = kept(tmp_path / "elsewhere", tmp_path), {}
    if before:
        old = tree(whole)
    reference = tree(spool.keep(tmp_path / "reference", out, new))
    seen, steps = [], 0
    with killing(place, out) as killed_at:
        while True:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            if before:
                shutil.copytree(whole, place / "week01-c7")
            code = killed_at(steps)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            spool.settle(place)
            assert set(entries(place)) <= {"week01-c7"}
            held = tree(place / "week01-c7") if (place / "week01-c7").exists() else {}
            assert held in (old, reference), f"killed at step {steps}"
            seen.append(held == reference)
            steps += 1
    assert tree(place / "week01-c7") == reference
    assert steps > 15
    assert seen == sorted(seen), "once the new entry is there, it stays"
    assert True in seen and False in seen


def test_a_run_killed_after_its_result_is_offered_by_the_next_job(lab: Path) -> None:
    """The week ends, its result is kept, and the job dies before it could hand anything over."""
    assert run(lab, "week03", "--smoke", "--run", "c123", "--spool", "spool").returncode == 0
    shutil.rmtree(lab / "out")  # the job's folder goes with its runner
    done = command(lab / "spool", "--forget", "week03-c124", "--offer", str(lab / "offered"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "entry=week03-c123\n", "")
    assert sorted(tree(lab / "offered")) == ["notes.txt", "result.json"]


def test_two_runners_that_share_a_spool_take_turns(tmp_path: Path) -> None:
    """While one holds it, the other waits: it would take the first one's half for the rest of a kill, and remove it."""
    place = tmp_path / "spool"
    kept(place, tmp_path)
    with spool.held(place):
        (place / ".part-week01-c8").mkdir()
        other = subprocess.Popen([sys.executable, "-m", "runner.spool", "--spool", str(place), "--forget", "week01-c7"], cwd=REPO,
                                 stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(3)
        assert entries(place) == [".part-week01-c8", "week01-c7"]
    assert other.wait(20) == 0
    assert entries(place) == []


# ---------------------------------------------------------------------------------------------------- offered, then forgotten


def test_what_is_offered_is_what_the_report_accepts(tmp_path: Path) -> None:
    kept(tmp_path / "spool", tmp_path)
    assert spool.offer(tmp_path / "spool", tmp_path / "offered") == "week01-c7"
    assert open_directory(tmp_path / "offered", sample_week.WEEK01).result == RESULT


def test_the_oldest_is_offered_first_until_it_is_forgotten(tmp_path: Path) -> None:
    place = tmp_path / "spool"
    for number, name in enumerate(("c9", "c3")):
        os.utime(kept(place, tmp_path, name), (1000 + number, 1000 + number))
    assert command(place, "--offer", str(tmp_path / "a")).stdout == "entry=week01-c9\n"
    assert command(place, "--offer", str(tmp_path / "b")).stdout == "entry=week01-c9\n"
    assert command(place, "--forget", "week01-c9", "--offer", str(tmp_path / "c")).stdout == "entry=week01-c3\n"
    assert command(place, "--forget", "week01-c3").stdout == "entry=\n"
    assert entries(place) == []
    assert command(place, "--offer", str(tmp_path / "d")).stdout == "entry=\n"
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("damage", ["changed", "cut", "no list", "no result", "a path", "not text"])
def test_a_damaged_entry_is_named_and_left_alone(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "spool"
    entry = kept(place, tmp_path)
    kept(place, tmp_path, "c8")
    match damage:
        case "changed":
            (entry / "result.json").write_bytes(b"{}")
        case "cut":
            (entry / "trace.json.gz").unlink()
        case "no list":
            (entry / spool.SUMS).unlink()
        case "no result":
            (entry / spool.SUMS).write_text(spool._sums({spool.REQUEST: (entry / spool.REQUEST).read_bytes()}))
        case "a path":
            (entry / spool.SUMS).write_text(spool._sums({"../../secret": b""}))
        case "not text":
            (entry / spool.SUMS).write_bytes(b"\xff")
    os.utime(entry, (1, 1))
    before = tree(entry)
    done = command(place, "--offer", str(tmp_path / "offered"))
    assert done.stdout == "entry=week01-c8\n"
    assert done.stderr == f"{entry} does not fit its SHA256SUMS, so it is not offered: look at it, then remove it\n"
    assert tree(entry) == before


def test_what_is_no_entry_is_never_offered(tmp_path: Path) -> None:
    place = tmp_path / "spool"
    (place / "notes").mkdir(parents=True)
    (place / "week01-c5").symlink_to(tmp_path)
    assert command(place, "--offer", str(tmp_path / "offered")).stdout == "entry=\n"
    assert (place / "week01-c5").is_symlink()


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_machine_without_a_spool_has_nothing_to_offer(tmp_path: Path, place: str) -> None:
    done = command(place and tmp_path / place, "--forget", "week01-c7", "--offer", str(tmp_path / "offered"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "entry=\n", "")


def test_a_kill_while_forgetting_leaves_nothing_by_that_name(tmp_path: Path) -> None:
    place = tmp_path / "spool"
    kept(place, tmp_path).rename(place / ".part-week01-c7")  # as far as it got
    assert command(place, "--offer", str(tmp_path / "offered")).stdout == "entry=\n"
    assert entries(place) == []


def test_a_run_that_is_none_is_refused(tmp_path: Path) -> None:
    done = command(tmp_path, "--forget", "../week01-c7")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: --forget: a week and a run, as in week07-c123"


def test_an_offer_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    place = tmp_path / "spool"
    kept(place, tmp_path)
    (tmp_path / "offered").mkdir()
    done = command(place, "--offer", str(tmp_path / "offered"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: the spool {place} cannot be used: File exists\n"
