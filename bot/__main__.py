"""The command line `bench`: reads the environment, hands values to the modules that do the work, and words what went wrong.

Two kinds of error leave here: what a person can put right is one clear line and exit code 2; everything else is "something
failed", with its details on stderr, and exit code 1.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot import commands, gate
from bot.cards import lost_card, refused_card
from bot.errors import HubError, HubRefused, UserError
from bot.report import Where, printable, report
from workloads.spec import RUN, Diagnosis, Finding, Request, Result, SpecError, Workload, discover, dumps, loads

# PyGithub, matplotlib, rich and the demo's server are imported in the commands that need them: most comments are no commands, and
# deciding so has to be cheap.
if TYPE_CHECKING:
    from bot.board import Board
    from bot.hub import Hub
    from bot.store import Ledger

ACTIONS_BOT = "github-actions[bot]"
WRITE_PAUSE_S = 1.6  # GitHub asks for one second between writes at least; this keeps a job under 40 a minute
LONGEST_LOOK_S = 300.0  # each part of the machine's half has a limit of its own, and they come to less
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
    project_url: str
    project_token: str

    def hub(self, token: str = "") -> Hub:
        """The repository, as the workflows' own token sees it, or another."""
        from bot.hub import Hub

        return Hub(self.repo, token or self.token, self.api_url, login=self.bot_login, pause_s=0 if self.fast else WRITE_PAUSE_S)

    def board(self, hub: Hub) -> Board | None:
        """The board that PROJECT_URL names, if any. Settings that are wrong are said, and stop nothing."""
        from bot.board import Board, project

        if not self.project_url and not self.project_token:
            return None
        try:
            if not self.project_token:
                raise UserError("PROJECT_URL is set and PROJECT_TOKEN is not: add the secret PROJECT_TOKEN, or remove the variable")
            if not self.project_url:
                raise UserError("PROJECT_TOKEN is set and PROJECT_URL is not: add the variable PROJECT_URL, or remove the secret")
            return Board(project(self.project_url, self.server_url), hub, self.hub(self.project_token))
        except UserError as error:
            click.echo(f"board: {error}", err=True)
            return None

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
        fast=bool(setting("SPRINTBENCH_FAST", "")), project_url=setting("PROJECT_URL", "").strip(),
        project_token=setting("PROJECT_TOKEN", "").strip())


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
    request_id, issue, card, accept, legs and ledger to $GITHUB_OUTPUT.
    """
    told = Path(needed("GITHUB_OUTPUT"))
    found = gate.read(event(), setting("BOT_LOGIN", ACTIONS_BOT))
    history = ""
    if isinstance(found, gate.Ask):
        job = actions()
        hub = job.hub()
        found = gate.answer(found, hub, discover(), job.where(found.issue, found.comment), job.workflow_run,
                            lambda: _branch_ledger(job, hub))
        if found.run and job.branch != job.ref:
            history = hub.head(job.branch)  # the GPU job looks there whether a run is changed
    with told.open("a", encoding="utf-8") as file:
        file.write(found.outputs() + f"ledger={history}\n")
    click.echo(f"{found.verdict}: {found.reason}")


@cli.command("report")
def report_() -> None:
    """Check, store and post what the GPU job left, in a GitHub Actions job.

    Believes the gate's REQUEST, REQUEST_ID, ISSUE, NAME and CARD, and nothing in the zips under ARTIFACT and SECOND before it was checked.
    A run that was accepted as a baseline is written down here too.
    """
    from bot import publish, store
    from bot.artifact import Rejected, open_artifact, open_second

    job = actions()
    request, run = loads(Request, needed("REQUEST")), needed("REQUEST_ID")
    workloads = discover()
    issue, comment = int(needed("ISSUE")), int(run.removeprefix("c"))
    where = job.where(issue, comment)
    _, _, one_of_many = needed("NAME").partition("/")
    place = publish.Place(issue, int(needed("CARD")), comment, job.workflow_run, where, one_of_many, job.ref, setting("LOGIN", ""))
    hub, ledger = job.hub(), store.open_checkout(Path.cwd())
    # The checkout is of the comment's time; a command for all weeks has stored results since.
    ledger = store.catch_up(hub, job.branch, ledger) if job.branch != job.ref or one_of_many else ledger
    if request.command == "accept":
        publish.accept(hub, job.branch, ledger, request, workloads, place)
        click.echo(f"c{request.runs[0]} is a baseline of {request.week}")
        return
    found = [path for path in Path(needed("ARTIFACT")).glob("*") if path.is_file()]
    if not found:
        publish.give_up(hub, place, lost_card(run, request, setting("JOB_RESULT", "unknown"), where), ledger, workloads)
        click.echo("the GPU job left no result; the card says so")
        return
    try:
        checked = open_artifact(found[0], workloads[request.week or ""], request, run, job.commit, ledger.baseline(request))
    except Rejected as reason:
        publish.give_up(hub, place, refused_card(run, request, str(reason), where), ledger, workloads)
        click.echo(f"the result was refused: {reason}")
        return
    waited = publish.waited_s(gate.asked_at(event()), checked.result.started)
    place = dataclasses.replace(place, where=dataclasses.replace(where, queued_s=waited))
    again = [path for path in Path(needed("SECOND")).glob("*") if path.is_file()]
    second = open_second(again[0], workloads[request.week or ""], request, run, job.commit) if again else None
    try:
        ledger = publish.publish(hub, job.branch, ledger, checked, workloads, place, job.board(hub), second)
    except HubError:
        raise  # the card still says that the run waits, and this job, run again, goes on from where it stopped
    except Exception:
        card = refused_card(run, request, "the bot failed to show it, and the workflow run says where", where)
        publish.give_up(hub, place, card, ledger, workloads)
        raise
    click.echo(f"{run}: {checked.result.status}, stored in {ledger.sha} and posted")


@cli.command("watch")
def watch_() -> None:
    """Keep a run's card up to date while it waits and works, in a GitHub Actions job.

    Looks after 20 seconds, then more and more seldom, at most every five minutes. A run that waits longer than ten minutes while
    nothing works gets one short reply.
    """
    from bot import watch

    job, ask = actions(), gate.read(event(), setting("BOT_LOGIN", ACTIONS_BOT))
    if not isinstance(ask, gate.Ask):
        raise UserError(f"there is nothing to watch: {ask.reason}")
    hub = job.hub()
    sleep = time.sleep if not job.fast else lambda _: time.sleep(0.5)
    looked = watch.watch(hub, _branch_ledger(job, hub), ask.request_id, ask.login, job.where(ask.issue, ask.comment), sleep)
    click.echo(f"looked {looked} times; {hub.calls} API calls")


@cli.command()
@click.option("--out", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="The run's folder.")
@click.option("--ledger", "root", type=click.Path(path_type=Path, file_okay=False), default=Path(),
              help="A checkout whose results/ are the history.  [default: this folder]")
def again(out: Path, root: Path) -> None:
    """Say whether a run looks changed, so that it is measured once more, in a GitHub Actions job.

    Writes again=true or again=false to $GITHUB_OUTPUT. Nobody is told of a change before a second run has decided.
    """
    from bot import history, store

    told = Path(needed("GITHUB_OUTPUT"))
    result, workload = _result(out)
    known = store.open_ledger(root).history(result)
    seen = None if result.baseline else history.change(workload, result, known.earlier, known.accepted)
    wanted = seen is not None and "suspected" in seen.kind
    with told.open("a", encoding="utf-8") as file:
        file.write(f"again={'true' if wanted else 'false'}\n")
    click.echo(f"{result.run}: {seen.kind if seen else 'nothing to compare with'}")


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
    made = publish.open_week(hub, job.branch, ledger, discover(), week or None, job.board(hub))
    if made is None:
        click.echo("every week has its issue")
    else:
        key, number, new = made
        click.echo(f"{key}: issue {number} {'opened' if new else 'was there already'}")


@cli.command("sweep")
def sweep_() -> None:
    """Finish what a crash left, in a GitHub Actions job.

    Cards that wait although their run has ended get their report, from the ledger or the run's artifact, or say that it is
    lost; what waits says how long, and is cancelled where no machine takes it; commands that nobody answered are asked for again;
    a log that somebody wrote in a Week issue is ticked. A second sweep finds nothing to do.
    """
    from bot import publish, store, sweep

    job, workloads = actions(), discover()
    hub = job.hub()
    board = job.board(hub)
    left = sweep.look(hub, workloads, job.bot_login)
    where = Where(job.server_url, job.repo, job.branch)
    settled = answered = failed = 0
    ledger = store.catch_up(hub, job.branch, store.open_checkout(Path.cwd())) if left.waiting or left.lost else store.Ledger({})
    for card in left.waiting:
        try:
            ledger, done = sweep.settle(hub, job.branch, ledger, card, workloads, where, board)
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
            publish.give_up(hub, place, refused_card(place.request_id, card.request, why, place.where), ledger, workloads)
    rescued = 0
    for card in left.lost:
        ledger, done = sweep.rescue(hub, job.branch, ledger, card, workloads, where, board)
        rescued += done
    cancelled = sweep.tend(hub, ledger, where) if len(left.waiting) > settled + failed else 0
    ticked = sum(sweep.tick_log(hub, log) for log in left.logs)
    for command in left.unheard:
        answered += sweep.ask_again(hub, command, job.workflow_run)
    click.echo(f"{len(left.waiting)} cards wait, {settled} of them settled, {failed} failed, {cancelled} cancelled, {rescued} rescued; "
               f"{answered} commands asked for again, {ticked} logs ticked; "
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
        reply = commands.help_text() if found.command == "help" else None
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


@cli.command("site")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build/site"), show_default=True,
              help="Where index.html, a page for each week and what they load go.")
@click.option("--ledger", "root", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path(),
              help="The checkout that holds results/, where it is another than this one.")
@click.option("--repo", envvar="GITHUB_REPOSITORY", metavar="OWNER/NAME",
              help="The repository on GitHub to link to [default: GITHUB_REPOSITORY, else the files of the checkout].")
def site_(out: Path, root: Path, repo: str | None) -> None:
    """Build the static site from results/: an index and a page for each week.

    It needs no server and no network: open index.html in a browser.
    """
    from bot import site, store

    _repository()
    if repo and not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", repo, re.ASCII):
        raise UserError("--repo is written OWNER/NAME, as in the repository's address")
    branch = setting("SPRINTBENCH_BRANCH", setting("GITHUB_REF_NAME", "main"))
    where = Where(setting("GITHUB_SERVER_URL", "https://github.com"), repo, branch) if repo else Where()
    weeks = site.weeks(store.open_ledger(root), discover())
    pictures = {path: (root / path).read_bytes() for week in weeks.values() for path, _ in week.pictures if (root / path).is_file()}
    made = site.build(weeks, site.Links(where, urllib.parse.quote(os.path.relpath(root, out))), pictures)
    try:
        _write({(out / name).as_posix(): content for name, content in made.items()})
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; name another folder with --out") from error
    counts = [len(week.runs) for week in weeks.values()]
    click.echo(f"{out / 'index.html'}: {sum(counts)} runs, {sum(map(bool, counts))} weeks measured")


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


@cli.command()
@click.option("--only", type=click.Choice(["machine", "repository"]), help="Look at one half.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(only: str | None, as_json: bool) -> None:
    """Say what is amiss with this machine and with the repository on GitHub, and what mends it.

    The machine is the one with the GPU; the repository is $GITHUB_REPOSITORY, seen with $GITHUB_TOKEN. Exit code: 1 where
    something is red.
    """
    from bot import doctor as look

    found = [*(_machine() if only != "repository" else ())]
    if only != "machine":
        if setting("GITHUB_REPOSITORY", "") and setting("GITHUB_TOKEN", ""):
            job = actions()
            found += look.look(job.hub(), f"{job.server_url}/{job.repo}", setting("SPRINTBENCH_BRANCH", ""))
        else:
            found.append(look.skipped())
    click.echo(dumps(Diagnosis(tuple(found))) if as_json else look.show(found))
    if any(one.level == "red" for one in found):
        sys.exit(1)


def _machine() -> tuple[Finding, ...]:
    """The machine's half, from the room that may touch a GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    told = (("--jobs-python", "SPRINTBENCH_PYTHON"), ("--spool", "SPRINTBENCH_SPOOL"), ("--price", "SPRINTBENCH_GPU_HOUR_PRICE"))
    options = [f"{option}={value}" for option, name in told if (value := os.environ.get(name))]
    options += [f"--visible={visible}"] if visible is not None else []  # empty, it hides every GPU
    try:
        done = subprocess.run([sys.executable, "-m", "runner.doctor", *options], capture_output=True, text=True, errors="replace",
                              timeout=LONGEST_LOOK_S, check=False)
        return loads(Diagnosis, done.stdout).findings
    except subprocess.TimeoutExpired:
        why = f"it took more than {LONGEST_LOOK_S / 60:g} minutes"
    except SpecError:
        why = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
    return (Finding("machine", "red", "machine", f"could not be looked at: {printable(why)}", f"{sys.executable} -m runner.doctor"),)


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
