"""One contestant in a process of its own: python -m benchmarks.trainer.contestant NAME; it is asked in JSON lines.

A request is a training: timed, in blocks that are asked for one after another while the training waits inside its
model, or checked: run to its end, then told by what it saw, lost and learned. Must not know the other contestants.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, TextIO

import numpy as np
import torch
from torch import nn

from benchmarks.dialogue import Document, pipe_of_answers, send
from benchmarks.trainer.probe import Over, Probe, Saw, blocks
from benchmarks.trainer.workloads import Job, Recipe, loss_of, seeded_model


@dataclass(frozen=True)
class Contestant:
    """Who can be asked."""

    module: str
    """Of this package; has `train(job)`."""
    needs: tuple[str, ...] = ()
    """Distributions that have to be installed."""
    whole_batches: bool = False
    is_peer: bool = True
    params: tuple[tuple[str, Any], ...] = ()
    """Ours: settings that differ from the recipe."""
    gpu_only: bool = False
    keeps_memory: bool = False
    """glibc does not give freed memory back to the kernel between steps (`KEEPS_MEMORY`)."""


KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
"""What glibc reads when a process starts. By default it may return the memory of a step's activations to the kernel,
and the next step's first touch of every page is a fault.
"""
CONTESTANTS: dict[str, Contestant] = {
    "ours": Contestant("ours", is_peer=False),
    "bare": Contestant("bare", is_peer=False),
    "bare_keeps_memory": Contestant("bare", is_peer=False, keeps_memory=True),
    "lightning": Contestant("lightning_peer", ("lightning",)),
    "lightning_whole_batches": Contestant("lightning_peer", ("lightning",), whole_batches=True),
    "huggingface": Contestant("huggingface_peer", ("transformers", "accelerate")),
    "huggingface_whole_batches": Contestant("huggingface_peer", ("transformers", "accelerate"), whole_batches=True),
    "timm": Contestant("timm_peer", ("timm",)),
    "timm_whole_batches": Contestant("timm_peer", ("timm",), whole_batches=True),
}
_LAST = ("memory.format", "channels_last")
VARIANTS: dict[str, tuple[tuple[str, Any], ...]] = {
    "ours_tf32": (("precision.matmul", "high"),),
    "ours_bf16": (("precision.dtype", "bf16"),),
    "ours_fp16": (("precision.dtype", "fp16"),),
    "ours_channels_last": (_LAST,),
    "ours_compile": (("compile.mode", "default"),),
    "ours_bf16_channels_last": (("precision.dtype", "bf16"), _LAST),
    "ours_bf16_compile": (("precision.dtype", "bf16"), _LAST, ("compile.mode", "default")),
    "ours_bf16_graphs": (("precision.dtype", "bf16"), _LAST, ("compile.mode", "reduce-overhead")),
}
"""Rows of a GPU: ours with settings changed, beside ours. What a model has no use for is not set."""
CONTESTANTS |= {
    name: Contestant("ours", is_peer=False, params=params, gpu_only=True) for name, params in VARIANTS.items()
}


def main(name: str) -> None:
    """Answer until the input ends."""
    requests, answers = sys.stdin, pipe_of_answers()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    contestant = CONTESTANTS[name]
    train = import_module(f"benchmarks.trainer.{contestant.module}").train
    send(answers, {"ready": name})
    for line in requests:
        request = json.loads(line)
        job = partial(job_of, request, contestant)
        if request.get("checked"):
            send(answers, checked(train, job))
        else:
            with suppress(Over):
                timed(train, job, requests, answers)
            send(answers, {"over": True})


def job_of(request: Document, contestant: Contestant, saw: Saw) -> Job:
    """The training that a request describes."""
    with np.load(request["data"]) as found:
        inputs, targets = torch.from_numpy(found["inputs"]), torch.from_numpy(found["targets"])
    plain = partial(seeded_model, request["workload"])
    order = request.get("order")
    return Job(
        recipe=Recipe(**request["recipe"]),
        inputs=inputs if order is None else inputs[order],
        targets=targets if order is None else targets[order],
        model=lambda: Probe(plain(), saw),
        plain_model=plain,
        n_steps=request["n_steps"],
        shuffled=order is None,
        whole_batches=request.get("whole_batches", contestant.whole_batches),
        params=usable(dict(contestant.params), request["workload"]),
    )


def usable(params: Document, workload: str) -> Document:
    """Settings without those that a model of this workload refuses."""
    return {path: value for path, value in params.items() if (path, value) != _LAST or workload != "char_transformer"}


def timed(train: Callable[[Job], nn.Module], job: Callable[[Saw], Job], requests: TextIO, answers: TextIO) -> None:
    """Train, and time the blocks of steps that are asked for; ends with `Over`."""

    def ask() -> tuple[int, int] | None:
        asked = json.loads(requests.readline() or "{}")
        return (asked["warm"], asked["steps"]) if asked else None

    def answer(wall_s: float, cpu_s: float) -> None:
        send(answers, {"wall_s": wall_s, "cpu_s": cpu_s})

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = blocks(ask, answer, device)
    train(job(lambda inputs, outputs: next(steps)))
    raise RuntimeError("the training ended before it was told to")


def checked(train: Callable[[Job], nn.Module], job: Callable[[Saw], Job]) -> Document:
    """Train to the end: which samples were seen, the loss of each step, and how far each parameter went.

    Returns:
        order: number of each sample in the data as it lies, steps x batch of them; losses: one per step; moved: norm
        of the way of each parameter.
    """
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    given = job(lambda inputs, outputs: seen.append((inputs.detach().cpu(), outputs.detach().float().cpu())))
    trained = train(given)
    number = {sample.numpy().tobytes(): i for i, sample in enumerate(given.inputs)}
    order = [[number[sample.numpy().tobytes()] for sample in inputs] for inputs, _ in seen]
    losses = [float(loss_of(out, given.targets[rows])) for (_, out), rows in zip(seen, order, strict=True)]
    pairs = zip(given.plain_model().parameters(), trained.parameters(), strict=True)
    moved = [float((after.detach().cpu() - before.detach()).norm()) for before, after in pairs]
    return {"order": [row for rows in order for row in rows], "losses": losses, "moved": moved}


if __name__ == "__main__":
    main(sys.argv[1])
