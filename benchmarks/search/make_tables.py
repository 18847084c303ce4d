"""Makes the horizon tables: runs the planned real trainings, a row per training, and writes them as Parquet.

Rows are appended to a folder that git ignores as they end, so that a kill loses only what is running; started again, it
goes on. A surrogate is fitted to a table that has changed. Must not know how a table is replayed.

    python -m benchmarks.search.make_tables [--problem digits_cnn] [--n 1200] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.search.horizon.plan import Job, first_part, second_part
from benchmarks.search.horizon.setups import SETUPS, Setup
from benchmarks.search.problems.data import Absent

ROWS: Final = Path(__file__).parent / "horizon" / ".data"
SOUGHT: Final = "sought"
SOUGHT_RECIPES, SOUGHT_SEEDS = 24, 3
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Place:
    """Where one problem's rows and table go."""

    rows: Path
    table: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.search.make_tables", description=__doc__.split("\n")[0])
    parser.add_argument("--problem", choices=list(SETUPS), action="append", help="all, unless named")
    parser.add_argument("--n", type=int, default=1200, help="trainings of each problem")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    for variable in THREADS:
        os.environ[variable] = "1"
    for name in given.problem or SETUPS:
        setup = SETUPS[name]
        try:
            place = Place(ROWS / f"{name}.jsonl", setup.table)
            make(setup, given.n, given.workers, place)
            _fit(setup)
            if seek(setup, given.workers, place):
                _fit(setup)
        except Absent as reason:
            print(f"{name}: {reason}", file=sys.stderr)
            return 1
    return 0


def _fit(setup: Setup) -> None:
    from benchmarks.search.horizon import fitting, records, surrogate

    digest = records.digest(setup)
    if not setup.surrogate.is_file() or surrogate.load(setup.surrogate).digest != digest:
        print(f"{setup.name}: fitting the surrogate", file=sys.stderr)
        surrogate.save(fitting.fit(records.read(setup), digest), setup.surrogate)


def make(setup: Setup, count: int, workers: int, place: Place) -> int:
    """Run what is missing of `count` trainings and write the table; returns how many were run."""
    first = first_part(setup, count)
    started = _run(setup.name, first, workers, place.rows)
    keys = {job.key for job in first}
    results = [(job_of(row), _final(row)) for row in read_rows(place.rows) if job_of(row).key in keys]
    started += _run(setup.name, second_part(setup, count, results), workers, place.rows)
    _write_unless_longer(setup, place)
    return started


def seek(setup: Setup, workers: int, place: Place) -> int:
    """Run what is missing of the trainings of recipes that a replay of the table holds to be fastest."""
    from benchmarks.search.horizon.replay import horizon_problems
    from benchmarks.search.horizon.verify import fastest

    there = {job_of(row).key for row in read_rows(place.rows)}
    problem = next(problem for problem in horizon_problems() if problem.description.name == setup.name)
    jobs = []
    for recipe in range(SOUGHT_RECIPES):
        seeds = range(SOUGHT_SEEDS * recipe, SOUGHT_SEEDS * (recipe + 1))
        if all((SOUGHT, seed) in there for seed in seeds):
            continue
        best = fastest(problem, np.random.default_rng(1000 + recipe))
        jobs += [Job(SOUGHT, seed, best.params, best.horizon, 50_000 + seed) for seed in seeds]
    started = _run(setup.name, jobs, workers, place.rows)
    _write_unless_longer(setup, place)
    return started


def _write_unless_longer(setup: Setup, place: Place) -> None:
    rows = read_rows(place.rows)
    if rows_in(place.table) > len(rows):
        print(f"{place.table.name} is kept: it has more than these {len(rows)} trainings", file=sys.stderr)
    else:
        write_table(setup, rows, place.table)


def rows_in(table: Path) -> int:
    """Trainings in a table; 0 where there is none."""
    return int(parquet.read_metadata(table).num_rows) if table.is_file() else 0


def _run(name: str, jobs: list[Job], workers: int, file: Path) -> int:
    """Run the jobs that the file does not hold yet; returns how many."""
    there = {job_of(row).key for row in read_rows(file)}
    missing = [job for job in jobs if job.key not in there]
    if not missing:
        return 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start, initargs=(name,)) as pool,
        file.open("a", encoding="utf-8") as rows,
    ):
        if rows.tell():
            rows.write("\n")  # A kill may have left half a row.
        waiting = [pool.submit(_train, name, job) for job in missing]
        for done, future in enumerate(as_completed(waiting), 1):
            rows.write(json.dumps(future.result()) + "\n")
            rows.flush()
            if done % 25 == 0 or done == len(missing):
                print(f"{name}: {done} of {len(missing)} trainings", file=sys.stderr)
    return len(missing)


def _start(name: str) -> None:
    import torch

    from benchmarks.search.horizon.trainings import train

    torch.set_num_threads(1)
    setup = SETUPS[name]
    train(name, setup.default, setup.horizon_low, 0)  # The first training of a process is slower.


def _train(name: str, job: Job) -> dict[str, Any]:
    from benchmarks.search.horizon.trainings import train

    return asdict(job) | asdict(train(name, job.params, job.horizon, job.seed))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The trainings that have ended; a row cut by a kill is left out."""
    return list(_rows(file)) if file.is_file() else []


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield row


def job_of(row: dict[str, Any]) -> Job:
    """The job that a row answers."""
    return Job(row["part"], row["index"], row["params"], row["horizon"], row["seed"])


def _final(row: dict[str, Any]) -> float:
    return float(row["metric"][-1]) if not row["diverged"] else math.nan


def write_table(setup: Setup, rows: list[dict[str, Any]], file: Path) -> None:
    """One row a training, in the order of the plan; lists hold the values at each evaluation."""
    rows = sorted(rows, key=lambda row: (row["part"], row["index"]))
    columns: dict[str, Any] = {"part": pa.array([row["part"] for row in rows])}
    for knob in setup.space:
        columns[knob] = pa.array([row["params"][knob] for row in rows])
    for name in ("horizon", "seed", "diverged"):
        columns[name] = pa.array([row[name] for row in rows])
    for name in ("samples", "train_s", "evaluation_s", "metric"):
        columns[name] = pa.array([row[name] for row in rows], type=pa.list_(pa.float32()))
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), file, compression="zstd")


if __name__ == "__main__":
    sys.exit(main())
