"""Recorded runs of a small week 01, one of each kind, and the comments they become; other tests start from these too."""

from __future__ import annotations

from pathlib import Path

from workloads.plan import planned
from workloads.spec import Deliverable, Result, Target, Workload, loads

FOLDER = Path(__file__).parent
KINDS = ("ok", "missed", "smoke", "crashed", "timeout", "oom", "invalid")

PLAN = planned(1)
SAME = Target("parity", "argmax agreement with eager, worst of three models", ">=", 0.999, "")
BEST = Target("best_speedup", "compile speedup, best of three models", ">=", 1.5, "x", proof="parity")
WORST = Target("worst_speedup", "compile speedup, worst of three models", ">=", 1.2, "x", proof="parity")
WORKLOAD = Workload(
    plan=PLAN, name="compile", targets=(BEST, WORST, SAME), headline=BEST,
    deliverables=(Deliverable(PLAN.deliverables[0], by=(BEST, WORST, SAME)), Deliverable(PLAN.deliverables[1], files=("trace.json.gz",))))


def stored(kind: str) -> Result:
    """The recorded run `kind`, as the bot reads it."""
    return loads(Result, (FOLDER / f"{kind}.result.json").read_bytes())
