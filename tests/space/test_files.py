"""Search space files: the shipped ones are sound, and every mistake is named with file, knob and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoaccel.config import TrainerConfig, to_params, with_params
from autoaccel.errors import UsageError
from autoaccel.space.files import folder, load_space

SHIPPED = sorted(path.stem for path in folder().glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_spaces_name_fields_and_make_valid_configs(name: str) -> None:
    space = load_space(name)
    assert set(space.paths) <= to_params(TrainerConfig()).keys()
    assert space.name == name and load_space(str(folder() / f"{name}.toml")) == space
    for recipe in space.recipes:
        assert recipe.source
        with_params(TrainerConfig(), recipe.params)
        assert recipe.params.keys() <= set(space.paths)
        point = space.in_samples(5000).project(recipe.params)
        assert {p: point[p] for p in recipe.params} == recipe.params, "a recipe lies outside its own space"


ALIKE = (
    *("batch.accumulation", "precision.dtype", "precision.matmul", "memory.format", "optim.name", "optim.kernel"),
    *("optim.lr_scaling", "optim.sam_every", "schedule.name", "system.threads", "system.cudnn_benchmark"),
    *("system.attention", "loader.prefetch", "loader.pin", "model.drop_path_ramp"),
)
"""Choices of which none is the one without a technique, or that cost nothing to try."""


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in ("minimal", "devices")])
def test_techniques_are_unlikely_until_something_is_known(name: str) -> None:
    """A random point has a few of them, not half of all."""
    default = to_params(TrainerConfig())
    techniques = [k for k in load_space(name).knobs if len(k.choices) > 1 and k.path not in ALIKE]
    assert len(techniques) >= 4
    for knob in techniques:
        assert knob.choices[0] == default[knob.path] and knob.prior and knob.prior[0] >= 0.7, knob.name
        assert sum(knob.prior) == pytest.approx(1.0, abs=0.01)


def test_minimal_searches_what_the_first_issue_names() -> None:
    assert set(load_space("minimal").paths) >= {
        "batch.size",
        "batch.accumulation",
        "precision.dtype",
        "optim.lr",
        "schedule.name",
        "schedule.warmup",
        "optim.weight_decay",
        "data.sampling",
        "horizon.samples",
    }


GOOD = '[[knob]]\npath = "batch.size"\nlow = 16\nhigh = 64\n'
RECIPE = '[[recipe]]\nname = "r"\nsource = "s"\nparams = {}\n'


@pytest.mark.parametrize(
    ("text", "where", "what", "fix"),
    [
        ("", "", "no [[knob]]", "at least one knob"),
        ("[[knob]\n", "", "Expected ']]'", "Fix the TOML syntax"),
        ("knobs = 1\n", "", "unknown key 'knobs'", "Did you mean 'knob'?"),
        ("knob = 3\n", "", "knob 3 is not a list", "Change the value's type"),
        ('[knob]\npath = "batch.size"\n', "", "knob {'path': 'batch.size'} is not a list", "type"),
        ("knob = [3]\n", "knob None: ", "unknown setting", "batch.accumulation"),
        ("[[knob]]\nlow = 1\n", "knob None: ", "unknown setting", "Allowed:"),
        ('[[knob]]\npath = ["batch.size"]\n', "knob ['batch.size']: ", "unknown setting", "Did you mean"),
        ('[[knob]]\npath = "optim.rl"\n', "knob 'optim.rl': ", "unknown setting", "Did you mean 'optim.lr'?"),
        ('[[knob]]\npath = "optim.lr"\nlo = 1\n', "knob 'optim.lr': ", "unknown key 'lo'", "Did you mean 'low'?"),
        ('[[knob]]\npath = "optim.lr"\n', "knob 'optim.lr': ", "either choices, or low and high", "one of the two"),
        ('[[knob]]\npath = "optim.lr"\nlow = 1\n', "knob 'optim.lr': ", "either choices, or low and high", "two"),
        (
            '[[knob]]\npath = "optim.lr"\nlow = 1\nhigh = 2\nprior = ["a"]\n',
            "knob 'optim.lr': ",
            "'a' is not a number",
            "",
        ),
        ('[[knob]]\npath = "optim.lr"\nlow = 1\nhigh = 2\nprior = [3, 4]\n', "knob 'optim.lr': ", "no part of", "Give"),
        ('[[knob]]\npath = "optim.lr"\nchoices = []\n', "knob 'optim.lr': ", "either choices, or low and high", "two"),
        ('[[knob]]\npath = "optim.lr"\nchoices = [1.0]\nlow = 1\n', "knob 'optim.lr': ", "either choices", "two"),
        ('[[knob]]\npath = "optim.lr"\nlow = "a"\nhigh = 1\n', "knob 'optim.lr': ", "low 'a' is not a number", "type"),
        (
            '[[knob]]\npath = "optim.lr"\nlow = true\nhigh = 1\n',
            "knob 'optim.lr': ",
            "low True is not a number",
            "type",
        ),
        (
            '[[knob]]\npath = "optim.lr"\nlow = 1.0\nhigh = 0.1\n',
            "knob 'optim.lr': ",
            "low 1 is above high 0.1",
            "Swap",
        ),
        (
            '[[knob]]\npath = "optim.weight_decay"\nlow = 0.0\nhigh = 0.1\nlog = true\n',
            "knob 'optim.weight_decay': ",
            "a log range cannot start at 0",
            "Start above zero",
        ),
        ('[[knob]]\npath = "optim.lr"\nlow = -1.0\nhigh = 0.1\n', "knob 'optim.lr': ", "-1.0 is not a finite", "Set"),
        (
            '[[knob]]\npath = "schedule.warmup"\nlow = 0.0\nhigh = 2.0\n',
            "knob 'schedule.warmup': ",
            "2.0 is not",
            "Set",
        ),
        (
            '[[knob]]\npath = "batch.size"\nlow = 16.5\nhigh = 64\n',
            "knob 'batch.size': ",
            "expected a whole number",
            "type",
        ),
        (
            '[[knob]]\npath = "optim.name"\nlow = 1\nhigh = 2\n',
            "knob 'optim.name': ",
            "'schedule_free_sgd'",
            "adamw",
        ),
        (
            '[[knob]]\npath = "optim.name"\nchoices = ["adamww"]\n',
            "knob 'optim.name': ",
            "'schedule_free_sgd'",
            "adamw",
        ),
        (
            '[[knob]]\npath = "optim.name"\nchoices = "sgd"\n',
            "knob 'optim.name': ",
            "choices 'sgd' is not a list",
            "type",
        ),
        (GOOD.replace("64", '64\nunit = "steps"'), "knob 'batch.size': ", "unit 'steps'", "'epochs'"),
        (
            '[[knob]]\npath = "optim.lr"\nlow = 1\nhigh = 2\nunit = "epochs"\n',
            "knob 'optim.lr': ",
            "unit 'epochs'",
            "range",
        ),
        (GOOD + GOOD, "", "knob 'batch.size' twice", "its own `when`"),
        (
            GOOD + '[[knob]]\npath = "optim.lr"\nlow = 1\nhigh = 2\nwhen = { "optim.name" = "sgd" }\n',
            "knob 'optim.lr': ",
            "needs 'optim.name' to be 'sgd', which it never is",
            "Put a knob 'optim.name' with choices above it",
        ),
        (
            '[[knob]]\npath = "optim.name"\nchoices = ["adamw"]\n'
            '[[knob]]\npath = "optim.lr"\nlow = 1\nhigh = 2\nwhen = { "optim.name" = "sgd" }\n',
            "knob 'optim.lr': ",
            "which it never is",
            "It has ['adamw']",
        ),
        (
            '[[knob]]\npath = "optim.name"\nchoices = ["adamw"]\n'
            '[[knob]]\npath = "optim.lr"\nlow = 1\nhigh = 2\nwhen = { "optim.name" = ["adamw", "sgd"] }\n',
            "knob 'optim.lr': ",
            "needs 'optim.name' to be 'sgd', which it never is",
            "It has ['adamw']",
        ),
        (
            '[[knob]]\npath = "optim.name"\nchoices = ["adamw"]\n'
            '[[knob]]\npath = "optim.lr"\nlow = 1\nhigh = 2\nwhen = { "optim.name" = [] }\n',
            "knob 'optim.lr': ",
            "no value of 'optim.name' in its condition",
            "Name at least one",
        ),
        (GOOD + "recipe = 1\n", "knob 'batch.size': ", "unknown key 'recipe'", "Allowed"),
        ("recipe = 1\n" + GOOD, "", "recipe 1 is not a list", "type"),
        (GOOD + '[[recipe]]\nname = "r"\n', "recipe 'r': ", "missing source, params", "Add them"),
        (GOOD + RECIPE.replace('"s"', "1"), "recipe 'r': ", "source 1 is not", "type"),
        (GOOD + RECIPE.replace("{}", '{ "optim.rl" = 1 }'), "recipe 'r': ", "unknown setting 'optim.rl'", "optim.lr"),
        (
            GOOD + RECIPE.replace("{}", '{ "optim.lr" = "x" }'),
            "recipe 'r': ",
            "optim.lr: expected a number",
            "type",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, where: str, what: str, fix: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_space(str(path))
    assert caught.value.message.startswith(f"space mine.toml: {where}"), caught.value.message
    assert what in caught.value.message
    assert fix in caught.value.hint


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"space mine.toml: 'utf-8' codec"):
        load_space(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("name", "hint"), [("minimall", "Did you mean 'minimal'?"), ("no/such.toml", "Or give"), ("", "Or")]
)
def test_an_unknown_space_is_named(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match="unknown search space") as caught:
        load_space(name)
    assert hint in caught.value.hint


def test_a_knob_may_need_its_condition_to_be_valid(tmp_path: Path) -> None:
    """A ramp without a strength is refused, whatever its own range."""
    strength = '[[knob]]\npath = "model.drop_path"\nchoices = [-1.0, 0.2]\n'
    ramp = '[[knob]]\npath = "model.drop_path_ramp"\nchoices = [0.0, 0.5]\n'
    path = tmp_path / "space.toml"
    path.write_text(strength + ramp + 'when = { "model.drop_path" = 0.2 }\n')
    assert load_space(str(path)).paths == ("model.drop_path", "model.drop_path_ramp")
    path.write_text(strength + ramp)
    with pytest.raises(UsageError, match="nothing to ramp"):
        load_space(str(path))
