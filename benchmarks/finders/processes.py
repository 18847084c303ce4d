"""Children under the memory limit as the measuring process sees them: told, asked, ended."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from benchmarks.dialogue import ALONE, Child, Document, FailedError

PATIENCE_S = 900.0
"""Who takes longer for one answer hangs."""
NEEDS = {"lightning": "lightning", "accelerate": "accelerate"}
"""Distribution that a chooser needs whose name begins so."""


class LimitedChild(Child):
    """A process that was told one thing; what it died of is its answer."""

    def __init__(self, told: Document) -> None:
        super().__init__("benchmarks.finders.child", environment={**os.environ, **ALONE}, patience_s=PATIENCE_S)
        self.tell(told)

    def tell(self, request: Document) -> None:
        with suppress(FailedError):  # it is heard next
            super().tell(request)

    def hear(self) -> Document:
        try:
            return super().hear()
        except FailedError as error:
            return {"error": str(error)}


def ask(told: Document) -> Document:
    """The one answer of a process of its own."""
    child = LimitedChild(told)
    try:
        return child.hear()
    finally:
        child.close()


def absent(choosers: list[str]) -> dict[str, str]:
    """Choosers that cannot run here, and why."""
    found = {}
    for name in choosers:
        package = next((package for start, package in NEEDS.items() if name.startswith(start)), None)
        if package is not None and _version(package) is None:
            found[name] = f"{package} is not installed"
    return found


def versions() -> dict[str, str | None]:
    """Of the libraries whose finders take part."""
    return {package: _version(package) for package in NEEDS.values()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
