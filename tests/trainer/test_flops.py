"""FLOPs of one sample: what a hand count gives, for models of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.tasks.base import Task
from autoaccel.tasks.digits import small_cnn
from autoaccel.trainer.build import build, load_data
from autoaccel.trainer.flops import count_flops, recounted
from autoaccel.trainer.parts import LoadedTask


class Recurrent(nn.Module):
    """An LSTM, whose fused kernels have no formula, and a head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


class ReadsValues(nn.Linear):
    """Decides by the values it sees, which the meta device does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if float(x.detach().sum()) < 1e9 else x


class Scale(nn.Module):
    """No matrix product anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def counted(model: Callable[[], nn.Module], *shape: int, **fields: Any) -> tuple[float, float]:
    data = (torch.zeros(4, *shape), torch.tensor([0, 1, 0, 1]))
    loaded = load_data(Task(name="count", model=model, train=data, validation=data, **fields), torch.device("cpu"))
    return count_flops(loaded, build(loaded, TrainerConfig()), model())


def test_the_digits_net_by_hand() -> None:
    """2 per multiply-add: outputs x fan-in. Backward is twice that; the first layer needs no gradient of its input."""
    first = 2 * (8 * 8 * 32) * (3 * 3 * 1)
    second = 2 * (4 * 4 * 64) * (3 * 3 * 32)
    head = 2 * 10 * 256
    ahead = first + second + head
    assert counted(small_cnn, 1, 8, 8) == (ahead + first + 2 * (second + head), ahead)


def test_a_linear_net() -> None:
    net = lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))  # noqa: E731
    first, second = 2 * 6 * 8, 2 * 8 * 3
    assert counted(net, 6) == (first + second + first + 2 * second, first + second)


def test_batch_norm_and_step_count_too() -> None:
    def step(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"outputs": model(batch[0]), "targets": batch[1]}

    net = lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))  # noqa: E731
    assert counted(net, 6, step=step) == (2 * 2 * 18, 2 * 18)


def test_a_recurrent_net() -> None:
    """Four gates of four units over seven steps, from five inputs and four states."""
    total, ahead = counted(Recurrent, 7, 5)
    assert ahead == pytest.approx(2 * 7 * 4 * 4 * (5 + 4) + 2 * 4 * 3)
    assert 2 * ahead < total <= 3 * ahead


def test_what_reads_values_is_counted_where_it_runs() -> None:
    assert counted(lambda: ReadsValues(6, 3), 6) == (72, 36)


def test_what_has_no_formula_is_zero_and_not_an_error() -> None:
    assert counted(Scale, 3) == (0, 0)


def test_counting_leaves_the_training_as_it_was() -> None:
    data = (torch.randn(4, 6), torch.tensor([0, 1, 0, 1]))
    net = lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))  # noqa: E731
    loaded = load_data(Task(name="count", model=net, train=data, validation=data), torch.device("cpu"))
    parts = build(loaded, TrainerConfig())
    before = {key: value.clone() for key, value in parts.model.state_dict().items()}
    count_flops(loaded, parts, net())
    assert all(torch.equal(value, before[key]) for key, value in parts.model.state_dict().items())
    assert all(p.grad is None for p in parts.model.parameters())


def test_a_memory_budget_counts_as_one_more_forward_pass(load: Callable[..., LoadedTask]) -> None:
    """Also where the model is counted again for another reason."""
    loaded = load()
    budget = {"compile.mode": "default", "memory.budget": 0.5}
    for params in ({}, {"model.freeze": 0.5}):
        plain, ours = (recounted(loaded, with_params(TrainerConfig(), p)) for p in (params, {**params, **budget}))
        forward = plain.evaluation_flops / plain.validation.n
        assert forward > 0 and ours.flops_per_sample == plain.flops_per_sample + forward
