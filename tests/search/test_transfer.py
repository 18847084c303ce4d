"""What a re-tuning takes over: an answer as its baseline, trainings as this machine would have had them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel.budget import Budget
from autoaccel.config import Params, TrainerConfig, from_dict, to_dict, to_params, with_params
from autoaccel.cost.step_cost import StepCost
from autoaccel.errors import UsageError
from autoaccel.search.inherited import past_curves
from autoaccel.search.question import LONGEST
from autoaccel.search.transfer import SECONDS_ALONE, as_here, baseline_of, known_past, settled, usable
from autoaccel.search.translate import setting_of
from autoaccel.space.files import load_space
from autoaccel.store.library import Past, PastTraining
from autoaccel.store.lineage import lineage
from autoaccel.store.run import RESULT, read_json, write_json
from tests.kits.finished import TASK, finished_run
from tests.simulated.problems import BASELINE, COST, N_TRAIN, question

SURVEY = load_space("survey").in_samples(N_TRAIN)
ASKED = question(Budget(seconds=14.0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "run")


def test_the_settings_that_move_are_settings() -> None:
    known = to_params(TrainerConfig())
    assert set(SECONDS_ALONE) <= known.keys()


# ------------------------------------------------------------------------------------------------------- the baseline


def test_the_baseline_is_the_recipe_or_the_latest_answer(run: Path) -> None:
    assert baseline_of(None, TASK) == BASELINE
    answer = baseline_of(str(run), TASK)
    assert answer == lineage(run)[-1].config != BASELINE


def test_an_answer_that_never_hit_is_no_baseline(run: Path, tmp_path: Path) -> None:
    missed = finished_run(tmp_path / "missed", budget_s=4.0)
    write_json(missed / RESULT, {**(read_json(missed / RESULT) or {}), "hits": 0})
    assert baseline_of(str(missed), TASK) == BASELINE


def test_another_task_is_not_tuned_again(run: Path) -> None:
    with pytest.raises(UsageError, match="was tuned for another task: n_train, data_digest changed since then"):
        baseline_of(str(run), {**TASK, "n_train": 7, "data_digest": "other"})
    baseline_of(str(run), {**TASK, "model_digest": "which the run did not know yet"})


@pytest.mark.parametrize(
    ("row", "given", "expected"),
    [
        ({"path": "precision.dtype", "off": "fp32", "values": ["fp16"]}, "fp16", "fp32"),
        ({"path": "precision.dtype", "off": "fp32", "values": ["fp16"]}, "bf16", "bf16"),
        ({"path": "precision.dtype", "off": "fp32", "values": None}, "bf16", "fp32"),
    ],
)
def test_what_this_device_cannot_do_is_left_out(row: dict[str, Any], given: str, expected: str) -> None:
    config = with_params(BASELINE, {"precision.dtype": given})
    assert usable(config, {"unavailable": [row]}).precision.dtype == expected


def test_an_answer_has_what_this_machine_has_decided() -> None:
    config = with_params(BASELINE, {"memory.format": "channels_last", "precision.dtype": "bf16", "optim.lr": 0.02})
    space = SURVEY.fix({"memory.format": "contiguous", "precision.dtype": "fp32"}, "measured")
    assert settled(space, config) == with_params(BASELINE, {"optim.lr": 0.02})
    assert settled(SURVEY, config) == config, "nothing is decided"
    assert settled(load_space("minimal").fix({"optim.lr": 0.3}, "pinned"), config) == config, "what is learned stays"


def test_where_what_was_decided_excludes_what_the_answer_has_it_becomes_plain() -> None:
    config = with_params(BASELINE, {"compile.mode": "default", "memory.budget": 0.5})
    space = SURVEY.fix({"compile.mode": "off"}, "it does not pay")
    space = replace(space, knobs=tuple(k for k in space.knobs if k.path != "memory.budget"))
    assert settled(space, config) == BASELINE


# ------------------------------------------------------------------------------------------------------- trainings


@pytest.mark.parametrize(
    ("pins", "given", "expected"),
    [
        ({}, {"memory.format": "channels_last"}, {"memory.format": "channels_last"}),
        ({"memory.format": "contiguous"}, {"memory.format": "channels_last"}, {"memory.format": "contiguous"}),
        ({"precision.dtype": "fp32"}, {"precision.dtype": "bf16"}, {"precision.dtype": "fp32"}),
        ({}, {"optim.lr": 99.0}, {"optim.lr": 99.0}),
    ],
)
def test_settings_that_move_are_as_they_are_here(pins: Params, given: Params, expected: Params) -> None:
    otherwise = to_params(BASELINE)
    found = as_here(SURVEY.fix(pins, "decided"), otherwise, {**otherwise, **given})
    assert {path: found[path] for path in expected} == expected


def test_what_the_space_does_not_have_is_as_in_the_baseline() -> None:
    """An earlier study may have searched threads; this one has them as its baseline does."""
    space, otherwise = load_space("minimal"), to_params(BASELINE)
    space = replace(space, knobs=tuple(k for k in space.knobs if k.path != "system.threads"))
    found = as_here(space, otherwise, {**otherwise, "system.threads": 8, "regularize.dropout": 0.2})
    assert found == {**otherwise, "regularize.dropout": 0.2}, "dropout is learned with, and stays"


def test_trainings_of_another_machine_are_known_with_the_seconds_of_this_one() -> None:
    params = {**to_params(BASELINE), "memory.format": "channels_last", "precision.dtype": "bf16"}
    there = PastTraining("a", "race", params, (5000,), (0.9,), "hit", 99.0)
    asked = replace(ASKED, past=Past((there,), 1))
    found = past_curves(asked, setting_of(asked))
    assert len(found) == 1 and found[0].hit
    assert found[0].seconds == pytest.approx(setting_of(asked).seconds(found[0].params, 5000.0))


def test_a_lineage_and_the_library_are_one_past(run: Path, tmp_path: Path) -> None:
    alone = known_past(str(run), TASK, use_library=False)
    assert alone.trainings and alone.generation == 1
    assert known_past(str(run), TASK, use_library=True) == alone, "the library is empty"
    assert known_past(None, TASK, use_library=False) == Past()


# ----------------------------------------------------------------------------------------------------------- seconds


def test_a_short_answer_as_baseline_does_not_make_long_trainings_free() -> None:
    """516 samples are one step of a batch of 400: what more steps cost cannot be read from them."""
    cost = StepCost({"fp32": ((16, 0.0015), (1024, 0.004))}, COST.optimizer, {"fp32": 0.004}, 1e6, 2e8)
    short = replace(BASELINE, horizon=replace(BASELINE.horizon, samples=516))
    plain, asked = replace(ASKED, cost=cost), replace(ASKED, cost=cost, baseline=short)
    assert plain.full_samples == asked.full_samples == BASELINE.horizon.samples
    long = LONGEST * BASELINE.horizon.samples
    for size in (16, 400):
        point = {**setting_of(plain).default, "batch.size": size}
        seconds = [setting_of(q).seconds(point, long) for q in (plain, asked)]
        assert seconds[0] == pytest.approx(seconds[1])
        assert seconds[0] > 100 * cost.predict(with_params(short, {"batch.size": 400})).step_s


def test_a_recipe_keeps_its_own_length() -> None:
    assert (
        replace(ASKED, space=load_space("minimal").fix({"horizon.samples": 7}, "pinned")).full_samples == 15 * N_TRAIN
    )
    assert from_dict(to_dict(BASELINE)) == BASELINE
