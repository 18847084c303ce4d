"""How the weights start, beside what the model itself draws.

What it does: *zero_residual* starts residual branches at zero, so that every block passes its input on at first.
*whitening* sets the first convolution to the eigenvectors of its input patches, scaled to unit variance, each with both
signs, and keeps it there: its outputs are decorrelated from the first step on.
When it pays: zero_residual at high learning rates and in deep networks (+0.2 to 0.3 points for ResNet-50); whitening
where a short training on small images would spend its time on learning edges (part of the CIFAR-10 speed records).
Cost: some forward passes when the training is built. A frozen first layer saves its gradient.
Source: zero start arXiv 1706.02677; whitening arXiv 2404.00498 (airbench).
Order: first of all, on the model as the task makes it.
Conflicts: weights that were trained before must not be undone: not with low-rank adapters, nor where the task starts
from a file (`../weights.py`). zero_residual needs residual blocks that do not start at zero already; whitening needs
images and a convolution as the first layer with weights.

Where residual branches end is found by trying, in every block (see `blocks`), from its last layer to its first: a
linear, convolution or normalization layer is an end if the block's output changes with it at zero, the ends behind it
being at zero, too, and still depends on the input. A child of the block with layers inside counts by its last one if
its own output is then constant: attention and MLPs do, gates do not. Shortcuts are left out by their name.

Must not know the loss or the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from autoaccel.trainer.blocks import blocks
from autoaccel.trainer.look import Enough, Given, arguments, look, output, tells_apart
from autoaccel.trainer.parts import LoadedTask

SHORTCUTS = ("downsample", "identity", "residual", "shortcut", "skip")
"""What the other way around a residual branch is called."""
_EPSILON = 5e-4
"""Share of the mean variance that is added to each eigenvalue: directions without variance are not blown up."""
_N_IMAGES, _N_PATCHES, _CHUNK = 1024, 2**22, 32


def start_at_zero(loaded: LoadedTask, model: nn.Module) -> None:
    """Set the ends of residual branches to zero."""
    for layer in residual_ends(loaded, model):
        for parameter in _zeros(layer):
            nn.init.zeros_(parameter)


def no_residual(loaded: LoadedTask, model: nn.Module) -> str:
    """Why residual branches cannot be set to zero; empty if they can."""
    found = residual_ends(loaded, model)
    return "" if found else "no block of the model has a residual branch that does not start at zero already"


def residual_ends(loaded: LoadedTask, model: nn.Module) -> list[nn.Module]:
    """The layers that end residual branches, but for branches that are at zero already; see above."""
    found = blocks(model)
    given = arguments(loaded, model, {part for block in found for part in (block, *block.children())})
    return [end for block in found if block in given for end in _ends(block, given)]


def _ends(block: nn.Module, given: Mapping[nn.Module, Given]) -> list[nn.Module]:
    ends: list[nn.Module] = []
    before = output(block, given[block])
    for layer in reversed(_candidates(block, given)):
        with _at_zero([*ends, layer]):
            after = output(block, given[block])
        if tells_apart(after) and not torch.equal(after, before):
            ends, before = [layer, *ends], after
    return ends


def _candidates(block: nn.Module, given: Mapping[nn.Module, Given]) -> list[nn.Module]:
    """Layers that may end a branch, in order."""
    found = []
    for name, child in block.named_children():
        last = _layers(child)[-1:] if name not in SHORTCUTS else []
        if last and last != [child]:
            with _at_zero(last):
                last = last if child in given and not tells_apart(output(child, given[child])) else []
        found += last
    return found


@contextmanager
def _at_zero(layers: list[nn.Module]) -> Iterator[None]:
    before = [(p, p.detach().clone()) for layer in layers for p in _zeros(layer)]
    with torch.no_grad():
        for parameter, _ in before:
            parameter.zero_()
        try:
            yield
        finally:
            for parameter, value in before:
                parameter.copy_(value)


def _layers(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if _is_layer(part)]


def _is_layer(module: nn.Module) -> bool:
    kinds = isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or "Norm" in type(module).__name__
    return kinds and isinstance(getattr(module, "weight", None), nn.Parameter)


def _zeros(layer: nn.Module) -> list[nn.Parameter]:
    """What has to be zero for a layer to give nothing that depends on its input, nor a constant of its own; the offset
    of a normalization starts at zero anyway."""
    offset = getattr(layer, "bias", None) if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) else None
    return [p for p in (layer.weight, offset) if isinstance(p, nn.Parameter)]


# ------------------------------------------------------------------------------------------------------------ whitening


def whiten(loaded: LoadedTask, model: nn.Module) -> Callable[[], object]:
    """Set the first convolution to whiten its input and freeze it; returns what frees it.

    A convolution with more outputs than there are eigenvectors with both signs keeps its own weights in the rest.
    """
    convolution = _first_convolution(model)
    assert convolution is not None, "refused when the training was built"
    values, vectors = torch.linalg.eigh(_covariance(loaded, model, convolution))
    filters = (vectors / (values + _EPSILON * values.mean()).sqrt()).T.flip(0)  # rows, the largest variance first
    n_each = min(len(filters), (convolution.out_channels + 1) // 2)
    both = torch.cat([filters[:n_each], -filters[:n_each]])[: convolution.out_channels]
    with torch.no_grad():
        convolution.weight[: len(both)] = both.reshape(-1, *convolution.weight.shape[1:]).to(convolution.weight)
    free = partial(convolution.weight.requires_grad_, convolution.weight.requires_grad)
    convolution.weight.requires_grad_(False)
    return free


def no_whitening(loaded: LoadedTask, model: nn.Module) -> str:
    """Why there is nothing to whiten; empty if there is."""
    convolution = _first_convolution(model)
    if convolution is None:
        return "the first layer with weights is no ungrouped two-dimensional convolution"
    return "" if convolution in arguments(loaded, model, [convolution]) else "the first convolution is not called"


def _first_convolution(model: nn.Module) -> nn.Conv2d | None:
    first = next((m for m in model.modules() if any(True for _ in m.parameters(recurse=False))), None)
    return first if isinstance(first, nn.Conv2d) and first.groups == 1 else None


def _covariance(loaded: LoadedTask, model: nn.Module, convolution: nn.Conv2d) -> torch.Tensor:
    """Mean outer product of the patches that a convolution sees of training images; float64 (d, d), on the CPU."""
    height, width = convolution.kernel_size
    size = convolution.in_channels * height * width
    total, n_patches = torch.zeros(size, size, dtype=torch.float64), 0

    def add(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal total, n_patches
        patches = F.unfold(given[0].detach().cpu().double(), (height, width)).movedim(1, 2).reshape(-1, size)
        total, n_patches = total + patches.T @ patches, n_patches + len(patches)
        raise Enough

    hook = convolution.register_forward_pre_hook(add)
    try:
        n = min(_N_IMAGES, loaded.train.n)
        # Evenly spread, for data is often sorted by class.
        for indices in (torch.arange(n) * loaded.train.n // n).split(_CHUNK):
            look(loaded, model, indices)
            if n_patches >= _N_PATCHES:
                break
    finally:
        hook.remove()
    return total / n_patches
