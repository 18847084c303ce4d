"""One process of a group: joins the others, then serves as a worker does, over a socket instead of pipes.

Started by `execution.group`. Must not know who leads, nor the search.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket

from autoaccel.execution.local import quiet_threads
from autoaccel.execution.worker import die_with, serve


def main(driver: int, address: str) -> None:
    """Serve the process `driver` over the Unix socket at `address`, until it closes it."""
    die_with(driver)
    for name in ("SIGINT", "SIGUSR1"):  # they reach the whole job; the driver decides
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    faulthandler.enable()
    rank, n = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    door = socket.socket(socket.AF_UNIX)
    door.connect(address)
    stream, out = os.fdopen(os.dup(door.fileno()), "rb"), os.fdopen(os.dup(door.fileno()), "w", buffering=1)
    print(rank, file=out)
    quiet_threads()
    from autoaccel.trainer.team import joined

    with joined(rank, n):
        serve(stream, out)
