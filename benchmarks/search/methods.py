"""All methods of the benchmark by name: this project's search, its ablations, and the peers.

A part that is not there yet, or whose library is not installed, is left out. Must not know problems or results.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.search.runner import Method

OURS = "ours"
ABLATION = "ours-"


def all_methods() -> dict[str, Method]:
    """Ours first; peers whose library is not installed are among them."""
    return {**_named("benchmarks.search.ours", "OURS"), **_named("benchmarks.search.peers", "PEERS")}


def cannot_run() -> dict[str, str]:
    """Peer -> why it cannot run here."""
    try:
        return dict(import_module("benchmarks.search.peers").missing())
    except (ImportError, AttributeError):
        return {}


def chosen(methods: dict[str, Method], *, ablation: bool, quick: bool, names: list[str] | None) -> list[str]:
    """Names of the methods to run.

    Raises:
        KeyError: a name that is given is no method's.
    """
    if names is not None:
        return [methods[name].name for name in names]
    absent = cannot_run()
    found = [name for name in methods if name not in absent and (ablation or not name.startswith(ABLATION))]
    return [name for name in found if not (quick and getattr(methods[name], "slow", False))]


def _named(module: str, attribute: str) -> dict[str, Any]:
    try:
        return dict(getattr(import_module(module), attribute))
    except ImportError:
        return {}
