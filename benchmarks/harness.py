"""The clock on trial: workloads/measure.py beside triton's do_bench and torch's Timer, on the same kernels in the same run.

Every round visits the methods in shuffled order; each times one kernel twice, as if it were two (A/A), and is asked for the same
time. From that, for each kernel and method:

- A/A width: the 95% width of the ratio of the two medians. The truth is 1, so a narrower one tells smaller gains apart. "Wider" is
  said only where the 95% bootstrap interval of the difference of two widths lies above 0: of equal clocks one is always a little
  wider.
- Cost: wall time over the time the kernel itself ran, all calls together.

Then each method is used PROBES times while the GPU stamps every kernel it runs (CUPTI, through torch.profiler). Both instruments see
the same launches, so neither the chip's clock nor a busy host can come between them:

- Bias: the method's time over the stamps' of the very calls it timed. Hot, that is from the start of the first of them to the end
  of the last, over their number; cold, the median of the kernels' own durations. `measure.py cold` reads the stamps
  itself, so it has no other truth here; what the stamps are worth, the row of torch's Timer tells: it goes by the host's clock.
  A probe of `measure.py hot` is one block of the clock's default length: what the events cost falls on a block, not on a call.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import numpy.typing as npt
import torch
import torch.utils.benchmark

from workloads import machine, measure

ARM_MS = 50.0  # for each of the two arms of a pair
BLOCKS = 10
WARMUP_MS = 10
ROUNDS = 25
PROBES = 5
PROBE_CALLS = 1000  # of torch's Timer, which takes a number and no length
RESAMPLES = 2000
SMOKE_ROUNDS = 3
SMOKE_ARM_MS = 4.0
BIAS_BAR = 0.01
OURS = "measure.py"

Call = Callable[[], object]
Mode = Literal["hot", "cold"]
Verdict = Literal["narrower", "as wide", "wider"]


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
    mode: Mode
    trial: Callable[[Call], tuple[tuple[float, ...], tuple[float, ...], int]]
    probe: Callable[[Call], tuple[float, int]] | None  # (milliseconds a call, of how many calls, the last ones launched)


@dataclass(frozen=True, slots=True)
class Row:
    """What one method showed on one kernel; `ratios` are those of its A/A trials, `biases` one for each probe, none where there is
    no truth beside it."""

    kernel: str
    method: str
    mode: Mode
    ms: float
    ratios: tuple[float, ...]
    biases: tuple[float, ...]
    cost: float

    @property
    def ours(self) -> bool:
        return self.method.startswith(OURS)

    @property
    def aa_width(self) -> float:
        return float(_width(np.array(self.ratios)))

    @property
    def bias(self) -> float | None:
        return statistics.median(self.biases) if self.biases else None


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
    def ours(mode: Mode, call: Call) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        timings = measure.time_interleaved({"a": call, "b": call}, device=device, mode=mode, blocks=BLOCKS, block_ms=arm_ms / BLOCKS,
                                           warmup_s=0.0)
        return timings["a"], timings["b"], BLOCKS * sum(timings.calls.values())

    def our_block(call: Call) -> tuple[float, int]:
        timings = measure.time_interleaved({"a": call}, device=device, blocks=1, warmup_s=0.0)  # of its default length
        return timings["a"][0], timings.calls["a"]

    def timer_of(call: Call) -> torch.utils.benchmark.Timer:
        return torch.utils.benchmark.Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())

    def torch_timer(call: Call) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        timer = timer_of(call)
        one, two = (timer.blocked_autorange(min_run_time=arm_ms / 1000) for _ in range(2))
        calls = sum(m.number_per_run * len(m.times) for m in (one, two))
        return tuple(s * 1000 for s in one.times), tuple(s * 1000 for s in two.times), calls

    def timer_block(call: Call) -> tuple[float, int]:
        return timer_of(call).timeit(PROBE_CALLS).median * 1000, PROBE_CALLS

    def do_bench(call: Call) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        import triton.testing  # only where there is a GPU

        one, two = (tuple(triton.testing.do_bench(call, warmup=WARMUP_MS, rep=arm_ms, return_mode="all")) for _ in range(2))
        return one, two, len(one) + len(two)

    def do_bench_once(call: Call) -> tuple[float, int]:
        import triton.testing  # as above

        times = triton.testing.do_bench(call, warmup=WARMUP_MS, rep=arm_ms, return_mode="all")
        return statistics.median(times), len(times)

    found = [Method(f"{OURS} hot", "hot", functools.partial(ours, "hot"), our_block),
             Method("torch Timer.blocked_autorange", "hot", torch_timer, timer_block),
             Method(f"{OURS} cold", "cold", functools.partial(ours, "cold"), None)]
    if device == "cuda" and importlib.util.find_spec("triton"):
        found.append(Method("triton do_bench", "cold", do_bench, do_bench_once))
    return found


# ---------------------------------------------------------------------------------------------------- truth


def biases(call: Call, method: Method) -> tuple[tuple[float, float], ...]:
    """(the method's ms a call, the stamps' of the same calls), PROBES times; () where the method has no truth beside it."""
    if method.probe is None:
        return ()
    own = measure.kernels_of(call)
    names, each = {kernel.name for kernel in own}, len(own)
    found = []
    for _ in range(PROBES):
        told: list[tuple[float, int]] = []
        seen = measure.kernels_of(lambda told=told: told.append(method.probe(call)))  # type: ignore[misc]  # bound here
        ms, calls = told[0]
        found.append((ms, stamped_ms([kernel for kernel in seen if kernel.name in names], each, calls, method.mode)))
    return tuple(found)


def stamped_ms(kernels: Sequence[measure.Kernel], each: int, calls: int, mode: Mode) -> float:
    """Milliseconds a call of the last `calls` calls of `each` kernels. Raises ValueError where there are fewer kernels than that."""
    timed = kernels[-calls * each:]
    if len(timed) < calls * each:
        raise ValueError(f"{calls} calls of {each} kernels are more than the {len(kernels)} kernels that ran")
    if mode == "hot":
        return (timed[-1].end_us - timed[0].start_us) / calls / 1000
    return statistics.median(sum(kernel.end_us - kernel.start_us for kernel in timed[i * each:(i + 1) * each])
                             for i in range(calls)) / 1000


# ---------------------------------------------------------------------------------------------------- trial


def trial(name: str, call: Call, contestants: Sequence[Method], rounds: int, order: random.Random, *,
          stamped: bool) -> tuple[list[Row], list[dict[str, object]]]:
    """One kernel under every method: the rows of the table, and the raw samples they come from."""
    pairs: dict[str, list[Pair]] = {m.name: [] for m in contestants}
    for number in range(rounds + 1):
        for method in order.sample(list(contestants), len(contestants)):
            (a, b, calls), wall_s = measure.seconds(functools.partial(method.trial, call))
            if number:  # the first round warms up
                pairs[method.name].append(Pair(a, b, calls, wall_s))
    rows: list[Row] = []
    raw: list[dict[str, object]] = []
    for method in contestants:
        seen = pairs[method.name]
        probed = biases(call, method) if stamped else ()
        rows.append(_row(name, method.name, method.mode, seen, probed))
        raw += [{"kernel": name, "method": method.name, "mode": method.mode, "round": i, "calls": pair.calls, "wall_s": pair.wall_s,
                 "a_ms": [_kept(v) for v in pair.a], "b_ms": [_kept(v) for v in pair.b]} for i, pair in enumerate(seen)]
        raw += [{"kernel": name, "method": method.name, "mode": method.mode, "probe": i, "ms": _kept(ms), "stamped_ms": _kept(truth)}
                for i, (ms, truth) in enumerate(probed)]
    return rows, raw


def _row(kernel: str, method: str, mode: Mode, pairs: Sequence[Pair], probed: Sequence[tuple[float, float]]) -> Row:
    return Row(kernel, method, mode, statistics.median(pair.ms for pair in pairs), tuple(pair.ratio for pair in pairs),
               tuple(ms / truth - 1 for ms, truth in probed),
               statistics.median(pair.wall_s * 1000 / (pair.calls * pair.ms) for pair in pairs))


def read(path: Path) -> list[Row]:
    """The rows of a harness.json that was kept, gzipped."""
    entries: dict[tuple[str, str, Mode], list[dict[str, Any]]] = {}
    for entry in json.loads(gzip.decompress(path.read_bytes())):
        entries.setdefault((entry["kernel"], entry["method"], entry["mode"]), []).append(entry)
    return [_row(*key, [Pair(tuple(e["a_ms"]), tuple(e["b_ms"]), e["calls"], e["wall_s"]) for e in told if "round" in e],
                 [(e["ms"], e["stamped_ms"]) for e in told if "probe" in e]) for key, told in entries.items()]


def _kept(value: float) -> float:
    return float(f"{value:.{measure.SIGNIFICANT}g}")


def table(rows: Sequence[Row]) -> str:
    lines = ["| kernel | mode | method | median us | A/A width, 95% | bias against the stamps | wall / kernel time |",
             "|---|---|---|---:|---:|---:|---:|"]
    for row in rows:
        bias = "" if row.bias is None else f"{row.bias:+.2%} ({min(row.biases):+.2%} to {max(row.biases):+.2%})"
        lines.append(f"| {row.kernel} | {row.mode} | {row.method} | {row.ms * 1000:.2f} | {row.aa_width:.3%} "
                     f"| {bias} | {row.cost:.1f} |")
    return "\n".join(lines)


def _width(ratios: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The 95% width of ratios along the last axis."""
    ends: npt.NDArray[np.float64] = np.quantile(ratios, (0.025, 0.975), axis=-1)
    return ends[1] - ends[0]


def compared(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Verdict:
    """Whether the A/A width of `one` is another than that of `other`, beyond what chance does to both (bootstrap over trials)."""
    random_numbers = np.random.default_rng(seed)
    widths = [_width(np.array(ratios)[random_numbers.integers(len(ratios), size=(RESAMPLES, len(ratios)))]) for ratios in (one, other)]
    low, high = np.quantile(widths[0] - widths[1], (0.025, 0.975))
    return "narrower" if high < 0 else "wider" if low > 0 else "as wide"


def duels(rows: Sequence[Row]) -> list[Verdict]:
    """Of each row of ours, beside every peer of the same kernel and mode: which A/A width is the narrower."""
    return [compared(row.ratios, peer.ratios) for row in rows if row.ours for peer in rows
            if not peer.ours and (peer.kernel, peer.mode) == (row.kernel, row.mode)]


def unbiased(rows: Sequence[Row]) -> dict[str, bool]:
    """Whether every probe of ours on a kernel was within the bar, of the kernels that were probed."""
    return {row.kernel: max(map(abs, row.biases)) < BIAS_BAR for row in rows if row.ours and row.biases}


def summary(rows: Sequence[Row]) -> str:
    """How often ours holds the bar: an A/A interval no wider than the peer's of the same mode, and a bias under 1%."""
    widths, judged = duels(rows), unbiased(rows)
    return (f"{OURS}: A/A width narrower than the peer's in {widths.count('narrower')} of {len(widths)} comparisons, wider in "
            f"{widths.count('wider')}; bias under {BIAS_BAR:.0%} in every probe of {sum(judged.values())} of {len(judged)} kernels.")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where harness.json with the raw samples goes.")
@click.option("--rounds", type=click.IntRange(3, 1000), metavar="N",
              help=f"A/A trials of each method.  [default: {ROUNDS}; {SMOKE_ROUNDS} in a smoke run]")
@click.option("--smoke", is_flag=True, help="A few seconds on the CPU, without triton. The figures mean nothing.")
def main(out: Path | None, rounds: int | None, smoke: bool) -> None:
    """Hold the clock against triton's do_bench and torch's Timer. Prints a Markdown table; some three minutes on a GPU."""
    device: measure.Device = "cpu" if smoke else "cuda"
    if not smoke and not torch.cuda.is_available():
        raise click.UsageError("no CUDA GPU here: add --smoke for the tiny CPU version, or run this on a GPU machine")
    torch.manual_seed(0)
    arm_ms = SMOKE_ARM_MS if smoke else ARM_MS
    contestants = methods(device, arm_ms)
    kernels = cpu_kernels() if smoke else gpu_kernels()
    rows: list[Row] = []
    raw: list[dict[str, object]] = []
    here = machine.describe()
    click.echo(f"{here.gpu or here.cpu}, " + ", ".join(f"{package} {version}" for package, version in here.packages[:2]) + "\n")
    for name, call in kernels.items():
        began = time.monotonic()
        more_rows, more_raw = trial(name, call, contestants, rounds or (SMOKE_ROUNDS if smoke else ROUNDS), random.Random(0),
                                    stamped=not smoke)
        rows += more_rows
        raw += more_raw
        click.echo(f"{name}: {len(contestants)} methods in {time.monotonic() - began:.0f} s", err=True)
        if out:  # after each, so that what stops the trial takes one kernel with it
            out.mkdir(parents=True, exist_ok=True)
            (out / "harness.json").write_text(json.dumps(raw, allow_nan=False) + "\n")
    click.echo(table(rows) + "\n\n" + summary(rows))


if __name__ == "__main__":
    main()
