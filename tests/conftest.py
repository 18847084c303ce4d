"""No test may see or grow the library of past studies in the user's home, nor what another test has left in one; and
trainings in the tests' own process have one thread: several wait for each other, many times as long on a busy machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

VARIABLE = "AUTOACCEL_LIBRARY"

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def libraries() -> Iterator[Path]:
    """A folder for the libraries of all tests; fixtures of a module share one."""
    with tempfile.TemporaryDirectory(prefix="autoaccel-library-") as folder:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(Path(folder) / "modules")
        yield Path(folder)
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


@pytest.fixture(autouse=True)
def library(libraries: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's library is, empty at first."""
    folder = libraries / f"{len(os.listdir(libraries))}-{abs(hash(request.node.nodeid))}"
    folder.mkdir()
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder
