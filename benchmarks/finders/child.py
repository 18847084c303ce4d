"""One process under the memory limit: python -m benchmarks.finders.child; it is told what to do in a line of JSON.

To choose a batch size, to train with one in blocks that are asked for, or to train with one to its end. Must not know
other processes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TextIO

import torch
from torch import nn

from autoaccel.trainer.preflight import preflight
from autoaccel.trainer.run import run_training
from autoaccel.trial import Ended, TrialSpec
from benchmarks.dialogue import Document, pipe_of_answers, send
from benchmarks.finders.choosers import CHOOSERS
from benchmarks.finders.limits import device, limit_memory
from benchmarks.finders.workloads import config_of, task_of
from benchmarks.trainer.probe import Over, Probe, blocks


def main() -> None:
    """Do what one line says; further lines ask for blocks of a training."""
    requests, answers = sys.stdin, pipe_of_answers()
    torch.set_num_threads(1)
    told = json.loads(requests.readline())
    workload, protocol = told["workload"], told["protocol"]
    if "chooser" in told:
        send(answers, CHOOSERS[told["chooser"]](workload, protocol))
    elif told.get("check"):
        send(answers, checked(workload, protocol, told["batch"], told["evaluation_batch"]))
    else:
        timed(workload, protocol, told["batch"], requests, answers)


def trained(workload: str, protocol: Mapping[str, Any], params: Document, model: Any = lambda m: m) -> Ended:
    """A training in our trainer under the limit."""
    task = task_of(workload, protocol["recipe"])
    watched = task_of(workload, protocol["recipe"], model)
    limit_memory(protocol["room_bytes"])
    loaded, _ = preflight(task)
    loaded = replace(loaded, task=replace(loaded.task, model=watched.model))  # what preflight tries is not watched
    spec = TrialSpec(1, "benchmark", config_of(protocol["recipe"], **params), cap_s=1e9)
    ended, _ = run_training(loaded, spec, report=lambda _: None)
    return ended


def timed(workload: str, protocol: Mapping[str, Any], batch: int, requests: TextIO, answers: TextIO) -> None:
    """Train until no block is asked for; or say how it ended before."""

    def ask() -> tuple[int, int] | None:
        asked = json.loads(requests.readline() or "{}")
        return (asked["warm"], asked["steps"]) if asked else None

    steps = blocks(ask, lambda wall_s, cpu_s: send(answers, {"wall_s": wall_s, "cpu_s": cpu_s}), device())

    def watched(model: nn.Module) -> nn.Module:
        return Probe(model, lambda inputs, outputs: next(steps))

    with suppress(Over):
        ended = trained(workload, protocol, {"batch__size": batch}, watched)
        send(answers, {"outcome": ended.outcome, "message": ended.message})


def checked(workload: str, protocol: Mapping[str, Any], batch: int, evaluation_batch: int) -> Document:
    """How a training of `check_steps` steps with its evaluations ends."""
    params = {
        "evaluate__batch": evaluation_batch,
        "batch__size": batch,
        "horizon__samples": protocol["check_steps"] * batch,
        "evaluate__every_samples": protocol["check_every"] * batch,
    }
    ended = trained(workload, protocol, params)
    return {"outcome": ended.outcome, "steps": ended.steps, "message": ended.message}


if __name__ == "__main__":
    main()
