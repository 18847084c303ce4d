"""The C library's memory kept between steps instead of being given back to the kernel and asked for again.

Must not know what it is used for.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30


@cache
def keep_freed_memory() -> None:
    """Have glibc keep what a step frees, for the next one; once per process, and only what the user has not set.

    By default it returns large blocks to the kernel at once and gets them again page by page: 2,000 page faults in
    every step of a small convolution net, which was 1.6 times slower for it at the same peak memory (batch 128, AMD
    EPYC, one core, torch 2.15, 2026-11-21). Where there is no glibc nothing happens.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Have glibc return all pages that hold nothing to the kernel, once; it takes milliseconds. Elsewhere nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return


class _Statistics(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    )


def free_heap_bytes() -> int:
    """What glibc has of the process' memory and would give out again; 0 where it does not tell."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError, TypeError):
        return 0
    mallinfo.restype = _Statistics
    return int(mallinfo().fordblks)
