"""What is varied in the recorded trainings: knobs, horizons, default recipes, for each of the three problems.

Needs neither torch nor data, so that a replay can read it. Must not know how a training runs nor how it is replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

EVALUATIONS: Final = 10
"""Evenly spaced over a training's steps, the last at its horizon; every step where there are fewer."""
TABLES: Final = Path(__file__).parent.parent / "tables"


@dataclass(frozen=True)
class Setup:
    """One problem of the tables, without its data."""

    name: str
    space: Mapping[str, BaseDistribution]
    default: Mapping[str, Any]
    horizon_low: int
    """Horizons are in training samples."""
    full_horizon: int
    horizon_high: int
    n_val: int
    direction: str
    source: str
    """Where the default recipe is documented."""

    @property
    def table(self) -> Path:
        """The recorded trainings."""
        return TABLES / f"{self.name}.parquet"

    @property
    def surrogate(self) -> Path:
        """What was fitted to them."""
        return TABLES / f"{self.name}.surrogate.parquet"


CONDITIONS: Final = {"momentum": ("optimizer", "sgd")}

_COMMON: Final[dict[str, BaseDistribution]] = {
    "optimizer": CategoricalDistribution(("sgd", "adamw")),
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 0.99),
    "weight_decay": FloatDistribution(1e-6, 0.3, log=True),
    "batch": IntDistribution(8, 256, log=True),
    "warmup": FloatDistribution(0.0, 0.3),
    "schedule": CategoricalDistribution(("constant", "linear", "cosine")),
}
_BATCH: Final = {"batch": IntDistribution(16, 512, log=True)}
_KERAS: Final = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 1e-6,
    "batch": 32,
    "warmup": 0.0,
    "schedule": "constant",
    "smoothing": 0.0,
}
_KERAS_SOURCE: Final = 'Keras: compile("adam") with its rate of 1e-3, fit() with its batch of 32; decay as good as none'

SETUPS: Final = {
    setup.name: setup
    for setup in (
        Setup(
            name="digits_cnn",
            space=_COMMON | {"smoothing": FloatDistribution(0.0, 0.2), "width": IntDistribution(4, 24, log=True)},
            default=_KERAS | {"width": 12},
            horizon_low=480,
            full_horizon=24_000,
            horizon_high=36_000,
            n_val=597,
            direction="max",
            source=_KERAS_SOURCE,
        ),
        Setup(
            name="fashion_cnn",
            space=_COMMON
            | _BATCH
            | {"smoothing": FloatDistribution(0.0, 0.2), "width": IntDistribution(5, 20, log=True)},
            default=_KERAS | {"width": 10},
            horizon_low=500,
            full_horizon=20_000,
            horizon_high=30_000,
            n_val=1_000,
            direction="max",
            source=_KERAS_SOURCE,
        ),
        Setup(
            name="char_lm",
            space=_COMMON
            | _BATCH
            | {"context": IntDistribution(3, 24, log=True), "width": IntDistribution(32, 192, log=True)},
            default={name: _KERAS[name] for name in _COMMON}
            | {"weight_decay": 1e-2, "batch": 64, "context": 12, "width": 96},
            horizon_low=1_500,
            full_horizon=80_000,
            horizon_high=120_000,
            n_val=2_000,
            direction="min",
            source="PyTorch: AdamW with its rate of 1e-3 and decay of 1e-2, constant; batch 64",
        ),
    )
}


def looks(steps: int) -> list[int]:
    """The steps after which a training is evaluated."""
    count = min(EVALUATIONS, steps)
    return [round(steps * (k + 1) / count) for k in range(count)]
