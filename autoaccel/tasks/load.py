"""A reference becomes a Task: a built-in name, `path/to/file.py:name`, `package.module:name`, or `MODEL?data=PATH`.

Runs where torch may be loaded (a worker, or the user's own process); every mistake is a UsageError that names it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from autoaccel.errors import UsageError, did_you_mean
from autoaccel.tasks.base import Task
from autoaccel.tasks.digits import digits
from autoaccel.tasks.from_data import parsed
from autoaccel.tasks.from_data import reference as reference_of

BUILT_IN: dict[str, Callable[[], Task]] = {"digits": digits}


def check_reference(reference: str) -> None:
    """What can be said of a reference without importing anything: unknown name, missing file, data that is none."""
    made = parsed(reference)
    if made is not None:
        made.check()
        return
    name, sign, attribute = reference.rpartition(":")
    if not sign:
        if reference not in BUILT_IN:
            own = f"{reference}:name" if reference.endswith(".py") else "path/to/file.py:name or package.module:name"
            raise UsageError(f"unknown task {reference!r}", f"{did_you_mean(reference, BUILT_IN)} Your own: {own}.")
        return
    if not name or not attribute.isidentifier():
        raise UsageError(f"task {reference!r}: expected file.py:name or package.module:name", "Name one object.")
    if name.endswith(".py") and not Path(name).is_file():
        raise UsageError(f"task {reference!r}: no file {Path(name).absolute()}", "Check the path.")


def absolute(reference: str) -> str:
    """The same reference from any folder: the path of a file made absolute."""
    made = parsed(reference)
    if made is not None:
        return reference_of(made)
    name, sign, attribute = reference.rpartition(":")
    return f"{Path(name).resolve()}:{attribute}" if sign and name.endswith(".py") else reference


def short_name(reference: str) -> str:
    """What a person would call the task of a reference."""
    made = parsed(reference)
    return reference.rpartition(":")[2] if made is None else made.name


def load_task(reference: str) -> Task:
    """The Task a reference names. A function of no arguments is called to get it."""
    made = parsed(reference)
    if made is not None:
        return made.task()
    check_reference(reference)
    name, sign, attribute = reference.rpartition(":")
    if not sign:
        return BUILT_IN[reference]()
    module = _import(name, reference)
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UsageError(f"task {reference!r}: {name} has no {attribute!r}", did_you_mean(attribute, public))
    found = getattr(module, attribute)
    if inspect.isroutine(found):
        found = _call(found, reference)
    if not isinstance(found, Task):
        raise UsageError(
            f"task {reference!r}: {attribute} is a {type(found).__name__}, not a Task",
            "Build it with autoaccel.Task(name=..., model=..., train=..., validation=...).",
        )
    return found


def describe(error: BaseException) -> str:
    """`ValueError: first line (file.py:12)`: the innermost line that is the user's own, if any is."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{text} ({Path(error.filename).name}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return text
    installed = [sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")]
    foreign = (*(f"{folder}{os.sep}" for folder in (*installed, Path(__file__).parents[1])), "<frozen")
    own = [frame for frame in frames if not frame.filename.startswith(foreign)]
    last = (own or frames)[-1]
    return f"{text} ({Path(last.filename).name}:{last.lineno})"


def _call(function: Callable[[], object], reference: str) -> object:
    try:
        return function()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"task {reference!r}: calling it failed: {describe(error)}", "It takes no arguments and returns a Task."
        ) from error


def _import(name: str, reference: str) -> ModuleType:
    try:
        if name.endswith(".py"):
            return _import_file(Path(name).resolve())
        return importlib.import_module(name)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a script that parses its command line ends the process otherwise
        raise UsageError(
            f"task {reference!r}: import failed: {describe(error)}", "Fix the file and run again."
        ) from error


def _import_file(path: Path) -> ModuleType:
    """Import a file by path; its folder is importable too, as when Python runs it."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    known = sys.modules.get(path.stem)
    # A task file may be called like a module that is loaded (random.py, train.py): that one has to stay.
    taken = known is not None and getattr(known, "__file__", None) != str(path)
    name = f"{path.stem}_task_file" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file", "Give a .py file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
