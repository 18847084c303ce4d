"""The executor contract: start a spec, wait for reports and ends, stop, kill, close.

Every started trial ends exactly once, whatever happens to its process, unless the executor is closed first. Must not
know budgets or policies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from autoaccel.trial import Ended, Report, TrialSpec

Event = Report | Ended


class Executor(ABC):
    """Runs trials, at most `n_slots` at once."""

    n_slots: int = 1
    closing_s: float = 0.0
    """Seconds that `close` may take."""

    @abstractmethod
    def start(self, spec: TrialSpec) -> None:
        """Begin a trial. RuntimeError if no slot is free; trial numbers are not reused."""

    @abstractmethod
    def wait(self, timeout_s: float) -> list[Event]:
        """Events in the order they happened; blocks until there is one, at most `timeout_s`. May return none."""

    @abstractmethod
    def stop(self, trial: int) -> None:
        """Ask a trial to end after its current step; it then ends as 'stopped'. Unknown trials are ignored."""

    @abstractmethod
    def kill(self, trial: int) -> None:
        """End a trial now; it ends as 'timeout' and its process is replaced. Unknown trials are ignored."""

    @abstractmethod
    def close(self) -> None:
        """End everything, running trials without an event; safe to call twice. No process is left behind."""
