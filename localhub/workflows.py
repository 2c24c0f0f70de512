"""Runs a local hub's own workflow files, by `act`, on this machine: several at once, as far as their concurrency groups let them.

act runs a workflow as if it were alone. What GitHub does around it is done here: a step that localhub.for_act puts at the front of
every job waits until the job's `concurrency` group is free, and for a self-hosted job the one machine (localhub.jobs.Turns, over all
runs). So of all runs together one gate decides, one job measures and one job writes the scoreboard, leg by leg in a matrix, and
everything else goes on beside it. A run that is cancelled is stopped step by step, as GitHub's runner does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from localhub.for_act import for_act
from localhub.jobs import Jobs, Turns
from localhub.processes import end_trees
from localhub.replies import JSON, Replies
from localhub.repository import GitError, Repository
from localhub.state import Hub, Run, User, Workflow, now

STAND_INS = Path(__file__).with_name("actions")
RUNNERS = ("ubuntu-latest", "self-hosted")
# A run that waits for a group holds a place and an act that sleeps. So there are more places than runs that the bot lets wait, and
# the command that cancels one of them finds one too; and each act may start all jobs of a run at once, whatever the CPUs.
AT_ONCE = 16
USES = re.compile(r"^\s*-?\s*uses:\s*([\w.-]+/[\w.-]+)@([\w.-]+)", re.MULTILINE)
# What a GPU machine may need that is not in PATH; nothing else of this process's environment reaches a step.
PASSED_ON = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")


class CannotRun(Exception):
    """The machine lacks what runs workflows; the text says what to install."""


@dataclass(slots=True)
class Workflows:
    """Listens to a hub, and runs what its events start. `url` is the hub's address, `token` the workflows' own.

    `fast` leaves out the pauses that the bot makes between writes for GitHub's sake. `variables` and `secrets` are those of the
    repository's settings, `machine` is what the file .env of a runner's folder sets for its jobs.
    """

    hub: Hub
    url: str
    token: str
    fast: bool = True
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    waiting: queue.Queue[Run | None] = field(default_factory=queue.Queue)
    turns: Turns = field(default_factory=Turns)
    stopped: bool = False
    acts: dict[int, subprocess.Popen[str]] = field(default_factory=dict)

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
        """Listens and works until the block ends; then ends what still runs, to the last process."""
        act()
        self.hub.listeners.append(self)
        workers = [threading.Thread(target=self._work, name=f"workflows-{place}", daemon=True) for place in range(AT_ONCE)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            self.hub.listeners.remove(self)
            self.stopped = True
            for _ in workers:
                self.waiting.put(None)
            end_trees(tuple(self.acts.values()))
            for worker in workers:
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
        jobs = Jobs(run, for_act(text), self.turns)
        file = room / "workflows" / run.workflow.file
        file.parent.mkdir()
        file.write_text(jobs.file.text, encoding="utf-8")
        (room / "event.json").write_text(json.dumps(run.payload), encoding="utf-8")
        # act reads the run's commit from the folder that it starts in.
        clone = room / "clone"
        self.hub.git.git("clone", "--quiet", "--shared", "--no-checkout", ".", str(clone))
        Repository(clone).git("update-ref", "HEAD", run.sha)
        (room / "home").mkdir()
        (room / "tickets").mkdir()
        secrets = room / "secrets"
        secrets.touch(mode=0o600)
        held = {"GITHUB_TOKEN": self.token} | self.secrets
        secrets.write_text("".join(f"{name}={value}\n" for name, value in held.items()), encoding="utf-8")
        command = [act(), run.event, "--json", "--eventpath", str(room / "event.json"), "--workflows", str(file),
                   *(part for label in RUNNERS for part in ("--platform", f"{label}=-self-hosted")), "--concurrent-jobs", str(AT_ONCE),
                   "--action-offline-mode", "--no-cache-server", "--container-daemon-socket", "-", "--actor", run.actor.login,
                   "--secret-file", str(secrets), *stand_ins(text), *self._settings(run, room)]
        with (room / "errors").open("w+", encoding="utf-8") as errors:
            with subprocess.Popen(command, cwd=clone, env=environment(room), text=True, stdout=subprocess.PIPE, stderr=errors,
                                  stdin=subprocess.DEVNULL, start_new_session=True, errors="replace") as process:
                self.acts[run.id] = process
                if self.stopped:
                    end_trees((process,))
                watch = threading.Thread(target=jobs.stop_when_cancelled, args=(process,), name=f"run-{run.id}", daemon=True)
                watch.start()
                assert process.stdout is not None, "a pipe was asked for"
                jobs.follow(process.stdout)
            del self.acts[run.id]
            watch.join()
            run.artifacts = {path.stem: path.read_bytes() for path in sorted((room / "artifacts").glob("*.zip"))}
            errors.seek(0)
            said = errors.read().strip()
        with self.hub.lock:
            if self.stopped:
                run.conclusion = "cancelled"
            jobs.conclude(process.returncode, said)

    def _settings(self, run: Run, room: Path) -> Sequence[str]:
        pairs = {
            "GITHUB_API_URL": self.url, "GITHUB_SERVER_URL": self.url, "GITHUB_GRAPHQL_URL": f"{self.url}/graphql",
            "GITHUB_REPOSITORY": self.hub.name, "GITHUB_REPOSITORY_OWNER": self.hub.name.split("/")[0], "GITHUB_RUN_ID": str(run.id),
            "GITHUB_RUN_NUMBER": str(run.number), "SPRINTBENCH_PYTHON": sys.executable, "LOCALHUB_GIT": str(self.hub.git.path.resolve()),
            "LOCALHUB_ARTIFACTS": str(room / "artifacts"), "LOCALHUB_TICKETS": str(room / "tickets"), "PAGER": "cat", "GIT_PAGER": "cat",
        } | ({"SPRINTBENCH_FAST": "1"} if self.fast else {}) | self.machine
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
