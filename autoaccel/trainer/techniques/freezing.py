"""Progressive freezing: layers from the input on stop learning as the training goes on.

What it does: after half of the horizon, in four stages, the first layers are no longer trained; backward ends there.
When it pays: fine-tuning, and long trainings of deep networks whose first layers settle early. For a ResNet-50 on
ImageNet 5 % of throughput cost half a point to one point of accuracy, which does not pay.
Cost: what these layers would still have learned. Their normalization statistics go on.
Source: FreezeOut arXiv 1706.04983; Composer's layer freezing (start at half, linear).
Order: a function of progress, before each step. Four stages, so that a compiled model is compiled four times more.
Conflicts: needs more than one layer.

Layers are modules with parameters of their own in the order in which the model registers them; the last always learns.

Must not know the loss or the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from autoaccel.trainer.schedule import N_FREEZING, freezing_stage


def freezing(model: nn.Module, share: float) -> tuple[Callable[[float], None], Callable[[], None]]:
    """What freezes layers as a function of the done share of the horizon, and what frees them all.

    Args:
        model: changed in place.
        share: of the layers, in the last stage.
    """
    ever = frozen_parameters(model, share, N_FREEZING)
    by_stage = [{id(p) for p in frozen_parameters(model, share, stage)} for stage in range(N_FREEZING + 1)]
    at = 0

    def enter(stage: int) -> None:
        nonlocal at
        at = stage
        for parameter in ever:
            is_frozen = id(parameter) in by_stage[stage]
            parameter.requires_grad_(not is_frozen)
            parameter.grad = None if is_frozen else parameter.grad

    def follow(done: float) -> None:
        if freezing_stage(done) != at:
            enter(freezing_stage(done))

    return follow, lambda: enter(0)


def frozen_parameters(model: nn.Module, share: float, stage: int) -> list[nn.Parameter]:
    """Trainable parameters of the layers that do not learn in a stage (0 .. N_FREEZING), shared ones left out."""
    layers = _layers(model)
    n = min(len(layers) - 1, math.ceil(round(share * len(layers) * stage / N_FREEZING, 9)))
    free = {id(p) for layer in layers[n:] for p in layer}
    return [p for layer in layers[:n] for p in layer if id(p) not in free]


def no_layers(model: nn.Module) -> str:
    """Why nothing can be frozen; empty if something can."""
    return "" if len(_layers(model)) > 1 else "the model has a single layer"


def _layers(model: nn.Module) -> list[list[nn.Parameter]]:
    found = [[p for p in module.parameters(recurse=False) if p.requires_grad] for module in model.modules()]
    return [layer for layer in found if layer]
