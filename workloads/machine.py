"""What a run ran on: GPU, driver, processor and library versions without importing torch, and the GPU's measured ceilings."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workloads.spec import Estimate, Machine, Metric, plain_text

# Libraries whose version can move a number, by the name pip knows.
PACKAGES = ("torch", "triton", "torchvision", "timm", "transformers", "tokenizers", "liger-kernel", "vllm", "numpy",
            "pillow", "webdataset", "datasketch",
            "nvidia-nvimgcodec-cu13", "nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-runtime", "nvidia-ml-py")

MATMUL_SIZE = 8192
COPY_BYTES = 4 * 2**30
ROUND_TRIP_SIZE = 256
CPU_MATMUL_SIZE = 64  # most CPUs do bf16 one by one
CPU_COPY_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Nvml:
    """NVML while it is open: its Python binding, and the handles of the GPUs that CUDA shows, in CUDA's order."""

    binding: Any
    gpus: tuple[Any, ...]


@contextlib.contextmanager
def open_nvml(visible: str | None = None) -> Iterator[Nvml | None]:
    """NVML, or None on a machine without its driver or its Python binding.

    `visible` is CUDA_VISIBLE_DEVICES (None where unset): indices or GPU-<uuid>, and the first that names no GPU hides all
    after it, as in CUDA. The order is that of the PCI bus, CUDA's own with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    try:
        import pynvml  # an extra: a machine without a GPU does without it
    except ModuleNotFoundError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or one that does not answer
        yield None
        return
    try:
        yield Nvml(pynvml, _shown(*_all_gpus(pynvml), visible))
    finally:
        pynvml.nvmlShutdown()


def _all_gpus(nvml: Any) -> tuple[list[Any], list[str]]:
    """Handles and UUIDs; none where one of them does not answer, as after it fell off the bus: CUDA would not start either."""
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return handles, [nvml.nvmlDeviceGetUUID(handle) for handle in handles]
    except nvml.NVMLError:
        return [], []


def _shown(handles: Sequence[Any], uuids: Sequence[str], visible: str | None) -> tuple[Any, ...]:
    if visible is None:
        return tuple(handles)
    shown = []
    for name in (part.strip() for part in visible.split(",")):
        places = [int(name)] if name.isdecimal() else [i for i, uuid in enumerate(uuids) if name and uuid.startswith(name)]
        if len(places) != 1 or places[0] >= len(handles):
            break
        shown.append(handles[places[0]])
    return tuple(shown)


def describe(visible: str | None = None) -> Machine:
    """The machine as CUDA shows it where `visible` is CUDA_VISIBLE_DEVICES; `gpu` is "" where it shows none."""
    with open_nvml(visible) as nvml:
        gpus = nvml.gpus if nvml else ()
        return Machine(
            gpu=plain_text(nvml.binding.nvmlDeviceGetName(gpus[0])) if nvml and gpus else "",
            gpus=len(gpus),
            gpu_memory_mib=nvml.binding.nvmlDeviceGetMemoryInfo(gpus[0]).total // 2**20 if nvml and gpus else 0,
            driver=plain_text(nvml.binding.nvmlSystemGetDriverVersion()) if nvml and gpus else "",
            cpu=plain_text(_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()),
            cores=os.cpu_count() or 1,
            memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
            system=plain_text(f"{platform.system()} {platform.release()} {platform.machine()}"),
            python=platform.python_version(),
            packages=tuple((name, plain_text(version)) for name in PACKAGES if (version := _installed(name))))


def _field(path: str, name: str) -> str:
    """The first `name : value` of a file of /proc; "" where there is no such file or field."""
    try:
        found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", Path(path).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return found.group(1) if found else ""


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A matrix product on the GPU beside the same on the CPU: `error` is the largest difference, in parts of the largest value;
    `device` is "" where torch shows no GPU, and `cuda` where it was built without."""

    torch: str
    cuda: str
    device: str
    error: float


def round_trip() -> RoundTrip:
    """Numbers to the first GPU, a product there, and back. Raises what torch raises; on a GPU that hangs, it never returns."""
    import torch  # here, so that describe() stays free of it

    version, cuda = str(torch.__version__), torch.version.cuda or ""
    if not torch.cuda.is_available():
        return RoundTrip(version, cuda, "", 0.0)
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(ROUND_TRIP_SIZE, ROUND_TRIP_SIZE, dtype=torch.float64, generator=random) for _ in range(2))
    here, there = a @ b, (a.cuda() @ b.cuda()).cpu()
    return RoundTrip(version, cuda, torch.cuda.get_device_name(), float((here - there).abs().max() / here.abs().max()))


def ceilings(device: Literal["cuda", "cpu"]) -> tuple[Metric, Metric]:
    """What this device reaches at best, to hold results against: `ceiling_matmul`, TFLOP/s of a bf16 matrix product of
    8192 x 8192 random numbers, and `ceiling_copy`, GB/s read and written by a copy of 4 GiB.

    Random numbers, because a product of zeros draws less power, clocks higher and shows 13% more. Takes about 6 seconds
    and 9 GiB on a GPU; on the CPU the sizes are tiny and the figures mean nothing.
    """
    import torch  # here, so that describe() stays free of it

    from workloads import measure

    size, copied = (MATMUL_SIZE, COPY_BYTES) if device == "cuda" else (CPU_MATMUL_SIZE, CPU_COPY_BYTES)
    random = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16, generator=random) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.randint(256, (copied,), device=device, dtype=torch.uint8, generator=random)
    target = torch.empty_like(source)
    times = measure.time_interleaved(
        {"matmul": lambda: torch.mm(a, b, out=product), "copy": lambda: target.copy_(source)}, device=device,
        warmup_s=3.0 if device == "cuda" else 0.1, block_ms=50.0 if device == "cuda" else 2.0)

    def rate(amount: float, name: str) -> Estimate:
        """`amount` in 1e9 units a call; a time in ms."""
        return measure.median([float(f"{amount / ms:.7g}") for ms in times[name]])

    return (
        Metric("ceiling_matmul", "matrix product, measured ceiling", "TFLOP/s", "higher",
               rate(2 * size**3 / 1e9, "matmul"), f"bf16 {size} x {size}, random numbers"),
        Metric("ceiling_copy", "memory copy, measured ceiling", "GB/s", "higher",
               rate(2 * copied / 1e6, "copy"), f"{copied // 2**20} MiB, read and written"))
