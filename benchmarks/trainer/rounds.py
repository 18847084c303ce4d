"""The order of pairs, and what is there of them: every round is one file, done once.

A round is one pair of each other contestant with ours, on one workload; a pair is four blocks of equally many steps in
the order ours, other, other, ours, or the reverse, so that a machine that slows down or speeds up favours nobody. Must
not know how a block is timed nor what is made of the seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoaccel.fingerprint import digest
from benchmarks.parts import Document

OURS = "ours"

Seconds = tuple[float, float]
"""Wall clock and processor."""
Block = Callable[[str], Seconds]
"""Runs the next steps of a contestant's training."""


@dataclass(frozen=True)
class Workload:
    """What the protocol says of one."""

    name: str
    recipe: Mapping[str, Any]
    warm: int
    """Steps of a block that are not timed: caches were somebody else's in between."""
    steps: int
    """Those that are."""
    gpu_only: bool = False


@dataclass(frozen=True)
class Plan:
    """What is run: the protocol, or its quick form."""

    workloads: tuple[Workload, ...]
    rounds: int
    n_steps: int
    """Of the schedule of a training; it is ended long before."""


def plan_of(protocol: Document, quick: bool, has_gpu: bool = False) -> Plan:
    """The protocol as values, with the workloads that can be run."""
    values = {**protocol, **(protocol["quick"] if quick else {})}
    found = [
        Workload(name, told["recipe"], told["warm"], told["steps"], told.get("gpu_only", False))
        for name, told in protocol["workloads"].items()
    ]
    there = tuple(workload for workload in found if has_gpu or not workload.gpu_only)
    return Plan(there, values["rounds"], protocol["schedule_steps"])


def contestants_of(protocol: Document, workload: str, absent: Mapping[str, str]) -> list[str]:
    """Who is measured beside ours: what the protocol names for a workload and is there."""
    return [name for name in protocol["workloads"][workload]["contestants"] if name not in absent]


def run_round(workload: Workload, index: int, others: Sequence[str], block: Block) -> list[Document]:
    """One pair with each of the others; another one is first in every round, and another side in every pair."""
    shift = index % len(others)
    return [
        run_pair(workload, name, block, ours_first=(index + position) % 2 == 0)
        for position, name in enumerate([*others[shift:], *others[:shift]])
    ]


def run_pair(workload: Workload, other: str, block: Block, *, ours_first: bool) -> Document:
    """Four blocks, two of each side; seconds are those of both blocks together."""
    spent = {OURS: (0.0, 0.0), other: (0.0, 0.0)}
    for name in (OURS, other, other, OURS) if ours_first else (other, OURS, OURS, other):
        wall_s, cpu_s = block(name)
        spent[name] = (spent[name][0] + wall_s, spent[name][1] + cpu_s)
    return {
        "workload": workload.name,
        "contestant": other,
        "batch": workload.recipe["batch"],
        "steps": 2 * workload.steps,
        "ours_s": spent[OURS][0],
        "other_s": spent[other][0],
        "ours_cpu_s": spent[OURS][1],
        "other_cpu_s": spent[other][1],
    }


def file_of(folder: Path, workload: Workload, index: int) -> Path:
    """Where a round is kept."""
    return folder / f"{workload.name}-{index:03}.json"


def key_of(workload: Workload, others: Sequence[str], conditions: Mapping[str, str]) -> str:
    """Rounds measured under other conditions are measured again."""
    told = [workload.name, dict(workload.recipe), workload.warm, workload.steps, list(others), dict(conditions)]
    return digest(told)


def sources_digest(*folders: Path) -> str:
    """Of all Python files below: a round of another trainer is no round of this one."""
    return digest([file.read_text() for folder in folders for file in sorted(folder.rglob("*.py"))])
