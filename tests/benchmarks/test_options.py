"""The options that benchmarks share."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.options import parser, parts_folder


def test_a_benchmark_that_keeps_nothing_has_nothing_to_forget() -> None:
    shared = {"quick": True, "json": False, "fresh": False, "summary_only": True}
    assert vars(parser("name", None, quick="fewer").parse_args(["--quick", "--summary-only"])) == shared
    plain = parser("name", None, quick="fewer", keeps=False)
    assert vars(plain.parse_args(["--json"])) == {"quick": False, "json": True}
    with pytest.raises(SystemExit):
        plain.parse_args(["--fresh"])


def test_the_quick_form_has_a_folder_of_its_own_and_fresh_empties_one(tmp_path: Path) -> None:
    folders = [parts_folder(tmp_path, quick=quick, fresh=False) for quick in (False, True)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "part.json").write_text("{}")
    assert parts_folder(tmp_path, quick=True, fresh=True) == folders[1]
    assert (folders[0] / "part.json").exists() and not folders[1].exists()
