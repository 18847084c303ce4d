"""Which kernel computes scaled dot-product attention.

What it does: *flash*, *efficient*, *cudnn* or the plain *math* instead of torch's own choice (*auto*).
When it pays: rarely by much, for torch chooses well; a cuDNN kernel can win on recent GPUs, FlashAttention 3 was worth
4 % of a language-model speedrun.
Cost: none; the result differs by rounding.
Source: FlashAttention, arXiv 2205.14135; modded-nanogpt's record history; torch.nn.attention.
Order: around the whole training, so that what is computed again in backward uses the same kernel.
Conflicts: kernels exist for some devices, precisions and shapes only (on GPUs flash and cudnn not for fp32); each is
tried once on small tensors.

Must not know models.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

KERNELS = {
    "flash": "FLASH_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "math": "MATH",
    "cudnn": "CUDNN_ATTENTION",
}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "float8": torch.bfloat16}
_CALLS = (F.scaled_dot_product_attention, F.multi_head_attention_forward)


def attention_by(kernel: str) -> AbstractContextManager[Any]:
    """Attention is computed by one kernel, and by no other."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(getattr(SDPBackend, KERNELS[kernel]))


@cache
def no_kernel(device: torch.device, kernel: str, dtype: str | None = None) -> str:
    """Why a kernel cannot be had on a device in a precision (None: in any), found by trying; empty if it can."""
    if dtype is None:
        reasons = [no_kernel(device, kernel, name) for name in ("fp32", "bf16", "fp16")]
        return reasons[0] if all(reasons) else ""
    query = torch.zeros(2, 2, 64, 64, dtype=_DTYPES[dtype], device=device, requires_grad=True)
    try:
        with attention_by(kernel):
            F.scaled_dot_product_attention(query, query, query).sum().backward()
    except RuntimeError:
        return f"this {device.type} device has no such kernel for {dtype}"
    return ""


class AttentionCalls(TorchFunctionMode):
    """Notes whether anything inside calls torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or func in _CALLS
        return func(*args, **(kwargs or {}))
