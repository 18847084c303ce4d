"""FLOPs of one sample, counted and not estimated: forward and backward of a fresh model on two samples.

Once for a task's plain model, and again for a config whose techniques change what a sample takes. Must not know
budgets; a model whose operations cannot be counted has 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.tasks.base import Task
from autoaccel.trainer.build import new_model, shaped_model
from autoaccel.trainer.compiler import spare_compiler
from autoaccel.trainer.data import Batch, map_batch
from autoaccel.trainer.losses import Loss, forward, loss_of
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.prepare import size_share
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.schedule import N_FREEZING, freezing_stage
from autoaccel.trainer.techniques.freezing import frozen_parameters
from autoaccel.trainer.techniques.precision import autocast
from autoaccel.trainer.techniques.selective import n_candidates
from autoaccel.trainer.techniques.sharpness import climbs

Shape = Sequence[int]


def step_flops(loaded: LoadedTask, config: TrainerConfig, step: Step) -> float:
    """FLOPs of one optimizer step: its samples forward and back, and forward alone what they are chosen from.

    One that climbs first differentiates its samples twice. Smaller images cost as their pixels, shorter sequences as
    their tokens: exact for convolutions and linear layers, a little too much for attention.
    """
    passes = 2 if climbs(config.optim, step) else 1
    saved = loaded.frozen_flops[freezing_stage(step.done)] if loaded.frozen_flops else 0.0
    flops = (loaded.flops_per_sample - saved) * step.size * passes
    n_looks = n_candidates(config.data, step.size, step.done)
    if n_looks != step.size:
        flops += n_looks * loaded.evaluation_flops / loaded.validation.n
    return flops * size_share(loaded, config, step.done)


def evaluation_flops(loaded: LoadedTask, parts: Parts) -> float:
    """FLOPs of one evaluation on the validation set, statistics that are refreshed for it included."""
    return loaded.evaluation_flops * (1.0 + parts.n_refreshing / loaded.validation.n)


def recounted(loaded: LoadedTask, config: TrainerConfig) -> LoadedTask:
    """The task with the FLOPs that its samples take under a config, where that has techniques that change them.

    Exact where the plain model was counted in its first place (see `_places`); another keeps its FLOPs.
    """
    counted = _counted(loaded, config)
    if config.memory.budget == 1 or not counted.flops_per_sample:
        return counted
    again = counted.evaluation_flops / counted.validation.n  # what the compiler computes again is at most that
    return replace(counted, flops_per_sample=counted.flops_per_sample + again)


def _counted(loaded: LoadedTask, config: TrainerConfig) -> LoadedTask:
    own = config.model
    changes = config.memory.checkpointing != "none" or own.lora_rank or own.freeze or own.init == "whitening"
    if not (loaded.flops_per_sample and changes):
        return loaded
    dtype = "bf16" if config.precision.dtype == "float8" else config.precision.dtype
    with seeded(0):
        model = shaped_model(loaded, with_params(config, {"precision.dtype": dtype})).model
        model = model.to(_places(loaded, model)[0])
        try:
            with autocast(dtype, loaded.device)():
                ahead, total = _per_sample(loaded, model)
                frozen = tuple(total - each for each in _by_stage(loaded, model, own.freeze)) if own.freeze else ()
        except Exception:  # see `count_flops`
            return loaded
    evaluation = ahead * loaded.validation.n
    return replace(loaded, flops_per_sample=total, evaluation_flops=evaluation, frozen_flops=frozen)


def _by_stage(loaded: LoadedTask, model: nn.Module, share: float) -> list[float]:
    """FLOPs of a sample before layers are frozen and in each stage of it; leaves them frozen."""
    found, stages = [], [frozen_parameters(model, share, stage) for stage in range(N_FREEZING + 1)]
    for frozen in stages:
        for parameter in frozen:
            parameter.requires_grad_(False)
        found.append(_per_sample(loaded, model)[1])
    return found


def _per_sample(loaded: LoadedTask, model: nn.Module) -> tuple[float, float]:
    """FLOPs of a sample where the model is: forward alone, and with backward."""
    n = min(2, loaded.train.n)
    place = next(model.parameters()).device
    batch = map_batch(loaded.train.take(torch.arange(n)), partial(torch.Tensor.to, device=place))
    ahead, back = _count(loaded.task, model, loss_of(loaded.task), batch)
    return ahead / n, (ahead + back) / n


def count_flops(loaded: LoadedTask, parts: Parts, model: nn.Module) -> tuple[float, float]:
    """FLOPs (2 per multiply-add) of one sample: forward and backward, and forward alone; (0, 0) if not countable.

    Counted where the model runs, because the meta device has torch import its compiler (1.2 s); there only what has no
    formula elsewhere, such as the fused recurrent layers. What is computed twice by checkpointing counts twice.

    Args:
        loaded: the task.
        parts: whose loss is counted.
        model: one to spend; counting changes gradients and the statistics of normalization layers.
    """
    n = min(2, loaded.train.n)
    batch = loaded.train.take(torch.arange(n))
    for place in _places(loaded, model):
        try:
            given = map_batch(batch, partial(torch.Tensor.to, device=place))
            ahead, back = _count(loaded.task, model.to(place), parts.loss, given)
        except Exception:  # the model reads values or has no meta kernel: count where it can run
            ahead = back = 0
        if ahead + back > 0:
            return (ahead + back) / n, ahead / n
        model = new_model(loaded)
    return 0.0, 0.0


def _places(loaded: LoadedTask, model: nn.Module) -> tuple[torch.device, torch.device]:
    """Where a model is counted, and where if that gives nothing."""
    meta = torch.device("meta")
    fused = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return (meta, loaded.device) if fused else (loaded.device, meta)


def _count(task: Task, model: nn.Module, loss: Loss, batch: Batch) -> tuple[int, int]:
    """FLOPs of forward and of backward, in training mode: an evaluation may run kernels that have no formula."""
    from torch.utils import flop_counter

    spare_compiler(getattr(getattr(flop_counter, "_FlopCounterMode", None), "__torch_dispatch__", None))
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    model.train()
    with flop_counter.FlopCounterMode(display=False) as ahead:
        found = forward(task, model, loss, batch).loss
    with flop_counter.FlopCounterMode(display=False, custom_mapping=formulas) as back:
        found.backward()
    return ahead.get_total_flops(), back.get_total_flops()


def _convolution_backward_flops(
    gradient: Shape, inputs: Shape, weight: Shape, *settings: Any, out_shape: Any = None
) -> int:
    """As many as forward for each gradient that is wanted, of the inputs and of the weights.

    torch's own formula (2.15) counts the gradient of a grouped convolution's weights as if it had no groups: the
    backward of a depthwise one of 32 channels 16 times too high.

    Args:
        gradient, inputs, weight: shapes, the gradient's that of the outputs.
        settings: the other arguments of aten::convolution_backward: at 4 whether it is transposed, last what is wanted.
        out_shape: shapes of the gradients; not needed.
    """
    is_transposed, wanted = settings[4], settings[-1]
    sides = (inputs if is_transposed else gradient)[2:]
    return 2 * inputs[0] * math.prod(sides) * math.prod(weight) * (wanted[0] + wanted[1])
