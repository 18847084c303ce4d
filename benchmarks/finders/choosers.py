"""Who chooses a batch size: ours and the finders of two libraries, each as it is documented.

A chooser is a function of a workload's name and the protocol: imports and data first, then the memory limit, then the
clock. Must not know what is made of the choice.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autoaccel.budget import Room
from autoaccel.config import from_dict
from autoaccel.cost.memory import PeakMemory, settings_of
from autoaccel.cost.step_cost import StepCost
from autoaccel.search.micro_batches import largest_fitting
from autoaccel.search.prepare import MEMORY_SHARE, PIECES_SHARE, STEP_COST_SHARE
from autoaccel.search.probes import MICRO_SIZES
from autoaccel.trainer.measure import measure_steps
from autoaccel.trainer.memory_peak import measure_peak
from autoaccel.trainer.preflight import preflight
from benchmarks.finders.limits import device, limit_memory
from benchmarks.finders.workloads import WORKLOADS, datasets, task_of
from benchmarks.trainer.workloads import loss_of

Document = dict[str, Any]
Chooser = Callable[[str, Mapping[str, Any]], Document]
"""Returns the choice, the seconds it took, and what else is worth knowing."""
EVALUATION_BATCH = 256
"""As in ours: what a finder looks at beside the batch size is the same for all."""


def ours(workload: str, protocol: Mapping[str, Any]) -> Document:
    """What a tuning does before its first trial: the task tried, peak memory measured, steps timed, the knee taken."""
    recipe, largest = protocol["recipe"], protocol["ours"]["largest"]
    task = task_of(workload, recipe)
    limit_memory(protocol["room_bytes"])
    began_s, budget_s = time.perf_counter(), protocol["ours"]["budget_s"]
    loaded, facts = preflight(task)
    baseline = from_dict(facts["baseline"])
    room = Room(MEMORY_SHARE * budget_s, math.inf)
    measured = measure_peak(loaded, baseline, largest=largest, variants=[], room=room)
    memory = PeakMemory.from_probe(measured, settings_of(baseline), largest, 1)
    fits = largest_fitting(memory, baseline, largest) or largest
    sizes = sorted({size for size in MICRO_SIZES if size <= fits} | {baseline.batch.micro})
    optimizers = {baseline.optim.name: {"optim.name": baseline.optim.name}}
    room = Room(PIECES_SHARE * (STEP_COST_SHARE - MEMORY_SHARE) * budget_s, math.inf)
    steps = measure_steps(loaded, baseline, micro=sizes, dtypes=["fp32"], optimizers=optimizers, room=room)
    cost = StepCost.from_probe(steps, facts["flops_per_sample"], facts["evaluation_flops"])
    cost = replace(cost, memory=memory)
    choice = cost.knee({**settings_of(baseline), "batch.size": largest, "batch.accumulation": 1})
    took_s = time.perf_counter() - began_s
    chosen = {**settings_of(baseline), "batch.size": choice, "batch.accumulation": 1}
    chosen |= cost.split(chosen, is_pinned=True)
    found = {"choice": choice, "seconds": took_s, "evaluation_batch": chosen["evaluate.batch"], "fits": fits}
    return {**found, "memory": measured, "steps": steps["micro"]}


def lightning(mode: str, workload: str, protocol: Mapping[str, Any]) -> Document:
    """`Tuner.scale_batch_size` with its defaults: the attribute `batch_size` of a module, whose loaders use it."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.tuner import Tuner

    from benchmarks.finders.lightning_module import Recipe

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Recipe(workload, protocol["recipe"])
    limit_memory(protocol["room_bytes"])
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="gpu" if device().type == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        choice = Tuner(trainer).scale_batch_size(module, mode=mode)
    return {"choice": choice, "seconds": time.perf_counter() - began_s}


def accelerate(start: int | None, workload: str, protocol: Mapping[str, Any]) -> Document:
    """`find_executable_batch_size` around a training function, as its documentation shows; three steps, as Lightning
    tries. `start`: another size to begin with than its default."""
    from accelerate.utils import find_executable_batch_size

    train, validation = datasets(workload)
    limit_memory(protocol["room_bytes"])
    began_s = time.perf_counter()
    tried: list[int] = []

    def training(batch_size: int) -> int:
        tried.append(batch_size)
        model = WORKLOADS[workload].model().to(device())
        optimizer = torch.optim.AdamW(model.parameters(), lr=protocol["recipe"]["optim.lr"])
        for step, batch in enumerate(DataLoader(train, batch_size, shuffle=True)):
            inputs, targets = (column.to(device()) for column in batch)
            loss_of(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == protocol["steps_per_trial"] - 1:
                break
        _evaluate(model, validation, protocol["steps_per_trial"])
        return batch_size

    begin = {} if start is None else {"starting_batch_size": start}
    choice = find_executable_batch_size(training, **begin)()
    return {"choice": choice, "seconds": time.perf_counter() - began_s, "tried": tried}


@torch.no_grad()
def _evaluate(model: nn.Module, validation: TensorDataset, n_batches: int) -> None:
    model.eval()
    for _, batch in zip(range(n_batches), DataLoader(validation, EVALUATION_BATCH), strict=False):
        inputs, targets = (column.to(device()) for column in batch)
        loss_of(model(inputs), targets)


CHOOSERS: dict[str, Chooser] = {
    "ours": ours,
    "lightning_power": partial(lightning, "power"),
    "lightning_binsearch": partial(lightning, "binsearch"),
    "accelerate": partial(accelerate, None),
    "accelerate_1024": partial(accelerate, 1024),
}
