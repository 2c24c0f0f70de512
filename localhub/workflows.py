"""Runs a local hub's own workflow files, by `act`, on this machine: one after another, as one GPU machine would."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import yaml

from localhub.replies import JSON, Replies
from localhub.repository import GitError, Repository
from localhub.state import Hub, Job, Run, User, Workflow, now

STAND_INS = Path(__file__).with_name("actions")
RUNNERS = ("ubuntu-latest", "self-hosted")
# Keys of workflow files that are newer than act 0.2.89, which refuses the whole file for them. They say how runs queue up and what
# they cache; here runs never overlap and nothing is cached, so the lines are left blank.
UNKNOWN_TO_ACT = re.compile(r"^(?:cache-mode:.*|[ ]+queue: max)$", re.MULTILINE)
USES = re.compile(r"^\s*-?\s*uses:\s*([\w.-]+/[\w.-]+)@([\w.-]+)", re.MULTILINE)
COLORS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x07|\r")
# What a GPU machine may need that is not in PATH; nothing else of this process's environment reaches a step.
PASSED_ON = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")


class CannotRun(Exception):
    """The machine lacks what runs workflows; the text says what to install."""


@dataclass(slots=True)
class JobLog:
    """What one job has printed so far."""

    name: str
    started: float
    ended: float
    lines: list[str] = field(default_factory=list)
    result: str | None = None


@dataclass(slots=True)
class Workflows:
    """Listens to a hub, and runs what its events start. `url` is the hub's address, `token` the workflows' own.

    `fast` leaves out the pauses that the bot makes between writes for GitHub's sake. `variables` and `secrets` are those of the
    repository's settings.
    """

    hub: Hub
    url: str
    token: str
    fast: bool = True
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    waiting: queue.Queue[Run | None] = field(default_factory=queue.Queue)
    stopped: bool = False
    process: subprocess.Popen[str] | None = None

    def __call__(self, event: str, facts: dict[str, Any], sender: User) -> None:
        """The hub's listener: queues a run of every workflow that the event starts."""
        if event == "rerun":
            self.waiting.put(facts["run"])
            return
        replies = Replies(self.hub, self.url)
        if event == "workflow_dispatch":
            started, payload = [facts["workflow"]], replies.dispatch_event(facts["workflow"], facts["inputs"], sender)
            title = facts["workflow"].name
        else:
            started = [workflow for workflow in self.hub.workflows() if event in workflow.triggers]
            payload, title = replies.issue_event(facts["action"], sender, facts["issue"], facts["comment"]), facts["issue"].title
        for workflow in started:
            self._queue(workflow, event, payload, sender, title)

    def schedule(self, file: str) -> Run:
        """What the clock does on GitHub: a run of `file` by its first cron line."""
        with self.hub.lock:
            workflow = self.hub.workflow(file)
            parsed = yaml.safe_load(self.hub.git.read(self.hub.git.head(), workflow.path) or b"")
            cron = parsed.get("on", parsed.get(True))["schedule"][0]["cron"]
            owner = self.hub.users[self.hub.name.split("/")[0]]
            return self._queue(workflow, "schedule", Replies(self.hub, self.url).schedule_event(cron), owner, workflow.name)

    def _queue(self, workflow: Workflow, event: str, payload: JSON, sender: User, title: str) -> Run:
        run = self.hub.add_run(workflow, event, payload, sender, title)
        self.waiting.put(run)
        return run

    def wait(self, timeout_s: float = 600) -> None:
        """Until nothing is queued or running. Raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while any(run.status != "completed" for run in self.hub.runs):
            if time.monotonic() > end:
                raise TimeoutError(f"a workflow has not ended within {timeout_s:.0f} s")
            time.sleep(0.05)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Listens and works in a thread until the block ends; then ends what still runs, to the last process."""
        act()
        self.hub.listeners.append(self)
        worker = threading.Thread(target=self._work, name="workflows", daemon=True)
        worker.start()
        try:
            yield
        finally:
            self.hub.listeners.remove(self)
            self.stopped = True
            self.waiting.put(None)
            if self.process is not None:
                end_tree(self.process)
            worker.join(timeout=20)

    def _work(self) -> None:
        while (run := self.waiting.get()) is not None and not self.stopped:
            with self.hub.lock:
                if run.status == "completed":  # cancelled while it waited
                    continue
                run.status = "in_progress"
            with tempfile.TemporaryDirectory(prefix="localhub-", ignore_cleanup_errors=True) as folder:
                try:
                    self._run(run, Path(folder))
                except (CannotRun, GitError, OSError) as error:
                    run.note, run.conclusion = str(error), "failure"
            with self.hub.lock:
                run.finished = now()
                run.status = "completed"

    def _run(self, run: Run, room: Path) -> None:
        """One run of one workflow in `room`, by act; leaves jobs, logs and the conclusion in `run`."""
        text = (self.hub.git.read(run.sha, run.workflow.path) or b"").decode()
        file = room / "workflows" / run.workflow.file
        file.parent.mkdir()
        file.write_text(UNKNOWN_TO_ACT.sub("", text), encoding="utf-8")
        (room / "event.json").write_text(json.dumps(run.payload), encoding="utf-8")
        # act reads the run's commit from the folder that it starts in.
        clone = room / "clone"
        self.hub.git.git("clone", "--quiet", "--shared", "--no-checkout", ".", str(clone))
        Repository(clone).git("update-ref", "HEAD", run.sha)
        (room / "home").mkdir()
        secrets = room / "secrets"
        secrets.touch(mode=0o600)
        held = {"GITHUB_TOKEN": self.token} | self.secrets
        secrets.write_text("".join(f"{name}={value}\n" for name, value in held.items()), encoding="utf-8")
        command = [act(), run.event, "--json", "--eventpath", str(room / "event.json"), "--workflows", str(file),
                   *(part for label in RUNNERS for part in ("--platform", f"{label}=-self-hosted")),
                   "--action-offline-mode", "--no-cache-server", "--container-daemon-socket", "-", "--actor", run.actor.login,
                   "--secret-file", str(secrets), *stand_ins(text), *self._settings(run, room)]
        with (room / "errors").open("w+", encoding="utf-8") as errors:
            with subprocess.Popen(command, cwd=clone, env=environment(room), text=True, stdout=subprocess.PIPE, stderr=errors,
                                  stdin=subprocess.DEVNULL, start_new_session=True, errors="replace") as self.process:
                if self.stopped:
                    end_tree(self.process)
                assert self.process.stdout is not None, "a pipe was asked for"
                logs, skipped = read_log(self.process.stdout, run)
            run.artifacts = {path.stem: path.read_bytes() for path in sorted((room / "artifacts").glob("*.zip"))}
            code = self.process.returncode
            errors.seek(0)
            said = errors.read().strip()
        self.process = None
        conclude(run, logs, skipped, code, said)
        if self.stopped:
            run.conclusion = "cancelled"

    def _settings(self, run: Run, room: Path) -> Sequence[str]:
        pairs = {
            "GITHUB_API_URL": self.url, "GITHUB_SERVER_URL": self.url, "GITHUB_GRAPHQL_URL": f"{self.url}/graphql",
            "GITHUB_REPOSITORY": self.hub.name, "GITHUB_REPOSITORY_OWNER": self.hub.name.split("/")[0], "GITHUB_RUN_ID": str(run.id),
            "GITHUB_RUN_NUMBER": str(run.number), "SPRINTBENCH_PYTHON": sys.executable, "LOCALHUB_GIT": str(self.hub.git.path.resolve()),
            "LOCALHUB_ARTIFACTS": str(room / "artifacts"), "PAGER": "cat", "GIT_PAGER": "cat",
        } | ({"SPRINTBENCH_FAST": "1"} if self.fast else {})
        return [part for option, held in (("--env", pairs), ("--var", self.variables))
                for name, value in held.items() for part in (option, f"{name}={value}")]


def act() -> str:
    """The act program of this Python's environment, or of PATH. Raises CannotRun."""
    beside = Path(sys.executable).with_name("act")
    found = str(beside) if beside.exists() else shutil.which("act")
    if found is None:
        raise CannotRun("act is missing: python -m pip install 'sprintbench[demo]'")
    return found


def environment(room: Path) -> dict[str, str]:
    """act hands its whole environment to every step, so it is given next to nothing."""
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(room / "home"), "LANG": "C.UTF-8",
            "XDG_CACHE_HOME": str(room / "cache"), **{name: os.environ[name] for name in PASSED_ON if name in os.environ}}


def stand_ins(text: str) -> Sequence[str]:
    """act's options that put a folder of localhub/actions in the place of each action that a workflow names. Raises CannotRun."""
    options = []
    for action, ref in sorted(set(USES.findall(text))):
        folder = STAND_INS / action.split("/")[1]
        if not folder.is_dir():
            raise CannotRun(f"{action} has no stand-in in localhub/actions, so this workflow does not run on a local hub")
        options += ["--local-repository", f"{action}@{ref}={folder}"]
    return options


def read_log(lines: IO[str], run: Run) -> tuple[dict[str, JobLog], dict[str, str]]:
    """act's JSON lines as a log for each job id; and the jobs that found no runner, with act's reason. Keeps `run.log` up to date."""
    logs: dict[str, JobLog] = {}
    skipped: dict[str, str] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        job, text = entry.get("jobID"), COLORS.sub("", entry.get("msg", ""))
        if job is None:
            continue
        if "Skipping unsupported platform" in text:
            skipped[job] = text.strip()
            continue
        name = str(entry.get("job", job)).rpartition("/")[2].strip()
        log = logs.setdefault(job, JobLog(name, time.monotonic(), time.monotonic()))
        log.ended, log.result = time.monotonic(), entry.get("jobResult", log.result)
        if entry.get("raw_output"):
            log.lines.append(text.rstrip("\n"))
        elif entry.get("level") == "error" or entry.get("stepResult", "success") != "success":
            log.lines.append(f"! {text.strip()}")
        elif text.startswith("⭐ Run Main") and len(entry.get("stepID", ())) == 1:
            log.lines.append(f"▸ {entry.get('step', '')}")
        else:
            continue
        run.log = "\n".join(f"{one.name}\n" + "\n".join(f"  {line}" for line in one.lines) for one in logs.values())
    return logs, skipped


def conclude(run: Run, logs: dict[str, JobLog], skipped: dict[str, str], code: int, said: str) -> None:
    """Every job's end. A job whose `if:` is false, or whose needs failed, is skipped; one that no runner takes is an error."""
    jobs = []
    for job, name in run.workflow.jobs:
        log = logs.get(job)
        if log is None:
            jobs.append(Job(name, "failure" if job in skipped else "skipped", skipped.get(job, "")))
        else:
            conclusion: Literal["success", "failure"] = "success" if log.result == "success" else "failure"
            jobs.append(Job(name, conclusion, "\n".join(log.lines), log.ended - log.started))
    run.jobs = tuple(jobs)
    well = code == 0 and all(job.conclusion != "failure" for job in jobs)
    run.conclusion = "success" if well else "failure"
    if skipped:
        run.note = f"No runner takes {', '.join(skipped)}: its labels are not mapped."
    elif not logs and code:
        run.note = said


def descendants(*roots: int) -> set[tuple[int, str]]:
    """Processes below any of `roots`, as (id, start time), from /proc; none on a system without it."""
    children: dict[int, list[tuple[int, str]]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything: what comes after the last bracket counts.
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append((int(stat.parent.name), fields[19]))
    found: set[tuple[int, str]] = set()
    waiting = list(roots)
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += [pid for pid, _ in below]
    return found


def alive(pid: int, started: str) -> bool:
    """Whether it is still that process, and not a later one with its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19] == started
    except OSError:
        return False


def end_tree(process: subprocess.Popen[str]) -> None:
    """Asks act to stop, which lets `if: always()` steps run; what is left after that, in any session, is killed."""
    tree = descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    for pid, started in tree | descendants(process.pid, *(pid for pid, _ in tree)):
        with contextlib.suppress(ProcessLookupError):
            if alive(pid, started):
                os.kill(pid, signal.SIGKILL)
    process.kill()
