"""The local hub's pages, as a person sees them in Chromium, and GitHub's Markdown as they show it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import LocalHub
from playwright.sync_api import Page, expect

from localhub import markdown
from localhub.contract import Judge
from localhub.page import application
from localhub.repository import Repository
from localhub.server import Service, served
from localhub.state import Hub

ROOT = "/sprinter/sprint"


def shown(text: str, *, in_file: bool = False) -> str:
    return markdown.shown(text, ROOT, f"{ROOT}/blob/main/README.md" if in_file else f"{ROOT}/issues/1", in_file=in_file).strip()


@pytest.mark.parametrize(("text", "expected"), [
    ("<!-- sprintbench:card c1 -->\nseen", "<p>seen</p>"),
    ("one\ntwo", "<p>one<br>\ntwo</p>"),
    ("- [x] done <!-- sb:a -->",
     '<ul>\n<li class="task-list-item"><input class="task-list-item-checkbox" type="checkbox" checked="" disabled=""> done </li>\n</ul>'),
    ("> [!WARNING]\n> hot",
     '<div class="markdown-alert markdown-alert-warning"><p class="markdown-alert-title">Warning</p><p>hot</p>\n</div>'),
    ("@sprinter and #7, `@code #7`", '<p><a class="mention" href="/sprinter">@sprinter</a> and <a href="/sprinter/sprint/issues/7">#7</a>, '
                                     "<code>@code #7</code></p>"),
    ("![p](../blob/main/p.png?raw=true)", '<p><img src="/sprinter/sprint/blob/main/p.png?raw=true" alt="p"></p>'),
    ("![p](data:image/png;base64,AAAA)", '<p><img alt="p"></p>'),
    ("[x](javascript:alert(1))", '<p><a rel="nofollow">x</a></p>'),
    ('<div style="position:fixed"><img src="/x.png" onerror="alert(1)"></div>', '<div><img src="/x.png"></div>'),
])
def test_markdown_is_shown_as_github_does(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_files_pictures_are_looked_up_beside_it() -> None:
    assert shown("one\ntwo ![p](results/p.png)", in_file=True) == (
        '<p>one\ntwo <img src="/sprinter/sprint/blob/main/results/p.png?raw=true" alt="p"></p>')


@pytest.fixture
def pages(tmp_path: Path, judge: Judge) -> Iterator[LocalHub]:
    """A hub with pages and without workflows."""
    hub = Hub("sprinter/sprint", Repository.create(tmp_path / "sprint.git"))
    service = Service(hub, application(hub), judge=judge)
    with served(service) as url:
        local = LocalHub(url, hub, service)
        local.hub.add_user("sprinter", 1001, "admin")
        local.put({"README.md": b"# A sprint\n", "x.svg": b"<svg onload='alert(1)'/>"})
        yield local


def test_a_form_of_another_site_is_refused(pages: LocalHub) -> None:
    number = pages.open_issue("An issue").number
    address, form = f"{pages.url}{ROOT}/issues/{number}/comments", {"login": "sprinter", "body": "/bench week01"}
    assert httpx.post(address, data=form, headers={"Origin": "http://elsewhere.example"}).status_code == 403
    assert httpx.post(address, data=form, headers={"Host": "elsewhere.example"}).status_code == 400
    assert httpx.post(address, data=form | {"login": "github-actions[bot]"}, headers={"Origin": pages.url}).status_code == 403
    assert httpx.post(address, data=form | {"body": "x" * 65_537}).status_code == 422
    assert pages.hub.issues[0].comments == []
    assert httpx.post(address, data=form, headers={"Origin": pages.url}).status_code == 303
    assert [comment.body for comment in pages.hub.issues[0].comments] == ["/bench week01"]


def test_what_is_not_there_is_404(pages: LocalHub) -> None:
    for path in ("/issues/9", "/blob/main/none", "/blob/none/README.md", "/commit/none", "/actions/runs/1"):
        assert httpx.get(f"{pages.url}{ROOT}{path}").status_code == 404, path
    assert httpx.get(f"{pages.url}/other/repo").status_code == 404


def test_raw_files_never_become_pages(pages: LocalHub) -> None:
    reply = httpx.get(f"{pages.url}{ROOT}/blob/main/x.svg?raw=true")
    assert (reply.headers["content-type"], reply.headers["x-content-type-options"]) == ("text/plain; charset=utf-8", "nosniff")


# ---------------------------------------------------------------------------------------------------- in Chromium


def test_hostile_markup_does_nothing(pages: LocalHub, page: Page) -> None:
    title = "<img src=x onerror=\"document.title='PWNED'\">"
    number = pages.open_issue(title, f"{title}<script>document.title='PWNED'</script>", ("<b>label</b>",)).number
    page.goto(f"{pages.url}{ROOT}/issues/{number}")
    expect(page.locator("h1")).to_contain_text(title)
    assert page.locator("h1 img, .side b, .post script").count() == 0
    assert "PWNED'" in page.title(), "as text, in full"
