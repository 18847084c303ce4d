"""Texts that are reviewed like code: compared with the file of that name here, or rewritten on request."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
REWRITE = "AUTOACCEL_REWRITE_GOLDEN"


def check_golden(name: str, text: str) -> None:
    """Fail with a diff if the text is not the stored one; `AUTOACCEL_REWRITE_GOLDEN=1 pytest` stores it."""
    path = FOLDER / name
    if os.environ.get(REWRITE) == "1":
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"no {path}: run once with {REWRITE}=1 and review it"
    assert text == path.read_text(encoding="utf-8"), f"{name} changed; if that is meant, run with {REWRITE}=1"
