"""The doctor: each thing that can be amiss is found, named and given its fix; what is looked at is real, but for GPU and GitHub."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

import bot.doctor as repository
import runner.doctor as machine
from bot.__main__ import cli
from bot.hub import ActionsSettings, Branch, Hub, Overview, Runner, WorkflowFile
from localhub.state import Machine
from runner.doctor import Disk, Facts, Gpu, Gpus, Spool, Torch, Week
from workloads.machine import RoundTrip, round_trip
from workloads.spec import Diagnosis, Finding, SpecError, loads

REPO = Path(__file__).parent.parent
NVML = REPO / "tests" / "cases" / "nvml"


def one(found: Sequence[Finding], what: str) -> Finding:
    (only,) = [finding for finding in found if finding.what == what]
    return only


# ---------------------------------------------------------------------------------------------------- the machine: what it means


H100 = Gpu("NVIDIA H100 80GB HBM3", 81559, 1980, 345, 0, 34, 551, 0x1, 0, 0, True)
AGREES = RoundTrip("2.11.0+cu130", "13.0", "NVIDIA H100 80GB HBM3", 3e-16)
WEEK01 = Week("week01", (("torch>=2.11", "2.11.0", True), ("timm>=1.0.20", "1.0.22", True)))
WELL = Facts("3.12.3", "/opt/sprintbench/bin/python", "", "", Gpus("580.159.03", (H100,)), Torch("done", AGREES), "/usr/bin/gcc", "",
             "git version 2.43.0", (Disk("/srv", 800.0, 10**7),), Spool("/var/spool/bench"), (WEEK01,))


def with_gpu(**changes: Any) -> Facts:
    return dataclasses.replace(WELL, gpus=Gpus("580.159.03", (dataclasses.replace(H100, **changes),)))


def without_gpu(**changes: Any) -> Facts:
    return dataclasses.replace(WELL, gpus=Gpus(**changes))


def having(**changes: Any) -> Facts:
    return dataclasses.replace(WELL, **changes)


def trip(**changes: Any) -> Torch:
    return Torch("done", dataclasses.replace(AGREES, **changes))


def test_a_machine_that_is_well_is_green_all_over() -> None:
    found = machine.findings(WELL)
    assert {finding.level for finding in found} == {"green"}
    assert [f"{finding.what}: {finding.told}" for finding in found] == [
        "GPU: NVIDIA H100 80GB HBM3, 81,559 MiB, driver 580.159.03",
        "GPU clocks: SM clock 345 of 1980 MHz at 0% load",
        "GPU slowdown: none",
        "GPU temperature: 34 °C",
        "GPU ECC: no uncorrected memory error",
        "GPU persistence: on",
        "GPU company: no process, 551 MiB held",
        "torch and CUDA: torch 2.11.0+cu130, CUDA 13.0: a product on NVIDIA H100 80GB HBM3 agrees with the CPU's",
        "C compiler: /usr/bin/gcc, with Python's headers",
        "git: git version 2.43.0",
        "disk of /srv: 800.0 GiB free, 10,000,000 inodes",
        "spool: /var/spool/bench can be written, 0 entries",
        "Python: 3.12.3, /opt/sprintbench/bin/python",
        "week01: can run here: torch 2.11.0, timm 1.0.22"]


MACHINE: list[tuple[Facts, str, str, str]] = [
    (without_gpu(silent="no binding"), "GPU", "red", "NVML's Python binding is not installed"),
    (without_gpu(silent="no driver"), "GPU", "red", "no NVIDIA driver is loaded"),
    (without_gpu(silent="no answer", told="Driver/library version mismatch"), "GPU", "red", "Driver/library version mismatch"),
    (without_gpu(silent="hung"), "GPU", "red", "did not answer within 30 s"),
    (without_gpu(driver="580.159.03"), "GPU", "red", "the driver shows none"),
    (with_gpu(reasons=0x2), "GPU clocks", "amber", "held down by a setting"),
    (with_gpu(load_percent=97, sm_clock=1200), "GPU clocks", "amber", "SM clock 1200 of 1980 MHz at 97% load: low for a GPU at work"),
    (with_gpu(load_percent=97, sm_clock=1755), "GPU clocks", "green", "SM clock 1755"),
    (with_gpu(reasons=0x8), "GPU slowdown", "red", "hardware slowdown"),
    (with_gpu(reasons=0x60), "GPU slowdown", "red", "software thermal slowdown, hardware thermal slowdown"),
    (with_gpu(reasons=0x80), "GPU slowdown", "red", "hardware power brake"),
    (with_gpu(reasons=0x20), "GPU slowdown", "amber", "software thermal slowdown"),
    (with_gpu(reasons=0x4), "GPU slowdown", "green", "none"),
    (with_gpu(temperature=88, load_percent=99, sm_clock=1755), "GPU temperature", "red", "88 °C: a run now would be invalid"),
    (with_gpu(temperature=61), "GPU temperature", "amber", "61 °C is hot for a GPU without work"),
    (with_gpu(temperature=61, load_percent=10, sm_clock=1755), "GPU temperature", "green", "61 °C"),
    (with_gpu(ecc_errors=1), "GPU ECC", "red", "1 uncorrected memory error since"),
    (with_gpu(ecc_errors=4), "GPU ECC", "red", "4 uncorrected memory errors since"),
    (with_gpu(ecc_errors=None), "GPU ECC", "green", "counts no memory errors"),
    (with_gpu(persistence=False), "GPU persistence", "amber", "off: "),
    (with_gpu(persistence=None), "GPU persistence", "green", "does not tell"),
    (with_gpu(processes=1), "GPU company", "red", "1 process on the GPU: a run now would be invalid"),
    (with_gpu(processes=2), "GPU company", "red", "2 processes on the GPU"),
    (with_gpu(memory_mib=1537), "GPU company", "amber", "1,537 MiB are held by no process that is seen"),
    (having(torch=Torch("no torch")), "torch and CUDA", "red", "torch is not installed"),
    (having(torch=Torch("hung")), "torch and CUDA", "red", "no answer within 180 s"),
    (having(torch=Torch("failed", None, "CUDA error: an illegal memory access")), "torch and CUDA", "red", "CUDA error: an illegal"),
    (having(torch=trip(device="")), "torch and CUDA", "red", "is built for CUDA 13.0, and finds no GPU"),
    (having(torch=trip(device="", cuda="")), "torch and CUDA", "red", "is built without CUDA"),
    (having(torch=trip(error=0.02)), "torch and CUDA", "red", "differs from the CPU's by 0.02 of its largest value"),
    (having(torch=trip(error=float("nan"))), "torch and CUDA", "red", "differs from the CPU's by nan"),
    (having(torch=trip(device=""), gpus=Gpus(silent="no driver")), "torch and CUDA", "amber", "was not tried, for there is none"),
    (having(compiler=""), "C compiler", "red", "none, and Triton builds with one"),
    (having(builds="fatal error: Python.h: No such file or directory"), "C compiler", "red", "Python.h: No such file"),
    (having(git=""), "git", "red", "none"),
    (having(disks=(Disk("/srv", 4.9, 10**7),)), "disk of /srv", "red", "4.9 GiB free, 10,000,000 inodes: too little for a run"),
    (having(disks=(Disk("/srv", 19.9, None),)), "disk of /srv", "amber", "19.9 GiB free: little"),
    (having(disks=(Disk("/srv", 800.0, 9_999),)), "disk of /srv", "red", "9,999 inodes: too little"),
    (having(disks=(Disk("/srv", 800.0, 99_999),)), "disk of /srv", "amber", "99,999 inodes: little"),
    (having(disks=(Disk("/srv", 800.0, None),)), "disk of /srv", "green", "800.0 GiB free"),
    (having(spool=None), "spool", "amber", "a result is lost with the connection of its job"),
    (having(spool=Spool("/spool", "Permission denied")), "spool", "red", "/spool cannot be written: Permission denied"),
    (having(spool=Spool("/spool", "", 3, 30.2)), "spool", "amber", "3 entries, the oldest 30 hours old, and nobody fetched it"),
    (having(spool=Spool("/spool", "", 1, 24.0)), "spool", "green", "/spool can be written, 1 entry"),
    (having(jobs_python="/opt/other/bin/python"), "Python of jobs", "amber", "/opt/other/bin/python, which was not looked at"),
    (having(price="2.49 USD"), "price", "green", "2.49 USD for a GPU-hour"),
    (having(price="cheap"), "price", "amber", "SPRINTBENCH_GPU_HOUR_PRICE is left out of results"),
    (having(weeks=(Week("week02", (("flash-attn>=2.8", "", False), ("torch>=2.11", "2.9.0", False), ("numpy", "2.0", True))),)),
     "week02", "amber", "it lacks flash-attn>=2.8 (absent), torch>=2.11 (2.9.0)"),
    (having(weeks=(Week("week03", ()),)), "week03", "green", "can run here: no package of its own"),
    (without_gpu(silent="no driver"), "week01", "amber", "runs as a smoke run only"),
]


@pytest.mark.parametrize(("facts", "what", "level", "told"), MACHINE, ids=[f"{what} {told[:30]}" for _, what, _, told in MACHINE])
def test_what_is_amiss_with_the_machine(facts: Facts, what: str, level: str, told: str) -> None:
    finding = one(machine.findings(facts), what)
    assert (finding.level, finding.part) == (level, "machine")
    assert told in finding.told
    assert bool(finding.fix) == (level != "green")


def test_a_jobs_python_that_is_this_one_needs_no_word() -> None:
    assert machine.findings(having(jobs_python=WELL.executable)) == machine.findings(WELL)


def test_several_gpus_are_numbered() -> None:
    both = dataclasses.replace(WELL, gpus=Gpus("580.159.03", (H100, dataclasses.replace(H100, temperature=90))))
    found = machine.findings(both)
    assert (one(found, "GPU 0 temperature").level, one(found, "GPU 1 temperature").level) == ("green", "red")


# ---------------------------------------------------------------------------------------------------- the machine: looking


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that come before the installed ones, in this process's children; NVML's stand-in is there already."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(NVML), str(REPO))))
    monkeypatch.setenv("STAND_IN_GPU", "")
    return folder


def test_gpus_are_read_in_a_child(stand_ins: Path) -> None:
    assert machine._look_at_gpus("1") == Gpus("580.159.03", (
        Gpu("NVIDIA H100 80GB HBM3 @1", 81559, 1980, 1755, 97, 58, 1024, 0x4, 0, 3, True),))
    assert [len(machine._look_at_gpus(visible).shown) for visible in (None, "")] == [2, 0]


def test_a_gpu_that_does_not_tell_is_silent(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_GPU", "no utilisation")
    assert machine._look_at_gpus(None) == Gpus(silent="no answer", told="Not Supported")


def test_a_child_that_dies_is_no_answer(stand_ins: Path) -> None:
    (stand_ins / "pynvml.py").write_text("raise OSError('libnvidia-ml.so.1: file too short')\n")
    assert machine._look_at_gpus(None) == Gpus(silent="no answer", told="OSError: libnvidia-ml.so.1: file too short")


def test_a_gpu_that_hangs_does_not_hang_the_doctor(stand_ins: Path) -> None:
    (stand_ins / "pynvml.py").write_text("import time\ntime.sleep(60)\n")
    (stand_ins / "torch.py").write_text("import time\ntime.sleep(60)\n")
    before = time.monotonic()
    assert (machine._look_at_gpus(None, 0.5), machine._try_torch(0.5)) == (Gpus(silent="hung"), Torch("hung"))
    assert time.monotonic() - before < 10


def test_no_binding_and_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(NVML))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setenv("STAND_IN_GPU", "no driver")
    assert machine.read_gpus(None, tmp_path / "absent") == Gpus(silent="no driver")
    apart = machine.read_gpus(None, tmp_path)
    assert (apart.silent, "NVML does not reach it" in apart.told) == ("no answer", True)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert machine.read_gpus(None) == Gpus(silent="no binding")


TORCH = """
from types import SimpleNamespace
class Numbers:
    def __init__(self, value): self.value = value
    def __matmul__(self, other): return self
    def __sub__(self, other): return Numbers(self.value - other.value)
    def __truediv__(self, other): return Numbers(self.value / other.value)
    def __float__(self): return float(self.value)
    def cuda(self): return Numbers(self.value + DRIFT)
    def cpu(self): return self
    def abs(self): return Numbers(abs(self.value))
    def max(self): return self
class Generator:
    def manual_seed(self, seed): return self
__version__, float64, version = "2.11.0+cu130", None, SimpleNamespace(cuda="13.0")
cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "NVIDIA H100 80GB HBM3")
def randn(*shape, dtype, generator): return Numbers(4.0)
"""


@pytest.mark.parametrize(("torch", "end"), [
    (f"DRIFT = 0{TORCH}", trip(error=0.0)),
    (f"DRIFT = 1{TORCH}", trip(error=0.25)),
    ("raise ModuleNotFoundError(\"No module named 'torch'\")", Torch("no torch")),
    ("raise ImportError('libcudart.so.13: cannot open')", Torch("failed", None, "ImportError: libcudart.so.13: cannot open")),
    ("import os; os._exit(3)", Torch("failed", None, "without a word")),
])
def test_the_round_trip_runs_in_a_child(stand_ins: Path, torch: str, end: Torch) -> None:
    (stand_ins / "torch.py").write_text(torch)
    assert machine._try_torch() == end


@pytest.mark.slow
def test_a_round_trip_by_the_real_torch_says_what_there_is() -> None:
    """On a machine with a GPU it is the same as the test below; elsewhere there is none."""
    found = machine._try_torch()
    assert (found.end, found.told) == ("done", "")
    assert found.trip is not None
    assert found.trip.torch[0].isdigit()
    assert found.trip.error <= machine.LARGEST_ERROR


@pytest.mark.gpu
def test_a_round_trip_through_a_real_gpu_agrees() -> None:
    assert 0 <= round_trip().error <= machine.LARGEST_ERROR


def test_the_compiler_is_tried(tmp_path: Path) -> None:
    real = shutil.which("gcc")
    assert real is not None, "this machine is meant to build"
    assert machine._build(real) == ""
    broken = tmp_path / "gcc"
    broken.write_text("#!/bin/sh\necho '<stdin>:1:10: fatal error: Python.h: No such file or directory' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert machine._build(str(broken)) == "stdin :1:10: fatal error: Python.h: No such file or directory"
    broken.write_text("#!/bin/sh\nexit 4\n")
    assert machine._build(str(broken)) == "exit code 4"
    assert machine._build(str(tmp_path / "absent")).startswith("FileNotFoundError")


def test_git_has_a_version_or_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine._git_version().startswith("git version ")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._git_version() == ""
    (tmp_path / "git").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "git").chmod(0o755)
    assert machine._git_version() == ""


def test_a_file_system_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (disk,) = machine._disks(tmp_path, tmp_path / "below")
    assert disk.path == str(tmp_path)
    assert disk.free_gib == pytest.approx(shutil.disk_usage(tmp_path).free / 2**30, rel=0.05)


def test_the_spool_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    assert machine._look_into(spool) == Spool(str(spool), "No such file or directory")
    spool.mkdir()
    assert machine._look_into(spool) == Spool(str(spool))
    (spool / "c7").mkdir()
    (spool / "c8.zip").write_bytes(b"x")
    past = (spool / "c8.zip").stat().st_mtime - 3 * 3600
    os.utime(spool / "c8.zip", (past, past))
    seen = machine._look_into(spool)
    assert (seen.entries, seen.oldest_h) == (2, pytest.approx(3, abs=0.01))
    assert sorted(path.name for path in spool.iterdir()) == ["c7", "c8.zip"]


def test_weeks_need_what_their_extras_say(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project]\n[project.optional-dependencies]\nweek01 = ["click>=8", "click<1", "no-such-package>=1"]\n')
    found = machine._weeks(pyproject)
    assert found[0].key == "week01"
    assert [(need, bool(version), enough) for need, version, enough in found[0].needs] == [
        ("click>=8", True, True), ("click<1", True, False), ("no-such-package>=1", False, False)]
    real = {week.key: [need for need, _, _ in week.needs] for week in machine._weeks(REPO / "pyproject.toml")}
    assert any(need.startswith("torch>=") for need in real["week01"])


def test_the_whole_machine_is_looked_at(stand_ins: Path, tmp_path: Path) -> None:
    (stand_ins / "torch.py").write_text(f"DRIFT = 0{TORCH}")
    done = CliRunner().invoke(machine.main, ["--visible=0", f"--spool={tmp_path}", "--price=2.49 USD", "--jobs-python=/opt/python"])
    assert (done.exit_code, done.exception) == (0, None)
    found = loads(Diagnosis, done.stdout).findings
    assert [one(found, what).level for what in ("GPU", "GPU ECC", "torch and CUDA", "C compiler", "git", "spool", "price")] == [
        "green", "red", "green", "green", "green", "green", "green"]
    assert one(found, "Python of jobs").fix == "/opt/python -m bot doctor"


def test_no_compiler_is_none(stand_ins: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (stand_ins / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    facts = machine.gather(visible=None, jobs_python="", price="", spool=None)
    assert (facts.compiler, facts.builds, facts.git, facts.spool, facts.torch) == ("", "", "", None, Torch("no torch"))


@pytest.mark.parametrize("part", ["gpus", "round-trip"])
def test_a_part_is_its_own_json(part: str, monkeypatch: pytest.MonkeyPatch, stand_ins: Path) -> None:
    """In this process, so that it is seen to be the code that the children run."""
    (stand_ins / "torch.py").write_text(f"DRIFT = 0{TORCH}")
    for module in ("torch", "pynvml"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(NVML))
    monkeypatch.syspath_prepend(str(stand_ins))
    done = CliRunner().invoke(machine.main, ["--part", part])
    assert done.exit_code == 0, done.exception
    kind: Any = {"gpus": Gpus, "round-trip": RoundTrip}[part]
    assert loads(kind, done.stdout)
    for module in ("torch", "pynvml"):
        sys.modules.pop(module, None)


# ---------------------------------------------------------------------------------------------------- the repository: what it means


HOME = "https://github.com/sprinter/sprint"
ADMIN = frozenset({"pull", "triage", "push", "maintain", "admin"})
GOOD = repository.Facts(
    HOME, Overview("main", True, False, True, ADMIN), "", None, Branch(False, frozenset({"deletion", "non_fast_forward"})),
    ActionsSettings(True, "all", "read", False), "all_external_contributors", frozenset({"week", *(f"month-{n}" for n in range(1, 5))}),
    (Runner(True, False, frozenset({"self-hosted", "linux", "x64", "gpu", "h100"})),),
    tuple(WorkflowFile(f".github/workflows/{name}", "active") for name in ("bench.yml", "kickoff.yml", "sweep.yml", "ci.yml", "pages.yml")))


def seen(**changes: Any) -> repository.Facts:
    return dataclasses.replace(GOOD, **changes)


def overview(**changes: Any) -> repository.Facts:
    return seen(overview=dataclasses.replace(GOOD.overview, **changes))


def actions(**changes: Any) -> repository.Facts:
    assert GOOD.actions is not None
    return seen(actions=dataclasses.replace(GOOD.actions, **changes))


def workflows(**states: str) -> repository.Facts:
    return seen(workflows=tuple(WorkflowFile(f".github/workflows/{name}.yml", state) for name, state in states.items()))


def test_a_repository_that_is_well_is_green_all_over() -> None:
    found = repository.findings(GOOD)
    assert {finding.level for finding in found} == {"green"}
    assert [f"{finding.what}: {finding.told}" for finding in found] == [
        "token: may administer the repository, so all of it is seen",
        "repository: public, its default branch is main",
        "results branch: main takes the report job's commits",
        "Actions: on",
        "workflow token: may read by default; each job asks for what it needs",
        "fork pull requests: wait for approval",
        "labels: all there",
        "GPU runners: 1 of 1 online with the labels gpu, linux, self-hosted, x64, 0 busy",
        "bench.yml: active", "kickoff.yml: active", "sweep.yml: active", "ci.yml: active", "pages.yml: active"]


LABELS = frozenset({"self-hosted", "linux", "x64", "gpu"})
REPOSITORY: list[tuple[repository.Facts, str, str, str]] = [
    (overview(may=frozenset({"pull", "push"})), "token", "amber", "may write, and not administer"),
    (overview(may=frozenset({"pull"})), "token", "amber", "may read only"),
    (overview(may=frozenset()), "token", "amber", "GitHub does not say what it may"),
    (overview(archived=True), "repository", "red", "archived"),
    (overview(public=False), "repository", "green", "private"),
    (overview(has_issues=False), "issues", "red", "off, as in a fresh fork"),
    (seen(target=None, branch_set="results"), "results branch", "red", "results does not exist"),
    (seen(target=Branch(True, frozenset({"pull_request", "deletion"}))), "results branch", "red",
     "main refuses the report job's commits: rule pull_request"),
    (seen(target=Branch(True, frozenset({"deletion"}))), "results branch", "amber", "main is protected"),
    (seen(branch_said="other", branch_set="results"), "results branch", "amber", "other here, and results in the workflows"),
    (seen(branch_said="results", branch_set="results"), "results branch", "green", "results takes"),
    (seen(branch_said="results"), "results branch", "green", "results takes"),
    (seen(actions=None), "Actions", "amber", "cannot be seen"),
    (actions(enabled=False), "Actions", "red", "off, as in a fresh fork"),
    (actions(allowed="local_only"), "Actions", "red", "only this repository's own actions"),
    (actions(allowed="selected"), "Actions", "amber", "only selected actions"),
    (actions(rights="write"), "workflow token", "amber", "may write by default"),
    (actions(approves=True), "workflow token", "amber", "may approve pull requests"),
    (seen(fork_approval="first_time_contributors"), "fork pull requests", "amber", "run without approval"),
    (seen(fork_approval=None), "fork pull requests", "amber", "cannot be seen"),
    (seen(labels=frozenset({"week", "month-2"})), "labels", "amber", "missing: month-1, month-3, month-4."),
    (seen(runners=None), "GPU runners", "amber", "cannot be seen"),
    (seen(runners=()), "GPU runners", "red", "none is registered"),
    (seen(runners=(Runner(True, False, LABELS - {"gpu"}),)), "GPU runners", "red", "1 registered, none with the labels"),
    (seen(runners=(Runner(False, False, LABELS), Runner(True, False))), "GPU runners", "red",
     "1 with the labels gpu, linux, self-hosted, x64, and none is online"),
    (seen(runners=(Runner(True, True, LABELS), Runner(False, False, LABELS))), "GPU runners", "green", "1 of 2 online"),
    (seen(workflows=None), "workflows", "amber", "cannot be seen"),
    (workflows(kickoff="active", sweep="active"), "bench.yml", "red", "is not on main"),
    (workflows(bench="disabled_manually"), "bench.yml", "red", "disabled manually"),
    (workflows(sweep="disabled_inactivity"), "sweep.yml", "red", "disabled inactivity"),
    (workflows(), "pages.yml", "amber", "is not on main"),
    (workflows(ci="disabled_fork"), "ci.yml", "amber", "disabled fork"),
]


@pytest.mark.parametrize(("facts", "what", "level", "told"), REPOSITORY, ids=[f"{what} {told[:30]}" for _, what, _, told in REPOSITORY])
def test_what_is_amiss_with_the_repository(facts: repository.Facts, what: str, level: str, told: str) -> None:
    finding = one(repository.findings(facts), what)
    assert (finding.level, finding.part) == (level, "repository")
    assert told in finding.told
    assert bool(finding.fix) == (level != "green")


def test_of_a_private_repository_forks_are_no_question() -> None:
    assert "fork pull requests" not in {finding.what for finding in repository.findings(overview(public=False))}


def test_what_cannot_be_seen_is_said_once() -> None:
    hidden = repository.findings(seen(actions=None, fork_approval=None))
    assert not {"fork pull requests", "workflow token"} & {finding.what for finding in hidden}


def test_the_labels_are_those_that_the_workflow_asks_for() -> None:
    jobs = yaml.safe_load((REPO / ".github/workflows/bench.yml").read_text())["jobs"]
    assert set(jobs["bench"]["runs-on"]) == repository.RUNNER_LABELS


def test_what_is_there_is_looked_for() -> None:
    assert {path.name for path in (REPO / ".github/workflows").iterdir()} <= {*repository.NEEDED, *repository.BESIDE}


# ---------------------------------------------------------------------------------------------------- the repository: looking


JOBS = b"name: x\non: workflow_dispatch\njobs: {x: {name: X}}\n"


@pytest.fixture
def sprint(localhub: Any) -> Any:
    """A repository in good order."""
    localhub.put({f".github/workflows/{name}.yml": JOBS for name in ("bench", "kickoff", "sweep", "ci", "pages")})
    for label in ("week", "month-1", "month-2", "month-3", "month-4"):
        localhub.hub.add_label(label)
    localhub.hub.machines.append(Machine(1, "a", ("self-hosted", "Linux", "X64", "gpu")))
    return localhub


def looked(sprint: Any, login: str = "sprinter", branch_said: str = "") -> tuple[Finding, ...]:
    token = sprint.token if login == "github-actions[bot]" else f"ghp_{login}"
    return repository.look(Hub(sprint.repo, token, sprint.url, pause_s=0, sleep=lambda _: None), HOME, branch_said)


def levels(found: Sequence[Finding]) -> dict[str, str]:
    return {finding.what: finding.level for finding in found if finding.level != "green"}


def test_an_administrator_sees_all_of_it(sprint: Any) -> None:
    assert levels(looked(sprint)) == {}
    assert len(sprint.requests) <= 12


def test_a_workflow_token_sees_less(sprint: Any) -> None:
    assert levels(looked(sprint, "github-actions[bot]")) == {"token": "amber", "Actions": "amber", "GPU runners": "amber"}


def test_a_writer_sees_less(sprint: Any) -> None:
    sprint.hub.settings.variables["SPRINTBENCH_BRANCH"] = "results"
    assert levels(looked(sprint, "member")) == {"token": "amber", "Actions": "amber", "GPU runners": "amber", "results branch": "red"}


def test_settings_are_read(sprint: Any) -> None:
    settings = sprint.hub.settings
    settings.allowed_actions, settings.workflow_rights, settings.fork_approval = "selected", "write", "first_time_contributors"
    settings.rules["main"] = ("deletion", "pull_request", "required_status_checks", "update", "non_fast_forward")
    settings.protected.add("main")
    settings.disabled.add("sweep.yml")
    settings.has_issues = False
    found = looked(sprint)
    assert levels(found) == {"issues": "red", "results branch": "red", "Actions": "amber", "workflow token": "amber",
                             "fork pull requests": "amber", "sweep.yml": "red"}
    assert one(found, "results branch").told == "main refuses the report job's commits: rule pull_request, required_status_checks, update"
    settings.actions, settings.archived, settings.private = False, True, True
    assert levels(looked(sprint)) | {"Actions": "red", "repository": "red"} == levels(looked(sprint))


def test_the_results_branch_is_the_one_that_is_set(sprint: Any) -> None:
    sprint.hub.settings.variables["SPRINTBENCH_BRANCH"] = "results/h100"
    assert one(looked(sprint), "results branch").told == "results/h100 does not exist"
    sprint.git.set_ref("refs/heads/results/h100", sprint.git.head())
    sprint.hub.settings.rules["main"] = ("pull_request",)
    assert one(looked(sprint), "results branch").told == "results/h100 takes the report job's commits"
    assert one(looked(sprint, branch_said="main"), "results branch").level == "red"


@pytest.mark.parametrize(("status", "told"), [
    (401, "the token is not valid (any more)"), (404, f"there is no {HOME} that this token may see"),
    (403, "GitHub gave no usable answer: GET : HTTP 403 no"), (502, "GitHub gave no usable answer: ")])
def test_a_repository_that_cannot_be_seen_is_red(sprint: Any, status: int, told: str) -> None:
    sprint.fault("GET", "/repos/sprinter/sprint$", times=9, status=status, message="no")
    (finding,) = looked(sprint)
    assert (finding.level, finding.what) == ("red", "repository")
    assert finding.told.startswith(told)


@pytest.mark.parametrize("path", ["/actions/workflows$", "/actions/variables/SPRINTBENCH_BRANCH$"])
def test_an_unheard_of_refusal_is_no_hidden_thing(sprint: Any, path: str) -> None:
    sprint.fault("GET", path, status=409, message="no")
    assert "HTTP 409 no" in one(looked(sprint), "repository").told


def test_workflows_that_may_not_be_seen(sprint: Any) -> None:
    sprint.fault("GET", "/actions/workflows$", status=403, message="Resource not accessible by personal access token")
    assert levels(looked(sprint)) == {"workflows": "amber"}


# ---------------------------------------------------------------------------------------------------- the command


def test_the_page_speaks_of_every_finding() -> None:
    page = (REPO / "docs" / "doctor.md").read_text()
    names = {what.removeprefix("GPU ").removesuffix(".yml").split(" of ")[0] for _, what, _, _ in (*MACHINE, *REPOSITORY)}
    assert {name for name in names if name not in page and not name.startswith("week")} == set()


FOUND = (Finding("machine", "green", "git", "git version 2.43.0"), Finding("machine", "red", "GPU", "none", "nvidia-smi"),
         Finding("repository", "amber", "token", "may read only", "gh auth login"))


def test_a_finding_holds() -> None:
    for broken in (("machine", "green", "git", "2.43", "a fix"), ("machine", "red", "git", "none", ""), ("machine", "green", "git", "")):
        with pytest.raises(SpecError):
            Finding(*broken)  # type: ignore[arg-type]


def test_findings_are_shown_with_their_fixes() -> None:
    plain = "\n".join((
        "Machine",
        "  green  git    git version 2.43.0",
        "  red    GPU    none",
        "                fix: nvidia-smi",
        "",
        "Repository",
        "  amber  token  may read only",
        "                fix: gh auth login",
        "",
        "1 green, 1 amber, 1 red"))
    shown = repository.show(FOUND)
    assert "\x1b[31mred" in shown
    assert "\x1b[33mamber" in shown
    assert click.unstyle(shown) == plain
    assert click.unstyle(repository.show(FOUND[2:])).startswith("Repository\n")
    assert repository.show(()).strip() == "0 green, 0 amber, 0 red"


def bench(*arguments: str, **env: str) -> Result:
    nothing = {"GITHUB_REPOSITORY": "", "GITHUB_TOKEN": "", "SPRINTBENCH_BRANCH": "", "SPRINTBENCH_FAST": "1"}
    return CliRunner().invoke(cli, ["doctor", *arguments], env=nothing | env, prog_name="bench")


def test_without_a_repository_that_half_is_skipped_in_words() -> None:
    done = bench("--only", "repository")
    assert done.exit_code == 0
    assert "  amber  repository  not looked at: GITHUB_REPOSITORY and GITHUB_TOKEN are not both set\n" in done.stdout
    assert done.stdout.endswith("0 green, 1 amber, 0 red\n")
    assert "\x1b" not in done.stdout


def test_the_repository_by_the_command(sprint: Any) -> None:
    env = {"GITHUB_REPOSITORY": sprint.repo, "GITHUB_TOKEN": "ghp_sprinter", "GITHUB_API_URL": sprint.url}
    done = bench("--only", "repository", "--json", **env)
    assert done.exit_code == 0, done.output
    assert {finding.level for finding in loads(Diagnosis, done.stdout).findings} == {"green"}
    sprint.hub.settings.actions = False
    assert bench("--only", "repository", **env).exit_code == 1
    assert "ghp_sprinter" not in done.output


def test_the_machine_by_the_command(stand_ins: Path, tmp_path: Path) -> None:
    (stand_ins / "torch.py").write_text(f"DRIFT = 0{TORCH}")
    done = bench("--only", "machine", "--json", CUDA_VISIBLE_DEVICES="", SPRINTBENCH_SPOOL=str(tmp_path), SPRINTBENCH_PYTHON="/opt/python",
                 SPRINTBENCH_GPU_HOUR_PRICE="cheap")
    assert done.exit_code == 1
    found = json.loads(done.stdout)["findings"]
    assert {(f["what"], f["level"]) for f in found} >= {("GPU", "red"), ("spool", "green"), ("Python of jobs", "amber"), ("price", "amber")}
    both = bench(CUDA_VISIBLE_DEVICES="0", STAND_IN_GPU="a plain card")
    assert "Machine\n  green  GPU " in both.stdout
    assert "\nRepository\n  amber  repository " in both.stdout


def test_a_look_that_takes_too_long_is_ended(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stand_ins / "tomllib.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr("bot.__main__.LONGEST_LOOK_S", 0.6)
    done = bench("--only", "machine")
    assert done.exit_code == 1
    assert "could not be looked at: it took more than 0.01 minutes\n" in done.stdout


def test_a_machine_that_cannot_be_looked_at_is_red(stand_ins: Path) -> None:
    (stand_ins / "tomllib.py").write_text("raise ImportError('broken \x1b[31mPython')\n")
    done = bench("--only", "machine")
    assert done.exit_code == 1
    assert "  red    machine  could not be looked at: ImportError: broken Python\n" in done.stdout
