"""A stand-in for pynvml and the driver behind it: two GPUs at work, or what STAND_IN_GPU says is wrong with them."""

import os
from types import SimpleNamespace

NVML_CLOCK_SM = 1
NVML_TEMPERATURE_GPU = 0
NVML_FEATURE_ENABLED = 1
NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
NVML_VOLATILE_ECC = 0
UUIDS = ("GPU-aaaa1111-0000", "GPU-bbbb2222-0000")


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


def trouble() -> str:
    return os.environ.get("STAND_IN_GPU", "")


def first_looks(name: str) -> bool:
    """Whether a trouble of this name is there: all along, or, where "once" follows it, in the first two looks at the GPU: of a
    short run, the one before it and the one after."""
    return trouble() == name or (trouble() == f"{name} once" and len(looks) <= 2)


looks: list[int] = []  # one for each time that the temperature was asked for


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
    return 900 if trouble() == "slow" else 1755


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    assert sensor == NVML_TEMPERATURE_GPU
    looks.append(handle)
    return 91 if first_looks("hot") else 58


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return 512_300


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    if trouble() == "no utilisation":
        raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=97, memory=40)


def nvmlDeviceGetCurrentClocksEventReasons(handle: int) -> int:
    return 0x4


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=1)] if first_looks("shared") else []


def nvmlDeviceGetPersistenceMode(handle: int) -> int:
    if trouble() == "a plain card":
        raise NVMLError_NotSupported("Not Supported")
    return 0 if trouble() == "not persistent" else NVML_FEATURE_ENABLED


def nvmlDeviceGetTotalEccErrors(handle: int, kind: int, counter: int) -> int:
    assert (kind, counter) == (NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC)
    if trouble() == "a plain card":
        raise NVMLError_NotSupported("Not Supported")
    if trouble() == "no errors told":
        raise NVMLError("Unknown Error")
    return 3 + len(looks) if trouble() == "bad memory" else 3
