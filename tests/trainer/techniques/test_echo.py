"""Data echoing: a batch is read once and used for several steps in a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.errors import UsageError
from autoaccel.sections import Data
from autoaccel.trainer.data import load_split
from autoaccel.trainer.order import new_order
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.techniques.echo import Held

Load = Callable[..., LoadedTask]


class Noisy(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A little different each time it is read; notes what is read."""

    def __init__(self, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.pair, self.read = pair, list[int]()

    def __len__(self) -> int:
        return len(self.pair[1])

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read.append(i)
        return self.pair[0][i] * (1 + 0.1 * torch.rand(())), self.pair[1][i]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 4), st.integers(0, 9))
def test_each_batch_comes_so_many_times_and_then_the_next(n: int, size: int, times: int, seed: int) -> None:
    split = load_split((torch.zeros(n, 1), torch.arange(n) % 2), "train", torch.device("cpu"))
    plain, order = new_order(split, Data(), seed), new_order(split, Data(echo=times), seed)
    for step in range(3 * times):
        expected = plain.draw(step // times * size, size, 0.0).indices
        assert torch.equal(order.draw(step * size, size, 0.0).indices, expected)


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_training_reads_each_batch_once(run: Callable[..., Any], load: Load, pieces: int) -> None:
    """Twelve steps of 24: six batches are read with two echoes, twelve without; every step is an optimizer step."""
    for echo, n_read in ((1, 288), (2, 144), (3, 96), (5, 72)):
        data = Noisy(load().train.tensors)
        loaded = load(train=data)
        data.read.clear()
        done = run({"data.echo": echo, "batch.accumulation": pieces}, loaded)
        assert (len(data.read), done.ended.steps, done.ended.samples) == (n_read, 12, 288)


def test_what_is_held_is_the_same_view_until_the_next_batch() -> None:
    counter = iter(range(100))
    held = Held(lambda indices, _position: (indices * 0 + next(counter),), torch.device("cpu"))
    first, second, other = torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([4, 5])

    def value(indices: torch.Tensor, position: int) -> int:
        return int(held(indices, position)[0][0])

    assert [value(first, 0), value(second, 0), value(first, 3), value(second, 3)] == [0, 1, 0, 1]
    assert [value(other, 6), value(first, 9)] == [2, 3], "what was held before is gone"


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_a_stopped_training_goes_on_bit_for_bit(
    run: Callable[..., Any], load: Load, tmp_path: Path, steps: int
) -> None:
    """Also in the middle of the echoes of a batch whose view cannot be read again."""
    params = {"data.echo": 3, "batch.accumulation": 2, "data.repeats": 2}
    loaded = load(train=Noisy(load().train.tensors))
    whole = run(params, loaded)
    answers = iter([False] * (steps - 1) + [True])
    stopped = run(params, loaded, folder=tmp_path, stopped=lambda: next(answers))
    assert (stopped.ended.outcome, stopped.ended.steps) == ("stopped", steps)
    resumed = run(params, loaded, folder=tmp_path, resume=True)
    assert torch.equal(resumed.weights, whole.weights)
    assert [r.value for r in (*stopped.reports, *resumed.reports)] == [r.value for r in whole.reports]


def test_data_in_memory_are_not_echoed(run: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=r"data\.echo 2: the data are in memory already"):
        run({"data.echo": 2})
