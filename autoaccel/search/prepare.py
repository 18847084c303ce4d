"""Before the search: try the task, measure the machine and a step, and work out what the budget will buy.

Turns a job into the question the search answers. Must not train; every input mistake ends here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autoaccel.budget import Room, Spent, format_duration
from autoaccel.config import TrainerConfig, from_dict, to_params
from autoaccel.cost.break_even import break_even_steps
from autoaccel.cost.memory import PeakMemory, settings_of
from autoaccel.cost.step_cost import StepCost
from autoaccel.errors import BudgetTooSmallError, UsageError
from autoaccel.hardware.profile import HardwareProfile
from autoaccel.job import Job
from autoaccel.search.effects import measure_effects
from autoaccel.search.micro_batches import largest_fitting, largest_micro, memory_variants
from autoaccel.search.policy import RESERVE_SHARE
from autoaccel.search.probes import (
    measure_crowding,
    measure_hardware,
    measure_memory,
    measure_reference,
    measure_soundness,
    measure_step_cost,
    run_preflight,
)
from autoaccel.search.question import HORIZON, LONGEST, MIN_CONFIRMATIONS, Question, fits, share_of
from autoaccel.search.system import decided, without_broken, without_memory, without_unsound
from autoaccel.search.transfer import baseline_of, settled
from autoaccel.search.translate import config_of, setting_of
from autoaccel.search.trials import Driver
from autoaccel.space.files import load_space
from autoaccel.space.space import Space
from autoaccel.store.library import Past
from autoaccel.trial import BOUNDED_METRICS, CONFIRMING, SEARCHING, STEP_PROBES, Target

if TYPE_CHECKING:
    from autoaccel.store.shared import SharedStudy

HARDWARE_SHARE, STEP_COST_SHARE, MEMORY_SHARE, CROWDING_SHARE = 0.03, 0.10, 0.02, 0.01
"""Shares of the budget that measuring may take; the memory's is a part of the step cost's."""
PIECES_SHARE = 0.6
"""Of the time for the step cost: for the pieces of a plain step; the rest is for what settings do to it."""
SOUNDNESS_SHARE = 0.3
"""Of what is left of that: for seeing whether the other precisions learn."""
_CROWDED_STEPS = 10
"""In so many steps it is seen how much trials at once disturb each other."""
UNLIMITED_S = 100.0
"""What a budget without a time limit counts as there."""
COMPILING_S, COMPILED_SPEED_UP = 30.0, 1.4
"""What compiling takes (a small ResNet on one core of an EPYC, 2026-11-21: 30 s, 1 s from kept code), and the mean gain
of a training step on an A100 (PyTorch 2, ASPLOS 2024)."""


@dataclass(frozen=True)
class Prepared:
    """Everything the search and the report need."""

    job: Job
    question: Question
    facts: dict[str, Any]
    """What preflight said of the task."""
    profile: HardwareProfile
    setup_s: float
    """Budget seconds that were spent to get here."""
    largest_micro: int | None = None
    """Samples of the largest micro-batch that fits into memory, where the space has larger ones."""
    shared: SharedStudy | None = None
    """Where others see the study while it runs."""


def prepare(driver: Driver, job: Job) -> Prepared:
    """Preflight, hardware profile, step cost, and the checks that need them.

    Raises:
        UsageError: the task, target or space is wrong.
        BudgetTooSmallError: names the smallest budget that would work.
    """
    space = load_space(job.space).fix(job.fix, "pinned by --fix")
    task = run_preflight(driver)
    target = _target(job, task)
    baseline = baseline_of(job.after, task)
    rough = _rough_cost(task, baseline)
    _check_budget(job, rough, baseline, task, driver)
    limit_s = job.budget.seconds_left(Spent(), job.devices)
    limit_s = limit_s if math.isfinite(limit_s) else UNLIMITED_S
    profile = measure_hardware(driver, limit_s=HARDWARE_SHARE * limit_s)
    space = _usable(space, task)
    room = Room(STEP_COST_SHARE * limit_s, STEP_COST_SHARE * job.budget.flops if job.budget.flops else math.inf)
    space, cost = _measured(driver, job, task, baseline, space, room)
    cost = cost if cost.micro.get("fp32") else replace(rough, memory=cost.memory)
    fitting = largest_fitting(cost.memory, baseline, largest_micro(space, baseline, task["n_train"]))
    steps_s = max(1.0, _CROWDED_STEPS * cost.predict(baseline).step_s)
    limit_flops = CROWDING_SHARE * job.budget.flops if job.budget.flops else math.inf
    crowding = measure_crowding(driver, baseline, min(steps_s, CROWDING_SHARE * limit_s), limit_flops)
    question = Question(
        target=target,
        budget=job.budget,
        space=space,
        baseline=baseline if job.after is None else settled(space, baseline),
        cost=cost,
        floor=0.5 / task["n_validation"] if task["metric"] in BOUNDED_METRICS else 1e-6,
        seed=job.seed,
        hit_probability=job.hit_probability,
        finish_s=max(1.0, 0.01 * (job.budget.seconds or 0.0)) + driver.executor.closing_s,
        use_all_budget=job.use_all_budget,
        n_devices=job.devices,
        crowding=crowding,
    )
    _check_budget(job, cost, baseline, task, driver)
    _check_memory(question)
    if _is_one_machine(job, task):
        measure_reference(driver, question)
    return Prepared(job, question, task, profile, driver.at_s(), fitting)


def _measured(
    driver: Driver, job: Job, task: dict[str, Any], baseline: TrainerConfig, space: Space, room: Room
) -> tuple[Space, StepCost]:
    """What a step costs here, and the space without what that decides."""
    began_s = driver.at_s()

    def left(share: float = 1.0) -> Room:
        spent = sum(r.ended.flops for r in driver.ledger.records if r.spec.purpose in STEP_PROBES)
        return Room(share * (room.seconds - (driver.at_s() - began_s)), room.flops - spent)

    share = MEMORY_SHARE / STEP_COST_SHARE
    memory = _memory(driver, job, space, task, baseline, Room(share * room.seconds, share * room.flops))
    fitting = largest_fitting(memory, baseline, largest_micro(space, baseline, task["n_train"]))
    measured = measure_step_cost(driver, fitting or task["n_train"], baseline, space, left(PIECES_SHARE))
    cost = StepCost.from_probe(measured, task["flops_per_sample"], task["evaluation_flops"])
    cost = replace(cost, memory=memory)
    if not cost.micro.get("fp32"):
        return space, cost
    for dtype, ratio in cost.slower_precisions().items():
        if "precision.dtype" in space.paths:
            reason = f"{dtype} is {ratio:.1f}x slower than fp32 here (measured)"
            space = space.without_choice("precision.dtype", dtype, reason)
    others = [dtype for dtype in space.choices("precision.dtype") if dtype != "fp32"]
    losses = measure_soundness(driver, baseline, others, cost.predict(baseline).step_s, left(SOUNDNESS_SHARE))
    space = without_unsound(space, losses)
    space = without_hopeless_compiling(space, cost, baseline, room.seconds / STEP_COST_SHARE)
    if job.n_slots > 1 and "system.threads" in space.paths:
        space = space.fix({"system.threads": 0}, "trials that run at once share the cores")
    if job.n_slots > 1 and "parallel.strategy" in space.paths:
        space = space.fix({"parallel.strategy": "none"}, "trials that run at once share the devices")
    if math.isinf(memory.limit) and not any("oom" in row for row in measured["micro"]):
        space = without_memory(space)
    effects, broken = measure_effects(driver, space, baseline, cost, left)
    space, cost = without_broken(space, broken), cost.with_effects(effects)
    return decided(space, cost, baseline), cost


def _memory(
    driver: Driver, job: Job, space: Space, task: dict[str, Any], baseline: TrainerConfig, room: Room
) -> PeakMemory:
    """What trainings take of the memory that is there; cores share it, GPUs have their own."""
    largest, variants = largest_micro(space, baseline, task["n_train"]), memory_variants(space, task, baseline)
    measured = measure_memory(driver, largest, baseline, variants, room)
    own = {**settings_of(baseline), "parallel.strategy": "none"}  # what the probe has run
    is_shared = task["device"] == "cpu"
    n_sharing = job.n_slots if is_shared else job.n_slots // job.devices
    return PeakMemory.from_probe(measured, own, largest, n_sharing, is_shared=is_shared)


def _is_one_machine(job: Job, task: dict[str, Any]) -> bool:
    """Whether steps in one slot say how fast the others are now: not on the nodes of a cluster or on several GPUs."""
    return job.ray_address is None and (job.devices == 1 or task["device"] == "cpu")


def smallest_budget(cost: StepCost, baseline: TrainerConfig, n_train: int, setup_s: float, n_devices: int = 1) -> Spent:
    """What one trial of a single epoch and its confirmations need, set-up included."""
    epoch = replace(baseline, horizon=replace(baseline.horizon, samples=n_train))
    one = cost.predict(epoch)
    n = 1 + MIN_CONFIRMATIONS
    seconds = 1.2 * (setup_s + n * one.seconds) + 1.0
    return Spent(seconds, n * one.flops / (1 - STEP_COST_SHARE), n_devices * seconds, n)


def plan(prepared: Prepared) -> dict[str, Any]:
    """What the budget will buy, as numbers and as a text of two lines."""
    question, budget = prepared.question, prepared.job.budget
    full = question.cost.predict(question.baseline)
    share = share_of(question, full.seconds, full.flops)
    setup_share = share_of(question, prepared.setup_s, 0.0, 0)
    n_trainings = max(0.0, 1.0 - RESERVE_SHARE - setup_share) / share if share > 0 else math.inf
    training = "default training" if prepared.job.after is None else "training of the answer before"
    text = (
        f"one {training} takes about {full.seconds:.2g}s; after set-up ({prepared.setup_s:.1f}s) and with "
        f"{RESERVE_SHARE:.0%} kept for confirmation, {budget} buys about {n_trainings:.3g} of them\n"
        f"trials get shorter as soon as one hits {question.target}; searched: {', '.join(question.space.paths)}"
    )
    if question.n_slots > 1:
        text += f"\n{question.n_slots} trials at once, each {question.crowded:.2f} times as long as alone"
    if prepared.largest_micro is not None:
        text += f"\n{_micro_text(prepared)}"
    past = question.past
    if past.trainings:
        text += f"\n{past}"
    return {
        "task": prepared.facts["task"],
        "past": past_document(past),
        "target": {"metric": question.target.metric, "value": question.target.value},
        "budget": str(budget),
        "setup_s": prepared.setup_s,
        "default_training_s": full.seconds,
        "default_training_flops": full.flops,
        "default_training_peak_bytes": full.peak_bytes,
        "largest_micro_batch": prepared.largest_micro,
        "default_trainings_affordable": n_trainings,
        "reserve_share": RESERVE_SHARE,
        "trials_at_once": question.n_slots,
        "crowding": question.crowded,
        "searched": list(question.space.paths),
        "decided": {path: question.space.reasons.get(path, "") for path in question.space.fixed},
        "baseline": to_params(question.baseline),
        "device": prepared.facts["device"],
        "text": text,
    }


def _micro_text(prepared: Prepared) -> str:
    question = prepared.question
    rest = "not tried" if "batch.accumulation" in question.space.fixed else "split"
    room = _amount(question.cost.memory.limit)
    return (
        f"micro-batches of up to {prepared.largest_micro} samples fit into the {room} of memory that a training may "
        f"take; larger ones are {rest}"
    )


def _amount(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2g} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def past_document(past: Past) -> dict[str, Any]:
    """What was taken from the library, for the result."""
    return {"trainings": len(past.trainings), "studies": past.n_studies, "notes": list(past.notes)}


def _target(job: Job, task: dict[str, Any]) -> Target:
    value = job.target if job.target is not None else task["target"]
    if value is None:
        raise UsageError(f"task {task['task']!r} has no target", f"Give one: --target VALUE ({task['metric']}).")
    return Target(value, task["direction"], task["metric"])


def _rough_cost(task: dict[str, Any], baseline: TrainerConfig) -> StepCost:
    """Step cost from the two steps of preflight, good enough to refuse a hopeless budget."""
    piece = (baseline.batch.micro, task["rough_step_s"] / baseline.batch.accumulation)
    micro: dict[str, tuple[tuple[int, float], ...]] = {"fp32": (piece,)}
    evaluation = {"fp32": task["rough_evaluation_s"]}
    return StepCost(micro, {}, evaluation, task["flops_per_sample"], task["evaluation_flops"])


def _usable(space: Space, task: dict[str, Any]) -> Space:
    """The space without what this task cannot use, each with the reason."""
    space = space.in_samples(task["n_train"])
    space = space.narrow("batch.size", 1, task["n_train"])
    space = space.narrow(HORIZON, 1, LONGEST * from_dict(task["baseline"]).horizon.samples)
    for row in task["unavailable"]:
        space = _without(space, row)
    return space


def without_hopeless_compiling(space: Space, cost: StepCost, baseline: TrainerConfig, limit_s: float) -> Space:
    """The space without compiling where the whole budget is too short to earn back what it takes.

    Generated code is kept, so that it is paid once for all trainings of a study; whether it makes a step faster here
    the trials find out.
    """
    step_s = cost.predict(baseline).step_s
    n_steps = break_even_steps(step_s, step_s / COMPILED_SPEED_UP, COMPILING_S)
    if "compile.mode" not in space.paths or n_steps * step_s <= limit_s:
        return space
    reason = (
        f"compiling takes about {COMPILING_S:.0f}s; steps {COMPILED_SPEED_UP:g} times as fast would earn that back in "
        f"{format_duration(math.ceil(n_steps * step_s))}, more than the budget"
    )
    return space.fix({"compile.mode": "off"}, reason)


def _without(space: Space, row: dict[str, Any]) -> Space:
    """The space without the values of one setting that this task cannot use (see `trainer.applicability`)."""
    path, off, reason = row["path"], row["off"], row["reason"]
    unusable = (lambda value: value in row["values"]) if row["values"] else (lambda value: value != off)
    if path in space.fixed and unusable(space.fixed[path]):
        raise UsageError(f"{path} is pinned to {space.fixed[path]!r}, but {reason}", f"Leave it out, or use {off!r}.")
    if path not in space.paths:
        return space
    if row["values"] is None:
        return space.fix({path: off}, reason)
    for value in row["values"]:
        space = space.without_choice(path, value, reason)
    return space


def _check_memory(question: Question) -> None:
    """Refuse pinned settings with which not even the default fits into memory: nothing could be compared with it."""
    setting = setting_of(question)
    try:
        config = config_of(question, setting, setting.default, setting.unit)
    except UsageError:
        return  # settings that exclude each other are another matter
    if fits(question, config):
        return
    memory = question.cost.memory
    raise UsageError(
        f"a batch of {config.batch.size} in {config.batch.accumulation} does not fit into memory with what is pinned: "
        f"it needs up to {_amount(memory.upper(settings_of(config)))}, a training may take {_amount(memory.limit)}",
        "Pin a smaller batch.size or a larger batch.accumulation, or leave batch.accumulation out.",
    )


def _check_budget(job: Job, cost: StepCost, baseline: TrainerConfig, task: dict[str, Any], driver: Driver) -> None:
    """Refuse what cannot be done with the budget; a run that has trained already is past that question."""
    setup_s = driver.at_s()
    if any(r.spec.purpose in (*SEARCHING, *CONFIRMING) for r in driver.ledger.records):
        return
    if job.budget.flops is not None and cost.flops_per_sample <= 0:
        raise UsageError(
            f"task {task['task']!r}: the FLOPs of its model cannot be counted", "Use a wall-clock budget instead."
        )
    need = smallest_budget(cost, baseline, task["n_train"], setup_s, job.devices)
    if job.budget.share(need) <= 1:
        return
    amounts = []
    if job.budget.seconds is not None:
        amounts.append(format_duration(float(math.ceil(need.seconds))))
    if job.budget.flops is not None:
        unit = 10.0 ** (math.floor(math.log10(need.flops)) - 1)
        amounts.append(f"{math.ceil(need.flops / unit) * unit:.2g}FLOPs")
    if job.budget.device_seconds is not None:
        amounts.append(f"{math.ceil(need.device_seconds)} device-seconds")
    if job.budget.trials is not None:
        amounts.append(f"{need.trials} trials")
    raise BudgetTooSmallError(
        f"budget {job.budget} is below one trial: set-up took {setup_s:.1f}s, and an answer needs one epoch and "
        f"{MIN_CONFIRMATIONS} confirmations of it",
        f"The smallest that would work here is about {' or '.join(amounts)}.",
    )
