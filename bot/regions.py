"""Text between marks: a region that the bot owns inside a page that people write."""

from __future__ import annotations

import re

from bot.errors import UserError


def replace(text: str, name: str, content: str) -> str:
    """`text` with `content` between the lines `<!-- sprintbench:NAME -->` and `<!-- /sprintbench:NAME -->`; all else stays
    byte for byte. Where there is no such region one is added at the end. Raises UserError where the marks do not pair."""
    opening, closing = f"<!-- sprintbench:{name} -->", f"<!-- /sprintbench:{name} -->"
    starts, ends = ([m.span() for m in re.finditer(rf"(?m)^{re.escape(mark)}(?=[ \t\r]*$)", text)] for mark in (opening, closing))
    inside = f"\n{content.strip()}\n"
    if not starts and not ends:
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        return f"{text}{gap}{opening}{inside}{closing}\n"
    if len(starts) != 1 or len(ends) != 1 or starts[0][1] > ends[0][0]:
        raise UserError(f"the marks of the region {name!r} do not pair: one line {opening} and, below it, one line {closing} are needed")
    return text[:starts[0][1]] + inside + text[ends[0][0]:]
