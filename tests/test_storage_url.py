"""URLs of databases: what is shown of them has no secrets."""

from __future__ import annotations

import pytest

from autoaccel.errors import UsageError
from autoaccel.job import Job
from autoaccel.storage_url import VARIABLE, StorageUrl, with_secret

CANARY = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql://me:{CANARY}@host:5432/db", "postgresql://me@host:5432/db"),
        (f"postgresql+psycopg://me:{CANARY}%40x@host/db", "postgresql+psycopg://me@host/db"),
        (f"postgresql://host/db?sslmode=require&password={CANARY}", "postgresql://host/db?sslmode=require"),
        (f"mysql://:{CANARY}@host/db", "mysql://@host/db"),
        (f"mysql://host/db?auth_TOKEN={CANARY}#x", "mysql://host/db"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("sqlite:////abs/study.db?timeout=3", "sqlite:////abs/study.db?timeout=3"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    url = StorageUrl(text)
    assert (url.shown, str(url), StorageUrl(url.shown).shown) == (shown, shown, shown)
    assert CANARY not in f"{url} {url!r} {Job(budget='1h', storage=url)!r}"  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "host/db", "://x", "postgresql://", "study.db", f"{CANARY}"])
def test_what_is_no_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="not the URL of a database") as caught:
        StorageUrl(text)
    assert CANARY not in str(caught.value)


def test_a_job_on_disk_has_no_secrets_and_gets_them_back_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    url = StorageUrl(f"postgresql://me:{CANARY}@host/db")
    job = Job(budget="1h", storage=url)  # type: ignore[arg-type]
    kept = Job.from_json(job.to_json())
    assert CANARY not in str(job.to_json()) and kept.storage == StorageUrl(url.shown)
    assert kept.to_json() == job.to_json(), "the same job to a later session"
    assert kept.storage is not None
    monkeypatch.delenv(VARIABLE, raising=False)
    assert with_secret(kept.storage) == kept.storage
    monkeypatch.setenv(VARIABLE, url.text)
    assert with_secret(kept.storage) == url
    monkeypatch.setenv(VARIABLE, f"postgresql://me:{CANARY}@elsewhere/db")
    assert with_secret(kept.storage) == kept.storage, "another database's"
