"""Settings of torch that hold for the whole process while a training runs, and are put back afterwards.

Everything global that a config asks for is set here and nowhere else. Must not know models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

from autoaccel.config import TrainerConfig
from autoaccel.trainer.techniques.attention import attention_by
from autoaccel.trainer.techniques.compilation import keeping, kept_code

T = TypeVar("T")


@contextmanager
def process_settings(config: TrainerConfig, threads: int = 0) -> Iterator[None]:
    """A training's global settings while it runs; the caller's come back, also after a failure.

    Args:
        config: whose settings.
        threads: instead of the config's; 0: those.
    """
    matmul, system = str(config.precision.matmul), config.system
    threads = threads or system.threads
    with ExitStack() as stack:
        stack.enter_context(_held(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, matmul))
        stack.enter_context(_held(_tries_convolutions, _try_convolutions, system.cudnn_benchmark))
        if threads:
            stack.enter_context(_held(torch.get_num_threads, torch.set_num_threads, threads))
        if system.attention != "auto":
            stack.enter_context(attention_by(system.attention))
        if config.compile.mode != "off":
            stack.enter_context(kept_code())
        if config.memory.budget < 1:
            stack.enter_context(keeping(config.memory.budget))
        yield


def _tries_convolutions() -> bool:
    return torch.backends.cudnn.benchmark


def _try_convolutions(on: bool) -> None:
    torch.backends.cudnn.benchmark = on


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
