"""A small multi-layer perceptron in numpy: one hidden layer, softmax; several seeds at once on a leading axis.

Each seed has its own generator and its own matrix products, so that a seed gives the same training alone as in company.
Must not know problems, targets or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

HIDDEN: Final = 64
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Table:
    """A classification table, split and standardised."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    classes: int


@dataclass(frozen=True)
class Recipe:
    """The learning knobs of one training and its length."""

    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    batch: int
    warmup: float
    schedule: str
    smoothing: float
    steps: int

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = self.warmup * self.steps
        if step < warm:
            return self.lr * (step + 1) / (warm + 1)
        progress = (step - warm) / max(self.steps - warm, 1)
        if self.schedule == "linear":
            return self.lr * (1 - progress)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr


@final
class Networks:
    """One network for each seed, trained in step."""

    def __init__(self, table: Table, recipe: Recipe, seeds: Sequence[int]) -> None:
        self.step = 0
        self._table, self._recipe = table, recipe
        self._batch = min(recipe.batch, len(table.x_train))
        self._per_epoch = len(table.x_train) // self._batch
        self._generators = [np.random.default_rng(seed) for seed in seeds]
        inputs, outputs = table.x_train.shape[1], table.classes
        self._shapes = ((inputs, HIDDEN), (1, HIDDEN), (HIDDEN, outputs), (1, outputs))
        goals = np.full((outputs, outputs), recipe.smoothing / outputs, np.float32)
        goals[np.diag_indices(outputs)] += 1 - recipe.smoothing
        self._goals = goals[table.y_train]
        self._allocate(self._initial())

    def _initial(self) -> np.ndarray:
        inputs, outputs = self._shapes[0][0], self._shapes[2][1]
        weights = np.zeros((len(self._generators), sum(a * b for a, b in self._shapes)), np.float32)
        first, second = inputs * HIDDEN, (inputs + 1) * HIDDEN
        for row, generator in zip(weights, self._generators, strict=True):
            row[:first] = generator.standard_normal(first, np.float32) * math.sqrt(2 / inputs)
            row[second : second + HIDDEN * outputs] = generator.standard_normal(
                HIDDEN * outputs, np.float32
            ) * math.sqrt(1 / HIDDEN)
        return weights

    def _allocate(self, weights: np.ndarray) -> None:
        """Buffers for as many networks as `weights` has rows; no step allocates."""
        count, batch, outputs = len(weights), self._batch, self._shapes[2][1]
        self._weights, self._gradient = weights, np.zeros_like(weights)
        self._first, self._second = np.zeros_like(weights), np.zeros_like(weights)
        self._scratch = np.zeros_like(weights)
        self._w, self._g = self._views(weights), self._views(self._gradient)
        self._hidden = np.empty((count, batch, HIDDEN), np.float32)
        self._back = np.empty_like(self._hidden)
        self._mask = np.empty(self._hidden.shape, bool)
        self._out = np.empty((count, batch, outputs), np.float32)
        self._row = np.empty((count, batch, 1), np.float32)
        rows = self._per_epoch * batch
        self._x = np.empty((count, rows, self._shapes[0][0]), np.float32)
        self._y = np.empty((count, rows, outputs), np.float32)

    def _views(self, flat: np.ndarray) -> list[np.ndarray]:
        found, start = [], 0
        for shape in self._shapes:
            end = start + shape[0] * shape[1]
            found.append(flat[:, start:end].reshape(len(flat), *shape))
            start = end
        return found

    def keep(self, rows: np.ndarray) -> None:
        """Go on with some of the networks only."""
        weights, first, second = self._weights[rows], self._first[rows], self._second[rows]
        x, y = self._x[rows], self._y[rows]
        self._generators = [self._generators[int(row)] for row in rows]
        self._allocate(weights)
        self._first[:], self._second[:] = first, second
        self._x, self._y = x, y

    def advance(self, until: int) -> None:
        """Train up to a step."""
        with np.errstate(all="ignore"):
            while self.step < until:
                place = self.step % self._per_epoch
                if place == 0:
                    self._shuffle()
                self._descend(place * self._batch, (place + 1) * self._batch)
                self.step += 1

    def accuracy(self) -> np.ndarray:
        """On the validation part, a number for each network; NaN where the network has diverged."""
        with np.errstate(all="ignore"):
            hidden = np.matmul(self._table.x_val, self._w[0])
            hidden += self._w[1]
            np.maximum(hidden, 0, out=hidden)
            out = np.matmul(hidden, self._w[2])
            out += self._w[3]
            right = (out.argmax(axis=2) == self._table.y_val).mean(axis=1)
            return np.where(np.isfinite(out).all(axis=(1, 2)), right, np.nan)

    def _shuffle(self) -> None:
        """A new order for each network; rows that fill no batch are left out until the next shuffle."""
        rows = min(self._x.shape[1], (self._recipe.steps - self.step) * self._batch)
        for index, generator in enumerate(self._generators):
            order = generator.permutation(len(self._table.x_train))[:rows]
            np.take(self._table.x_train, order, axis=0, out=self._x[index, :rows], mode="clip")
            np.take(self._goals, order, axis=0, out=self._y[index, :rows], mode="clip")

    def _descend(self, low: int, high: int) -> None:
        x, out, hidden, row = self._x[:, low:high], self._out, self._hidden, self._row
        np.matmul(x, self._w[0], out=hidden)
        hidden += self._w[1]
        np.maximum(hidden, 0, out=hidden)
        np.matmul(hidden, self._w[2], out=out)
        out += self._w[3]
        np.max(out, axis=2, keepdims=True, out=row)
        out -= row
        np.exp(out, out=out)
        np.sum(out, axis=2, keepdims=True, out=row)
        out /= row
        out -= self._y[:, low:high]
        out *= np.float32(1 / self._batch)
        np.matmul(hidden.transpose(0, 2, 1), out, out=self._g[2])
        np.sum(out, axis=1, keepdims=True, out=self._g[3])
        np.matmul(out, self._w[2].transpose(0, 2, 1), out=self._back)
        np.greater(hidden, 0, out=self._mask)
        self._back *= self._mask
        np.matmul(x.transpose(0, 2, 1), self._back, out=self._g[0])
        np.sum(self._back, axis=1, keepdims=True, out=self._g[1])
        rate = self._recipe.rate(self.step)
        if self._recipe.optimizer == "sgd":
            self._momentum_step(rate)
        else:
            self._adamw_step(rate)

    def _momentum_step(self, rate: float) -> None:
        """Weight decay is part of the gradient, as in the usual SGD."""
        scratch, velocity = self._scratch, self._first
        np.multiply(self._weights, np.float32(self._recipe.weight_decay), out=scratch)
        scratch += self._gradient
        velocity *= np.float32(self._recipe.momentum)
        velocity += scratch
        np.multiply(velocity, np.float32(rate), out=scratch)
        self._weights -= scratch

    def _adamw_step(self, rate: float) -> None:
        gradient, scratch, first, second = self._gradient, self._scratch, self._first, self._second
        first *= np.float32(BETA_1)
        np.multiply(gradient, np.float32(1 - BETA_1), out=scratch)
        first += scratch
        gradient *= gradient
        gradient *= np.float32(1 - BETA_2)
        second *= np.float32(BETA_2)
        second += gradient
        count = self.step + 1
        np.multiply(second, np.float32(1 / (1 - BETA_2**count)), out=scratch)
        np.sqrt(scratch, out=scratch)
        scratch += np.float32(EPSILON)
        np.divide(first, scratch, out=scratch)
        scratch *= np.float32(rate / (1 - BETA_1**count))
        self._weights *= np.float32(1 - rate * self._recipe.weight_decay)
        self._weights -= scratch
