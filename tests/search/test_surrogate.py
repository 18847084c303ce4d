"""The model: what it learns of noise, horizons and running curves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize

from autoaccel.search import surrogate as module
from autoaccel.search.acquisition import hit_probability, log_ert_gain
from autoaccel.search.encoding import Encoding
from autoaccel.search.evidence import Curve, bent
from autoaccel.search.surrogate import Surrogate, fit_scales
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space

SPACE = Space("test", (Knob(path="a", low=0.0, high=1.0), Knob(path="b", choices=("p", "q", "r"))))
UNIT = 1000.0


def course(a: float, samples: float, horizon: float, seed_luck: float, noise: float, annealing: float = 0.3) -> float:
    """A margin: a power law in samples, a bowl in a, a loss while the schedule is not yet annealed."""
    return 0.4 * math.log(samples / UNIT) - 3 * (a - 0.4) ** 2 - annealing * (1 - samples / horizon) + seed_luck + noise


def curves(n: int, sd_seed: float = 0.05, sd_noise: float = 0.02, annealing: float = 0.3, seed: int = 0) -> list[Curve]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        a, horizon, luck = float(rng.random()), float(10 ** rng.uniform(2, 3.5)), float(rng.normal(0, sd_seed))
        samples = tuple(horizon * k / 10 for k in range(1, 11))
        margins = tuple(course(a, s, horizon, luck, float(rng.normal(0, sd_noise)), annealing) for s in samples)
        found.append(Curve({"a": a, "b": str(rng.choice(["p", "q", "r"]))}, horizon, samples, margins, 1.0, "missed"))
    return found


@pytest.fixture
def encoding() -> Encoding:
    return Encoding(SPACE)


def fitted(encoding: Encoding, evidence: list[Curve]) -> Surrogate:
    return Surrogate(encoding, UNIT, evidence, fit_scales(encoding, UNIT, evidence))


def test_gradient_of_the_fit_is_right(encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[Callable[..., tuple[float, np.ndarray]]] = []

    def spy(loss: Callable[..., tuple[float, np.ndarray]], first: np.ndarray, **rest: object) -> object:
        caught.append(loss)
        return optimize.minimize(loss, first, **rest)  # type: ignore[call-overload]

    monkeypatch.setattr(module, "minimize", spy)
    scales = fit_scales(encoding, UNIT, curves(15))
    at = scales.logs + 0.1
    steps = 1e-5 * np.eye(len(at))
    numeric = [(caught[0](at + e)[0] - caught[0](at - e)[0]) / 2e-5 for e in steps]
    assert np.allclose(caught[0](at)[1], numeric, atol=1e-3)


def test_predicts_what_it_has_not_seen_and_says_how_surely(encoding: Encoding) -> None:
    model, new = fitted(encoding, curves(50)), curves(60, sd_seed=0.0, sd_noise=0.0, seed=1)
    rows = np.array([encoding.row(c.params) for c in new])
    mean, sd = model.predict(rows, np.array([c.horizon for c in new]))
    off = mean - np.array([c.margins[-1] for c in new])
    assert np.sqrt(np.mean(off**2)) < 0.1
    assert np.mean(np.abs(off) < 2 * sd + 0.02) > 0.9


@pytest.mark.parametrize("sd_seed", [0.02, 0.1])
def test_learns_how_much_a_seed_matters(encoding: Encoding, sd_seed: float) -> None:
    scales = fit_scales(encoding, UNIT, curves(60, sd_seed=sd_seed))
    assert sd_seed / 2 < scales.aleatoric_sd < sd_seed * 2 + 0.03


def test_a_running_curve_is_continued_through_its_annealing(encoding: Encoding) -> None:
    """Half way a constant schedule would be at its margin; an annealed one has more to come, and the model knows it."""
    for annealing in (0.0, 0.6):
        model = fitted(encoding, curves(40, annealing=annealing))
        horizon, luck = 2000.0, 0.1
        samples = tuple(horizon * k / 10 for k in range(1, 6))
        margins = tuple(course(0.5, s, horizon, luck, 0.0, annealing) for s in samples)
        running = Curve({"a": 0.5, "b": "p"}, horizon, samples, margins, 1.0, "running")
        mean, sd = model.continued(running)
        assert abs(mean - course(0.5, horizon, horizon, luck, 0.0, annealing)) < 0.12
        assert sd < 0.2


def test_own_luck_carries_along_the_curve(encoding: Encoding) -> None:
    model = fitted(encoding, curves(60, sd_seed=0.15))
    samples = (400.0, 600.0, 800.0)
    ends = []
    for luck in (-0.2, 0.2):
        margins = tuple(course(0.4, s, 1000.0, luck, 0.0) for s in samples)
        ends.append(model.continued(Curve({"a": 0.4, "b": "p"}, 1000.0, samples, margins, 1.0, "running"))[0])
    assert ends[1] - ends[0] > 0.15


@pytest.mark.parametrize("seed", [0, 1, 147, 149])
def test_curves_that_knobs_do_not_explain_are_fitted_all_the_same(encoding: Encoding, seed: int) -> None:
    """Good or bad whatever the knobs: an unbounded line search went where no covariance is one (147, 149)."""
    rng, evidence = np.random.default_rng(seed), []
    for _ in range(15):
        margins = (-0.4, -0.2, 0.0) if rng.random() < 0.5 else (-1.9,) * 3
        horizon = float(10 ** rng.uniform(2, 3.5))
        knobs = {"a": float(rng.random()), "b": str(rng.choice(["p", "q", "r"]))}
        evidence.append(Curve(knobs, horizon, (horizon / 4, horizon / 2, horizon), margins, 1.0, "missed"))
    scales = None
    for n in range(3, 16, 3):
        scales = fit_scales(encoding, UNIT, evidence[:n], scales)
    model = Surrogate(encoding, UNIT, evidence, scales)
    assert np.isfinite(model.predict(model.rows([c.params for c in evidence]), np.full(15, UNIT))).all()


def test_many_curves_stay_within_the_size(encoding: Encoding) -> None:
    model = Surrogate(encoding, UNIT, curves(700))
    assert len(model.points) <= module.MOST_POINTS


def test_gain_buys_no_lottery_tickets(encoding: Encoding) -> None:
    """Where the mean is known, a very short training with a small chance gains nothing: its ERT is worse."""
    model = fitted(encoding, curves(30))
    sure, long_shot = np.array([3.0]), np.array([-3.0])
    known = np.array([1e-6])
    reference = math.log(10.0)
    assert log_ert_gain(model, sure, known, np.log([5.0]), reference)[0] == pytest.approx(math.log(2.0), rel=1e-3)
    assert log_ert_gain(model, long_shot * model.scales.aleatoric_sd, known, np.log([0.5]), reference)[0] == 0.0
    assert hit_probability(model, np.array([0.0]), np.array([0.3]))[0] == pytest.approx(0.5)


def test_gain_grows_with_ignorance(encoding: Encoding) -> None:
    model = fitted(encoding, curves(30))
    gains = [
        log_ert_gain(model, np.array([-0.5]), np.array([sd]), np.log([5.0]), math.log(10.0))[0]
        for sd in (0.1, 0.3, 1.0)
    ]
    assert gains[0] < gains[1] < gains[2]


def test_bent_margins_keep_their_order() -> None:
    margins = [-9.0, -3.0, -1.2, -1.0, -0.5, 0.0, 0.4]
    assert sorted(map(bent, margins)) == list(map(bent, margins))
    assert bent(math.nan) <= bent(-8.0) and bent(-0.7) == -0.7
