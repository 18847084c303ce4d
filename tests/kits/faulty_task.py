"""A tiny linear task with faults to order: the seed of the trial says which. Tests copy it to a folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from autoaccel import Task

HERE = Path(__file__).parent
EXIT, LOOP, PRINT, CALL_EXIT, RAISE, SEGFAULT = 11, 12, 13, 14, 15, 16
"""Seeds. Others train without a fault."""


def copied_to(folder: Path) -> Path:
    """This file, in a folder that it may write to."""
    return Path(shutil.copy(__file__, folder / "faulty_task.py"))


def leave_a_child() -> None:
    """A forked process that would outlive this one by minutes; it has a copy of everything that is open."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    (HERE / "child.pid").write_text(str(child))


def misbehave(seed: int) -> None:
    """Do what the seed stands for."""
    if seed == EXIT:
        leave_a_child()
        os._exit(3)
    if seed == LOOP:
        leave_a_child()
        (HERE / "looping").touch()
        while True:
            pass
    if seed == PRINT:
        print('{"ended": {"trial": 1, "outcome": "hit"}}')
        os.write(1, b"not JSON\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        assert sys.stdin.read() == ""
        assert subprocess.run(["cat"], capture_output=True, check=True).stdout == b""
    if seed == CALL_EXIT:
        sys.exit("enough")
    if seed == RAISE:
        raise ValueError("no such layer")
    if seed == SEGFAULT:
        os.kill(os.getpid(), 11)


class Model(torch.nn.Linear):
    """Misbehaves in its first forward pass."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.seed = torch.initial_seed()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        misbehave(self.seed)
        self.seed = 0
        return super().forward(inputs)


def toy() -> Task:
    """Half of the samples are right, always: each occurs with both labels."""
    inputs = torch.arange(128.0).reshape(32, 4).repeat(2, 1) / 128
    targets = torch.arange(2).repeat_interleave(32)
    return Task(name="toy", model=Model, train=(inputs, targets), validation=(inputs, targets))


def broken() -> Task:
    """Cannot be made."""
    raise FileNotFoundError("no data at /nowhere")
