"""Tasks whose steps are predicted. Must not know what is measured of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from autoaccel.tasks.base import Task
from autoaccel.tasks.digits import digits
from benchmarks.techniques.workloads import images, text


def small_vit() -> Task:
    """CIFAR-10 and timm's smallest vision transformer, bytes scaled in the model."""
    return replace(images(), name="cifar10-vit", model=_vit)


def _vit() -> nn.Module:
    from benchmarks.trainer.workloads import small_vit as vit

    return vit()


TASKS: dict[str, Callable[[], Task]] = {
    "digits-cnn": digits,
    "cifar10-resnet": images,
    "cifar10-vit": small_vit,
    "char-transformer": text,
}
