"""Week 13's own mathematics against independent answers; its smoke run is in test_weeks.py."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from workloads import corpus, lm, measure, training
from workloads.lm import Config, Decoder, Places, Position
from workloads.spec import Context, Metric, check_kept, discover
from workloads.training import Course
from workloads.week13_positional import run
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
from workloads.week13_positional.protocol import (
    Agreement,
    Trial,
    agreement,
    by_position,
    keys_found,
    parted,
    ratios,
    strided,
    trials,
    whole,
)

TINY = Config(width=32, layers=2, heads=2, vocabulary=50, trained_length=8)


def network(scale: float = 8.0) -> Decoder:
    model = Decoder(TINY, 1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(scale)
    return model


def rows(count: int, length: int) -> Tensor:
    return torch.randint(50, (count, length), generator=torch.Generator().manual_seed(5))


# ---------------------------------------------------------------------------------------------------- contexts


@torch.no_grad()
def nats_of(model: Decoder, context: Tensor, target: Tensor) -> float:
    """The loss of one token after one context, with nothing of the protocol in it."""
    logits = model(context[None], lm.places(TINY, len(context), "cpu"))[0, -1]
    return float(F.cross_entropy(logits, target))


def test_a_sliding_window_is_each_target_after_the_context_it_says() -> None:
    model, text = network(), rows(2, 25)
    found = strided(model, text, window=8, stride=4, at_once=3)
    assert found.shape == (2, 24)
    for i, row in enumerate(text):
        for target in range(1, 25):
            # the first window scores all of its targets, each later one its last four
            start = 0 if target <= 8 else math.ceil((target - 8) / 4) * 4
            expected = nats_of(model, row[start:target], row[target])
            assert float(found[i, target - 1]) == pytest.approx(expected, rel=1e-3, abs=1e-3), target
            assert target <= 8 or 5 <= target - start <= 8


def test_parted_windows_start_without_context_and_whole_ones_never_do_again() -> None:
    model, text = network(), rows(2, 25)
    apart, full = parted(model, text, 8, at_once=4), whole(model, text, Position(), at_once=4)
    for target in (1, 8, 9, 17, 24):
        within = text[0, (target - 1) // 8 * 8:target]
        assert float(apart[0, target - 1]) == pytest.approx(nats_of(model, within, text[0, target]), rel=1e-3)
        assert float(full[0, target - 1]) == pytest.approx(nats_of(model, text[0, :target], text[0, target]), rel=1e-3)
    torch.testing.assert_close(apart[:, :8], full[:, :8])


def test_windows_that_miss_the_end_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="do not end with 24 tokens"):
        strided(network(), rows(1, 25), window=8, stride=5, at_once=1)


def test_a_ratio_is_the_perplexity_of_a_documents_last_tokens() -> None:
    nats, baseline = torch.tensor([[9.0, 1.0, 2.0], [9.0, 0.5, 0.5]]), torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    assert ratios(nats, baseline, 2) == pytest.approx((math.exp(0.5), math.exp(-0.5)))
    assert measure.geomean(ratios(nats, baseline, 2)).value == pytest.approx(1.0)


def test_buckets_are_means_of_positions() -> None:
    assert by_position(torch.tensor([[1.0, 3.0, 5.0, 7.0, 2.0], [1.0, 3.0, 5.0, 7.0, 4.0]]), 2) == [(1, 2.0), (3, 6.0), (4, 3.0)]


# ---------------------------------------------------------------------------------------------------- pass keys


class Copier(torch.nn.Module):
    """Knows where keys are told, within `reach` tokens: stands in for a network whose answers are known."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach, self.config = reach, Config(width=32, layers=1, heads=2)
        self.embedding = torch.nn.Embedding(corpus.VOCABULARY, 1)

    def hidden(self, tokens: Tensor, _: Places) -> Tensor:
        """One-hot of the next token: the digit after what was last said, as in the sentence that told the key."""
        told, out = corpus.key_sentence("00000"), torch.zeros(*tokens.shape, corpus.VOCABULARY)
        head = told.index(corpus.encode("0")[0])
        for i, row in enumerate(tokens.tolist()):
            starts = [s for s in range(len(row)) if row[s:s + head] == told[:head]]
            for place in range(len(row)):
                for digits in range(corpus.KEY_DIGITS):
                    asked = corpus.key_question("0" * 5)[-corpus.KEY_DIGITS - 6:-corpus.KEY_DIGITS]
                    if row[place - digits - 5:place - digits + 1] == asked and starts and place - starts[0] <= self.reach:
                        out[i, place, row[starts[0] + head + digits]] = 1.0
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


@pytest.mark.parametrize(("reach", "expected"), [(1000, {60: 1.0, 90: 1.0}), (58, {60: 1.0, 90: 0.0}), (0, {60: 0.0, 90: 0.0})])
def test_a_key_counts_where_every_digit_is_right(reach: int, expected: dict[int, float]) -> None:
    filler = np.full((3, 90), corpus.encode("x")[0], dtype=np.int64)
    asked = trials(filler, [60, 90], [0.0], 4)
    assert [trial.length for trial in asked] == [60] * 4 + [90] * 4
    found = keys_found(Copier(reach), asked, Position("none"), at_once=3)  # type: ignore[arg-type]  # a stand-in for a Decoder
    share = {n: float(np.mean([hit for trial, hit in zip(asked, found, strict=True) if trial.length == n])) for n in (60, 90)}
    assert share == expected


def test_a_wrong_digit_is_no_key() -> None:
    row = np.full(80, corpus.encode("x")[0], dtype=np.int64)
    corpus.plant_key(row, "12345", 0.5)
    row[-1] = corpus.encode("9")[0]
    assert keys_found(Copier(1000), [Trial(80, 0.5, row)], Position("none"), at_once=1) == [False]  # type: ignore[arg-type]  # as above


def test_trials_repeat_and_leave_the_filler_alone() -> None:
    filler = np.full((2, 100), 7, dtype=np.int64)
    one, again = (trials(filler, [100, 80], [0.1, 0.9], 3) for _ in range(2))
    assert all(np.array_equal(a.row, b.row) for a, b in zip(one, again, strict=True)) and len(one) == 12
    assert (filler == 7).all()
    assert all((trial.row[trial.length:] == 7).all() for trial in one)
    assert len({corpus.decode(trial.row.tolist()) for trial in one}) == 12


# ---------------------------------------------------------------------------------------------------- exact decoding


@pytest.mark.parametrize("kind", ["rope", "yarn", "dynamic", "alibi", "none"])
def test_cached_decoding_is_held_against_every_position(kind: lm.PositionKind) -> None:
    seen = agreement(network(), rows(1, 40)[0], Position(kind, 4.0), graph=False)
    assert (seen.same, seen.positions) == (40, 40)
    assert 0 < seen.largest < 1e-3


def test_a_cache_that_errs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lm._attend_cached
    monkeypatch.setattr(lm, "_attend_cached", lambda q, k, v, slopes, at: right(q, k, v, slopes, at - 1 if int(at[0]) == 20 else at))
    seen = agreement(network(), rows(1, 40)[0], Position(), graph=False)
    assert seen.largest > 0.1


# ---------------------------------------------------------------------------------------------------- in words


COURSE = Course((3.0, 2.0), (1.0, 1.0), 100, 2.0, 2)


def method(name: str, factor: float, why: str = "") -> Method:
    found = Method(name, "yarn", "rope", COURSE if "tuned" in name else None, why=why)
    if not why:
        found.ratios = tuple(factor * (1 + 0.001 * (i % 3)) for i in range(12))
        found.ratio_all, found.loss, found.loss_short, found.curve = factor, 1.0, 1.1, [(4, 1.0), (12, 0.9)]
        found.own = tuple(0.95 for _ in range(12)) if name == JUDGED else ()
        found.keys = {(8, 0.5): [True, True], (24, 0.5): [True, False], (32, 0.5): [True, True]}
    return found


def seen(methods: list[Method], exactness: list[Exactness]) -> Seen:
    ceilings = (Metric("ceiling_matmul", "a ceiling", "TFLOP/s", "higher", measure.exact(1.0)),
                Metric("ceiling_copy", "another", "GB/s", "higher", measure.exact(1.0)))
    trained = {"rope": Trained(COURSE, 1.0, 1.2, ((4, 1.0),), (3.0, 1.0, 2.0)), "alibi": Trained(None, why="out of memory")}
    return Seen(TINY, 32, 8, "cuda", trained, methods, exactness, ceilings, 1e9, 3.0, ("a note",))


def test_what_was_seen_is_told_by_target() -> None:
    found = observed(seen([method(CONTROL, 3.0), method(JUDGED, 0.98), method(AGAIN, 0.985)],
                          [Exactness("YaRN", "fp32", Agreement(32, 32, 1e-5)), Exactness("PI", "fp32", Agreement(31, 32, 1e-6)),
                           Exactness("YaRN", "bf16", Agreement(20, 32, 0.1))]))
    check_kept(discover()["week13"], found)
    values = {m.name: m.estimate.value for m in found.metrics}
    assert values["ppl_ratio"] == pytest.approx(0.981, abs=1e-3) and values["control"] == pytest.approx(3.0, rel=1e-2)
    assert values["ratio_own"] == pytest.approx(0.95)
    assert values["exact"] == 31 / 32, "the worst method in fp32; bf16 is told, and not judged"
    assert next(m.detail for m in found.metrics if m.name == "exact") == "PI, fp32, every position"
    assert values["cache_gap"] == 1e-5
    assert values["passkey"] == 3 / 4, "lengths beyond twice the trained 8"
    assert values["noise"] == pytest.approx(0.5, abs=0.1)
    assert values["mfu"] == pytest.approx(100 * COURSE.tokens_per_s * 1e9 / 1e12)


def test_methods_that_decode_alike_are_not_told_as_one_that_is_worst() -> None:
    alike = [Exactness(name, "fp32", Agreement(32, 32, 1e-5)) for name in ("PI", "YaRN")]
    found = observed(seen([method(JUDGED, 0.98)], alike))
    assert next(m.detail for m in found.metrics if m.name == "exact") == "all 2 alike, fp32, every position"


def test_pass_keys_are_told_by_length_and_depth_for_every_method() -> None:
    short = method("ALiBi", 1.0)
    short.keys = {(8, 0.5): [True, True], (8, 0.9): [True, False]}
    table = {t.name: t for t in observed(seen([method(JUDGED, 0.98), short], [])).tables}["passkey_lengths"]
    assert [c.name for c in table.columns] == ["method", "length", "share found", "at 50%", "at 90%"]
    assert table.rows == ((JUDGED, 8, 1.0, 1.0, None), (JUDGED, 24, 0.5, 0.5, None), (JUDGED, 32, 1.0, 1.0, None),
                          ("ALiBi", 8, 0.75, 1.0, 0.5))


def test_the_control_does_not_flatten_the_bars_and_is_in_the_ablation() -> None:
    found = observed(seen([method(CONTROL, 30.0), method(JUDGED, 0.98)], []))
    table = {t.name: t for t in found.tables}
    assert table["ratios"].column("method") == (JUDGED,)
    assert table["ratios"].title.endswith("below 0 is better; not drawn: 1 above 50%")
    assert "not drawn" not in next(t.title for t in observed(seen([method(JUDGED, 0.98)], [])).tables if t.name == "ratios")
    assert table["ablation"].column("ratio")[0] == pytest.approx(30.0, rel=1e-2)


def test_what_could_not_run_is_a_row_with_its_reason() -> None:
    lost = method(JUDGED, 1.0, why="out of memory")
    found = observed(seen([replace(method("ALiBi", 1.0, why="out of memory"), trained="alibi"), lost],
                          [Exactness("ALiBi", "fp32", None, "out of memory")]))
    check_kept(discover()["week13"], found)
    assert dict(found.not_measured) == {"ppl_ratio": "out of memory", "exact": "not every method could decode from its cache",
                                        "passkey": "out of memory"}
    ablation = next(t for t in found.tables if t.name == "ablation")
    assert ablation.column("check") == ("out of memory", "out of memory")


def test_the_ablation_is_a_file_with_names_and_gaps() -> None:
    rows = json.loads(as_json(ablation_table(seen([method(JUDGED, 0.98), method("PI", 1.0, why="no time left")], []))))
    assert [row["method"] for row in rows] == [JUDGED, "PI"]
    assert rows[0]["ratio (x)"] == pytest.approx(0.981, abs=1e-3)
    assert rows[1]["ratio (x)"] is None and rows[1]["check"] == "no time left"


def laboratory(tmp_path: Path, left_s: float, said: list[str] | None = None) -> run.Laboratory:
    """One with so many seconds left, and nothing read or trained yet."""
    made = object.__new__(run.Laboratory)
    made.ctx = Context(tmp_path, "cpu", smoke=True, progress=(said if said is not None else []).append)
    made.sizes, made.config, made.rows, made.length = run.SMOKE_SIZES, TINY, rows(1, 9), 8
    made.began = time.monotonic() - made.sizes.end_s + left_s
    made.tuner, made.no_tuner = None, "out of memory"
    made.trainers, made.trained, made.weights, made.took, made.pace = {}, {}, {}, {}, {}
    return made


def test_what_would_take_longer_than_is_left_is_not_begun(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, left_s=100.0)
    assert lab._timely("decoding", lambda: "first") == "first" and lab.took["decoding"] < 1
    lab.took["decoding"] = 200.0
    assert lab._timely("decoding", lambda: pytest.fail("it was begun")) is None
    assert lab._timely("zero-shot", lambda: "of another sort") == "of another sort"
    assert laboratory(tmp_path, left_s=-1.0)._timely("decoding", lambda: pytest.fail("it was begun")) is None


def test_every_method_says_that_no_time_was_left(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, left_s=-1.0)
    lab.trained = {kind: Trained(COURSE) for kind in run.TRAINED}
    lab.weights = {name: {} for name in (*run.TRAINED, JUDGED)}
    found = lab._exactness()
    assert {(e.seen, e.why) for e in found} == {(None, "no time left")} and len(found) == len(run.ZERO_SHOT) + 2
    methods = [lab._zero_shot(*m) for m in run.ZERO_SHOT] + [lab._fine_tune(*m) for m in run.FINE_TUNED]
    assert {m.why for m in methods} == {"no time left"} and len(methods) == 12
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")


def test_without_a_tuner_each_fine_tuning_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    lab = laboratory(tmp_path, left_s=100.0, said=said)
    lab.trained, lab.weights = {"rope": Trained(COURSE)}, {"rope": {}}
    monkeypatch.setattr(lab, "_trainer", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    lab._prepare_tuning()
    assert {lab._fine_tune(*m).why for m in run.FINE_TUNED} == {"out of memory"}
    assert said == ["fine-tuning could not run: OutOfMemoryError: CUDA out of memory"]


@pytest.mark.parametrize(("left_s", "expected"), [(600.0, 260), (400.0, 195), (10.0, 45)])
def test_the_trainings_get_the_time_that_the_rest_leaves(tmp_path: Path, left_s: float, expected: int) -> None:
    lab = laboratory(tmp_path, left_s)
    lab.sizes = run.FULL_SIZES
    lab.began = time.monotonic() - lab.sizes.end_s + left_s
    lab.pace = {"rope": 0.2, "alibi": 0.5, "none": 0.3}
    steps = lab._steps()
    assert 0.2 * steps + 0.8 * run._share_of(steps) == pytest.approx(expected, abs=1.5)


def test_a_rival_that_could_not_finish_is_not_begun(tmp_path: Path) -> None:
    lab = laboratory(tmp_path, left_s=100.0)
    lab.trainers, lab.pace = {"alibi": object.__new__(training.Trainer)}, {"alibi": 1.0}
    lab._train("alibi", steps=90)
    assert lab.trained["alibi"].why == "no time left" and not lab.trainers
    lab._train("none", steps=90)  # it had no trainer, for a reason given before
    assert "none" not in lab.trained


def test_the_shapes_that_meet_a_compiler_are_few() -> None:
    """A last batch of fewer keys would be one more kernel for ALiBi."""
    sizes = run.FULL_SIZES
    assert len(sizes.key_lengths) * len(run.DEPTHS) * sizes.keys % sizes.at_once == 0


@pytest.mark.slow
def test_an_arm_out_of_memory_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole path at its smallest, with ALiBi failing as a GPU would fail."""
    sizes = replace(run.SMOKE_SIZES, train_s=0.0, tune_s=0.0, documents=6, keys=1, key_lengths=(1.0, 3.0))
    monkeypatch.setattr(run, "SMOKE_SIZES", sizes)
    plain = lm.places

    def places(config: Config, length: int, device: str, position: Position | None = None) -> Places:
        if (position or config.position).kind == "alibi":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")
        return plain(config, length, device, position)

    monkeypatch.setattr(lm, "places", places)
    said: list[str] = []
    found = run.run(Context(tmp_path, "cpu", smoke=True, batch=2, progress=said.append))
    check_kept(discover()["week13"], found)
    ablation = next(t for t in found.tables if t.name == "ablation")
    assert dict(zip(ablation.column("method"), ablation.column("check"), strict=True))["ALiBi"] == "out of memory"
    assert found.metric("ppl_ratio") is not None and found.metric("ratio_own") is not None
    assert dict(found.not_measured) == {"exact": "not every method could decode from its cache"}
    assert any("alibi could not run: OutOfMemoryError" in line for line in said)
    assert {path.name for path in tmp_path.iterdir()} == {"ablation.json", "corpus.json"}
