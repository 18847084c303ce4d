"""train: one training in this process, and its result.

Loads no torch before it is called. Must not know the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from autoaccel.config import TrainerConfig
from autoaccel.errors import UsageError
from autoaccel.search.interrupt import Interrupt
from autoaccel.tasks.base import Task
from autoaccel.trial import Ended, Report, Target, TrialSpec

if TYPE_CHECKING:
    from torch import nn

    from autoaccel.trainer.parts import LoadedTask
    from autoaccel.trainer.run import Checkpointing


@dataclass(frozen=True)
class TrainResult:
    """One training."""

    outcome: str
    """hit, missed, finished (no target), stopped, diverged, oom, crashed."""
    elapsed_s: float
    """Training time; for a hit, the time to the target."""
    value: float | None
    """Last validation metric."""
    test_value: float | None
    reports: tuple[Report, ...]
    model: nn.Module
    """The trained model, on the device it was trained on; as it began where several processes trained it and failed."""
    message: str = ""
    signal: int | None = None
    """The signal that stopped it, if one did; its checkpoint is in the run directory."""


def train(
    task: Task | str,
    config: TrainerConfig,
    *,
    target: Target | float | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    report: Callable[[Report], None] | None = None,
) -> TrainResult:
    """Train once, in this process, and keep the model.

    Args:
        task: a Task or a reference.
        config: what to train with.
        target: stop at the first evaluation that reaches it; None trains to the horizon.
        run_dir: where checkpoints (after each evaluation) and the final weights go; None writes nothing.
        resume: continue from the checkpoint in run_dir.
        report: called after each evaluation.

    Raises:
        UsageError: wrong task or config.
        EnvironmentFaultError: no usable checkpoint to resume from.
    """
    from autoaccel.tasks.load import load_task
    from autoaccel.trainer.checkpoint import MANIFEST, MODEL, save_model
    from autoaccel.trainer.preflight import preflight
    from autoaccel.trainer.run import Checkpointing, run_training

    if resume and run_dir is None:
        raise UsageError("train: resume without a run directory", "Say where the checkpoint is.")
    loaded, facts = preflight(load_task(task) if isinstance(task, str) else task)
    if isinstance(target, int | float):
        target = Target(target, facts["direction"], facts["metric"])
    folder = Path(run_dir) if run_dir is not None else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume and ((folder / MANIFEST).exists() or (folder / MODEL).exists()):
            raise UsageError(f"{folder}: holds another training", "Use --resume to continue it, or another --out.")
    seen: list[Report] = []

    def listen(event: Report) -> None:
        seen.append(event)
        if report:
            report(event)

    spec = TrialSpec(0, "train", config, target, test=True)
    checkpointing = Checkpointing(folder, resume) if folder else None
    model: nn.Module | None
    with Interrupt() as interrupt:
        if config.parallel.n > 1:
            ended, model = _train_in_group(task, loaded, spec, Watching(listen, interrupt), checkpointing)
        else:
            ended, model = run_training(loaded, spec, report=listen, stopped=interrupt, checkpointing=checkpointing)
    if model is None:
        raise UsageError(f"the model could not be built: {ended.message}", "Check the task's model function.")
    if folder and ended.outcome in ("hit", "missed", "finished"):
        save_model(folder, model)
    return TrainResult(
        ended.outcome,
        ended.elapsed_s,
        ended.value,
        ended.facts.get("test_value"),
        tuple(seen),
        model,
        ended.message,
        interrupt.signal,
    )


@dataclass(frozen=True)
class Watching:
    """Who hears of a training, and who may stop it."""

    report: Callable[[Report], None]
    stopped: Callable[[], bool]


def _train_in_group(
    task: Task | str, loaded: LoadedTask, spec: TrialSpec, watching: Watching, checkpointing: Checkpointing | None
) -> tuple[Ended, nn.Module]:
    """Train by a group of processes; the model is made of the weights they leave.

    Raises:
        UsageError: more processes than devices, or a config that this task cannot have.
    """
    import cloudpickle
    from safetensors.torch import load_file

    from autoaccel.execution.group import Groups
    from autoaccel.trainer.build import new_model
    from autoaccel.trainer.team import too_few_devices

    reason = too_few_devices(spec.config.parallel.n if spec.config else 1)
    if reason:
        raise UsageError(f"config.parallel.n_processes: {reason}", "Set it to at most as many.")
    groups = Groups(task) if isinstance(task, str) else Groups(None, cloudpickle.dumps(task))
    model = new_model(loaded).to(loaded.device)
    with TemporaryDirectory(prefix="autoaccel-") as folder:
        weights = Path(folder, "model.safetensors")
        files = {
            "checkpoints": str(checkpointing.folder.absolute()) if checkpointing else None,
            "resume": checkpointing is not None and checkpointing.resume,
            "weights": str(weights),
        }
        try:
            ended = groups.run(spec, watching.report, watching.stopped, files)
        finally:
            groups.close()
        if ended.outcome == "refused":
            raise UsageError(ended.message, ended.facts.get("hint", ""))
        if weights.exists():
            model.load_state_dict(load_file(weights))
    return ended, model
