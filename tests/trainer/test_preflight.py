"""What is wrong with a task is said before any trial, all at once; what is right, of every kind, passes and trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig, from_dict, keras_recipe, with_params
from autoaccel.errors import UsageError
from autoaccel.fingerprint import task_fingerprint
from autoaccel.tasks.base import Task
from autoaccel.tasks.digits import digits
from autoaccel.trainer.preflight import preflight
from autoaccel.trial import Target

MakeTask = Callable[..., Task]
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
BINARY = Y % 2
TOKENS = torch.randint(7, (24, 6), generator=torch.Generator().manual_seed(0))


def changed(data: torch.Tensor, value: float, *rows: int) -> torch.Tensor:
    out = data.clone()
    out[list(rows)] = torch.tensor(value, dtype=data.dtype)
    return out


def net(n_out: int = 3) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, n_out))


def frozen() -> nn.Module:
    return net()().requires_grad_(False)


class Shaky(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A little different each time, so that it is read sample by sample."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return X[i] + 1e-6 * torch.rand(()), Y[i]


class Returning(nn.Module):
    """A model whose output is what a function makes of a linear layer's."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(6, 3), change

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(self.layer(x))


def returning(change: Callable[[torch.Tensor], Any]) -> Callable[[], nn.Module]:
    return lambda: Returning(change)


def step_with(**values: Any) -> Callable[..., dict[str, Any]]:
    """A step whose result has some keys replaced; None removes one."""

    def step(model: nn.Module, batch: Any) -> dict[str, Any]:
        found = {"outputs": model(batch[0]), "targets": batch[1], **values}
        return {key: value for key, value in found.items() if value is not None}

    return step


def fail(*_: Any) -> Any:
    raise KeyError("weights.pt")


SHARED = net()()

# ---------------------------------------------------------------------------------------------------------- wrong tasks

WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "empty": ({"train": (X[:0], Y[:0])}, ["train data: empty (0 samples)", "at least one sample"]),
    "empty validation": ({"validation": (X[:0], Y[:0])}, ["validation data: empty"]),
    "one class": ({"train": (X, Y * 0)}, ["train targets: only one class (0)", "at least two"]),
    "one class in validation": ({"validation": (X, Y * 0 + 2)}, ["validation targets: only one class (2)"]),
    "one class, one logit": (
        {"model": net(1), "train": (X, torch.ones(24)), "loss": "binary_cross_entropy"},
        ["train targets: only one class (1)"],
    ),
    "label too large": (
        {"train": (X, changed(Y, 3, 7, 9))},
        ["train labels out of range: 2 outside 0..2", "max 3", "first: 3 at 7, 3 at 9", "has 3 outputs"],
    ),
    "labels from 1": ({"train": (X, Y + 1)}, ["train labels out of range: 8 outside 0..2", "classes count from 0"]),
    "negative label": ({"validation": (X, changed(Y, -1, 4))}, ["validation labels out of range: 1", "first: -1 at 4"]),
    "ignored label": ({"train": (X, changed(Y, -100, 0))}, ["-100 at 0", "'loss' and 'n'"]),
    "test label": ({"test": (X, changed(Y, 5, 1))}, ["test labels out of range: 1 outside 0..2"]),
    "token out of range": (
        {"model": lambda: nn.Embedding(7, 7), "train": (TOKENS, changed(TOKENS, 9, 3)), "metric": "perplexity"},
        ["train labels out of range: 6 outside 0..6"],
    ),
    "no zero or one": (
        {"model": net(1), "train": (X, Y), "loss": "binary_cross_entropy"},
        ["train targets: values from 0 to 2", "needs 0 and 1"],
    ),
    "float labels": ({"train": (X, Y.float())}, ["train targets: torch.float32 labels", "integer classes"]),
    "NaN": ({"train": (changed(X, np.nan, 2, 5), Y)}, ["train inputs: NaN or infinite values in 2 samples", "2, 5"]),
    "infinity": ({"test": (changed(X, np.inf, 1), Y)}, ["test inputs: NaN or infinite values in 1 samples"]),
    "NaN in a dict": (
        {"train": {"x": changed(X, np.nan, 0), "y": Y}, "step": step_with()},
        ["train 'x': NaN or infinite values in 1 samples"],
    ),
    "lengths": ({"train": (X, Y[:9])}, ["train data: lengths differ: [24, 9]"]),
    "column of labels": (
        {"train": (X, Y[:, None])},
        ["outputs of shape (2, 3) do not fit targets of shape (2, 1)", "Squeeze the targets"],
    ),
    "shape": ({"model": net(2), "loss": "mse", "metric": "loss"}, ["outputs of shape (2, 2) do not fit targets of"]),
    "transposed": (
        {"model": returning(lambda out: out[:, None].expand(-1, 2, -1)), "train": (X, torch.zeros(24, 3, 2))}
        | {"loss": "mse", "metric": "loss"},
        ["outputs of shape (2, 2, 3) do not fit targets of shape (2, 3, 2)"],
    ),
    "inputs of another width": (
        {"train": (X[:, :4], Y)},
        ["the model failed on inputs float32 (2, 4), targets int64 (2,): RuntimeError", "shapes cannot be multiplied"],
    ),
    "uint8 inputs": (
        {"train": ((X * 10).to(torch.uint8).numpy(), Y)},
        ["inputs uint8 (2, 6)", "The inputs are torch.uint8, as given: convert or scale them"],
    ),
    "no parameters": ({"model": nn.ReLU}, ["the model has no parameters"]),
    "all frozen": ({"model": frozen}, ["no trainable parameters: all 4 have requires_grad=False"]),
    "no module": ({"model": lambda: "resnet"}, ["model() returned a str", "torch.nn.Module"]),
    "model fails": ({"model": fail}, ["building the model failed: KeyError: 'weights.pt' (test_preflight.py:"]),
    "the same model twice": ({"model": lambda: SHARED}, ["same parameters twice", "inside the function"]),
    "model returns a tuple": ({"model": returning(lambda out: (out,))}, ["the model returns a tuple", "Add step="]),
    "model returns a dict": ({"model": returning(lambda out: {"logits": out})}, ["the model returns a dict"]),
    "dict batch without step": ({"train": {"x": X, "y": Y}}, ["a batch is a dict with ['x', 'y']", "Add step="]),
    "three columns": ({"train": (X, X, Y)}, ["a batch is a tuple of 3, not (inputs, targets)"]),
    "loss not scalar": (
        {"loss": lambda out, y: nn.functional.cross_entropy(out, y, reduction="none")},
        ["the loss is of shape (2,), not a scalar", "mean over the batch"],
    ),
    "loss a float": ({"loss": lambda out, y: 1.5}, ["the loss is a float, not a scalar tensor"]),
    "loss without gradient": ({"loss": lambda out, y: out.detach().sum()}, ["the loss has no gradient"]),
    "outputs without gradient": ({"model": returning(torch.detach)}, ["the loss has no gradient"]),
    "loss NaN": ({"loss": lambda out, y: (out - 1e9).log().sum()}, ["the first loss is nan"]),
    "loss fails": ({"loss": lambda out, y: fail()}, ["the loss failed on inputs", "KeyError: 'weights.pt' (test_pre"]),
    "step returns a tensor": ({"step": lambda model, batch: model(batch[0])}, ["step returns a Tensor, not a dict"]),
    "step without targets": (
        {"step": step_with(targets=None)},
        ["step returns no tensor 'targets'; keys: ['outputs']"],
    ),
    "step with a list": ({"step": step_with(outputs=[1])}, ["step returns no tensor 'outputs' (list)"]),
    "step fails": ({"step": fail}, ["step failed on inputs float32 (2, 6)", "KeyError"]),
    "metric fails": ({"metric": fail, "direction": "max"}, ["the metric failed: KeyError: 'weights.pt'"]),
    "metric returns nothing": ({"metric": lambda out, y: None, "direction": "max"}, ["the metric failed: TypeError"]),
    "metric NaN": ({"metric": lambda out, y: np.nan, "direction": "max"}, ["the metric is nan"]),
    "class absent for AUC": (
        {"metric": "auc", "validation": (X, Y.clamp(max=1))},
        ["validation targets: class 2 never occurs", "auc needs every class"],
    ),
    "class absent for AUC in the test set": (
        {"metric": "auc", "test": (X, Y.clamp(min=1))},
        ["test targets: class 0 never occurs"],
    ),
    "class absent for AUC of one logit": (
        {"model": net(1), "loss": "binary_cross_entropy", "metric": "auc", "train": (X, BINARY)}
        | {"validation": (X, BINARY), "test": (X, BINARY * 0)},
        ["test targets: class 1 never occurs"],
    ),
    "class absent for AUC through step": (
        {"metric": "auc", "validation": (X, Y.clamp(max=1)), "step": step_with()},
        ["metric auc: class 2 never occurs among the targets"],
    ),
    "balanced without labels": (
        {"model": net(1), "train": (X, X[:, 0]), "loss": "mse", "metric": "loss"}
        | {"baseline": with_params(TrainerConfig(), {"data.sampling": "class_balanced"})},
        ["class_balanced", "one integer label per sample"],
    ),
    "smoothing without cross-entropy": (
        {"model": net(1), "train": (X, X[:, 0]), "loss": "mse", "metric": "loss"}
        | {"baseline": with_params(TrainerConfig(), {"regularize.label_smoothing": 0.1})},
        ["regularize.label_smoothing 0.1: it needs the cross_entropy loss", "Set regularize.label_smoothing to 0"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_task_is_refused_with_what_where_and_how_to_fix_it(make_task: MakeTask, case: str) -> None:
    changes, fragments = WRONG[case]
    given = {"model": net(), "train": (X, Y), "validation": (X, Y)}
    if "train" in changes and "validation" not in changes and case not in ("empty", "NaN", "NaN in a dict"):
        given["validation"] = changes["train"]
    with pytest.raises(UsageError) as caught:
        preflight(make_task(**{**given, **changes}))
    assert caught.value.message.startswith("task 'toy': ")
    assert caught.value.hint
    text = str(caught.value)
    assert [fragment for fragment in fragments if fragment not in text] == [], text


def test_all_problems_are_said_at_once(make_task: MakeTask) -> None:
    task = make_task(
        model=net(),
        train=(changed(X, np.nan, 3), changed(Y, 8, 4)),
        validation=(X, Y * 0),
        test=(changed(X, np.inf, 5), changed(Y, -2, 6)),
    )
    with pytest.raises(UsageError) as caught:
        preflight(task)
    lines = caught.value.message.splitlines()
    assert lines[0] == "task 'toy': 5 problems"
    assert [line.strip().split(":")[0] for line in lines[1:]] == [
        "train inputs",
        "validation targets",
        "test inputs",
        "train labels out of range",
        "test labels out of range",
    ]


def test_all_splits_that_cannot_be_read_are_said_at_once(make_task: MakeTask) -> None:
    with pytest.raises(UsageError) as caught:
        preflight(make_task(train=(X, Y[:3]), validation=None, test=(X[:0], Y[:0])))
    text = caught.value.message
    assert "3 problems" in text
    assert all(part in text for part in ("train data: lengths", "validation data: a NoneType", "test data: empty"))


def test_a_broken_model_does_not_hide_broken_data(make_task: MakeTask) -> None:
    with pytest.raises(UsageError, match=r"2 problems\n  train inputs: NaN(.|\n)*no parameters"):
        preflight(make_task(model=nn.ReLU, train=(changed(X, np.nan, 3), Y)))


def test_a_step_out_of_memory_says_what_to_change(make_task: MakeTask) -> None:
    def too_large(out: torch.Tensor) -> torch.Tensor:
        return out if len(out) <= 2 else out + torch.empty(2**55)

    own = with_params(TrainerConfig(), {"batch.size": 24})
    with pytest.raises(UsageError, match="a training step ran out of memory") as caught:
        preflight(make_task(model=returning(too_large), baseline=own))
    assert "larger batch.accumulation" in caught.value.hint


def test_the_default_recipe_is_tried_in_smaller_micro_batches_where_it_does_not_fit(make_task: MakeTask) -> None:
    def too_large(out: torch.Tensor) -> torch.Tensor:
        return out if len(out) <= 10 else out + torch.empty(2**55)

    facts = preflight(make_task(model=returning(too_large)))[1]
    baseline, plain = from_dict(facts["baseline"]), keras_recipe(facts["n_train"])
    assert (baseline.batch.size, baseline.batch.micro, baseline.evaluate.batch) == (plain.batch.size, 6, 6)
    assert baseline.horizon == plain.horizon


def test_evaluations_are_tried_in_smaller_batches_where_they_do_not_fit(make_task: MakeTask) -> None:
    class Large(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if self.training or len(x) <= 10 else x + torch.empty(2**55)

    own = with_params(TrainerConfig(), {"batch.size": 8})
    facts = preflight(make_task(model=lambda: Large(X.shape[1], 3), baseline=own))[1]
    assert from_dict(facts["baseline"]) == with_params(own, {"evaluate.batch": 8})


# ---------------------------------------------------------------------------------------------------------- right tasks


class Sequences(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Dict samples, as text data comes."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"ids": TOKENS[i], "weight": 1.0 + i % 2, "labels": int(Y[i])}


class Tagger(nn.Module):
    """Its output is a tuple: hidden states and class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.embed(ids).mean(1)
        return hidden, self.head(hidden)


def tuple_step(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"outputs": model(batch["ids"])[1], "targets": batch["labels"]}


def weighted_step(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    found = tuple_step(model, batch)
    losses = nn.functional.cross_entropy(found["outputs"], found["targets"], reduction="none")
    weight = batch["weight"].sum()
    return {**found, "loss": (losses * batch["weight"]).sum() / weight, "n": weight}


class Augmented(Sequences):
    def __getitem__(self, i: int) -> Any:
        return X[i] + torch.randn(6), Y[i]


def distance(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(-1) - targets).abs().float().mean())


SEQUENCES = {"model": Tagger, "train": Sequences(), "validation": Sequences()}
LANGUAGE = {
    "model": lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)),
    "train": (TOKENS, TOKENS),
    "validation": (TOKENS, TOKENS),
}
ONE_LOGIT = {"model": net(1), "loss": "binary_cross_entropy", "train": (X, BINARY), "validation": (X, BINARY)}

RIGHT: dict[str, dict[str, Any]] = {
    "tensors": {},
    "arrays": {"train": (X.double().numpy(), Y.numpy().astype(np.uint8)), "validation": (X.numpy(), Y.int().numpy())},
    "small integer labels": {"train": (X, Y.to(torch.int32)), "validation": (X, Y.to(torch.uint8))},
    "dict samples, tuple outputs": {**SEQUENCES, "step": tuple_step, "metric": "f1"},
    "a loss of its own": {**SEQUENCES, "step": weighted_step, "metric": "loss"},
    "sequence targets": {**LANGUAGE, "metric": "perplexity"},
    "small integer tokens": {**LANGUAGE, "train": (TOKENS, TOKENS.to(torch.uint8)), "metric": "perplexity"},
    "f1": {"metric": "f1"},
    "f1 of two classes": {"model": net(2), "train": (X, BINARY), "validation": (X, BINARY), "metric": "f1"},
    "f1 of one logit": {**ONE_LOGIT, "metric": "f1"},
    "auc": {"metric": "auc"},
    "auc of one logit": {**ONE_LOGIT, "metric": "auc"},
    "auc of sorted classes": {"metric": "auc", "validation": (X.repeat(40, 1), Y.repeat(40).sort().values)},
    "a function as metric": {"metric": distance, "direction": "min"},
    "a function as loss": {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
    "regression": {"model": net(1), "train": (X, Y), "validation": (X, Y), "loss": "mse", "metric": "loss"},
    "augmented": {"train": Augmented()},
    "segmentation": {
        "model": lambda: nn.Conv2d(1, 3, 1),
        "train": (torch.randn(8, 1, 5, 6), torch.arange(240).reshape(8, 5, 6) % 3),
        "validation": (torch.randn(8, 1, 5, 6), torch.arange(240).reshape(8, 5, 6) % 3),
    },
    "classes that do not all occur": {"model": net(9), "train": (X, Y * 4), "validation": (X, Y * 3)},
    "two samples": {"train": (X[:2], Y[:2]), "validation": (X[:2], Y[:2])},
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_task_of_any_kind_passes_and_trains(make_task: MakeTask, run: Callable[..., Any], case: str) -> None:
    task = make_task(**{"model": net(), "train": (X, Y), "validation": (X, Y), **RIGHT[case]})
    loaded, facts = preflight(task)
    assert from_dict(json.loads(json.dumps(facts, allow_nan=False))["baseline"]) == keras_recipe(loaded.train.n)
    assert facts["resident"] == (case != "augmented")
    assert facts["flops_per_sample"] > 0
    assert facts["rough_step_s"] > 0 < facts["rough_evaluation_s"]
    params = {"batch.accumulation": 2, "evaluate.every_samples": 240, "horizon.samples": 480}
    absent = {row["path"] for row in facts["unavailable"]}
    unusable = [value for row in facts["unavailable"] if row["path"] == "data.sampling" for value in row["values"]]
    if "class_balanced" not in unusable:
        params |= {"data.sampling": "class_balanced"}
    if "regularize.label_smoothing" not in absent:
        params |= {"regularize.label_smoothing": 0.1}
    goal = Target(1e9 if facts["direction"] == "min" else 1e-9, facts["direction"], f"my {facts['metric']}")
    unreachable = Target(-1e9 if facts["direction"] == "min" else 1e9, facts["direction"], f"my {facts['metric']}")
    assert run(params, loaded, target=goal).ended.outcome in ("hit", "missed")
    missed = run(params, loaded, target=unreachable)
    assert (missed.ended.outcome, len(missed.reports)) == ("missed", 2)
    assert missed.reports[-1].loss < 10


def test_facts_say_what_a_task_can_use(make_task: MakeTask) -> None:
    given = {"model": net(), "train": (X, Y), "validation": (X, Y)}
    _, plain = preflight(make_task(**given))
    _, stepped = preflight(make_task(**SEQUENCES, step=tuple_step))
    _, own = preflight(make_task(**SEQUENCES, step=weighted_step))
    _, streamed = preflight(make_task(**{**given, "train": Augmented()}))
    rows = [[(row["path"], row["values"]) for row in f["unavailable"]] for f in (plain, stepped, own, streamed)]
    smoothing, balanced = ("regularize.label_smoothing", None), ("data.sampling", ["class_balanced"])
    assert [smoothing in found for found in rows] == [False, False, True, False]
    assert [balanced in found for found in rows] == [False, False, False, True]


def test_what_makes_it_the_same_task(make_task: MakeTask) -> None:
    def found(**changed: Any) -> str:
        facts = preflight(make_task(**{"model": net(), "train": (X, Y), "validation": (X, Y), **changed}))[1]
        return task_fingerprint(json.loads(json.dumps(facts)))

    mine = with_params(TrainerConfig(), {"optim.name": "sgd"})
    assert found() == found() == found(target=0.5) == found(baseline=mine) == found(test=(X, Y))
    others = [
        found(train=(X + 0.1, Y)),
        found(train=(X, Y.roll(1))),
        found(validation=(X * 2, Y)),
        found(train=(X[:-1], Y[:-1])),
        found(metric="f1"),
        found(model=net(9)),
        found(name="another"),
        found(train=Augmented()),
    ]
    assert len({found(), *others}) == 1 + len(others)
    assert found(train=Augmented()) == others[-1], "what an augmentation makes of a sample is chance"


def test_a_setting_without_effect_is_refused(make_task: MakeTask, run: Callable[..., Any]) -> None:
    loaded, _ = preflight(make_task(**SEQUENCES, step=weighted_step))
    with pytest.raises(UsageError, match=r"label_smoothing 0\.1: it needs the cross_entropy loss"):
        run({"regularize.label_smoothing": 0.1}, loaded)


def test_facts_of_the_digits_task() -> None:
    loaded, facts = preflight(digits())
    expected = {"n_train": 1077, "n_validation": 360, "n_test": 360, "n_parameters": 21386, "resident": True}
    assert {key: facts[key] for key in expected} == expected
    assert facts["evaluation_flops"] == 631_808 * 360
    assert loaded.flops_per_sample == 1_858_560


def test_the_users_baseline_is_kept(make_task: MakeTask) -> None:
    mine = with_params(TrainerConfig(), {"optim.name": "sgd"})
    _, facts = preflight(make_task(baseline=mine))
    assert from_dict(facts["baseline"]) == mine
    assert facts["baseline_is_users"]


CODE = """
import sys
from autoaccel.config import TrainerConfig, with_params
from autoaccel.tasks.digits import digits
from autoaccel.trainer.preflight import preflight
from autoaccel.trainer.run import run_training
from autoaccel.trial import TrialSpec
loaded, _ = preflight(digits())
for name in ("adamw", "sgd"):
    config = with_params(TrainerConfig(), {"optim.name": name, "horizon.samples": 256})
    ended, _ = run_training(loaded, TrialSpec(1, "train", config), report=lambda r: None)
    assert ended.outcome == "finished", ended
print("torch._dynamo" in sys.modules)
"""


def test_training_does_not_load_the_compiler() -> None:
    """1.2 s of every process that torch would spend on its own; see `build.spare_compiler`."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


def test_a_baseline_that_reads_ahead_is_tried_and_leaves_no_process(make_task: MakeTask) -> None:
    """Its processes have the batches of the baseline alone, not the small one that is tried first."""
    before = set(psutil.Process().children(recursive=True))
    baseline = with_params(TrainerConfig(), {"loader.workers": 1, "batch.size": 8, "batch.accumulation": 2})
    _, facts = preflight(make_task(model=net(), train=Shaky(), validation=(X, Y), baseline=baseline))
    assert facts["rough_step_s"] > 0 and not facts["resident"]
    assert set(psutil.Process().children(recursive=True)) <= before
