"""Contestants as the measuring process sees them: started, asked, ended. Must not know what is made of the answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version

import torch

from autoaccel.execution.local import worker_environment
from benchmarks.dialogue import ALONE, Child, FailedError
from benchmarks.trainer.contestant import CONTESTANTS, KEEPS_MEMORY

PATIENCE_S = 300.0
"""Imports of all contestants at once, or one block; who takes longer hangs."""


@contextmanager
def children(names: Sequence[str]) -> Iterator[dict[str, Child]]:
    """Processes of these contestants, all started, then all ready."""
    with ExitStack() as stack:
        started = {name: _started(name) for name in names}
        for child in started.values():
            stack.callback(child.close)
        for name, child in started.items():
            with named(name):
                child.hear()
        yield started


@contextmanager
def named(*names: str) -> Iterator[None]:
    """Failures within say whose they are."""
    try:
        yield
    except FailedError as error:
        raise FailedError(": ".join([*names, str(error)])) from error


def _started(name: str) -> Child:
    return Child("benchmarks.trainer.contestant", name, environment=environment(name), patience_s=PATIENCE_S)


def environment(name: str) -> dict[str, str]:
    """Of a contestant's process: one thread for everybody; ours has what its workers have."""
    found = worker_environment() if CONTESTANTS[name].module == "ours" else dict(os.environ)
    if CONTESTANTS[name].keeps_memory:
        found |= KEEPS_MEMORY
    return {**found, **ALONE}


def left_out() -> dict[str, str]:
    """Contestants that cannot run here, and why."""
    found = {}
    for name, contestant in CONTESTANTS.items():
        missing = [package for package in contestant.needs if not _is_installed(package)]
        if missing:
            found[name] = f"{', '.join(missing)} not installed"
        elif contestant.gpu_only and not torch.cuda.is_available():
            found[name] = "needs a GPU"
    return found


def versions() -> dict[str, str]:
    """Versions of the peers' packages that are installed."""
    needed = {package for contestant in CONTESTANTS.values() for package in contestant.needs}
    return {package: version(package) for package in sorted(needed) if _is_installed(package)}


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
