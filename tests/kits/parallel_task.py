"""A small transformer with a plan of how it is cut over devices, on tokens whose labels can be learned."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autoaccel import ParallelPlan, Task

HERE = Path(__file__).parent
N_TOKENS, LENGTH, WIDTH, HEADS, N_CLASSES = 11, 6, 16, 4, 3


class Attention(nn.Module):
    """However many of the heads this device has."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [layer(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(-2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norms = Attention(), nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.hidden, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.down(F.gelu(self.hidden(self.norms[1](x))))


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(N_TOKENS, WIDTH), nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(x) + self.positions


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.classes = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classes(self.norm(x).mean(1))


class Transformer(nn.Module):
    """Dies in its first forward pass where a file beside this one says which process is to."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = Embedding(), Head()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and (HERE / f"kill.{os.environ.get('RANK')}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


PLAN = ParallelPlan(
    tensor={
        **dict.fromkeys((f"blocks.*.attention.{name}" for name in "qkv"), "columns"),
        "blocks.*.attention.out": "rows",
        "blocks.*.hidden": "columns",
        "blocks.*.down": "rows",
    },
    stages=lambda model: [model.embedding, *model.blocks, model.head],
)


def data(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and whether few, some or many of them are large."""
    tokens = torch.randint(N_TOKENS, (n, LENGTH), generator=torch.Generator().manual_seed(seed))
    return tokens, ((tokens > 5).sum(1) - 1).div(2, rounding_mode="floor").clamp(0, 2)


def task(**changes: Any) -> Task:
    """What is trained."""
    fields = {"name": "tokens", "model": Transformer, "train": data(120, 1), "validation": data(50, 2), "plan": PLAN}
    return Task(**{**fields, "test": data(31, 3), **changes})


def counting_step(model: nn.Module, batch: Any) -> dict[str, Any]:
    """Samples of later classes count for more items."""
    inputs, targets = batch
    weights = 1.0 + targets
    outputs = model(inputs)
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return {
        "outputs": outputs,
        "targets": targets,
        "loss": (losses * weights).sum() / weights.sum(),
        "n": float(weights.sum()),
    }


def counting() -> Task:
    """The same with a step of its own."""
    return task(step=counting_step)
