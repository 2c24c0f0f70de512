"""What a run saw of the engines, put into metrics and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from workloads import measure
from workloads.spec import Cell, Chart, Column, Estimate, Metric, Observed, Table, percentile, plain_text
from workloads.week10_serving import EMBEDDING, IMAGE, PARITY, SHAPED, THROUGHPUT, TPOT, TTFT, WORKLOAD
from workloads.week10_serving.client import Load
from workloads.week10_serving.engines import Agreement
from workloads.week10_serving.goals import Goal, judge

STATIC = "generate, best static batch"
CONTINUOUS = "transformers continuous batching"
VLLM = "vLLM"
COMPILED = "generate, static cache + compile"
GATEWAY = "gateway"
JUDGED_SHARE = 0.75
GOAL = Goal(ttft_ms=TTFT.bound, tpot_ms=TPOT.bound)
IMAGE_GOAL = Goal(ttft_ms=IMAGE.bound, tpot_ms=math.inf)
BUSY = 0.9  # a client beyond this share of its core may be what is measured


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine on the list of requests, `at_once` of them in its hands: `tokens` in each of `seconds`; `identical` tokens to the
    static batch's, of all; the busiest load client's share of one core, where there are clients."""

    engine: str
    policy: str
    at_once: int
    tokens: int
    seconds: tuple[float, ...]
    identical: tuple[int, int]
    failed: str = ""
    client_busy: float | None = None

    @property
    def rates(self) -> list[float]:
        return [float(f"{self.tokens / seconds:.7g}") for seconds in self.seconds]

    def line(self) -> str:
        return f"{self.engine}, {self.policy}: {percentile(self.rates, 50):.0f} tok/s" if self.seconds else f"{self.engine}: {self.failed}"


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One engine under one load, at `rate` requests a second: from users who wait for their answers ("closed"), or by a schedule."""

    engine: str
    arrivals: Literal["closed", "open"]
    share: float
    rate: float
    load: Load

    @property
    def tokens_a_second(self) -> float:
        return sum(one.tokens for one in self.load.answered) / self.load.wall_s

    def line(self) -> str:
        first = [one.ttft_ms for one in self.load.answered]
        seen = f"first token p95 {percentile(first, 95):.1f} ms" if first else "no answer"
        return f"{self.engine} at {self.rate:.1f} requests/s: {seen}, {self.load.errors} errors"


@dataclass(frozen=True, slots=True)
class Decoding:
    """What a step of decoding reads: the weights once, and `length` tokens of cache, on average, for each request."""

    weight_bytes: int
    cache_bytes_a_token: int
    length: float

    def bound(self, gb_a_second: float, batch: int) -> float:
        """Tokens a second that a bandwidth lets through, with `batch` requests a step."""
        return batch * gb_a_second * 1e9 / (self.weight_bytes + batch * self.length * self.cache_bytes_a_token)


@dataclass(slots=True)
class Story:
    """What was seen so far. `missed` has, by target, why nothing was measured for it."""

    device: Literal["cuda", "cpu"]
    model: str
    ceilings: Sequence[Metric] = ()
    engine: str = ""
    decoding: Decoding | None = None
    engines: list[EngineRow] = field(default_factory=list)
    blocks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    agreement: dict[str, Agreement] = field(default_factory=dict)
    joules: dict[str, float] = field(default_factory=dict)
    loads: list[LoadRow] = field(default_factory=list)
    images: list[LoadRow] = field(default_factory=list)
    embedding_error: float | None = None
    shaped: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    shaped_tokens: int = 0
    shaped_batch: int = 0
    shaped_busy: float = 0.0
    missed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def miss(self, why: str, *targets: str) -> None:
        for target in targets:
            self.missed.setdefault(target, plain_text(why))


def observed(story: Story) -> Observed:
    metrics = [*_targets(story), *story.ceilings]
    if story.blocks:
        static, engine, again = (story.blocks[name] for name in (STATIC, story.engine, f"{story.engine} again"))
        metrics.append(Metric("noise", "the engine beside itself", "x", "higher", measure.noise(engine, again), story.engine))
        if story.engine != VLLM:
            metrics.append(Metric("other_ratio", "output tok/s of the other engine over the best static batch", "x", "higher",
                                  measure.ratio(static, engine), story.engine))
    for name, joules in story.joules.items():
        metrics.append(Metric("energy_static" if name == STATIC else "energy_engine", "energy of 1,000 output tokens", "J", "lower",
                              measure.exact(float(f"{joules:.7g}")), name))
    made = {metric.name for metric in metrics}
    missing = tuple((t.name, story.missed.get(t.name, "the run did not come to it")) for t in WORKLOAD.targets if t.name not in made)
    tables = tuple(table for table in (_engines(story), _latency(story), _images(story), _shaped(story)) if table)
    return Observed(tuple(metrics), tables, tuple(_notes(story)), missing)


def _targets(story: Story) -> list[Metric]:
    """Only vLLM's numbers, and Triton's: another engine's are rows of the tables."""
    found = []
    if story.engine == VLLM and story.blocks:
        found.append(THROUGHPUT.measured(measure.ratio(story.blocks[STATIC], story.blocks[VLLM]), detail=story.model))
        agreement = story.agreement[VLLM]
        found.append(PARITY.measured(measure.share(agreement.right, agreement.total), detail=story.model))
    row = _judged(story.loads, VLLM)
    if row and (first := tail(row.load, "ttft_ms")) and (each := tail(row.load, "tpot_ms")):
        found += [TTFT.measured(first, detail=story.model), TPOT.measured(each, detail=story.model)]
    if VLLM in story.shaped:
        found.append(SHAPED.measured(measure.ratio(story.shaped[STATIC], story.shaped[VLLM])))
    row = _judged(story.images, "Triton, http")
    if row and (whole := tail(row.load, "e2e_ms")):
        found.append(IMAGE.measured(whole, detail="ViT-B/16, 224 x 224, HTTP"))
    if story.embedding_error is not None:
        found.append(EMBEDDING.measured(measure.exact(float(f"{story.embedding_error:.7g}"))))
    return found


def _judged(rows: Sequence[LoadRow], engine: str) -> LoadRow | None:
    return next((row for row in rows if row.engine == engine and row.arrivals == "open" and row.share == JUDGED_SHARE), None)


def tail(load: Load, of: Literal["ttft_ms", "tpot_ms", "e2e_ms"]) -> Estimate | None:
    """p95 with its interval, whose upper end is the binomial rule; None for too few requests. A request that failed counts as
    slower than any: a lost one must not make a tail look short."""
    samples = [getattr(one, of) for one in load.answered]
    if len(load.served) < 72 or not samples:
        return None
    worst = 2 * max(*samples, 1000.0 * load.wall_s)
    return measure.tail([*samples, *[worst] * load.errors], 95)


def _engines(story: Story) -> Table | None:
    if not story.engines:
        return None
    rows: list[tuple[Cell, ...]] = []
    static = next((row for row in story.engines if row.engine == STATIC), None)
    base = percentile(static.rates, 50) if static else None
    copy = next((metric.estimate.value for metric in story.ceilings if metric.name == "ceiling_copy"), None)
    for row in story.engines:
        rate = percentile(row.rates, 50) if row.seconds else None
        bound = story.decoding.bound(copy, row.at_once) if story.decoding and copy else None
        same, total = row.identical
        agreed = story.agreement.get(row.engine)
        rows.append((row.engine, row.policy, rate, rate / base if rate and base else None, 100 * rate / bound if rate and bound else None,
                     100 * same / total if total else None,
                     100 * agreed.share if agreed else None, float(f"{agreed.worst_nats:.3g}") if agreed else None,
                     story.joules.get(row.engine), len(row.seconds), _percent(row.client_busy), row.failed or "ok"))
    if story.device == "cuda" and story.engine != VLLM:
        rows.append((VLLM, None, None, None, None, None, None, None, None, 0, None, story.missed.get(THROUGHPUT.name, "did not run")))
    return Table("engines", plain_text(f"The same requests through every engine, {story.model}"), (
        Column("engine"), Column("batching"), Column("output", "tok/s"), Column("over static", "x"),
        Column("of the bandwidth bound", "%"), Column("identical to static", "%"), Column("within a tie of float32", "%"),
        Column("worst token in nats"), Column("energy of 1000 tokens", "J"), Column("blocks", "count"),
        Column("busiest client", "%"), Column("state")),
        tuple(rows), Chart("bars", "engine", "output"))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _latency(story: Story) -> Table | None:
    if not story.loads:
        return None
    return Table("latency", plain_text(f"Streaming at shares of capacity, {story.model}"), (
        Column("engine"), Column("arrivals"), Column("share of capacity", "%"), Column("requests a second"), Column("output", "tok/s"),
        Column("first token p50", "ms"), Column("first token p95", "ms"), Column("first token p99", "ms"),
        Column("each token p50", "ms"), Column("each token p95", "ms"), Column("whole p95", "ms"), Column("errors", "count"),
        Column("good requests a second"), Column("p95 goal"), Column("busiest client", "%")),
        tuple(_load_cells(row) for row in story.loads),
        Chart("lines", "requests a second", "first token p95", by="engine", marks=(TTFT.bound,)))


def _load_cells(row: LoadRow) -> tuple[Cell, ...]:
    verdict = judge(GOAL, row.load.served)
    under_load = row.arrivals == "open"  # users who wait for their answers show capacity; no goal is meant for them
    return (row.engine, row.arrivals, 100 * row.share, row.rate, row.tokens_a_second,
            *(_at(row, "ttft_ms", p) for p in (50, 95, 99)), *(_at(row, "tpot_ms", p) for p in (50, 95)), _at(row, "e2e_ms", 95),
            row.load.errors, verdict.goodput if under_load else None,
            f"{verdict.misses} of {verdict.trials} missed it: {'kept' if verdict.claimed else 'not shown'}" if under_load else None,
            100 * row.load.client_busy)


def _at(row: LoadRow, of: Literal["ttft_ms", "tpot_ms", "e2e_ms"], percent: int) -> float | None:
    """A gap for the load that shows capacity: whoever waits for an answer before asking again never sees a queue grow."""
    samples = [getattr(one, of) for one in row.load.answered]
    return percentile(samples, percent) if samples and row.arrivals == "open" else None


def _images(story: Story) -> Table | None:
    if not story.images:
        return None
    rows = []
    for row in story.images:
        verdict = judge(IMAGE_GOAL, row.load.served)
        rows.append((row.engine, row.arrivals, 100 * row.share, row.rate, *(_at(row, "e2e_ms", p) for p in (50, 95, 99)),
                     row.load.errors, verdict.goodput if row.arrivals == "open" else None, 100 * row.load.client_busy))
    return Table("images", "Images through Triton, ViT-B/16 in bf16, one image a request", (
        Column("protocol"), Column("arrivals"), Column("share of capacity", "%"), Column("rate", "img/s"), Column("p50", "ms"),
        Column("p95", "ms"), Column("p99", "ms"), Column("errors", "count"), Column("good images a second"), Column("busiest client", "%")),
        tuple(rows), Chart("lines", "share of capacity", "p95", by="protocol", marks=(IMAGE.bound,)))


def _shaped(story: Story) -> Table | None:
    if not story.shaped:
        return None
    names = {STATIC: f"generate, static batch of {story.shaped_batch}"}
    rows = tuple((names.get(name, name), percentile([story.shaped_tokens / s for s in seconds], 50), len(seconds),
                  _percent(story.shaped_busy) if name == VLLM else None) for name, seconds in story.shaped.items())
    return Table("shaped", f"Random weights of the shape of Llama-8B, {story.shaped_batch} requests", (
        Column("engine"), Column("output", "tok/s"), Column("blocks", "count"), Column("busiest client", "%")),
        rows, Chart("bars", "engine", "output"))


def _notes(story: Story) -> list[str]:
    notes = list(story.notes)
    shares = [*(row.load.client_busy for row in (*story.loads, *story.images)), *(row.client_busy or 0.0 for row in story.engines),
              story.shaped_busy]
    if busy := sum(share > BUSY for share in shares):
        notes.append(f"A load client was busy for more than {BUSY:.0%} of its core in {busy} of the rows: it may be what they measure")
    return [plain_text(note) for note in notes]
