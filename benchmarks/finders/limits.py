"""A memory limit under which allocators fail for everyone alike: so much more than what a process has taken already."""

from __future__ import annotations

import gc
import re
import resource
from pathlib import Path

import torch

from autoaccel.trainer.allocator import give_back_freed_memory


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def limit_memory(room_bytes: int) -> None:
    """Let this process take `room_bytes` more than it has taken, for good.

    On a CPU by RLIMIT_DATA, beyond which malloc fails and torch with it; on a GPU by the share of its memory that
    the caching allocator may take.
    """
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room_bytes) / total)
        return
    give_back_freed_memory()
    found = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "Linux tells it"
    limit = int(found[1]) * 1024 + room_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
