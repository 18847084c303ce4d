"""Where the public data of the search problems lies, and the protocol's frozen numbers.

Data: the folder named by the environment variable AUTOACCEL_BENCHMARK_DATA, else `../shared/data` beside the
project. What is absent is told, not downloaded. Must not know any problem.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "AUTOACCEL_BENCHMARK_DATA"
PROTOCOL = Path(__file__).parent.parent / "protocol.json"
_BESIDE = Path(__file__).resolve().parents[4] / "shared" / "data"


class Absent(Exception):
    """Data or a package that a problem needs is not there; the message says what."""


def data_file(*parts: str) -> Path:
    """A file of the data folder.

    Raises:
        Absent: there is no such file.
    """
    file = Path(os.environ.get(VARIABLE) or _BESIDE).joinpath(*parts)
    if not file.is_file():
        raise Absent(f"{'/'.join(parts)} is not in the data folder; set {VARIABLE} to a folder that has it")
    return file


@cache
def protocol() -> dict[str, Any]:
    """protocol.json."""
    content: dict[str, Any] = json.loads(PROTOCOL.read_text(encoding="utf-8"))
    return content
