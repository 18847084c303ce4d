"""Settings that change seconds and nothing else: decided by what was measured, not by trials.

Must not measure, nor know budgets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from autoaccel.config import TrainerConfig
from autoaccel.cost.break_even import break_even_steps
from autoaccel.cost.effects import KINDS, Effect, Effects
from autoaccel.cost.step_cost import StepCost, optimizer_form
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space

SYSTEM = (
    "parallel.strategy",
    "precision.matmul",
    "memory.format",
    "system.attention",
    "system.cudnn_benchmark",
    "system.threads",
    "loader.workers",
)
"""One value of each is as good as another for what is learned, but for rounding."""
MEMORY = ("memory.checkpointing", "memory.budget", "memory.offload")
"""These buy memory with seconds."""
TOLERANCE = 0.25
"""Share of what fp32 has learned in the first steps that another precision may lack: fp16 skips a few of them."""
WORTH = 0.97
"""A step with a setting has to take at most this share of the seconds without it: less is noise."""


def without_memory(space: Space) -> Space:
    """The space without the settings that buy memory, where every batch that was tried fitted."""
    for path in MEMORY:
        if path in space.paths:
            space = space.fix({path: KINDS[path].free[0]}, "memory is not short here, and it takes seconds")
    return space


def without_broken(space: Space, broken: Mapping[tuple[str, Any], str]) -> Space:
    """The space without what failed when it was measured; what cannot be left out stays for a training to find out."""
    for (path, value), reason in broken.items():
        if value in space.choices(path) and KINDS[path].by_value:
            space = space.without_choice(path, value, reason)
        elif value in space.choices(path):  # one stands for all
            space = space.fix({path: KINDS[path].free[0]}, reason)
    return space


def without_unsound(space: Space, losses: Mapping[str, Sequence[float | None]]) -> Space:
    """The space without the precisions in which the baseline begins to learn clearly worse than in fp32.

    Args:
        space: with precisions to choose from.
        losses: of the first steps, by precision, the same samples in the same order; None: not finite.
    """
    reference = losses.get("fp32", ())
    for dtype, found in losses.items():
        why = _unsound(reference, found) if dtype != "fp32" else ""
        if why and "precision.dtype" in space.paths:
            space = space.without_choice("precision.dtype", dtype, f"{dtype}: {why} (measured)")
    return space


def _unsound(reference: Sequence[float | None], found: Sequence[float | None]) -> str:
    """What is wrong with losses beside those of fp32; empty if nothing is."""
    plain, own = [v for v in reference if v is not None], [v for v in found if v is not None]
    if len(plain) < len(reference) or not plain:
        return ""  # not the precision's fault
    if len(own) < len(found):
        return "its loss is not finite"
    n = max(1, len(plain) // 4)
    learned, lag = fmean(plain[:n]) - fmean(plain[-n:]), fmean(own[-n:]) - fmean(plain[-n:])
    chance = 2 * stdev(plain[-n:]) / math.sqrt(n) if n > 1 else math.inf
    if lag <= TOLERANCE * max(learned, 0.0) + chance:
        return ""
    return f"after {len(own)} steps its loss is {lag:.2g} above that of fp32, which fell by {learned:.2g}"


def decided(space: Space, cost: StepCost, baseline: TrainerConfig) -> Space:
    """The space without the settings that measuring has decided, each with the reason.

    Args:
        space: after everything that this task cannot use was left out.
        cost: with the effects that were measured.
        baseline: whose steps are compared.
    """
    for path in SYSTEM:
        if path in space.paths:
            space = _decided(space, path, fastest(space, path, cost.effects))
    if "parallel.n_processes" in space.paths:
        n = n_processes(space, baseline)
        space = space.fix({"parallel.n_processes": n}, "as many as there are devices" if n > 2 else "the fewest")
    if "compile.mode" in space.paths:
        space = _with_paying_compiler(space, cost, baseline)
    return _with_fastest_kernels(space, cost)


def n_processes(space: Space, baseline: TrainerConfig) -> int:
    """Over how many devices a training is spread where it is spread: what is pinned, else as many as there are."""
    pinned = space.fixed.get("parallel.n_processes", baseline.parallel.n_processes)
    return max(space.choices("parallel.n_processes"), default=int(pinned))


def fastest(space: Space, path: str, effects: Effects) -> tuple[Any, float] | None:
    """Of the values of a setting that are possible wherever it is, the one whose steps are fastest, and what
    they take of the plain one's (see `_ratio`); None if none was measured."""
    knobs = [knob for knob in space.knobs if knob.path == path]
    measured = (effect for effect in effects.values() if effect.path == path)
    ratios = {effect.value: _ratio(effect) for effect in measured if all(effect.value in k.choices for k in knobs)}
    return min(ratios.items(), key=lambda pair: pair[1], default=None)


def _decided(space: Space, path: str, best_ratio: tuple[Any, float] | None) -> Space:
    """With the fastest value of a setting, if it was measured and beats the plain one beyond chance."""
    off = KINDS[path].free[0]
    if best_ratio is None:
        tried = space.reasons.get(path) or "not measured in time"
        return _settled(space, path, off, tried)
    best, ratio = best_ratio
    if ratio <= WORTH:
        return _settled(space, path, best, f"a step takes {ratio:.2f} of the seconds with {off} (measured)")
    seen = f"{ratio:.2f} of the seconds" if ratio != 1.0 else "no difference beyond chance"
    return _settled(space, path, off, f"no faster here with {best}: {seen} (measured)")


def _settled(space: Space, path: str, value: Any, reason: str) -> Space:
    """The space with one value of a setting, wherever it exists: what it excludes is still searched without it."""
    conditional = any(p in space.paths for knob in space.knobs if knob.path == path for p in knob.when)
    if value == KINDS[path].free[0] or not conditional:
        return space.fix({path: value}, reason)
    knobs = tuple(replace(k, choices=(value,), prior=()) if k.path == path else k for k in space.knobs)
    return replace(space, knobs=knobs, reasons={**space.reasons, path: reason})


def _ratio(effect: Effect) -> float:
    """What whole steps take with a setting over without, on average over the two largest sizes: a training's own is
    hardly smaller. 1 where chance could make the difference; where one of them loses, by how much."""
    pairs = zip(effect.changed_s[-2:], effect.plain_s[-2:], strict=True)
    logs = [math.log(changed / plain) for changed, plain in pairs]
    lost = [log for i, log in enumerate(logs, len(effect.sizes) - len(logs)) if log > 0 and effect.is_seen(i)]
    error = math.hypot(*effect.error[-2:]) / len(logs)
    if lost:
        return math.exp(max(lost))
    return math.exp(fmean(logs)) if abs(fmean(logs)) > 2 * error else 1.0


def _with_paying_compiler(space: Space, cost: StepCost, baseline: TrainerConfig) -> Space:
    """The space without the modes that do not earn in a training of the baseline's length what their start takes.

    Shorter trainings earn less: whether compiling pays in them is for the search, which knows the price.
    """
    step_s = cost.predict(baseline).step_s
    for mode in [m for m in space.choices("compile.mode") if m not in KINDS["compile.mode"].free]:
        effect = cost.effects.get(("compile.mode", mode))
        if effect is None:
            space = space.without_choice("compile.mode", mode, f"{mode}: not measured in time")
            continue
        ratio = _ratio(effect)
        steps = break_even_steps(step_s, ratio * step_s, effect.setup_s)
        if baseline.n_steps < steps:
            gain = "it is no faster" if math.isinf(steps) else f"{effect.setup_s:.1f}s pay from {steps:.0f} steps on"
            reason = f"{mode}: a step takes {ratio:.2f} of the seconds, {gain} (measured)"
            space = space.without_choice("compile.mode", mode, reason)
    return space


def _with_fastest_kernels(space: Space, cost: StepCost) -> Space:
    """Of the kernels of an optimizer, the one whose update was measured fastest; all where one was not measured."""
    knobs = tuple(_fastest(knob, cost) if knob.path == "optim.kernel" else knob for knob in space.knobs)
    return replace(space, knobs=knobs)


def _fastest(knob: Knob, cost: StepCost) -> Knob:
    names = knob.wanted("optim.name") if "optim.name" in knob.when else ()
    seconds = {choice: [cost.optimizer.get(optimizer_form(name, choice)) for name in names] for choice in knob.choices}
    sums = {choice: sum(s for s in found if s is not None) for choice, found in seconds.items()}
    if not names or any(s is None for found in seconds.values() for s in found):
        return knob
    return replace(knob, choices=(min(sums, key=lambda choice: sums[choice]),), prior=())
