"""What was seen, as metrics and tables: the ladder of loaders, the judged blocks, the canary, decoders, and duplicates."""

from __future__ import annotations

import gzip
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from workloads import measure
from workloads.spec import Cell, Chart, Column, Estimate, Metric, Observed, Table, Target, percentile, plain_text
from workloads.week03_data import BUSY, DECODED, IDLE, PRECISION, RATIO, RECALL, SAME
from workloads.week03_data.dashboard import Track
from workloads.week03_data.duplicates import Report, curve_gap
from workloads.week03_data.timeline import Step, idle_percent, wall_ms, windows
from workloads.week03_data.usage import Usage

WINDOW = 10
RESIDENT, AGAIN, RING, PEER, HOST = "resident", "resident again", "ring", "nvimagecodec", "webdataset"
HOSTS = ("workers", "turbo", HOST)
TORCHVISION, ONE_CORE = "torchvision", "turbo_one_core"
TITLES = {
    "pil": "PIL in process", "workers": "PIL workers", "turbo": "turbo workers", HOST: "WebDataset turbo", "gpu": "GPU decode",
    "augment": "GPU augment", RING: "ring", PEER: "nvImageCodec ring", RESIDENT: "GPU-resident", AGAIN: "GPU-resident again"}
DECODERS = {TORCHVISION: "torchvision", PEER: "nvImageCodec", ONE_CORE: "libjpeg-turbo on one core"}
FEWEST_BLOCKS = 6


@dataclass(frozen=True, slots=True)
class Rung:
    """One loader: pictures a second alone, and its steps in training. `failed` says why there are none."""

    name: str
    workers: int
    decoder: str
    alone: float | None = None
    steps: Sequence[Step] = ()
    decode_rates: Sequence[float] = ()
    usage: Usage = field(default_factory=Usage)
    failed: str = ""


@dataclass(slots=True)
class Story:
    """All of a run before it is put into words.

    `blocks` holds the judged arms' blocks of steps, `beside` those of the rounds with the peer and the best host loader; `usage` is
    what NVML showed during the ring's judged ones; `engine` the decoder that the ring uses; `errors` mean differences in levels,
    picture by picture; `decoders` milliseconds a batch, sample by sample; `parts` the seconds that each part of the run took.
    """

    device: str
    batch: int
    size: int = 0
    starved: bool = False
    demand: float = 0.0
    turbo_alone: float = 0.0
    shards_mb: float = 0.0
    median_kb: float = 0.0
    rungs: list[Rung] = field(default_factory=list)
    blocks: Mapping[str, list[Sequence[Step]]] = field(default_factory=dict)
    beside: Mapping[str, list[Sequence[Step]]] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    engine: str = TORCHVISION
    parts: list[tuple[str, float]] = field(default_factory=list)
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    decoders: Mapping[str, Sequence[float]] = field(default_factory=dict)
    decoder_batch: int = 0
    canary: Sequence[tuple[str, int, int]] = ()
    duplicates: Report | None = None
    notes: list[str] = field(default_factory=list)

    def over(self, baseline: str, arm: str) -> Estimate | None:
        """How much faster `arm` trains than `baseline`, by blocks that took turns, in the judged rounds where both took part in them;
        None where there are too few."""
        for rounds in (self.blocks, self.beside):
            one, other = ([kept(wall_ms(block) / len(block)) for block in rounds.get(name, ())] for name in (baseline, arm))
            if (whole := min(len(one), len(other))) >= FEWEST_BLOCKS:  # one may have broken in the midst of a round
                return measure.ratio(one[:whole], other[:whole])
        return None

    @property
    def best_host(self) -> str:
        """The fastest in training of the loaders whose host decodes in workers: the baseline."""
        rates = {rung.name: rate(rung.steps, self.batch) for rung in self.rungs if rung.name in HOSTS and rung.steps}
        return max(rates, key=rates.__getitem__, default=HOST)

    def tracks(self) -> dict[str, Track]:
        """What the page shows: every rung, and the ring's judged blocks where there was no time for its rung."""
        shown = {rung.name: Track(TITLES[rung.name], rung.steps, rung.decode_rates, rate(rung.steps, self.batch))
                 for rung in self.rungs if rung.steps}
        if RING not in shown and (steps := [step for block in self.blocks.get(RING, ()) for step in block]):
            shown[RING] = Track(TITLES[RING], steps, (), rate(steps, self.batch))
        return shown


def kept(value: float) -> float:
    """Seven digits: finer than anything measured here."""
    return float(f"{value:.7g}")


def percents(share: Estimate) -> tuple[float, float, float]:
    """A share and its interval in percent."""
    return kept(100 * share.value), kept(100 * share.low), kept(100 * share.high)


def rate(steps: Sequence[Step], batch: int) -> float:
    return 1000 * batch * len(steps) / wall_ms(steps)


def observed(story: Story) -> Observed:
    metrics: list[Metric] = []
    missing: list[tuple[str, str]] = []

    def add(target: Target, found: Estimate | None, why: str, detail: str = "") -> None:
        if found:
            metrics.append(target.measured(found, detail=detail))
        else:
            missing.append((target.name, plain_text(why)))

    where = f"ResNet-18, {story.size} px, batch {story.batch}" if story.device == "cuda" else f"a fixed step, batch {story.batch}"
    steps = [step for block in story.blocks.get(RING, ()) for step in block]
    short = f"the ring was timed over {len(steps)} steps"
    add(RATIO, story.over(RESIDENT, RING), short, f"{where}, {len(steps)} steps")
    idle = [kept(idle_percent(block)) for block in story.blocks.get(RING, ())]
    add(IDLE, measure.mean(idle) if len(idle) >= FEWEST_BLOCKS else None, short, where)
    add(BUSY, measure.mean(story.usage.gpu) if len(story.usage.gpu) > 1 else None, story.usage.unseen or "NVML gave no samples", where)
    ours = story.errors.get(story.engine, ())
    add(DECODED, measure.exact(kept(max(ours))) if ours else None, "no decoded picture was compared",
        f"{len(ours)} pictures, {DECODERS[story.engine]}")
    report = story.duplicates
    image = next((found for found in report.found if found.of == "image"), None) if report else None
    none = "duplicates were not looked for"
    add(PRECISION, image.precision if image else None, "no pair was found" if image else none, "images")
    add(RECALL, image.worst.recall if image else None, none, f"images, {image.worst.edit}" if image else "")
    add(SAME, measure.exact(report.same_signatures[0] / report.same_signatures[1]) if report else None, none,
        f"{report.same_signatures[1]} sets" if report else "")
    metrics += _beside(story, where)
    return Observed(tuple(metrics), tuple(_tables(story)), tuple(map(plain_text, _notes(story))), tuple(missing))


def _beside(story: Story, where: str) -> Iterator[Metric]:
    if again := story.over(RESIDENT, AGAIN):
        yield Metric("noise", "noise floor, GPU-resident data against itself", "%", "lower",
                     measure.exact(kept(100 * max(again.high - 1, 1 - again.low))), where)
    if story.demand:
        yield Metric("demand", "training on GPU-resident data", "img/s", "higher", measure.exact(kept(story.demand)), where)
    host = story.best_host
    for arm, name, text in ((host, "host", f"best host loader, {TITLES[host]},"), (PEER, "peer", "nvImageCodec in the same ring")):
        if found := story.over(RESIDENT, arm):
            yield Metric(f"{name}_ratio", f"{text} over GPU-resident data", "", "higher", found, where)
        if found := story.over(arm, RING):
            yield Metric(f"ring_over_{name}", f"the ring over {text}", "x", "higher", found, where)
    if len(story.usage.jpeg) > 1:
        yield Metric("jpeg_engines", "use of the JPEG engines during train steps, by NVML", "%", "higher", measure.mean(story.usage.jpeg),
                     where)
    if len(waits := [step.wait_ms for block in story.blocks.get(RING, ()) for step in block]) >= 72:
        yield Metric("input_wait_p95", "host wait for a batch of the ring", "ms", "lower", measure.tail(waits, 95), where)
    for name, milliseconds in story.decoders.items():
        yield Metric(f"decode_{name}", f"decoding alone, {DECODERS[name]}", "img/s", "higher",
                     measure.median([kept(1000 * story.decoder_batch / ms) for ms in milliseconds]), f"batch {story.decoder_batch}")
    if {TORCHVISION, PEER} <= story.decoders.keys():
        yield Metric("decode_over_nvimagecodec", "decoding alone, torchvision over nvImageCodec", "x", "higher",
                     measure.ratio(story.decoders[PEER], story.decoders[TORCHVISION]), f"batch {story.decoder_batch}")
    for name, wrong, rounds in story.canary:
        if rounds:
            yield Metric(f"canary_{name}", f"rounds in which {name} decoding overwrote queued work", "", "lower",
                         measure.share(wrong, rounds))
    if report := story.duplicates:
        yield Metric("minhash_speedup", "our MinHash over datasketch, from the same hashes", "x", "higher", report.speedup,
                     "on the GPU" if story.device == "cuda" else "on the CPU")
        yield Metric("s_curve_gap", "LSH candidates, farthest from theory, in standard errors", "", "lower",
                     measure.exact(kept(curve_gap(report.curve))))
        if len(report.leaks) > 1:
            for name, words, gains in (
                    ("leak_inflation", "accuracy that leaked duplicates add, points", [leak.leaky - leak.clean for leak in report.leaks]),
                    ("leak_left", "of which left after MinHash, points", [leak.cleaned - leak.clean for leak in report.leaks])):
                yield Metric(name, words, "%", "lower", measure.mean([kept(gain) for gain in gains]), f"{len(report.leaks)} seeds")
        for captions in report.found:
            if captions.of == "text":
                if captions.precision:
                    yield Metric("text_precision", "share of found caption pairs that were planted", "", "higher", captions.precision)
                yield Metric("text_recall", "share of planted captions found, worst kind of edit", "", "higher", captions.worst.recall,
                             captions.worst.edit)


# ---------------------------------------------------------------------------------------------------- tables


def _tables(story: Story) -> Iterator[Table]:
    rungs = [rung for rung in story.rungs if rung.steps]
    marks = (kept(story.demand), kept(RATIO.bound * story.demand)) if story.demand else ()
    yield Table("ladder", "Pictures trained on, by loader; dashed: the demand, and 90% of it", (
        Column("loader"), Column("workers", "count"), Column("decode"), Column("alone", "img/s"), Column("in training", "img/s"),
        Column("of demand", "%"), Column("input idle", "%"), Column("NVML GPU", "%"), Column("JPEG engines", "%"),
        Column("p95 wait", "ms"), Column("CPU", "%"), Column("train slowdown", "%"), Column("steps", "count"), Column("note")),
        tuple(_ladder_row(story, rung) for rung in story.rungs), Chart("bars", x="loader", y="in training", marks=marks))
    yield Table("input_idle", f"Share of the time in which the GPU waits for input, windows of {WINDOW} steps", (
        Column("loader"), Column("step", "count"), Column("input idle", "%")),
        tuple((TITLES[rung.name], WINDOW * (at + 1), kept(idle_percent(window)))
              for rung in rungs for at, window in enumerate(windows(rung.steps, WINDOW))),
        Chart("lines", x="step", y="input idle", by="loader", marks=(IDLE.bound,)))
    yield Table("timeline", "Where the time of a training step goes", (
        Column("loader"), Column("the GPU"), Column("share", "%"), Column("time a step", "ms")),
        tuple((TITLES[rung.name], part, kept(100 * sum(values) / wall_ms(rung.steps)), kept(statistics.fmean(values)))
              for rung in rungs for part, values in (("at work", [s.busy_ms for s in rung.steps]),
                                                     ("waits for input", [s.idle_ms for s in rung.steps]))),
        Chart("stacked", x="loader", y="share", by="the GPU"))
    yield Table("decoders", "Decoding one batch, nothing else running", (
        Column("decoder"), Column("throughput", "img/s"), Column("mean difference from libjpeg"), Column("worst picture")),
        tuple((DECODERS[name], kept(1000 * story.decoder_batch / statistics.median(milliseconds)),
               *((kept(statistics.fmean(found)), kept(max(found))) if (found := story.errors.get(name)) else (None, None)))
              for name, milliseconds in story.decoders.items()))
    yield Table("canary", "Stream race: rounds in which decoding overwrote memory that queued kernels still read", (
        Column("call"), Column("corrupted", "count"), Column("rounds", "count")), tuple(story.canary))
    if report := story.duplicates:
        yield from _duplicate_tables(report)
    yield Table("parts", "Where the time of this run went", (Column("part"), Column("time", "s")),
                tuple((title, kept(seconds)) for title, seconds in story.parts), Chart("bars", x="part", y="time"))


def _ladder_row(story: Story, rung: Rung) -> tuple[Cell, ...]:
    head: tuple[Cell, ...] = (TITLES[rung.name], rung.workers, rung.decoder, kept(rung.alone) if rung.alone else None)
    if not rung.steps:
        return (*head, *[None] * 9, plain_text(rung.failed))
    gpu, jpeg, cpu = (kept(value) if value is not None else None for value in rung.usage.medians())
    resident = [step.busy_ms for block in story.blocks.get(RESIDENT, ()) for step in block]
    slower = 100 * (statistics.median(s.busy_ms for s in rung.steps) / statistics.median(resident) - 1) if resident else None
    return (*head, kept(rate(rung.steps, story.batch)), kept(100 * rate(rung.steps, story.batch) / story.demand),
            kept(idle_percent(rung.steps)), gpu, jpeg, kept(percentile([s.wait_ms for s in rung.steps], 95)), cpu,
            kept(slower) if slower is not None else None, len(rung.steps), None)


def _duplicate_tables(report: Report) -> Iterator[Table]:
    columns = (Column("edit"), Column("of"), Column("found", "count"), Column("planted", "count"), Column("recall", "%"),
               Column("low", "%"), Column("high", "%"))
    for found in report.found:
        title = f"Planted near-duplicates found, {found.of} shingles, LSH of {found.bands} bands of {found.rows} rows"
        yield Table(f"duplicates_{found.of}", title, columns,
                    tuple((kind.edit, kind.of, kind.found, kind.planted, *percents(kind.recall)) for kind in found.kinds),
                    Chart("bars", x="edit", y="recall", low="low", high="high"))
    yield Table("s_curve", "LSH: share of pairs that become candidates, by Jaccard similarity", (
        Column("similarity"), Column("source"), Column("share", "%"), Column("low", "%"), Column("high", "%")),
        tuple(row for p in report.curve for row in ((kept(p.similarity), "measured", *percents(measure.share(p.hits, p.trials))),
                                                    (kept(p.similarity), "theory", *(kept(100 * p.theory),) * 3))),
        Chart("lines", x="similarity", y="share", by="source", low="low", high="high"))
    yield Table("leakage", "Test accuracy with leaked duplicates, after MinHash, and without those planted", (
        Column("seed", "count"), Column("test", "count"), Column("planted", "count"), Column("removed", "count"), Column("leaky", "%"),
        Column("after MinHash", "%"), Column("clean", "%")),
        tuple((seed, leak.tested, leak.planted, leak.removed, kept(leak.leaky), kept(leak.cleaned), kept(leak.clean))
              for seed, leak in enumerate(report.leaks)))


def _notes(story: Story) -> Iterator[str]:
    yield f"{story.shards_mb:,.0f} MB of JPEG, median {story.median_kb:.0f} kB a picture; page cache warm"
    if story.device == "cuda":
        yield (f"The consumer at {story.size} px asks for {story.demand:,.0f} img/s; turbo workers alone give {story.turbo_alone:,.0f}"
               + ("" if story.starved else ": no input size starves it, so R shows little"))
    if report := story.duplicates:
        ours, theirs = report.per_second
        yield f"MinHash over {report.pictures:,} pictures: {ours:,.0f} sets/s ours, {theirs:,.0f} by datasketch"
    for rung in story.rungs:
        if rung.failed:
            yield f"{TITLES[rung.name]} was not measured: {rung.failed}"
    yield from story.notes


def every_step(story: Story) -> bytes:
    """Every step of every loader, and of the blocks that took turns, as a list in gzipped JSON."""
    steps = [{"loader": rung.name, "part": "ladder", "block": None, "step": at, **asdict(step)}
             for rung in story.rungs for at, step in enumerate(rung.steps)]
    steps += [{"loader": arm, "part": part, "block": number, "step": at, **asdict(step)}
              for part, rounds in (("judged", story.blocks), ("beside", story.beside))
              for arm, blocks in rounds.items() for number, block in enumerate(blocks) for at, step in enumerate(block)]
    return gzip.compress(json.dumps(steps).encode(), mtime=0)
