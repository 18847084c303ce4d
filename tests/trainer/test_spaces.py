"""Every point of every shipped search space is a config that builds and trains, whatever its optimizer and options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.search.encoding import Encoding
from autoaccel.search.prepare import _without
from autoaccel.space.files import folder, load_space
from autoaccel.space.space import Space
from autoaccel.trainer.applicability import unavailable
from autoaccel.trainer.parts import LoadedTask
from tests.kits.toys import LENGTH, Pixels, Words, photos

SHIPPED = sorted(path.stem for path in folder().glob("*.toml"))
MOST = 96
"""Samples of the toy task."""


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def points(space: Space, n: int) -> list[dict[str, Any]]:
    encoding = Encoding(space)
    return encoding.params(encoding.anywhere(np.random.default_rng(0), n))


def usable(name: str, loaded: LoadedTask) -> Space:
    """A space without what the toy task cannot use."""
    space = load_space(name).in_samples(MOST).narrow("batch.size", 1, MOST)
    for row in unavailable(loaded, loaded.task.model()):
        space = _without(space, row)
    if "parallel.strategy" in space.paths:  # execution/test_group.py trains with several processes
        space = space.fix({"parallel.strategy": "none"}, "tests of this file train in one process")
    return space


@pytest.mark.parametrize("name", SHIPPED)
def test_every_point_is_a_valid_config(name: str) -> None:
    """Also those that this machine cannot train: no two settings of a point exclude each other."""
    space = load_space(name).in_samples(5000)
    for point in points(space, 500):
        with_params(TrainerConfig(), point)
        assert space.project(point) == point


TOKENS = torch.arange(MOST * LENGTH).reshape(MOST, LENGTH) % 7
TOYS: dict[str, dict[str, Any]] = {
    "table": {"model": net},
    "images": {"model": Pixels, "train": photos(MOST, 1), "validation": photos(30, 2)},
    "text": {"model": lambda: Words([]), "train": (TOKENS, TOKENS), "validation": (TOKENS[:8], TOKENS[:8])},
}


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("n", [20, pytest.param(200, marks=pytest.mark.full)])
def test_every_point_trains_two_steps(
    run: Callable[..., Any],
    load: Callable[..., LoadedTask],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    n: int,
) -> None:
    """Without compiling, which takes longer than all the rest; test_compile.py compiles for real."""
    monkeypatch.setattr("autoaccel.trainer.build.compile_model", lambda model, mode: lambda: None)
    loaded = load(**TOYS[kind])
    for point in points(usable(name, loaded), n):
        short = {"horizon.samples": 2 * point["batch.size"], "evaluate.every_samples": point["batch.size"]}
        done = run({**point, **short}, loaded)
        assert done.ended.outcome == "finished" and done.ended.steps >= 2, (point, done.ended.message)


def test_each_kind_of_task_has_its_own_knobs(load: Callable[..., LoadedTask]) -> None:
    image, text = set(usable("image", load(**TOYS["images"])).paths), set(usable("text", load(**TOYS["text"])).paths)
    assert {"augment.flip", "augment.policy", "augment.mixup", "curriculum.resolution"} <= image
    assert "curriculum.sequence" in text and not any(path.startswith("augment") for path in text)


def test_the_survey_offers_every_optimizer_schedule_and_average() -> None:
    from typing import get_args, get_type_hints

    from autoaccel import sections

    space = load_space("survey")
    for section, path in ((sections.Optim, "optim"), (sections.Schedule, "schedule"), (sections.Average, "average")):
        offered = {c for k in space.knobs if k.path == f"{path}.name" for c in k.choices}
        assert offered == set(get_args(get_type_hints(section)["name"]))


def test_the_survey_holds_what_minimal_holds() -> None:
    survey, minimal = load_space("survey"), load_space("minimal")
    assert set(minimal.paths) <= set(survey.paths)
    assert {r.name for r in minimal.recipes} <= {r.name for r in survey.recipes}
