"""Digests of hardware, task and software: equal inputs give equal digests, whatever the order of their keys.

Knows nothing of what is digested but, for a task, which of its facts make it the same task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(value: Any, length: int = 12) -> str:
    """Hex digest of a JSON-like value; independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


_TASK_FACTS = (
    "task",
    "metric",
    "direction",
    "loss",
    "n_train",
    "n_validation",
    "n_parameters",
    "model_digest",
    "data_digest",
)
"""What makes two tasks the same: model, data, loss and metric. Not the target, the baseline or the machine. Code of
functions is not compared, their names are."""


def task_fingerprint(facts: Mapping[str, Any]) -> str:
    """Digest of a task from what preflight says of it."""
    return digest([facts.get(name) for name in _TASK_FACTS], length=16)


def task_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the facts by which two tasks are not the same; what one of them does not know yet is no difference."""
    return [name for name in _TASK_FACTS if name in before and name in now and before[name] != now[name]]


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
