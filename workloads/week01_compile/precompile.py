"""Cold compilation, one process for each network and regime at once: it fills Inductor's cache and says what each rung cost.

`python -m workloads.week01_compile.precompile NETWORK REGIME LAYOUT DEVICE BATCH SMOKE RUNG...` compiles rung after rung and prints one
JSON line for each: {"rung": ..., "seconds": ...}. Compiling is work for the CPU, so the processes run side by side; a rung
that does not finish in time is named and left out, and everything after this reads the cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from workloads import measure
from workloads.week01_compile.arms import Inferencer, Regime, Rung, Trainer, compiled, set_up
from workloads.week01_compile.models import FULL, SMOKE, Layout, Study

COMPILE_THREADS = 4  # of each process; twelve processes with Inductor's default would start hundreds

Job = tuple[Study, Regime, int, tuple[Rung, ...]]  # batch size, and the rungs in the order to compile them


def cold_seconds(jobs: Sequence[Job], *, device: str, smoke: bool, limit_s: float,
                 progress: Callable[[str], None]) -> dict[tuple[str, Regime, int, Rung], float]:
    """Seconds of the first compile and call by (network, regime, batch, rung); those that failed or took over `limit_s`
    are missing, and `progress` is told.

    Raises RuntimeError where a network does not compile at all: that is a fault, and no gap in a table.
    """
    found: dict[tuple[str, Regime, int, Rung], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f"{n}") for n in range(len(jobs))]
        processes = [_start(job, device, smoke, log) for job, log in zip(jobs, logs, strict=True)]
        timer = threading.Timer(limit_s, _kill, [processes])
        timer.start()
        try:
            for (study, regime, batch, rungs), process, log in zip(jobs, processes, logs, strict=True):
                status = process.wait()
                lines = log.with_suffix(".out").read_text().splitlines()
                for row in map(json.loads, lines):
                    found[study.key, regime, batch, row["rung"]] = row["seconds"]
                tail = log.with_suffix(".err").read_text(errors="replace")[-2000:]
                if status > 0 and not lines:
                    raise RuntimeError(f"{study.title} {regime} did not compile:\n{tail}")
                missing = ", ".join(rungs[len(lines):])
                if missing:
                    why = f":\n{tail}" if status > 0 else f" within {limit_s:.0f} s"
                    progress(f"{study.title} {regime}: {missing} did not compile{why}")
        finally:
            timer.cancel()
            _kill(processes)
    return found


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def _start(job: Job, device: str, smoke: bool, log: Path) -> subprocess.Popen[bytes]:
    study, regime, batch, rungs = job
    layout = study.train_layout if regime == "train" else study.infer_layout
    command = [sys.executable, "-m", __name__, study.key, regime, layout, device, str(batch), str(int(smoke)), *rungs]
    with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, cwd=Path(__file__).parents[2])


def main(key: str, regime: Regime, layout: Layout, device: measure.Device, batch: int, smoke: bool, rungs: Sequence[Rung]) -> None:
    set_up(device)
    if device == "cuda":
        from torch._inductor import config  # takes seconds, and only a compiler that generates code needs it

        config.compile_threads = COMPILE_THREADS
    study = next(replace(s, train_layout=layout, infer_layout=layout) for s in (SMOKE if smoke else FULL) if s.key == key)
    for rung in rungs:
        if regime == "train":
            trainer = Trainer(study, device, batch, 0, smoke=smoke)
            forward = compiled(trainer.forward, rung, device)
            _, seconds = measure.seconds(partial(trainer.step, forward))
        else:
            inferencer = Inferencer(study, device, batch, 0, smoke=smoke)
            model = compiled(inferencer.model, rung, device)
            _, seconds = measure.seconds(partial(inferencer.call, model))
        print(json.dumps({"rung": rung, "seconds": seconds}), flush=True)  # noqa: T201  stdout is this process's result


if __name__ == "__main__":
    network, regime_name, layout_name, device_name, batch_text, smoke_text, *rung_names = sys.argv[1:]
    main(network, regime_name, layout_name, device_name,  # type: ignore[arg-type]  # our own argv
         int(batch_text), smoke_text == "1", rung_names)  # type: ignore[arg-type]
