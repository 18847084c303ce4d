"""Compares ways to replay a table on held-out configurations, and prints the table of the README.

Five folds; all repeats and horizons of a configuration fall into one fold. Must not know what a replay is used for.

    python -m benchmarks.search.horizon.compare [--problem digits_cnn]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.neighbors import KNeighborsRegressor

from benchmarks.search.horizon import fitting
from benchmarks.search.horizon.features import Array, chance, look_work, scaled, work
from benchmarks.search.horizon.records import Records, read
from benchmarks.search.horizon.setups import SETUPS

FOLDS = 5
Way = Callable[[Records, Array, Array], Array]
"""(records, rows to learn from, rows to predict) -> expected final metric on the surrogate's scale."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.search.horizon.compare", description=__doc__.split("\n")[0])
    parser.add_argument("--problem", choices=list(SETUPS), action="append", help="all, unless named")
    print(
        "| problem | way | RMSE | median error | RMSE, best 40 % | same side of the target |\n|---|---|---|---|---|---|"
    )
    for name in parser.parse_args(arguments).problem or SETUPS:
        records = read(SETUPS[name])
        for label, way in WAYS.items():
            print(f"| {name} | {label} | {judged(records, held_out(records, way))} |", flush=True)
        print(f"| {name} | a second seed of the same | {seed_noise(records):.3f} | | | |")
        print(f"{name}: seconds off by {seconds_error(records)}", file=sys.stderr)
    return 0


def finals(records: Records) -> Array:
    """Final metric on the scale; a diverged training counts as chance."""
    final = records.curves()[:, -1]
    return np.where(np.isfinite(final), final, chance(records.setup))


def held_out(records: Records, way: Way) -> Array:
    """Predictions for every row by a fit that saw nothing of its configuration."""
    fold = folds(records)
    predicted = np.zeros(len(records))
    for k in range(FOLDS):
        predicted[fold == k] = way(records, np.flatnonzero(fold != k), np.flatnonzero(fold == k))
    return predicted


def folds(records: Records) -> Array:
    """The fold of each row."""
    groups = records.groups()
    return (np.random.default_rng(0).permutation(groups.max() + 1) % FOLDS)[groups]


def judged(records: Records, predicted: Array) -> str:
    """Errors, as cells of a table."""
    true = finals(records)
    target = scaled(records.setup, np.array([records.target()]))[0]
    miss = predicted - true
    best = true > np.quantile(true, 0.6)
    cells = (np.sqrt(np.mean(miss**2)), np.median(np.abs(miss)), np.sqrt(np.mean(miss[best] ** 2)))
    return " | ".join(f"{cell:.3f}" for cell in (*cells, np.mean((true >= target) == (predicted >= target))))


def seed_noise(records: Records) -> float:
    """Deviation between seeds: what no prediction of a single training can beat, on average over the repeats."""
    true = finals(records)
    return float(np.sqrt(np.mean([true[rows].var(ddof=1) for rows in records.repeats()])))


def seconds_error(records: Records) -> str:
    """Of the seconds of whole trainings, evaluations included, of held-out configurations."""
    fold, ratios = folds(records), []
    for k in range(FOLDS):
        costs = fitting.fit_seconds(records, np.flatnonzero(fold != k))
        for row in np.flatnonzero(fold == k):
            params, looks = records.params[row], len(records.samples[row])
            fitted = (
                records.steps_done(row) * work(params) @ costs["step_s"] + looks * look_work(params) @ costs["look_s"]
            )
            ratios.append(abs(fitted / (records.train_s[row][-1] + records.evaluation_s[row][-1]) - 1))
    middle, far = np.quantile(ratios, [0.5, 0.9])
    return f"{middle:.1%} (median), {far:.1%} (90th percentile)"


def _regression(make: Callable[[int], Any]) -> Way:
    def way(records: Records, known: Array, asked: Array) -> Array:
        inputs, true = records.inputs(), finals(records)
        inputs = inputs / (inputs.std(axis=0) + 1e-9)
        return np.asarray(make(inputs.shape[1]).fit(inputs[known], true[known]).predict(inputs[asked]))

    return way


def _ensemble(records: Records, known: Array, asked: Array) -> Array:
    surrogate = fitting.mean_surrogate(records, known)
    found = []
    for row in asked:
        outlook = surrogate.outlook(records.params[row], records.horizon[row])
        found.append(outlook.risk[0] * outlook.learns[-1] + (1 - outlook.risk[0]) * outlook.chance[-1])
    return np.array(found)


def _gp(records: Records, known: Array, asked: Array) -> Array:
    """Scales found on 300 rows, since a fit takes the cube of their number; then conditioned on all."""
    inputs, true = records.inputs(), finals(records)
    inputs = inputs / (inputs.std(axis=0) + 1e-9)
    kernel = ConstantKernel(1.0) * Matern(np.full(inputs.shape[1], 3.0), (0.1, 100.0), nu=2.5) + WhiteKernel(0.05)
    some = np.random.default_rng(0).choice(known, min(300, len(known)), replace=False)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        found = GaussianProcessRegressor(kernel, normalize_y=True).fit(inputs[some], true[some]).kernel_
        whole = GaussianProcessRegressor(found, normalize_y=True, optimizer=None).fit(inputs[known], true[known])
    return np.asarray(whole.predict(inputs[asked]))


WAYS: dict[str, Way] = {
    "nearest recorded": _regression(lambda n: KNeighborsRegressor(1)),
    "five nearest": _regression(lambda n: KNeighborsRegressor(5, weights="distance")),
    "extra trees": _regression(
        lambda n: ExtraTreesRegressor(200, min_samples_leaf=2, max_features=0.7, random_state=0)
    ),
    "boosted trees": _regression(
        lambda n: HistGradientBoostingRegressor(learning_rate=0.06, max_iter=250, max_leaf_nodes=12, random_state=0)
    ),
    "Gaussian process": _gp,
    "network ensemble (used)": _ensemble,
}

if __name__ == "__main__":
    sys.exit(main())
