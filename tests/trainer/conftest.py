"""Toy tasks that train in milliseconds, and one call that trains one and returns everything that can be seen of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.tasks.base import Task
from autoaccel.trainer.build import load_data
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.run import Checkpointing, run_training
from autoaccel.trial import Ended, Report, Target, TrialSpec

ROOT = Path(__file__).resolve().parents[2]
N_TRAIN, N_VALIDATION, N_FEATURES, N_CLASSES = 96, 60, 6, 3


def blobs(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping clouds; class 0 holds half of the samples."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 1, 0, 2] * (n // 4 + 1))[:n]
    centers = torch.eye(N_CLASSES, N_FEATURES) * 2
    return centers[labels] + torch.randn(n, N_FEATURES, generator=generator), labels


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(N_FEATURES, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, N_CLASSES))


@dataclass(frozen=True)
class Run:
    """What one training showed."""

    ended: Ended
    reports: list[Report]
    model: nn.Module | None

    @property
    def weights(self) -> torch.Tensor:
        assert self.model is not None
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    @property
    def seen(self) -> list[tuple[int, int, float, float, float]]:
        """The reports without the times."""
        return [(r.steps, r.samples, r.flops, r.value, r.loss) for r in self.reports]


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """What a program prints in a fresh interpreter."""

    def go(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return go


@pytest.fixture
def make_task() -> Callable[..., Task]:
    """A toy classification task; keyword arguments replace its fields."""

    def make(**changes: Any) -> Task:
        fields = {"name": "toy", "model": small_net, "train": blobs(N_TRAIN, 1), "validation": blobs(N_VALIDATION, 2)}
        return Task(**{**fields, **changes})

    return make


@pytest.fixture
def load(make_task: Callable[..., Task]) -> Callable[..., LoadedTask]:
    """The toy task, or one with some fields replaced, loaded on the CPU; with made-up FLOPs of 10 and 300."""

    def make(task: Task | None = None, **changes: Any) -> LoadedTask:
        loaded = load_data(task or make_task(**changes), torch.device("cpu"))
        return replace(loaded, flops_per_sample=10.0, evaluation_flops=300.0)

    return make


@pytest.fixture
def config() -> Callable[..., TrainerConfig]:
    """Twelve steps and three evaluations; keyword arguments are (path, value) pairs as a dict."""

    def make(params: dict[str, Any] | None = None) -> TrainerConfig:
        base = {"batch.size": 24, "horizon.samples": 288, "evaluate.every_samples": 96, "optim.lr": 0.01}
        return with_params(TrainerConfig(), {**base, **(params or {})})

    return make


@pytest.fixture
def run(load: Callable[..., LoadedTask], config: Callable[..., TrainerConfig]) -> Callable[..., Run]:
    """Train the toy task, or `loaded`, with a config given by its changed paths."""

    def go(
        params: dict[str, Any] | None = None,
        loaded: LoadedTask | None = None,
        *,
        stopped: Callable[[], bool] = lambda: False,
        folder: Path | None = None,
        resume: bool = False,
        **spec: Any,
    ) -> Run:
        target = spec.pop("target", None)
        target = Target.at_least(target) if isinstance(target, float) else target
        reports: list[Report] = []
        ended, model = run_training(
            loaded or load(),
            TrialSpec(1, "train", config(params), target, **spec),
            report=reports.append,
            stopped=stopped,
            checkpointing=Checkpointing(folder, resume) if folder else None,
        )
        return Run(ended, reports, model)

    return go
