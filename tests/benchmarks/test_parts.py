"""What benchmarks keep, and what they run in a process of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parts import keep, kept, once, run_module, write_at_once


def test_what_is_kept_is_not_measured_again_until_the_key_is_another(tmp_path: Path) -> None:
    file, measured = tmp_path / "parts" / "a.json", []

    def measure() -> dict[str, Any]:
        measured.append(1)
        return {"seconds": float(len(measured))}

    found = [once(file, key, measure)["seconds"] for key in ("a", "a", "b", "b")]
    assert found == [1.0, 1.0, 2.0, 2.0] and len(measured) == 2
    assert kept(file, "b") == {"seconds": 2.0, "key": "b"} and kept(file, "a") is None
    assert kept(tmp_path / "b.json", "a") is None
    assert keep(file, "c", {"key": "b"}) == kept(file, "c") == {"key": "c"}


def test_a_part_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Any) -> None:
        raise OSError("killed here")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="killed here"):
        write_at_once(tmp_path / "a" / "part.json", "{}")
    assert not (tmp_path / "a" / "part.json").exists()
    assert list((tmp_path / "a").glob("*.json")) == []


MODULE = """
import json, pathlib, sys, time
file = pathlib.Path(sys.argv[1])
told = json.loads(file.read_text())
time.sleep(told["sleep_s"])
print("this goes to standard error")
file.write_text(json.dumps({**told, "done": True}))
"""


def test_a_module_replaces_what_it_is_told_and_may_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "told_module.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_module("told_module", {"sleep_s": 0}, None) == {"sleep_s": 0, "done": True}
    with pytest.raises(subprocess.TimeoutExpired):
        run_module("told_module", {"sleep_s": 60}, 0.5)
    with pytest.raises(subprocess.CalledProcessError):
        run_module("told_module", {}, None)
