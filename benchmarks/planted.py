"""The rule for "slower" on real runs: a week 01 with 5% more work planted in it, beside week 01 as it is.

One run is one fresh process: ViT-B/16's training step, eager and compiled, as week 01 builds, compiles and times it; its number is
the speedup. The planted runs differ in one thing: each compiled step is followed by a GPU kernel that only waits, for 5% of a step.
Runs take turns in pairs (plain, planted, planted, plain, ...), and one more plain run comes last. Then

- bot.regression.classify holds the last plain run, and each planted one, against the history of the paired plain ones, and each of
  those against the others;
- bot.regression.paired holds the pairs against each other.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import click
import torch

from bot.regression import FEWEST_PAIRS, Change, Paired, classify, paired
from workloads import machine, measure
from workloads.spec import Machine
from workloads.week01_compile.arms import Rung, Trainer, compiled, set_up
from workloads.week01_compile.models import FULL, SMOKE
from workloads.week01_compile.run import FULL_SIZES, SMOKE_SIZES

SHARE = 0.05  # of a step, planted
NETWORK = "vit_b16"
RUNG: Rung = "reduce-overhead"  # replays a CUDA graph, so that a busy host is no noise: "default" moved by 15% from run to run
CYCLES = 10_000_000  # of the waiting kernel, to learn how long a cycle takes

Kind = Literal["plain", "planted"]


@dataclass(frozen=True, slots=True)
class Run:
    """Milliseconds a training step, block by block, eager and compiled, of one process."""

    kind: Kind
    eager_ms: tuple[float, ...]
    compiled_ms: tuple[float, ...]

    @property
    def speedup(self) -> float:
        return statistics.median(self.eager_ms) / statistics.median(self.compiled_ms)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """`plain` each paired plain run beside the other ones, `again` the last one beside all of them, `planted` each planted run
    beside all of them, with the next planted run as its second (the last run's second is the first)."""

    plain: tuple[Change, ...]
    again: Change
    suspected: tuple[Change, ...]
    confirmed: tuple[Change, ...]
    pairs: Paired


def order(pairs: int) -> list[Kind]:
    """ABBA by pairs, and a plain run more."""
    kinds: list[Kind] = []
    for number in range(pairs):
        kinds += ["plain", "planted"] if number % 2 == 0 else ["planted", "plain"]
    return [*kinds, "plain"]


def judge(runs: Sequence[Run]) -> Verdicts:
    """What the rule says of runs made in `order`. Raises ValueError where there are none of a kind."""
    speedups = {kind: [run.speedup for run in runs if run.kind == kind] for kind in ("plain", "planted")}
    *history, last = speedups["plain"]
    planted = speedups["planted"]
    beside = partial(classify, better="higher")
    return Verdicts(
        plain=tuple(beside([*history[:i], *history[i + 1:]], value) for i, value in enumerate(history)),
        again=beside(history, last),
        suspected=tuple(beside(history, value) for value in planted),
        confirmed=tuple(beside(history, value, confirm=planted[(i + 1) % len(planted)]) for i, value in enumerate(planted)),
        pairs=paired(history, planted, better="higher"))


def measured(kind: Kind, *, smoke: bool) -> Run:
    """One run, in this process."""
    device: measure.Device = "cpu" if smoke else "cuda"
    study = next(study for study in (SMOKE if smoke else FULL) if study.key == NETWORK)
    sizes = SMOKE_SIZES if smoke else FULL_SIZES
    torch.backends.cudnn.benchmark = True
    set_up(device)
    trainer = Trainer(study, device, study.train_batch, 0, smoke=smoke)
    arms = {"eager": partial(trainer.step, trainer.forward),
            "compiled": partial(trainer.step, compiled(trainer.forward, RUNG, device))}
    clock = partial(measure.time_interleaved, device=device, block_ms=sizes.block_ms, warmup_s=sizes.warmup_s)
    calls: dict[str, Callable[[], object]] = dict(arms)
    if kind == "planted":
        step_ms = statistics.median(clock(arms, blocks=6)["compiled"])
        calls["compiled"] = slowed(arms["compiled"], SHARE * step_ms, device)
    times = clock(calls, blocks=sizes.blocks)
    return Run(kind, times["eager"], times["compiled"])


def slowed(step: Callable[[], object], extra_ms: float, device: measure.Device) -> Callable[[], None]:
    """`step`, and after it `extra_ms` in which the device only waits."""
    if device == "cuda":
        sleep: Callable[[int], object] = torch.cuda._sleep
        waited = measure.time_interleaved({"wait": partial(sleep, CYCLES)}, device=device, blocks=6, warmup_s=0.5)["wait"]
        wait: Callable[[], object] = partial(sleep, round(CYCLES * extra_ms / statistics.median(waited)))
    else:
        def wait() -> None:
            start = measure.stamp(device)
            while measure.host_ms(start, measure.stamp(device)) < extra_ms:
                pass

    def call() -> None:
        step()
        wait()

    return call


def table(found: Verdicts) -> str:
    changes = [("plain, each beside the others", found.plain), ("one more plain run", (found.again,)),
               ("planted, one run", found.suspected), ("planted, with a second run", found.confirmed)]
    lines = ["| run | difference of the speedup | could see | verdict |", "|---|---:|---:|---|"]
    for name, told in changes:
        kinds = [change.kind.replace("_", " ") for change in told]
        counted = ", ".join(f"{kind}: {kinds.count(kind)} of {len(kinds)}" for kind in dict.fromkeys(kinds))
        deltas = [f"{change.delta:+.2%}" for change in sorted(told, key=lambda c: c.delta)]
        shown = deltas[0] if len(deltas) == 1 else f"{deltas[0]} to {deltas[-1]}"
        lines.append(f"| {name} | {shown} | {statistics.median(change.limit_below for change in told):.2%} | {counted} |")
    pairs = found.pairs
    lines.append(f"| {pairs.n} interleaved pairs | {pairs.delta:+.2%} ({pairs.low:+.2%} to {pairs.high:+.2%}) | | {pairs.kind} |")
    return "\n".join(lines)


def read(path: Path) -> tuple[Run, ...]:
    """The runs of a file that this benchmark wrote."""
    told = json.loads(gzip.decompress(path.read_bytes()))
    return tuple(Run(run["kind"], tuple(run["eager_ms"]), tuple(run["compiled_ms"])) for run in told["runs"])


def _write(out: Path, here: Machine, runs: Sequence[Run]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    told = {"machine": asdict(here), "share": SHARE, "runs": [asdict(run) for run in runs]}
    (out / "planted.json.gz").write_bytes(gzip.compress(json.dumps(told, allow_nan=False).encode(), mtime=0))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where planted.json.gz with the raw samples goes.")
@click.option("--pairs", type=click.IntRange(2, 100), default=FEWEST_PAIRS, show_default=True, metavar="N",
              help="Plain and planted runs.")
@click.option("--smoke", is_flag=True, help="Tiny, on the CPU. The figures mean nothing.")
@click.option("--one", type=click.Choice(("plain", "planted")), hidden=True, help="One run, as JSON.")
def main(out: Path | None, pairs: int, smoke: bool, one: Kind | None) -> None:
    """Plant a slowdown of 5% in week 01 and see whether it is found. Some six minutes on a GPU."""
    if not smoke and not torch.cuda.is_available():
        raise click.UsageError("no CUDA GPU here: add --smoke for the tiny CPU version, or run this on a GPU machine")
    if one:
        click.echo(json.dumps(asdict(measured(one, smoke=smoke)), allow_nan=False))
        return
    here = machine.describe()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="sprintbench-planted-") as cache:  # compiled once, by the first run
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        for kind in order(pairs):
            command = [sys.executable, "-m", "benchmarks.planted", "--one", kind, *(["--smoke"] if smoke else [])]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            told = json.loads(done.stdout.splitlines()[-1])
            runs.append(Run(kind, tuple(told["eager_ms"]), tuple(told["compiled_ms"])))
            click.echo(f"{len(runs)} of {2 * pairs + 1}, {kind}: speedup {runs[-1].speedup:.4f} x", err=True)
            if out:  # after each, so that what stops the benchmark takes one run with it
                _write(out, here, runs)
    click.echo(f"{here.gpu or here.cpu}\n\n{table(judge(runs))}")


if __name__ == "__main__":
    main()
