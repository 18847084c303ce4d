"""The rules that keep the code simple, kept by machine: who imports whom, what loads what, sizes, names, classes.

The contracts are in pyproject.toml. Each is shown to catch the mistake it is for, on a copy of the package.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "autoaccel"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
LONGER_FUNCTIONS = {"autoaccel/trainer/loop.py:train": 90}
"""The training loop is read in one piece: no hops between a config and `backward()`."""

FORBIDDEN_WORDS = ("manager", "handler", "helper", "utils", "common", "misc", "engine", "context", "core")
STOPWATCHES = ("autoaccel/trainer/timing.py", "autoaccel/hardware/stopwatch.py")

Function = ast.FunctionDef | ast.AsyncFunctionDef


# ----------------------------------------------------------------------------------------------------- who imports whom


def lint_imports(folder: Path) -> tuple[int, list[str], str]:
    """Exit code, names of the broken contracts, and the whole output of import-linter in `folder`."""
    run = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    broken = re.findall(r"^(.+) BROKEN\b", run.stdout, re.MULTILINE)
    return run.returncode, broken, run.stdout + run.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, free to be spoilt."""
    shutil.copytree(PACKAGE, tmp_path / "autoaccel", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_import_contracts_hold() -> None:
    code, broken, output = lint_imports(ROOT)
    assert (code, broken) == (0, []), output


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("trainer/loop.py", "from autoaccel.store import ledger", "training knows nothing of tuning"),
        ("tasks/base.py", "import optuna", "training knows nothing of tuning"),
        ("search/loop.py", "import torch", "the tuner never loads torch"),
        ("space/space.py", "import autoaccel.tasks.digits, torch.nn", "the tuner never loads torch"),
        ("budget.py", "from autoaccel.search import loop", "data flows down"),
        ("cost/step_cost.py", "from autoaccel.space import knobs", "data flows down"),
        ("utils.py", "", "data flows down"),
        ("search/policy.py", "from autoaccel.execution import worker", "the tuner never loads torch"),
        ("space/knobs.py", "from autoaccel.space import files", "no cycles"),
        ("report/summary.py", "import rich", "rich has two homes"),
        ("search/policy.py", "import optuna", "optuna has three homes"),
        ("execution/local.py", "import ray", "ray has its homes"),
        ("search/trials.py", "from ray import tune", "ray has its homes"),
        ("execution/worker.py", "import ray", "training knows nothing of tuning"),
        ("integrations/optuna.py", "import torch", "the tuner never loads torch"),
        ("search/policy.py", "from autoaccel.integrations import trials", "data flows down"),
        ("job.py", "import typer", "the command line library stays in the command line"),
        ("retune/triggers.py", "from autoaccel.report import summary", "data flows down"),
        ("retuning.py", "from autoaccel import cli", "data flows down"),
    ],
)
def test_a_wrong_import_breaks_the_contract_meant_for_it(copy: Path, module: str, line: str, contract: str) -> None:
    path = copy / "autoaccel" / module
    before = path.read_text(encoding="utf-8") if path.exists() else '"""A new module."""\n'
    path.write_text(f"{before}\n{line}\n", encoding="utf-8")
    code, broken, output = lint_imports(copy)
    assert code == 1, output
    assert contract in broken, output


# ------------------------------------------------------------------------------------------------------ what loads what

HELP = """
import sys
sys.argv = ["autoaccel", "--help"]
from autoaccel.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert not code, code
"""


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import autoaccel", "torch optuna ray timm sklearn scipy rich typer"),
        (HELP, "torch optuna ray timm sklearn scipy"),
        ("import autoaccel.api, autoaccel.tasks.load", "torch torchvision timm pyarrow PIL"),
        ("import autoaccel.search.loop, autoaccel.store.study, autoaccel.report.terminal", "torch timm ray"),
        ("import autoaccel.integrations.optuna", "torch timm ray rich"),
        (
            "import autoaccel.retuning, autoaccel.retune.triggers",
            "torch optuna ray timm sklearn scipy numpy rich typer",
        ),
        ("import autoaccel.execution.local, autoaccel.execution.simulated", "torch optuna ray rich"),
        ("import autoaccel.api, autoaccel.integrations.executors, autoaccel.execution.ray", "torch ray"),
        (
            "import autoaccel.execution.worker",
            "optuna ray rich autoaccel.search autoaccel.store autoaccel.space autoaccel.cost autoaccel.report",
        ),
        (
            "import autoaccel.execution.worker, autoaccel.trainer.run, autoaccel.trainer.preflight",
            "optuna ray rich autoaccel.search autoaccel.store autoaccel.space autoaccel.cost autoaccel.report",
        ),
    ],
    ids=[
        "package",
        "--help",
        "api",
        "tuner",
        "integrations",
        "retuning",
        "executors",
        "where trials run",
        "worker",
        "worker and trainer",
    ],
)
def test_a_fresh_interpreter_loads_no_more_than_it_needs(code: str, forbidden: str) -> None:
    """Contracts do not see what a package's `__init__` loads on the way to a module; `sys.modules` does."""
    last = '\nimport json, sys\nprint("\\n" + json.dumps(list(sys.modules)))'
    run = subprocess.run([sys.executable, "-c", code + last], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    loaded = set(json.loads(run.stdout.splitlines()[-1]))
    assert not loaded & set(forbidden.split())


# ---------------------------------------------------------------------------------------------------------------- sizes


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        name = f"{prefix}{node.name}" if isinstance(node, Function | ast.ClassDef) else prefix
        if isinstance(node, Function):
            yield name, node
        yield from functions(node, f"{name}." if isinstance(node, Function | ast.ClassDef) else prefix)


def body_lines(function: Function) -> int:
    """Lines of the body without the docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", MODULES, ids=list(TREES))
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{path}: open the module with what it is responsible for"
    assert text.count("\n") <= MAX_FILE_LINES, f"{path}: split it along its responsibilities"


def test_functions_are_short() -> None:
    sizes = {f"{path}:{name}": body_lines(f) for path, tree in TREES.items() for name, f in functions(tree)}
    assert sizes.keys() >= LONGER_FUNCTIONS.keys(), "an exception for a function that is gone"
    long = {name: n for name, n in sizes.items() if n > LONGER_FUNCTIONS.get(name, MAX_FUNCTION_LINES)}
    assert not long


# ---------------------------------------------------------------------------------------------------------------- names


def words(name: str) -> list[str]:
    """`LRTable_of_knobs` -> ['lr', 'table', 'of', 'knobs']."""
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def is_forbidden(name: str) -> bool:
    return any(word in FORBIDDEN_WORDS or word.removesuffix("s") in FORBIDDEN_WORDS[:3] for word in words(name))


@pytest.mark.parametrize("name", ["TrialManager", "_signal_handler", "helpers", "utils", "HTTPEngine2", "core"])
def test_the_name_rule_catches(name: str) -> None:
    assert is_forbidden(name)


@pytest.mark.parametrize("name", ["usable_cores", "score", "commonality", "Encore", "contextual"])
def test_the_name_rule_allows(name: str) -> None:
    assert not is_forbidden(name)


def test_names_say_what_a_thing_is() -> None:
    names = {part for path in TREES for part in path.removesuffix(".py").split("/")}
    for tree in TREES.values():
        names |= {n.name for n in ast.walk(tree) if isinstance(n, Function | ast.ClassDef)}
    assert not {name for name in names if is_forbidden(name)}


# -------------------------------------------------------------------------------------------------------------- classes


def base_names(node: ast.ClassDef) -> set[str]:
    """Last parts of the bases: `abc.ABC` and `Generic[T]` are 'ABC' and 'Generic'."""
    plain = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return {ast.unparse(base).rpartition(".")[2] for base in plain}


def concrete_parents(trees: list[ast.Module]) -> list[str]:
    """`child(parent)` for each class of the package that inherits from one of its concrete classes."""
    classes = {n.name: n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    abstract = {name for name, node in classes.items() if base_names(node) & {"ABC", "Protocol"}}
    errors = {"AutoaccelError"}  # an exception's parent is what `except` names
    return [
        f"{name}({parent})"
        for name, node in classes.items()
        for parent in sorted(base_names(node) & (classes.keys() - abstract - errors))
    ]


def test_classes_are_abstract_or_final() -> None:
    assert not concrete_parents(list(TREES.values()))


def test_the_class_rule_catches() -> None:
    text = "class A(ABC): ...\nclass B(A): ...\nclass C(B): ...\nclass AutoaccelError(Exception): ...\n"
    assert concrete_parents([ast.parse(text + "class E(AutoaccelError): ...")]) == ["C(B)"]


# ---------------------------------------------------------------------------------------------------------------- clock


def asked_of_time(tree: ast.Module) -> set[str]:
    """Names of the `time` module that a module uses."""
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "time"}
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "time"]
    return used | {alias.name for node in imports for alias in node.names}


def test_one_clock_and_two_stopwatches() -> None:
    used = {path: asked_of_time(tree) for path, tree in TREES.items() if asked_of_time(tree)}
    assert used.pop("autoaccel/clock.py") >= {"monotonic"}
    assert used.keys() <= set(STOPWATCHES)
    assert set().union(*used.values()) <= {"perf_counter", "perf_counter_ns", "process_time"}


# -------------------------------------------------------------------------------------------------------------- package


def test_the_version_is_the_same_everywhere() -> None:
    import autoaccel

    assert autoaccel.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_public_names_resolve() -> None:
    import autoaccel

    assert [name for name in autoaccel.__all__ if not hasattr(autoaccel, name)] == []
    assert not {*autoaccel.__all__} & {path.parent.name for path in PACKAGE.glob("*/__init__.py")}, "hidden by a folder"
    with pytest.raises(AttributeError, match="no attribute 'tone'"):
        _ = autoaccel.tone  # type: ignore[attr-defined]
