"""Drift: how many times longer than on the machine at its best a training took, because the machine was slower then.

    slow-down = pace x waiting;  pace: of CPU seconds (caches, memory, clocks);  waiting: wall over CPU seconds

Two signals, each for what it is good at. Reference steps between trainings say that the machine is disturbed, and how
much longer a step computes; seconds of an accelerator show in them alone. CPU seconds of a training say exactly how
much of its own time other processes took, also where they came in the middle of it. What reference steps do not see is
no drift. Pure; must not know how trainings are chosen.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from autoaccel.config import TrainerConfig
from autoaccel.trial import REFERENCE, TrialRecord

LEAST = 1.05
"""A smaller slow-down is none. CPU seconds are exact to 2 %, and no decision hangs on less than this."""
WAITING = 1.1
"""Reference steps of one thread that take this many times their CPU seconds wait for other processes."""
_WAITS = 0.5
"""Waits of a step, above which it does so by itself; one that only computes has none."""
_SIGMAS = 3.0
_NOISE, _LEAST_NOISE, _MOST_NOISE = 0.06, 0.03, 0.10
"""Standard deviation of the log of a reference, before there are enough of them and its bounds afterwards (0.06: six
steps of 9 ms on one core of an EPYC, another training on the other core, 2026-11-21)."""
_FEW = 4


@dataclass(frozen=True)
class Drift:
    """What reference steps say of the machine, in the order of time. The tuples are equally long; empty: nothing."""

    at_s: tuple[float, ...] = ()
    """Seconds of the budget."""
    pace: tuple[float, ...] = ()
    """CPU seconds of a step over those of the machine at its best; 1 where the difference is noise. Of an accelerator
    its seconds."""
    slowdown: tuple[float, ...] = ()
    """The same of wall seconds."""
    waiting: tuple[float, ...] = ()
    """Wall seconds over CPU seconds of a thread."""
    threads: int = 0
    """Of a training whose config does not say; 0: another device computes."""
    reference_threads: int = 0
    """Of the reference steps: several wait for each other, which is no matter of the machine's pace."""
    resident: bool = False
    """Whether the data of the task is in memory."""
    waits: bool = False
    """Whether its steps wait by themselves, as for a network: nobody takes those seconds from them."""
    is_clear: bool = True
    """Whether the last reference is like the one before; if not, another one tells a change from an accident."""


def drift_of(records: Sequence[TrialRecord]) -> Drift:
    """What the reference steps among the records of a study say."""
    looks = [r for r in records if r.spec.purpose == REFERENCE and r.ended.outcome == "done"]
    if not looks:
        return Drift()
    looks.sort(key=lambda r: r.ended_at_s)
    facts = [r.ended.facts for r in looks]
    wall_s = [median(f["wall_s"]) for f in facts]
    cpu_s = [median(f["cpu_s"]) for f in facts if f["cpu_s"]]
    n_threads = facts[0]["threads"]
    if len(cpu_s) < len(wall_s):
        cpu_s, n_threads = wall_s, 1
    return Drift(
        at_s=tuple(r.ended_at_s for r in looks),
        pace=_over_best(cpu_s),
        slowdown=_over_best(wall_s),
        waiting=tuple(n_threads * w / max(c, 1e-9) for w, c in zip(wall_s, cpu_s, strict=True)),
        threads=0 if facts[0]["cpu_s"] is None else facts[0]["default_threads"],
        reference_threads=n_threads,
        resident=facts[0]["resident"],
        waits=facts[0].get("waits", 0.0) > _WAITS,  # younger than the first ledgers
        is_clear=not _changed(wall_s[-2:], wall_s) and not _changed(cpu_s[-2:], cpu_s),
    )


def slowdown_of(drift: Drift, record: TrialRecord) -> float:
    """How many times longer a training took than it would have on the machine at its best; 1 if nothing is known."""
    if record.spec.config is None or record.ended.elapsed_s <= 0:
        return 1.0
    if record.spec.threads:  # what several would have taken meanwhile is no matter
        return (_own_waiting(drift, record) or 1.0) * record.spec.slower
    if not drift.at_s:
        return 1.0
    middle_s = record.ended_at_s - record.ended.elapsed_s / 2
    after = min(bisect_left(drift.at_s, middle_s), len(drift.at_s) - 1)
    before = max(0, after - 1) if drift.at_s[after] >= middle_s else after
    own = _own_waiting(drift, record)
    if own is None:
        factor = _between(drift, drift.slowdown, before, after, middle_s)
    else:
        disturbed = max(drift.waiting[before], drift.waiting[after]) > WAITING
        pace = _between(drift, drift.pace, before, after, middle_s) if drift.reference_threads == 1 else 1.0
        factor = (own if disturbed else 1.0) * pace
    return factor if factor > LEAST else 1.0


def _own_waiting(drift: Drift, record: TrialRecord) -> float | None:
    """Wall over CPU seconds of a training, where that says what other processes took from it; else None. Beside other
    trials it says nothing: what they took is in it."""
    config, ended = record.spec.config, record.ended
    if config is None or not ended.cpu_s or record.crowding > 1:
        return None
    if not waits_for_nothing(drift, config, record.spec.threads):
        return None
    return max(1.0, ended.elapsed_s / ended.cpu_s)


def waits_for_nothing(drift: Drift, config: TrainerConfig, threads: int = 0) -> bool:
    """Whether seconds of a training that are no CPU seconds were taken from it: one thread, nothing to wait for.

    Args:
        drift: what is known of the machine and the task.
        config: of the training.
        threads: that it has instead of the config's; 0: those.
    """
    threads = drift.threads and (threads or config.system.threads or drift.threads)
    return (
        threads == 1
        and drift.resident
        and not drift.waits
        and not config.loader.workers
        and config.compile.mode == "off"
        and config.memory.offload == "none"
    )


def slowdown_now(drift: Drift, records: Sequence[TrialRecord], config: TrainerConfig) -> float:
    """How many times longer a training of this config would take now than on the machine at its best."""
    if not drift.at_s:
        return 1.0
    factor = drift.slowdown[-1]
    if waits_for_nothing(drift, config):
        waiting = drift.waiting[-1] if drift.waiting[-1] > WAITING else 1.0
        latest = next((r for r in reversed(records) if _own_waiting(drift, r)), None)
        if waiting > 1 and latest is not None and latest.ended_at_s > drift.at_s[-1]:
            waiting = _own_waiting(drift, latest) or 1.0
        factor = waiting * (drift.pace[-1] if drift.reference_threads == 1 else 1.0)
    return factor if factor > LEAST else 1.0


def corrected(records: Sequence[TrialRecord], drift: Drift | None = None) -> list[TrialRecord]:
    """The records with the seconds their trainings would have taken alone on the machine at its best.

    The one way from what is recorded to what is compared: training seconds are over crowding and drift, those of the
    budget over drift. Records without either are the same objects.

    Args:
        records: of a study, as recorded; with `drift` any part of them.
        drift: of the whole study; default: of these records.
    """
    drift = drift_of(records) if drift is None else drift
    return [_divided(record, slowdown_of(drift, record)) for record in records]


def _divided(record: TrialRecord, slowdown: float) -> TrialRecord:
    factor = slowdown * record.crowding
    if factor == 1.0:
        return record
    return replace(
        record,
        reports=tuple(replace(r, elapsed_s=r.elapsed_s / factor) for r in record.reports),
        ended=replace(record.ended, elapsed_s=record.ended.elapsed_s / factor),
        wall_s=record.wall_s / slowdown,
        slowdown=slowdown,
    )


def _between(drift: Drift, values: Sequence[float], before: int, after: int, at_s: float) -> float:
    """The value at a moment, log-linear between two neighbours; before the first and after the last it is theirs."""
    first_s, last_s = drift.at_s[before], drift.at_s[after]
    if last_s <= first_s:
        return values[after]
    share = min(1.0, max(0.0, (at_s - first_s) / (last_s - first_s)))
    return math.exp((1 - share) * math.log(values[before]) + share * math.log(values[after]))


def _over_best(seconds: Sequence[float]) -> tuple[float, ...]:
    """Each over the machine's best; 1 where the difference is noise.

    One slow reference among fast ones is an accident: a median of three goes first (of the two at an end, the faster).
    The best is the first one, until one is faster by more than noise.
    """
    logs = [math.log(s) for s in seconds]
    beyond = _SIGMAS * _noise(logs)
    inner = [median(logs[i - 1 : i + 2]) for i in range(1, len(logs) - 1)]
    smooth = [min(logs[:2]), *inner, min(logs[-2:])] if len(logs) > 1 else logs
    best = smooth[0]
    for value in smooth:
        best = value if value < best - beyond else best
    return tuple(math.exp(value - best) if value > best + beyond else 1.0 for value in smooth)


def _changed(pair: Sequence[float], seconds: Sequence[float]) -> bool:
    """Whether two of these differ by more than their noise."""
    logs = [math.log(s) for s in pair]
    return max(logs) - min(logs) > _SIGMAS * math.sqrt(2) * _noise([math.log(s) for s in seconds])


def _noise(logs: Sequence[float]) -> float:
    """Standard deviation of one reference, from differences of neighbours: a machine that slows once changes one."""
    if len(logs) < _FEW:
        return _NOISE
    typical = 1.4826 * median(abs(b - a) for a, b in pairwise(logs)) / math.sqrt(2)
    return min(_MOST_NOISE, max(_LEAST_NOISE, typical))
