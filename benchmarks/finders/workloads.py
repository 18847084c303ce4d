"""What is trained: two models, made-up data for them, and the recipe. Must not know who chooses a batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from autoaccel.config import TrainerConfig, with_params
from autoaccel.tasks.base import Task
from benchmarks.trainer.workloads import CharTransformer, Scaled

N_TRAIN, N_VALIDATION = 20_000, 1_000
"""More than any batch that fits; two whole batches of an evaluation, and more."""
N_CLASSES, N_SYMBOLS, N_TOKENS = 10, 65, 128
Batch = tuple[torch.Tensor, torch.Tensor]


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out)
        self.second, self.norm2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)
        same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.second(self.norm1(self.first(x)).relu()))
        return (inner + self.shortcut(x)).relu()


def conv_net() -> nn.Module:
    """A residual net for 32 x 32 colour images: 16, 32 and 64 channels, one block each (78,042 parameters)."""
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    return Scaled(nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, N_CLASSES)))


def images(n: int, rng: torch.Generator) -> Batch:
    """uint8 images (n, 3, 32, 32) and their classes."""
    pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return pixels, torch.randint(0, N_CLASSES, (n,), generator=rng)


def windows(n: int, rng: torch.Generator) -> Batch:
    """Windows of 128 symbols, int64 (n, 128), and the same one symbol on."""
    symbols = torch.randint(0, N_SYMBOLS, (n, N_TOKENS + 1), generator=rng)
    return symbols[:, :-1].clone(), symbols[:, 1:].clone()


@dataclass(frozen=True)
class Workload:
    """A model and the data it takes."""

    model: Callable[[], nn.Module]
    data: Callable[[int, torch.Generator], Batch]


WORKLOADS: Mapping[str, Workload] = {
    "conv_net": Workload(conv_net, images),
    "char_transformer": Workload(CharTransformer, windows),
}


def datasets(name: str) -> tuple[TensorDataset, TensorDataset]:
    """Training and validation data as peers take them."""
    rng = torch.Generator().manual_seed(0)
    train, validation = (TensorDataset(*WORKLOADS[name].data(n, rng)) for n in (N_TRAIN, N_VALIDATION))
    return train, validation


def task_of(name: str, recipe: Mapping[str, Any], watched: Callable[[nn.Module], nn.Module] = lambda m: m) -> Task:
    """The workload as a task of ours, with its recipe as the baseline; its metric is the loss.

    Args:
        name: of the workload.
        recipe: settings by dotted path.
        watched: what becomes of every model that is made.
    """
    train, validation = datasets(name)
    return Task(
        name=name,
        model=lambda: watched(WORKLOADS[name].model()),
        train=train.tensors,
        validation=validation.tensors,
        metric="loss",
        baseline=config_of(recipe),
    )


def config_of(recipe: Mapping[str, Any], **params: Any) -> TrainerConfig:
    """The recipe as a config, with some settings changed (`batch__size` is `batch.size`)."""
    changed = {path.replace("__", "."): value for path, value in params.items()}
    return with_params(TrainerConfig(), {**recipe, **changed})
