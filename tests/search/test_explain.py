"""Knob effects: what mattered is found, what did not is said to have bought nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from autoaccel.search.evidence import Curve
from autoaccel.search.explain import MOST, knob_effects
from autoaccel.search.models import Models
from autoaccel.search.setting import Setting
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space

SPACE = Space(
    "test",
    (
        Knob(path="lr", low=1e-4, high=1.0, log=True),
        Knob(path="decay", low=1e-6, high=1e-1, log=True),
        Knob(path="batch", low=16, high=512, log=True, integer=True),
        Knob(path="optim", choices=("adamw", "sgd")),
        Knob(path="momentum", low=0.0, high=0.99, when={"optim": "sgd"}),
    ),
)
SETTING = Setting(
    space=SPACE,
    horizon=Knob(path="horizon", low=10, high=1e5, log=True),
    unit=1000.0,
    default={"lr": 1e-3, "decay": 1e-4, "batch": 64, "optim": "sgd", "momentum": 0.9},
    recipes=(),
    seconds=lambda p, h: h * (1 + 64 / p["batch"]) / 1000,
)


def evidence(n: int) -> list[Curve]:
    """The learning rate matters a lot, the batch through its seconds alone, decay and momentum not at all."""
    models, rng = Models(SETTING), np.random.default_rng(0)
    found = []
    for point in models.encoding.params(models.encoding.anywhere(rng, n)):
        horizon = float(10 ** rng.uniform(2, 3.5))
        samples = (horizon / 2, horizon)
        base = -0.35 * math.log(point["lr"] / 0.1) ** 2 / 4 + rng.normal(0, 0.03)
        margins = tuple(base + 0.5 * math.log(s / 800) for s in samples)
        outcome = "hit" if margins[-1] >= 0 else "missed"
        found.append(Curve(point, horizon, samples, margins, SETTING.seconds(point, horizon), outcome))
    return found


def test_the_knob_that_matters_is_named_and_the_others_bought_nothing() -> None:
    tuned = {"lr": 0.1, "decay": 1e-2, "batch": 256, "optim": "sgd", "momentum": 0.5}
    effects = {e.path: e for e in knob_effects(SETTING, Models(SETTING), evidence(80), tuned=tuned, horizon=900.0)}
    assert set(effects) == {"lr", "decay", "batch", "momentum"}  # the optimizer is the default's
    assert effects["lr"].low > 1.5 and effects["lr"].is_known
    assert effects["batch"].is_known and 1.2 < effects["batch"].ratio < 2.2  # 2 against 1.25 milliseconds a sample
    assert not effects["decay"].is_known and not effects["momentum"].is_known
    for effect in effects.values():
        assert 1 / MOST <= effect.low <= effect.ratio <= effect.high <= MOST


def test_the_same_evidence_gives_the_same_effects() -> None:
    tuned = {"lr": 0.1, "decay": 1e-2, "batch": 64, "optim": "adamw"}
    seen = evidence(30)
    first = knob_effects(SETTING, Models(SETTING), seen, tuned=tuned, horizon=900.0)
    assert first == knob_effects(SETTING, Models(SETTING), seen, tuned=tuned, horizon=900.0)
    assert {e.path for e in first} == {"lr", "decay", "optim"}


def test_a_knob_that_exists_only_with_another_one_is_part_of_its_effect() -> None:
    """Momentum came with the optimizer: the default, which has none, says nothing of it."""
    plain = replace(SETTING, default={"lr": 1e-3, "decay": 1e-4, "batch": 64, "optim": "adamw"})
    tuned = {"lr": 0.1, "decay": 1e-4, "batch": 64, "optim": "sgd", "momentum": 0.5}
    found = knob_effects(plain, Models(plain), evidence(30), tuned=tuned, horizon=900.0)
    assert {e.path for e in found} == {"lr", "optim"}
