"""How fast a device multiplies, convolves, copies and launches, and how fast samples get to it: one function a rate.

Each takes the kind of device and what time it is allowed, and raises TimeoutError rather than overrun it; what the
device refuses raises torch's own error. Runs in a worker, where torch may be loaded. Must not know tasks or the cache.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autoaccel.hardware.profile import Rate
from autoaccel.hardware.stopwatch import REPEATS, Allowance, Took, best, now

if TYPE_CHECKING:
    import torch

MATRIX_SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
N_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
IMAGE_SIDE, CPU_CHANNELS, ACCELERATOR_CHANNELS = 32, 64, 256
"""A 3x3 convolution between equally many channels, as in the middle of a residual network."""
LONG_ENOUGH_S = 0.005
"""A call this long is timed well; the next larger one takes at most about 40 ms."""
CPU_COPY_BYTES = 64 * 2**20
ACCELERATOR_COPY_BYTES = 512 * 2**20
"""Beyond the caches of either; on an accelerator also long beside the 10 us of a launch."""
HOST_COPY_BYTES = 64 * 2**20
N_LAUNCHES = 1000
SAMPLE_SHAPE, BATCH, N_BATCHES = (3, 64, 64), 64, 16
"""Of what a loader hands over: fp32 samples of 48 KiB that cost nothing to read; batches between two looks."""
LOADER_TIMEOUT_S = 10.0
FILE_BYTES, BLOCK_BYTES = 64 * 2**20, 4 * 2**20


def matmul(kind: str, dtype: str, allowed: Allowance) -> Rate:
    """FLOP/s of the smallest square product that takes LONG_ENOUGH_S: an emulated dtype stays cheap to measure."""
    import torch

    def product(n: int) -> Callable[[], object]:
        a, b = (_random(kind, dtype, n, n) for _ in range(2))
        return partial(torch.mm, a, b, out=torch.empty_like(a))

    with _products_in(dtype):
        n, took = _long_enough(MATRIX_SIZES, product, 8, kind, allowed)
    return _rate(2 * n**3, took, kind)


def convolution(kind: str, dtype: str, memory_format: str, allowed: Allowance) -> tuple[Rate, str]:
    """FLOP/s of the forward pass of a 3x3 convolution, counted as its multiply-adds whatever algorithm is used."""
    import torch

    channels = CPU_CHANNELS if kind == "cpu" else ACCELERATOR_CHANNELS
    layout = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[memory_format]
    weight = _random(kind, dtype, channels, channels, 3, 3).contiguous(memory_format=layout)

    def convolved(n: int) -> Callable[[], object]:
        images = _random(kind, dtype, n, channels, IMAGE_SIDE, IMAGE_SIDE).contiguous(memory_format=layout)
        return partial(torch.conv2d, images, weight, padding=1)

    n, took = _long_enough(N_IMAGES, convolved, 2, kind, allowed)
    rate = _rate(2 * n * IMAGE_SIDE**2 * channels**2 * 9, took, kind)
    is_tf32 = kind == "cuda" and dtype == "fp32" and torch.backends.cudnn.allow_tf32
    return rate, "cuDNN may use TF32, as torch is set" if is_tf32 else ""


def memory(kind: str, allowed: Allowance) -> Rate:
    """Bytes read and written by a copy within the device's memory."""
    size = CPU_COPY_BYTES if kind == "cpu" else ACCELERATOR_COPY_BYTES
    _check_time_to_fill(size, kind, allowed)
    source, goal = _filled(size, kind), _filled(size, kind)
    return _rate(2 * size, best(partial(goal.copy_, source), allowed, _synchronize(kind)), kind)


def host_to_device(kind: str, pinned: bool, allowed: Allowance) -> Rate:
    """Bytes copied from host memory, page-locked or not, to the device."""
    _check_time_to_fill(HOST_COPY_BYTES, "cpu", allowed)
    source, goal = _filled(HOST_COPY_BYTES, "cpu"), _filled(HOST_COPY_BYTES, kind)
    source = source.pin_memory() if pinned else source
    took = best(partial(goal.copy_, source, non_blocking=pinned), allowed, _synchronize(kind))
    return _rate(HOST_COPY_BYTES, took, kind)


def dispatch(kind: str, allowed: Allowance) -> Rate:
    """Operations per second that a training launches on a tensor of one number, none of which waits for the last: half
    of them forward and recorded for backward, half of them backward."""
    import torch

    number = torch.ones((), device=kind, requires_grad=True)

    def launch() -> None:
        result: torch.Tensor = number
        for _ in range(N_LAUNCHES // 2):
            result = result * 1.0
        torch.autograd.grad(result, number)

    return _rate(N_LAUNCHES, best(launch, allowed, _synchronize(kind)), kind)


def loader(allowed: Allowance) -> Rate:
    """Bytes that one DataLoader process collates and hands over; its own processor time, not ours."""
    import torch
    from torch.utils.data import DataLoader

    allowed.check(0.5 if sys.platform == "linux" else 10.0)  # where a process is not forked it imports torch anew
    batches: Any = iter(
        DataLoader(
            cast(Any, _Samples()),
            batch_size=BATCH,
            num_workers=1,
            collate_fn=_stamped,
            timeout=LOADER_TIMEOUT_S,
            generator=torch.Generator(),  # not the global one, which belongs to the trials
        )
    )
    stamps: list[float] = []

    def take() -> None:
        for _ in range(N_BATCHES):
            _, stamp = next(batches)
        stamps.append(stamp)

    try:
        took = best(take, allowed)
    finally:
        batches._shutdown_workers()
    size = N_BATCHES * BATCH * _Samples().sample.nbytes
    cpu_s = min(later - earlier for earlier, later in pairwise(stamps))
    return Rate(size / took.wall_s, size / cpu_s if cpu_s > 0 else None)


def disk(folder: Path, allowed: Allowance) -> tuple[Rate, str]:
    """Bytes read from a file in a folder, and how: past the system's cache where that can be had.

    The file has no name, so that nothing stays, however this ends. Its bytes are random: no file system shortens them.
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file, mmap.mmap(-1, BLOCK_BYTES) as block:
        start = now()
        for done in range(FILE_BYTES // BLOCK_BYTES):
            file.write(os.urandom(BLOCK_BYTES))
            os.fsync(file.fileno())
            allowed.check((now() - start).wall_s / (done + 1) * (FILE_BYTES // BLOCK_BYTES - done))

        def read() -> None:
            file.seek(0)
            while file.readinto(block):
                allowed.check(0.0)

        is_direct = _reads_directly(file, block)
        rate = Rate(FILE_BYTES / best(read, allowed).wall_s, None)
    return rate, "O_DIRECT" if is_direct else "cached"


def _reads_directly(file: Any, block: mmap.mmap) -> bool:
    """Have reads of an open file go past the system's cache, if system and file system let them; whether they do."""
    try:
        import fcntl

        flags = fcntl.fcntl(file, fcntl.F_GETFL)
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT)
    except (ImportError, AttributeError, OSError):
        return False
    try:
        file.seek(0)
        file.readinto(block)
    except OSError:  # some take the flag and refuse the read
        fcntl.fcntl(file, fcntl.F_SETFL, flags)
        return False
    return True


class _Samples:
    """Without end, each the same tensor: what is timed is handing over, not reading."""

    def __init__(self) -> None:
        import torch

        self.sample = torch.ones(SAMPLE_SHAPE)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.sample


def _stamped(samples: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """A batch, and the processor seconds that its worker has taken so far."""
    from torch.utils.data import default_collate

    return default_collate(samples), now().cpu_s


def _long_enough(
    sizes: tuple[int, ...], make: Callable[[int], Callable[[], object]], growth: int, kind: str, allowed: Allowance
) -> tuple[int, Took]:
    """The first size whose call takes LONG_ENOUGH_S, and what it takes; each size takes `growth` times the last."""
    size, took = 0, Took(0.0, 0.0)
    for size in sizes:
        allowed.check(growth * took.wall_s * (1 + REPEATS))
        call = make(size)
        took = best(call, replace(allowed, slice_s=0.0), _synchronize(kind))
        if REPEATS * took.wall_s >= max(allowed.slice_s, REPEATS * LONG_ENOUGH_S):
            return size, took  # an emulated one: that was a slice already
        if took.wall_s >= LONG_ENOUGH_S:
            break
    return size, best(call, allowed, _synchronize(kind))


def _random(kind: str, dtype: str, *shape: int) -> torch.Tensor:
    """Numbers between 0 and 1, the same each time."""
    import torch

    types = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    generator = torch.Generator(device=kind).manual_seed(0)  # not the global one, which belongs to the trials
    return torch.rand(*shape, generator=generator, device=kind).to(types[dtype])


def _filled(size: int, kind: str) -> torch.Tensor:
    """Memory that has been written: untouched pages would all be the same one."""
    import torch

    return torch.ones(size // 4, dtype=torch.float32, device=kind)


def _check_time_to_fill(size: int, kind: str, allowed: Allowance) -> None:
    """Two tensors of `size` bytes must fit into the time: the first write of a page costs far more than a copy."""
    allowed.check(0.0)
    start = now()
    _filled(size // 16, kind)
    allowed.check(2 * 16 * (now() - start).wall_s)


@contextmanager
def _products_in(dtype: str) -> Iterator[None]:
    """fp32 products with all bits, or with those of TF32; the process's setting comes back."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _rate(amount: float, took: Took, kind: str) -> Rate:
    is_ours = kind == "cpu" and took.cpu_s > 0  # an accelerator's work is no processor's
    return Rate(amount / took.wall_s, amount / took.cpu_s if is_ours else None)


def _synchronize(kind: str) -> Callable[[], object]:
    import torch

    return torch.accelerator.synchronize if kind != "cpu" else lambda: None
