"""The URL of a database that many machines look at; what is shown or written of it never has its password.

Must not connect, nor know what is kept there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from autoaccel.errors import UsageError

VARIABLE = "AUTOACCEL_STORAGE"
"""Environment variable for the whole URL: other users of a machine can read the words of a command."""
_FORM = re.compile(r"[a-z][a-z0-9]*(\+[a-z0-9_]+)?://.+", re.IGNORECASE | re.DOTALL)
_SECRET = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)


@dataclass(frozen=True)
class StorageUrl:
    """An Optuna storage: 'postgresql://user@host/name', 'mysql://...', 'sqlite:///file'."""

    text: str = field(repr=False)
    """With its secrets."""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not _FORM.fullmatch(self.text):
            raise UsageError(
                "storage: not the URL of a database", "For example postgresql://user@host/name, or sqlite:///study.db."
            )

    @property
    def shown(self) -> str:
        """Without password, and without query parameters that may hold a secret."""
        parts = urlsplit(self.text)
        user, at, host = parts.netloc.rpartition("@")
        query = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if not _SECRET.search(k)]
        netloc = f"{user.partition(':')[0]}{at}{host}"
        plain = urlunsplit((parts.scheme, netloc, parts.path, urlencode(query), ""))
        # sqlite:///file has no host, and urlunsplit drops the slashes of an empty one.
        return plain if parts.netloc else f"{parts.scheme}://{parts.path}" + (f"?{urlencode(query)}" if query else "")

    def __str__(self) -> str:
        return self.shown

    @property
    def database(self) -> str:
        """What kind it is: 'postgresql', 'sqlite'."""
        return urlsplit(self.text).scheme.partition("+")[0].lower()


def with_secret(url: StorageUrl) -> StorageUrl:
    """The URL with its secrets again, where the environment has it: a run directory does not keep them."""
    given = os.environ.get(VARIABLE)
    if not given:
        return url
    known = StorageUrl(given)
    return known if known.shown == url.shown else url
