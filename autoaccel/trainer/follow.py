"""The training of all processes of a team but the first: they do what the leader tells, until it says that it is over.

Must not look at clocks, targets or limits: the leader does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoaccel.trainer.evaluate import evaluate, leave_evaluated_weights
from autoaccel.trainer.loop import follow_progress, optimizer_step
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.team import CHECKPOINT, EVALUATE, LEAVE, STEP, TEST


def follow(loaded: LoadedTask, parts: Parts, checkpoint: Callable[[], object] = lambda: None) -> None:
    """Do as the leader tells, until the training is over."""
    parts.model.train()
    while True:
        deed, how = parts.spread.team.told()
        if deed == STEP:
            step = Step(int(how[0]), int(how[1]), how[2], int(how[3]))
            follow_progress(parts, step)
            optimizer_step(loaded, parts, step)
        elif deed == EVALUATE:
            evaluate(loaded.task, parts, loaded.validation)
        elif deed == TEST:
            assert loaded.test is not None, "the leader has the same task"
            evaluate(loaded.task, parts, loaded.test)
        elif deed == CHECKPOINT:
            checkpoint()
        elif deed == LEAVE:
            leave_evaluated_weights(parts)
            parts = replace(parts, for_evaluation=())
        else:
            return
