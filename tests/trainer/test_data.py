"""Data as it is given becomes data as models and losses take it; what is random stays random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autoaccel.errors import UsageError
from autoaccel.sections import Data
from autoaccel.trainer import data as data_module
from autoaccel.trainer.data import columns, load_split
from autoaccel.trainer.techniques.sampling import SampleOrder

CPU = torch.device("cpu")
ALL = torch.arange(6)
X = np.arange(12.0).reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2])


class Listed(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A map-style Dataset of what a function makes of an index."""

    def __init__(self, n: int, sample: Callable[[int], Any]) -> None:
        self.n, self.sample = n, sample

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return self.sample(i)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (np.float64, torch.float32),
        (np.float32, torch.float32),
        (np.float16, torch.float16),
        (np.uint8, torch.uint8),
        (np.int32, torch.int32),
        (np.int64, torch.int64),
    ],
)
def test_inputs_keep_their_type_but_float64(given: type, taken: torch.dtype) -> None:
    for inputs in (X.astype(given), torch.from_numpy(X.astype(given))):
        batch = load_split((inputs, Y), "train", CPU).take(ALL)
        assert batch[0].dtype == taken
        assert batch[0].tolist() == X.tolist()


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.bool_])
def test_integer_labels_become_int64(kind: type) -> None:
    labels = (Y > 0).astype(kind)
    pair = load_split((X, labels), "train", CPU)
    table = load_split({"x": X, "labels": labels}, "train", CPU)
    read = load_split(Listed(6, lambda i: (X[i], labels[i])), "train", CPU)
    for split in (pair, table, read):
        assert split.labels is not None
        assert (split.labels.dtype, split.labels.tolist()) == (torch.int64, labels.astype(int).tolist())
    assert pair.take(ALL)[1].dtype == table.take(ALL)["labels"].dtype == torch.int64


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X, Y],
        (X, list(Y)),
        (X.tolist(), Y.tolist()),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        Listed(6, lambda i: (X[i], Y[i])),
        Listed(6, lambda i: [torch.from_numpy(X[i]), int(Y[i])]),
        [(X[i], Y[i]) for i in range(6)],
        torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    ],
    ids=[
        "tuple",
        "list",
        "list labels",
        "lists",
        "tensors",
        "dataset",
        "dataset of lists",
        "list of samples",
        "TensorDataset",
    ],
)
def test_every_form_gives_the_same_batches(data: Any) -> None:
    split = load_split(data, "train", CPU)
    assert (split.n, split.tensors is not None) == (6, True)
    inputs, targets = split.take(torch.tensor([5, 0, 5]))
    assert inputs.tolist() == X[[5, 0, 5]].tolist()
    assert targets.tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    "data", [{"x": X, "y": Y}, Listed(6, lambda i: {"x": X[i], "y": Y[i]})], ids=["dict", "dataset"]
)
def test_dicts_stay_dicts(data: Any) -> None:
    split = load_split(data, "train", CPU)
    batch = split.take(torch.tensor([1, 2]))
    assert {key: value.tolist() for key, value in batch.items()} == {"x": X[[1, 2]].tolist(), "y": [1, 2]}
    assert split.labels is None


def test_awkward_arrays_are_copied() -> None:
    frozen = X.copy()
    frozen.flags.writeable = False
    assert load_split((X[::-1], Y), "train", CPU).take(ALL)[0].tolist() == X[::-1].tolist()
    assert load_split((frozen, Y), "train", CPU).take(ALL)[0].tolist() == X.tolist()


def test_a_tensor_that_requires_grad_is_data_all_the_same() -> None:
    split = load_split((torch.zeros(6, 2, requires_grad=True), Y), "train", CPU)
    assert not split.take(ALL)[0].requires_grad


# ---------------------------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_an_augmenting_dataset_is_streamed_not_frozen(share: float) -> None:
    """Also if it changes only some of the samples it reads."""
    generator = torch.Generator().manual_seed(0)

    def flip(i: int) -> tuple[torch.Tensor, int]:
        flipped = bool(torch.rand((), generator=generator) < share)
        return (torch.rand(4, generator=generator) if flipped else torch.zeros(4)), i % 2

    split = load_split(Listed(64, flip), "train", CPU)
    assert (split.tensors, split.labels) == (None, None)
    first, second = (split.take(torch.arange(64))[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_samples_of_random_size_are_streamed() -> None:
    """A random crop that changes its shape is random too; whether it makes a batch is seen when one is read."""
    sizes = iter([3, *[4] * 100])
    split = load_split(Listed(1, lambda i: torch.zeros(next(sizes))), "train", CPU)
    assert split.tensors is None


def test_nan_is_not_taken_for_randomness() -> None:
    split = load_split(Listed(6, lambda i: (torch.tensor([float("nan"), 1.0]), i % 2)), "train", CPU)
    assert split.tensors is not None


def test_data_too_large_is_read_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "_free_bytes", lambda device: 100)
    split = load_split(Listed(6, lambda i: (X[i], np.uint8(Y[i]))), "train", CPU)
    assert split.tensors is None
    inputs, targets = split.take(torch.tensor([3, 1]))
    assert inputs.tolist() == X[[3, 1]].tolist()
    assert (inputs.dtype, targets.dtype, targets.tolist()) == (torch.float32, torch.int64, [0, 1])


def test_tensors_too_large_for_the_device_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "_free_bytes", lambda device: 100)
    split = load_split((X, Y), "train", torch.device("meta"))
    assert {t.device.type for t in columns(split.tensors)} == {"cpu"}
    assert {t.device.type for t in split.take(ALL)} == {"meta"}


def test_a_large_dataset_is_read_in_chunks_and_in_order() -> None:
    split = load_split(Listed(2500, lambda i: (torch.tensor([i]), i)), "train", CPU)
    assert split.take(torch.arange(2500))[1].tolist() == list(range(2500))


# -------------------------------------------------------------------------------------------------------------- wrong

WRONG = [
    (([], []), "train data: empty (0 samples)"),
    ([], "train data: empty dataset (0 samples)"),
    ((np.zeros((0, 2)), np.zeros(0)), "train data: empty (0 samples)"),
    ({}, "train data: empty (0 samples)"),
    (Listed(0, lambda i: i), "train data: empty dataset (0 samples)"),
    ((X, Y[:5]), "train data: lengths differ: [6, 5]"),
    ((X, 3), "train data: lengths differ: [6, 0]"),
    ((X, ["a"] * 6), "train targets: cannot become a tensor: TypeError"),
    ((X, [[1], [2, 3]]), "train targets: cannot become a tensor: ValueError"),
    ({"x": np.array([object()] * 6)}, "train 'x': cannot become a tensor"),
    (None, "train data: a NoneType is neither (inputs, targets), a dict, nor a map-style Dataset"),
    (iter([1]), "map-style Dataset"),
    (Listed(6, lambda i: "text"), "train item 0: cannot become a tensor"),
    (Listed(6, lambda i: None), "do not make a batch: TypeError"),
    (Listed(6, lambda i: ({"ids": X[i]}, 1)), "train inputs: cannot become a tensor"),
    (Listed(6, lambda i: (torch.zeros(i), 1)), "train data: samples up to number 5 do not make a batch: RuntimeError"),
    (Listed(6, lambda i: X[i + 4]), "up to number 2 do not make a batch: IndexError"),
    (Listed(2000, lambda i: torch.zeros(1 + (i > 1500))), "do not make a batch"),
]


@pytest.mark.parametrize(("data", "fragment"), WRONG, ids=[f[:40] for _, f in WRONG])
def test_wrong_data_is_named(data: Any, fragment: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_split(data, "train", CPU)
    assert fragment in caught.value.message
    assert caught.value.hint


def test_the_order_covers_streamed_data_too() -> None:
    split = load_split(Listed(6, lambda i: (torch.rand(2), i)), "train", CPU)
    assert sorted(SampleOrder(split, Data(), 0).draw(0, 6, 0.0).indices.tolist()) == list(range(6))
