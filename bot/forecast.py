"""What a command would do, before it does it: what runs, what of it is judged, and how long it took others before; pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import replace

from bot.acceptance import experiment
from bot.report import bound_text, command, duration_text, figure, options
from workloads.spec import Request, Result, Workload


def alike(request: Request, runs: Iterable[Result]) -> tuple[Result, ...]:
    """The runs of the same week with the same options that ended well, and so say how long `request` will take. A full run on
    a machine without a GPU says nothing of one with it."""
    return tuple(run for run in runs if run.status == "ok" and run.week == request.week and _kind(run.request) == _kind(request)
                 and (run.machine.gpu or request.smoke))


def _kind(request: Request) -> tuple[str, int]:
    """Which other run it is compared with does not matter for how long it takes."""
    return options(replace(request, vs=None)), request.processes


def dry_run(workload: Workload, request: Request, runs: Iterable[Result]) -> str:
    """The answer to `--dry-run`, in Markdown. `runs` are the week's runs so far, in any order."""
    why = experiment(request)
    judged = f"Nothing of it would be judged ({why}). The week's targets:" if why else "Its targets would be judged:"
    processes = f"{request.processes} processes, one after another" if request.processes > 1 else "1 process"
    turns = f", in turn of the commit of c{request.vs} and of this one," if request.vs is not None else ""
    machine = "the GPU machine's CPU" if request.smoke else f"{request.gpus} GPU{'s' if request.gpus > 1 else ''}"
    return "\n\n".join((
        f"### {workload.key} · dry run, nothing ran",
        f"`{command(request)}` would measure {workload.plan.title}: {processes}{turns} on {machine}"
        f"{', with a profiler trace' if request.profile else ''}.",
        "\n".join((judged, "", *(f"- {target.text} {bound_text(target)}" for target in workload.targets))),
        f"**Expected:** {_expected(request, alike(request, runs))}. A run is stopped after {workload.timeout_min} minutes.",
    )) + "\n"


def _expected(request: Request, past: tuple[Result, ...]) -> str:
    if not past:
        return "no past run with these options to say from"
    took = [run.duration_s for run in past]
    held = [run.duration_s * run.machine.gpus / 60 for run in past]
    of = f"{len(past)} past run{'s' if len(past) > 1 else ''} with these options"
    whole = duration_text(statistics.median(took))
    text = whole if request.smoke else f"{figure(statistics.median(held), 1)} GPU-minutes ({whole})"
    if len(past) == 1:
        return f"{text}, as {of} took"
    return f"{text}, the median of {of}, which took {duration_text(min(took))} to {duration_text(max(took))}"
