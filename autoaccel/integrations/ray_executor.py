"""Trials as those of Ray Tune: our study decides what is run and when it ends, Tune runs it and writes its files.

Tune's searcher hands out what the study starts, its scheduler stops what the study stops, its results come back as
reports and ends. The files that Tune writes are for Tune's own tooling; nothing is read from them. Importing this
module imports Ray Tune. Must not know budgets or policies.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from autoaccel.config import to_params
from autoaccel.errors import EnvironmentFaultError, UsageError, first_line
from autoaccel.execution.base import Event, Executor
from autoaccel.execution.local import LocalExecutor, TaskSource, ended_after
from autoaccel.execution.ray_cluster import Connection, RayCluster, disconnect, share_of_devices
from autoaccel.integrations.ray import TimeToTargetScheduler
from autoaccel.trial import LOST, Ended, Report, TrialSpec

FOLDER, EXPERIMENT = "ray", "trials"
"""Where Tune writes, below the run directory."""
_PATIENCE_S = 0.05
_CLOSING_S = 4.0
_JOIN_S = 10.0
"""Far more than Tune's loop takes to end once its trials are gone."""
_SPEC, _ENDED = "autoaccel_spec", "autoaccel_ended"


class Training(tune.Trainable):
    """A trial of Tune: one of its steps is the next report of a worker process, the last one is its end."""

    def setup(self, config: dict[str, Any], source: TaskSource | None = None, log: Path | None = None) -> None:
        self._executor = LocalExecutor(source, log)
        self._events: list[Event] = []
        self._trial: int | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Another trial in the same actor and worker process."""
        spec = TrialSpec.from_json(json.loads(new_config[_SPEC]))
        if self._trial is not None:
            self._executor.kill(self._trial)
            while self._executor.wait(0.0):
                pass
        self._events, self._trial = [], spec.trial
        self._executor.start(spec)
        return True

    def step(self) -> dict[str, Any]:
        while not self._events:
            self._events += self._executor.wait(1.0)
        event = self._events.pop(0)
        if isinstance(event, Report):
            return event.to_json()
        self._trial = None
        return {_ENDED: json.dumps(event.to_json()), "value": event.value, "outcome": event.outcome}

    def halt(self, trial: int) -> None:
        """Have a trial end after its current step; Tune calls `step` for its end."""
        self._executor.stop(trial)

    def cleanup(self) -> None:
        self._executor.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Trials are short and are run again instead."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """There is none."""


class Counter(Searcher):
    """Where the study and Tune meet: specs go out when Tune asks, results come in as events.

    Tune calls it in its thread, the executor in the study's. A trial that has ended for the study is one that runs for
    Tune until the next one waits for its actor: Tune keeps a single actor without a trial and lets the others go, and a
    new one takes seconds to start.
    """

    def __init__(self, n_slots: int = 1) -> None:
        super().__init__()
        self._n_slots = n_slots
        self._specs: queue.SimpleQueue[TrialSpec] = queue.SimpleQueue()
        self.events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
        self._running: dict[str, TrialSpec] = {}
        self._last: dict[str, Report] = {}
        self._lock = threading.RLock()
        self._to_stop: set[int] = set()
        self._halted: set[int] = set()
        self._killed: set[int] = set()
        self._at_rest: set[str] = set()
        self.is_closed = False

    def start(self, spec: TrialSpec) -> None:
        self._specs.put(spec)

    def stop(self, trial: int) -> None:
        self._to_stop.add(trial)

    def kill(self, trial: int) -> None:
        """It has ended for the study; Tune will hear of it."""
        with self._lock:
            self._killed.add(trial)
            last = next((self._last[i] for i, s in self._running.items() if s.trial == trial and i in self._last), None)
            self.events.put(ended_after(last, trial, "timeout", "killed by the driver at its deadline", {}))

    # ------------------------------------------------------------------------------------------------- asked by Tune

    def suggest(self, trial_id: str) -> Any:
        while not self.is_closed:
            with suppress(queue.Empty):
                spec = self._specs.get(timeout=_PATIENCE_S if len(self._running) < self._n_slots else 0.0)
                assert spec.config is not None or spec.probe is not None
                if spec.trial in self._killed:
                    continue
                self._running[trial_id] = spec
                params = to_params(spec.config) if spec.config is not None else {}
                return {_SPEC: json.dumps(spec.to_json()), "purpose": spec.purpose, "trial": spec.trial, **params}
            if self._running or self._at_rest:
                return None  # Tune has other things to do; without any it would sleep for a second
        return Searcher.FINISHED

    def decide(self, trial: Any, result: dict[str, Any]) -> str:
        if _ENDED in result:
            return TrialScheduler.NOOP
        spec = self._running.get(trial.trial_id)
        if spec is not None and spec.trial in self._to_stop - self._halted and trial.temporary_state.ray_actor:
            self._halted.add(spec.trial)
            trial.temporary_state.ray_actor.halt.remote(spec.trial)
        return TrialScheduler.CONTINUE

    def is_over(self) -> bool:
        return self.is_closed

    def condemned(self) -> frozenset[str]:
        return frozenset(i for i, spec in list(self._running.items()) if spec.trial in self._killed)

    def at_rest(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._at_rest)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        with self._lock:
            spec = self._running.get(trial_id)
            if spec is None:
                return
            if _ENDED in result:
                self._at_rest.add(trial_id)
                self._end(trial_id, Ended(**json.loads(result[_ENDED])))
            elif spec.trial not in self._killed:
                report = Report(**{name: result[name] for name in Report.__dataclass_fields__})
                self._last[trial_id] = report
                self.events.put(report)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        with self._lock:
            self._at_rest.discard(trial_id)
            spec, last = self._running.get(trial_id), self._last.get(trial_id)
            if spec is not None:
                self._end(trial_id, ended_after(last, spec.trial, LOST, "its worker or machine went away", {}))

    def _end(self, trial_id: str, ended: Ended) -> None:
        """Tell the study, unless it has done with the trial."""
        spec, last = self._running.pop(trial_id), self._last.pop(trial_id, None)
        if spec.trial in self._killed or self.is_closed:
            return
        if ended.outcome == "crashed" and ended.facts.get("signal") == signal.SIGKILL:  # by somebody
            ended = ended_after(last, spec.trial, LOST, ended.message, ended.facts)
        self.events.put(ended)

    def save(self, checkpoint_path: str) -> None:
        """The ledger is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """The ledger is the only state."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Counter, ()  # Tune pickles the Tuner it is given; that copy is never used


class RayTuneExecutor(Executor):
    """Trials of one Ray Tune experiment; `close` ends the connection too.

    Args:
        connection: the Ray to run on.
        folder: the run directory; Tune's files go below it.
        n_slots: trials at once.
        n_devices: GPUs, or cores where there are none, that they share evenly.
        cluster: what else a trial needs there.

    Raises:
        EnvironmentFaultError: no room for the slots.
    """

    def __init__(
        self,
        connection: Connection,
        folder: Path,
        n_slots: int = 1,
        n_devices: int = 1,
        cluster: RayCluster | None = None,
    ) -> None:
        cluster = cluster or RayCluster()
        self.n_slots, self.closing_s = n_slots, _CLOSING_S
        self._connection = connection
        self._running: set[int] = set()
        self._counter = Counter(n_slots)
        try:
            resources = share_of_devices(n_devices, n_slots, cluster)
            check_room(resources, n_slots)
        except BaseException:
            disconnect(self._connection)
            raise
        log = folder / "worker.log" if self._connection.is_private else None
        trainable = tune.with_resources(
            tune.with_parameters(Training, source=self._connection.source, log=log), _lower(resources)
        )
        self._thread = threading.Thread(target=self._fit, args=(trainable, folder / FOLDER), daemon=True)
        self._thread.start()

    def start(self, spec: TrialSpec) -> None:
        if len(self._running) >= self.n_slots:
            raise RuntimeError(f"no free slot for trial {spec.trial}: {sorted(self._running)} are running")
        self._running.add(spec.trial)
        self._counter.start(spec)

    def wait(self, timeout_s: float) -> list[Event]:
        events: list[Event] = []
        with suppress(queue.Empty):
            events += self._receive(max(0.0, timeout_s))
            while True:
                events += self._receive(0.0)
        return events

    def stop(self, trial: int) -> None:
        if trial in self._running:
            self._counter.stop(trial)

    def kill(self, trial: int) -> None:
        if trial in self._running:
            self._counter.kill(trial)

    def close(self) -> None:
        self._running = set()
        self._counter.is_closed = True
        self._thread.join(_JOIN_S)  # Tune ends its trials meanwhile, and writes its last files
        disconnect(self._connection)
        self._counter.events = queue.SimpleQueue()

    def _receive(self, timeout_s: float) -> list[Event]:
        event = self._counter.events.get(timeout=timeout_s)
        if isinstance(event, Exception):
            raise EnvironmentFaultError(
                f"Ray Tune ended: {first_line(event)}", "Use --executor ray, or --resume."
            ) from event
        if event.trial not in self._running:  # it was killed a moment before it ended
            return []
        if isinstance(event, Ended):
            self._running.remove(event.trial)
        return [event]

    def _fit(self, trainable: Any, folder: Path) -> None:
        """Tune's loop, in a thread of its own, until the counter is closed."""
        for name in ("ray.tune", "ray.air", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tuner = tune.Tuner(
                    trainable,
                    tune_config=tune.TuneConfig(
                        search_alg=self._counter,
                        scheduler=TimeToTargetScheduler(self._counter, grace_s=0.0),
                        num_samples=-1,
                        max_concurrent_trials=2 * self.n_slots,  # so many that run, and as many at rest
                        reuse_actors=True,
                        trial_dirname_creator=lambda trial: f"{trial.config['trial']:04d}-{trial.trial_id}",
                    ),
                    run_config=tune.RunConfig(
                        name=f"{EXPERIMENT}-{os.getpid()}",
                        storage_path=str(folder.resolve()),
                        verbose=0,
                        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    ),
                )
                tuner.fit()
        except Exception as error:
            if not self._counter.is_closed:
                self._counter.events.put(error)


def check_room(resources: dict[str, float], n_slots: int) -> None:
    """EnvironmentFaultError if the whole of Ray has less than the slots need: Tune would wait for ever. UsageError if
    they could get GPUs of different kinds."""
    kinds = {name for node in ray.nodes() for name in node.get("Resources", {}) if name.startswith("accelerator_type:")}
    if len(kinds) > 1 and not kinds & resources.keys():
        raise UsageError(
            f"the cluster's machines differ, so times on them cannot be compared: {', '.join(sorted(kinds))}",
            "Ask for one kind, for example --ray-resources accelerator_type:A100=0.001.",
        )
    has = ray.cluster_resources()
    short = {
        name: n_slots * amount for name, amount in resources.items() if n_slots * amount > has.get(name, 0.0) + 1e-6
    }
    if short:
        raise EnvironmentFaultError(
            f"Ray has no room for {n_slots} trials at once: they need "
            + ", ".join(f"{name} {amount:g} of {has.get(name, 0.0):g}" for name, amount in short.items()),
            "Ask for fewer --devices or --trials-at-once, or add nodes.",
        )


def _lower(resources: dict[str, float]) -> dict[str, float]:
    """In the words of Tune."""
    return {{"CPU": "cpu", "GPU": "gpu"}.get(name, name): amount for name, amount in resources.items()}
