"""The trial of the rule: each peer's rule does what its source says, ours is the bot's own, and the page shows the stored run."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import significance
from benchmarks.significance import (
    CONFIRMED,
    EFFECTS,
    HISTORIES,
    INTERLEAVED,
    JUDGED,
    SINGLE,
    WORLDS,
    Drawn,
    Floats,
    Intervals,
    Limits,
    asv,
    bencher_t,
    benchmark_tools,
    conbench,
    github_action_benchmark,
    mann_whitney_critical,
    rustc_perf,
    trial,
    wilson,
)
from bot.regression import classify, paired

ROOT = Path(__file__).parent.parent


def runs(*levels: float) -> Floats:
    """One trial's history: each run with two samples of the same value."""
    return np.array([[[level, level] for level in levels]])


def run(*samples: float) -> Floats:
    return np.array([samples])


# ---------------------------------------------------------------------------------------------------- the peers


@pytest.mark.parametrize(("new", "threshold", "told"), [(2.01, 2.0, 1), (2.0, 2.0, 0), (0.1, 2.0, 0), (1.06, 1.05, 1), (1.04, 1.05, 0)])
def test_github_action_benchmark_alerts_above_a_ratio(new: float, threshold: float, told: int) -> None:
    assert github_action_benchmark(runs(9.0, 1.0), run(new, new), threshold).tolist() == [told]
    assert github_action_benchmark(runs(9.0, 1.0), run(new, new)).tolist() == [int(new > 2)]


@pytest.mark.parametrize(("new", "told"), [
    ((1.06, 9.0), 1), ((1.04, 9.0), 0), ((0.96, 9.0), 0), ((0.94, 9.0), -1), ((9.0, 1.0), 0)])
def test_benchmark_tools_judges_the_ratio_of_minima(new: tuple[float, ...], told: int) -> None:
    assert benchmark_tools(np.array([[[5.0, 5.0], [1.0, 2.0]]]), run(*new)).tolist() == [told]


def test_asv_needs_samples_apart_and_a_factor() -> None:
    old = np.array([np.linspace(1.0, 1.1, 20)])
    assert asv(old[:, None], old + 0.2).tolist() == [1]
    assert asv(old[:, None] + 0.2, old).tolist() == [-1]
    assert asv(old[:, None], old + 0.09).tolist() == [0]  # apart, but by less than the factor 1.1
    assert asv(old[:, None], old + 0.09, 1.0).tolist() == [1]
    assert asv(old[:, None], old + 0.01, 1.0).tolist() == [0]


@pytest.mark.parametrize(("m", "n", "p"), [(5, 5, 0.05), (4, 6, 0.1), (3, 3, 0.002), (6, 6, 0.01)])
def test_mann_whitney_by_enumeration(m: int, n: int, p: float) -> None:
    """asv's p of U is P(U' <= U) + P(U' > mn - U), over all orders of the samples."""
    every = [sum(rank - i for i, rank in enumerate(places)) for places in itertools.combinations(range(m + n), m)]
    below = [u for u in range(m * n + 1) if (sum(v <= u for v in every) + sum(v > m * n - u for v in every)) / len(every) < p]
    assert mann_whitney_critical(m, n, p) == max(below, default=-1)


def test_mann_whitney_is_near_normal_for_twenty_and_twenty() -> None:
    z = (mann_whitney_critical(20, 20, 0.002) - 200) / math.sqrt(20 * 20 * 41 / 12)
    assert z == pytest.approx(-3.05, abs=0.06)


def test_rustc_perf_is_three_iqr_above_q3() -> None:
    """Deltas of 1, 2, 3, 4%: of four, the lower part is the first and the upper the last, so T = 4 + 3 * (4 - 1) = 13%."""
    levels = np.cumprod([100, 1.01, 1.02, 1.03, 1.04])
    history = runs(*levels)
    told = [rustc_perf(history, run(*[levels[-1] * factor] * 2)).tolist() for factor in (1.1299, 1.1301, 0.8701, 0.8699)]
    assert told == [[0], [1], [0], [-1]]
    odd = np.cumprod([100, 1.01, 1.02, 1.03, 1.04, 1.05])  # of five: medians of the first two and the last two, T = 4.5 + 9
    assert [rustc_perf(runs(*odd), run(*[odd[-1] * f] * 2)).tolist() for f in (1.1349, 1.1351)] == [[0], [1]]


def test_conbench_is_five_standard_deviations_of_residuals() -> None:
    """Bests of 10, 12, 11: residuals 0, 2, 0 with sd 1.1547, mean 11."""
    history = np.array([[[10.0, 50.0], [12.0, 50.0], [11.0, 50.0]]])
    edge = 5 * 2 / math.sqrt(3)
    assert [conbench(history, run(11 + d, 99.0)).tolist() for d in (edge - 0.01, edge + 0.01, -edge + 0.01, -edge - 0.01)] == [
        [0], [1], [0], [-1]]


def test_bencher_is_a_prediction_interval() -> None:
    """Means of 1 to 5: 3 +- t(0.99, 4) * sqrt(2) * sqrt(1.2), with t from a table."""
    edge = 3.747 * math.sqrt(2) * math.sqrt(1.2)
    told = [bencher_t(runs(1, 2, 3, 4, 5), run(3 + d - 1, 3 + d + 1)).tolist() for d in (edge - 0.01, edge + 0.01, -edge - 0.01)]
    assert told == [[0], [1], [-1]]


# ---------------------------------------------------------------------------------------------------- ours


def drawn(trials: int) -> Drawn:
    rng = np.random.default_rng(3)
    world = WORLDS[1]
    return Drawn(*(world.runs(rng, trials, count) for count in (30, 2, 8, 8)))


def test_ours_is_the_bots_own_verdict() -> None:
    cases = drawn(60)
    first, second = (np.median(cases.new[:, i], -1) for i in (0, 1))
    for length in HISTORIES:
        history = np.median(cases.last(length), -1).tolist()
        limits = Limits.of(cases.last(length))
        for factor in (0.9, 0.97, 1.0, 1.03, 1.05):
            sides = [limits.side(v * factor).tolist() for v in (first, second)]
            kinds = [classify(h, v * factor).kind for h, v in zip(history, first.tolist(), strict=True)]
            assert sides[0] == [{"suspected_regression": 1, "improvement_suspected": -1}.get(kind, 0) for kind in kinds]
            both = [classify(h, v * factor, confirm=w * factor).kind
                    for h, v, w in zip(history, first.tolist(), second.tolist(), strict=True)]
            assert [one if one == two else 0 for one, two in zip(*sides, strict=True)] == [
                {"confirmed_regression": 1, "improvement_confirmed": -1}.get(kind, 0) for kind in both]


def test_the_first_draft_by_hand() -> None:
    """Medians e^0, e^0.01, ..., e^0.08: median 0.04, MAD 0.02, so L = t(0.995, 8) * 0.029652 * sqrt(1 + pi / 18)."""
    limits = Limits.of_mad(runs(*np.exp(np.arange(9) / 100)), 0.995)
    assert limits.median.tolist() == [pytest.approx(math.exp(0.04))]
    assert limits.limit.tolist() == [pytest.approx(math.expm1(3.3554 * 0.029652 * math.sqrt(1 + math.pi / 18)), rel=1e-4)]
    assert Limits.of_mad(runs(*[1.0] * 5), 0.99).limit.tolist() == [pytest.approx(0.02)]


def test_our_pairs_are_the_bots_own_verdict() -> None:
    cases = drawn(60)
    base, new = (np.median(arm[:, :6], -1) for arm in (cases.base, cases.pairs))
    intervals = Intervals.of(cases.base[:, :6], cases.pairs[:, :6])
    for effect in (-0.05, 0.0, 0.03, 0.05):
        kinds = [paired(a, (np.array(b) * (1 + effect)).tolist()).kind for a, b in zip(base.tolist(), new.tolist(), strict=True)]
        assert intervals.side(effect).tolist() == [{"regression": 1, "improvement": -1}.get(kind, 0) for kind in kinds]


def test_a_trial_counts_every_rule_at_every_slowdown() -> None:
    told = trial(drawn(40))
    assert {len(counts) for counts in told.values()} == {len(EFFECTS)}
    for key in ((SINGLE, 10), (CONFIRMED, 30), (INTERLEAVED, 6), ("bencher t, 0.99", 10), ("rustc-perf", 30)):
        slower = [counts[0] for counts in told[key]]
        assert slower == sorted(slower)
        assert slower[0] <= 5
        assert slower[-1] >= 30
    assert all(confirmed[0] <= single[0] for confirmed, single in zip(told[CONFIRMED, 10], told[SINGLE, 10], strict=True))


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: w.name)
def test_runs_are_as_the_model_says(world: significance.World) -> None:
    made = world.runs(np.random.default_rng(0), 20_000)
    assert made.shape == (20_000, 20)
    spread = np.log(made).std(axis=1, ddof=1)
    assert np.sqrt((spread**2).mean()) == pytest.approx(0.01, rel=0.02)
    level = np.log(made).mean(1)
    variance = world.sd**2 + 0.01**2 / 20 + (0.05 * 0.95 * math.log(1.03) ** 2 if world.outliers else 0)
    assert level.std() == pytest.approx(math.sqrt(variance), rel=0.02)


# ---------------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize(("hits", "trials", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)])
def test_wilson(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_the_page_shows_the_stored_run() -> None:
    found, trials = significance.stored(ROOT / significance.RAW)
    assert trials >= 20_000
    assert significance.raw(found, trials) == (ROOT / significance.RAW).read_bytes()
    assert significance.block(found, trials) in (ROOT / significance.PAGE).read_text()
    assert [text for text, met in significance.bars(found[JUDGED], trials) if not met] == []


def test_a_small_run_ends_as_its_bars_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(significance.main, ["--trials", "10"])
    assert (done.exit_code, "- MISSED: " in done.stdout) == (1, True)  # ten trials resolve nothing
    monkeypatch.chdir(tmp_path)
    assert "run it in the folder that holds README.md" in CliRunner().invoke(significance.main, ["--write"]).stderr
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / significance.PAGE).write_text("# Mine\n\n<!-- sprintbench:significance -->\n<!-- /sprintbench:significance -->\n")
    assert CliRunner().invoke(significance.main, ["--trials", "10", "--write"]).exit_code == 1
    found, trials = significance.stored()
    assert (trials, found) == (10, significance.simulate(10))
    assert significance.block(found, 10) in (tmp_path / significance.PAGE).read_text()
    assert (tmp_path / significance.PICTURE).read_bytes().startswith(b"\x89PNG")
