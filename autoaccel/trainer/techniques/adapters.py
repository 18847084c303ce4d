"""Low-rank adapters: fine-tuning that trains two thin matrices beside each linear layer instead of the layer.

What it does: every linear layer but the last gets an adapter; the last one, the head, is trained itself, everything
else stays as it was. In the end the adapters are added to the weights they stand beside.
When it pays: fine-tuning large pretrained transformers, whose optimizer state and weight gradients then nearly vanish.
Never from random weights.
Cost: a ceiling on what can be learned; two thin products a layer.
Source: LoRA arXiv 2106.09685; peft.
Order: on the model as it starts, before anything that computes its layers otherwise.
Conflicts: needs peft and a model with linear layers inside; excludes another start and float8.

Must not know the loss or the optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from torch import nn


def add_adapters(model: nn.Module, rank: int) -> Callable[[], None]:
    """Put adapters of a rank beside linear layers, and freeze the rest; returns what merges them.

    Args:
        model: changed in place.
        rank: of the adapters. Their scale is one.
    """
    from peft import LoraConfig, inject_adapter_in_model

    *adapted, head = _linear_layers(model)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    wanted = "|".join(re.escape(name) for name in adapted)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=wanted), model)
    model.get_submodule(head).requires_grad_(True)
    return partial(_merge, model, adapted, trainable)


def no_peft() -> str:
    """Why there can be no adapters here; empty if there can."""
    return "" if find_spec("peft") else "it needs peft: pip install 'autoaccel[adapters]'"


def no_linear_layers(model: nn.Module) -> str:
    """Why a model has no place for adapters; empty if it has."""
    return "" if len(_linear_layers(model)) > 1 else "the model has no linear layer before its last"


def _linear_layers(model: nn.Module) -> list[str]:
    # Subclasses may not be called at all: attention reads its output layer's weights.
    return [name for name, module in model.named_modules() if name and type(module) is nn.Linear]


def _merge(model: nn.Module, adapted: list[str], trainable: set[str]) -> None:
    for name in adapted:
        layer = model.get_submodule(name)
        layer.merge()  # type: ignore[operator]
        model.set_submodule(name, layer.get_base_layer())  # type: ignore[operator]
    vars(model).pop("peft_config", None)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
