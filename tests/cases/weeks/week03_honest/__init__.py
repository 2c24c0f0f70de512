"""A fixture: a week that keeps its promise in a few milliseconds, without torch."""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(3)
FAST = Target("fast", "samples each second against a plain loop", ">=", 2.0, "x")

WORKLOAD = Workload(
    plan=PLAN, name="honest", targets=(FAST,), headline=FAST, timeout_min=1,
    deliverables=tuple(Deliverable(text, files=("notes.txt",)) for text in PLAN.deliverables))
