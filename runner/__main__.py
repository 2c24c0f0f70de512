"""`python -m runner week01 --out DIR`: one week on this machine, whatever becomes of it, in one DIR/result.json."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from runner import folder, process, spool
from runner.child import failed, say
from runner.telemetry import NvmlGpu, Sampler, rest
from workloads import machine, spec
from workloads.spec import Failure, Machine, Observed, Price, Request, Result, Retry, SpecError, Status, Telemetry, Workload

# bench.yml ends the job after 330 minutes, and the checkout and the upload need some of them: what cannot be done before this
# is not begun.
JOB_S = 320 * 60.0

ROOT = Path(__file__).resolve().parent.parent

EPILOG = """\b
Examples:
  python -m runner week01 --out out --smoke          the same code, tiny, on the CPU: under half a minute
  python -m runner week01 --out out                  in full, on one GPU
  python -m runner week01 --out out --repeat 5       five fresh processes: how much a number moves between runs

Exit code: 0 where result.json says ok, 1 where it says otherwise, 2 where nothing was run or written."""


class CannotRun(click.ClickException):
    """What was asked cannot be run here; one line, and nothing is written."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Job:
    """A request with all that is known before it runs; `other` is a checkout of the commit that --vs names; `began` is monotonic,
    `started` the same moment for people."""

    request: Request
    out: Path
    run: str
    timeout_min: float | None
    commit: str
    visible: str | None
    price: Price | None
    rest_s: float
    rest_first: bool
    other: Path | None
    began: float
    started: str

    def past_s(self) -> float:
        return time.monotonic() - self.began

    def result(self, status: Status, here: Machine, *, message: str = "", log_tail: str = "", telemetry: Telemetry | None = None,
               observed: tuple[Observed, ...] = (), files: tuple[str, ...] = (), retry: Retry | None = None,
               baseline: tuple[Observed, ...] = ()) -> Result:
        duration_s = round(self.past_s(), 2)
        gpus = 0 if self.request.smoke else min(self.request.gpus, here.gpus)
        return Result(
            run=self.run, request=self.request, commit=self.commit, started=self.started,
            duration_s=duration_s, status=status, machine=here, telemetry=telemetry,
            failure=Failure(message, log_tail) if status != "ok" else None, observed=observed, files=files,
            baseline=baseline, baseline_commit=_commit_of(self.other) if self.other else "",
            gpu_seconds=round(duration_s * gpus, 2), price=self.price if gpus else None, retry=retry)


@dataclass(frozen=True, slots=True)
class Try:
    """A week run as often as asked: how its last process ended, what each observed, and what the GPU showed meanwhile."""

    ended: process.Ended
    seen: tuple[Observed, ...]
    telemetry: Telemetry | None
    baseline: tuple[Observed, ...]


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("week", required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Where result.json and the week's files go; new or empty.")
@click.option("--smoke", is_flag=True, help="The same code, tiny, on the CPU. Never judged.")
@click.option("--batch", type=click.IntRange(1, 9999), metavar="N", help="Batch size in place of the week's own.")
@click.option("--gpus", type=click.IntRange(1, 8), metavar="N", help="GPUs to use.  [default: 1]")
@click.option("--repeat", type=click.IntRange(1, 20), metavar="N", help="Fresh processes, one after another.  [default: 1]")
@click.option("--profile", is_flag=True, help="Let the week record more of where its time goes.")
@click.option("--timeout-min", type=click.FloatRange(0, 1440, min_open=True), metavar="N",
              help="Minutes after which a process is stopped.  [default: the week's own]")
@click.option("--rest-min", type=click.FloatRange(0, 60), default=5.0, show_default=True, metavar="N",
              help="Minutes for the GPU to get cool and alone after a run that it made invalid; then comes the one second try. 0: none.")
@click.option("--rest-first", is_flag=True, help="Wait before the run, too, until the GPU is cool and alone, at most --rest-min.")
@click.option("--run", metavar="ID", help="The result's name: c<comment id>, or r<time>.  [default: r and the time in UTC]")
@click.option("--spool", "kept", type=click.Path(path_type=Path), envvar="SPRINTBENCH_SPOOL", metavar="DIR",
              help="Keep a copy here too, which outlives this job.  [default: $SPRINTBENCH_SPOOL; none where that is unset]")
@click.option("--baseline", type=click.Path(path_type=Path), metavar="DIR",
              help="With a --request that has --vs: a checkout of the other run's commit, whose processes take turns with this one's.")
@click.option("--request", "line", metavar="JSON",
              help="WEEK and its options as the one line that `bench gate` writes. What only this machine sees then ends in a result, too.")
def main(week: str | None, out: Path, smoke: bool, batch: int | None, gpus: int | None, repeat: int | None, profile: bool,
         baseline: Path | None, rest_first: bool,
         timeout_min: float | None, rest_min: float, run: str | None, kept: Path | None, line: str | None) -> None:
    """Run WEEK (week01 to week16) in a child process and write DIR/result.json: numbers, or why there are none.

    A raise, a crash, a hang, a lack of memory or disk, and a cancelled job all end in a valid result. Progress goes to stderr.
    SPRINTBENCH_GPU_HOUR_PRICE, as in "2.49 USD", is what one GPU costs for an hour; the result then tells what it cost.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    if line is not None:
        if week or smoke or batch or gpus or repeat or profile:
            raise CannotRun("--request takes the place of WEEK and of its options: give one or the other")
        request = _read(line)
    elif week is None:
        raise CannotRun(f"which week? Weeks that run: {_weeks_that_run()}")
    else:
        request = _ask(week, smoke=smoke, batch=batch, gpus=gpus or 1, repeat=repeat or 1, profile=profile)
    if timeout_min is not None and math.isnan(timeout_min):
        raise CannotRun("--timeout-min: a number of minutes above 0")
    if math.isnan(rest_min):
        raise CannotRun("--rest-min: a number of minutes, or 0")
    run = run or f"r{started:%Y%m%d%H%M%S}"
    if not spec.RUN.fullmatch(run):
        raise CannotRun("--run: c<comment id>, or r<time> as in r20261123154922")
    job = Job(request, out, run, timeout_min, _commit(), os.environ.get("CUDA_VISIBLE_DEVICES"), _price(began, lenient=line is not None),
              60 * rest_min, rest_first, _checkout(baseline) if request.pairs else None, began, f"{started:%Y-%m-%dT%H:%M:%SZ}")
    if line is None and (hindrance := _hindrance(request, machine.describe(job.visible))):
        raise CannotRun(hindrance)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        folder.claim(out)
    except folder.Occupied as error:
        raise CannotRun(str(error)) from error
    try:
        result = _carry_out(job, lambda: bool(signals))
    except Exception as error:  # noqa: BLE001  # a defect of ours, or of a week's promise, must reach the commenter too
        traceback.print_exc()
        result = job.result("error", machine.describe(visible=""), message=f"the runner failed: {failed(error).message}")
    try:
        if result.status != "ok":
            folder.clear(out)
        path = folder.write_result(out, spec.dumps(result))
    except OSError as error:
        raise click.ClickException(f"the result could not be written to {out}: {error.strerror}") from error
    if kept:
        try:
            spool.keep(kept, out, result)
        except OSError as error:  # the job still has its result, and hands it over
            say(began, f"no copy in the spool {kept}: {error.strerror}")
    if result.failure:
        say(began, f"{result.status}: {result.failure.message}")
    say(began, f"{path} says {result.status}. Next: bench render {out}")
    sys.exit(0 if result.status == "ok" else 1)


def _read(line: str) -> Request:
    try:
        request = spec.loads(Request, line)
    except SpecError as error:
        raise CannotRun(f"--request: {error}") from error
    if request.command != "bench" or request.week in (None, "all") or request.dry_run or request.runs:
        raise CannotRun("--request: the runner runs one week, and nothing else")
    return request


def _ask(week: str, *, smoke: bool, batch: int | None, gpus: int, repeat: int, profile: bool) -> Request:
    if not spec.WEEK.fullmatch(week):
        padded = re.sub(r"\d+", lambda digits: digits.group().zfill(2), week.lower())  # week1, Week 1
        near = difflib.get_close_matches(padded, [f"week{n:02d}" for n in range(1, 17)], 1)
        raise CannotRun(f"no such week. {f'Did you mean {near[0]}? ' if near else ''}Weeks that run: {_weeks_that_run()}")
    return Request("bench", week, smoke=smoke, batch=batch, gpus=gpus, repeat=repeat, profile=profile)


def _weeks_that_run() -> str:
    return ", ".join(spec.discover())


def _hindrance(request: Request, here: Machine) -> str | None:
    """Why this machine, at this commit, cannot do what is asked; None where it can."""
    if request.week not in spec.discover():
        return f"{request.week} has no workload yet. Weeks that run: {_weeks_that_run()}"
    if request.gpus > (most := spec.discover()[request.week].most_gpus):
        return f"{request.week} can use {most} GPU{'s' if most > 1 else ''} and no more"
    if request.smoke:
        return None
    if not here.gpus:
        return "no CUDA GPU here: add --smoke for the tiny CPU version, or run this on a GPU machine"
    if request.gpus > here.gpus:
        return f"{request.gpus} GPUs asked for, and this machine has {here.gpus}"
    return None


def _commit() -> str:
    """The commit that runs: what the workflow says it checked out, else what git says; "" outside a checkout."""
    said = os.environ.get("GITHUB_SHA", "")
    return said if said and spec.COMMIT.fullmatch(said) else _commit_of(ROOT)


def _commit_of(root: Path) -> str:
    said = ""
    with contextlib.suppress(OSError):  # no git here
        said = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return said if spec.COMMIT.fullmatch(said) else ""


def _checkout(folder_: Path | None) -> Path | None:
    return folder_.absolute() if folder_ and (folder_ / "runner" / "child.py").is_file() else None


def _price(began: float, *, lenient: bool) -> Price | None:
    """What a GPU-hour costs here. What cannot be read as a price is refused, or, where `lenient`, only said: no run is lost for it."""
    said = os.environ.get("SPRINTBENCH_GPU_HOUR_PRICE", "").strip()
    try:
        return spec.price(said) if said else None
    except SpecError as error:
        if not lenient:
            raise CannotRun(f"SPRINTBENCH_GPU_HOUR_PRICE: {error}") from error
        say(began, f"SPRINTBENCH_GPU_HOUR_PRICE is left out: {error}")
        return None


def _carry_out(job: Job, cancelled: process.Cancelled) -> Result:
    """Run the week, a second time where the GPU spoilt the first and a rest may help, and make the result of what came back."""
    here = machine.describe(job.visible)
    hindrance = _hindrance(job.request, here)
    if job.request.pairs and not job.other:
        hindrance = hindrance or "--baseline holds no checkout of the commit that --vs names"
    if hindrance:
        return job.result("error", here, message=hindrance)
    assert job.request.week is not None, "a result is of one week"
    workload = spec.discover()[job.request.week]
    say(job.began, f"{workload.key} {workload.plan.title}: {'smoke run on the CPU' if job.request.smoke else here.gpu}, run {job.run}")
    with machine.open_nvml(job.visible) as nvml:
        gpu = NvmlGpu(nvml.binding, nvml.gpus[0]) if nvml and nvml.gpus and not job.request.smoke else None
        if gpu and job.rest_first:
            say(job.began, f"the GPU is {rest(gpu, job.rest_s, cancelled)}")
        one, retry = _try(job, workload, gpu, cancelled), None
        if gpu and one.ended.status == "ok" and one.telemetry and spec.passing(one.telemetry) and job.rest_s:
            retry = _rest(job, workload, gpu, one.telemetry, cancelled)
            if retry.then == "ran again":
                folder.clear(job.out)
                one = _try(job, workload, gpu, cancelled)
    ended = one.ended
    return job.result(ended.status, here, message=ended.message, log_tail=ended.log_tail, observed=one.seen, telemetry=one.telemetry,
                      files=workload.files if ended.status == "ok" else (), retry=retry, baseline=one.baseline)


def _try(job: Job, workload: Workload, gpu: NvmlGpu | None, cancelled: process.Cancelled) -> Try:
    """The week as often as asked, each time in a fresh process, and the GPU watched meanwhile."""
    seen: dict[bool, list[Observed]] = {True: [], False: []}
    turns = _turns(job.request)
    with contextlib.ExitStack() as stack:
        sampler = stack.enter_context(Sampler(gpu)) if gpu else None
        for place, other in enumerate(turns, start=1):
            say(job.began, f"process {place} of {len(turns)}{', of the other commit' if other else ''}")
            ended = _run_once(job, workload, cancelled, other)
            if ended.observed is None:
                break
            seen[other].append(ended.observed)
    if sampler and sampler.unreadable:
        say(job.began, f"the GPU could not be watched, so the run's validity is unchecked: {sampler.unreadable}")
    pairs = min(len(seen[True]), len(seen[False])) if job.request.pairs else len(seen[False])
    return Try(ended, tuple(seen[False][:pairs]), sampler.telemetry() if sampler else None, tuple(seen[True][:pairs]))


def _turns(request: Request) -> list[bool]:
    """The processes in their order: False is of this commit, True of the other. Pairs change places (ABBA), so that what drifts
    steadily harms neither side."""
    if not request.pairs:
        return [False] * request.repeat
    return [other for pair in range(request.pairs) for other in ((True, False) if pair % 2 == 0 else (False, True))]


def _rest(job: Job, workload: Workload, gpu: NvmlGpu, spoilt: Telemetry, cancelled: process.Cancelled) -> Retry:
    """Let the GPU get cool and alone after a try that it spoilt. What is decided is said, and goes into the result."""
    first, until_here_s = spec.faults(spoilt), job.past_s()
    # A second try takes about as long as the first; the one process that may hang in it is stopped after its timeout.
    if 2 * until_here_s + job.rest_s + 60 * (job.timeout_min or workload.timeout_min) > JOB_S:
        say(job.began, f"this run is invalid ({'; '.join(first)}), and a second try might not end before the job must")
        return Retry(first, 0.0, "no time")
    say(job.began, f"this run is invalid ({'; '.join(first)}); the GPU has {job.rest_s / 60:g} minutes to get cool and alone")
    found = rest(gpu, job.rest_s, cancelled)
    say(job.began, {"quiet": "the GPU is cool and alone: a second try", "cancelled": "cancelled: the first try stands",
                    "not quiet": "the GPU is still hot, shared or slowed down: the first try stands"}[found])
    return Retry(first, round(job.past_s() - until_here_s, 1), "ran again" if found == "quiet" else found)


def _run_once(job: Job, workload: Workload, cancelled: process.Cancelled, other: bool) -> process.Ended:
    """One fresh process, held to the week's promise; `other`: of the commit that this one is compared with, whose promise may be
    another and whose files nobody keeps."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if job.request.smoke else {}  # on a GPU machine, too, a smoke run is of the CPU
    # Caches of its own: else what an earlier process compiled makes a first compile look quick.
    with tempfile.TemporaryDirectory(prefix="sprintbench-", ignore_cleanup_errors=True) as caches:
        out = Path(caches) / "out" if other else job.out
        out.mkdir(exist_ok=True)
        root = job.other if other and job.other else Path.cwd()
        ended = process.run_child(
            job.request, out, "cpu" if job.request.smoke else "cuda", root=root, began=job.began,
            timeout_s=60 * (job.timeout_min or workload.timeout_min), cancelled=cancelled,
            environment={**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "PYTHONUNBUFFERED": "1",
                         "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor", "TRITON_CACHE_DIR": f"{caches}/triton", **hidden})
    if other:
        return ended if ended.observed else replace(ended, message=f"the other commit: {ended.message}"[:400])
    if ended.observed is None:
        return ended
    try:
        spec.check_kept(workload, ended.observed)
        folder.left(job.out, workload)
    except SpecError as error:
        return process.Ended("error", spec.plain_text(str(error)), ended.log_tail)
    return ended


if __name__ == "__main__":
    main()
