"""What each command costs at the gate: API calls, and process time of `python -m bot gate` as its job runs it; and parsing alone.

The local hub holds an issue of week 1 and a ledger with two runs of it; each command is a new comment there, by somebody who may
write. Process time is the gate's own, imports included; the hub is another process, and the pauses that GitHub asks for between
writes are left out. What follows an accepted run, publishing, is in ledger.py. Parsing alone is timed in this process, over the
comments that the tests know, hostile and long ones among them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.ledger import made_up
from bot.commands import parse
from localhub import server, state
from localhub.repository import Repository
from workloads.spec import Result, dumps

ROOT = Path(__file__).parent.parent
COMMANDS = ("nice work", "/help", "/status", "/bench --smoke", "/bench --dry-run", "/bench all --smoke", "/bench --vs c1", "/bench week1",
            "/compare c1 c2", "/accept c1", "/retry c1", "/cancel", "/post", "/kickoff week01")
CASES = ROOT / "tests" / "cases" / "commands.json"
TIMES = 5
MOST_CALLS, MOST_S, MOST_PARSING_MS = 15, 3.0, 50.0


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A command: API calls, and the median and the most of its process seconds."""

    command: str
    calls: int
    median_s: float
    most_s: float


def run(number: int) -> Result:
    return dataclasses.replace(made_up("week01", number), run=f"c{number}", commit="1" * 40)


def measure(command: str) -> Row:
    """`command` in a repository of its own, TIMES times. Raises RuntimeError where the gate fails."""
    calls, seconds = 0, []
    for _ in range(TIMES):
        with tempfile.TemporaryDirectory(prefix="sprintbench-") as folder:
            place = Path(folder)
            hub = state.Hub("sprinter/sprint", Repository.create(place / "sprint.git"))
            owner = hub.add_user("sprinter", 1001, "admin")
            hub.tokens["ghs_workflow"] = state.BOT
            ledger = {f"results/week01/c{n}/result.json": dumps(run(n)).encode() for n in (1, 2)}
            hub.git.put({"README.md": b"# A sprint\n", **ledger}, "First", owner.person)
            checkout = place / "checkout"
            subprocess.run(["git", "clone", "-q", str(hub.git.path), str(checkout)], check=True)
            issue = hub.add_issue(owner, "Week 01 - a title", "")
            comment = hub.add_comment(owner, issue.number, command)
            user = {"login": owner.login, "id": owner.id, "type": "User"}
            event = {"action": "created", "sender": user, "comment": {"id": comment.id, "body": command, "user": user},
                     "issue": {"number": issue.number, "title": issue.title, "state": "open", "locked": False}}
            (place / "event.json").write_text(json.dumps(event))
            service = server.Service(hub)
            with server.served(service) as url:
                env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "GITHUB_REPOSITORY": hub.name, "GITHUB_TOKEN": "ghs_workflow",
                       "GITHUB_API_URL": url, "GITHUB_RUN_ID": "1", "GITHUB_EVENT_PATH": str(place / "event.json"),
                       "GITHUB_OUTPUT": str(place / "output"), "GITHUB_REF_NAME": "main", "SPRINTBENCH_FAST": "1"}
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                done = subprocess.run([sys.executable, "-m", "bot", "gate"], cwd=checkout, env=env, capture_output=True, text=True,
                                      check=False)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode:
                raise RuntimeError(done.stderr)
            calls = len(service.requests)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Row(command, calls, statistics.median(seconds), max(seconds))


def parsing() -> dict[str, float]:
    """Process milliseconds of parsing each case once, by its id: the most of TIMES."""
    took: dict[str, float] = {}
    for case in json.loads(CASES.read_text(encoding="utf-8")):
        for _ in range(TIMES):
            start = time.process_time()
            parse(case["comment"])
            took[case["id"]] = max(took.get(case["id"], 0.0), 1000 * (time.process_time() - start))
    return took


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Print the table, and exit with 1 where a command takes more than 15 calls or 3 s of process time, or a comment more than
    50 ms to parse."""
    took = parsing()
    slowest = max(took, key=lambda case: took[case])
    click.echo(f"parsing {len(took)} comments: median {statistics.median(took.values()):.3f} ms, "
               f"slowest {took[slowest]:.3f} ms ({slowest})\n")
    rows = []
    click.echo(f"{'command':<22} {'API calls':>9} {'median s':>9} {'most s':>7}")
    for command in COMMANDS:
        rows.append(measure(command))
        click.echo(f"{command:<22} {rows[-1].calls:>9} {rows[-1].median_s:>9.2f} {rows[-1].most_s:>7.2f}")
    # `/bench all` writes a comment for each week.
    late = [row.command for row in rows if row.median_s > MOST_S or (row.calls > MOST_CALLS and "all" not in row.command)]
    late += [case for case, ms in took.items() if ms > MOST_PARSING_MS]
    if late:
        click.echo(f"above the bars: {', '.join(late)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
