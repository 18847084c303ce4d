"""How large micro-batches of a space can get, and how large they may be where memory does not suffice for all of them.

Pure functions of a space. Must not measure, nor split anything (see `question.config_at`).
"""

from __future__ import annotations

import math
from typing import Any

from autoaccel.config import Params, TrainerConfig, to_params
from autoaccel.cost.memory import PeakMemory, settings_of
from autoaccel.space.space import Space

_SIZE, _PIECES = "batch.size", "batch.accumulation"
_CHANGING = ("precision.dtype", "memory.checkpointing")
"""Settings that change what a sample takes, and are measured."""


def largest_micro(space: Space, baseline: TrainerConfig, n_train: int) -> int:
    """Samples of the largest micro-batch that a config of the space could have."""
    sizes = [knob.high for knob in space.knobs if knob.path == _SIZE]
    pieces = [n for knob in space.knobs if knob.path == _PIECES for n in knob.choices or (knob.low,)]
    size = max([*sizes, float(space.fixed.get(_SIZE, baseline.batch.size))])
    fewest = min(pieces, default=int(space.fixed.get(_PIECES, baseline.batch.accumulation)))
    return math.ceil(min(n_train, size) / int(fewest))


def memory_variants(space: Space, task: dict[str, Any], baseline: TrainerConfig) -> list[Params]:
    """Settings beside the baseline's that change what a sample takes, of those that this task and device can have."""
    have, found = to_params(baseline), list[Params]()
    for path in _CHANGING:
        wanted = {choice for knob in space.knobs if knob.path == path for choice in knob.choices}
        wanted |= {space.fixed.get(path, have[path])}
        for row in task["unavailable"]:
            if row["path"] == path:
                wanted -= set(row["values"] or wanted - {row["off"]})
        found += [{path: value} for value in sorted(wanted - {have[path]})]
    return found


def largest_fitting(memory: PeakMemory, baseline: TrainerConfig, largest: int) -> int | None:
    """Samples of the largest micro-batch that fits, where one of `largest` does not; as the baseline in all else."""
    whole = {**settings_of(baseline), "batch.size": max(largest, baseline.batch.size), "batch.accumulation": 1}
    return None if memory.fits(whole, largest) else memory.largest_micro(whole)
