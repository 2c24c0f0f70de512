"""A fixture: a week that runs on several GPUs."""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(6)
SUM = Target("sum", "what the ranks hold together", ">=", 3.0, "")

WORKLOAD = Workload(
    plan=PLAN, name="wide", targets=(SUM,), headline=SUM, timeout_min=2, most_gpus=2,
    deliverables=tuple(Deliverable(text, by=(SUM,)) for text in PLAN.deliverables))
