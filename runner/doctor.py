"""`python -m runner.doctor`: whether this machine can run the weeks, as JSON; `bench doctor` shows it to people.

What is looked at (facts) and what that means (findings) are apart, so that every finding can be tried without the fault. Whatever
touches the GPU does so in a child with a time limit: a GPU that hangs takes its child along, and not the doctor.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
from packaging.requirements import Requirement

from runner.telemetry import LOADED_PERCENT, REASONS, REST_C, NvmlGpu, Unreadable
from workloads import machine, spec
from workloads.machine import RoundTrip
from workloads.spec import HARD_REASONS, HOTTEST_C, LOWEST_CLOCK_SHARE, POWER_CAP, Diagnosis, Finding, SpecError

ROOT = Path(__file__).resolve().parent.parent

GPU_ANSWER_S = 30.0
# Importing torch from a cold disk takes most of it.
ROUND_TRIP_S = 180.0
TOOL_S = 30.0
KILL_S = 5.0

FREE_GIB = 20.0  # a week's caches, checkpoints and profiles
LEAST_GIB = 5.0
FREE_INODES = 100_000
LEAST_INODES = 10_000
# The driver keeps some hundreds of MiB for itself, on an H100 551; a process that nobody sees holds more.
HELD_MIB = 1536
NO_TORCH = spec.plain_text("ModuleNotFoundError: No module named 'torch'")
DMESG = "sudo dmesg | grep -i -e xid -e nvrm"
LARGEST_ERROR = 1e-9  # of a product of 256 x 256 in double precision: rounding is some 1e-15
# A sweep hands a result over within half an hour.
LONGEST_SPOOLED_H = 24.0
SET_CLOCKS = 0x02  # nvmlClocksEventReasonApplicationsClocksSetting


# ---------------------------------------------------------------------------------------------------- what is looked at


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at this moment, in the units of runner.telemetry.Reading."""

    name: str
    memory_total_mib: int
    clock_limit: int
    sm_clock: int
    load_percent: int
    temperature: int
    memory_mib: int
    reasons: int
    processes: int
    ecc_errors: int | None
    persistence: bool | None


@dataclass(frozen=True, slots=True)
class Gpus:
    """What NVML shows; `silent` is why it shows nothing."""

    driver: str = ""
    shown: tuple[Gpu, ...] = ()
    silent: Literal["", "no binding", "no driver", "no answer", "hung"] = ""
    told: str = ""


@dataclass(frozen=True, slots=True)
class Torch:
    """How the round trip through the GPU went; `told` is why it did not come back."""

    end: Literal["done", "no torch", "failed", "hung"]
    trip: RoundTrip | None = None
    told: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system by a folder on it; `inodes` is None where it has no fixed number of them."""

    path: str
    free_gib: float
    inodes: int | None


@dataclass(frozen=True, slots=True)
class Spool:
    """Where finished results wait to be handed over; `hindrance` is why nothing can be written there."""

    path: str
    hindrance: str = ""
    entries: int = 0
    oldest_h: float = 0.0


@dataclass(frozen=True, slots=True)
class Week:
    """What a week needs: (requirement, version that is installed or "", whether that is enough)."""

    key: str
    needs: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is looked at. `builds` is why a C extension of Python does not build, `git` the version or ""; `spool` is None
    and `jobs_python`, `price` are "" where nothing is set."""

    python: str
    executable: str
    jobs_python: str
    price: str
    gpus: Gpus
    torch: Torch
    compiler: str
    builds: str
    git: str
    disks: tuple[Disk, ...]
    spool: Spool | None
    weeks: tuple[Week, ...]


# ---------------------------------------------------------------------------------------------------- what it means


def findings(facts: Facts) -> tuple[Finding, ...]:
    return (*_gpus(facts.gpus), _torch(facts.torch, facts.gpus), _compiler(facts), _git(facts.git), *map(_disk, facts.disks),
            _spool(facts.spool), *_settings(facts), *(_week(week, facts.gpus) for week in facts.weeks))


def _green(what: str, told: str) -> Finding:
    return Finding("machine", "green", what, told)


def _amber(what: str, told: str, fix: str) -> Finding:
    return Finding("machine", "amber", what, told, fix)


def _red(what: str, told: str, fix: str) -> Finding:
    return Finding("machine", "red", what, told, fix)


def _gpus(gpus: Gpus) -> Iterator[Finding]:
    match gpus.silent:
        case "no binding":
            yield _red("GPU", "cannot be looked for: NVML's Python binding is not installed", "python -m pip install '.[gpu]'")
        case "no driver":
            yield _red("GPU", "none: no NVIDIA driver is loaded (a smoke run needs none)",
                       "sudo ubuntu-drivers install --gpgpu; sudo reboot")
        case "no answer":
            yield _red("GPU", f"the driver does not answer: {gpus.told}", f"nvidia-smi; where it fails too: {DMESG}")
        case "hung":
            yield _red("GPU", f"the driver did not answer within {GPU_ANSWER_S:g} s", f"{DMESG}; sudo reboot")
        case _ if not gpus.shown:
            yield _red("GPU", "the driver shows none: CUDA_VISIBLE_DEVICES hides it, or it fell off the bus",
                       f"nvidia-smi --list-gpus; where it fails: {DMESG}")
    for place, gpu in enumerate(gpus.shown):
        which = f"GPU {place}" if len(gpus.shown) > 1 else "GPU"
        yield _green(which, f"{gpu.name}, {gpu.memory_total_mib:,} MiB, driver {gpus.driver}")
        yield from _gpu(which, gpu)


def _gpu(which: str, gpu: Gpu) -> Iterator[Finding]:
    yield _clocks(which, gpu)
    yield _slowdown(which, gpu)
    yield _temperature(which, gpu)
    yield _errors(which, gpu.ecc_errors)
    if gpu.persistence is None:
        yield _green(f"{which} persistence", "this GPU does not tell its persistence mode")
    elif gpu.persistence:
        yield _green(f"{which} persistence", "on")
    else:
        yield _amber(f"{which} persistence", "off: the driver unloads whenever nothing holds the GPU, and forgets clocks that were locked",
                     "sudo nvidia-smi -pm 1, or sudo systemctl enable --now nvidia-persistenced to have it after a reboot too")
    if gpu.processes:
        yield _red(f"{which} company", f"{gpu.processes} process{'es' if gpu.processes > 1 else ''} on the GPU: a run now would be invalid",
                   "nvidia-smi shows them; a run of this bot, if one is at work, is one of them")
    elif gpu.memory_mib > HELD_MIB:
        yield _amber(f"{which} company", f"{gpu.memory_mib:,} MiB are held by no process that is seen: a dead one, or another container's",
                     "sudo fuser -v /dev/nvidia*")
    else:
        yield _green(f"{which} company", f"no process, {gpu.memory_mib:,} MiB held")


def _clocks(which: str, gpu: Gpu) -> Finding:
    told = f"SM clock {gpu.sm_clock} of {gpu.clock_limit} MHz at {gpu.load_percent}% load"
    if gpu.reasons & SET_CLOCKS:
        return _amber(f"{which} clocks", f"{told}: held down by a setting", "sudo nvidia-smi -rac, and sudo nvidia-smi -rgc")
    if gpu.load_percent >= LOADED_PERCENT and gpu.sm_clock < LOWEST_CLOCK_SHARE * gpu.clock_limit:
        return _amber(f"{which} clocks", f"{told}: low for a GPU at work", "nvidia-smi -q -d CLOCK,PERFORMANCE,POWER")
    return _green(f"{which} clocks", told)


def _slowdown(which: str, gpu: Gpu) -> Finding:
    now = [name for bit, name in REASONS if gpu.reasons & bit and name != POWER_CAP]
    look = "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER; then cooling, dust, power cables"
    if any(name in HARD_REASONS for name in now):
        return _red(f"{which} slowdown", ", ".join(now), look)
    return _amber(f"{which} slowdown", ", ".join(now), look) if now else _green(f"{which} slowdown", "none")


def _temperature(which: str, gpu: Gpu) -> Finding:
    told, cool = f"{gpu.temperature} °C", "wait a minute, look again with nvidia-smi; then see to fans and air"
    if gpu.temperature > HOTTEST_C:
        return _red(f"{which} temperature", f"{told}: a run now would be invalid", cool)
    if gpu.temperature > REST_C and gpu.load_percent < LOADED_PERCENT:
        return _amber(f"{which} temperature", f"{told} is hot for a GPU without work", cool)
    return _green(f"{which} temperature", told)


def _errors(which: str, errors: int | None) -> Finding:
    if errors is None:
        return _green(f"{which} ECC", "this GPU counts no memory errors")
    if errors:
        return _red(f"{which} ECC", f"{errors} uncorrected memory error{'s' if errors > 1 else ''} since the driver was loaded",
                    "sudo nvidia-smi --gpu-reset with nothing on the GPU, or sudo reboot; where they come back, replace the GPU")
    return _green(f"{which} ECC", "no uncorrected memory error")


def _torch(torch: Torch, gpus: Gpus) -> Finding:
    install = "python -m pip install '.[gpu,week01]'"
    what = "torch and CUDA"
    if torch.end == "hung":
        return _red(what, f"no answer within {ROUND_TRIP_S:g} s: the GPU hangs", f"{DMESG}; sudo reboot")
    if torch.end == "no torch":
        return _red(what, "torch is not installed", install)
    if torch.trip is None:
        return _red(what, f"a product on the GPU failed: {torch.told}", f"nvidia-smi; {DMESG}")
    trip = torch.trip
    if not trip.device and not gpus.shown:
        return _amber(what, f"torch {trip.torch} is here; the way to the GPU and back was not tried, for there is none", "see GPU above")
    if not trip.device:
        built = f"is built for CUDA {trip.cuda}, and finds no GPU with this driver" if trip.cuda else "is built without CUDA"
        return _red(what, f"torch {trip.torch} {built}", "python -m pip install --force-reinstall torch, or a newer driver")
    if not trip.error <= LARGEST_ERROR:
        return _red(what, f"a product on {trip.device} differs from the CPU's by {trip.error:.1g} of its largest value",
                    "dcgmi diag -r 3; a GPU that computes wrongly has to be replaced")
    return _green(what, f"torch {trip.torch}, CUDA {trip.cuda}: a product on {trip.device} agrees with the CPU's")


def _compiler(facts: Facts) -> Finding:
    if not facts.compiler:
        return _red("C compiler", "none, and Triton builds with one", "sudo apt-get install gcc")
    if facts.builds:
        return _red("C compiler", f"{facts.compiler} does not build an extension of Python: {facts.builds}",
                    f"sudo apt-get install python{'.'.join(facts.python.split('.')[:2])}-dev")
    return _green("C compiler", f"{facts.compiler}, with Python's headers")


def _git(version: str) -> Finding:
    return _green("git", version) if version else _red("git", "none", "sudo apt-get install git")


def _disk(disk: Disk) -> Finding:
    what = f"disk of {disk.path}"
    told = f"{disk.free_gib:,.1f} GiB free" + (f", {disk.inodes:,} inodes" if disk.inodes is not None else "")
    inodes = FREE_INODES if disk.inodes is None else disk.inodes
    look = f"df -h -i {disk.path}, then remove what is not needed"
    if disk.free_gib < LEAST_GIB or inodes < LEAST_INODES:
        return _red(what, f"{told}: too little for a run", look)
    if disk.free_gib < FREE_GIB or inodes < FREE_INODES:
        return _amber(what, f"{told}: little", look)
    return _green(what, told)


def _spool(spool: Spool | None) -> Finding:
    if spool is None:
        return _amber("spool", "none: a result is lost with the connection of its job",
                      "set SPRINTBENCH_SPOOL to a folder outside the work folder, in the file .env of the runner's folder")
    if spool.hindrance:
        return _red("spool", f"{spool.path} cannot be written: {spool.hindrance}", f"sudo install -d -o \"$USER\" {spool.path}")
    held = f"{spool.entries} {'entry' if spool.entries == 1 else 'entries'}"
    if spool.oldest_h > LONGEST_SPOOLED_H:
        return _amber("spool", f"{spool.path}: {held}, the oldest {spool.oldest_h:.0f} hours old, and nobody fetched it",
                      "gh workflow run sweep.yml; then remove what no card waits for")
    return _green("spool", f"{spool.path} can be written, {held}")


def _settings(facts: Facts) -> Iterator[Finding]:
    yield _green("Python", f"{facts.python}, {facts.executable}")
    if facts.jobs_python and facts.jobs_python != facts.executable:
        yield _amber("Python of jobs", f"jobs run by {facts.jobs_python}, which was not looked at", f"{facts.jobs_python} -m bot doctor")
    if facts.price:
        try:
            known = spec.price(facts.price)
            yield _green("price", f"{known.gpu_hour:g} {known.currency} for a GPU-hour")
        except SpecError as error:
            yield _amber("price", f"SPRINTBENCH_GPU_HOUR_PRICE is left out of results: {error}", "SPRINTBENCH_GPU_HOUR_PRICE='2.49 USD'")


def _week(week: Week, gpus: Gpus) -> Finding:
    lacking = [f"{need} ({version or 'absent'})" for need, version, enough in week.needs if not enough]
    if lacking:
        return _amber(week.key, f"cannot run here, it lacks {', '.join(lacking)}", f"python -m pip install '.[gpu,{week.key}]'")
    held = ", ".join(f"{Requirement(need).name} {version}" for need, version, _ in week.needs) or "no package of its own"
    if not gpus.shown:
        return _amber(week.key, f"runs as a smoke run only, for want of a GPU: {held}", "see GPU above")
    return _green(week.key, f"can run here: {held}")


# ---------------------------------------------------------------------------------------------------- looking


def gather(*, visible: str | None, jobs_python: str, price: str, spool: Path | None) -> Facts:
    """Look at this machine. `visible` is CUDA_VISIBLE_DEVICES; children inherit it, NVML does not know of it."""
    compiler = next(filter(None, map(shutil.which, ("gcc", "clang", "cc"))), "")  # Triton looks for the first two
    return Facts(
        python=platform.python_version(), executable=sys.executable, jobs_python=jobs_python, price=price, gpus=_look_at_gpus(visible),
        torch=_try_torch(), compiler=compiler, builds=_build(compiler) if compiler else "", git=_git_version(),
        disks=_disks(Path.cwd(), Path(tempfile.gettempdir())), spool=_look_into(spool) if spool else None,
        weeks=_weeks(ROOT / "pyproject.toml"))


def read_gpus(visible: str | None, loaded: Path = Path("/proc/driver/nvidia/version")) -> Gpus:
    """What NVML shows of each GPU; what one of them refuses to tell makes it silent as a whole. `loaded` is there where the
    kernel has the driver."""
    if importlib.util.find_spec("pynvml") is None:
        return Gpus(silent="no binding")
    with machine.open_nvml(visible) as nvml:
        if nvml is None:
            apart = "it is loaded, and NVML does not reach it: its library is of another version, or this container has no GPU"
            return Gpus(silent="no answer", told=apart) if loaded.exists() else Gpus(silent="no driver")
        try:
            return Gpus(nvml.binding.nvmlSystemGetDriverVersion(), tuple(_gpu_of(nvml.binding, handle) for handle in nvml.gpus))
        except (Unreadable, nvml.binding.NVMLError) as error:
            return Gpus(silent="no answer", told=str(error))


def _gpu_of(binding: Any, handle: Any) -> Gpu:
    gpu = NvmlGpu(binding, handle)
    now = gpu.read()
    return Gpu(binding.nvmlDeviceGetName(handle), binding.nvmlDeviceGetMemoryInfo(handle).total // 2**20, gpu.clock_limit(), now.sm_clock,
               now.load_percent, now.temperature, now.memory_mib, now.reasons, len(now.processes), now.ecc_errors, gpu.persistence())


def _look_at_gpus(visible: str | None, limit_s: float = GPU_ANSWER_S) -> Gpus:
    done = _within(limit_s, "gpus", *(["--visible", visible] if visible is not None else []))
    if done is None:
        return Gpus(silent="hung")
    code, out, err = done
    return spec.loads(Gpus, out) if code == 0 else Gpus(silent="no answer", told=_last_line(err))


def _try_torch(limit_s: float = ROUND_TRIP_S) -> Torch:
    done = _within(limit_s, "round-trip")
    if done is None:
        return Torch("hung")
    code, out, err = done
    if code == 0:
        return Torch("done", spec.loads(RoundTrip, out))
    told = _last_line(err)
    return Torch("no torch") if told == NO_TORCH else Torch("failed", None, told)


def _within(limit_s: float, *part: str) -> tuple[int, str, str] | None:
    """Exit code, stdout and stderr of one part of the doctor in a process of its own; None where it did not end in time. A child
    that waits for a dead GPU inside the kernel cannot even be killed, so it is left to itself."""
    child = subprocess.Popen([sys.executable, "-m", "runner.doctor", "--part", *part], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
    try:
        out, err = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(KILL_S)
        for pipe in (child.stdout, child.stderr):
            assert pipe is not None, "both are piped"
            pipe.close()
        return None
    return child.returncode, out, err


def _last_line(text: str) -> str:
    return spec.plain_text(next((line for line in reversed(text.splitlines()) if line.strip()), "without a word"))


def _build(compiler: str) -> str:
    """Why a file that includes Python.h does not compile; "" where it does."""
    include = sysconfig.get_paths()["include"]
    try:
        done = subprocess.run([compiler, f"-I{include}", "-x", "c", "-c", "-o", os.devnull, "-"], input="#include <Python.h>\n", text=True,
                              capture_output=True, timeout=TOOL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return spec.plain_text(f"{type(error).__name__}: {error}")
    wrong = [line for line in done.stderr.splitlines() if "error" in line]
    return spec.plain_text(next(iter(wrong), f"exit code {done.returncode}")) if done.returncode else ""


def _git_version() -> str:
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=TOOL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return spec.plain_text(done.stdout) if done.returncode == 0 else ""


def _disks(*folders: Path) -> tuple[Disk, ...]:
    """The file systems of these folders, each once."""
    first = {folder.stat().st_dev: folder for folder in reversed(folders)}
    told = [(folder, os.statvfs(folder)) for folder in reversed(first.values())]
    return tuple(Disk(str(folder), fs.f_bavail * fs.f_frsize / 2**30, fs.f_favail if fs.f_files else None) for folder, fs in told)


def _look_into(spool: Path) -> Spool:
    """The file system's own clock tells how old the entries are: that of the file made to see whether one can be."""
    try:
        with tempfile.NamedTemporaryFile(dir=spool, prefix=".doctor-") as probe:
            probe.write(bytes(4096))
            os.fsync(probe.fileno())
            now, own = os.fstat(probe.fileno()).st_mtime, Path(probe.name)
            ages = [(now - entry.stat().st_mtime) / 3600 for entry in spool.iterdir() if entry != own]
    except OSError as error:
        return Spool(str(spool), error.strerror or type(error).__name__)
    return Spool(str(spool), "", len(ages), max(ages, default=0.0))


def _weeks(pyproject: Path) -> tuple[Week, ...]:
    """What each week's extra asks for, and what of it is installed."""
    extras = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return tuple(Week(key, tuple(map(_need, extras.get(key, ())))) for key in spec.discover())


def _need(requirement: str) -> tuple[str, str, bool]:
    needed = Requirement(requirement)
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return requirement, "", False
    return requirement, version, needed.specifier.contains(version, prereleases=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--visible", metavar="LIST", help="CUDA_VISIBLE_DEVICES, where it is set.")
@click.option("--jobs-python", default="", metavar="PATH", help="SPRINTBENCH_PYTHON: the Python that jobs are run by.")
@click.option("--price", default="", metavar="TEXT", help="SPRINTBENCH_GPU_HOUR_PRICE.")
@click.option("--spool", type=click.Path(path_type=Path), metavar="DIR", help="SPRINTBENCH_SPOOL.")
@click.option("--part", type=click.Choice(["gpus", "round-trip"]), hidden=True)
def main(visible: str | None, jobs_python: str, price: str, spool: Path | None, part: str | None) -> None:
    """Look at this machine and print what was found, as JSON. For people: bench doctor."""
    match part:
        case "gpus":
            click.echo(spec.dumps(read_gpus(visible)))
        case "round-trip":
            click.echo(spec.dumps(machine.round_trip()))
        case _:
            click.echo(spec.dumps(Diagnosis(findings(gather(visible=visible, jobs_python=jobs_python, price=price, spool=spool)))))


if __name__ == "__main__":
    main()
