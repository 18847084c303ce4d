"""Settings of torch that hold for the whole process while a training runs, and are put back afterwards.

Everything global that a config asks for is set here and nowhere else. Must not know models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

from autoaccel.config import TrainerConfig

T = TypeVar("T")


@contextmanager
def process_settings(config: TrainerConfig) -> Iterator[None]:
    """A training's global settings while it runs; the caller's come back, also after a failure."""
    with ExitStack() as stack:
        matmul: str = config.precision.matmul
        stack.enter_context(_held(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, matmul))
        yield


@contextmanager
def _held(read: Callable[[], T], write: Callable[[T], object], value: T) -> Iterator[None]:
    """One setting at a value; it is left alone where it has that value already."""
    before = read()
    if value == before:
        yield
        return
    write(value)
    try:
        yield
    finally:
        write(before)
