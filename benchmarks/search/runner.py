"""Runs studies: every method on every problem with every seed, in worker processes; a study is done once and kept.

Each finished study is one file, written at once; killing the run loses at most the studies that are running. Must not
know what the methods do, nor how results are summed up.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks.parts import write_at_once
from benchmarks.search.bench import Answer, Bench, BudgetSpent
from benchmarks.search.judge import NO_ANSWER, Judge, digest_of, effective, facts, plain
from benchmarks.search.problem import Problem
from benchmarks.search.problems import problem as problem_named

BUDGETS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""In full default trainings."""
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Method(Protocol):
    """What is run; the names of attributes that a method may have besides: version, slow."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def form(self) -> str: ...
    @property
    def run(self) -> Callable[[Bench], None]: ...


@dataclass(frozen=True)
class Study:
    """One method on one problem with one seed."""

    method: str
    problem: str
    seed: int


@dataclass(frozen=True)
class Place:
    """Where results lie, and at which budgets answers are read."""

    folder: Path
    budgets: tuple[float, ...] = BUDGETS

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    def part(self, study: Study) -> Path:
        return self.parts / study.method / f"{study.problem}-{study.seed}.json"

    def judge(self) -> Judge:
        return Judge(self.folder / "parts" / "verdicts.sqlite")


def run_study(method: Method, problem: Problem, seed: int, budgets: Sequence[float], judge: Judge) -> dict[str, Any]:
    """The study, with its answer at each budget judged."""
    known = problem.description
    bench = Bench(problem, max(budgets) * known.full_s, seed)
    began = time.perf_counter()
    with suppress(BudgetSpent):
        method.run(bench)
    took_s = time.perf_counter() - began
    rows = [{"budget": budget, **_judged(bench, budget, judge)} for budget in budgets]
    claim = bench.claim_s
    return {
        "method": method.name,
        "library": method.family,
        "form": method.form,
        "problem": known.name,
        "family": known.family,
        "seed": seed,
        "digest": study_digest(method, problem, budgets),
        "n_trials": len(bench.trials),
        "n_hits": sum(trial.hit for trial in bench.trials),
        "spent": bench.now_s / known.full_s,
        "first_hit": _first_hit(bench),
        "claim": None if claim is None or not math.isfinite(claim) else claim / known.full_s,
        "wall_s": took_s,
        "judge_s": time.perf_counter() - began - took_s,
        "points": rows,
    }


def answer_at(answers: Iterable[Answer], at_s: float) -> Answer | None:
    """The last answer given by then."""
    given = [answer for answer in answers if answer.at_s <= at_s * (1 + 1e-9)]
    return given[-1] if given else None


def study_digest(method: Method, problem: Problem, budgets: Sequence[float]) -> str:
    """Changes with the method's version, the problem and the budgets; older results are then run anew."""
    version = str(getattr(method, "version", "1"))
    return digest_of(method.name, version, facts(problem.description), list(budgets))


def done(study: Study, place: Place, digest: str, compacted: Mapping[Study, str]) -> bool:
    """Whether the study has been run as it would be run now."""
    file = place.part(study)
    if file.exists():
        return bool(json.loads(file.read_text())["digest"] == digest)
    return compacted.get(study) == digest


def work(study: Study, place: Place, methods: Mapping[str, Method] | None = None) -> float:
    """Run a study and write its part; wall seconds. Runs in a worker, which finds methods and problems by name."""
    if methods is None:
        from benchmarks.search.methods import all_methods

        methods = all_methods()
    began = time.perf_counter()
    result = run_study(methods[study.method], problem_named(study.problem), study.seed, place.budgets, place.judge())
    write_at_once(place.part(study), json.dumps(result))
    return time.perf_counter() - began


def in_turns(methods: Sequence[str], problems: Sequence[str], seeds: Sequence[int]) -> list[Study]:
    """All studies, methods in turns, so that what is there when a run is ended can be compared."""
    return [Study(method, problem, seed) for seed in seeds for problem in problems for method in methods]


def run_all(
    studies: Sequence[Study], place: Place, workers: int, methods: Mapping[str, Method] | None = None
) -> list[tuple[Study, str]]:
    """Run what is given; progress on stderr.

    Args:
        studies: those that are missing.
        place: where results go.
        workers: processes; 0 runs in this one.
        methods: by name, for runs in this process; else those of `benchmarks.search.methods`.

    Returns:
        The studies that failed, each with its error.
    """
    progress = Progress(len(studies), max(workers, 1))
    failed = []
    for study, outcome in _pool(studies, place, workers) if workers else _here(studies, place, methods):
        if isinstance(outcome, str):
            failed.append((study, outcome))
        progress.note(study, outcome)
    return failed


class Progress:
    """A line per study with the time left, from the mean time so far."""

    def __init__(self, total: int, workers: int) -> None:
        self._left, self._total, self._workers = total, total, workers
        self._sum_s, self._count = 0.0, 0

    def note(self, study: Study, outcome: float | str) -> None:
        self._left -= 1
        took = "failed"
        if not isinstance(outcome, str):
            self._sum_s, self._count = self._sum_s + outcome, self._count + 1
            took = f"{outcome:.1f} s"
        left_min = self._left * self._sum_s / max(self._count, 1) / self._workers / 60
        head = f"{self._total - self._left}/{self._total}"
        print(f"{head} {study.method} {study.problem} {study.seed}: {took}; {left_min:.0f} min left", file=sys.stderr)
        if isinstance(outcome, str):
            print(outcome, file=sys.stderr)


def _here(
    studies: Sequence[Study], place: Place, methods: Mapping[str, Method] | None
) -> Iterator[tuple[Study, float | str]]:
    for study in studies:
        try:
            yield study, work(study, place, methods)
        except Exception:  # a failing method must not end the others' studies
            yield study, traceback.format_exc(limit=-4)


def _pool(studies: Sequence[Study], place: Place, workers: int) -> Iterator[tuple[Study, float | str]]:
    os.environ.update(dict.fromkeys(THREADS, "1"))
    waiting = list(reversed(studies))
    running: dict[Future[float], Study] = {}
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, end_with_parent, max_tasks_per_child=200) as pool:
        while waiting or running:
            while waiting and len(running) < workers + 1:
                study = waiting.pop()
                running[pool.submit(work, study, place)] = study
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                study = running.pop(future)
                error = future.exception()
                yield study, future.result() if error is None else "".join(traceback.format_exception(error))


def end_with_parent() -> None:
    """In a worker: end when the run is killed, however it is killed."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _judged(bench: Bench, budget: float, judge: Judge) -> dict[str, Any]:
    known = bench.problem.description
    answer = answer_at(bench.answers, budget * known.full_s)
    verdict = judge.verdict(bench.problem, answer.params, answer.horizon) if answer else NO_ANSWER
    params = {knob: plain(value) for knob, value in answer.params.items()} if answer else None
    return {
        "ert": verdict.ert,
        "hits": verdict.hits,
        "attempts": verdict.attempts,
        "answered_at": answer.at_s / known.full_s if answer else None,
        "horizon": answer.horizon if answer else None,
        "params": json.dumps(effective(known, params)) if params else None,
    }


def _first_hit(bench: Bench) -> float | None:
    clock = bench.now_s - sum(trial.seconds for trial in bench.trials)  # probes: taken as made before the trials
    for trial in bench.trials:
        clock += trial.seconds
        if trial.hit:
            return clock / bench.problem.description.full_s
    return None
