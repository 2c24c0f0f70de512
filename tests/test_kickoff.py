"""A week's issue: the plan's own words, a marker on every checkbox, nothing that a command could be read from."""

from __future__ import annotations

import re

import pytest
from golden import WORKLOAD

from bot.commands import Request, parse
from bot.kickoff import Kickoff, kickoff, milestone, next_week, title, week_of
from workloads.plan import CADENCE, CRITERIA, MINIMUM, READING, WEEKS, PlannedWeek

WEEK01 = """<!-- sprintbench:week week01 -->

**Plan (Mon)** set a numerical target and list deliverables · **Build (Tue-Thu)** code, measure, document · \
**Publish (Fri-Sun)** open PRs, write short notes, post publicly, close the issue

## Targets

The plan: >=1.5x speedup on at least one model, >=20% on all three, identical metrics.

- [ ] compile speedup, best of three models >= 1.5 x <!-- sb:target/best_speedup -->
- [ ] compile speedup, worst of three models >= 1.2 x <!-- sb:target/worst_speedup -->
- [ ] argmax agreement with eager, worst of three models >= 0.999 <!-- sb:target/parity -->

## Deliverables

- [ ] Benchmarks on ResNet50, ViT-B, UNet with `torch.compile`, CUDA graphs, `torch.profiler` <!-- sb:deliverable/0 -->
- [ ] Trace exports and short write-up <!-- sb:deliverable/1 -->

## Minimum each week

- [ ] Reproduce one figure or result from a paper/repo <!-- sb:minimum/0 -->
- [ ] Run one ablation or micro-benchmark <!-- sb:minimum/1 -->
- [ ] Update a demo/service and commit a perf sheet (latency, accuracy, cost) <!-- sb:minimum/2 -->

## Hard-mode acceptance criteria

- [ ] Numerical target defined and met for the week <!-- sb:criteria/0 -->
- [ ] At least one concrete artifact shipped (PR, demo, service, or report) <!-- sb:criteria/1 -->
- [ ] Perf and unit tests pass in CI <!-- sb:criteria/2 -->
- [ ] "What sped up, what broke, what's next" logged in the issue <!-- sb:criteria/3 -->

## Reading list: Core efficiency

- [ ] PyTorch 2.x compile + Inductor: Docs and deep-dive notes <!-- sb:reading/0 -->
- [ ] CUDA graphs + profiler: Official docs and tutorials <!-- sb:reading/1 -->
- [ ] FlashAttention (2/3): Paper + repo readthrough <!-- sb:reading/2 -->
- [ ] Data pipelines at scale: WebDataset + GPU JPEG decode notes <!-- sb:reading/3 -->
- [ ] Finetuning tricks: LoRA/QLoRA, EMA, AMP, grad-ckpt <!-- sb:reading/4 -->

## How to measure

Comment on this issue; the first line of the comment is the command.

- `/bench` measures this week on the GPU runner and ticks what the run proves
- `/bench --smoke` runs the same code in half a minute on a CPU; it is never judged
- `/help` lists every command
"""


def test_week_01_whole():
    assert kickoff(WORKLOAD.plan, WORKLOAD) == Kickoff(
        "Week 01 - PyTorch 2.x compile + profiling", WEEK01, ("week", "month-1"), "Month 1 - Training efficiency and ablations"
    )


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.key)
def test_every_week_of_the_plan_can_start(week: PlannedWeek):
    started = kickoff(week, None)
    items = re.findall(r"^- \[ \] (.*) <!-- sb:(.*) -->$", started.body, re.MULTILINE)
    reading = next(part for part in READING if part.month == week.month)
    expected = [(week.targets, "target/plan"), *((text, f"deliverable/{i}") for i, text in enumerate(week.deliverables))]
    expected += [(text, f"minimum/{i}") for i, text in enumerate(MINIMUM)] + [(text, f"criteria/{i}") for i, text in enumerate(CRITERIA)]
    expected += [(f"{topic}: {what}", f"reading/{i}") for i, (topic, what) in enumerate(reading.rows)]
    assert items == expected
    assert all(what in started.body for _, what in CADENCE)
    assert started.body.startswith(f"<!-- sprintbench:week {week.key} -->\n")
    assert f"workloads/{week.key}_<name>/" in started.body
    assert started.title == title(week)
    assert started.milestone == milestone(week.month)


def test_no_line_of_an_issue_is_a_command_and_every_command_shown_is_one():
    body = kickoff(WORKLOAD.plan, WORKLOAD).body
    assert [line for line in body.split("\n") if line.startswith("/")] == []
    shown = re.findall(r"^- `(/[^`]*)`", body, re.MULTILINE)
    assert [isinstance(parse(text), Request) for text in shown] == [True] * 3


@pytest.mark.parametrize(
    ("opened", "following"), [((), 1), ((1, 2), 3), ((2, 3), 1), ((1, 2, 4), 3), (tuple(range(1, 16)), 16), (tuple(range(1, 17)), None)]
)
def test_the_next_week_is_the_lowest_without_an_issue(opened: tuple[int, ...], following: int | None):
    assert next_week(opened) == following
    assert next_week(frozenset(opened)) == following


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.key)
def test_a_title_names_its_week(week: PlannedWeek):
    assert week_of(title(week)) == week.key
    assert week_of("renamed by people", kickoff(week, None).body) == week.key


@pytest.mark.parametrize(
    ("name", "body"),
    [("Week 17 - x", ""), ("Week 1 - x", ""), ("my Week 01 - x", ""), ("Week 01: x", "see <!-- sprintbench:week week01 -->")],
)
def test_other_issues_are_of_no_week(name: str, body: str):
    assert week_of(name, body) is None
