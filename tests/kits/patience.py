"""Waiting for what the system does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psutil

Found = TypeVar("Found")


def eventually(look: Callable[[], Found]) -> Found:
    """What is found once it is there, with all the patience one can have; what is last found if it never is."""
    for _ in range(2400):
        with suppress(psutil.NoSuchProcess):  # one that ends while it is looked at
            if found := look():
                return found
        time.sleep(0.05)
    return look()
