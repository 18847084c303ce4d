"""A PostgreSQL server of a test's own, from the binaries that are installed; it is gone when the test is."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


class Server:
    """A cluster of databases in a folder, on a port of this machine. It may be stopped, started and restarted."""

    def __init__(self, folder: Path, binaries: Path, user: str | None) -> None:
        self._folder, self._binaries, self._user = folder, binaries, user
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "tuner", "-N", "--no-locale", "-E", "UTF8")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://tuner@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=20"
        log = str(self._folder / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self._folder / "data"), "-l", log, "-o", options)

    def stop(self) -> None:
        """As a crash: connections are cut, nothing is said goodbye to."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self._folder / "data"))

    def restart(self) -> None:
        self.stop()
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        # A server keeps what it inherits open, so its words go to a file: a pipe would never end.
        with (self._folder / "out").open("ab") as out:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, user=self._user, cwd=self._folder, timeout=60
            )
        if done.returncode:
            raise RuntimeError(f"{command} failed:\n{(self._folder / 'out').read_text()}")


@contextlib.contextmanager
def postgresql() -> Iterator[Server]:
    """A server with an empty database; skips the test where there is none, with the reason."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'autoaccel[postgresql]'")
    found = shutil.which("initdb") or next(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if found is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    user = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="autoaccel-postgresql-"))  # tmp_path is closed to another user
    try:
        if user is not None:
            shutil.chown(folder, user)
        server = Server(folder, Path(found).resolve().parent, user)
        try:
            yield server
        finally:
            with contextlib.suppress(RuntimeError):  # it is stopped already
                server.stop()
    finally:
        shutil.rmtree(folder)


def _unprivileged() -> str | None:
    """Whom to run it as: it refuses to be run by root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL does not run as root, and there is no other user")
