"""Digests of hardware, task and software: equal inputs give equal digests, whatever the order of their keys.

Knows nothing of what is digested.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any, length: int = 12) -> str:
    """Hex digest of a JSON-like value; independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def software() -> dict[str, str]:
    """Versions that can change a result, read without importing the packages."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("autoaccel", "torch", "optuna", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
