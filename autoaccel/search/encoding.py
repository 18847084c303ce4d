"""Points of a space as numbers, many at a time: places on each knob's scale, and the columns the model sees.

Everything here is vectorised, because a decision looks at hundreds of points. Must not know the model or the decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space

Array = NDArray[np.float64]


class Encoding:
    """The knobs of a space without its horizon.

    Places have one column a knob: 0..1 on the scale of a range, the index of a choice, NaN where the knob does not
    exist. Rows, which the model sees, have one column a range or pair of choices and one a choice of more; a knob that
    does not exist sits in the middle, so that it says nothing.
    """

    def __init__(self, space: Space, horizon_path: str = "") -> None:
        self.knobs: tuple[Knob, ...] = tuple(k for k in space.knobs if k.path != horizon_path)
        self._fixed = dict(space.fixed)
        widths = [len(k.choices) if len(k.choices) > 2 else 1 for k in self.knobs]
        self.group_of_column = np.repeat(np.arange(len(self.knobs)), widths).astype(int)
        self.n_groups = len(self.knobs)
        self._rows: dict[tuple[Any, ...], Array] = {}

    def row(self, point: Mapping[str, Any]) -> Array:
        """Columns of one point, remembered: the points that were trained are looked up at every decision."""
        identity = tuple(point.items())
        if identity not in self._rows:
            if len(self._rows) > 20_000:
                self._rows.clear()
            self._rows[identity] = np.array(self._row(point), dtype=float)
        return self._rows[identity]

    def _row(self, point: Mapping[str, Any]) -> list[float]:
        """As `rows(places([point]))`, in plain Python: ten times faster for one point."""
        row: list[float] = []
        for knob in self.knobs:
            value: Any = point.get(knob.path)
            exists = value is not None and all(self._fixed.get(p, point.get(p)) in knob.wanted(p) for p in knob.when)
            if knob.is_numeric:
                row.append(min(1.0, max(0.0, knob.to_unit(max(value, knob.low)))) if exists else 0.5)
            elif len(knob.choices) <= 2:
                row.append(float(knob.choices.index(value)) if exists and value in knob.choices else 0.5)
            else:
                row += [math.sqrt(0.5) * (exists and value == choice) for choice in knob.choices]
        return row

    def places(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """Places of points, shape (n, knobs); what a point does not say is NaN."""
        places = np.full((len(points), len(self.knobs)), np.nan)
        for j, knob in enumerate(self.knobs):
            for i, point in enumerate(points):
                value = point.get(knob.path)
                if value is None:
                    continue
                if knob.is_numeric:
                    places[i, j] = (
                        min(1.0, max(0.0, knob.to_unit(max(value, knob.low)))) if knob.log else knob.to_unit(value)
                    )
                elif value in knob.choices:
                    places[i, j] = knob.choices.index(value)
        return self._active(places)

    def rows(self, places: Array) -> Array:
        """Columns for the model, shape (n, columns)."""
        columns = []
        for j, knob in enumerate(self.knobs):
            place = places[:, j]
            absent = np.isnan(place)
            if knob.is_numeric or len(knob.choices) <= 2:
                columns.append(np.where(absent, 0.5, np.clip(place, 0.0, 1.0)))
            else:
                columns += [math.sqrt(0.5) * np.where(absent, 0.0, place == c) for c in range(len(knob.choices))]
        return np.stack(columns, axis=1) if columns else np.zeros((len(places), 0))

    def params(self, places: Array) -> list[dict[str, Any]]:
        """Points as values by path; knobs that do not exist are left out."""
        points: list[dict[str, Any]] = [{} for _ in range(len(places))]
        for j, knob in enumerate(self.knobs):
            for point, place in zip(points, places[:, j].tolist(), strict=True):
                if place == place:
                    point[knob.path] = knob.from_unit(place) if knob.is_numeric else knob.choices[int(place)]
        return points

    def anywhere(self, rng: np.random.Generator, n: int) -> Array:
        """Random places, shape (n, knobs)."""
        places: Array = rng.random((n, len(self.knobs)))
        for j, knob in enumerate(self.knobs):
            places[:, j] = _by_prior(knob, places[:, j])
        return self._active(self._snapped(places))

    def near(self, centers: Array, rng: np.random.Generator, width: Array, moved: float) -> Array:
        """One place near each center: each knob moves with probability `moved` (at least one), by `width` of its scale.

        A knob that did not exist at the center starts anywhere on its scale, by its prior.
        """
        n, k = centers.shape
        if not k:
            return centers
        move = rng.random((n, k)) < moved
        move[np.arange(n), rng.integers(k, size=n)] |= ~move.any(axis=1)
        places = np.where(np.isnan(centers), rng.random((n, k)), centers)
        shift = rng.normal(size=(n, k)) * width[:, None]
        for j, knob in enumerate(self.knobs):
            if knob.is_numeric:
                start = np.where(np.isnan(centers[:, j]), _by_prior(knob, places[:, j]), places[:, j])
                places[:, j] = np.clip(start + np.where(move[:, j], shift[:, j], 0.0), 0.0, 1.0)
                continue
            absent, other = np.isnan(centers[:, j]), rng.integers(len(knob.choices), size=n)
            places[:, j] = np.where(move[:, j] & (rng.random(n) < 0.5) | absent, other, places[:, j])
            if knob.prior:
                places[:, j] = np.where(absent, _by_prior(knob, rng.random((n,))), places[:, j])
        return self._active(self._snapped(places))

    def _snapped(self, places: Array) -> Array:
        """Places that are values: whole numbers of an integer knob."""
        for j, knob in enumerate(self.knobs):
            if knob.is_numeric and knob.integer and knob.high > knob.low:
                if knob.log:
                    values = np.round(knob.low * (knob.high / knob.low) ** places[:, j])
                    places[:, j] = np.log(values / knob.low) / math.log(knob.high / knob.low)
                else:
                    values = np.round(knob.low + places[:, j] * (knob.high - knob.low))
                    places[:, j] = (values - knob.low) / (knob.high - knob.low)
        return places

    def _active(self, places: Array) -> Array:
        """NaN where a knob's conditions do not hold; conditions refer to knobs before."""
        for j, knob in enumerate(self.knobs):
            for path in knob.when:
                if path in self._fixed:
                    if self._fixed[path] not in knob.wanted(path):
                        places[:, j] = np.nan
                    continue
                holds = np.zeros(len(places), dtype=bool)
                for i, parent in enumerate(self.knobs[:j]):
                    if parent.path == path:
                        wanted = [c for c, choice in enumerate(parent.choices) if choice in knob.wanted(path)]
                        holds |= np.isin(places[:, i], wanted)
                places[~holds, j] = np.nan
        return places


def _by_prior(knob: Knob, even: Array) -> Array:
    """Even draws as places by the knob's prior; see `Knob.drawn`."""
    if not knob.prior:
        return np.floor(even * len(knob.choices)) if knob.choices else even
    return np.array([knob.drawn(u) for u in even.tolist()])
