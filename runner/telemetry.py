"""NVML's view of the GPU while a run lasts: sampled in the parent, then summed up in words that say whether the run was valid,
and the rest that the GPU is given before a second try."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from workloads.spec import Telemetry

PERIOD_S = 0.5
LOADED_PERCENT = 10  # from this utilisation on a sample counts as under load

# A GPU is at rest after so many looks in a row that found it cool, alone and not slowed down.
REST_LOOKS = 3
REST_LOOK_S = 1.0
REST_C = 60

# Bits of nvmlDeviceGetCurrentClocksEventReasons that change a measurement. Idle, application clocks, display clocks and
# sync boost are settings or states, not faults.
REASONS = (
    (0x04, "software power cap"),
    (0x08, "hardware slowdown"),
    (0x20, "software thermal slowdown"),
    (0x40, "hardware thermal slowdown"),
    (0x80, "hardware power brake"),
)
SLOWED = 0x08 | 0x20 | 0x40 | 0x80

T = TypeVar("T")


class Unreadable(Exception):
    """The GPU does not show what telemetry needs; the text says what."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The GPU at one moment: MHz, Celsius, watts, MiB, percent, a bit mask of clock reasons, compute processes by id, and the
    memory errors since the driver was loaded that ECC could not correct (None where the GPU counts none)."""

    sm_clock: int
    temperature: int
    power_w: float
    memory_mib: int
    load_percent: int
    reasons: int
    processes: frozenset[int]
    ecc_errors: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading, and which of its processes are ours."""

    reading: Reading
    own: frozenset[int]


class Gpu(Protocol):
    """What a sampler needs of a GPU; each raises Unreadable."""

    def clock_limit(self) -> int: ...

    def persistence(self) -> bool | None: ...

    def read(self) -> Reading: ...


class NvmlGpu:
    """One GPU through NVML: `library` is pynvml, opened; `handle` one of its devices."""

    def __init__(self, binding: Any, handle: Any) -> None:
        self.binding = binding
        self.handle = handle

    def clock_limit(self) -> int:
        nvml = self.binding
        try:
            return int(nvml.nvmlDeviceGetMaxClockInfo(self.handle, nvml.NVML_CLOCK_SM))
        except nvml.NVMLError as error:
            raise Unreadable(str(error)) from error

    def persistence(self) -> bool | None:
        nvml = self.binding
        return self._where_supported(lambda: bool(nvml.nvmlDeviceGetPersistenceMode(self.handle) == nvml.NVML_FEATURE_ENABLED))

    def read(self) -> Reading:
        nvml, gpu = self.binding, self.handle
        errors = self._where_supported(lambda: int(nvml.nvmlDeviceGetTotalEccErrors(
            gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)))
        try:
            return Reading(
                sm_clock=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
                temperature=nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
                power_w=nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
                memory_mib=nvml.nvmlDeviceGetMemoryInfo(gpu).used // 2**20,
                load_percent=nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
                reasons=nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu),
                processes=frozenset(p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)),
                ecc_errors=errors)
        except nvml.NVMLError as error:
            raise Unreadable(str(error)) from error

    def _where_supported(self, ask: Callable[[], T]) -> T | None:
        """What not every GPU has: None where this one has not, as with ECC on most cards that draw pictures."""
        try:
            return ask()
        except self.binding.NVMLError_NotSupported:
            return None
        except self.binding.NVMLError as error:
            raise Unreadable(str(error)) from error


def ours(processes: Iterable[int]) -> frozenset[int]:
    """Those of `processes` that this process started, directly or not."""
    return frozenset(pid for pid in processes if _descends(pid))


def _descends(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended meanwhile, or NVML speaks of another PID namespace
            return False
        pid = int(stat.rpartition(")")[2].split()[1])  # after "(name)", which may hold anything: state, parent
    return False


class Sampler:
    """Reads `gpu` every `period_s` seconds in a thread, from `with` on; the first reading is taken before anything starts, the
    last once all has ended, so that an error that ended it is seen."""

    def __init__(self, gpu: Gpu, *, own: Callable[[Iterable[int]], frozenset[int]] = ours, period_s: float = PERIOD_S) -> None:
        self.gpu = gpu
        self.own = own
        self.period_s = period_s
        self.samples: list[Sample] = []
        self.unreadable = ""
        self.clock_limit = 0
        self.persistence: bool | None = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._sample_until_over, name="telemetry", daemon=True)

    def __enter__(self) -> Sampler:
        try:
            self.clock_limit = self.gpu.clock_limit()
            self.persistence = self.gpu.persistence()
            self._sample()
        except Unreadable as error:
            self.unreadable = str(error)
        else:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if self.thread.is_alive():
            self.thread.join()

    def _sample(self) -> None:
        reading = self.gpu.read()
        self.samples.append(Sample(reading, self.own(reading.processes)))

    def _sample_until_over(self) -> None:
        try:
            while not self.over.wait(self.period_s):
                self._sample()
            self._sample()
        except Unreadable as error:
            self.unreadable = str(error)

    def telemetry(self) -> Telemetry | None:
        """What was seen, or None where the GPU could not be read throughout (`unreadable` says why)."""
        return None if self.unreadable else summarise(self.samples, self.period_s, self.clock_limit, self.persistence)


def summarise(samples: Sequence[Sample], period_s: float, clock_limit: int, persistence: bool | None = None) -> Telemetry:
    """Clocks, power and clock reasons from the samples under load (from all where none was); temperature, memory, errors and
    other processes from all. `samples` holds at least one, the first from before the run."""
    everything = [sample.reading for sample in samples]
    loaded = [r for r in everything if r.load_percent >= LOADED_PERCENT] or everything
    errors = [r.ecc_errors for r in everything if r.ecc_errors is not None]
    shares = ((name, sum(bool(r.reasons & bit) for r in loaded) / len(loaded)) for bit, name in REASONS)
    return Telemetry(
        period_s=period_s,
        samples=len(samples),
        sm_clock_median=round(statistics.median(r.sm_clock for r in loaded)),
        sm_clock_lowest=min(r.sm_clock for r in loaded),
        sm_clock_limit=clock_limit,
        temperature_highest=max(r.temperature for r in everything),
        power_median=round(statistics.median(r.power_w for r in loaded), 1),
        power_highest=round(max(r.power_w for r in everything), 1),
        memory_highest_mib=max(r.memory_mib for r in everything),
        throttled=tuple((name, round(share, 4)) for name, share in shares if share > 0),
        foreign=_foreign(samples),
        ecc_errors=max(errors) - errors[0] if errors else None,
        persistence=persistence)


def _foreign(samples: Sequence[Sample]) -> int:
    """Other processes on the GPU, each seen at least twice (one seen once may be ours, gone before it could be traced).

    In a container NVML may show processes by ids of another namespace, or none at all. Only where one of ours was
    recognised do all ids count; else only those that were there before the run began.
    """
    times = Counter(pid for sample in samples for pid in sample.reading.processes)
    lasting = {pid for pid, seen in times.items() if seen >= min(2, len(samples))}
    own = frozenset[int]().union(*(sample.own for sample in samples))
    return len(lasting - own if own else lasting & samples[0].reading.processes)


Rest = Literal["quiet", "not quiet", "cancelled"]


def rest(gpu: Gpu, limit_s: float, cancelled: Callable[[], bool], *, look_s: float = REST_LOOK_S) -> Rest:
    """Wait, at most `limit_s` seconds, until `gpu` is at rest: cool, without a process, and not slowed down. A GPU that cannot
    be read is not quiet."""
    last_moment = time.monotonic() + limit_s
    quiet = 0
    while quiet < REST_LOOKS:
        if cancelled():
            return "cancelled"
        if time.monotonic() >= last_moment:
            return "not quiet"
        time.sleep(look_s)
        try:
            reading = gpu.read()
        except Unreadable:
            return "not quiet"
        at_rest = reading.temperature <= REST_C and not reading.processes and not reading.reasons & SLOWED
        quiet = quiet + 1 if at_rest else 0
    return "quiet"
