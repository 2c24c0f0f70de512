"""The first launch of every backend that builds code, in processes of their own: what it compiles is cached, what it breaks stays there.

`python -m workloads.week02_attention.trials BACKEND WIDTH MASK DEVICE SMOKE` walks the trial's steps and prints one line
for each. A kernel that reads where it may not takes its process's CUDA context with it, and a compiler may hang; here either
costs one backend its row, with the reason. On a CPU the Triton kernels run in their interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton

from workloads import measure
from workloads.spec import loads, plain_text
from workloads.week02_attention import kernels, shapes
from workloads.week02_attention.backends import COMPILED, Backend, Toggle, hindrance
from workloads.week02_attention.points import Inputs, Point, Reference, draw, ratio_of_errors

COMPILE_THREADS = 2  # of each process: fourteen with Inductor's default would start hundreds
STEP = "step: "  # begins the lines that are this program's own
Job = tuple[Backend, int, bool]  # head width, causal


@dataclass(frozen=True, slots=True)
class Tried:
    """One step of a trial: the shape and launch, seconds from cold to done, error over the naive path's (for fp8: over what
    e4m3 allows), and of our own kernels registers, spilled bytes, and the matrix instruction in their PTX. `failed` says why
    it did not run and is "" where it did."""

    length: int
    backward: bool
    tiles: kernels.Tiles | None
    seconds: float = 0.0
    error_ratio: float = 0.0
    registers: int = 0
    spilled: int = 0
    instruction: str = ""
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """All of one job: its steps, and why the process ended before the last one ("" where it did not)."""

    backend: Backend
    width: int
    causal: bool
    steps: tuple[Tried, ...]
    broke: str = ""


def jobs(smoke: bool, device: str) -> list[Job]:
    """Every backend that builds code, by head width and mask; those that cannot run here are left out."""
    interpreted = device == "cpu"
    widths = shapes.SMOKE_WIDTHS if smoke else shapes.WIDTHS
    if interpreted:  # each process imports torch for seconds: one walks the path, with the kernel that has more to go wrong
        return [("fp8", widths[0], True)]
    found: list[Job] = [(backend, width, causal) for backend in COMPILED for width in widths for causal in (False, True)]
    return [job for job in found if hindrance(job[0], device) is None]


def steps_of(job: Job, smoke: bool) -> list[tuple[Point, kernels.Tiles | None]]:
    """What a trial walks, most wanted first. Of our kernels, launches without the copy engine come first: should the engine's
    own launch break the process, they are on record."""
    backend, width, causal = job
    if backend in ("triton", "fp8"):
        lengths = (shapes.SMOKE_TRIAL,) if smoke else (shapes.TUNED, shapes.TUNED_ODD)
        return [(shapes.point(length, width, causal, False, smoke=smoke), tiles)
                for length in lengths for tiles in sorted(kernels.tiles_for(width, backend == "fp8"), key=lambda tiles: tiles.tma)]
    points = [*shapes.points_of(backend, smoke=smoke), *shapes.TASKS]
    return [(point, None) for point in points if (point.width, point.causal) == (width, causal)]


def run_trials(wanted: Sequence[Job], *, device: str, smoke: bool, limit_s: float, progress: Callable[[str], None]) -> list[Trial]:
    """All trials side by side, for at most `limit_s` seconds; a trial that breaks or is late keeps the steps it had done."""
    if not wanted:
        return []
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, str(n)) for n in range(len(wanted))]
        processes = [_start(job, device, smoke, log) for job, log in zip(wanted, logs, strict=True)]
        timer = threading.Timer(limit_s, _kill, [processes])
        timer.start()
        try:
            found = [_ended(job, process.wait(), log, limit_s) for job, process, log in zip(wanted, processes, logs, strict=True)]
        finally:
            timer.cancel()
            _kill(processes)
    for trial in found:
        ran = [step for step in trial.steps if not step.failed]
        progress(f"trial of {trial.backend}, D {trial.width}, {'causal' if trial.causal else 'full'}: {len(ran)} of "
                 f"{len(steps_of((trial.backend, trial.width, trial.causal), smoke))} ran, {sum(s.seconds for s in ran):.0f} s"
                 + (f"; {trial.broke}" if trial.broke else ""))
    return found


def _ended(job: Job, status: int, log: Path, limit_s: float) -> Trial:
    lines = [line for line in log.with_suffix(".out").read_text(errors="replace").splitlines(keepends=True)
             if line.startswith(STEP) and line.endswith("\n")]  # compilers talk there too, and a line may be cut off
    said = log.with_suffix(".err").read_text(errors="replace").strip().splitlines()
    why = ""
    if status == -9:
        why = f"killed, or stopped after {limit_s:.0f} s"
    elif status:
        why = plain_text(said[-1] if said else f"the process died with status {status}")
    return Trial(*job, tuple(loads(Tried, line.removeprefix(STEP)) for line in lines), why)


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def _start(job: Job, device: str, smoke: bool, log: Path) -> subprocess.Popen[bytes]:
    backend, width, causal = job
    # Through env, for triton looks at its variable when it is first imported, and a week does not set its own process's.
    interpreter = ["env", "TRITON_INTERPRET=1"] if device == "cpu" else []
    command = [*interpreter, sys.executable, "-m", __name__, backend, str(width), str(int(causal)), device, str(int(smoke))]
    with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, cwd=Path(__file__).parents[2])


# ---------------------------------------------------------------------------------------------------- inside the process


def main(backend: Backend, width: int, causal: bool, device: measure.Device, smoke: bool) -> None:
    if backend == "flex" and device == "cuda":
        from torch._inductor import config  # takes seconds, and only this backend needs it

        config.compile_threads = COMPILE_THREADS
    measure.lone_thread(device)
    for point, tiles in steps_of((backend, width, causal), smoke):
        print(STEP + json.dumps(asdict(step(backend, point, tiles, device))), flush=True)  # noqa: T201  stdout is this process's result


def step(backend: Backend, point: Point, tiles: kernels.Tiles | None, device: str) -> Tried:
    """Launch once, check once. A launch that does not compile, asks for more than the chip has or is refused is a step that failed;
    what breaks the context or the checking ends the process."""
    inputs = draw(point, device, seed=point.length)
    toggle = Toggle(backend, tiles)
    try:
        _, seconds = measure.seconds(inputs.call(toggle, point))
    except torch.AcceleratorError:  # the context is gone: every later step would fail for this one's reason
        raise
    except (RuntimeError, triton.TritonError) as error:
        return Tried(point.length, point.backward, tiles, failed=in_words(error))
    ratio, _ = ratio_of_errors(backend, Reference.of(inputs, point), inputs, toggle)
    registers, spilled, instruction = _built(backend, inputs, tiles, point.causal) if tiles and device == "cuda" else (0, 0, "")
    return Tried(point.length, point.backward, tiles, seconds, min(ratio, 1e6), registers, spilled, instruction)


def in_words(error: Exception) -> str:
    """The type and first line of what a backend raised; of Triton's compiler the last, for it quotes the source first."""
    lines = str(error).strip().splitlines() or [""]
    return plain_text(f"{type(error).__name__}: {lines[-1 if isinstance(error, triton.TritonError) else 0].strip()}")


def _built(backend: Backend, inputs: Inputs, tiles: kernels.Tiles, causal: bool) -> tuple[int, int, str]:
    """Registers a thread, bytes spilled, and the matrix instruction of one of our kernels, launched again to have its code."""
    if backend == "fp8":
        _, code = kernels.launch_fp8(kernels.quantise(inputs.q, inputs.k, inputs.v), causal=causal, tiles=tiles)
    else:
        _, code = kernels.launch_bf16(inputs.q, inputs.k, inputs.v, causal=causal, tiles=tiles)
    return int(code.n_regs), int(code.n_spills), kernels.matrix_instruction(code.asm["ptx"])


if __name__ == "__main__":
    backend_name, width_text, causal_text, device_name, smoke_text = sys.argv[1:]
    main(backend_name, int(width_text), causal_text == "1", device_name, smoke_text == "1")  # type: ignore[arg-type]  # our own argv
