"""The first losses of a training in several precisions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig, with_params
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.soundness import measure_soundness

Loader = Callable[..., LoadedTask]
CONFIG = with_params(TrainerConfig(), {"batch.size": 16, "optim.lr": 0.05})
UNLIMITED = Room(1e9, math.inf)


def test_losses_of_the_same_samples_from_the_same_weights(load: Loader) -> None:
    found = measure_soundness(load(), CONFIG, dtypes=["fp32", "bf16"], n_steps=20, room=UNLIMITED)
    plain, other = found["losses"]["fp32"], found["losses"]["bf16"]
    assert len(plain) == len(other) == 20 and plain != other
    assert abs(plain[0] - other[0]) < 0.02, "the first is of fresh weights"
    assert sum(plain[-5:]) < sum(plain[:5])
    assert found["flops"] == 2 * 20 * 16 * 10
    again = measure_soundness(load(), CONFIG, dtypes=["fp32"], n_steps=20, room=UNLIMITED)
    assert again["losses"]["fp32"] == plain


def test_a_loss_that_is_not_finite_is_none(load: Loader) -> None:
    class Overflowing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = super().forward(x)
            return found * math.inf if torch.is_autocast_enabled("cpu") else found

    task = load(model=lambda: Overflowing(6, 3))
    found = measure_soundness(task, CONFIG, dtypes=["fp32", "bf16"], n_steps=3, room=UNLIMITED)
    assert None not in found["losses"]["fp32"] and found["losses"]["bf16"] == [None] * 3


def test_what_does_not_fit_is_not_begun(load: Loader) -> None:
    """FLOPs of one precision, not of two."""
    given = {"dtypes": ["fp32", "bf16"], "n_steps": 20}
    found = measure_soundness(load(), CONFIG, **given, room=Room(1e9, 1.5 * 20 * 16 * 10))
    assert list(found["losses"]) == ["fp32"] and found["flops"] == 20 * 16 * 10
    assert measure_soundness(load(), CONFIG, **given, room=Room(1e9, 1.0))["losses"] == {}
