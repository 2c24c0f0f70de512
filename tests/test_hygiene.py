"""A GPU that is not fit is refused, with the reason: a stand-in for nvidia-smi shows each way to be unfit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parent.parent / "runner" / "setup"
STAND_IN = Path(__file__).resolve().parent / "cases" / "setup" / "stand-ins" / "nvidia-smi"
ZERO = "GPU-00000000-aaaa-bbbb-cccc-000000000000"
ONE = "GPU-11111111-aaaa-bbbb-cccc-111111111111"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder that is all of PATH: nvidia-smi, and what its script needs."""
    place = tmp_path / "bin"
    place.mkdir()
    shutil.copy(STAND_IN, place)
    for name in ("bash", "env", "cat", "sleep"):
        (place / name).symlink_to(shutil.which(name) or name)
    return place


def look(tools: Path, *arguments: str, wrong: str = "") -> subprocess.CompletedProcess[str]:
    """Run it; a machine that builds this need not have 20 GiB free, so that limit is set where it is the point."""
    return subprocess.run([sys.executable, str(SETUP / "hygiene.py"), "--disk-gib", "0", *arguments], capture_output=True, text=True,
                          env={**os.environ, "PATH": str(tools), "STAND_IN_GPU": wrong}, timeout=60, check=False)


def test_a_fit_gpu_is_let_in(tools: Path) -> None:
    done = look(tools, "--gpus", f"{ZERO},{ONE}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


UNFIT = [
    ("stray", f"{ZERO} is in use by process 4711 (/usr/bin/python3 -c a, b): end it"),
    ("hot", f"{ZERO} is hot: 83 C, and at most 60 C are allowed before a job"),
    ("memory held", f"{ZERO} is holding memory: 156000 MiB, and at most 200 MiB are allowed before a job"),
    ("unreadable", f"{ZERO}: nvidia-smi cannot say how much it is hot (N/A)"),
    ("no persistence", f"{ZERO}: persistence mode is off. Turn it on: systemctl enable --now nvidia-persistenced, or nvidia-smi -pm 1"),
    ("slowed", f"{ZERO} is slowed down by its hardware: look at its cooling and its power supply"),
    ("fell off", f"{ZERO} is not there: it fell off the bus, or was never here"),
    ("no GPU", "nvidia-smi shows no GPU"),
    ("old", "nvidia-smi answered in an unknown form: is the driver older than 535?"),
    ("no driver", "nvidia-smi failed (exit code 9): NVIDIA-SMI has failed because it couldnt communicate with the NVIDIA driver. "
                  "Make sure it is loaded."),
    ("fails quietly", "nvidia-smi failed (exit code 15): it said nothing"),
]


@pytest.mark.parametrize(("wrong", "reason"), UNFIT, ids=[case[0] for case in UNFIT])
def test_an_unfit_gpu_is_refused_with_the_reason(tools: Path, wrong: str, reason: str) -> None:
    done = look(tools, "--gpus", ZERO, wrong=wrong)
    assert (done.returncode, done.stdout, done.stderr) == (78, "", f"unfit: {reason}\n")


@pytest.mark.parametrize("wrong", ["stray", "hot", "memory held", "slowed"])
def test_the_other_gpus_troubles_are_not_ours(tools: Path, wrong: str) -> None:
    assert look(tools, "--gpus", ONE, wrong=wrong).returncode == 0
    assert look(tools, wrong=wrong).returncode == 78, "without --gpus, all are looked at"


def test_no_driver_at_all(tools: Path) -> None:
    (tools / "nvidia-smi").unlink()
    done = look(tools)
    assert done.returncode == 78
    assert done.stderr == "unfit: nvidia-smi cannot be run: No such file or directory. Is the NVIDIA driver installed?\n"


def test_a_hang_is_a_reason_and_takes_no_longer_than_it_may(tools: Path) -> None:
    """The stand-in ignores SIGTERM, as a stuck driver call does."""
    began = time.monotonic()
    done = look(tools, "--within-s", "0.5", wrong="hangs")
    assert time.monotonic() - began < 10
    assert done.returncode == 78
    assert done.stderr == "unfit: nvidia-smi gave no answer within 0.5 s: it hangs. See journalctl -k, then reboot\n"


def test_every_reason_is_given(tools: Path) -> None:
    done = look(tools, "--temperature-c", "20", "--memory-mib", "0", "--gpus", ZERO)
    assert done.stderr.count("unfit: ") == 2


def test_after_a_job_it_is_given_time(tools: Path) -> None:
    """The memory of a killed process goes a moment later."""
    wrong = tools / "wrong"
    wrong.write_text("memory held")
    running = subprocess.Popen([sys.executable, str(SETUP / "hygiene.py"), "--disk-gib", "0", "--patience-s", "20"],
                               env={**os.environ, "PATH": str(tools), "STAND_IN_FILE": str(wrong)})
    time.sleep(1)
    assert running.poll() is None
    wrong.write_text("")
    assert running.wait(30) == 0


# ---------------------------------------------------------------------------------------------------- the kernel's log


def kernel_says(tools: Path, *lines: str, code: int = 0) -> None:
    log = tools / "journalctl"
    log.write_text(f"#!{tools}/bash\ncat <<'END'\n" + "\n".join(lines) + f"\nEND\nexit {code}\n")
    log.chmod(0o755)


@pytest.mark.parametrize(("line", "reason"), [
    ("NVRM: Xid (PCI:0000:1b:00): 79, pid=1234, name=python3, GPU has fallen off the bus.", 79),
    ("NVRM: Xid (PCI:0000:1B:00.0): 48, DBE (Double Bit Error)", 48),
    ("NVRM: Xid (PCI:0000:1b:00): 31, pid=7, name=python3, MMU Fault", None),
    ("NVRM: Xid (PCI:0000:1b:00): 13, Graphics SM Warp Exception", None),
    ("NVRM: Xid (PCI:0000:99:00): 79, another GPU", None),
    ("usb 1-1: new device", None),
])
def test_a_fault_of_the_gpu_is_found_in_the_kernels_log(tools: Path, line: str, reason: int | None) -> None:
    kernel_says(tools, "Linux version 6.8", line, line)
    done = look(tools, "--gpus", ZERO, "--kernel-log")
    assert done.returncode == (78 if reason else 0)
    assert done.stderr == (f"unfit: {ZERO}: Xid {reason} in the kernel's log since the last start. "
                           "Look it up, then reset the GPU and reboot\n" if reason else "")


def test_a_log_that_cannot_be_read_is_a_reason(tools: Path) -> None:
    kernel_says(tools, "No journal files were opened due to insufficient permissions.", code=1)
    done = look(tools, "--kernel-log")
    assert done.returncode == 78
    assert "journalctl failed (exit code 1): No journal files were opened" in done.stderr


# ---------------------------------------------------------------------------------------------------- the disk


def test_a_full_disk_is_a_reason(tools: Path, tmp_path: Path) -> None:
    done = look(tools, "--disk", str(tmp_path), "--disk-gib", "1e9")
    assert done.returncode == 78
    assert done.stderr.startswith(f"unfit: {tmp_path} has ")
    assert done.stderr.endswith(" GiB free, and 1e+09 GiB are needed\n")


def test_a_disk_without_inodes_is_a_reason(tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from runner.setup import hygiene
    real = os.statvfs("/")
    fields = [*real[:5], 1000, 7, 7, *real[8:]]  # files, free, free to us
    monkeypatch.setattr(hygiene.os, "statvfs", lambda _: os.statvfs_result(fields))
    monkeypatch.setenv("PATH", str(tools))
    assert hygiene.main(["--disk-gib", "0"]) == 78
    assert capsys.readouterr().err == "unfit: / has 7 of 1000 inodes left: remove small files\n"


def test_a_disk_that_is_not_there_is_a_reason(tools: Path) -> None:
    done = look(tools, "--disk", "/nowhere")
    assert (done.returncode, done.stderr) == (78, "unfit: /nowhere cannot be looked at: No such file or directory\n")


# ---------------------------------------------------------------------------------------------------- the hooks


def hook(tools: Path, name: str, *, wrong: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    for tool in ("dirname", "readlink", "mkdir", "find", "wc"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    return subprocess.run(["bash", "-e", str(SETUP / "hooks" / name)], capture_output=True, text=True, check=False, timeout=60,
                          env={"PATH": str(tools), "STAND_IN_GPU": wrong, "SPRINTBENCH_HYGIENE_PYTHON": sys.executable,
                               "CUDA_VISIBLE_DEVICES": ZERO, **more})


@pytest.mark.parametrize("wrong", ["stray", "hot", "memory held", "no driver"])
def test_the_hook_before_a_job_refuses_it(tools: Path, tmp_path: Path, wrong: str) -> None:
    """GitHub runs none of the job's steps where this hook does not exit with 0."""
    done = hook(tools, "job-started.sh", wrong=wrong, RUNNER_TEMP=str(tmp_path / "new"))
    assert done.returncode == 78
    assert dict(UNFIT)[wrong] in done.stderr
    assert done.stdout == "::error::This GPU is not fit for a job; the lines above say why. Mend the machine, then comment /retry.\n"


def test_the_hook_after_a_job_warns_and_counts_the_spool(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "spool" / "week03-c7").mkdir(parents=True)
    (tmp_path / "spool" / ".part-week03-c8").mkdir()
    done = hook(tools, "job-completed.sh", SPRINTBENCH_SPOOL=str(tmp_path / "spool"))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "In the spool: 1 results."
