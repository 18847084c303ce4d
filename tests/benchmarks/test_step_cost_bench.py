"""The benchmark of the step cost: which configs are compared, what is measured of them, and the figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoaccel.budget import parse_budget
from autoaccel.config import to_params, with_params
from autoaccel.cost.effects import Effect
from autoaccel.search.question import predict
from autoaccel.tasks.digits import digits
from autoaccel.trainer.preflight import preflight
from benchmarks.step_cost import sweep
from benchmarks.step_cost.figures import figures, table
from benchmarks.step_cost.repeated import errors, windows
from benchmarks.step_cost.unseen import compared, configs, sample_seconds
from tests.simulated.problems import BASELINE, COST, question

PROTOCOL: dict[str, Any] = json.loads((Path(sweep.__file__).parent / "protocol.json").read_text())


@pytest.fixture
def ready() -> Callable[..., Any]:
    """What a tuning knows before it searches, with a space left as it is."""

    def make(**changes: Any) -> Any:
        asked = replace(question(parse_budget("60s")), **changes)
        return SimpleNamespace(question=asked, facts={"unavailable": []})

    return make


def test_configs_are_drawn_by_the_seed_at_the_baselines_horizon(ready: Callable[..., Any]) -> None:
    first, again, other = ([*islice(configs(ready(), seed), 20)] for seed in (0, 0, 1))
    assert first == again != other
    assert len({config.identity for config in first}) == 20
    assert {config.horizon for config in first} == {BASELINE.horizon}


def test_the_predicted_seconds_of_a_sample_are_of_steps_alone(ready: Callable[..., Any]) -> None:
    slow = Effect("compile.mode", "default", (128,), (1e-4,), (1e-4,), (0.01,), setup_s=50.0)
    tuning = ready(cost=replace(COST, effects={("compile.mode", "default"): slow}))
    config = with_params(BASELINE, {"compile.mode": "default"})
    found, whole = sample_seconds(tuning, config)
    assert found * config.batch.size == pytest.approx(predict(tuning.question, BASELINE).step_s)
    assert whole.seconds > 50


def test_digits_are_predicted_measured_and_not_measured_twice(ready: Callable[..., Any]) -> None:
    loaded, _ = preflight(digits())
    small = {
        "configs": {"n": 2, "seed": 0, "largest_step_s": 1.0},
        "measured": {"points": 2, "enough_s": 0.0, "reference_s": 0.0},
    }
    known: dict[str, Any] = {}
    rows = [*compared(ready(), loaded, small, known)]
    assert len(rows) == len(known) == 2
    for row in rows:
        assert row["error"] == pytest.approx(row["predicted_s"] / row["sample_s"] - 1) and row["sample_s"] > 0
        assert row["one_thread_s"] > 0 and row["reference_s"] > 0
    assert [*compared(ready(), loaded, small, known)] == rows


def test_the_sweep_has_every_combination_that_the_machine_can_have(ready: Callable[..., Any]) -> None:
    tuning = ready()
    tuning.facts["unavailable"] = [
        {"path": "system.attention", "off": "auto", "values": ["flash"], "reason": ""},
        {"path": "system.attention", "off": "auto", "values": ["efficient"], "reason": ""},
        {"path": "memory.format", "off": "contiguous", "values": None, "reason": ""},
    ]
    found = [to_params(config) for config in sweep.combinations(tuning)]
    assert found[0] == to_params(BASELINE), "the plain one comes first"
    assert {params["system.attention"] for params in found} == {"auto", "math"}
    assert {params["memory.format"] for params in found} == {"contiguous"}
    assert {params["batch.accumulation"] for params in found} == {1, 2, 4}
    assert len({json.dumps(params) for params in found}) == len(found)


def test_a_step_is_compared_with_itself_later() -> None:
    assert errors([(0.0, 1.0), (2.0, 1.1), (4.0, 0.5), (6.0, 2.0)], 4.0) == pytest.approx([1.0, -0.5, -0.45])
    loaded, _ = preflight(digits())
    rule = {"seconds": 1.0, "window_s": 0.05}  # a stall of a busy machine is shorter
    found = windows(loaded, BASELINE, rule)
    assert len(found) > 1 and all(s > 0 for _, s in found)
    assert [at_s for at_s, _ in found] == sorted({at_s for at_s, _ in found}) and found[-1][0] < 1.0


def task(errors: list[float], regret: float, share: float) -> dict[str, Any]:
    rows = [
        {"error": e, "error_of_ratio": e / 2, "error_one_thread": e / 4, "stated_error": 0.1, "sample_s": 1e-3}
        for e in errors
    ]
    swept = {"regret": regret, "gain_over_plain": 1.5, "combinations": 10}
    return {
        "task": "made up",
        "configs": rows,
        "sweep": swept,
        "repeated": [e / 8 for e in errors],
        "probing_share": share,
    }


def test_the_figures_by_hand() -> None:
    tasks = [task([0.1, -0.1, 0.5], 0.02, 0.05), task([0.0, 0.04, -0.02], 0.10, 0.08)]
    found = figures(tasks)
    assert found["median_abs_error"] == pytest.approx(0.07) and found["p90_abs_error"] == pytest.approx(0.3)
    assert found["median_abs_error_of_the_worst_task"] == pytest.approx(0.1)
    assert found["median_abs_error_of_ratio"] == pytest.approx(0.035)
    assert found["p90_abs_error_one_thread"] == pytest.approx(0.075)
    assert found["median_abs_error_repeated"] == pytest.approx(0.07 / 8)
    assert found["interval_coverage"] == pytest.approx(5 / 6)
    assert (found["regret_vs_sweep_max"], found["regret_vs_sweep_median"]) == (0.10, pytest.approx(0.06))
    assert found["probing_share"] == 0.08 and found["configs"] == 6
    bias = math.expm1((math.log(1.1) + math.log(0.9) + math.log(1.5)) / 3)
    assert f"{bias:+.1%}" in table(tasks)[2]
    assert set(PROTOCOL["bars"]) <= found.keys()


def test_nothing_measured_is_no_figure() -> None:
    assert {v for k, v in figures([]).items() if k not in ("configs", "combinations")} == {None}
