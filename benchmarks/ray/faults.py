"""What goes wrong on Ray, made to happen in real tunings: a worker killed, the driver killed, a node lost.

Must not know what counts as passing.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.ray.study import GRACE_S, Document, Order, actors, ended, finish, left_by, start, wait_for_trials

PATIENCE_S = 20.0


def kill_a_worker(order: Order, run: Path, after: int) -> Document:
    """SIGKILL an actor with a trial in it."""
    process = start(order.command(run))
    n_killed = 0
    if wait_for_trials(run, process, after):
        time.sleep(0.3)  # the next trial is under way
        began = time.perf_counter()
        while n_killed == 0 and process.poll() is None and time.perf_counter() - began < PATIENCE_S:
            for actor in actors(process.pid, order.executor)[:1]:  # it carries its name while it does something
                actor.send_signal(signal.SIGKILL)
                n_killed += 1
    errors = finish(process, order.budget_s + GRACE_S)
    return {"fault": "worker", "n_killed": n_killed, "errors": errors, **left_by(process, run)}


def kill_the_driver(order: Order, run: Path, after: int) -> Document:
    """SIGKILL the driver, and resume its run."""
    process = start(order.command(run))
    wait_for_trials(run, process, after)
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    before = ended(run)
    _, alive = psutil.wait_procs(started, timeout=PATIENCE_S)
    resumed = start([sys.executable, "-m", "autoaccel", "tune", "--resume", str(run), "--no-progress", "--json"])
    errors = finish(resumed, order.budget_s + GRACE_S)
    found = left_by(resumed, run)
    repeated = sum(a != b for a, b in zip(before, ended(run), strict=False)) if found["n_ended"] else len(before)
    return {
        "fault": "driver",
        "n_before": len(before),
        "repeated_trials": repeated,
        "left_processes": [p.name() for p in alive if p.is_running()],
        "errors": errors,
        **found,
    }


def lose_a_node(order: Order, run: Path, after: int) -> Document:
    """On two nodes of one core each; one is removed."""
    nodes = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ray.nodes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert nodes.stdin is not None and nodes.stdout is not None
    address = next(line.split()[1] for line in nodes.stdout if line.startswith("ADDRESS "))
    process = start(replace(order, address=address).command(run))
    if wait_for_trials(run, process, after):
        nodes.stdin.write("drop\n")
        nodes.stdin.flush()
    errors = finish(process, order.budget_s + GRACE_S)
    nodes.communicate("end\n", timeout=GRACE_S)
    return {"fault": "node", "errors": errors, **left_by(process, run)}


FAULTS: dict[str, tuple[Callable[[Order, Path, int], Document], str]] = {
    "worker-ray": (kill_a_worker, "ray"),
    "worker-ray-tune": (kill_a_worker, "ray-tune"),
    "driver-ray": (kill_the_driver, "ray"),
    "driver-ray-tune": (kill_the_driver, "ray-tune"),
    "node-ray": (lose_a_node, "ray"),
}
"""By name: what is done, and the executor it is done to."""
