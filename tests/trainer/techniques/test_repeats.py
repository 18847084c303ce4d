"""Repeated augmentation: a batch holds fewer samples, each several times, and none is skipped between batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.sections import Data
from autoaccel.trainer.data import Drawn, Split, load_split
from autoaccel.trainer.draws import joined
from autoaccel.trainer.order import new_order
from autoaccel.trainer.parts import LoadedTask, Order
from autoaccel.trainer.techniques.repeats import repeated


def split_of(n: int) -> Split:
    return load_split((torch.zeros(n, 1), torch.arange(n) % 2), "train", torch.device("cpu"))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 9))
def test_batches_of_any_size_run_through_each_sample_so_many_times(
    n: int, times: int, sizes: list[int], seed: int
) -> None:
    order, position, found = new_order(split_of(n), Data(repeats=times), seed), 0, []
    for size in sizes:
        found += order.draw(position, size, 0.0).indices.tolist()
        position += size
    plain = new_order(split_of(n), Data(), seed).draw(0, position, 0.0).indices
    assert found == plain.repeat_interleave(times)[:position].tolist()


def test_a_batch_holds_its_size_divided_by_the_repeats() -> None:
    order = new_order(split_of(100), Data(repeats=3), 1)
    values, counts = order.draw(24, 24, 0.0).indices.unique(return_counts=True)
    assert len(values) == 8 and set(counts.tolist()) == {3}


def test_weights_are_repeated_with_their_samples() -> None:
    def draw(position: int, size: int, done: float) -> Drawn:
        at = torch.arange(position, position + size)
        return Drawn(at, at.float() * 10)

    found = repeated(draw, 3, 5, 0.0, times=2)
    assert found.indices.tolist() == [1, 2, 2, 3, 3]
    assert found.weights is not None and found.weights.tolist() == [10, 20, 20, 30, 30]


@pytest.mark.parametrize("sampling", ["importance", "infobatch"])
@pytest.mark.parametrize("size", [4, 7])
def test_orders_that_learn_can_be_repeated(sampling: str, size: int) -> None:
    """Two passes of 15 samples; a sample's copies come together, across batches too."""

    def learned(repeats: int) -> Order:
        order = new_order(split_of(15), Data(sampling=sampling, repeats=repeats), 3)
        order.learn(torch.arange(15), torch.arange(15.0))
        return order

    order, drawn = learned(2), []
    for at in range(0, 56, size):
        drawn.append(order.draw(at, size, 0.1))
    found = joined(drawn)
    assert order.wants_losses and len(found.indices) == 56
    assert torch.equal(found.indices[0::2][:14], found.indices[1::2][:14])
    if sampling == "infobatch":
        once = learned(1).draw(0, 28, 0.1)
        assert torch.equal(found.indices, once.indices.repeat_interleave(2))
        assert torch.equal(found.weights, once.weights.repeat_interleave(2))


def test_a_training_sees_fewer_samples_in_the_same_steps(
    run: Callable[..., Any], load: Callable[..., LoadedTask]
) -> None:
    """Twelve samples twice are, without augmentation, a batch of twelve."""
    plain = load(model=lambda: torch.nn.Linear(6, 3))
    half = run({"batch.size": 12, "horizon.samples": 144, "evaluate.every_samples": 48}, plain)
    twice = run({"data.repeats": 2}, plain)
    assert twice.ended.steps == half.ended.steps == 12
    torch.testing.assert_close(twice.weights, half.weights, atol=1e-5, rtol=0)
