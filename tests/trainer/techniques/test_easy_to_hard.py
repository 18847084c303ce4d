"""Easy to hard: after a first pass only the samples with the smallest losses, a growing part of them, then all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.errors import UsageError
from autoaccel.sections import Data
from autoaccel.trainer.data import Split, load_split
from autoaccel.trainer.order import new_order
from autoaccel.trainer.parts import LoadedTask, Order
from autoaccel.trainer.techniques.easy_to_hard import START, easiest, pace

EASY_TO_HARD = {"data.order": "easy_to_hard"}


def split_of(n: int) -> Split:
    return load_split((torch.zeros(n, 1), torch.arange(n) % 2), "train", torch.device("cpu"))


def learned(n: int, until: float = 0.5, seed: int = 0) -> Order:
    """After one pass, in which sample i had loss i."""
    order = new_order(split_of(n), Data(order="easy_to_hard", order_until=until), seed)
    order.learn(order.draw(0, n, 0.0).indices, order.draw(0, n, 0.0).indices.float())
    return order


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0, 1), st.integers(0, 99))
def test_a_pass_holds_the_easiest_once_each(values: list[float], part: float, seed: int) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    kept = easiest(losses, part, torch.Generator().manual_seed(seed)).indices.tolist()
    n = max(1, math.ceil(part * len(values)))
    assert len(kept) == len(set(kept)) == n
    assert sorted(values[i] for i in kept) == sorted(values)[:n]


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_part_grows_from_a_quarter_to_all(until: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert START == pace(0.0, until) <= pace(low, until) <= pace(high, until) <= 1.0
    assert pace(until, until) == 1.0


def test_what_is_drawn_gets_harder() -> None:
    order, n = learned(100), 100
    assert int(order.draw(n, 25, 0.0).indices.max()) < 25
    parts = [order.draw(n + 100 * k, 100, done).indices for k, done in ((1, 0.2), (2, 0.3), (3, 0.4))]
    hardest = [int(indices[-20:].max()) for indices in parts]
    assert hardest[0] <= math.ceil(100 * pace(0.2, 0.5)) < hardest[2] < 100


def test_the_order_within_a_part_is_random() -> None:
    drawn = learned(100).draw(100, 25, 0.0).indices
    assert not torch.equal(drawn, drawn.sort().values)


def test_from_the_share_on_all_samples_are_drawn() -> None:
    """Also when it comes in the middle of a pass: that ends, and a whole one begins."""
    order = learned(60)
    order.draw(60, 7, 0.2)
    assert sorted(order.draw(67, 60, 0.5).indices.tolist()) == list(range(60))


def test_the_first_pass_is_that_of_uniform_sampling() -> None:
    order, uniform = learned(30), new_order(split_of(30), Data(), 0)
    assert torch.equal(order.draw(0, 30, 0.0).indices, uniform.draw(0, 30, 0.0).indices)


def test_samples_that_were_not_learned_yet_count_as_the_mean() -> None:
    losses = torch.tensor([9.0, math.nan, 1.0, 2.0], dtype=torch.float64)
    assert set(easiest(losses, 0.75, torch.Generator()).indices.tolist()) == {1, 2, 3}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 25), st.integers(0, 99), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_an_order_goes_on_from_its_state(n: int, seed: int, sizes: list[int]) -> None:
    data, position = Data(order="easy_to_hard", order_until=0.8), 0
    order, other = new_order(split_of(n), data, seed), new_order(split_of(n), data, seed)
    for size in sizes:
        found = order.draw(position, size, 0.3)
        assert len(found.indices) == size and 0 <= int(found.indices.min()) <= int(found.indices.max()) < n
        order.learn(found.indices, (found.indices * 7 % 5).float())
        position += size
    other.load_state_dict(order.state_dict())
    for step in range(6):
        a, b = (o.draw(position + 6 * step, 6, 0.4 + step / 10) for o in (order, other))
        assert torch.equal(a.indices, b.indices) and a.weights is None


def test_one_pass_of_training_is_that_of_uniform_sampling(run: Callable[..., Any]) -> None:
    params = {"horizon.samples": 96}
    torch.testing.assert_close(run({**EASY_TO_HARD, **params}).weights, run(params).weights, atol=1e-6, rtol=0)


def test_a_task_with_a_loss_of_its_own_is_refused(run: Callable[..., Any], load: Callable[..., LoadedTask]) -> None:
    loaded = load(loss=lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets))
    with pytest.raises(UsageError, match=r"data\.order 'easy_to_hard': it needs the loss of every sample"):
        run(EASY_TO_HARD, loaded)
