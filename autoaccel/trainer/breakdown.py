"""Where an optimizer step goes: the seconds of its pieces, and how many operations and bytes it is made of.

The step is the loop's own, with a look at the clock before each of its pieces. Runs in a worker and returns plain
values; `cost.roofline` says what bounds the step. Must not interpret what it measures.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from autoaccel.config import TrainerConfig, with_params
from autoaccel.trainer.allocator import keep_freed_memory
from autoaccel.trainer.build import build
from autoaccel.trainer.data import columns, map_batch
from autoaccel.trainer.evaluate import evaluate
from autoaccel.trainer.flops import evaluation_flops, recounted, step_flops
from autoaccel.trainer.loop import follow_progress, optimizer_step
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.prepare import step_size
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.run import is_out_of_memory
from autoaccel.trainer.schedule import share_done
from autoaccel.trainer.timing import Laps, Seconds, Stopwatch
from autoaccel.trainer.traffic import Traffic

PIECES = ("data", "copy", "prepare", "forward", "backward", "optimizer", "after")
"""In the order of a step: waiting for samples, copying them to the device, changing them there (augmentation), the two
passes, the update, and what follows it (averages of the weights). A piece that a step does not have is missing."""
_WARM, _ROUNDS = 3, 50
"""Steps before those that count, and rounds of a whole step and one in pieces; fewer where they are long."""
_BLOCK = {"cpu": 1}
"""Steps measured at once: those of an accelerator overlap, so there they are taken 16 at a time."""


def measure_breakdown(loaded: LoadedTask, config: TrainerConfig, *, limit_s: float) -> dict[str, Any]:
    """Median seconds of the pieces of a step, of the whole step without a look in between, and of an evaluation.

    Args:
        loaded: the task.
        config: whose step.
        limit_s: no further round is begun after so many seconds.

    Returns:
        {"oom": whether memory was exhausted (then that is all but "flops"), "samples": in the step, "pieces": {name:
        {"wall_s", "cpu_s"}}, "step": {"wall_s", "cpu_s"}, "rounds", "evaluation_s", "step_flops": 0 if not counted,
        "n_bytes", "n_operations", "arithmetic": of the matrix products, "convolves": whether the model has
        convolutions, "reads_ahead": whether worker processes read, "resident": whether samples lie on the device,
        "threads", "flops": spent}
    """
    keep_freed_memory()
    watch = Stopwatch(loaded.device)
    try:
        with seeded(config.seed), process_settings(config), ExitStack() as stack:
            return _measured(loaded, config, stack, lambda: watch.elapsed_s() > limit_s)
    except Exception as error:
        if is_out_of_memory(error):
            return {"oom": True, "flops": 0.0}
        raise


def _measured(
    loaded: LoadedTask, config: TrainerConfig, stack: ExitStack, is_over: Callable[[], bool]
) -> dict[str, Any]:
    parts = _built(loaded, config, stack)
    counted, steps, laps = recounted(loaded, config), _steps(loaded, config), Laps(loaded.device)
    looking = _with_laps(parts, laps)
    n_warm = 0
    while not n_warm or (n_warm < _WARM and not is_over()):
        step, n_warm = _run(loaded, parts, steps), n_warm + 1
    n_block, whole, pieces = _BLOCK.get(loaded.device.type, 16), list[Seconds](), list[dict[str, Seconds]]()
    while not pieces or (len(pieces) < _ROUNDS and not is_over()):
        laps.enter("step")
        for _ in range(n_block):
            step = _run(loaded, parts, steps)
        whole.append(laps.end()["step"])
        for _ in range(n_block):
            laps.enter("data")
            step = _run(loaded, looking, steps)
            laps.enter("")
        pieces.append(laps.end())
    n_steps = n_warm + 2 * n_block * len(pieces) + 1
    names = {name for taken in pieces for name in taken}
    found = {name: _median([taken.get(name, (0.0, 0.0)) for taken in pieces], n_block) for name in names}
    evaluations_s = _evaluation_seconds(loaded, parts, is_over)
    traffic = _traffic(loaded, config, parts, stack, steps)
    return {
        "oom": False,
        "samples": step.size,
        "pieces": _with_copy(found, _copy_seconds(loaded, config, step)),
        "step": _median(whole, n_block),
        "rounds": len(pieces),
        "evaluation_s": evaluations_s[-1],
        "step_flops": step_flops(counted, config, step),
        "n_bytes": traffic.n_bytes,
        "n_operations": traffic.n_operations,
        "arithmetic": arithmetic(config, loaded.device, parts.model),
        "convolves": _convolves(parts.model),
        "reads_ahead": config.loader.workers > 0,
        "resident": _is_resident(loaded),
        "threads": torch.get_num_threads(),
        "flops": n_steps * step_flops(counted, config, step) + len(evaluations_s) * evaluation_flops(counted, parts),
    }


def arithmetic(config: TrainerConfig, device: torch.device, model: torch.nn.Module) -> str:
    """The type in which a config has this device multiply: its precision, or tf32 where fp32 may become that."""
    dtype = str(config.precision.dtype)
    if dtype != "fp32" or device.type != "cuda":
        return dtype
    may_shorten = config.precision.matmul != "highest" or (_convolves(model) and torch.backends.cudnn.allow_tf32)
    return "tf32" if may_shorten else "fp32"


def _convolves(model: torch.nn.Module) -> bool:
    return any(isinstance(m, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d) for m in model.modules())


def _built(loaded: LoadedTask, config: TrainerConfig, stack: ExitStack) -> Parts:
    """The parts of a training, closed with the stack."""
    parts = build(loaded, config)
    for close in parts.closing:
        stack.callback(close)
    parts.model.train()
    return parts


def _steps(loaded: LoadedTask, config: TrainerConfig) -> Iterator[Step]:
    """The steps of a training, and again from its beginning where it is over."""
    number, position = 0, 0
    while True:
        done = share_done(config, steps=number, samples=position, elapsed_s=0.0, flops=0.0)
        if done >= 1:
            number, position, done = 0, 0, 0.0
        step = Step(number, position, done, step_size(loaded, config, done))
        yield step
        number, position = number + 1, position + step.size


def _run(loaded: LoadedTask, parts: Parts, steps: Iterator[Step]) -> Step:
    step = next(steps)
    follow_progress(parts, step)
    optimizer_step(loaded, parts, step)
    return step


def _with_laps(parts: Parts, laps: Laps) -> Parts:
    """The same parts, which tell when a piece of the step begins."""

    def beginning(piece: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            laps.enter(piece)
            return call(*given)

        return run

    return replace(
        parts,
        fetch=beginning("data", parts.fetch),
        prepare=beginning("prepare", parts.prepare),
        autocast=beginning("forward", parts.autocast),
        scale=beginning("backward", parts.scale),
        update=beginning("optimizer", parts.update),
        after_step=tuple(beginning("after", follow) for follow in parts.after_step),
    )


def _median(taken: list[Seconds], n_steps: int) -> dict[str, float]:
    """Of one step, from blocks of so many."""
    wall_s, cpu_s = (statistics.median(column) / n_steps for column in zip(*taken, strict=True))
    return {"wall_s": wall_s, "cpu_s": cpu_s}


def _is_resident(loaded: LoadedTask) -> bool:
    tensors = loaded.train.tensors
    return tensors is not None and columns(tensors)[0].device.type == loaded.device.type


def _copy_seconds(loaded: LoadedTask, config: TrainerConfig, step: Step) -> dict[str, float] | None:
    """Of copying a step's samples to the device, measured apart; None where there is nothing to copy."""
    if loaded.device.type == "cpu" or _is_resident(loaded):
        return None
    batch = map_batch(loaded.train.take(torch.arange(min(step.size, loaded.train.n))), torch.Tensor.cpu)
    is_pinned = config.loader.pin and config.loader.workers > 0
    if is_pinned:
        batch = map_batch(batch, torch.Tensor.pin_memory)
    laps, taken = Laps(loaded.device), list[Seconds]()
    for _ in range(_WARM + 5):
        laps.enter("copy")
        map_batch(batch, lambda t: t.to(loaded.device, non_blocking=is_pinned))
        taken.append(laps.end()["copy"])
    return _median(taken[_WARM:], 1)


def _with_copy(pieces: dict[str, Any], copy: dict[str, float] | None) -> dict[str, Any]:
    """The pieces in their order, the copy taken out of the wait for data, in which it happens."""
    if copy is not None:
        data = pieces["data"]
        copied = {name: min(copy[name], data[name]) for name in data}
        pieces = {**pieces, "copy": copied, "data": {name: data[name] - copied[name] for name in data}}
    return {name: pieces[name] for name in PIECES if name in pieces}


def _evaluation_seconds(loaded: LoadedTask, parts: Parts, is_over: Callable[[], bool]) -> list[float]:
    """Of a pass over the validation set, and of one more if there is time: the first may warm up."""
    taken: list[float] = []
    while not taken or (len(taken) < 2 and not is_over()):
        watch = Stopwatch(loaded.device)
        evaluate(loaded.task, parts, loaded.validation)
        taken.append(watch.elapsed_s())
    return taken


def _traffic(
    loaded: LoadedTask, config: TrainerConfig, parts: Parts, stack: ExitStack, steps: Iterator[Step]
) -> Traffic:
    """Of one step, as it runs where nothing is compiled: compiled operations cannot be told apart.

    Reading samples one by one is no work of the device, whoever does it.
    """
    if config.compile.mode != "off":
        plain = with_params(config, {"compile.mode": "off", "memory.budget": 1.0})
        parts, steps = _built(loaded, plain, stack), _steps(loaded, plain)
        _run(loaded, parts, steps)  # an optimizer's first step also makes its state
    traffic = Traffic()

    def uncounted(*given: Any) -> Any:
        traffic.is_counting = False
        batch = fetch(*given)
        traffic.is_counting = True
        return batch

    fetch = parts.fetch
    with traffic:
        _run(loaded, parts if loaded.train.tensors is not None else replace(parts, fetch=uncounted), steps)
    return traffic
