"""How a model starts and which parts of it learn when: each setting changes what it should, also in timm's models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.trainer.build import build
from autoaccel.trainer.flops import recounted, step_flops
from autoaccel.trainer.look import arguments, output, tells_apart
from autoaccel.trainer.loop import follow_progress
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.schedule import freezing_stage, ramp
from autoaccel.trainer.techniques.adapters import add_adapters
from autoaccel.trainer.techniques.dropping import no_paths, places_of_paths
from autoaccel.trainer.techniques.freezing import frozen_parameters
from autoaccel.trainer.techniques.initialization import residual_ends
from tests.trainer.nets import Layers, images, mlp, plain_net, residual_net, transformer

Load = Callable[..., LoadedTask]
Pictures = Callable[[Callable[[], nn.Module]], LoadedTask]


@cache
def timm_model(name: str, **how: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model(name, num_classes=3, **how)
    return model


def of_timm(name: str, **how: Any) -> Callable[[], nn.Module]:
    """What makes a model of timm; made once, for that is slow."""
    model = timm_model(name, **how)
    return lambda: copy.deepcopy(model)


@pytest.fixture
def pictures(load: Load) -> Pictures:
    """A task of images of 8 px for a model."""
    return lambda model: load(model=model, train=images(48, 1), validation=images(30, 2))


@pytest.fixture
def larger(load: Load) -> Pictures:
    """The same with 32 px, for timm's models."""

    def make(model: Callable[[], nn.Module]) -> LoadedTask:
        (x, y), (v, w) = images(12, 1), images(6, 2)
        return load(model=model, train=(F.interpolate(x, 32), y), validation=(F.interpolate(v, 32), w))

    return make


def shaped(loaded: LoadedTask, **params: Any) -> Parts:
    """The parts of a training that always starts from the same seed."""
    torch.manual_seed(3)
    names = {name.replace("__", "."): value for name, value in params.items()}
    return build(loaded, with_params(TrainerConfig(), {"batch.size": 12, **names}))


def refusal(loaded: LoadedTask, **params: Any) -> str:
    with pytest.raises(UsageError) as caught:
        shaped(loaded, **params)
    return caught.value.message


def changed(plain: nn.Module, other: nn.Module) -> list[str]:
    """Names of parameters that differ."""
    theirs = dict(other.named_parameters())
    return [name for name, p in plain.named_parameters() if not torch.equal(p, theirs[name])]


# -------------------------------------------------------------------------------------------------------- zero_residual


def test_residual_branches_start_at_zero_and_nothing_else_changes(pictures: Pictures) -> None:
    loaded = pictures(residual_net)
    plain, zeroed = shaped(loaded).model, shaped(loaded, model__init="zero_residual").model
    assert changed(plain, zeroed) == ["1.0.norm2.weight", "1.1.norm2.weight", "1.2.norm2.weight"]
    assert all(not block.norm2.weight.any() for block in zeroed[1])
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(zeroed[1][0](x), x)


def test_both_branches_of_a_transformer_block_start_at_zero(pictures: Pictures) -> None:
    loaded = pictures(transformer)
    zeroed = shaped(loaded, model__init="zero_residual").model
    x = torch.randn(2, 8, 16)
    assert torch.equal(zeroed[2](x), x)
    ends = ["attention.out_proj.weight", "mlp.2.weight", "mlp.2.bias"]
    assert changed(shaped(loaded).model, zeroed) == [f"2.{i}.{end}" for i in (0, 1) for end in ends]


def test_a_transformer_of_torch_starts_at_zero(pictures: Pictures) -> None:
    """Normalized after each branch: the normalizations are no ends, for nothing gets around them."""

    def net() -> nn.Module:
        layer = nn.TransformerEncoderLayer(24, 2, 32, batch_first=True)
        return nn.Sequential(transformer()[0], layer, transformer()[3], nn.Linear(24, 3))

    loaded = pictures(net)
    model = net()
    names = {module: name for name, module in model.named_modules()}
    assert [names[end] for end in residual_ends(loaded, model)] == ["1.self_attn.out_proj", "1.linear2"]


@pytest.mark.parametrize(
    ("name", "how", "n_ends"),
    [
        ("test_resnet", {"zero_init_last": False}, 4),
        ("test_vit", {"img_size": 32, "patch_size": 8}, 12),
        ("tinynet_e", {}, 3),
    ],
)
def test_residual_branches_of_timm_models(larger: Pictures, name: str, how: dict[str, Any], n_ends: int) -> None:
    loaded = larger(of_timm(name, **how))
    model = shaped(loaded, model__init="zero_residual").model
    plain = loaded.task.model()
    zeroed = [key for key in changed(plain, model) if key.endswith("weight")]
    assert len(zeroed) == n_ends
    assert not any(p.any() for key, p in model.named_parameters() if key in zeroed)
    for block in (m for m in model.modules() if type(m).__name__ == "Block"):
        x = torch.randn(1, 5, 64)
        assert torch.equal(block(x), x)


def test_of_layers_in_series_only_the_last_starts_at_zero(pictures: Pictures) -> None:
    """Two at zero in a row would pass no gradient to each other, for ever. The gate is no end."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.layer(x.mean((2, 3), keepdim=True)).sigmoid()

    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            unit = lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))  # noqa: E731
            self.one, self.two, self.gate, self.three, self.gate2 = unit(), unit(), Gate(), unit(), Gate()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.gate2(self.three(self.gate(self.two(self.one(x)))))

    net = lambda: nn.Sequential(nn.Sequential(Series(), Series()), nn.Flatten(), nn.Linear(192, 3))  # noqa: E731
    loaded = pictures(net)
    assert changed(shaped(loaded).model, shaped(loaded, model__init="zero_residual").model) == [
        "0.0.three.1.weight",
        "0.1.three.1.weight",
    ]


def test_what_has_no_residual_branch_or_starts_at_zero_is_refused(pictures: Pictures, larger: Pictures) -> None:
    assert "no block of the model has a residual branch" in refusal(pictures(plain_net), model__init="zero_residual")
    assert "no block of the model has a residual branch" in refusal(pictures(mlp), model__init="zero_residual")
    loaded = larger(of_timm("test_resnet"))
    assert "does not start at zero already" in refusal(loaded, model__init="zero_residual")


def test_looking_for_branches_leaves_the_model_as_it_was(larger: Pictures) -> None:
    loaded = larger(of_timm("tinynet_e"))
    model = loaded.task.model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    places = [(type(owner).__name__, name) for owner, name in places_of_paths(loaded, model)]
    residual_ends(loaded, model)
    assert places
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


# ------------------------------------------------------------------------------------------------------------ whitening


def wide_net() -> nn.Module:
    """A first convolution with an output for each direction and sign of its 12 inputs, and two more."""
    return nn.Sequential(nn.Conv2d(3, 26, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(26, 3))


def test_the_first_convolution_whitens_the_training_images(pictures: Pictures) -> None:
    loaded = pictures(wide_net)
    parts = shaped(loaded, model__init="whitening")
    first = parts.model[0]
    whitened = F.conv2d(loaded.train.tensors[0], first.weight).movedim(1, 0).flatten(1)
    second_moment = whitened[:12] @ whitened[:12].T / whitened.shape[1]
    assert torch.allclose(second_moment, torch.eye(12), atol=0.02)
    assert torch.equal(whitened[12:24], -whitened[:12])
    assert changed(shaped(loaded).model, parts.model) == ["0.weight"]


def test_few_outputs_take_the_directions_of_most_variance(pictures: Pictures) -> None:
    few = pictures(lambda: nn.Sequential(nn.Conv2d(3, 5, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)))
    ours = shaped(few, model__init="whitening").model[0].weight
    all_of_them = shaped(pictures(wide_net), model__init="whitening").model[0].weight
    assert torch.allclose(ours, torch.cat([all_of_them[:3], all_of_them[12:14]]), atol=1e-5)


def test_the_whitening_is_what_the_convolution_sees(pictures: Pictures) -> None:
    """A model that scales its inputs before."""

    class Scale(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 100

    plain = shaped(pictures(wide_net), model__init="whitening").model
    scaled = shaped(pictures(lambda: nn.Sequential(Scale(), *wide_net())), model__init="whitening").model
    assert torch.allclose(scaled[1].weight[:24] * 100, plain[0].weight[:24], rtol=1e-3)


def test_whitening_stays_and_is_free_again_in_the_end(run: Any, pictures: Pictures) -> None:
    loaded = pictures(wide_net)
    before = shaped(loaded, model__init="whitening")
    assert [name for name, p in before.model.named_parameters() if not p.requires_grad] == ["0.weight"]
    done = run({"model.init": "whitening", "horizon.samples": 96, "seed": 3}, loaded)
    assert torch.equal(done.model[0].weight, before.model[0].weight)
    assert not torch.equal(done.model[0].bias, before.model[0].bias)
    assert all(p.requires_grad for p in done.model.parameters())


@pytest.mark.parametrize("net", [mlp, transformer])
def test_whitening_is_refused_without_a_first_convolution(pictures: Pictures, net: Any) -> None:
    assert "the first layer with weights is no" in refusal(pictures(net), model__init="whitening")


# -------------------------------------------------------------------------------------------------------------- dropout


def test_dropout_sets_every_dropout_layer(pictures: Pictures) -> None:
    loaded = pictures(residual_net)
    found = [m.p for m in shaped(loaded, regularize__dropout=0.5).model.modules() if isinstance(m, nn.Dropout)]
    assert found == [0.5] * 3
    own = [m.p for m in shaped(loaded).model.modules() if isinstance(m, nn.Dropout)]
    assert own == [0.2] * 3
    assert "no dropout layer" in refusal(pictures(mlp), regularize__dropout=0.0)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_dropout_that_is_no_layer_is_set_where_it_is_used(larger: Pictures, name: str) -> None:
    """timm's convolution nets drop before the classifier by a number."""
    loaded = larger(of_timm(name))
    x = loaded.train.tensors[0]
    plain, dropping = (shaped(loaded, regularize__dropout=p).model.eval() for p in (0.0, 0.5))
    assert torch.equal(plain(x), dropping(x))
    features = plain.forward_features(x)
    assert torch.equal(plain.train().forward_head(features), plain.forward_head(features))
    assert not torch.equal(dropping.train().forward_head(features), dropping.forward_head(features))


def test_a_rate_that_nothing_uses_is_none(pictures: Pictures) -> None:
    class Said(nn.Linear):
        def __init__(self) -> None:
            super().__init__(192, 3)
            self.drop_rate = 0.1

    loaded = pictures(lambda: nn.Sequential(nn.Flatten(), Said()))
    assert "nor a drop_rate that it uses" in refusal(loaded, regularize__dropout=0.3)


# ----------------------------------------------------------------------------------------------------------- drop paths


def strengths(model: nn.Module) -> list[float]:
    return [round(m.drop_prob, 6) for m in model.modules() if type(m).__name__ == "DropPath"]


VIT = {"img_size": 32, "patch_size": 8}


@pytest.mark.parametrize(
    ("name", "how", "wanted"),
    [
        ("test_resnet", {}, [0.1, 0.2, 0.3, 0.4]),
        ("test_resnet", {"drop_path_rate": 0.05}, [0.1, 0.2, 0.3, 0.4]),
        ("test_vit", VIT, [p for i in range(1, 7) for p in [round(0.4 * i / 6, 6)] * 2]),
        ("tinynet_e", {}, [round(0.4 * i / 3, 6) for i in (1, 2, 3)]),
    ],
)
def test_strength_rises_with_depth(larger: Pictures, name: str, how: Any, wanted: list[float]) -> None:
    loaded = larger(of_timm(name, **how))
    parts = shaped(loaded, model__drop_path=0.4)
    assert strengths(parts.model) == wanted
    assert parts.model.state_dict().keys() == loaded.task.model().state_dict().keys()


def test_left_out_branches_are_random_in_training_only(larger: Pictures) -> None:
    loaded = larger(of_timm("test_vit", **VIT))
    model = shaped(loaded, model__drop_path=0.9).model
    x = loaded.train.tensors[0][:4]
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), loaded.task.model().eval()(x))


def test_zero_turns_a_models_own_off(larger: Pictures) -> None:
    loaded = larger(of_timm("test_resnet", drop_path_rate=0.3))
    assert max(strengths(shaped(loaded).model)) > 0
    assert set(strengths(shaped(loaded, model__drop_path=0.0).model)) == {0.0}


def test_a_ramp_follows_progress(larger: Pictures) -> None:
    loaded = larger(of_timm("test_resnet"))
    parts = shaped(loaded, model__drop_path=0.4, model__drop_path_ramp=0.5)
    seen = []
    for done in (0.0, 0.25, 0.5, 0.9):
        follow_progress(parts, Step(1, 12, done, 12))
        seen.append(strengths(parts.model)[-1])
    assert seen == [0.0, 0.2, 0.4, 0.4]


@pytest.mark.parametrize("steps", [2, 5])
def test_a_ramp_goes_on_where_it_was_stopped(run: Any, larger: Pictures, tmp_path: Path, steps: int) -> None:
    loaded = larger(of_timm("test_resnet"))
    params = {"batch.size": 6, "horizon.steps": 8, "evaluate.every_samples": 24}
    params |= {"model.drop_path": 0.8, "model.drop_path_ramp": 0.7}
    whole = run(params, loaded)
    run(params, loaded, folder=tmp_path, stopped=stop_after(steps))
    assert torch.equal(run(params, loaded, folder=tmp_path, resume=True).weights, whole.weights)


def test_a_block_without_a_way_around_keeps_its_branch(pictures: Pictures) -> None:
    class Straight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop_path = nn.Linear(192, 192), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.drop_path(self.layer(x))
            return out

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop_path = nn.Linear(192, 192), None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = x + self.layer(x)
            return out

    loaded = pictures(lambda: nn.Sequential(nn.Flatten(), Straight(), Unused(), nn.Linear(192, 3)))
    assert "no place for DropPath" in no_paths(loaded, loaded.task.model())
    assert "no place for DropPath" in refusal(loaded, model__drop_path=0.1)


# ------------------------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize(
    ("done", "stage"), [(0.0, 0), (0.49, 0), (0.5, 1), (0.624, 1), (0.625, 2), (0.75, 3), (0.875, 4), (0.999, 4)]
)
def test_stages_of_freezing(done: float, stage: int) -> None:
    assert freezing_stage(done) == stage


def test_a_ramp_by_hand() -> None:
    assert [ramp(done, 0.5) for done in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert ramp(0.0, 0.0) == 1.0


def test_layers_freeze_from_the_input_on(pictures: Pictures) -> None:
    net = lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), *(nn.Linear(4, 4) for _ in range(2)), nn.Linear(4, 3))  # noqa: E731
    loaded = pictures(net)
    parts = shaped(loaded, model__freeze=0.75)
    names: dict[float, list[str]] = {}
    for done in (0.0, 0.5, 0.7, 0.8, 0.9):
        follow_progress(parts, Step(1, 12, done, 12))
        names[done] = [name for name, p in parts.model.named_parameters() if not p.requires_grad]
    first, second, third = (["1.weight", "1.bias"], ["2.weight", "2.bias"], ["3.weight", "3.bias"])
    assert names == {0.0: [], 0.5: first, 0.7: first + second, 0.8: first + second + third, 0.9: first + second + third}
    for undo in parts.at_end:
        undo()
    assert all(p.requires_grad for p in parts.model.parameters())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("net", [mlp, plain_net, residual_net, transformer])
def test_something_freezes_and_the_last_layer_never_does(share: float, net: Callable[[], nn.Module]) -> None:
    model = net()
    *_, weight, bias = model.parameters()
    counts = [len(frozen_parameters(model, share, stage)) for stage in range(5)]
    assert counts[0] == 0 < counts[1] <= counts[2] <= counts[3] <= counts[4]
    assert not {id(weight), id(bias)} & {id(p) for p in frozen_parameters(model, share, 4)}


def test_weights_shared_with_a_layer_that_learns_do_not_freeze() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = first.weight
    assert frozen_parameters(nn.Sequential(first, nn.Linear(4, 4), last), 0.4, 4)[0] is first.bias


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_weights_stay_while_the_others_move(run: Any, load: Load, optimizer: str) -> None:
    """No decay and no momentum moves them either; the first layer of two is frozen for the second half."""
    params = {"optim.name": optimizer, "optim.weight_decay": 0.1, "model.freeze": 0.5}
    half = run({**params, "horizon.samples": 288}, stopped=stop_after(6))
    whole = run(params)
    assert (half.ended.steps, whole.ended.steps) == (6, 12)
    assert torch.equal(half.model[0].weight, whole.model[0].weight)
    assert not torch.equal(half.model[3].weight, whole.model[3].weight)


def stop_after(n: int) -> Callable[[], bool]:
    answers = iter([False] * (n - 1) + [True])
    return lambda: next(answers)


def test_frozen_layers_save_flops(load: Load, config: Any) -> None:
    """Of two layers the first needs no gradient in the second half; that of its output is then not needed either."""
    net = lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))  # noqa: E731
    first, second = 2 * 6 * 8, 2 * 8 * 3
    plain = 2 * first + 3 * second
    loaded = replace(load(model=net), flops_per_sample=float(plain))
    settings = config({"model.freeze": 0.5})
    loaded = recounted(loaded, settings)
    taken = [step_flops(loaded, settings, Step(0, 0, done, 10)) / 10 for done in (0.0, 0.4, 0.5, 0.9)]
    assert taken == [plain, plain, first + 2 * second, first + 2 * second]


# ------------------------------------------------------------------------------------------------------------- adapters


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft")


@pytest.mark.filterwarnings("ignore")  # what importing peft says
def test_adapters_train_instead_of_the_layers_and_are_merged(
    run: Any, pictures: Pictures, peft: Any, tmp_path: Path
) -> None:
    def net() -> nn.Module:
        hidden = (nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, 3))

    loaded = pictures(net)
    parts = shaped(loaded, model__lora_rank=2)
    trained = {name: tuple(p.shape) for name, p in parts.model.named_parameters() if p.requires_grad}
    assert trained == {
        "1.lora_A.default.weight": (2, 192),
        "1.lora_B.default.weight": (16, 2),
        "3.lora_A.default.weight": (2, 16),
        "3.lora_B.default.weight": (8, 2),
        "5.weight": (3, 8),
        "5.bias": (3,),
    }
    start = shaped(loaded).model
    done = run({"model.lora_rank": 2, "horizon.samples": 144, "seed": 3}, loaded)
    assert done.ended.outcome == "finished", done.ended.message
    assert list(done.model.state_dict()) == list(start.state_dict())
    assert sorted(changed(start, done.model)) == ["1.weight", "3.weight", "5.bias", "5.weight"]
    change = (done.model[1].weight - start[1].weight).detach()
    assert int(torch.linalg.matrix_rank(change, tol=1e-5)) == 2
    assert all(p.requires_grad for p in done.model.parameters())
    loaded.task.model().load_state_dict(done.model.state_dict())
    params = {"model.lora_rank": 2, "horizon.samples": 144, "seed": 3}
    stopped = run(params, loaded, folder=tmp_path, stopped=stop_after(3))
    again = run(params, loaded, folder=tmp_path, resume=True)
    assert (stopped.ended.steps, again.ended.steps) == (3, 6)
    assert torch.equal(again.weights, done.weights)


@pytest.mark.filterwarnings("ignore")
def test_merging_changes_no_output(peft: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(5, 6)
    before = model(x)
    merge = add_adapters(model, 2)
    assert torch.equal(model(x), before)
    for p in model.parameters():
        p.data += 0.1 * p.requires_grad
    adapted = model(x)
    assert not torch.allclose(adapted, before)
    merge()
    assert torch.allclose(model(x), adapted, atol=1e-5)
    assert [type(m) for m in model] == [nn.Linear, nn.Tanh, nn.Linear]


@pytest.mark.filterwarnings("ignore")
def test_adapters_in_a_transformer_leave_its_attention(pictures: Pictures, peft: Any) -> None:
    """torch's attention reads the weights of its output layer without calling it."""
    model = shaped(pictures(transformer), model__lora_rank=2).model
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"1", "2.0.mlp.0", "2.0.mlp.2", "2.1.mlp.0", "2.1.mlp.2"}


@pytest.mark.filterwarnings("ignore")
def test_adapters_save_flops_of_weight_gradients(load: Load, config: Any, peft: Any) -> None:
    net = lambda: nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))  # noqa: E731
    layers = [2 * 6 * 64, 2 * 64 * 64, 2 * 64 * 3]
    plain = float(3 * sum(layers) - layers[0])
    loaded = recounted(replace(load(model=net), flops_per_sample=plain), config({"model.lora_rank": 1}))
    assert loaded.flops_per_sample < 0.8 * plain
    assert loaded.evaluation_flops > sum(layers) * loaded.validation.n


def test_adapters_are_refused_for_what_has_no_layers_for_them(pictures: Pictures, peft: Any) -> None:
    assert "no linear layer before its last" in refusal(pictures(plain_net), model__lora_rank=2)


# ------------------------------------------------------------------------------------------------------------ conflicts


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"model.drop_path_ramp": 0.5}, "nothing to ramp"),
        ({"model.drop_path_ramp": 0.5, "model.drop_path": 0.0}, "nothing to ramp"),
        ({"model.drop_path_ramp": 0.5, "model.drop_path": 0.1, "compile.mode": "default"}, "at every step"),
        ({"model.lora_rank": 2, "model.init": "zero_residual"}, "keeps the weights"),
        ({"model.lora_rank": 2, "precision.dtype": "float8"}, "the same layers"),
    ],
)
def test_settings_that_exclude_each_other(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        with_params(TrainerConfig(), params)


def test_all_conflicts_are_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        with_params(TrainerConfig(), {"model.drop_path_ramp": 0.5, "model.lora_rank": 2, "model.init": "whitening"})
    assert "nothing to ramp" in caught.value.message
    assert "keeps the weights" in caught.value.message


# ----------------------------------------------------------------------------------------------------- every setting


NEW: list[dict[str, Any]] = [
    {"precision.dtype": "bf16"},
    {"precision.dtype": "fp16"},
    {"precision.dtype": "float8"},
    {"precision.matmul": "high"},
    {"memory.format": "channels_last"},
    {"memory.checkpointing": "selective"},
    {"memory.checkpointing": "full", "model.drop_path": 0.2},
    {"memory.offload": "host"},
    {"memory.offload": "disk", "memory.format": "channels_last"},
    {"model.init": "zero_residual"},
    {"model.init": "whitening"},
    {"model.freeze": 0.5},
    {"model.drop_path": 0.2},
    {"model.drop_path": 0.2, "model.drop_path_ramp": 0.9},
    {"regularize.dropout": 0.3},
    {"compile.mode": "reduce-overhead"},
    {"system.threads": 2},
    {"system.cudnn_benchmark": True},
    {"system.attention": "math"},
    {"system.attention": "flash", "memory.checkpointing": "full"},
    {"system.attention": "efficient"},
]
REFUSED_ON_CPU = {"float8", "high", "host", "reduce-overhead", True, "efficient"}
NO_PLACE = {
    "test_resnet": ["zero_residual", "math", "flash"],
    "test_vit": ["channels_last", "whitening"],
    "test_efficientnet": ["zero_residual", 0.2, "math", "flash"],
}
"""Values that a model has no use for, whatever else is set."""


@pytest.mark.parametrize("params", NEW, ids=lambda p: " ".join(map(str, p.values())))
@pytest.mark.parametrize("name", NO_PLACE)
def test_every_setting_trains_or_is_refused_with_the_reason(
    run: Any, larger: Pictures, name: str, params: dict[str, Any]
) -> None:
    """Two steps, the same twice; the trained weights load into a fresh model."""
    loaded = larger(of_timm(name, **(VIT if name == "test_vit" else {})))
    steps = {"batch.size": 6, "horizon.steps": 2, "evaluate.every_samples": 12}
    try:
        done, again = run({**steps, **params}, loaded), run({**steps, **params}, loaded)
    except UsageError as refused:
        assert any(f"{path} {value!r}: " in refused.message for path, value in params.items())
        assert set(params.values()) & REFUSED_ON_CPU or set(params.values()) & set(NO_PLACE[name])
        return
    assert not set(params.values()) & REFUSED_ON_CPU
    assert done.ended.outcome == "finished", done.ended.message
    assert done.seen == again.seen
    assert torch.equal(done.weights, again.weights)
    loaded.task.model().load_state_dict(done.model.state_dict())


# ----------------------------------------------------------------------------------------------------------------- look


def test_what_gets_through_a_module(pictures: Pictures) -> None:
    loaded = pictures(transformer)
    model = transformer()
    block = model[2][0]
    assert isinstance(block, Layers)
    given = arguments(loaded, model, [block, block.mlp])
    assert tells_apart(output(block, given[block]))
    nn.init.zeros_(block.mlp[2].weight)
    assert not tells_apart(output(block.mlp, given[block.mlp]))
    assert tells_apart(output(block, given[block]))
