"""python -m benchmarks.techniques [--quick] [--json] [--seeds 5] [--seconds 8]: each technique alone, at equal time.

For every seed the baseline and every technique train for the same seconds, annealed by elapsed time, one after another
in a random order, the baseline again after every fifth. Resumes where it was ended (`results/trainings.jsonl`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.fingerprint import digest
from autoaccel.trainer.build import build, default_device, load_data
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.run import run_training
from autoaccel.trial import TrialSpec
from benchmarks.document import print_document, render_block, write_document
from benchmarks.options import parser
from benchmarks.techniques.rows import ROWS, Row
from benchmarks.techniques.workloads import images, text

HERE = Path(__file__).parent
NOTES = HERE / "results" / "trainings.jsonl"
WORKLOADS = {"images": images, "text": text}
BASELINE_EVERY = 5
"""Techniques between two trainings of the baseline: what the machine does meanwhile reaches both."""


@dataclass(frozen=True)
class Training:
    """One training to be run, or that was."""

    workload: str
    name: str
    seed: int
    seconds: float
    params: dict[str, Any]
    turn: int = 0
    """Which of the baseline's trainings of this seed."""

    @property
    def key(self) -> str:
        return digest([self.workload, self.name, self.seed, self.seconds, self.params, self.turn])


def main() -> None:
    command = parser("techniques", __doc__, quick="2 seeds of 2 seconds: whether everything runs", keeps=False)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--seconds", type=float, default=8.0, help="of every training")
    options = command.parse_args()
    seeds, seconds = (2, 2.0) if options.quick else (options.seeds, options.seconds)
    found, refused = _measured(range(seeds), seconds)
    rows = [_row(row, found, refused) for row in ROWS]
    effects = [row for row in rows if row["metric_difference"] is not None]
    figures = {
        "techniques": len(rows),
        "measured": len(effects),
        "not_applicable_here": sum(row["why_not"] is not None for row in rows),
        "better": sum(row["verdict"] == "better" for row in rows),
        "worse": sum(row["verdict"] == "worse" for row in rows),
        "seconds_of_a_training": seconds,
    }
    body = {"figures": figures, "rows": rows}
    document = write_document(HERE, "techniques", seeds=list(range(seeds)), quick=options.quick, body=body)
    if not options.quick:
        render_block(HERE / "README.md", "verdicts", _table(rows))
    print_document(document, options.json)


def _measured(seeds: range, seconds: float) -> tuple[list[tuple[Training, dict[str, Any]]], dict[str, str]]:
    """Every training with what it gave; and of what cannot be used here, by name, why not."""
    torch.set_num_threads(1)
    known = {line["key"]: line for line in map(json.loads, NOTES.read_text().splitlines())} if NOTES.is_file() else {}
    loaded = {name: load_data(make(), default_device()) for name, make in WORKLOADS.items()}
    refused: dict[str, str] = {}
    for row in ROWS:
        try:
            build(loaded[row.workload], _config(_params(row), 0, seconds))
        except UsageError as error:
            refused[row.name] = "; ".join(error.message.split("\n  "))
    planned = [training for seed in seeds for training in _round(seed, seconds, refused)]
    missing = [training for training in planned if training.key not in known]
    NOTES.parent.mkdir(exist_ok=True)
    for index, training in enumerate(missing):
        line = _train(loaded[training.workload], training)
        known[training.key] = line
        with NOTES.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        print(f"{index + 1}/{len(missing)} seed {training.seed} {training.name}: {line['value']}", file=sys.stderr)
    return [(training, known[training.key]) for training in planned], refused


def _train(loaded: LoadedTask, training: Training) -> dict[str, Any]:
    config = _config(training.params, training.seed, training.seconds)
    ended, _ = run_training(loaded, TrialSpec(1, "train", config), report=lambda _: None)
    better = ended.value if loaded.task.metric_direction == "max" or ended.value is None else -ended.value
    step_s = ended.elapsed_s / ended.steps if ended.steps else None
    line = {"key": training.key, "outcome": ended.outcome, "value": ended.value, "better": better, "step_s": step_s}
    return {**line, "steps": ended.steps, "elapsed_s": ended.elapsed_s, "message": ended.message}


def _round(seed: int, seconds: float, refused: dict[str, str]) -> Iterator[Training]:
    """All trainings of one seed: techniques in a random order, baselines between them."""
    rows = [row for row in ROWS if row.name not in refused]
    order = np.random.default_rng([seed, 1]).permutation(len(rows))
    for turn, index in enumerate(order):
        row = rows[index]
        if turn % BASELINE_EVERY == 0:
            for workload, beside in _baselines():
                yield Training(workload, "baseline", seed, seconds, beside, turn // BASELINE_EVERY)
        yield Training(row.workload, row.name, seed, seconds, _params(row))


def _baselines() -> list[tuple[str, dict[str, Any]]]:
    """Workload and settings of every baseline that some technique is compared with, each once."""
    found: list[tuple[str, dict[str, Any]]] = []
    for row in ROWS:
        if (row.workload, row.beside) not in found:
            found.append((row.workload, row.beside))
    return found


def _params(row: Row) -> dict[str, Any]:
    return {**row.beside, **row.change}


def _config(params: dict[str, Any], seed: int, seconds: float) -> TrainerConfig:
    start = {"horizon.seconds": seconds, "evaluate.every_samples": 10**9, "seed": seed}
    return with_params(TrainerConfig(), {**RECIPE, **start, **params})


RECIPE: dict[str, Any] = {
    "batch.size": 64,
    "optim.lr": 3e-3,
    "optim.weight_decay": 0.01,
    "schedule.name": "linear",
    "schedule.warmup": 0.05,
}
"""AdamW, annealed linearly: what every technique is added to."""


def _row(row: Row, found: list[tuple[Training, dict[str, Any]]], refused: dict[str, str]) -> dict[str, Any]:
    """Effects of one technique, paired by seed, with 95 % intervals."""
    base = {"technique": row.name, "family": row.family, "workload": row.workload, "change": row.change}
    if row.name in refused:
        return {**base, **NOTHING, "verdict": "not applicable here", "why_not": refused[row.name]}
    arms = {t.seed: line for t, line in found if t.name == row.name}
    failed = [line["outcome"] for line in arms.values() if line["outcome"] != "finished"]
    if failed:
        return {**base, **NOTHING, "verdict": f"failed in {len(failed)} of {len(arms)} ({failed[0]})", "why_not": None}
    against = {
        seed: [
            x
            for t, x in found
            if (t.name, t.workload, t.params, t.seed) == ("baseline", row.workload, row.beside, seed)
        ]
        for seed in arms
    }
    ratios = [arms[s]["step_s"] / np.mean([x["step_s"] for x in against[s]]) for s in arms]
    differences = [arms[s]["better"] - np.mean([x["better"] for x in against[s]]) for s in arms]
    ratio, ratio_interval = interval(np.log(ratios))
    gain, gain_interval = interval(np.array(differences))
    verdict = "better" if gain_interval[0] > 0 else "worse" if gain_interval[1] < 0 else "no difference shown"
    return {
        **base,
        "step_ratio": float(np.exp(ratio)),
        "step_interval": [float(np.exp(x)) for x in ratio_interval],
        "metric_difference": gain,
        "metric_interval": gain_interval,
        "verdict": verdict,
        "why_not": None,
    }


NOTHING: dict[str, Any] = dict.fromkeys(("step_ratio", "step_interval", "metric_difference", "metric_interval"))


def interval(values: np.ndarray) -> tuple[float, list[float]]:
    """Mean and 95 % interval by Student's t; of a single value, that value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, [mean, mean]
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, [mean - half, mean + half]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| technique | family | task | seconds per step | metric | verdict |", "|---|---|---|---|---|---|"]
    for row in rows:
        name = f"| {row['technique']} | {row['family']} | {row['workload']} "
        if row["step_ratio"] is None:
            lines.append(f"{name}| | | {row['verdict']}{': ' + row['why_not'] if row['why_not'] else ''} |")
            continue
        (low, high), (worst, best) = row["step_interval"], row["metric_interval"]
        lines.append(
            f"{name}| {row['step_ratio']:.2f}x [{low:.2f}, {high:.2f}] "
            f"| {row['metric_difference']:+.3f} [{worst:+.3f}, {best:+.3f}] | {row['verdict']} |"
        )
    return lines


if __name__ == "__main__":
    main()
