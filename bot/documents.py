"""Pages that repeat what the code says: the plan, the issue form, the commands' table and each week's results; pure but for reading.

`bench docs` writes them, `bench docs --check` fails where one has drifted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bot.acceptance import hold_back
from bot.commands import help_text
from bot.history import age
from bot.kickoff import title
from bot.regions import replace
from bot.report import block
from workloads.plan import CADENCE, CRITERIA, MINIMUM, MONTHS, POST_TEMPLATE, PURPOSE, READING, TITLE, WEEKS, PlannedWeek, ReadingList
from workloads.spec import Result, Workload

FORM = ".github/ISSUE_TEMPLATE/weekly-progress.yml"
SOURCE = "Made from workloads/plan.py by `bench docs`. Change it there."


def pages(root: Path, runs: Mapping[str, Sequence[Result]], workloads: Mapping[str, Workload]) -> dict[str, str]:
    """The text that each generated page should have, by its path under `root`. README pages are read, for only their regions
    are generated, and one that does not exist is not made. `runs` are every week's, by its key."""
    made = {"PLAN.md": plan(), FORM: issue_form()}
    readme = root / "README.md"
    if readme.exists():
        made["README.md"] = replace(readme.read_text(encoding="utf-8"), "commands", help_text())
    for key, workload in workloads.items():
        path = f"workloads/{workload.folder}/README.md"
        if (root / path).exists():
            made[path] = replace((root / path).read_text(encoding="utf-8"), "results", week_results(workload, runs.get(key, ())))
    return made


def week_results(workload: Workload, runs: Iterable[Result]) -> str:
    """The newest judged run of a week, as its README in workloads/ shows it."""
    judged = [run for run in runs if not hold_back(run)]
    if not judged:
        return "No full run is recorded yet."
    newest = max(judged, key=age)
    return block(workload, newest, f"../../results/{workload.key}/{newest.run}")


def plan() -> str:
    """PLAN.md: the sprint plan, whole."""
    months = [f"### Month {month} - {name}\n" + "\n\n".join(_week(week) for week in WEEKS if week.month == month)
              for month, name in enumerate(MONTHS, start=1)]
    return "\n\n".join((
        f"<!-- {SOURCE} -->",
        f"# {TITLE}",
        PURPOSE,
        "---",
        "## Weekly cadence",
        "\n".join(f"- **{when}** {what}" for when, what in CADENCE),
        "**Minimum each week**\n" + _boxes(MINIMUM),
        "---",
        "## Hard-mode acceptance criteria",
        _boxes(CRITERIA),
        "---",
        "## 16-week plan at a glance",
        *months,
        "---",
        "## Reading lists with checkboxes",
        "> Mark items as you go. Add the links you use right next to each line.",
        *(_reading(part) for part in READING),
        "---",
        "## Weekly post template",
        f"> {POST_TEMPLATE}",
    )) + "\n"


def _boxes(items: Iterable[str], indent: str = "") -> str:
    return "\n".join(f"{indent}- [ ] {item}" for item in items)


def _week(week: PlannedWeek) -> str:
    return f"**{title(week)}**\n- Targets: {week.targets}\n- Deliverables:\n{_boxes(week.deliverables, '  ')}"


def _reading(part: ReadingList) -> str:
    rows = "\n".join(f"| {topic} | [ ] {what} | [ ] |" for topic, what in part.rows)
    weeks = f"Weeks {4 * part.month - 3:02d}-{4 * part.month:02d}"
    return f"### {part.name} ({weeks})\n| Topic | {part.column} | Done |\n|---|---|---|\n{rows}"


# ---------------------------------------------------------------------------------------------------- the issue form


def issue_form() -> str:
    """The issue form "Weekly Progress (Public)" as YAML; strings are JSON's, which YAML reads as they are."""
    return "\n".join((
        f"# {SOURCE}",
        "name: Weekly Progress (Public)",
        "description: What a week of the sprint reached, for everyone to read",
        'title: "Progress: Week NN"',
        "body:",
        *_field("dropdown", "week", "Week", required=True, options=[title(week) for week in WEEKS]),
        *_field("input", "target", "Numerical target", "The number this week promised, and the number it reached.", required=True),
        *_field("textarea", "sped-up", "What sped up", "Numbers with units, and a link to the run.", required=True),
        *_field("textarea", "broke", "What broke", "What did not work, and why as far as it is known.", required=True),
        *_field("textarea", "next", "What's next"),
        *_field("textarea", "links", "Links", "Public posts, PRs, demos, the Week issue."),
        *_field("checkboxes", "minimum", "Minimum each week", options=MINIMUM),
        *_field("checkboxes", "criteria", "Hard-mode acceptance criteria", options=CRITERIA),
    )) + "\n"


def _field(kind: str, name: str, label: str, description: str = "", *, required: bool = False, options: Sequence[str] = ()) -> list[str]:
    choice = "label: " if kind == "checkboxes" else ""
    lines = [f"  - type: {kind}", f"    id: {name}", "    attributes:", f"      label: {json.dumps(label)}"]
    lines += [f"      description: {json.dumps(description)}"] if description else []
    lines += ["      options:", *(f"        - {choice}{json.dumps(option)}" for option in options)] if options else []
    return lines + (["    validations:", "      required: true"] if required else [])
