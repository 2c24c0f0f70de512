"""Markdown as GitHub shows it: GitHub's own parser, then a sanitizer, then alerts, task lists, @people and #issues."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import cmarkgfm
import nh3
from cmarkgfm.cmark import Options

COMMENT = Options.CMARK_OPT_UNSAFE | Options.CMARK_OPT_FOOTNOTES | Options.CMARK_OPT_GITHUB_PRE_LANG | Options.CMARK_OPT_HARDBREAKS
FILE = COMMENT & ~Options.CMARK_OPT_HARDBREAKS
TAGS = nh3.ALLOWED_TAGS | {"input"}
ATTRIBUTES = nh3.ALLOWED_ATTRIBUTES | {
    "input": {"type", "checked", "disabled"}, "a": {"href", "title", "id"}, "li": {"id"}, "details": {"open"}}
ALERT = re.compile(r"<blockquote>\s*<p>\[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\](?:<br>)?\s*(.*?)</blockquote>", re.DOTALL)
TAG = re.compile(r"(<[^>]*>)")
REFERENCE = re.compile(r"(?<![\w/&#@])(?:@([A-Za-z0-9][A-Za-z0-9-]{0,38})|#([0-9]{1,6}))\b")


def shown(text: str, repository: str, address: str, *, in_file: bool = False) -> str:
    """`text` as safe HTML. `repository` is /owner/name; `address` is what relative links are relative to."""
    raw = cmarkgfm.github_flavored_markdown_to_html(text, options=FILE if in_file else COMMENT)
    # GitHub's sanitizer knows no data: address, so neither does this one.
    clean = nh3.clean(raw, tags=TAGS, attributes=ATTRIBUTES, url_schemes={"http", "https", "mailto"}, link_rel="nofollow",
                      attribute_filter=lambda tag, name, value: placed(tag, name, value, address))
    clean = ALERT.sub(_alert, clean).replace("<li><input", '<li class="task-list-item"><input')
    return _linked(clean.replace('<input type="checkbox"', '<input class="task-list-item-checkbox" type="checkbox"'), repository)


def placed(tag: str, name: str, value: str, address: str) -> str:
    """A relative link made absolute; a picture that a Markdown file names by its place is fetched raw."""
    if name not in ("href", "src") or value.startswith("#") or urlsplit(value).scheme:
        return value
    whole = urljoin(address, value)
    return f"{whole}?raw=true" if tag == "img" and "/blob/" in whole and "?" not in whole else whole


def _alert(match: re.Match[str]) -> str:
    kind = match[1].lower()
    body = match[2] if match[2].startswith("</p>") else f"</p><p>{match[2]}"
    return f'<div class="markdown-alert markdown-alert-{kind}"><p class="markdown-alert-title">{kind.title()}{body}</div>'


def _linked(html: str, repository: str) -> str:
    """@people and #issues as links, outside code and outside other links."""
    parts, quiet = TAG.split(html), 0
    for place, part in enumerate(parts):
        if place % 2:
            word = re.match(r"</?(\w+)", part)
            if word and word[1] in ("code", "pre", "a"):
                quiet += -1 if part.startswith("</") else 1
        elif not quiet:
            parts[place] = REFERENCE.sub(lambda m: f'<a class="mention" href="/{m[1]}">@{m[1]}</a>' if m[1] else
                                         f'<a href="{repository}/issues/{m[2]}">#{m[2]}</a>', part)
    return "".join(parts)
