"""Probes: the task tried, the machine and a step measured, each in a worker through the executor.

What an earlier session of the run measured is not measured again. Must not decide anything by what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig, to_dict, to_params, with_params
from autoaccel.cost.effects import GROWING, KINDS, OFF, Effect, key_of, kind_of
from autoaccel.cost.step_cost import StepCost, optimizer_form
from autoaccel.errors import EnvironmentFaultError
from autoaccel.fingerprint import software
from autoaccel.hardware.profile import HardwareProfile, assemble, facts, fingerprint, load_cached, save_cached
from autoaccel.search.trials import Driver, run_trial
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space
from autoaccel.trial import CONFIRMING, SEARCHING, TrialRecord, TrialSpec

PROBE_LIMIT_S = 600.0
"""A probe that takes longer hangs: loading a task's data is the longest thing one does."""
N_SOUND = 40
"""Steps after which precisions are compared."""
_EFFECT_GRACE_S = 5.0
"""The probe of an effect keeps its time itself; it is killed this long after it."""
_MICRO_SIZES = (16, 32, 64, 128, 256, 512, 1024)
_SMALLEST, _LONG_S = 8, 0.05
"""Effects are measured on smaller steps where one takes longer, down to so many samples."""
_COMPILE_ROOM_S = 30.0
"""Compiling is not tried with less time for it: it takes tens of seconds."""


def run_preflight(driver: Driver) -> dict[str, Any]:
    """Check the task in a worker; UsageError with everything that is wrong."""
    return _probe(driver, "preflight", {})


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
    if cached is not None and _measured_before(driver, "hardware") is not None:
        return cached
    probe = {"limit_s": limit_s, "cached": cached.to_json() if cached else None, "folder": folder}
    measured = _probe(driver, "hardware", probe)
    profile = assemble(known, measured, versions)
    save_cached(profile)
    return profile


def measure_step_cost(
    driver: Driver, task: dict[str, Any], baseline: TrainerConfig, space: Space, room: Room
) -> dict[str, Any]:
    """Measured seconds of the pieces of a plain step, for what a space has; see `trainer.measure.measure_steps`."""
    sizes = {size for size in _MICRO_SIZES if size <= task["n_train"]} | {baseline.batch.micro}
    probe = {
        "config": to_dict(plain(baseline)),
        "micro": sorted(sizes),
        "dtypes": ["fp32", *sorted({*space.choices("precision.dtype"), baseline.precision.dtype} - {"fp32"})],
        "optimizers": _optimizers(space, baseline),
        "room": _plain(room),
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
    if not dtypes or (is_new and (_has_trained(driver) or 2 * N_SOUND * step_s > room.seconds)):
        return {}
    probe = {"config": to_dict(baseline), "dtypes": ["fp32", *dtypes], "n_steps": N_SOUND, "room": _plain(room)}
    losses: dict[str, list[float | None]] = _probe(driver, "soundness", probe)["losses"]
    return losses


def plain(config: TrainerConfig) -> TrainerConfig:
    """The config without everything whose effect on a step is measured for itself."""
    return with_params(config, OFF)


@dataclass(frozen=True)
class Wanted:
    """An effect to be measured."""

    path: str
    value: Any
    params: Mapping[str, Any]
    """The setting and what is measured with it."""
    conditions: Mapping[str, Any]
    """What both sides have, for the setting to exist at all."""

    @property
    def key(self) -> tuple[str, Any]:
        return key_of(self.path, self.value, larger=self.params.get("curriculum.batch") == "larger")

    @property
    def compiles(self) -> bool:
        return kind_of(self.path, self.value).compiles or self.conditions.get("compile.mode", "off") != "off"


Effects = list[tuple[tuple[str, Any], Effect]]
Broken = dict[tuple[str, Any], str]


def measure_effects(
    driver: Driver, space: Space, baseline: TrainerConfig, cost: StepCost, left: Callable[[], Room]
) -> tuple[Effects, Broken]:
    """Effects of the settings of a space on a plain step, as many as there is room for.

    Each is a probe of its own: one that kills its worker is a setting that this machine cannot use, and nothing else.

    Args:
        driver: what runs the probes.
        space: whose settings.
        baseline: whose settings are measured too.
        cost: of a plain step.
        left: the room that is left.

    Returns:
        What was measured; and by path and value, why one cannot be used.
    """
    found: Effects = []
    broken: Broken = {}
    micro = baseline.batch.micro
    dtype = cost.fastest_precision(micro)
    while micro > _SMALLEST and cost.micro_seconds(dtype, micro) > _LONG_S:
        micro //= 2
    config = with_params(plain(baseline), {"precision.dtype": dtype, "batch.size": micro})
    update_s = cost.update_seconds(config.optim.name, config.optim.kernel, config.optim.state)
    for wanted in wanted_effects(space, baseline, config):
        kind, room = kind_of(wanted.path, wanted.value), left()
        least_s = 2 * (kind.points + kind.warm + 1) * (cost.micro_seconds(dtype, _sizes(wanted, micro)[0]) + update_s)
        least_s += _COMPILE_ROOM_S if wanted.compiles else 0.0
        has_room = room.seconds > least_s and room.flops > 0 and not _has_trained(driver)
        record = _effect_record(driver, wanted, config, room if has_room else None)
        if record is None:
            continue
        if driver.interrupted():
            raise KeyboardInterrupt
        told = record.ended.facts
        if record.ended.outcome == "crashed" or told.get("failed"):
            reason = told.get("failed") or record.ended.message
            broken[wanted.path, wanted.value] = f"it failed when it was tried: {reason}"
        elif told.get("sizes"):
            found.append((wanted.key, _effect(wanted, told, update_s)))
    return found, broken


def _effect(wanted: Wanted, told: dict[str, Any], update_s: float) -> Effect:
    sizes, plain_s, changed_s, error = (tuple(told[name]) for name in ("sizes", "plain_s", "changed_s", "error"))
    return Effect(
        path=wanted.path,
        value=wanted.value,
        sizes=sizes,
        plain_s=plain_s,
        changed_s=changed_s,
        error=error,
        update_s=update_s,
        setup_s=told["setup_s"],
        flops_ratio=told["flops_ratio"],
    )


def wanted_effects(space: Space, baseline: TrainerConfig, config: TrainerConfig) -> list[Wanted]:
    """Every setting whose effect is measured: first what the baseline or a pin sets, then the choices of a space, in
    the order of `KINDS`.

    Args:
        space: whose choices and pins.
        baseline: whose settings.
        config: the plain one they are added to.
    """
    given, have = {**to_params(baseline), **space.fixed}, to_params(config)
    found: dict[tuple[str, Any], Wanted] = {}
    for path, kind in KINDS.items():
        _want(found, path, (given[path],), {p: given[p] for p in kind.needs}, given["curriculum.batch"])
    ways = ("same", "larger") if "larger" in space.choices("curriculum.batch") else ("same",)
    for path in KINDS:
        knobs = [(knob, _conditions(knob, have)) for knob in space.knobs if knob.path == path]
        for knob, conditions in sorted(knobs, key=lambda pair: len(pair[1])):
            for way in ways:
                _want(found, path, knob.choices, conditions, way)
    return list(found.values())


def _want(
    found: dict[tuple[str, Any], Wanted], path: str, values: tuple[Any, ...], conditions: Mapping[str, Any], way: str
) -> None:
    """Add what is not there yet of the values that change anything."""
    grows = {"curriculum.batch": way} if path in GROWING else {}
    for value in values:
        kind = kind_of(path, value)
        if value not in kind.free:
            wanted = Wanted(path, value, {**kind.beside, **grows, path: value}, conditions)
            found.setdefault(wanted.key, wanted)


def _conditions(knob: Knob, have: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be set for a knob to exist, as far as it is not."""
    return {path: knob.wanted(path)[0] for path in knob.when if have[path] not in knob.wanted(path)}


def _effect_record(driver: Driver, wanted: Wanted, config: TrainerConfig, room: Room | None) -> TrialRecord | None:
    """The probe of an effect: that of an earlier session if there is one; None where there is none and no room."""
    kind = kind_of(wanted.path, wanted.value)
    probe = {
        "config": to_dict(with_params(config, dict(wanted.conditions))),
        "params": dict(wanted.params),
        "blocks": {
            "sizes": _sizes(wanted, config.batch.size),
            "points": kind.points,
            "rounds": kind.rounds,
            "warm": kind.warm,
            "compiles": wanted.compiles,
        },
    }
    for record in driver.ledger.records:
        if record.spec.purpose == "effect" and probe.items() <= record.spec.probe.items():
            return record
    if room is None:
        return None
    spec = TrialSpec(_next_number(driver), "effect", probe={**probe, "room": _plain(room)})
    return run_trial(driver, spec, room.seconds + _EFFECT_GRACE_S)


def _sizes(wanted: Wanted, micro: int) -> list[int]:
    """Batch sizes at which an effect is measured: never above the micro-batch that is known to fit."""
    return [micro] if wanted.compiles else sorted({min(micro, max(2, micro // 4)), micro})


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


def _plain(room: Room) -> dict[str, float]:
    """Strict JSON has no infinity."""
    return {"seconds": min(room.seconds, 1e300), "flops": min(room.flops, 1e300)}


def _probe(driver: Driver, purpose: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a worker measures; what an earlier session of this run measured is not measured again."""
    before = _measured_before(driver, purpose)
    if before is not None and purpose != "hardware":
        return before
    record = run_trial(driver, TrialSpec(_next_number(driver), purpose, probe=arguments), PROBE_LIMIT_S)
    if record.ended.outcome != "done":
        if driver.interrupted():
            raise KeyboardInterrupt
        raise EnvironmentFaultError(
            f"the worker process failed while running {purpose}: {record.ended.message}",
            "The run directory's worker.log has what it printed.",
        )
    return record.ended.facts


def _measured_before(driver: Driver, purpose: str) -> dict[str, Any] | None:
    done = (r for r in driver.ledger.records if r.spec.purpose == purpose and r.ended.outcome == "done")
    return next((r.ended.facts for r in done), None)


def _has_trained(driver: Driver) -> bool:
    """A run that has trained decides by what it knew then."""
    return any(r.spec.purpose in (*SEARCHING, *CONFIRMING) for r in driver.ledger.records)


def _next_number(driver: Driver) -> int:
    return 1 + max((r.spec.trial for r in driver.ledger.records), default=0)
