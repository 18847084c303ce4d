"""Contestants as the measuring process sees them: started, asked, ended. Must not know what is made of the answers."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from autoaccel.execution.local import worker_environment
from benchmarks.trainer.contestant import CONTESTANTS, KEEPS_MEMORY

Document = dict[str, Any]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
PATIENCE_S = 300.0
"""Imports of all contestants at once, or one block; who takes longer hangs."""


class FailedError(RuntimeError):
    """A contestant ended or hangs; the message is the end of its log."""


class Child:
    """A contestant's process. Its library's words go to a log that is read only if it fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-m", "benchmarks.trainer.contestant", name]
        root = Path(__file__).parents[2]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, bufsize=1, cwd=root, env=environment(name)
        )

    def tell(self, request: Document) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin)
        except BrokenPipeError as error:
            raise FailedError(self._last_words()) from error

    def hear(self) -> Document:
        """The next answer; there is one line per request, so that none waits unseen in a buffer."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise FailedError(self._last_words() if ready else f"{self.name}: no answer in {PATIENCE_S:.0f} s")
        answer: Document = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return f"{self.name}: {lines[-1] if lines else 'ended without a word'}"


@contextmanager
def children(names: Sequence[str]) -> Iterator[dict[str, Child]]:
    """Processes of these contestants, all started, then all ready."""
    with ExitStack() as stack:
        started = {name: Child(name) for name in names}
        for child in started.values():
            stack.callback(child.close)
        for child in started.values():
            child.hear()
        yield started


def environment(name: str) -> dict[str, str]:
    """Of a contestant's process: one thread for everybody; ours has what its workers have."""
    found = worker_environment() if CONTESTANTS[name].module == "ours" else dict(os.environ)
    if CONTESTANTS[name].keeps_memory:
        found |= KEEPS_MEMORY
    return {**found, **dict.fromkeys(THREADS, "1"), **QUIET}


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
