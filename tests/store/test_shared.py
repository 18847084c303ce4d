"""A study that several drivers write to: nothing is lost, nothing doubled, and a server that is away stops nobody."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from autoaccel.errors import EnvironmentFaultError, UsageError
from autoaccel.storage_url import StorageUrl
from autoaccel.store.shared import DRIVER, TRIAL, ConnectionLostError, SharedStudy, close_storage, open_storage
from tests.kits.postgresql import Server, postgresql

ROOT = Path(__file__).resolve().parents[2]
LR = FloatDistribution(1e-4, 1.0, log=True)


def trial(number: int) -> FrozenTrial:
    attributes = {TRIAL: number, "outcome": "hit", "seed": number}
    return create_trial(params={"lr": 0.1}, distributions={"lr": LR}, value=math.log(number), user_attrs=attributes)


def there(url: StorageUrl, name: str = "study") -> Counter[tuple[str, int]]:
    """Driver and number of every trial in the storage, and how often it is there."""
    storage = open_storage(url)
    try:
        found = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    finally:
        close_storage(storage)
    assert [t.number for t in found] == list(range(len(found)))
    assert all(t.state.is_finished() and len(t.params) == 1 for t in found)
    return Counter((t.user_attrs[DRIVER], t.user_attrs[TRIAL]) for t in found)


def wait_until_there(url: StorageUrl, name: str, n_trials: int) -> None:
    while True:
        with contextlib.suppress(KeyError, EnvironmentFaultError, optuna.exceptions.OptunaError, ConnectionLostError):
            if sum(there(url, name).values()) >= n_trials:
                return


@pytest.fixture
def sqlite(tmp_path: Path) -> StorageUrl:
    return StorageUrl(f"sqlite:///{tmp_path}/study.db")


# ---------------------------------------------------------------------------------------------------------- any storage


def test_trials_are_added_as_they_are_offered(sqlite: StorageUrl) -> None:
    shared = SharedStudy(open_storage(sqlite), "study", "a", {"task": "digits"})
    for number in range(1, 6):
        shared.offer([trial(number)])
    left = shared.close(30.0)
    assert (left.missing, left.why) == (0, "")
    assert there(sqlite) == Counter({("a", n): 1 for n in range(1, 6)})
    storage = open_storage(sqlite)
    study = optuna.load_study(study_name="study", storage=storage)
    assert study.user_attrs == {"task": "digits"} and study.best_trial.user_attrs[TRIAL] == 1
    close_storage(storage)


def test_a_later_session_adds_what_is_missing_and_nothing_twice(sqlite: StorageUrl) -> None:
    first = SharedStudy(open_storage(sqlite), "study", "a", {})
    first.offer([trial(1), trial(3)])
    first.close(30.0)
    second, other = (SharedStudy(open_storage(sqlite), "study", d, {}) for d in ("a", "b"))
    second.offer([trial(n) for n in range(1, 5)])
    other.offer([trial(1)])
    assert (second.close(30.0).missing, other.close(30.0).missing) == (0, 0)
    assert there(sqlite) == Counter({("b", 1): 1, **{("a", n): 1 for n in range(1, 5)}})


def test_one_that_cannot_be_added_holds_up_no_other(sqlite: StorageUrl) -> None:
    shared = SharedStudy(open_storage(sqlite), "study", "a", {})
    spoilt = trial(1)
    spoilt.user_attrs["note"] = object()  # not JSON
    shared.offer([spoilt, trial(2), trial(3)])
    wait_until_there(sqlite, "study", 2)
    left = shared.close(0.1)
    assert left.missing == 1 and "JSON" in left.why
    assert there(sqlite) == Counter({("a", 2): 1, ("a", 3): 1})


def test_the_thread_ends_with_its_study(sqlite: StorageUrl) -> None:
    shared = SharedStudy(open_storage(sqlite), "study", "a", {})
    spoilt = trial(1)
    spoilt.user_attrs["note"] = object()
    shared.offer([spoilt])
    shared.close(0.2)
    for thread in threading.enumerate():
        if thread.name == "shared study":
            thread.join(10.0)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("what://host/db", UsageError, "storage what://host/db: Can't load plugin"),
        ("sqlite:////no/such/folder/x.db", EnvironmentFaultError, "unable to open database file"),
        ("postgresql+nothing://me:hunter2@host/db", UsageError, "Can't load plugin"),
    ],
)
def test_what_cannot_be_opened_is_said_before_anything_is_run(url: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        open_storage(StorageUrl(url))
    assert "hunter2" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgresql() as started:
        yield started


DRIVER_PROCESS = """
import sys
from autoaccel.storage_url import StorageUrl
from autoaccel.store.shared import SharedStudy, open_storage
from tests.store.test_shared import trial
url, name, first, last = sys.argv[1:]
shared = SharedStudy(open_storage(StorageUrl(url)), "two drivers", name, {"task": "digits"})
for number in range(int(first), int(last)):
    shared.offer([trial(number)])
left = shared.close(120.0)
print(left.missing, left.why)
"""


def driver(server: Server, name: str, first: int, last: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", DRIVER_PROCESS, server.url, name, str(first), str(last)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_drivers_lose_and_double_nothing_while_the_server_restarts(server: Server) -> None:
    """Both begin on an empty database, at the same moment."""
    url = StorageUrl(server.url)
    with driver(server, "a", 1, 101) as one, driver(server, "b", 1, 101) as two:
        for wanted in (20, 90, 150):
            wait_until_there(url, "two drivers", wanted)
            server.restart()
        for process in (one, two):
            out, err = process.communicate(timeout=180)
            assert (process.returncode, out.strip()) == (0, "0"), err
    assert there(url, "two drivers") == Counter({(d, n): 1 for d in "ab" for n in range(1, 101)})


def test_a_server_that_is_gone_when_a_run_begins_is_an_error_with_exit_6(server: Server) -> None:
    server.stop()
    try:
        secret = StorageUrl(server.url.replace("tuner@", "tuner:hunter2@"))
        with pytest.raises(EnvironmentFaultError, match=f"storage {StorageUrl(server.url)}: .*refused") as caught:
            open_storage(secret)
        assert caught.value.exit_code == 6 and "AUTOACCEL_STORAGE" in caught.value.hint
        assert "hunter2" not in str(caught.value)
    finally:
        server.start()


def test_a_server_that_stays_away_costs_no_answer_and_a_later_session_adds_the_rest(server: Server) -> None:
    url = StorageUrl(server.url)
    shared = SharedStudy(open_storage(url), "gone", "a", {})
    shared.offer([trial(1)])
    assert shared.close(30.0).missing == 0
    shared = SharedStudy(open_storage(url), "gone", "a", {})
    server.stop()
    shared.offer([trial(1), trial(2)])
    left = shared.close(0.5)
    assert left.missing == 2
    server.start()
    again = SharedStudy(open_storage(url), "gone", "a", {})
    again.offer([trial(1), trial(2)])
    assert again.close(30.0).missing == 0
    assert there(url, "gone") == Counter({("a", 1): 1, ("a", 2): 1})


def test_a_commit_whose_answer_was_lost_is_not_made_again(server: Server) -> None:
    """The server has it, and the connection is cut before it can say so."""
    import sqlalchemy

    url = StorageUrl(server.url)
    storage = open_storage(url)
    shared = SharedStudy(storage, "cut", "a", {})
    shared.offer([trial(1)])
    wait_until_there(url, "cut", 1)
    cuts: list[int] = []

    def cut(connection: sqlalchemy.Connection) -> None:
        """Just before SQLAlchemy commits, and then finds the connection closed."""
        if not cuts:
            cuts.append(1)
            connection.connection.driver_connection.commit()  # type: ignore[union-attr]
            connection.connection.driver_connection.close()  # type: ignore[union-attr]

    sqlalchemy.event.listen(storage.engine, "commit", cut)
    shared.offer([trial(2)])
    assert shared.close(30.0).missing == 0 and cuts
    assert there(url, "cut") == Counter({("a", 1): 1, ("a", 2): 1})
