"""One thing to measure in a process of its own, as some machine: python -m benchmarks.transfer.study FILE.

FILE holds the assignment as JSON and is replaced by the result. The machine is made by what this process and its
children may use. Must not know how answers are compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from autoaccel.clock import process_start

Document = dict[str, Any]


def become(machine: Document) -> None:
    """Use only so many cores and threads, this process and what it starts; before torch is loaded anywhere."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: machine["cores"]])
    os.environ["OMP_NUM_THREADS"] = str(machine["threads"])


def tune(told: Document, began_s: float) -> Document:
    """A study that uses all of its budget."""
    from autoaccel import api
    from autoaccel.budget import Budget
    from benchmarks.live.study import task_of

    result = api.tune(
        task_of(told["task"], told["data"]),
        budget=Budget(seconds=float(told["budget_s"])),
        target=told["target"],
        run_dir=told["run"],
        seed=told["seed"],
        use_library=False,
        use_all_budget=True,
        fresh=True,
        progress=False,
        began_s=began_s,
    )
    return _answer(result)


def tune_again(told: Document, began_s: float) -> Document:
    """The finished study tuned again; the change of the machine has to be found."""
    from autoaccel.budget import Budget
    from autoaccel.retuning import retune_run
    from benchmarks.live.study import task_of

    task = task_of(told["task"], told["data"])
    found = retune_run(
        told["run"],
        task=None if isinstance(task, str) else task,
        budget=Budget(seconds=float(told["budget_s"])),
        if_changed=True,
        fresh=True,
        progress=False,
        began_s=began_s,
    )
    if found.tuned is None:
        raise RuntimeError("the change of the machine was not found")
    return {**_answer(found.tuned), "change": found.change.to_json(), "past": found.tuned.summary["past"]}


def unchanged(told: Document, began_s: float) -> Document:
    """The command on the machine of the study, several times: exit codes and seconds."""
    del began_s
    command = [sys.executable, "-m", "autoaccel", "retune", told["run"], "--if-changed", "--json"]
    codes, seconds = [], []
    for _ in range(told["calls"]):
        start = perf_counter()
        codes.append(subprocess.run(command, capture_output=True, check=False).returncode)
        seconds.append(perf_counter() - start)
    return {"codes": codes, "seconds": seconds}


def judge_answers(told: Document, began_s: float) -> Document:
    """All answers on the same fresh seeds, in turns."""
    del began_s
    from autoaccel.config import from_dict
    from autoaccel.trial import Target
    from benchmarks.live.judge import full_training_s, judge, judge_round
    from benchmarks.live.study import source_of

    with judge(source_of(told["task"], told["data"])) as judging:
        target = Target(told["target"], judging.facts["direction"], judging.facts["metric"])
        full_s = full_training_s(judging, told["full_trainings"], told["seeds"][0])
        answers = {name: from_dict(config) for name, config in told["answers"].items()}
        cap_s = told["penalty_trainings"] * full_s
        return {"full_s": full_s, "judged": judge_round(judging, answers, target, told["seeds"], cap_s)}


WORK = {"before": tune, "scratch": tune, "again": tune_again, "unchanged": unchanged, "judge": judge_answers}


def _answer(result: Any) -> Document:
    from autoaccel.config import to_dict

    kept = ("target_met", "attempts", "hits", "time_to_target_s", "n_trials", "tuning_s", "search_ended")
    return {"answer": to_dict(result.config), **{key: result.summary[key] for key in kept}}


def main() -> None:
    began_s = process_start()
    file = Path(sys.argv[1])
    told = json.loads(file.read_text())
    become(told["machine"])
    file.write_text(json.dumps({**told, **WORK[told["arm"]](told, began_s)}))


if __name__ == "__main__":
    main()
