"""Checkpoints: a stopped training goes on as if it had not been stopped; no damaged file is believed or executed."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoaccel.errors import AutoaccelError, EnvironmentFaultError, UsageError
from autoaccel.trainer.checkpoint import MANIFEST, save_model
from autoaccel.trainer.parts import LoadedTask
from tests.trainer.nets import images, residual_net

Runner = Callable[..., Any]
Loader = Callable[..., LoadedTask]


class Augmented(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Reads differently each time, from all three generators."""

    def __init__(self, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.inputs, self.labels = pair

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        scale = 1 + 0.1 * random.random() + 0.1 * np.random.rand() + 0.1 * torch.rand(())
        return self.inputs[i] * scale, self.labels[i]


def batch_norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def stop_after(n: int) -> Callable[[], bool]:
    answers = iter([False] * (n - 1) + [True])
    return lambda: next(answers)


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 11])
@pytest.mark.parametrize(
    "kind", ["adamw", "sgd balanced", "augmented", "augmented by workers", "fp16", "disk", "freeze", "images"]
)
def test_a_stopped_training_goes_on_bit_for_bit(
    run: Runner, load: Loader, tmp_path: Path, steps: int, kind: str
) -> None:
    params = {"seed": 3, "schedule.name": "linear"}
    if kind == "sgd balanced":
        params |= {"optim.name": "sgd", "data.sampling": "class_balanced", "batch.accumulation": 2}
    params |= {
        "fp16": {"precision.dtype": "fp16"},
        "disk": {"memory.offload": "disk"},
        "freeze": {"model.freeze": 0.9, "regularize.dropout": 0.5},
        "images": {"model.init": "whitening", "memory.format": "channels_last", "memory.checkpointing": "full"},
        "augmented by workers": {"loader.workers": 2, "batch.accumulation": 2},
    }.get(kind, {})
    streamed, plain = "augmented" in kind, load(model=batch_norm_net)
    if kind == "images":
        plain = load(model=residual_net, train=images(96, 1), validation=images(30, 2))
    loaded = load(model=batch_norm_net, train=Augmented(plain.train.tensors)) if streamed else plain
    assert (loaded.train.tensors is None) == streamed
    whole = run(params, loaded)
    stopped = run(params, loaded, folder=tmp_path, stopped=stop_after(steps))
    assert (stopped.ended.outcome, stopped.ended.steps) == ("stopped", steps)
    resumed = run(params, loaded, folder=tmp_path, resume=True)
    assert resumed.ended.outcome == "finished"
    assert resumed.ended.elapsed_s > stopped.ended.elapsed_s
    assert (resumed.ended.steps, resumed.ended.flops) == (whole.ended.steps, whole.ended.flops)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert resumed.ended.value == whole.ended.value
    values = [r.value for r in (*stopped.reports, *resumed.reports)]
    assert values == [r.value for r in whole.reports]


def test_one_checkpoint_is_kept_and_no_temporary_file(run: Runner, tmp_path: Path) -> None:
    run(folder=tmp_path)
    state = json.loads((tmp_path / MANIFEST).read_text())["file"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([MANIFEST, state])


def test_a_finished_training_has_nothing_left_to_do(run: Runner, tmp_path: Path) -> None:
    first, again = run(folder=tmp_path), run(folder=tmp_path, resume=True)
    assert again.reports == []
    assert torch.equal(first.weights, again.weights)
    assert again.ended.value == first.ended.value


# -------------------------------------------------------------------------------------------------------------- damage


class Evil:
    """Would create a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def state_file(folder: Path) -> Path:
    return folder / json.loads((folder / MANIFEST).read_text())["file"]


def flip_byte(folder: Path) -> None:
    raw = bytearray(state_file(folder).read_bytes())
    raw[len(raw) // 2] ^= 1
    state_file(folder).write_bytes(raw)


def truncate(folder: Path) -> None:
    state_file(folder).write_bytes(state_file(folder).read_bytes()[:-100])


def remove(folder: Path) -> None:
    state_file(folder).unlink()


def write_state(folder: Path, raw: bytes) -> None:
    """Another content whose digest is right."""
    state_file(folder).write_bytes(raw)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": hashlib.sha256(raw).hexdigest()}))


def pickle_payload(folder: Path) -> None:
    write_state(folder, pickle.dumps(Evil(folder / "executed")))


def torch_payload(folder: Path) -> None:
    torch.save({"model": Evil(folder / "executed")}, folder / "evil")
    write_state(folder, (folder / "evil").read_bytes())


def other_content(folder: Path) -> None:
    torch.save([1, 2], folder / "list")
    write_state(folder, (folder / "list").read_bytes())


def edit_manifest(**values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, **values}))

    return edit


def write_manifest(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / MANIFEST).write_text(text)


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (flip_byte, EnvironmentFaultError, "damaged"),
        (truncate, EnvironmentFaultError, "damaged"),
        (remove, EnvironmentFaultError, "no readable checkpoint"),
        (pickle_payload, EnvironmentFaultError, "not a checkpoint"),
        (torch_payload, EnvironmentFaultError, "not a checkpoint"),
        (other_content, EnvironmentFaultError, "not a checkpoint"),
        (write_manifest("{"), EnvironmentFaultError, "no readable checkpoint"),
        (write_manifest("[]"), EnvironmentFaultError, "no readable checkpoint"),
        (write_manifest("{}"), EnvironmentFaultError, "no readable checkpoint"),
        (edit_manifest(file="../elsewhere"), EnvironmentFaultError, "no readable checkpoint"),
        (edit_manifest(config="another"), UsageError, "another config or seed"),
        (edit_manifest(seed=7), UsageError, "another config or seed"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_not_executed(
    run: Runner, tmp_path: Path, damage: Callable[[Path], object], kind: type[AutoaccelError], message: str
) -> None:
    run(folder=tmp_path, stopped=stop_after(5))
    damage(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        run(folder=tmp_path, resume=True)
    assert caught.value.hint
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_another_model_is_refused(run: Runner, load: Loader, tmp_path: Path) -> None:
    run(folder=tmp_path, stopped=stop_after(5))
    with pytest.raises(UsageError, match="belongs to another model"):
        run(loaded=load(model=lambda: nn.Linear(6, 3)), folder=tmp_path, resume=True)


def test_there_has_to_be_a_checkpoint_to_resume(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFaultError, match="no readable checkpoint"):
        run(folder=tmp_path, resume=True)


def test_a_checkpoint_that_cannot_be_written_is_no_crash_of_the_training(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFaultError, match="cannot be written"):
        run(folder=tmp_path / "missing")


def test_weights_are_written_as_safetensors(run: Runner, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    done = run()
    stored = load_file(save_model(tmp_path, done.model))
    assert all(torch.equal(stored[name], value) for name, value in done.model.state_dict().items())
