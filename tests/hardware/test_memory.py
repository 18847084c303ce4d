"""How much memory is left, and the most that was taken: from files of the kernel, and from this very process."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from autoaccel.hardware import memory
from autoaccel.hardware.memory import FreeMemory, forget_peak, free_main_memory, peak_resident_bytes, resident_bytes

ROOT = Path(__file__).resolve().parents[2]
MB = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_the_peak_is_seen_after_it_is_over_and_forgotten_when_asked() -> None:
    assert forget_peak()
    before = resident_bytes()
    with mmap.mmap(-1, 64 * MB) as taken:  # of its own, not of what lies free in the heap
        for place in range(0, len(taken), 4096):
            taken[place] = 1
    assert peak_resident_bytes() - before > 60 * MB
    assert forget_peak()
    assert peak_resident_bytes() - resident_bytes() < 30 * MB


def test_where_the_system_tells_nothing_nothing_is_known(tmp_path: Path) -> None:
    absent = tmp_path / "status"
    assert (resident_bytes(absent), peak_resident_bytes(absent)) == (0, 0)
    assert not forget_peak(tmp_path / "no folder" / "clear_refs")


def test_the_status_is_read_in_bytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert (resident_bytes(status), peak_resident_bytes(status)) == (MB, 2 * MB)


@linux
@pytest.mark.parametrize("name", ["RLIMIT_DATA", "RLIMIT_AS"])
def test_a_limit_of_the_process_leaves_what_it_has_not_taken(name: str) -> None:
    code = f"""
import resource, sys
from autoaccel.hardware.memory import free_main_memory
resource.setrlimit(resource.{name}, (2**30, 2**30))
free = free_main_memory()
assert free.refuses and free.limit == "{name} of this process", free
assert 2**28 < free.n_bytes < 2**30, free
taken = bytearray(2**27)
assert free.n_bytes - free_main_memory().n_bytes > 0.9 * 2**27
try:
    bytearray(free_main_memory().n_bytes + 2**24)
except MemoryError:
    print("refused")
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout == "refused\n", run.stderr


@pytest.mark.parametrize(
    ("available", "left", "expected"),
    [
        (8 * MB, None, FreeMemory(8 * MB, "the memory of this machine", refuses=False)),
        (8 * MB, 9 * MB, FreeMemory(8 * MB, "the memory of this machine", refuses=False)),
        (8 * MB, 7 * MB, FreeMemory(7 * MB, "the memory limit of this container", refuses=False)),
    ],
)
def test_the_tightest_limit_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, available: int, left: int | None, expected: FreeMemory
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    monkeypatch.setattr(memory, "cgroup_memory_left_bytes", lambda: left)
    assert free_main_memory(tmp_path / "no status") == expected
