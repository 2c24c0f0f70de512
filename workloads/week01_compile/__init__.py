"""Week 01: what torch.compile buys, model by model, and what it costs first."""

from workloads.plan import planned
from workloads.spec import Deliverable, Target, Workload

PLAN = planned(1)
SAME = Target("parity", "argmax agreement with eager, worst of three models", ">=", 0.999, "")
BEST = Target("best_speedup", "compile speedup, best of three models", ">=", 1.5, "x", proof="parity")
WORST = Target("worst_speedup", "compile speedup, worst of three models", ">=", 1.2, "x", proof="parity")

WORKLOAD = Workload(
    plan=PLAN, name="compile", targets=(BEST, WORST, SAME), headline=BEST,
    deliverables=(Deliverable(PLAN.deliverables[0], by=(BEST, WORST, SAME)),
                  Deliverable(PLAN.deliverables[1], files=("trace.json.gz",))))
