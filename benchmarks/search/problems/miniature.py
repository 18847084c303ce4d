"""Miniature problems: real trainings of the numpy perceptron on small tables, with real seeds and schedules.

The clock is simulated: a step of batch b costs 1 + b/64 milliseconds, an evaluation 1 + n/192 of n validation rows. A
training is evaluated at ten evenly spaced steps, the last at its horizon. Must not know any method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.search.problem import Description, Params, Point, Problem
from benchmarks.search.problems.data import Absent, data_file, protocol
from benchmarks.search.problems.mlp import Networks, Recipe, Table

SPACE: Final[dict[str, BaseDistribution]] = {
    "optimizer": CategoricalDistribution(("sgd", "adamw")),
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 0.99),
    "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
    "batch": IntDistribution(16, 512, log=True),
    "warmup": FloatDistribution(0.0, 0.3),
    "schedule": CategoricalDistribution(("constant", "linear", "cosine")),
    "smoothing": FloatDistribution(0.0, 0.2),
}
CONDITIONS: Final = {"momentum": ("optimizer", "sgd")}
SECONDS_PER_UNIT: Final = 1e-3
EVALUATIONS: Final = 10
FULL_HORIZON: Final = 192_000
"""3,000 steps of 64 samples: 6,000 units."""
SHORTEST: Final = 1_920


@final
class Miniature(Problem):
    """One table."""

    def __init__(self, name: str, table: Table, target: float) -> None:
        default = protocol()["families"]["miniature"]["default"]
        self._table = table
        self._evaluation_s = SECONDS_PER_UNIT * (1 + len(table.y_val) / 192)
        steps = -(-FULL_HORIZON // default["batch"])
        self.description = Description(
            name=name,
            family="miniature",
            space=SPACE,
            conditions=CONDITIONS,
            horizon_low=SHORTEST,
            horizon_high=FULL_HORIZON,
            full_horizon=FULL_HORIZON,
            default=default,
            target=target,
            floor=0.5 / len(table.y_val),
            full_s=steps * _step_s(default["batch"]) + EVALUATIONS * self._evaluation_s,
        )

    def train(self, params: Params, horizon: int, seed: int) -> Iterator[Point]:
        recipe = _recipe(params, horizon)
        networks = Networks(self._table, recipe, [seed])
        for done, step in enumerate(looks(recipe.steps), 1):
            networks.advance(step)
            value = float(networks.accuracy()[0])
            yield Point(horizon * step / recipe.steps, self._seconds(recipe, step, done), value)
            if not np.isfinite(value):
                return

    def train_many(self, params: Params, horizon: int, seeds: Sequence[int], cap_s: float) -> list[tuple[float, bool]]:
        """Seconds and hit of a training for each seed: it ends at its hit, divergence, the cap or its horizon."""
        recipe = _recipe(params, horizon)
        networks = Networks(self._table, recipe, seeds)
        found = [(0.0, False)] * len(seeds)
        running = np.arange(len(seeds))
        for done, step in enumerate(looks(recipe.steps), 1):
            seconds = self._seconds(recipe, step, done)
            if seconds > cap_s:
                for index in running:
                    found[index] = (cap_s, False)
                break
            networks.advance(step)
            values = networks.accuracy()
            hits = values >= self.description.target
            for index, hit in zip(running, hits, strict=True):
                found[index] = (seconds, bool(hit))
            going = np.flatnonzero(~hits & np.isfinite(values))
            if not len(going):
                break
            if len(going) < len(running):
                running = running[going]
                networks.keep(going)
        return found

    def seconds_per_sample(self, params: Params) -> float:
        return _step_s(int(params["batch"])) / int(params["batch"])

    def _seconds(self, recipe: Recipe, step: int, evaluations: int) -> float:
        return step * _step_s(recipe.batch) + evaluations * self._evaluation_s


def looks(steps: int) -> list[int]:
    """The steps after which a training is evaluated."""
    count = min(EVALUATIONS, steps)
    return [round(steps * (k + 1) / count) for k in range(count)]


def _step_s(batch: int) -> float:
    return SECONDS_PER_UNIT * (1 + batch / 64)


def _recipe(params: Params, horizon: int) -> Recipe:
    batch = int(params["batch"])
    return Recipe(
        optimizer=str(params["optimizer"]),
        lr=float(params["lr"]),
        momentum=float(params.get("momentum", 0.0)),
        weight_decay=float(params["weight_decay"]),
        batch=batch,
        warmup=float(params["warmup"]),
        schedule=str(params["schedule"]),
        smoothing=float(params["smoothing"]),
        steps=max(1, -(-int(horizon) // batch)),
    )


def load_table(name: str, n_train: int, n_val: int) -> Table:
    """Split by a fixed permutation; standardised with the training part's mean and deviation.

    Raises:
        Absent: the data or a package to read it with is not there.
    """
    x, y = _digits() if name == "digits" else _pmlb(name)
    order = np.random.default_rng(0).permutation(len(y))
    train, val = order[:n_train], order[n_train : n_train + n_val]
    classes, labels = np.unique(y, return_inverse=True)
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0)
    scaled = ((x - mean) / np.where(deviation > 1e-6, deviation, 1)).astype(np.float32)
    return Table(scaled[train], labels[train], scaled[val], labels[val], len(classes))


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)  # type: ignore[no-any-return]


def _pmlb(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name not in protocol()["families"]["miniature"]["problems"]:
        raise ValueError(f"table {name} is held out")
    file = data_file("pmlb", f"{name}.parquet")
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise Absent("the tables need the package pyarrow") from error
    table = parquet.read_table(file)
    columns = [column for column in table.column_names if column != "target"]
    x = np.stack([table[column].to_numpy().astype(np.float64) for column in columns], axis=1)
    return x, table["target"].to_numpy()
