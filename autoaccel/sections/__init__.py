"""The sections of TrainerConfig: every setting of the trainer with its meaning and its range.

A field's dotted path (`optim.lr`) is its name everywhere. Each has an effect in the trainer. Must not know torch, the
task or other sections; what settings exclude of each other stands in `conflicts`.
"""

from __future__ import annotations

from autoaccel.sections.checks import check, positive_int
from autoaccel.sections.conflicts import CONFLICTS
from autoaccel.sections.data import Augment, Curriculum, Data, Loader
from autoaccel.sections.model import Compile, Memory, Model, Precision, Regularize, System
from autoaccel.sections.optimization import KERNELS, Average, Batch, Evaluate, Horizon, Optim, Schedule
from autoaccel.sections.parallel import Parallel

__all__ = [
    "CONFLICTS",
    "KERNELS",
    "Augment",
    "Average",
    "Batch",
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
    "Precision",
    "Regularize",
    "Schedule",
    "System",
    "check",
    "positive_int",
]
