"""Regions: what lies between the marks is replaced, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import UserError
from bot.regions import replace

OPEN, CLOSE = "<!-- sprintbench:board -->", "<!-- /sprintbench:board -->"
prose = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=60)


def test_the_region_alone_changes():
    text = f"# Mine\n\n{OPEN}\nold\n{CLOSE}\nafter\n"
    assert replace(text, "board", "new\nlines\n") == f"# Mine\n\n{OPEN}\nnew\nlines\n{CLOSE}\nafter\n"


@given(prose, prose, prose)
def test_every_other_byte_stays(before: str, old: str, after: str):
    text = f"{before}\n{OPEN}\n{old}\n{CLOSE}\n{after}"
    assert replace(text, "board", "new") == f"{before}\n{OPEN}\nnew\n{CLOSE}\n{after}"


@given(prose, prose)
def test_twice_is_once(before: str, content: str):
    once = replace(before, "board", content)
    assert replace(once, "board", content) == once


@pytest.mark.parametrize(("text", "gap"), [("", ""), ("mine\n", "\n"), ("mine", "\n\n")])
def test_a_missing_region_is_added_at_the_end(text: str, gap: str):
    assert replace(text, "board", "new") == f"{text}{gap}{OPEN}\nnew\n{CLOSE}\n"


def test_marks_of_other_names_and_in_running_text_are_not_marks():
    text = f"see `{OPEN}` and\n<!-- sprintbench:other -->\nx\n<!-- /sprintbench:other -->\n"
    assert replace(text, "board", "new") == f"{text}\n{OPEN}\nnew\n{CLOSE}\n"


def test_crlf_pages_keep_their_lines():
    assert replace(f"mine\r\n{OPEN}\r\nold\r\n{CLOSE}\r\nafter\r\n", "board", "new") == f"mine\r\n{OPEN}\nnew\n{CLOSE}\r\nafter\r\n"


@pytest.mark.parametrize("marks", [(OPEN,), (CLOSE,), (CLOSE, OPEN), (OPEN, OPEN, CLOSE), (OPEN, CLOSE, CLOSE)])
def test_marks_that_do_not_pair_are_refused(marks: tuple[str, ...]):
    with pytest.raises(UserError, match=r"the marks of the region 'board' do not pair"):
        replace("\n".join(marks), "board", "new")
