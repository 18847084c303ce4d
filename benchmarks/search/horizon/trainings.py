"""The real trainings behind the tables: three small networks, on one thread, the learning rate annealed to the horizon.

A training is a function of (params, horizon, seed). CPU seconds of training and of evaluation are counted apart, since
a shared machine's wall clock tells little. Must not know how points are chosen, stored or replayed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.search.horizon.setups import looks
from benchmarks.search.problem import Params
from benchmarks.search.problems.data import data_file


@dataclass
class Curve:
    """What a training recorded, evaluation by evaluation."""

    samples: list[float] = field(default_factory=list)
    train_s: list[float] = field(default_factory=list)
    """CPU seconds of the steps so far."""
    evaluation_s: list[float] = field(default_factory=list)
    """CPU seconds of the evaluations so far."""
    metric: list[float] = field(default_factory=list)
    diverged: bool = False


@dataclass(frozen=True)
class Task:
    """Data and network of one problem."""

    network: Callable[[Params], nn.Module]
    batches: Callable[[Params, int, torch.Generator], Callable[[int, int], tuple[Tensor, Tensor]]]
    """(params, horizon, generator) -> (first, last) -> inputs and labels of these samples of the training."""
    measure: Callable[[nn.Module, Params], float]
    """Validation metric; NaN when the outputs are not finite."""


def train(problem: str, params: Params, horizon: int, seed: int) -> Curve:
    """One real training."""
    task = task_of(problem)
    torch.manual_seed(seed)
    network = task.network(params)
    batch = int(params["batch"])
    steps = max(1, -(-horizon // batch))
    draw = task.batches(params, steps * batch, torch.Generator().manual_seed(seed + 1))
    optimizer = _optimizer(network, params)
    smoothing = float(params.get("smoothing", 0.0))
    curve = Curve()
    train_s, evaluation_s, step = 0.0, 0.0, 0
    for look in looks(steps):
        begin = time.process_time()
        while step < look:
            for group in optimizer.param_groups:
                group["lr"] = float(params["lr"]) * rate(params, step, steps)
            inputs, labels = draw(step * batch, (step + 1) * batch)
            loss = functional.cross_entropy(network(inputs), labels, label_smoothing=smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
        trained = time.process_time()
        value = task.measure(network, params)
        train_s, evaluation_s = train_s + trained - begin, evaluation_s + time.process_time() - trained
        curve.samples.append(horizon * step / steps)
        curve.train_s.append(train_s)
        curve.evaluation_s.append(evaluation_s)
        curve.metric.append(value)
        if not math.isfinite(value):
            curve.diverged = True
            break
    return curve


def rate(params: Params, step: int, steps: int) -> float:
    """Factor on the learning rate: warm-up over the first part, then the schedule down to zero at the last step."""
    warm = float(params["warmup"]) * steps
    if step + 1 < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1.0, steps - warm) if step > warm else 0.0
    if params["schedule"] == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if params["schedule"] == "cosine" else 1.0


def _optimizer(network: nn.Module, params: Params) -> torch.optim.Optimizer:
    weights = list(network.parameters())
    lr, decay = float(params["lr"]), float(params["weight_decay"])
    if params["optimizer"] == "adamw":
        return torch.optim.AdamW(weights, lr=lr, weight_decay=decay, fused=True)
    return torch.optim.SGD(weights, lr=lr, momentum=float(params["momentum"]), weight_decay=decay, fused=True)


@cache
def task_of(problem: str) -> Task:
    """Data and network of a problem, loaded once."""
    return {"digits_cnn": _digits, "fashion_cnn": _fashion, "char_lm": _characters}[problem]()


def _digits() -> Task:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.tensor((pixels[order] / 8 - 1).reshape(-1, 1, 8, 8), dtype=torch.float32)
    classes = torch.tensor(labels[order], dtype=torch.long)

    def network(params: Params) -> nn.Module:
        width = int(params["width"])
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 16, 10),
        )

    return _classification(network, (images[:1200], classes[:1200]), (images[1200:], classes[1200:]))


def _fashion() -> Task:
    with np.load(data_file("fashion_mnist", "fashion_mnist.npz")) as stored:
        pixels, labels = stored["x_train"], stored["y_train"]
    order = np.random.default_rng(0).permutation(len(labels))[:3500]
    images = torch.tensor(pixels[order].reshape(-1, 1, 28, 28).astype(np.float32) / 127.5 - 1)
    classes = torch.tensor(labels[order].astype(np.int64))

    def network(params: Params) -> nn.Module:
        width = int(params["width"])
        return nn.Sequential(
            nn.Conv2d(1, width, 5, stride=3, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 25, 48),
            nn.ReLU(),
            nn.Linear(48, 10),
        )

    return _classification(network, (images[:2500], classes[:2500]), (images[2500:], classes[2500:]))


def _classification(
    network: Callable[[Params], nn.Module], train_part: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]
) -> Task:
    images, classes = train_part

    def batches(
        params: Params, horizon: int, generator: torch.Generator
    ) -> Callable[[int, int], tuple[Tensor, Tensor]]:
        epochs = -(-horizon // len(classes))
        order = torch.cat([torch.randperm(len(classes), generator=generator) for _ in range(epochs)])

        def draw(first: int, last: int) -> tuple[Tensor, Tensor]:
            rows = order[first:last]
            return images[rows], classes[rows]

        return draw

    @torch.no_grad()
    def measure(module: nn.Module, params: Params) -> float:
        outputs = module(val[0])
        if not torch.isfinite(outputs).all():
            return math.nan
        return float((outputs.argmax(1) == val[1]).float().mean())

    return Task(network, batches, measure)


class _Characters(nn.Module):
    """The next character from the last few: embeddings side by side, one hidden layer."""

    def __init__(self, context: int, width: int, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 12)
        self.hidden = nn.Linear(12 * context, width)
        self.out = nn.Linear(width, symbols)

    def forward(self, characters: Tensor) -> Any:
        return self.out(torch.relu(self.hidden(self.embedding(characters).flatten(1))))


def _characters(longest: int = 24, n_val: int = 2000) -> Task:
    text = np.frombuffer(data_file("tinyshakespeare", "input.txt").read_bytes(), dtype=np.uint8)
    symbols, codes = np.unique(text, return_inverse=True)
    stream = torch.tensor(codes.astype(np.int64))
    border = len(text) * 9 // 10
    rng = np.random.default_rng(0)
    places = torch.tensor(rng.choice(np.arange(border + longest, len(text)), n_val, replace=False))

    def windows(ends: Tensor, params: Params) -> Tensor:
        context = int(params["context"])
        return stream[ends[:, None] + torch.arange(-context, 0)]

    def batches(
        params: Params, horizon: int, generator: torch.Generator
    ) -> Callable[[int, int], tuple[Tensor, Tensor]]:
        ends = torch.randint(longest, border, (horizon,), generator=generator)

        def draw(first: int, last: int) -> tuple[Tensor, Tensor]:
            rows = ends[first:last]
            return windows(rows, params), stream[rows]

        return draw

    @torch.no_grad()
    def measure(module: nn.Module, params: Params) -> float:
        loss = float(functional.cross_entropy(module(windows(places, params)), stream[places]))
        return loss if math.isfinite(loss) else math.nan

    return Task(
        lambda params: _Characters(int(params["context"]), int(params["width"]), len(symbols)), batches, measure
    )
