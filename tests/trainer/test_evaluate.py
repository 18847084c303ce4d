"""Metrics: the same numbers as scikit-learn on known outputs, for every kind of task a metric is for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.trainer.build import build, load_data
from autoaccel.trainer.evaluate import evaluate

N = 600  # more than two evaluation batches, the last one not full


class Echo(nn.Module):
    """Its outputs are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def scores(n_classes: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs that are right more often than not, and their targets."""
    generator = torch.Generator().manual_seed(n_classes)
    targets = torch.randint(n_classes, (N, *shape), generator=generator)
    outputs = torch.randn(N, *shape, n_classes, generator=generator)
    return outputs + nn.functional.one_hot(targets, n_classes), targets


def value_of(metric: Any, data: tuple[torch.Tensor, torch.Tensor], **fields: Any) -> float:
    config = fields.pop("config", TrainerConfig())
    task = Task(name="known", model=Echo, train=data, validation=data, metric=metric, **fields)
    loaded = load_data(task, torch.device("cpu"))
    return evaluate(task, build(loaded, config), loaded.validation)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_class_scores(n_classes: int) -> None:
    outputs, targets = scores(n_classes)
    predicted, probabilities = outputs.argmax(-1), outputs.double().softmax(-1)
    positive = probabilities[:, 1] if n_classes == 2 else probabilities
    expected = {
        "accuracy": accuracy_score(targets, predicted),
        "f1": f1_score(targets, predicted, average="binary" if n_classes == 2 else "macro"),
        "auc": roc_auc_score(targets, positive, multi_class="ovr"),
        "loss": log_loss(targets, probabilities),
        "perplexity": math.exp(log_loss(targets, probabilities)),
    }
    for metric, value in expected.items():
        assert value_of(metric, (outputs, targets)) == pytest.approx(value, rel=1e-5), metric


@pytest.mark.parametrize("batch", [1, 7, 256, 10_000])
def test_the_batch_of_an_evaluation_changes_its_memory_and_nothing_else(batch: int) -> None:
    sizes: list[int] = []

    class Counting(Echo):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return super().forward(x)

    data = scores(3)
    task = Task(name="known", model=Counting, train=data, validation=data, metric="loss")
    loaded = load_data(task, torch.device("cpu"))
    found = evaluate(task, build(loaded, with_params(TrainerConfig(), {"evaluate.batch": batch})), loaded.validation)
    assert max(sizes[-2:]) <= min(batch, N) == max(sizes) and sum(sizes) >= N
    assert found == pytest.approx(value_of("loss", data), rel=1e-5)


@pytest.mark.parametrize("column", [False, True], ids=["(N,)", "(N,1)"])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.bool, torch.uint8])
def test_one_logit(column: bool, kind: torch.dtype) -> None:
    two, targets = scores(2)
    logits, given = two[:, 1] - two[:, 0], targets.to(kind)
    expected = {
        "accuracy": accuracy_score(targets, logits > 0),
        "f1": f1_score(targets, logits > 0),
        "auc": roc_auc_score(targets, logits),
        "loss": log_loss(targets, logits.sigmoid().double()),
    }
    data = (logits[:, None] if column else logits, given)
    for metric, value in expected.items():
        assert value_of(metric, data, loss="binary_cross_entropy") == pytest.approx(value, rel=1e-5), metric


def test_sequences() -> None:
    outputs, targets = scores(5, 4)  # (N, T, C) with (N, T)
    flat = log_loss(targets.flatten(), outputs.double().softmax(-1).reshape(-1, 5))
    assert value_of("perplexity", (outputs, targets)) == pytest.approx(math.exp(flat), rel=1e-5)
    assert value_of("accuracy", (outputs, targets)) == float((outputs.argmax(-1) == targets).double().mean())
    channels_first = outputs.movedim(-1, 1)  # torch's own (N, C, T)
    assert value_of("perplexity", (channels_first, targets)) == pytest.approx(math.exp(flat), rel=1e-5)


def test_mean_squared_error() -> None:
    x, y = torch.randn(N, 1, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3
    assert value_of("loss", (x, y), loss="mse") == pytest.approx(float(((x[:, 0] - y) ** 2).mean()), rel=1e-6)


def test_a_function_sees_the_whole_set_once_on_the_cpu_in_fp32() -> None:
    seen = []

    def metric(outputs: torch.Tensor, targets: torch.Tensor) -> np.floating[Any]:
        seen.append((outputs.shape, outputs.dtype, targets.shape, outputs.device.type))
        return np.float64(0.25)

    outputs, targets = scores(3)
    bf16 = with_params(TrainerConfig(), {"precision.dtype": "bf16"})
    assert value_of(metric, (outputs, targets), direction="max", config=bf16) == 0.25
    assert seen == [((N, 3), torch.float32, (N,), "cpu")]


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_label_smoothing_is_of_the_training_loss_only(metric: str) -> None:
    data = scores(3)
    smooth = with_params(TrainerConfig(), {"regularize.label_smoothing": 0.5})
    assert value_of(metric, data, config=smooth) == value_of(metric, data)


def test_losses_of_unequal_batches_are_weighed_by_their_items() -> None:
    """600 samples make batches of 256, 256 and 88; items are counted by `n`."""
    x = torch.arange(N, dtype=torch.float32)

    def step(model: nn.Module, batch: tuple[torch.Tensor]) -> dict[str, Any]:
        out = model(batch[0])
        return {"outputs": out, "targets": out, "loss": (out * out).sum() / out.sum(), "n": out.sum()}

    assert value_of("loss", (x,), step=step) == pytest.approx(float((x * x).sum() / x.sum()), rel=1e-6)


def test_dropout_is_off_and_training_goes_on_with_it() -> None:
    data = scores(3)
    net = lambda: nn.Sequential(Echo(), nn.Dropout(0.9))  # noqa: E731
    task = Task(name="known", model=net, train=data, validation=data)
    loaded = load_data(task, torch.device("cpu"))
    parts = build(loaded, TrainerConfig())
    assert evaluate(task, parts, loaded.validation) == value_of("accuracy", data)
    assert parts.model.training


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auc", "loss", "perplexity"])
def test_a_nan_output_makes_the_metric_nan(metric: str) -> None:
    outputs, targets = scores(3)
    outputs[N // 2, 1] = math.nan
    assert math.isnan(value_of(metric, (outputs, targets)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("n_classes", "absent"), [(2, 1), (3, 2)])
def test_an_auc_says_which_class_is_absent(n_classes: int, absent: int) -> None:
    outputs, targets = scores(n_classes)
    with pytest.raises(UsageError, match=f"auc: class {absent} never occurs"):
        value_of("auc", (outputs, targets.clamp(max=absent - 1)))


def test_a_limit_cuts_the_set() -> None:
    outputs, targets = scores(3)
    task = Task(name="known", model=Echo, train=(outputs, targets), validation=(outputs, targets))
    loaded = load_data(task, torch.device("cpu"))
    found = evaluate(task, build(loaded, TrainerConfig()), loaded.validation, 10)
    assert found == float((outputs[:10].argmax(-1) == targets[:10]).double().mean())
