"""A stand-in for pynvml and the driver behind it: two GPUs at work, or what STAND_IN_GPU says is wrong with them."""

import os
from types import SimpleNamespace

NVML_CLOCK_SM = 1
NVML_TEMPERATURE_GPU = 0
UUIDS = ("GPU-aaaa1111-0000", "GPU-bbbb2222-0000")


class NVMLError(Exception):
    pass


def trouble() -> str:
    return os.environ.get("STAND_IN_GPU", "")


def nvmlInit() -> None:
    if trouble() == "no driver":
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    if trouble() == "lost":
        raise NVMLError("GPU is lost")
    return len(UUIDS)


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetUUID(handle: int) -> str:
    return UUIDS[handle]


def nvmlDeviceGetName(handle: int) -> str:
    return f"NVIDIA H100 80GB HBM3 @{handle}"


def nvmlSystemGetDriverVersion() -> str:
    return "580.159.03"


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(total=81559 * 2**20, used=1024 * 2**20)


def nvmlDeviceGetMaxClockInfo(handle: int, clock: int) -> int:
    assert clock == NVML_CLOCK_SM
    if trouble() == "no clock":
        raise NVMLError("Not Supported")
    return 1980


def nvmlDeviceGetClockInfo(handle: int, clock: int) -> int:
    assert clock == NVML_CLOCK_SM
    return 1755


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    assert sensor == NVML_TEMPERATURE_GPU
    return 61


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return 512_300


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    if trouble() == "no utilisation":
        raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=97, memory=40)


def nvmlDeviceGetCurrentClocksEventReasons(handle: int) -> int:
    return 0x4


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=1)] if trouble() == "shared" else []
