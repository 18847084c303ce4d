"""Weights from a file, which every training of a task starts from. Must not know configs, nor where tasks come from."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoaccel.errors import UsageError, first_line

Weights = Mapping[str, torch.Tensor]

_INSIDE = ("state_dict", "model_state_dict", "model")
"""Where checkpoints of common training loops keep the weights, beside the state of the optimizer and the rest."""
_WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What data-parallel training, compiling and Lightning put before every name."""
_HINT = "Give the .safetensors that `autoaccel train --out` writes, or a state dict saved by torch.save."
_FEW = 3


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, of a state dict, or of a checkpoint around one; nothing in it is executed.

    Raises:
        UsageError: no such file, or no weights in it.
    """
    if not file.is_file():
        raise UsageError(f"weights {file.absolute()}: no such file", "Check the path.")
    try:
        found = _read(file)
    except Exception as error:  # whatever a file can hold that is neither
        raise UsageError(f"weights {file}: cannot be read: {first_line(error)}", _HINT) from error
    for key in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(torch.is_tensor(t) for t in found.values()):
        raise UsageError(f"weights {file}: no state dict", _HINT)
    while wrapper := next((word for word in _WRAPPERS if all(name.startswith(word) for name in found)), ""):
        found = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
    return dict(found)


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    with torch.serialization.safe_globals([argparse.Namespace]):  # timm's training keeps its options beside the weights
        return torch.load(file, weights_only=True, map_location="cpu")


def start_from(model: nn.Module, weights: Weights) -> None:
    """Put weights into a model, all but those of one layer at most, which begins anew: a head for other classes.

    The model may be a wrapper around the one that the weights are of. What the file has beyond the model is left out,
    and so are buffers of modules without parameters: they say something of the data (its scale, its categories).

    Raises:
        UsageError: they are of another model.
    """
    learned = _learned(model)
    own = {name: tensor for name, tensor in model.state_dict().items() if name in learned}
    given = _named_as(model, own, weights)
    fitting = {name: tensor for name, tensor in given.items() if name in own and tensor.shape == own[name].shape}
    # Tied weights are in the file under one of their names; batch normalization's count of steps is not in every file.
    there = {own[name].data_ptr() for name in fitting}
    lacking = [name for name in own if own[name].data_ptr() not in there and not name.endswith("num_batches_tracked")]
    if len({name.rpartition(".")[0] for name in lacking}) > 1 or not fitting:
        told = [_difference(name, own[name], given.get(name)) for name in lacking[:_FEW]]
        more = f" and {len(lacking) - _FEW} more" if len(lacking) > _FEW else ""
        raise UsageError(
            f"the weights are of another model: {'; '.join(told)}{more}",
            "Only one layer, the head, may differ. Give weights of this model, or none.",
        )
    model.load_state_dict(fitting, strict=False)


def digest_of(weights: Weights) -> str:
    """SHA-256 of names and values, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(name.encode())
        sha.update(weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _learned(model: nn.Module) -> set[str]:
    """Names of parameters, and of the statistics beside them."""
    found = set()
    for prefix, module in model.named_modules():
        own = [name for name, _ in module.named_parameters(prefix, recurse=False, remove_duplicate=False)]
        if own or isinstance(module, nn.modules.batchnorm._NormBase):
            found |= {*own, *(name for name, _ in module.named_buffers(prefix, recurse=False))}
    return found


def _named_as(model: nn.Module, own: Weights, weights: Weights) -> Weights:
    """The weights under the model's names: as they are, or as those of one of its children."""
    prefixes = ("", *(f"{name}." for name, _ in model.named_children()))
    forms = [{f"{prefix}{name}": t for name, t in weights.items()} for prefix in prefixes]
    return max(forms, key=lambda form: len(own.keys() & form.keys()))


def _difference(name: str, own: torch.Tensor, given: torch.Tensor | None) -> str:
    if given is None:
        return f"no {name}"
    return f"{name} is {tuple(given.shape)} in the file and {tuple(own.shape)} in the model"
