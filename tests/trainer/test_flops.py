"""FLOPs of one sample: what a hand count gives, for models of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.tasks.base import Task
from autoaccel.tasks.digits import small_cnn
from autoaccel.tasks.nets import LanguageModel
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


class Mobile(nn.Sequential):
    """Convolutions of every kind: plain, grouped with a stride, depthwise, pointwise, transposed."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=4),
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            nn.Conv2d(32, 8, 1),
            nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, groups=2),
            *(nn.Flatten(), nn.Linear(4 * 16 * 16, 10)),
        )


class Encoder(nn.Module):
    """torch's own transformer over (N, 24, 32); `mode` is that in which the task hands it over."""

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)
        self.train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.blocks(x).mean(1))
        return out


class Deep(nn.Module):
    """A recurrent network of several layers, both ways or one, over (N, 20, 12)."""

    def __init__(self, kind: Any, n_layers: int, both_ways: bool) -> None:
        super().__init__()
        self.layers = kind(12, 16, num_layers=n_layers, bidirectional=both_ways, batch_first=True)
        self.head = nn.Linear(16 * (1 + both_ways), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.layers(x)[0][:, -1])
        return out


def plainly_loaded(model: Callable[[], nn.Module], *data: torch.Tensor, **fields: Any) -> LoadedTask:
    """A task with this data, its FLOPs counted."""
    task = Task(name="count", model=model, train=data, validation=data, **fields)
    loaded = load_data(task, torch.device("cpu"))
    total, ahead = count_flops(loaded, build(loaded, TrainerConfig()), model())
    return replace(loaded, flops_per_sample=total, evaluation_flops=ahead * loaded.validation.n)


def counted(model: Callable[[], nn.Module], *shape: int, **fields: Any) -> tuple[float, float]:
    loaded = plainly_loaded(model, torch.zeros(4, *shape), torch.tensor([0, 1, 0, 1]), **fields)
    return loaded.flops_per_sample, loaded.evaluation_flops / loaded.validation.n


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


# ------------------------------------------------------------------------------------ hand formulas, 2 per multiply-add


def test_convolutions_of_every_kind_by_hand() -> None:
    """Outputs x fan-in forward (of a transposed one inputs x fan-out), and the same for each gradient: of the weights
    always, of the inputs but for the first layer."""
    first = 2 * (16 * 16 * 16) * (3 * 3 * 3)
    grouped = 2 * (8 * 8 * 32) * (3 * 3 * 16 // 4)
    depthwise = 2 * (8 * 8 * 32) * (3 * 3)
    pointwise = 2 * (8 * 8 * 8) * 32
    transposed = 2 * (8 * 8 * 8) * (4 * 4 * 4 // 2)
    head = 2 * 10 * (4 * 16 * 16)
    ahead = first + grouped + depthwise + pointwise + transposed + head
    assert counted(Mobile, 3, 16, 16) == (3 * ahead - first, ahead)


WIDTH, CONTEXT, BLOCKS, SYMBOLS = 64, 32, 2, 11
TEXT = torch.randint(0, SYMBOLS, (4, CONTEXT), generator=torch.Generator().manual_seed(0))
PROJECTIONS = 2 * CONTEXT * (3 + 1) * WIDTH**2
SCORES = 2 * (2 * CONTEXT**2 * WIDTH)
"""Queries with keys, and weights with values: each position with each, whatever a mask leaves out."""
FEED_FORWARD = 2 * CONTEXT * 2 * 4 * WIDTH**2
HEAD = 2 * CONTEXT * WIDTH * SYMBOLS


def language_model() -> nn.Module:
    return LanguageModel(SYMBOLS, CONTEXT, WIDTH, BLOCKS, n_heads=4)


def test_a_language_model_by_hand() -> None:
    """Embeddings are looked up, not multiplied. The fused attention computes its first product again going back: five
    products there for two forward."""
    loaded = plainly_loaded(language_model, TEXT, TEXT)
    linear = BLOCKS * (PROJECTIONS + FEED_FORWARD) + HEAD
    ahead, back = linear + BLOCKS * SCORES, 2 * linear + BLOCKS * 2.5 * SCORES
    assert loaded.evaluation_flops / 4 == ahead
    assert loaded.flops_per_sample == ahead + back
    assert loaded.flops_per_sample == pytest.approx(3 * ahead, rel=0.05), "the rule of thumb, six per weight"


def test_blocks_computed_twice_count_twice() -> None:
    """But for the last product of each, which nothing going back needs."""
    loaded = plainly_loaded(language_model, TEXT, TEXT)
    again = recounted(loaded, with_params(TrainerConfig(), {"memory.checkpointing": "full"}))
    block = PROJECTIONS + SCORES + FEED_FORWARD / 2
    assert again.flops_per_sample == loaded.flops_per_sample + BLOCKS * block
    assert again.evaluation_flops == loaded.evaluation_flops


@pytest.mark.parametrize("mode", [True, False])
def test_an_encoder_is_counted_as_it_is_trained(mode: bool) -> None:
    """However the task hands it over: in evaluation mode torch may run kernels that have no formula."""
    length, width = 24, 32
    projections, feed_forward = 2 * length * 3 * width**2, 2 * length * (width**2 + 2 * 64 * width)
    ahead = 2 * (projections + feed_forward + 4 * length**2 * width) + 2 * width * 3
    found = counted(lambda: Encoder(mode), length, width)
    assert found == (3 * ahead - projections, ahead), "the inputs of the first block need no gradient"


@pytest.mark.parametrize(("kind", "n_gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize(("n_layers", "both_ways"), [(1, False), (2, False), (2, True)])
def test_recurrent_nets_by_hand(kind: Any, n_gates: int, n_layers: int, both_ways: bool) -> None:
    """Every gate of every unit, from the inputs and from the state. The first inputs need no gradient, nor does the
    state that a layer begins with."""
    steps, units, ways = 20, 16, 1 + both_ways
    state = ways * 2 * n_gates * units * units
    first = ways * 2 * n_gates * units * 12 * steps
    later = ways * 2 * n_gates * units * units * ways * steps
    head = 2 * 3 * units * ways
    ahead = first + (n_layers - 1) * later + n_layers * steps * state + head
    total, found = counted(lambda: Deep(kind, n_layers, both_ways), steps, 12)
    assert found == ahead
    assert total == 3 * ahead - first - n_layers * state


def test_a_recurrent_net_is_counted_where_it_can_be_under_every_config() -> None:
    """Half of its layers frozen at the end: no more than before, and far more than its head alone."""
    loaded = plainly_loaded(lambda: Deep(nn.LSTM, 2, False), torch.zeros(4, 20, 12), torch.tensor([0, 1, 0, 1]))
    again = recounted(loaded, with_params(TrainerConfig(), {"model.freeze": 0.5}))
    assert again.flops_per_sample == loaded.flops_per_sample
    assert again.evaluation_flops == loaded.evaluation_flops
    assert 0 < again.frozen_flops[-1] < loaded.flops_per_sample


# ------------------------------------------------------------------------------------------------------ where, and what


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
