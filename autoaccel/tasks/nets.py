"""The networks of tasks that are made from data: pixels in front of any image model, a language model, a table's MLP.

Importing it loads torch. Must not know files or splits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Pixels(nn.Module):
    """A network behind the step from pixels to numbers: 0..255 of any type in, normalised per channel on the device.

    Data therefore stay uint8 until the batch. The network itself is `net`.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, net: nn.Module, mean: list[float], std: list[float]) -> None:
        """`mean` and `std` of each channel, in pixels (0..255)."""
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) pixels to what the network returns."""
        return self.net((x.float() - self.mean) * self.scale)


class LanguageModel(nn.Module):
    """A decoder-only transformer with norms before the blocks (arXiv 2002.04745) and learned positions (GPT-2).

    Weights begin as GPT-2's: normal with 0.02, those that end a residual branch smaller by the root of their number.
    """

    def __init__(self, n_symbols: int, context: int, width: int = 64, n_blocks: int = 2, n_heads: int = 4) -> None:
        super().__init__()
        self.symbols = nn.Embedding(n_symbols, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, n_heads) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_symbols)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                nn.init.normal_(parameter, std=0.02 / (2 * n_blocks) ** 0.5 if ".out." in name else 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T) symbols of any integer type, T at most the context, to scores (N, T, n_symbols)."""
        positions = torch.arange(x.shape[1], device=x.device)
        hidden = self.symbols(x.int()) + self.positions(positions)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


def stages_of(model: LanguageModel) -> list[nn.Module]:
    """Modules that one after the other compute what the model does, made of its own."""
    return [_Embedding(model.symbols, model.positions), *model.blocks, nn.Sequential(model.norm, model.head)]


class _Embedding(nn.Module):
    """Symbols and their positions."""

    def __init__(self, symbols: nn.Embedding, positions: nn.Embedding) -> None:
        super().__init__()
        self.symbols, self.positions = symbols, positions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        return self.symbols(x.int()) + self.positions(positions)


class _Block(nn.Module):
    """Causal self-attention, then two linear layers, each on the normalised sum of all before it."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attention = _Attention(width, n_heads)
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.norms[0](x)))
        return x + self.dropout(self.out(F.gelu(self.hidden(self.norms[1](x)))))


class _Attention(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(n, t, width))


class TableNet(nn.Module):
    """A multi-layer perceptron over numbers and embedded categories (arXiv 2106.11959), with layer norm and dropout.

    Layer norm, because it leaves the gradient of a batch the same however it is cut into micro-batches.
    """

    first: torch.Tensor

    def __init__(
        self, n_numbers: int, n_levels: list[int], n_classes: int, width: int = 256, n_hidden: int = 2, dim: int = 8
    ) -> None:
        """`n_levels`: categories of each categorical column; `dim`: numbers that stand for one category."""
        super().__init__()
        self.n_numbers = n_numbers
        # One table for the levels of all columns: one look-up however many columns there are.
        self.register_buffer("first", torch.tensor([0, *n_levels]).cumsum(0)[: len(n_levels)])
        self.levels = nn.Embedding(sum(n_levels), dim) if n_levels else None
        layers: list[nn.Module] = []
        n_inputs = n_numbers + dim * len(n_levels)
        for _ in range(n_hidden):
            layers += [nn.Linear(n_inputs, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(0.1)]
            n_inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(n_inputs, n_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, numbers + categorical columns) fp32, the categories as whole numbers last, to scores (N, classes)."""
        if self.levels is not None:
            codes = x[:, self.n_numbers :].int() + self.first
            x = torch.cat([x[:, : self.n_numbers], self.levels(codes).flatten(1)], dim=1)
        return self.layers(x)
