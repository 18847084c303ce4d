"""autoaccel: the fastest way to train a model to the accuracy you need, on this hardware, found within a budget.

Public names are resolved lazily: importing autoaccel loads neither torch, optuna nor ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoaccel.api import TuneResult, tune
    from autoaccel.budget import Budget
    from autoaccel.config import TrainerConfig, load_config
    from autoaccel.errors import AutoaccelError
    from autoaccel.integrations.optuna import TimeToTargetPruner, TimeToTargetSampler
    from autoaccel.retuning import Retuning, retune_run
    from autoaccel.sections import (
        Augment,
        Average,
        Batch,
        Compile,
        Curriculum,
        Data,
        Evaluate,
        Horizon,
        Loader,
        Memory,
        Model,
        Optim,
        Parallel,
        Precision,
        Regularize,
        Schedule,
        System,
    )
    from autoaccel.tasks.base import ParallelPlan, Task
    from autoaccel.training import TrainResult, train
    from autoaccel.trial import Target

_HOME = {
    "AutoaccelError": "errors",
    "Augment": "sections",
    "Average": "sections",
    "Batch": "sections",
    "Budget": "budget",
    "Compile": "sections",
    "Curriculum": "sections",
    "Data": "sections",
    "Evaluate": "sections",
    "Horizon": "sections",
    "Loader": "sections",
    "Memory": "sections",
    "Model": "sections",
    "Optim": "sections",
    "Parallel": "sections",
    "ParallelPlan": "tasks.base",
    "Precision": "sections",
    "Regularize": "sections",
    "Retuning": "retuning",
    "Schedule": "sections",
    "System": "sections",
    "Target": "trial",
    "Task": "tasks.base",
    "TimeToTargetPruner": "integrations.optuna",
    "TimeToTargetSampler": "integrations.optuna",
    "TrainResult": "training",
    "TrainerConfig": "config",
    "TuneResult": "api",
    "load_config": "config",
    "retune_run": "retuning",
    "train": "training",
    "tune": "api",
}

__all__ = [
    "Augment",
    "AutoaccelError",
    "Average",
    "Batch",
    "Budget",
    "Compile",
    "Curriculum",
    "Data",
    "Evaluate",
    "Horizon",
    "Loader",
    "Memory",
    "Model",
    "Optim",
    "Parallel",
    "ParallelPlan",
    "Precision",
    "Regularize",
    "Retuning",
    "Schedule",
    "System",
    "Target",
    "Task",
    "TimeToTargetPruner",
    "TimeToTargetSampler",
    "TrainResult",
    "TrainerConfig",
    "TuneResult",
    "load_config",
    "retune_run",
    "train",
    "tune",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"autoaccel.{_HOME[name]}"), name)
    raise AttributeError(f"module 'autoaccel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
