"""Whatever becomes of a week, the runner leaves one valid result.json: real processes, real signals, a disk that is really full."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
import yaml

from runner import child, folder, process
from workloads import spec
from workloads.spec import Observed, Request, Result

REPO = Path(__file__).resolve().parent.parent
CASES = REPO / "tests" / "cases"
GPU = {"PYTHONPATH": f"{CASES / 'nvml'}{os.pathsep}{REPO}", "CUDA_VISIBLE_DEVICES": "0"}


def lay_out(folder_: Path, weeks: str) -> None:
    """A `workloads` package beside the real one: its modules, and fixture weeks in place of the weeks."""
    package = folder_ / "workloads"
    package.mkdir()
    for module in (REPO / "workloads").glob("*.py"):
        (package / module.name).symlink_to(module)
    for week in (CASES / "weeks").glob(weeks):
        (package / week.name).symlink_to(week)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder from which `python -m runner` finds week03 (honest) and week04 (bad)."""
    lay_out(tmp_path, "week0[34]_*")
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    left_out = ("GITHUB_SHA", "CUDA_VISIBLE_DEVICES", "SPRINTBENCH_GPU_HOUR_PRICE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONPATH": str(REPO), **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "runner", *arguments, "--out", "out"]


def run(lab: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=lab, env=environment(**more), capture_output=True, text=True, timeout=60, check=False)


def result_in(lab: Path) -> Result:
    return spec.loads(Result, (lab / "out" / "result.json").read_bytes())


def names_in(lab: Path) -> list[str]:
    return sorted(path.name for path in (lab / "out").iterdir())


# ---------------------------------------------------------------------------------------------------- runs that end well


def test_an_honest_smoke_run(lab: Path) -> None:
    done = run(lab, "week03", "--smoke", "--batch", "32", "--profile", "--run", "c123")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    result = result_in(lab)
    assert result.run == "c123"
    assert result.status == "ok"
    assert result.failure is None
    assert result.request == Request("bench", "week03", smoke=True, batch=32, profile=True)
    assert result.observed[0].notes[0] == "device cpu, smoke True, batch 32, gpus 1, profile True"
    assert result.observed[0].metrics[0].estimate.value == 3.0
    assert result.files == ("notes.txt",)
    assert result.telemetry is None
    assert result.duration_s > 0
    head = subprocess.run(["git", "-C", str(REPO), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert result.commit == head
    assert names_in(lab) == ["notes.txt", "result.json"]
    lines = done.stderr.splitlines()
    assert any(re.fullmatch(r" +\d+\.\d s  half-way there", line) for line in lines)
    assert lines[-1].endswith("out/result.json says ok. Next: bench render out")


def test_a_run_is_named_after_the_time_it_started(lab: Path) -> None:
    assert run(lab, "week03", "--smoke").returncode == 0
    result = result_in(lab)
    assert result.run == "r" + re.sub(r"\D", "", result.started)


def test_each_repeat_is_a_fresh_process(lab: Path) -> None:
    assert run(lab, "week03", "--smoke", "--repeat", "3").returncode == 0
    processes = {observed.notes[1] for observed in result_in(lab).observed}
    assert len(processes) == 3


def test_each_process_has_empty_caches_of_its_own(lab: Path) -> None:
    caches = {"TORCHINDUCTOR_CACHE_DIR": "/shared", "TRITON_CACHE_DIR": "/shared"}
    assert run(lab, "week03", "--smoke", "--repeat", "2", **caches).returncode == 0
    named = [Path(place) for observed in result_in(lab).observed for place in observed.notes[3].split()[1:]]
    assert (len(set(named)), [place.exists() for place in named]) == (4, [False] * 4)
    assert all("sprintbench-" in place.parent.name for place in named)


def test_a_failure_keeps_what_was_seen_before(lab: Path) -> None:
    assert run(lab, "week04", "--smoke", "--repeat", "5", BEHAVIOUR="fails_the_second_time").returncode == 1
    result = result_in(lab)
    assert result.status == "error"
    assert len(result.observed) == 1
    assert result.files == ()


def test_the_workflow_names_the_commit(lab: Path) -> None:
    assert run(lab, "week03", "--smoke", GITHUB_SHA="ab" * 20).returncode == 0
    assert result_in(lab).commit == "ab" * 20


def test_no_checkout_and_no_git_mean_no_commit(lab: Path) -> None:
    assert run(lab, "week03", "--smoke", PATH="/nowhere").returncode == 0
    assert result_in(lab).commit == ""


def test_the_parent_never_imports_torch() -> None:
    script = "import sys, runner.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO, check=False).returncode == 0


# ---------------------------------------------------------------------------------------------------- runs that do not

FAILURES = [
    ("raises", "error", "RuntimeError: shapes differ b"),
    ("raises_nothing_said", "error", "KeyError"),
    ("exits", "error", "the process ended (exit code 0) without a report"),
    ("exits_hard_after_its_report", "error", "the process failed (exit code 3) after its report"),
    ("segfaults", "crashed", "the process died of SIGSEGV (Segmentation fault)"),
    ("is_killed", "out of memory", "killed from outside (SIGKILL), as the kernel does when memory runs out"),
    ("takes_all_memory", "out of memory", "MemoryError"),
    ("takes_all_gpu_memory", "out of memory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB."),
    ("writes_to_a_full_device", "disk full", "OSError: Errno 28 No space left on device"),
    ("returns_nothing", "error", "SpecError: week04: run(ctx) returns an Observed, not NoneType"),
    ("measures_nothing", "error", "week04: target fast must be measured, or not measured with a reason, and not both"),
    ("measures_nan", "error", "SpecError: estimate: NaN and infinity are not measurements"),
    ("hides_nan", "error", "ValueError: Out of range float values are not JSON compliant"),
    ("claims_more_than_its_samples", "error", "the process ended (exit code 0) without a valid report: "
     "the value 30 does not follow from its samples (ratio is 3)"),
    ("measures_twice", "error", "SpecError: metrics: fast given twice"),
    ("measures_in_another_unit", "error", "week04: fast is in ms, the target in x"),
    ("excuses_what_it_measured", "error", "week04: target fast must be measured, or not measured with a reason, and not both"),
    ("leaves_no_file", "error", "week04: a deliverable names notes.txt, and the run left no such file, or an empty one"),
    ("leaves_an_empty_file", "error", "week04: a deliverable names notes.txt, and the run left no such file, or an empty one"),
    ("leaves_a_link", "error", "week04: a deliverable names notes.txt, and the run left no such file, or an empty one"),
    ("leaves_more_files", "error", "week04: the run left 1 files that no deliverable names"),
    ("writes_the_result_itself", "error", "week04: the run left 1 files that no deliverable names"),
]


@pytest.mark.parametrize(("behaviour", "status", "message"), FAILURES, ids=[case[0] for case in FAILURES])
def test_every_failure_is_a_result(lab: Path, behaviour: str, status: str, message: str) -> None:
    done = run(lab, "week04", "--smoke", BEHAVIOUR=behaviour)
    assert done.returncode == 1, done.stderr
    result = result_in(lab)
    assert result.failure is not None
    assert (result.status, re.sub(r": -?nan$", "", result.failure.message)) == (status, message)
    assert names_in(lab) == ["result.json"]
    assert f"{status}: " in done.stderr


def test_every_bad_behaviour_is_tested() -> None:
    source = (CASES / "weeks" / "week04_bad" / "run.py").read_text()
    elsewhere = {"run", "hangs", "fills_the_disk", "leaves_a_worker", "fails_the_second_time", "fails_on_the_second_try",
                 "removes_its_folder"}
    assert set(re.findall(r"^def (\w+)", source, re.MULTILINE)) - elsewhere == {case[0] for case in FAILURES}


def test_the_log_of_a_crash_says_where(lab: Path) -> None:
    run(lab, "week04", "--smoke", BEHAVIOUR="segfaults")
    failure = result_in(lab).failure
    assert failure is not None
    assert "Fatal Python error: Segmentation fault" in failure.log_tail
    assert "in segfaults" in failure.log_tail


def test_a_hang_is_ended_and_the_log_says_where(lab: Path) -> None:
    done = run(lab, "week04", "--smoke", "--timeout-min", "0.02", BEHAVIOUR="hangs")
    assert done.returncode == 1
    result = result_in(lab)
    assert result.status == "timeout"
    assert result.failure is not None
    assert result.failure.message == "not done after 0.02 minutes"
    assert "in hangs" in result.failure.log_tail


def test_what_ignores_sigterm_is_killed_after_the_grace() -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        assert process.wait(stubborn, 0.1, lambda: False, timeout_grace_s=0.3) == "timeout"
        assert stubborn.returncode == -signal.SIGKILL


def start(lab: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), cwd=lab, env=environment(**more), stderr=subprocess.PIPE, text=True)


def line_with(stderr: IO[str] | None, words: str) -> str:
    assert stderr is not None
    return next(line for line in iter(stderr.readline, "") if words in line)


def gone(pid: int, within_s: float = 5.0) -> bool:
    """Whether the process has ended: no entry, or a zombie that waits for its parent."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_run_is_a_result(lab: Path, number: signal.Signals) -> None:
    with start(lab, "week04", "--smoke", BEHAVIOUR="hangs") as runner:
        week = int(line_with(runner.stderr, "hanging as process").split()[-1])
        assert (lab / "out" / ".reserve").stat().st_size == folder.RESERVE_BYTES
        runner.send_signal(number)
        assert runner.wait(20) == 1
    result = result_in(lab)
    assert result.status == "cancelled"
    assert result.failure is not None
    assert result.failure.message == "cancelled before it ended"
    assert gone(week)
    assert names_in(lab) == ["result.json"]


def test_a_week_does_not_outlive_a_runner_killed_outright(lab: Path) -> None:
    with start(lab, "week04", "--smoke", BEHAVIOUR="hangs") as runner:
        week = int(line_with(runner.stderr, "hanging as process").split()[-1])
        runner.kill()
    assert gone(week)


def test_what_a_week_started_ends_with_it(lab: Path) -> None:
    done = run(lab, "week04", "--smoke", BEHAVIOUR="leaves_a_worker")
    assert done.returncode == 0, done.stderr
    worker = re.search(r"worker (\d+)", done.stderr)
    assert worker is not None
    assert gone(int(worker.group(1)))


SMALL_DISK = [shutil.which("unshare") or "unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
CAN_MOUNT = subprocess.run([*SMALL_DISK, "mount -t tmpfs -o size=1m tmpfs /mnt"], capture_output=True, check=False).returncode == 0 \
    if shutil.which("unshare") else False


@pytest.mark.skipif(not CAN_MOUNT, reason="this user may not mount a small disk in a namespace of its own (unshare --mount)")
def test_a_full_disk_still_holds_the_result(lab: Path) -> None:
    (lab / "disk").mkdir()
    script = ("mount -t tmpfs -o size=5m tmpfs disk && \"$@\" --out disk/out; code=$?; "
              "cp disk/out/result.json full.json; ls -A disk/out > names; exit $code")
    done = subprocess.run([*SMALL_DISK, script, "sh", sys.executable, "-m", "runner", "week04", "--smoke"], cwd=lab,
                          env=environment(BEHAVIOUR="fills_the_disk"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    result = spec.loads(Result, (lab / "full.json").read_bytes())
    assert result.status == "disk full"
    assert result.failure is not None
    assert result.failure.message == "OSError: Errno 28 No space left on device"
    assert (lab / "names").read_text() == "result.json\n"


@pytest.mark.skipif(not CAN_MOUNT, reason="this user may not mount a small disk in a namespace of its own (unshare --mount)")
def test_a_disk_that_is_full_before_the_start_is_said_so(lab: Path) -> None:
    (lab / "disk").mkdir()
    script = 'mount -t tmpfs -o size=1m tmpfs disk && "$@" --out disk/out'
    done = subprocess.run([*SMALL_DISK, script, "sh", sys.executable, "-m", "runner", "week03", "--smoke"], cwd=lab,
                          env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: disk/out cannot be written: No space left on device\n"


def test_a_result_that_cannot_be_written_is_said_so(lab: Path) -> None:
    done = run(lab, "week04", "--smoke", BEHAVIOUR="removes_its_folder")
    assert done.returncode == 1
    assert done.stderr.endswith("Error: the result could not be written to out: No such file or directory\n")


# ---------------------------------------------------------------------------------------------------- refusals

REFUSALS = [
    ((), "which week? Weeks that run: week03, week04"),
    (("week3",), "no such week. Did you mean week03? Weeks that run: week03, week04"),
    (("Week 4",), "no such week. Did you mean week04? Weeks that run: week03, week04"),
    (("all",), "no such week. Weeks that run: week03, week04"),
    (("week07", "--smoke"), "week07 has no workload yet. Weeks that run: week03, week04"),
    (("week03",), "no CUDA GPU here: add --smoke for the tiny CPU version, or run this on a GPU machine"),
    (("week03", "--smoke", "--run", "x1"), "--run: c<comment id>, or r<time> as in r20261123154922"),
    (("week03", "--smoke", "--timeout-min", "nan"), "--timeout-min: a number of minutes above 0"),
    (("week03", "--smoke", "--rest-min", "nan"), "--rest-min: a number of minutes, or 0"),
    (("week03", "--request", "{}"), "--request takes the place of WEEK and of its options: give one or the other"),
    (("--request", "{}"), "--request: Request: command missing"),
    (("--request", '{"command": "help"}'), "--request: the runner runs one week, and nothing else"),
    (("--request", '{"command": "bench", "week": "all"}'), "--request: the runner runs one week, and nothing else"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=[" ".join(case[0]) or "nothing" for case in REFUSALS])
def test_a_refusal_is_one_line_and_writes_nothing(lab: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(lab, *arguments, CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stderr) == (2, f"Error: {message}\n")
    assert not (lab / "out").exists()


@pytest.mark.parametrize("option", ["--smok", "--batch=0", "--gpus=9", "--repeat=21", "--timeout-min=0"])
def test_a_bad_option_writes_nothing(lab: Path, option: str) -> None:
    assert run(lab, "week03", option).returncode == 2
    assert not (lab / "out").exists()


def test_a_folder_in_use_is_left_alone(lab: Path) -> None:
    (lab / "out").mkdir()
    (lab / "out" / "thesis.txt").write_text("mine")
    done = run(lab, "week03", "--smoke")
    assert (done.returncode, done.stderr) == (2, "Error: out is not empty: give a new folder, or empty this one\n")
    assert names_in(lab) == ["thesis.txt"]


def test_a_file_is_no_folder(lab: Path) -> None:
    (lab / "out").write_text("mine")
    done = run(lab, "week03", "--smoke")
    assert (done.returncode, done.stderr) == (2, "Error: out is a file, and a folder is needed\n")


# ---------------------------------------------------------------------------------------------------- what only the GPU machine sees


@pytest.mark.parametrize(("line", "message"), [
    (Request("bench", "week03"), "no CUDA GPU here: add --smoke for the tiny CPU version, or run this on a GPU machine"),
    (Request("bench", "week07", smoke=True), "week07 has no workload yet. Weeks that run: week03, week04"),
])
def test_the_workflow_gets_a_result_even_of_that(lab: Path, line: Request, message: str) -> None:
    done = run(lab, "--request", spec.dumps(line), "--run", "c7", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    result = result_in(lab)
    assert (result.status, result.request, result.run) == ("error", line, "c7")
    assert result.failure is not None
    assert result.failure.message == message


def test_a_request_runs_as_the_options_would(lab: Path) -> None:
    line = Request("bench", "week03", smoke=True, batch=8, repeat=2)
    assert run(lab, "--request", spec.dumps(line)).returncode == 0
    assert result_in(lab).request == line


def test_a_broken_week_reaches_the_commenter(tmp_path: Path) -> None:
    lay_out(tmp_path, "week05_*")
    done = run(tmp_path, "--request", spec.dumps(Request("bench", "week05", smoke=True)))
    assert done.returncode == 1
    failure = result_in(tmp_path).failure
    assert failure is not None
    assert failure.message == "the runner failed: ImportError: no module named scenes"
    assert "Traceback" in done.stderr


def test_a_gpu_run_is_watched(lab: Path) -> None:
    done = run(lab, "week03", **GPU)
    assert done.returncode == 0, done.stderr
    result = result_in(lab)
    assert result.observed[0].notes[0] == "device cuda, smoke False, batch None, gpus 1, profile False"
    assert (result.machine.gpu, result.machine.gpus, result.machine.gpu_memory_mib) == ("NVIDIA H100 80GB HBM3 0", 1, 81559)
    assert result.telemetry is not None
    assert result.telemetry.sm_clock_limit == 1980
    assert result.telemetry.throttled == (("software power cap", 1.0),)


def test_a_smoke_run_sees_no_gpu_even_where_there_is_one(lab: Path) -> None:
    assert run(lab, "week03", "--smoke", **GPU).returncode == 0
    result = result_in(lab)
    assert result.observed[0].notes[2] == "sees GPUs ()"
    assert (result.machine.gpus, result.telemetry) == (1, None)


def test_a_gpu_that_cannot_be_watched_leaves_validity_open(lab: Path) -> None:
    done = run(lab, "week03", **GPU, STAND_IN_GPU="no utilisation")
    assert done.returncode == 0, done.stderr
    assert result_in(lab).telemetry is None
    assert "the GPU could not be watched, so the run's validity is unchecked: Not Supported" in done.stderr


# ---------------------------------------------------------------------------------------------------- a second try


@pytest.mark.parametrize(("trouble", "first"), [("hot", "GPU at 91 C"), ("shared", "1 other process on the GPU")])
def test_a_spoilt_run_is_run_once_more(lab: Path, trouble: str, first: str) -> None:
    done = run(lab, "week03", "--repeat", "2", **GPU, STAND_IN_GPU=f"{trouble} once")
    assert done.returncode == 0, done.stderr
    result = result_in(lab)
    assert result.retry is not None
    assert (result.retry.first, result.retry.then) == ((first,), "ran again")
    assert result.telemetry is not None
    assert spec.faults(result.telemetry) == ()
    assert len(result.observed) == 2
    assert names_in(lab) == ["notes.txt", "result.json"]
    told = [line.split(" s  ")[1] for line in done.stderr.splitlines() if re.match(r" +\d+\.\d s  ", line)]
    assert [line for line in told if line.startswith(("process", "this run", "the GPU"))] == [
        "process 1 of 2", "process 2 of 2", f"this run is invalid ({first}); the GPU has 5 minutes to get cool and alone",
        "the GPU is cool and alone: a second try", "process 1 of 2", "process 2 of 2"]
    assert f"process {os.getpid()}" not in done.stderr
    assert 2.0 <= result.retry.waited_s < result.duration_s


def test_a_gpu_that_stays_hot_leaves_the_first_try(lab: Path) -> None:
    done = run(lab, "week03", "--rest-min", "0.02", **GPU, STAND_IN_GPU="hot")
    assert done.returncode == 0, done.stderr
    result = result_in(lab)
    assert result.retry is not None
    assert (result.retry.first, result.retry.then, len(result.observed)) == (("GPU at 91 C",), "not quiet", 1)
    assert names_in(lab) == ["notes.txt", "result.json"]
    assert "the GPU is still hot, shared or slowed down: the first try stands" in done.stderr
    assert done.stderr.count("process 1 of 1") == 1


def test_a_cancel_during_the_rest_leaves_the_first_try(lab: Path) -> None:
    with start(lab, "week03", **GPU, STAND_IN_GPU="hot") as runner:
        line_with(runner.stderr, "this run is invalid (GPU at 91 C)")
        runner.send_signal(signal.SIGTERM)
        assert runner.wait(20) == 0
    result = result_in(lab)
    assert result.retry is not None
    assert (result.status, result.retry.then, len(result.observed)) == ("ok", "cancelled", 1)
    assert names_in(lab) == ["notes.txt", "result.json"]


def test_a_second_try_that_fails_is_the_result(lab: Path) -> None:
    done = run(lab, "week04", **GPU, STAND_IN_GPU="hot once", BEHAVIOUR="fails_on_the_second_try", MARK=str(lab / "mark"))
    assert done.returncode == 1, done.stderr
    result = result_in(lab)
    assert result.retry is not None
    assert (result.status, result.retry.then, result.observed, result.files) == ("error", "ran again", (), ())
    assert names_in(lab) == ["result.json"]


@pytest.mark.parametrize(("trouble", "fault"), [
    ("bad memory", r"\d uncorrected ECC errors?"), ("slow", "SM clock at 900 of 1980 MHz")])
def test_what_no_rest_cures_is_not_run_again(lab: Path, trouble: str, fault: str) -> None:
    """The slow one is at its power cap all the time: what the run draws, it draws again."""
    assert run(lab, "week03", **GPU, STAND_IN_GPU=trouble).returncode == 0
    result = result_in(lab)
    assert result.telemetry is not None
    assert re.fullmatch(fault, "; ".join(spec.faults(result.telemetry)))
    assert result.retry is None


def test_a_second_run_waits_for_a_rested_gpu_first(lab: Path) -> None:
    done = run(lab, "week03", "--rest-first", "--rest-min", "0.001", **GPU)
    assert done.returncode == 0, done.stderr
    assert "the GPU is not quiet" in done.stderr


def test_no_second_try_where_none_is_wanted(lab: Path) -> None:
    assert run(lab, "week03", "--rest-min", "0", **GPU, STAND_IN_GPU="hot once").returncode == 0
    assert result_in(lab).retry is None


def test_no_second_try_where_the_job_would_end_first(lab: Path) -> None:
    done = run(lab, "week03", "--timeout-min", "316", **GPU, STAND_IN_GPU="hot once")
    assert done.returncode == 0, done.stderr
    retry = result_in(lab).retry
    assert retry is not None
    assert (retry.then, retry.waited_s) == ("no time", 0.0)
    assert "a second try might not end before the job must" in done.stderr


def test_the_runner_knows_when_its_job_ends() -> None:
    from runner.__main__ import JOB_S

    job = yaml.safe_load((REPO / ".github/workflows/bench.yml").read_text())["jobs"]["bench"]
    assert 60 * (job["timeout-minutes"] - 5) >= JOB_S


# ---------------------------------------------------------------------------------------------------- what it cost


@pytest.mark.slow
def test_gpu_time_and_its_price_are_in_the_result(tmp_path: Path) -> None:
    lay_out(tmp_path, "week06_*")
    two = GPU | {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert run(tmp_path, "week06", "--gpus", "2", **two, SPRINTBENCH_GPU_HOUR_PRICE="2.49 USD").returncode == 0
    result = result_in(tmp_path)
    assert result.gpu_seconds == round(2 * result.duration_s, 2) > 0
    assert result.price == spec.Price(2.49, "USD")


def test_a_smoke_run_holds_no_gpu(lab: Path) -> None:
    assert run(lab, "week03", "--smoke", **GPU, SPRINTBENCH_GPU_HOUR_PRICE="2.49 USD").returncode == 0
    assert (result_in(lab).gpu_seconds, result_in(lab).price) == (0.0, None)


def test_a_bad_price_is_refused_at_a_terminal(lab: Path) -> None:
    done = run(lab, "week03", "--smoke", SPRINTBENCH_GPU_HOUR_PRICE="cheap")
    why = "a price for one GPU-hour is a number and a currency, as in 2.49 USD"
    assert (done.returncode, done.stderr) == (2, f"Error: SPRINTBENCH_GPU_HOUR_PRICE: {why}\n")
    assert not (lab / "out").exists()


def test_a_bad_price_loses_no_job(lab: Path) -> None:
    done = run(lab, "--request", spec.dumps(Request("bench", "week03")), **GPU, SPRINTBENCH_GPU_HOUR_PRICE="0 USD")
    assert done.returncode == 0, done.stderr
    result = result_in(lab)
    assert (result.price, result.gpu_seconds) == (None, result.duration_s)
    assert "SPRINTBENCH_GPU_HOUR_PRICE is left out: price: above 0 for a GPU-hour" in done.stderr


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    lay_out(tmp_path, "week06_*")
    done = run(tmp_path, "week06", "--gpus", "2", **GPU)
    assert (done.returncode, done.stderr) == (2, "Error: 2 GPUs asked for, and this machine has 1\n")


# ---------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(("error", "status"), [
    (RuntimeError("CUDA error: out of memory"), "out of memory"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
    (RuntimeError("PytorchStreamWriter failed: No space left on device"), "disk full"),
    (FileNotFoundError(2, "No such file or directory"), "error"),
    (ValueError("x"), "error"),
])
def test_a_raise_is_classified(error: Exception, status: str) -> None:
    assert child.failed(error).status == status


def test_a_message_is_plain_text() -> None:
    hostile = ValueError("@everyone [x](https://evil.example) `y` #12")
    assert child.failed(hostile).message == "ValueError: everyone x (https:/evil.example) y 12"


def test_the_end_of_the_lifeline_is_noticed() -> None:
    receive, send = os.pipe()
    os.write(send, b"still there")
    os.close(send)
    ended: list[str] = []
    child.follow(receive, lambda: ended.append("ended"))
    os.close(receive)
    assert ended == ["ended"]


def test_a_report_survives_json() -> None:
    report = child.Report(Observed((), notes=("a note",)))
    assert spec.loads(child.Report, spec.dumps(report)) == report


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # no file of this process may grow above 4 KiB
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.write_whole(path, bytes(65536))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("result.json", "old")]


# ---------------------------------------------------------------------------------------------------- another commit, several GPUs


VS = '{"command":"bench","week":"week03","smoke":true,"batch":%s,"gpus":1,"repeat":1,"profile":false,"vs":7,"dry_run":false,"runs":[]}'


@pytest.fixture
def older(lab: Path) -> Path:
    """A checkout of another commit, beside the one that runs."""
    folder_ = lab / "baseline"
    folder_.mkdir()
    lay_out(folder_, "week03_*")
    (folder_ / "runner").symlink_to(REPO / "runner")
    week = folder_ / "workloads" / "week03_honest"
    week.unlink()
    shutil.copytree(CASES / "weeks" / "week03_honest", week)
    (week / "run.py").write_text((week / "run.py").read_text().replace('notes=(given,', 'notes=("the other commit",'))
    git = ["git", "-C", str(folder_), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Other"]):
        subprocess.run([*git, *arguments], check=True)
    return folder_


@pytest.mark.slow
def test_two_commits_take_turns(lab: Path, older: Path) -> None:
    done = run(lab, "--request", VS % "null", "--run", "c9", "--baseline", "baseline")
    assert done.returncode == 0, done.stderr
    result = result_in(lab)
    assert (len(result.observed), len(result.baseline)) == (6, 6)
    assert {observed.notes[0] for observed in result.baseline} == {"the other commit"}
    assert all(observed.notes[0].startswith("device cpu") for observed in result.observed)
    assert len({observed.notes[1] for observed in (*result.observed, *result.baseline)}) == 12, "each is a process of its own"
    head = subprocess.run(["git", "-C", str(older), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert result.baseline_commit == head != result.commit
    said = re.findall(r"process \d+ of 12(, of the other commit)?", done.stderr)
    assert [bool(other) for other in said] == [True, False, False, True] * 3
    assert names_in(lab) == ["notes.txt", "result.json"]


def test_the_other_commit_may_fail(lab: Path, older: Path) -> None:
    (older / "workloads" / "week03_honest" / "run.py").write_text("def run(ctx):\n    raise RuntimeError('old and broken')\n")
    assert run(lab, "--request", VS % "null", "--run", "c9", "--baseline", "baseline").returncode == 1
    result = result_in(lab)
    assert result.failure is not None
    assert (result.status, result.failure.message) == ("error", "the other commit: RuntimeError: old and broken")
    assert (result.observed, result.baseline) == ((), ())


def test_another_commit_that_is_not_there(lab: Path) -> None:
    assert run(lab, "--request", VS % "null", "--run", "c9", "--baseline", "baseline").returncode == 1
    result = result_in(lab)
    assert result.failure is not None
    assert result.failure.message == "--baseline holds no checkout of the commit that --vs names"


@pytest.mark.slow
def test_several_gpus_are_ranks_of_torchrun(tmp_path: Path) -> None:
    lay_out(tmp_path, "week06_*")
    done = run(tmp_path, "week06", "--smoke", "--gpus", "2")
    assert done.returncode == 0, done.stderr
    assert result_in(tmp_path).observed[0].metrics[0].estimate.value == 3.0


@pytest.mark.slow
def test_a_rank_that_fails_fails_the_run(tmp_path: Path) -> None:
    lay_out(tmp_path, "week06_*")
    done = run(tmp_path, "week06", "--smoke", "--gpus", "2", "--batch", "13")
    assert done.returncode == 1
    failure = result_in(tmp_path).failure
    assert failure is not None
    assert "the second rank has no luck" in done.stderr
    assert failure.message.startswith(("RuntimeError: the second rank has no luck", "the process failed"))


def test_more_gpus_than_a_week_can_use(lab: Path) -> None:
    done = run(lab, "week03", "--smoke", "--gpus", "2")
    assert (done.returncode, done.stderr) == (2, "Error: week03 can use 1 GPU and no more\n")
