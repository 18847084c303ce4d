"""`--weights FILE`: the starting weights of a task that is made from data.

Loads no torch. Must not know what is in the file.
"""

from __future__ import annotations

from pathlib import Path

from autoaccel.errors import UsageError


def check_weights(file: Path | None) -> None:
    """What can be said without reading them; UsageError if there is no such file."""
    if file is not None and not file.is_file():
        raise UsageError(f"--weights {file.absolute()}: no such file", "Check the path.")


def from_weights(file: Path | None) -> str:
    """What a task's name says of its starting weights: trainings from others are another task."""
    return "" if file is None else f"-from-{file.stem}"
