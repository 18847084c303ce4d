"""The options that benchmarks share, and the folder of what they keep. Must not know what is measured."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def parser(name: str, description: str | None, *, quick: str, keeps: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has; it adds its own.

    Args:
        name: of the module after `benchmarks.`.
        description: its docstring.
        quick: what the smaller measurement is.
        keeps: whether what was measured is kept in `parts_folder`: it can be forgotten, or summed up as it is.
    """
    command = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    command.add_argument("--quick", action="store_true", help=quick)
    command.add_argument("--json", action="store_true", help="print the document")
    if keeps:
        command.add_argument("--fresh", action="store_true", help="forget what is there")
        command.add_argument("--summary-only", action="store_true", help="run nothing")
    return command


def parts_folder(here: Path, *, quick: bool, fresh: bool) -> Path:
    """Where a benchmark keeps what it has measured, the smaller measurement apart; gone, if it is to be fresh."""
    folder = here / "results" / ("quick" if quick else "parts")
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    return folder
