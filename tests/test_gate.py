"""Who may, once, and what they are told: events through the gate, against a hub that judges every exchange."""

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_week import COMMIT, WEEK01, result

from bot import commands, gate
from bot.cards import waits_for
from bot.compare import compare
from bot.errors import UserError
from bot.forecast import dry_run
from bot.hub import Hub
from bot.post import post
from bot.report import Where
from bot.store import Ledger
from workloads.plan import planned
from workloads.spec import Accepted, Deliverable, Request, Result, Workload, discover, dumps

EVENTS = json.loads((Path(__file__).parent / "cases" / "events.json").read_text())
BOT = "github-actions[bot]"
WEEKS = discover()
WHERE = Where("https://github.com", "sprinter/sprint", "main")


def patched(event: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(event)
    for path, value in patch.items():
        *way, last = path.split(".")
        at = made
        for name in way:
            at = at[name]
        at[last] = value
    return made


def make(localhub: Any, body: str | None = "/bench week01", login: str = "member", title: str = "Week 01 - a title",
         **patch: Any) -> dict[str, Any]:
    """The event of a comment that is there: on a new issue, by `login`."""
    issue = localhub.open_issue(title)
    comment = localhub.comment_as(login, issue.number, body or "(nothing)")
    number = localhub.hub.users[login].id
    event = {"action": "created", "sender": {"login": login, "id": number, "type": "User"},
             "comment": {"id": comment.id, "body": body, "user": {"login": login, "id": number, "type": "User"}},
             "issue": {"number": issue.number, "title": title, "state": "open", "locked": False}}
    return patched(event, {path.replace("__", "."): value for path, value in patch.items()})


def unread() -> Ledger:
    raise AssertionError("this command needs no ledger")


def decide(localhub: Any, event: dict[str, Any], workflow_run: str = "4242", held: Callable[[], Ledger] = unread,
           weeks: dict[str, Workload] = WEEKS) -> gate.Decision:
    found = gate.read(event, BOT)
    if isinstance(found, gate.Ask):
        hub = Hub(*localhub.hub_args, pause_s=0, sleep=lambda _: None)
        where = Where("https://github.com", localhub.repo, "main")
        return gate.answer(found, hub, weeks, where, workflow_run, held)
    return found


def said(localhub: Any) -> list[str]:
    """What the bot has written, without the hidden first line."""
    return [comment.body.split("\n\n", 1)[1] for issue in localhub.hub.issues for comment in issue.comments if comment.user.login == BOT]


def reactions(localhub: Any) -> list[str]:
    return [reaction.content for issue in localhub.hub.issues for comment in issue.comments for reaction in comment.reactions]


@pytest.mark.parametrize("case", EVENTS["cases"], ids=[case["id"] for case in EVENTS["cases"]])
def test_case(localhub: Any, case: dict[str, Any]) -> None:
    event = patched(EVENTS["base"], case["patch"])
    role = event["permission"]
    localhub.add_user("alice", 10, role if isinstance(role, str) else "write")
    if isinstance(role, int):
        localhub.fault("GET", "/permission", times=9, status=role)
    issue = localhub.open_issue("Week 07 - a title")
    event["comment"]["id"] = localhub.comment_as("alice", issue.number, "/bench").id
    event["issue"]["number"] = issue.number
    decision = decide(localhub, event)
    assert decision.verdict == case["expected"]
    assert f"accepted={'true' if case['expected'] == 'accepted' else 'false'}\n" in decision.outputs()


def test_an_accepted_bench(localhub: Any) -> None:
    event = make(localhub, "/bench --smoke --batch 64")
    decision = decide(localhub, event)
    number = event["comment"]["id"]
    card = localhub.hub.issues[0].comments[-1]
    assert decision.outputs() == (
        "verdict=accepted\naccepted=true\nrun=true\naccept=false\n"
        'request={"command":"bench","week":"week01","smoke":true,"batch":64,"gpus":1,"repeat":1,"profile":false,"vs":null,'
        '"dry_run":false,"runs":[]}\n'
        f"request_id=c{number}\nissue=1\ncard={card.id}\n"
        f'legs=[{{"week":"week01","request":{json.dumps(dumps(decision.request))},"name":"c{number}","card":"{card.id}","baseline":""}}]\n')
    assert card.body.startswith(f"<!-- sprintbench:card c{number} run=4242 -->\n\n")
    assert "\n### week01 · queued" in card.body
    assert waits_for(card.body) == decision.request
    assert reactions(localhub) == ["eyes"]
    assert len(localhub.requests) == 4


def test_a_stranger_gets_a_sign_and_no_words(localhub: Any) -> None:
    for body in ("/bench week01", "/bench week99", "/help"):
        assert decide(localhub, make(localhub, body, "stranger")) == gate.Decision("refused", gate.STRANGER)
    assert (said(localhub), reactions(localhub)) == ([], ["-1"] * 3)


@pytest.mark.parametrize(("body", "title", "verdict", "words"), [
    ("/bench week1", "Week 01 - a", "refused", "Did you mean `week01`?"),
    ("/bench", "Anything", "refused", gate.WHICH_WEEK),
    ("/bench week16", "Week 01 - a", "accepted", "week16 has no workload yet. Weeks that run: `week01`"),
    ("/bench --gpus 2", "Week 01 - a", "refused", "Nothing ran: week01 can use 1 GPU and no more."),
    ("/post", "Anything", "refused", gate.WHICH_WEEK),
    ("/post week16", "Week 01 - a", "accepted", "week16 has no workload yet"),
    ("/help", "Week 01 - a", "accepted", commands.help_text()),
])
def test_what_the_gate_answers_itself(localhub: Any, body: str, title: str, verdict: str, words: str) -> None:
    decision = decide(localhub, make(localhub, body, title=title))
    assert (decision.verdict, decision.run, decision.request) == (verdict, False, None)
    [answer] = said(localhub)
    assert words in answer
    assert commands.parse(answer) is None


# ---------------------------------------------------------------------------------------------------- from the ledger


def ledger(*runs: Result) -> Callable[[], Ledger]:
    return lambda: Ledger({f"results/{run.week}/{run.run}/result.json": dumps(run).encode() for run in runs})


C1, C2 = (result(run=run, started=f"2026-11-23T1{run[1]}:00:00Z") for run in ("c1", "c2"))
WEEK16 = result(run="c3", request=Request("bench", "week16"))


@pytest.mark.parametrize(("body", "expected"), [
    ("/compare c1 c2", compare(WEEK01, C1, C2, WHERE)),
    ("/compare c2 c1", compare(WEEK01, C2, C1, WHERE)),
    ("/post", post(WEEK01, [C1, C2], WHERE)),
    ("/post week01", post(WEEK01, [C1, C2], WHERE)),
    ("/bench --repeat 2 --dry-run", dry_run(WEEK01, Request("bench", "week01", repeat=2), [])),
    ("/bench --dry-run", dry_run(WEEK01, Request("bench", "week01"), [C1, C2])),
    ("/compare c1 c9", "Nothing to compare: the second run is not in [results/](https://github.com/sprinter/sprint/tree/main/results), "
                       "where every finished run is."),
    ("/compare c9 c1", "Nothing to compare: the first run is not in [results/](https://github.com/sprinter/sprint/tree/main/results), "
                       "where every finished run is."),
    ("/compare c8 c9", "Nothing to compare: neither of the two runs is in "
                       "[results/](https://github.com/sprinter/sprint/tree/main/results), where every finished run is."),
    ("/compare c1 c3", "Nothing to compare: the first run is of week01, the second of week16. Two runs of one week are needed."),
    ("/compare c3 c4", "Nothing to compare: week16 has no workload here any more."),
])
def test_what_is_answered_from_the_ledger(localhub: Any, body: str, expected: str) -> None:
    held = ledger(C2, C1, WEEK16, replace(WEEK16, run="c4"))
    decision = decide(localhub, make(localhub, body), held=held)
    assert (decision.verdict, decision.run, decision.request) == ("accepted", False, None)
    assert said(localhub) == [expected]
    assert len(localhub.requests) == 3


def test_a_ledger_that_was_broken_by_hand_is_told_of(localhub: Any) -> None:
    decision = decide(localhub, make(localhub, "/post"), held=lambda: Ledger({"results/week01/c1/result.json": b"`@x`"}))
    assert decision.verdict == "refused"
    assert said(localhub) == ["Nothing ran: `results/week01/c1/result.json is no result: not JSON: JSONDecodeError`."]


def test_a_week_is_opened_once(localhub: Any) -> None:
    event = make(localhub, "/kickoff week16")
    decision = decide(localhub, event)
    assert (decision.verdict, decision.run) == ("accepted", False)
    assert len(localhub.requests) <= 15
    decide(localhub, event)
    decide(localhub, make(localhub, "/kickoff week16"))
    assert [issue.title for issue in localhub.hub.issues][1].startswith("Week 16 - ")
    assert len(localhub.hub.issues) == 3
    assert said(localhub) == ["week16 has its issue already: #2."] * 2
    assert localhub.hub.issues[1].body.startswith("<!-- sprintbench:week week16 -->")


def test_a_week_that_is_open_stays_as_it_is(localhub: Any) -> None:
    decide(localhub, make(localhub, "/kickoff week01"))
    decide(localhub, make(localhub, "/kickoff week02", title="Anything"))
    assert said(localhub) == ["week01 has its issue already: #1.", "Opened week02: #3."]


def test_a_stranger_opens_no_week(localhub: Any) -> None:
    decide(localhub, make(localhub, "/kickoff week02", "stranger"))
    assert [issue.title for issue in localhub.hub.issues] == ["Week 01 - a title"]


@pytest.mark.parametrize("state", [{"issue__state": "closed"}, {"issue__locked": True}])
def test_a_closed_issue_says_so_to_those_who_may(localhub: Any, state: dict[str, Any]) -> None:
    assert decide(localhub, make(localhub, **state)).verdict == "refused"
    assert said(localhub) == [gate.CLOSED]
    assert decide(localhub, make(localhub, login="stranger", **state)).verdict == "refused"
    assert len(said(localhub)) == 1


@pytest.mark.parametrize(("patch", "verdict", "reason"), [
    ({"action": "edited"}, "ignored", gate.NOT_NEW),
    ({"action": "deleted"}, "ignored", gate.NOT_NEW),
    ({"comment__user__type": "Organization"}, "ignored", gate.NOT_A_PERSON),
    ({"comment__user__login": "GitHub-Actions[bot]"}, "ignored", gate.NOT_A_PERSON),
    ({"comment__performed_via_github_app": {"slug": "x"}}, "ignored", gate.NOT_A_PERSON),
    ({"issue__pull_request": {}}, "refused", gate.PULL_REQUEST),
    ({"sender__id": 66}, "refused", gate.FORGED),
    ({"comment__body": "hello"}, "ignored", gate.NO_COMMAND),
    ({"comment__body": None}, "ignored", gate.NO_COMMAND),
])
def test_what_is_decided_without_the_network(localhub: Any, patch: dict[str, Any], verdict: Any, reason: str) -> None:
    assert decide(localhub, make(localhub, **patch)) == gate.Decision(verdict, reason)
    assert localhub.requests == []


@pytest.mark.parametrize("patch", [
    {"comment": None}, {"comment__id": "7"}, {"comment__id": 0}, {"comment__id": True}, {"comment__body": 5}, {"comment__user": []},
    {"comment__user__login": None}, {"comment__user__id": None}, {"issue": "5"}, {"issue__number": 1.0}, {"sender": None}])
def test_a_malformed_event_is_an_error(localhub: Any, patch: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no issue_comment event"):
        decide(localhub, make(localhub, **patch))


@pytest.mark.parametrize("event", [None, [], "x", {}])
def test_no_event_at_all(event: Any) -> None:
    with pytest.raises(UserError, match="no issue_comment event"):
        gate.read(event, BOT)


def test_the_same_command_runs_once(localhub: Any) -> None:
    event = make(localhub)
    assert decide(localhub, event, "4242").run
    assert decide(localhub, event, "4243") == gate.Decision("ignored", gate.DUPLICATE)
    assert len(said(localhub)) == 1


def test_a_job_run_again_goes_on(localhub: Any) -> None:
    event = make(localhub)
    first = decide(localhub, event)
    again = decide(localhub, event)
    assert (again.run, again.card) == (True, first.card)
    assert len(said(localhub)) == 1


def test_a_claim_without_a_card_is_taken_up(localhub: Any) -> None:
    event = make(localhub)
    Hub(*localhub.hub_args, pause_s=0).claim(event["comment"]["id"])
    assert decide(localhub, event).run
    assert len(said(localhub)) == 1


def test_a_command_deleted_meanwhile_still_runs(localhub: Any) -> None:
    event = make(localhub)
    localhub.hub.issues[0].comments.clear()
    assert decide(localhub, event).run


@pytest.mark.parametrize(("method", "path"), [("GET", "/permission"), ("POST", "/reactions"), ("POST", "/comments$")])
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 403, "message": "Resource not accessible by integration"}, {"html": True}])
def test_without_an_answer_nothing_runs(localhub: Any, method: str, path: str, fault: dict[str, Any], capsys: Any) -> None:
    localhub.fault(method, path, times=99, **fault)
    decision = decide(localhub, make(localhub))
    assert decision == gate.Decision("refused", gate.UNANSWERED)
    assert said(localhub) == []
    assert path.strip("$") in capsys.readouterr().err


def test_when_a_comment_was_written() -> None:
    assert gate.asked_at({"comment": {"created_at": "2026-11-23T12:00:00Z"}}) == "2026-11-23T12:00:00Z"
    assert gate.asked_at({"comment": {}}) == ""


def test_outputs_hold_nothing_but_words_and_numbers() -> None:
    request = Request("bench", "week01")
    decision = gate.Decision("accepted", "x", True, request, "c7", 5, 6, legs=(gate.Leg(request, "c7", 6, COMMIT),))
    lines = dict(line.split("=", 1) for line in decision.outputs().splitlines())
    assert {**lines, "request": json.loads(lines["request"])["week"], "legs": json.loads(lines["legs"])} == {
        "verdict": "accepted", "accepted": "true", "run": "true", "accept": "false", "request": "week01", "request_id": "c7",
        "issue": "5", "card": "6",
        "legs": [{"week": "week01", "request": dumps(request), "name": "c7", "card": "6", "baseline": COMMIT}]}


# ---------------------------------------------------------------------------------------------------- several weeks, another commit


WEEK02_LIKE = dataclasses.replace(WEEK01, plan=planned(2), name="other", most_gpus=4, deliverables=tuple(
    Deliverable(text, by=(WEEK01.headline,)) for text in planned(2).deliverables))
TWO = {"week01": WEEK01, "week02": WEEK02_LIKE}


def legs(decision: gate.Decision) -> list[tuple[str, str]]:
    return [(leg.request.week or "", leg.name) for leg in decision.legs]


def test_all_weeks_have_a_comment_each_and_one_that_sums_up(localhub: Any) -> None:
    event = make(localhub, "/bench all --smoke", title="Anything")
    decision = decide(localhub, event, held=ledger(), weeks=TWO)
    name = f"c{event['comment']['id']}"
    assert (decision.verdict, decision.run, decision.request) == ("accepted", True, Request("bench", "all", smoke=True))
    assert legs(decision) == [("week01", f"{name}/week01"), ("week02", f"{name}/week02")]
    summary, one, two = (c.body for c in localhub.hub.issues[0].comments if c.user.login == BOT)
    assert summary.startswith(f"<!-- sprintbench:card {name} run=4242 answer -->\n\n### All weeks · 0 of 2 ended")
    assert one.startswith(f"<!-- sprintbench:card {name}/week01 run=4242 -->\n\n")
    assert (waits_for(one), waits_for(two)) == tuple(Request("bench", week, smoke=True) for week in TWO)
    again = decide(localhub, event, held=ledger(result(run=name)), weeks=TWO)
    assert legs(again) == [("week02", f"{name}/week02")], "what ended well is not measured again"
    assert len([c for c in localhub.hub.issues[0].comments if c.user.login == BOT]) == 3


def test_a_gate_that_died_between_two_cards_goes_on(localhub: Any) -> None:
    event = make(localhub, "/bench all", title="Anything")
    localhub.fault("POST", "/comments$", status=201, apply=True)  # the summary
    localhub.fault("POST", "/comments$", times=9, status=502)
    assert decide(localhub, event, held=ledger(), weeks=TWO) == gate.Decision("refused", gate.UNANSWERED)
    localhub.service.faults.clear()
    assert len(decide(localhub, event, held=ledger(), weeks=TWO).legs) == 2
    assert len([c for c in localhub.hub.issues[0].comments if c.user.login == BOT]) == 3


@pytest.mark.parametrize(("body", "verdict", "words"), [
    ("/bench all --vs c1", "refused", "`--vs` names a run of one week"),
    ("/bench all --gpus 8", "refused", "no week runs on 8 GPUs"),
    ("/bench week02 --gpus 8", "refused", "week02 can use 4 GPUs and no more"),
    ("/bench week01 --repeat 20 --vs c1", "refused", "40 processes of up to 15 minutes"),
    ("/bench week01 --vs c9", "refused", "has no run c9 of week01"),
    ("/bench week02 --vs c1", "refused", "has no run c1 of week02"),
    ("/bench all --dry-run", "accepted", "### week02 · dry run"),
    ("/bench week01 --vs c1 --dry-run", "accepted", "12 processes, one after another"),
])
def test_what_of_it_starts_nothing(localhub: Any, body: str, verdict: str, words: str) -> None:
    decision = decide(localhub, make(localhub, body), held=ledger(C1), weeks=TWO)
    assert (decision.verdict, decision.run, decision.legs) == (verdict, False, ())
    assert words in said(localhub)[0]


def test_all_leaves_out_a_week_that_cannot_have_so_many_gpus(localhub: Any) -> None:
    assert [week for week, _ in legs(decide(localhub, make(localhub, "/bench all --gpus 4"), held=ledger(), weeks=TWO))] == ["week02"]


def test_the_commit_of_another_run_is_measured_too(localhub: Any) -> None:
    decision = decide(localhub, make(localhub, "/bench --vs c1"), held=ledger(C1))
    assert [(leg.request, leg.baseline) for leg in decision.legs] == [(Request("bench", "week01", vs=1), C1.commit)]


def test_a_run_without_a_commit_cannot_be_measured_again(localhub: Any) -> None:
    assert decide(localhub, make(localhub, "/bench --vs c1"), held=ledger(replace(C1, commit=""))).verdict == "refused"


# ---------------------------------------------------------------------------------------------------- accept


def test_accept_waits_for_the_job_that_may_write(localhub: Any) -> None:
    event = make(localhub, "/accept c1", title="Anything")
    decision = decide(localhub, event, held=ledger(C1))
    assert (decision.verdict, decision.run, decision.accept) == ("accepted", False, True)
    assert legs(decision) == [("week01", f"c{event['comment']['id']}")]
    body = localhub.hub.issues[0].comments[-1].body
    assert "### week01 · accepting c1 · " in body
    assert waits_for(body) == Request("accept", "week01", runs=(1,))


@pytest.mark.parametrize(("run", "words"), [
    (None, "has no c1"), (replace(C1, request=Request("bench", "week01", smoke=True)), "is not judged (smoke run)"),
    (replace(C1, request=Request("bench", "week16")), "has no c1")])
def test_what_cannot_be_accepted(localhub: Any, run: Result | None, words: str) -> None:
    decision = decide(localhub, make(localhub, "/accept c1"), held=ledger(*([run] if run else [])))
    assert (decision.verdict, decision.accept, decision.legs) == ("refused", False, ())
    assert words in said(localhub)[0]


def test_accepted_already(localhub: Any) -> None:
    held = Ledger({**ledger(C1)().files, "results/week01/c1/accepted.json": dumps(Accepted("c1", "c5")).encode()})
    decision = decide(localhub, make(localhub, "/accept c1"), held=lambda: held)
    assert (decision.verdict, decision.accept, said(localhub)) == ("accepted", False, ["c1 is a baseline of week01 already."])


def test_a_number_that_two_weeks_have_means_this_issues_week(localhub: Any) -> None:
    both = ledger(C1, replace(C1, request=Request("bench", "week02")))
    decide(localhub, make(localhub, "/accept c1", title="Week 02 - a"), held=both, weeks=TWO)
    decide(localhub, make(localhub, "/accept c1", title="Week 01 - a"), held=both, weeks=TWO)
    assert ["week02" in text for text in said(localhub)] == [True, False]
