"""Reference steps: the same short piece of work whenever they are asked for, so that a slower machine shows.

Runs in a worker between trainings and returns plain numbers; `cost.drift` reads them. Must not interpret them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from autoaccel.config import TrainerConfig, with_params
from autoaccel.trainer.allocator import keep_freed_memory
from autoaccel.trainer.build import build
from autoaccel.trainer.loop import gradients
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.timing import Stopwatch, waits_so_far

_PIECE_S = 0.005
"""How long a piece is at least: a scheduler takes the processor away for a few milliseconds at a time, and a piece
between two such moments would show nothing."""
_PLAIN = {"loader.workers": 0, "loader.pin": False, "compile.mode": "off", "memory.budget": 1.0}
"""Processes and generated code would cost more to start than the steps, and show nothing more."""


def reference_steps(
    loaded: LoadedTask, config: TrainerConfig, *, limit_s: float, n_pieces: int = 6, limit_flops: float = math.inf
) -> dict[str, Any]:
    """Seconds of an optimizer step on one batch that was read before: compute, memory and nothing else.

    Forward, backward and update from fresh weights, the same every time; one step to warm up is not counted.

    Args:
        loaded: the task.
        config: what a step is.
        limit_s: no piece is begun after so many seconds; the first one always is.
        n_pieces: pieces at most; their median is looked at.
        limit_flops: no step is begun that would exceed them; two always are.

    Returns:
        {"wall_s": [seconds of a step, by piece], "cpu_s": the same in CPU seconds of the process or None (see
         `trial.Ended`), "threads": of these steps on the CPU, "default_threads": of a training whose config does not
         say, "resident": whether the data is in memory, "waits": how often a step waits by itself, as for a network
         or a sleep; 0 where the system does not tell, "flops": spent}
    """
    keep_freed_memory()
    config = with_params(config, _PLAIN)
    step_flops = loaded.flops_per_sample * config.batch.size
    n_left = max(2.0, limit_flops / step_flops if step_flops else math.inf)
    pieces: list[tuple[float, float | None, int]] = []
    with seeded(0), process_settings(config):
        parts = build(loaded, config)
        step = _step_of(loaded, parts)
        watch = Stopwatch(loaded.device)
        step()
        n_left -= 1
        n_waits = waits_so_far()
        while len(pieces) < n_pieces and n_left >= 1 and (not pieces or watch.elapsed_s() < limit_s):
            pieces.append(_piece(loaded, step, n_left))
            n_left -= pieces[-1][2]
        n_waits, threads = waits_so_far() - n_waits, torch.get_num_threads()
    n_steps = 1 + sum(n for _, _, n in pieces)
    return {
        "wall_s": [wall_s / n for wall_s, _, n in pieces],
        "cpu_s": None if pieces[0][1] is None else [(cpu_s or 0.0) / n for _, cpu_s, n in pieces],
        "threads": threads,
        "default_threads": torch.get_num_threads(),
        "resident": loaded.train.tensors is not None,
        "waits": n_waits / (n_steps - 1),
        "flops": step_flops * n_steps,
    }


def _step_of(loaded: LoadedTask, parts: Parts) -> Callable[[], None]:
    """An optimizer step on the first batch of the order."""
    size = parts.config.batch.size
    first = Step(0, 0, 0.0, size)
    drawn = parts.order.draw(0, size, 0.0)
    indices = drawn.indices[:size]
    weights = None if drawn.weights is None else drawn.weights[:size]
    batch = parts.prepare(parts.fetch(indices, 0), indices, first)
    drawn = replace(drawn, indices=indices, weights=weights, batch=batch)
    parts.model.train()

    def step() -> None:
        gradients(loaded, parts, first, drawn, learn=False)
        parts.update()
        parts.optimizer.zero_grad(set_to_none=True)

    return step


def _piece(loaded: LoadedTask, step: Callable[[], None], most: float) -> tuple[float, float | None, int]:
    """Seconds and CPU seconds of as many steps as fill a piece, `most` at most, and how many they were."""
    watch, n, elapsed_s = Stopwatch(loaded.device), 0, 0.0
    while elapsed_s < _PIECE_S and n + 1 <= most:
        step()
        n, elapsed_s = n + 1, watch.elapsed_s()
    return elapsed_s, watch.cpu_s(), n
