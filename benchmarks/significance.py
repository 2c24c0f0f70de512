"""The rule that says "slower" on trial: false alarms and power of bot/regression.py beside the rules of six well-kept benchmark bots.

The model. A run's true time is 1, times exp(N(0, sd)) for what its process drew (memory layout, clocks, neighbours), times
1.03 in one run of twenty (a hiccup that lasts the whole run); its 20 samples scatter by another 1%. The new code takes (1 + e)
times as long. Every rule sees the same draws, so rows are compared like for like. It is a model, not a GPU: it has no drift
and no warm-up, and real runs of one sitting share more than it grants them.

Each peer's rule is restated from its source, which its docstring names, at its default settings unless the row says otherwise;
tests/test_significance.py holds them to small known answers. Ours is bot/regression.py itself, called and not restated.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from bot import plot, regions
from bot.regression import FLOOR, NOISE_FLOOR, classify, paired, t_quantile
from bot.report import table_text
from workloads.spec import Chart, Column, Table

SAMPLES = 20
WITHIN = 0.01
OUTLIERS, OUTLIER = 0.05, 1.03
HISTORIES = (10, 30)
PAIRS = (6, 8)
EFFECTS = tuple(e / 100 for e in range(11))
TRIALS = 20_000
CHUNK = 2_000
SEED = 7

# Bars, at run-to-run sd 1% with outliers and a history of ten runs.
JUDGED = "sd 1%, outliers"
MOST_FALSE, LEAST_POWER, LEAST_PAIRED = 0.003, 0.70, 0.95
SLOWER = 0.05

RAW = Path("benchmarks/results/significance.json.gz")
PAGE = Path("docs/significance.md")
PICTURE = Path("docs/power.png")

Floats = NDArray[np.float64]
Signs = NDArray[np.int8]  # 1: told slower, -1: told faster, 0: nothing told


@dataclass(frozen=True, slots=True)
class World:
    """One model of runs: `sd` from run to run, as a share, and whether one run of twenty is an outlier."""

    name: str
    sd: float
    outliers: bool

    def runs(self, rng: np.random.Generator, *shape: int) -> Floats:
        """Runs of the old code, with their samples along the last axis."""
        level = np.exp(rng.normal(0, self.sd, shape))
        if self.outliers:
            level = np.where(rng.random(shape) < OUTLIERS, OUTLIER * level, level)
        return np.asarray(level[..., None] * np.exp(rng.normal(0, WITHIN, (*shape, SAMPLES))))


WORLDS = (World("sd 0.5%, outliers", 0.005, True), World("sd 1%, outliers", 0.01, True),
          World("sd 0.5%", 0.005, False), World("sd 1%", 0.01, False))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Trials side by side, samples last: `history` oldest first, `new` the new run and its second; `base` and `pairs` the two
    arms of interleaved pairs."""

    history: Floats
    new: Floats
    base: Floats
    pairs: Floats

    def last(self, runs: int) -> Floats:
        return self.history[:, -runs:]


Rule = Callable[[Floats, Floats], Signs]  # (history, new run) of many trials, already slowed down


# ---------------------------------------------------------------------------------------------------- the peers


def github_action_benchmark(history: Floats, new: Floats, threshold: float = 2.0) -> Signs:
    """benchmark-action/github-action-benchmark, src/write.ts, findAlerts: alert where current / previous > alert-threshold
    (200% by default). It never tells of an improvement."""
    return np.asarray(new.mean(-1) / history[:, -1].mean(-1) > threshold, np.int8)


def benchmark_tools(history: Floats, new: Floats, tolerance: float = 0.05) -> Signs:
    """JuliaCI/BenchmarkTools.jl, src/trials.jl, judge, as Nanosoldier uses it: the ratio of the minima; a regression where
    ratio - tolerance > 1, an improvement where ratio + tolerance < 1; time tolerance 5%."""
    ratio = new.min(-1) / history[:, -1].min(-1)
    return _signs(ratio - tolerance > 1, ratio + tolerance < 1)


def asv(history: Floats, new: Floats, factor: float = 1.1) -> Signs:
    """airspeed-velocity/asv, commands/compare.py and statistics.py, is_different: with raw samples, a two-sided exact
    Mann-Whitney U test at p < 0.002 between the samples of the two runs; and the medians further apart than `factor` (1.1)."""
    before = history[:, -1]
    m, n = before.shape[1], new.shape[1]
    ranks = np.argsort(np.argsort(np.concatenate((before, new), axis=1), axis=1), axis=1)
    wins = ranks[:, m:].sum(1) - n * (n - 1) // 2  # of new over before
    different = np.minimum(wins, m * n - wins) <= mann_whitney_critical(m, n, 0.002)
    old, now = np.median(before, -1), np.median(new, -1)
    return _signs(different & (old < now / factor), different & (now < old / factor))


def mann_whitney_critical(m: int, n: int, p: float) -> int:
    """The largest U whose two-sided p, as asv has it P(U' <= U) + P(U' > mn - U), is below `p`; -1 where there is none."""
    ways = np.zeros(m * n + 1)
    ways[0] = 1  # Gaussian binomial coefficient: the product over i of (1 - q^(n+i)) / (1 - q^i)
    for i in range(1, m + 1):
        ways[n + i:] -= ways[:-(n + i)].copy() if n + i <= m * n else 0
        for u in range(i, m * n + 1):
            ways[u] += ways[u - i]
    below = np.cumsum(ways / ways.sum())
    both = below + np.concatenate(([0.0], below[:-1]))
    return int((both < p).sum()) - 1


def rustc_perf(history: Floats, new: Floats) -> Signs:
    """rust-lang/rustc-perf, site/src/comparison.rs, significance_threshold: relative deltas between neighbours in history,
    sorted; Q1 and Q3 the medians of their lower and upper part; significant where the change to the previous run is at least
    Q3 + 3 (Q3 - Q1)."""
    runs = np.median(history, -1)
    deltas = np.sort(np.abs(runs[:, :-1] - runs[:, 1:]) / runs[:, :-1], axis=1)
    count = deltas.shape[1]
    lower_end, upper_begin = count // 2 - (2 if count % 2 == 0 else 1), count // 2 + 1
    q1, q3 = np.median(deltas[:, :lower_end + 1], 1), np.median(deltas[:, upper_begin:], 1)
    change = np.median(new, -1) / runs[:, -1] - 1
    found = np.abs(change) >= q3 + 3 * (q3 - q1)
    return _signs(found & (change > 0), found & (change < 0))


def conbench(history: Floats, new: Floats, threshold: float = 5.0) -> Signs:
    """conbench/conbench, conbench/entities/history.py: a run's value is the best of its repeats; z is its distance from the
    mean of the history over the standard deviation of each run's residual from the mean of those before it (the first from
    itself); a change where |z| > 5. Its trimming of outliers from later versions is left out."""
    runs, value = history.min(-1), new.min(-1)
    before = np.cumsum(runs, 1)[:, :-1] / np.arange(1, runs.shape[1])
    residuals = np.concatenate((np.zeros_like(runs[:, :1]), runs[:, 1:] - before), axis=1)
    z = (value - runs.mean(1)) / residuals.std(1, ddof=1)
    return _signs(z > threshold, z < -threshold)


def bencher_t(history: Floats, new: Floats, boundary: float = 0.99) -> Signs:
    """bencherdev/bencher, lib/bencher_boundary, the t test: outside mean +- t(boundary, n - 1) * sd * sqrt(1 + 1/n), with the
    population's sd (divided by n); the example's boundary, 0.99."""
    runs, value = history.mean(-1), new.mean(-1)
    n = runs.shape[1]
    reach = t_quantile(boundary, n - 1) * runs.std(1) * math.sqrt(1 + 1 / n)
    return _signs(value > runs.mean(1) + reach, value < runs.mean(1) - reach)


def _signs(slower: NDArray[np.bool_], faster: NDArray[np.bool_]) -> Signs:
    return slower.astype(np.int8) - faster.astype(np.int8)


# ---------------------------------------------------------------------------------------------------- ours


@dataclass(frozen=True, slots=True)
class Limits:
    """bot/regression.py's median and limit of each trial's history, so that many new values are held against them at once."""

    median: Floats
    limit: Floats

    @classmethod
    def of(cls, history: Floats) -> Limits:
        told = [classify(runs, 1.0) for runs in np.median(history, -1).tolist()]
        return cls(np.array([1 / (1 + change.delta) for change in told]), np.array([change.limit for change in told]))

    def side(self, values: Floats) -> Signs:
        ratio = values / self.median
        return _signs(ratio > 1 + self.limit, 1 / ratio > 1 + self.limit)


    @classmethod
    def of_mad(cls, history: Floats, level: float) -> Limits:
        """The limit as such limits often are, with 1.4826 times the median absolute deviation for the spread: what ours was first."""
        logs = np.log(np.median(history, -1))
        middle, n = np.median(logs, 1), logs.shape[1]
        spread = np.maximum(NOISE_FLOOR, 1.4826 * np.median(np.abs(logs - middle[:, None]), 1))
        reach = t_quantile(level, n - 1) * math.sqrt(1 + math.pi / (2 * n)) * spread
        return cls(np.exp(middle), np.expm1(np.maximum(math.log1p(FLOOR), reach)))


@dataclass(frozen=True, slots=True)
class Intervals:
    """bot/regression.py's paired verdict as an interval for each trial; a slowdown moves it as a whole."""

    delta: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, base: Floats, new: Floats) -> Intervals:
        told = [paired(a, b) for a, b in zip(np.median(base, -1).tolist(), np.median(new, -1).tolist(), strict=True)]
        return cls(*(np.array([getattr(each, name) for each in told]) for name in ("delta", "low", "high")))

    def side(self, slowdown: float) -> Signs:
        factor = 1 + slowdown
        middle, low, high = ((1 + part) * factor for part in (self.delta, self.low, self.high))
        return _signs((low > 1) & (middle > 1 + FLOOR), (high < 1) & (1 / middle > 1 + FLOOR))


# ---------------------------------------------------------------------------------------------------- the trial

PEERS: Mapping[str, tuple[Rule, tuple[int, ...]]] = {
    "github-action-benchmark, 200%": (github_action_benchmark, (1,)),
    "github-action-benchmark, 105%": (lambda history, new: github_action_benchmark(history, new, 1.05), (1,)),
    "BenchmarkTools, minima, 5%": (benchmark_tools, (1,)),
    "asv compare, factor 1.1": (asv, (1,)),
    "asv's test alone": (lambda history, new: asv(history, new, 1.0), (1,)),
    "rustc-perf": (rustc_perf, HISTORIES),
    "conbench, z > 5": (conbench, HISTORIES),
    "bencher t, 0.99": (bencher_t, HISTORIES),
}
SINGLE, CONFIRMED, INTERLEAVED = "ours, one run", "ours, with a second run", "ours, interleaved pairs"
MADS = {f"its first draft, MAD at {level}, with a second run": level for level in (0.995, 0.99)}
Key = tuple[str, int]  # a rule, and how many runs (or pairs) it looks back on
Counts = dict[Key, list[list[int]]]  # for each effect: told slower, told faster


def trial(drawn: Drawn) -> Counts:
    """How often each rule tells of a slower and of a faster run, for each slowdown of EFFECTS."""
    told: Counts = {}

    def count(key: Key, signs: Signs) -> None:
        told.setdefault(key, []).append([int((signs > 0).sum()), int((signs < 0).sum())])

    limits = {runs: Limits.of(drawn.last(runs)) for runs in HISTORIES}
    drafts = {(name, runs): Limits.of_mad(drawn.last(runs), level) for name, level in MADS.items() for runs in HISTORIES}
    intervals = {pairs: Intervals.of(drawn.base[:, :pairs], drawn.pairs[:, :pairs]) for pairs in PAIRS}
    for effect in EFFECTS:
        new = drawn.new * (1 + effect)
        for name, (rule, lengths) in PEERS.items():
            for runs in lengths:
                count((name, runs), rule(drawn.last(runs), new[:, 0]))
        first, second = np.median(new[:, 0], -1), np.median(new[:, 1], -1)
        for runs in HISTORIES:
            count((SINGLE, runs), limits[runs].side(first))
            count((CONFIRMED, runs), _agreed(limits[runs], first, second))
            for name in MADS:
                count((name, runs), _agreed(drafts[name, runs], first, second))
        for pairs in PAIRS:
            count((INTERLEAVED, pairs), intervals[pairs].side(effect))
    return told


def _agreed(limits: Limits, first: Floats, second: Floats) -> Signs:
    one, two = limits.side(first), limits.side(second)
    return np.where(one == two, one, 0).astype(np.int8)


def simulate(trials: int, seed: int = SEED) -> dict[str, Counts]:
    """Every world, by its name."""
    found: dict[str, Counts] = {}
    for world in WORLDS:
        rng = np.random.default_rng([seed, WORLDS.index(world)])
        total: dict[Key, NDArray[np.int64]] = {}
        for start in range(0, trials, CHUNK):
            size = min(CHUNK, trials - start)
            drawn = Drawn(*(world.runs(rng, size, runs) for runs in (max(HISTORIES), 2, max(PAIRS), max(PAIRS))))
            for key, counts in trial(drawn).items():
                total[key] = total.get(key, np.zeros((len(EFFECTS), 2), np.int64)) + np.array(counts)
        found[world.name] = {key: counts.tolist() for key, counts in total.items()}
        click.echo(f"{world.name}: {trials} trials", err=True)
    return found


# ---------------------------------------------------------------------------------------------------- what is shown


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927, JASA 22)."""
    z2 = 1.959964**2
    middle, reach = hits + z2 / 2, math.sqrt(z2) * math.sqrt(hits * (trials - hits) / trials + z2 / 4)
    return max(0.0, (middle - reach) / (trials + z2)), min(1.0, (middle + reach) / (trials + z2))


def share(hits: int, trials: int) -> str:
    low, high = (100 * edge for edge in wilson(hits, trials))
    decimals = 2 if hits < trials / 20 else 1
    return f"{100 * hits / trials:.{decimals}f}% ({low:.{decimals}f} to {high:.{decimals}f})"


def named(key: Key) -> str:
    rule, runs = key
    return f"{rule}, {runs}" if rule == INTERLEAVED else rule


def judged_table(counts: Counts, trials: int) -> str:
    """The world of the bars, with binomial intervals."""
    at = [EFFECTS.index(effect) for effect in (0.03, SLOWER, 0.1)]
    rows = [(named(key), "none" if key[0] == INTERLEAVED else str(key[1]), share(seen[0][0], trials), share(seen[0][1], trials),
             *(share(seen[place][0], trials) for place in at)) for key, seen in counts.items()]
    return table_text(("rule", "runs of history", "false alarm", "false praise", "power at +3%", "power at +5%", "power at +10%"), rows,
                      (False, *[True] * 6))


def worlds_table(found: Mapping[str, Counts], trials: int) -> str:
    """Every world: false alarms and power at +5%, as plain percentages."""
    at = EFFECTS.index(SLOWER)
    rows = [(named(key), "none" if key[0] == INTERLEAVED else str(key[1]),
             *(f"{100 * counts[key][0][0] / trials:.2f} / {100 * counts[key][at][0] / trials:.1f}" for counts in found.values()))
            for key in next(iter(found.values()))]
    return table_text(("rule", "runs of history", *found), rows, (False, *[True] * (1 + len(found))))


def bars(counts: Counts, trials: int) -> list[tuple[str, bool]]:
    """What was promised, and whether it was kept: of false alarms the interval's upper end counts, of power its lower end."""
    at = EFFECTS.index(SLOWER)
    confirmed, pairs = counts[CONFIRMED, 10], counts[INTERLEAVED, 6]
    return [
        (f"false alarms with a second run at most {MOST_FALSE:.1%}: {share(confirmed[0][0], trials)}",
         wilson(confirmed[0][0], trials)[1] <= MOST_FALSE),
        (f"power at +5% with a second run at least {LEAST_POWER:.0%}: {share(confirmed[at][0], trials)}",
         wilson(confirmed[at][0], trials)[0] >= LEAST_POWER),
        (f"false alarms of six pairs at most {MOST_FALSE:.1%}: {share(pairs[0][0], trials)}", wilson(pairs[0][0], trials)[1] <= MOST_FALSE),
        (f"power at +5% of six pairs at least {LEAST_PAIRED:.0%}: {share(pairs[at][0], trials)}",
         wilson(pairs[at][0], trials)[0] >= LEAST_PAIRED)]


CURVES: Mapping[Key, str] = {
    (INTERLEAVED, 6): "ours, six pairs", (CONFIRMED, 10): "ours, second run", (SINGLE, 10): "ours, one run",
    ("bencher t, 0.99", 10): "bencher t", ("rustc-perf", 30): "rustc-perf", ("conbench, z > 5", 10): "conbench",
    ("BenchmarkTools, minima, 5%", 1): "BenchmarkTools", ("asv compare, factor 1.1", 1): "asv",
    ("github-action-benchmark, 105%", 1): "github-action 105%"}


def curves(counts: Counts, trials: int) -> Table:
    """Power over the true slowdown, a line for each rule; at 0 it is the false alarm."""
    rows = tuple((name, 100 * effect, 100 * seen[0] / trials)
                 for key, name in CURVES.items() for effect, seen in zip(EFFECTS, counts[key], strict=True))
    return Table("power", "How often a slowdown is told (run-to-run sd 1%, one outlier in twenty)",
                 (Column("rule"), Column("true slowdown", "%"), Column("told slower", "%")), rows,
                 Chart("lines", "true slowdown", "told slower", by="rule"))


def block(found: Mapping[str, Counts], trials: int) -> str:
    """The generated part of docs/significance.md."""
    kept = "\n".join(f"- {'met' if met else 'MISSED'}: {text}" for text, met in bars(found[JUDGED], trials))
    return "\n\n".join((
        f"{trials:,} trials a row, seed {SEED}; each share with its 95% binomial interval. Run-to-run sd 1%, one run in twenty 3% slow, "
        f"{SAMPLES} samples a run:", judged_table(found[JUDGED], trials), "The bars:", kept, f"![{curves(found[JUDGED], trials).title}]"
        f"({PICTURE.name})", "Every model, as false alarms / power at +5%, in percent:", worlds_table(found, trials)))


# ---------------------------------------------------------------------------------------------------- the stored run


def stored(path: Path = RAW) -> tuple[dict[str, Counts], int]:
    """The counts of the run that the page shows, and its trials."""
    plain = json.loads(gzip.decompress(path.read_bytes()))
    return {world: {(row["rule"], row["runs"]): row["told"] for row in rows} for world, rows in plain["worlds"].items()}, plain["trials"]


def raw(found: Mapping[str, Counts], trials: int) -> bytes:
    rows = {world: [{"rule": rule, "runs": runs, "told": told} for (rule, runs), told in counts.items()] for world, counts in found.items()}
    plain = {"trials": trials, "seed": SEED, "effects": EFFECTS, "samples": SAMPLES, "within": WITHIN, "told": ["slower", "faster"],
             "worlds": rows}
    return gzip.compress(json.dumps(plain).encode(), mtime=0)


def write(found: Mapping[str, Counts], trials: int) -> Sequence[Path]:
    """The raw counts, the page's generated part and its picture, in the repository."""
    RAW.write_bytes(raw(found, trials))
    PAGE.write_text(regions.replace(PAGE.read_text(encoding="utf-8"), "significance", block(found, trials)), encoding="utf-8")
    PICTURE.write_bytes(plot.draw(curves(found[JUDGED], trials)))
    return RAW, PAGE, PICTURE


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--trials", type=click.IntRange(10, 1_000_000), default=TRIALS, show_default=True, metavar="N", help="Trials of each model.")
@click.option("--write", "keep", is_flag=True, help="Draw docs/significance.md anew from this run, and keep its counts.")
def main(trials: int, keep: bool) -> None:
    """Hold bot/regression.py against its peers. Prints Markdown; exit code 1 where a bar is missed."""
    if keep and not PAGE.is_file():
        raise click.UsageError("--write works on the repository: run it in the folder that holds README.md and docs/")
    found = simulate(trials)
    click.echo(block(found, trials))
    if keep:
        click.echo("\n".join(map(str, write(found, trials))), err=True)
    if not all(met for _, met in bars(found[JUDGED], trials)):
        sys.exit(1)


if __name__ == "__main__":
    main()
