"""Judges answers: an answer is trained again on fresh seeds and gets its expected running time to the target.

Verdicts are kept on disk, so that an answer that several studies or budgets share is judged once. Must not know
any method.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from benchmarks.search.bench import FRESH_SEEDS
from benchmarks.search.problem import Description, Params, Problem

PENALTY: Final = 10.0
"""In full default trainings: an answer that never hits, and the most that any answer counts."""


@dataclass(frozen=True)
class Verdict:
    """What an answer did on the fresh seeds; seconds in full default trainings."""

    seconds: float
    attempts: int
    hits: int

    @property
    def ert(self) -> float:
        """Time to the target, expected, in full default trainings."""
        return min(PENALTY, self.seconds / self.hits) if self.hits else PENALTY


NO_ANSWER: Final = Verdict(0.0, 0, 0)


@runtime_checkable
class TrainsMany(Protocol):
    """A problem that trains several seeds at once, with the same results as one after another."""

    def train_many(
        self, params: Params, horizon: int, seeds: Sequence[int], cap_s: float
    ) -> list[tuple[float, bool]]: ...


def judge(problem: Problem, params: Params, horizon: int) -> Verdict:
    """Train the answer on fresh seeds: each to its hit, its horizon or ten full default trainings."""
    known = problem.description
    seeds = range(FRESH_SEEDS, FRESH_SEEDS + known.n_fresh)
    cap_s = PENALTY * known.full_s
    if isinstance(problem, TrainsMany):
        found = problem.train_many(params, horizon, seeds, cap_s)
    else:
        found = [attempt(problem, params, horizon, seed, cap_s) for seed in seeds]
    total = sum(seconds for seconds, _ in found)
    return Verdict(total / known.full_s, len(found), sum(hit for _, hit in found))


def attempt(problem: Problem, params: Params, horizon: int, seed: int, cap_s: float) -> tuple[float, bool]:
    """Seconds and hit of one training."""
    seconds = 0.0
    for point in problem.train(params, horizon, seed):
        if point.seconds > cap_s:
            return cap_s, False
        seconds = point.seconds
        if problem.description.reached(point.value):
            return seconds, True
    return seconds, False


class Judge:
    """Verdicts on disk; several processes may share the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as base, base:
            base.execute("CREATE TABLE IF NOT EXISTS verdicts (digest TEXT PRIMARY KEY, seconds, attempts, hits)")

    def verdict(self, problem: Problem, params: Params, horizon: int) -> Verdict:
        """Of the file, or judged now."""
        digest = digest_of("answer", facts(problem.description), effective(problem.description, params), horizon)
        with closing(self._open()) as base:
            row = base.execute("SELECT seconds, attempts, hits FROM verdicts WHERE digest = ?", (digest,)).fetchone()
        if row:
            return Verdict(*row)
        verdict = judge(problem, params, horizon)
        entry = (digest, verdict.seconds, verdict.attempts, verdict.hits)
        with closing(self._open()) as base, base:
            base.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)", entry)
        return verdict

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=60)


def effective(known: Description, params: Params) -> dict[str, Any]:
    """The knobs that have an effect, as plain values."""
    found = {}
    for knob in sorted(known.space):
        parent = known.conditions.get(knob)
        if parent is None or params[parent[0]] == parent[1]:
            found[knob] = plain(params[knob])
    return found


def plain(value: Any) -> Any:
    """A knob's value without the type of the library that drew it."""
    return value.item() if hasattr(value, "item") else value


def facts(known: Description) -> dict[str, Any]:
    """What makes two problems of the same name different."""
    return {
        "name": known.name,
        "space": {knob: repr(known.space[knob]) for knob in sorted(known.space)},
        "horizons": [known.horizon_low, known.full_horizon, known.horizon_high],
        "default": {knob: plain(value) for knob, value in sorted(known.default.items())},
        "target": known.target,
        "n_fresh": known.n_fresh,
        "full_s": f"{known.full_s:.4g}",
        "penalty": PENALTY,
    }


def digest_of(*parts: Any) -> str:
    """Of plain values; key order does not matter."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
