"""The processes that executors have started, as the system knows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psutil


def alive() -> Iterator[tuple[psutil.Process, str]]:
    """Every process below this one, with its command line."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if command and process.status() != psutil.STATUS_ZOMBIE:
                yield process, command


def trainers() -> set[psutil.Process]:
    """The training processes of all executors of this process."""
    return {process for process, command in alive() if "autoaccel.execution.worker" in command}
