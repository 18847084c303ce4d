"""The README tells the truth: its tree is the real tree, its Python is valid, its commands exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import autoaccel
from autoaccel.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def _tree() -> set[str]:
    block = README.split("## Where everything lives")[1].split("\n\n")[1]
    return {name for line in block.splitlines() for name in re.findall(r"[\w/.]+(?:\.py|\.md|/)(?=\s|$)", line)}


def test_every_entry_of_the_tree_exists() -> None:
    for name in _tree():
        assert (ROOT / name).exists() or (ROOT / "autoaccel" / name).exists(), name


def test_every_module_and_folder_of_the_package_is_in_the_tree() -> None:
    package = ROOT / "autoaccel"
    found = {p.name for p in package.glob("*.py")} | {f"{p.parent.name}/" for p in package.glob("*/__init__.py")}
    assert found <= _tree()


def test_python_blocks_are_valid_and_use_public_names() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "autoaccel":
                assert node.attr in autoaccel.__all__


def test_commands_in_the_readme_exist() -> None:
    verbs = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert verbs == {"tune", "train", "profile", "status", "doctor", "retune", "schedule"}
    named = set(re.findall(r"^ +(?:\.venv/bin/)?autoaccel (\w+)", README, re.MULTILINE))
    assert named and named <= verbs
