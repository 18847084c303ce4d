"""Toy images and sequences, and models that take them at any size and note what they are given."""

from __future__ import annotations

import torch
from torch import nn

N, SIDE, LENGTH = 96, 16, 32


def photos(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images whose brighter side says the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = torch.randint(0, 120, (n, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    images[torch.arange(n), labels] += 100
    return images, labels


class Pixels(nn.Module):
    """Takes images of any size, 0..255; notes the sides and types that it sees in training."""

    def __init__(self, seen: list[tuple[int, torch.dtype]] | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.seen = nn.Linear(4, 3), seen if seen is not None else []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append((x.shape[-1], x.dtype))
        out: torch.Tensor = self.head(self.body(x.float() / 255))
        return out


class Words(nn.Module):
    """Next tokens from tokens, sequences of any length; notes the lengths that it sees in training."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.layers, self.seen = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)), seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(x.shape[1])
        out: torch.Tensor = self.layers(x)
        return out
