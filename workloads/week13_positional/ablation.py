"""What the ablation showed, as metrics, tables and notes: each method beside the sliding window, the pass keys, the caches."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workloads import measure
from workloads.lm import Config
from workloads.spec import Cell, Chart, Column, Estimate, Metric, Observed, Table
from workloads.training import Course
from workloads.week13_positional import EXACT, PASSKEY, RATIO
from workloads.week13_positional.protocol import Agreement

JUDGED = "YaRN fine-tuned"
AGAIN = "YaRN fine-tuned again"
CONTROL = "RoPE untouched"
WINDOW = "sliding window"
DRAWN_UP_TO = 1.5  # a bar above this factor would flatten the others; such methods are in the ablation table


@dataclass(slots=True)
class Method:
    """One way to read a long text. `trained` names the training its weights come from; `tuned` its fine-tuning, where it had
    one; `ratios` are per document, to the sliding window of its own untuned weights, on the last tokens of each."""

    name: str
    kind: str
    trained: str
    tuned: Course | None = None
    ratios: tuple[float, ...] = ()
    own: tuple[float, ...] = ()  # the same, to the sliding window of the weights as they are, fine-tuned, under the same positions
    ratio_all: float | None = None
    loss: float | None = None  # nats a token of the last tokens, full context
    loss_short: float | None = None  # and in windows of the trained length under this method's positions
    curve: list[tuple[int, float]] = field(default_factory=list)
    keys: dict[tuple[int, float], list[bool]] = field(default_factory=dict)
    why: str = ""  # it has no numbers

    @property
    def ratio(self) -> Estimate | None:
        return measure.geomean_resampled(self.ratios) if len(self.ratios) >= 6 else None

    def share_found(self, lengths: Sequence[int]) -> tuple[int, int]:
        """Keys found, of how many, at these lengths."""
        hits = [hit for (length, _), found in self.keys.items() if length in lengths for hit in found]
        return sum(hits), len(hits)


@dataclass(frozen=True, slots=True)
class Trained:
    """One training at the trained length: how it went, and what the sliding and the parted window then score (nats a token)."""

    course: Course | None
    sliding: float | None = None
    parted: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    prefill_ms: tuple[float, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Exactness:
    """One method's cached decoding in one precision; `seen` None where it could not run, and `why`."""

    method: str
    precision: str
    seen: Agreement | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """All of a run before it is put into words."""

    config: Config
    length: int
    last: int
    device: str
    trained: Mapping[str, Trained]
    methods: Sequence[Method]
    exactness: Sequence[Exactness]
    ceilings: tuple[Metric, Metric]
    flops_a_token: float
    bytes_per_token: float
    notes: Sequence[str]

    def method(self, name: str) -> Method | None:
        return next((m for m in self.methods if m.name == name), None)

    def bits_a_byte(self, nats: float | None) -> float | None:
        return None if nats is None else nats / math.log(2) / self.bytes_per_token


def observed(seen: Seen) -> Observed:
    metrics: list[Metric] = []
    missing: list[tuple[str, str]] = []
    judged, control, again = (seen.method(name) for name in (JUDGED, CONTROL, AGAIN))
    ratio = judged.ratio if judged else None
    if judged and ratio:
        where = f"{len(judged.ratios)} held-out documents, last {seen.last:,} of {seen.length:,} tokens"
        metrics.append(RATIO.measured(ratio, detail=where))
    else:
        missing.append((RATIO.name, (judged.why if judged else "") or "fewer than 6 documents were scored"))

    exact = [e for e in seen.exactness if e.precision == "fp32"]
    if exact and all(e.seen for e in exact):
        shares = [e.seen.same / e.seen.positions for e in exact if e.seen]
        worst = exact[shares.index(min(shares))]
        assert worst.seen is not None
        which = worst.method if max(shares) > min(shares) else f"all {len(exact)} alike"
        metrics.append(EXACT.measured(measure.share(worst.seen.same, worst.seen.positions), detail=f"{which}, fp32, every position"))
        largest = max(exact, key=lambda e: e.seen.largest if e.seen else 0.0)
        assert largest.seen is not None
        metrics.append(Metric("cache_gap", "largest difference of cached and parallel logits, fp32", "", "lower",
                              measure.exact(largest.seen.largest), largest.method))
    else:
        missing.append((EXACT.name, "not every method could decode from its cache"))

    lengths = _beyond(seen)
    hits, of = judged.share_found(lengths) if judged else (0, 0)
    if of:
        metrics.append(PASSKEY.measured(measure.share(hits, of), detail=f"{' and '.join(f'{n:,}' for n in lengths)} tokens, five depths"))
    else:
        missing.append((PASSKEY.name, (judged.why if judged else "") or "no pass key was asked for"))

    if judged and len(judged.own) >= 6:
        metrics.append(Metric("ratio_own", "8k-context ppl over a 2k window of the same fine-tuned weights", "x", "lower",
                              measure.geomean_resampled(judged.own), "what the longer context alone is worth"))
    if control and control.ratio:
        metrics.append(Metric("control", "negative control: untouched RoPE over the 2k baseline", "x", "lower", control.ratio))
    if judged and again and judged.ratios and again.ratios:
        apart = measure.geomean_resampled([a / b for a, b in zip(judged.ratios, again.ratios, strict=True)])
        floor = 100 * max(apart.high - 1, 1 - apart.low)
        metrics.append(Metric("noise", "noise floor, YaRN fine-tuned twice", "%", "lower", measure.exact(floor),
                              "another order of the same text"))
    metrics += seen.ceilings
    base = seen.trained["rope"]
    if base.course:
        rate = base.course.tokens_per_s
        metrics.append(Metric("train_rate", "training throughput, RoPE", "tok/s", "higher", measure.exact(rate)))
        if seen.device == "cuda":  # a CPU's bf16 ceiling says nothing of its float32
            peak = 1e12 * seen.ceilings[0].estimate.value
            metrics.append(Metric("mfu", "model FLOP/s of the measured matmul ceiling", "%", "higher",
                                  measure.exact(100 * rate * seen.flops_a_token / peak), "causal attention counted half"))
    for method in seen.methods:
        if method.ratio and method.name not in (JUDGED, CONTROL, AGAIN):
            name = "ratio_" + "".join(c if c.isalnum() else "_" for c in method.name.lower())
            metrics.append(Metric(name, f"8k over 2k baseline, {method.name}", "x", "lower", method.ratio))
    return Observed(tuple(metrics), _tables(seen), tuple(seen.notes), tuple(missing))


def _beyond(seen: Seen) -> list[int]:
    """Lengths of pass keys beyond twice the trained length."""
    return sorted({length for m in seen.methods for length, _ in m.keys if length > 2 * seen.config.trained_length})


# ---------------------------------------------------------------------------------------------------- tables


def _tables(seen: Seen) -> tuple[Table, ...]:
    method, position, nats = Column("method"), Column("position", "count"), Column("nats a token")
    ablation = ablation_table(seen)
    drawn = [m for m in seen.methods if m.name != AGAIN and m.ratio and m.ratio.value <= DRAWN_UP_TO]
    above = [m for m in seen.methods if m.ratio and m.ratio.value > DRAWN_UP_TO]
    left_out = f"; not drawn: {len(above)} above {100 * (DRAWN_UP_TO - 1):.0f}%" if above else ""
    judged = seen.method(JUDGED)
    key_columns = (Column("length"), Column("depth"), Column("share found"))
    return (
        Table("by_position", f"Loss by position, zero-shot, trained at {seen.config.trained_length:,} tokens", (method, position, nats),
              tuple(_curves(seen, tuned=False)), Chart("lines", x="position", y="nats a token", by="method")),
        Table("by_position_tuned", f"Loss by position after a short fine-tuning at {seen.length:,} tokens", (method, position, nats),
              tuple(_curves(seen, tuned=True)), Chart("lines", x="position", y="nats a token", by="method")),
        Table("ratios", f"Perplexity at {seen.length:,} against a window of {seen.config.trained_length:,}: below 0 is better{left_out}",
              (method, Column("change", "%"), Column("low"), Column("high")),
              tuple((m.name, *(100 * (end - 1) for end in (r.value, r.low, r.high))) for m in drawn if (r := m.ratio)),
              Chart("bars", x="method", y="change", low="low", high="high", marks=(0.0, 100 * (RATIO.bound - 1)))),
        Table("passkey", f"Pass key, {JUDGED}", key_columns, tuple(_key_cells(judged)),
              Chart("heatmap", x="length", y="share found", by="depth")),
        Table("passkey_lengths", "Pass keys by length, mean over depths", (
            method, Column("length", "count"), Column("share found"), *(Column(f"at {depth:.0%}") for depth in _depths(seen))),
            tuple(_length_cells(seen)), Chart("heatmap", x="length", y="share found", by="method")),
        ablation,
        Table("exactness", "Cached against parallel decoding, every position", (
            method, Column("precision"), position, Column("argmax agrees"), Column("largest difference"), Column("check")),
            tuple((e.method, e.precision, e.seen.positions if e.seen else None, e.seen.same / e.seen.positions if e.seen else None,
                   _finite(e.seen.largest) if e.seen else None, e.why or "done") for e in seen.exactness)))


def ablation_table(seen: Seen) -> Table:
    columns = (
        Column("method"), Column("weights"), Column("trained on", "count"), Column("extra tokens", "count"),
        Column("bits a byte, 8k"), Column("bits a byte, 2k window"), Column("bits a byte, short texts"),
        Column("ratio", "x"), Column("low", "x"), Column("high", "x"), Column("ratio, all tokens", "x"),
        Column("key found, at most 2x"), Column("key found, beyond 2x"), Column("train", "tok/s"), Column("8k prefill, not compiled", "ms"),
        Column("check"))
    rows: list[tuple[Cell, ...]] = []
    lengths = {length for m in seen.methods for length, _ in m.keys}
    beyond = set(_beyond(seen))
    for m in seen.methods:
        base, r = seen.trained[m.trained], m.ratio
        near, far = m.share_found(sorted(lengths - beyond)), m.share_found(sorted(beyond))
        course = m.tuned or base.course
        rows.append((
            m.name, m.trained, _tokens(base.course), _tokens(m.tuned), *map(_finite, map(seen.bits_a_byte, (
                m.loss, base.sliding, m.loss_short))), *((r.value, r.low, r.high) if r else (None, None, None)), _finite(m.ratio_all),
            near[0] / near[1] if near[1] else None, far[0] / far[1] if far[1] else None, course.tokens_per_s if course else None,
            sorted(base.prefill_ms)[len(base.prefill_ms) // 2] if base.prefill_ms else None, m.why or "done"))
    return Table("ablation", "Every method", columns, tuple(rows))


def _tokens(course: Course | None) -> int:
    return len(course.losses) * course.tokens if course else 0


def as_json(table: Table) -> str:
    """A table as a list of objects, one a row, under the names of its columns with their units; gaps are null."""
    names = [f"{c.name} ({c.unit})" if c.unit else c.name for c in table.columns]
    return json.dumps([dict(zip(names, row, strict=True)) for row in table.rows], indent=1, allow_nan=False) + "\n"


def _curves(seen: Seen, *, tuned: bool) -> list[tuple[Cell, ...]]:
    """The sliding window of RoPE beside the methods that were, or were not, fine-tuned."""
    cells: list[tuple[Cell, ...]] = [(WINDOW, place, nats) for place, nats in seen.trained["rope"].curve]
    for m in seen.methods:
        if (m.tuned is not None) == tuned and m.name != AGAIN:
            cells += [(m.name, place, _finite(nats)) for place, nats in m.curve]
    return cells


def _key_cells(judged: Method | None) -> list[tuple[Cell, ...]]:
    return [(f"{length:,}", f"{depth:.0%}", sum(found) / len(found)) for (length, depth), found in judged.keys.items()] if judged else []


def _depths(seen: Seen) -> list[float]:
    return sorted({depth for m in seen.methods for _, depth in m.keys})


def _length_cells(seen: Seen) -> list[tuple[Cell, ...]]:
    cells: list[tuple[Cell, ...]] = []
    for m in seen.methods:
        for length in dict.fromkeys(length for length, _ in m.keys):
            hits, of = m.share_found([length])
            at_depths = (m.keys.get((length, depth)) for depth in _depths(seen))
            cells.append((m.name, length, hits / of, *(sum(found) / len(found) if found else None for found in at_depths)))
    return cells


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
