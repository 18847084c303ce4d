"""Our trainer, entered where a worker enters it for a trial: `preflight`, then `run_training`.

Must not know how it is timed.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.tasks.base import Task
from autoaccel.trainer.preflight import preflight
from autoaccel.trainer.run import run_training
from autoaccel.trial import TrialSpec
from benchmarks.trainer.workloads import N_VALIDATION, Job

NO_CAP_S = 1e9


def config_of(job: Job) -> TrainerConfig:
    """The recipe in our words."""
    recipe = job.recipe
    samples = job.n_steps * recipe.batch
    told = {
        "batch.size": recipe.batch,
        "optim.name": recipe.optimizer,
        "optim.lr": recipe.lr,
        "optim.momentum": recipe.momentum,
        "optim.weight_decay": recipe.weight_decay,
        "schedule.name": "cosine",
        "horizon.samples": samples,
        "evaluate.every_samples": samples,
    }
    return with_params(TrainerConfig(), {**told, **job.params})


def train(job: Job) -> nn.Module:
    """Train to the end of the horizon."""
    few = job.inputs[:N_VALIDATION], job.targets[:N_VALIDATION]
    task = Task(name="workload", model=job.plain_model, train=(job.inputs, job.targets), validation=few)
    loaded, _ = preflight(task)
    loaded = replace(loaded, task=replace(task, model=job.model))  # what preflight tried is not watched
    spec = TrialSpec(1, "benchmark", config_of(job), cap_s=NO_CAP_S)
    stopped: set[int] = set()
    ended, model = run_training(loaded, spec, report=lambda _: None, stopped=lambda: spec.trial in stopped)
    if ended.outcome != "finished" or model is None:
        raise RuntimeError(f"{ended.outcome}: {ended.message}")
    return model
