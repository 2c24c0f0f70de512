"""Results as a GPU machine would leave them, for any week's promise: every target measured, and well met."""

import dataclasses
import gzip
import json
from typing import Any

from workloads.spec import Chart, Column, Estimate, Machine, Metric, Observed, Request, Result, Table, Target, Workload, discover, dumps

WEEK01 = discover()["week01"]
REQUEST = Request("bench", "week01")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TRACE = gzip.compress(json.dumps({"traceEvents": [{"name": "kernel", "ts": n} for n in range(100)]}).encode(), mtime=0)
MACHINE = Machine("NVIDIA H100 80GB HBM3", 1, 81559, "570.00", "Xeon", 16, 131072, "Linux", "3.11.7", (("torch", "2.14.1"),))
SPEEDUP = Table("speedup", "Speedup by batch size", (Column("model"), Column("batch"), Column("speedup", "x")),
                (("resnet50", 1, 1.9), ("resnet50", 8, 1.6), ("vit", 1, 1.7), ("vit", 8, 1.3)),
                Chart("lines", "batch", "speedup", by="model", marks=(1.5,), log_x=True))


def well_met(target: Target) -> Metric:
    value = target.bound * 1.25 if target.op == ">=" else target.bound / 2
    return target.measured(Estimate("exact", value, value, value, (value,)))


def observed(workload: Workload = WEEK01) -> Observed:
    return Observed(tuple(well_met(target) for target in workload.targets), (SPEEDUP,), ("a note",))


def result(workload: Workload = WEEK01, **changes: Any) -> Result:
    plain = Result(run="c7", request=Request("bench", workload.key), commit=COMMIT, started="2026-11-23T12:00:00Z", duration_s=12.5,
                   status="ok", machine=MACHINE, observed=(observed(workload),), files=workload.files)
    return dataclasses.replace(plain, **changes)


def paths(localhub: Any, revision: str) -> list[str]:
    """Every file of a commit."""
    return [entry.path for entry in localhub.git.entries(revision, recursive=True) if entry.kind == "blob"]


def files(of: Result) -> dict[str, bytes]:
    """What the artifact of such a run holds."""
    return {"result.json": dumps(of).encode(), **{name: TRACE if name.endswith(".gz") else b"{}" for name in of.files}}
