"""One tuning as a user runs it: `autoaccel tune` in a process of its own, timed from outside; and what it left behind.

Must not know what is concluded from it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from autoaccel.config import read_config_file, to_dict
from autoaccel.store.ledger import read_ledger, records
from autoaccel.store.run import LEDGER, RESULT, read_json
from autoaccel.trial import CONFIRMING, LOST, SEARCHING, TrialRecord

HERE = Path(__file__).parent
TASK = f"{HERE / 'task.py'}:task"
GRACE_S = 120.0
"""A tuning that is not over this long after its budget hangs."""
ACTORS = {"ray": "ray::Host", "ray-tune": "Training"}
"""What the processes with a trial in them are called."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """A tuning to be run."""

    executor: str
    seed: int
    budget_s: float
    devices: int
    address: str | None = None

    def command(self, run: Path) -> list[str]:
        words = [sys.executable, "-m", "autoaccel", "tune", TASK, "--budget", f"{self.budget_s:g}s", "--out", str(run)]
        words += ["--executor", self.executor, "--devices", str(self.devices), "--seed", str(self.seed)]
        words += ["--ray-address", self.address] if self.address else []
        return [*words, "--no-library", "--no-progress", "--json"]


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """The process, with this checkout's package."""
    root = HERE.parents[1]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes], limit_s: float) -> str:
    """Wait for its end; what it wrote to standard error."""
    try:
        return process.communicate(timeout=limit_s)[1].decode(errors="replace")[-2000:]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"killed after {limit_s:g}s"


def study(order: Order, run: Path) -> Document:
    """A whole tuning."""
    began = time.perf_counter()
    process = start(order.command(run))
    errors = finish(process, order.budget_s + GRACE_S)
    wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, "overshoot_s": wall_s - order.budget_s, "errors": errors, **left_by(process, run)}


def left_by(process: subprocess.Popen[bytes], run: Path) -> Document:
    """What a tuning that has ended found, and how its trials ended."""
    result, best = read_json(run / RESULT), run / "best" / "config.json"
    done = ended(run)
    kept = ("target_met", "hits", "attempts", "time_to_target_s", "n_trials", "outcomes", "tuning_s", "search_ended")
    return {
        "exit_code": process.returncode,
        "answer": to_dict(read_config_file(best).config) if result is not None and best.exists() else None,
        **{name: (result or {}).get(name) for name in kept},
        "n_ended": len(done),
        "n_lost": sum(r.ended.outcome == LOST for r in done),
        "lost_trials": len(never_again(done)),
    }


def ended(run: Path) -> list[TrialRecord]:
    """The trials of a run so far; it may be under way."""
    return records(read_ledger(run / LEDGER)[0])


def never_again(done: Sequence[TrialRecord]) -> list[int]:
    """Trials that were lost and did not come to an end of their own later."""
    return [
        r.spec.trial
        for r in done
        if r.ended.outcome == LOST
        and not any(
            o.spec.trial > r.spec.trial
            and (o.spec.purpose, o.spec.config, o.spec.probe) == (r.spec.purpose, r.spec.config, r.spec.probe)
            and o.ended.outcome not in (LOST, "interrupted")
            for o in done
        )
    ]


def wait_for_trials(run: Path, process: subprocess.Popen[bytes], n: int) -> bool:
    """Until so many trainings have ended; False if the tuning ended first."""
    while process.poll() is None:
        if sum(r.spec.purpose in (*SEARCHING, *CONFIRMING) for r in ended(run)) >= n:
            return True
        time.sleep(0.1)
    return False


def actors(driver: int, executor: str) -> list[psutil.Process]:
    """Ray's processes of a tuning that hold a trial."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if ACTORS[executor] in " ".join(process.cmdline()) and process.children():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
