"""The ledger: what a run adds, what follows from it, and that nobody's row is lost when two write at once."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sample_week import WEEK01, files, paths, result

from bot import store
from bot.artifact import Checked
from bot.errors import HubError, Moved, UserError
from bot.history import History
from bot.hub import Hub
from bot.store import Ledger
from workloads.spec import Failure, dumps

WEEKS = {"week01": WEEK01}
README = f"workloads/{WEEK01.folder}/README.md"


def checked(run: str = "c7", **changes: Any) -> Checked:
    made = result(run=run, **changes)
    return Checked(made, {name: content for name, content in files(made).items() if name != "result.json"})


def at(localhub: Any, hub: Hub) -> Ledger:
    """The ledger of localhub's branch, read as a checkout would."""
    head = hub.head("main")
    held = {path: localhub.git.read(head, path) for path in paths(localhub, head)}
    return dataclasses.replace(Ledger({}).with_files(held), sha=head, tree=hub.tree(head))


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def hub(localhub: Any, waits: list[float]) -> Hub:
    return Hub(*localhub.hub_args, pause_s=0.001, sleep=waits.append)


# ---------------------------------------------------------------------------------------------------- reading


def lay(root: Path, held: dict[str, bytes]) -> Path:
    for name, content in held.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_runs_are_in_order(tmp_path: Path) -> None:
    newer, older = result(run="c10", started="2026-11-23T13:00:00Z"), result(run="c9")
    twin = result(run="c11", started="2026-11-23T13:00:00Z")
    lay(tmp_path, {f"{store.folder(run)}/result.json": dumps(run).encode() for run in (twin, newer, older)})
    ledger = store.open_ledger(tmp_path)
    assert [run.run for run in ledger.runs()["week01"]] == ["c9", "c10", "c11"]
    assert ledger.before(newer) == (older,)
    assert ledger.before(older) == ()


def test_a_ledger_holds_what_pages_follow_from(tmp_path: Path) -> None:
    lay(tmp_path, {"SCOREBOARD.md": b"# Scoreboard\n", README: b"# Week 01\n", "results/week01/c7/result.json": b"{}",
                   "results/week01/c7/speedup.png": b"PNG", "results/week01/notes/result.json": b"{}", "README.md": b"# A\n"})
    assert set(store.open_ledger(tmp_path).files) == {"SCOREBOARD.md", README, "results/week01/c7/result.json"}


def test_a_broken_result_is_named(tmp_path: Path) -> None:
    lay(tmp_path, {"results/week01/c7/result.json": b"{}"})
    with pytest.raises(UserError, match=r"results/week01/c7/result.json is no result: Result: run, request"):
        store.open_ledger(tmp_path).runs()


def test_a_checkout_knows_its_commit(tmp_path: Path) -> None:
    lay(tmp_path, {"SCOREBOARD.md": b"# Scoreboard\n"})
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    ledger = store.open_checkout(tmp_path)
    shown = subprocess.run(["git", "log", "-1", "--format=%H %T"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"{ledger.sha} {ledger.tree}\n" == shown
    assert ledger.files == {"SCOREBOARD.md": b"# Scoreboard\n"}


def test_a_folder_that_is_no_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no git checkout"):
        store.open_checkout(tmp_path)


# ---------------------------------------------------------------------------------------------------- what follows


def test_an_entry() -> None:
    entry = store.entry(checked())
    assert set(entry) == {f"results/week01/c7/{name}" for name in ("result.json", "speedup.png", *WEEK01.files)}
    assert entry["results/week01/c7/speedup.png"].startswith(b"\x89PNG")
    assert entry == store.entry(checked())


def test_a_failed_run_is_entered_without_plots() -> None:
    failed = Checked(result(status="timeout", failure=Failure("it took too long"), observed=(), files=()), {})
    assert set(store.entry(failed)) == {"results/week01/c7/result.json"}


def test_pages_follow_from_the_runs_alone() -> None:
    ledger = Ledger({"SCOREBOARD.md": b"# Mine\n\nwords\n", README: b"# Week 01\n"}).with_files(store.entry(checked()))
    pages = store.pages(ledger, WEEKS)
    assert set(pages) == {"SCOREBOARD.md", README}
    assert pages["SCOREBOARD.md"].startswith(b"# Mine\n\nwords\n")
    assert b"[c7](results/week01/c7)" in pages["SCOREBOARD.md"]
    assert b"results/week01/c7" in pages[README]
    assert store.pages(ledger.with_files(pages), WEEKS) == pages


# ---------------------------------------------------------------------------------------------------- history


def night(number: int, name: str = "", **changes: Any) -> Any:
    return result(run=name or f"c{number}", started=f"2026-11-{number:02d}T12:00:00Z", **changes)


def ledger_of(*runs: Any, accepted: tuple[str, ...] = ()) -> Ledger:
    return Ledger({}).with_files({f"{store.folder(run)}/result.json": dumps(run).encode() for run in runs}
                                 | {f"results/week01/{run}/accepted.json": b"{}" for run in accepted})


def test_what_is_known_beside_a_run() -> None:
    one, two, second, later = night(1), night(2), night(3, "c2-2"), night(4)
    ledger = ledger_of(later, second, two, one, accepted=("c1", "c2-2"))
    assert ledger.history(two) == History((one,), ("c1", "c2-2"), second)
    assert ledger.history(second) == History((one, two), ("c1", "c2-2"), None)
    assert ledger.history(one) == History((), ("c1", "c2-2"), None)
    assert ledger.accepted("week02") == ()


def test_what_was_accepted_is_read_from_a_checkout(tmp_path: Path) -> None:
    lay(tmp_path, {f"results/{run}/accepted.json": b"{}" for run in ("week01/c7", "week02/c9-2", "week01/x")})
    ledger = store.open_ledger(tmp_path)
    assert (ledger.accepted("week01"), ledger.accepted("week02")) == (("c7",), ("c9-2",))


def test_a_trend_is_drawn_where_there_are_runs_to_compare_with() -> None:
    nights = tuple(night(n) for n in range(1, 4))
    drawn = store.trend(nights[2], WEEK01, History(nights[:2]))
    assert set(drawn) == {"results/week01/c3/trend.png"}
    assert drawn["results/week01/c3/trend.png"].startswith(b"\x89PNG")
    assert store.trend(nights[2], WEEK01, History(nights[:1])) == {}
    assert store.trend(nights[2], None, History(nights[:2])) == {}


def test_every_picture_follows_from_the_ledger() -> None:
    nights = tuple(night(n) for n in range(1, 5))
    pictures = store.pictures(ledger_of(*nights), WEEKS)
    assert set(pictures) == {f"results/week01/{path}.png" for path in (
        "c1/speedup", "c2/speedup", "c3/speedup", "c3/trend", "c4/speedup", "c4/trend")}
    grown = store.pictures(ledger_of(*nights, night(5), night(9, "c4-2")), WEEKS)
    assert {path: grown[path] for path in pictures} == pictures
    assert store.trend(nights[3], WEEK01, ledger_of(*nights).history(nights[3])) == {
        "results/week01/c4/trend.png": pictures["results/week01/c4/trend.png"]}


def test_a_trend_is_stored_with_its_run_and_follows_from_who_came_first(hub: Hub, localhub: Any) -> None:
    """The second is published from a checkout that does not know the first: the trend is drawn from what the branch holds."""
    ledger = at(localhub, hub)
    for number in (1, 2):
        ledger = store.put(hub, "main", ledger, checked(f"c{number}", started=f"2026-11-{number:02d}T12:00:00Z"), WEEKS)
        ledger = dataclasses.replace(ledger, tree=hub.tree(ledger.sha))
    stale = ledger
    store.put(hub, "main", stale, checked("c3", started="2026-11-03T12:00:00Z"), WEEKS)
    after = store.put(hub, "main", stale, checked("c4", started="2026-11-04T12:00:00Z"), WEEKS)
    held = paths(localhub, "main")
    assert [path for path in held if path.endswith("trend.png")] == ["results/week01/c3/trend.png", "results/week01/c4/trend.png"]
    pictures = store.pictures(after, WEEKS)
    assert all(localhub.git.read("main", path) == png for path, png in pictures.items())
    assert set(hub.changed(stale.sha, after.sha)) >= {"results/week01/c4/result.json", "results/week01/c4/trend.png"}
    assert len(localhub.git.log("main")) == 5


# ---------------------------------------------------------------------------------------------------- writing


def test_one_commit_holds_everything(hub: Hub, localhub: Any) -> None:
    localhub.put({README: b"# Week 01\n"})
    before = at(localhub, hub)
    after = store.put(hub, "main", before, checked(), WEEKS)
    [commit, *_] = localhub.git.log("main")
    assert localhub.git.commit(commit).message.strip() == "Record week01 run c7: ok"
    assert after.sha == localhub.git.head() != before.sha
    assert set(hub.changed(before.sha, after.sha)) == {*store.entry(checked()), "SCOREBOARD.md", README}
    assert at(localhub, hub).files == after.files


def test_the_same_run_is_committed_once(hub: Hub, localhub: Any) -> None:
    after = store.put(hub, "main", at(localhub, hub), checked(), WEEKS)
    before = len(localhub.requests)
    assert store.put(hub, "main", after, checked(), WEEKS) == after
    assert localhub.requests[before:] == []


def test_the_same_run_from_an_old_checkout_is_committed_once(hub: Hub, localhub: Any) -> None:
    old = at(localhub, hub)
    after = store.put(hub, "main", old, checked(), WEEKS)
    again = store.put(hub, "main", old, checked(), WEEKS)
    assert (again.sha, again.files) == (after.sha, after.files)
    assert localhub.git.head() == after.sha


FAILED: dict[str, Any] = {"status": "crashed", "failure": Failure("it fell"), "observed": (), "files": ()}


@pytest.mark.parametrize(("first", "second", "kept"), [
    (FAILED, {}, "second"), (FAILED, FAILED, "second"), ({}, {}, "first"), ({}, FAILED, "first")],
    ids=["failed-ok", "failed-failed", "ok-ok", "ok-failed"])
def test_a_run_that_was_run_again_replaces_its_failure_only(
        hub: Hub, localhub: Any, first: dict[str, Any], second: dict[str, Any], kept: str) -> None:
    """The second attempt has the checkout of the first, so it learns of the entry when it writes."""
    old = at(localhub, hub)
    store.put(hub, "main", old, checked(duration_s=1.0, **first), WEEKS)
    after = store.put(hub, "main", old, checked(duration_s=2.0, **second), WEEKS)
    assert [run.duration_s for run in after.runs()["week01"]] == [{"first": 1.0, "second": 2.0}[kept]]
    assert after.files == at(localhub, hub).files


def test_nobodys_row_is_lost(hub: Hub, localhub: Any) -> None:
    old = at(localhub, hub)
    localhub.put({"README.md": b"# Somebody's words\n"})
    store.put(hub, "main", old, checked("c7"), WEEKS)
    store.put(hub, "main", old, checked("c8", started="2026-11-23T14:00:00Z"), WEEKS)
    after = at(localhub, hub)
    assert [run.run for run in after.runs()["week01"]] == ["c7", "c8"]
    assert all(name in after.files["SCOREBOARD.md"] for name in (b"[c7]", b"[c8]"))
    assert localhub.git.read("main", "README.md") == b"# Somebody's words\n"
    assert after.files["SCOREBOARD.md"] == store.pages(after, WEEKS)["SCOREBOARD.md"]


def test_words_written_meanwhile_stay_and_what_was_removed_stays_away(hub: Hub, localhub: Any) -> None:
    first = store.put(hub, "main", at(localhub, hub), checked("c7"), WEEKS)
    words = b"# New words\n\n" + first.files["SCOREBOARD.md"]
    localhub.put({"SCOREBOARD.md": words, "results/week01/c7/result.json": None})
    stale = dataclasses.replace(first, tree=hub.tree(first.sha))
    after = store.put(hub, "main", stale, checked("c8"), WEEKS)
    assert [run.run for run in after.runs()["week01"]] == ["c8"]
    assert after.files["SCOREBOARD.md"].startswith(b"# New words\n")


def test_it_gives_way_only_so_often(hub: Hub, localhub: Any, waits: list[float]) -> None:
    localhub.fault("PATCH", "/git/refs/", times=9, status=422, message="Update is not a fast forward")
    with pytest.raises(Moved):
        store.put(hub, "main", at(localhub, hub), checked(), WEEKS)
    assert len(waits) == store.TRIES - 1
    assert waits == sorted(waits)


def test_a_protected_branch_is_no_race(hub: Hub, localhub: Any) -> None:
    localhub.fault("PATCH", "/git/refs/", status=422, message="Repository rule violations found")
    with pytest.raises(HubError, match="rule violations"):
        store.put(hub, "main", at(localhub, hub), checked(), WEEKS)


def test_redraw_commits_only_what_changed(hub: Hub, localhub: Any) -> None:
    after = store.redraw(hub, "main", at(localhub, hub), WEEKS)
    assert localhub.git.read("main", "SCOREBOARD.md") == store.pages(Ledger({}), WEEKS)["SCOREBOARD.md"]
    assert store.redraw(hub, "main", after, WEEKS) == after
    assert len(localhub.git.log("main")) == 2


def test_the_stored_json_is_the_result() -> None:
    ledger = Ledger({}).with_files(store.entry(checked()))
    assert ledger.runs() == {"week01": (result(),)}
    assert ledger.files == {"results/week01/c7/result.json": dumps(result()).encode()}


def test_one_week_is_read_alone() -> None:
    runs = [result(run=f"c{n}", started=f"2026-11-2{n}T12:00:00Z") for n in (2, 1, 3)]
    ledger = Ledger({f"results/week01/{run.run}/result.json": dumps(run).encode() for run in runs}
                    | {"results/week02/c9/result.json": b"{}", "results/week01/c1/notes.txt": b"x"})
    assert [run.run for run in ledger.week("week01")] == ["c1", "c2", "c3"]
    assert ledger.week("week03") == ()
    with pytest.raises(UserError, match=r"c9/result\.json is no result"):
        ledger.week("week02")


def test_who_reads_the_ledger_does_not_wait_for_matplotlib() -> None:
    imported = "import sys, bot.__main__, bot.store; print({'matplotlib', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True).stdout == "set()\n"
