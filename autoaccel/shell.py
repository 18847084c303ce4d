"""What every verb of the command line shares: its options for output, its exit codes, and how errors are shown.

stdout carries the answer only. Must not know any verb.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoaccel.errors import AutoaccelError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_MISSED = 3
EXIT_FAILED = 5
EXIT_ENVIRONMENT = 6
EXIT_UNCHANGED = 10
EXIT_PREEMPTED = 75

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")]


def guard(run: Callable[[], int], verbose: bool) -> None:
    """Run a verb; errors a user can meet become a message and their exit code."""
    try:
        code = run()
        sys.stdout.flush()
    except AutoaccelError as error:
        from autoaccel.report.progress import plain

        if verbose:
            traceback.print_exc()
        print("\n".join(plain(row) for row in f"error: {error}".splitlines()), file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        code = signal_code(int(error.args[0] if error.args else signal.SIGINT))
    except BrokenPipeError:  # piped into `head`; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    raise typer.Exit(code)


def signal_code(number: int) -> int:
    """The exit code of what a signal ended: 75 for the warning of a batch system, which may run it again later."""
    return EXIT_PREEMPTED if number == getattr(signal, "SIGUSR1", None) else 128 + number


def tuned_code(met: bool, number: int | None, run_dir: Path) -> int:
    """The exit code of a tuning that gave an answer; if a signal ended it, how to go on is said."""
    if number is not None:
        print(f"stopped by a signal; continue with: autoaccel tune --resume {run_dir}", file=sys.stderr)
        return signal_code(number)
    return 0 if met else EXIT_MISSED


def print_document(document: dict[str, Any]) -> None:
    """One JSON document."""
    print(json.dumps(document, indent=2))


def console(**options: Any) -> Console:
    """A terminal of rich; standard output unless `stderr=True`."""
    from rich.console import Console

    return Console(**options)
