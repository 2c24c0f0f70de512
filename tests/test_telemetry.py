"""What NVML showed, summed up: known answers, and a stand-in for the GPU where a GPU is needed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest

from runner.telemetry import NvmlGpu, Reading, Sample, Sampler, Unreadable, ours, rest, summarise
from workloads.spec import Telemetry, faults

IDLE = Reading(sm_clock=345, temperature=38, power_w=70.0, memory_mib=4, load_percent=0, reasons=0x1, processes=frozenset())
BUSY = Reading(sm_clock=1755, temperature=61, power_w=512.3, memory_mib=30000, load_percent=97, reasons=0x0, processes=frozenset({10}))


def reading(base: Reading = BUSY, **changed: int | float | frozenset[int] | None) -> Reading:
    return Reading(**{**{name: getattr(base, name) for name in Reading.__slots__}, **changed})  # type: ignore[arg-type]


def samples(*readings: Reading, own: Iterable[int] = (10,)) -> list[Sample]:
    return [Sample(r, r.processes & frozenset(own)) for r in readings]


def test_clocks_power_and_reasons_are_of_the_loaded_samples() -> None:
    seen = samples(IDLE, reading(sm_clock=1980, power_w=300.0), reading(sm_clock=1700, power_w=690.0, temperature=71, reasons=0x4),
                   reading(sm_clock=1740, power_w=500.0, memory_mib=50000), reading(sm_clock=1760, power_w=510.0), IDLE)
    assert summarise(seen, 0.5, 1980) == Telemetry(
        period_s=0.5, samples=6, sm_clock_median=1750, sm_clock_lowest=1700, sm_clock_limit=1980, temperature_highest=71,
        power_median=505.0, power_highest=690.0, memory_highest_mib=50000, throttled=(("software power cap", 0.25),), foreign=0)


def test_without_load_all_samples_speak() -> None:
    assert summarise(samples(IDLE), 0.5, 1980).sm_clock_median == 345


@pytest.mark.parametrize(("bit", "name"), [
    (0x4, "software power cap"), (0x8, "hardware slowdown"), (0x20, "software thermal slowdown"),
    (0x40, "hardware thermal slowdown"), (0x80, "hardware power brake")])
def test_a_reason_has_a_name(bit: int, name: str) -> None:
    assert summarise(samples(reading(reasons=bit | 0x1)), 0.5, 1980).throttled == ((name, 1.0),)


@pytest.mark.parametrize("harmless", [0x0, 0x1, 0x2, 0x10, 0x100])
def test_idle_and_chosen_clocks_are_no_fault(harmless: int) -> None:
    assert faults(summarise(samples(*[reading(reasons=harmless)] * 3), 0.5, 1980)) == ()


def test_one_hardware_slowdown_in_a_long_run_is_a_fault() -> None:
    seen = samples(*[BUSY] * 999, reading(reasons=0x8))
    assert faults(summarise(seen, 0.5, 1980)) == ("hardware slowdown in 0% of samples",)


def ecc_errors(*counts: int | None) -> int | None:
    return summarise(samples(*[reading(ecc_errors=count) for count in counts]), 0.5, 1980).ecc_errors


def test_errors_from_before_the_run_are_not_of_the_run() -> None:
    assert (ecc_errors(7, 7, 7), ecc_errors(7, 7, 9), ecc_errors(0, 1)) == (0, 2, 1)


def test_a_gpu_that_counts_no_errors_has_none() -> None:
    assert ecc_errors(None, None) is None


def test_persistence_mode_is_passed_on() -> None:
    assert [summarise(samples(IDLE), 0.5, 1980, state).persistence for state in (True, False, None)] == [True, False, None]


def foreign(*seen: set[int], own: Iterable[int] = (10,)) -> int:
    return summarise(samples(*[reading(processes=frozenset(pids)) for pids in seen], own=own), 0.5, 1980).foreign


def test_our_processes_are_not_foreign() -> None:
    assert foreign(set(), {10}, {10}, {10}) == 0


def test_others_that_stay_are_foreign() -> None:
    assert foreign({77}, {77, 10}, {10, 88}, {10, 88}) == 2


def test_one_seen_once_may_be_ours() -> None:
    assert foreign(set(), {10}, {10, 99}, {10}) == 0


def test_ids_of_another_namespace_count_only_if_they_were_there_first() -> None:
    assert foreign({4001}, {4001, 4002}, {4001, 4002}, own=()) == 1


def test_a_run_of_one_sample_counts_what_it_saw() -> None:
    assert foreign({77}, own=()) == 1


# ---------------------------------------------------------------------------------------------------- sampling


class Shown:
    """A GPU that shows `readings` one after another, then the last one again; None is a GPU that fell silent."""

    def __init__(self, *readings: Reading | None, limit: int | None = 1980) -> None:
        self.readings = list(readings)
        self.limit = limit

    def persistence(self) -> bool | None:
        return False

    def clock_limit(self) -> int:
        if self.limit is None:
            raise Unreadable("Not Supported")
        return self.limit

    def read(self) -> Reading:
        shown = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if shown is None:
            raise Unreadable("GPU is lost")
        return shown


def until(sampler: Sampler, count: int) -> None:
    deadline = time.monotonic() + 5
    while len(sampler.samples) < count and not sampler.unreadable and time.monotonic() < deadline:
        time.sleep(0.005)


def test_sampling_goes_on_until_the_end() -> None:
    with Sampler(Shown(IDLE, BUSY), own=frozenset, period_s=0.01) as sampler:
        until(sampler, 5)
    taken = len(sampler.samples)
    telemetry = sampler.telemetry()
    assert telemetry is not None
    assert telemetry.samples == taken >= 5
    assert (telemetry.sm_clock_median, telemetry.persistence) == (1755, False)
    time.sleep(0.05)
    assert len(sampler.samples) == taken


def test_the_last_reading_is_of_the_end() -> None:
    with Sampler(Shown(reading(ecc_errors=4), reading(ecc_errors=5)), own=frozenset, period_s=60) as sampler:
        pass
    telemetry = sampler.telemetry()
    assert telemetry is not None
    assert (telemetry.samples, telemetry.ecc_errors) == (2, 1)


def test_a_gpu_lost_on_the_way_leaves_no_telemetry() -> None:
    with Sampler(Shown(IDLE, BUSY, None), own=frozenset, period_s=0.01) as sampler:
        until(sampler, 5)
    assert (sampler.telemetry(), sampler.unreadable) == (None, "GPU is lost")


def test_a_gpu_that_shows_no_clock_leaves_no_telemetry() -> None:
    with Sampler(Shown(BUSY, limit=None)) as sampler:
        pass
    assert (sampler.telemetry(), sampler.unreadable) == (None, "Not Supported")


def test_ours_are_this_process_and_what_it_started() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        assert ours([os.getpid(), child.pid, os.getppid(), 1, 0]) == {os.getpid(), child.pid}
        child.kill()
    assert ours([child.pid]) == frozenset()


# ---------------------------------------------------------------------------------------------------- rest


COOL = reading(IDLE, temperature=60)
RESTLESS = [reading(IDLE, temperature=61), reading(IDLE, processes=frozenset({77})), *(reading(IDLE, reasons=r) for r in (8, 32, 64, 128))]


def never() -> bool:
    return False


def test_a_gpu_is_at_rest_after_three_quiet_looks() -> None:
    gpu = Shown(RESTLESS[0], COOL, COOL, RESTLESS[1], COOL, COOL, COOL, RESTLESS[0])
    assert rest(gpu, 5, never, look_s=0) == "quiet"
    assert gpu.readings == [RESTLESS[0]]


@pytest.mark.parametrize("restless", RESTLESS)
def test_a_gpu_that_finds_no_rest_is_waited_for_no_longer_than_allowed(restless: Reading) -> None:
    assert rest(Shown(restless), 0.05, never, look_s=0.01) == "not quiet"


def test_a_gpu_lost_meanwhile_is_not_quiet() -> None:
    assert rest(Shown(COOL, None), 5, never, look_s=0) == "not quiet"


def test_a_rest_is_cut_short_by_a_cancel() -> None:
    asked = iter((False, True))
    assert rest(Shown(RESTLESS[0]), 60, lambda: next(asked), look_s=0) == "cancelled"


# ---------------------------------------------------------------------------------------------------- NVML


@pytest.fixture
def nvml() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stand_in_nvml", Path(__file__).parent / "cases" / "nvml" / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    return library


def test_nvml_is_read_in_our_units(nvml: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_GPU", "shared")
    gpu = NvmlGpu(nvml, 0)
    assert gpu.clock_limit() == 1980
    assert gpu.read() == Reading(sm_clock=1755, temperature=58, power_w=512.3, memory_mib=1024, load_percent=97, reasons=0x4,
                                 processes=frozenset({1}), ecc_errors=3)
    assert gpu.persistence() is True
    monkeypatch.setenv("STAND_IN_GPU", "not persistent")
    assert gpu.persistence() is False


def test_what_a_plain_card_lacks_is_none(nvml: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_GPU", "a plain card")
    gpu = NvmlGpu(nvml, 0)
    assert (gpu.persistence(), gpu.read().ecc_errors, gpu.read().power_w) == (None, None, 512.3)


def test_errors_that_are_not_told_are_no_zero(nvml: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_GPU", "no errors told")
    with pytest.raises(Unreadable, match="Unknown Error"):
        NvmlGpu(nvml, 0).read()


@pytest.mark.parametrize(("trouble", "ask"), [("no utilisation", NvmlGpu.read), ("no clock", NvmlGpu.clock_limit)])
def test_what_nvml_refuses_is_unreadable(nvml: ModuleType, monkeypatch: pytest.MonkeyPatch, trouble: str,
                                         ask: Callable[[NvmlGpu], object]) -> None:
    monkeypatch.setenv("STAND_IN_GPU", trouble)
    with pytest.raises(Unreadable, match="Not Supported"):
        ask(NvmlGpu(nvml, 0))


def test_every_nvml_name_we_call_exists() -> None:
    pynvml = pytest.importorskip("pynvml", reason="the gpu extra is not installed")
    stand_in = (Path(__file__).parent / "cases" / "nvml" / "pynvml.py").read_text()
    called = {word for word in re.findall(r"\w+", stand_in) if word.startswith(("nvml", "NVML"))}
    assert len(called) >= 15
    assert [name for name in called if not hasattr(pynvml, name)] == []


@pytest.mark.gpu
def test_a_real_gpu_can_be_read() -> None:
    from workloads.machine import open_nvml

    with open_nvml() as opened:
        assert opened is not None
        gpu = NvmlGpu(opened.binding, opened.gpus[0])
        seen = gpu.read()
        assert 0 < seen.sm_clock <= gpu.clock_limit()
        assert seen.power_w > 0
        assert gpu.persistence() in (True, False, None)
        assert seen.ecc_errors is None or seen.ecc_errors >= 0
