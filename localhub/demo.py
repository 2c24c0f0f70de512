"""`bench demo`: the whole way from a comment to a posted result, on this machine, checked at its end."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx

from localhub.page import Pages, application
from localhub.repository import BRANCH, Person, Repository
from localhub.server import Service, served
from localhub.state import BOT, Hub, Issue, Run
from localhub.workflows import CannotRun, Workflows

ROOT = Path(__file__).resolve().parent.parent
NAME = "sprinter/sprint"
OWNER, OUTSIDER = ("sprinter", 1001), ("stranger", 1003)
WEEK = "week01"
COMMAND = f"/bench {WEEK} --smoke"
PNG = b"\x89PNG\r\n\x1a\n"
STEP = "▸ "  # how a job's log marks the beginning of a step
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


class Failed(Exception):
    """The demo did not show what it promises; the text says what is wrong."""


@dataclass(slots=True)
class Story:
    """Tells what happens, with the seconds since the start."""

    say: Callable[[str], None] = click.echo
    began: float = field(default_factory=time.monotonic)

    def tell(self, text: str) -> None:
        self.say(f"{time.monotonic() - self.began:6.1f} s  {text}")


@dataclass(frozen=True, slots=True)
class Local:
    """A hub that serves, with its workflows."""

    hub: Hub
    url: str
    service: Service
    workflows: Workflows


def snapshot(checkout: Path, bare: Path) -> Repository:
    """A new bare repository with one commit: the checkout as it lies there, less what git ignores.

    git reads the folder with an index of its own, so the checkout's index, objects and history stay as they are.
    """
    repository = Repository.create(bare)
    with tempfile.TemporaryDirectory() as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index"), "GIT_DIR": str(bare), "GIT_WORK_TREE": str(checkout)}
        repository.git("-C", str(checkout), "add", "--all", ".", env=env)
        tree = repository.text("write-tree", env=env)
    who = Person(OWNER[0], f"{OWNER[1]}+{OWNER[0]}@users.noreply.github.com")
    repository.set_ref(f"refs/heads/{BRANCH}", repository.write_commit(tree, (), "The checkout as it is", who))
    return repository


@contextlib.contextmanager
def local_hub(git: Repository, port: int = 0) -> Iterator[Local]:
    """A hub around `git` with an owner and an outsider, its pages and its workflows, until the block ends."""
    token = f"ghs_{secrets.token_hex(18)}"
    hub = Hub(NAME, git)
    hub.tokens[token] = BOT
    hub.add_user(*OWNER, role="admin")
    hub.add_user(*OUTSIDER)
    service = Service(hub, application(hub))
    with served(service, port) as url:
        workflows = Workflows(hub, url, token)
        with workflows.working():
            yield Local(hub, url, service, workflows)


def main(out: Path, serve: bool) -> None:
    """Plays the demo, checks it, and leaves in `out` what it posted. Exits with 1 and the reason where something is not as promised."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the blocks below end what they started
    story = Story()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="sprint-demo-") as folder:
            git = snapshot(ROOT, Path(folder) / "sprint.git")
            story.tell(f"put this checkout into a bare repository: {len(git.entries(git.head(), recursive=True))} files and folders")
            with local_hub(git) as local:
                story.tell(f"started a GitHub of its own on {local.url}/{NAME}")
                play(local, out, story)
                if serve:
                    click.echo(f"\nOpen {local.url}/{NAME}/issues/1 and type a command. Ctrl-C ends it.")
                    threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("\nEnded.")
        if not serve:
            sys.exit(130)
    except (Failed, CannotRun, TimeoutError) as error:
        click.echo(f"The demo failed: {error}", err=True)
        sys.exit(1)


def play(local: Local, out: Path, story: Story) -> None:
    """Kickoff, command, result. Raises Failed."""
    hub, owner = local.hub, local.hub.users[OWNER[0]]
    story.tell(f"dispatching Weekly kickoff for {WEEK}")
    with hub.lock:
        hub.dispatch(hub.workflow("kickoff.yml"), {"week": WEEK}, owner)
    finish(local, out, story)
    if len(hub.issues) != 1:
        raise Failed(f"Weekly kickoff left {len(hub.issues)} issues, not one")
    issue = hub.issues[0]
    story.tell(f'issue #{issue.number} is open: "{issue.title}", {(issue.body or "").count("- [ ]")} open checkboxes')
    story.tell(f"commenting as {owner.login}: {COMMAND}")
    before = git_head = hub.git.head()
    with hub.lock:
        comment = hub.add_comment(owner, issue.number, COMMAND)
    finish(local, out, story)
    commit = check(local, issue, f"c{comment.id}", before)
    assert git_head != commit, "a result is a commit of its own"
    written = write(local, out, issue, commit)
    story.tell(f"checked: one comment with a result; {commit[:7]} holds the result and SCOREBOARD.md; "
               f"{len(local.service.requests)} API requests, all as GitHub's OpenAPI description says")
    story.say(f"\nThe posted comment, the issue and the scoreboard are in {out}:")
    for path in written:
        story.say(f"  {path}")


def finish(local: Local, out: Path, story: Story) -> None:
    """Waits for the workflows, and tells how each job ended. Raises Failed, with the log in `out`, where one failed."""
    fresh = [run for run in local.hub.runs if run.status != "completed"]
    with telling_steps(fresh, story):
        local.workflows.wait()
    for run in fresh:
        for job in run.jobs:
            story.tell(f"  {run.workflow.name} / {job.name}: {job.conclusion}" + (f" ({job.duration_s:.1f} s)" if job.duration_s else ""))
        if run.conclusion != "success":
            raise Failed(f"the workflow {run.workflow.name} failed. {run.note or 'Its log is in ' + str(keep_log(run, out))}")


@contextlib.contextmanager
def telling_steps(runs: list[Run], story: Story) -> Iterator[None]:
    """Tells, until the block ends, each step that a run begins; actions that only prepare a job are left out."""
    done = threading.Event()

    def watch() -> None:
        told: set[tuple[int, str, str]] = set()
        while not done.wait(0.2):
            for run in runs:
                for job, line in ((each.name, line) for each in run.jobs for line in each.log.splitlines()):
                    step = (run.id, job, line)
                    if line.startswith(STEP) and "@" not in line and step not in told:
                        told.add(step)
                        story.tell(f"  {run.workflow.name} / {job}: {line.removeprefix(STEP)} ...")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def keep_log(run: Run, out: Path) -> Path:
    path = out / "workflow.log"
    path.write_text(run.log + "\n", encoding="utf-8")
    return path


def check(local: Local, issue: Issue, run: str, before: str) -> str:
    """The sha of the commit that holds the result of `run`, once everything that the demo promises is so. Raises Failed."""
    git = local.hub.git
    posted = [comment for comment in issue.comments if comment.user == BOT]
    if len(posted) != 1:
        raise Failed(f"the bot wrote {len(posted)} comments on the issue, not one")
    home = f"results/{WEEK}/{run}/"
    commits = {sha: {change.path for change in git.changes(git.commit(sha).parents[0], sha)} for sha in git.between(before, BRANCH)}
    with_result = [sha for sha, paths in commits.items() if f"{home}result.json" in paths]
    if len(with_result) != 1:
        raise Failed(f"{len(with_result)} commits hold {home}result.json, not one")
    commit = with_result[0]
    if "SCOREBOARD.md" not in commits[commit]:
        raise Failed(f"SCOREBOARD.md did not change in {commit[:7]}, the commit with the result")
    status = json.loads(git.read(commit, f"{home}result.json") or b"{}").get("status")
    if status != "ok":
        raise Failed(f"the run's status is {status}, not ok")
    images = IMAGE.findall(posted[0].body)
    if not images:
        raise Failed("the comment shows no plot")
    for address in images:
        reply = httpx.get(address, timeout=10)
        if reply.status_code != 200 or not reply.content.startswith(PNG):
            raise Failed(f"the comment's picture {address} does not resolve to a PNG")
    if local.service.violations:
        raise Failed("exchanges that GitHub's OpenAPI description does not allow:\n  " + "\n  ".join(local.service.violations))
    return commit


def write(local: Local, out: Path, issue: Issue, commit: str) -> list[Path]:
    """What was posted, as files; the issue also as one page that opens without the server."""
    git = local.hub.git
    posted = next(comment for comment in issue.comments if comment.user == BOT)
    files = {"comment.md": posted.body.encode(), "issue-body.md": (issue.body or "").encode(),
             "SCOREBOARD.md": git.read(BRANCH, "SCOREBOARD.md") or b"",
             "issue.html": Pages(local.hub).standalone(issue, local.url).encode()}
    for change in git.changes(git.commit(commit).parents[0], commit):
        if change.path.endswith(".png"):
            files[change.path.rsplit("/", 1)[-1]] = git.read(commit, change.path) or b""
    for old in out.glob("*.png"):
        old.unlink()
    for name, content in files.items():
        (out / name).write_bytes(content)
    return [out / name for name in files]
