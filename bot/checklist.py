"""The checkboxes of a Week issue: ticks what a run proved and says by which run; every other byte is people's; pure.

Kickoff ends each checkbox line with a marker, `- [ ] text <!-- sb:target/parity -->`, and that line, outside code and where it
first appears, is the item. Before its marker the bot keeps up to two texts of its own between marks:

    - [x] text <!-- sb:evidence -->— 1.84 x ([c12](url))<!-- /sb:evidence --> <!-- sb:target/best -->
    ... <!-- sb:since -->; missed since: 1.41 x ([c34](url))<!-- /sb:since --> ...

A box is never unticked. A box that a person ticked stays, and gets the evidence beside it. Evidence is replaced by that of a
later run only, so an old run published late, or a run published twice, changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bot.acceptance import hold_back, judge, proven
from bot.history import number
from bot.report import interval_text
from workloads.spec import Result, Workload

BOX = re.compile(r"(?P<head>[-*+] \[)(?P<box>[ xX])(?P<text>\] .*) <!-- sb:(?P<item>[a-z]+/[a-z0-9_]+) -->(?P<tail>[ \t]*\r?)")
LOG = ("what sped up", "what broke", "what's next")
HEADING = re.compile(r" {0,3}(?:#{1,6}[ \t]+|[*_]{2})?(?P<name>what sped up|what broke|what['\u2019]s next)(?![a-z])(?P<rest>.*)",
                     re.IGNORECASE)
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
EVIDENCE = re.compile(r" <!-- sb:evidence -->— (?P<text>.*?) \(\[(?P<run>[cr]\d+(?:-2)?)\]\([^()]*\)\)<!-- /sb:evidence -->")
SINCE = re.compile(r" <!-- sb:since -->; missed since: (?P<text>.*?) \(\[(?P<run>[cr]\d+(?:-2)?)\]\([^()]*\)\)<!-- /sb:since -->")


@dataclass(frozen=True, slots=True)
class Tick:
    """What run `run` (its report at `url`) says about the checklist item `item`; `text` is the evidence in words."""

    item: str
    met: bool
    text: str
    run: str
    url: str


def mark(item: str) -> str:
    """The end of a checkbox line that makes it the item `item`, for example "target/parity" or "deliverable/0"."""
    return f" <!-- sb:{item} -->"


def ticks(workload: Workload, result: Result, url: str) -> tuple[Tick, ...]:
    """What a run proves or disproves of its week's checklist; nothing where it is not judged. Besides targets and
    deliverables it proves "one micro-benchmark", and "target met" once every target is."""
    if hold_back(result):
        return ()
    verdicts = judge(workload, result)
    shown = proven(workload, result, verdicts)
    met = sum(v.verdict == "met" for v in verdicts)
    missed = any(v.verdict == "missed" for v in verdicts)
    found = [(f"target/{v.target.name}", v.verdict == "met", interval_text(v.metric.estimate, v.metric.unit, v.target.bound))
             for v in verdicts if v.metric and v.verdict != "not judged"]
    found += [(f"deliverable/{i}", True, ", ".join(d.files) or "every target it rests on is met")
              for i, d in enumerate(workload.deliverables) if d in shown]
    if artifacts := [name for d in shown for name in d.files]:
        found.append(("criteria/1", True, ", ".join(dict.fromkeys(artifacts))))
    found.append(("minimum/1", True, "a full run was measured"))
    if missed or met == len(verdicts):
        found.append(("criteria/0", not missed, f"{met} of {len(verdicts)} targets met"))
    return tuple(Tick(item, good, text, result.run, url) for item, good, text in found)


def checks_tick(passed: bool, commit: str, url: str, run: str) -> Tick:
    """What the tests of the default branch say, as they stood when run `run` was published; `url` is their workflow run."""
    return Tick("criteria/2", passed, f"{'passed' if passed else 'failed'} at {commit[:7]}", run, url)


def log_tick(comment: int, url: str) -> Tick:
    """That somebody wrote the week's log, in comment number `comment` at `url`."""
    return Tick("criteria/3", True, "logged", f"c{comment}", url)


def is_log(text: str) -> bool:
    """Whether a comment is the week's log: it has the three headings, outside code, each with something under or beside it."""
    said: dict[str, bool] = {}
    heading, fence = "", ""
    for line in text.splitlines():
        edge = FENCE.match(line)
        if edge and (not fence or (edge[1].startswith(fence) and not line[edge.end():].strip())):
            fence = "" if fence else edge[1]
            continue
        found = None if fence else HEADING.match(line)
        if found:
            heading = found["name"].lower().replace("\u2019", "'")
            said[heading] = said.get(heading, False) or bool(found["rest"].strip(" \t:*_#"))
        elif heading and line.strip():
            said[heading] = True
    return all(said.get(name) for name in LOG)


def tick(body: str, ticks: Iterable[Tick]) -> str:
    """`body` with what `ticks` say: a met item is ticked and shows its evidence; a missed one that is ticked gets a note. An
    item whose line is gone, or was changed beyond recognition, is left out."""
    told = {t.item: t for t in ticks}
    lines = body.split("\n")
    fence = ""
    for place, line in enumerate(lines):
        edge = FENCE.match(line)
        if edge and (not fence or (edge[1].startswith(fence) and not line[edge.end():].strip())):
            fence = "" if fence else edge[1]
        box = None if fence else BOX.fullmatch(line)
        if box and (said := told.pop(box["item"], None)):
            lines[place] = _told(box, said)
    return "\n".join(lines)


def _told(box: re.Match[str], said: Tick) -> str:
    evidence, since = EVIDENCE.search(box["text"]), SINCE.search(box["text"])
    ticked = box["box"] != " "
    if any(_not_older(own["run"], said.run) for own in (evidence, since) if own) or not (said.met or ticked):
        return box.string
    source = f"{said.text} ([{said.run}]({said.url}))"
    text = SINCE.sub("", box["text"])
    if said.met:
        text = EVIDENCE.sub("", text) + f" <!-- sb:evidence -->— {source}<!-- /sb:evidence -->"
    else:
        text += f" <!-- sb:since -->; missed since: {source}<!-- /sb:since -->"
    return f"{box['head']}{box['box'] if ticked else 'x'}{text}{mark(box['item'])}{box['tail']}"


def _not_older(own: str, run: str) -> bool:
    """Whether evidence of `own` stands against `run`: ids of one kind grow with time."""
    return own[0] == run[0] and number(own) >= number(run)
