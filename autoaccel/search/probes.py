"""Probes: the task tried, the machine, a step, and steps at once measured, each in workers through the executor.

What an earlier session of the run measured is not measured again. Must not decide anything by what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autoaccel.budget import Room
from autoaccel.config import Params, TrainerConfig, to_dict, with_params
from autoaccel.cost.effects import OFF
from autoaccel.cost.step_cost import optimizer_form
from autoaccel.errors import EnvironmentFaultError, UsageError
from autoaccel.fingerprint import software
from autoaccel.hardware.profile import HardwareProfile, assemble, facts, fingerprint, load_cached, save_cached
from autoaccel.search.crowding import Crowding, crowding_of
from autoaccel.search.question import Question, left_of
from autoaccel.search.reference import first_reference
from autoaccel.search.trials import Driver, run_together, run_trial
from autoaccel.space.space import Space
from autoaccel.trial import CONFIRMING, CROWDING, LOST, PREFLIGHT, SEARCHING, TrialRecord, TrialSpec

PROBE_LIMIT_S = 600.0
"""A probe that takes longer hangs: loading a task's data is the longest thing one does."""
N_SOUND = 40
"""Steps after which precisions are compared."""
MICRO_SIZES = (16, 32, 64, 128, 256, 512, 1024)
"""Micro-batches that a step is timed in, beside the baseline's."""
_MOST_PIECES = 400
"""Of one measurement of neighbours; it ends when its time is over."""


def run_preflight(driver: Driver) -> dict[str, Any]:
    """Check the task, in a worker of every slot at the same time: each takes seconds to start.

    Raises:
        UsageError: with everything that is wrong.
    """
    if driver.executor.n_slots == 1 or _measured_before(driver, PREFLIGHT) is not None:
        return _probe(driver, PREFLIGHT, {})
    return _together(driver, TrialSpec(0, PREFLIGHT))[0]


def measure_hardware(
    driver: Driver, limit_s: float = 2.0, use_cache: bool = True, folder: str | None = None
) -> HardwareProfile:
    """This machine's profile; with `use_cache` only the rates are measured that the cache has not.

    Args:
        driver: what to measure with.
        limit_s: seconds to spend.
        use_cache: whether rates measured before are taken.
        folder: whose disk is read, each time anew; None: no disk's.
    """
    known, versions = facts(), software()
    cached = load_cached(fingerprint(known, versions)) if use_cache else None
    before = _measured_before(driver, "hardware")
    if cached is not None and before is not None and _machine(before, known) == known:
        return cached
    probe = {"limit_s": limit_s, "cached": cached.to_json() if cached else None, "folder": folder}
    measured = _probe(driver, "hardware", probe)
    profile = assemble(_machine(measured, known), {k: v for k, v in measured.items() if k != "machine"}, versions)
    save_cached(profile)
    return profile


def _machine(measured: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """Facts of the machine that was measured: of this one, which a worker may see in part, unless it is another."""
    found: dict[str, Any] = measured.get("machine", here)
    return here if (found["cpu_model"], found["os"]) == (here["cpu_model"], here["os"]) else found


def measure_memory(
    driver: Driver, largest: int, baseline: TrainerConfig, variants: Sequence[Params], room: Room
) -> dict[str, Any]:
    """Measured peak bytes of steps in micro-batches of at most `largest` samples, of the baseline and where memory is
    scarce of variants of it; see `trainer.memory_peak.measure_peak`.

    A probe that failed has measured nothing: memory is what it may have died of.
    """
    probe = {"config": to_dict(baseline), "largest": largest, "variants": list(variants), "room": room_json(room)}
    before = [r for r in driver.ledger.records if r.spec.purpose == "memory_peak" and r.ended.outcome != "interrupted"]
    record = before[-1] if before else _run(driver, TrialSpec(next_number(driver), "memory_peak", probe=probe))
    if record.ended.outcome == "done":
        return record.ended.facts
    return {"steps": [], "reason": f"measuring it failed: {record.ended.message}"}


def measure_step_cost(
    driver: Driver, largest: int, baseline: TrainerConfig, space: Space, room: Room
) -> dict[str, Any]:
    """Measured seconds of the pieces of a plain step in micro-batches of at most `largest` samples, for what a space
    has; see `trainer.measure.measure_steps`."""
    sizes = {size for size in MICRO_SIZES if size <= largest} | {baseline.batch.micro}
    probe = {
        "config": to_dict(plain(baseline)),
        "micro": sorted(sizes),
        "dtypes": ["fp32", *sorted({*space.choices("precision.dtype"), baseline.precision.dtype} - {"fp32"})],
        "optimizers": _optimizers(space, baseline),
        "room": room_json(room),
    }
    return _probe(driver, "step_cost", probe)


def measure_breakdown(driver: Driver, baseline: TrainerConfig, limit_s: float) -> dict[str, Any]:
    """Where a step of the baseline goes; see `trainer.breakdown.measure_breakdown`."""
    return _probe(driver, "breakdown", {"config": to_dict(baseline), "limit_s": limit_s})


def measure_soundness(
    driver: Driver, baseline: TrainerConfig, dtypes: Sequence[str], step_s: float, room: Room
) -> dict[str, list[float | None]]:
    """Losses of the first steps of the baseline in fp32 and in other precisions; see `trainer.soundness`.

    Args:
        driver: what runs the probe.
        baseline: what is trained.
        dtypes: the other precisions.
        step_s: predicted seconds of a step of the slowest.
        room: what may be spent; nothing is run if not even the pair fits.
    """
    is_new = _measured_before(driver, "soundness") is None
    if not dtypes or (is_new and (has_trained(driver) or 2 * N_SOUND * step_s > room.seconds)):
        return {}
    probe = {"config": to_dict(baseline), "dtypes": ["fp32", *dtypes], "n_steps": N_SOUND, "room": room_json(room)}
    losses: dict[str, list[float | None]] = _probe(driver, "soundness", probe)["losses"]
    return losses


def measure_crowding(
    driver: Driver, config: TrainerConfig, limit_s: float, limit_flops: float = math.inf
) -> Crowding | None:
    """How much longer a step takes with all slots busy: the same steps again and again, in one and then in all at once.

    Args:
        driver: with the slots.
        config: what a step is.
        limit_s: seconds to measure for each time.
        limit_flops: FLOPs to spend.

    Returns:
        What was found; None where trials do not run at once.

    Raises:
        UsageError: so many trials at once do not run.
    """
    n, was_alone = driver.executor.n_slots, "in one slot"
    if n == 1:
        return None
    found = [r for r in driver.ledger.records if r.spec.purpose == CROWDING and r.ended.outcome == "done"]
    alone = [r.ended.facts for r in found if r.spec.note == was_alone]
    together = [r.ended.facts for r in found if r.spec.note != was_alone]
    if not alone or len(together) < n:
        _together(driver, TrialSpec(0, PREFLIGHT))  # workers that were replaced load the task first
        cap_flops = limit_flops / (n + 1) if math.isfinite(limit_flops) else None
        probe = {"config": to_dict(config), "limit_s": limit_s, "n_pieces": _MOST_PIECES}
        spec = TrialSpec(next_number(driver), CROWDING, cap_flops=cap_flops, note=was_alone, probe=probe)
        alone = [_done(_run(driver, spec))]
        together = _together(driver, replace(spec, note="in all slots"))
    return crowding_of(alone[-1], together[-n:])


def _together(driver: Driver, spec: TrialSpec) -> list[dict[str, Any]]:
    """What a probe in every slot finds, all at the same time."""
    n, number = driver.executor.n_slots, next_number(driver)
    records = run_together(driver, [replace(spec, trial=number + i) for i in range(n)], PROBE_LIMIT_S)
    if driver.interrupted():
        raise KeyboardInterrupt
    if any(r.ended.outcome == LOST for r in records):  # a second time it is a crash
        return _together(driver, spec)
    failed = next((r.ended for r in records if r.ended.outcome != "done"), None)
    if failed is not None:
        raise UsageError(
            f"{n} trials at once do not run here: {spec.purpose} ended as {failed.outcome}: {failed.message}",
            "Use fewer --trials-at-once, or more --devices.",
        )
    return [r.ended.facts for r in records]


def plain(config: TrainerConfig) -> TrainerConfig:
    """The config without everything whose effect on a step is measured for itself."""
    return with_params(config, OFF)


def _optimizers(space: Space, baseline: TrainerConfig) -> dict[str, dict[str, Any]]:
    """Settings of every form of every optimizer of a space, that of the baseline first."""
    own = {f"optim.{name}": getattr(baseline.optim, name) for name in ("name", "kernel", "state")}
    names = list(dict.fromkeys([baseline.optim.name, *space.choices("optim.name")]))
    found = {optimizer_form(*own.values()): own}
    found.update({name: {"optim.name": name} for name in names if name not in found})
    for knob in space.knobs:
        if knob.path not in ("optim.kernel", "optim.state"):
            continue
        fitting = [name for name in names if "optim.name" not in knob.when or name in knob.wanted("optim.name")]
        for name in fitting if "optim.state" not in knob.when or "fp32" in knob.wanted("optim.state") else []:
            for value in knob.choices:
                found.setdefault(optimizer_form(name, value), {"optim.name": name, knob.path: value})
    return found


def room_json(room: Room) -> dict[str, float]:
    """Strict JSON has no infinity."""
    return {"seconds": min(room.seconds, 1e300), "flops": min(room.flops, 1e300)}


def measure_reference(driver: Driver, question: Question) -> None:
    """Reference steps, in every session: another one may find the machine in another state. What fails is no error."""
    spec, left = first_reference(question, next_number(driver)), left_of(question, driver.spent())
    if spec is not None and left.seconds > 2 * spec.probe["limit_s"] and left.share > 0:
        run_trial(driver, spec, left.seconds)


def _probe(driver: Driver, purpose: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a worker measures; what an earlier session of this run measured is not measured again."""
    before = _measured_before(driver, purpose)
    if before is not None and purpose != "hardware":
        return before
    return _done(_run(driver, TrialSpec(next_number(driver), purpose, probe=arguments)))


def _done(record: TrialRecord) -> dict[str, Any]:
    """What a probe found."""
    if record.ended.outcome != "done":
        raise EnvironmentFaultError(
            f"the worker process failed while running {record.spec.purpose}: {record.ended.message}",
            "The run directory's worker.log has what it printed.",
        )
    return record.ended.facts


def _run(driver: Driver, spec: TrialSpec) -> TrialRecord:
    """A probe to its end, whatever that is."""
    record = run_trial(driver, spec, PROBE_LIMIT_S)
    if record.ended.outcome != "done" and driver.interrupted():
        raise KeyboardInterrupt
    return record


def _measured_before(driver: Driver, purpose: str) -> dict[str, Any] | None:
    done = (r for r in driver.ledger.records if r.spec.purpose == purpose and r.ended.outcome == "done")
    return next((r.ended.facts for r in done), None)


def has_trained(driver: Driver) -> bool:
    """A run that has trained decides by what it knew then."""
    return any(r.spec.purpose in (*SEARCHING, *CONFIRMING) for r in driver.ledger.records)


def next_number(driver: Driver) -> int:
    return 1 + max((r.spec.trial for r in driver.ledger.records), default=0)
