"""What a run's comment says as long as it has no report, and where it gets none; pure.

A card is found again by its hidden first line. As long as it waits for something to be done, a second hidden line says so, with
the request: that is all a sweep has to know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bot.report import Where, code, command, link, marker
from workloads.spec import Request, SpecError, dumps, loads

WAITS = "It waits for a GPU runner; nothing more needs to be done."
LOGIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})", re.ASCII)
Leg = tuple[str, str, str]


def queued_card(run: str, request: Request, where: Where, state: str = "queued", told: str = WAITS) -> str:
    """The status card from the moment a command is accepted until its report takes its place: `state` in a word or two, and
    `told` is what is known of when. As long as it waits for a report, a hidden line says so, with the request: see `waits_for`."""
    return _card(run, f"### {request.week} · {state} · this comment becomes the report", f"Accepted: `{command(request)}`. {told}", where,
                 waits=_waits(request))


def accepting_card(request: Request, week: str, where: Where) -> str:
    """An answer that waits until the ledger says that run c<request.runs[0]> is the new baseline."""
    headline = f"### {week} · accepting c{request.runs[0]} · this comment says when it is done"
    return "\n\n".join((_waits(request), headline, _links(where))) + "\n"


def accepted_card(week: str, run: str, machine: str, where: Where) -> str:
    """The answer to `/accept` once it is done."""
    url = where.url("tree", where.branch, "results", week, run)
    return (f"### {week} · {link(run, url)} is the new baseline\n\nFrom now on, runs of {week} on {machine} with the same options are "
            f"compared with {run} and with what comes after it. Older runs stay where they are.\n")


def ring(login: str, text: str) -> str:
    """`text` to a person, so that GitHub tells them; without a mention where `login` is none that GitHub gives."""
    return f"@{login}: {text}" if LOGIN.fullmatch(login) else text


def every_week_card(legs: Sequence[Leg], where: Where) -> str:
    """The answer to `/bench all`, and its summary as the weeks come in. `legs` are, week by week, its key, the number of its
    comment ("" as long as there is none) and how it stands in words ("" as long as it waits)."""
    done = sum(bool(state) for _, _, state in legs)
    page = where.comment_url.partition("#")[0]
    lines = [f"- {link(week, f'{page}#issuecomment-{card}' if page and card else '')}: {state or 'waits for its report'}"
             for week, card, state in legs]
    head = "every week has ended" if done == len(legs) else f"{done} of {len(legs)} ended"
    return "\n\n".join((f"### All weeks · {head}", "\n".join(lines), _links(where))) + "\n"


def _waits(request: Request) -> str:
    return f"<!-- sprintbench:waits {dumps(request)} -->"


def waits_for(card: str) -> Request | None:
    """The request whose report the text of a card still waits for; None where it is the last word."""
    return _hidden("waits", card)


def _hidden(word: str, card: str) -> Request | None:
    found = re.fullmatch(rf"<!-- sprintbench:{word} (.*) -->", "".join(card.splitlines()[2:3]))  # there only: a log may hold anything
    try:
        return loads(Request, found[1]) if found else None
    except SpecError:  # somebody edited it
        return None


STOPPED = "It was stopped before it left a result: by a command, on the workflow run's page, or because its time was up."


def lost(card: str) -> Request | None:
    """The request of a card that says that its result is lost: the GPU machine's spool may still have it."""
    return _hidden("lost", card)


def cancelled_card(run: str, request: Request, where: Where, why: str = STOPPED) -> str:
    """Somebody stopped the run, and it left no result, or none yet."""
    return _card(run, f"### {request.week} · cancelled · next: ask again when it is wanted",
                 f"{why}\n\n**Next**\n\n- `/retry {run}` runs it again at the same commit.\n- `{command(request)}` asks anew.", where)


def lost_card(run: str, request: Request, job_result: str, where: Where) -> str:
    """The GPU job ended and left no result: `job_result` is how Actions names its end (failure, cancelled, skipped)."""
    if job_result == "cancelled":
        return cancelled_card(run, request, where)
    return _card(run, f"### {request.week} · failed: the GPU job left no result · next: look at its log, then ask again",
                 f"The job ended as {code(job_result)}, before it could hand one over: the runner died or lost its connection, or the job "
                 "ran out of time. A machine with a spool hands over what it measured with its next job, and this comment then becomes "
                 f"the report.\n\n**Next**\n\n- `{command(request)}` asks again.", where,
                 waits=f"<!-- sprintbench:lost {dumps(request)} -->")


def refused_card(run: str, request: Request, reason: str, where: Where) -> str:
    """The GPU job left something that is not taken for a result; nothing of it was stored or is repeated here but `reason`."""
    return _card(run, f"### {request.week} · failed: the result was refused · next: look at the job's log, then ask again",
                 f"What the GPU job left does not hold as a result: {code(reason)}. Nothing of it was kept."
                 f"\n\n**Next**\n\n- `{command(request)}` asks again.", where)


def _card(run: str, headline: str, text: str, where: Where, waits: str = "") -> str:
    return "\n\n".join(part for part in (marker(run), waits, headline, text, _links(where)) if part) + "\n"


def _links(where: Where) -> str:
    return " · ".join(link(name, url) for name, url in (("the command", where.comment_url), ("workflow run", where.run_url)) if url)
