"""Training losses of the same short training in several precisions. Runs in a worker.

Returns plain rows; `search.system` reads them. Must not decide which precision is sound.
"""

from __future__ import annotations

from typing import Any

import torch

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig, with_params
from autoaccel.trainer.allocator import keep_freed_memory
from autoaccel.trainer.build import build
from autoaccel.trainer.loop import follow_progress, optimizer_step
from autoaccel.trainer.parts import LoadedTask, Step
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.timing import Stopwatch


def measure_soundness(
    loaded: LoadedTask, config: TrainerConfig, *, dtypes: list[str], n_steps: int, room: Room
) -> dict[str, Any]:
    """The mean loss of each step of the first steps of a training, from the same weights on the same samples.

    Args:
        loaded: the task.
        config: what is trained, but for its precision.
        dtypes: precisions, in this order; one that no longer fits into the room is left out.
        n_steps: optimizer steps of each.
        room: what may be spent.

    Returns:
        {"losses": {dtype: a number or None (not finite) each step}, "flops": spent}
    """
    keep_freed_memory()
    watch, losses, flops, took_s = Stopwatch(loaded.device), dict[str, list[float | None]](), 0.0, 0.0
    needed = n_steps * config.batch.size * loaded.flops_per_sample
    for dtype in dtypes:
        began_s = watch.elapsed_s()
        if began_s + took_s > room.seconds or flops + needed > room.flops:
            break
        given = with_params(config, {"precision.dtype": dtype})
        with seeded(config.seed), process_settings(given):
            losses[dtype] = _losses(loaded, given, n_steps)
        flops += needed
        took_s = max(took_s, watch.elapsed_s() - began_s)
    return {"losses": losses, "flops": flops}


def _losses(loaded: LoadedTask, config: TrainerConfig, n_steps: int) -> list[float | None]:
    parts, size = build(loaded, config), config.batch.size
    parts.model.train()
    found = []
    for number in range(n_steps):
        step = Step(number, number * size, number / max(n_steps, config.n_steps), size)
        follow_progress(parts, step)
        found.append(optimizer_step(loaded, parts, step))
    values = torch.stack(found).double().cpu()
    return [value if ok else None for value, ok in zip(values.tolist(), values.isfinite().tolist(), strict=True)]
