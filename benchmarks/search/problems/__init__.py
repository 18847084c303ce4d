"""The problems of the search benchmark, by name; the protocol says which, with their targets.

A problem whose data is absent is left out with a reason. Must not know any method.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from benchmarks.search.problem import Problem
from benchmarks.search.problems.data import Absent, protocol

HEADLINE: Final = ("lcbench", "miniature", "table")
"""Families of which the figures are made."""
EXTRA: Final = ("algoperf", "taskset")
"""Families that are reported apart."""


@cache
def problem(name: str) -> Problem:
    """A problem by its name.

    Raises:
        Absent: what it needs is not there.
        KeyError: there is no such problem.
    """
    return BUILD[family_of(name)](name)


def names(families: tuple[str, ...] = HEADLINE) -> list[str]:
    """Names of all problems of the families, in the order of the protocol, whether their data is there or not."""
    return [name for family in families for name in NAMES[family]()]


def available(wanted: list[str]) -> tuple[dict[str, Problem], dict[str, str]]:
    """The problems that can be run, and why the others cannot."""
    found, missing = {}, {}
    for name in wanted:
        try:
            found[name] = problem(name)
        except Absent as reason:
            missing[name] = str(reason)
    return found, missing


def _lcbench(name: str) -> Problem:
    from benchmarks.search.problems.lcbench import LcBench

    return LcBench(name.removeprefix("lcbench-"), protocol()["families"]["lcbench"]["problems"][name]["target"])


def _miniature(name: str) -> Problem:
    from benchmarks.search.problems.miniature import Miniature, load_table

    entry = protocol()["families"]["miniature"]["problems"][name]
    return Miniature(name, load_table(name, entry["n_train"], entry["n_val"]), entry["target"])


def _table(name: str) -> Problem:
    return _tables()[name]


def _algoperf(name: str) -> Problem:
    from benchmarks.search.problems.curves import AlgoPerf

    return AlgoPerf(name.removeprefix("algoperf-"))


def _taskset(name: str) -> Problem:
    from benchmarks.search.problems.curves import TaskSet

    return TaskSet(name.removeprefix("taskset-"))


@cache
def _tables() -> dict[str, Problem]:
    """The horizon tables made by this project."""
    try:
        from benchmarks.search.horizon.replay import horizon_problems
    except ImportError:
        return {}
    return {problem.description.name: problem for problem in horizon_problems()}


def _named_by_protocol(family: str) -> Callable[[], list[str]]:
    return lambda: list(protocol()["families"].get(family, {}).get("problems", {}))


NAMES: Final[dict[str, Callable[[], list[str]]]] = {
    "lcbench": _named_by_protocol("lcbench"),
    "miniature": _named_by_protocol("miniature"),
    "table": lambda: list(_tables()),
    "algoperf": _named_by_protocol("algoperf"),
    "taskset": _named_by_protocol("taskset"),
}
BUILD: Final[dict[str, Callable[[str], Problem]]] = {
    "lcbench": _lcbench,
    "miniature": _miniature,
    "table": _table,
    "algoperf": _algoperf,
    "taskset": _taskset,
}


def family_of(name: str) -> str:
    """The family of a problem."""
    for family, listed in NAMES.items():
        if name in listed():
            return family
    raise KeyError(name)
