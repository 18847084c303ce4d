"""What a re-tuning takes over from the run it is for: its answer as the baseline, its trainings as the past.

Samples to the target do not depend on the machine and are taken over; seconds do, and are measured anew, and with them
the settings that change nothing but seconds. Must not decide what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoaccel.config import Params, TrainerConfig, from_dict, to_params, with_params
from autoaccel.errors import UsageError
from autoaccel.fingerprint import task_differences, task_fingerprint
from autoaccel.search.system import MEMORY, SYSTEM
from autoaccel.space.space import Space
from autoaccel.store.library import Past, load_past, merged
from autoaccel.store.lineage import lineage, past_of, task_facts

SECONDS_ALONE = (
    *SYSTEM,
    *MEMORY,
    "compile.mode",
    "loader.prefetch",
    "loader.pin",
    "optim.kernel",
    "parallel.n_processes",
    "parallel.bucket_mb",
    "parallel.offload",
)
"""Settings that change seconds and memory but, up to rounding, not what is learned: another machine wants others."""
PRECISIONS = ("precision.dtype", "optim.state")
"""Settings that hardly change what is learned, and that not every machine has: kept where they are possible."""


def baseline_of(after: str | None, task: Mapping[str, Any]) -> TrainerConfig:
    """What a study is compared with: the task's recipe, or the latest answer of the run that is tuned again.

    Raises:
        UsageError: the run is not finished, or was tuned for another task.
    """
    recipe = from_dict(task["baseline"])
    if after is None:
        return recipe
    run = Path(after)
    before = task_facts(run)
    if changed := task_differences(before, task):
        raise UsageError(
            f"{run}: was tuned for another task: {', '.join(changed)} changed since then",
            "What it found does not hold for it: tune anew with `autoaccel tune`.",
        )
    latest = lineage(run)[-1]
    return usable(latest.config, task) if latest.has_hit else recipe


def usable(config: TrainerConfig, task: Mapping[str, Any]) -> TrainerConfig:
    """The config without the settings that this task cannot use on this device."""
    have = to_params(config)
    rows = [(row["path"], row["off"], row["values"]) for row in task["unavailable"]]
    off = {path: off for path, off, values in rows if (have[path] in values if values else have[path] != off)}
    return with_params(config, off)


def settled(space: Space, config: TrainerConfig) -> TrainerConfig:
    """An answer of another machine with what this one has decided or cannot have otherwise; what is learned stays."""
    have = to_params(config)
    try:
        return with_params(config, as_here(space, have, have))
    except UsageError:  # what was decided excludes what the answer has beside it
        plain = to_params(TrainerConfig())
        return with_params(config, {path: plain[path] for path in SECONDS_ALONE})


def as_here(space: Space, otherwise: Params, params: Params) -> Params:
    """The settings of a training on another machine as this one would have them.

    Args:
        space: of this study; what it has decided holds, what it searches is kept where it is possible.
        otherwise: values of what the space does not have.
        params: the whole config of the training.
    """
    movable, known = (*SECONDS_ALONE, *PRECISIONS), {*space.paths, *space.fixed}
    here = replace(space, knobs=tuple(k for k in space.knobs if k.path in movable)).project(params)
    foreign = {path: otherwise[path] for path in SECONDS_ALONE if path not in known}
    return {**params, **foreign, **{path: here[path] for path in movable if path in known}}


def known_past(after: str | None, facts: Mapping[str, Any], use_library: bool) -> Past:
    """What is known of a task: by the lineage that is tuned again, and by the library."""
    found = [past_of(lineage(Path(after)))] if after is not None else []
    found += [load_past(task_fingerprint(facts))] if use_library else []
    return merged(found)
