"""Starting weights from a file: whose they may be, and that trainings begin with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.tasks.images import Fitted, image_model
from autoaccel.tasks.tables import table_net
from autoaccel.trainer.build import load_data, new_model
from autoaccel.trainer.checkpoint import save_model
from autoaccel.trainer.preflight import preflight
from autoaccel.trainer.weights import digest_of, read_weights, start_from

Maker = Callable[..., Task]
Weights = dict[str, torch.Tensor]


def net(n_classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_classes))


def trained() -> Weights:
    """Weights that no fresh net has."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in net().state_dict().items()
    }


def are_in(weights: Weights, model: nn.Module) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in weights.items())


# ------------------------------------------------------------------------------------------------------------- the file

FORMS: dict[str, Callable[[Weights], Any]] = {
    "plain": lambda weights: weights,
    "lightning": lambda weights: {"state_dict": {f"model.{k}": v for k, v in weights.items()}, "epoch": 3},
    "loop": lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {"state": {}}},
    "parallel": lambda weights: {f"module.{k}": v for k, v in weights.items()},
    "compiled in parallel": lambda weights: {f"_orig_mod.module.{k}": v for k, v in weights.items()},
    "compiled in Lightning": lambda weights: {"state_dict": {f"model._orig_mod.{k}": v for k, v in weights.items()}},
    "timm": lambda weights: {"state_dict": weights, "args": argparse.Namespace(lr=0.1), "epoch": 3},
    "compiled": lambda weights: {"model": {f"_orig_mod.{k}": v for k, v in weights.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_of_common_loops_are_read(form: str, tmp_path: Path) -> None:
    torch.save(FORMS[form](trained()), tmp_path / "weights.pt")
    assert digest_of(read_weights(tmp_path / "weights.pt")) == digest_of(trained())


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "weights.safetensors")
    assert digest_of(read_weights(tmp_path / "weights.safetensors")) == digest_of(trained())


class Code:
    """Something that a file of weights must not run."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2], Code()])
def test_a_file_without_weights_is_refused(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "weights.pt")
    with pytest.raises(UsageError, match=r"no state dict|cannot be read"):
        read_weights(Path("weights.pt"))
    assert not Path("executed").exists()


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="cannot be read"):
        read_weights(tmp_path / "weights.safetensors")
    with pytest.raises(UsageError, match="no such file"):
        read_weights(tmp_path / "none.pt")


# ------------------------------------------------------------------------------------------------------------ the model


def test_all_weights_are_put_into_the_model() -> None:
    model = net()
    start_from(model, trained())
    assert are_in(trained(), model)


def test_a_head_for_other_classes_begins_anew() -> None:
    model = net(5)
    before = model[3].weight.clone()
    start_from(model, trained())
    assert are_in({k: v for k, v in trained().items() if not k.startswith("3.")}, model)
    assert torch.equal(model[3].weight, before)


def test_a_wrapped_model_takes_the_weights_of_what_is_inside() -> None:
    model = nn.Sequential()
    model.add_module("net", net())
    start_from(model, trained())
    assert are_in({f"net.{k}": v for k, v in trained().items()}, model)


def test_more_than_the_model_has_is_left_out_and_counts_of_steps_may_lack() -> None:
    model, counts = net(), "1.num_batches_tracked"
    given = {k: v for k, v in trained().items() if k != counts} | {"extra.weight": torch.ones(3)}
    start_from(model, given)
    assert are_in({k: v for k, v in trained().items() if k != counts}, model)


def test_tied_weights_may_be_in_the_file_once(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False))
        model[2].weight = model[0].weight
        return model

    first, second = tied(), tied()
    start_from(second, read_weights(save_model(tmp_path, first)))
    assert are_in(first.state_dict(), second)


def test_a_timm_model_for_other_classes_takes_timms_weights() -> None:
    timm = pytest.importorskip("timm")
    weights = timm.create_model("test_resnet", num_classes=7).state_dict()
    model = image_model(Fitted("test_resnet", 3, 3, (32, 32)), [100.0] * 3, [50.0] * 3)
    start_from(model, weights)
    body = {f"net.{name}": tensor for name, tensor in weights.items() if not name.startswith("fc.")}
    assert are_in(body, model) and model.net.fc.weight.shape[0] == 3


def test_what_says_something_of_the_data_stays_the_models_own() -> None:
    """The first row of each categorical column, in a table of other categories."""
    before, model = table_net(2, [2, 3], 2), table_net(2, [3, 4], 2)
    first = model.first.clone()
    start_from(model, before.state_dict())
    assert torch.equal(model.first, first)


@pytest.mark.parametrize("other", [nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3)), nn.Conv2d(3, 3, 3)])
def test_weights_of_another_model_are_refused(other: nn.Module) -> None:
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(UsageError, match="another model"):
        start_from(other, trained())
    assert are_in(before, other)


# --------------------------------------------------------------------------------------------------------- the training


def test_a_task_starts_from_its_weights(tmp_path: Path, make_task: Maker) -> None:
    save_file(trained(), tmp_path / "weights.safetensors")
    task = make_task(model=net, weights=tmp_path / "weights.safetensors")
    assert are_in(trained(), new_model(load_data(task, torch.device("cpu"))))


def test_other_weights_are_another_task_and_model_init_would_undo_them(tmp_path: Path, make_task: Maker) -> None:
    save_file(trained(), tmp_path / "one.safetensors")
    save_file({k: v * 2 for k, v in trained().items()}, tmp_path / "other.safetensors")
    files = [None, tmp_path / "one.safetensors", tmp_path / "other.safetensors"]
    none, one, other = (preflight(make_task(model=net, weights=file))[1] for file in files)
    assert len({told["model_digest"] for told in (none, one, other)}) == 3
    reasons = [row["reason"] for row in one["unavailable"] if row["path"] == "model.init"]
    assert any("would undo them" in reason for reason in reasons)


def test_wrong_weights_are_found_before_any_training(tmp_path: Path, make_task: Maker) -> None:
    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    for file, words in (("other.safetensors", "another model"), ("none.pt", "no such file")):
        with pytest.raises(UsageError, match=words):
            preflight(make_task(model=net, weights=str(tmp_path / file)))
    with pytest.raises(UsageError, match="is no path"):
        make_task(weights=3)
