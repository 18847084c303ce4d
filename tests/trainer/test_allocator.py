"""What glibc keeps of freed memory, tells of it, and gives back; in a fresh process, for it is the process's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc")
CODE = """
import torch
from autoaccel.hardware.memory import resident_bytes
from autoaccel.trainer.allocator import free_heap_bytes, give_back_freed_memory, keep_freed_memory
keep_freed_memory()
tensors = [torch.ones(2**18) for _ in range(65)]  # 65 MiB; the last one pins the top of the heap
held, last = resident_bytes(), tensors.pop()
del tensors
kept, free = held - resident_bytes() < 2**23, free_heap_bytes() > 2**26
give_back_freed_memory()
print(kept, free, held - resident_bytes() > 2**25)
"""


@glibc
def test_freed_memory_is_kept_counted_and_given_back_when_asked(run_python: Callable[[str], str]) -> None:
    assert run_python(CODE).split() == ["True", "True", "True"]
