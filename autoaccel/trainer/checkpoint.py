"""Checkpoints of one training: all that is needed to go on, checked by SHA-256 before it is read.

Only tensors and plain values are stored, and only those are loaded. Must not know the loop.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoaccel.errors import EnvironmentFaultError, UsageError
from autoaccel.trainer.loop import Progress
from autoaccel.trainer.parts import Parts, Stateful

STATE, MANIFEST, MODEL = "checkpoint.pt", "checkpoint.json", "model.safetensors"


def save_checkpoint(folder: Path, parts: Parts, at: Progress) -> None:
    """Write the state, then the manifest that makes it valid: killed in between, the earlier checkpoint stays valid.

    All processes of a team have to ask; the leader writes.

    Raises:
        EnvironmentFaultError: the disk is full or read-only.
    """
    states = {name: part.state_dict() for name, part in _stateful(parts)}
    random_states = parts.spread.team.gathered(_random_state())
    if parts.spread.team.rank:
        return
    state = {"parts": states, "random": random_states, "progress": asdict(at)}
    temporary = folder / (STATE + ".tmp")
    try:
        torch.save(state, temporary)
        sha = _sha256(temporary)
        target = folder / f"{sha[:12]}-{STATE}"
        os.replace(temporary, target)
        manifest = folder / (MANIFEST + ".tmp")
        body = {"file": target.name, "sha256": sha, "config": parts.config.identity, "seed": parts.config.seed}
        manifest.write_text(json.dumps(body))
        os.replace(manifest, folder / MANIFEST)
        for old in folder.glob(f"*-{STATE}"):
            if old != target:
                old.unlink()
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise EnvironmentFaultError(
            f"{folder}: the checkpoint cannot be written ({error})", "Free disk space, then --resume."
        ) from error


def load_checkpoint(folder: Path, parts: Parts) -> Progress:
    """Put a checkpoint's state into `parts`; returns where the training was.

    Raises:
        EnvironmentFaultError: missing or damaged.
        UsageError: written by another config or for another model.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        file = folder / Path(manifest["file"]).name
        damaged = _sha256(file) != manifest["sha256"]
        written_by = (manifest["config"], manifest["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentFaultError(f"{folder}: no readable checkpoint ({error})", "Train without --resume.") from error
    if damaged:
        raise EnvironmentFaultError(f"{file}: damaged (its SHA-256 does not match)", "Train without --resume.")
    if written_by != (parts.config.identity, parts.config.seed):
        raise UsageError(f"{folder}: the checkpoint belongs to another config or seed", "Use the same config and seed.")
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
        progress = Progress(**state["progress"])
    except Exception as error:  # whatever a file can hold that is no checkpoint; nothing in it was executed
        first = str(error).strip().splitlines()[:1]
        raise EnvironmentFaultError(f"{file}: not a checkpoint {first}", "Train without --resume.") from error
    try:
        for name, part in _stateful(parts):
            part.load_state_dict(state["parts"][name])
        random_state = state["random"][parts.spread.team.rank]
    except (RuntimeError, ValueError, LookupError) as error:
        raise UsageError(f"{file}: the checkpoint belongs to another model ({error})", "Use the same task.") from error
    _set_random_state(random_state)
    return progress


def _stateful(parts: Parts) -> tuple[tuple[str, Stateful], ...]:
    """By name, everything that a training changes."""
    trained: tuple[tuple[str, Stateful], ...] = (("model", parts.model), ("optimizer", parts.optimizer))
    if parts.spread.stored is not None:
        trained = (("trained", parts.spread.stored(parts.model, parts.optimizer)),)
    return (*trained, ("order", parts.order), *parts.state)


def save_weights(path: Path, parts: Parts) -> None:
    """Write the weights of the whole model as safetensors. All processes of a team have to ask; the leader writes."""
    from safetensors.torch import save_file

    state = parts.spread.whole(parts.model)
    if parts.spread.team.rank == 0:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, path)


def save_model(folder: Path, model: torch.nn.Module) -> Path:
    """Weights as safetensors; returns the path."""
    from safetensors.torch import save_model as write

    path = folder / MODEL
    write(model, str(path))
    return path


def _random_state() -> dict[str, Any]:
    """State of every generator a model or a Dataset may draw from, in plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
