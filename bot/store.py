"""The ledger: results/<week>/<run>/ as it stands at a commit, what a new run adds to it, and the commit that does so.

The ledger is the truth; SCOREBOARD.md and the results in a week's README follow from it. They change in the same commit as
results/, and they are drawn anew, never merged, when somebody else pushed in between: no row is ever lost.
"""

from __future__ import annotations

import functools
import gc
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bot import documents, regions, scoreboard
from bot.artifact import Checked
from bot.errors import Moved, UserError
from bot.history import SECOND, TREND, History, Trend, age, near, number, second_name
from bot.history import trend as history_trend
from bot.hub import Hub
from workloads.spec import Accepted, Request, Result, SpecError, Table, Workload, dumps, loads

RESULT = re.compile(r"results/(week\d\d)/([cr]\d+(?:-2)?)/result\.json", re.ASCII)
ACCEPTED = re.compile(r"results/(week\d\d)/([cr]\d+(?:-2)?)/accepted\.json", re.ASCII)
README = re.compile(r"workloads/week\d\d_[a-z0-9_]+/README\.md", re.ASCII)
SCOREBOARD = "SCOREBOARD.md"
TRIES = 5
PICTURES = 256  # that are kept, of some 60 kB each


@dataclass(frozen=True, slots=True)
class Ledger:
    """Every result.json and accepted.json, SCOREBOARD.md and the README of each week, by path; `sha` and `tree` are the commit
    they are of, "" where that does not matter."""

    files: Mapping[str, bytes]
    sha: str = ""
    tree: str = ""

    def with_files(self, more: Mapping[str, bytes]) -> Ledger:
        return replace(self, files={**self.files, **{path: content for path, content in more.items() if _kept(path)}})

    def runs(self) -> dict[str, tuple[Result, ...]]:
        """Every run by the key of its week, oldest first. Raises UserError for a file that is no result."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.files):
            if named := RESULT.fullmatch(path):
                found.setdefault(named[1], []).append(path)
        return {week: self._read(paths) for week, paths in found.items()}

    def week(self, key: str) -> tuple[Result, ...]:
        """The runs of one week, oldest first; no other week's are read. Raises UserError for a file that is no result."""
        return self._read(path for path in sorted(self.files) if (named := RESULT.fullmatch(path)) and named[1] == key)

    def _read(self, paths: Iterable[str]) -> tuple[Result, ...]:
        with _uncollected():
            return tuple(sorted((_result(path, self.files[path]) for path in paths), key=age))

    def find(self, run: str, week: str = "") -> Result | None:
        """One run by its name, which `/bench all` gives to a run of each week: of that week, or of the first that has it. Raises
        UserError where its file is no result."""
        found = (path for path in sorted(self.files) if (named := RESULT.fullmatch(path)) and named[2] == run and week in ("", named[1]))
        path = next(found, None)
        return _result(path, self.files[path]) if path else None

    def baseline(self, request: Request) -> str:
        """The commit of the run that --vs names; "" without it, and where that run is not known."""
        other = self.find(f"c{request.vs}", request.week or "") if request.vs else None
        return other.commit if other else ""

    def newest(self) -> Result | None:
        """The run that was asked for last by a comment, of any week; no other is read."""
        named = ((RESULT.fullmatch(path), path) for path in self.files)
        asked = [(number(run[2]), path) for run, path in named if run and run[2].startswith("c")]
        return _result(path := max(asked)[1], self.files[path]) if asked else None

    def accepted(self, week: str) -> tuple[str, ...]:
        """The names of the runs with which a baseline of the week begins."""
        return tuple(named[2] for path in sorted(self.files) if (named := ACCEPTED.fullmatch(path)) and named[1] == week)

    def before(self, result: Result) -> tuple[Result, ...]:
        """The runs of the same week that are older than `result`."""
        return tuple(run for run in self.week(result.week) if age(run) < age(result))

    def history(self, result: Result) -> History:
        """What is known beside `result`: older runs of its week, what was accepted, and its own second run."""
        second = None if result.run.endswith(SECOND) else self.find(second_name(result.run), result.week)
        return History(self.before(result), self.accepted(result.week), second)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: of a ledger that is being read nothing is garbage, and looking for it takes a fifth of the time."""
    before = gc.enable if gc.isenabled() else gc.disable
    gc.disable()
    try:
        yield
    finally:
        before()


def _kept(path: str) -> bool:
    return path == SCOREBOARD or any(kind.fullmatch(path) for kind in (RESULT, ACCEPTED, README))


@functools.cache  # reading is strict, so it is slow, and one publication asks for the same runs several times
def _result(path: str, content: bytes) -> Result:
    try:
        return loads(Result, content)
    except SpecError as error:
        raise UserError(f"{path} is no result: {error}") from error


def open_ledger(root: Path) -> Ledger:
    """The ledger in the files under `root`."""
    patterns = ("results/*/*/result.json", "results/*/*/accepted.json", "workloads/*/README.md")
    found = [root / SCOREBOARD, *(path for pattern in patterns for path in root.glob(pattern))]
    paths = {path.relative_to(root).as_posix(): path for path in found if path.is_file()}
    return Ledger({name: path.read_bytes() for name, path in paths.items() if _kept(name)})


def open_checkout(root: Path) -> Ledger:
    """The ledger of a fresh checkout, with its commit, so that writing starts without asking GitHub for either. Raises
    UserError where `root` is no checkout."""
    told = subprocess.run(["git", "rev-parse", "HEAD", "HEAD^{tree}"], cwd=root, capture_output=True, text=True, check=False)
    if told.returncode:
        raise UserError(f"{root} is no git checkout with a commit in it, and this command starts from one")
    sha, tree = told.stdout.split()
    return replace(open_ledger(root), sha=sha, tree=tree)


# ---------------------------------------------------------------------------------------------------- what follows from what


def folder(result: Result) -> str:
    return f"results/{result.week}/{result.run}"


def entry(checked: Checked) -> dict[str, bytes]:
    """The files of one run, by path: result.json, what the run left beside it, and each chart."""
    result = checked.result
    held = {"result.json": dumps(result).encode(), **checked.files}
    return {**{f"{folder(result)}/{name}": content for name, content in held.items()}, **plots(result)}


def plots(result: Result) -> dict[str, bytes]:
    """The charts of a run as PNGs, by path."""
    observed = result.pooled()
    charted = [table for table in observed.tables if table.chart] if observed else []
    return {f"{folder(result)}/{table.name}.png": _picture(table) for table in charted}


@functools.lru_cache(PICTURES)  # drawing takes half a second, and who gives way to another's push or publishes again asks again
def _picture(of: Table | Trend) -> bytes:
    from bot import plot  # matplotlib takes half a second to import, and who only reads the ledger draws nothing

    return plot.draw(of) if isinstance(of, Table) else plot.draw_trend(of)


def trend(result: Result, workload: Workload | None, history: History) -> dict[str, bytes]:
    """The picture of how a run's headline metric came to where it is, by path: TREND, where there are runs to compare with. It
    follows from the run and older ones, so it stays as later runs arrive."""
    told = history_trend(workload, result, near(result, history).earlier, history.accepted) if workload else None
    return {f"{folder(result)}/{TREND}": _picture(told)} if told else {}


def pictures(ledger: Ledger, workloads: Mapping[str, Workload]) -> dict[str, bytes]:
    """Every chart and every trend of every run, by path."""
    found: dict[str, bytes] = {}
    for week, runs in ledger.runs().items():
        accepted = ledger.accepted(week)
        for place, run in enumerate(runs):
            found |= plots(run) | trend(run, workloads.get(week), History(runs[:place], accepted))
    return found


def pages(ledger: Ledger, workloads: Mapping[str, Workload]) -> dict[str, bytes]:
    """The pages that follow from the runs: SCOREBOARD.md, and the README of each week that has one."""
    runs = ledger.runs()
    made = {SCOREBOARD: scoreboard.page(_text(ledger, SCOREBOARD), runs, workloads)}
    for key, workload in workloads.items():
        path = f"workloads/{workload.folder}/README.md"
        if path in ledger.files:
            made[path] = regions.replace(_text(ledger, path), "results", documents.week_results(workload, runs.get(key, ())))
    return {path: text.encode() for path, text in made.items()}


def _text(ledger: Ledger, path: str) -> str:
    return ledger.files.get(path, b"").decode("utf-8", "replace")


# ---------------------------------------------------------------------------------------------------- writing


def put(hub: Hub, branch: str, ledger: Ledger, checked: Checked, workloads: Mapping[str, Workload]) -> Ledger:
    """Add a run to the ledger on `branch`; the ledger with it, at the commit that holds it. A run that is there already, byte
    for byte, makes no second commit. A run that was run again takes the place of its own failure, never of a result that
    ended well: what the ledger then holds stays. Raises Moved where others push faster than this."""
    result = checked.result
    return _write(hub, branch, ledger, entry(checked), workloads, f"Record {result.week} run {result.run}: {result.status}", result)


def accept(hub: Hub, branch: str, ledger: Ledger, run: Result, by: str, workloads: Mapping[str, Workload]) -> Ledger:
    """Make `run` the baseline from which its week's history begins, as the comment `by` ("c7") asked; the ledger with that. Who
    asked first stays on record. Raises Moved as `put` does."""
    path = f"{folder(run)}/accepted.json"
    added = {} if path in ledger.files else {path: dumps(Accepted(run.run, by)).encode()}
    return _write(hub, branch, ledger, added, workloads, f"Accept {run.week} run {run.run} as the baseline")


def redraw(hub: Hub, branch: str, ledger: Ledger, workloads: Mapping[str, Workload]) -> Ledger:
    """Make the pages on `branch` follow from its runs, if they do not."""
    return _write(hub, branch, ledger, {}, workloads, "Redraw the scoreboard")


def _write(hub: Hub, branch: str, ledger: Ledger, added: dict[str, bytes], workloads: Mapping[str, Workload], message: str,
           run: Result | None = None) -> Ledger:
    """`added` are the files of `run`, if they are of one; its trend joins them, for it follows from the ledger too."""
    attempt = 1
    while True:
        if run:
            kept = ledger.find(run.run, run.week)
            keeps = kept is not None and kept.status == "ok"
            added = {} if keeps else added | trend(run, workloads.get(run.week), ledger.history(run))
        grown = ledger.with_files(added)
        drawn = pages(grown, workloads)
        done = grown.with_files(drawn)
        if done.files == ledger.files:
            return ledger
        wanted = added | {path: content for path, content in drawn.items() if ledger.files.get(path) != content}
        try:
            tree = ledger.tree or hub.tree(ledger.sha)
            return replace(done, sha=hub.commit(branch, ledger.sha, tree, wanted, message), tree="")
        except Moved:
            if attempt == TRIES:
                raise
        hub.pause(attempt)
        attempt += 1
        ledger = catch_up(hub, branch, ledger)


def catch_up(hub: Hub, branch: str, ledger: Ledger) -> Ledger:
    """The ledger as `branch` has it now."""
    head = hub.head(branch)
    if head == ledger.sha:
        return ledger
    files = dict(ledger.files)
    for path in hub.changed(ledger.sha, head):
        if _kept(path):
            content = hub.read(path, head)
            if content is None:
                files.pop(path, None)
            else:
                files[path] = content
    return Ledger(files, head, hub.tree(head))
