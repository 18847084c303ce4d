"""Trials in local worker processes: one per device slot in its own process group, reused while healthy, else replaced.

The driver's side of the pipe. Must not load torch, and never unpickles anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoaccel.errors import EnvironmentFaultError
from autoaccel.execution.base import Event, Executor
from autoaccel.execution.slots import Slot
from autoaccel.trial import Ended, Report, TrialSpec

_GRACE_S = 0.5
"""How long a process whose pipe is closed may take to be gone."""
_BOOT = """
import os, sys
driver, path = sys.argv[1:]
del sys.argv[1:]
sys.path[:] = path.split(os.pathsep)
from autoaccel.execution.worker import main
main(int(driver))
"""
"""A worker finds the modules that the driver finds, in the same order; `-m` would search the working folder first."""
LOG_LIMIT_BYTES, LOG_KEPT_BYTES = 10_000_000, 1_000_000
"""A log above the limit when a trial starts is cut to its last part."""


@dataclass(frozen=True)
class TaskSource:
    """How a worker gets the task: a reference it imports, or pickled bytes."""

    reference: str | None = None
    pickled: bytes = b""


class LocalExecutor(Executor):
    """Worker processes on this machine.

    Linux ends a worker together with the thread that started it: call from one thread that outlives the trials.

    Args:
        source: the task.
        log: file, or open descriptor, that takes the workers' standard error; None discards it.
        slots: for each trial that may run at once, what its workers are started with.
        memory_events: cgroup v2 file that counts what the kernel killed for lack of memory; default: this process' own.
    """

    def __init__(
        self,
        source: TaskSource | None,
        log: Path | int | None = None,
        slots: Sequence[Slot] = (Slot(),),
        memory_events: Path | None = None,
    ) -> None:
        self.n_slots = len(slots)
        self._slots = tuple(slots)
        self._source = source
        self._log = log
        self._memory_events = memory_events or _own_memory_events()
        self._events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._idle: dict[int, _Worker] = {}
        """By the number of the slot."""
        self._busy: dict[int, _Worker] = {}
        """By trial."""

    def start(self, spec: TrialSpec) -> None:
        if len(self._busy) >= self.n_slots:
            raise RuntimeError(f"no free slot for trial {spec.trial}: {sorted(self._busy)} are running")
        worker = self._free_worker()
        worker.begin(spec, oom_kills(self._memory_events))
        self._busy[spec.trial] = worker

    def wait(self, timeout_s: float) -> list[Event]:
        for worker in self._busy.values():
            if not worker.is_alive():  # what it left in its group may hold the pipe open
                worker.end()
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            events += self._receive(*self._events.get(timeout=max(0.0, timeout_s)))
            while True:
                events += self._receive(*self._events.get_nowait())
        return events

    def stop(self, trial: int) -> None:
        worker = self._busy.get(trial)  # once: another thread may be waiting meanwhile
        if worker is not None:
            worker.send({"stop": trial})

    def kill(self, trial: int) -> None:
        if trial in self._busy:
            worker = self._busy[trial]
            worker.killed = True
            worker.end()
            self._events.put((worker, None))  # it ends even if something it started still holds the pipe

    def close(self) -> None:
        for worker in [*self._idle.values(), *self._busy.values()]:
            worker.close()
        self._idle, self._busy = {}, {}

    def _free_worker(self) -> _Worker:
        """One that has run trials before, if there is one, else a new one in the first free slot."""
        for number in sorted(self._idle):
            worker = self._idle.pop(number)
            if worker.is_alive():
                return worker
            worker.end()
        taken = {worker.slot for worker in self._busy.values()}
        number = next(n for n in range(self.n_slots) if n not in taken)
        return _Worker(self._source, self._log, self._events, (number, self._slots[number]))

    def _receive(self, worker: _Worker, message: dict[str, Any] | None) -> list[Event]:
        trial = next((number for number, w in self._busy.items() if w is worker), None)
        if trial is None:  # an idle worker died, or the last words of a killed one
            return []
        if message is not None and "report" in message:
            worker.last = Report(**message["report"])
            return [worker.last]
        del self._busy[trial]
        if message is None:
            return [worker.obituary(trial, oom_kills(self._memory_events))]
        ended = Ended(**message["ended"])
        if ended.outcome in ("crashed", "oom"):  # its memory may be fragmented, its device in any state
            worker.close()
        else:
            self._idle[worker.slot] = worker
        return [ended]


class _Worker:
    """One process and the thread that reads what it says."""

    def __init__(
        self, source: TaskSource | None, log: Path | int | None, events: queue.Queue[Any], place: tuple[int, Slot]
    ) -> None:
        self.slot, slot = place
        self.killed = False
        self.last: Report | None = None
        self._gone = False
        self._n_oom_kills = 0
        self._log = log
        try:
            with contextlib.ExitStack() as stack:
                stderr: Any = stack.enter_context(log.open("ab")) if isinstance(log, Path) else log
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, str(os.getpid()), _import_path()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL if stderr is None else stderr,
                    env={**worker_environment(), **slot.environment},
                    start_new_session=True,
                )
            if slot.cores is not None:  # long before its imports are over and it starts threads
                os.sched_setaffinity(self._process.pid, slot.cores)
        except OSError as error:
            raise EnvironmentFaultError(
                f"no worker process could be started ({error})", "Free memory, processes or disk; then --resume."
            ) from error
        # The kernel's signal reaches the worker, not its children.
        self._guard = guard(f"kill -s KILL -- -{self._process.pid}")
        threading.Thread(target=self._read, args=(events,), daemon=True).start()
        if source is not None:
            self.send({"task": source.reference, "payload_bytes": len(source.pickled)}, source.pickled)

    def begin(self, spec: TrialSpec, n_oom_kills: int) -> None:
        """Start a trial; `n_oom_kills` so far tell later whether one of them was ours."""
        if isinstance(self._log, Path):
            _shorten(self._log)
        self.last = None
        self._n_oom_kills = n_oom_kills
        self.send({"run": spec.to_json()})

    def send(self, command: dict[str, Any], payload: bytes = b"") -> None:
        """Write one command; a dead process is noticed by its reader, not here."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(json.dumps(command).encode() + b"\n" + payload)
            self._process.stdin.flush()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the whole process group: loader and compiler processes too. Only once: the number may be reused."""
        if self._gone:
            return
        self._gone = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process in a hung device call dies when that returns
            self._process.wait(_GRACE_S)
        self._close_pipe()
        end_guard(self._guard)

    def close(self) -> None:
        """Let it go by closing its pipe; kill it if it stays."""
        self._close_pipe()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self.end()

    def obituary(self, trial: int, n_oom_kills: int) -> Ended:
        """How the process died, as the end of the trial it was running."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        code = self._process.poll()
        self.end()
        outcome, message = "crashed", f"the worker process died: {_how(code)}"
        if self.killed:
            outcome, message = "timeout", "killed by the driver at its deadline"
        elif code == -signal.SIGKILL and n_oom_kills > self._n_oom_kills:
            outcome, message = "oom", "the kernel killed the worker process for lack of memory"
        facts = {"signal": -code} if outcome == "crashed" and code is not None and code < 0 else {}
        return ended_after(self.last, trial, outcome, message, facts)

    def _close_pipe(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.close()

    def _read(self, events: queue.Queue[Any]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # the torn last line of a killed process
                    events.put((self, json.loads(line)))
        events.put((self, None))


def ended_after(last: Report | None, trial: int, outcome: str, message: str, facts: dict[str, Any]) -> Ended:
    """The end of a trial that could not say it itself: all that is known is its last report."""
    if last is None:
        return Ended(trial, outcome, message=message, facts=facts)
    at = last
    return Ended(trial, outcome, at.elapsed_s, 0.0, at.samples, at.steps, at.flops, at.value, message, facts)


def guard(deed: str) -> subprocess.Popen[bytes] | None:
    """A shell that does something once we are gone, however that came; unless it was ended before (`end_guard`)."""
    if os.name != "posix":
        return None
    with contextlib.suppress(OSError):  # a system without a shell
        return subprocess.Popen(
            ["/bin/sh", "-c", f"trap '' INT TERM HUP USR1; read _; {deed}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return None


def end_guard(shell: subprocess.Popen[bytes] | None) -> None:
    """There is nothing left to be done."""
    if shell is not None:
        shell.kill()
        shell.communicate()


def _how(code: int | None) -> str:
    if code is None:
        return "it closed its pipe"
    names = {int(s): s.name for s in signal.Signals}
    return f"signal {names.get(-code, -code)}" if code < 0 else f"exit code {code}"


def _shorten(log: Path) -> None:
    """Keep the end of a log that has grown too long; workers append, so they go on at its new end."""
    with contextlib.suppress(OSError):
        if log.stat().st_size <= LOG_LIMIT_BYTES:
            return
        with log.open("r+b") as stream:
            stream.seek(-LOG_KEPT_BYTES, os.SEEK_END)
            kept = stream.read()
            stream.seek(0)
            stream.write(kept)
            stream.truncate()


def oom_kills(memory_events: Path | None) -> int:
    """How many processes of a cgroup the kernel has killed for lack of memory; 0 where nobody counts."""
    try:
        lines = memory_events.read_text().splitlines() if memory_events else []
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _own_memory_events() -> Path | None:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = [line[3:] for line in lines if line.startswith("0::")]
    return Path("/sys/fs/cgroup") / own[0].lstrip("/") / "memory.events" if own else None


_THREADS = {"OMP_NUM_THREADS": "1"}
"""One thread unless the user's environment, or a config, says otherwise.

Two threads of a busy 2-core machine ran at a sixth of one thread's speed, and made times meaningless. How threads wait
for each other is left alone: asleep (OMP_WAIT_POLICY=PASSIVE) two are slower than one on a quiet machine too.
"""


def quiet_threads() -> None:
    """Give this process the threads a worker has; only before torch is loaded does it have an effect."""
    for name, value in _THREADS.items():
        os.environ.setdefault(name, value)


def _import_path() -> str:
    """The driver's, and last the working folder, for tasks like 'package.module:name'."""
    here = os.getcwd()
    return os.pathsep.join([*(p or here for p in sys.path), here])


def worker_environment() -> dict[str, str]:
    """Environment variables of a worker; the user's own win."""
    return {**_THREADS, "PYTHONUNBUFFERED": "1", **os.environ}
