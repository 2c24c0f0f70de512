"""A run's card while the run waits and works: where it stands, from the comment to its report; and one reply where it waits long.

The GPU job holds no token that could write, so a job beside it does this. It looks often at first and seldom later, writes only
what has changed, and never writes over a report: a card that waits no more is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from bot.cards import queued_card, ring, waits_for
from bot.control import LONG_WAIT_S, Standing, last_seen, line, past_s, recent
from bot.hub import Card, Hub
from bot.report import Where, duration_text
from bot.store import Ledger

FIRST_S = 20.0  # GitHub asks for no more edits than that
SLOWER = 1.5
SLOWEST_S = 300.0
LONGEST_S = 50 * 60.0  # then the sweep goes on


def watch(hub: Hub, held: Ledger, request_id: str, login: str, where: Where, sleep: Callable[[float], None]) -> int:
    """Keep the cards of a command ("c7", by `login`) up to date until none of its runs waits or works, or for LONGEST_S seconds of
    sleep; how often it looked."""
    slept_s, pause_s, looked = 0.0, FIRST_S, 0
    while slept_s < LONGEST_S:
        sleep(pause_s)
        slept_s, pause_s, looked = slept_s + pause_s, min(pause_s * SLOWER, SLOWEST_S), looked + 1
        if not look(hub, held, request_id, login, where):
            break
    return looked


def look(hub: Hub, held: Ledger, request_id: str, login: str, where: Where) -> bool:
    """Bring the cards of a command up to date, once; whether one of its runs still waits or works."""
    now, cards = recent(hub)
    ours = [one for one in line(hub, now, cards, held) if one.run.card.request_id == request_id]
    show(hub, now, held, ours, where)
    waits = [one for one in ours if one.state == "waits"]
    if waits and all(past_s(now, one.since) >= LONG_WAIT_S for one in waits) and len(waits) == len(ours):
        remind(hub, now, held, waits[0], login, cards)
    return any(one.state != "posting" for one in ours)


def show(hub: Hub, now: datetime, held: Ledger, standings: Sequence[Standing], where: Where) -> None:
    """Write on each card where its run stands, if it does not say so."""
    for one in standings:
        card = one.run.card
        if one.state == "posting" or waits_for(card.text) is None:
            continue
        text = queued_card(card.request_id, one.run.request, where, *_told(one, now, held))
        # All but the first line, which is the bot's mark.
        if text.partition("\n")[2].strip() != card.text.partition("\n")[2].strip():
            hub.edit_card(card.id, card.name, card.workflow_run, text)


def _told(one: Standing, now: datetime, held: Ledger) -> tuple[str, str]:
    """The state in a word or two, and a sentence. Moments and not spans of time, so that a card changes when something has."""
    if one.state == "works":
        ends = "" if one.left_s != one.left_s else f" Runs like it take so long that it should end at {_at(one, now)}."
        return "at work", f"It works since {one.since:%H:%M} UTC.{ends}"
    starts = "" if one.left_s != one.left_s or one.place == 1 else f" It should start at {_at(one, now)}."
    late = "" if past_s(now, one.since) < LONG_WAIT_S else f" {last_seen(held)}"
    return f"waits, place {one.place}", f"It waits for a GPU runner since {one.since:%H:%M} UTC.{starts}{late}"


def _at(one: Standing, now: datetime) -> str:
    """The moment that is expected, to five minutes."""
    minutes = round((now.timestamp() + one.left_s) / 300) * 5
    return f"{datetime.fromtimestamp(minutes * 60, now.tzinfo):%H:%M} UTC"


def remind(hub: Hub, now: datetime, held: Ledger, one: Standing, login: str, cards: Sequence[Card]) -> None:
    """The one short reply that rings the person who waits. A command gets at most one, whatever it is for."""
    card = one.run.card
    name = f"{card.request_id}/notice"
    if any(other.name == name for other in cards):
        return
    ahead = f"{one.place - 1} run{'s are' if one.place > 2 else ' is'} ahead of it." if one.place > 1 else \
        f"Nothing is ahead of it, so see that a GPU runner is online. {last_seen(held)}"
    hub.post_card(card.issue, name, card.workflow_run, ring(login, (
        f"{card.request_id} has waited {duration_text(past_s(now, one.since))} for a GPU runner. {ahead} "
        f"`/cancel {card.request_id}` takes it out of the queue.")))
