"""A process that is asked and answers in lines of JSON: both ends. Must not know what is asked."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

Document = dict[str, Any]
ALONE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    **{"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"},
}
"""In the environment of a process that is measured: one thread, no downloads, no warnings."""


class FailedError(RuntimeError):
    """A process ended or hangs; the message is the end of its log."""


class Child:
    """A process as the one that asks sees it. Its libraries' words go to a log that is read only if it fails."""

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str], patience_s: float) -> None:
        """Start it.

        Args:
            module: that is run.
            arguments: on its command line.
            environment: of the process.
            patience_s: who takes longer for one answer hangs.
        """
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._patience_s = patience_s
        command, root, pipe = [sys.executable, "-m", module, *arguments], Path(__file__).parents[1], subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, bufsize=1, cwd=root, env=environment
        )

    def tell(self, request: Document) -> None:
        """Ask for something.

        Raises:
            FailedError: it has ended.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin)
        except BrokenPipeError as error:
            raise FailedError(self._last_words()) from error

    def hear(self) -> Document:
        """The next answer; there is one line per request, so that none waits unseen in a buffer.

        Raises:
            FailedError: it has ended, or hangs and is ended.
        """
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], self._patience_s)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self._process.kill()
            raise FailedError(self._last_words() if ready else f"no answer in {self._patience_s:.0f} s")
        answer: Document = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return lines[-1] if lines else "it ended without a word"


def pipe_of_answers() -> TextIO:
    """In the process that is asked: for its answers alone; what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return out


def send(answers: TextIO, document: Document) -> None:
    """One answer."""
    print(json.dumps(document), file=answers)
