"""Activations kept elsewhere between forward and backward.

What it does: what autograd saves goes to pinned *host* memory, or to a file on *disk*, and comes back when backward
wants it. Weights stay where they are.
When it pays: never by itself; as a last resort where not even recomputing makes a training fit.
Cost: every saved byte crosses the bus, or the disk, twice; host: about +20 % time at full overlap, disk several times.
Source: arXiv 1602.08124 (vDNN); torch.autograd.graph.
Order: around the forward pass, outside autocast.
Conflicts: on a CPU activations are in host memory already.

Must not know models or losses.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from autoaccel.errors import EnvironmentFaultError


def offloading(where: str, model: nn.Module, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """What a forward pass runs in so that its activations are saved elsewhere ('host' or 'disk')."""
    away: Callable[[torch.Tensor], Any] = ScratchFile().write
    back: Callable[[Any], torch.Tensor] = Stored.read
    if where == "host":
        library = save_on_cpu(pin_memory=True, device_type=device.type)
        away, back = library.pack_hook, library.unpack_hook
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> Any:
        stays = tensor.numel() == 0 or tensor.untyped_storage().data_ptr() in own
        return tensor if stays else away(tensor)

    def unpack(kept: Any) -> torch.Tensor:
        return kept if isinstance(kept, torch.Tensor) else back(kept)

    return lambda: saved_tensors_hooks(pack, unpack)


def no_other_memory(device: torch.device) -> str:
    """Why activations cannot go to host memory; empty if they can."""
    return "on a CPU activations are in host memory already" if device.type == "cpu" else ""


class ScratchFile:
    """A nameless file of tensors in the temporary folder. It is gone with the process, however that ends, and empty
    again whenever nothing in it is wanted any more."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object is
        self._n_wanted = 0
        weakref.finalize(self, self._file.close)

    @property
    def n_bytes(self) -> int:
        """Bytes it takes on the disk."""
        return self._file.seek(0, 2)

    def write(self, tensor: torch.Tensor) -> Stored:
        """Put a tensor at the end.

        Raises:
            EnvironmentFaultError: the disk is full.
        """
        dense = tensor.detach().clone()  # keeps the order in memory, drops what a view does not show
        flat = dense.as_strided((dense.numel(),), (1,)).cpu()
        try:
            if not self._n_wanted:
                self._file.truncate(0)
            at = self._file.seek(0, 2)
            self._file.write(flat.view(torch.uint8).numpy().data)
            self._file.flush()
        except OSError as error:
            where = f"{tempfile.gettempdir()}: activations cannot be written ({error.strerror})"
            raise EnvironmentFaultError(where, "Free disk space there, or set TMPDIR to another disk.") from error
        self._n_wanted += 1
        stored = Stored(self, at, dense)
        weakref.finalize(stored, self._forget)
        return stored

    def read(self, at: int, n_bytes: int) -> bytearray:
        """Bytes from a position on."""
        found = bytearray(n_bytes)
        self._file.seek(at)
        self._file.readinto(found)
        return found

    def _forget(self) -> None:
        self._n_wanted -= 1


class Stored:
    """Where a tensor is in a scratch file, and what it looked like."""

    def __init__(self, file: ScratchFile, at: int, like: torch.Tensor) -> None:
        self._file, self._at = file, at
        self._size, self._stride, self._dtype, self._device = like.size(), like.stride(), like.dtype, like.device

    def read(self) -> torch.Tensor:
        """The tensor, on the device where it was."""
        raw = self._file.read(self._at, self._size.numel() * self._dtype.itemsize)
        flat = torch.frombuffer(raw, dtype=self._dtype).to(self._device)
        return flat.as_strided(self._size, self._stride)
