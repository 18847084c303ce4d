"""Small nets with what deep ones are made of: residual blocks, normalization, attention, dropout."""

from __future__ import annotations

import torch
from torch import nn

SIDE = 8


def images(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes of 8 px images with three channels: a bright stripe at one of three places, and noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    pictures = torch.randn(n, 3, SIDE, SIDE, generator=generator) * 0.5
    for i, label in enumerate(labels.tolist()):
        pictures[i, :, 2 * label : 2 * label + 2] += 1.0
    return pictures, labels


class Residual(nn.Module):
    """x + a small branch that ends with a normalization layer; with other sizes the shortcut is a convolution."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.drop = nn.Dropout(0.2)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.norm2(self.conv2(self.drop(self.norm1(self.conv1(x)).relu())))
        return (branch + self.shortcut(x)).relu()


class Layers(nn.Module):
    """A transformer block, normalized before each branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Rows(nn.Module):
    """Images (N, 3, 8, 8) as sequences of their rows (N, 8, 24)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.movedim(1, 2).flatten(2)


class Mean(nn.Module):
    """Mean over a sequence (N, T, C) -> (N, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


def residual_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Sequential(Residual(4, 4), Residual(4, 8), Residual(8, 8)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def plain_net() -> nn.Module:
    """No shortcut anywhere."""
    unit = lambda n_in, n_out: nn.Sequential(nn.Conv2d(n_in, n_out, 3), nn.BatchNorm2d(n_out), nn.ReLU())  # noqa: E731
    return nn.Sequential(unit(3, 4), unit(4, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def transformer() -> nn.Module:
    return nn.Sequential(Rows(), nn.Linear(24, 16), nn.Sequential(Layers(16), Layers(16)), Mean(), nn.Linear(16, 3))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))


NETS = {"residual": residual_net, "plain": plain_net, "transformer": transformer, "mlp": mlp}
