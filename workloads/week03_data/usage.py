"""How busy GPU, JPEG engines and processor were while something ran, as NVML and /proc/stat tell it.

NVML's GPU utilisation is the share of time in which any kernel ran: a GPU that starves in bursts still shows 90%, so it stands beside
the other measures and never alone.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from workloads import machine, measure

PERIOD_S = 0.1


@dataclass(slots=True)
class Usage:
    """Percent: `gpu` and `jpeg` sample by sample (`jpeg` is that of the JPEG engines), `cpu` over all cores; empty or None where the
    machine does not tell, and then `unseen` says why."""

    gpu: list[float] = field(default_factory=list)
    jpeg: list[float] = field(default_factory=list)
    cpu: float | None = None
    unseen: str = ""

    def medians(self) -> tuple[float | None, float | None, float | None]:
        gpu, jpeg = (statistics.median(samples) if samples else None for samples in (self.gpu, self.jpeg))
        return gpu, jpeg, self.cpu


@contextlib.contextmanager
def watched(device: measure.Device) -> Iterator[Usage]:
    """What is used while the block runs; complete once it is left."""
    usage, ended = Usage(), threading.Event()
    before = _processor()
    with ThreadPoolExecutor(1) as pool:
        sampling = pool.submit(_sample, usage, device, ended)
        try:
            yield usage
        finally:
            ended.set()
            sampling.result()
    busy, total = (after - then for after, then in zip(_processor(), before, strict=True))
    usage.cpu = 100 * busy / total if total else None


def _sample(usage: Usage, device: measure.Device, ended: threading.Event) -> None:
    if device == "cpu":
        usage.unseen = "no GPU in this run"
        return
    with machine.open_nvml() as nvml:
        if nvml is None:
            usage.unseen = "NVML or its Python binding is missing"
            return
        api: Any = nvml.binding
        try:
            gpu = api.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}")
            while not ended.wait(PERIOD_S):
                usage.gpu.append(float(api.nvmlDeviceGetUtilizationRates(gpu).gpu))
                with contextlib.suppress(api.NVMLError_NotSupported):
                    usage.jpeg.append(float(api.nvmlDeviceGetJpgUtilization(gpu)[0]))
        except api.NVMLError as error:
            usage.unseen = f"NVML says {error}"


def _processor() -> tuple[float, float]:
    """Ticks that all cores together were busy, and ticks in all, since the machine started."""
    user, nice, system, idle, waiting, *rest = map(float, Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9])
    busy = user + nice + system + sum(rest)
    return busy, busy + idle + waiting
