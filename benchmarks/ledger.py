"""What publishing costs as the ledger grows: process time and API calls of one more run beside 10, 1,000 and 10,000.

The runs are made up, each as large as one of week 01 with its raw samples, spread over all the weeks that exist. They go into the
local hub's bare repository at once; then a report is published as the report job does it: the checkout is read, the new run
is committed with SCOREBOARD.md, the issue is ticked, the card becomes the report. Process time is this process's own, which
leaves out the hub (another process) and the pauses that GitHub asks for between writes.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import click

from bot import store
from bot.artifact import Checked
from bot.cards import queued_card
from bot.hub import Hub
from bot.kickoff import kickoff
from bot.publish import Place, publish
from bot.report import Where
from localhub import server, state
from localhub.repository import Repository
from workloads.plan import planned
from workloads.spec import Estimate, Machine, Observed, Request, Result, Target, discover, dumps

SIZES = (10, 1_000, 10_000)
WARM_UP = 50  # enough of each week for a trend, which is the first to need matplotlib
SAMPLES = 16
BAR_S = 5.0
MACHINE = Machine("NVIDIA H100 80GB HBM3", 1, 81_559, "570.00", "Xeon", 16, 131_072, "Linux", "3.11.7", (("torch", "2.11.0"),))


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One publication: runs in the ledger before, process seconds to read the checkout and to publish, and API calls."""

    runs: int
    read_s: float
    publish_s: float
    calls: int


def made_up(week: str, number: int) -> Result:
    """A run of `week` with every target measured; `number` is its place in time."""
    workload = discover()[week]

    def metric(target: Target) -> Estimate:
        samples = tuple(round(target.bound * (1 + (number * 31 + i) % 97 / 1000), 6) for i in range(SAMPLES))
        return Estimate("median", statistics.median(samples), min(samples), max(samples), samples)

    metrics = tuple(target.measured(metric(target)) for target in workload.targets)
    minutes = number % (365 * 24 * 60)
    started = f"2026-{1 + minutes // 44_640 % 12:02d}-{1 + minutes // 1440 % 28:02d}T{minutes // 60 % 24:02d}:{minutes % 60:02d}:00Z"
    return Result(run=f"c{number}", request=Request("bench", week), commit="0" * 40, started=started, duration_s=300.0, status="ok",
                  machine=MACHINE, observed=(Observed(metrics),))


@contextmanager
def hub_of(folder: Path, runs: int) -> Iterator[str]:
    """A local hub, in a process of its own, whose repository holds so many runs; the address of its API."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(folder, runs, theirs), daemon=True)
    process.start()
    try:
        yield str(ours.recv())
    finally:
        ours.send("end")
        process.join(timeout=30)


def _serve(folder: Path, runs: int, pipe: Connection) -> None:
    hub = state.Hub("sprinter/sprint", Repository.create(folder / "sprint.git"))
    sprinter = hub.add_user("sprinter", 1001, "admin", token="ghp_sprinter")  # noqa: S106  a name on the local hub
    hub.tokens["ghs_workflow"] = state.BOT
    weeks = sorted(discover())
    made = [made_up(weeks[number % len(weeks)], number) for number in range(1, runs + 1)]
    ledger = store.Ledger({f"{store.folder(run)}/result.json": dumps(run).encode() for run in made})
    hub.git.put({**ledger.files, **store.pages(ledger, discover())}, "A ledger", sprinter.person)
    plan = kickoff(planned(1), discover()["week01"])
    hub.add_issue(state.BOT, plan.title, plan.body)
    hub.add_comment(sprinter, 1, "/bench week01")
    with server.served(server.Service(hub)) as url:
        pipe.send(url)
        pipe.recv()


def trial(runs: int) -> Row:
    """Publish one run beside `runs` others."""
    workloads = discover()
    with tempfile.TemporaryDirectory() as name, hub_of(Path(name), runs) as url:
        checkout = Path(name) / "checkout"
        subprocess.run(["git", "clone", "-q", str(Path(name) / "sprint.git"), str(checkout)], check=True)
        hub = Hub("sprinter/sprint", "ghs_workflow", url, pause_s=0)
        result = made_up("week01", 900_000)
        where = Where("https://github.com", "sprinter/sprint", "main")
        card = hub.post_card(1, result.run, "1", queued_card(result.run, result.request, where))
        before = hub.calls
        start = time.process_time()
        ledger = store.open_checkout(checkout)
        read = time.process_time()
        after = publish(hub, "main", ledger, Checked(result, {}), workloads, Place(1, card, 900_000, "1", where))
        end = time.process_time()
        if sum(map(len, after.runs().values())) != runs + 1:
            raise click.ClickException("the ledger does not hold every run")
        return Row(runs, read - start, end - read, hub.calls - before)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", "sizes", type=click.IntRange(1, 100_000), multiple=True, default=SIZES, show_default=True, metavar="N",
              help="How many runs the ledger holds; may be given several times.")
def main(sizes: tuple[int, ...]) -> None:
    """Publish beside ledgers of growing size. Prints a Markdown table; exit code 1 where the largest takes 5 s or more."""
    trial(WARM_UP)  # imports, fonts and compiled patterns are paid once, and not here
    rows = [trial(size) for size in sizes]
    click.echo("| runs in the ledger | read, s | publish, s | together, s | API calls |\n|---:|---:|---:|---:|---:|")
    for row in rows:
        click.echo(f"| {row.runs:,} | {row.read_s:.2f} | {row.publish_s:.2f} | {row.read_s + row.publish_s:.2f} | {row.calls} |")
    if rows[-1].read_s + rows[-1].publish_s >= BAR_S:
        sys.exit(1)


if __name__ == "__main__":
    main()
