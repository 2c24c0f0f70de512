"""Which kernels a call launches, read from a profile: the proof that a backend is the one it says it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from workloads.week02_attention.backends import PROOFS, Backend

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Launched:
    """One kernel of a call (on a CPU: one operator): its name and its microseconds, summed over its launches."""

    name: str
    microseconds: float


def launched(call: Callable[[], object], device: str) -> list[Launched]:
    """The kernels that `call` launches, the longest first. Runs it twice: the first call may build something."""
    call()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities, acc_events=True) as profiler:
        call()
        if device == "cuda":
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return kernels_in(json.loads(path.read_text())["traceEvents"])


def kernels_in(events: Sequence[dict[str, object]]) -> list[Launched]:
    """Kernels of a Chrome trace by summed time; of a trace without a GPU, operators."""
    for category in ("kernel", "cpu_op"):
        total: dict[str, float] = {}
        for event in events:
            if event.get("ph") == "X" and event.get("cat") == category:
                total[str(event["name"])] = total.get(str(event["name"]), 0.0) + float(str(event["dur"]))
        if total:
            return [Launched(name, us) for name, us in sorted(total.items(), key=lambda item: -item[1])]
    return []


def proved(backend: Backend, found: Sequence[Launched], device: str) -> bool:
    """Whether a kernel that only this backend launches is among those found."""
    return any(part in kernel.name.lower() for kernel in found for part in PROOFS[device].get(backend, ()))
