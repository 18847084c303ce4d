"""Putting units in place: the user's own systemd and crontab.

Doing it again replaces what was there. Must not know what the units do.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoaccel.errors import EnvironmentFaultError


def systemd_folder() -> Path:
    """Where the user's units are."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def install_systemd(units: Mapping[str, str]) -> list[Path]:
    """Write units, and start the timers among them; the files."""
    folder = systemd_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in units.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise EnvironmentFaultError(f"{folder}: cannot be written ({error.strerror})", "Check permissions.") from error
    _call(["systemctl", "--user", "daemon-reload"])
    for name in units:
        if name.endswith(".timer"):
            _call(["systemctl", "--user", "enable", "--now", name])
    return [folder / name for name in units]


def install_cron(line: str) -> None:
    """Add a line to the user's crontab; one with the same name, its last word, is replaced."""
    name = line.split()[-1]
    listed = _call(["crontab", "-l"], allowed=(0, 1))  # 1: there is none yet
    kept = [old for old in listed.splitlines() if old.split()[-1:] != [name]]
    _call(["crontab", "-"], "\n".join([*kept, line]))


def _call(command: Sequence[str], text: str | None = None, allowed: Sequence[int] = (0,)) -> str:
    """What a command says; EnvironmentFaultError with its words if it fails or is not there."""
    words = " ".join(command)
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise EnvironmentFaultError(
            f"{command[0]}: not found on this machine", "Leave out --install and put the units in place by hand."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFaultError(f"`{words}` does not end", "Put the units in place by hand.") from error
    if done.returncode not in allowed:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise EnvironmentFaultError(f"`{words}` failed: {said}", "Put the units in place by hand.")
    return done.stdout if done.returncode == 0 else ""
