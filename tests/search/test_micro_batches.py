"""Where memory does not suffice micro-batches are split, and what cannot be split or has failed is not tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from autoaccel.budget import parse_budget
from autoaccel.config import TrainerConfig, to_params, with_params
from autoaccel.cost.memory import READS, Line, PeakMemory
from autoaccel.search.inherited import curve_of_past
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.micro_batches import largest_fitting, largest_micro, memory_variants
from autoaccel.search.policy import next_trial
from autoaccel.search.question import Left, Question, config_at, fits
from autoaccel.search.translate import point_of, setting_of
from autoaccel.space.files import load_space
from autoaccel.space.space import Space
from autoaccel.store.library import PastTraining
from autoaccel.trial import Ended, Report, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, N_TRAIN, question

TIGHT = PeakMemory(lines={("fp32", "none"): Line(0.0, 1.0, 10_000)}, limit=110.5)
"""A byte a sample: 100 of them fit with their margin."""


def asked(memory: PeakMemory = TIGHT, **fix: Any) -> Question:
    plain = question(parse_budget("60s"))
    space = plain.space.fix({path.replace("__", "."): value for path, value in fix.items()}, "pinned")
    return replace(plain, space=space, cost=replace(plain.cost, memory=memory), baseline=small())


def small() -> TrainerConfig:
    return with_params(BASELINE, {"batch.size": 64})


def batch(q: Question, size: int, accumulation: int = 1) -> tuple[int, int]:
    """Pieces, and samples of the largest, of a point's config."""
    made = config_at(q, {"batch.size": size, "batch.accumulation": accumulation}).batch
    assert made.size == size
    return made.accumulation, made.micro


# ------------------------------------------------------------------------------------------------------------ splitting


def test_a_micro_batch_that_fits_is_left_alone() -> None:
    assert batch(asked(), 100) == (1, 100) and batch(asked(), 190, 2) == (2, 95)
    assert batch(asked(PeakMemory()), 1000) == (1, 1000), "where nothing is known all is as it was"


def test_one_that_does_not_is_split_into_the_fastest_that_does() -> None:
    assert batch(asked(), 1000) == (16, 63), "64 are the fastest measured that fit"
    assert batch(asked(), 1000, 2) == (16, 63)
    assert batch(asked(replace(TIGHT, limit=11.0)), 64) == (7, 10), "none of the measured ones fits"


def test_evaluations_of_a_split_are_in_batches_no_larger_than_its_micro_batches() -> None:
    assert config_at(asked(), {"batch.size": 1000}).evaluate.batch == 64
    assert config_at(asked(), {"batch.size": 100}).evaluate.batch == 256
    evaluated = replace(TIGHT, evaluation_bytes=200.0, evaluation_samples=256)
    small_steps = config_at(asked(evaluated), {"batch.size": 16})
    assert (small_steps.batch.accumulation, small_steps.evaluate.batch) == (1, 64), "that alone did not fit"
    pinned = asked(evaluated, batch__accumulation=1)
    assert config_at(pinned, {"batch.size": 90}).evaluate.batch == 90
    assert fits(pinned, config_at(pinned, {"batch.size": 90}))


def test_pinned_accumulation_stays_and_the_point_is_impossible() -> None:
    pinned = asked(batch__accumulation=2)
    config = config_at(pinned, {"batch.size": 400, "batch.accumulation": 2})
    assert config.batch.accumulation == 2 and not fits(pinned, config)
    possible = setting_of(pinned).possible
    assert not possible({"batch.size": 400}) and possible({"batch.size": 200})


def test_what_no_split_makes_fit_is_impossible() -> None:
    heavy = replace(TIGHT, lines={("fp32", "none"): Line(200.0, 1.0, 64)})
    possible = setting_of(asked(heavy)).possible
    assert not possible({"batch.size": 16})
    averaged = replace(TIGHT, trainable_bytes=30.0)
    q = replace(asked(averaged), baseline=with_params(small(), {"average.name": "lawa"}))
    assert not setting_of(q).possible({"batch.size": 16}) and setting_of(asked(averaged)).possible({"batch.size": 1000})


def test_a_split_is_priced_as_it_is_run() -> None:
    seconds = setting_of(asked()).seconds
    free, split = setting_of(asked(PeakMemory())).seconds, seconds({"batch.size": 1000}, 5000)
    assert split == pytest.approx(free({"batch.size": 1000, "batch.accumulation": 16}, 5000))
    assert split > 1.2 * free({"batch.size": 1000}, 5000)
    assert seconds({"batch.size": 1000, "optim.name": "sgd"}, 5000) != split
    assert "batch.accumulation" in READS


def test_a_split_training_is_read_back_as_its_point() -> None:
    q = asked()
    setting = setting_of(q)
    config = config_at(q, {"batch.size": 1000, "batch.accumulation": 1})
    assert config.batch.accumulation == 16
    point = point_of(setting.space, to_params(config))
    assert point["batch.accumulation"] == 1 and config_at(q, point).batch == config.batch


def test_the_past_of_a_larger_machine_is_still_evidence() -> None:
    q = asked()
    params = to_params(with_params(small(), {"batch.size": 500, "horizon.samples": 3000, "optim.lr": 0.01}))
    params |= {"optim.weight_decay": 1e-5, "schedule.name": "linear", "schedule.warmup": 0.1}
    past = PastTraining("study", "race", params, (3000,), (0.9,), "hit", 1.0)
    found = curve_of_past(q, setting_of(q), past)
    assert found is not None and found.params["batch.size"] == 500
    pinned = asked(batch__accumulation=1)
    assert curve_of_past(pinned, setting_of(pinned), past) is None, "it cannot be repeated here"
    split = {**params, "batch.accumulation": 8, "evaluate.batch": 63}
    for here in (q, asked(PeakMemory())):
        again = curve_of_past(here, setting_of(here), replace(past, params=split))
        assert again is not None and again.params == found.params, "and so is that of a smaller one"


# ----------------------------------------------------------------------------------------------- the trials of a search


def record(number: int, config: TrainerConfig, outcome: str = "missed", purpose: str = "first") -> TrialRecord:
    seen = (Report(number, 1.0, 1000, 10, 0.0, 0.5, 1.0),) if outcome != "oom" else ()
    bet = {"rate": 0.0, "goal": 0.0, "gain": 0.0, "reference_s": None, "against": None}
    return TrialRecord(TrialSpec(number, purpose, config, bet=bet), seen, Ended(number, outcome, 1.0, value=0.5))


def trials(q: Question, n: int, ends: Sequence[str] = ()) -> list[TrainerConfig]:
    """Configs of the next so many trials, of which the first end as `ends` say and the others miss."""
    knowledge, done = Knowledge(q), [record(1, q.baseline, purpose="baseline")]
    found = []
    for index in range(n):
        spec = next_trial(knowledge, done, Left(60.0, math.inf, 0.9)).spec
        assert spec is not None and spec.config is not None
        found.append(spec.config)
        ended = record(spec.trial, spec.config, ends[index] if index < len(ends) else "missed", spec.purpose)
        done.append(replace(ended, spec=spec))
    return found


def test_nothing_is_tried_that_is_predicted_not_to_fit() -> None:
    q = asked()
    large = replace(q, space=q.space.narrow("batch.size", 200, 1000))
    for tried in (trials(q, 12), trials(large, 12)):
        assert all(fits(q, config) for config in tried)
    assert all(c.batch.size >= 200 and c.batch.accumulation >= 2 for c in tried), "in pieces"
    pinned = asked(batch__accumulation=1)
    assert all(c.batch.size <= 100 for c in trials(pinned, 12))


@pytest.mark.parametrize("memory", [replace(TIGHT, limit=1e9), PeakMemory()], ids=["measured", "not measured"])
def test_what_ran_out_of_memory_is_not_repeated(memory: PeakMemory) -> None:
    baseline_16 = with_params(BASELINE, {"batch.size": 16})
    tried = trials(replace(asked(memory), baseline=baseline_16), 10, ends=["oom"])
    assert tried[0].batch.micro == 64, "a rule of thumb"
    assert all(c.batch.micro < 64 for c in tried[1:]) and any(c.batch.size >= 64 for c in tried[1:])


def test_a_failure_that_would_forbid_the_default_forbids_nothing() -> None:
    pinned = asked(PeakMemory(), batch__accumulation=1, batch__size=64)
    tried = trials(pinned, 3, ends=["oom", "oom"])
    assert [c.batch.micro for c in tried] == [64, 64, 64]


# -------------------------------------------------------------------------------------------------------- of a space


@pytest.mark.parametrize(
    ("fix", "n_train", "expected"),
    [
        ({}, 10_000, 1024),
        ({}, 500, 500),
        ({"batch.accumulation": 4}, 10_000, 256),
        ({"batch.size": 100}, 10_000, 100),
        ({"batch.size": 100, "batch.accumulation": 3}, 10_000, 34),
    ],
)
def test_the_largest_micro_batch_of_a_space(fix: dict[str, Any], n_train: int, expected: int) -> None:
    assert largest_micro(load_space("minimal").fix(fix, "pinned"), BASELINE, n_train) == expected


def test_a_space_without_a_batch_has_the_baselines() -> None:
    baseline = with_params(BASELINE, {"batch.size": 96, "batch.accumulation": 2})
    assert largest_micro(Space("none", ()), baseline, N_TRAIN) == 48


def test_what_changes_the_memory_of_a_sample_is_measured_beside_the_baseline() -> None:
    task: dict[str, Any] = {"unavailable": []}
    survey = load_space("survey")
    found = memory_variants(survey, task, BASELINE)
    assert {path: [v[path] for v in found if path in v] for path in ("precision.dtype", "memory.checkpointing")} == {
        "precision.dtype": ["bf16", "float8", "fp16"],
        "memory.checkpointing": ["full", "selective"],
    }
    gone = [
        {"path": "precision.dtype", "off": "fp32", "values": ["float8", "fp16"], "reason": ""},
        {"path": "memory.checkpointing", "off": "none", "values": None, "reason": "no blocks"},
    ]
    assert memory_variants(survey, {"unavailable": gone}, BASELINE) == [{"precision.dtype": "bf16"}]
    assert memory_variants(survey.fix({"precision.dtype": "fp32"}, "pinned"), {"unavailable": gone}, BASELINE) == []
    assert memory_variants(Space("none", ()), task, BASELINE) == []


def test_the_largest_that_fits_is_named_where_memory_matters() -> None:
    assert largest_fitting(TIGHT, small(), 1024) == 100
    assert largest_fitting(TIGHT, small(), 90) is None
    assert largest_fitting(PeakMemory(), small(), 1024) is None
