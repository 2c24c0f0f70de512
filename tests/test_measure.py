"""The clock and its intervals: known answers, coverage by simulation, and calls whose length is known."""

from __future__ import annotations

import gc
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import harness
from workloads import measure
from workloads.measure import _fewest, _order_ranks, _student95

REPO = Path(__file__).resolve().parent.parent
ON_AN_H200 = REPO / "benchmarks" / "results" / "harness-h200.json.gz"

# ---------------------------------------------------------------------------------------------------- time


def spin(ms: float) -> Callable[[], None]:
    """A call that takes `ms`, whatever else the machine does."""
    def call() -> None:
        end = time.perf_counter() + ms / 1000
        while time.perf_counter() < end:
            pass
    return call


@pytest.mark.parametrize("mode", ["hot", "cold", "latency"])
def test_a_known_length_is_measured(mode: measure.Mode) -> None:
    arms = {"short": spin(1.0), "long": spin(2.0)}
    timings = measure.time_interleaved(arms, device="cpu", mode=mode, blocks=9, block_ms=4.0, warmup_s=0.01)
    for arm, length in (("short", 1.0), ("long", 2.0)):  # the quickest block, for others may have shared the core
        assert length <= min(timings[arm]) < 1.5 * length
        assert statistics.median(timings[arm]) < 3 * length
    assert [len(samples) for samples in timings.samples.values()] == [9, 9]
    assert timings.mode == mode


def test_a_block_holds_as_many_calls_as_its_length_asks_for() -> None:
    timings = measure.time_interleaved({"a": spin(1.0), "b": spin(30.0)}, device="cpu", blocks=1, block_ms=10.0, warmup_s=0.0)
    assert 3 <= timings.calls["a"] <= 10
    assert timings.calls["b"] == 1


def test_arms_alternate_in_a_shuffled_order_that_the_seed_fixes() -> None:
    def order(seed: int) -> list[str]:
        seen: list[str] = []

        def arm(name: str) -> Callable[[], None]:
            def call() -> None:
                seen.append(name)
                spin(1.0)()
            return call

        measure.time_interleaved({name: arm(name) for name in "abc"}, device="cpu", blocks=8, block_ms=0.5, warmup_s=0.0, seed=seed)
        return seen[-24:]

    first = order(1)
    rounds = [tuple(first[i:i + 3]) for i in range(0, 24, 3)]
    assert {tuple(sorted(visited)) for visited in rounds} == {("a", "b", "c")}
    assert len(set(rounds)) > 1
    assert order(1) == first
    assert order(2) != first


def test_warm_up_lasts_until_rounds_agree() -> None:
    calls = 0

    def cooling() -> None:  # 20 slow calls, then steady
        nonlocal calls
        calls += 1
        spin(3.0 if calls <= 20 else 1.0)()

    timings = measure.time_interleaved({"a": cooling}, device="cpu", blocks=6, block_ms=5.0, warmup_s=0.08)
    assert statistics.median(timings["a"]) < 1.5
    assert timings.warmup_s >= 0.08


def test_warm_up_that_does_not_settle_is_said_so() -> None:
    lengths = iter(range(1, 10**6))
    lines: list[str] = []
    timings = measure.time_interleaved({"a": lambda: spin(0.2 * next(lengths))()}, device="cpu", blocks=1, block_ms=0.1, warmup_s=0.005,
                                       progress=lines.append)
    assert not timings.settled
    assert lines[0].startswith("hot: warm after 0.0 s, not settled within 1%")
    assert lines[1].startswith("hot: 1 blocks of a ")


def test_samples_keep_seven_digits() -> None:
    timings = measure.time_interleaved({"a": spin(0.1)}, device="cpu", blocks=6, block_ms=0.5, warmup_s=0.0)
    assert all(float(f"{ms:.7g}") == ms for ms in timings["a"])


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_rests_while_a_block_runs_and_is_left_as_found(was_on: bool) -> None:
    seen: set[bool] = set()
    (gc.enable if was_on else gc.disable)()
    try:
        measure.time_interleaved({"a": lambda: seen.add(gc.isenabled())}, device="cpu", blocks=1, block_ms=0.1, warmup_s=0.0)
        assert gc.isenabled() is was_on
    finally:
        gc.enable()
    assert seen == {False}


def test_what_a_call_raises_passes_through() -> None:
    def broken() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        measure.time_interleaved({"a": broken}, device="cpu", warmup_s=0.0)
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"blocks": 0}, {"block_ms": 0.0}, {"warmup_s": -1.0}])
def test_nothing_to_time(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="timing needs"):
        measure.time_interleaved({"a": spin(0.1)}, device="cpu", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timing needs"):
        measure.time_interleaved({}, device="cpu")


def test_seconds_returns_the_value_too() -> None:
    value, passed = measure.seconds(lambda: (spin(20.0)(), "made")[1])
    assert value == "made"
    assert 0.02 <= passed < 0.05


# ---------------------------------------------------------------------------------------------------- intervals


def test_the_median_lies_between_order_statistics() -> None:
    estimate = measure.median(tuple(float(n) for n in range(20, 0, -1)))
    assert (estimate.kind, estimate.value, estimate.low, estimate.high) == ("median", 10.5, 6.0, 15.0)  # Conover's table: ranks 6 and 15
    assert estimate.samples[0] == 20.0


def binomial_at_most(k: int, n: int, p: float) -> float:
    return sum(math.comb(n, i) * p**i * (1 - p)**(n - i) for i in range(k + 1))


@pytest.mark.parametrize(("n", "p"), [(6, 0.5), (20, 0.5), (101, 0.5), (72, 0.95), (200, 0.95), (1000, 0.95), (368, 0.99), (1000, 0.99)])
def test_order_ranks_are_the_tightest_that_the_binomial_allows(n: int, p: float) -> None:
    ranks = _order_ranks(n, p)
    assert ranks is not None
    low, high = ranks
    assert binomial_at_most(low - 1, n, p) <= 0.025 < binomial_at_most(low, n, p)
    assert 1 - binomial_at_most(high - 1, n, p) <= 0.025 < 1 - binomial_at_most(high - 2, n, p)


@pytest.mark.parametrize(("p", "fewest"), [(0.5, 6), (0.95, 72), (0.99, 368)])
def test_too_few_samples_have_no_ranks(p: float, fewest: int) -> None:
    assert _fewest(p) == fewest
    assert _order_ranks(fewest - 1, p) is None
    assert _order_ranks(fewest, p) is not None


def test_a_tail_of_a_thousand() -> None:
    samples = [float(n) for n in range(1, 1001)]
    random.Random(1).shuffle(samples)
    estimate = measure.tail(samples, 95)
    assert (estimate.kind, estimate.value, estimate.low, estimate.high) == ("p95", 950.05, 936.0, 964.0)
    assert measure.tail(samples, 50).kind == "p50"
    assert measure.tail(samples, 99).value == pytest.approx(np.percentile(samples, 99))


@pytest.mark.parametrize(("percent", "needed"), [(50, 6), (95, 72), (99, 368)])
def test_a_tail_refuses_too_few_and_says_how_many(percent: int, needed: int) -> None:
    with pytest.raises(ValueError, match=f"p{percent} needs at least {needed} samples, not {needed - 1}"):
        measure.tail([1.0] * (needed - 1), percent)  # type: ignore[arg-type]
    assert measure.tail([1.0] * needed, percent).low == 1.0  # type: ignore[arg-type]


def test_a_median_refuses_too_few() -> None:
    with pytest.raises(ValueError, match="median needs at least 6 samples, not 5"):
        measure.median([1.0] * 5)


@pytest.mark.parametrize(("hits", "trials", "low", "high"), [  # Newcombe 1998, table I, method 3
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_a_share_has_wilsons_interval(hits: int, trials: int, low: float, high: float) -> None:
    estimate = measure.share(hits, trials)
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)
    mirrored = measure.share(trials - hits, trials)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - estimate.high, 1 - estimate.low))


@pytest.mark.parametrize(("hits", "trials"), [(1, 0), (-1, 5), (6, 5), (0, 0)])
def test_a_share_is_of_trials(hits: int, trials: int) -> None:
    with pytest.raises(ValueError, match="hits among trials"):
        measure.share(hits, trials)


def test_a_mean_has_students_interval() -> None:
    estimate = measure.mean((1.0, 2.0, 3.0))  # sd 1, t(2) 4.30265
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.0, 2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)))
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        measure.mean((1.0,))


@pytest.mark.parametrize("freedom", [1, 2, 5, 9, 10, 11, 20, 60, 1000])
def test_students_point_leaves_two_and_a_half_percent(freedom: int) -> None:
    angle = np.linspace(0, math.atan(_student95(freedom) / math.sqrt(freedom)), 200_001)  # x = sqrt(freedom) tan(angle)
    density = np.cos(angle) ** (freedom - 1)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    assert 0.5 - scale * np.trapezoid(density, angle) == pytest.approx(0.025, abs=1e-5)


def test_an_exact_value_has_no_interval() -> None:
    estimate = measure.exact(7)
    assert (estimate.kind, estimate.low, estimate.value, estimate.high) == ("exact", 7, 7, 7)


def noisy(seed: int, blocks: int, drift: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Two arms of true ratio 1.25 whose blocks share a drift: what interleaving makes pairs of."""
    draw = np.random.default_rng(seed)
    shared = np.exp(np.cumsum(draw.normal(0, drift, blocks)))
    baseline = 5.0 * shared * np.exp(draw.normal(0, 0.01, blocks))
    candidate = 4.0 * shared * np.exp(draw.normal(0, 0.01, blocks))
    return tuple(baseline.tolist()), tuple(candidate.tolist())


def test_a_ratio_is_of_medians_and_the_same_each_time() -> None:
    baseline, candidate = noisy(1, 20, 0.02)
    estimate = measure.ratio(baseline, candidate)
    assert estimate.value == statistics.median(baseline) / statistics.median(candidate)
    assert (estimate.samples, estimate.baseline) == (candidate, baseline)
    assert measure.ratio(baseline, candidate) == estimate


@pytest.mark.parametrize("blocks", [8, 20, 41])
def test_the_interval_of_a_ratio_holds_the_truth(blocks: int) -> None:
    intervals = [measure.ratio(*noisy(seed, blocks, 0.005)) for seed in range(200)]
    assert sum(e.low <= 1.25 <= e.high for e in intervals) >= 0.90 * len(intervals)


def test_pairs_are_drawn_together() -> None:
    """A candidate that is half its baseline block by block, under wild drift: the median pairs up and the interval is a point."""
    baseline, _ = noisy(3, 21, 0.5)
    estimate = measure.ratio(baseline, [ms / 2 for ms in baseline])
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((2.0, 2.0, 2.0))


def test_many_blocks_are_drawn_in_parts() -> None:
    draw = np.random.default_rng(5)
    estimate = measure.ratio(draw.normal(3.0, 0.1, 3000).tolist(), draw.normal(1.5, 0.1, 3000).tolist())
    assert 1.98 < estimate.low < 2.0 < estimate.high < 2.02


def test_noise_is_the_ratio_of_an_arm_to_itself() -> None:
    baseline, _ = noisy(4, 20, 0.0)
    assert measure.noise(baseline, baseline) == measure.ratio(baseline, baseline)


@pytest.mark.parametrize(("baseline", "candidate", "message"), [
    ([1.0] * 6, [1.0] * 7, "6 and 7"), ([1.0] * 5, [1.0] * 5, "at least 6 blocks"), ([1.0] * 6, [1.0] * 5 + [0.0], "above 0")])
def test_a_ratio_needs_pairs(baseline: list[float], candidate: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure.ratio(baseline, candidate)


# ---------------------------------------------------------------------------------------------------- memory and energy


def test_the_cpu_has_no_peak_memory() -> None:
    assert measure.peak_memory_mib(lambda: None, "cpu") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU answers")
def test_no_gpu_no_energy() -> None:
    assert measure.energy_j(lambda: None) is None
    with measure.energy_counter() as read_mj:
        assert read_mj is None


def test_energy_is_counted_between_two_moves_of_the_counter() -> None:
    """A counter that moves every 20 ms and counts 50 W: a call of 5 ms takes a quarter of a joule."""
    began = time.perf_counter()
    joules = measure.joules_a_call(spin(5.0), 0.2, lambda: 1000 * int((time.perf_counter() - began) / 0.02))
    assert 0.2 < joules < 0.4


def stamped(*spans: tuple[str, float, float]) -> list[measure.Kernel]:
    return [measure.Kernel(*span) for span in spans]


def test_a_cold_call_lasts_from_its_first_kernel_to_its_last() -> None:
    kernels = stamped(("flush", 0, 60), ("a", 61, 65), ("flush", 66, 130), ("a", 131, 133), ("b", 133, 140), ("c", 134, 138))
    assert measure.call_times_ms(kernels, "flush", 2) == pytest.approx([0.004, 0.009])


def test_calls_that_cannot_be_told_apart_have_no_cold_time() -> None:
    with pytest.raises(ValueError, match="ran 2 times, and 1 of them launched"):
        measure.call_times_ms(stamped(("flush", 0, 60), ("flush", 66, 130), ("a", 131, 133)), "flush", 2)
    with pytest.raises(ValueError, match="ran 3 times"):
        measure.call_times_ms(stamped(("flush", 0, 1), ("a", 1, 2), ("flush", 2, 3), ("flush", 3, 4), ("a", 4, 5)), "flush", 2)


# ---------------------------------------------------------------------------------------------------- what only a GPU shows


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["hot", "cold", "latency"])
def test_twice_the_work_takes_twice_as_long(mode: measure.Mode) -> None:
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)

    def products(count: int) -> Callable[[], None]:
        def call() -> None:
            for _ in range(count):
                torch.mm(a, a)
        return call

    timings = measure.time_interleaved({"twenty": products(20), "ten": products(10)}, device="cuda", mode=mode, warmup_s=1.0)
    assert measure.ratio(timings["twenty"], timings["ten"]).value == pytest.approx(2.0, rel=0.05)


@pytest.mark.gpu
def test_a_cold_call_takes_what_its_kernels_take() -> None:
    cell = torch.zeros(1, device="cuda")

    def tiny(count: int) -> Callable[[], None]:
        def call() -> None:
            for _ in range(count):
                cell.add_(1)
        return call

    timings = measure.time_interleaved({"one": tiny(1), "four": tiny(4)}, device="cuda", mode="cold", warmup_s=0.2)
    one, four = (statistics.median(timings[arm]) for arm in ("one", "four"))
    assert 0.0005 < one < 0.004
    assert 3.5 * one < four < 0.05


@pytest.mark.gpu
def test_a_call_that_launches_nothing_has_no_cold_time() -> None:
    with pytest.raises(ValueError, match="0 of them launched a kernel"):
        measure.time_interleaved({"nothing": lambda: None}, device="cuda", mode="cold", warmup_s=0.0, blocks=2)


@pytest.mark.gpu
def test_a_cold_cache_costs_time() -> None:
    x = torch.randn(4 * 2**20, device="cuda")  # 16 MiB: fits in L2
    y = torch.empty_like(x)
    cold = measure.time_interleaved({"add": lambda: torch.add(x, 1, out=y)}, device="cuda", mode="cold", warmup_s=0.5)["add"]

    def often() -> None:
        for _ in range(50):
            torch.add(x, 1, out=y)

    hot = [(kernel.end_us - kernel.start_us) / 1000 for kernel in measure.kernels_of(often)]  # so short that a hot loop waits for the host
    assert statistics.median(cold) > 1.1 * statistics.median(hot)


@pytest.mark.gpu
def test_peak_memory_is_what_the_call_held() -> None:
    before = torch.cuda.memory_allocated() / 2**20
    peak = measure.peak_memory_mib(lambda: torch.empty(64 * 2**20, dtype=torch.uint8, device="cuda"), "cuda")
    assert peak == pytest.approx(before + 64, abs=2.1)


@pytest.mark.gpu
def test_a_matrix_product_takes_energy() -> None:
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    joules = measure.energy_j(lambda: torch.mm(a, a), 2.0)
    assert joules is not None
    assert 0.1 < joules < 10.0


# ---------------------------------------------------------------------------------------------------- the clock on trial


def test_the_trial_of_the_clock_runs_on_a_cpu(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.harness", "--smoke", "--out", str(tmp_path)], cwd=REPO,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 * 3  # a head, two kernels, three methods
    raw = json.loads((tmp_path / "harness.json").read_text())
    assert {(entry["method"], entry["mode"]) for entry in raw} == {
        ("measure.py hot", "hot"), ("measure.py cold", "cold"), ("torch Timer.blocked_autorange", "hot")}
    assert all(entry["a_ms"] and entry["b_ms"] and entry["calls"] for entry in raw)


def test_the_stamps_of_the_last_calls_are_the_truth() -> None:
    kernels = stamped(("k", 0, 90), *(("k", 100.0 + 10 * i, 108.0 + 10 * i) for i in range(4)))
    assert harness.stamped_ms(kernels, 1, 4, "hot") == pytest.approx(0.0095)
    assert harness.stamped_ms(kernels, 1, 4, "cold") == pytest.approx(0.008)
    assert harness.stamped_ms(kernels, 2, 2, "cold") == pytest.approx(0.016)
    with pytest.raises(ValueError, match="more than the 5 kernels"):
        harness.stamped_ms(kernels, 2, 3, "hot")


def test_a_width_is_another_only_beyond_chance() -> None:
    noise = random.Random(0)
    ratios = [noise.gauss(1.0, 0.01) for _ in range(25)]
    assert harness.compared(ratios, [1 + (r - 1) * 1.05 for r in reversed(ratios)]) == "as wide"
    assert harness.compared(ratios, [1 + (r - 1) * 5 for r in reversed(ratios)]) == "narrower"
    assert harness.compared([1 + (r - 1) * 5 for r in ratios], ratios) == "wider"


@pytest.mark.parametrize("bias", [0.012, -0.012])
def test_one_probe_beyond_the_bar_is_a_bias(bias: float) -> None:
    within = harness.Row("held", "measure.py hot", "hot", 1.0, (1.0, 1.0), (0.009, -0.009, 0.0), 2.0)
    beyond = harness.Row("missed", "measure.py hot", "hot", 1.0, (1.0, 1.0), (0.001, bias, 0.0), 2.0)
    peer = harness.Row("peer's", "triton do_bench", "cold", 1.0, (1.0, 1.0), (0.5,), 2.0)
    assert harness.unbiased([within, beyond, peer]) == {"held": True, "missed": False}


def test_only_a_peer_of_the_same_kernel_and_mode_is_compared() -> None:
    noise = random.Random(0)
    near, far = (tuple(noise.gauss(1.0, spread) for _ in range(25)) for spread in (0.001, 0.1))
    rows = [harness.Row("k", "measure.py hot", "hot", 1.0, near, (), 2.0), harness.Row("k", "measure.py cold", "cold", 1.0, far, (), 2.0),
            harness.Row("k", "torch Timer", "hot", 1.0, far, (), 2.0), harness.Row("other", "torch Timer", "hot", 1.0, near, (), 2.0),
            harness.Row("k", "triton do_bench", "cold", 1.0, near, (), 2.0)]
    assert harness.duels(rows) == ["narrower", "wider"]


def test_on_an_h200_the_clock_held_its_bar() -> None:
    """The samples of an H200, kept as evidence: the bar is held against them as it is today."""
    rows = harness.read(ON_AN_H200)
    assert {len(row.ratios) for row in rows} == {harness.ROUNDS}
    assert {len(row.biases) for row in rows if row.method != "measure.py cold"} == {harness.PROBES}
    duels = harness.duels(rows)
    assert len(duels) == 10
    assert duels.count("narrower") >= 8
    assert "wider" not in duels
    assert list(harness.unbiased(rows).values()) == [True] * 5


def test_the_table_shown_is_that_of_the_samples_kept() -> None:
    assert harness.table(harness.read(ON_AN_H200)) in (REPO / "benchmarks" / "README.md").read_text()


def test_a_geometric_mean_is_the_mean_of_logarithms() -> None:
    seen = measure.geomean((0.5, 2.0, 8.0))
    logs = measure.mean([math.log(x) for x in (0.5, 2.0, 8.0)])
    assert (seen.value, seen.low, seen.high) == pytest.approx((2.0, math.exp(logs.low), math.exp(logs.high)))
    with pytest.raises(ValueError, match="above 0"):
        measure.geomean((1.0, 0.0))
    with pytest.raises(ValueError, match="at least 2"):
        measure.geomean((1.0,))


def test_a_resampled_geometric_mean_covers_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    seen = [measure.geomean_resampled(np.exp(draw.normal(0, 0.3, 80)).tolist()) for _ in range(100)]
    held = sum(estimate.low <= 1.0 <= estimate.high for estimate in seen)
    assert 88 <= held <= 100
    with pytest.raises(ValueError, match="at least 6 samples, not 5"):
        measure.geomean_resampled((1.0,) * 5)
