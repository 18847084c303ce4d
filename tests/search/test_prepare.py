"""Before the search, with made-up measurements: refusals, the smallest budget, what is decided, and resuming."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel.budget import parse_budget
from autoaccel.clock import ManualClock
from autoaccel.config import to_dict
from autoaccel.cost.step_cost import StepCost
from autoaccel.errors import BudgetTooSmallError, EnvironmentFaultError, UsageError
from autoaccel.execution.simulated import Course
from autoaccel.job import Job
from autoaccel.search.prepare import Prepared, _precisions, plan, prepare, smallest_budget
from autoaccel.search.trials import Driver
from autoaccel.space.files import load_space
from autoaccel.trial import Ended, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, COST, N_TRAIN, driver

TASK: dict[str, Any] = {
    "task": "made up",
    "n_train": N_TRAIN,
    "n_validation": 400,
    "metric": "accuracy",
    "direction": "max",
    "target": 0.9,
    "device": "cpu",
    "baseline": to_dict(BASELINE),
    "unavailable": [],
    "flops_per_sample": 1e6,
    "evaluation_flops": 2e8,
    "rough_step_s": 0.006,
    "rough_evaluation_s": 0.02,
}
HARDWARE = {
    "devices": [{"kind": "cpu", "name": "made up", "memory_bytes": 2**30, "capability": ""}],
    "device": "cpu",
    "n_threads": 1,
    "rates": {"matmul.fp32": {"per_s": 1e10, "per_cpu_s": 1e10}},
    "notes": {},
    "skipped": {},
    "load": {"others": 0.0, "average": 1.0},
}
STEPS: dict[str, Any] = {
    "micro": [{"dtype": "fp32", "micro": size, "seconds": s} for size, s in COST.micro["fp32"]]
    + [{"dtype": "bf16", "micro": size, "seconds": 3 * s} for size, s in COST.micro["fp32"]],
    "optimizer": COST.optimizer,
    "evaluation": COST.evaluation,
    "flops": 1e9,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOACCEL_CACHE_DIR", str(tmp_path / "cache"))


class Worker:
    """Answers probes, a second of budget each, and counts them."""

    def __init__(self, task: dict[str, Any] | None = None, steps: dict[str, Any] | None = None) -> None:
        self.facts = {
            "preflight": {**TASK, **(task or {})},
            "hardware": HARDWARE,
            "step_cost": {**STEPS, **(steps or {})},
        }
        self.asked: list[str] = []

    def __call__(self, spec: TrialSpec) -> Course:
        self.asked.append(spec.purpose)
        return Course((), "done", 1.0, self.facts[spec.purpose])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Driver, Worker]]:
    worker = Worker()
    with driver(tmp_path, worker) as opened:
        yield opened, worker


def prepared(folder: Path, job: Job, **worker: Any) -> Prepared:
    with driver(folder, Worker(**worker)) as opened:
        return prepare(opened, job)


def job(budget: str = "60s", **settings: Any) -> Job:
    return Job(budget=parse_budget(budget), task="made-up", **settings)


def test_the_question_comes_from_what_was_measured(tmp_path: Path) -> None:
    ready = prepared(tmp_path, job(seed=3))
    question = ready.question
    assert (question.target.value, question.target.metric, question.seed) == (0.9, "accuracy", 3)
    assert question.floor == 0.5 / 400 and question.baseline == BASELINE
    assert question.cost.micro["fp32"] == COST.micro["fp32"]
    assert ready.setup_s == pytest.approx(3.0, abs=0.01)
    ranges = {k.path: (k.low, k.high) for k in question.space.knobs if k.is_numeric}
    assert ranges["batch.size"] == (16, N_TRAIN)
    assert ranges["horizon.samples"] == (250, 60_000)
    assert question.space.fixed == {"precision.dtype": "fp32"}
    assert question.space.reasons["precision.dtype"] == "bf16 is 3.0x slower than fp32 here (measured)"


def test_the_plan_says_what_the_budget_buys(tmp_path: Path) -> None:
    document = plan(prepared(tmp_path, job()))
    full_s = COST.predict(BASELINE).seconds
    assert document["default_training_s"] == pytest.approx(full_s)
    assert document["default_trainings_affordable"] == pytest.approx((60 * 0.85 - 3) / full_s, rel=1e-3)
    assert "60s" not in document["text"] and "1m buys about" in document["text"]


UNAVAILABLE = [
    {"path": "data.sampling", "off": "uniform", "values": ["class_balanced"], "reason": "it needs labels"},
    {"path": "regularize.label_smoothing", "off": 0.0, "values": None, "reason": "it needs the cross_entropy loss"},
]


def test_what_the_task_cannot_use_is_not_searched(tmp_path: Path) -> None:
    space = prepared(tmp_path, job(), task={"unavailable": UNAVAILABLE}).question.space
    assert {"data.sampling", "regularize.label_smoothing"}.isdisjoint(space.paths)
    assert (space.fixed["data.sampling"], space.fixed["regularize.label_smoothing"]) == ("uniform", 0.0)
    assert space.reasons["data.sampling"] == "it needs labels"


@pytest.mark.parametrize(
    ("pin", "words"),
    [
        ({"data.sampling": "class_balanced"}, "pinned to 'class_balanced', but it needs labels"),
        ({"regularize.label_smoothing": 0.1}, "pinned to 0.1, but it needs the cross_entropy loss"),
    ],
)
def test_a_pin_the_task_cannot_use_is_refused(tmp_path: Path, pin: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prepared(tmp_path, job(fix=pin), task={"unavailable": UNAVAILABLE})
    (tmp_path / "again").mkdir()
    off = {row["path"]: row["off"] for row in UNAVAILABLE if row["path"] in pin}
    space = prepared(tmp_path / "again", job(fix=off), task={"unavailable": UNAVAILABLE}).question.space
    assert space.fixed.items() >= off.items()


def test_the_precisions_of_the_space_that_the_task_can_have_are_measured(tmp_path: Path) -> None:
    no_float8 = {"path": "precision.dtype", "off": "fp32", "values": ["float8"], "reason": "it needs a GPU"}
    assert _precisions(load_space("minimal"), TASK) == ("fp32", "bf16")
    assert _precisions(load_space("survey"), TASK) == ("fp32", "bf16", "float8", "fp16")
    assert _precisions(load_space("survey"), {**TASK, "unavailable": [no_float8]}) == ("fp32", "bf16", "fp16")


@pytest.mark.parametrize(("budget", "searched"), [("60s", False), ("10m", True)])
def test_compiling_is_searched_where_the_budget_can_earn_it_back(tmp_path: Path, budget: str, searched: bool) -> None:
    space = prepared(tmp_path, job(budget, space="survey")).question.space
    assert ("compile.mode" in space.paths) == searched
    if not searched:
        assert space.fixed["compile.mode"] == "off"
        assert "compiling takes about 30s" in space.reasons["compile.mode"] and "2m" in space.reasons["compile.mode"]


def test_a_task_without_a_target_needs_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no target"):
        prepared(tmp_path, job(), task={"target": None})
    (tmp_path / "again").mkdir()
    assert prepared(tmp_path / "again", job(target=0.8), task={"target": None}).question.target.value == 0.8


def test_a_target_of_93_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"target 93: accuracy is a ratio between 0 and 1\n  Did you mean 0.93?"):
        prepared(tmp_path, job(target=93))


def test_flops_that_cannot_be_counted_are_no_budget(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FLOPs of its model cannot be counted"):
        prepared(tmp_path, job("1e15FLOPs"), task={"flops_per_sample": 0.0})


@pytest.mark.parametrize(
    ("budget", "unit"),
    [("2s", "s"), ("1e9FLOPs", "FLOPs"), ("3 device-seconds", "device-seconds"), ("2 trials", "trials")],
)
def test_a_budget_below_one_trial_names_the_smallest(tmp_path: Path, budget: str, unit: str) -> None:
    with pytest.raises(BudgetTooSmallError, match="is below one trial") as caught:
        prepared(tmp_path, job(budget))
    assert caught.value.exit_code == 4
    named = re.search(r"about (.+)\.$", caught.value.hint)
    assert named is not None and named[1].endswith(unit)
    (tmp_path / "again").mkdir()
    if unit in ("FLOPs", "trials"):  # the others pay for measuring too
        prepared(tmp_path / "again", job(named[1]))


def test_the_smallest_budget_grows_with_set_up_and_step_cost() -> None:
    small, big = smallest_budget(COST, BASELINE, N_TRAIN, 1.0), smallest_budget(COST, BASELINE, N_TRAIN, 5.0)
    epoch = COST.predict(replace(BASELINE, horizon=replace(BASELINE.horizon, samples=N_TRAIN)))
    assert small.seconds == pytest.approx(1.2 * (1.0 + 6 * epoch.seconds) + 1.0)
    assert big.seconds - small.seconds == pytest.approx(4.8)
    assert small.flops == pytest.approx(6 * epoch.flops / 0.9) and small.trials == 6


def test_without_a_measured_step_the_two_of_the_preflight_do(tmp_path: Path) -> None:
    cost: StepCost = prepared(tmp_path, job(), steps={"micro": []}).question.cost
    assert cost.micro == {"fp32": ((128, 0.006),)}


def test_a_second_session_measures_nothing_again(tmp_path: Path, running: tuple[Driver, Worker]) -> None:
    first, worker = running
    ready = prepare(first, job())
    assert worker.asked == ["preflight", "hardware", "step_cost"]
    first.ledger.close()
    with driver(tmp_path, worker) as second:
        again = prepare(second, job())
    assert worker.asked == ["preflight", "hardware", "step_cost"]
    assert again.question == ready.question and again.profile == ready.profile


def test_a_run_that_has_trained_is_not_asked_again_whether_it_can(running: tuple[Driver, Worker]) -> None:
    first, _ = running
    prepare(first, job())
    assert isinstance(first.clock, ManualClock)
    first.clock.advance(56.0)
    with pytest.raises(BudgetTooSmallError):
        prepare(first, job())
    spec = TrialSpec(9, "baseline", BASELINE)
    first.ledger.end_trial(first.at_s(), TrialRecord(spec, (), Ended(9, "hit", 1.0)))
    prepare(first, job())


def test_a_worker_that_fails_at_a_probe_is_an_error_with_its_words(tmp_path: Path) -> None:
    def broken(spec: TrialSpec) -> Course:
        return Course((), "crashed", 1.0, message="ImportError: no torch here")

    with (
        driver(tmp_path, broken) as opened,
        pytest.raises(EnvironmentFaultError, match="failed while running preflight: ImportError: no torch here"),
    ):
        prepare(opened, job())


def test_what_the_worker_refuses_is_said_with_its_hint(tmp_path: Path) -> None:
    def refuse(spec: TrialSpec) -> Course:
        return Course((), "refused", 1.0, {"hint": "Fix the labels."}, "labels out of range")

    with driver(tmp_path, refuse) as opened, pytest.raises(UsageError, match="labels out of range") as caught:
        prepare(opened, job())
    assert caught.value.hint == "Fix the labels."
