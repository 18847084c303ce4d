"""Before the search, with made-up measurements: refusals, the smallest budget, what is decided, and resuming."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel.budget import parse_budget
from autoaccel.clock import ManualClock
from autoaccel.config import from_dict, to_dict, to_params, with_params
from autoaccel.cost.effects import kind_of
from autoaccel.cost.step_cost import StepCost, optimizer_form
from autoaccel.errors import BudgetTooSmallError, EnvironmentFaultError, UsageError
from autoaccel.execution.group import n_processes
from autoaccel.execution.simulated import Course
from autoaccel.hardware.profile import facts
from autoaccel.job import Job
from autoaccel.search.crowding import Crowding
from autoaccel.search.effects import wanted_effects
from autoaccel.search.prepare import PIECES_SHARE, Prepared, plan, prepare, smallest_budget
from autoaccel.search.probes import _optimizers, plain
from autoaccel.search.trials import Driver
from autoaccel.space.files import load_space
from autoaccel.store.lineage import lineage
from autoaccel.trial import Ended, TrialRecord, TrialSpec
from tests.kits.finished import finished_run
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
MEMORY: dict[str, Any] = {
    "steps": [
        {"dtype": "fp32", "checkpointing": "none", "micro": n, "seconds": 0.1, "flops": 1e6, "bytes": 1e6 + 1e5 * n}
        for n in (4, 16, 64)
    ],
    "evaluation_bytes": 1e6,
    "evaluation_samples": 256,
    "pieces_bytes": 5e5,
    "trainable_bytes": 1e5,
    "free_bytes": 4e9,
    "limit": "the memory of this machine",
    "refuses": True,
    "flops": 3e6,
    "reason": "",
}
REFERENCE: dict[str, Any] = {
    "wall_s": [0.006] * 6,
    "cpu_s": None,
    "threads": 1,
    "default_threads": 1,
    "resident": True,
    "flops": 1e9,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOACCEL_CACHE_DIR", str(tmp_path / "cache"))


class Worker:
    """Answers probes, a second of budget each (none for effects), and counts them."""

    def __init__(
        self,
        task: dict[str, Any] | None = None,
        steps: dict[str, Any] | None = None,
        memory: dict[str, Any] | None = None,
    ) -> None:
        self.facts = {
            "preflight": {**TASK, **(task or {})},
            "hardware": HARDWARE,
            "memory_peak": {**MEMORY, **(memory or {})},
            "step_cost": {**STEPS, **(steps or {})},
            "soundness": {"losses": {}, "flops": 0.0},
            "effect": {"sizes": [], "failed": "", "flops": 0.0},
            "reference": REFERENCE,
        }
        self.asked: list[str] = []

    def __call__(self, spec: TrialSpec) -> Course:
        self.asked.append(spec.purpose)
        return Course((), "done", 0.0 if spec.purpose == "effect" else 1.0, self.facts[spec.purpose])


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
    assert ready.setup_s == pytest.approx(5.0, abs=0.02)
    ranges = {k.path: (k.low, k.high) for k in question.space.knobs if k.is_numeric}
    assert ranges["batch.size"] == (16, N_TRAIN)
    assert ranges["horizon.samples"] == (250, 60_000)
    assert question.space.fixed["precision.dtype"] == "fp32"
    assert question.space.fixed["memory.format"] == "contiguous"
    assert question.space.reasons["precision.dtype"] == "bf16 is 3.0x slower than fp32 here (measured)"


def test_the_plan_says_what_the_budget_buys(tmp_path: Path) -> None:
    document = plan(prepared(tmp_path, job()))
    full_s = COST.predict(BASELINE).seconds
    assert document["default_training_s"] == pytest.approx(full_s)
    assert document["default_trainings_affordable"] == pytest.approx((60 * 0.85 - 5) / full_s, rel=1e-3)
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


def test_the_precisions_of_the_space_that_the_task_can_have_are_measured(
    tmp_path: Path, running: tuple[Driver, Worker]
) -> None:
    no_float8 = {"path": "precision.dtype", "off": "fp32", "values": ["float8"], "reason": "it needs a GPU"}
    opened, worker = running
    worker.facts["preflight"]["unavailable"] = [no_float8]
    prepare(opened, job(space="survey"))
    asked = next(r.spec.probe for r in opened.ledger.records if r.spec.purpose == "step_cost")
    assert asked["dtypes"] == ["fp32", "bf16", "fp16"]
    assert "adamw int8" in asked["optimizers"]


def test_what_the_task_cannot_use_is_not_measured(tmp_path: Path, running: tuple[Driver, Worker]) -> None:
    opened, worker = running
    no_state = {"path": "optim.state", "off": "fp32", "values": None, "reason": "it needs CUDA"}
    no_images = {"path": "augment.flip", "off": "none", "values": None, "reason": "it needs images"}
    worker.facts["preflight"]["unavailable"] = [no_state, no_images]
    prepare(opened, job("10m", space="survey"))
    asked = [r.spec.probe for r in opened.ledger.records]
    assert not any("int8" in form for probe in asked for form in probe.get("optimizers", {}))
    assert not any("augment.flip" in probe.get("params", {}) for probe in asked)
    assert any("augment.cutout" in probe.get("params", {}) for probe in asked)


def test_the_optimizers_of_the_space_are_timed_that_of_the_baseline_first() -> None:
    assert list(_optimizers(load_space("minimal"), BASELINE)) == ["adamw", "sgd"]
    foreach = with_params(BASELINE, {"optim.name": "sgd", "optim.kernel": "foreach"})
    assert list(_optimizers(load_space("minimal"), foreach)) == ["sgd foreach", "sgd", "adamw"]
    survey = _optimizers(load_space("survey"), BASELINE)
    assert {"muon", "lamb loop", "adamw foreach", "adamw int8", "schedule_free_sgd foreach"} < survey.keys()
    for form, params in survey.items():
        config = with_params(BASELINE, {**params, "schedule.name": "constant"})
        assert optimizer_form(config.optim.name, config.optim.kernel, config.optim.state) == form


@pytest.mark.parametrize("name", ["minimal", "image", "text", "table", "devices", "survey"])
def test_every_effect_that_is_measured_is_one_of_a_valid_config(name: str) -> None:
    wanted = wanted_effects(load_space(name), BASELINE, plain(BASELINE))
    assert len({w.key for w in wanted}) == len(wanted)
    for effect in wanted:
        without = with_params(BASELINE, dict(effect.conditions))
        assert to_params(without)[effect.path] in kind_of(effect.path, effect.value).free
        assert to_params(with_params(without, dict(effect.params)))[effect.path] == effect.value
    paths = [w.path for w in wanted]
    assert paths.count("optim.sam_rho") == (name == "survey"), "its radius does not change what it costs"


def test_what_the_baseline_sets_is_measured_like_any_other_setting_and_first() -> None:
    """A plain step has none of it."""
    own = {"augment.flip": "random", "compile.mode": "default", "memory.budget": 0.7, "optim.sam_rho": 0.1}
    baseline = with_params(BASELINE, own)
    bare = plain(baseline)
    assert bare == BASELINE
    wanted = wanted_effects(load_space("survey").fix({"optim.clip": 1.0}, "pinned"), baseline, bare)
    first = [w.path for w in wanted][:5]
    assert first == ["augment.flip", "optim.clip", "optim.sam_rho", "compile.mode", "memory.budget"]
    budget = next(w for w in wanted if w.path == "memory.budget")
    assert budget.conditions == {"compile.mode": "default"} and budget.compiles


def measured_effects(tmp_path: Path, answer: Callable[[TrialSpec], Course], **settings: Any) -> tuple[Prepared, int]:
    """What is known after probes of effects that `answer` makes up, and how many there were."""
    worker = Worker()
    with driver(tmp_path, lambda spec: answer(spec) if spec.purpose == "effect" else worker(spec)) as opened:
        ready = prepare(opened, job("10m", **{"space": "survey", **settings}))
        return ready, sum(r.spec.purpose == "effect" for r in opened.ledger.records)


def seconds(spec: TrialSpec, ratio: float, **more: Any) -> Course:
    """A setting with which a sample takes so many times its time."""
    n = len(spec.probe["blocks"]["sizes"])
    found = {"sizes": spec.probe["blocks"]["sizes"], "plain_s": [1e-4] * n, "changed_s": [1e-4 * ratio] * n}
    found |= {"error": [0.01] * n, "setup_s": 0.0, "flops_ratio": 1.0, "flops": 5.0, "failed": "", **more}
    return Course((), "done", 0.01, found)


def test_effects_are_measured_and_decide_what_changes_seconds_alone(tmp_path: Path) -> None:
    """channels_last takes half the seconds, what else is measured a tenth more; one kernel kills its worker."""

    def answer(spec: TrialSpec) -> Course:
        params = spec.probe["params"]
        if params.get("system.attention") == "math":
            return Course((), "crashed", 1.0, message="signal 11")
        if "augment.policy" in params:
            return seconds(spec, 1.0, sizes=[], failed="it needs something")
        return seconds(spec, 0.5 if "memory.format" in params else 1.1)

    ready, n = measured_effects(tmp_path, answer)
    space, cost = ready.question.space, ready.question.cost
    assert space.fixed["memory.format"] == "channels_last" and "0.50 of the seconds" in space.reasons["memory.format"]
    assert space.fixed["system.attention"] == "auto" and space.fixed["memory.checkpointing"] == "none"
    assert space.fixed["system.threads"] == 0 and "1.10 of the seconds" in space.reasons["system.threads"]
    assert space.fixed["augment.policy"] == "none" and "it needs something" in space.reasons["augment.policy"]
    assert ("system.attention", "math") not in cost.effects and n > 20
    sam = with_params(BASELINE, {"optim.sam_rho": 0.5, "optim.sam_every": 2})
    assert cost.predict(sam).step_s > cost.predict(BASELINE).step_s


def test_what_was_decided_is_on_both_sides_of_what_is_measured_after_it(tmp_path: Path) -> None:
    """Two threads win, and every format loses; so steps are measured with two threads from then on."""
    probes = []

    def answer(spec: TrialSpec) -> Course:
        probes.append(spec.probe)
        return seconds(spec, 0.6 if "system.threads" in spec.probe["params"] else 1.2)

    ready, _ = measured_effects(tmp_path, answer)
    assert ready.question.space.fixed["system.threads"] > 1
    sides = [(p["params"], to_params(from_dict(p["config"]))) for p in probes]
    of_threads = {have["system.threads"] for params, have in sides if "system.threads" in params}
    of_others = {have["system.threads"] for params, have in sides if "system.threads" not in params}
    assert of_threads == {0} and of_others == {ready.question.space.fixed["system.threads"]}
    assert {have["memory.format"] for params, have in sides if "memory.format" not in params} == {"contiguous"}


def test_what_decides_something_is_measured_on_longer_steps_than_the_rest(tmp_path: Path) -> None:
    """A micro-batch of 128 takes 0.8 s, one of 64 is short enough for the few settings that are decided by it."""
    rows = [{"dtype": "fp32", "micro": n, "seconds": 0.2 * n / 32} for n in (8, 16, 32)]
    worker, sizes = Worker(steps={"micro": rows}), {}

    def answer(spec: TrialSpec) -> Course:
        if spec.purpose != "effect":
            return worker(spec)
        sizes[next(iter(spec.probe["params"]))] = spec.probe["blocks"]["sizes"]
        return seconds(spec, 1.2)

    with driver(tmp_path, answer) as opened:
        prepare(opened, job("10h", space="survey"))
    assert sizes["memory.format"] == [4, 16, 64] and sizes["optim.clip"] == [2, 8]


FALLING = [2.0 - 0.04 * step for step in range(40)]


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        (FALLING, ""),
        ([1.05 * loss for loss in FALLING], ""),
        ([2.0] * 40, "above that of fp32"),
        ([*FALLING[:39], None], "not finite"),
    ],
)
def test_a_precision_that_does_not_learn_is_not_searched(tmp_path: Path, losses: list[float | None], why: str) -> None:
    """Of two that are fast enough, one is watched for its first steps."""
    rows = [{"dtype": d, "micro": 64, "seconds": s} for d, s in (("fp32", 0.01), ("bf16", 0.005), ("fp16", 0.005))]
    with driver(tmp_path, worker := Worker(steps={"micro": rows})) as opened:
        worker.facts["soundness"]["losses"] = {"fp32": FALLING, "bf16": losses, "fp16": FALLING}
        space = prepare(opened, job("10m", space="survey")).question.space
        asked = next(r.spec.probe for r in opened.ledger.records if r.spec.purpose == "soundness")
    assert asked["dtypes"] == ["fp32", "bf16", "fp16", "float8"]
    assert ("bf16" in space.choices("precision.dtype")) == (not why)
    assert why in space.reasons.get("precision.dtype", "") and "fp16" in space.choices("precision.dtype")


def test_a_win_at_one_size_alone_decides_nothing(tmp_path: Path) -> None:
    def answer(spec: TrialSpec) -> Course:
        if "memory.format" in spec.probe["params"]:
            return seconds(spec, 1.0, changed_s=[1.2e-4, 0.5e-4, 1.2e-4])
        if "system.threads" in spec.probe["params"]:
            return seconds(spec, 1.0, changed_s=[1.2e-4, 0.7e-4, 0.6e-4])
        return seconds(spec, 1.0)

    ready, _ = measured_effects(tmp_path, answer)
    assert ready.question.space.fixed["memory.format"] == "contiguous"
    assert ready.question.space.fixed["system.threads"] > 1, "it loses on steps that no training will have"
    threads = ready.question.cost.effects["system.threads", ready.question.space.fixed["system.threads"]]
    assert threads.ratio(threads.sizes[0]) > 1, "and small micro-batches are priced so"


def test_what_was_not_measured_is_off_and_says_why(tmp_path: Path) -> None:
    ready, _ = measured_effects(tmp_path, lambda spec: Course((), "timeout", 1.0))
    space = ready.question.space
    assert space.fixed["memory.format"] == "contiguous"
    assert "not measured in time" in space.reasons["memory.format"]
    assert "augment.policy" in space.paths, "what changes what is learned is searched all the same"


@pytest.mark.parametrize(
    ("ratio", "setup_s", "searched"), [(0.5, 0.01, True), (0.5, 60.0, False), (0.99, 0.0, False), (1.2, 0.0, False)]
)
def test_compiling_is_searched_where_a_training_of_the_baselines_length_earns_it_back(
    tmp_path: Path, ratio: float, setup_s: float, searched: bool
) -> None:
    def answer(spec: TrialSpec) -> Course:
        compiles = "compile.mode" in spec.probe["params"]
        return seconds(spec, ratio if compiles else 1.0, setup_s=setup_s if compiles else 0.0)

    ready, _ = measured_effects(tmp_path, answer)
    assert ("compile.mode" in ready.question.space.paths) == searched
    if not searched:
        assert "(measured)" in ready.question.space.reasons["compile.mode"]


def test_trials_that_run_at_once_share_the_cores(tmp_path: Path) -> None:
    ready, _ = measured_effects(tmp_path, lambda spec: seconds(spec, 0.5), trials_at_once=2)
    assert ready.question.space.fixed["system.threads"] == 0
    assert ready.question.space.fixed["memory.format"] == "channels_last"


def test_how_a_training_is_spread_over_devices_is_measured_and_decided(tmp_path: Path) -> None:
    """ddp takes 0.6 of the seconds, fsdp2 0.8, the others fail; there are four devices at least, and no more than 8."""
    asked: list[tuple[int, list[int]]] = []

    def answer(spec: TrialSpec) -> Course:
        strategy = spec.probe["params"].get("parallel.strategy")
        if strategy:
            asked.append((n_processes(spec), spec.probe["blocks"]["sizes"]))
        if strategy in ("tensor", "pipeline"):
            return seconds(spec, 1.0, sizes=[], failed="no plan")
        return seconds(spec, {"ddp": 0.6, "fsdp2": 0.8}.get(strategy, 1.1))

    ready, _ = measured_effects(tmp_path, answer, space="devices", fix={"parallel.n_processes": 8})
    space = ready.question.space
    assert len(asked) == 4 and all(n == 8 and min(sizes) >= 8 for n, sizes in asked)
    assert space.fixed["parallel.strategy"] == "ddp" and "0.60 of the seconds" in space.reasons["parallel.strategy"]
    assert space.fixed["parallel.n_processes"] == 8
    assert "memory.format" in {*space.paths, *space.fixed}


def test_what_does_not_pay_or_has_no_second_device_is_off_with_the_reason(tmp_path: Path) -> None:
    for name in ("slow", "one", "both"):
        (tmp_path / name).mkdir()
    ready, _ = measured_effects(tmp_path / "slow", lambda spec: seconds(spec, 1.1), space="devices")
    assert ready.question.space.fixed["parallel.strategy"] == "none"
    assert "1.10 of the seconds" in ready.question.space.reasons["parallel.strategy"]
    one = {"path": "parallel.strategy", "off": "none", "values": None, "reason": "there is 1 core for it"}
    with driver(tmp_path / "one", Worker({"unavailable": [one]})) as opened:
        space = prepare(opened, job(space="devices")).question.space
    assert space.fixed["parallel.strategy"] == "none" and "1 core" in space.reasons["parallel.strategy"]
    both, _ = measured_effects(tmp_path / "both", lambda spec: seconds(spec, 0.5), space="devices", trials_at_once=2)
    assert both.question.space.fixed["parallel.strategy"] == "none"


def test_a_run_that_has_trained_measures_no_further_effects_and_knows_those_it_has(tmp_path: Path) -> None:
    """A second session decides by what the first one knew."""
    asked: list[Any] = []

    def answer(spec: TrialSpec) -> Course:
        if spec.purpose != "effect":
            return worker(spec)
        asked.append(spec.probe["params"])
        return seconds(spec, 0.5) if "memory.format" in spec.probe["params"] else Course((), "timeout", 1.0)

    worker = Worker()
    with driver(tmp_path, answer) as opened:
        first = prepare(opened, job("10m", space="survey"))
        n = len(asked)
        trained = TrialRecord(TrialSpec(999, "baseline", BASELINE), (), Ended(999, "hit", 1.0))
        opened.ledger.end_trial(opened.at_s(), trained)
        second = prepare(opened, job("10m", space="survey"))
    assert len(asked) == n > 20
    assert first.question.space == second.question.space and first.question.cost == second.question.cost


def test_ctrl_c_during_a_probe_of_an_effect_ends_the_run(tmp_path: Path) -> None:
    worker, stopped = Worker(), [False]

    def answer(spec: TrialSpec) -> Course:
        stopped[0] = spec.purpose == "effect"
        return seconds(spec, 1.0) if spec.purpose == "effect" else worker(spec)

    with driver(tmp_path, answer) as opened, pytest.raises(KeyboardInterrupt):
        prepare(replace(opened, interrupted=lambda: stopped[0]), job("10m", space="survey"))


def test_compiling_is_not_even_tried_where_the_budget_cannot_earn_it_back(tmp_path: Path) -> None:
    space = prepared(tmp_path, job("60s", space="survey")).question.space
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


def test_where_memory_is_plenty_nobody_hears_of_it(tmp_path: Path) -> None:
    document = plan(ready := prepared(tmp_path, job()))
    assert ready.largest_micro is None and "samples fit" not in document["text"]
    assert document["largest_micro_batch"] is None
    assert document["default_training_peak_bytes"] == pytest.approx(1e6 + 1e5 * BASELINE.batch.micro + 5e5)


def test_the_plan_names_the_largest_micro_batch_where_a_larger_one_could_be_asked_for(tmp_path: Path) -> None:
    ready = prepared(tmp_path, job(), memory={"free_bytes": 50e6})
    document, largest = plan(ready), ready.largest_micro
    assert largest is not None and 300 < largest < 440 and document["largest_micro_batch"] == largest
    assert (
        f"micro-batches of up to {largest} samples fit into the 48 MiB of memory that a training may take; larger "
        "ones are split" in document["text"]
    )
    (tmp_path / "pinned").mkdir()
    pinned = prepared(tmp_path / "pinned", job(fix={"batch.accumulation": 1}), memory={"free_bytes": 50e6})
    assert "larger ones are not tried" in plan(pinned)["text"]


def test_a_step_is_timed_in_micro_batches_that_fit(tmp_path: Path) -> None:
    for name, free_bytes, sizes in (
        ("plenty", 4e9, [16, 32, 64, 128, 256, 512]),
        ("scarce", 50e6, [16, 32, 64, 128, 256]),
    ):
        (tmp_path / name).mkdir()
        with driver(tmp_path / name, Worker(memory={"free_bytes": free_bytes})) as opened:
            prepare(opened, job())
            asked = {r.spec.purpose: r.spec.probe for r in opened.ledger.records}
        assert asked["step_cost"]["micro"] == sizes
        assert asked["memory_peak"]["largest"] == N_TRAIN and asked["memory_peak"]["variants"] == [
            {"precision.dtype": "bf16"}
        ]
        assert asked["memory_peak"]["room"]["seconds"] == pytest.approx(0.02 * 60)
        left_s = 0.10 * 60 - 1.0
        assert asked["step_cost"]["room"]["seconds"] == pytest.approx(PIECES_SHARE * left_s, abs=0.01), (
            "of what is left"
        )


def test_a_probe_that_memory_killed_leaves_memory_unknown_for_good(tmp_path: Path) -> None:
    worker = Worker()

    def killed(spec: TrialSpec) -> Course:
        return worker(spec) if spec.purpose != "memory_peak" else Course((), "oom", 1.0, message="killed")

    for _ in range(2):
        with driver(tmp_path, killed) as opened:
            ready = prepare(opened, job())
            purposes = [r.spec.purpose for r in opened.ledger.records]
        assert ready.question.cost.memory.reason == "measuring it failed: killed"
        assert purposes.count("memory_peak") == 1, "a second session does not try again"


def test_pins_with_which_nothing_fits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"a batch of 900 in 1 does not fit .* needs up to 116 MiB, .* take 48 MiB"
    ) as caught:
        prepared(tmp_path, job(fix={"batch.size": 900, "batch.accumulation": 1}), memory={"free_bytes": 50e6})
    assert "leave batch.accumulation out" in caught.value.hint
    (tmp_path / "again").mkdir()
    prepared(tmp_path / "again", job(fix={"batch.size": 900}), memory={"free_bytes": 50e6})


def test_a_re_tuning_has_the_old_answer_as_baseline_and_all_the_room_of_a_study_from_scratch(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "old")
    scratch, again = (prepared(_made(tmp_path / n), job(after=a)) for n, a in (("a", None), ("b", str(run))))
    assert again.question.baseline == lineage(run)[-1].config != scratch.question.baseline
    assert again.question.space == scratch.question.space
    assert "one training of the answer before takes" in plan(again)["text"]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_without_a_measured_step_the_two_of_the_preflight_do(tmp_path: Path) -> None:
    cost: StepCost = prepared(tmp_path, job(), steps={"micro": []}).question.cost
    assert cost.micro == {"fp32": ((128, 0.006),)}


def test_a_second_session_measures_nothing_again_but_whether_the_machine_is_as_fast(
    tmp_path: Path, running: tuple[Driver, Worker]
) -> None:
    first, worker = running
    ready = prepare(first, job())
    asked = list(worker.asked)
    assert asked[:4] == ["preflight", "hardware", "memory_peak", "step_cost"] and set(asked[4:-1]) == {"effect"}
    first.ledger.close()
    with driver(tmp_path, worker) as second:
        again = prepare(second, job())
    assert worker.asked == [*asked, "reference"]
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


# ----------------------------------------------------------------------------------------------- several trials at once


class Crowd(Worker):
    """The same with several slots that disturb each other."""

    def __call__(self, spec: TrialSpec) -> Course:
        step_s = 0.009 if spec.note == "in all slots" else 0.006
        self.facts["crowding"] = {**REFERENCE, "wall_s": [step_s] * 8}
        return super().__call__(spec)


def test_neighbours_are_measured_in_all_slots_at_once_and_once(tmp_path: Path) -> None:
    worker = Crowd()
    for _ in range(2):  # the second time as a resumed run
        with driver(tmp_path, worker, n_slots=2) as opened:
            ready = prepare(opened, job("60 device-seconds", devices=2))
    asked = [purpose for purpose in worker.asked if purpose in ("preflight", "crowding")]
    assert asked == [*["preflight"] * 4, *["crowding"] * 3]
    assert ready.question.crowding == Crowding(2, pytest.approx(1.5))
    assert (ready.question.n_slots, ready.question.n_devices) == (2, 2)
    assert ready.question.is_crowded
    assert "2 trials at once, each 1.50 times as long as alone" in plan(ready)["text"]


def test_trials_at_once_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    worker = Worker()

    def course(spec: TrialSpec) -> Course:
        worker.asked.append(spec.purpose)
        if spec.purpose == "preflight" and worker.asked.count("preflight") == 2:
            return Course((), "oom", 1.0, message="CUDA out of memory")
        return Course((), "done", 1.0, worker.facts[spec.purpose])

    with driver(tmp_path, course, n_slots=2) as opened, pytest.raises(UsageError) as caught:
        prepare(opened, job(trials_at_once=2))
    assert caught.value.message == "2 trials at once do not run here: preflight ended as oom: CUDA out of memory"
    assert "--trials-at-once" in caught.value.hint


def test_more_devices_need_a_larger_budget_in_device_hours() -> None:
    one, four = (smallest_budget(COST, BASELINE, N_TRAIN, 2.0, n) for n in (1, 4))
    assert four == replace(one, device_seconds=4 * one.device_seconds)


def test_the_profile_is_of_the_machine_that_trials_run_on(tmp_path: Path) -> None:
    worker = Worker()
    here = facts()
    worker.facts["hardware"] = {**HARDWARE, "machine": {**here, "usable_cores": 1}}
    with driver(tmp_path, worker) as opened:
        assert prepare(opened, job()).profile.usable_cores == here["usable_cores"], "a slot may see a part of it"
    (tmp_path / "elsewhere").mkdir()
    worker.facts["hardware"] = {**HARDWARE, "machine": {**here, "cpu_model": "another", "usable_cores": 64}}
    with driver(tmp_path / "elsewhere", worker) as opened:
        profile = prepare(opened, job()).profile
    assert (profile.cpu_model, profile.usable_cores) == ("another", 64)
