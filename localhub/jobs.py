"""The jobs of one run while act works on it: each with its log, its state and its place in a concurrency group, as act's log tells."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal

from localhub.for_act import END, TURN, WorkflowFile
from localhub.processes import children, descendants, marked, send
from localhub.state import Job, Run, now

COLORS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x07|\r")
LOOK_S = 0.1
# How GitHub's runner ends a step, by its documentation ("Workflow cancellation reference"), in seconds after the cancel.
SIGNALS = ((0.0, signal.SIGINT), (7.5, signal.SIGTERM), (10.0, signal.SIGKILL))


@dataclass(slots=True)
class Turns:
    """Who works and who waits, over all runs: in each concurrency group one job works, and the one self-hosted machine takes one.

    First come, first served: that is GitHub's `queue: max` with `cancel-in-progress: false`. A job queues for its group first, and
    for the machine once it has that. `lines` are the jobs at each of them, the one at work first; `missing` is what a job waits for.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    lines: defaultdict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    missing: dict[Path, list[str]] = field(default_factory=dict)

    def join(self, ticket: Path, *, group: str, machine: bool) -> None:
        with self.lock:
            self.missing[ticket] = [f"group {group}"] * bool(group) + ["the machine"] * machine
            self._advance(ticket)

    def _advance(self, ticket: Path) -> None:
        while self.missing[ticket]:
            line = self.lines[self.missing[ticket][0]]
            if ticket not in line:
                line.append(ticket)
            if line[0] != ticket:
                return
            del self.missing[ticket][0]
        touch(ticket / "turn")

    def leave(self, ticket: Path) -> None:
        """Whether it worked or waited; the next may go on."""
        with self.lock:
            self.missing.pop(ticket, None)
            for line in tuple(self.lines.values()):
                if ticket in line:
                    line.remove(ticket)
                    if line and self.missing[line[0]]:
                        self._advance(line[0])


def touch(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # its run has ended meanwhile
        path.touch()


@dataclass(slots=True)
class JobLog:
    """One job, or one leg of a matrix: what it has printed so far, and how far it is. `step` is the id of the step at work."""

    id: str
    name: str
    leg: bool
    ticket: Path | None = None
    state: Literal["queued", "in_progress", "completed"] = "queued"
    started: datetime | None = None
    began: float = 0.0
    ended: float = 0.0
    step: str = ""
    excused: str = ""
    failed: bool = False
    cancelled: bool = False
    lines: list[str] = field(default_factory=list)

    def job(self) -> Job:
        if self.state != "completed":
            return Job(self.name, self.state, "\n".join(self.lines), started=self.started)
        conclusion: Literal["success", "failure", "cancelled"] = "cancelled" if self.cancelled else "failure" if self.failed else "success"
        return Job(self.name, conclusion, "\n".join(self.lines), self.ended - self.began, self.started)


@dataclass(slots=True)
class Jobs:
    """The jobs of `run`, which act works on by `file`. Keeps `run.jobs` and `run.log` up to date."""

    run: Run
    file: WorkflowFile
    turns: Turns
    logs: dict[tuple[str, str], JobLog] = field(default_factory=dict)
    unmapped: dict[str, str] = field(default_factory=dict)

    def follow(self, lines: IO[str]) -> None:
        """Reads act's JSON lines to their end."""
        for line in lines:
            with contextlib.suppress(ValueError):
                self._hear(json.loads(line))

    def _hear(self, entry: dict[str, Any]) -> None:
        job, text = entry.get("jobID"), COLORS.sub("", entry.get("msg", ""))
        if job is None:
            return
        if "Skipping unsupported platform" in text:
            self.unmapped[job] = text.strip()
            return
        matrix = entry.get("matrix") or {}
        name = str(entry.get("job", job)).rpartition("/")[2].strip()
        log = self.logs.setdefault((job, json.dumps(matrix, sort_keys=True)), JobLog(job, name, bool(matrix)))
        steps = entry.get("stepID", ())
        if steps and steps[0] in (TURN, END):
            self._hear_own(log, steps[0], entry, text, matrix)
        elif entry.get("raw_output"):
            log.lines.append(text.rstrip("\n"))
        elif "jobResult" in entry:
            self._end(log, entry["jobResult"])
        elif entry.get("level") == "error" or entry.get("stepResult", "success") != "success":
            log.lines.append(f"! {text.strip()}")
            if entry.get("stepResult") == "failure" and len(steps) <= 1 and steps != [log.excused]:
                log.failed = True
        elif text == "Failed but continue next step":
            log.excused = steps[0]
            return
        elif text.startswith("⭐ Run Main") and len(steps) == 1:
            log.step = steps[0]
            log.lines.append(f"▸ {entry.get('step', '')}")
        else:
            return
        self.show()

    def _hear_own(self, log: JobLog, step: str, entry: dict[str, Any], text: str, matrix: dict[str, Any]) -> None:
        """From the steps that localhub.for_act has put in."""
        if step == TURN and entry.get("raw_output") and log.ticket is None:
            ticket = Path(text.strip())
            log.name, group = ((ticket / name).read_text(encoding="utf-8").strip() for name in ("name", "group"))
            if matrix and "${{" not in self.file.jobs[log.id].name:  # then GitHub tells the legs apart by their values
                log.name = f"{log.name} ({', '.join(leaves(matrix))})"
            log.ticket = ticket
            self.turns.join(ticket, group=group, machine=self.file.jobs[log.id].self_hosted)
        elif step == TURN and entry.get("stepResult") == "success":
            log.state, log.started, log.began = "in_progress", now(), time.monotonic()
        elif step == END:
            log.step = END

    def _end(self, log: JobLog, result: str) -> None:
        """A job has ended. act has one result for a whole matrix, so a leg failed where one of its steps did."""
        log.ended, log.state, log.step = time.monotonic(), "completed", ""
        log.began, log.started = log.began or log.ended, log.started or now()
        log.failed = result != "success" and (log.failed or not log.leg)
        self._release(log)

    def _release(self, log: JobLog) -> None:
        """What a job has left running ends with it, as on GitHub; then the next of its group may go on."""
        if log.ticket is not None:
            send(signal.SIGKILL, marked(f"LOCALHUB_TICKET={log.ticket}"))
            self.turns.leave(log.ticket)

    def show(self) -> None:
        """Jobs that wait for others are not among them yet, as on GitHub."""
        logs = self._in_order()
        self.run.jobs = tuple(log.job() for log in logs if log.ticket is not None or log.state == "completed")
        self.run.log = "\n".join(f"{log.name}\n" + "\n".join(f"  {line}" for line in log.lines) for log in logs if log.lines)

    def _in_order(self) -> list[JobLog]:
        order = list(self.file.jobs)
        return sorted(self.logs.values(), key=lambda log: (order.index(log.id), log.name))

    # ------------------------------------------------------------------------------------------------ cancelling

    def stop_when_cancelled(self, act: subprocess.Popen[str]) -> None:
        """Watches until act ends; once the run is cancelled, stops its jobs as GitHub's runner does.

        act itself is not told, for it would kill the step at once and start no further job. So a job goes on whose `if:` holds after
        a cancel, and so do any other's steps whose `if:` does; the first process of the step at work gets SIGINT, then SIGTERM, then is
        killed with all below it. What act cannot: where that step ended well, act begins the next one, which is killed within two
        looks and not before it has begun; and act takes a stopped job for a failed one, so that `failure()` holds in the steps that
        follow and `cancelled()` does not.
        """
        at_work: dict[int, str] = {}
        seen: dict[tuple[int, str], str] = {}
        to_come: dict[tuple[int, str], list[tuple[float, signal.Signals]]] = {}
        while act.poll() is None:
            time.sleep(LOOK_S)
            if self.run.conclusion != "cancelled":
                continue
            begun = children(act.pid)
            for log in tuple(self.logs.values()):
                if log.state == "completed" or log.ticket is None or self.file.jobs[log.id].stays:
                    continue
                log.cancelled = True
                touch(log.ticket / "cancelled")
                if log.state == "queued":
                    self.turns.leave(log.ticket)
                    touch(log.ticket / "turn")
                    continue
                first = at_work.setdefault(id(log), log.step)
                if self.file.jobs[log.id].steps.get(log.step, False):
                    continue
                for process in begun & marked(f"LOCALHUB_TICKET={log.ticket}"):
                    # Only once it has been seen in the same step before: the log may be a moment behind.
                    if seen.get(process) == log.step:
                        stop(process, to_come.setdefault(process, signals(time.monotonic(), at_once=log.step != first)))
                    seen[process] = log.step

    # ------------------------------------------------------------------------------------------------ the end

    def conclude(self, code: int, said: str) -> None:
        """Every job's end. A job whose `if:` is false, or whose needs failed, is skipped; one that no runner takes is an error."""
        for log in self.logs.values():
            if log.state != "completed":  # act was ended, and the job with it
                log.cancelled, log.failed = self.run.conclusion == "cancelled", True
                self._end(log, "failure")
        self.show()
        jobs: list[Job] = []
        for job, facts in self.file.jobs.items():
            jobs += [log.job() for log in self._in_order() if log.id == job] or [
                Job(facts.name, "failure" if job in self.unmapped else "skipped", self.unmapped.get(job, ""))]
        self.run.jobs = tuple(jobs)
        well = code == 0 and all(job.conclusion != "failure" for job in jobs)
        self.run.conclusion = self.run.conclusion or ("success" if well else "failure")
        if self.unmapped:
            self.run.note = f"No runner takes {', '.join(self.unmapped)}: its labels are not mapped."
        elif not self.logs and code:
            self.run.note = said


def signals(since: float, *, at_once: bool) -> list[tuple[float, signal.Signals]]:
    """What a process gets and when; `at_once`: it should not have begun."""
    return [(since, signal.SIGKILL)] if at_once else [(since + after_s, number) for after_s, number in SIGNALS]


def stop(process: tuple[int, str], to_come: list[tuple[float, signal.Signals]]) -> None:
    while to_come and to_come[0][0] <= time.monotonic():
        _, number = to_come.pop(0)
        send(number, descendants(process[0]) | {process} if number == signal.SIGKILL else (process,))


def leaves(value: Any) -> Iterator[str]:
    """The plain values in a leg of a matrix, in order."""
    inner: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict | list):
        for one in inner:
            yield from leaves(one)
    else:
        yield str(value)
