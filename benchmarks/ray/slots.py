"""The study loop with many trials at once in simulated time: python -m benchmarks.ray.slots N TRIALS.

A process of its own for each number of slots, because its largest memory is asked for. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from autoaccel.budget import Budget
from autoaccel.clock import ManualClock
from autoaccel.execution.simulated import SimulatedExecutor
from autoaccel.hardware.memory import peak_resident_bytes
from autoaccel.search.crowding import Crowding
from autoaccel.search.loop import run_study
from autoaccel.search.question import Question
from autoaccel.search.trials import Driver
from autoaccel.store.ledger import Ledger
from benchmarks.calibration.problem import BASELINE, N_VALIDATION, draw, space


def simulated(n_slots: int, n_trials: int) -> dict[str, float]:
    """Suggestions per second until so many trials have ended, and the driver's memory."""
    problem, clock = draw(0), ManualClock()
    asked = Question(
        target=problem.target,
        budget=Budget(trials=4 * n_trials),
        space=space(),
        baseline=BASELINE,
        cost=problem.cost,
        floor=0.5 / N_VALIDATION,
        use_all_budget=True,
        n_devices=n_slots,
        crowding=Crowding(n_slots),
    )
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        executor = SimulatedExecutor(clock, problem.course, n_slots)
        running = Driver(executor, ledger, clock, 0.0, interrupted=lambda: len(ledger.records) >= n_trials)
        began = time.perf_counter()
        run_study(running, asked)
        seconds = time.perf_counter() - began
        n_started = sum(entry.kind == "started" for entry in ledger.entries)
        ledger.close()
    return {
        "slots": n_slots,
        "suggestions": n_started,
        "seconds": seconds,
        "suggestions_per_s": n_started / seconds,
        "driver_mb": peak_resident_bytes() / 2**20,  # not getrusage: it counts what the process was before, too
    }


if __name__ == "__main__":
    print(json.dumps(simulated(int(sys.argv[1]), int(sys.argv[2]))))
