"""The work that all contestants do: models, data and recipes, and the parts of a recipe that torch gives to any loop.

Must not know who trains, nor how it is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from benchmarks.cifar10 import read_cifar10
from benchmarks.search.problems.data import Absent, data_file

Arrays = dict[str, NDArray[Any]]
"""`inputs` and `targets`, equally long; `synthetic` where the values are made up."""
IMAGES, TEXT = ("cifar10", "cifar10.npz"), ("tinyshakespeare", "input.txt")
N_IMAGES, N_SYMBOLS, N_TOKENS = 50_000, 65, 128
N_VALIDATION = 64
"""Nobody is timed while evaluating; ours evaluates once, at its end."""


@dataclass(frozen=True)
class Recipe:
    """What is computed in a step. The learning rate falls as a cosine to zero at the last step."""

    batch: int
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class Job:
    """One training: the same for every contestant."""

    recipe: Recipe
    inputs: torch.Tensor
    targets: torch.Tensor
    model: Callable[[], nn.Module]
    """The model with its probe; the weights are the same at every call."""
    plain_model: Callable[[], nn.Module]
    """The same without the probe."""
    n_steps: int
    shuffled: bool = True
    """False: samples are taken in the order in which they lie."""
    whole_batches: bool = False
    """Peers: the dataset hands over whole batches, so that nothing is collated."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Ours: further settings of the config, by dotted path."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Scaled(nn.Module):
    """Bytes to numbers around zero, then the model: data stays compact in memory, for everybody."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(images.float().mul(1 / 64).sub(2.0))
        return found


class CharTransformer(nn.Module):
    """Two blocks of causal attention over characters, 64 wide; logits of the next one, (batch, tokens, symbols)."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(N_SYMBOLS, 64), nn.Embedding(N_TOKENS, 64)
        self.blocks = nn.Sequential(*(Block(64, 4) for _ in range(2)))
        self.head = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, N_SYMBOLS))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.blocks(self.symbols(tokens) + self.places.weight[: tokens.shape[1]]))
        return found


class Block(nn.Module):
    """Pre-norm causal attention and a feed-forward net."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        found: torch.Tensor = x + self.wide(x)
        return found


def small_cnn() -> nn.Module:
    """The net of examples/fashion_mnist.py for 32 x 32 colour images: what a user's first task looks like."""
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return Scaled(nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 10)))


def small_vit() -> nn.Module:
    """timm's smallest vision transformer (0.3 M parameters) at 32 pixels, 16 patches."""
    import timm

    return Scaled(timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=10))


def cifar_net() -> nn.Module:
    """A net for 94 % on CIFAR-10 in seconds on a GPU, after the one of arXiv 2404.00498: patches, three pairs of
    convolutions, a small head; about 2 million parameters."""
    body: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
    for before, width in ((24, 64), (64, 256), (256, 256)):
        body += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.GELU()]
        body += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
    return Scaled(nn.Sequential(*body, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, 10, bias=False), Shrunk()))


class Shrunk(nn.Module):
    """Logits a ninth as large, so that the first steps are not too sure (arXiv 2404.00498)."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / 9


MODELS: dict[str, Callable[[], nn.Module]] = {
    "small_cnn": small_cnn,
    "small_vit": small_vit,
    "char_transformer": CharTransformer,
    "cifar_net": cifar_net,
}


def image_arrays(n: int | None = None) -> Arrays:
    """Training images of CIFAR-10, uint8 (n, 3, 32, 32), and classes; made up where they are absent."""
    try:
        images, labels = read_cifar10(data_file(*IMAGES))
    except Absent:
        rng = np.random.default_rng(0)
        shape = (n or N_IMAGES, 3, 32, 32)
        images, labels = rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, 10, shape[0])
        return {"inputs": images, "targets": labels.astype(np.int64), "synthetic": np.array(True)}
    return {"inputs": images[:n], "targets": labels[:n].astype(np.int64), "synthetic": np.array(False)}


def text_arrays(n: int | None = None) -> Arrays:
    """Windows of a text, int64 (n, 128), and the same windows one character on; made up where there is no text."""
    try:
        raw = np.frombuffer(data_file(*TEXT).read_bytes(), dtype=np.uint8)
        symbols, codes = np.unique(raw, return_inverse=True)
        made_up = False
        if len(symbols) > N_SYMBOLS:
            raise ValueError(f"the text has {len(symbols)} symbols, the model {N_SYMBOLS}")
    except Absent:
        codes, made_up = np.random.default_rng(0).integers(0, N_SYMBOLS, 1_000_000), True
    starts = np.arange(0, len(codes) - N_TOKENS, N_TOKENS)[:n]
    windows = codes.astype(np.int64)[starts[:, None] + np.arange(N_TOKENS + 1)]
    return {"inputs": windows[:, :-1].copy(), "targets": windows[:, 1:].copy(), "synthetic": np.array(made_up)}


DATA: dict[str, Callable[[int | None], Arrays]] = {
    "small_cnn": image_arrays,
    "small_vit": image_arrays,
    "char_transformer": text_arrays,
    "cifar_net": image_arrays,
}


def seeded_model(name: str) -> nn.Module:
    """A model whose weights are the same in every process, without touching the caller's random numbers."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return MODELS[name]()


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of (items, classes) or (items, tokens, classes)."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """torch's optimizer in its fused form."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)


def lr_factor(step: int, n_steps: int) -> float:
    """Share of the learning rate at a step."""
    return 0.5 * (1.0 + math.cos(math.pi * min(step, n_steps) / n_steps))
