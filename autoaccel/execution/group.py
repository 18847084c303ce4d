"""A group of processes that run one training together: started by torch's elastic launcher, ended as one.

Its processes speak as workers do, over a socket; the first leads and reports. If one of them dies or fails, all end,
and so does the training, once. A healthy group stays for the next training of its size. Importing it loads no torch.
Must not know what is trained.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoaccel.errors import UsageError
from autoaccel.sections import Parallel
from autoaccel.trial import Ended, Report, TrialSpec

_BOOT = """
import os, sys
driver, address, path = sys.argv[1:]
del sys.argv[1:]
sys.path[:] = path.split(os.pathsep)
from autoaccel.execution.rank import main
main(int(driver), address)
"""
"""A process of a group finds the modules that its worker finds."""
_MONITOR_S, _SHUTDOWN_S = 0.1, 5
"""How often the launcher looks whether all are alive, and how long it waits for those it asks to end."""
_GRACE_S = 5.0
"""By then it has said who died, however busy the machine is."""


def n_processes(spec: TrialSpec) -> int:
    """How many processes a spec needs: a training those of its config, an effect those of the setting it measures."""
    if spec.purpose == "effect":
        given = {**spec.probe["config"]["parallel"], "strategy": spec.probe["params"].get("parallel.strategy", "none")}
        return Parallel(**given).n
    return spec.config.parallel.n if spec.config else 1


class Groups:
    """The group of a worker: made when a spec needs one, and anew when one of another size is needed or it failed.

    Args:
        reference, pickled: how its processes get the task: a reference that they import, or bytes.
    """

    def __init__(self, reference: str | None, pickled: bytes = b"") -> None:
        self._task = reference, pickled
        self._group: Group | None = None

    def run(
        self,
        spec: TrialSpec,
        report: Callable[[Report], None],
        stopped: Callable[[], bool] = lambda: False,
        files: dict[str, Any] | None = None,
    ) -> Ended:
        """One spec to its end, whatever happens to a process.

        Args:
            spec, report, stopped: as in `trainer.run.run_training`.
            files: {"checkpoints": a folder or None, "resume": from it, "weights": a file for the whole model}.
        """
        n = n_processes(spec)
        if self._group is None or self._group.n != n or not self._group.is_healthy:
            self.close()
            self._group = Group(n, *self._task)
        return self._group.run({"run": spec.to_json(), "files": files}, report, stopped)

    def close(self) -> None:
        """End the group, if there is one."""
        if self._group is not None:
            self._group.close()
        self._group = None


class Group:
    """`n` processes that train together. Linux ends them with the process that started them, however that dies."""

    def __init__(self, n: int, reference: str | None, pickled: bytes) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise UsageError("parallel.strategy: this system has no Unix sockets", "Set parallel.strategy to 'none'.")
        self.n = n
        self.is_healthy = True
        self._task = {"task": reference, "payload_bytes": len(pickled)}, pickled
        self._events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self._members: dict[int, socket.socket] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="autoaccel-"))  # nobody else may enter
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(self._folder / "group"))
        self._door.listen(n)
        threading.Thread(target=self._launch, daemon=True).start()
        threading.Thread(target=self._let_in, daemon=True).start()

    def run(self, command: dict[str, Any], report: Callable[[Report], None], stopped: Callable[[], bool]) -> Ended:
        """One command to its end: the leader's, once all have ended, or the first failure, which ends the group."""
        trial = command["run"]["trial"]
        ends: dict[int, Ended] = {}
        n_asked, asked_to_stop = 0, False
        last: Report | None = None
        while len(ends) < self.n:
            if n_asked == 0 and len(self._members) == self.n:
                n_asked = sum(self._send(rank, command) for rank in range(self.n))
            if n_asked and not asked_to_stop and stopped():
                asked_to_stop = self._send(0, {"stop": trial})
            try:
                rank, event = self._events.get(timeout=_MONITOR_S)
            except queue.Empty:
                continue
            if "report" in event:
                last = Report(**event["report"])
                report(last)
                continue
            ended = Ended(**event["ended"]) if "ended" in event else _lost(trial, last, event["lost"])
            if ended.outcome in ("crashed", "oom", "refused"):  # the others may wait for it for ever
                cause = self._cause(self.n - len(ends) - 1) if rank >= 0 and ended.outcome == "crashed" else ""
                self.close()
                if cause:
                    return _lost(trial, last, cause)
                return ended if rank <= 0 else replace(ended, message=f"process {rank}: {ended.message}")
            ends[rank] = ended
        return ends[0]

    def _cause(self, n_others: int) -> str:
        """Whether a process failed because another died: its broken connection is told before the launcher has seen
        the dead one. Empty if all are alive; so many have not told their end yet."""
        with contextlib.suppress(queue.Empty):
            while n_others:
                _, event = self._events.get(timeout=_GRACE_S)
                if "lost" in event:
                    return str(event["lost"])
                n_others -= "ended" in event
        return ""

    def close(self) -> None:
        """End all its processes: they leave when nobody is there any more. Safe to call twice."""
        self.is_healthy = False
        for one in (self._door, *self._members.values()):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self) -> None:
        """Start the processes and see them to their end; if one fails the launcher ends the others."""
        how = "its processes left"
        try:
            from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
            from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
            from torch.distributed.launcher.api import LaunchConfig, elastic_launch

            # It warns of the signals of a main thread, which are ours, and of the end of processes, which we tell.
            logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=self.n,
                logs_specs=DefaultLogsSpecs(log_dir=str(self._folder)),  # else its folders stay for ever
                run_id=self._folder.name,
                rdzv_backend="c10d",
                rdzv_endpoint="127.0.0.1:0",  # any free port, for this machine only
                local_addr="127.0.0.1",
                max_restarts=0,
                monitor_interval=_MONITOR_S,
                shutdown_timeout=_SHUTDOWN_S,
            )
            boot = ("-c", _BOOT, str(os.getpid()), str(self._folder / "group"), os.pathsep.join(sys.path))
            try:
                elastic_launch(config, sys.executable)(*boot)
            except ChildFailedError as error:
                rank, failure = error.get_first_failure()
                how = f"process {rank} of {self.n} died: {_exit_words(failure.exitcode)}"
        except Exception as error:
            how = f"its processes could not be started: {type(error).__name__}: {error}"
        self.is_healthy = False
        self._events.put((-1, {"lost": how}))

    def _let_in(self) -> None:
        """The processes, as they come; a thread for each hears what it says."""
        for _ in range(self.n):
            try:
                member, _ = self._door.accept()
            except OSError:
                return  # closed meanwhile
            threading.Thread(target=self._hear, args=(member,), daemon=True).start()
        shutil.rmtree(self._folder, ignore_errors=True)  # all are in: nothing is left behind, however we end

    def _hear(self, member: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), member.makefile("rb") as lines:
            rank = int(lines.readline())
            member.sendall(_command(*self._task))
            self._members[rank] = member  # from now on `run` sends
            for line in lines:
                self._events.put((rank, json.loads(line)))

    def _send(self, rank: int, command: dict[str, Any]) -> bool:
        """One command; that a process is gone is noticed by the launcher, not here."""
        with contextlib.suppress(OSError):
            self._members[rank].sendall(_command(command))
        return True


def _command(command: dict[str, Any], payload: bytes = b"") -> bytes:
    return json.dumps(command).encode() + b"\n" + payload


def _lost(trial: int, last: Report | None, how: str) -> Ended:
    """The end of a training whose processes are gone: all that is known is its last report."""
    if last is None:
        return Ended(trial, "crashed", message=how)
    return Ended(trial, "crashed", last.elapsed_s, 0.0, last.samples, last.steps, last.flops, last.value, how)


def _exit_words(code: int) -> str:
    names = {int(s): s.name for s in signal.Signals}
    return f"signal {names.get(-code, -code)}" if code < 0 else f"exit code {code}"
