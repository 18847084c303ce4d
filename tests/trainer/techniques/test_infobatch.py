"""InfoBatch: a pass leaves out samples with a loss below the mean, others make up for it, the end sees everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.errors import UsageError
from autoaccel.sections import Data
from autoaccel.trainer.data import Drawn, Split, load_split
from autoaccel.trainer.order import new_order
from autoaccel.trainer.parts import LoadedTask, Order
from autoaccel.trainer.techniques.infobatch import pruned

finite = st.floats(0, 1e6, width=32)
losses = st.lists(st.one_of(finite, st.just(float("nan"))), min_size=1, max_size=40)
INFOBATCH = {"data.sampling": "infobatch"}


def split_of(n: int) -> Split:
    return load_split((torch.zeros(n, 1), torch.arange(n) % 2), "train", torch.device("cpu"))


def order_of(n: int, seed: int = 0, prune: float = 0.5, until: float = 0.9) -> Order:
    return new_order(split_of(n), Data(sampling="infobatch", prune=prune, prune_until=until), seed)


def one_pass(given_losses: list[float], share: float, seed: int) -> tuple[Drawn, torch.Tensor]:
    wide = torch.tensor(given_losses, dtype=torch.float64)
    return pruned(wide, share, torch.Generator().manual_seed(seed)), wide


@settings(max_examples=200, deadline=None)
@given(losses, st.floats(0.01, 0.9), st.integers(0, 999))
def test_only_samples_below_the_mean_are_left_out_and_none_comes_twice(
    given_losses: list[float], share: float, seed: int
) -> None:
    found, wide = one_pass(given_losses, share, seed)
    below = wide < wide.nanmean()
    kept = found.indices.tolist()
    assert len(set(kept)) == len(kept) >= 1
    assert set(range(len(wide))) - set(kept) <= set(below.nonzero().flatten().tolist())
    assert found.weights is not None
    expected = torch.where(below[found.indices], 1 / (1 - share), 1.0).float()
    assert torch.equal(found.weights, expected)


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_the_weights_of_a_pass_add_up_to_all_samples_on_average(share: float) -> None:
    """And so does anything that is summed over them: 400 passes, five standard errors."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(1)).abs()
    totals, sums = [], []
    for seed in range(400):
        found, _ = one_pass(values.tolist(), share, seed)
        totals.append(float(found.weights.sum()))
        sums.append(float((found.weights * values[found.indices]).sum()))
    for seen, expected in ((torch.tensor(totals), 50.0), (torch.tensor(sums), float(values.sum()))):
        assert abs(float(seen.mean()) - expected) < 5 * float(seen.std()) / 20
    assert float(torch.tensor(totals).std()) > 0


def test_as_many_are_left_out_as_the_share_says() -> None:
    n = 20_000
    found, _ = one_pass([0.0] * (n // 2) + [1.0] * (n // 2), 0.3, 1)
    assert abs(n - len(found.indices) - 0.3 * n / 2) < 5 * (0.3 * 0.7 * n / 2) ** 0.5
    assert int((found.indices >= n // 2).sum()) == n // 2


# -------------------------------------------------------------------------------------------------------------- passes


def learned(n: int, **settings: Any) -> Order:
    """After one pass, in which sample i had loss i."""
    order = order_of(n, **settings)
    order.learn(order.draw(0, n, 0.0).indices, order.draw(0, n, 0.0).indices.float())
    return order


def test_the_first_pass_is_that_of_uniform_sampling() -> None:
    order, uniform = order_of(30), new_order(split_of(30), Data(), 0)
    assert torch.equal(order.draw(0, 30, 0.0).indices, uniform.draw(0, 30, 0.0).indices)
    assert order.draw(0, 30, 0.0).weights is None


def test_a_batch_across_the_end_of_the_first_pass_weighs_it_as_one() -> None:
    found = learned(30).draw(26, 10, 0.3)
    assert found.weights is not None and found.weights[:4].tolist() == [1.0] * 4
    assert set(found.weights[4:].tolist()) <= {1.0, 2.0}


def test_what_was_not_learned_yet_stays() -> None:
    """Half of the samples are known when the second pass begins, inside a batch: the others are all in it."""
    order = order_of(40)
    seen = order.draw(0, 20, 0.0).indices
    order.learn(seen, torch.arange(20.0))
    drawn = order.draw(20, 60, 0.3).indices.tolist()
    assert set(range(40)) - set(seen.tolist()) <= set(drawn[20:])


@pytest.mark.parametrize("until", [0.5, 0.9])
def test_after_the_share_everything_is_seen_again(until: float) -> None:
    """Also when it comes in the middle of a pass: that ends, and a whole one begins."""
    order = learned(50, until=until)
    middle = order.draw(50, 10, until - 0.01)
    assert 2.0 in middle.weights
    after = order.draw(60, 50, until)
    assert sorted(after.indices.tolist()) == list(range(50)) and after.weights is None
    assert sorted(order.draw(110, 50, 0.99).indices.tolist()) == list(range(50))


def test_passes_follow_each_other_and_hard_samples_come_in_each() -> None:
    order = learned(100)
    drawn = torch.cat([order.draw(100 + at, 5, 0.4).indices for at in range(0, 300, 5)])
    counts = drawn.bincount(minlength=100)
    assert set(counts[50:].tolist()) <= {3, 4}, "four passes of about 75 samples, the last perhaps cut"
    assert 0.35 < float(counts[:50].float().mean() / counts[50:].float().mean()) < 0.65


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 25), st.integers(0, 99), st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 9))
def test_an_order_goes_on_from_its_state(n: int, seed: int, sizes: list[int], n_more: int) -> None:
    order, position = order_of(n, seed), 0
    for size in sizes:
        found = order.draw(position, size, 0.3)
        assert len(found.indices) == size and 0 <= int(found.indices.min()) <= int(found.indices.max()) < n
        order.learn(found.indices, (found.indices * 7 % 5).float())
        position += size
    other = order_of(n, seed)
    other.load_state_dict(order.state_dict())
    for step in range(n_more):
        a, b = (o.draw(position + 6 * step, 6, 0.5 + step / 10) for o in (order, other))
        assert torch.equal(a.indices, b.indices)
        assert (a.weights is None) == (b.weights is None)
        assert a.weights is None or torch.equal(a.weights, b.weights)
        for o in (order, other):
            o.learn(a.indices, a.indices.float() % 3)


def test_a_training_that_begins_again_draws_the_same() -> None:
    order = learned(20)
    first = order.draw(0, 20, 0.0).indices
    order.draw(20, 100, 0.5)
    assert torch.equal(order.draw(0, 20, 0.0).indices, first)


# ------------------------------------------------------------------------------------------------------------- trained


def test_one_pass_of_training_is_that_of_uniform_sampling(run: Callable[..., Any]) -> None:
    params = {"horizon.samples": 96}
    torch.testing.assert_close(run({**INFOBATCH, **params}).weights, run(params).weights, atol=1e-6, rtol=0)


def test_a_horizon_counts_what_was_trained_on(run: Callable[..., Any]) -> None:
    done = run(INFOBATCH)
    assert (done.ended.samples, done.ended.steps) == (288, 12)


def test_a_task_with_a_loss_of_its_own_is_refused(run: Callable[..., Any], load: Callable[..., LoadedTask]) -> None:
    loaded = load(loss=lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets))
    with pytest.raises(UsageError, match=r"data\.sampling 'infobatch': it needs the loss of every sample"):
        run(INFOBATCH, loaded)
