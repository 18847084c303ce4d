"""What `--model` and its options say, in the file, on the command line and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoaccel.errors import UsageError
from autoaccel.tasks.from_data import Description, absolute, chosen_task, described, parsed, reference
from autoaccel.tasks.images import Images
from autoaccel.tasks.load import absolute as absolute_reference
from autoaccel.tasks.load import check_reference, load_task, short_name
from autoaccel.tasks.tables import Table
from autoaccel.tasks.text import Text

RHYME = "the cat sat on the mat; the rat sat on the cat. " * 300


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rhyme.txt").write_text(RHYME)
    return tmp_path


DESCRIPTIONS: list[Description] = [
    Images(model="timm:resnet10t", data=Path("photos")),
    Images(
        model="timm:resnet18.a1_in1k",
        data=Path("a&b ?=%.npz"),
        label="größe",
        image_size=64,
        metric="f1",
        pretrained=True,
    ),
    Text(text=Path("rhyme.txt")),
    Text(text=Path("a b.txt"), context=32, metric="perplexity"),
    Text(text=Path("a b.txt"), weights=Path("a/model.safetensors")),
    Table(table=Path("t.csv"), label="32"),
    Table(table=Path("t.csv"), label="true", metric="auc"),
]


@pytest.mark.parametrize("description", DESCRIPTIONS, ids=lambda d: d.name)
def test_a_description_survives_its_text_form(
    description: Description, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = reference(description)
    whole = absolute(description)
    monkeypatch.chdir("/")
    assert parsed(text) == whole != description
    assert absolute_reference(text) == text
    assert short_name(text) == description.name


def test_the_text_form_can_be_read(here: Path) -> None:
    assert reference(DESCRIPTIONS[0]) == f"timm:resnet10t?data={here}/photos"
    assert reference(DESCRIPTIONS[3]) == f"char-transformer?text={here}/a+b.txt&context=32&metric=perplexity"
    assert absolute_reference("mlp?table=t.csv&label=y") == f"mlp?table={here}/t.csv&label=y"


@pytest.mark.parametrize("text", ["digits", "train.py:task", "package.timm:task", "what?.py:task", "mlps", ""])
def test_other_references_are_left_alone(text: str) -> None:
    assert parsed(text) is None


def test_a_reference_becomes_a_task() -> None:
    check_reference("char-transformer?text=rhyme.txt&context=64&metric=perplexity")
    task = load_task("char-transformer?text=rhyme.txt&context=64&metric=perplexity")
    assert (task.name, task.metric, task.train[0].shape[1]) == ("char-transformer-rhyme", "perplexity", 64)


WRONG = [
    ("timm:resnet18", "--model timm:resnet18 without --data", "train it on"),
    ("mlp", "--model mlp without --table, --label", "train it on"),
    ("mlp?table=t.csv", "--model mlp without --label", "train it on"),
    ("timm:?data=x", "--model timm:: unknown", "timm:resnet18"),
    ("timm:resnet18?data=x&text=y", "--text: not an option of --model timm:resnet18", "It takes --data, --label"),
    ("char-transformer?text=rhyme.txt&contxt=3", "unknown option 'contxt'", "Did you mean 'context'?"),
    ("char-transformer?text=rhyme.txt&context=many", "--context: expected a whole number, got 'many'", "type"),
    ("char-transformer?text=rhyme.txt&context=-5", "--context: expected a whole number, got '-5'", "type"),
    ("char-transformer?text=rhyme.txt&context=1", "--context 1: below 2 symbols", "--context 128"),
    ("char-transformer?text=rhyme.txt&metric=f1", "--metric: expected 'loss', 'perplexity' or 'accuracy'", "loss"),
    ("timm:resnet18?data=x&metric=acuracy", "--metric: expected 'accuracy', 'f1'", "Did you mean 'accuracy'?"),
    ("timm:resnet18?data=x&pretrained=yes", "--pretrained: expected true or false, got 'yes'", "type"),
    ("timm:resnet18?data=x&image_size=0", "--image-size 0: below 1", "--image-size 32"),
    ("timm:resnet18?data=absent", "/absent: no such file or folder", "Check the path"),
    ("char-transformer?text=absent", "/absent: no such file", "Check the path"),
    ("char-transformer?text=rhyme.txt&context=5000", "2 windows of 5000", "shorter --context"),
    ("mlp?table=absent.csv&label=y", "--table absent.csv: no such file", "Check the path"),
]


@pytest.mark.parametrize(("text", "message", "hint"), WRONG, ids=[text for text, _, _ in WRONG])
def test_a_wrong_reference_is_named_without_loading_anything(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_reference(text)
    assert message in caught.value.message and hint in caught.value.hint, str(caught.value)


TEXT = {"model": "char-transformer", "text": Path("rhyme.txt")}
FILE = {"model": "char-transformer", "text": "rhyme.txt", "context": 64}


@pytest.mark.parametrize(
    ("file", "given", "expected"),
    [
        ({}, {}, None),
        ({"task": "digits"}, {}, "digits"),
        ({"task": "digits"}, {"task": "mine.py:task"}, "mine.py:task"),
        ({}, TEXT, Text(text=Path("rhyme.txt"))),
        ({"task": "digits"}, TEXT, Text(text=Path("rhyme.txt"))),
        (FILE, {}, Text(text=Path("rhyme.txt"), context=64)),
        (FILE, {"task": "digits"}, "digits"),
        (FILE, {"context": 32, "metric": "loss"}, Text(text=Path("rhyme.txt"), context=32)),
        (FILE, {"text": Path("other.txt")}, Text(text=Path("other.txt"), context=64)),
        (FILE, {"model": "mlp", "table": "t.csv", "label": "y"}, Table(table=Path("t.csv"), label="y")),
        (
            {"model": "timm:resnet18", "data": "d", "image_size": 32},
            {"model": "timm:resnet10t", "pretrained": None},
            Images(model="timm:resnet10t", data=Path("d"), image_size=32),
        ),
    ],
)
def test_the_command_line_wins_over_the_file(
    file: dict[str, Any], given: dict[str, Any], expected: str | Description | None
) -> None:
    wanted = expected if expected is None or isinstance(expected, str) else reference(expected)
    assert chosen_task({"budget": "1h", **file}, {"target": 0.5, **given}) == wanted


@pytest.mark.parametrize(
    ("file", "given", "message", "hint"),
    [
        ({}, {"task": "digits", "model": "mlp"}, "both the task 'digits' and --model", "one of them"),
        ({"task": "digits", "data": "x"}, {}, "both the task 'digits' and --data", "one of them"),
        ({}, {"data": "x"}, "--data without --model", "Add --model: timm:NAME."),
        ({}, {"text": "x", "context": 3}, "--text, --context without --model", "Add --model: char-transformer."),
        ({}, {"pretrained": True}, "--pretrained without --model", "timm:NAME, char-transformer, mlp"),
        ({"task": "digits"}, {"table": "x"}, "--table without --model", "Add --model: mlp."),
        ({}, {"model": "resnet18", "data": "x"}, "--model resnet18: unknown", "timm:resnet18"),
        ({}, {"model": "char-transfomer"}, "--model char-transfomer: unknown", "Did you mean 'char-transformer'?"),
        (FILE, {"image_size": 32}, "--image-size: not an option of --model char-transformer", "It takes --text"),
    ],
)
def test_what_does_not_go_together_is_refused(
    file: dict[str, Any], given: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        chosen_task(file, given)
    assert message in caught.value.message and hint in caught.value.hint, str(caught.value)


def test_a_value_of_the_wrong_type_is_named_as_the_option_is() -> None:
    with pytest.raises(UsageError, match="--image-size: expected a whole number"):
        described({"model": "timm:resnet18", "data": "x", "image_size": "big"})
