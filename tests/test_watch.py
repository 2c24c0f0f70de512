"""A card while its run waits and works: what it says, how often it is written, and whom it rings, once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sample_week import result
from test_control import WHERE, Scene, past, scene  # noqa: F401  the fixture `scene`

from bot import watch
from bot.cards import waits_for
from bot.control import GIVEN_UP
from bot.gate import Decision
from bot.hub import signed
from bot.sweep import NOT_TAKEN, tend
from localhub.state import Run

BOT = "github-actions[bot]"


def look(scene: Scene, decision: Decision, login: str = "member") -> bool:  # noqa: F811
    scene.local.requests.clear()
    left = watch.look(scene.hub, scene.held, decision.request_id, login, WHERE)
    assert len(scene.local.requests) <= 6
    return left


def writes(scene: Scene) -> int:  # noqa: F811
    return sum(request.method != "GET" for request in scene.local.requests)


def bodies(scene: Scene) -> list[str]:  # noqa: F811
    return [c.body for issue in scene.local.hub.issues for c in issue.comments if c.user.login == BOT]


def told(card: str) -> list[str]:
    """The headline and the sentence of a card."""
    assert waits_for(card)
    return [line for line in card.splitlines() if line.startswith(("###", "Accepted"))]


def age(scene: Scene, decision: Decision, minutes: int) -> Run:  # noqa: F811
    """As if the command had been given so long ago, and its job had waited since."""
    run = scene.behind(decision)
    scene.local.hub.comment(decision.card).created -= timedelta(minutes=minutes)
    scene.move(decision, "queued", started=60 * minutes)
    return run


def test_a_card_says_where_its_run_stands(scene: Scene) -> None:  # noqa: F811
    scene.held = past(result(run="c1", duration_s=600.0))
    works, waits = scene.say("/bench"), scene.say("/bench --smoke")
    scene.move(works, "in_progress", started=90)
    scene.move(waits, "queued")
    assert look(scene, waits)
    headline, sentence = told(scene.card(waits))
    assert headline == "### week01 · waits, place 1 · this comment becomes the report"
    assert sentence.startswith("Accepted: `/bench week01 --smoke`. It waits for a GPU runner since ")
    assert writes(scene) == 1
    assert "· queued ·" in scene.card(works), "a watch writes on the cards of its own command"
    assert look(scene, waits)
    assert writes(scene) == 0, "it says so already"
    assert look(scene, works)
    headline, sentence = told(scene.card(works))
    assert headline == "### week01 · at work · this comment becomes the report"
    assert "it should end at " in sentence


def test_the_second_in_line_is_told_when(scene: Scene) -> None:  # noqa: F811
    scene.held = past(result(run="c1", duration_s=600.0))
    first, second = scene.say("/bench"), scene.say("/bench", issue=scene.another())
    assert first.run
    look(scene, second)
    assert "· waits, place 2 ·" in scene.card(second)
    assert " It should start at " in scene.card(second)
    scene.held = past()
    look(scene, second)
    assert "should start" not in scene.card(second), "nothing like it is known"


def test_a_report_is_never_written_over(scene: Scene) -> None:  # noqa: F811
    asked = scene.say("/bench")
    scene.move(asked, "success")
    assert not look(scene, asked), "measured: what comes now is the report job's"
    scene.lose(asked)
    before = scene.card(asked)
    assert not look(scene, asked)
    assert (writes(scene), scene.card(asked)) == (0, before)


def test_who_waits_long_is_rung_once(scene: Scene) -> None:  # noqa: F811
    scene.held = past(result(run="c1"))
    asked = scene.say("/bench")
    age(scene, asked, 9)
    look(scene, asked)
    assert len(bodies(scene)) == 1
    age(scene, asked, 12)
    for _ in range(2):
        look(scene, asked)
    card, notice = bodies(scene)
    assert notice.startswith(signed("", f"{asked.request_id}/notice", str(scene.behind(asked).id)).strip())
    assert f"@member: {asked.request_id} has waited 12 min " in notice
    assert "Nothing is ahead of it, so see that a GPU runner is online. A GPU runner last handed over a result at 2026-11-23" in notice
    assert "A GPU runner last handed over a result at" in card


def test_who_is_behind_others_is_told_so(scene: Scene) -> None:  # noqa: F811
    others = [scene.say("/bench", issue=scene.another()) for _ in range(2)]
    asked = scene.say("/bench")
    for decision in (*others, asked):
        age(scene, decision, 15)
    look(scene, asked)
    assert "2 runs are ahead of it." in bodies(scene)[0] + bodies(scene)[1]
    look(scene, others[1])
    assert any("1 run is ahead of it." in body for body in bodies(scene))


@pytest.mark.parametrize("login", ["", "a b", "-a", "a" * 40, "team/all"])
def test_only_an_account_is_rung(scene: Scene, login: str) -> None:  # noqa: F811
    asked = scene.say("/bench")
    age(scene, asked, 15)
    look(scene, asked, login)
    assert "@" not in bodies(scene)[1]
    assert f"{asked.request_id} has waited 15 min" in bodies(scene)[1]


def test_watching_ends_with_the_run(scene: Scene) -> None:  # noqa: F811
    asked = scene.say("/bench")
    pauses: list[float] = []

    def sleep(step: int) -> Callable[[float], None]:
        def wait(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == step:
                scene.move(asked, "success")
        return wait

    assert watch.watch(scene.hub, scene.held, asked.request_id, "member", WHERE, sleep(4)) == 4
    assert pauses == [20.0, 30.0, 45.0, 67.5]


def test_watching_ends_at_last(scene: Scene) -> None:  # noqa: F811
    asked = scene.say("/bench")
    pauses: list[float] = []
    watch.watch(scene.hub, scene.held, asked.request_id, "member", WHERE, pauses.append)
    assert min(pauses) >= 20
    assert max(pauses) == watch.SLOWEST_S
    assert watch.LONGEST_S <= sum(pauses) <= watch.LONGEST_S + watch.SLOWEST_S


# ---------------------------------------------------------------------------------------------------- after the watch: the sweep


def test_the_sweep_goes_on_where_the_watch_ended(scene: Scene) -> None:  # noqa: F811
    asked = scene.say("/bench")
    age(scene, asked, 70)
    assert tend(scene.hub, scene.held, WHERE) == 0
    card, notice = bodies(scene)
    assert "· waits, place 1 ·" in card
    assert "@member: " in notice
    tend(scene.hub, scene.held, WHERE)
    assert len(bodies(scene)) == 2


def test_what_no_machine_takes_is_cancelled(scene: Scene) -> None:  # noqa: F811
    late, young = scene.say("/bench"), scene.say("/bench --smoke")
    run = age(scene, late, int(GIVEN_UP.total_seconds()) // 60)
    assert tend(scene.hub, scene.held, WHERE) == 1
    assert (run.status, run.conclusion) == ("completed", "cancelled")
    assert NOT_TAKEN in scene.card(late)
    assert waits_for(scene.card(late)) is None
    assert waits_for(scene.card(young))


def test_what_ends_while_it_is_cancelled_is_left_alone(scene: Scene) -> None:  # noqa: F811
    late = scene.say("/bench")
    age(scene, late, int(GIVEN_UP.total_seconds()) // 60)
    scene.local.fault("POST", "/cancel$", status=409, message="Cannot cancel a workflow run that is completed.")
    assert tend(scene.hub, scene.held, WHERE) == 0
    assert waits_for(scene.card(late))


def test_a_command_whose_author_is_gone_rings_nobody(scene: Scene) -> None:  # noqa: F811
    asked = scene.say("/bench")
    age(scene, asked, 70)
    comments: list[Any] = scene.local.hub.issues[0].comments
    comments[:] = [comment for comment in comments if comment.user.login == BOT]
    assert tend(scene.hub, scene.held, WHERE) == 0
    assert ["@" in body for body in bodies(scene)] == [False, False]
