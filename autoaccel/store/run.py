"""The run directory: created, locked against a second driver, its documents written atomically.

Must not know what the documents say.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoaccel.errors import EnvironmentFaultError, UsageError

LEDGER, JOB, RESULT, HARDWARE, STUDY, WORKER_LOG, PAST = (
    "ledger.jsonl",
    "job.json",
    "result.json",
    "hardware.json",
    "study.journal",
    "worker.log",
    "past.jsonl",
)
BEST_CONFIG = "best/config.json"
RETUNED, VERIFIED = "retuned", "verified.json"
"""A folder of re-tunings, and the machines on which the answer was found to hold too; see `lineage`."""
_LOCK, _HOLDER = "run.lock", "run.pid.json"
_LOCK_PATIENCE_S = 0.5
"""`is_active` holds the lock for an instant; that is no second driver."""


class RunDirectory:
    """A locked run directory; one driver at a time. `close` gives the lock back."""

    def __init__(self, path: Path) -> None:
        from filelock import FileLock, Timeout

        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = FileLock(path / _LOCK)
            self._lock.acquire(timeout=_LOCK_PATIENCE_S, poll_interval=0.05)
            (path / BEST_CONFIG).parent.mkdir(exist_ok=True)
            write_json(path / _HOLDER, {"pid": os.getpid(), "host": platform.node()})
        except Timeout as error:
            holder = read_json(path / _HOLDER) or {}
            raise EnvironmentFaultError(
                f"{path}: run is active (pid {holder.get('pid', 'unknown')} on {holder.get('host', 'unknown host')})",
                "Wait for it, stop it, or choose another --out.",
            ) from error
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            raise EnvironmentFaultError(
                f"{path}: cannot be used as a run directory ({getattr(error, 'strerror', error)})",
                "Choose a writable --out on a local disk.",
            ) from error

    def clear(self) -> None:
        """Remove what a run wrote and nothing else: it may have been written into a folder of the user's."""
        try:
            for name in (LEDGER, JOB, RESULT, HARDWARE, STUDY, WORKER_LOG, PAST, VERIFIED, BEST_CONFIG):
                (self.path / name).unlink(missing_ok=True)
            for path in (self.path / RETUNED).glob("*"):
                RunDirectory(path).discard()
        except OSError as error:
            raise EnvironmentFaultError(
                f"{error.filename}: cannot be removed ({error.strerror})", "Choose another --out."
            ) from error

    def close(self) -> None:
        """Release the lock; safe to call twice."""
        self._lock.release()

    def discard(self) -> None:
        """Clear, close, and remove the folders if nothing of the user's is in them."""
        self.clear()
        self.close()
        with contextlib.suppress(OSError):  # not empty, or somebody else's by now
            (self.path / BEST_CONFIG).parent.rmdir()
            if (self.path / RETUNED).exists():
                (self.path / RETUNED).rmdir()
            (self.path / _HOLDER).unlink(missing_ok=True)
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()


def prepare(path: Path, *, fresh: bool, resume: bool) -> None:
    """Check what is at `path` before a run: a finished or unfinished run is only touched when asked."""
    try:
        if path.exists() and not path.is_dir():
            raise EnvironmentFaultError(f"{path}: is a file, not a directory", "Choose another --out.")
        has_run = (path / LEDGER).exists() or (path / JOB).exists()
    except OSError as error:
        raise EnvironmentFaultError(f"{path}: cannot be read ({error.strerror})", "Choose another --out.") from error
    if resume and not has_run:
        raise UsageError(f"{path}: no run to resume (no {LEDGER})", "Give the directory of a run.")
    if has_run and not (resume or fresh):
        raise UsageError(
            f"{path}: holds another run", "Use --resume to continue it, --fresh to replace it, or another --out."
        )
    if has_run and fresh:
        directory = RunDirectory(path)  # refuses while a driver is active
        try:
            directory.clear()
        finally:
            directory.close()


def is_active(path: Path) -> bool:
    """Whether a driver holds the run's lock now."""
    from filelock import FileLock, Timeout

    if not (path / _LOCK).exists():
        return False
    try:
        with FileLock(path / _LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's run: whether it is active cannot be seen
        return False


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a document atomically; strict JSON (no NaN)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            try:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(stream.name, path)
            except BaseException:
                os.unlink(stream.name)
                raise
        sync_folder(path.parent)
    except OSError as error:
        raise EnvironmentFaultError(f"{path}: cannot be written ({error.strerror})", "Free space; --resume.") from error


def sync_folder(folder: Path) -> None:
    """Have new and replaced names on the disk; nothing where folders cannot be synced (Windows, network disks)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """A document, or None if it is not there or not readable."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
