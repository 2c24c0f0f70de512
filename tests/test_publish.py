"""The sequences that write: the whole way of a command, cut at every step and run again, with the same end."""

import contextlib
import dataclasses
import re
from typing import Any

import pytest
from sample_week import COMMIT, WEEK01, files, observed, paths, result

from bot import commands, store
from bot.artifact import Checked
from bot.cards import every_week_card, lost_card, queued_card
from bot.errors import HubError, HubRefused
from bot.hub import Hub, signed
from bot.kickoff import kickoff
from bot.publish import Place, accept, announce, give_up, open_week, publish, waited_s
from bot.report import Where
from bot.store import Ledger
from workloads.plan import WEEKS as PLANNED
from workloads.plan import planned
from workloads.spec import Estimate, Failure, Observed, Request, dumps

WEEKS = {"week01": WEEK01}
WHERE = Where("https://github.com", "sprinter/sprint", "main")


@pytest.fixture
def hub(localhub: Any) -> Hub:
    return Hub(*localhub.hub_args, pause_s=0, sleep=lambda _: None)


@dataclasses.dataclass
class Asked:
    """A command as the gate leaves it once it is accepted, and the repository as the report job's checkout has it."""

    place: Place
    ledger: Ledger
    command: Any

    def checked(self, **changes: Any) -> Checked:
        made = result(run=self.place.request_id, commit=COMMIT, **changes)
        return Checked(made, {name: content for name, content in files(made).items() if name != "result.json"})


def ask(localhub: Any, hub: Hub, title: str = "", body: str = "/bench week01") -> Asked:
    plan = kickoff(planned(1), WEEK01)
    issue = localhub.open_issue(title or plan.title, plan.body, login="github-actions[bot]")
    command = localhub.comment_as("member", issue.number, body)
    head = hub.head("main")
    ledger = Ledger({}, head, hub.tree(head))
    localhub.requests.clear()
    assert hub.claim(command.id)
    request = commands.parse(body)
    assert isinstance(request, Request)
    made = hub.post_card(issue.number, f"c{command.id}", "4242", queued_card(f"c{command.id}", request, WHERE))
    return Asked(Place(issue.number, made, command.id, "4242", WHERE), ledger, command)


def card(localhub: Any) -> str:
    """The one comment of the bot."""
    [body] = [c.body for c in localhub.hub.issues[0].comments if c.user.login == "github-actions[bot]" and "/notice " not in c.body]
    return str(body)


def notices(localhub: Any) -> list[str]:
    return [c.body.split("\n\n", 1)[1] for c in localhub.hub.issues[0].comments if "/notice " in c.body]


def signs(asked: Asked) -> list[str]:
    return [reaction.content for reaction in asked.command.reactions]


def test_the_whole_way_of_a_command(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub)
    ledger = publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    run = asked.place.request_id
    assert card(localhub).startswith(f"<!-- sprintbench:card {run} run=4242 -->\n\n### week01 · met")
    assert f"/blob/{ledger.sha}/results/week01/{run}/speedup.png?raw=true" in card(localhub)
    assert "- [x] " in localhub.hub.issues[0].body
    assert f"([{run}](https://github.com/sprinter/sprint/issues/1#issuecomment-{asked.place.card}))" in localhub.hub.issues[0].body
    assert run.encode() in localhub.git.read("main", "SCOREBOARD.md")
    assert signs(asked) == ["eyes", "rocket"]
    assert len(localhub.requests) <= 15


def test_a_smoke_run_ticks_nothing(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub, body="/bench week01 --smoke")
    publish(hub, "main", asked.ledger, asked.checked(request=Request("bench", "week01", smoke=True)), WEEKS, asked.place)
    assert "not judged (smoke run)" in card(localhub)
    assert "[x]" not in localhub.hub.issues[0].body


def test_a_run_asked_for_elsewhere_ticks_its_own_weeks_issue(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub, title="Week 02 - another")
    publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    assert "[x]" not in localhub.hub.issues[0].body
    assert signs(asked) == ["eyes", "rocket"]
    plan = kickoff(planned(1), WEEK01)
    own = localhub.open_issue(plan.title, plan.body, login="github-actions[bot]")
    publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    assert "[x]" not in localhub.hub.issues[0].body
    assert f"([{asked.place.request_id}](https://github.com/sprinter/sprint/issues/1#issuecomment-{asked.place.card}))" in own.body


def ci_of(localhub: Any, conclusion: Any) -> None:
    """A run of ci.yml on the default branch that has ended so."""
    localhub.put({".github/workflows/ci.yml": b"name: ci\non: push\njobs: {test: {name: Test}}\n"})
    run = localhub.hub.add_run(localhub.hub.workflow("ci.yml"), "push", {}, localhub.hub.users["sprinter"], "a title")
    run.status, run.conclusion = "completed", conclusion


@pytest.mark.parametrize(("conclusion", "ticked"), [("success", True), ("failure", False)])
def test_tests_that_pass_are_ticked(hub: Hub, localhub: Any, conclusion: str, ticked: bool) -> None:
    ci_of(localhub, conclusion)
    asked = ask(localhub, hub)
    publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    [line] = [line for line in localhub.hub.issues[0].body.splitlines() if "sb:criteria/2" in line]
    assert line.startswith("- [x]") is ticked
    assert (f"passed at {localhub.hub.runs[0].sha[:7]}" in line) is ticked


@pytest.mark.parametrize("status", [403, 404])
def test_tests_that_cannot_be_seen_tick_nothing(hub: Hub, localhub: Any, status: int) -> None:
    asked = ask(localhub, hub)
    localhub.fault("GET", "/ci.yml/runs", status=status, message="no")
    publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    assert "- [x]" in localhub.hub.issues[0].body
    assert "[x] Perf and unit tests" not in localhub.hub.issues[0].body


def test_a_refusal_of_another_kind_is_one(hub: Hub, localhub: Any) -> None:
    localhub.fault("GET", "/ci.yml/runs", status=410, message="Gone")
    with pytest.raises(HubRefused):
        hub.checks("main")


# ---------------------------------------------------------------------------------------------------- one of many, and a baseline


def legs_of(localhub: Any, hub: Hub) -> tuple[Asked, list[Place]]:
    """A command for all weeks, of which two can run, as the gate leaves it."""
    asked = ask(localhub, hub, body="/bench all")
    name = asked.place.request_id
    hub.edit_card(asked.place.card, name, "4242", every_week_card([("week01", "", ""), ("week02", "", "")], WHERE))
    cards = [hub.post_card(1, f"{name}/{week}", "4242", queued_card(name, Request("bench", week), WHERE)) for week in ("week01", "week02")]
    return asked, [dataclasses.replace(asked.place, card=card, week=week) for card, week in zip(cards, ("week01", "week02"), strict=True)]


def test_the_summary_follows_the_weeks(hub: Hub, localhub: Any) -> None:
    asked, places = legs_of(localhub, hub)
    weeks = {"week01": WEEK01, "week02": WEEK01, "week03": WEEK01}  # the third came after the command
    ledger = publish(hub, "main", asked.ledger, asked.checked(), weeks, places[0])
    summary, first, second = (c.body for c in localhub.hub.issues[0].comments if c.user.login == "github-actions[bot]")
    assert "### All weeks · 1 of 2 ended" in summary
    assert "week01: met" in summary
    assert "week02: waits for its report" in summary
    assert "### week01 · met" in first
    assert "queued" in second
    lost = lost_card(asked.place.request_id, Request("bench", "week02"), "failure", WHERE)
    give_up(hub, places[1], lost, ledger, weeks)
    summary = localhub.hub.issues[0].comments[1].body
    assert "### All weeks · every week has ended" in summary
    assert "week02: ended without a result" in summary


def test_a_summary_that_somebody_deleted_is_not_missed(hub: Hub, localhub: Any) -> None:
    asked, places = legs_of(localhub, hub)
    del localhub.hub.issues[0].comments[1]
    publish(hub, "main", asked.ledger, asked.checked(), {"week01": WEEK01, "week02": WEEK01}, places[0])
    bodies = [c.body for c in localhub.hub.issues[0].comments if c.user.login == "github-actions[bot]"]
    assert ["met" in body.splitlines()[2] for body in bodies] == [True, False]


def test_a_baseline_is_accepted_once(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub, body="/accept c7")
    localhub.put({"results/week01/c7/result.json": dumps(result()).encode()})
    head = hub.head("main")
    ledger = Ledger({"results/week01/c7/result.json": dumps(result()).encode()}, head)
    request = Request("accept", "week01", runs=(7,))
    for _ in range(2):
        ledger = accept(hub, "main", ledger, request, WEEKS, asked.place)
    assert ledger.accepted("week01") == ("c7",)
    assert b'"c7"' in localhub.git.read("main", "results/week01/c7/accepted.json")
    assert asked.place.request_id.encode() in localhub.git.read("main", "results/week01/c7/accepted.json")
    assert len(localhub.git.log("main")) == 3
    assert "### week01 · [c7](https://github.com/sprinter/sprint/tree/main/results/week01/c7) is the new baseline" in card(localhub)
    assert signs(asked) == ["eyes", "rocket"]


def test_a_baseline_that_is_gone(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub, body="/accept c7")
    assert accept(hub, "main", asked.ledger, Request("accept", "week01", runs=(7,)), WEEKS, asked.place) == asked.ledger
    assert "Nothing was accepted: results/ has no c7 any more." in card(localhub)
    assert signs(asked) == ["eyes", "confused"]


def test_a_failed_run_is_stored_and_says_so(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub)
    failed = asked.checked(status="crashed", failure=Failure("signal 11", "last words"), observed=(), files=())
    publish(hub, "main", asked.ledger, failed, WEEKS, asked.place)
    assert "failed: crashed" in card(localhub)
    assert localhub.git.read("main", f"results/week01/{asked.place.request_id}/result.json")
    assert signs(asked) == ["eyes", "confused"]


def end(localhub: Any, asked: Asked) -> tuple[Any, ...]:
    """What people see, less commit ids."""
    head = localhub.git.head()
    held = {path: localhub.git.read(head, path) for path in paths(localhub, head)}
    return re.sub(r"[0-9a-f]{40}", "SHA", card(localhub)), localhub.hub.issues[0].body, held, signs(asked), len(localhub.git.log("main"))


STEPS = ("/git/blobs", "/git/trees", "/git/commits", "/git/refs/", "/issues/comments/[0-9]+$", "/issues/1$", "/reactions")


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_cut_anywhere_and_run_again_it_ends_the_same(hub: Hub, localhub: Any, step: str, applied: bool) -> None:
    asked = ask(localhub, hub)
    method = "PATCH" if step in STEPS[3:6] else "POST"
    localhub.fault(method, step, times=4, reset=True, apply=applied)
    with contextlib.suppress(HubError):  # an issue that was written after all is seen to be so, and nothing fails
        publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    assert all(fault.times < 4 for fault in localhub.service.faults)
    localhub.service.faults.clear()
    publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    again = end(localhub, asked)
    publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    assert end(localhub, asked) == again
    assert again[3:] == (["eyes", "rocket"], 2)
    assert "### week01 · met" in again[0]
    assert "[x]" in again[1]


def at_speed(value: float) -> tuple[Observed, ...]:
    """One process of week 01 whose headline metric has this value, exactly."""
    headline = WEEK01.headline.measured(Estimate("exact", value, value, value, (value,)))
    return (Observed(tuple(headline if m.name == headline.name else m for m in observed().metrics)),)


def beside_nights(localhub: Any, hub: Hub, asked: Asked) -> Asked:
    """The same command, asked beside seven quiet nights, each within 1% of 1.875 x."""
    nights = [result(run=f"r{day}", started=f"2026-11-{day:02d}T12:00:00Z", observed=at_speed(1.875 * (1 + wobble / 1000)))
              for day, wobble in enumerate((3, -5, 1, 8, -2, 0, -7), 1)]
    localhub.put({f"{store.folder(run)}/result.json": dumps(run).encode() for run in nights})
    return dataclasses.replace(asked, ledger=ledger_at(localhub, hub))


@pytest.mark.parametrize(("first", "second", "said", "then"), [
    (1 / 1.05, 1 / 1.048, "suspected 4.8% lower (worse)** than the median of 7 runs", "confirmed 4.8% lower (worse)**"),
    (1 / 1.05, 1.003, "suspected 4.8% lower (worse)**", "Against history: cleared."),
    (1.004, 0.997, "Against history: no change in", "Against history: no change in")], ids=["planted", "hiccup", "re-run"])
def test_a_planted_slowdown_is_suspected_then_confirmed_and_a_plain_run_is_not(
        hub: Hub, localhub: Any, first: float, second: float, said: str, then: str) -> None:
    """Through the store and the card, as the bot does it: the run, then its second, and the first's card told anew."""
    asked = beside_nights(localhub, hub, ask(localhub, hub))
    run = asked.place.request_id
    checked = asked.checked(observed=at_speed(1.875 * first))
    ledger = publish(hub, "main", asked.ledger, checked, WEEKS, asked.place)
    assert said in card(localhub)
    assert f"/blob/{ledger.sha}/results/week01/{run}/trend.png?raw=true" in card(localhub)
    trend = localhub.git.read("main", f"results/week01/{run}/trend.png")
    again = Checked(dataclasses.replace(checked.result, run=f"{run}-2", started="2026-11-23T13:00:00Z", observed=at_speed(1.875 * second)),
                    checked.files)
    ledger = store.put(hub, "main", dataclasses.replace(ledger, tree=hub.tree(ledger.sha)), again, WEEKS)
    for _ in range(2):
        announce(hub, "main", ledger, checked.result, WEEKS, dataclasses.replace(asked.place, login="member"))
    assert then in card(localhub)
    rung = [f"@member: week01 got worse, and a second run agrees: {WEEK01.headline.text} is "] if "confirmed" in then else []
    assert [text.partition(" is ")[0] + " is " for text in notices(localhub)] == rung
    path = f"results/week01/{run}/trend.png"
    assert localhub.git.read("main", path) == trend == store.pictures(ledger, WEEKS)[path]
    assert localhub.git.read("main", f"results/week01/{run}-2/trend.png")


def test_a_deleted_card_is_posted_anew_and_once(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub)
    localhub.hub.issues[0].comments.pop()
    for _ in range(2):
        publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    assert "### week01 · met" in card(localhub)


def test_a_deleted_issue_loses_nothing_but_the_comment(hub: Hub, localhub: Any, capsys: Any) -> None:
    asked = ask(localhub, hub)
    localhub.hub.issues.clear()
    publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    assert asked.place.request_id.encode() in localhub.git.read("main", "SCOREBOARD.md")
    assert "HTTP 404" in capsys.readouterr().err


def test_one_refusal_does_not_stop_the_rest(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub)
    localhub.fault("PATCH", "/issues/comments/", status=403, message="Resource not accessible by integration")
    with pytest.raises(HubRefused, match="not accessible"):
        publish(hub, "main", asked.ledger, asked.checked(), WEEKS, asked.place)
    assert "[x]" in localhub.hub.issues[0].body
    assert signs(asked) == ["eyes", "rocket"]


def test_a_lost_run_says_so_and_is_no_result(hub: Hub, localhub: Any) -> None:
    asked = ask(localhub, hub)
    run = asked.place.request_id
    lost = lost_card(run, Request("bench", "week01"), "failure", WHERE)
    give_up(hub, asked.place, lost, asked.ledger, WEEKS)
    assert "left no result" in card(localhub)
    assert card(localhub) == signed(lost, run, "4242")
    assert signs(asked) == ["eyes", "confused"]
    assert len(localhub.git.log("main")) == 1


@pytest.mark.parametrize(("asked", "started", "waited"), [
    ("2026-11-23T12:00:00Z", "2026-11-23T12:01:30Z", 90.0), ("2026-11-23T12:00:00Z", "2026-11-23T11:59:59Z", None),
    ("", "2026-11-23T12:01:30Z", None)])
def test_waiting(asked: str, started: str, waited: float | None) -> None:
    assert waited_s(asked, started) == waited


# ---------------------------------------------------------------------------------------------------- kickoff


def ledger_at(localhub: Any, hub: Hub) -> Ledger:
    head = hub.head("main")
    held = {path: localhub.git.read(head, path) for path in paths(localhub, head)}
    return dataclasses.replace(Ledger({}).with_files(held), sha=head, tree=hub.tree(head))


def test_a_week_is_opened_once(hub: Hub, localhub: Any) -> None:
    assert open_week(hub, "main", ledger_at(localhub, hub), WEEKS, "week03") == ("week03", 1, True)
    assert open_week(hub, "main", ledger_at(localhub, hub), WEEKS, "week03") == ("week03", 1, False)
    [issue] = localhub.hub.issues
    plan = kickoff(planned(3), None)
    assert (issue.title, issue.body, issue.milestone.title) == (plan.title, plan.body, plan.milestone)
    assert tuple(label.name for label in issue.labels) == plan.labels
    assert localhub.git.read("main", "SCOREBOARD.md") == store.pages(Ledger({}), WEEKS)["SCOREBOARD.md"]
    assert len(localhub.git.log("main")) == 2


def test_monday_opens_the_next_week(hub: Hub, localhub: Any) -> None:
    localhub.open_issue("Week 02 - opened by hand")
    ledger = ledger_at(localhub, hub)
    opened = [open_week(hub, "main", ledger, WEEKS, None) for _ in range(3)]
    assert opened == [("week01", 2, True), ("week03", 3, True), ("week04", 4, True)]


def test_after_the_last_week_there_is_none(hub: Hub, localhub: Any) -> None:
    for week in PLANNED:
        localhub.open_issue(kickoff(week, None).title)
    assert open_week(hub, "main", ledger_at(localhub, hub), WEEKS, None) is None
    assert len(localhub.hub.issues) == 16
