"""The worker process: loads the task once, then runs one trial or probe after another.

Commands come as JSON lines on standard input (a pickled task follows its line as raw bytes), events leave as JSON
lines on the original standard output; whatever the user's code prints goes to standard error. It dies with its driver.
Must not know the search, the budget or the store.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TextIO

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig, from_dict
from autoaccel.errors import AutoaccelError, UsageError
from autoaccel.execution.group import Groups, n_processes
from autoaccel.trial import CROWDING, PREFLIGHT, REFERENCE, STEP_PROBES, Ended, Report, TrialSpec

if TYPE_CHECKING:
    from autoaccel.trainer.parts import LoadedTask


@dataclass
class Inbox:
    """What the driver sent: commands in order, and the trials it wants stopped."""

    commands: queue.Queue[tuple[dict[str, Any], bytes]] = field(default_factory=queue.Queue)
    stopped: set[int] = field(default_factory=set)

    def read_forever(self, stream: BinaryIO) -> None:
        """Runs in a thread; the end of the stream means the driver is gone, and so are we."""
        try:
            for line in stream:
                command = json.loads(line)
                payload = stream.read(command.get("payload_bytes", 0))
                if "stop" in command:
                    self.stopped.add(command["stop"])
                else:
                    self.commands.put((command, payload))
        finally:
            _leave()


@dataclass(frozen=True)
class Calls:
    """What a training is told and tells while it runs."""

    inbox: Inbox
    report: Callable[[Report], None]
    files: dict[str, Any] | None = None
    """What it reads and writes, see `execution.group.Groups.run`."""


def main(driver: int) -> None:
    """Serve the driver, a process number, until it closes the pipe."""
    die_with(driver)
    _leave_signals_to_the_driver()
    faulthandler.enable()  # a native crash shows its stack in the log
    serve(*_take_pipes(), has_groups=True)


def serve(stream: BinaryIO, out: TextIO, *, has_groups: bool = False) -> NoReturn:
    """Run what comes in, one after the other, and say how it went; ends with the stream.

    Args:
        stream: commands, a JSON line each; a pickled task follows its line.
        out: reports and ends.
        has_groups: whether what needs several processes is run by a group of them; else this is one of a group.
    """
    inbox = Inbox()
    threading.Thread(target=inbox.read_forever, args=(stream,), daemon=True).start()
    source: Callable[[], Any] | None = None
    groups: Groups | None = None
    loaded: LoadedTask | None = None
    while True:
        command, payload = inbox.commands.get()
        if "task" in command:
            source = _task_source(command["task"], payload)
            groups = Groups(command["task"], payload) if has_groups else None
            continue
        spec = TrialSpec.from_json(command["run"])
        calls = Calls(inbox, partial(_send_report, out), command.get("files"))
        if groups is not None and n_processes(spec) > 1:
            ended = _run_in_group(groups, spec, calls)
        else:
            ended, loaded = _run(spec, source, loaded, calls)
        facts = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in ended.facts.items()}
        _send(out, {"ended": replace(ended, facts=facts).to_json()})


def _run_in_group(groups: Groups, spec: TrialSpec, calls: Calls) -> Ended:
    from autoaccel.trainer.team import too_few_devices

    try:
        reason = too_few_devices(n_processes(spec))
        if reason:  # before they are started
            raise UsageError(f"parallel.n_processes {n_processes(spec)}: {reason}", "Set it to at most as many.")
        return groups.run(spec, calls.report, lambda: spec.trial in calls.inbox.stopped)
    except AutoaccelError as error:
        return Ended(spec.trial, "refused", message=error.message, facts={"hint": error.hint})


def _send_report(out: TextIO, report: Report) -> None:
    """An evaluation without a number (the metric overflowed) is no report: a ledger holds strict JSON."""
    if math.isfinite(report.value) and math.isfinite(report.loss):
        _send(out, {"report": report.to_json()})


def _send(out: TextIO, event: dict[str, Any]) -> None:
    try:
        print(json.dumps(event), file=out)
    except BrokenPipeError:
        _leave()


def _run(
    spec: TrialSpec,
    source: Callable[[], Any] | None,
    loaded: LoadedTask | None,
    calls: Calls,
) -> tuple[Ended, LoadedTask | None]:
    """One spec to its end. Input errors come back as 'refused', a broken probe as 'crashed'."""
    try:
        if spec.purpose == "hardware":
            from autoaccel.hardware.probe import measure
            from autoaccel.hardware.profile import facts as machine

            return Ended(spec.trial, "done", facts={**measure(**spec.probe), "machine": machine()}), loaded
        facts: dict[str, Any] = {}
        if loaded is None or spec.purpose == PREFLIGHT:
            from autoaccel.trainer.preflight import preflight

            assert source is not None, "the driver sends the task first"
            loaded, facts = preflight(source())
        if spec.purpose == PREFLIGHT:
            return Ended(spec.trial, "done", flops=facts["flops"], facts=facts), loaded
        if spec.purpose in STEP_PROBES:
            return _measure(spec, loaded), loaded
        if spec.purpose == "breakdown":
            return _measure_breakdown(spec, loaded), loaded
        if spec.purpose in (REFERENCE, CROWDING):
            return _reference_steps(spec, loaded), loaded
        return _train(spec, loaded, calls), loaded
    except AutoaccelError as error:
        return Ended(spec.trial, "refused", message=error.message, facts={"hint": error.hint}), loaded
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return Ended(spec.trial, "crashed", message=f"{type(error).__name__}: {error}"), loaded


def _train(spec: TrialSpec, loaded: LoadedTask, calls: Calls) -> Ended:
    from autoaccel.trainer.run import Checkpointing, run_training

    files = calls.files or {}
    folder, weights = files.get("checkpoints"), files.get("weights")
    ended, _ = run_training(
        loaded,
        spec,
        report=calls.report,
        stopped=lambda: spec.trial in calls.inbox.stopped,
        checkpointing=Checkpointing(Path(folder), files["resume"]) if folder else None,
        weights=Path(weights) if weights else None,
    )
    return ended


def _measure(spec: TrialSpec, loaded: LoadedTask) -> Ended:
    """What steps of the task take."""
    from autoaccel.trainer.effect import Blocks, measure_effect
    from autoaccel.trainer.measure import measure_steps
    from autoaccel.trainer.memory_peak import measure_peak
    from autoaccel.trainer.soundness import measure_soundness

    given = {**spec.probe, "config": _config(spec), "room": Room(**spec.probe["room"])}
    if spec.purpose == "effect":
        facts = measure_effect(loaded, **{**given, "blocks": Blocks(**spec.probe["blocks"])})
    else:
        measures: dict[str, Callable[..., dict[str, Any]]]
        measures = {"step_cost": measure_steps, "soundness": measure_soundness, "memory_peak": measure_peak}
        facts = measures[spec.purpose](loaded, **given)
    return Ended(spec.trial, "done", flops=facts["flops"], facts=facts)


def _config(spec: TrialSpec) -> TrainerConfig:
    """What a probe is to measure, in this process alone; what a group changes is measured as an effect."""
    config = from_dict(spec.probe["config"])
    return replace(config, parallel=replace(config.parallel, strategy="none"))


def _measure_breakdown(spec: TrialSpec, loaded: LoadedTask) -> Ended:
    from autoaccel.trainer.breakdown import measure_breakdown

    facts = measure_breakdown(loaded, _config(spec), limit_s=spec.probe["limit_s"])
    return Ended(spec.trial, "done", flops=facts["flops"], facts=facts)


def _reference_steps(spec: TrialSpec, loaded: LoadedTask) -> Ended:
    from autoaccel.trainer.reference import reference_steps

    limit_flops = math.inf if spec.cap_flops is None else spec.cap_flops
    given = {**spec.probe, "config": _config(spec)}
    facts = reference_steps(loaded, **given, limit_flops=limit_flops)
    return Ended(spec.trial, "done", flops=facts["flops"], facts=facts)


def _task_source(reference: str | None, payload: bytes) -> Callable[[], Any]:
    """How to get the Task: by reference, or from the bytes the driver sent through its private pipe."""
    if reference is None:
        import cloudpickle

        return lambda: cloudpickle.loads(payload)
    from autoaccel.tasks.load import load_task

    return lambda: load_task(reference)


def _take_pipes() -> tuple[BinaryIO, TextIO]:
    """The driver's pipes for us alone: user code that reads finds the end of the file, what it prints is logged."""
    stream, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return stream, out


def _leave_signals_to_the_driver() -> None:
    """Ctrl-C and the signals of a batch system reach the whole job; the driver then asks us to stop.

    What user code forks dies of SIGTERM again: that is how loaders and pools end their processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def die_with(driver: int) -> None:
    """Linux: be killed when the driver dies, however it dies. Elsewhere the closed pipe does it."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != driver:  # it died before the call; not compared with 1, which a driver in a container is
        _leave()


def _leave() -> NoReturn:
    """End at once, with everything the task started in our process group."""
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)
