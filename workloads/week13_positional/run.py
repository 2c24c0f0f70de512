"""Week 13's measurement: three decoders trained alike, stretched to four times their length, and read token by token.

What to expect is in the package's docstring. RoPE, ALiBi and NoPE are trained on the same batches, as many as the time allows, the
rivals on the first half of RoPE's, for all that is judged and five of the seven methods rest on RoPE's weights. Each method is asked
the same three questions: the loss of the same target tokens as under the sliding window, pass keys, and cached against parallel
decoding. A run that is stopped loses everything, so what is judged comes first: RoPE's training and the judged fine-tuning, then
the rivals, all methods zero-shot, the caches, and the other fine-tunings while there is time. What cannot run, does not fit in
memory or finds no time left is a row that says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from workloads import corpus, lm, machine, measure
from workloads.lm import Config, Decoder, Position, PositionKind
from workloads.spec import Context, Observed, plain_text
from workloads.training import Course, Recipe, Trainer, attention_kernel, autocast, steps_within
from workloads.week13_positional.ablation import (
    AGAIN,
    CONTROL,
    JUDGED,
    Exactness,
    Method,
    Seen,
    Trained,
    ablation_table,
    as_json,
    observed,
)
from workloads.week13_positional.protocol import Rows, agreement, by_position, keys_found, parted, ratios, strided, trials, whole

T = TypeVar("T")

TRAINED: tuple[PositionKind, ...] = ("rope", "alibi", "none")
ZERO_SHOT: tuple[tuple[str, PositionKind, PositionKind], ...] = (  # name, positions, whose weights
    (CONTROL, "rope", "rope"), ("PI", "pi", "rope"), ("NTK-aware", "ntk", "rope"), ("dynamic NTK", "dynamic", "rope"),
    ("YaRN", "yarn", "rope"), ("ALiBi", "alibi", "alibi"), ("NoPE", "none", "none"))
FINE_TUNED: tuple[tuple[str, PositionKind], ...] = (  # the judged one and its noise first
    (JUDGED, "yarn"), (AGAIN, "yarn"), ("PI fine-tuned", "pi"), ("NTK-aware fine-tuned", "ntk"), ("RoPE fine-tuned", "rope"))
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
KEY_SHARE = 1 / 2  # rows of training batches that hold pass keys
REPEAT_SHARE = 1 / 2  # and rows that say an eighth of themselves twice
JUDGED_KEYS = 4  # times as many trials for the judged method: its share is held to a bound by the low end of its interval
RIVAL_SHARE = 1 / 2  # steps of ALiBi's and NoPE's training, of RoPE's
TUNE_SHARE = 0.08  # fine-tuning steps, of the training's
PACE_STEPS = 20
LEAST_TRAIN_S = 45.0  # however late it is
NO_TIME = "no time left"
LATE = 1.3  # a training may take so many times what its pace promised


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: the full run on a GPU, or the smoke test on a CPU."""

    config: Config
    stretch: int  # the long text, in trained lengths
    stride: int
    batch: int
    learning_rate: float
    tune_rate: float
    train_s: float  # for all trainings together, at most
    tune_s: float  # for all fine-tunings together
    most_steps: int
    most_bytes: int | None  # of text, a package
    documents: int
    key_lengths: tuple[float, ...]  # in trained lengths
    keys: int  # trials for each length and depth, JUDGED_KEYS times as many for the judged method; together a multiple of at_once
    at_once: int  # long rows through a network at a time
    after_s: float  # what everything after the trainings takes; half of it is what follows the last of them and is not optional
    end_s: float  # from here on nothing is begun


# On an H200: 23 ms a step of 32k tokens, so 163M tokens for RoPE. A batch of 64k would halve the steps, and steps are what
# copying takes to be learnt.
FULL_SIZES = Sizes(Config(), stretch=4, stride=256, batch=16, learning_rate=1e-3, tune_rate=3e-4, train_s=260.0, tune_s=75.0,
                   most_steps=6000, most_bytes=30_000_000, documents=160, key_lengths=(1.0, 1.5, 2.0, 3.0, 4.0), keys=8, at_once=8,
                   after_s=205.0, end_s=485.0)
SMOKE_SIZES = Sizes(Config(width=32, layers=1, heads=2, trained_length=64), stretch=4, stride=32, batch=4, learning_rate=1e-2,
                    tune_rate=3e-3, train_s=0.5, tune_s=0.5, most_steps=40, most_bytes=25_000, documents=8,
                    key_lengths=(1.0, 3.0), keys=1, at_once=8, after_s=30.0, end_s=600.0)


def run(ctx: Context) -> Observed:
    sizes = SMOKE_SIZES if ctx.smoke else FULL_SIZES
    if ctx.batch is not None:
        sizes = replace(sizes, batch=ctx.batch)
    return Laboratory(ctx, sizes).observe()


def _share_of(steps: int) -> int:
    """A rival's."""
    return max(1, round(RIVAL_SHARE * steps))


class Laboratory:
    """One run: the text, what is trained on it, and what is seen."""

    def __init__(self, ctx: Context, sizes: Sizes) -> None:
        self.ctx, self.sizes, self.began = ctx, sizes, time.monotonic()
        self.config = sizes.config
        self.length = sizes.stretch * self.config.trained_length
        measure.lone_thread(ctx.device)
        torch.set_float32_matmul_precision("high")
        if ctx.device == "cuda":  # importing the compiler takes seconds
            torch._dynamo.config.recompile_limit = 64  # one block serves every length, batch and kind of position
        self.text, seconds = measure.seconds(partial(corpus.load, most_bytes=sizes.most_bytes))
        ctx.progress(f"{len(self.text.stream) / 1e6:.1f}M tokens to train on, {len(self.text.held_out)} held-out documents, "
                     f"in {seconds:.0f} s")
        rows = self.text.long_documents(self.length + 1, sizes.documents)
        next(self._batches(self.length, 0))  # too little text to fine-tune on is said before anything is trained
        self.rows = torch.from_numpy(rows).to(ctx.device)
        self.filler: Rows = rows[:, :self.length]
        self.weights: dict[str, Mapping[str, Tensor]] = {}
        self.sliding: dict[str, Tensor] = {}  # nats of each target by whose weights, under the sliding window
        self.reader = Decoder(self.config).to(ctx.device).eval()  # uncompiled, since it meets many shapes; takes over others' weights
        self.notes: list[str] = []
        self.trainers: dict[PositionKind, Trainer] = {}
        self.tuner: Trainer | None = None
        self.no_tuner = ""  # why there is none
        self.pace: dict[str, float] = {}  # seconds a step
        self.trained: dict[str, Trained] = {}
        self.took: dict[str, float] = {}  # seconds, by sort of work

    def observe(self) -> Observed:
        ceilings = machine.ceilings(self.ctx.device)
        self.ctx.progress("measured ceilings: " + ", ".join(f"{m.estimate.value:.4g} {m.unit}" for m in ceilings))
        with attention_kernel(self.ctx.device, self.config, self.sizes.batch, self.ctx.progress) as kernel:
            self.notes.append(f"Attention kernel: {kernel}")
            for kind in TRAINED:
                self._prepare(kind)
            steps = self._steps()
            self._train("rope", steps)
            self._prepare_tuning()
            (name, position), *others = FINE_TUNED
            tuned = [self._fine_tune(name, position)]
            for kind in TRAINED[1:]:
                self._train(kind, _share_of(steps))
            methods = [self._zero_shot(*method) for method in ZERO_SHOT]
            exactness = self._exactness()
            tuned += [self._fine_tune(name, position) for name, position in others]
        trained, methods = self.trained, methods + tuned
        config = self.config
        self.notes += [
            f"Network: width {config.width}, layers {config.layers}, heads {config.heads}, "
            f"{lm.parameters(self.reader) / 1e6:.1f}M parameters, "
            f"trained at {config.trained_length:,} tokens in {'bf16 autocast' if self.ctx.device == 'cuda' else 'float32'} with AdamW",
            f"Text: Python sources of installed packages, split by package, {len(self.text.stream) / 1e6:.1f}M tokens to train on; "
            f"sha256 {self.text.manifest.sha256[:16]}, all of it in corpus.json",
            *self._unpinned(),
            "Trained on, in tokens: " + ", ".join(
                f"{kind} {len(found.course.losses) * found.course.tokens / 1e6:.1f}M" for kind, found in trained.items() if found.course),
            "The rivals saw the first half of the batches of RoPE: compare them by ratios, each to its own window, and not by bits a byte",
            f"{REPEAT_SHARE:.0%} of the training rows say an eighth of themselves twice; held-out text is as it was written",
            f"{KEY_SHARE:.0%} of the training rows hold pass keys within their own length: the skill is taught at "
            f"{config.trained_length:,} tokens, and beyond that in fine-tuning alone",
            f"The baseline slides a window of {config.trained_length:,} by {self.sizes.stride}; a method is compared with that of its own "
            f"weights before fine-tuning, on the last {config.trained_length:,} targets of each document",
            "The judged one is compared with that of its own fine-tuned weights too, since training on may help at any length",
            "Cached keys are rotated; dynamic NTK keeps the frequencies that the whole cache needs"]
        seen = Seen(config, self.length, config.trained_length, self.ctx.device, trained, methods, exactness, ceilings,
                    lm.flops_a_token(config, config.trained_length), self.text.bytes_per_token, tuple(map(plain_text, self.notes)))
        (self.ctx.out / "corpus.json").write_text(self.text.manifest.json(), encoding="utf-8")
        (self.ctx.out / "ablation.json").write_text(as_json(ablation_table(seen)), encoding="utf-8")
        return observed(seen)

    def _unpinned(self) -> list[str]:
        if not corpus.CONSTRAINTS.exists():
            return ["Text: no constraints.txt here, so its versions are not held against the pins"]
        other = self.text.manifest.unpinned(corpus.CONSTRAINTS.read_text(encoding="utf-8"))
        return [f"Text: other versions than constraints.txt pins of {', '.join(other)}" if other else "Text: as constraints.txt pins it"]

    def _about(self, what: str) -> Callable[[str], None]:
        return lambda line: self.ctx.progress(f"{what}: {line}")

    def _left_s(self) -> float:
        return self.began + self.sizes.end_s - time.monotonic()

    # ------------------------------------------------------------------------------------------------ training

    def _prepare(self, kind: PositionKind) -> None:
        """A compiled trainer and its pace; RoPE must have one."""
        position = Position(kind)
        try:
            trainer = self._trainer(replace(self.config, position=position), position, self.config.trained_length)
            course = trainer.train(self._batches(self.config.trained_length, 99), Recipe(PACE_STEPS, self.sizes.learning_rate))
        except RuntimeError as error:  # also torch's OutOfMemoryError, and what its compiler raises
            if kind == "rope":
                raise
            self.trained[kind] = Trained(None, why=self._excuse(kind, error))
            return
        self.trainers[kind], self.pace[kind] = trainer, course.seconds / course.timed
        self.ctx.progress(f"{kind}: {1000 * self.pace[kind]:.1f} ms a step of {course.tokens:,} tokens")

    def _steps(self) -> int:
        """As many for RoPE as fit what time there is, together with the rivals' share of them."""
        sizes = self.sizes
        budget_s = min(sizes.train_s, max(LEAST_TRAIN_S, self._left_s() - sizes.after_s))
        paces = [pace if kind == "rope" else RIVAL_SHARE * pace for kind, pace in self.pace.items()]
        steps = steps_within(budget_s, paces, sizes.most_steps)
        self.ctx.progress(f"{steps} steps for RoPE and {_share_of(steps)} for each rival, in {steps * sum(paces):.0f} s")
        return steps

    def _train(self, kind: PositionKind, steps: int) -> None:
        """From the common seed on the common batches; a rival only if it can finish."""
        trainer = self.trainers.pop(kind, None)
        if trainer is None:  # and self.trained says why
            return
        sizes, expected_s = self.sizes, steps * self.pace[kind]
        allowed_s = LATE * expected_s + 5
        if kind != "rope":
            allowed_s = min(allowed_s, self._left_s() - sizes.after_s / 2)
            if allowed_s < expected_s:  # a training cut short would not have had its learning rate lowered
                self.trained[kind] = Trained(None, why=NO_TIME)
                return
        trainer.restart(self.ctx.seed)
        course = trainer.train(self._batches(self.config.trained_length, self.ctx.seed), Recipe(steps, sizes.learning_rate),
                               until=time.monotonic() + allowed_s, progress=self._about(kind))
        self.weights[kind] = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        del trainer
        measure.free(self.ctx.device)
        try:
            self.trained[kind] = self._baseline(kind, course)
        except RuntimeError as error:
            if kind == "rope":
                raise
            self.trained[kind] = Trained(None, why=self._excuse(kind, error))

    def _trainer(self, config: Config, position: Position, length: int) -> Trainer:
        model = Decoder(config, self.ctx.seed).to(self.ctx.device)
        on_gpu = self.ctx.device == "cuda"
        if on_gpu:
            model.compile_blocks()
        return Trainer(model, lm.places(config, length, self.ctx.device, position), compiled=on_gpu)

    def _batches(self, length: int, seed: int) -> Iterator[Rows]:
        """As many tokens a step at any length; beyond the trained length, from within single documents."""
        config = self.config
        rows = max(1, self.sizes.batch * config.trained_length // length)
        windows = self.text.windows(length, rows, seed, whole=length > config.trained_length)
        return corpus.with_keys(corpus.with_repeats(windows, REPEAT_SHARE, seed), KEY_SHARE, seed)

    def _baseline(self, kind: PositionKind, course: Course) -> Trained:
        """What these weights score without ever leaving the trained length, and how long they take over a long prompt."""
        model, window, last = self._reading(kind), self.config.trained_length, self.config.trained_length
        nats = strided(model, self.rows, window, self.sizes.stride, at_once=self.sizes.at_once, position=Position(kind))
        self.sliding[kind] = nats
        apart = parted(model, self.rows, window, at_once=self.sizes.at_once, position=Position(kind))
        at = lm.places(self.config, self.length, self.ctx.device, Position(kind))

        def prefill() -> Tensor:
            with torch.no_grad(), autocast(self.rows.device):
                return model.hidden(self.rows[:1, :-1], at)

        times = measure.time_interleaved({"prefill": prefill}, device=self.ctx.device, mode="latency", blocks=6, block_ms=5.0,
                                         warmup_s=0.0 if self.ctx.smoke else 0.5)
        found = Trained(course, float(nats[:, -last:].mean()), float(apart[:, -last:].mean()), tuple(by_position(nats, self._bucket)),
                        times["prefill"])
        self.ctx.progress(f"{kind}: sliding window {found.sliding:.4f} nats a token, parted {found.parted:.4f}, "
                          f"{course.tokens_per_s:,.0f} tokens/s")
        return found

    @property
    def _bucket(self) -> int:
        return self.config.trained_length // 4

    # ------------------------------------------------------------------------------------------------ methods

    def _timely(self, what: str, work: Callable[[], T]) -> T | None:
        """What `work` returns, or None where it would take longer than is left, as long as the last of its sort (`what`) took."""
        if self._left_s() < self.took.get(what, 0.0):
            return None
        value, self.took[what] = measure.seconds(work)
        return value

    def _zero_shot(self, name: str, kind: PositionKind, weights: PositionKind) -> Method:
        method = Method(name, kind, weights)
        if self.trained[weights].course is None:
            method.why = self.trained[weights].why
            return method
        position = lm.stretched(self.config, kind, self.length)
        asked = self._timely("zero-shot", lambda: self._ask(method, self._reading(weights), position, self.sizes.keys))
        return asked or replace(method, why=NO_TIME)

    def _prepare_tuning(self) -> None:
        """A compiled trainer for the long length, and its pace."""
        position = lm.stretched(self.config, "yarn", self.length)
        try:
            tuner = self._trainer(self.config, position, self.length)
            course = tuner.train(self._batches(self.length, 99), Recipe(8, self.sizes.tune_rate))
        except RuntimeError as error:
            self.no_tuner = self._excuse("fine-tuning", error)
            return
        self.tuner, self.pace["tuning"] = tuner, course.seconds / course.timed
        self.ctx.progress(f"fine-tuning: {1000 * self.pace['tuning']:.1f} ms a step of {course.tokens:,} tokens")

    def _fine_tune(self, name: str, kind: PositionKind) -> Method:
        """A short training at the long length from RoPE's weights, and its answers; one network and one compiled block for all."""
        method = Method(name, kind, "rope")
        return self._timely("fine-tuning", lambda: self._tuned(method, lm.stretched(self.config, kind, self.length))) or \
            replace(method, why=NO_TIME)

    def _tuned(self, method: Method, position: Position) -> Method:
        sizes, judged, tuner, base = self.sizes, method.name == JUDGED, self.tuner, self.trained["rope"].course
        assert base is not None, "RoPE is trained, or the run has failed"
        if tuner is None:
            return replace(method, why=self.no_tuner)
        pace = self.pace["tuning"]
        try:
            most = min(sizes.most_steps, max(4, round(TUNE_SHARE * len(base.losses))))
            steps = steps_within(sizes.tune_s, [pace] * len(FINE_TUNED), most)
            tuner.model.load_state_dict(self.weights["rope"])
            tuner.forget()
            tuner.at = lm.places(self.config, self.length, self.ctx.device, position)
            batches = self._batches(self.length, 1001 if method.name == AGAIN else 1000)
            method.tuned = tuner.train(batches, Recipe(steps, sizes.tune_rate), until=time.monotonic() + 2 * steps * pace + 5,
                                       progress=self._about(method.name))
        except RuntimeError as error:
            return replace(method, why=self._excuse(method.name, error))
        self.weights[method.name] = {key: value.clone() for key, value in tuner.model.state_dict().items()}
        return self._ask(method, self._reading(method.name), position, sizes.keys * (JUDGED_KEYS if judged else 1))

    def _reading(self, weights: str) -> Decoder:
        """The uncompiled network with these weights."""
        self.reader.load_state_dict(self.weights[weights])
        return self.reader

    def _ask(self, method: Method, model: Decoder, position: Position, keys: int) -> Method:
        """`method` with what it scores on the long documents and on pass keys."""
        sizes, last = self.sizes, self.config.trained_length
        baseline = self.sliding[method.trained]
        try:
            nats = whole(model, self.rows, position, at_once=sizes.at_once)
            method.ratios, method.loss = ratios(nats, baseline, last), float(nats[:, -last:].mean())
            method.ratio_all = float((nats - baseline).double().mean().exp())
            method.curve = by_position(nats, self._bucket)
            short = parted(model, self.rows, last, at_once=sizes.at_once, position=position)
            method.loss_short = float(short[:, -last:].mean())
            if method.name == JUDGED:
                method.own = ratios(nats, strided(model, self.rows, last, sizes.stride, at_once=sizes.at_once, position=position), last)
            lengths = [round(n * self.config.trained_length) for n in sizes.key_lengths]
            asked = trials(self.filler, lengths, DEPTHS, keys)
            for trial, hit in zip(asked, keys_found(model, asked, position, at_once=sizes.at_once), strict=True):
                method.keys.setdefault((trial.length, trial.depth), []).append(hit)
        except RuntimeError as error:
            method.why = self._excuse(method.name, error)
            return method
        ratio, (hits, of) = method.ratio, method.share_found(lengths)
        how = f"{ratio.value:.4f}x the baseline, {ratio.low:.4f} to {ratio.high:.4f}" if ratio else "too few documents"
        self.ctx.progress(f"{method.name}: {how}, {hits} of {of} pass keys")
        return method

    # ------------------------------------------------------------------------------------------------ exact decoding

    def _exactness(self) -> list[Exactness]:
        """Every method's cached decoding over one long document, in float32 without TF32, and the judged one's in bf16 too."""
        asked: list[tuple[str, PositionKind, str, str]] = [(name, kind, weights, "fp32") for name, kind, weights in ZERO_SHOT]
        asked += [(JUDGED, "yarn", JUDGED, precision) for precision in ("fp32", "bf16")]
        found: list[Exactness] = []
        torch.set_float32_matmul_precision("highest")
        for name, kind, weights, precision in asked:
            if weights not in self.weights:
                why = self.trained[weights].why if weights in self.trained else "was not fine-tuned"
                found.append(Exactness(name, precision, None, why))
                continue
            work = partial(self._cached, name, precision, weights, lm.stretched(self.config, kind, self.length))
            found.append(self._timely("decoding", work) or Exactness(name, precision, None, NO_TIME))
        torch.set_float32_matmul_precision("high")
        return found

    def _cached(self, name: str, precision: str, weights: str, position: Position) -> Exactness:
        model = self._reading(weights)
        if precision == "bf16":
            model = Decoder(self.config).to(self.ctx.device).eval()
            model.load_state_dict(self.weights[weights])
            model = model.to(torch.bfloat16)
        try:
            seen = agreement(model, self.rows[0, :self.length], position, graph=self.ctx.device == "cuda")
        except RuntimeError as error:
            return Exactness(name, precision, None, self._excuse(name, error))
        self.ctx.progress(f"{name}, {precision}: cached argmax agrees at {seen.same} of {seen.positions} positions, "
                          f"largest difference {seen.largest:.2g}")
        measure.free(self.ctx.device)
        return Exactness(name, precision, seen)

    def _excuse(self, name: str, error: RuntimeError) -> str:
        """A row's reason for having no numbers, short enough for a cell; the log has the whole of it."""
        self.ctx.progress(f"{name} could not run: {type(error).__name__}: {error}")
        measure.free(self.ctx.device)
        return "out of memory" if isinstance(error, torch.OutOfMemoryError) else plain_text(f"{type(error).__name__}: {error}")[:80]
