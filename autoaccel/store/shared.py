"""A study in a database that many machines look at (any SQL storage of Optuna): trials are added as they end.

A view of the ledgers, each trial marked with its driver: none is lost and none doubled, whatever happens to the
connection. Adding goes on in a thread of its own, so that a slow or restarting server costs no budget. Must not know
how trials became Optuna trials, and reads back nothing but which of them are there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from autoaccel.errors import EnvironmentFaultError, UsageError, first_line
from autoaccel.storage_url import VARIABLE, StorageUrl

Storage = optuna.storages.RDBStorage
DRIVER, TRIAL = "driver", "trial"
"""User attributes that say which trial of which ledger it is."""
_CONNECT_S = 10
_OPENINGS = 5
"""Two drivers that make the tables of a new database at the same moment get in each other's way."""
_PAUSES_S = (0.2, 1.0, 3.0)
"""Before another try; the last one again and again."""
_ARGUMENTS = {
    "postgresql": {"connect_timeout": _CONNECT_S},
    "mysql": {"connect_timeout": _CONNECT_S},
    "sqlite": {"timeout": 30},
}


class ConnectionLostError(Exception):
    """The database went away; whether the last commit arrived is not known."""


def open_storage(url: StorageUrl) -> Storage:
    """Connect, and make the tables of a new database.

    Raises:
        UsageError: no such kind of database, or its package is not installed.
        EnvironmentFaultError: it cannot be reached, or refuses.
    """
    import sqlalchemy

    options = {"pool_pre_ping": True, "connect_args": _ARGUMENTS.get(url.database, {})}
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for left in reversed(range(_OPENINGS)):
        try:
            storage = optuna.storages.RDBStorage(_with_driver(url), engine_kwargs=options)
            sqlalchemy.event.listen(storage.engine, "handle_error", _say_lost, retval=True)
            return storage
        except (ImportError, sqlalchemy.exc.ArgumentError) as error:
            extra = "pip install 'autoaccel[postgresql]'" if url.database == "postgresql" else "Install its package."
            raise UsageError(f"storage {url}: {_cause(error)}", extra) from error
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            if left and not isinstance(error, sqlalchemy.exc.OperationalError):
                continue
            raise EnvironmentFaultError(f"storage {url}: {_cause(error)}", _HINT) from error
    raise AssertionError("every try returns or raises")


def close_storage(storage: Storage) -> None:
    """Give the connections back; for the thread that used it last."""
    storage.remove_session()
    storage.engine.dispose()


_HINT = f"Start it, or check the URL. A run keeps no password: set {VARIABLE}, or use ~/.pgpass; then --resume."


def _with_driver(url: StorageUrl) -> str:
    """PostgreSQL by the driver that our extra installs, unless the URL names another one."""
    scheme, rest = url.text.split("://", 1)
    return f"postgresql+psycopg://{rest}" if scheme.lower() in ("postgresql", "postgres") else url.text


def _say_lost(context: Any) -> Exception | None:
    """Optuna tries a failed commit again, which would add a trial twice if the first one had arrived: where the
    connection was lost, what is there has to be read first, by us."""
    return ConnectionLostError(first_line(context.original_exception)) if context.is_disconnect else None


def _cause(error: BaseException) -> str:
    """The first line of what was behind an error; Optuna and SQLAlchemy wrap what a database says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


@dataclass(frozen=True)
class Left:
    """What is not in the storage when a run ends."""

    missing: int
    why: str = ""


class SharedStudy:
    """A study that several drivers add to, and the thread that adds what this one has. It closes the storage.

    Args:
        storage: an open one, see `open_storage`.
        name: of the study.
        driver: marks the trials of this run, the same in all its sessions.
        facts: user attributes of the study, for people.
    """

    def __init__(self, storage: Storage, name: str, driver: str, facts: Mapping[str, Any]) -> None:
        self.name = name
        self._storage, self._driver, self._facts = storage, driver, facts
        self._waiting: dict[int, FrozenTrial] = {}
        self._change = threading.Condition()
        self._is_closing, self._is_over, self._why = False, False, ""
        self._thread = threading.Thread(target=self._add_all, name="shared study", daemon=True)
        self._thread.start()

    def offer(self, trials: Sequence[FrozenTrial]) -> None:
        """Have trials added; those that are there already are left alone. Returns at once."""
        with self._change:
            for trial in trials:
                trial.user_attrs[DRIVER] = self._driver
                self._waiting[trial.user_attrs[TRIAL]] = trial
            self._change.notify()

    def close(self, patience_s: float) -> Left:
        """Wait a while for what is not there yet; after that the thread gives up."""
        with self._change:
            self._is_closing = True
            self._change.notify()
        self._thread.join(patience_s)
        with self._change:
            self._is_over = True
            self._change.notify()
            return Left(len(self._waiting), self._why if self._waiting else "")

    def _add_all(self) -> None:
        """The thread: add what waits, wait for more. After any failure, what is there is read anew."""
        study, there, n_failed = None, set[int](), 0
        while trial := self._next():
            try:
                if study is None:
                    study = self._study()
                    there = {t.user_attrs[TRIAL] for t in study.get_trials(deepcopy=False) if self._is_mine(t)}
                if trial.user_attrs[TRIAL] not in there:
                    study.add_trial(trial)
                there.add(trial.user_attrs[TRIAL])
                n_failed = 0
                self._done(trial)
            except Exception as error:  # whatever a driver of a database raises: the run must not end for it
                study, n_failed = None, n_failed + 1
                self._failed(trial, error, _PAUSES_S[min(n_failed, len(_PAUSES_S)) - 1])
        close_storage(self._storage)

    def _study(self) -> optuna.Study:
        study = optuna.create_study(
            study_name=self.name, storage=self._storage, direction="minimize", load_if_exists=True
        )
        for name, value in self._facts.items():
            if study.user_attrs.get(name) != value:
                study.set_user_attr(name, value)
        return study

    def _is_mine(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs.get(DRIVER) == self._driver)

    def _next(self) -> FrozenTrial | None:
        """The next one to add; waits for it. None: the end."""
        with self._change:
            while not self._waiting and not self._is_closing:
                self._change.wait()
            return None if self._is_over else next(iter(self._waiting.values()), None)

    def _done(self, trial: FrozenTrial) -> None:
        with self._change:
            self._why = ""
            self._waiting.pop(trial.user_attrs[TRIAL], None)

    def _failed(self, trial: FrozenTrial, error: Exception, pause_s: float) -> None:
        """One that cannot be added at all must not hold up the others: it is tried again after them."""
        number = trial.user_attrs[TRIAL]
        with self._change:
            self._why = _cause(error)
            self._waiting[number] = self._waiting.pop(number)
            if not self._is_over:
                self._change.wait(pause_s)
