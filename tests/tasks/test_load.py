"""References become tasks; a wrong one is named, with its file and line."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.tasks.load import absolute, check_reference, describe, load_task

GOOD = """
from autoaccel.tasks.base import Task
import beside
task = Task(name="mine", model=dict, train=None, validation=None)
def make(): return task
def needs(x): return task
def fails(): raise ValueError("no data\\nin this folder")
def leaves(): raise SystemExit(2)
def nothing(): pass
number = 3
class Model:
    def __call__(self): return task
model = Model()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with task files; what they import is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    files = {
        "mine.py": GOOD,
        "beside.py": "",
        "package/__init__.py": "",
        "package/inner.py": GOOD,
        "broken.py": "x = 1\nimport beside\nraise RuntimeError('no GPU')\n",
        "syntax.py": "x = 1\ndef f(:\n",
        "missing.py": "import nowhere_to_be_found\n",
        "script.py": "import sys\nsys.exit(0)\n",
        "wrong.py": "from autoaccel.tasks.base import Task\nTask(name='', model=dict, train=1, validation=1)\n",
        "random.py": GOOD,
        "my-task.py": GOOD,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "reference",
    ["mine.py:task", "./mine.py:make", "package.inner:task", "mine:make", "random.py:task", "my-task.py:task"],
)
def test_a_reference_names_a_task(reference: str) -> None:
    check_reference(reference)
    assert load_task(reference).name == "mine"


def test_an_absolute_path_works_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert load_task(f"{folder}/mine.py:task").name == "mine"


def test_a_file_is_read_afresh_and_hides_no_module(folder: Path) -> None:
    assert load_task("random.py:task").name == "mine"
    assert sys.modules["random"] is random
    (folder / "mine.py").write_text(GOOD.replace('"mine"', '"first"'))
    assert load_task("mine.py:task").name == "first"
    (folder / "mine.py").write_text(GOOD.replace('"mine"', '"another"'))
    assert load_task("mine.py:task").name == "another"


def test_a_file_that_failed_leaves_no_half_module() -> None:
    with pytest.raises(UsageError):
        load_task("broken.py:task")
    assert "broken" not in sys.modules


WRONG = [
    ("digit", ["unknown task 'digit'", "Did you mean 'digits'?", "path/to/file.py:name"]),
    ("mine.py", ["unknown task 'mine.py'", "Your own: mine.py:name."]),
    ("", ["unknown task ''"]),
    (":task", ["expected file.py:name"]),
    ("mine.py:", ["expected file.py:name"]),
    ("mine.py:a b", ["expected file.py:name"]),
    ("absent.py:task", ["no file ", "absent.py"]),
    ("mine.py:tusk", ["mine.py has no 'tusk'", "Did you mean 'task'?"]),
    ("mine.py:number", ["number is a int, not a Task", "autoaccel.Task("]),
    ("mine.py:Model", ["Model is a type, not a Task"]),
    ("mine.py:model", ["model is a Model, not a Task"]),
    ("mine.py:nothing", ["nothing is a NoneType, not a Task"]),
    ("mine.py:needs", ["calling it failed: TypeError: needs() missing 1", "takes no arguments"]),
    ("mine.py:fails", ["calling it failed: ValueError: no data (mine.py:7)"]),
    ("mine.py:leaves", ["calling it failed: SystemExit: 2 (mine.py:8)"]),
    ("broken.py:task", ["import failed: RuntimeError: no GPU (broken.py:3)", "Fix the file"]),
    ("syntax.py:task", ["import failed: SyntaxError: ", "(syntax.py:2)"]),
    ("missing.py:task", ["import failed: ModuleNotFoundError: No module named 'nowhere_to_be_found' (missing.py:1)"]),
    ("script.py:task", ["import failed: SystemExit: 0 (script.py:2)"]),
    ("wrong.py:task", ["Task name '': empty"]),
    ("no_such_package:task", ["import failed: ModuleNotFoundError: No module named 'no_such_package'"]),
    ("package.absent:task", ["No module named 'package.absent'"]),
    ("..package:task", ["import failed: TypeError"]),
    ("package.inner:tisk", ["package.inner has no 'tisk'"]),
]


@pytest.mark.parametrize(("reference", "fragments"), WRONG, ids=[r for r, _ in WRONG])
def test_a_wrong_reference_is_named(reference: str, fragments: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_task(reference)
    assert caught.value.hint
    text = str(caught.value)
    assert [f for f in fragments if f not in text] == [], text


@pytest.mark.parametrize("reference", ["digit", "mine.py", ":task", "mine.py:", "absent.py:task"])
def test_what_needs_no_import_is_found_without_one(reference: str) -> None:
    with pytest.raises(UsageError):
        check_reference(reference)


def test_an_error_without_text_or_place() -> None:
    assert describe(ValueError()) == "ValueError"
    assert describe(KeyError("x")) == "KeyError: 'x'"


def test_the_users_line_is_named_and_not_the_librarys() -> None:
    import json

    try:
        json.loads("{")
    except ValueError as error:
        assert "(test_load.py:" in describe(error)


def test_a_built_in_task() -> None:
    assert isinstance(load_task("digits"), Task)


def test_a_file_reference_is_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("train.py:task") == f"{tmp_path / 'train.py'}:task"
    assert absolute("package.module:task") == "package.module:task"
    assert absolute("digits") == "digits"
