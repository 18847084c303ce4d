"""The trainer benchmark: contestants compute the same, blocks are timed where they should be, figures are right."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoaccel.trainer.techniques.precision import same_products
from benchmarks.dialogue import Child, FailedError
from benchmarks.parts import Document, keep, kept
from benchmarks.search.problems.data import VARIABLE
from benchmarks.trainer import children as processes
from benchmarks.trainer import cifar10_94, probe
from benchmarks.trainer.__main__ import HERE, PROTOCOL, table_of
from benchmarks.trainer.children import children, environment, left_out, named
from benchmarks.trainer.contestant import CONTESTANTS, VARIANTS
from benchmarks.trainer.figures import figures, rows_of
from benchmarks.trainer.rounds import (
    OURS,
    Seconds,
    contestants_of,
    file_of,
    key_of,
    plan_of,
    run_round,
    sources_digest,
)
from benchmarks.trainer.workloads import IMAGES, MODELS, image_arrays, seeded_model, text_arrays

PLAN = plan_of(PROTOCOL, quick=False)
PEERS = [name for name, contestant in CONTESTANTS.items() if contestant.is_peer]
N_STEPS, BATCH, N_SAMPLES = 20, 4, 50

# --------------------------------------------------------------------------------------------- what contestants compute


def request(workload: str, folder: Path, **more: Any) -> Document:
    """A small training: fewer samples than are drawn, so that epochs end on the way."""
    rng = np.random.default_rng(1)
    if workload == "char_transformer":
        codes = rng.integers(0, 65, (N_SAMPLES, 17))
        inputs, targets = codes[:, :-1], codes[:, 1:]
    else:
        inputs = rng.integers(0, 256, (N_SAMPLES, 3, 32, 32), dtype=np.uint8)
        targets = rng.integers(0, 10, N_SAMPLES)
    file = folder / f"{workload}.npz"
    np.savez(file, inputs=inputs, targets=targets)
    recipe = {**PROTOCOL["workloads"][workload]["recipe"], "batch": BATCH}
    return {"workload": workload, "data": str(file), "recipe": recipe, "n_steps": N_STEPS, **more}


def answer(child: Child, told: Document) -> Document:
    child.tell(told)
    return child.hear()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Document]]:
    """What our trainer did on each workload."""
    folder = tmp_path_factory.mktemp("ours")
    with children([OURS]) as started:
        yield {name: answer(started[OURS], request(name, folder, checked=True)) for name in MODELS}


@pytest.mark.parametrize("name", ["bare", *(peer for peer in PEERS if not CONTESTANTS[peer].whole_batches)])
def test_all_contestants_compute_the_same(name: str, ours: dict[str, Document], tmp_path: Path) -> None:
    if name in left_out():
        pytest.skip(left_out()[name])
    workloads = [workload for workload in MODELS if name in PROTOCOL["workloads"][workload]["contestants"]]
    forms = [False, True] if CONTESTANTS[name].is_peer else [False]
    with children([name]) as started:
        for workload, whole in itertools.product(workloads, forms):
            mine = ours[workload]
            told = request(workload, tmp_path, checked=True, order=mine["order"], whole_batches=whole)
            theirs = answer(started[name], told)
            assert len(theirs["losses"]) == len(mine["losses"]) == N_STEPS
            assert [mine["order"][i] for i in theirs["order"]] == mine["order"], "the same samples in the same order"
            np.testing.assert_allclose(theirs["losses"], mine["losses"], rtol=1e-4)
            np.testing.assert_allclose(theirs["moved"], mine["moved"], rtol=1e-2, atol=1e-6)
        check_blocks(started[name], tmp_path)


@pytest.mark.parametrize("name", ["ours_tf32", "ours_bf16", "ours_channels_last"])
def test_rows_of_a_gpu_train_what_ours_trains(name: str, ours: dict[str, Document], tmp_path: Path) -> None:
    """Those that a CPU can run: on the same samples, from the same weights; later rounding drives them apart."""
    if name == "ours_tf32" and same_products(torch.device("cpu"), "high"):
        pytest.skip(same_products(torch.device("cpu"), "high"))
    with children([name]) as started:
        for workload in ["small_cnn"] if name == "ours_bf16" else MODELS:  # CPUs may emulate bf16, 25 times slower
            theirs = answer(started[name], request(workload, tmp_path, checked=True))
            assert theirs["order"] == ours[workload]["order"] and np.isfinite(theirs["losses"]).all()
            np.testing.assert_allclose(theirs["losses"][:1], ours[workload]["losses"][:1], rtol=0.02)


def test_our_training_waits_between_blocks_as_well(tmp_path: Path) -> None:
    with children([OURS]) as started:
        check_blocks(started[OURS], tmp_path)


def check_blocks(child: Child, folder: Path) -> None:
    """A training that is ended on the way leaves a process that can do another."""
    for _ in range(2):
        child.tell({**request("small_cnn", folder), "n_steps": 1000})
        blocks = [answer(child, {"warm": 1, "steps": 2}) for _ in range(2)]
        assert all(block["wall_s"] > 0 and block["cpu_s"] > 0 for block in blocks)
        assert answer(child, {}) == {"over": True}


def test_what_we_compute_is_the_recipe(ours: dict[str, Document]) -> None:
    for name, mine in ours.items():
        first = mine["order"][:N_SAMPLES]
        assert sorted(first) == list(range(N_SAMPLES)) != first, "every sample once, shuffled"
        assert min(mine["moved"]) > 0, name
        chance = np.log(65 if name == "char_transformer" else 10)
        assert mine["losses"][0] == pytest.approx(chance, rel=0.1)


def test_weights_are_the_same_at_every_call_and_leave_other_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = seeded_model("small_cnn"), seeded_model("small_cnn")
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_contestant_that_fails_says_why(tmp_path: Path) -> None:
    with children(["bare"]) as started:
        started["bare"].tell(request("small_cnn", tmp_path) | {"workload": "no such"})
        with pytest.raises(FailedError, match=r"bare: .*no such"), named("bare"):
            started["bare"].hear()


# ------------------------------------------------------------------------------------------------------------ the clock


def test_a_block_is_timed_after_its_warm_steps_and_ends_with_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(probe, "_now", lambda device: (now[0], now[0] / 2))
    asked = iter([(2, 3), (0, 1), None])
    answers: list[tuple[int, float, float]] = []
    steps = probe.blocks(lambda: next(asked), lambda *seconds: answers.append((n, *seconds)), torch.device("cpu"))
    n = 0
    with pytest.raises(probe.Over):
        for n in range(100):
            next(steps)
            now[0] += 10.0**n  # this step's time
    assert answers == [(5, 11100.0, 5550.0), (6, 100000.0, 50000.0)]
    assert n == 6


def test_only_training_is_seen() -> None:
    seen: list[torch.Tensor] = []
    model = probe.Probe(torch.nn.Linear(2, 1), lambda inputs, outputs: seen.append(outputs))
    model.eval()(torch.ones(1, 2))
    assert not seen
    out = model.train()(torch.ones(1, 2))
    assert len(seen) == 1 and torch.equal(seen[0], out)


# ----------------------------------------------------------------------------------------------------- rounds and pairs


def test_sides_and_contestants_take_turns() -> None:
    workload, ran = PLAN.workloads[0], []

    def block(name: str) -> Seconds:
        ran.append(name)
        return (1.0, 0.5) if name == OURS else (2.0, 3.0)

    pairs = [run_round(workload, index, ["a", "b", "c"], block) for index in range(6)]
    quads = ["".join(name[0] for name in ran[at : at + 4]) for at in range(0, len(ran), 4)]
    assert quads[:6] == ["oaao", "boob", "occo", "boob", "occo", "aooa"]
    for name in "abc":
        assert sum(q == f"o{name}{name}o" for q in quads) == sum(q == f"{name}oo{name}" for q in quads) == 3
    assert {p["contestant"]: p["other_s"] for p in pairs[0]} == {"a": 4.0, "b": 4.0, "c": 4.0}
    assert pairs[0][0]["ours_s"] == 2.0 and pairs[0][0]["other_cpu_s"] == 6.0
    assert pairs[0][0]["steps"] == 2 * workload.steps


def test_a_round_is_kept_for_the_conditions_it_was_measured_under(tmp_path: Path) -> None:
    workload = PLAN.workloads[0]
    key, file = key_of(workload, ["bare"], {"torch": "1"}), file_of(tmp_path, workload, 3)
    assert kept(file, key) is None
    keep(file, key, {"pairs": [{"ours_s": 1.0}]})
    assert (kept(file, key) or {})["pairs"] == [{"ours_s": 1.0}]
    assert kept(file, key_of(workload, ["bare"], {"torch": "2"})) is None
    assert kept(file, key_of(workload, ["bare", "timm"], {"torch": "1"})) is None
    (tmp_path / "a.py").write_text("1")
    before = sources_digest(tmp_path)
    (tmp_path / "a.py").write_text("2")
    assert sources_digest(tmp_path) != before


def test_peers_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_is_installed", lambda package: package != "accelerate")
    absent = left_out()
    assert absent["huggingface"] == "accelerate not installed"
    assert "lightning" not in absent and "timm" not in absent
    named = contestants_of(PROTOCOL, "char_transformer", absent)
    assert "lightning" in named and "huggingface_whole_batches" not in named


def test_everybody_has_one_thread_and_ours_what_its_workers_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    for name in CONTESTANTS:
        assert environment(name)["OMP_NUM_THREADS"] == environment(name)["MKL_NUM_THREADS"] == "1"
    assert "MALLOC_TRIM_THRESHOLD_" in environment("bare_keeps_memory")
    assert "MALLOC_TRIM_THRESHOLD_" not in environment("bare")


# -------------------------------------------------------------------------------------------------------------- figures


def pairs_of(workload: str, contestant: str, ratios: list[float]) -> list[Document]:
    told = {"workload": workload, "contestant": contestant, "batch": 8, "steps": 10}
    return [{**told, "ours_s": 2.0, "other_s": 2.0 * r, "ours_cpu_s": 1.0, "other_cpu_s": r} for r in ratios]


def test_a_row_is_the_median_pair_with_its_interval() -> None:
    (row,) = rows_of(pairs_of("small_cnn", "bare", [1.1, 1.0, 1.2, 1.1, 50.0]))
    assert row["ratio"] == pytest.approx(1.1) == row["cpu_ratio"]
    assert row["low"] == pytest.approx(1.0) and row["high"] >= 1.2
    assert row["ours_samples_per_s"] == 40.0 and row["samples_per_s"] == pytest.approx(40 / 1.1)


def test_figures_are_bounds_against_the_hardest_rival_of_each_workload() -> None:
    peers = {"light": True, "face": True, "timm": True, "light_whole": False}
    pairs = []
    for workload, ratio in {"small_cnn": 1.0, "small_vit": 0.9}.items():
        pairs += pairs_of(workload, "bare", [ratio] * 5)
        for name, more in {"light": 1.5, "face": 1.4, "timm": 1.2, "light_whole": 1.1}.items():
            pairs += pairs_of(workload, name, [ratio * more] * 5)
    found = figures(rows_of(pairs), ["small_cnn", "small_vit"], peers)
    assert found["vs_bare_min"] == pytest.approx(0.9)
    assert found["vs_fastest_peer_min"] == pytest.approx(0.99)
    assert found["vs_median_peer_small_cnn"] == pytest.approx(1.4)
    assert found["fastest_peer_small_vit"] == "light_whole"
    without = figures([r for r in rows_of(pairs) if r["contestant"] != "face"], ["small_cnn", "small_vit"], peers)
    assert without["vs_median_peer_small_cnn"] == pytest.approx(1.2), "of two in the middle the faster one"


def test_a_variant_of_ours_is_told_as_a_speed_up() -> None:
    found = figures(rows_of(pairs_of("cifar_net", "ours_bf16", [0.5])), ["small_vit"], {}, ["ours_bf16"])
    assert found["gpu_bf16_speedup"] == 2.0


def test_what_was_not_measured_is_null() -> None:
    workloads = [workload.name for workload in PLAN.workloads]
    variants = ["ours_bf16"]
    empty = figures([], workloads, dict.fromkeys(PEERS, True), variants)
    assert set(empty.values()) == {None}
    some = figures(rows_of(pairs_of("small_cnn", "bare", [1.0])), workloads, dict.fromkeys(PEERS, True), variants)
    assert some["vs_bare_min"] is None and some.keys() == empty.keys()
    assert table_of([]) == ["not measured"]


# ---------------------------------------------------------------------------------------------------- data and protocol


def test_plain_and_encoded_images_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    padded = np.concatenate([images, np.zeros((2, 32, 32, 3), np.uint8)])
    mosaics = {}
    for index, block in enumerate((padded[:8], padded[8:])):  # rows of four tiles
        picture = np.concatenate([np.concatenate(list(row), axis=1) for row in block.reshape(-1, 4, 32, 32, 3)])
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "png")
        mosaics[f"train_{index:04}"] = np.frombuffer(encoded.getvalue(), np.uint8)
    folders = {"plain": {"x_train": images}, "mosaic": {**mosaics, "tile": np.array([32, 32, 3, 4])}}
    for name, arrays in folders.items():
        file = tmp_path / name / Path(*IMAGES)
        file.parent.mkdir(parents=True)
        np.savez(file, y_train=np.arange(10, dtype=np.uint8), **arrays)
        monkeypatch.setenv(VARIABLE, str(tmp_path / name))
        read = image_arrays()
        assert not read["synthetic"] and read["targets"].dtype == np.int64
        np.testing.assert_array_equal(read["inputs"], images.transpose(0, 3, 1, 2))


def test_absent_data_is_made_up_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for arrays, kind in ((image_arrays(20), np.uint8), (text_arrays(20), np.int64)):
        assert arrays["synthetic"] and len(arrays["inputs"]) == len(arrays["targets"]) == 20
        assert arrays["inputs"].dtype == kind
    windows = text_arrays(3)
    np.testing.assert_array_equal(windows["inputs"][:, 1:], windows["targets"][:, :-1])


def test_workloads_of_a_gpu_are_left_out_without_one() -> None:
    there = {w.name for w in plan_of(PROTOCOL, quick=False, has_gpu=True).workloads} - {w.name for w in PLAN.workloads}
    assert there == {"cifar_net"}


def test_seconds_to_94_percent_count_the_misses() -> None:
    row = {"seed": 0, "accuracy": 0.9, "seconds": 3.0, "hit": True}
    found = cifar10_94.figures([row, {**row, "hit": False}])
    assert found == {"cifar10_94_s": 6.0, "cifar10_94_hit_share": 0.5}
    assert cifar10_94.figures([]) == {"cifar10_94_s": None, "cifar10_94_hit_share": None}


def test_the_recipe_for_94_percent_builds_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / Path(*IMAGES)
    file.parent.mkdir(parents=True)
    arrays = {f"x_{part}": rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for part, n in (("train", 64), ("test", 32))}
    np.savez(file, **arrays, y_train=rng.integers(0, 10, 64), y_test=rng.integers(0, 10, 32))
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    short = {"batch.size": 16, "horizon.samples": 64, "evaluate.every_samples": 64}
    monkeypatch.setattr(cifar10_94, "PARAMS", {**cifar10_94.PARAMS, **short})
    monkeypatch.setattr(cifar10_94, "SEEDS", range(1))
    cifar10_94.measure(tmp_path, {"torch": "a"})
    (row,) = cifar10_94.kept(tmp_path, {"torch": "a"})
    assert 0 <= row["accuracy"] <= 1 and row["seconds"] > row["setup_s"] > 0
    assert cifar10_94.kept(tmp_path, {"torch": "b"}) == [], "measured under other conditions"
    monkeypatch.setattr(
        cifar10_94, "PARAMS", {**cifar10_94.PARAMS, "optim.lr": 1e30, "regularize.label_smoothing": 0.0}
    )
    with pytest.raises(RuntimeError, match="diverged"):
        cifar10_94.measure(tmp_path, {"torch": "a"})


def test_the_protocol_is_complete() -> None:
    assert PROTOCOL["workloads"].keys() == MODELS.keys()
    for name, told in PROTOCOL["workloads"].items():
        peers = [peer for peer in PEERS if "timm" not in peer or name != "char_transformer"]
        assert {"bare", *peers} <= set(told["contestants"]) <= set(CONTESTANTS)
        said = f"{sum(p.numel() for p in seeded_model(name).parameters()):,} parameters"
        assert "parameters" not in told["model"] or said in told["model"]
    described = set(PROTOCOL["contestants"])
    named = {name.replace("_whole_batches", "") for name in CONTESTANTS if name not in VARIANTS}
    assert described == {*named, "*_whole_batches", "ours_*"}
    assert PROTOCOL["bars"] == {"vs_bare_min": 0.97, "vs_fastest_peer_min": 0.97, "vs_median_peer_small_cnn": 1.3}
    assert PLAN.rounds >= 30 and plan_of(PROTOCOL, quick=True).rounds < PLAN.rounds
    text = (HERE / "README.md").read_text()
    assert all(f"<!-- {block}: {end} -->" in text for block in ("table", "ratios") for end in ("begin", "end"))
    assert json.loads((HERE / "protocol.json").read_text()) == PROTOCOL
