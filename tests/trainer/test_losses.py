"""Losses: hard and soft targets, means of what each sample has, and an objective beside the task's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.errors import UsageError
from autoaccel.sections import Regularize
from autoaccel.tasks.base import Task
from autoaccel.trainer.build import build
from autoaccel.trainer.losses import loss_of
from autoaccel.trainer.parts import LoadedTask

GENERATOR = torch.Generator().manual_seed(0)
SCORES, CLASSES = torch.randn(10, 4, generator=GENERATOR), torch.randint(4, (10,), generator=GENERATOR)
OBJECTIVES = ["task", "binary_cross_entropy"]


def of(objective: str = "task", smoothing: float = 0.0) -> Any:
    pair = (torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    task = Task(name="losses", model=lambda: nn.Linear(2, 2), train=pair, validation=pair)
    return loss_of(task, Regularize(objective=objective, label_smoothing=smoothing))  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hard_targets_are_soft_ones_with_all_on_one_class(objective: str, smoothing: float) -> None:
    loss = of(objective, smoothing)
    soft = F.one_hot(CLASSES, 4).float()
    assert torch.allclose(loss.mean(SCORES, CLASSES), loss.mean(SCORES, soft))
    assert torch.allclose(loss.each(SCORES, CLASSES), loss.each(SCORES, soft))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(objective: str) -> None:
    """What mixup relies on (arXiv 1710.09412)."""
    loss, others = of(objective), CLASSES.roll(1)
    mixed = 0.3 * F.one_hot(CLASSES, 4) + 0.7 * F.one_hot(others, 4)
    expected = 0.3 * loss.each(SCORES, CLASSES) + 0.7 * loss.each(SCORES, others)
    assert torch.allclose(loss.each(SCORES, mixed), expected, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("shape", [(10, 4), (5, 2, 4)])
@pytest.mark.parametrize("soft", [False, True])
def test_the_mean_is_the_mean_of_each(objective: str, shape: tuple[int, ...], soft: bool) -> None:
    loss = of(objective, 0.1)
    targets = SCORES.roll(1, 0).softmax(1).reshape(shape) if soft else CLASSES.reshape(shape[:-1])
    each = loss.each(SCORES.reshape(shape), targets)
    assert each.shape == (shape[0],)
    assert torch.allclose(each.mean(), loss.mean(SCORES.reshape(shape), targets))


def test_classes_in_torchs_order_are_found() -> None:
    images, labels = torch.randn(2, 4, 3, 5), torch.randint(4, (2, 3, 5))
    assert torch.allclose(of().mean(images, labels), F.cross_entropy(images, labels))
    expected = F.binary_cross_entropy_with_logits(images, F.one_hot(labels, 4).movedim(-1, 1).float()) * 4
    assert torch.allclose(of("binary_cross_entropy").mean(images, labels), expected)


def test_each_class_against_the_rest() -> None:
    by_hand = sum(F.binary_cross_entropy_with_logits(SCORES[:, c], (c == CLASSES).float()) for c in range(4))
    assert torch.allclose(of("binary_cross_entropy").mean(SCORES, CLASSES), by_hand)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_half_precision_is_computed_in_full(objective: str) -> None:
    loss, soft = of(objective), F.one_hot(CLASSES, 4).bfloat16()
    for targets in (CLASSES, soft):
        expected = loss.mean(SCORES.bfloat16().float(), CLASSES)
        assert torch.allclose(loss.mean(SCORES.bfloat16(), targets), expected, rtol=1e-6)


def test_evaluations_keep_the_tasks_loss(run: Callable[..., Any], load: Callable[..., LoadedTask]) -> None:
    loaded = load(metric="loss")
    done = run({"regularize.objective": "binary_cross_entropy"}, loaded)
    inputs, labels = loaded.validation.tensors
    done.model.eval()
    with torch.no_grad():
        assert done.ended.value == pytest.approx(float(F.cross_entropy(done.model(inputs), labels)), rel=1e-5)


def test_one_against_the_rest_learns(run: Callable[..., Any]) -> None:
    done = run({"regularize.objective": "binary_cross_entropy", "optim.lr": 0.02, "horizon.samples": 960})
    assert done.ended.value > 0.75


@pytest.mark.parametrize("loss", ["mse", nn.functional.cross_entropy])
def test_a_loss_of_the_tasks_own_is_not_replaced(
    load: Callable[..., LoadedTask], config: Callable[..., TrainerConfig], loss: Any
) -> None:
    with pytest.raises(UsageError, match=r"regularize\.objective 'binary_cross_entropy': it needs the cross_entropy"):
        build(load(loss=loss, metric="loss"), config({"regularize.objective": "binary_cross_entropy"}))
