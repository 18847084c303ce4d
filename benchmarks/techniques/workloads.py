"""The two fixed small tasks on which techniques are measured: CIFAR-10 images and Shakespeare's characters.

Must not know which techniques there are.
"""

from __future__ import annotations

import torch
from torch import nn

from autoaccel.tasks.base import Task
from autoaccel.tasks.text import Text
from benchmarks.cifar10 import read_cifar10
from benchmarks.search.problems.data import data_file

N_TRAIN, N_VALIDATION = 8_000, 2_000
CONTEXT = 128


def images() -> Task:
    """CIFAR-10, 8,000 training and 2,000 validation images as uint8, and timm's smallest ResNet."""
    pixels, labels = read_cifar10(data_file("cifar10", "cifar10.npz"))
    train, rest = slice(0, N_TRAIN), slice(N_TRAIN, N_TRAIN + N_VALIDATION)
    return Task(
        name="techniques-images",
        model=SmallResNet,
        train=(pixels[train], labels[train]),
        validation=(pixels[rest], labels[rest]),
    )


def text() -> Task:
    """Tiny Shakespeare, next characters in windows of 128, and a transformer of two layers."""
    return Text(text=data_file("tinyshakespeare", "input.txt"), context=CONTEXT).task()


class SmallResNet(nn.Module):
    """timm's test_resnet (0.4 million parameters) on uint8 images, normalized inside."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.body = timm.create_model("test_resnet", num_classes=10, in_chans=3)
        self.register_buffer("mean", torch.tensor([125.3, 123.0, 113.9]).view(1, 3, 1, 1))
        self.register_buffer("sd", torch.tensor([63.0, 62.1, 66.7]).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body((x - self.mean) / self.sd)
        return out
