"""The command line without a worker: every message of the bad-input list, frozen options, exit codes.

Real runs are in `test_cli_runs.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from autoaccel.cli import app
from autoaccel.config import ConfigFile, TrainerConfig, save_config
from autoaccel.search.interrupt import Interrupt
from autoaccel.shell import signal_code


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty directory with a plain terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("FORCE_COLOR", "NO_COLOR", "AUTOACCEL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, in this process: for what ends before a worker is started."""
    found = CliRunner().invoke(app, list(arguments))
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout, found.stderr


# ------------------------------------------------------------------------------------------------------------- options


def test_the_options_are_these() -> None:
    """A knob is never a flag; whoever adds an option adds it here too."""
    verbs = {
        name: [" ".join(p.opts) for p in verb.params]
        for name, verb in get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    assert verbs == {
        "tune": [
            "task",
            "--budget",
            "--target",
            "--model",
            "--data",
            "--text",
            "--table",
            "--label",
            "--image-size",
            "--context",
            "--metric",
            "--pretrained",
            "--weights",
            "--out",
            "--space",
            "--fix",
            "--seed",
            "--hit-probability",
            "--devices",
            "--trials-at-once",
            "--executor",
            "--ray-address",
            "--ray-resources",
            "--use-all-budget",
            "--no-library",
            "--storage",
            "--resume",
            "--fresh",
            "--dry-run",
            "--json",
            "--no-progress",
            "--verbose -v",
        ],
        "train": ["config", "--task", "--target", "--seed", "--out", "--resume", "--json", "--verbose -v"],
        "profile": ["task", "--cached", "--json", "--verbose -v"],
        "status": ["run", "--library", "--json", "--verbose -v"],
        "doctor": ["--json", "--verbose -v"],
        "retune": [
            "run",
            "--budget",
            "--if-changed",
            "--unchanged-ok",
            "--out",
            "--fresh",
            "--json",
            "--no-progress",
            "--verbose -v",
        ],
        "schedule": ["run", "--every", "--as", "--budget", "--install", "--image", "--claim", "--verbose -v"],
    }


@pytest.mark.parametrize("verb", ["", "tune", "train", "profile", "status", "doctor", "retune", "schedule"])
def test_every_verb_has_help(verb: str) -> None:
    code, out, _ = run(*filter(None, [verb]), "--help")
    assert code == 0 and "Usage:" in out


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autoaccel", "tune", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "--use-all-budget" in done.stdout


# ----------------------------------------------------------------------------------------------------------- bad input

NOT_A_TASK = "task = 3\n"
DIGITS = ("tune", "digits")
IMAGES = ("tune", "--model", "timm:resnet18", "--data", "none")


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        # the budget
        ((*DIGITS, "--budget", ""), "budget '': empty", "Accepted forms: 90m, 2h"),
        ((*DIGITS, "--budget", "90"), "budget '90': no unit; did you mean 90s or 90m?", "Accepted forms"),
        ((*DIGITS, "--budget", "2:30"), "budget '2:30': ambiguous; did you mean 2h30m or 2m30s?", "Accepted forms"),
        ((*DIGITS, "--budget", "-5m"), "budget '-5m': a budget cannot be negative", "Accepted forms"),
        ((*DIGITS, "--budget=-5m"), "budget '-5m': a budget cannot be negative", "Accepted forms"),
        ((*DIGITS, "--budget", "1h1h"), "budget '1h1h': unit 'h' repeated or out of order", "Write each unit once"),
        ((*DIGITS, "--budget", "1M"), "budget '1M': 'M' is ambiguous; write m for minutes", "Accepted forms"),
        ((*DIGITS, "--budget", "5 GFLOP/s"), "budget '5 GFLOP/s': this is a rate; a budget is an amount", "Accepted"),
        ((*DIGITS, "--budget", "nan"), "budget 'nan': must be a finite amount", "Accepted forms"),
        (DIGITS, "no budget", "--budget 60s, or budget = '2h' in autoaccel.toml"),
        # the task
        (("tune", "digit", "--budget", "9s"), "unknown task 'digit'", "Did you mean 'digits'?"),
        (("tune", "mnist", "--budget", "9s"), "unknown task 'mnist'", "Your own: path/to/file.py:name"),
        (("tune", "nothing.py:task", "--budget", "9s"), "task 'nothing.py:task': no file", "Check the path"),
        (("tune", "nothing.py:", "--budget", "9s"), "expected file.py:name or package.module:name", "Name one object"),
        (("profile", "digit"), "unknown task 'digit'", "Did you mean 'digits'?"),
        # a task from data
        (("tune", "--data", "none", "--budget", "9s"), "--data without --model", "Add --model: timm:NAME."),
        ((*DIGITS, "--model", "mlp", "--budget", "9s"), "both the task 'digits' and --model", "Give one of them"),
        (("tune", "--model", "timm:resnet18", "--budget", "9s"), "--model timm:resnet18 without --data", "Say what"),
        ((*IMAGES, "--budget", "9s"), "task 'resnet18-none' has no target", "--target VALUE (accuracy)"),
        ((*IMAGES, "--target", "1", "--budget", "9s"), "/none: no such file or folder", "Check the path"),
        ((*IMAGES, "--context", "9", "--budget", "9s"), "--context: not an option of --model timm:resnet18", "--data"),
        ((*IMAGES, "--resume", "old"), "--model, --data: --resume takes its settings from the run", "Leave them"),
        (("profile", "mlp?table=none.csv&label=y"), "--table none.csv: no such file", "Check the path"),
        # the search
        ((*DIGITS, "--budget", "9s", "--fix", "optim.rl=1"), "--fix 'optim.rl=1': unknown setting", "'optim.lr'"),
        ((*DIGITS, "--budget", "9s", "--fix", "optim.lr"), "--fix 'optim.lr': expected PATH=VALUE", "For example"),
        ((*DIGITS, "--budget", "9s", "--fix", "optim.lr=fast"), "optim.lr: expected a number", ""),
        ((*DIGITS, "--budget", "9s", "--fix", "optim.name=adam"), "optim.name: expected 'adamw', 'sgd'", "adamw"),
        ((*DIGITS, "--budget", "9s", "--fix", "schedule.warmup=2"), "schedule.warmup: 2.0 is not between", "Set"),
        ((*DIGITS, "--budget", "9s", "--seed", "-1"), "seed -1: not a whole number from 0 to 999", "--seed 0"),
        ((*DIGITS, "--budget", "9s", "--hit-probability", "1"), "hit probability 1.0: not between 0 and 1", "0.9"),
        ((*DIGITS, "--budget", "9s", "--hit-probability", "nan"), "hit probability nan: not between 0 and 1", "0.9"),
        # what typer finds
        ((*DIGITS, "--budget", "9s", "--target", "high"), "Invalid value for '--target'", ""),
        ((*DIGITS, "--budgett", "9s"), "No such option: --budgett", ""),
        # a database
        ((*DIGITS, "--budget", "9s", "--storage", "secret"), "storage: not the URL of a database", "postgresql://user"),
        ((*DIGITS, "--budget", "9s", "--storage", "what://x"), "storage what://x: Can't load plugin", "Install its"),
        (("tune", "--resume", "old", "--storage", "sqlite:///x"), "--storage: --resume takes its", "Leave them"),
        # a run directory
        ((*DIGITS, "--budget", "9s", "--out", "old"), "old: holds another run", "--fresh to replace it"),
        (("tune", "--resume", "none"), "none: no run to resume", "Give the directory of a run"),
        (("tune", "--resume", "old", "--seed", "1"), "--seed: --resume takes its settings from the run", "Leave"),
        (
            ("tune", "--resume", "old", "--no-library"),
            "--no-library: --resume takes its settings from the run",
            "Leave",
        ),
        (("tune", "--resume", "old", "--budget", "9s"), "budget '9s': does not begin with '+'", "--budget +2h"),
        (("tune", "--resume", "old", "--budget", "+9x"), "budget '9x': not understood at '9x'", "Accepted forms"),
        (("tune", "--resume", "old", "--budget", "+9 trials"), "the run's budget is 9s, another kind", "Extend what"),
        ((*DIGITS, "--budget", "+2h"), "budget '+2h': '+' extends a run: use it with --resume", "Accepted forms"),
        ((*DIGITS, "--budget", "9s", "--devices", "0"), "devices 0: not a whole number from 1 to", "--devices 2"),
        (
            (*DIGITS, "--budget", "9s", "--devices", "2", "--trials-at-once", "3"),
            "trials_at_once 3 on 2 devices: not the same number on each",
            "Use a multiple of 2",
        ),
        ((*DIGITS, "--budget", "9s", "--executor", "rya"), "unknown executor 'rya'", "Did you mean 'ray'?"),
        (
            (*DIGITS, "--budget", "9s", "--ray-address", "auto"),
            "ray_address with the executor 'local'",
            "--executor ray",
        ),
        (
            (*DIGITS, "--budget", "9s", "--executor", "ray", "--ray-resources", "CPU"),
            "--ray-resources 'CPU': expected NAME=AMOUNT",
            "--ray-resources CPU=4",
        ),
        (("tune", "--resume", "old", "--devices", "2"), "--devices: --resume takes its settings from the run", "Leave"),
        (("tune", "x.py:y", "--resume", "old", "--fresh"), "TASK, --fresh: --resume takes its settings", "Leave them"),
        (
            ("tune", "--resume", "old", "--out", "new", "--dry-run"),
            "--out, --dry-run: --resume takes its",
            "Leave them",
        ),
        (("tune", "--resume", "spoilt"), "job.json.colour: unknown key 'colour'", ""),
        (("status", "none"), "none: no run here", "Give the directory of a run"),
        (("status",), "status: a run or --library", "Give one of them"),
        (("status", "old", "--library"), "status: a run or --library", "Give one of them"),
        # a run to tune again
        (("retune", "none"), "none: no run here (no job.json)", "Give the directory of a finished run"),
        (("retune", "old"), "old: the run is not finished", "autoaccel tune --resume old"),
        (("schedule", "old"), "old: the run is not finished", "autoaccel tune --resume old"),
        (("schedule", "old", "--as", "corn"), "--as 'corn': no such form", "Did you mean 'cron'?"),
        (("schedule", "old", "--claim", "x"), "--image and --claim are not for --as systemd", "--as k8s"),
        (("train", "old"), "old: the run is not finished", "autoaccel tune --resume old"),
        # a config
        (("train", "none.json"), "none.json: cannot be read", "Give the path of a config.json"),
        (("train", "old/job.json"), "old/job.json: not an autoaccel config file", "best/config.json"),
        (("train", "config.json"), "config.json: was tuned for a task given as an object", "--task file.py:name"),
        (("train", "target.json"), "target.json: target.valeu: unknown key 'valeu'", "Did you mean 'value'?"),
    ],
)
def test_wrong_input_ends_with_exit_2_before_training(
    elsewhere: Path, arguments: tuple[str, ...], what: str, fix: str
) -> None:
    complete = {"budget": "9s", "task": "digits", "space": "minimal", "seed": 0, "hit_probability": 0.9}
    for name, body in (("old", complete), ("spoilt", {"colour": 1})):
        (elsewhere / name).mkdir()
        (elsewhere / name / "job.json").write_text(json.dumps(body))
        (elsewhere / name / "ledger.jsonl").touch()
    save_config(elsewhere / "config.json", ConfigFile(TrainerConfig()))
    save_config(elsewhere / "target.json", ConfigFile(TrainerConfig(), "digits", {"valeu": 0.9}))
    before = sorted(p for p in elsewhere.rglob("*"))
    code, out, err = run(*arguments)
    assert code == 2, err
    assert out == ""
    assert what in err and fix in err and "Traceback" not in err
    assert sorted(p for p in elsewhere.rglob("*")) == before, "wrong input left something behind"


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ('buget = "2h"\n', "autoaccel.toml:1: buget: unknown key 'buget'", "Did you mean 'budget'?"),
        ("budget = 90\n", "autoaccel.toml:1: budget: expected text, got 90", "Change the value's type"),
        ('budget = "90"\n', "autoaccel.toml:1: budget: budget '90': no unit", "Accepted forms"),
        ('task = 3\nbudget = "9s"\n', "autoaccel.toml:1: task: expected text, got 3", "Change the value's type"),
        ("budget = \n", "autoaccel.toml: Invalid value", "Fix the TOML syntax"),
        ('model = "mlp"\nbudget = "9s"\n', "--model mlp without --table, --label", "Say what to train it on"),
        ('image_size = "big"\n', "autoaccel.toml:1: image_size: expected a whole number, got 'big'", "type"),
        ('modle = "mlp"\n', "autoaccel.toml:1: modle: unknown key 'modle'", "Did you mean 'model'?"),
        ('budget = "9s"\nspace = "minimall"\n', "unknown search space 'minimall'", "Did you mean 'minimal'?"),
    ],
)
def test_a_wrong_job_file_ends_with_exit_2(elsewhere: Path, text: str, what: str, fix: str) -> None:
    (elsewhere / "autoaccel.toml").write_text(text)
    code, out, err = run("tune")
    assert (code, out) == (2, ""), err
    assert what in err and fix in err and "Traceback" not in err


def test_a_traceback_is_shown_on_request_and_changes_no_exit_code() -> None:
    code, _, err = run("tune", "digits", "--budget", "90", "--verbose")
    assert code == 2 and "Traceback" in err and "no unit" in err


def test_a_message_cannot_drive_the_terminal() -> None:
    _, _, err = run("tune", "a[/b]\x1b[2J\x07.py:x", "--budget", "9s")
    assert "a[/b]?[2J?.py" in err and "\x1b" not in err


def test_the_warning_of_a_batch_system_has_the_exit_code_that_says_try_again() -> None:
    assert [signal_code(int(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == [130, 143, 75]
    before = signal.getsignal(signal.SIGUSR1)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupt() and interrupt.signal == signal.SIGUSR1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == before


# -------------------------------------------------------------------------------------------------- what already exists


def test_the_state_of_a_run_is_told_without_a_worker(elsewhere: Path) -> None:
    (elsewhere / "runs").mkdir()
    (elsewhere / "runs/ledger.jsonl").touch()
    (elsewhere / "runs/job.json").write_text(json.dumps({"task": "a\x1b[2J", "budget": "9s"}))
    code, out, _ = run("status", "runs", "--json")
    document = json.loads(out)
    assert (code, document["state"], document["n_trials"], document["result"]) == (0, "interrupted", 0, None)
    code, out, _ = run("status", "runs")
    assert code == 0 and "a?[2J" in out and "\x1b" not in out


def test_a_dry_run_says_what_the_budget_buys(monkeypatch: pytest.MonkeyPatch) -> None:
    import autoaccel.api

    document = {"text": "buys about 8", "decided": {"precision.dtype": "slower"}, "budget": "20s"}
    monkeypatch.setattr(autoaccel.api, "dry_run", lambda job, began_s: document)
    assert run("tune", "digits", "--budget", "20s", "--dry-run")[:2] == (0, "buys about 8\nprecision.dtype: slower\n")
    code, out, _ = run("tune", "digits", "--budget", "20s", "--dry-run", "--json")
    assert (code, json.loads(out)) == (0, {"decided": {"precision.dtype": "slower"}, "budget": "20s"})


@pytest.mark.parametrize(
    ("outcome", "code"), [("hit", 0), ("finished", 0), ("missed", 3), ("diverged", 5), ("oom", 5), ("crashed", 5)]
)
def test_training_once_has_an_exit_code_for_every_end(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, code: int
) -> None:
    import autoaccel.training
    from autoaccel.trial import Report

    def train(reference: str, config: TrainerConfig, **settings: Any) -> Any:
        assert (reference, config.seed, settings["target"].value) == ("digits", 5, 0.9)
        settings["report"](Report(1, 0.5, 10, 1, 1.0, 0.9, 0.3))
        return autoaccel.training.TrainResult(outcome, 0.5, None, None, (), None, "a\x1b[2J")  # type: ignore[arg-type]

    monkeypatch.setattr(autoaccel.training, "train", train)
    monkeypatch.setattr("autoaccel.execution.local.quiet_threads", lambda: None)
    target = {"value": 0.9, "direction": "max", "metric": "accuracy"}
    save_config(elsewhere / "config.json", ConfigFile(TrainerConfig(), "digits", target))
    found, out, err = run("train", "config.json", "--seed", "5")
    assert (found, out) == (code, f"{outcome} after 0.50s: metric - a?[2J\n")
    assert "step 1 0.50s metric 0.9000 loss 0.3000" in err
    found, out, _ = run("train", "config.json", "--seed", "5", "--json")
    assert (found, json.loads(out)["outcome"], json.loads(out)["seed"]) == (code, outcome, 5)
