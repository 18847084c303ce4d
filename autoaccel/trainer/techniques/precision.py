"""Arithmetic in fewer bits.

What it does: *bf16* and *fp16* run forward and backward under autocast, fp16 with a loss scaled so that small gradients
do not vanish, and steps left out whose gradients overflow; *float8* multiplies in the linear layers with 8 bits, scaled
per tensor, and does the rest in bf16. `precision.matmul` lets products of fp32 matrices use fewer bits inside.
When it pays: where matrix products dominate and the device multiplies short numbers faster: about 2x on tensor cores,
float8 1.2 to 1.3x on top of compiling for large linear layers. On CPUs without such units it is many times slower.
Cost: rounding; fp16 a few steps left out at the start. Weights and optimizer state stay fp32.
Source: arXiv 1710.03740 (fp16), 1905.12322 (bf16), 2209.05433 (float8); torch.amp, torchao.
Order: float8 replaces linear layers before the optimizer sees the weights (they stay the same tensors); autocast is
around every forward pass; the scaler is around backward and the update.
Conflicts: float8 needs a CUDA device of compute capability 8.9 and linear layers with sizes in multiples of 16, and
excludes low-rank adapters.

Must not know the loss or the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "float8": torch.bfloat16}
_CAPABILITY = (8, 9)
"""The first CUDA devices that multiply in float8."""
_MULTIPLE = 16
"""What the sizes of a float8 product have to be multiples of."""


def autocast(dtype: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """What a forward pass runs in."""
    short = _AUTOCAST.get(dtype)
    return lambda: torch.autocast(device.type, dtype=short or torch.bfloat16, enabled=short is not None)


def new_scaler(dtype: str, device: torch.device) -> torch.amp.GradScaler | None:
    """What scales the loss and leaves out steps that overflow; only fp16 has so few exponents that it is needed."""
    return torch.amp.GradScaler(device.type) if dtype == "fp16" else None


def use_float8(model: nn.Module, *, emulate: bool = False) -> Callable[[], None]:
    """Have linear layers multiply in float8; returns what puts the plain ones back. Both hold the same weights.

    Args:
        model: changed in place.
        emulate: compute the same in fp32, for devices without float8.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    plain = _layers(model)
    # The inner size of the weight gradient's product is the batch, which need not be a multiple of 16.
    how = Float8LinearConfig(pad_inner_dim=True, emulate=emulate)
    convert_to_float8_training(model, module_filter_fn=lambda _, name: name in plain, config=how)
    return partial(_put_back, model, plain)


def no_float8(device: torch.device) -> str:
    """Why float8 cannot be had here; empty if it can."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _CAPABILITY:
        return "it needs a CUDA device of compute capability 8.9 or later"
    return "" if find_spec("torchao") else "it needs torchao: pip install 'autoaccel[float8]'"


def no_float8_layers(model: nn.Module) -> str:
    """Why a model has no use for float8; empty if it has."""
    return "" if _layers(model) else "the model has no linear layer inside whose sizes are multiples of 16"


@cache
def same_products(device: torch.device, level: str) -> str:
    """Why a precision of fp32 products changes nothing here, found by trying; empty if it does."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator).to(device) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        exact = left @ right
        torch.set_float32_matmul_precision(level)
        same = torch.equal(left @ right, exact)
    finally:
        torch.set_float32_matmul_precision(before)
    return f"this {device.type} device multiplies fp32 matrices with all bits at any setting" if same else ""


def _layers(model: nn.Module) -> dict[str, nn.Linear]:
    """By name, the linear layers inside a model that float8 can take."""
    found = {name: m for name, m in model.named_modules() if name and type(m) is nn.Linear}
    return {name: m for name, m in found.items() if not (m.in_features % _MULTIPLE or m.out_features % _MULTIPLE)}


def _put_back(model: nn.Module, layers: dict[str, nn.Linear]) -> None:
    for name, layer in layers.items():
        model.set_submodule(name, layer.train(model.training))
