"""The machine described without torch, on this machine and on one whose driver is a stand-in."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from workloads import machine, spec
from workloads.machine import _field, _shown
from workloads.spec import Machine

REPO = Path(__file__).resolve().parent.parent


def described(visible: str | None, trouble: str = "") -> Machine:
    """describe() in a process whose pynvml is the stand-in."""
    script = f"from workloads import machine, spec; import sys; sys.stdout.write(spec.dumps(machine.describe({visible!r})))"
    path = f"{REPO / 'tests' / 'cases' / 'nvml'}{os.pathsep}{REPO}"
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path, "STAND_IN_GPU": trouble},
                          capture_output=True, text=True, check=True)
    return spec.loads(Machine, done.stdout)


def test_this_machine() -> None:
    here = machine.describe(visible="")
    assert (here.gpu, here.gpus, here.gpu_memory_mib, here.driver) == ("", 0, 0, "")
    assert here.cores == os.cpu_count()
    assert here.memory_mib > 0
    assert here.python == platform.python_version()
    assert "numpy" in dict(here.packages)
    assert "no-such-package" not in dict(here.packages)


def test_describing_does_not_import_torch() -> None:
    script = "import sys; from workloads import machine; machine.describe(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO, check=False).returncode == 0


def test_a_gpu_machine_is_described_in_plain_text() -> None:
    here = described(None)
    assert (here.gpu, here.gpus, here.gpu_memory_mib, here.driver) == ("NVIDIA H100 80GB HBM3 0", 2, 81559, "580.159.03")


def test_the_first_visible_gpu_is_the_one_described() -> None:
    here = described("1")
    assert (here.gpu, here.gpus) == ("NVIDIA H100 80GB HBM3 1", 1)


@pytest.mark.parametrize("trouble", ["no driver", "lost"])
def test_a_gpu_that_does_not_answer_is_none(trouble: str) -> None:
    here = described(None, trouble)
    assert (here.gpu, here.gpus) == ("", 0)


def test_no_binding_is_no_gpu(tmp_path: Path) -> None:
    script = "import sys; sys.modules['pynvml'] = None; from workloads import machine; sys.exit(machine.describe().gpus)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO, check=False).returncode == 0


@pytest.mark.parametrize(("visible", "expected"), [
    (None, ("a", "b", "c")), ("", ()), ("2", ("c",)), ("2,0", ("c", "a")), (" 1 , 2 ", ("b", "c")), ("GPU-b", ("b",)),
    ("GPU-bb22,0", ("b", "a")), ("0,7,1", ("a",)), ("-1", ()), ("0,-1,1", ("a",)), ("GPU-", ()), ("nothing", ()),
])
def test_visible_devices_are_read_as_cuda_does(visible: str | None, expected: tuple[str, ...]) -> None:
    assert _shown(("a", "b", "c"), ("GPU-aa11", "GPU-bb22", "GPU-cc33"), visible) == expected


def test_a_field_of_proc(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 9654 96-Core\nprocessor\t: 1\nmodel name\t: other\n")
    assert _field(str(tmp_path / "cpuinfo"), "model name") == "AMD EPYC 9654 96-Core"
    assert _field(str(tmp_path / "cpuinfo"), "bogomips") == ""
    assert _field(str(tmp_path / "none"), "model name") == ""


@pytest.mark.parametrize(("raw", "expected"), [
    ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel(R) Xeon(R) CPU 2.20GHz"),
    ("see https://x.example or www.x.example", "see https:/x.example or www x.example"),
    ("////", "/"), ("GH-12 gh-7", "gh 12 gh 7"), ("", "unnamed"), ("\u202e", "unnamed"), ("a" * 500, "a" * 160), ("a\n  b", "a b"),
])
def test_plain_text_passes_the_check(raw: str, expected: str) -> None:
    plain = spec.plain_text(raw)
    assert plain == expected
    spec.check_text(plain, "here")


def test_ceilings_are_metrics_with_raw_samples() -> None:
    matmul, copy = machine.ceilings("cpu")
    assert (matmul.name, matmul.unit, copy.name, copy.unit) == ("ceiling_matmul", "TFLOP/s", "ceiling_copy", "GB/s")
    assert len(matmul.estimate.samples) == len(copy.estimate.samples) == 20
    assert 1e-5 < matmul.estimate.value < 100
    assert 0.05 < copy.estimate.value < 10000


@pytest.mark.gpu
def test_a_real_gpu_reaches_believable_ceilings() -> None:
    here = machine.describe()
    assert here.gpus >= 1
    matmul, copy = machine.ceilings("cuda")
    assert 50 < matmul.estimate.value < 5000
    assert 200 < copy.estimate.value < 20000
