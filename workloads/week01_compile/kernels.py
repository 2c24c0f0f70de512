"""A profiler trace reduced to where the GPU's time went: milliseconds by class of kernel, and the share in which it idled."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

# First match wins; lower-case parts of kernel names as CUDA 13, cuDNN 9 and Inductor give them. Inductor's come first: it names a
# fused kernel after all the operators it holds a part of, so that triton_poi_fused_convolution_relu is no convolution.
CLASSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("matmul and conv", ("triton_tem",)),
    ("fused by compile", ("triton_",)),
    ("attention", ("flash", "fmha", "sdpa", "attention")),
    ("optimizer", ("multi_tensor", "adam", "fused_optimizer")),
    ("matmul and conv", ("gemm", "nvjet", "cutlass", "conv", "wgrad", "dgrad", "xmma", "cudnn_infer", "sm90_", "sm80_")),
    ("copy", ("memcpy", "memset", "copy_kernel", "nchwtonhwc", "nhwctonchw")),
    ("norm", ("batch_norm", "batchnorm", "bn_fw", "bn_bw", "layer_norm", "layernorm", "group_norm", "groupnorm", "rowwisemoments",
              "gammabeta", "computeinternalgradients", "computefusedparams")),
    ("elementwise", ("elementwise", "reduce_kernel", "softmax", "pool", "cat", "index", "nll_loss", "fill")),
)
OTHER = "other"
IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Span:
    """One kernel, copy or fill on the GPU; times in microseconds."""

    name: str
    start_us: float
    duration_us: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """`milliseconds` by class, summed over kernels; `busy_ms` their union, `wall_ms` from first start to last end."""

    milliseconds: dict[str, float]
    busy_ms: float
    wall_ms: float

    @property
    def idle_share(self) -> float:
        return 1 - self.busy_ms / self.wall_ms


def class_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, parts in CLASSES if any(part in lower for part in parts)), OTHER)


def break_down(spans: Sequence[Span]) -> Breakdown:
    """Raises ValueError for no spans at all: a trace without kernels is a broken trace, not an idle GPU."""
    if not spans:
        raise ValueError("no GPU work in this part of the trace")
    ordered = sorted(spans, key=lambda s: s.start_us)
    totals: dict[str, float] = {}
    busy, reached = 0.0, ordered[0].start_us
    for span in ordered:
        totals[class_of(span.name)] = totals.get(class_of(span.name), 0.0) + span.duration_us / 1000
        end = span.start_us + span.duration_us
        busy += max(0.0, end - max(span.start_us, reached))
        reached = max(reached, end)
    return Breakdown(totals, busy / 1000, (reached - ordered[0].start_us) / 1000)


def read_trace(path: Path, labels: Sequence[str]) -> dict[str, list[Span]]:
    """The work in each labelled part of a gzipped Chrome trace: GPU kernels and copies, or, in a trace without a GPU, the
    operators' own time. A part is the record_function() range of that name, which must synchronise before it ends."""
    with gzip.open(path, "rt") as file:
        events = [e for e in json.load(file)["traceEvents"] if e.get("ph") == "X"]
    parts = {e["name"]: (float(e["ts"]), float(e["ts"]) + float(e["dur"])) for e in events
             if e.get("cat") == "user_annotation" and e["name"] in labels}
    wanted = {"kernel", "gpu_memcpy", "gpu_memset"}
    work = [Span(e["name"], float(e["ts"]), float(e["dur"])) for e in events if e.get("cat") in wanted]
    work = work or _own_time([e for e in events if e.get("cat") == "cpu_op"])
    return {label: [span for span in work if low <= span.start_us <= high] for label, (low, high) in parts.items()}


def _own_time(operators: list[dict[str, Any]]) -> list[Span]:
    """Each operator's stretches outside the operators that it calls, thread by thread: nothing counts twice."""
    ordered = sorted(operators, key=lambda e: (e["tid"], float(e["ts"]), -float(e["dur"])))
    return [span for _, thread in groupby(ordered, key=lambda e: e["tid"]) for span in _own_time_of_thread(list(thread))]


def _own_time_of_thread(operators: list[dict[str, Any]]) -> list[Span]:
    spans: list[Span] = []
    running: list[tuple[str, float]] = []  # name and end of the operators around `moment`, the innermost last
    moment = 0.0

    def advance(end: float) -> None:
        """Give the time up to `end` to whatever is innermost in it."""
        nonlocal moment
        while running and moment < end:
            name, name_end = running[-1]
            reached = min(end, name_end)
            if reached > moment:
                spans.append(Span(name, moment, reached - moment))
                moment = reached
            if name_end <= end:
                running.pop()
        moment = max(moment, end)

    for e in operators:
        advance(float(e["ts"]))
        running.append((e["name"], float(e["ts"]) + float(e["dur"])))
    advance(float("inf"))
    return spans
