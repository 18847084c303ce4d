"""When reference steps are run: once before the search, then between trainings, whenever they cost next to nothing.

Pure decisions from the records. Must not know what the machine's slow-downs are used for (see `cost.drift`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from autoaccel.config import TrainerConfig, to_dict
from autoaccel.cost.drift import drift_of
from autoaccel.search.question import OVERRUN, Left, Question, predict
from autoaccel.trial import REFERENCE, TrialRecord, TrialSpec

SHARE, SLOW_SHARE = 0.01, 0.05
"""Of the budget that reference steps may take, also of the time between two of them; and of that time while they are
slow, for then it is worth knowing when that ends."""
_FEWEST_STEPS = 2
"""One to warm up, and one that counts."""
_MOST_S = 60.0
"""They take no longer, however large the budget."""


def first_reference(question: Question, number: int) -> TrialSpec | None:
    """The reference steps that later ones are compared with; None where even the fewest take more than their share."""
    budget, step_s = question.budget, predict(question, question.baseline).step_s
    limit_s = min(_MOST_S, SHARE * (budget.seconds or math.inf), SHARE * (budget.device_seconds or math.inf))
    cap_flops = SHARE * budget.flops if budget.flops else None
    step_flops = question.cost.flops_per_sample * question.baseline.batch.size
    if _FEWEST_STEPS * step_s > limit_s or (cap_flops is not None and _FEWEST_STEPS * step_flops > cap_flops):
        return None
    probe = {"config": to_dict(reference_config(question)), "limit_s": limit_s}
    return TrialSpec(number, REFERENCE, cap_s=OVERRUN * limit_s, cap_flops=cap_flops, probe=probe)


def reference_config(question: Question) -> TrainerConfig:
    """What is like all trainings of the study: the baseline, with as many threads as they have where that is decided.

    Several threads wait for each other, so what a disturbance does to them is another thing than to one.
    """
    config, threads = question.baseline, question.space.fixed.get("system.threads")
    return config if threads is None else replace(config, system=replace(config.system, threads=threads))


def next_reference(records: Sequence[TrialRecord], left: Left, at_s: float) -> TrialSpec | None:
    """The next reference steps if they are due; never where the first ones are missing or the last ones failed.

    They are due when so much time has passed that those before are their share of it. Where the last ones differ from
    those before them they are repeated at once, and then not again before that.

    Args:
        records: of the study, as recorded.
        left: what may be spent.
        at_s: second of the budget.
    """
    looks = [r for r in records if r.spec.purpose == REFERENCE]
    if not looks or looks[-1].ended.outcome != "done":
        return None
    last, apart_s = looks[-1], min(r.wall_s for r in looks) / SHARE
    is_new = len(looks) > 1 and last.ended_at_s - looks[-2].ended_at_s >= apart_s
    passed_s = at_s - last.ended_at_s
    is_due = passed_s >= max(apart_s, last.wall_s / SLOW_SHARE) or (is_new and not drift_of(looks).is_clear)
    if not is_due or last.wall_s > left.seconds or (last.spec.cap_flops or 0.0) > left.flops:
        return None
    return replace(last.spec, trial=1 + max(r.spec.trial for r in records))
