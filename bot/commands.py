"""Comment text to a Request, a Refusal or nothing; knows no GitHub.

    /bench [weekNN|all] [--smoke] [--batch N] [--gpus N] [--repeat N] [--profile] [--vs RUN] [--dry-run]
    /compare RUN RUN
    /accept RUN
    /retry [RUN]
    /cancel [RUN]
    /status
    /post [weekNN]
    /kickoff weekNN
    /help

    RUN     c and 1 to 19 digits, the first not 0: the number of the comment that asked for the run
    weekNN  week01 to week16; on a Week issue it may be left out
    N       1 to 4 digits, the first not 0: --batch 1-9999, --gpus 1-8, --repeat 1-20; `--batch 64` or `--batch=64`

A command is the comment's first line that is not only spaces and tabs, from its first column, and is followed by a space,
a tab or the line's end. Lines end at CRLF, LF or CR and at nothing else. Such a line has at most 200 characters, and after
the command only A-Z a-z 0-9 = _ . - space and tab: no quotes, no escapes, no shell. Case counts. An option that is
unknown, shortened or given twice refuses the whole command, so a typo never spends GPU time. Text that is no command gets
no answer. An answer is put together from this file's own words and never repeats what it was given.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal, assert_never

from tabulate import tabulate

from workloads.spec import MOST_GPUS, PAIRS, Command, Request

LINE_END = re.compile(r"\r\n|\n|\r")
LONGEST_LINE = 200
ALLOWED = re.compile(r"[A-Za-z0-9=_. \t-]*", re.ASCII)
NUMBER = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
RUN = re.compile(r"c([1-9][0-9]{0,18})", re.ASCII)
WEEKS = tuple(f"week{n:02d}" for n in range(1, 17))
# What people write for a week, and what they mean.
SPELLINGS = {f"week{n}": f"week{n:02d}" for n in range(1, 10)}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that cannot be carried out as written; `reply` is Markdown for its author."""

    reply: str


@dataclass(frozen=True, slots=True)
class Option:
    """`--name`, alone (flag), with a whole number up to `most`, or with a RUN; `help` is one line."""

    name: str
    help: str
    takes: Literal["nothing", "number", "run"] = "nothing"
    most: int = 0

    @property
    def field(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def usage(self) -> str:
        return self.name + {"nothing": "", "number": " N", "run": " RUN"}[self.takes]

    @property
    def rule(self) -> str:
        match self.takes:
            case "nothing":
                return f"`{self.name}` takes no value"
            case "number":
                return f"`{self.name}` takes a whole number from 1 to {self.most}"
            case "run":
                return f"`{self.name}` takes a run, such as c2001"
        assert_never(self.takes)


@dataclass(frozen=True, slots=True)
class Form:
    """One command: what may follow its name, and one line of help. `arguments` are written as usage shows them."""

    name: Command
    help: str
    arguments: tuple[Literal["weekNN", "[weekNN]", "[weekNN|all]", "RUN", "[RUN]"], ...] = ()
    options: tuple[Option, ...] = ()

    @property
    def usage(self) -> str:
        return " ".join([f"/{self.name}", *self.arguments, *(f"[{o.usage}]" for o in self.options)])

    @property
    def least(self) -> int:
        """How many arguments it needs."""
        return sum(not a.startswith("[") for a in self.arguments)

    def option(self, name: str) -> Option | None:
        return next((o for o in self.options if o.name == name), None)


FORMS = (
    Form("bench", "Measure a week on the GPU and post the judged result", ("[weekNN|all]",), (
        Option("--smoke", "the same code, tiny, on a CPU: shows that the path works, and is never judged"),
        Option("--batch", "a batch size in place of the week's own", "number", 9999),
        Option("--gpus", "how many GPUs, for a week that can use more than one", "number", MOST_GPUS),
        Option("--repeat", "how many independent processes", "number", 20),
        Option("--profile", "record a profiler trace too"),
        Option("--vs", f"measure that run's commit too, in turn with this one: at least {PAIRS} pairs of fresh processes", "run"),
        Option("--dry-run", "say what would run, and run nothing"))),
    Form("compare", "Compare two runs metric by metric", ("RUN", "RUN")),
    Form("accept", "Accept a changed number as the new baseline", ("RUN",)),
    Form("retry", "Run again what was lost, with the same options", ("[RUN]",)),
    Form("cancel", "Stop a run that waits or works", ("[RUN]",)),
    Form("status", "Show the queue and the GPU"),
    Form("post", "Draft the public post of the week", ("[weekNN]",)),
    Form("kickoff", "Open a week's issue", ("weekNN",)),
    Form("help", "Show this table"),
)


def parse(comment: str | None) -> Request | Refusal | None:
    """What `comment` asks for; None where it is no command. Never raises."""
    line = _first_line(comment or "")
    form = next((f for f in FORMS if re.match(rf"/{f.name}(?:[ \t]|\Z)", line)), None)
    if form is None:
        return None
    if len(line) > LONGEST_LINE:
        return _refuse(form, f"a command has at most {LONGEST_LINE} characters")
    rest = line[len(form.name) + 1:]
    if not ALLOWED.fullmatch(rest):
        return _refuse(form, "a command has only letters, digits and the characters `= _ . -` after its name")
    return _read(form, rest.split())


def _first_line(comment: str) -> str:
    return next((line for line in LINE_END.split(comment) if line.strip(" \t")), "")


def _read(form: Form, words: list[str]) -> Request | Refusal:
    week: str | None = None
    runs: list[int] = []
    values: dict[str, int | bool] = {}
    place = 0
    waiting = iter(words)
    for word in waiting:
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            option = form.option(name)
            if option is None:
                return _refuse(form, "there is no such option", near=name, known=[o.name for o in form.options])
            if option.field in values:
                return _refuse(form, f"`{option.name}` may be given once")
            if option.takes != "nothing" and not equals:
                value = next(waiting, "")
            read = _value(option, value, bool(equals))
            if read is None:
                return _refuse(form, option.rule)
            values[option.field] = read
        elif place == len(form.arguments):
            return _refuse(form, "that is one argument too many")
        elif "RUN" in form.arguments[place]:
            match = RUN.fullmatch(word)
            if not match:
                return _refuse(form, "a run is written c2001: c and the number of the comment that asked for it")
            runs.append(int(match[1]))
            place += 1
        else:
            known = (*WEEKS, "all") if "all" in form.arguments[place] else WEEKS
            if word not in known:
                return _refuse(form, "a week is written week01 to week16", near=word, known=known)
            week = word
            place += 1
    if place < form.least:
        return _refuse(form, "something is missing")
    if len(set(runs)) < len(runs):
        return _refuse(form, "the two runs must differ")
    return _request(form.name, week, values, tuple(runs))


def _value(option: Option, text: str, equals: bool) -> int | bool | None:
    match option.takes:
        case "nothing":
            return None if equals else True
        case "number":
            return int(text) if NUMBER.fullmatch(text) and int(text) <= option.most else None
        case "run":
            run = RUN.fullmatch(text)
            return int(run[1]) if run else None
    assert_never(option.takes)


def _request(command: Command, week: str | None, values: dict[str, int | bool], runs: tuple[int, ...]) -> Request:
    return Request(command, week, smoke=bool(values.get("smoke")), batch=values.get("batch"), gpus=values.get("gpus", 1),
                   repeat=values.get("repeat", 1), profile=bool(values.get("profile")), vs=values.get("vs"),
                   dry_run=bool(values.get("dry_run")), runs=runs)


def _refuse(form: Form, why: str, near: str = "", known: tuple[str, ...] | list[str] = ()) -> Refusal:
    typed = near[:40].lower()
    guess = difflib.get_close_matches(SPELLINGS.get(typed, typed), known, n=1, cutoff=0.7)
    hint = f" Did you mean `{guess[0]}`?" if guess else ""
    return Refusal(f"Nothing ran: {why}.{hint}\n\nUsage: `{form.usage}`\n\nEvery command: `/help`.")


def help_text() -> str:
    """Every command and option, in Markdown made from what parses them."""
    commands = tabulate([(_code(f.usage), f.help) for f in FORMS], ("Command", "What it does"), tablefmt="github")
    options = tabulate([(_code(o.usage), o.help) for f in FORMS for o in f.options], ("Option", "What it does"), tablefmt="github")
    return (f"{commands}\n\n{options}\n\n"
            "A command is the first line of a new comment on an open Week issue, by someone who may write to this repository. "
            "RUN is c and the number of the comment that asked for it; on a Week issue the week may be left out.\n")


def _code(usage: str) -> str:
    # A table ends a cell at | even inside code.
    return f"`{usage}`".replace("|", "\\|")
