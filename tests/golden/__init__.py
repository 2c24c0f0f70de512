"""Recorded runs of a small week 01, one of each kind, and the comments they become; other tests start from these too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bot.history import History
from workloads.plan import planned
from workloads.spec import Deliverable, Estimate, Result, Target, Workload, loads

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


def slowed(factor: float, run: str, day: int, base: Result | None = None) -> Result:
    """The recorded run "ok" on another day, its judged arm `factor` times as slow: every sample, and so the speedup."""
    ok = base or stored("ok")
    seen = ok.observed[0]
    best = seen.metrics[0]
    e = best.estimate
    estimate = Estimate(e.kind, e.value / factor, e.low / factor, e.high / factor, tuple(s * factor for s in e.samples), e.baseline)
    return replace(ok, run=run, started=f"2026-11-{day:02d}T15:49:22Z",
                   observed=(replace(seen, metrics=(replace(best, estimate=estimate), *seen.metrics[1:])),))


# Twelve quiet nights, each within 1%.
NIGHTS = tuple(slowed(1 + wobble / 1000, f"c{4100 + day}", day) for day, wobble in enumerate((3, -5, 1, 8, -2, 0, -7, 4, 2, -4, 6, -1), 1))
MOVED = replace(stored("ok"), commit="9" * 40, machine=replace(stored("ok").machine, driver="590.11"))
HISTORIES: dict[str, tuple[Result, History]] = {
    "unchanged": (slowed(1.002, "c4210", 23, MOVED), History(NIGHTS)),
    "suspected": (slowed(1.05, "c4210", 23, MOVED), History(NIGHTS)),
    "confirmed": (slowed(1.05, "c4210", 23), History(NIGHTS, (), slowed(1.047, "c4210-2", 24))),
    "cleared": (slowed(1.05, "c4210", 23), History(NIGHTS, (), slowed(1.004, "c4210-2", 24))),
    "insufficient": (slowed(1.05, "c4210", 23), History(NIGHTS[:3])),
    "accepted": (slowed(1.05, "c4210", 23),
                 History((*NIGHTS, *(slowed(1.03 + day / 1000, f"c{4100 + day}", day) for day in range(13, 19))), ("c4113",))),
    "interleaved": (replace(stored("ok"), request=replace(stored("ok").request, vs=4112, repeat=6),
                            observed=tuple(slowed(1.05 + n / 1000, "c1", 1).observed[0] for n in range(6)),
                            baseline=tuple(slowed(1 - n / 2000, "c1", 1).observed[0] for n in range(6)), baseline_commit="1" * 40),
                    History(NIGHTS)),
}
