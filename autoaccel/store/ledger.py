"""The ledger: an append-only file of what was started and what it gave; the only state of a tuning.

Every line carries a CRC and is on the disk before the call returns. A torn last line (power loss, full disk) is cut off
and said; damage elsewhere is an error that names the line. Must not know what the entries mean to a search.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

from autoaccel.budget import Spent
from autoaccel.errors import EnvironmentFaultError, UsageError
from autoaccel.store.run import sync_folder
from autoaccel.trial import CONFIRMING, SEARCHING, Ended, TrialRecord, TrialSpec


@dataclass(frozen=True)
class Entry:
    """One line: a kind ('session', 'started', 'ended', 'search_over', 'answer'), the budget second it was written at,
    and its data."""

    kind: str
    at_s: float
    data: dict[str, Any]


class Ledger:
    """An open ledger file. `repaired` says what opening had to cut off, or is empty; `records` are the ended trials."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries, good_bytes = read_ledger(path)
        self.records = records(self.entries)
        size = path.stat().st_size if path.exists() else 0
        self.repaired = f"cut a torn last line of {size - good_bytes} bytes" if size > good_bytes else ""
        self._good_bytes = good_bytes
        self._file = _open_for_append(path, good_bytes)

    def start_trial(self, at_s: float, spec: TrialSpec) -> None:
        """Written before the trial starts, so that a dead driver's trial is known and charged."""
        self.append("started", at_s, spec.to_json())

    def end_trial(self, at_s: float, record: TrialRecord) -> None:
        """Written as soon as a trial has ended."""
        entry = self.append("ended", at_s, record.to_json())
        self.records.append(replace(record, ended_at_s=entry.at_s))

    def append(self, kind: str, at_s: float, data: dict[str, Any]) -> Entry:
        """Write one entry; on the disk when this returns, or else not in the file at all."""
        entry = Entry(kind, round(at_s, 6), data)
        body = json.dumps({"kind": kind, "at_s": entry.at_s, "data": data}, allow_nan=False).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        try:
            rest = memoryview(line)
            while rest:  # a disk that fills up takes a part
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # if this fails too, opening the ledger again cuts the torn line off
                self._file.truncate(self._good_bytes)
            raise EnvironmentFaultError(
                f"{self.path}: cannot write {len(line)} bytes ({error.strerror})", "Free disk space, then --resume."
            ) from error
        self._good_bytes += len(line)
        self.entries.append(entry)
        return entry

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()


def read_ledger(path: Path) -> tuple[list[Entry], int]:
    """All sound entries and the bytes they take; the last line may be torn, no other may be damaged."""
    try:
        raw = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise EnvironmentFaultError(f"{path}: cannot be read ({error.strerror})", "Check permissions.") from error
    entries: list[Entry] = []
    good = 0
    lines = raw.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        entry = _parse(line)
        if entry is None:
            if number == len(lines) - 1:
                break
            raise EnvironmentFaultError(
                f"{path}:{number}: damaged line (its checksum does not match)",
                f"Lines 1 to {number - 1} are sound; restore the file or start a new run.",
            )
        entries.append(entry)
        good += len(line) + 1
    return entries, good


def records(entries: Sequence[Entry]) -> list[TrialRecord]:
    """The trials that ended, in the order they did."""
    try:
        return [replace(TrialRecord.from_json(e.data), ended_at_s=e.at_s) for e in entries if e.kind == "ended"]
    except (KeyError, TypeError, UsageError) as error:
        raise EnvironmentFaultError(
            f"the ledger was written by another version of autoaccel ({error})", "Use that version, or start a new run."
        ) from error


def interrupted(entries: Sequence[Entry]) -> list[TrialRecord]:
    """Trials that were started and never ended: their driver died. Charged their whole cap, for what they really
    took is not known."""
    finished = {e.data["spec"]["trial"] for e in entries if e.kind == "ended"}
    specs = [TrialSpec.from_json(e.data) for e in entries if e.kind == "started" and e.data["trial"] not in finished]
    return [
        TrialRecord(s, (), Ended(s.trial, "interrupted", s.cap_s or 0.0, flops=s.cap_flops or 0.0), s.cap_s or 0.0)
        for s in specs
    ]


def spent(at_s: float, done: Sequence[TrialRecord], n_devices: int = 1) -> Spent:
    """What was spent when the budget's clock reads `at_s`: a fold over the trials, never a counter. All devices are
    paid for all the time: nobody else could use them."""
    n_trials = sum(r.spec.purpose in (*SEARCHING, *CONFIRMING) for r in done)
    return Spent(at_s, sum(r.ended.flops for r in done), n_devices * at_s, n_trials)


def last_second(entries: Sequence[Entry]) -> float:
    """The budget second a ledger was last written at; time between sessions is not in it."""
    return max((e.at_s for e in entries), default=0.0)


def _parse(line: bytes) -> Entry | None:
    crc, sign, body = line.partition(b" ")
    try:
        if not sign or int(crc, 16) != zlib.crc32(body):
            return None
        data = json.loads(body)
        return Entry(data["kind"], data["at_s"], data["data"])
    except (ValueError, KeyError, TypeError):
        return None


def _open_for_append(path: Path, good_bytes: int) -> FileIO:
    try:
        file = path.open("ab", buffering=0)  # a buffer would keep what a full disk refused, and write it later
        file.truncate(good_bytes)
        sync_folder(path.parent)
        return file
    except OSError as error:
        raise EnvironmentFaultError(f"{path}: cannot be written ({error.strerror})", "Check permissions.") from error
