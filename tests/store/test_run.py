"""The run directory: one driver at a time, documents whole or not at all, nothing of another run touched unasked."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoaccel.errors import EnvironmentFaultError, UsageError
from autoaccel.store.run import (
    BEST_CONFIG,
    HARDWARE,
    JOB,
    LEDGER,
    PAST,
    RESULT,
    STUDY,
    WORKER_LOG,
    RunDirectory,
    is_active,
    prepare,
    read_json,
    write_json,
)

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from pathlib import Path
from autoaccel.store.run import RunDirectory
directory = RunDirectory(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
directory.close()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of tmp_path/run until its input ends."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def a_run(path: Path) -> Path:
    """A directory with everything a run writes, and a file of the user's."""
    RunDirectory(path).close()
    for name in (LEDGER, JOB, RESULT, HARDWARE, STUDY, WORKER_LOG, PAST, BEST_CONFIG, "train.py"):
        (path / name).write_text("{}")
    return path


# ----------------------------------------------------------------------------------------------------------------- lock


def test_a_second_driver_is_refused_and_told_who_is_first(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    run = tmp_path / "run"
    assert is_active(run)
    with pytest.raises(EnvironmentFaultError, match=rf"run is active \(pid {holder.pid} on .+\)") as caught:
        RunDirectory(run)
    assert (caught.value.exit_code, str(run) in caught.value.message) == (6, True)
    assert read_json(run / "run.pid.json") == {"pid": holder.pid, "host": os.uname().nodename}  # not overwritten
    holder.communicate("", timeout=60)
    assert not is_active(run)
    RunDirectory(run).close()


def test_a_killed_driver_holds_no_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert not is_active(tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    assert is_active(tmp_path / "run")
    assert (read_json(tmp_path / "run" / "run.pid.json") or {})["pid"] == os.getpid()
    directory.close()


def test_a_run_in_use_is_not_replaced(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    (tmp_path / "run" / LEDGER).write_text("precious")
    with pytest.raises(EnvironmentFaultError, match="run is active"):
        prepare(tmp_path / "run", fresh=True, resume=False)
    assert (tmp_path / "run" / LEDGER).read_text() == "precious"


def test_the_lock_keeps_out_the_same_process_too(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with pytest.raises(EnvironmentFaultError, match=f"pid {os.getpid()}"):
        RunDirectory(tmp_path)
    directory.close()
    directory.close()
    RunDirectory(tmp_path).close()


def test_a_directory_without_a_lock_is_not_active(tmp_path: Path) -> None:
    assert not is_active(tmp_path)
    assert not is_active(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------------- prepare


def test_a_new_place_needs_nothing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "a" / "b"):
        prepare(path, fresh=False, resume=False)
        prepare(path, fresh=True, resume=False)
    assert list(tmp_path.iterdir()) == []
    RunDirectory(tmp_path / "a" / "b").close()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_nothing_to_resume(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match=rf"{path}: no run to resume \(no ledger.jsonl\)"):
            prepare(path, fresh=False, resume=True)


@pytest.mark.parametrize("left", [(LEDGER,), (JOB,), (LEDGER, JOB)])
def test_another_run_is_only_touched_when_asked(tmp_path: Path, left: tuple[str, ...]) -> None:
    for name in left:
        (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match="holds another run") as caught:
        prepare(tmp_path, fresh=False, resume=False)
    assert "--resume" in caught.value.hint
    assert "--fresh" in caught.value.hint
    prepare(tmp_path, fresh=False, resume=True)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(left, "precious")


def test_fresh_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run / "best" / "notes.txt").write_text("mine")
    prepare(run, fresh=True, resume=False)
    kept = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert kept == {"train.py", "best/notes.txt", "run.lock", "run.pid.json"}
    prepare(run, fresh=False, resume=False)
    assert not is_active(run)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("")
    with pytest.raises(EnvironmentFaultError, match="is a file, not a directory") as caught:
        prepare(path, fresh=True, resume=False)
    assert caught.value.exit_code == 6
    with pytest.raises(EnvironmentFaultError, match=r"cannot be used as a run directory \(File exists\)"):
        RunDirectory(path)
    with pytest.raises(EnvironmentFaultError, match=r"cannot be used as a run directory \(Not a directory\)") as caught:
        RunDirectory(path / "below")
    assert str(path / "below") in caught.value.message
    prepare(path / "below", fresh=False, resume=False)  # nothing is there; RunDirectory has the last word


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    place = Path("/proc/run")  # root may write anywhere else
    if not place.parent.is_dir():
        pytest.skip("needs /proc")
    with pytest.raises(EnvironmentFaultError, match="/proc/run: cannot be used as a run directory") as caught:
        RunDirectory(place)
    assert "writable --out" in caught.value.hint


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    (run / RESULT).unlink()
    (run / RESULT).mkdir()
    with pytest.raises(EnvironmentFaultError, match=rf"{run / RESULT}: cannot be removed"):
        prepare(run, fresh=True, resume=False)
    assert not is_active(run)


# ------------------------------------------------------------------------------------------------------------ documents


def test_a_document_reads_back_and_is_plain_json(tmp_path: Path) -> None:
    path = tmp_path / RESULT
    documents: list[dict[str, Any]] = [{"a": 1, "b": [1.5, None, "\N{GREEK SMALL LETTER ALPHA}"]}, {"c": {}}]
    for document in documents:
        write_json(path, document)
        assert read_json(path) == json.loads(path.read_bytes()) == document
    assert path.read_bytes().endswith(b"}\n")
    assert [p.name for p in tmp_path.iterdir()] == [RESULT]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_document_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / RESULT
    write_json(path, {"old": True})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(EnvironmentFaultError, match=r"result.json: cannot be written \(No space left on device\)"):
        write_json(path, {"new": True})
    assert read_json(path) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == [RESULT]


def test_an_interrupted_write_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / RESULT, {})
    assert list(tmp_path.iterdir()) == []


def test_a_document_goes_where_a_folder_is(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFaultError, match=r"absent/result.json: cannot be written \(No such file"):
        write_json(tmp_path / "absent" / RESULT, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / RESULT
    write_json(path, {"old": True})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"value": value})
    assert read_json(path) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == [RESULT]


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe"])
def test_what_is_no_document_reads_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOB).write_bytes(content)
    assert read_json(tmp_path / JOB) is None
    assert read_json(tmp_path / "absent.json") is None
    assert read_json(tmp_path) is None
