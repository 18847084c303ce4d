"""autoaccel: the fastest way to train a model to the accuracy you need, on this hardware, found within a budget.

Public names are resolved lazily: importing autoaccel loads neither torch, optuna nor ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoaccel.api import TrainResult, TuneResult, train, tune
    from autoaccel.budget import Budget
    from autoaccel.config import TrainerConfig, load_config
    from autoaccel.errors import AutoaccelError
    from autoaccel.integrations.optuna import TimeToTargetPruner, TimeToTargetSampler
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
        Precision,
        Regularize,
        Schedule,
        System,
    )
    from autoaccel.tasks.base import Task
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
    "Precision": "sections",
    "Regularize": "sections",
    "Schedule": "sections",
    "System": "sections",
    "Target": "trial",
    "Task": "tasks.base",
    "TimeToTargetPruner": "integrations.optuna",
    "TimeToTargetSampler": "integrations.optuna",
    "TrainResult": "api",
    "TrainerConfig": "config",
    "TuneResult": "api",
    "load_config": "config",
    "train": "api",
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
    "Precision",
    "Regularize",
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
