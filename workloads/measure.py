"""The only clock: interleaved A/B timing with raw samples, and the intervals, memory and energy that go with them.

How a time is taken, and why
- A and B share one process and alternate in short blocks, in an order shuffled each round, so that clock drift, heat and
  neighbours fall on both. One sample is one block; the blocks of a round are a pair.
- hot: at least three calls between two CUDA events without any host synchronisation, caches warm: throughput.
- cold: the L2 cache is overwritten before each call, and a call lasts from the start of its first kernel to the end of its last, as
  the GPU itself stamped them (CUPTI, through torch.profiler). Events around a lone call would add the gaps between them and it:
  1 to 6 us on an H200 (benchmarks/README.md), a fifth of a short kernel or more. nvbench calls the two "batch" and "cold"; they are
  different numbers, so a table never mixes them.
- latency: host clock from the call until the device is idle again: what one request waits.
- The garbage collector is off while a block runs. On the CPU every mode uses the host clock.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import math
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from workloads.spec import Estimate, Kind, percentile

Device = Literal["cuda", "cpu"]
Mode = Literal["hot", "cold", "latency"]
Call = Callable[[], object]
T = TypeVar("T")

RESAMPLES = 4000
Z95 = 1.959963984540054  # two-sided 95% point of the normal distribution
SETTLED = 0.01  # three warm-up windows that agree this well end the warm-up
WARMUP_CAP = 4  # a warm-up lasts at most this many times the time asked for
SIGNIFICANT = 7  # decimal digits kept of a raw sample: finer than any timer here, and shorter to store

# A flush writes at least twice the L2 cache (H100: 50 MB). It also gives the host a head start of about 0.1 ms on the GPU,
# so that a call of several short kernels is queued before its first one starts.
FLUSH_BYTES = 256 * 2**20
LEAST_HOT_CALLS = 3  # a block of one call would start on an idle GPU and time the launch of its first kernels too
CPU_FLUSH_BYTES = 64 * 2**20  # last-level caches of common servers are 32-64 MB a socket


# ---------------------------------------------------------------------------------------------------- time


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds a call, one sample for each block, by arm; `timings["eager"]` is the shorthand for `samples["eager"]`.

    `settled` says whether warm-up ended because three windows agreed within 1%, and not at its cap of `warmup_s` seconds;
    `calls` are the calls of one block.
    """

    mode: Mode
    samples: Mapping[str, tuple[float, ...]]
    settled: bool
    warmup_s: float
    calls: Mapping[str, int]

    def __getitem__(self, arm: str) -> tuple[float, ...]:
        return self.samples[arm]


def time_interleaved(arms: Mapping[str, Call], *, device: Device, mode: Mode = "hot", blocks: int = 20, block_ms: float = 30.0,
                     warmup_s: float = 3.0, seed: int = 0, progress: Callable[[str], None] | None = None) -> Timings:
    """Time the calls of `arms` side by side: `blocks` rounds, in each one block of about `block_ms` for every arm.

    Warm-up runs whole rounds for at least `warmup_s` seconds and until three successive rounds agree within 1% for every
    arm, at most four times `warmup_s` (three rounds in any case). Give an arm twice under two names to see the noise.
    Raises ValueError where there is nothing to time, and in a cold block where a call launches no kernel or one that cannot be
    told from the flush; RuntimeError where a GPU's time stamps cannot be read. What a call raises passes through.
    """
    if not arms or blocks < 1 or block_ms <= 0 or warmup_s < 0:
        raise ValueError("timing needs at least one arm, one block, a block length above 0 and no negative warm-up")
    watch = _watch(device, mode)
    order = random.Random(seed)
    with quiet_collector():
        calls, warm_s, settled = _warm(watch, arms, block_ms, warmup_s)
        if progress:
            progress(f"{mode}: warm after {warm_s:.1f} s, {'settled' if settled else 'not settled within 1%'}")
        turns = [arm for _ in range(blocks) for arm in order.sample(list(arms), len(arms))]
        samples = watch.samples([(arms[arm], calls[arm]) for arm in turns])
    taken: dict[str, list[float]] = {arm: [] for arm in arms}
    for arm, ms in zip(turns, samples, strict=True):
        taken[arm].append(_kept(ms))
    if progress:
        seen = ", ".join(f"{arm} {statistics.median(ms):.4g} ms x {calls[arm]}" for arm, ms in taken.items())
        progress(f"{mode}: {blocks} blocks of {seen}")
    return Timings(mode, {arm: tuple(ms) for arm, ms in taken.items()}, settled, warm_s, calls)


def seconds(make: Callable[[], T]) -> tuple[T, float]:
    """What `make` returns and the wall seconds it took, from an idle device to an idle device: for things done once."""
    _synchronise()
    start = time.perf_counter()
    value = make()
    _synchronise()
    return value, _kept(time.perf_counter() - start)


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment in the current stream of a device, and on the host's clock (ns) when it was asked for."""

    host_ns: int
    event: torch.cuda.Event | None


def stamp(device: Device) -> Stamp:
    """Now, without waiting: on a GPU the moment when all work queued so far is done."""
    if device == "cpu":
        return Stamp(time.perf_counter_ns(), None)
    (event,) = _events(1)
    event.record()
    return Stamp(time.perf_counter_ns(), event)


def host_ms(start: Stamp, end: Stamp) -> float:
    """Milliseconds on the host's clock from asking for `start` to asking for `end`."""
    return _kept((end.host_ns - start.host_ns) / 1e6)


def device_ms(start: Stamp, end: Stamp) -> float:
    """Milliseconds on the GPU's clock from `start` to `end`, waiting for `end`; on the CPU, the host's."""
    if start.event is None or end.event is None:
        return host_ms(start, end)
    end.event.synchronize()
    return _kept(start.event.elapsed_time(end.event))


@dataclass(frozen=True, slots=True)
class Kernel:
    """One thing that a GPU did: a kernel, a copy or a memset; in microseconds from the start of the first one seen."""

    name: str
    start_us: float
    end_us: float


def kernels_of(work: Call) -> tuple[Kernel, ...]:
    """All that the GPU does for `work`, until it is idle, in the order in which it began; stamped by the GPU (CUPTI)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning: Profiler clears events")  # of earlier cycles, and there is one
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize()
    results = getattr(profiler.profiler, "kineto_results", None)  # events() would build a tree of them first, in Python
    seen = [e for e in (results.events() if results else ()) if e.device_type().name == "CUDA"]
    zero = min((e.start_ns() for e in seen), default=0)  # nanoseconds of 1970 do not fit a float
    found = [Kernel(e.name(), (e.start_ns() - zero) / 1000, (e.start_ns() - zero + e.duration_ns()) / 1000) for e in seen]
    return tuple(sorted(found, key=lambda kernel: kernel.start_us))


@dataclass(frozen=True, slots=True)
class _Watch:
    """How time is taken. `block`: (call, calls) -> the sample, and what a call took of the block's length, both in ms; it is what
    warm-up goes by, and unless there is `take`, which times all blocks of a run together, what the samples are."""

    block: Callable[[Call, int], tuple[float, float]]
    least_calls: int = 1
    take: Callable[[Sequence[tuple[Call, int]]], list[float]] | None = None

    def samples(self, blocks: Sequence[tuple[Call, int]]) -> list[float]:
        """Milliseconds a call, one sample for each block."""
        return self.take(blocks) if self.take else [self.block(call, calls)[0] for call, calls in blocks]


def _watch(device: Device, mode: Mode) -> _Watch:
    if device == "cpu":
        if mode == "hot":
            return _Watch(_host_block)
        before = torch.empty(CPU_FLUSH_BYTES, dtype=torch.int8).zero_ if mode == "cold" else _nothing
        return _Watch(functools.partial(_lone_block, before, _nothing))
    if mode == "latency":
        return _Watch(functools.partial(_lone_block, _nothing, torch.cuda.synchronize))
    if mode == "hot":
        start, end = _events(2)
        return _Watch(functools.partial(_hot_block, start, end), least_calls=LEAST_HOT_CALLS)
    l2_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    cells = torch.empty(max(FLUSH_BYTES, 2 * l2_bytes) // 2, dtype=torch.int16, device="cuda")
    flush = functools.partial(cells.fill_, 1)  # a kernel that few calls have; zeros would be a memset, which many have
    seen = kernels_of(flush)
    if len(seen) != 1:
        raise RuntimeError(f"cold timing needs the GPU's own time stamps; CUPTI gave {len(seen)} for one kernel: may this user profile?")
    return _Watch(functools.partial(_flushed_block, flush), take=functools.partial(_stamped, flush, seen[0].name))


def _hot_block(start: torch.cuda.Event, end: torch.cuda.Event, call: Call, calls: int) -> tuple[float, float]:
    call()  # fills the caches with this arm's data, and keeps the GPU busy while the first timed call is launched
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    sample = float(start.elapsed_time(end)) / calls
    return sample, sample


def _flushed_block(flush: Call, call: Call, calls: int) -> tuple[float, float]:
    def block() -> None:
        for _ in range(calls):
            flush()
            call()

    spent = seconds(block)[1] * 1000 / calls
    return spent, spent


def _stamped(flush: Call, mark: str, blocks: Sequence[tuple[Call, int]]) -> list[float]:
    """A sample for each block: the median time of its calls, each behind a flush, whose kernel is called `mark`."""
    def work() -> None:
        for call, calls in blocks:
            for _ in range(calls):
                flush()
                call()
            torch.cuda.synchronize()

    each = iter(call_times_ms(kernels_of(work), mark, sum(calls for _, calls in blocks)))
    return [statistics.median(itertools.islice(each, calls)) for _, calls in blocks]


def call_times_ms(kernels: Sequence[Kernel], mark: str, calls: int) -> list[float]:
    """Milliseconds from the start of the first to the end of the last kernel of each of `calls` calls, before each of which one
    kernel called `mark` ran. Raises ValueError where a call launched nothing, or something of that name."""
    places = [i for i, kernel in enumerate(kernels) if kernel.name == mark]
    times = []
    for first, after in itertools.pairwise([*places, len(kernels)]):
        if own := kernels[first + 1:after]:
            times.append((max(kernel.end_us for kernel in own) - own[0].start_us) / 1000)
    if len(places) != calls or len(times) != calls:
        raise ValueError(f"cold timing: {calls} calls are told apart by the flush before each, which ran {len(places)} times, and "
                         f"{len(times)} of them launched a kernel")
    return times


def _lone_block(before: Call, finish: Call, call: Call, calls: int) -> tuple[float, float]:
    began = time.perf_counter_ns()
    each = []
    for _ in range(calls):
        before()
        start = time.perf_counter_ns()
        call()
        finish()
        each.append((time.perf_counter_ns() - start) / 1e6)
    return statistics.median(each), (time.perf_counter_ns() - began) / 1e6 / calls


def _host_block(call: Call, calls: int) -> tuple[float, float]:
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    sample = (time.perf_counter_ns() - start) / 1e6 / calls
    return sample, sample


def _warm(watch: _Watch, arms: Mapping[str, Call], block_ms: float, warmup_s: float) -> tuple[dict[str, int], float, bool]:
    calls = dict.fromkeys(arms, watch.least_calls)
    windows: list[tuple[float, ...]] = []
    start = time.perf_counter()
    while True:
        window = []
        for arm, call in arms.items():
            sample, spent = watch.block(call, calls[arm])
            calls[arm] = max(watch.least_calls, math.ceil(block_ms / max(spent, 1e-6)))
            window.append(sample)
        windows.append(tuple(window))
        passed = time.perf_counter() - start
        settled = len(windows) >= 3 and all(max(last) - min(last) <= SETTLED * max(last) for last in zip(*windows[-3:], strict=True))
        if passed >= warmup_s and len(windows) >= 3 and (settled or passed >= WARMUP_CAP * warmup_s):
            return calls, _kept(passed), settled


def _events(count: int) -> list[torch.cuda.Event]:
    return [torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch annotates this class only in part
            for _ in range(count)]


def _nothing() -> None:
    """Stands where a device needs no flush or no synchronisation."""


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def lone_thread(device: Device) -> None:
    """On a CPU, compute with one thread: a smoke test's tensors are tiny, so threads cost more than they give, and where cores are
    shared they wait for each other in loops (weeks 13 and 14 took three times the processor time)."""
    if device == "cpu":
        torch.set_num_threads(1)


def free(device: Device) -> None:
    """Give back to the GPU what nothing holds any more: the next work may need all of it. Nothing on a CPU, where a collection
    takes half a second once a compiler is imported."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """The garbage collector has run, and is off inside."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _kept(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")


# ---------------------------------------------------------------------------------------------------- intervals


def exact(value: float) -> Estimate:
    """A count or a size: no sampling, no interval."""
    return Estimate("exact", value, value, value, (value,))


def median(samples: Sequence[float]) -> Estimate:
    """The median with its distribution-free 95% interval between two order statistics (Conover, Practical Nonparametric
    Statistics, 3.2). Raises ValueError for fewer than 6 samples: no such interval exists."""
    return _by_order("median", 50, samples)


def tail(samples: Sequence[float], percent: Literal[50, 95, 99]) -> Estimate:
    """A percentile of latencies with its order-statistic 95% interval, as `median`.

    Raises ValueError where the largest sample may lie below the percentile: p95 needs 72 samples, p99 needs 368.
    Samples are taken as independent: give single requests, not block medians.
    """
    kinds: dict[int, Kind] = {50: "p50", 95: "p95", 99: "p99"}
    return _by_order(kinds[percent], percent, samples)


def mean(samples: Sequence[float]) -> Estimate:
    """The mean with Student's 95% interval; raises ValueError for fewer than 2 samples."""
    if len(samples) < 2:
        raise ValueError(f"the interval of a mean needs at least 2 samples, not {len(samples)}")
    value = statistics.fmean(samples)
    reach = _student95(len(samples) - 1) * statistics.stdev(samples) / math.sqrt(len(samples))
    return Estimate("mean", value, value - reach, value + reach, tuple(samples))


def geomean(samples: Sequence[float]) -> Estimate:
    """The geometric mean of factors with Student's 95% interval on their logarithms; raises ValueError for fewer than 2 samples,
    or one that is not above 0."""
    if min(samples, default=0.0) <= 0:
        raise ValueError("a geometric mean needs samples above 0")
    logs = mean([math.log(sample) for sample in samples])
    return Estimate("geomean", math.exp(logs.value), math.exp(logs.low), math.exp(logs.high), tuple(samples))


def geomean_resampled(samples: Sequence[float]) -> Estimate:
    """As `geomean`, with the percentile interval of a bootstrap over the samples, 4,000 times from a fixed seed: for many
    samples of any distribution, as documents are. Raises ValueError for fewer than 6, too."""
    value = geomean(samples).value
    if len(samples) < 6:
        raise ValueError(f"a bootstrap needs at least 6 samples, not {len(samples)}")
    logs, draw = np.log(np.array(samples, dtype=np.float64)), np.random.default_rng(0)
    at_once = max(1, 2**21 // len(logs))
    drawn = [logs[draw.integers(len(logs), size=(min(at_once, RESAMPLES - first), len(logs)))].mean(axis=1)
             for first in range(0, RESAMPLES, at_once)]
    low, high = (float(q) for q in np.exp(np.quantile(np.concatenate(drawn), (0.025, 0.975))))
    return Estimate("geomean", value, min(value, _kept(low)), max(value, _kept(high)), tuple(samples))


def share(hits: int, trials: int) -> Estimate:
    """`hits` of `trials` with Wilson's 95% score interval (Wilson 1927; Brown, Cai and DasGupta 2001 recommend it).

    Raises ValueError unless 0 <= hits <= trials and trials > 0.
    """
    if not 0 <= hits <= trials or trials == 0:
        raise ValueError(f"a share needs hits among trials, not {hits} of {trials}")
    p = hits / trials
    weight = Z95**2 / trials
    centre = (p + weight / 2) / (1 + weight)
    reach = Z95 * math.sqrt(p * (1 - p) / trials + weight / (4 * trials)) / (1 + weight)
    return Estimate("share", p, max(0.0, min(p, centre - reach)), min(1.0, max(p, centre + reach)), (float(hits), float(trials)))


def ratio(baseline: Sequence[float], candidate: Sequence[float]) -> Estimate:
    """median(baseline) / median(candidate): above 1, the candidate is faster. Samples pair up block by block.

    The 95% interval is the percentile interval of a paired bootstrap (Efron and Tibshirani 1993, chapters 8 and 13): blocks
    are drawn again jointly, 4,000 times from a fixed seed, so the same samples give the same interval. Raises ValueError
    for unequal lengths, fewer than 6 blocks, or a time that is not above 0.
    """
    if len(baseline) != len(candidate) or len(baseline) < 6:
        raise ValueError(f"a ratio needs at least 6 blocks of both arms, not {len(baseline)} and {len(candidate)}")
    if min(*baseline, *candidate) <= 0:
        raise ValueError("a ratio of times needs times above 0")
    pairs = np.array([baseline, candidate], dtype=np.float64)
    draw = np.random.default_rng(0)
    at_once = max(1, 2**21 // pairs.shape[1])  # keeps the drawn blocks within about 50 MB
    drawn: list[npt.NDArray[np.float64]] = []
    for first in range(0, RESAMPLES, at_once):
        blocks = draw.integers(pairs.shape[1], size=(min(at_once, RESAMPLES - first), pairs.shape[1]))
        drawn.append(np.median(pairs[0][blocks], axis=1) / np.median(pairs[1][blocks], axis=1))
    low, high = (float(q) for q in np.quantile(np.concatenate(drawn), (0.025, 0.975)))
    value = statistics.median(baseline) / statistics.median(candidate)
    return Estimate("ratio", value, min(value, _kept(low)), max(value, _kept(high)), tuple(candidate), tuple(baseline))


def noise(arm: Sequence[float], arm_again: Sequence[float]) -> Estimate:
    """The ratio of an arm to itself, timed twice among the others (A/A): a gain inside this interval is noise."""
    return ratio(arm, arm_again)


def _by_order(kind: Kind, percent: float, samples: Sequence[float]) -> Estimate:
    ranks = _order_ranks(len(samples), percent / 100)
    if ranks is None:
        raise ValueError(f"the 95% interval of {kind} needs at least {_fewest(percent / 100)} samples, not {len(samples)}")
    ordered = sorted(samples)
    value = statistics.median(ordered) if kind == "median" else percentile(ordered, percent)
    return Estimate(kind, value, min(value, ordered[ranks[0] - 1]), max(value, ordered[ranks[1] - 1]), tuple(samples))


def _order_ranks(count: int, p: float) -> tuple[int, int] | None:
    """Ranks (from 1) of the order statistics that hold the p-quantile between them with 95% confidence, at most 2.5% to
    each side; None where a rank would lie outside the sample. The number of samples below the quantile is binomial."""
    if count < _fewest(p):
        return None
    n = np.arange(count + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(n[1:]))])
    log_mass = log_factorial[count] - log_factorial - log_factorial[::-1] + n * math.log(p) + (count - n) * math.log1p(-p)
    below = np.cumsum(np.exp(log_mass))  # below[k]: at most k samples lie under the quantile
    low = int(np.searchsorted(below, 0.025, side="right"))
    high = int(np.searchsorted(below, 0.975, side="left")) + 1
    return max(low, 1), min(high, count)


def _fewest(p: float) -> int:
    """Samples from which on both ranks exist: p**n and (1 - p)**n are at most 2.5%."""
    return math.ceil(math.log(0.025) / math.log(max(p, 1 - p)))


# Student's t, two-sided 95%, for 1 to 9 degrees of freedom; from 10 on the expansion is right to 4 digits.
STUDENT95 = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)


def _student95(freedom: int) -> float:
    """Abramowitz and Stegun 26.7.5."""
    if freedom <= len(STUDENT95):
        return STUDENT95[freedom - 1]
    z = Z95
    return (z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3))


# ---------------------------------------------------------------------------------------------------- memory and energy


def peak_memory_mib(call: Call, device: Device) -> float | None:
    """The most memory (MiB) that tensors held at once during one call, what was held before it included.

    None on the CPU: a process's resident size shows what its allocator keeps, not what the call needed.
    """
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return _kept(torch.cuda.max_memory_allocated() / 2**20)


def energy_j(call: Call, seconds: float = 3.0) -> float | None:
    """Joules a call of the current GPU, averaged over about `seconds` seconds of calls; None without a GPU that counts energy.

    Reads NVML's total energy counter, which moves every 20-100 ms: the average runs from one move to another, not from
    some moment between two.
    """
    with energy_counter() as read_mj:
        return _kept(joules_a_call(call, seconds, read_mj)) if read_mj else None


@contextlib.contextmanager
def energy_counter() -> Iterator[Callable[[], int] | None]:
    """What reads the millijoules that the current GPU has used so far; None without a GPU that counts them. The counter moves
    every 20-100 ms, so what is read before and after a block of seconds is that block's energy within a few percent."""
    if not torch.cuda.is_available():
        yield None
        return
    try:
        import pynvml  # an extra, and only a machine with a GPU has use for it
    except ModuleNotFoundError:
        yield None
        return
    pynvml.nvmlInit()
    try:
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        try:
            gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
        except pynvml.NVMLError:  # a slice of a GPU, or one without a counter
            gpu = None
        yield (lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu))) if gpu else None
    finally:
        pynvml.nvmlShutdown()


def joules_a_call(call: Call, seconds: float, read_mj: Callable[[], int]) -> float:
    """As `energy_j`, for any counter of millijoules that `read_mj` reads."""
    _synchronise()
    start = time.perf_counter()
    call()
    _synchronise()
    at_once = max(1, math.ceil(0.005 / max(time.perf_counter() - start, 1e-6)))  # about 5 ms between two looks at the counter

    def until_it_moves() -> tuple[int, int]:
        before, calls = read_mj(), 0
        now = before
        while now == before:
            for _ in range(at_once):
                call()
            _synchronise()
            calls += at_once
            now = read_mj()
        return now, calls

    first_mj, _ = until_it_moves()
    last_mj, total = first_mj, 0
    start = time.perf_counter()
    while total == 0 or time.perf_counter() - start < seconds:
        last_mj, calls = until_it_moves()
        total += calls
    return (last_mj - first_mj) / 1000 / total
