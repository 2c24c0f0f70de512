"""What a run says about its week's promise: a verdict for each target, by the worse end of its interval; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workloads.spec import Deliverable, Metric, Observed, Request, Result, Target, Workload, faults

Judgement = Literal["met", "missed", "not judged"]
Validity = Literal["valid", "invalid", "unchecked"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target's judgement. `reason` says why a target is not judged and is "" otherwise; `metric` is what was measured."""

    target: Target
    verdict: Judgement
    reason: str
    metric: Metric | None


def validity(result: Result) -> tuple[Validity, tuple[str, ...]]:
    """Whether the machine behaved while the run lasted, and in plain words what was wrong with it."""
    if result.telemetry is None:
        return "unchecked", ()
    found = faults(result.telemetry)
    return ("invalid" if found else "valid"), found


def experiment(request: Request) -> str:
    """Why nothing that `request` measures is judged, however it ends; "" where it is."""
    if request.smoke:
        return "smoke run"
    return "batch size of its own" if request.batch is not None else ""


def hold_back(result: Result) -> str:
    """Why nothing of this run is judged; "" where it is: a full run, as the week declares it, that ended well on a machine
    that behaved. A batch size chosen by the commenter is an experiment: one could look for the size that passes."""
    if result.request.smoke:
        return experiment(result.request)
    if result.status != "ok":
        return result.status
    if validity(result)[0] == "invalid":
        return "invalid run"
    return experiment(result.request)


def judge(workload: Workload, result: Result) -> tuple[Verdict, ...]:
    """A verdict for each target of `workload`, in its order: the low end of the interval must reach a lower bound, the high
    end an upper one. A target whose proof is not met is not judged, whatever its own number is."""
    observed = result.pooled()
    alone = {target.name: _judge_alone(target, result, observed) for target in workload.targets}
    return tuple(_with_proof(verdict, alone) for verdict in alone.values())


def proven(workload: Workload, result: Result, verdicts: tuple[Verdict, ...]) -> tuple[Deliverable, ...]:
    """The deliverables this run shows: every target named by one is met, and every file of it came with a judged run."""
    if hold_back(result):
        return ()
    met = {v.target.name for v in verdicts if v.verdict == "met"}
    return tuple(d for d in workload.deliverables
                 if all(target.name in met for target in d.by) and all(name in result.files for name in d.files))


def earned(workload: Workload, result: Result) -> tuple[str, ...]:
    """Ids of the checklist items that this run proves: "target/<name>" for one met, "deliverable/<index>" for one shown."""
    verdicts = judge(workload, result)
    shown = proven(workload, result, verdicts)
    return (*(f"target/{v.target.name}" for v in verdicts if v.verdict == "met"),
            *(f"deliverable/{i}" for i, deliverable in enumerate(workload.deliverables) if deliverable in shown))


def _judge_alone(target: Target, result: Result, observed: Observed | None) -> Verdict:
    metric = observed.metric(target.name) if observed else None
    if reason := hold_back(result) or _unfit(target, result):
        return Verdict(target, "not judged", reason, metric)
    assert metric is not None, "a target that is fit to judge was measured"
    reached = metric.estimate.low >= target.bound if target.op == ">=" else metric.estimate.high <= target.bound
    return Verdict(target, "met" if reached else "missed", "", metric)


def _unfit(target: Target, result: Result) -> str:
    """Why the number of this target cannot be judged; every process counts, so that none hides behind the first."""
    for observed in result.observed:
        metric = observed.metric(target.name)
        if metric is None:
            return dict(observed.not_measured).get(target.name, "not measured by this run")
        if metric.proxy:
            return f"proxy: {metric.proxy}"
        if metric.unit != target.unit:
            return f"measured in {metric.unit or 'no unit'}, promised in {target.unit or 'no unit'}"
    return ""


def _with_proof(verdict: Verdict, alone: dict[str, Verdict]) -> Verdict:
    proof = alone.get(verdict.target.proof)
    if verdict.verdict == "not judged" or proof is None or proof.verdict == "met":
        return verdict
    return Verdict(verdict.target, "not judged", f"its proof was {proof.verdict}: {proof.target.text}", verdict.metric)
