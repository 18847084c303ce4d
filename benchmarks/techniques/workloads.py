"""The two fixed small tasks on which techniques are measured: CIFAR-10 images and Shakespeare's characters.

Must not know which techniques there are.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoaccel.tasks.base import Task
from autoaccel.tasks.text import Text

N_TRAIN, N_VALIDATION = 8_000, 2_000
CONTEXT = 128
_ROOT = Path(__file__).resolve().parents[2]


def data_folder() -> Path:
    """Where the data are: the folder AUTOACCEL_BENCHMARK_DATA names, else ../shared/data beside the project."""
    return Path(os.environ.get("AUTOACCEL_BENCHMARK_DATA", _ROOT.parent / "shared" / "data"))


def images() -> Task:
    """CIFAR-10, 8,000 training and 2,000 validation images as uint8, and timm's smallest ResNet."""
    pixels, labels = _cifar10()
    train, rest = slice(0, N_TRAIN), slice(N_TRAIN, N_TRAIN + N_VALIDATION)
    return Task(
        name="techniques-images",
        model=SmallResNet,
        train=(pixels[train], labels[train]),
        validation=(pixels[rest], labels[rest]),
    )


def text() -> Task:
    """Tiny Shakespeare, next characters in windows of 128, and a transformer of two layers."""
    return Text(text=data_folder() / "tinyshakespeare" / "input.txt", context=CONTEXT).task()


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


def _cifar10() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3, 32, 32) uint8 and labels of the first training images."""
    from PIL import Image

    content = np.load(data_folder() / "cifar10" / "cifar10.npz")
    height, width, channels, columns = (int(v) for v in content["tile"])
    tiles: list[Any] = []
    for key in sorted(k for k in content.files if k.startswith("train_")):
        block = np.asarray(Image.open(io.BytesIO(content[key].tobytes())))
        rows = block.shape[0] // height
        block = block.reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
        tiles.append(block.reshape(rows * columns, channels, height, width))
        if sum(map(len, tiles)) >= N_TRAIN + N_VALIDATION:
            break
    return np.concatenate(tiles), content["y_train"].astype(np.int64)
