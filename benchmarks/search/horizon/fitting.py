"""Fits a surrogate to recorded trainings: a network ensemble for the curves, repeats for the noise, times for seconds.

Needs torch; takes about a minute a table. Must not know how the surrogate is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize, nnls
from torch import Tensor
from torch.nn import functional

from benchmarks.search.horizon.features import FRACTIONS, Array, chance, look_work, work
from benchmarks.search.horizon.records import Records
from benchmarks.search.horizon.surrogate import CLASSES, Surrogate, noise_terms

MEMBERS, HIDDEN, STEPS, DECAY = 8, 64, 1500, 0.3
COUNT = len(FRACTIONS)


@dataclass(frozen=True)
class Lesson:
    """What the ensemble learns, a row per training, scaled."""

    inputs: Tensor
    curves: Tensor
    """Twice the ten fractions: of a training that learns, and of one at chance."""
    known: Tensor
    """Which of them the training tells."""
    kinds: Tensor


def fit(records: Records, digest: str) -> Surrogate:
    """The whole surrogate."""
    mean = mean_surrogate(records, np.arange(len(records)))
    return Surrogate(
        {**mean.arrays, **fit_noise(records, mean), **fit_seconds(records, np.arange(len(records)))}, digest
    )


def mean_surrogate(records: Records, rows: Array) -> Surrogate:
    """A surrogate of the mean curves only, fitted to some of the rows."""
    silent = {"noise": np.zeros(4), "noise_range": np.zeros(2)}
    return Surrogate(fit_ensemble(records, rows) | silent, "")


def kinds(records: Records) -> Array:
    """Index into CLASSES of each training."""
    final = records.curves()[:, -1]
    return np.where(records.diverged, 2, np.where(final < chance(records.setup), 1, 0))


def fit_ensemble(records: Records, rows: Array, seed: int = 0) -> dict[str, Array]:
    """Weights of the networks, from some of the rows; each member weighs the rows in its own way."""
    inputs, curves, kind = records.inputs()[rows], records.curves()[rows], kinds(records)[rows]
    center, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    both = np.concatenate([np.where(kind[:, None] == k, curves, np.nan) for k in (0, 1)], axis=1)
    middle = np.nan_to_num(np.nanmean(np.vstack([both, np.zeros(2 * COUNT)]), axis=0))
    width = np.where(np.isfinite(both).sum(axis=0) > 1, np.nanstd(np.vstack([both, middle]), axis=0), 1.0) + 1e-3
    lesson = Lesson(
        torch.tensor((inputs - center) / spread, dtype=torch.float32),
        torch.tensor(np.nan_to_num((both - middle) / width), dtype=torch.float32),
        torch.tensor(np.isfinite(both), dtype=torch.float32),
        torch.tensor(kind, dtype=torch.long),
    )
    weights = _descend(lesson, seed)
    possible = np.array([float((kind == k).any()) for k in range(len(CLASSES))])
    scales = {"center": center, "spread": spread, "out_center": middle, "out_spread": width, "possible": possible}
    return scales | {name: value.detach().numpy().astype(np.float64) for name, value in weights.items()}


def _descend(lesson: Lesson, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) / shape[-2] ** 0.5).requires_grad_()

    n_in, n_out = lesson.inputs.shape[1], 2 * COUNT + len(CLASSES)
    weights = {
        "weight1": draw(MEMBERS, n_in, HIDDEN),
        "weight2": draw(MEMBERS, HIDDEN, HIDDEN),
        "weight3": draw(MEMBERS, HIDDEN, n_out),
        "bias1": torch.zeros(MEMBERS, HIDDEN, requires_grad=True),
        "bias2": torch.zeros(MEMBERS, HIDDEN, requires_grad=True),
        "bias3": torch.zeros(MEMBERS, n_out, requires_grad=True),
    }
    importance = -torch.log(torch.rand(MEMBERS, len(lesson.inputs), generator=generator))
    importance = 0.5 + 0.5 * importance
    optimizer = torch.optim.AdamW(list(weights.values()), lr=1e-2, weight_decay=DECAY)
    annealed = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        hidden = torch.tanh(lesson.inputs @ weights["weight1"] + weights["bias1"][:, None])
        hidden = torch.tanh(hidden @ weights["weight2"] + weights["bias2"][:, None])
        out = hidden @ weights["weight3"] + weights["bias3"][:, None]
        miss = ((out[..., : 2 * COUNT] - lesson.curves) ** 2 * lesson.known).sum(-1) / COUNT
        guess = functional.cross_entropy(
            out[..., 2 * COUNT :].transpose(1, 2), lesson.kinds.expand(MEMBERS, -1), reduction="none"
        )
        loss = (importance * (miss + 0.3 * guess)).mean(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        annealed.step()
    return weights


def fit_noise(records: Records, mean: Surrogate) -> dict[str, Array]:
    """Deviation between seeds and its correlation along the curve, from the repeats."""
    curves, kind = records.curves(), kinds(records)
    deviations, terms, at_chance = [], [], []
    for rows in records.repeats():
        for k in (0, 1):
            same = [row for row in rows if kind[row] == k and len(records.samples[row]) == COUNT]
            if len(same) < 2:
                continue
            away = (curves[same] - curves[same].mean(axis=0)) * np.sqrt(len(same) / (len(same) - 1))
            if k:
                at_chance.append(away)
                continue
            params, horizon = records.params[same[0]], records.horizon[same[0]]
            deviations.append(away)
            terms += [noise_terms(params, horizon, mean.outlook(params, horizon).learns)] * len(same)
    away, term = np.concatenate(deviations), np.array(terms)
    noise = _deviation_weights(away, term)
    levels = term @ noise
    limits = np.quantile(levels, [0.01, 0.99])
    standard = away / np.exp(np.clip(levels, *limits))
    chance_deviation = np.concatenate(at_chance).std(axis=0) if at_chance else np.full(COUNT, 0.01)
    return {
        "noise": noise,
        "noise_range": limits,
        "mixing": np.linalg.cholesky(correlation(standard)),
        "chance_deviation": chance_deviation,
    }


def _deviation_weights(away: Array, term: Array) -> Array:
    """Most likely weights of log deviation, for normal noise, a little drawn towards a constant deviation."""
    flat, squares = term.reshape(-1, term.shape[-1]), away.ravel() ** 2

    def loss(weights: Array) -> float:
        log = np.clip(flat @ weights, -12, 5)
        return float(np.mean(log + 0.5 * squares * np.exp(-2 * log)) + 1e-3 * np.sum(weights[1:] ** 2))

    start = np.zeros(flat.shape[1])
    start[0] = 0.5 * np.log(squares.mean())
    return np.asarray(minimize(loss, start, method="L-BFGS-B").x)


def correlation(standard: Array) -> Array:
    """Along the curve: a part that fades with distance, the rest anew at each evaluation."""
    seen = np.corrcoef(standard.T)
    distance = np.abs(np.arange(COUNT)[:, None] - np.arange(COUNT))
    apart = distance > 0

    def shape(weights: Array) -> Array:
        return weights[0] * np.exp(-distance / weights[1])

    found = minimize(
        lambda w: float(((shape(w) - seen)[apart] ** 2).mean()), [0.5, 5.0], bounds=[(0.0, 0.99), (0.3, 100.0)]
    ).x
    return np.where(apart, shape(found), 1.0)


def fit_seconds(records: Records, rows: Array) -> dict[str, Array]:
    """Times of a step and of an evaluation from some rows: terms that cost nothing or something, relative errors."""
    steps = [work(records.params[row]) * records.steps_done(row) for row in rows]
    looks = [look_work(records.params[row]) * len(records.samples[row]) for row in rows]
    return {
        "step_s": _costs(np.array(steps), np.array([records.train_s[row][-1] for row in rows])),
        "look_s": _costs(np.array(looks), np.array([records.evaluation_s[row][-1] for row in rows])),
    }


def _costs(terms: Array, seconds: Array) -> Array:
    relative = terms / seconds[:, None]
    size = np.maximum(relative.max(axis=0), 1e-12)
    return np.asarray(nnls(relative / size, np.ones(len(seconds)))[0] / size)
