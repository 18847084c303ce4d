"""The optimizer and its parameter groups.

What it does: *sgd* with Nesterov momentum; *adamw* and *nadam* with decoupled weight decay; *lion* moves every weight
by the sign of an average; *muon* orthogonalises the momentum of each weight matrix; *lamb* and *lars* scale a layer's
step by its weights; *schedule_free_adamw* and *schedule_free_sgd* train beside a running average, which is what is
evaluated. `optim.clip` shortens gradients to a norm.
When it pays: the family decides the learning rate's range; tens of percent of the steps. lamb and lars pay at batches
of thousands only, muon on matrices, schedule-free where the length of the training is not known.
Cost: one (sgd, lion, lars, schedule_free_sgd, muon) or two (the others) more copies of the weights, and one while it
runs with foreach; muon 15 products of each matrix with its smaller side's. 8-bit states save three quarters of adamw's.
Source: SGD arXiv 1706.02677; AdamW 1711.05101; NAdam OpenReview OM0jvwB8jIp57ZJjtNEZ; Lion 2302.06675; Muon 2502.16982;
LAMB 1904.00962; LARS 1708.03888; schedule-free 2405.15682; 8-bit states 2110.02861; clipping 1211.5063.
Order: after everything that changes the model's parameters; clipping right before the update.
Conflicts: schedule-free with every schedule but constant; a kernel that the optimizer does not have; 8-bit states with
any but adamw, on CUDA only.

torch has the first three, timm Lion, LAMB and LARS, schedulefree its own, torchao the 8-bit states. Muon is ours:
torch's and timm's compute in bfloat16, which CPUs without units for it emulate a hundred times slower, and torch's
takes no convolution kernels. It takes weights with at least two dimensions, kernels flattened to (outputs, rest); not
embeddings, nor depthwise kernels or position tables (a 1 among the first two dimensions), nor the last matrix, which is
the output layer, unless it is the only one. Everything else goes to AdamW with the same rate, decay and betas.

Must not know the loss or the schedule.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from autoaccel.errors import UsageError
from autoaccel.sections import KERNELS, Optim
from autoaccel.trainer.compiler import spare_compiler

Groups = list[dict[str, Any]]

FUSED_DEVICES = ("cpu", "cuda")
"""Where torch's fused kernels are known to be there for every type of parameter."""
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's iteration: steepest at zero, so that five steps bring every singular value near 1."""

_LARS_TRUST = 0.02
"""Length of a lars step at rate 1, in lengths of a layer's weights. At the paper's 0.001 rates are so large that
biases, whose steps are not scaled, blow up in small nets (measured)."""


def new_optimizer(model: nn.Module, config: Optim, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of all parameters that require a gradient.

    Raises:
        UsageError: muon for a model without a weight matrix.
    """
    kind = torch.optim.Optimizer
    spare_compiler(kind.add_param_group, kind.zero_grad, kind.state_dict, kind.load_state_dict)
    trainable = [p for p in model.parameters() if p.requires_grad]
    # Biases and norm scales are not decayed: they are few, and decay only shifts them.
    groups: Groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.name == "muon":
        groups = _split_for_muon(model, groups)
    if config.name in ("lamb", "lars"):
        groups[0]["always_adapt"] = True  # else layers would only be scaled where there is weight decay
    groups, is_split = _parts_apart(groups)
    make = _adamw_int8 if config.state == "int8" else _OPTIMIZERS[config.name]
    return make([group for group in groups if group["params"]], config, {} if is_split else _kernel(config, device))


def _parts_apart(groups: Groups) -> tuple[Groups, bool]:
    """Groups of parts of tensors that several processes share, and of whole ones: a kernel takes only one kind."""
    if not torch.distributed.is_initialized():  # else nothing is shared, and importing it takes 0.6 s
        return groups, False
    from torch.distributed.tensor import DTensor

    shared = [[p for p in group["params"] if isinstance(p, DTensor)] for group in groups]
    if not any(shared):
        return groups, False
    whole = [[p for p in group["params"] if not isinstance(p, DTensor)] for group in groups]
    pairs = [(group, params) for kind in (shared, whole) for group, params in zip(groups, kind, strict=True)]
    return [{**group, "params": params} for group, params in pairs], True


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next update."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # torchao's: a number would be compiled anew each time
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def update_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, clip: float, scaler: torch.amp.GradScaler | None = None
) -> Callable[[], Any]:
    """From gradients to weights: unscaling them, if the loss was scaled, clipping, if `clip` is not 0, and the step."""
    step = partial(torch.no_grad()(inspect.unwrap(type(optimizer).step)), optimizer)  # see `spare_compiler`
    trainable = [p for p in model.parameters() if p.requires_grad]

    def clipped() -> None:
        nn.utils.clip_grad_norm_(trainable, clip)
        step()

    if scaler is None:
        return clipped if clip else step
    optimizer.step = step  # type: ignore[method-assign]  # what the scaler calls

    def unscaled() -> None:
        scaler.unscale_(optimizer)
        if clip:
            nn.utils.clip_grad_norm_(trainable, clip)
        scaler.step(optimizer)
        scaler.update()

    return unscaled


@contextmanager
def at_average(model: nn.Module, optimizer: Any) -> Iterator[None]:
    """A schedule-free optimizer's average in place of the point it trains at; then that point again, bit for bit."""
    trained = [p.detach().clone() for p in model.parameters()]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), trained)


def set_momentum(optimizer: torch.optim.Optimizer, momentum: float) -> None:
    """The momentum, or first beta, of the next update."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        if "momentum" in group:
            group["momentum"] = momentum


class Muon(torch.optim.AdamW):
    """Muon for the groups marked `orthogonal`, AdamW for all others, at one learning rate.

    The orthogonalised update is scaled to the size that AdamW's usually has (arXiv 2502.16982), so that both take the
    same rate and decay. Computed in bfloat16 on CUDA and in fp32 elsewhere.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; gradients of the orthogonalised weights are gone after it."""
        for group in self.param_groups:
            if group["orthogonal"]:
                self._orthogonal_step(group)
        inspect.unwrap(torch.optim.AdamW.step)(self)  # of all that still have a gradient

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if "momentum" not in self.state[p]:
                # Without `step` AdamW could not load the state.
                self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
        gradients: list[Any] = [p.grad for p in params]
        averages, momentum = [self.state[p]["momentum"] for p in params], group["momentum"]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, averages, momentum)  # Nesterov's
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        shapes = [(len(p), p.numel() // len(p)) for p in params]
        for shape in dict.fromkeys(shapes):
            same = [i for i, s in enumerate(shapes) if s == shape]
            found = orthogonal(torch.stack([updates[i].reshape(shape) for i in same]))
            scale = 0.2 * max(shape) ** 0.5
            for i, update in zip(same, found, strict=True):
                params[i].add_(update.reshape(params[i].shape), alpha=-group["lr"] * scale)
        for p in params:
            p.grad = None


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest matrices with all singular values near 1 (0.7 to 1.2), by five Newton-Schulz steps.

    Args:
        matrices: shape (n, rows, columns).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.bfloat16() if x.device.type == "cuda" else x.float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def _split_for_muon(model: nn.Module, groups: Groups) -> Groups:
    """The groups with the matrices that are orthogonalised apart from the rest."""
    embeddings = {
        id(p) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()
    }
    matrices = [p for p in groups[0]["params"] if id(p) not in embeddings and p.shape[0] > 1 and p.shape[1] > 1]
    if not matrices:
        raise UsageError("optim.name 'muon': the model has no weight matrix", "Use another optim.name.")
    hidden = {id(p) for p in matrices[:-1] or matrices}
    inside = [p for p in groups[0]["params"] if id(p) in hidden]
    outside = [p for p in groups[0]["params"] if id(p) not in hidden]
    decayed = {"weight_decay": groups[0]["weight_decay"]}
    return [
        {"params": inside, "orthogonal": True, **decayed},
        {"params": outside, "orthogonal": False, **decayed},
        {**groups[1], "orthogonal": False},
    ]


def _kernel(config: Optim, device: torch.device) -> dict[str, bool]:
    """How the update is computed, as arguments of the optimizer; none: its own choice."""
    if config.kernel != "auto":
        return {"fused": True} if config.kernel == "fused" else {"foreach": config.kernel == "foreach"}
    # One fused AdamW step of 11M parameters took 10.5 ms instead of 43 ms on a CPU.
    has_fused = "fused" in KERNELS[config.name] or config.name == "muon"
    return {"fused": True} if has_fused and device.type in FUSED_DEVICES else {}


def _sgd(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=c.lr, momentum=c.momentum, nesterov=True, **kernel)


def _adamw(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=c.lr, betas=(c.momentum, c.beta2), **kernel)


def _adamw_int8(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit

    return AdamW8bit(groups, lr=c.lr, betas=(c.momentum, c.beta2))


def _nadam(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    betas = (c.momentum, c.beta2)
    return torch.optim.NAdam(groups, lr=c.lr, betas=betas, decoupled_weight_decay=True, **kernel)


def _muon(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    groups = [{**group, "momentum": c.momentum} for group in groups]
    return Muon(groups, lr=c.lr, betas=(c.momentum, c.beta2), **kernel)


def _lion(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    from timm.optim.lion import Lion

    return Lion(groups, lr=c.lr, betas=(c.momentum, c.beta2), **kernel)


def _lamb(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    from timm.optim.lamb import Lamb

    return Lamb(groups, lr=c.lr, betas=(c.momentum, c.beta2), max_grad_norm=None, **kernel)  # `clip` says that


def _lars(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    from timm.optim.lars import Lars

    return Lars(groups, lr=c.lr, momentum=c.momentum, trust_coeff=_LARS_TRUST, **kernel)


def _schedule_free_adamw(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(groups, lr=c.lr, betas=(c.momentum, c.beta2), **kernel)
    optimizer.train()
    return optimizer


def _schedule_free_sgd(groups: Groups, c: Optim, kernel: dict[str, bool]) -> torch.optim.Optimizer:
    from schedulefree import SGDScheduleFree

    optimizer = SGDScheduleFree(groups, lr=c.lr, momentum=c.momentum, **kernel)
    optimizer.train()
    return optimizer


_OPTIMIZERS: dict[str, Callable[[Groups, Optim, dict[str, bool]], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "nadam": _nadam,
    "muon": _muon,
    "lion": _lion,
    "lamb": _lamb,
    "lars": _lars,
    "schedule_free_adamw": _schedule_free_adamw,
    "schedule_free_sgd": _schedule_free_sgd,
}
