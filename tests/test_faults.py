"""The weather between the bot and GitHub, fault by fault, while a report is published: one comment, one entry, no row lost."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sample_week import WEEK01, observed
from test_hub import FOUL
from test_publish import STEPS, Asked, ask, card, end, ledger_at, signs
from test_store import checked

from bot import store
from bot.errors import HubError, HubRefused, Moved
from bot.hub import Hub
from bot.kickoff import kickoff
from bot.publish import publish
from workloads.plan import planned
from workloads.spec import Request

WEEKS = {"week01": WEEK01}


@pytest.fixture
def hub(localhub: Any) -> Hub:
    return Hub(*localhub.hub_args, pause_s=0, sleep=lambda _: None)


def posted(hub: Hub, asked: Asked) -> None:
    publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)


def well_published(localhub: Any, asked: Asked) -> bool:
    text, body, held, reactions, commits = end(localhub, asked)
    return "### week01 · met" in text and "[x]" in body and f"results/week01/{asked.place.request_id}/result.json" in held \
        and reactions == ["eyes", "rocket"] and commits == 2


@pytest.mark.parametrize("fault", FOUL)
def test_every_write_of_a_report_meets_the_fault_once(hub: Hub, localhub: Any, fault: str) -> None:
    asked = ask(localhub, hub)
    for step in STEPS:
        localhub.fault("PATCH" if step in STEPS[3:6] else "POST", step, **FOUL[fault])
    posted(hub, asked)
    assert all(one.times == 0 for one in localhub.service.faults)
    assert well_published(localhub, asked)


@pytest.mark.parametrize("fault", [{"status": 409, "message": "Conflict"}, {"status": 422, "message": "Update is not a fast forward"}])
def test_a_ref_that_moved_is_built_on_anew(hub: Hub, localhub: Any, fault: dict[str, Any]) -> None:
    asked = ask(localhub, hub)
    localhub.fault("PATCH", "/git/refs/", **fault)
    posted(hub, asked)
    assert well_published(localhub, asked)


def test_an_answer_that_is_too_late(localhub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether a write that was not answered in time took place, so it is looked for before it is repeated."""
    monkeypatch.setattr("bot.hub.TIMEOUT_S", 1)
    hub = Hub(*localhub.hub_args, pause_s=0, sleep=lambda _: time.sleep(1))
    issue = localhub.open_issue("Week 01 - a title").number
    localhub.fault("POST", "/comments$", delay_s=1.4)
    made = hub.post_card(issue, "c7", "4242", "queued")
    assert [made] == [comment.id for comment in localhub.hub.issues[0].comments]


def test_github_is_down_for_the_whole_report_and_back_for_the_next(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub)
    before = end(localhub, asked)
    for method in ("GET", "POST", "PATCH"):
        localhub.fault(method, "", times=999, status=503)
    with pytest.raises(HubError):
        posted(hub, asked)
    assert before == end(localhub, asked)
    localhub.service.faults.clear()
    posted(hub, asked)
    assert well_published(localhub, asked)


@pytest.mark.parametrize("status", [404, 410])
def test_an_issue_that_is_gone_keeps_the_result(hub: Hub, localhub: Any, status: int) -> None:
    asked = ask(localhub, hub)
    for method in ("GET", "POST", "PATCH"):
        localhub.fault(method, "/issues/", times=999, status=status, message="Gone")
    posted(hub, asked)
    assert asked.place.request_id.encode() in localhub.git.read("main", "SCOREBOARD.md")


def test_a_locked_issue_gets_its_report(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub)
    localhub.hub.issues[0].locked = True
    posted(hub, asked)
    assert well_published(localhub, asked)


def test_where_the_bot_may_not_write_the_result_is_stored_and_the_job_fails(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub)
    for method in ("POST", "PATCH"):
        localhub.fault(method, "/issues/", times=999, status=403, message="Resource not accessible by integration")
    with pytest.raises(HubRefused, match="not accessible"):
        posted(hub, asked)
    assert asked.place.request_id.encode() in localhub.git.read("main", "SCOREBOARD.md")
    assert sum("/issues/" in request.path and request.method != "GET" for request in localhub.requests) == 5  # claim, card; one try each


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_words_written_between_two_attempts_stay(localhub: Any, applied: bool) -> None:
    """A person edits the issue while the bot waits to tick it once more."""
    def edit(_: float) -> None:
        localhub.hub.issues[0].body += "\nWords of mine.\n"

    hub = Hub(*localhub.hub_args, pause_s=0, sleep=edit)
    asked = ask(localhub, hub)
    localhub.fault("PATCH", "/issues/1$", status=502, apply=applied)
    posted(hub, asked)
    body = localhub.hub.issues[0].body
    assert ("[x]" in body, body.endswith("\nWords of mine.\n")) == (True, True)
    assert len(body.splitlines()) == len(kickoff(planned(1), WEEK01).body.splitlines()) + 2


def test_the_same_report_twice_at_once(localhub: Any, hub: Hub) -> None:
    """A job that was thought dead works on while its second attempt runs."""
    asked = ask(localhub, hub)
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda _: store.put(Hub(*localhub.hub_args, pause_s=0.01), "main", asked.ledger, checked("c9"), WEEKS), range(2)))
    assert len(localhub.git.log("main")) == 2
    posted(hub, asked)
    assert (signs(asked), "### week01 · met" in card(localhub)) == (["eyes", "rocket"], True)


@pytest.mark.slow
def test_twenty_reports_at_once_lose_no_row(localhub: Any, hub: Hub, tmp_path: Path) -> None:
    """Each with its own connection and the same old checkout. Who gave way too often starts over, as a job that is run again."""
    old = ledger_at(localhub, hub)
    plain = dataclasses.replace(observed(), tables=())  # without charts, and so unlike that no trend is drawn: this is about rows

    def write(number: int) -> None:
        mine = Hub(*localhub.hub_args, pause_s=0.1)
        made = checked(f"c{number}", started=f"2026-11-23T12:00:{number:02d}Z", observed=(plain,),
                       request=Request("bench", "week01", batch=number))
        while True:
            try:
                store.put(mine, "main", old, made, WEEKS)
            except Moved:
                continue
            return

    with ThreadPoolExecutor(20) as writers:
        list(writers.map(write, range(1, 21)))
    after = ledger_at(localhub, hub)
    assert [run.run for run in after.runs()["week01"]] == [f"c{number}" for number in range(1, 21)]
    assert after.files["SCOREBOARD.md"] == store.pages(after, WEEKS)["SCOREBOARD.md"]
    assert len(localhub.git.log("main")) == 21
