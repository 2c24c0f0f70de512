"""The command line `bench`: reads the environment, hands values to the modules that do the work, and words what went wrong.

Two kinds of error leave here: what a person can put right is one clear line and exit code 2; everything else is "something
failed", with its details on stderr, and exit code 1.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot import commands, gate
from bot.errors import HubError, HubRefused, UserError
from bot.report import Where, lost_card, refused_card, report
from workloads.spec import RUN, Request, Result, SpecError, Workload, discover, dumps, loads

# PyGithub, matplotlib, rich and the demo's server are imported in the commands that need them: most comments are no commands, and
# deciding so has to be cheap.
if TYPE_CHECKING:
    from bot.hub import Hub
    from bot.store import Ledger

ACTIONS_BOT = "github-actions[bot]"
STDERR = 2  # so that stdout is the report and nothing else


# ---------------------------------------------------------------------------------------------------- the environment


@dataclass(frozen=True, slots=True)
class Actions:
    """What GitHub Actions tells its jobs, and this project's own settings beside it."""

    repo: str
    token: str
    api_url: str
    server_url: str
    workflow_run: str
    commit: str
    ref: str
    branch: str
    bot_login: str
    fast: bool

    def hub(self) -> Hub:
        from bot.hub import Hub

        return Hub(self.repo, self.token, self.api_url, login=self.bot_login, pause_s=0 if self.fast else 1.0)

    def where(self, issue: int, comment: int) -> Where:
        """`issue` and `comment` as the ids that GitHub gave them."""
        home = f"{self.server_url}/{self.repo}"
        return Where(self.server_url, self.repo, self.branch, comment_url=f"{home}/issues/{issue}#issuecomment-{comment}",
                     run_url=f"{home}/actions/runs/{self.workflow_run}")


def needed(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise UserError(f"{name} is not set: this command runs in a GitHub Actions job, or with that job's environment")
    return value


def setting(name: str, default: str) -> str:
    return os.environ.get(name) or default


def actions() -> Actions:
    ref = setting("GITHUB_REF_NAME", "main")
    return Actions(
        repo=needed("GITHUB_REPOSITORY"), token=needed("GITHUB_TOKEN"), api_url=setting("GITHUB_API_URL", "https://api.github.com"),
        server_url=setting("GITHUB_SERVER_URL", "https://github.com"), workflow_run=setting("GITHUB_RUN_ID", "0"),
        commit=setting("GITHUB_SHA", ""), ref=ref, branch=setting("SPRINTBENCH_BRANCH", ref), bot_login=setting("BOT_LOGIN", ACTIONS_BOT),
        fast=bool(setting("SPRINTBENCH_FAST", "")))


def event() -> Any:
    path = needed("GITHUB_EVENT_PATH")
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"the event cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError("the event is no JSON") from error


# ---------------------------------------------------------------------------------------------------- commands


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A comment on a Week issue becomes a measured, judged, posted GPU benchmark result."""


@cli.command("gate")
def gate_() -> None:
    """Decide on a comment's event, in a GitHub Actions job.

    Reads $GITHUB_EVENT_PATH; asks GitHub whether the author may; answers the author; writes verdict, accepted, run, request,
    request_id, issue and card to $GITHUB_OUTPUT.
    """
    told = Path(needed("GITHUB_OUTPUT"))
    found = gate.read(event(), setting("BOT_LOGIN", ACTIONS_BOT))
    if isinstance(found, gate.Ask):
        job = actions()
        hub = job.hub()
        found = gate.answer(found, hub, discover(), job.where(found.issue, found.comment), job.workflow_run,
                            lambda: _branch_ledger(job, hub))
    with told.open("a", encoding="utf-8") as file:
        file.write(found.outputs())
    click.echo(f"{found.verdict}: {found.reason}")


@cli.command("report")
def report_() -> None:
    """Check, store and post what the GPU job left, in a GitHub Actions job.

    Believes the gate's REQUEST, REQUEST_ID, ISSUE and CARD, and nothing in the zip under ARTIFACT before it was checked.
    """
    from bot import publish
    from bot.artifact import Rejected, open_artifact

    job = actions()
    request, run = loads(Request, needed("REQUEST")), needed("REQUEST_ID")
    workloads = discover()
    issue, comment = int(needed("ISSUE")), int(run.removeprefix("c"))
    where = job.where(issue, comment)
    place = publish.Place(issue, int(needed("CARD")), comment, job.workflow_run, where)
    hub = job.hub()
    found = [path for path in Path(needed("ARTIFACT")).glob("*") if path.is_file()]
    if not found:
        publish.give_up(hub, place, lost_card(run, request, setting("JOB_RESULT", "unknown"), where))
        click.echo("the GPU job left no result; the card says so")
        return
    try:
        checked = open_artifact(found[0], workloads[request.week or ""], request, run, job.commit)
    except Rejected as reason:
        publish.give_up(hub, place, refused_card(run, request, str(reason), where))
        click.echo(f"the result was refused: {reason}")
        return
    waited = publish.waited_s(gate.asked_at(event()), checked.result.started)
    place = dataclasses.replace(place, where=dataclasses.replace(where, queued_s=waited))
    ledger = _branch_ledger(job, hub)
    try:
        ledger = publish.publish(hub, job.branch, ledger, checked, workloads, place)
    except HubError:
        raise  # the card still says that the run waits, and this job, run again, goes on from where it stopped
    except Exception:
        publish.give_up(hub, place, refused_card(run, request, "the bot failed to show it, and the workflow run says where", where))
        raise
    click.echo(f"{run}: {checked.result.status}, stored in {ledger.sha} and posted")


@cli.command("kickoff")
@click.argument("week", required=False, envvar="WEEK")
def kickoff_(week: str | None) -> None:
    """Open a week's issue, once and only once.

    WEEK is week01 to week16; without it, the next week that has no issue. Draws SCOREBOARD.md too, where it is out of date.
    """
    from bot import publish

    if week and week not in commands.WEEKS:
        raise UserError("a week is written week01 to week16")
    job = actions()
    hub = job.hub()
    ledger = _branch_ledger(job, hub)
    made = publish.open_week(hub, job.branch, ledger, discover(), week or None)
    if made is None:
        click.echo("every week has its issue")
    else:
        key, number, new = made
        click.echo(f"{key}: issue {number} {'opened' if new else 'was there already'}")


@cli.command("sweep")
def sweep_() -> None:
    """Finish what a crash left, in a GitHub Actions job.

    Cards that wait although their run has ended get their report, from the ledger or the run's artifact, or say that it is
    lost; commands that nobody answered are asked for again. A second sweep finds nothing to do.
    """
    from bot import publish, store, sweep

    job, workloads = actions(), discover()
    hub = job.hub()
    waiting, unheard = sweep.look(hub, workloads, job.bot_login)
    where = Where(job.server_url, job.repo, job.branch)
    settled = answered = failed = 0
    ledger = store.catch_up(hub, job.branch, store.open_checkout(Path.cwd())) if waiting else store.Ledger({})
    for card in waiting:
        try:
            ledger, done = sweep.settle(hub, job.branch, ledger, card, workloads, where)
            settled += done
        except HubRefused as refusal:
            click.echo(str(refusal), err=True)
            failed += 1
        except (HubError, UserError):
            raise  # GitHub is down, or somebody broke the ledger; the cards wait for the next sweep
        except Exception:  # noqa: BLE001  the edge: one card that nobody can show must not keep the others waiting
            traceback.print_exc()
            failed += 1
            place, why = card.place(where), "the bot failed to show it, and the log of the sweep says where"
            publish.give_up(hub, place, refused_card(place.request_id, card.request, why, place.where))
    for command in unheard:
        answered += sweep.ask_again(hub, command, job.workflow_run)
    click.echo(f"{len(waiting)} cards wait, {settled} of them settled, {failed} failed; {answered} commands asked for again; "
               f"{hub.calls} API calls")
    if failed:
        sys.exit(1)


@cli.command()
def parse() -> None:
    """Read a comment on stdin, print its verdict as JSON.

    One line with "verdict" (accepted, refused or ignored), "request" and "reply". Nothing runs, nobody is asked.
    """
    found = commands.parse(sys.stdin.buffer.read().decode("utf-8", "replace"))
    said: dict[str, object] = {"verdict": "ignored", "request": None, "reply": None}
    if isinstance(found, commands.Refusal):
        said = {"verdict": "refused", "request": None, "reply": found.reply}
    elif found is not None:
        reply = commands.help_text() if found.command == "help" else commands.unavailable(found)
        said = {"verdict": "accepted", "request": json.loads(dumps(found)), "reply": reply}
    click.echo(json.dumps(said))


@cli.command()
@click.argument("week")
@click.option("--smoke", is_flag=True, help="The same code, tiny, on a CPU; never judged.")
@click.option("--batch", type=click.IntRange(1, 9999), help="A batch size in place of the week's own.")
@click.option("--gpus", type=click.IntRange(1, 8), default=1, help="How many GPUs.")
@click.option("--repeat", type=click.IntRange(1, 20), default=1, help="How many independent processes.")
@click.option("--profile", is_flag=True, help="Record a profiler trace too.")
@click.option("--timeout-min", type=click.IntRange(1, 1440), help="Stop after so many minutes.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Keep result.json and the files here; it must be empty.")
def run(week: str, smoke: bool, batch: int | None, gpus: int, repeat: int, profile: bool, timeout_min: int | None,
        out: Path | None) -> None:
    """Measure WEEK (week01 to week16) here and print the report.

    The report is the comment that GitHub would show. Exit code: 0 where the run ended well, 1 where it did not, 2 where it
    could not start.
    """
    options = [*(["--smoke"] if smoke else []), *(["--batch", str(batch)] if batch else []), "--gpus", str(gpus), "--repeat", str(repeat),
               *(["--profile"] if profile else []), *(["--timeout-min", str(timeout_min)] if timeout_min else [])]
    with tempfile.TemporaryDirectory(prefix="sprintbench-") as scratch:
        folder = out or Path(scratch) / "out"
        done = subprocess.run([sys.executable, "-m", "runner", "--out", str(folder), *options, "--", week], stdout=STDERR, check=False)
        if done.returncode == 2:
            sys.exit(2)
        result, workload = _result(folder)
        click.echo(report(workload, result, Where()), nl=False)
    sys.exit(0 if result.status == "ok" else 1)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def render(folder: Path) -> None:
    """Print the comment of a stored run.

    FOLDER is a runner's --out directory, or results/<week>/<run>.
    """
    from bot import store

    result, workload = _result(folder)
    click.echo(report(workload, result, Where(), store.open_ledger(Path.cwd()).history(result)), nl=False)


@cli.command("compare")
@click.argument("a")
@click.argument("b")
def compare_(a: str, b: str) -> None:
    """Show two runs of a week side by side.

    A and B are names of runs in results/ (c12, r20261123120000) or folders that hold a result.json.
    """
    from bot import terminal

    (one, workload), (other, _) = _run_or_folder(a), _run_or_folder(b)
    if one.week != other.week:
        raise UserError(f"{a} is of {one.week} and {b} of {other.week}: only runs of one week can be compared")
    terminal.show(terminal.comparison(workload, one, other))


@cli.command("history")
@click.argument("week")
@click.option("--last", type=click.IntRange(1, 100_000), default=30, show_default=True, help="How many runs.")
def history_(week: str, last: int) -> None:
    """Show the runs of WEEK, each held against those before it."""
    from bot import store, terminal

    workload = discover().get(week)
    if workload is None:
        raise UserError(f"{week!r} is no week that is built here: {', '.join(discover())}")
    ledger = store.open_ledger(Path.cwd())
    runs = ledger.week(week)
    if not runs:
        raise UserError(f"results/{week}/ holds no run here: `bench run {week} --smoke --out d` makes one, `bench record d` stores it")
    terminal.show(terminal.history(workload, runs, ledger.accepted(week), last))


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def record(folder: Path) -> None:
    """Check a runner's --out directory and store the run here.

    It goes to results/<week>/<run>/ with its plots; SCOREBOARD.md and the week's README follow.
    """
    from bot import store
    from bot.artifact import Rejected, open_directory

    result, workload = _result(folder)
    try:
        checked = open_directory(folder, workload)
    except Rejected as reason:
        raise UserError(f"{folder}: {reason}") from reason
    ledger = store.open_ledger(_repository())
    added = store.entry(checked) | store.trend(result, workload, ledger.history(result))
    if any(run.run == result.run and run != result for run in ledger.runs().get(result.week, ())):
        raise UserError(f"{store.folder(result)} holds another run of that name; give this one its own with --run")
    _write({**added, **store.pages(ledger.with_files(added), discover())})
    click.echo(f"{store.folder(result)}: {result.status}; now commit results/ with the pages that changed")


@cli.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where SCOREBOARD.md is not what results/ give.")
def redraw(check: bool) -> None:
    """Draw everything anew that follows from results/.

    SCOREBOARD.md, the results in each week's README, and every plot.
    """
    from bot import store

    ledger = store.open_ledger(_repository())
    drawn = store.pages(ledger, discover())
    if check:
        _compare(drawn, "bench redraw")
    else:
        _write({**drawn, **store.pictures(ledger, discover())})


@cli.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where a page has drifted.")
def docs(check: bool) -> None:
    """Write the pages that repeat what the code says.

    PLAN.md, the issue form, the commands' table in README.md and the results in each week's README.
    """
    from bot import documents, store

    root = _repository()
    made = documents.pages(root, store.open_ledger(root).runs(), discover())
    pages = {path: text.encode() for path, text in made.items()}
    if check:
        _compare(pages, "bench docs")
    else:
        _write(pages)


@cli.command()
@click.option("--serve", is_flag=True, help="Keep the server up, to type further commands in the page.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build/demo"), show_default=True,
              help="Where the comment, the issue, SCOREBOARD.md and the plots go.")
def demo(serve: bool, out: Path) -> None:
    """Show the whole path on this machine.

    A small GitHub, the real workflows, a smoke run of week01, and the report it posts.
    """
    try:
        from localhub.demo import main as show
    except ModuleNotFoundError as error:
        raise UserError(f"the demo needs {error.name}, which is not installed: pip install '.[demo]', or use `make demo`") from error
    show(out, serve)


def _branch_ledger(job: Actions, hub: Hub) -> Ledger:
    """The ledger of this checkout, or of SPRINTBENCH_BRANCH where that is another branch."""
    from bot import store

    ledger = store.open_checkout(Path.cwd())
    return ledger if job.branch == job.ref else store.catch_up(hub, job.branch, ledger)


def _repository() -> Path:
    """The working directory, where it is one of this project's: elsewhere a command that writes would litter."""
    if not Path("workloads/plan.py").is_file():
        raise UserError("this command reads and writes the repository: run it in the folder that holds README.md and workloads/")
    return Path.cwd()


def _run_or_folder(name: str) -> tuple[Result, Workload]:
    """A run in results/ by its name, or the one in a folder of that name."""
    from bot import store

    if RUN.fullmatch(name):
        found = store.open_ledger(Path.cwd()).find(name)
        if found is not None:
            return _result(Path(store.folder(found)))
    if not Path(name).is_dir():
        raise UserError(f"{name!r} is neither a run in results/ nor a folder: `bench history week01` lists the runs")
    return _result(Path(name))


def _result(folder: Path) -> tuple[Result, Workload]:
    path = folder / "result.json"
    try:
        result = loads(Result, path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except SpecError as error:
        raise UserError(f"{path} is no result: {error}") from error
    workload = discover().get(result.week)
    if workload is None:
        raise UserError(f"{path} is of {result.week}, which has no workload here")
    return result, workload


def _write(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            part = path.with_name(path.name + ".part")  # a page is whole, the old one or the new one, whatever happens
            try:
                part.write_bytes(content)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            click.echo(name)


def _compare(files: dict[str, bytes], how: str) -> None:
    drifted = [name for name, content in files.items() if not Path(name).exists() or Path(name).read_bytes() != content]
    if drifted:
        click.echo(f"out of date: {', '.join(drifted)}; run `{how}` and commit what it writes", err=True)
        sys.exit(1)


def main() -> None:
    """The console script `bench`."""
    try:
        cli(prog_name="bench")
    except UserError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(2)
    except Exception:  # noqa: BLE001  the edge: whatever nobody expected ends here, in the log
        traceback.print_exc()
        click.echo("bench: something failed; the details are above", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
