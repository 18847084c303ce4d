"""torch.compile: the model's operations fused into generated code.

What it does: compiles the model in place on its first call, once for each shape and for evaluation. *reduce-overhead*
and *max-autotune* also replay CUDA graphs; *max-autotune* ones try many kernels. Generated code is kept for later.
When it pays: over many steps: 1.4x for training on an A100 (median 1.56x for inference), see `cost.break_even`.
Nothing was gained for ViT-L on an A100 in open_clip#610; some models get slower.
Cost: tens of seconds to minutes at the first steps, on the training's clock; each new shape again.
With a memory budget below 1 the compiler chooses which activations are computed again in backward (min-cut with a
knapsack), the cheapest first: less memory, a little slower.
Source: PyTorch 2, ASPLOS 2024; memory budget: torch's `activation_memory_budget`.
Order: last of all: it compiles what the other techniques made. The names in the state stay as they are.
Conflicts: settings of the model that change at every step (a stochastic-depth ramp) would compile it at every step.

Must not know the loss or the optimizer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from autoaccel.hardware.profile import cache_folder

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""The modes that replay CUDA graphs."""
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def compile_model(model: nn.Module, mode: str) -> Callable[[], None]:
    """Compile a model in place, at its first call; returns what ends it."""
    # Variants of earlier trainings hold memory, and count towards the number after which torch gives up compiling.
    torch.compiler.reset()
    model.compile(mode=mode)
    return partial(setattr, model, "_compiled_call_impl", None)


@contextmanager
def kept_code() -> Iterator[None]:
    """Generated code is kept in the user's cache, unless the user has said where; not kept where that is read-only."""
    folder, before = cache_folder() / "compiled", os.environ.get(_CACHE)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if before not in (None, _torchs_own()) or not os.access(folder, os.W_OK):
        yield
        return
    os.environ[_CACHE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(_CACHE, None)
        if before is not None:
            os.environ[_CACHE] = before


@contextmanager
def keeping(share: float) -> Iterator[None]:
    """Models that are compiled meanwhile keep this share of their activations for backward, 0 to 1."""
    from torch._functorch import config

    with config.patch(activation_memory_budget=share):
        yield


def _torchs_own() -> str:
    """Where torch keeps code by itself: it writes that into the environment as soon as it is asked."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return os.path.abspath(default_cache_dir())


def no_compiler(device: torch.device) -> str:
    """Why nothing can be compiled here; empty if it can."""
    if device.type == "cuda" and not find_spec("triton"):
        return "it needs triton to compile for a CUDA device"
    names = (os.environ.get("CXX"), "g++", "clang++") if device.type == "cpu" else (os.environ.get("CC"), "cc", "gcc")
    found = any(shutil.which(name) for name in names if name)
    return "" if found else f"it needs a C compiler ({' or '.join(filter(None, names))}), none was found"


def no_cuda_graphs(device: torch.device) -> str:
    """Why CUDA graphs cannot be replayed; empty if they can."""
    return "" if device.type == "cuda" else "it replays CUDA graphs, which needs a CUDA device"
