"""Encoding: points and places are the same thing, and conditions hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoaccel.search.encoding import Encoding
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space

SPACE = Space(
    "test",
    (
        Knob(path="optim", choices=("adamw", "sgd")),
        Knob(path="schedule", choices=("constant", "linear", "cosine")),
        Knob(path="lr", low=1e-4, high=1e-1, log=True, when={"optim": "adamw"}),
        Knob(path="lr", low=1e-2, high=1.0, log=True, when={"optim": "sgd"}),
        Knob(path="momentum", low=0.0, high=0.99, when={"optim": "sgd"}),
        Knob(path="batch", low=16, high=512, log=True, integer=True),
        Knob(path="horizon", low=10, high=1000, log=True, integer=True),
    ),
)


@pytest.fixture
def encoding() -> Encoding:
    return Encoding(SPACE, "horizon")


def test_points_and_places_are_the_same_thing(encoding: Encoding) -> None:
    places = encoding.anywhere(np.random.default_rng(0), 300)
    points = encoding.params(places)
    assert np.allclose(encoding.places(points), places, equal_nan=True)
    rows = encoding.rows(places)
    assert np.allclose(rows, [encoding.row(p) for p in points])
    assert rows.shape == (300, len(encoding.group_of_column)) and np.isfinite(rows).all()
    assert ((rows >= 0) & (rows <= 1)).all()


def test_a_point_has_exactly_the_knobs_that_exist_there(encoding: Encoding) -> None:
    rng = np.random.default_rng(1)
    centers = encoding.anywhere(rng, 200)
    for places in (centers, encoding.near(centers, rng, np.full(200, 0.3), 0.5)):
        for point in encoding.params(places):
            assert ("momentum" in point) == (point["optim"] == "sgd")
            assert set(point) - {"momentum"} == {"optim", "schedule", "lr", "batch"}
            low, high = (1e-2, 1.0) if point["optim"] == "sgd" else (1e-4, 1e-1)
            assert low <= point["lr"] <= high
            assert isinstance(point["batch"], int) and 16 <= point["batch"] <= 512


def test_a_neighbour_differs_and_stays_near(encoding: Encoding) -> None:
    rng = np.random.default_rng(2)
    center = encoding.places([{"optim": "sgd", "schedule": "linear", "lr": 0.1, "momentum": 0.9, "batch": 64}])
    centers = np.repeat(center, 400, axis=0)
    near = encoding.near(centers, rng, np.full(400, 0.05), 0.35)
    numeric = [3, 4, 5]
    same_optimizer = near[:, 0] == center[0, 0]
    assert np.nanmax(np.abs(near[same_optimizer][:, numeric] - center[0, numeric])) < 0.3
    unchanged = (np.abs(near - centers)[same_optimizer][:, [0, 1, *numeric]] < 1e-12).all(axis=1)
    assert unchanged.mean() < 0.2  # only a categorical that was drawn to move and drew itself again


def test_draws_follow_the_priors_and_knobs_without_one_are_drawn_as_ever() -> None:
    prior = {"schedule": (0.8, 0.1, 0.1), "momentum": (0.5, 0.6)}
    knobs = tuple(replace(knob, prior=prior.get(knob.path, ())) for knob in SPACE.knobs)
    plain, ours = Encoding(SPACE, "horizon"), Encoding(replace(SPACE, knobs=knobs), "horizon")
    before, places = (e.anywhere(np.random.default_rng(0), 4000) for e in (plain, ours))
    points = ours.params(places)
    assert np.mean([p["schedule"] == "constant" for p in points]) == pytest.approx(0.8, abs=0.03)
    momenta = [p["momentum"] for p in points if "momentum" in p]
    assert np.mean([0.5 <= m <= 0.6 for m in momenta]) == pytest.approx(0.75 + 0.25 * 0.1, abs=0.03)
    same = [0, 2, 3, 5]
    assert np.array_equal(before[:, same], places[:, same], equal_nan=True)
    adamw = ours.places([{"optim": "adamw", "schedule": "linear", "lr": 1e-3, "batch": 64}])
    near = ours.near(np.repeat(adamw, 4000, axis=0), np.random.default_rng(1), np.full(4000, 0.02), 0.3)
    begun = [p["momentum"] for p in ours.params(near) if "momentum" in p]
    assert np.mean([0.4 <= m <= 0.7 for m in begun]) > 0.7


def test_knobs_that_do_not_exist_say_nothing(encoding: Encoding) -> None:
    adamw = {"optim": "adamw", "schedule": "linear", "lr": 1e-3, "batch": 64}
    assert np.array_equal(encoding.row(adamw), encoding.row({**adamw, "momentum": 0.2}))


def test_fixed_values_decide_conditions() -> None:
    space = Space(SPACE.name, SPACE.knobs[1:], fixed={"optim": "sgd"})
    point = Encoding(space, "horizon").params(Encoding(space, "horizon").anywhere(np.random.default_rng(0), 1))[0]
    assert "momentum" in point and point["lr"] >= 1e-2


def test_a_condition_may_name_several_values_and_depend_on_a_conditional_knob() -> None:
    space = Space(
        "nested",
        (
            Knob(path="optim", choices=("adamw", "sgd", "free")),
            Knob(path="schedule", choices=("constant", "wsd", "cosine"), when={"optim": ("adamw", "sgd")}),
            Knob(path="schedule", choices=("constant",), when={"optim": "free"}),
            Knob(path="cooldown", low=0.1, high=0.5, when={"schedule": "wsd"}),
        ),
    )
    encoding = Encoding(space)
    places = encoding.anywhere(np.random.default_rng(0), 300)
    points = encoding.params(places)
    assert {(p["optim"] == "free", p["schedule"]) for p in points} == {
        (False, "constant"),
        (False, "wsd"),
        (False, "cosine"),
        (True, "constant"),
    }
    for point, row in zip(points, encoding.rows(places), strict=True):
        assert ("cooldown" in point) == (point["schedule"] == "wsd")
        assert {k.path for k in space.active(point)} == point.keys()
        assert np.allclose(encoding.row(point), row)
    fixed = Encoding(space.fix({"optim": "sgd"}, "pinned"))
    assert {p["schedule"] for p in fixed.params(fixed.anywhere(np.random.default_rng(0), 50))} >= {"wsd", "cosine"}
