"""The grammar: what is a command, what is refused with which words, and that hostile text stays text."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import commands
from bot.commands import FORMS, Refusal, help_text, parse
from workloads.spec import Request

CASES = json.loads((Path(__file__).parent / "cases" / "commands.json").read_text())


def verdict(comment: str | None) -> str:
    found = parse(comment)
    return "ignored" if found is None else "refused" if isinstance(found, Refusal) else "accepted"


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
@pytest.mark.timeout(20)  # a pattern that backtracks takes minutes over the longest of them
def test_case(case: dict[str, str]) -> None:
    assert case["expected"] == verdict(case["comment"])


@pytest.mark.parametrize(("comment", "request_"), [
    ("/bench", Request("bench")),
    ("/bench all", Request("bench", "all")),
    ("/bench week01 --smoke", Request("bench", "week01", smoke=True)),
    ("\r\n \t\r\n/bench\tweek16 --batch=64 --gpus 8\t--repeat 20 --profile --vs c42 --dry-run\r\n/bench week01",
     Request("bench", "week16", batch=64, gpus=8, repeat=20, profile=True, vs=42, dry_run=True)),
    ("/bench --batch 9999 week02", Request("bench", "week02", batch=9999)),
    ("/bench week07\r--batch 4096", Request("bench", "week07")),
    ("/compare c101 c9999999999999999999", Request("compare", runs=(101, 9999999999999999999))),
    ("/accept c1", Request("accept", runs=(1,))),
    ("/retry", Request("retry")),
    ("/retry c7", Request("retry", runs=(7,))),
    ("/cancel c7 ", Request("cancel", runs=(7,))),
    ("/status", Request("status")),
    ("/post week03", Request("post", "week03")),
    ("/kickoff week03", Request("kickoff", "week03")),
    ("/help", Request("help")),
])
def test_every_command_is_read(comment: str, request_: Request) -> None:
    assert request_ == parse(comment)


@pytest.mark.parametrize(("comment", "words"), [
    ("/bench week01 --batch 10000", "`--batch` takes a whole number from 1 to 9999"),
    ("/bench week01 --batch 064", "`--batch` takes a whole number from 1 to 9999"),
    ("/bench week01 --gpus 9", "`--gpus` takes a whole number from 1 to 8"),
    ("/bench week01 --repeat 0", "`--repeat` takes a whole number from 1 to 20"),
    ("/bench week01 --vs", "`--vs` takes a run"),
    ("/bench week01 --vs c0", "`--vs` takes a run"),
    ("/bench week01 --smoke=", "`--smoke` takes no value"),
    ("/bench week01 --smoke --smoke", "`--smoke` may be given once"),
    ("/bench week01 --batch 1 --batch 1", "`--batch` may be given once"),
    ("/bench week01 --bacth 4", "Did you mean `--batch`?"),
    ("/bench week1", "Did you mean `week01`?"),
    ("/bench week17", "a week is written week01 to week16"),
    ("/bench week01 week02", "one argument too many"),
    ("/help week01", "one argument too many"),
    ("/status --smoke", "there is no such option"),
    ("/compare c1", "something is missing"),
    ("/compare c1 c1", "must differ"),
    ("/accept 1", "a run is written c2001"),
    ("/bench week01 " + "a" * 200, "at most 200 characters"),
    ("/bench week01 $HOME", "only letters, digits"),
    ("/bench week01 \x0b", "only letters, digits"),
    ("/bench week\u0661", "only letters, digits"),
])
def test_a_refusal_says_why(comment: str, words: str) -> None:
    refusal = parse(comment)
    assert isinstance(refusal, Refusal)
    assert words in refusal.reply
    assert f"Usage: `/{comment[1:].split()[0]}" in refusal.reply


def test_usage_is_the_grammar_of_the_docstring() -> None:
    written = [line.strip() for line in str(commands.__doc__).splitlines() if line.startswith("    /")]
    assert written == [form.usage for form in FORMS]


def test_help_names_every_command_and_option() -> None:
    text = help_text()
    for form in FORMS:
        assert f"`{form.usage}`".replace("|", "\\|") in text
        assert form.help in text
        assert all(f"`{option.usage}`" in text and option.help in text for option in form.options)


def replies() -> list[str]:
    asked = [parse(case["comment"]) for case in CASES]
    return [help_text(), *(a.reply for a in asked if isinstance(a, Refusal))]


def test_no_answer_is_itself_a_command() -> None:
    for reply in replies():
        assert not re.search(r"(?m)^/", reply)
        assert verdict(reply) == "ignored"


HOSTILE = re.compile(r"[^\sa-z0-9|`.,:/_=\[\]\\-]{3,}|https?://\S+|@\w+|\$\S+|[0-9]{5,}", re.IGNORECASE)


@pytest.mark.parametrize("case", [c for c in CASES if c["expected"] == "refused"], ids=lambda case: case["id"])
def test_an_answer_never_repeats_its_question(case: dict[str, str]) -> None:
    refusal = parse(case["comment"])
    assert isinstance(refusal, Refusal)
    assert all(found.lower() not in refusal.reply.lower() for found in HOSTILE.findall(case["comment"]))
    assert re.fullmatch(r"[A-Za-z0-9 `/.,:;=_?|\[\]\n-]+", refusal.reply)


@given(st.text() | st.text("/bench week01\n\r\t -=c").map("/bench ".__add__) | st.from_regex(r"/(bench|compare|retry) .{0,40}"))
def test_anything_gets_a_verdict(comment: str) -> None:
    found = parse(comment)
    if isinstance(found, Refusal):
        assert re.fullmatch(r"[A-Za-z0-9 `/.,:;=_?|\[\]\n-]+", found.reply)


def test_nothing_is_no_command() -> None:
    assert parse(None) is None
