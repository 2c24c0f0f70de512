"""The plan in code is the sprint plan, word for word, and every page made from it stands as it is made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from golden import WORKLOAD, stored

from bot.commands import help_text
from bot.documents import FORM, issue_form, pages, plan, week_results
from bot.kickoff import milestone, title
from workloads.plan import CADENCE, CRITERIA, MINIMUM, MONTHS, POST_TEMPLATE, PURPOSE, READING, TITLE, WEEKS, planned

ROOT = Path(__file__).parent.parent
PLAN = (Path(__file__).parent / "cases" / "sprint-plan.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The plan's text below a heading, to the next of its level or the rule."""
    return re.split(r"\n## |\n---", PLAN.split(f"\n## {heading}\n", 1)[1])[0]


def boxes(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"- \[ \] (.*)", text))


def test_title_purpose_and_post_template():
    assert PLAN.split("\n---")[0].strip() == f"# {TITLE}\n\n{PURPOSE}"
    assert section("Weekly post template").strip() == f"> {POST_TEMPLATE}"


def test_cadence_minimum_and_criteria():
    assert tuple(re.findall(r"- \*\*(.*?)\*\* (.*)", section("Weekly cadence"))) == CADENCE
    assert boxes(section("Weekly cadence").split("**Minimum each week**")[1]) == MINIMUM
    assert boxes(section("Hard-mode acceptance criteria")) == CRITERIA


def test_months_and_weeks():
    glance = section("16-week plan at a glance")
    assert re.findall(r"### (.*)", glance) == [milestone(month) for month in range(1, 1 + len(MONTHS))]
    parts = re.split(r"\n(?=\*\*Week )", glance)[1:]
    found = [(*re.findall(r"\*\*(.*)\*\*\n- Targets: (.*)\n", part)[0], boxes(part)) for part in parts]
    assert found == [(title(week), week.targets, week.deliverables) for week in WEEKS]
    assert [planned(n).week for n in range(1, 17)] == list(range(1, 17))
    months = [glance[: glance.index(title(week))].count("### Month") for week in WEEKS]
    assert months == [week.month for week in WEEKS]


def test_reading_lists():
    parts = section("Reading lists with checkboxes").split("\n### ")[1:]
    expected = []
    for part in parts:
        name, first, last = re.findall(r"^(.*) \(Weeks (\d\d)-(\d\d)\)\n", part)[0]
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.split("\n") if line.startswith("|")]
        assert (planned(int(first)).month, planned(int(last)).month, int(last) - int(first)) == (len(expected) + 1, len(expected) + 1, 3)
        expected.append((name, header[1], tuple((topic, what.removeprefix("[ ] ")) for topic, what, _ in rows)))
    assert [(part.name, part.column, part.rows) for part in READING] == expected


def test_the_plan_page_is_the_plan():
    begin = "## Weekly cadence"
    assert plan().split(begin)[1].strip() == PLAN.split(begin)[1].strip()
    assert plan().split("\n---")[0].endswith(f"# {TITLE}\n\n{PURPOSE}\n")


def test_the_issue_form_holds_the_plans_words():
    form = yaml.safe_load(issue_form())
    fields = {field["id"]: field for field in form["body"]}
    assert form["name"] == "Weekly Progress (Public)"
    assert fields["week"]["attributes"]["options"] == [title(week) for week in WEEKS]
    assert [option["label"] for option in fields["minimum"]["attributes"]["options"]] == list(MINIMUM)
    assert [option["label"] for option in fields["criteria"]["attributes"]["options"]] == list(CRITERIA)
    assert [name for name, field in fields.items() if field.get("validations") == {"required": True}] == [
        "week",
        "target",
        "sped-up",
        "broke",
    ]


@pytest.mark.parametrize(("path", "text"), [("PLAN.md", plan()), (FORM, issue_form())])
def test_a_page_in_the_repository_stands_as_it_is_made(path: str, text: str):
    assert (ROOT / path).read_text(encoding="utf-8") == text


def test_pages_of_an_empty_repository(tmp_path: Path):
    assert pages(tmp_path, {}, {"week01": WORKLOAD}) == {"PLAN.md": plan(), FORM: issue_form()}


def test_pages_that_people_write_get_their_regions(tmp_path: Path):
    week = tmp_path / "workloads" / "week01_compile"
    week.mkdir(parents=True)
    (tmp_path / "README.md").write_text("# Mine\n\n<!-- sprintbench:commands -->\nold\n<!-- /sprintbench:commands -->\n", encoding="utf-8")
    (week / "README.md").write_text("# Week\n", encoding="utf-8")
    made = pages(tmp_path, {"week01": (stored("ok"),)}, {"week01": WORKLOAD})
    assert made["README.md"] == f"# Mine\n\n<!-- sprintbench:commands -->\n{help_text().strip()}\n<!-- /sprintbench:commands -->\n"
    results = week_results(WORKLOAD, [stored("ok")])
    assert (
        made["workloads/week01_compile/README.md"] == f"# Week\n\n<!-- sprintbench:results -->\n{results}\n<!-- /sprintbench:results -->\n"
    )


def test_results_of_a_week_are_its_newest_judged_run():
    assert week_results(WORKLOAD, [stored("smoke"), stored("oom")]) == "No full run is recorded yet."
    assert week_results(WORKLOAD, [stored("missed"), stored("ok"), stored("smoke")]).startswith(
        "Run [c4211](../../results/week01/c4211) of 2026-11-23: "
    )
