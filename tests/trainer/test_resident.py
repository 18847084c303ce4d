"""What data and long trainings cost in memory, measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

RESIDENT = """
import json, resource
import numpy as np, psutil, torch
from autoaccel.trainer.data import load_split

N, SIDE = 40_000, 64

class Images(torch.utils.data.Dataset):
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return torch.full((1, SIDE, SIDE), i % 251, dtype=torch.uint8), i % 10

load_split(Images(64), "train", torch.device("cpu"))  # what is imported on the way is not the data's cost
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, peak_before = psutil.Process().memory_info().rss, peak()
split = load_split(Images(N), "train", torch.device("cpu"))
after = psutil.Process().memory_info().rss
print(json.dumps({
    "bytes": sum(t.nbytes for t in split.tensors), "kept": after - before, "peak": peak() - max(before, peak_before),
    "right": bool((split.tensors[0][:, 0, 0, 0] == torch.arange(N) % 251).all())}))
"""

LONG = """
import json
import psutil, torch
from autoaccel.config import TrainerConfig, with_params
from autoaccel.tasks.digits import digits
from autoaccel.trainer.build import load_data
from autoaccel.trainer.run import run_training
from autoaccel.trial import TrialSpec

loaded, rss = load_data(digits(), torch.device("cpu")), []
params = {"batch.size": 128, "horizon.samples": 50 * loaded.train.n, "evaluate.every_samples": loaded.train.n}
spec = TrialSpec(1, "train", with_params(TrainerConfig(), params))
ended, _ = run_training(loaded, spec, report=lambda _: rss.append(psutil.Process().memory_info().rss))
print(json.dumps({"outcome": ended.outcome, "rss": rss}))
"""


def measured(script: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_resident_data_cost_at_most_a_tenth_more_than_their_compact_size_also_while_they_are_read() -> None:
    found = measured(RESIDENT)
    assert found["right"]
    assert found["bytes"] == 40_000 * (64 * 64 + 8)
    assert found["kept"] <= 1.1 * found["bytes"]  # type: ignore[operator]
    assert found["peak"] <= 1.1 * found["bytes"]  # type: ignore[operator]


def test_memory_is_flat_over_fifty_epochs() -> None:
    found = measured(LONG)
    rss = found["rss"]
    assert found["outcome"] == "finished" and isinstance(rss, list) and len(rss) == 50
    assert max(rss[10:]) - rss[9] < 8 * 2**20
