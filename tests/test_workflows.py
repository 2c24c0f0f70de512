"""The workflows and issue forms: linters run for real, and what neither they nor act can see is asserted on the YAML."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
BIN = Path(sys.executable).parent


def load(path: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    return {"on" if key is True else str(key): value for key, value in yaml.safe_load(path.read_text()).items()}


def jobs() -> list[Any]:
    return [pytest.param(path, name, job, id=f"{path.stem}-{name}") for path in WORKFLOWS for name, job in load(path)["jobs"].items()]


def steps() -> list[Any]:
    return [pytest.param(step, id=f"{path.stem}-{name}-{place}")
            for path in WORKFLOWS for name, job in load(path)["jobs"].items() for place, step in enumerate(job["steps"])]


def lint(*command: str) -> None:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint() -> None:
    lint("actionlint", "-shellcheck", str(BIN / "shellcheck"), *map(str, WORKFLOWS))


@pytest.mark.parametrize("persona", ["regular", "pedantic"])
def test_zizmor(persona: str) -> None:
    lint("zizmor", "--offline", "--no-progress", "--persona", persona, ".github/workflows")


def test_workflow_schema() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))


def test_every_job_has_a_timeout() -> None:
    lint("check-jsonschema", "--builtin-schema", "custom.github-workflows-require-timeout", *map(str, WORKFLOWS))


def test_issue_form_schema() -> None:
    assert FORMS, "the form Weekly Progress (Public) is missing"
    lint("check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *map(str, FORMS))


def test_shell_scripts() -> None:
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.sh", ".ci/run"],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert listed, "at least .ci/run is a shell script"
    lint("shellcheck", *listed)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_starts_with_nothing(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    assert workflow["cache-mode"] == "none"
    assert not {"pull_request_target", "workflow_run"} & set(workflow["on"])


@pytest.mark.parametrize(("path", "name", "job"), jobs())
def test_a_job_has_the_permissions_it_needs(path: Path, name: str, job: dict[str, Any]) -> None:
    granted = {("bench", "gate"): {"contents": "read", "issues": "write", "actions": "write"},
               ("bench", "bench"): {"contents": "read"},
               ("bench", "watch"): {"contents": "read", "issues": "write", "actions": "read"},
               ("bench", "report"): {"contents": "write", "issues": "write", "actions": "read"},
               ("kickoff", "kickoff"): {"contents": "write", "issues": "write"},
               ("sweep", "sweep"): {"contents": "write", "issues": "write", "actions": "write"},
               ("pages", "ask"): {"pages": "read"},
               ("pages", "deploy"): {"pages": "write", "id-token": "write"}}
    assert job["permissions"] == granted.get((path.stem, name), {"contents": "read"})
    assert isinstance(job["timeout-minutes"], int)


@pytest.mark.parametrize(("path", "name", "job"), jobs())
def test_only_one_job_meets_the_gpu_machine(path: Path, name: str, job: dict[str, Any]) -> None:
    on_gpu = "self-hosted" in job["runs-on"]
    assert on_gpu == ((path.stem, name) == ("bench", "bench"))
    if on_gpu:
        assert job["runs-on"] == ["self-hosted", "linux", "x64", "gpu"]
        assert not re.search(r"secrets|token|vars\.", str(job), re.IGNORECASE)


def test_the_projects_token_is_given_to_the_steps_that_need_it() -> None:
    """The one secret: as a variable of the last step of jobs on hosted machines, which is the bot itself."""
    given = set()
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            if re.search(r"\bsecrets\b", str(job)):
                given.add((path.stem, name))
                assert "secrets" not in str({key: value for key, value in job.items() if key != "steps"} | {"steps": job["steps"][:-1]})
                assert re.findall(r"secrets[^ ]*", str(job["steps"][-1])) == ["secrets.PROJECT_TOKEN"]
                assert job["steps"][-1]["env"]["PROJECT_URL"] == "${{ vars.PROJECT_URL }}"
                assert job["runs-on"] == "ubuntu-latest"
    assert {("kickoff", "kickoff"), ("sweep", "sweep")} <= given <= {("bench", "report"), ("kickoff", "kickoff"), ("sweep", "sweep")}


@pytest.mark.parametrize(("path", "name", "job"), jobs())
def test_nobody_is_pushed_out_of_the_queue(path: Path, name: str, job: dict[str, Any]) -> None:
    groups = {("bench", "gate"): "gate", ("bench", "bench"): "gpu-bench-${{ matrix.leg.week }}",
              ("bench", "watch"): "watch-${{ needs.gate.outputs.request_id }}",
              ("bench", "report"): "scoreboard", ("kickoff", "kickoff"): "scoreboard", ("sweep", "sweep"): "scoreboard"}
    if (path.stem, name) in groups:
        assert job["concurrency"] == {"group": groups[path.stem, name], "cancel-in-progress": False, "queue": "max"}


@pytest.mark.parametrize("step", steps())
def test_a_step_trusts_nothing(step: dict[str, Any]) -> None:
    assert "${{" not in step.get("run", "")
    assert not re.search(r"github\.event\.(comment|issue)\.(body|title)|github\.head_ref|refs/pull", str(step))
    if uses := step.get("uses"):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", uses)
        if uses.startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_pin_says_its_version(path: Path) -> None:
    pins = re.findall(r"uses: (.*)", path.read_text())
    assert all(re.fullmatch(r"\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+", pin) for pin in pins)


def test_one_pin_for_an_action() -> None:
    pins = {pin for path in WORKFLOWS for pin in re.findall(r"uses: (\S+@\S+)", path.read_text())}
    assert len(pins) == len({pin.split("@")[0] for pin in pins})


def test_a_new_comment_is_all_that_starts_a_bench() -> None:
    assert load(ROOT / ".github/workflows/bench.yml")["on"] == {"issue_comment": {"types": ["created"]}}


def test_who_puts_the_site_online_runs_nothing_else() -> None:
    """The one job with a token for Pages checks nothing out, runs no script and needs what a job that may only read has made."""
    deploy = load(ROOT / ".github/workflows/pages.yml")["jobs"]["deploy"]
    assert (deploy["needs"], len(deploy["steps"])) == ("build", 1)
    assert deploy["steps"][0]["uses"].startswith("actions/deploy-pages@")


def test_what_the_report_believes_comes_from_the_gate() -> None:
    report = load(ROOT / ".github/workflows/bench.yml")["jobs"]["report"]
    last = report["steps"][-1]["env"]
    assert {name: value for name, value in last.items() if "needs." in value or "matrix." in value} == {
        "REQUEST": "${{ matrix.leg.request }}", "REQUEST_ID": "${{ needs.gate.outputs.request_id }}",
        "ISSUE": "${{ needs.gate.outputs.issue }}", "NAME": "${{ matrix.leg.name }}", "CARD": "${{ matrix.leg.card }}",
        "JOB_RESULT": "${{ needs.bench.result }}"}
    assert report["strategy"]["matrix"] == {"leg": "${{ fromJSON(needs.gate.outputs.legs || '[{}]') }}"}
    assert "needs.bench.outputs" not in str(report)


def test_one_week_that_fails_stops_no_other() -> None:
    jobs = load(ROOT / ".github/workflows/bench.yml")["jobs"]
    assert jobs["bench"]["strategy"] == jobs["report"]["strategy"]
    assert jobs["bench"]["strategy"]["fail-fast"] is False


def test_the_artifact_is_fetched_packed() -> None:
    report = load(ROOT / ".github/workflows/bench.yml")["jobs"]["report"]
    fetch = next(step for step in report["steps"] if step.get("uses", "").startswith("actions/download-artifact@"))
    assert fetch["with"] == {"name": "result-${{ matrix.leg.week }}", "path": "${{ runner.temp }}/artifact", "skip-decompress": True}
