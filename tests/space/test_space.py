"""Points of a space: always inside, always a valid config; and what is decided without searching."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.config import Params, TrainerConfig, to_params, with_params
from autoaccel.errors import UsageError
from autoaccel.space.files import load_space
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Recipe, Space

N_TRAIN = 1077
MINIMAL = load_space("minimal")
SPACE = MINIMAL.in_samples(N_TRAIN).narrow("batch.size", 1, N_TRAIN)
quick = settings(deadline=None, max_examples=200)

SMALL = Space(
    "small",
    (
        Knob(path="optim.name", choices=("adamw", "sgd")),
        Knob(path="optim.lr", low=1e-4, high=1e-1, log=True, when={"optim.name": "adamw"}),
        Knob(path="optim.lr", low=1e-2, high=1.0, log=True, when={"optim.name": "sgd"}),
        Knob(path="batch.size", low=16, high=512, log=True, integer=True),
    ),
    (
        Recipe("a", "x", {"optim.name": "adamw", "optim.lr": 0.01}),
        Recipe("s", "x", {"optim.name": "sgd", "optim.lr": 0.1}),
    ),
)


def wild_points() -> st.SearchStrategy[Params]:
    """Settings of any kind for the paths of the space, most of them outside."""
    values: dict[str, st.SearchStrategy[Any]] = {}
    for path, value in to_params(TrainerConfig()).items():
        if path not in SPACE.paths:
            continue
        if isinstance(value, str):
            values[path] = st.sampled_from(
                ["adamw", "sgd", "linear", "cosine", "constant", "fp32", "bf16", "uniform", "x"]
            )
        elif isinstance(value, int):
            values[path] = st.integers(-5, 10**7)
        else:
            values[path] = st.floats(-1, 1e6, allow_nan=False)
    return st.fixed_dictionaries({}, optional=values)


def assert_inside(space: Space, point: Params) -> None:
    for knob in space.active(point):
        if knob.is_numeric:
            assert knob.low <= point[knob.path] <= knob.high
            assert not knob.integer or isinstance(point[knob.path], int)
        else:
            assert point[knob.path] in knob.choices


@quick
@given(point=wild_points())
def test_a_projected_point_is_inside_valid_and_stays_where_it_is(point: Params) -> None:
    projected = SPACE.project(point)
    assert_inside(SPACE, projected)
    assert SPACE.project(projected) == projected
    with_params(TrainerConfig(), {**projected, "batch.accumulation": 1})


@quick
@given(share=st.floats(0, 1), log=st.booleans(), integer=st.booleans())
def test_a_knob_goes_to_the_unit_scale_and_back(share: float, log: bool, integer: bool) -> None:
    knob = Knob(path="x", low=2, high=2000, log=log, integer=integer)
    value = knob.from_unit(share)
    assert knob.low <= value <= knob.high
    assert knob.from_unit(knob.to_unit(value)) == pytest.approx(value)
    assert knob.clip(knob.from_unit(-1)) == 2 and knob.clip(knob.from_unit(2)) == 2000


def test_a_knob_of_one_value_is_in_the_middle_of_its_scale() -> None:
    assert Knob(path="x", low=3, high=3).to_unit(3) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 2, "high": 1}, "low 2 is above high 1"),
        ({"low": 0, "high": math.inf}, "above high inf"),
        ({"low": math.nan, "high": 1}, "low nan is above"),
        ({"low": 0, "high": 1, "log": True}, "a log range cannot start at 0"),
        ({"low": 1, "high": 9, "prior": (0.5, 4)}, "no part of the range 1 to 9"),
        ({"low": 1, "high": 9, "prior": (4, 4)}, "no part of the range"),
        ({"low": 1, "high": 9, "prior": (4,)}, "no part of the range"),
        ({"choices": ("a", "b"), "prior": (1.0,)}, "not 2 weights above zero"),
        ({"choices": ("a", "b"), "prior": (1.0, 0.0)}, "not 2 weights above zero"),
    ],
)
def test_an_impossible_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Knob(path="x", **settings)


def test_conditions_choose_the_active_knobs() -> None:
    assert [k.name for k in SMALL.active({"optim.name": "sgd"})] == ["optim.name", "optim.lr[sgd]", "batch.size"]
    assert SMALL.paths == ("optim.name", "optim.lr", "batch.size")
    assert SMALL.project({"optim.name": "sgd", "optim.lr": 1e-4, "batch.size": 1e9}) == {
        "optim.name": "sgd",
        "optim.lr": 1e-2,
        "batch.size": 512,
    }
    assert SMALL.project({}) == {"optim.name": "adamw", "optim.lr": 1e-4, "batch.size": 16}


def test_a_fixed_knob_is_not_searched_and_takes_what_contradicts_it_along() -> None:
    fixed = SMALL.fix({"optim.name": "sgd"}, "pinned by --fix")
    assert [k.name for k in fixed.knobs] == ["optim.lr[sgd]", "batch.size"]
    assert [r.name for r in fixed.recipes] == ["s"]
    assert fixed.reasons == {"optim.name": "pinned by --fix"}
    assert fixed.project({"optim.name": "adamw", "optim.lr": 5.0})["optim.name"] == "sgd"
    assert fixed.project({"optim.lr": 5.0})["optim.lr"] == 1.0
    rate = SMALL.fix({"optim.lr": 0.05}, "pinned")
    assert rate.paths == ("optim.name", "batch.size") and len(rate.recipes) == 2


def test_fixing_what_is_no_knob_is_refused() -> None:
    with pytest.raises(UsageError, match=r"space 'small' has no knob 'optim.rl' to fix\n  Did you mean 'optim.lr'?"):
        SMALL.fix({"optim.rl": 1.0}, "pinned")
    again = SMALL.fix({"optim.lr": 0.1}, "pinned").fix({"optim.lr": 0.2}, "pinned")
    assert again.fixed == {"optim.lr": 0.2}


def test_a_choice_is_taken_away_but_never_the_last() -> None:
    left = SMALL.without_choice("optim.name", "sgd", "too slow")
    assert left.fixed == {"optim.name": "adamw"} and left.reasons == {"optim.name": "too slow"}
    assert SMALL.without_choice("optim.name", "lion", "unknown") == SMALL
    single = Space("one", (Knob(path="precision.dtype", choices=("bf16",)),))
    assert single.without_choice("precision.dtype", "bf16", "slow") == single
    three = Space("three", (Knob(path="schedule.name", choices=("linear", "cosine", "constant")),))
    two = three.without_choice("schedule.name", "cosine", "why")
    assert two.knobs[0].choices == ("linear", "constant") and two.reasons == {"schedule.name": "why"}


def test_conditions_name_one_value_or_several() -> None:
    space = Space(
        "several",
        (
            Knob(path="optim.name", choices=("adamw", "sgd", "schedule_free_sgd")),
            Knob(path="schedule.name", choices=("linear", "cosine"), when={"optim.name": ("adamw", "sgd")}),
            Knob(path="schedule.name", choices=("constant",), when={"optim.name": "schedule_free_sgd"}),
        ),
    )
    assert [k.name for k in space.knobs[1:]] == ["schedule.name[adamw/sgd]", "schedule.name[schedule_free_sgd]"]
    point = {"optim.name": "schedule_free_sgd", "schedule.name": "linear"}
    assert space.project(point)["schedule.name"] == "constant"
    assert space.project({"optim.name": "sgd", "schedule.name": "constant"})["schedule.name"] == "linear"
    assert [k.name for k in space.fix({"optim.name": "sgd"}, "x").knobs] == ["schedule.name[adamw/sgd]"]
    left = space.without_choice("schedule.name", "cosine", "why")
    assert left.paths == ("optim.name", "schedule.name"), "two conditions, each with a choice of its own"
    assert left.project({"optim.name": "schedule_free_sgd"})["schedule.name"] == "constant"


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1, 100, (16, 100)), (64, 128, (64, 128)), (1, 8, (8, 8)), (900, 1000, (900, 900))]
)
def test_a_narrowed_range_keeps_a_value(low: float, high: float, expected: tuple[float, float]) -> None:
    knob = SMALL.narrow("batch.size", low, high).knobs[-1]
    assert (knob.low, knob.high) == expected


def test_epochs_become_samples_once() -> None:
    horizon = next(k for k in SPACE.knobs if k.path == "horizon.samples")
    assert (horizon.low, horizon.high, horizon.unit, horizon.integer) == (269, 107_700, "samples", True)
    assert SPACE.in_samples(N_TRAIN) == SPACE
    tiny = next(k for k in MINIMAL.in_samples(1).knobs if k.path == "horizon.samples")
    assert (tiny.low, tiny.high) == (1, 100)


def test_every_reason_for_leaving_out_a_choice_is_kept() -> None:
    space = Space("s", (Knob(path="precision.dtype", choices=("fp32", "bf16", "fp16")),))
    left = space.without_choice("precision.dtype", "bf16", "bf16 is slower").without_choice(
        "precision.dtype", "fp16", "fp16 is slower"
    )
    assert left.fixed == {"precision.dtype": "fp32"}
    assert left.reasons == {"precision.dtype": "bf16 is slower; fp16 is slower"}


# --------------------------------------------------------------------------------------------------------------- priors


def test_without_a_prior_all_values_are_alike() -> None:
    assert [Knob(path="x", choices=("a", "b", "c")).drawn(u) for u in (0.0, 0.33, 0.34, 0.67, 0.999)] == [0, 0, 1, 2, 2]
    assert Knob(path="x", low=1, high=9).drawn(0.3) == 0.3


def test_three_of_four_draws_come_from_the_likely_part_of_a_range() -> None:
    knob = Knob(path="x", low=1e-4, high=1.0, log=True, prior=(1e-3, 1e-2))
    values = [knob.from_unit(knob.drawn((i + 0.5) / 1000)) for i in range(1000)]
    likely = sum(1e-3 <= value <= 1e-2 for value in values)
    assert likely == pytest.approx(750 + 250 / 4, abs=3)
    assert min(values) < 2e-4 and max(values) > 0.8


def test_what_is_cut_off_takes_its_prior_along() -> None:
    space = Space(
        "priors",
        (Knob(path="a", choices=(1, 2, 3), prior=(0.7, 0.2, 0.1)), Knob(path="b", low=1, high=9, prior=(2, 4))),
    )
    left = space.without_choice("a", 1, "why")
    assert left.knobs[0].prior == (0.2, 0.1) and [left.knobs[0].drawn(u) for u in (0.6, 0.7)] == [0, 1]
    assert space.narrow("b", 3, 9).knobs[1].prior == (3, 4)
    assert space.narrow("b", 5, 9).knobs[1].prior == (), "nothing of the likely part is left"
    epochs = Space("e", (Knob(path="horizon.samples", low=0.5, high=10, unit="epochs", prior=(1, 5)),)).in_samples(100)
    assert epochs.knobs[0].prior == (100, 500)
