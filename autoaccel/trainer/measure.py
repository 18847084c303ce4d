"""Measured seconds of the pieces of a step: forward and backward per micro-batch and precision, optimizer, evaluation.

Runs in a worker and returns plain rows; `cost.step_cost` reads them. Must not interpret what it measures.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from autoaccel.config import TrainerConfig, with_params
from autoaccel.trainer.build import build
from autoaccel.trainer.evaluate import evaluate
from autoaccel.trainer.losses import forward
from autoaccel.trainer.parts import LoadedTask, Parts
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.run import is_out_of_memory
from autoaccel.trainer.timing import Stopwatch

_REPEATS = 5


def measure_steps(
    loaded: LoadedTask,
    config: TrainerConfig,
    *,
    micro: list[int],
    dtypes: list[str],
    limit_s: float,
    limit_flops: float,
) -> dict[str, Any]:
    """Median seconds of each piece; rows that did not fit into the limits are missing, rows out of memory say so.

    Args:
        loaded: the task.
        config: everything that is not varied here.
        micro: micro-batch sizes, in samples.
        dtypes: precisions to try.
        limit_s: seconds to spend.
        limit_flops: FLOPs to spend.

    Returns:
        {"micro": [{"dtype", "micro", "seconds" or "oom"}], "optimizer": {name: seconds},
         "evaluation": {dtype: seconds}, "flops": spent}
    """
    watch, spent, rows = Stopwatch(loaded.device), 0.0, []
    optimizer: dict[str, float] = {}
    evaluation: dict[str, float] = {}
    with seeded(0), process_settings(config):
        for name in ("sgd", "adamw"):
            optimizer[name] = _optimizer_seconds(loaded, with_params(config, {"optim.name": name}))
        for dtype in dtypes:
            parts = build(loaded, with_params(config, {"precision.dtype": dtype}))
            # A reduced precision shows its best at the largest size; if it loses there, the rest is not measured.
            for size in sorted(micro, reverse=dtype != "fp32"):
                n_flops = loaded.flops_per_sample * size * (_REPEATS + 1)
                if watch.elapsed_s() > limit_s or spent + n_flops > limit_flops:
                    break
                rows.append(_micro_row(loaded, parts, dtype, size))
                spent += n_flops
                if _beaten(rows) or ("oom" in rows[-1] and dtype == "fp32"):
                    break
            if watch.elapsed_s() <= limit_s and spent + loaded.evaluation_flops <= limit_flops and not _beaten(rows):
                evaluation[dtype] = _evaluation_seconds(loaded, parts)
                spent += loaded.evaluation_flops
    return {"micro": rows, "optimizer": optimizer, "evaluation": evaluation, "flops": spent}


def _micro_row(loaded: LoadedTask, parts: Parts, dtype: str, size: int) -> dict[str, Any]:
    def one() -> None:
        batch = loaded.train.take(parts.order.draw(0, size, 0.0).indices)
        with parts.autocast():
            out = forward(loaded.task, parts.model, parts.loss, batch)
        out.loss.backward()

    row: dict[str, Any] = {"dtype": dtype, "micro": size}
    try:
        return {**row, "seconds": _median_seconds(loaded, one)}
    except Exception as error:
        if is_out_of_memory(error):
            return {**row, "oom": True}
        raise
    finally:
        parts.optimizer.zero_grad(set_to_none=True)


def _beaten(rows: list[dict[str, Any]]) -> bool:
    """Whether the last row is clearly slower than fp32 at the same size."""
    last = rows[-1] if rows else {}
    fp32 = [r["seconds"] for r in rows if r["dtype"] == "fp32" and r["micro"] == last.get("micro") and "seconds" in r]
    return bool(fp32) and last["dtype"] != "fp32" and last.get("seconds", 0.0) > 1.1 * fp32[0]


def _optimizer_seconds(loaded: LoadedTask, config: TrainerConfig) -> float:
    parts = build(loaded, config)
    for parameter in parts.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return _median_seconds(loaded, parts.update)


def _evaluation_seconds(loaded: LoadedTask, parts: Parts) -> float:
    watch = Stopwatch(loaded.device)
    evaluate(loaded.task, parts, loaded.validation)
    return watch.elapsed_s()


def _median_seconds(loaded: LoadedTask, run: Callable[[], Any]) -> float:
    """Median of a few runs after one that warms up; fewer where one run is long."""
    times: list[float] = []
    for repeat in range(_REPEATS + 1):
        watch = Stopwatch(loaded.device)
        run()
        times.append(watch.elapsed_s())
        if repeat and sum(times) > 0.5:
            break
    return statistics.median(times[1:])
