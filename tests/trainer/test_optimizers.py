"""Optimizers: each learns, resumes and splits its parameters as it says; what is clipped, scaled and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.sections import KERNELS, Optim
from autoaccel.trainer.applicability import NEEDS
from autoaccel.trainer.build import build
from autoaccel.trainer.evaluate import evaluate
from autoaccel.trainer.loop import optimizer_step
from autoaccel.trainer.parts import LoadedTask, Step
from autoaccel.trainer.techniques.optimizers import new_optimizer, orthogonal, set_rate, update_of

Runner = Callable[..., Any]
Loader = Callable[..., LoadedTask]
CPU = torch.device("cpu")
RATES = {"sgd": 0.1, "lion": 1e-2, "lars": 0.5, "lamb": 0.05, "schedule_free_sgd": 1.0, "schedule_free_adamw": 0.05}


def batch_norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def stop_after(n: int) -> Callable[[], bool]:
    answers = iter([False] * (n - 1) + [True])
    return lambda: next(answers)


@pytest.mark.parametrize("name", KERNELS)
def test_every_optimizer_learns(run: Runner, name: str) -> None:
    done = run({"optim.name": name, "optim.lr": RATES.get(name, 0.02), "horizon.samples": 960})
    assert done.ended.value > 0.75, "half of the samples are of one class"
    assert done.reports[-1].loss < 0.8 * done.reports[0].loss


@pytest.mark.parametrize("name", KERNELS)
def test_a_stopped_training_goes_on_bit_for_bit(run: Runner, load: Loader, tmp_path: Path, name: str) -> None:
    params = {"optim.name": name, "optim.weight_decay": 0.01, "schedule.warmup": 0.2, "optim.clip": 0.5}
    loaded = load(model=batch_norm_net)
    whole = run(params, loaded)
    stopped = run(params, loaded, folder=tmp_path, stopped=stop_after(5))
    assert stopped.ended.outcome == "stopped"
    resumed = run(params, loaded, folder=tmp_path, resume=True)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert [r.value for r in (*stopped.reports, *resumed.reports)] == [r.value for r in whole.reports]


# ------------------------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize(("name", "kernel"), [(name, k) for name, kernels in KERNELS.items() for k in kernels])
def test_a_kernel_computes_the_same_in_the_way_it_says(run: Runner, name: str, kernel: str) -> None:
    params = {"optim.name": name, "optim.weight_decay": 0.01}
    auto, chosen = run(params), run({**params, "optim.kernel": kernel})
    assert torch.allclose(auto.weights, chosen.weights, atol=1e-5)
    (group, *_) = new_optimizer(nn.Linear(3, 2), Optim(name=name, kernel=kernel), CPU).param_groups  # type: ignore[arg-type]
    assert bool(group.get("fused")) == (kernel == "fused")
    if kernel != "fused":
        assert group["foreach"] == (kernel == "foreach")


def test_fused_kernels_are_refused_where_torch_has_none(load: Loader) -> None:
    from dataclasses import replace

    (need,) = [need for need in NEEDS if need.path == "optim.kernel"]
    assert list(need.values or ()) == ["fused"] and need.off == "auto"
    assert "kernels" in need.why_not(replace(load(), device=torch.device("meta")))
    assert need.why_not(load()) == ""


# --------------------------------------------------------------------------------------------------------- 8-bit states


def test_8_bit_states_are_refused_without_cuda(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    with pytest.raises(UsageError, match=r"optim\.state 'int8': .*CUDA only"):
        build(load(), config({"optim.state": "int8"}))


def test_8_bit_states_take_a_quarter_and_follow_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, but for the compiler: one minute of compiling on a CPU."""
    model = nn.Linear(64, 128)
    reference = nn.Linear(64, 128)
    reference.load_state_dict(model.state_dict())
    eight, full = new_optimizer(model, Optim(state="int8"), CPU), new_optimizer(reference, Optim(), CPU)
    for lr in (0.1, 0.0, 0.01):
        before = model.weight.detach().clone()
        for net, optimizer in ((model, eight), (reference, full)):
            set_rate(optimizer, lr)
            net(torch.ones(4, 64)).square().mean().backward()
            with torch.compiler.set_stance("force_eager"):
                update_of(net, optimizer, 0.0)()
            optimizer.zero_grad()
        assert torch.equal(before, model.weight) == (lr == 0.0)
    assert torch.allclose(model.weight, reference.weight, atol=0.01)
    averages = eight.state[model.weight]["exp_avg"]
    assert averages.codes.nbytes == averages.numel() == model.weight.nbytes // 4


# ---------------------------------------------------------------------------------------------------------------- muon


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 16, 16)])
def test_orthogonal_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    rotation, _, other = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(orthogonal(matrices).flatten(), (rotation @ other).flatten(), 0) > 0.97


def test_muon_moves_matrices_as_torchs_does() -> None:
    """torch computes in bfloat16, which has three digits."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 10, generator=generator)
    net = nn.Sequential(nn.Linear(10, 6, bias=False), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight.copy_(start)
    config = Optim(name="muon", lr=0.1, momentum=0.9, weight_decay=0.1)
    ours = new_optimizer(net, config, CPU)
    theirs_p = nn.Parameter(start.clone())
    theirs = torch.optim.Muon([theirs_p], lr=0.1, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = torch.randn(6, 10, generator=generator)
        net[0].weight.grad, theirs_p.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    assert (net[0].weight - theirs_p).norm() < 0.02 * (theirs_p - start).norm()


def test_muon_takes_hidden_matrices_and_kernels_and_nothing_else() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(9, 8), nn.Parameter(torch.zeros(1, 5, 8))
            self.convolution, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
            self.norm, self.hidden, self.head = nn.BatchNorm2d(8), nn.Linear(8, 8), nn.Linear(8, 4)

    net = Net()
    groups = new_optimizer(net, Optim(name="muon", weight_decay=0.1), CPU).param_groups
    taken = {id(p) for group in groups if group["orthogonal"] for p in group["params"]}
    assert taken == {id(net.convolution.weight), id(net.hidden.weight)}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    assert {p.ndim for g in groups if g["weight_decay"] == 0 for p in g["params"]} == {1}
    alone = nn.Linear(4, 3)
    assert new_optimizer(alone, Optim(name="muon"), CPU).param_groups[0]["params"] == [alone.weight]


def test_muon_needs_a_matrix() -> None:
    with pytest.raises(UsageError, match="no weight matrix"):
        new_optimizer(nn.BatchNorm1d(4), Optim(name="muon"), CPU)


def test_muon_treats_a_kernel_as_the_matrix_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(8, 3, 3, 3, generator=generator)
    kernel, matrix = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(27, 8, bias=False)
    with torch.no_grad():
        matrix.weight.copy_(kernel.weight.flatten(1))
    for net, given in ((kernel, gradient), (matrix, gradient.flatten(1))):
        net.weight.grad = given.clone()
        new_optimizer(net, Optim(name="muon"), CPU).step()
    assert torch.allclose(kernel.weight.flatten(1), matrix.weight)


# ---------------------------------------------------------------------------------------------- clipping, batch scaling


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_clipping_bounds_the_norm_of_all_gradients_together(
    load: Loader, config: Callable[..., TrainerConfig], clip: float
) -> None:
    """Nesterov's first step is lr x (1 + momentum) x gradient."""
    loaded, given = load(), config({"optim.name": "sgd", "optim.clip": clip, "optim.lr": 1.0})
    torch.manual_seed(0)
    parts = build(loaded, given)
    before = [p.detach().clone() for p in parts.model.parameters()]
    optimizer_step(loaded, parts, Step(0, 0, 0.0, 24))
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(parts.model.parameters(), before, strict=True)])
    if clip < 1:
        assert float(moved.norm()) == pytest.approx(1.9 * clip, rel=1e-3)
    else:
        assert 1.9 * 1e-2 < float(moved.norm()) < 1.9 * clip


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 0.25), ("sqrt", 0.5)])
def test_the_rate_follows_the_batch(run: Runner, rule: str, factor: float) -> None:
    scaled = run({"optim.lr_scaling": rule, "batch.size": 64, "optim.lr": 0.01})
    plain = run({"batch.size": 64, "optim.lr": 0.01 * factor})
    assert torch.equal(scaled.weights, plain.weights)


# -------------------------------------------------------------------------------------------------------- schedule-free


@pytest.mark.parametrize("name", ["schedule_free_adamw", "schedule_free_sgd"])
def test_evaluations_see_the_average_and_change_nothing(
    load: Loader, config: Callable[..., TrainerConfig], name: str
) -> None:
    loaded = load(model=batch_norm_net)
    torch.manual_seed(0)
    parts = build(loaded, config({"optim.name": name, "optim.lr": 0.1}))
    for number in range(6):
        optimizer_step(loaded, parts, Step(number, 24 * number, 0.0, 24))
    before = {key: value.clone() for key, value in parts.model.state_dict().items()}
    seen: list[torch.Tensor] = []
    parts.model.register_forward_hook(lambda m, _i, _o: seen.append(next(m.parameters()).detach().clone()))
    state = torch.get_rng_state()
    evaluate(loaded.task, parts, loaded.validation)
    assert torch.equal(state, torch.get_rng_state()), "an evaluation draws no random numbers"
    after = parts.model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    first = next(parts.model.parameters())
    z = parts.optimizer.state[first]["z"]
    assert torch.allclose(seen[-1], first.lerp(z, 1 - 1 / 0.9), atol=1e-6)
    assert not torch.equal(seen[-1], first)


def test_the_model_that_is_returned_is_the_evaluated_one(run: Runner, load: Loader) -> None:
    loaded = load(model=batch_norm_net)
    done = run({"optim.name": "schedule_free_adamw", "optim.lr": 0.05}, loaded)
    inputs, labels = loaded.validation.tensors
    done.model.eval()
    with torch.no_grad():
        found = float((done.model(inputs).argmax(1) == labels).double().mean())
    assert found == done.ended.value


def test_refreshed_statistics_are_those_of_the_evaluated_weights(run: Runner, load: Loader) -> None:
    """The first layer's outputs over the training set, which fits into what is refreshed, have these means."""
    loaded = load(model=batch_norm_net)
    done = run({"optim.name": "schedule_free_sgd", "optim.lr": 1.0}, loaded)
    with torch.no_grad():
        hidden = done.model[0](loaded.train.tensors[0])
    assert torch.allclose(done.model[1].running_mean, hidden.mean(0), atol=1e-5)
    assert torch.allclose(done.model[1].running_var, hidden.var(0), rtol=0.1)


def test_refreshing_is_charged(run: Runner, load: Loader) -> None:
    """An evaluation of 60 samples costs 300 FLOPs here; 96 go forward before each of three, and at the end."""
    flops = lambda net: run({"optim.name": "schedule_free_adamw"}, load(model=net)).ended.flops  # noqa: E731
    plain = flops(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    assert flops(batch_norm_net) - plain == pytest.approx(4 * 96 * 300 / 60)


def test_flops_never_exceed_their_cap_for_a_refresh(run: Runner, load: Loader) -> None:
    for cap in (3000.0, 4000.0, 5000.0, 6000.0):
        ended = run({"optim.name": "schedule_free_adamw"}, load(model=batch_norm_net), cap_flops=cap).ended
        assert ended.flops <= cap


def test_options_of_the_space_survive_a_measurement(load: Loader) -> None:
    """Steps are measured from the baseline, which may use what sgd does not have."""
    from autoaccel.trainer.measure import measure_steps

    both = {name: {"optim.name": name} for name in ("sgd", "adamw")}
    base = with_params(TrainerConfig(), {"optim.name": "schedule_free_adamw", "optim.kernel": "foreach"})
    found = measure_steps(load(), base, micro=[8], dtypes=["fp32"], optimizers=both, room=Room(9.0, 1e9))
    assert set(found["optimizer"]) == {"sgd", "adamw"}
