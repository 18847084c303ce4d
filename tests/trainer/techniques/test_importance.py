"""Importance sampling: large losses are drawn more often, and the expectation of the gradient stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.errors import UsageError
from autoaccel.sections import Data
from autoaccel.tasks.base import Task
from autoaccel.trainer.data import Split, load_split
from autoaccel.trainer.order import new_order
from autoaccel.trainer.parts import LoadedTask, Order
from autoaccel.trainer.preflight import preflight
from autoaccel.trainer.techniques.importance import UNIFORM_SHARE, drawn, probabilities

losses = st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=30).map(torch.tensor)
BY_LOSS = {"data.sampling": "importance"}


def split_of(n: int) -> Split:
    return load_split((torch.zeros(n, 1), torch.arange(n) % 2), "train", torch.device("cpu"))


def order_of(n: int, seed: int = 0) -> Order:
    return new_order(split_of(n), Data(sampling="importance"), seed)


@settings(max_examples=100, deadline=None)
@given(losses)
def test_probabilities_sum_to_one_and_none_is_small(given_losses: torch.Tensor) -> None:
    chances = probabilities(given_losses)
    assert float(chances.sum()) == pytest.approx(1.0)
    assert float(chances.min()) >= UNIFORM_SHARE / len(given_losses) * (1 - 1e-9)
    assert torch.equal(chances.argsort(stable=True), probabilities(given_losses * 2).argsort(stable=True))


@settings(max_examples=100, deadline=None)
@given(losses, st.integers(0, 999))
def test_the_weighted_mean_is_unbiased(given_losses: torch.Tensor, seed: int) -> None:
    """Whatever is averaged: a weight is exactly the inverse of how often a sample is drawn, to the mean of them all."""
    generator = torch.Generator().manual_seed(seed)
    n, values = len(given_losses), torch.randn(len(given_losses), generator=generator, dtype=torch.float64)
    chances = probabilities(given_losses)
    weights = torch.stack([drawn(chances, _inside(chances, i)).weights for i in range(n)]).flatten().double()
    expected = float((chances * weights * values).sum())
    assert expected == pytest.approx(float(values.mean()), abs=1e-5)
    assert float(weights.max()) <= 1 / UNIFORM_SHARE + 1e-4


def _inside(chances: torch.Tensor, i: int) -> torch.Tensor:
    """A random number that falls on sample i."""
    return (chances.cumsum(0)[i] - chances[i] / 2).reshape(1).clamp(0, 1)


def test_draws_average_to_the_mean_with_less_variance_than_uniform_ones() -> None:
    """Values proportional to the losses, as gradients are thought to be: 20 000 draws, five standard errors."""
    n, n_draws = 200, 20_000
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(n, generator=generator) ** 8
    order = order_of(n)
    order.learn(torch.arange(n), values)
    found = order.draw(n, n_draws, 0.5)
    weighted = found.weights * values[found.indices]
    assert abs(float(weighted.mean() - values.mean())) < 5 * float(weighted.std()) / n_draws**0.5
    assert float(weighted.std()) < 0.7 * float(values.std())


def test_samples_are_drawn_as_often_as_their_probability_says() -> None:
    n, n_draws = 8, 50_000
    order = order_of(n)
    given_losses = torch.tensor([0.0, 0.0, 1, 1, 2, 2, 4, 30])
    order.learn(torch.arange(n), given_losses)
    counts = order.draw(n, n_draws, 0.5).indices.bincount(minlength=n)
    expected = probabilities(given_losses) * n_draws
    assert float(((counts - expected) ** 2 / expected).sum()) < 29.9  # 99.99 % of fair draws are below (7 degrees)


@pytest.mark.parametrize("size", [1, 7, 30])
def test_the_first_pass_is_that_of_uniform_sampling(size: int) -> None:
    order, uniform = order_of(30), new_order(split_of(30), Data(), 0)
    order.learn(torch.arange(3), torch.tensor([9.0, 9.0, 9.0]))
    for at in range(0, 30 - size + 1, size):
        found = order.draw(at, size, 0.0)
        assert found.weights is None
        assert torch.equal(found.indices, uniform.draw(at, size, 0.0).indices)


def test_a_batch_across_the_end_of_the_first_pass_holds_both() -> None:
    found = order_of(30).draw(25, 20, 0.0)
    assert torch.equal(found.indices[:5], new_order(split_of(30), Data(), 0).draw(25, 5, 0.0).indices)
    assert len(found.indices) == len(found.weights) == 20
    assert found.weights[:5].tolist() == [1.0] * 5


def test_unseen_samples_and_losses_that_are_no_numbers_count_as_the_mean() -> None:
    order = order_of(4)
    order.learn(torch.tensor([0, 1, 2]), torch.tensor([1.0, 3.0, torch.inf]))
    counts = order.draw(4, 40_000, 0.5).indices.bincount(minlength=4) / 40_000
    expected = probabilities(torch.tensor([1.0, 3.0, 2.0, 2.0])).float()
    torch.testing.assert_close(counts, expected, atol=0.015, rtol=0)


def test_of_a_sample_that_occurs_twice_the_larger_loss_counts_and_the_next_time_replaces_it() -> None:
    order = order_of(2)
    order.learn(torch.tensor([0, 0, 1]), torch.tensor([5.0, 2.0, 5.0]))
    assert order.state_dict()["losses"].tolist() == [5.0, 5.0]
    order.learn(torch.tensor([0]), torch.tensor([1.0]))
    assert order.state_dict()["losses"].tolist() == [1.0, 5.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 99), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_batches_are_as_large_as_asked_and_an_order_goes_on_from_its_state(n: int, seed: int, sizes: list[int]) -> None:
    order, position = order_of(n, seed), 0
    for size in sizes:
        found = order.draw(position, size, 0.5)
        assert len(found.indices) == size and 0 <= int(found.indices.min()) <= int(found.indices.max()) < n
        order.learn(found.indices, found.indices.float() + position)
        position += size
    other = order_of(n, seed)
    other.load_state_dict(order.state_dict())
    a, b = order.draw(position, 9, 0.9), other.draw(position, 9, 0.9)
    assert torch.equal(a.indices, b.indices)
    assert (a.weights is None and b.weights is None) or torch.equal(a.weights, b.weights)


# ------------------------------------------------------------------------------------------------------------- trained


def test_a_training_learns_the_losses_of_all_it_saw(run: Callable[..., Any], load: Callable[..., LoadedTask]) -> None:
    """The first pass is uniform; a training that ends with it is that of uniform sampling, weight for weight."""
    one_pass = {"horizon.samples": 96}
    torch.testing.assert_close(run({**BY_LOSS, **one_pass}).weights, run(one_pass).weights, atol=1e-6, rtol=0)
    assert not torch.allclose(run(BY_LOSS).weights, run().weights)


@pytest.mark.parametrize(
    "changes", [{"loss": lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets)}, {"own": True}]
)
def test_a_task_with_a_loss_of_its_own_is_refused(
    run: Callable[..., Any], load: Callable[..., LoadedTask], make_task: Callable[..., Task], changes: dict[str, Any]
) -> None:
    if "own" in changes:
        loaded, facts = preflight(make_task(step=own_step))
        assert ("data.sampling", True) in [
            (r["path"], "importance" in (r["values"] or ())) for r in facts["unavailable"]
        ]
    else:
        loaded = load(**changes)
    with pytest.raises(UsageError, match=r"data\.sampling 'importance': it needs the loss of every sample"):
        run(BY_LOSS, loaded)


def own_step(model: torch.nn.Module, batch: Any) -> dict[str, Any]:
    outputs = model(batch[0])
    return {"outputs": outputs, "targets": batch[1], "loss": torch.nn.functional.cross_entropy(outputs, batch[1])}


def test_a_step_whose_targets_have_no_row_per_sample_is_refused(
    run: Callable[..., Any], make_task: Callable[..., Task]
) -> None:
    def twice(model: torch.nn.Module, batch: Any) -> dict[str, Any]:
        return {"outputs": model(batch[0]).repeat(2, 1), "targets": batch[1].repeat(2)}

    loaded, _ = preflight(make_task(step=twice))
    with pytest.raises(UsageError, match="no row for each"):
        run(BY_LOSS, loaded)
