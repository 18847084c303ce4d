"""The errors a user can meet, each with what happened, what to do, and the exit code of the command line.

Knows nothing of the rest of the package. A failing trial is not an error: it is an `Ended` with an outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AutoaccelError(Exception):
    """Anything autoaccel reports without a traceback: a message (what, where) and a hint (what to do)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.message, self.hint)


class UsageError(AutoaccelError):
    """Input that is wrong; found before any training."""

    exit_code = 2


class BudgetTooSmallError(AutoaccelError):
    """The budget does not pay for one trial and its confirmation."""

    exit_code = 4


class TrialsFailedError(AutoaccelError):
    """Every trial failed; the message holds the causes."""

    exit_code = 5


class EnvironmentFaultError(AutoaccelError):
    """Disk, lock, permissions, or a damaged run directory."""

    exit_code = 6


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for a close match, else the allowed words."""
    known = sorted(str(a) for a in allowed)
    close = get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Allowed: {', '.join(known)}."
