"""Processes that are asked in lines of JSON: what they print is no answer, and none is waited for without end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from benchmarks.dialogue import Child, FailedError

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
import json, os, sys, time
from benchmarks.dialogue import pipe_of_answers, send

answers = pipe_of_answers()
for line in sys.stdin:
    word = json.loads(line)["word"]
    print("no answer")
    os.system("echo nor is this")
    if word == "hang":
        time.sleep(600)
    if word == "end":
        sys.exit("enough")
    send(answers, {"heard": word})
"""


@contextmanager
def asked(folder: Path, patience_s: float = 60.0) -> Iterator[Child]:
    (folder / "asked_module.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    with closing(Child("asked_module", environment=environment, patience_s=patience_s)) as child:
        yield child


def test_only_answers_are_heard_and_who_ends_says_why(tmp_path: Path) -> None:
    with asked(tmp_path) as child:
        for word in ("one", "two"):
            child.tell({"word": word})
            assert child.hear() == {"heard": word}
        child.tell({"word": "end"})
        for _ in range(2):
            with pytest.raises(FailedError, match="enough"):
                child.hear()


def test_who_hangs_is_ended(tmp_path: Path) -> None:
    with asked(tmp_path, patience_s=2.0) as child:
        child.tell({"word": "hang"})
        with pytest.raises(FailedError, match="no answer in 2 s"):
            child.hear()
        with pytest.raises(FailedError):
            child.hear()
