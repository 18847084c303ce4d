"""What a benchmark has measured, a file each: a benchmark that was ended goes on, and nothing is measured twice.

A file has the key of what it was measured under; under another one it is not there. Must not know what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Document = dict[str, Any]


def once(file: Path, key: str, measure: Callable[[], Document]) -> Document:
    """What is kept under this key; without it, it is measured and kept."""
    found = kept(file, key)
    if found is None:
        print(file.stem, file=sys.stderr)
        found = keep(file, key, measure())
    return found


def kept(file: Path, key: str) -> Document | None:
    """What is there, if it was measured under the same conditions."""
    document: Document = json.loads(file.read_text()) if file.exists() else {}
    return document if document.get("key") == key else None


def keep(file: Path, key: str, found: Document) -> Document:
    """What was found, with its key, as it is written."""
    document = {**found, "key": key}
    write_at_once(file, json.dumps(document, indent=1))
    return document


def write_at_once(file: Path, text: str) -> None:
    """Under its name the file is whole or absent."""
    file.parent.mkdir(parents=True, exist_ok=True)
    passing = file.with_name(f".{file.name}.{os.getpid()}")
    passing.write_text(text)
    passing.replace(file)


def run_module(module: str, told: Document, limit_s: float | None) -> Document:
    """What a module makes of an assignment in a process of its own: it is given a JSON file, and replaces its content.

    Raises:
        subprocess.CalledProcessError, subprocess.TimeoutExpired: it failed, or took longer than the limit.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "told.json"
        file.write_text(json.dumps(told))
        subprocess.run([sys.executable, "-m", module, str(file)], check=True, stdout=sys.stderr, timeout=limit_s)
        found: Document = json.loads(file.read_text())
    return found
