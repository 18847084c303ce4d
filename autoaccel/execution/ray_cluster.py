"""Ray as trials use it: a private one on this machine that starts and ends with the tuning, or a cluster that is there.

The private one listens on this machine only; both keep Ray's token authentication and report nothing. Ray is imported
when it is asked for. Must not know trials.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from autoaccel.errors import EnvironmentFaultError, UsageError, first_line
from autoaccel.execution.local import TaskSource, end_guard, guard
from autoaccel.hardware.profile import usable_cores

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # tasks find their files where the tuning was started
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # nothing starts that was not asked for
}
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""At 0, Ray takes the loopback address for the machine's own; without it, it listens on all interfaces (2.60)."""
_TOKEN, _TOKEN_FILE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_KNOCK_S = 10.0
_MOST_FILES, _MOST_BYTES = 2_000, 50_000_000
_SETTINGS, _LARGE_BYTES = (".json", ".toml", ".yaml", ".yml", ".cfg", ".ini"), 100_000
_SKIPPED = ("__pycache__", "site-packages", "node_modules", "runs")


@dataclass(frozen=True)
class RayCluster:
    """What is asked of Ray."""

    address: str | None = None
    """Of the cluster's head, 'host:port' or 'auto'; None: a private Ray on this machine."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """What every trial needs, in Ray's words: CPU, GPU, or what the nodes have; beside its share of the devices."""

    def __post_init__(self) -> None:
        if self.address is not None and "://" in self.address:
            raise UsageError(
                f"Ray address {self.address!r}: Ray's client protocol is not supported",
                "Run autoaccel on a machine of the cluster and give the head's host:port, or 'auto'.",
            )
        for name, amount in self.resources.items():
            if not name or not 0 <= amount < float("inf"):
                raise UsageError(f"Ray resource {name!r}: {amount!r} is no amount", "Give for example CPU=4.")


@dataclass(frozen=True)
class Connection:
    """A Ray that can be used; `disconnect` ends it."""

    is_ours: bool
    """Whether it ends with the tuning."""
    is_private: bool
    source: TaskSource | None
    """The task as workers there find it."""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """What variables were before."""
    guard: subprocess.Popen[bytes] | None = None
    """What ends the private Ray's last processes should this one be killed."""


def connect(cluster: RayCluster, source: TaskSource | None) -> Connection:
    """Start a private Ray or connect to a cluster, to which the task's Python files are sent.

    A Ray that this process is connected to already is used as it is.

    Raises:
        EnvironmentFaultError: there is none at the address, it refuses us, or none can be started.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return Connection(is_ours=False, is_private=False, source=source)
    before = _set(_private_environment() if cluster.address is None else _QUIET)
    import ray

    try:
        with _signals_kept():
            if cluster.address is None:
                return Connection(True, True, source, before, _start_private())
            _knock(cluster.address)
            with tempfile.TemporaryDirectory(prefix="autoaccel-") as folder:
                sent, there = shipped(source, Path(folder))
                ray.init(
                    address=cluster.address,
                    runtime_env={"working_dir": str(sent), "env_vars": {n: os.environ[n] for n in _QUIET}},
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            return Connection(True, False, there, before)
    except (ray.exceptions.RayError, ConnectionError, OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        _set(before)
        where = "a private Ray could not be started" if cluster.address is None else f"no Ray at {cluster.address!r}"
        raise EnvironmentFaultError(
            f"{where}: {first_line(error)}",
            "Check the address, that the cluster runs, and its token (RAY_AUTH_TOKEN or ~/.ray/auth_token).",
        ) from error


def _knock(address: str) -> None:
    """OSError or ValueError if nobody answers at 'host:port': Ray tries that for minutes."""
    if address == "auto":  # it may remember a cluster that is gone
        from ray._private.services import canonicalize_bootstrap_address_or_die

        address = canonicalize_bootstrap_address_or_die(address)
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def disconnect(connection: Connection) -> None:
    """End what `connect` began; safe to call twice."""
    import ray

    if connection.is_ours:
        ray.shutdown()
        end_guard(connection.guard)
        _set(connection.environment)


def _private_environment() -> dict[str, str]:
    has_token = any(os.environ.get(name) for name in (_TOKEN, _TOKEN_FILE)) or _has_token_file()
    token = {} if has_token else {_TOKEN: secrets.token_hex(32)}  # Ray would write one into the user's home
    return {**_QUIET, _LOOPBACK: "0", **token}


def _start_private() -> subprocess.Popen[bytes] | None:
    """Start it; what kills its agents if we are killed: they would look for the rest of it for a minute (2.60)."""
    import ray

    # Its workers are this machine's: they find the modules that we find, in the same order.
    before = _set({"PYTHONPATH": os.pathsep.join([*(path or os.getcwd() for path in sys.path), os.getcwd()])})
    try:
        ray.init(
            address="local",  # else a cluster that happens to be near would be used
            num_cpus=usable_cores(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    finally:
        _set(before)
    return guard(
        f"for p in {' '.join(map(str, _agents()))}; do"
        ' grep -q "^ray::" /proc/$p/cmdline && kill -s KILL $p; done'  # not who may have its number by then
    )


def _agents() -> list[int]:
    """Numbers of the processes of ours that Ray calls agents."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # what Ray needs for a moment only
            found += [process.pid] if process.name().startswith("ray::") and "Agent" in process.name() else []
    return found


def _has_token_file() -> bool:
    return (Path.home() / ".ray" / "auth_token").exists()


def _set(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set or remove environment variables, most of which Ray reads when it is imported; what they were before."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if _LOOPBACK in values and "ray" in sys.modules:  # imported before: it is told
        from ray._private import ray_constants

        default = "0" if ray_constants.IS_WINDOWS_OR_OSX else "1"
        ray_constants.ENABLE_RAY_CLUSTER = os.environ.get(_LOOPBACK, default) != "0"
    if _TOKEN in values and "ray" in sys.modules:  # it remembers the one it saw first (2.60)
        compiled: Any = import_module("ray._raylet")
        compiled.AuthenticationTokenLoader.instance().reset_cache()
    return before


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts; what it means is decided elsewhere."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


# --------------------------------------------------------------------------------------------------- what is sent along


def shipped(source: TaskSource | None, folder: Path) -> tuple[Path, TaskSource | None]:
    """An archive in `folder` with this package and the modules of the task, and the task as it is found there.

    For 'file.py:name' those below the file's folder; for a module or an object, those below the script's or the working
    folder; small files of settings that lie beside them too. Data is not sent: nodes have to reach it under the same
    path.

    Raises:
        UsageError: too many or too large files.
    """
    reference = source.reference if source is not None else None
    name, _, attribute = (reference or "").rpartition(":")
    roots: list[Path] = []
    if name.endswith(".py"):
        roots, source = [Path(name).parent], TaskSource(f"{Path(name).name}:{attribute}")
    elif source is not None and (reference is None or ("?" not in reference and name)):
        roots = [Path(sys.path[0]) if sys.path[0] else Path.cwd()]
    archive = folder / "modules.zip"
    package = Path(__file__).resolve().parents[1]
    files = {path: f"autoaccel/{path.relative_to(package)}" for path in _modules(package)}
    for root in roots:
        files |= {path: str(path.relative_to(root)) for path in _modules(root) if path not in files}
    if len(files) > _MOST_FILES or sum(path.stat().st_size for path in files) > _MOST_BYTES:
        raise UsageError(
            f"{roots[0] if roots else package}: {len(files)} modules and settings are too much to send to the cluster",
            "Put the task's files into a folder of their own.",
        )
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        for path, inside in sorted(files.items(), key=lambda pair: pair[1]):
            # The same files give the same archive, which Ray then sends only once.
            stream.writestr(zipfile.ZipInfo(inside), path.read_bytes())
    return archive, source


def _modules(root: Path) -> list[Path]:
    """Python files and small ones of settings below a folder, but what is hidden, installed or written by runs; it ends
    where they are too many."""
    found: list[Path] = []
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if not n.startswith(".") and n not in _SKIPPED)
        paths = [Path(folder) / name for name in sorted(files) if name.endswith((".py", *_SETTINGS))]
        found += [p for p in paths if p.suffix == ".py" or (p.is_file() and p.stat().st_size <= _LARGE_BYTES)]
        if len(found) > _MOST_FILES:
            break
    return found


def share_of_devices(n_devices: int, n_slots: int, cluster: RayCluster) -> dict[str, float]:
    """What one slot asks of Ray: its share of a GPU where the cluster has some, else of a core; and what was wished."""
    import ray

    kind = "GPU" if ray.cluster_resources().get("GPU", 0) else "CPU"
    return {"CPU": 0.0, kind: n_devices / n_slots, **cluster.resources}


def options_of(resources: Mapping[str, float]) -> dict[str, Any]:
    """The same in the words of an actor's options."""
    own = {k: v for k, v in resources.items() if k not in ("CPU", "GPU", "memory")}
    options: dict[str, Any] = {"num_cpus": resources.get("CPU", 0.0), "resources": own}
    if resources.get("GPU"):
        options["num_gpus"] = resources["GPU"]
    if "memory" in resources:
        options["memory"] = resources["memory"]
    return options
