"""The loop: its schedule, what it learns, when it stops, and what counts as a spike or as divergence."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from workloads import lm, training
from workloads.lm import Config, Decoder
from workloads.training import Course, Recipe, Trainer, losses_of, steps_within

SMALL = Config(width=32, layers=1, heads=2, vocabulary=64, trained_length=16)


def counting(batch: int = 4, length: int = 16) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of rows that count up: the next token is always one more."""
    draw = np.random.default_rng(0)
    while True:
        yield (draw.integers(64, size=(batch, 1)) + np.arange(length + 1)) % 64


def trainer(seed: int = 0) -> Trainer:
    return Trainer(Decoder(SMALL, seed), lm.places(SMALL, 16, "cpu"), compiled=False)


def test_the_rate_rises_and_falls_as_it_says() -> None:
    recipe = Recipe(steps=100, learning_rate=2.0, warmup=0.1, last=0.1)
    rates = [recipe.rate(step) for step in range(101)]
    assert recipe.rising == 10 and rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2 * (0.1 + 0.9 / 2)) and rates[100] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_it_learns_to_count() -> None:
    course = trainer().train(counting(), Recipe(150, 1e-2))
    assert course.losses[0] == pytest.approx(math.log(64), abs=0.2)
    assert course.losses[-1] < 0.5
    assert (len(course.losses), len(course.norms), course.tokens, course.timed) == (150, 150, 64, 148)
    assert course.tokens_per_s == pytest.approx(148 * 64 / course.seconds)


def test_the_same_seed_trains_the_same_and_a_restart_is_a_new_start() -> None:
    one = trainer(3)
    first = one.train(counting(), Recipe(5, 1e-2)).losses
    one.restart(3)
    assert one.train(counting(), Recipe(5, 1e-2)).losses == first
    one.restart(4)
    assert one.train(counting(), Recipe(5, 1e-2)).losses != first


def test_an_optimiser_forgets_in_place() -> None:
    """What it has learnt is elsewhere after a restart, and so would a recorded step's be; what it holds stays where it lies."""
    one = trainer()
    one.train(counting(), Recipe(5, 1e-2))
    held = [value for state in one.optimizer.state.values() for value in state.values()]
    assert len(held) == 3 * len(list(one.model.parameters())) and all(value.any() for value in held)
    one.forget()
    assert not any(value.any() for value in held)
    one.restart(3)
    again = one.train(counting(), Recipe(5, 1e-2))
    assert again.losses == trainer(3).train(counting(), Recipe(5, 1e-2)).losses
    assert {id(value) for value in held} == {id(value) for state in one.optimizer.state.values() for value in state.values()}
    with torch.no_grad():
        held[0].fill_(math.nan)
    one.forget()
    assert not held[0].any(), "whatever it was"


def test_a_step_is_recorded_on_a_gpu_alone() -> None:
    with pytest.raises(ValueError, match="recorded on a GPU, and this network is on a cpu"):
        Trainer(Decoder(SMALL), lm.places(SMALL, 16, "cpu"), compiled=False, graph=True)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_recorded_step_is_the_step(compiled: bool) -> None:
    """On the plain attention, whose backward pass adds in one order: so a second training must equal the first."""
    def on_gpu(*, graph: bool) -> Trainer:
        model = Decoder(SMALL, 3).cuda()
        if compiled:
            model.compile_blocks()
        return Trainer(model, lm.places(SMALL, 16, "cuda"), compiled=compiled, graph=graph)

    recipe = Recipe(2 * training.LOOK + 5, 1e-2, warmup=0.1)  # more steps than there are pinned batches
    with sdpa_kernel(SDPBackend.MATH):
        plain, recorded = on_gpu(graph=False), on_gpu(graph=True)
        expected, first = plain.train(counting(), recipe), recorded.train(counting(), recipe)
        assert first.losses[-1] < 0.7 * first.losses[0], "it learns"
        assert first.losses[:20] == pytest.approx(expected.losses[:20], rel=1e-2)
        assert first.norms[:20] == pytest.approx(expected.norms[:20], rel=5e-2)
        assert first.losses[-10:] == pytest.approx(expected.losses[-10:], abs=0.2)

        recorded.restart(4)
        other = recorded.train(counting(), recipe).losses
        assert other[:20] != first.losses[:20], "another seed"
        recorded.restart(3)
        again = recorded.train(counting(), recipe)
        assert again.losses == pytest.approx(first.losses, rel=1e-6) and again.norms == pytest.approx(first.norms, rel=1e-6)
        recorded.restart(3)
        slower = recorded.train(counting(), replace(recipe, learning_rate=1e-4)).losses
        assert slower[0] == pytest.approx(first.losses[0], rel=1e-6), "the rate is no part of the recording"
        assert slower[-1] > first.losses[-1]

        with pytest.raises(ValueError, match="and the step was recorded for"):
            recorded.train(counting(batch=2), recipe)
        with pytest.raises(ValueError, match="weight decay and clipping are part of a recorded step"):
            recorded.train(counting(), replace(recipe, weight_decay=0.0))


def test_only_matrices_decay() -> None:
    """With gradients of nothing, a step of AdamW is its decay alone."""
    one = trainer()
    matrix, gain = one.model.embedding.weight.detach().clone(), one.model.norm.weight.detach().clone()
    for parameter in one.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in one.optimizer.param_groups:
        group["lr"] = 0.1
    one.optimizer.param_groups[0]["weight_decay"] = 1.0
    one.optimizer.step()
    torch.testing.assert_close(one.model.embedding.weight.detach(), 0.9 * matrix)
    assert torch.equal(one.model.norm.weight.detach(), gain)
    one.step(torch.from_numpy(next(counting())), 1e-3, Recipe(1, 1e-3, weight_decay=0.3))
    assert [group["weight_decay"] for group in one.optimizer.param_groups] == [0.3, 0.0]


def test_gradients_are_clipped_and_their_norm_is_that_before() -> None:
    one = trainer()
    batch = torch.from_numpy(next(counting()))
    one.loss(batch).backward()
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in one.model.parameters() if p.grad is not None]))
    one.optimizer.zero_grad()
    _, seen = one.step(batch, 1e-3, Recipe(1, 1e-3, clip=1e-3))
    assert float(seen) == pytest.approx(float(norm), rel=1e-3)
    assert all(p.grad is None for p in one.model.parameters())


def test_time_that_is_up_ends_the_training() -> None:
    course = trainer().train(counting(), Recipe(10_000, 1e-3), until=time.monotonic())
    assert len(course.losses) == 2


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    one = trainer()
    with torch.no_grad():
        one.model.embedding.weight.fill_(math.nan)
    course = one.train(counting(), Recipe(1000, 1e-3))
    assert len(course.losses) == 2 and course.diverged


def course(losses: list[float], norms: list[float] | None = None) -> Course:
    return Course(tuple(losses), tuple(norms or [1.0] * len(losses)), 1, 1.0, 1)


def test_divergence_is_no_number_or_worse_than_untrained_or_a_loss_that_came_back() -> None:
    falling = [4.0 - 0.03 * i for i in range(100)]
    assert not course(falling).diverged
    assert course([*falling, math.nan]).diverged
    assert course([4.0] * 20 + [4.2] * 20).diverged
    assert course([*falling, *([2.3] * 20)]).diverged  # its lowest ten steps have a mean of 1.165
    assert not course([*falling, *([1.9] * 20)]).diverged
    assert not course([4.0, 3.9, 4.1, 3.8]).diverged and course([4.0, 3.9, 4.1]).diverged


def test_a_spike_is_many_times_what_was_usual() -> None:
    norms = [1.0] * 60 + [3.9] + [1.0] * 20 + [4.1] + [1.0] * 10 + [math.inf] + [2.0] * 5
    seen = course([1.0] * len(norms), norms)
    assert seen.spikes(after=0) == (2, 97), "a first step has none before it"
    assert seen.spikes(after=82) == (1, 16)


def test_losses_of_rows_are_cross_entropies() -> None:
    model = Decoder(SMALL)
    rows = torch.from_numpy(next(counting(batch=5)))
    at = lm.places(SMALL, 16, "cpu")
    found = losses_of(model, rows, at, at_once=2)
    with torch.no_grad():
        expected = F.cross_entropy(model(rows[:, :-1], at).flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(5, 16)
    assert found.shape == (5, 16)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)  # bf16 autocast


def test_several_trainings_share_a_budget() -> None:
    assert steps_within(100.0, [0.1, 0.3], 10_000) == 250
    assert steps_within(100.0, [0.1, 0.3], 100) == 100
    assert steps_within(0.0, [0.1], 100) == 1


def test_a_batch_stays_whole_on_its_way() -> None:
    batch = next(counting())
    assert np.array_equal(trainer().moved(batch).numpy(), batch)
    assert training.LOOK > 2
