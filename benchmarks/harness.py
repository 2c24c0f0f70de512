"""The clock on trial: workloads/measure.py beside triton's do_bench and torch's Timer, on the same kernels in the same run.

Every round visits the methods in shuffled order; each times one kernel twice, as if it were two (A/A), with the same time
for every method. From that, for each kernel and method:

- A/A width: the 95% width of the ratio of the two medians. The truth is 1, so a narrower one tells smaller gains apart.
- Bias: the method's median over the truth. Hot, the truth is the host's clock over two loops as long as the trial, one before and
  one after it, each ending with an idle device; cold, the kernels' own durations as the GPU stamped them (CUPTI). Neither uses an
  event around a single call. The cold truth does not exist on the CPU (--smoke). Where the two loops themselves differ by more
  than the bar, as when the host is what limits them, the bias is shown and not judged.
- Cost: wall time over the time the kernel itself ran, all calls together.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import numpy as np
import torch
import torch.utils.benchmark

from workloads import machine, measure

ARM_MS = 50.0  # for each of the two arms of a pair
BLOCKS = 10
WARMUP_MS = 10
ROUNDS = 25
PROFILED_CALLS = 100
PROFILE_EVERY = 10
SMOKE_ROUNDS = 3
SMOKE_ARM_MS = 4.0
BIAS_BAR = 0.01

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pair:
    """One A/A trial: both arms' samples in ms, how often the kernel ran, and the wall seconds all of it took."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    calls: int
    wall_s: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.a) / statistics.median(self.b)

    @property
    def ms(self) -> float:
        return statistics.median((*self.a, *self.b))


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    mode: Literal["hot", "cold"]
    ours: bool
    trial: Callable[[Call], tuple[tuple[float, ...], tuple[float, ...], int]]


@dataclass(frozen=True, slots=True)
class Truth:
    """Milliseconds a call, and by what share two looks at it differ (0.0 where one look is all there is)."""

    ms: float
    unsure: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """What one method showed on one kernel; `bias` is None where there is no truth, `unsure` how far the truth differs from itself."""

    kernel: str
    method: Method
    ms: float
    aa_width: float
    bias: float | None
    unsure: float
    cost: float

    @property
    def judged(self) -> bool:
        return self.bias is not None and self.unsure < BIAS_BAR


# ---------------------------------------------------------------------------------------------------- kernels


def gpu_kernels() -> dict[str, Call]:
    def matmul(size: int) -> Call:
        a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        return functools.partial(torch.mm, a, b, out=torch.empty_like(a))

    x, y = (torch.randn(64 * 2**20, device="cuda") for _ in range(2))  # 256 MiB each
    tiny = torch.randn(4 * 2**20, device="cuda")
    rows = torch.randn(8192, 4096, device="cuda", dtype=torch.bfloat16)
    weight = torch.ones(4096, device="cuda", dtype=torch.bfloat16)
    return {
        "matmul bf16 1024": matmul(1024),
        "matmul bf16 4096": matmul(4096),
        "add 256 MiB": functools.partial(torch.add, x, y, out=torch.empty_like(x)),
        "layer_norm 8192 x 4096": lambda: torch.nn.functional.layer_norm(rows, (4096,), weight),
        "tiny add 16 MiB": functools.partial(torch.add, tiny, 1.0, out=torch.empty_like(tiny)),
    }


def cpu_kernels() -> dict[str, Call]:
    a, x = torch.randn(96, 96), torch.randn(2**18)
    return {"matmul 96": functools.partial(torch.mm, a, a, out=torch.empty_like(a)),
            "add 1 MiB": functools.partial(torch.add, x, 1.0, out=torch.empty_like(x))}


# ---------------------------------------------------------------------------------------------------- methods


def methods(device: measure.Device, arm_ms: float) -> list[Method]:
    def ours(mode: Literal["hot", "cold"], call: Call) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        timings = measure.time_interleaved({"a": call, "b": call}, device=device, mode=mode, blocks=BLOCKS, block_ms=arm_ms / BLOCKS,
                                           warmup_s=0.0)
        return timings["a"], timings["b"], BLOCKS * sum(timings.calls.values())

    def torch_timer(call: Call) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        timer = torch.utils.benchmark.Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        one, two = (timer.blocked_autorange(min_run_time=arm_ms / 1000) for _ in range(2))
        calls = sum(m.number_per_run * len(m.times) for m in (one, two))
        return tuple(s * 1000 for s in one.times), tuple(s * 1000 for s in two.times), calls

    def do_bench(call: Call) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        import triton.testing  # only where there is a GPU

        one, two = (tuple(triton.testing.do_bench(call, warmup=WARMUP_MS, rep=arm_ms, return_mode="all")) for _ in range(2))
        return one, two, len(one) + len(two)

    found = [Method("measure.py hot", "hot", True, functools.partial(ours, "hot")),
             Method("torch Timer.blocked_autorange", "hot", False, torch_timer),
             Method("measure.py cold", "cold", True, functools.partial(ours, "cold"))]
    if device == "cuda" and importlib.util.find_spec("triton"):
        found.append(Method("triton do_bench", "cold", False, do_bench))
    return found


# ---------------------------------------------------------------------------------------------------- truth


class LoopTruth:
    """Milliseconds a call by the host's clock over loops of `loop_ms` that end with an idle device: no event, no block."""

    def __init__(self, call: Call, loop_ms: float) -> None:
        self.call = call
        self.calls = 20
        self.calls = max(20, min(20_000, math.ceil(loop_ms / self.loop_ms())))

    def loop_ms(self) -> float:
        def loop() -> None:
            for _ in range(self.calls):
                self.call()
        return measure.seconds(loop)[1] * 1000 / self.calls

    def cold(self) -> Truth | None:
        """None: what one call takes with empty caches, only a GPU's own time stamps can say."""
        return None


class GpuTruth(LoopTruth):
    """Adds the cold truth: the kernels' durations as the GPU stamped them (CUPTI, through torch.profiler), the caches
    overwritten before each call. Profiling costs more than a trial, so it is done once in PROFILE_EVERY asks."""

    def __init__(self, call: Call, loop_ms: float) -> None:
        super().__init__(call, loop_ms)
        l2_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        flush = torch.empty(max(measure.FLUSH_BYTES, 2 * l2_bytes), dtype=torch.int8, device="cuda").zero_
        flushing = {name for name, _ in self._kernels(flush)}

        def look() -> Truth:
            own = [ms for name, ms in self._kernels(flush, call) if name not in flushing]
            return Truth(sum(own) / PROFILED_CALLS)

        self.look = look
        self.asked, self.last = 0, look()

    def cold(self) -> Truth:
        self.asked += 1
        if self.asked % PROFILE_EVERY == 0:
            self.last = self.look()
        return self.last

    @staticmethod
    def _kernels(*calls: Call) -> list[tuple[str, float]]:
        """Names and milliseconds of all that the GPU did for PROFILED_CALLS rounds of `calls`."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for _ in range(PROFILED_CALLS):
                for call in calls:
                    call()
            torch.cuda.synchronize()
        return [(e.name, float(e.device_time) / 1000) for e in profiler.events() if e.device_type.name == "CUDA"]


# ---------------------------------------------------------------------------------------------------- trial


def trial(name: str, call: Call, contestants: Sequence[Method], truth: LoopTruth, rounds: int,
          order: random.Random) -> tuple[list[Row], list[dict[str, object]]]:
    """One kernel under every method: the rows of the table, and the raw samples they come from."""
    pairs: dict[str, list[Pair]] = {m.name: [] for m in contestants}
    truths: dict[str, list[Truth | None]] = {m.name: [] for m in contestants}
    for number in range(rounds + 1):
        for method in order.sample(list(contestants), len(contestants)):
            known = truth.cold() if method.mode == "cold" else None
            before = truth.loop_ms() if method.mode == "hot" else 0.0
            (a, b, calls), wall_s = measure.seconds(functools.partial(method.trial, call))
            if method.mode == "hot":
                after = truth.loop_ms()
                known = Truth((before + after) / 2, abs(before / after - 1))
            if number:  # the first round warms up
                pairs[method.name].append(Pair(a, b, calls, wall_s))
                truths[method.name].append(known)
    rows: list[Row] = []
    raw: list[dict[str, object]] = []
    for method in contestants:
        seen = list(zip(pairs[method.name], truths[method.name], strict=True))
        low, high = np.quantile([pair.ratio for pair, _ in seen], (0.025, 0.975))
        biases = [pair.ms / known.ms - 1 for pair, known in seen if known]
        costs = [pair.wall_s * 1000 / (pair.calls * (known.ms if known else pair.ms)) for pair, known in seen]
        rows.append(Row(name, method, statistics.median(pair.ms for pair, _ in seen), float(high - low),
                        statistics.median(biases) if biases else None,
                        statistics.median(known.unsure if known else 0.0 for _, known in seen), statistics.median(costs)))
        raw += [{"kernel": name, "method": method.name, "mode": method.mode, "round": i, "truth_ms": known and _kept(known.ms),
                 "truth_unsure": known and _kept(known.unsure), "calls": pair.calls,
                 "wall_s": pair.wall_s, "a_ms": [_kept(v) for v in pair.a], "b_ms": [_kept(v) for v in pair.b]}
                for i, (pair, known) in enumerate(seen)]
    return rows, raw


def _kept(value: float) -> float:
    return float(f"{value:.{measure.SIGNIFICANT}g}")


def table(rows: Sequence[Row]) -> str:
    lines = ["| kernel | mode | method | median us | A/A width, 95% | bias against truth | wall / kernel time |",
             "|---|---|---|---:|---:|---:|---:|"]
    for row in rows:
        bias = "no truth" if row.bias is None else f"{row.bias:+.2%}" if row.judged else f"{row.bias:+.2%}, truth ± {row.unsure:.1%}"
        lines.append(f"| {row.kernel} | {row.method.mode} | {row.method.name} | {row.ms * 1000:.2f} | {row.aa_width:.3%} "
                     f"| {bias} | {row.cost:.1f} |")
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """How often ours holds the bar: an A/A interval no wider than the peer's of the same mode, and a bias under 1%."""
    ours = [row for row in rows if row.method.ours]
    duels = [(row, peer) for row in ours for peer in rows
             if not peer.method.ours and (peer.kernel, peer.method.mode) == (row.kernel, row.method.mode)]
    narrow = sum(row.aa_width <= peer.aa_width for row, peer in duels)
    judged = [row.bias for row in ours if row.bias is not None and row.judged]
    return (f"measure.py: A/A width no wider than the peer's in {narrow} of {len(duels)} comparisons; "
            f"bias under {BIAS_BAR:.0%} in {sum(abs(bias) < BIAS_BAR for bias in judged)} of {len(judged)}, "
            f"not judged in {len(ours) - len(judged)}.")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where harness.json with the raw samples goes.")
@click.option("--rounds", type=click.IntRange(3, 1000), metavar="N",
              help=f"A/A trials of each method.  [default: {ROUNDS}; {SMOKE_ROUNDS} in a smoke run]")
@click.option("--smoke", is_flag=True, help="A few seconds on the CPU, without triton. The figures mean nothing.")
def main(out: Path | None, rounds: int | None, smoke: bool) -> None:
    """Hold the clock against triton's do_bench and torch's Timer. Prints a Markdown table; about four minutes on a GPU."""
    device: measure.Device = "cpu" if smoke else "cuda"
    if not smoke and not torch.cuda.is_available():
        raise click.UsageError("no CUDA GPU here: add --smoke for the tiny CPU version, or run this on a GPU machine")
    torch.manual_seed(0)
    arm_ms = SMOKE_ARM_MS if smoke else ARM_MS
    contestants = methods(device, arm_ms)
    kernels = cpu_kernels() if smoke else gpu_kernels()
    rows: list[Row] = []
    raw: list[dict[str, object]] = []
    for name, call in kernels.items():
        click.echo(f"{name}: {len(contestants)} methods", err=True)
        truth = (LoopTruth if smoke else GpuTruth)(call, 2 * arm_ms)
        more_rows, more_raw = trial(name, call, contestants, truth, rounds or (SMOKE_ROUNDS if smoke else ROUNDS), random.Random(0))
        rows += more_rows
        raw += more_raw
    here = machine.describe()
    click.echo(f"{here.gpu or here.cpu}, " + ", ".join(f"{package} {version}" for package, version in here.packages[:2]) + "\n")
    click.echo(table(rows) + "\n\n" + summary(rows))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "harness.json").write_text(json.dumps(raw, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
