"""The ledger: what was written is read back, whatever a power loss or a full disk did to its end; damage is named."""

from __future__ import annotations

import errno
import os
import resource
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.budget import Spent
from autoaccel.config import TrainerConfig
from autoaccel.errors import EnvironmentFaultError
from autoaccel.store.ledger import Entry, Ledger, interrupted, last_second, read_ledger, records, spent
from autoaccel.trial import Ended, Report, Target, TrialRecord, TrialSpec

Opener = Callable[[Path], Ledger]


def spec(trial: int, purpose: str = "race", cap_s: float | None = 8.0) -> TrialSpec:
    config = None if purpose == "preflight" else TrainerConfig(seed=trial)
    return TrialSpec(trial, purpose, config, Target.at_least(0.9), cap_s, cap_flops=1e9)


def record(trial: int, purpose: str = "race", flops: float = 1e6) -> TrialRecord:
    report = Report(trial, 1.5, 640, 10, flops, 0.91, 0.3)
    ended = Ended(trial, "hit", 1.5, 0.2, 640, 10, flops, 0.91, facts={"test_value": 0.9})
    return TrialRecord(spec(trial, purpose), (report,), ended, 1.9)


def kept(*trials: int) -> list[TrialRecord]:
    """The records of a `filled` ledger, each with the second at which its entry was written."""
    return [replace(record(trial), ended_at_s=trial + 0.5) for trial in trials]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens ledgers and closes them after the test."""
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(closing(Ledger(path)))


def filled(path: Path, n: int = 3) -> list[Entry]:
    """A ledger of n started and ended trials, closed; its entries."""
    ledger = Ledger(path)
    for trial in range(1, n + 1):
        ledger.start_trial(trial + 0.25, spec(trial))
        ledger.end_trial(trial + 0.5, record(trial))
    ledger.close()
    return ledger.entries


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


# --------------------------------------------------------------------------------------------------- written, read back


def test_a_ledger_reads_back(path: Path, opened: Opener) -> None:
    entries = filled(path)
    again = opened(path)
    assert again.entries == entries == read_ledger(path)[0]
    assert again.records == records(entries) == kept(1, 2, 3)
    assert again.repaired == ""
    again.append("answer", 9.0, {"result": "abc"})
    again.close()
    again.close()
    assert read_ledger(path) == ([*entries, Entry("answer", 9.0, {"result": "abc"})], path.stat().st_size)


def test_a_ledger_that_is_not_there_is_empty(path: Path, opened: Opener) -> None:
    assert read_ledger(path) == ([], 0)
    assert opened(path).entries == []
    assert path.read_bytes() == b""


def test_every_line_carries_its_checksum(path: Path) -> None:
    filled(path)
    for line in lines(path):
        crc, _, body = line.rstrip(b"\n").partition(b" ")
        assert int(crc, 16) == zlib.crc32(body)
        assert line.isascii()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
entry = st.builds(
    Entry,
    st.text(min_size=1, max_size=10),
    st.floats(0, 1e9).map(lambda s: round(s, 6)),
    st.dictionaries(st.text(), json_values, max_size=4),
)


@settings(deadline=None, max_examples=60)
@given(entries=st.lists(entry, max_size=6), torn=st.integers(0, 30))
def test_entries_survive_the_file(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], torn: int) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger = Ledger(path)
    for e in entries:
        ledger.append(e.kind, e.at_s, e.data)
    ledger.close()
    assert ledger.entries == entries == read_ledger(path)[0]
    if entries and torn:
        os.truncate(path, path.stat().st_size - torn)
        with closing(Ledger(path)) as again:
            assert again.entries == entries[:-1]


def test_memory_and_file_hold_the_same_second(path: Path, opened: Opener) -> None:
    ledger = opened(path)
    ledger.append("session", 1 / 3, {})
    assert ledger.entries == read_ledger(path)[0]


@pytest.mark.parametrize("at_s, data", [(1.0, {"value": float("nan")}), (float("inf"), {})])
def test_what_is_not_a_number_is_a_mistake_of_the_caller(
    path: Path, opened: Opener, at_s: float, data: dict[str, Any]
) -> None:
    ledger = opened(path)
    with pytest.raises(ValueError, match="JSON compliant"):
        ledger.append("ended", at_s, data)
    assert (path.read_bytes(), ledger.entries) == (b"", [])


# ----------------------------------------------------------------------------------------------------------- torn lines


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(path: Path) -> None:
    entries = filled(path)
    whole = path.read_bytes()
    start = len(whole) - len(lines(path)[-1])
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert read_ledger(path) == (entries[:-1], start), cut  # a reader repairs nothing
        assert path.stat().st_size == cut
        ledger = Ledger(path)
        assert ledger.entries == entries[:-1], cut
        assert ledger.repaired == (f"cut a torn last line of {cut - start} bytes" if cut > start else "")
        ledger.append("session", 7.0, {})
        ledger.close()
        assert read_ledger(path)[0] == [*entries[:-1], Entry("session", 7.0, {})], cut


@pytest.mark.parametrize("tail", [b"\0" * 512, b"\0" * 512 + b"\n", b"garbage", b"\n", b'{"kind": "ended"}\n'])
def test_a_damaged_end_is_cut_off(path: Path, opened: Opener, tail: bytes) -> None:
    """After a power loss a file may be longer than what reached it, and end in zeros."""
    entries = filled(path)
    with path.open("ab") as file:
        file.write(tail)
    ledger = opened(path)
    assert ledger.entries == entries
    assert str(len(tail)) in ledger.repaired
    assert read_ledger(path) == (entries, path.stat().st_size)


def test_a_torn_line_loses_the_end_of_a_trial_but_not_that_it_was_started(path: Path, opened: Opener) -> None:
    filled(path)
    os.truncate(path, path.stat().st_size - 1)
    ledger = opened(path)
    assert ledger.records == kept(1, 2)
    assert [r.spec for r in interrupted(ledger.entries)] == [spec(3)]


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_flipped_byte_inside_is_an_error_that_names_the_line(path: Path) -> None:
    filled(path)
    whole, second = path.read_bytes(), len(lines(path)[0])
    for at in range(second, second + len(lines(path)[1]), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(EnvironmentFaultError) as caught:
            Ledger(path)
        assert caught.value.exit_code == 6
        assert f"{path}:2: damaged line" in caught.value.message
        assert "Lines 1 to 1 are sound" in caught.value.hint
        assert path.stat().st_size == len(whole)  # left for a rescue


def test_a_hole_inside_is_an_error_that_names_the_line(path: Path) -> None:
    filled(path)
    whole, first = path.read_bytes(), len(lines(path)[0])
    path.write_bytes(whole[: first + 10] + b"\0" * 100 + whole[first + 110 :])
    with pytest.raises(EnvironmentFaultError, match=r"ledger.jsonl:2: damaged line"):
        Ledger(path)


def test_a_line_of_another_version_is_an_error_not_a_traceback(path: Path) -> None:
    ledger = Ledger(path)
    data = record(1).to_json()
    data["ended"]["mood"] = "good"
    ledger.append("ended", 1.0, data)
    ledger.close()
    with pytest.raises(EnvironmentFaultError, match=r"another version of autoaccel.*mood"):
        Ledger(path)


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFaultError, match=r"cannot be read \(Is a directory\)"):
        Ledger(tmp_path)
    with pytest.raises(EnvironmentFaultError, match=r"absent.ledger.jsonl: cannot be written \(No such file"):
        Ledger(tmp_path / "absent" / "ledger.jsonl")


# ------------------------------------------------------------------------------------------------------------ full disk


def test_a_failed_sync_leaves_no_line_behind(path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = filled(path)
    ledger = opened(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentFaultError) as caught:
            ledger.append("session", 5.0, {})
    assert caught.value.exit_code == 6
    assert str(path) in caught.value.message
    assert "bytes (No space left on device)" in caught.value.message
    assert (path.read_bytes(), ledger.entries) == (before, entries)
    ledger.append("session", 6.0, {})  # space was freed
    assert read_ledger(path)[0] == [*entries, Entry("session", 6.0, {})]


def test_a_disk_that_fills_up_within_a_line_leaves_no_part_of_it(path: Path, opened: Opener) -> None:
    """A real refusal by the kernel after k bytes, by a limit on the size of files."""
    entries = filled(path, n=1)
    ledger = opened(path)
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for k in range(0, 60, 3):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + k, hard))
        try:
            with pytest.raises(EnvironmentFaultError) as caught:
                ledger.append("answer", 2.0, {"result": "x" * 40})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(path) in caught.value.message
        assert path.stat().st_size == size, k
    ledger.append("session", 6.0, {})
    assert read_ledger(path)[0] == ledger.entries == [*entries, Entry("session", 6.0, {})]


# ---------------------------------------------------------------------------------------------------------------- folds


def test_a_trial_without_an_end_is_charged_its_cap(path: Path, opened: Opener) -> None:
    ledger = opened(path)
    for trial in (1, 2, 3):
        ledger.start_trial(float(trial), spec(trial))
    ledger.start_trial(4.0, spec(4, "preflight", cap_s=None))
    ledger.end_trial(5.0, record(2))
    left = interrupted(ledger.entries)
    assert [r.spec for r in left] == [spec(1), spec(3), spec(4, "preflight", cap_s=None)]
    assert [r.ended.outcome for r in left] == ["interrupted"] * 3
    assert [(r.ended.elapsed_s, r.wall_s, r.ended.flops) for r in left] == [
        (8.0, 8.0, 1e9),
        (8.0, 8.0, 1e9),
        (0, 0, 1e9),
    ]
    for r in left:
        ledger.end_trial(6.0, r)
    assert interrupted(ledger.entries) == []
    assert ledger.records == [replace(record(2), ended_at_s=5.0), *(replace(r, ended_at_s=6.0) for r in left)]
    assert interrupted(read_ledger(path)[0]) == []


def test_what_was_spent_is_a_fold() -> None:
    assert spent(0.0, []) == Spent()
    done = [record(1, "preflight", 0.0), record(2, "step_cost", 5e5), record(3, "baseline"), record(4, "confirm")]
    assert spent(12.5, done) == Spent(12.5, 2.5e6, 12.5, 2)
    parts = [spent(0.0, [r]) for r in done]
    assert sum(parts, Spent()) == spent(0.0, done)


def test_the_last_second(path: Path) -> None:
    assert last_second([]) == 0.0
    assert last_second(filled(path)) == 3.5
