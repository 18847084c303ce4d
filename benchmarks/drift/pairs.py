"""The order of studies, what disturbs them, and what is there of them: each study and judging is a file, done once.

Must not know how figures are made.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoaccel.fingerprint import digest
from autoaccel.hardware.profile import facts
from benchmarks.drift.figures import DISTURBED, QUIET, SWAMPED
from benchmarks.estimates import ert_s
from benchmarks.parts import Document, once, run_module
from benchmarks.terms import judging_seeds

GRACE_S = 120.0
"""A study that is not over this long after its budget hangs."""
PER_CORE = "one per usable core"
HOGS = {QUIET: 0, DISTURBED: 1, SWAMPED: PER_CORE}
_HOG = "import sys, time\ntime.sleep(float(sys.argv[1]))\nend = time.monotonic() + float(sys.argv[2])\n"
_HOG += "while time.monotonic() < end: pass"

RunStudy = Callable[[Document], Document]
JudgePair = Callable[[dict[str, Document]], Document]
"""Answers by arm to `{"full_cpu_s", "full_wall_s", "quiet": {"cpu_s", "wall_s", "hits"}, "disturbed": ...}`."""


@dataclass(frozen=True)
class Plan:
    """What is run: the protocol, or its quick form."""

    task: str
    target: float
    budget_s: float
    pairs: int
    judging_seeds: tuple[int, ...]
    penalty_trainings: float
    from_share: float
    swamped_pairs: int
    """Of the pairs, the first so many have a third study."""


def plan_of(protocol: Document, quick: bool) -> Plan:
    """The protocol as values."""
    small: Document = protocol["quick"] if quick else {}
    judging = protocol["judging"]
    return Plan(
        task=protocol["task"],
        target=protocol["target"],
        budget_s=small.get("budget_s", protocol["budget_s"]),
        pairs=small.get("pairs", protocol["pairs"]),
        judging_seeds=judging_seeds(judging, small),
        penalty_trainings=judging["penalty_trainings"],
        from_share=protocol["disturbance"]["from_share"],
        swamped_pairs=small.get("swamped_pairs", protocol["swamped_pairs"]),
    )


def order(plan: Plan, pair: int) -> tuple[str, ...]:
    """The arms of a pair, in the order in which they are run: they take turns in being the first."""
    arms = (QUIET, DISTURBED, SWAMPED) if pair < plan.swamped_pairs else (QUIET, DISTURBED)
    return (*arms[pair % len(arms) :], *arms[: pair % len(arms)])


def run_pair(folder: Path, plan: Plan, pair: int, run_study: RunStudy, judge: JudgePair) -> None:
    """Run what is missing of a pair and keep it."""
    studies = {}
    for arm in order(plan, pair):
        told = {"task": plan.task, "target": plan.target, "budget_s": plan.budget_s, "seed": pair}
        told |= {"hogs": HOGS[arm], "disturbed_from_s": plan.from_share * plan.budget_s}
        file = folder / f"{pair}-{arm}.json"
        studies[arm] = once(file, digest(told), partial(run_study, told))
    answers = {arm: study["answer"] for arm, study in studies.items()}
    key = digest({"answers": answers, "seeds": list(plan.judging_seeds)})
    once(folder / f"{pair}.judged.json", key, partial(judge, answers))


def rows_of(folder: Path, plan: Plan) -> list[Document]:
    """A row per judged pair."""
    rows = []
    for pair in range(plan.pairs):
        file = folder / f"{pair}.judged.json"
        if file.exists():
            judged = json.loads(file.read_text())
            penalties_s = {clock: plan.penalty_trainings * judged[f"full_{clock}"] for clock in ("cpu_s", "wall_s")}
            row: Document = {"seed": pair, "full_cpu_s": judged["full_cpu_s"]}
            for arm in order(plan, pair):
                study = json.loads((folder / f"{pair}-{arm}.json").read_text())
                del study["trainings"]  # thousands; the parts keep them
                tried = judged[arm]
                cpu_s, wall_s = (ert_s(tried[clock], tried["hits"], most) for clock, most in penalties_s.items())
                row[arm] = {**study, "judged": tried, "ert_s": cpu_s, "ert_wall_s": wall_s}
            rows.append(row)
    return rows


@contextmanager
def hogs(n: int, after_s: float, for_s: float) -> Iterator[None]:
    """So many endless loops from so many seconds on, over at the latest after so many more."""
    command = [sys.executable, "-c", _HOG, str(after_s), str(for_s)]
    running = [subprocess.Popen(command) for _ in range(n)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def in_a_process(told: Document) -> Document:
    """A study in a process of its own, with or without what disturbs it; see `benchmarks.drift.study`."""
    limit_s = told["budget_s"] + GRACE_S
    n = int(facts()["usable_cores"]) if told["hogs"] == PER_CORE else told["hogs"]
    with hogs(n, told["disturbed_from_s"], limit_s):
        return run_module("benchmarks.drift.study", told, limit_s)
