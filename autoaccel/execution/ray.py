"""Trials on Ray: each slot is an actor, placed by Ray on one machine or many, in which a local executor runs trials.

What may be spent, capped or stopped is decided elsewhere, as for local trials; Ray only says where they run. A trial
whose actor or node goes away ends as 'lost' and another actor takes its place. Must not know budgets or policies.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoaccel.clock import Clock, MonotonicClock
from autoaccel.errors import AutoaccelError, EnvironmentFaultError, UsageError, first_line
from autoaccel.execution.base import Event, Executor
from autoaccel.execution.local import LOG_LIMIT_BYTES, LocalExecutor, TaskSource, ended_after
from autoaccel.execution.ray_cluster import RayCluster, connect, disconnect, options_of, share_of_devices
from autoaccel.hardware.profile import cpu_facts
from autoaccel.trial import LOST, Ended, Report, TrialSpec

PLACEMENT_S = 60.0
"""How long Ray may take to place an actor; a cluster that grows may need a part of it."""
_LONG_POLL_S, _LOOK_S = 5.0, 0.5
"""An actor that has nothing to say answers after so long, and looks after its worker so often."""
_MOST_LOG_BYTES = 100_000
_CLOSING_S = 2.0
"""A private Ray takes about 1.5 s to end (2 cores)."""


class Host:
    """What an actor is: a local executor of one slot, whose events are fetched."""

    def __init__(self, source: TaskSource | None) -> None:
        self._log, name = tempfile.mkstemp(prefix="autoaccel-")
        os.unlink(name)  # so that it is gone with the actor, however that ends
        self._n_read = 0
        self._to_stop: set[int] = set()
        self._executor = LocalExecutor(source, self._log)

    def place(self) -> tuple[str, str]:
        """The node, and its processor."""
        import ray

        return ray.get_runtime_context().get_node_id(), cpu_facts()[0]

    def events(self, begin: dict[str, Any] | None = None) -> tuple[list[dict[str, Any]], str]:
        """Start a trial, if one is given; what has happened since, as plain JSON, and what was logged meanwhile."""
        if begin is not None:
            spec = TrialSpec.from_json(begin)
            self._executor.start(spec)
            if spec.trial in self._to_stop:
                self._executor.stop(spec.trial)
        found: list[Event] = []
        for _ in range(round(_LONG_POLL_S / _LOOK_S)):
            found = self._executor.wait(_LOOK_S)
            if found:
                break
        return [{type(event).__name__: event.to_json()} for event in found], self._logged()

    def stop(self, trial: int) -> None:
        """Runs beside `events`, in a thread of its own; it may even come before the trial is started."""
        self._to_stop.add(trial)
        self._executor.stop(trial)

    def _logged(self) -> str:
        """What is new in the log, or its end. Workers write where the last one stopped: the position is theirs."""
        size = os.fstat(self._log).st_size
        text = os.pread(self._log, _MOST_LOG_BYTES, max(self._n_read, size - _MOST_LOG_BYTES))
        self._n_read = size
        if size > LOG_LIMIT_BYTES:
            os.ftruncate(self._log, 0)
            os.lseek(self._log, 0, os.SEEK_SET)
            self._n_read = 0
        return text.decode(errors="replace")


@dataclass
class _Place:
    """One slot: its actor, and what it is asked for."""

    actor: Any
    placed: Any
    """Where it is, once the actor lives."""
    asked_s: float
    is_placed: bool = False
    spec: TrialSpec | None = None
    answer: Any = None
    """The events to come of it."""
    last: Report | None = None


class RayExecutor(Executor):
    """Trials in actors on Ray. Starts a private Ray, or connects to a cluster; `close` ends what it began.

    Args:
        source: the task.
        log: file that takes what the workers print; None discards it.
        n_slots: trials at once.
        n_devices: GPUs, or cores where there are none, that they share evenly.
        cluster: which Ray, and what else a trial needs there.

    Raises:
        EnvironmentFaultError: no Ray, or no room for the slots on it.
        UsageError: machines of different kinds.
    """

    def __init__(
        self,
        source: TaskSource | None,
        log: Path | None = None,
        n_slots: int = 1,
        n_devices: int = 1,
        cluster: RayCluster | None = None,
    ) -> None:
        self.n_slots, self.closing_s = n_slots, _CLOSING_S
        self._log = log
        self._clock: Clock = MonotonicClock()
        self._connection = connect(cluster or RayCluster(), source)
        self._idle: list[_Place] = []
        self._busy: dict[int, _Place] = {}
        self._ends: list[Ended] = []
        if log is not None:
            log.touch()
        try:
            self._resources = share_of_devices(n_devices, n_slots, cluster or RayCluster())
            self._idle = [self._new_place() for _ in range(n_slots)]
            self._await_all(self._idle)
        except BaseException:
            self.close()
            raise

    def start(self, spec: TrialSpec) -> None:
        if len(self._busy) >= self.n_slots:
            raise RuntimeError(f"no free slot for trial {spec.trial}: {sorted(self._busy)} are running")
        self._begin(spec, self._free_place())

    def wait(self, timeout_s: float) -> list[Event]:
        import ray

        waiting = {place.answer: trial for trial, place in self._busy.items()}
        if waiting and not self._ends:
            ray.wait(list(waiting), num_returns=1, timeout=max(0.0, timeout_s))
        ready = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)[0] if waiting else []
        events: list[Event] = [*self._ends]
        self._ends = []
        for answer in ready:
            events += self._take(waiting[answer])
        return events + self._misplaced()

    def stop(self, trial: int) -> None:
        if trial in self._busy:
            self._busy[trial].actor.stop.remote(trial)

    def kill(self, trial: int) -> None:
        if trial in self._busy:
            self._end(trial, "timeout", "killed by the driver at its deadline")

    def close(self) -> None:
        import ray

        for place in [*self._idle, *self._busy.values()]:
            with contextlib.suppress(Exception):  # a Ray that is gone
                ray.kill(place.actor)
        self._idle, self._busy, self._ends = [], {}, []
        disconnect(self._connection)

    def _begin(self, spec: TrialSpec, place: _Place) -> None:
        place.spec, place.last, place.answer = spec, None, place.actor.events.remote(spec.to_json())
        self._busy[spec.trial] = place

    def _free_place(self) -> _Place:
        """One whose actor lives, if there is one; else one that Ray has yet to place."""
        self._idle = [place for place in self._idle if self._is_sound(place)]
        self._idle.sort(key=lambda place: not place.is_placed)
        return self._idle.pop(0) if self._idle else self._new_place()

    def _is_sound(self, place: _Place) -> bool:
        """Whether it has been placed or may still be: a node that goes away takes along what it was given."""
        import ray

        if not place.is_placed and ray.wait([place.placed], timeout=0)[0]:
            try:
                ray.get(place.placed)
            except ray.exceptions.RayError:
                return False
            place.is_placed = True
        return True

    def _new_place(self) -> _Place:
        import ray

        actor: Any = (
            ray.remote(Host)
            .options(
                max_concurrency=2,  # to be asked to stop while it waits
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
                **options_of(self._resources),
            )
            .remote(self._connection.source)
        )
        return _Place(actor, actor.place.remote(), self._clock.now())

    def _await_all(self, places: Sequence[_Place]) -> None:
        import ray

        ready, missing = ray.wait([p.placed for p in places], num_returns=len(places), timeout=PLACEMENT_S)
        if missing:
            raise EnvironmentFaultError(
                f"Ray has room for {len(ready)} of {len(places)} trials at once, each with {_shown(self._resources)}; "
                f"it has {_shown(ray.cluster_resources())}, of which are free {_shown(ray.available_resources())}",
                "Ask for fewer --devices or --trials-at-once, or add nodes.",
            )
        try:
            found = ray.get(ready)
        except ray.exceptions.RayError as error:
            raise EnvironmentFaultError(
                f"a worker on Ray could not be started: {first_line(error)}",
                "Every node needs the same Python and ray, torch, and what the task imports.",
            ) from error
        for place in places:
            place.is_placed = True
        self._resources |= _of_one_kind(found)

    def _take(self, trial: int) -> list[Event]:
        """What an actor answered; it is asked again while its trial runs."""
        import ray

        place = self._busy[trial]
        try:
            found, logged = ray.get(place.answer)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, AutoaccelError):
                raise error.cause from error
            return self._lost(trial, first_line(error))
        except ray.exceptions.RayError as error:
            return self._lost(trial, first_line(error))
        self._write(logged)
        events = [Report(**e["Report"]) if "Report" in e else Ended(**e["Ended"]) for e in found]
        place.last = next((e for e in reversed(events) if isinstance(e, Report)), place.last)
        if events and isinstance(events[-1], Ended):
            self._idle.append(self._busy.pop(trial))
            return [*events[:-1], _excused(events[-1])]
        place.answer = place.actor.events.remote()
        return events

    def _lost(self, trial: int, why: str) -> list[Event]:
        self._end(trial, LOST, f"its worker or machine went away: {why}")
        return [self._ends.pop()]

    def _end(self, trial: int, outcome: str, message: str) -> None:
        """End a trial together with its actor, and ask Ray for another one."""
        place = self._busy.pop(trial)
        self._discard(place)
        self._ends.append(ended_after(place.last, trial, outcome, message, {}))
        self._idle.append(self._new_place())

    def _misplaced(self) -> list[Event]:
        """Trials on actors that Ray has not placed, as after the loss of a node: they take the place of an idle one, or
        are lost when none comes in time."""
        events: list[Event] = []
        for trial, place in list(self._busy.items()):
            if not self._is_sound(place) or place.is_placed:
                continue  # where it is not sound, its answer says why
            self._idle = [other for other in self._idle if self._is_sound(other)]
            spare = next((other for other in self._idle if other.is_placed), None)
            if spare is not None and place.spec is not None:
                self._idle.remove(spare)
                self._discard(place)
                self._begin(place.spec, spare)
            elif self._clock.now() - place.asked_s > PLACEMENT_S:
                events += self._without_room(trial)
        return events

    def _without_room(self, trial: int) -> list[Event]:
        if self.n_slots == 1:
            raise EnvironmentFaultError(
                f"Ray has had no room for a trial with {_shown(self._resources)} for {PLACEMENT_S:.0f}s",
                "Add nodes; then --resume.",
            )
        self.n_slots -= 1
        ended = self._lost(trial, f"no room on the cluster in {PLACEMENT_S:.0f}s")
        self._discard(self._idle.pop())
        return ended

    def _discard(self, place: _Place) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(place.actor)

    def _write(self, logged: str) -> None:
        if self._log is not None and logged:
            with self._log.open("a") as stream:
                stream.write(logged)


def _of_one_kind(places: Sequence[tuple[str, str]]) -> dict[str, float]:
    """What an actor has to ask for to be placed on the same kind of machine as these: (node, processor).

    Raises:
        UsageError: they are of different kinds themselves.
    """
    import ray

    known = {node["NodeID"]: node.get("Resources", {}) for node in ray.nodes()}
    gpus = {node: [n for n in known.get(node, {}) if n.startswith("accelerator_type:")] for node, _ in places}
    kinds = sorted({", ".join(gpus[node]) or processor for node, processor in places})
    if len(kinds) > 1:
        raise UsageError(
            f"the cluster's machines differ, so times on them cannot be compared: {'; '.join(kinds)}",
            "Ask for one kind, for example --ray-resources accelerator_type:A100=0.001.",
        )
    return {name: 0.001 for name in gpus[places[0][0]]}


def _excused(ended: Ended) -> Ended:
    """A training process that somebody killed says nothing of its trial, on machines that others use too."""
    if ended.outcome == "crashed" and ended.facts.get("signal") == signal.SIGKILL:
        return replace(ended, outcome=LOST)
    return ended


def _shown(resources: dict[str, float]) -> str:
    """The amounts that people ask for."""
    known = {k: v for k, v in resources.items() if not k.startswith(("node:", "object_store", "memory"))}
    return ", ".join(f"{k} {v:g}" for k, v in itertools.islice(sorted(known.items()), 8) if v) or "nothing"
