"""TrainerConfig: one value in four forms (object, nested, by dotted path, file), and what each of them refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.config import (
    ConfigFile,
    TrainerConfig,
    from_dict,
    keras_recipe,
    load_config,
    parse_params,
    read_config_file,
    save_config,
    to_dict,
    to_params,
    with_params,
)
from autoaccel.errors import UsageError
from autoaccel.fingerprint import digest
from autoaccel.sections import KERNELS, Batch, Horizon, Optim

quick = settings(deadline=None, max_examples=200)

params = st.fixed_dictionaries(
    {},
    optional={
        "batch.size": st.integers(64, 10**6),
        "batch.accumulation": st.integers(1, 64),
        "precision.dtype": st.sampled_from(["fp32", "bf16", "fp16", "float8"]),
        "precision.matmul": st.sampled_from(["highest", "high", "medium"]),
        "optim.name": st.sampled_from([name for name in KERNELS if "free" not in name]),
        "optim.lr": st.floats(min_value=1e-8, max_value=1e3),
        "optim.weight_decay": st.floats(min_value=0, max_value=10),
        "optim.momentum": st.floats(min_value=0.01, max_value=0.999),
        "optim.beta2": st.floats(min_value=0.01, max_value=0.9999),
        "optim.clip": st.floats(min_value=0, max_value=100),
        "optim.lr_scaling": st.sampled_from(["none", "linear", "sqrt"]),
        "optim.sam_rho": st.floats(min_value=0, max_value=1),
        "optim.sam_every": st.integers(1, 20),
        "schedule.name": st.sampled_from(["linear", "cosine", "constant", "rex", "one_cycle"]),
        "schedule.warmup": st.floats(min_value=0, max_value=0.9),
        "schedule.cooldown": st.floats(min_value=0.01, max_value=1),
        "batch.ramp": st.floats(min_value=0, max_value=1),
        "augment.flip": st.sampled_from(["none", "random", "alternating"]),
        "augment.translate": st.integers(0, 64),
        "augment.cutout": st.integers(0, 64),
        "augment.policy": st.sampled_from(["none", "trivial", "rand"]),
        "augment.level": st.integers(1, 30),
        "augment.mixup": st.floats(min_value=0, max_value=2),
        "augment.cutmix": st.floats(min_value=0, max_value=2),
        "curriculum.resolution": st.floats(min_value=0.1, max_value=1),
        "curriculum.sequence": st.floats(min_value=0.1, max_value=1),
        "curriculum.until": st.floats(min_value=0.01, max_value=1),
        "loader.workers": st.integers(0, 64),
        "loader.prefetch": st.integers(1, 16),
        "loader.pin": st.booleans(),
        "horizon.steps": st.integers(0, 10**9),
        "average.name": st.sampled_from(["none", "ema", "lawa", "swa", "lookahead"]),
        "average.half_life": st.floats(min_value=1e-4, max_value=1),
        "average.window": st.floats(min_value=1e-4, max_value=1),
        "average.every": st.integers(1, 100),
        "regularize.objective": st.sampled_from(["task", "binary_cross_entropy"]),
        "data.sampling": st.sampled_from(["uniform", "class_balanced", "importance", "infobatch", "selective"]),
        "data.prune": st.floats(min_value=0.01, max_value=0.9),
        "data.prune_until": st.floats(min_value=0.01, max_value=1),
        "data.repeats": st.integers(1, 16),
        "data.echo": st.integers(1, 16),
        "data.keep": st.floats(min_value=0.1, max_value=0.99),
        "data.keep_from": st.floats(min_value=0, max_value=0.8),
        "data.keep_until": st.floats(min_value=0.85, max_value=1),
        "data.order": st.sampled_from(["shuffled", "easy_to_hard"]),
        "data.order_until": st.floats(min_value=0.01, max_value=1),
        "regularize.label_smoothing": st.floats(min_value=0, max_value=0.99),
        "memory.format": st.sampled_from(["contiguous", "channels_last"]),
        "memory.checkpointing": st.sampled_from(["none", "selective", "full"]),
        "memory.offload": st.sampled_from(["none", "host", "disk"]),
        "regularize.dropout": st.just(-1.0) | st.floats(min_value=0, max_value=0.99),
        "model.init": st.sampled_from(["default", "zero_residual", "whitening"]),
        "model.freeze": st.floats(min_value=0, max_value=0.99),
        "model.drop_path": st.just(-1.0) | st.floats(min_value=0, max_value=0.99),
        "model.drop_path_ramp": st.floats(min_value=0, max_value=1),
        "model.lora_rank": st.integers(0, 64),
        "compile.mode": st.sampled_from(["off", "default", "reduce-overhead", "max-autotune"]),
        "system.threads": st.integers(0, 512),
        "system.cudnn_benchmark": st.booleans(),
        "system.attention": st.sampled_from(["auto", "flash", "efficient", "math", "cudnn"]),
        "horizon.samples": st.integers(1, 10**12),
        "evaluate.every_samples": st.integers(1, 10**12),
        "seed": st.integers(0, 2**63 - 1),
    },
)


def config_of(changed: dict[str, Any]) -> TrainerConfig | None:
    """None where settings exclude each other."""
    try:
        return with_params(TrainerConfig(), changed)
    except UsageError:
        return None


configs = params.map(config_of).filter(lambda config: config is not None)


# ---------------------------------------------------------------------------------------------------------- four forms


@quick
@given(configs)
def test_nested_values_read_back(config: TrainerConfig) -> None:
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert again.identity == config.identity


@quick
@given(configs, configs)
def test_paths_carry_the_whole_config(config: TrainerConfig, other: TrainerConfig) -> None:
    assert with_params(other, to_params(config)) == config


def test_every_field_has_a_path_and_a_working_default() -> None:
    paths = to_params(TrainerConfig())
    assert paths["optim.lr"] == 1e-3
    assert paths["seed"] == 0
    assert all(isinstance(value, int | float | str) for value in paths.values())
    assert all(path.count(".") == 1 for path in paths if path != "seed")


def test_some_paths_replace_only_themselves() -> None:
    config = with_params(TrainerConfig(), {"optim.lr": 0.1, "seed": 7})
    assert config == replace(TrainerConfig(), optim=Optim(lr=0.1), seed=7)


def test_a_whole_number_passes_as_a_float() -> None:
    config = with_params(TrainerConfig(), {"optim.lr": 1})
    assert config.optim.lr == 1.0
    assert isinstance(config.optim.lr, float)


def test_a_file_reads_back(tmp_path: Path) -> None:
    document = ConfigFile(
        config=keras_recipe(1000),
        task="digits",
        target={"value": 0.94, "direction": "max", "metric": "accuracy"},
        evidence={"hits": 9, "attempts": 10},
    )
    path = tmp_path / "config.json"
    save_config(path, document)
    assert read_config_file(path) == document
    assert load_config(path) == document.config
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_file_is_versioned_and_readable(tmp_path: Path) -> None:
    save_config(tmp_path / "config.json", ConfigFile(TrainerConfig()))
    text = (tmp_path / "config.json").read_text()
    assert json.loads(text)["format"] == "autoaccel.config"
    assert json.loads(text)["version"] == 1
    assert text.endswith("\n")
    assert '\n      "lr": 0.001' in text


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("data", "fragments"),
    [
        ([], ["config: expected a table of settings, got []"]),
        ({"optm": {}}, ["config.optm: unknown key 'optm'", "Did you mean 'optim'?"]),
        ({"optim": {"lrr": 0.1}}, ["config.optim.lrr: unknown key 'lrr'", "Did you mean 'lr'?"]),
        ({"optim": 0.1}, ["config.optim: expected a table of settings, got 0.1"]),
        ({"optim": {"lr": "0.1"}}, ["config.optim.lr: expected a number, got '0.1'"]),
        ({"optim": {"lr": True}}, ["config.optim.lr: expected a number, got True"]),
        ({"optim": {"lr": None}}, ["config.optim.lr: expected a number, got None"]),
        ({"batch": {"size": 64.0}}, ["config.batch.size: expected a whole number, got 64.0"]),
        ({"batch": {"size": True}}, ["config.batch.size: expected a whole number, got True"]),
        ({"precision": {"dtype": "fp8"}}, ["'fp16' or 'float8', got 'fp8'", "Allowed: bf16, float8, fp16, fp32."]),
        ({"optim": {"name": "adamww"}}, ["'sgd'", "got 'adamww'", "Did you mean 'adamw'?"]),
        (
            {"schedule": {"name": "step"}},
            ["'wsd' or 'one_cycle', got 'step'", "Allowed: constant, cosine, linear, one_cycle, rex, wsd."],
        ),
        ({"data": {"sampling": "random"}}, ["'class_balanced'"]),
        ({"batch": {"size": 1.5}, "optim": {"lr": "x"}}, ["config.batch.size", "config.optim.lr"]),
        ({"seed": "1"}, ["config.seed: expected a whole number, got '1'"]),
    ],
)
def test_wrong_keys_and_types(data: Any, fragments: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        from_dict(data)
    assert all(fragment in str(caught.value) for fragment in fragments)


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("batch.size", 0, "a whole number >= 1"),
        ("batch.accumulation", 0, "a whole number from 1 to batch.size (128)"),
        ("batch.accumulation", 129, "a whole number from 1 to batch.size (128)"),
        ("optim.lr", 0.0, "a finite number > 0"),
        ("optim.lr", -0.1, "a finite number > 0"),
        ("optim.lr", float("nan"), "a finite number > 0"),
        ("optim.lr", float("inf"), "a finite number > 0"),
        ("optim.weight_decay", -1e-9, "a finite number >= 0"),
        ("optim.momentum", 0.0, "between 0 and 1, exclusive"),
        ("optim.momentum", 1.0, "between 0 and 1, exclusive"),
        ("optim.beta2", 1.0, "between 0 and 1, exclusive"),
        ("optim.clip", -1.0, "a finite number >= 0"),
        ("optim.clip", float("inf"), "a finite number >= 0"),
        ("optim.sam_rho", -0.1, "a finite number >= 0"),
        ("optim.sam_every", 0, "a whole number >= 1"),
        ("schedule.warmup", 0.95, "between 0 and 0.9"),
        ("schedule.cooldown", 0.0, "above 0 and at most 1"),
        ("schedule.cooldown", 1.1, "above 0 and at most 1"),
        ("data.prune", 0.0, "above 0 and at most 0.9"),
        ("data.prune", 0.91, "above 0 and at most 0.9"),
        ("data.prune_until", 0.0, "above 0 and at most 1"),
        ("data.prune_until", 1.1, "above 0 and at most 1"),
        ("average.half_life", 0.0, "above 0 and at most 1"),
        ("average.window", 1.5, "above 0 and at most 1"),
        ("average.every", 0, "a whole number >= 1"),
        ("data.keep", 0.09, "at least 0.1 and below 1"),
        ("data.keep", 1.0, "at least 0.1 and below 1"),
        ("data.keep_from", 1.0, "between 0 and 1, 1 excluded"),
        ("data.keep_until", 0.5, "above data.keep_from (0.5) and at most 1"),
        ("data.keep_until", 1.01, "above data.keep_from (0.5) and at most 1"),
        ("data.repeats", 0, "a whole number >= 1"),
        ("data.echo", 0, "a whole number >= 1"),
        ("data.order_until", 0.0, "above 0 and at most 1"),
        ("regularize.label_smoothing", 1.0, "between 0 and 1, 1 excluded"),
        ("regularize.dropout", 1.0, "-1 (the model's own), or between 0 and 1, 1 excluded"),
        ("model.freeze", 1.0, "between 0 and 1, 1 excluded"),
        ("model.drop_path", -0.5, "-1 (the model's own), or between 0 and 1, 1 excluded"),
        ("model.drop_path_ramp", 1.5, "between 0 and 1"),
        ("model.lora_rank", -1, "a whole number >= 0"),
        ("horizon.samples", 0, "a whole number >= 1"),
        ("system.threads", -1, "a whole number >= 0"),
        ("evaluate.every_samples", -1, "a whole number >= 1"),
        ("seed", -1, "a whole number from 0"),
        ("seed", 2**63, "a whole number from 0"),
    ],
)
def test_values_out_of_range(path: str, value: object, allowed: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_params(TrainerConfig(), {path: value})
    assert caught.value.message.startswith(f"config.{path}: {value!r} is not ")
    assert allowed in caught.value.message
    assert path in caught.value.hint


@pytest.mark.parametrize(
    ("params", "fragments"),
    [
        (
            {"data.order": "easy_to_hard", "data.sampling": "importance"},
            ["data.order easy_to_hard and data.sampling both decide", "Set data.sampling to uniform"],
        ),
        ({"data.sampling": "infobatch", "loader.workers": 1}, ["loader.workers", "data.sampling"]),
        ({"data.sampling": "infobatch", "augment.mixup": 0.2}, ["augment.mixup", "data.sampling"]),
        ({"optim.name": "lion", "optim.kernel": "fused"}, ["optim.kernel", "optim.name", "'auto'"]),
        ({"optim.name": "muon", "optim.kernel": "loop"}, ["optim.kernel", "optim.name", "'auto'"]),
        ({"optim.name": "sgd", "optim.state": "int8"}, ["optim.state", "optim.name 'adamw'", "'fp32'"]),
        ({"optim.kernel": "fused", "optim.state": "int8"}, ["optim.state", "optim.kernel", "'fp32'"]),
        (
            {"optim.name": "schedule_free_adamw", "schedule.name": "linear"},
            ["schedule.name", "optim.name", "'constant'"],
        ),
        (
            {"optim.name": "schedule_free_sgd", "average.name": "ema"},
            ["average.name", "optim.name", "'none'"],
        ),
        (
            {"schedule.name": "wsd", "schedule.warmup": 0.5, "schedule.cooldown": 0.6},
            ["schedule.cooldown", "schedule.warmup", "at most 1"],
        ),
        (
            {"schedule.name": "one_cycle", "optim.state": "int8"},
            ["schedule.name", "optim.state", "'cosine'"],
        ),
        ({"data.echo": 2, "data.sampling": "selective"}, ["data.echo uses a batch again", "Set data.echo to 1"]),
        ({"data.echo": 2, "data.order": "easy_to_hard"}, ["data.echo uses a batch again", "Set data.echo to 1"]),
        ({"data.echo": 2, "batch.ramp": 0.5}, ["data.echo", "batch.ramp"]),
    ],
)
def test_settings_that_exclude_each_other_are_refused_together(params: dict[str, Any], fragments: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        with_params(TrainerConfig(), params)
    assert all(fragment in str(caught.value) for fragment in fragments)


def test_every_conflict_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        with_params(
            TrainerConfig(),
            {"optim.name": "schedule_free_sgd", "optim.kernel": "fused", "schedule.name": "cosine"},
        )
    assert "optim.kernel" in caught.value.message and "schedule.name" in caught.value.message
    assert caught.value.hint.count("Set ") == 2


@pytest.mark.parametrize("path", ["optim.rate", "lr", "batch", "", "optim.lr.peak"])
def test_unknown_paths(path: str) -> None:
    with pytest.raises(UsageError, match="unknown setting"):
        with_params(TrainerConfig(), {path: 1})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("\x00", "not valid JSON"),
        ("[]", "not an autoaccel config file"),
        ('{"config": {}}', "not an autoaccel config file"),
        ('{"format": "autoaccel.config", "version": 99, "config": {}}', "format version 99, this autoaccel reads 1"),
        ('{"format": "autoaccel.config", "version": 1}', "expected a table of settings, got None"),
        ('{"format": "autoaccel.config", "version": 1, "config": {"optim": {"lr": NaN}}}', "optim.lr"),
        ('{"format": "autoaccel.config", "version": 1, "config": {"optim": {"lrr": 1}}}', "unknown key 'lrr'"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_config(path)
    assert reason in caught.value.message


# ---------------------------------------------------------------------------------------------------------- PATH=VALUE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.name=adamw", ("optim.name", "adamw")),
        ('optim.name="sgd"', ("optim.name", "sgd")),
        (" optim.lr = 0.01 ", ("optim.lr", 0.01)),
        ("optim.lr=1e-2", ("optim.lr", 0.01)),
        ("optim.lr=1", ("optim.lr", 1.0)),
        ("batch.size=256", ("batch.size", 256)),
        ("seed=3", ("seed", 3)),
        ("system.cudnn_benchmark=true", ("system.cudnn_benchmark", True)),
    ],
)
def test_pinned_knobs(text: str, expected: tuple[str, object]) -> None:
    ((path, value),) = parse_params([text]).items()
    assert (path, value) == expected
    assert type(value) is type(expected[1])


def test_pins_are_checked_together() -> None:
    assert parse_params(["batch.size=512", "batch.accumulation=256"])["batch.accumulation"] == 256
    with pytest.raises(UsageError, match=r"batch\.accumulation"):
        parse_params(["batch.size=2", "batch.accumulation=3"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("optim.name", "expected PATH=VALUE"),
        ("=3", "expected PATH=VALUE"),
        ("optim.lr=", "expected PATH=VALUE"),
        ("", "expected PATH=VALUE"),
        ("optim.nme=sgd", "Did you mean 'optim.name'?"),
        ("optim.lr=fast", "optim.lr: expected a number, got 'fast'"),
        ("optim.lr=-1", "optim.lr: -1.0 is not a finite number > 0"),
        ("optim.lr=NaN", "optim.lr: nan is not"),
        ("batch.size=1.5", "batch.size: expected a whole number, got 1.5"),
        ("batch.size=[1]", "batch.size: expected a whole number, got '[1]'"),
        ("system.cudnn_benchmark=1", "system.cudnn_benchmark: expected true or false, got '1'"),
        ("optim.name=true", "'schedule_free_sgd', got 'true'"),
    ],
)
def test_pinned_knobs_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_params([text])
    assert reason in str(caught.value)


# ------------------------------------------------------------------------------------------------------ derived numbers


@quick
@given(configs, st.integers(0, 2**63 - 1))
def test_the_identity_ignores_the_seed_and_nothing_else(config: TrainerConfig, seed: int) -> None:
    assert replace(config, seed=seed).identity == config.identity
    longer = replace(config, horizon=Horizon(samples=config.horizon.samples + 1))
    assert longer.identity != config.identity


@quick
@given(st.dictionaries(st.text(max_size=4), st.one_of(st.integers(), st.text(max_size=4)), max_size=5), st.randoms())
def test_a_digest_ignores_the_order_of_keys(value: dict[str, Any], random: Any) -> None:
    shuffled = list(value.items())
    random.shuffle(shuffled)
    assert digest({"inner": dict(shuffled)}) == digest({"inner": value})


@pytest.mark.parametrize(("size", "accumulation", "micro"), [(128, 1, 128), (128, 4, 32), (10, 3, 4), (1, 1, 1)])
def test_the_micro_batch_holds_the_effective_batch(size: int, accumulation: int, micro: int) -> None:
    assert Batch(size=size, accumulation=accumulation).micro == micro


@pytest.mark.parametrize(
    ("samples", "size", "n_steps"), [(1000, 100, 10), (1040, 100, 10), (1060, 100, 11), (1, 128, 1)]
)
def test_the_horizon_in_steps(samples: int, size: int, n_steps: int) -> None:
    config = TrainerConfig(batch=Batch(size=size), horizon=Horizon(samples=samples))
    assert config.n_steps == n_steps


def test_the_baseline_recipe_fits_small_data() -> None:
    assert keras_recipe(1077).batch.size == 128
    assert keras_recipe(1077).horizon.samples == 15 * 1077
    assert keras_recipe(1077).evaluate.every_samples == 1077
    assert keras_recipe(20).batch.size == 20
