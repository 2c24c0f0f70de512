"""The demo, played once: a real `/bench week01 --smoke` by the real workflows, what it leaves, and how its pages look in Chromium."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from test_act import ends, stages
from test_weeks import check_whole

from localhub import demo
from localhub.server import Logged
from localhub.state import BOT
from workloads.spec import discover

ROOT = "/sprinter/sprint"


@dataclass(frozen=True, slots=True)
class Played:
    """A local hub after the demo: one Week issue, one measured result; `out` holds what the demo wrote, `told` what it said, and
    `requests` what was asked of the API until then."""

    local: demo.Local
    out: Path
    told: str
    requests: tuple[Logged, ...]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The demo, played once for all tests that look at its outcome; its hub stays up."""
    folder = tmp_path_factory.mktemp("demo")
    told: list[str] = []
    with demo.local_hub(demo.snapshot(demo.ROOT, folder / "sprint.git")) as local:
        out = folder / "out"
        out.mkdir()
        demo.play(local, out, demo.Story(say=told.append))
        yield Played(local, out, "\n".join(told), tuple(local.service.requests))
        assert local.service.violations == []


def widths(page: Page) -> list[int]:
    """The pixel widths of a page's pictures; 0 is one that did not load."""
    page.wait_for_load_state("networkidle")
    found: list[int] = page.eval_on_selector_all(".post img", "images => images.map(image => image.naturalWidth)")
    return found


@pytest.mark.slow
def test_a_command_becomes_a_posted_result(played: Played) -> None:
    """The whole way; what is checked in play() (one comment, one commit with the scoreboard, pictures) has been checked."""
    hub = played.local.hub
    kickoff, bench = hub.runs[:2]
    assert ends(kickoff) == {"Kickoff": "success"}
    assert stages(bench) == {"Gate": "success", "Watch": "success", "Bench": "success", "Report": "success"}
    command, card = hub.issues[0].comments[:2]
    assert (command.user.login, card.user) == ("sprinter", BOT)
    assert {one.user for one in command.reactions} == {BOT}
    assert "week01" in card.body.splitlines()[2]
    head = hub.git.head()
    result = json.loads(hub.git.read(head, f"results/week01/c{command.id}/result.json") or b"")
    assert (result["status"], result["run"], result["request"]["smoke"], result["commit"]) == ("ok", f"c{command.id}", True, bench.sha)
    assert b"week01" in (hub.git.read(head, "SCOREBOARD.md") or b"")
    assert len(hub.git.log(head)) <= 3, "the checkout, perhaps the kickoff's scoreboard, and the result"


@pytest.mark.slow
def test_its_week_is_whole(played: Played, tmp_path: Path) -> None:
    """As test_weeks.py asks it of every other week: the job ended well, and this is all that the runner left in --out."""
    bench = played.local.hub.runs[1]
    assert stages(bench)["Bench"] == "success"
    with zipfile.ZipFile(io.BytesIO(bench.artifacts[f"result-{demo.WEEK}"])) as handed_over:
        handed_over.extractall(tmp_path)
    check_whole(discover()[demo.WEEK], tmp_path)


@pytest.mark.slow
def test_the_demo_leaves_what_it_says(played: Played) -> None:
    hub = played.local.hub
    card = hub.issues[0].comments[1]
    assert (played.out / "comment.md").read_text(encoding="utf-8") == card.body
    assert (played.out / "issue-body.md").read_text(encoding="utf-8") == hub.issues[0].body
    assert (played.out / "SCOREBOARD.md").read_bytes() == hub.git.read("main", "SCOREBOARD.md")
    assert all(path.read_bytes().startswith(demo.PNG) for path in played.out.glob("*.png"))
    assert [str(path) for path in sorted(played.out.iterdir()) if str(path) not in played.told] == []


@pytest.mark.slow
def test_a_command_spends_few_calls(played: Played) -> None:
    """Gate and report together. A look of the watch is two: the comments, and the jobs of the run."""
    command = played.local.hub.issues[0].comments[0]
    asked = [one.path for one in played.requests]
    first = next(place for place, path in enumerate(asked) if path.endswith(f"/comments/{command.id}/reactions"))
    looks = sum(path.endswith("/jobs") for path in asked)
    assert looks > 1
    assert len(asked) - first - 2 * looks <= 15


# ---------------------------------------------------------------------------------------------------- in Chromium


@pytest.mark.slow
def test_the_issue_shows_the_result(played: Played, page: Page) -> None:
    page.goto(f"{played.local.url}{ROOT}/issues")
    page.get_by_role("link", name="Week 01 - PyTorch 2.x compile + profiling").click()
    expect(page.locator("#head")).to_contain_text("Open")
    expect(page.locator("#side")).to_contain_text("Month 1 - Training efficiency and ablations")
    result = page.locator(".post").nth(2)
    expect(result).to_contain_text("github-actions[bot]")
    assert result.locator("table").first.locator("tr").count() > 3
    assert widths(page)
    assert min(widths(page)) >= 600
    assert page.locator(".post").first.locator("input[type=checkbox]").count() >= 15
    assert "sprintbench:" not in page.locator("main").inner_text()
    assert "<!--" not in page.locator("main").inner_text()


@pytest.mark.slow
def test_a_typed_command_is_answered(played: Played, page: Page) -> None:
    page.goto(f"{played.local.url}{ROOT}/issues/1")
    posts = page.locator(".post").count()
    page.locator("textarea").fill("/help")
    page.get_by_role("button", name="Comment").click()
    expect(page.locator(".post")).to_have_count(posts + 2, timeout=30_000)
    answer = page.locator(".post").last
    expect(answer).to_contain_text("github-actions[bot]")
    expect(answer).to_contain_text("/bench")


@pytest.mark.slow
def test_the_other_tabs(played: Played, page: Page) -> None:
    page.goto(f"{played.local.url}{ROOT}")
    expect(page.locator("#board")).to_contain_text("SCOREBOARD.md")
    expect(page.locator("#board table").first).to_contain_text("week01")
    page.get_by_role("link", name="Actions").click()
    expect(page.locator("#runs")).to_contain_text("Weekly kickoff #1")
    page.locator("#runs a.title").last.click()
    expect(page.locator("#run")).to_contain_text("Open the week")
    page.go_back()
    page.locator("input[name=week]").fill("week02")
    page.locator("form.run", has=page.locator("input[name=week]")).get_by_role("button").click()
    expect(page.locator("#runs .dot.success")).to_have_count(len(played.local.hub.runs), timeout=30_000)
    page.get_by_role("link", name="Issues").click()
    expect(page.locator("#issues .title").first).to_contain_text("Week 02")


@pytest.mark.slow
def test_the_issue_as_one_file(played: Played, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((played.out / "issue.html").as_uri())
    assert widths(page)
    assert min(widths(page)) >= 600
    assert [address for address in asked if not address.startswith(("file:", "data:"))] == []
    assert page.locator(f'a[href*="{played.local.url}"]').count() == 0
