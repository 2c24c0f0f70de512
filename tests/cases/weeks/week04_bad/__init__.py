"""A fixture: a week that fails, dies, hangs or lies, as BEHAVIOUR says."""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(4)
FAST = Target("fast", "how fast it would be", ">=", 2.0, "x")

WORKLOAD = Workload(
    plan=PLAN, name="bad", targets=(FAST,), headline=FAST, timeout_min=1,
    deliverables=tuple(Deliverable(text, files=("notes.txt",)) for text in PLAN.deliverables))
