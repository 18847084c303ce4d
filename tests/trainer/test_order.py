"""The order of samples: a function of seed and position, every sample once a pass, or every class equally often."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.errors import UsageError
from autoaccel.sections import Data
from autoaccel.trainer.data import Split, load_split
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.techniques.sampling import SampleOrder

CPU = torch.device("cpu")


def split_of(labels: torch.Tensor) -> Split:
    return load_split((torch.zeros(len(labels), 1), labels), "train", CPU)


def order_of(n: int, seed: int = 0) -> SampleOrder:
    return SampleOrder(split_of(torch.zeros(n, dtype=torch.int64)), Data(), seed)


@settings(max_examples=50)
@given(st.integers(1, 50), st.integers(0, 2**63 - 1), st.integers(0, 5))
def test_a_pass_holds_every_sample_once(n: int, seed: int, index: int) -> None:
    assert sorted(order_of(n, seed).draw(index * n, n, 0.0).indices.tolist()) == list(range(n))


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(0, 9), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 99))
def test_what_is_drawn_depends_on_the_position_alone(n: int, seed: int, sizes: list[int], start: int) -> None:
    whole = order_of(n, seed).draw(0, start + sum(sizes), 0.0).indices.tolist()
    order, at = order_of(n, seed), start
    for size in sizes:
        assert order.draw(at, size, 0.0).indices.tolist() == whole[at : at + size]
        at += size


def test_passes_and_seeds_differ() -> None:
    passes = {
        tuple(order_of(30, seed).draw(index * 30, 30, 0.0).indices.tolist()) for seed in range(5) for index in range(5)
    }
    assert len(passes) == 25


@pytest.mark.parametrize("labels", [[0] * 90 + [1] * 10, [7] * 60 + [1000] * 30 + [10**12] * 10, [-5] * 80 + [3] * 20])
def test_balanced_sampling_draws_every_class_equally_often(labels: list[int]) -> None:
    classes = torch.tensor(labels)
    n_draws, kinds = 20_000, classes.unique()
    order = SampleOrder(split_of(classes), Data(sampling="class_balanced"), seed=1)
    drawn = classes[order.draw(0, n_draws, 0.0).indices]
    expected = n_draws / len(kinds)
    chi_square = sum((int((drawn == kind).sum()) - expected) ** 2 / expected for kind in kinds)
    assert chi_square < 14  # 99.9 % of fair draws are below, for up to three classes
    assert len(order.draw(0, n_draws, 0.0).indices.unique()) == len(labels)


def test_balanced_sampling_needs_labels(load: Callable[..., LoadedTask]) -> None:
    split = load(train=(torch.zeros(8, 2), torch.zeros(8)), loss="mse", metric="loss").train
    with pytest.raises(UsageError, match="needs one integer label per sample"):
        SampleOrder(split, Data(sampling="class_balanced"), 0)
