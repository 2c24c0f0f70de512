"""A week is whole: its promise, its page and its one path hold together, for every week there is."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from bot.acceptance import judge
from bot.artifact import open_directory
from bot.kickoff import kickoff
from bot.report import Where, report
from localhub import demo
from workloads.plan import WEEKS
from workloads.spec import Context, Observed, Workload, check_kept, discover

ROOT = Path(__file__).parent.parent
WORKLOADS = tuple(discover().values())


def ids(workload: Workload) -> str:
    return workload.key


def test_weeks_are_found_in_order() -> None:
    assert list(discover()) == sorted(discover())
    assert set(discover()) <= {week.key for week in WEEKS}


@pytest.mark.parametrize("workload", WORKLOADS, ids=ids)
def test_the_promise_says_what_to_expect_and_its_page_shows_what_came(workload: Workload) -> None:
    promise = importlib.import_module(f"workloads.{workload.folder}")
    assert len((promise.__doc__ or "").splitlines()) >= 5, "the docstring gives the physics and the expectation"
    page = (ROOT / "workloads" / workload.folder / "README.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {workload.plan.key.replace('week', 'Week ')} - {workload.plan.title}\n")
    assert "<!-- sprintbench:results -->" in page
    body = kickoff(workload.plan, workload).body
    assert all(f"<!-- sb:target/{target.name} -->" in body for target in workload.targets)


@pytest.mark.parametrize("workload", WORKLOADS, ids=ids)
def test_the_promise_needs_no_torch(workload: Workload) -> None:
    code = f"import sys, workloads.{workload.folder}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("workload", WORKLOADS, ids=ids)
def test_a_week_is_one_function(workload: Workload) -> None:
    """run(ctx) -> Observed."""
    signature = inspect.signature(importlib.import_module(f"workloads.{workload.folder}.run").run, eval_str=True)
    assert [p.annotation for p in signature.parameters.values()] == [Context]
    assert signature.return_annotation is Observed


@pytest.mark.slow
@pytest.mark.parametrize("workload", [workload for workload in WORKLOADS if workload.key != demo.WEEK], ids=ids)
def test_a_week_is_whole(workload: Workload, tmp_path: Path) -> None:
    """Of the demo's week the same is asked in test_demo.py, of the run that is made there anyway."""
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-m", "runner", workload.key, "--smoke", "--out", str(out)], cwd=ROOT, check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_whole(workload, out)


def check_whole(workload: Workload, out: Path) -> None:
    """A smoke run on a CPU, which left `out`, went the whole way to a report in which nothing is judged."""
    checked = open_directory(out, workload)
    result = checked.result
    assert set(checked.files) == set(workload.files)
    for observed in result.observed:
        check_kept(workload, observed)
        assert any(table.chart for table in observed.tables), "a week has a plot"
        assert observed.metric("noise") is not None, "a week shows its noise floor"
    assert {v.verdict for v in judge(workload, result)} == {"not judged"}
    assert "not judged (smoke run)" in report(workload, result, Where())
