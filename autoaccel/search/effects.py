"""Probes of effects: what each setting of a space does to a plain step, every one in a worker through the executor.

What an earlier session of the run measured is not measured again. Must not decide anything by what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig, to_dict, to_params, with_params
from autoaccel.cost.effects import GROWING, KINDS, Effect, Effects, key_of, kind_of
from autoaccel.cost.step_cost import StepCost
from autoaccel.search.probes import has_trained, next_number, plain, room_json
from autoaccel.search.system import WORTH, fastest, n_processes
from autoaccel.search.trials import Driver, run_trial
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space
from autoaccel.trial import TrialRecord, TrialSpec

_GRACE_S = 5.0
"""A probe keeps its time itself; it is killed this long after it."""
_SMALLEST, _LONG_S, _LONG_DECIDING_S = 8, 0.05, 0.4
"""Effects are measured on smaller steps where one takes longer, down to so many samples; those that decide something on
longer ones."""
_DECIDING = {"rounds": 12, "enough_s": 2.0}
"""How often effects are measured that decide something."""
_COMPILE_ROOM_S, _GROUP_ROOM_S = 30.0, 20.0
"""Compiling is not tried with less time for it: it takes tens of seconds; nor are several processes, which have to
start and to load the task (6 s for a small one on two cores)."""


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
    found: dict[tuple[str, Any], Effect] = {}
    broken: Broken = {}
    dtype = cost.fastest_precision(baseline.batch.micro)
    wide = {"parallel.n_processes": n_processes(space, baseline)}
    config = with_params(plain(baseline), {"precision.dtype": dtype, **wide})
    update_s = cost.update_seconds(config.optim.name, config.optim.kernel, config.optim.state)
    for wanted in wanted_effects(space, baseline, config):
        kind, room = kind_of(wanted.path, wanted.value), left()
        size = _largest_size(cost, baseline, _LONG_DECIDING_S if kind.decides else _LONG_S)
        measured_with = with_params(config, {"batch.size": size, **_decided_before(space, found, wanted.path)})
        step_s = cost.micro_seconds(dtype, _sizes(wanted, measured_with)[0]) + update_s
        least_s = 2 * (kind.points + kind.warm + 1) * step_s + _start_s(wanted)
        has_room = room.seconds > least_s and room.flops > 0 and not has_trained(driver)
        record = _effect_record(driver, wanted, measured_with, room if has_room else None)
        if record is None:
            continue
        if driver.interrupted():
            raise KeyboardInterrupt
        told = record.ended.facts
        if record.ended.outcome == "crashed" or told.get("failed"):
            reason = told.get("failed") or record.ended.message
            broken[wanted.path, wanted.value] = f"it failed when it was tried: {reason}"
        elif told.get("sizes"):
            found[wanted.key] = _effect(wanted, told, update_s)
    return found, broken


def _largest_size(cost: StepCost, baseline: TrainerConfig, long_s: float) -> int:
    """Samples of a step that is not long: the baseline's micro-batch, or halves of it."""
    micro = baseline.batch.micro
    dtype = cost.fastest_precision(micro)
    while micro > _SMALLEST and cost.micro_seconds(dtype, micro) > long_s:
        micro //= 2
    return micro


def _decided_before(space: Space, effects: Effects, path: str) -> dict[str, Any]:
    """What was measured of other settings has decided them: steps will have it. Not of those that exist at times."""
    conditional = {knob.path for knob in space.knobs if knob.when}
    paths = [p for p, kind in KINDS.items() if kind.decides and p != path and p not in conditional]
    best = {p: fastest(space, p, effects) for p in paths}
    return {p: found[0] for p, found in best.items() if found is not None and found[1] <= WORTH}


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
            "sizes": _sizes(wanted, config),
            "points": kind.points,
            "warm": kind.warm,
            "compiles": wanted.compiles,
            **(_DECIDING if kind.decides else {}),
        },
    }
    for record in driver.ledger.records:
        if record.spec.purpose == "effect" and probe.items() <= record.spec.probe.items():
            return record
    if room is None:
        return None
    spec = TrialSpec(next_number(driver), "effect", probe={**probe, "room": room_json(room)})
    return run_trial(driver, spec, room.seconds + _GRACE_S)


def _start_s(wanted: Wanted) -> float:
    """What is set aside for the first step."""
    if wanted.compiles:
        return _COMPILE_ROOM_S
    return _GROUP_ROOM_S if wanted.path == "parallel.strategy" else 0.0


def _sizes(wanted: Wanted, config: TrainerConfig) -> list[int]:
    """Batch sizes at which an effect is measured: never above the micro-batch that is known to fit, and none that
    several processes could not share. What decides is measured at a third, small one, for the price of small
    micro-batches: there threads wait more than they compute."""
    micro, least = config.batch.size, config.parallel.n_processes if wanted.path == "parallel.strategy" else 2
    if wanted.compiles:
        return [micro]
    small = (16, 4) if kind_of(wanted.path, wanted.value).decides else (4,)
    return sorted({micro, *(min(micro, max(least, micro // share)) for share in small)})
