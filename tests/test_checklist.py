"""The checklist: what is proven is ticked with its evidence, and every other byte stays as people left it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden import WORKLOAD, stored
from hypothesis import given
from hypothesis import strategies as st
from sample_week import COMMIT

from bot.checklist import Tick, checks_tick, is_log, log_tick, mark, tick, ticks
from bot.kickoff import kickoff

URL = "https://github.com/sprinter/sprint/issues/1#issuecomment-12"
BODY = kickoff(WORKLOAD.plan, WORKLOAD).body
MET = Tick("target/best", True, "1.84 x (1.81 to 1.87)", "c12", URL)
LATER = Tick("target/best", True, "1.90 x", "c34", URL)
MISSED = Tick("target/best", False, "1.41 x", "c34", URL)
OPEN = f"- [ ] best of three{mark('target/best')}"
EVIDENCE = f" <!-- sb:evidence -->— 1.84 x (1.81 to 1.87) ([c12]({URL}))<!-- /sb:evidence -->"
SINCE = f" <!-- sb:since -->; missed since: 1.41 x ([c34]({URL}))<!-- /sb:since -->"
DONE = f"- [x] best of three{EVIDENCE}{mark('target/best')}"
lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n`~"), max_size=40).filter(
    lambda t: "sb:target/best" not in t
)


def test_a_met_item_is_ticked_with_its_evidence():
    assert tick(OPEN, [MET]) == DONE


def test_the_evidence_of_a_later_run_takes_its_place():
    assert (
        tick(DONE, [LATER]) == f"- [x] best of three <!-- sb:evidence -->— 1.90 x ([c34]({URL}))<!-- /sb:evidence -->{mark('target/best')}"
    )


def test_a_later_miss_is_noted_and_unticks_nothing():
    noted = f"- [x] best of three{EVIDENCE}{SINCE}{mark('target/best')}"
    assert tick(DONE, [MISSED]) == noted
    assert tick(noted, [replace(MISSED, run="c35", text="1.40 x")]) == noted.replace("c34", "c35").replace("1.41", "1.40")
    assert tick(noted, [replace(LATER, run="c36")]) == tick(DONE, [replace(LATER, run="c36")])


@pytest.mark.parametrize("old", [MET, MISSED, LATER, replace(MET, run="c11"), replace(MISSED, run="c33", met=True)])
def test_an_old_run_published_late_or_twice_changes_nothing(old: Tick):
    now = tick(tick(OPEN, [MET]), [MISSED])
    assert tick(now, [old]) == now


def test_the_second_run_of_a_command_follows_the_first():
    second = replace(LATER, run="c12-2")
    noted = tick(DONE, [second])
    assert noted == tick(DONE, [LATER]).replace("c34", "c12-2")
    assert tick(noted, [MET]) == tick(noted, [second]) == noted
    assert tick(noted, [LATER]) == tick(DONE, [LATER])


def test_a_run_by_hand_and_a_run_by_comment_follow_one_another():
    by_hand = replace(LATER, run="r20261123154922")
    assert tick(tick(DONE, [by_hand]), [replace(MET, run="c40")]) == DONE.replace("c12", "c40")


def test_a_miss_of_an_open_item_says_nothing():
    assert tick(OPEN, [MISSED]) == OPEN


@pytest.mark.parametrize("box", ["x", "X"])
def test_a_box_ticked_by_people_stays_and_gets_the_evidence(box: str):
    assert tick(OPEN.replace("[ ]", f"[{box}]"), [MET]) == DONE.replace("[x]", f"[{box}]")
    assert tick(OPEN.replace("[ ]", f"[{box}]"), [MISSED]) == f"- [{box}] best of three{SINCE}{mark('target/best')}"


def test_a_box_that_people_cleared_is_ticked_by_new_runs_only():
    cleared = DONE.replace("[x]", "[ ]")
    assert tick(cleared, [MET]) == cleared
    assert tick(cleared, [LATER]) == tick(DONE, [LATER])


def test_words_that_people_add_stay():
    edited = OPEN.replace("best of three", "best of **three** (or four?)").replace("- [", "* [") + "  "
    assert tick(edited, [MET]) == f"* [x] best of **three** (or four?){EVIDENCE}{mark('target/best')}  "
    after = DONE.replace("<!-- /sb:evidence -->", "<!-- /sb:evidence --> see #7")
    assert (
        tick(after, [LATER])
        == f"- [x] best of three see #7 <!-- sb:evidence -->— 1.90 x ([c34]({URL}))<!-- /sb:evidence -->{mark('target/best')}"
    )


def test_only_the_first_of_two_is_the_item():
    assert tick(f"{OPEN}\n{OPEN}", [MET]) == f"{DONE}\n{OPEN}"
    assert tick(f"{DONE}\n{OPEN}", [MET]) == f"{DONE}\n{OPEN}"


@pytest.mark.parametrize(
    "other",
    [
        "",
        "best of three",
        f"best of three{mark('target/best')}",
        f"> {OPEN}",
        f"  {OPEN}",
        f"{OPEN} more",
        f"`{OPEN}`",
        f"- [-] a{mark('target/best')}",
        f"- [ ]{mark('target/best')}",
        f"```\n{OPEN}\n```",
        f"~~~~md\n{OPEN}\n~~~\n{OPEN}\n~~~~",
        f"```\n``` x\n{OPEN}",
        OPEN.replace("best -->", "other -->"),
    ],
)
def test_what_is_not_the_item_is_left_alone(other: str):
    assert tick(other, [MET]) == other


def test_after_code_comes_the_item():
    assert tick(f"```\n{OPEN}\n```\n{OPEN}", [MET]) == f"```\n{OPEN}\n```\n{DONE}"


@given(
    st.lists(lines, max_size=5),
    st.lists(lines, max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.sampled_from([MET, LATER, MISSED]), max_size=4),
)
def test_every_other_line_stays_and_twice_is_once(before: list[str], after: list[str], end: str, said: list[Tick]):
    body = end.join([*before, OPEN, *after])
    for one in said:
        body = tick(body, [one])
        assert tick(body, [one]) == body
    place = len((end.join([*before, OPEN])).split("\n")) - 1
    found, untouched = body.split("\n"), end.join([*before, OPEN, *after]).split("\n")
    assert [line for i, line in enumerate(found) if i != place] == [line for i, line in enumerate(untouched) if i != place]
    assert found[place].endswith("\r") == untouched[place].endswith("\r")


# ---------------------------------------------------------------------------------------------------- what a run says


def ticked(body: str) -> list[str]:
    return [
        line.partition("<!-- sb:")[2] and line.rsplit("<!-- sb:", 1)[1].removesuffix(" -->")
        for line in body.split("\n")
        if line.startswith("- [x]")
    ]


def test_a_good_run_ticks_what_it_proves_in_the_week_issue():
    body = tick(BODY, ticks(WORKLOAD, stored("ok"), URL))
    assert ticked(body) == [
        "target/best_speedup",
        "target/worst_speedup",
        "target/parity",
        "deliverable/0",
        "deliverable/1",
        "minimum/1",
        "criteria/0",
        "criteria/1",
    ]
    assert f"— 1.84 x (1.81 to 1.87) ([c4210]({URL}))" in body
    assert f"— trace.json.gz ([c4210]({URL}))" in body
    assert tick(body, ticks(WORKLOAD, stored("ok"), URL)) == body


def test_a_run_that_misses_ticks_the_rest_and_is_noted_where_it_was_met():
    missed = ticks(WORKLOAD, stored("missed"), URL)
    assert ticked(tick(BODY, missed)) == ["target/best_speedup", "target/parity", "deliverable/1", "minimum/1", "criteria/1"]
    after = tick(tick(BODY, ticks(WORKLOAD, stored("ok"), URL)), missed)
    assert f"; missed since: 1.19 x (1.18 to 1.22) ([c4211]({URL}))" in after
    assert f"; missed since: 2 of 3 targets met ([c4211]({URL}))" in after
    assert ticked(after) == ticked(tick(BODY, ticks(WORKLOAD, stored("ok"), URL)))


def test_a_run_judged_in_part_leaves_the_criterion_open():
    seen = stored("ok").observed[0]
    part = replace(stored("ok"), observed=(replace(seen, metrics=tuple(m for m in seen.metrics if m.name != "worst_speedup")),))
    proven = ["target/best_speedup", "target/parity", "deliverable/1", "criteria/1", "minimum/1"]
    assert [t.item for t in ticks(WORKLOAD, part, URL)] == proven


@pytest.mark.parametrize("kind", ["smoke", "crashed", "timeout", "oom", "invalid"])
def test_a_run_that_is_not_judged_ticks_nothing(kind: str):
    assert ticks(WORKLOAD, stored(kind), URL) == ()


LOG = "## What sped up\n\nCompile.\n\n**What broke**\n- nothing\n\nWhat\u2019s next: week 2\n"


@pytest.mark.parametrize(("text", "told"), [
    (LOG, True), (LOG.upper(), True), (LOG.replace("\n", "\r\n"), True), ("Hello\n\n" + LOG, True),
    (LOG.replace("- nothing\n", ""), False),  # a heading with nothing under it
    (LOG.replace("What broke", "What brokered"), False),
    (f"```text\n{LOG}```\n", False),  # as the bot's draft of the post shows it
    (f"````\n```\n{LOG}````\n{LOG}", True),
    ("What sped up, what broke, what's next?", False), ("", False)])
def test_what_a_log_is(text: str, told: bool) -> None:
    assert is_log(text) is told


def test_what_people_and_tests_say_is_ticked_as_well() -> None:
    body = "- [ ] Tests pass <!-- sb:criteria/2 -->\n- [ ] Logged <!-- sb:criteria/3 -->\n"
    page = "https://github.com/a/b/actions/runs/1"
    failed, passed = (checks_tick(good, COMMIT, page, f"c{number}") for number, good in ((7, False), (8, True)))
    assert tick(body, [failed]) == body
    told = tick(tick(body, [passed]), [log_tick(9, "https://github.com/a/b/issues/1#issuecomment-9")])
    assert "- [x] Tests pass <!-- sb:evidence -->— passed at 0123456 ([c8](https://github.com/a/b/actions/runs/1))" in told
    assert "- [x] Logged <!-- sb:evidence -->— logged ([c9](https://github.com/a/b/issues/1#issuecomment-9))" in told
    assert "missed since: failed at 0123456 ([c10]" in tick(told, [replace(failed, run="c10")])


def test_a_run_whose_proof_is_numbers_alone_ships_no_artifact():
    bare = replace(WORKLOAD, deliverables=tuple(replace(d, by=(WORKLOAD.headline,), files=()) for d in WORKLOAD.deliverables))
    assert "criteria/1" not in [t.item for t in ticks(bare, stored("ok"), URL)]
