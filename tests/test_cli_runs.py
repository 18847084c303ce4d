"""Real runs of the command line, from the first to the last line: each trains the digits task in a process of its own,
as a user would.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from autoaccel.config import ConfigFile, from_dict, keras_recipe, load_config, save_config, to_params, with_params
from autoaccel.cost.drift import corrected
from autoaccel.search.question import MIN_CONFIRMATIONS
from autoaccel.search.transfer import SECONDS_ALONE
from autoaccel.storage_url import StorageUrl
from autoaccel.store.ledger import read_ledger, records
from autoaccel.store.library import FEWEST, study_id, trainings_of
from autoaccel.store.shared import close_storage, open_storage
from autoaccel.trial import CONFIRMING, SEARCHING
from tests.kits.patience import eventually
from tests.kits.postgresql import postgresql
from tests.test_cli import run

ROOT = Path(__file__).resolve().parent.parent
TRAINED = (*SEARCHING, *CONFIRMING)
STALLED_S = 10
"""A busy machine may hold up the driver's last words so long; that budgets are kept is shown in simulated time."""


class Command:
    """autoaccel in a process of its own; `workers` are the processes it and its like have started."""

    def __init__(self, folder: Path, cache: Path, *arguments: str) -> None:
        self._mark = str(folder)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autoaccel.cli", *arguments],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "COLUMNS": "200",
                "AUTOACCEL_CACHE_DIR": str(cache),
                "AUTOACCEL_MARK": self._mark,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=280)
        return self.process.returncode, out, err

    def read_until(self, words: str) -> list[str]:
        """Lines of the progress up to the first one with these words."""
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if words in line:
                return lines
        raise AssertionError(f"ended without {words!r}:\n{''.join(lines)}")

    def workers(self) -> list[psutil.Process]:
        return marked(self._mark)


def marked(folder: str) -> list[psutil.Process]:
    """Processes that commands in a folder have started."""
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get("AUTOACCEL_MARK", "")
            if f"{mark}/".startswith(f"{folder}/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hardware is measured once for all real runs."""
    return tmp_path_factory.mktemp("cache")


def real(folder: Path, cache: Path, *arguments: str) -> tuple[int, str, str]:
    with Command(folder, cache, *arguments) as command:
        return command.finish()


def trained(folder: Path) -> list[dict[str, Any]]:
    """Trials in a run's ledger that were trainings, in order, as plain JSON."""
    entries, _ = read_ledger(folder / "ledger.jsonl")
    return [r.to_json() for r in records(entries) if r.spec.purpose in TRAINED]


def assert_consistent(document: dict[str, Any], folder: Path) -> None:
    """The numbers of result.json fit each other, the ledger and the config that was written."""
    assert json.loads((folder / "result.json").read_text()) == document
    entries, _ = read_ledger(folder / "ledger.jsonl")
    done = [r for r in corrected(records(entries)) if r.spec.purpose in TRAINED]
    config = load_config(folder / "best/config.json")
    of_answer = [r for r in done if r.spec.config and r.spec.config.identity == config.identity]
    mine = [r for r in of_answer if r.spec.trial in document["trials"]]
    assert len(mine) == len(document["trials"]) == document["attempts"]
    purposes = {r.spec.purpose for r in mine} or {"confirm"}
    # Nothing was selected by the baseline's first training, which counts where there are few fresh ones.
    assert purposes <= {"confirm"} or (document["answer_is_baseline"] and purposes <= {"baseline", "confirm_baseline"})
    missing = [r for r in of_answer if r.spec.purpose in purposes and r not in mine]
    assert not any(r.is_attempt for r in missing), "no attempt may be left out"
    longest_s = max((r.ended.elapsed_s for r in missing), default=0.0)
    cut = [r for r in mine if not r.is_attempt]
    assert all(r.ended.outcome == "capped" and r.ended.elapsed_s >= longest_s for r in cut), "only the long ones count"
    assert document["config"] == to_params(config)
    assert document["hits"] == sum(r.hit for r in mine)
    assert document["n_trials"] == len(done) == sum(document["outcomes"].values())
    assert document["flops"] == pytest.approx(sum(r.ended.flops for r in records(entries)))
    if document["attempts"]:
        low, high = document["hit_rate_interval"]
        assert low <= document["hit_rate"] == document["hits"] / document["attempts"] <= high
    assert document["n_slowed"] == sum(r.slowdown > 1 for r in mine)
    assert (document["drift"] is not None) == any(r.slowdown > 1 for r in done), "this machine may be a busy one"
    if document["hits"]:
        assert document["time_to_target_s"] == pytest.approx(sum(r.ended.elapsed_s for r in mine) / document["hits"])
    met = document["attempts"] >= MIN_CONFIRMATIONS and document["hit_rate"] >= 0.9
    assert document["target_met"] == met


@pytest.mark.slow
def test_tuning_digits_prints_one_document_that_agrees_with_itself(tmp_path: Path, cache: Path, library: Path) -> None:
    code, out, err = real(tmp_path, cache, "tune", "--budget", "30s", "--json", "--out", "run")
    document = json.loads(out)
    assert code == (0 if document["target_met"] else 3), err
    assert_consistent(document, tmp_path / "run")
    assert document["task"] == "digits" and document["budget_s"] == 30
    assert document["tuning_s"] <= 30 + STALLED_S
    assert document["past"] == {"trainings": 0, "studies": 0, "notes": [], "not_kept": ""}
    worth = trainings_of("", records(read_ledger(tmp_path / "run" / "ledger.jsonl")[0]))
    n_kept = len(list(library.glob("studies/*/*.jsonl")))
    is_kept = sum(t.purpose in SEARCHING for t in worth) >= FEWEST or document["target_met"]
    assert n_kept == is_kept, "the next study of digits has no past"
    assert trained(tmp_path / "run")[0]["spec"]["purpose"] == "baseline"
    assert "no task given and no autoaccel.toml here: using the built-in digits task" in err
    numbers = re.findall(r"trial +(\d+) ", err)
    assert numbers and len(set(numbers)) == len(numbers) == document["n_trials"]
    code, out, err = run("status", str(tmp_path / "run"))
    assert code == 0 and "digits: " in out and "What each setting did" in out
    code, out, err = real(tmp_path, cache, "train", "run/best/config.json", "--seed", "7", "--json")
    assert json.loads(out)["outcome"] == {0: "hit", 3: "missed"}[code], err
    code, _, err = run("tune", "digits", "--budget", "30s", "--out", str(tmp_path / "run"))
    assert code == 2 and "holds another run" in err


@pytest.mark.slow
def test_an_unreachable_target_ends_with_exit_3_and_a_labelled_best_effort(tmp_path: Path, cache: Path) -> None:
    words = ("tune", "digits", "--budget", "30s", "--target", "0.9999", "--out", "run", "--no-progress")
    code, out, err = real(tmp_path, cache, *words)
    assert (code, err) == (3, "")
    assert "NOT CONFIRMED" in out and "best seen" in out
    document = json.loads((tmp_path / "run/result.json").read_text())
    assert_consistent(document, tmp_path / "run")
    assert not document["target_met"] and document["attempts"] == 0 and document["best_value_seen"] > 0.5
    assert document["search_ended"]
    assert (document["extrapolation"] is None) == ("EXTRAPOLATED" not in out)
    assert document["tuning_s"] <= 30 + STALLED_S


@pytest.mark.slow
def test_a_run_survives_ctrl_c_and_kill_9(tmp_path: Path, cache: Path) -> None:
    budget = ("--budget", "30 trials", "--out", "run", "--json")
    with Command(tmp_path, cache, "tune", "digits", *budget) as first:
        first.read_until("race")
        first.process.send_signal(signal.SIGINT)
        code, out, err = first.finish()
        assert code == 130 and eventually(lambda: not first.workers()), err
    assert json.loads(out)["interrupted"] and "continue with: autoaccel tune --resume run" in err
    assert_consistent(json.loads(out), tmp_path / "run")
    before = trained(tmp_path / "run")

    with Command(tmp_path, cache, "tune", "--resume", "run") as second:
        shown = second.read_until("race")
        second.process.kill()
        second.process.wait()
        assert eventually(lambda: not second.workers()), "kill -9 left a worker behind"
    assert not [row for row in shown if f"trial {before[-1]['spec']['trial']:>4} " in row], "an old trial shown as new"
    middle = trained(tmp_path / "run")
    assert middle[: len(before)] == before and len(middle) > len(before)

    code, out, err = real(tmp_path, cache, "tune", "--resume", "run", "--json")
    assert code in (0, 3), err
    done = trained(tmp_path / "run")
    assert done[: len(middle)] == middle
    numbers = [r["spec"]["trial"] for r in done]
    assert numbers == sorted(set(numbers)) and len(numbers) == 30
    assert [r["ended"]["outcome"] for r in done].count("interrupted") <= 1
    assert_consistent(json.loads(out), tmp_path / "run")

    again, text, _ = real(tmp_path, cache, "tune", "--resume", "run", "--json")
    told, first_told = json.loads(text), json.loads(out)
    changed = {k: (told[k], first_told[k]) for k in told | first_told if told[k] != first_told[k]}
    assert again == code and changed.keys() <= {"finished_at", "tuning_s"}, f"a finished run has its answer: {changed}"


@pytest.mark.slow
def test_a_finished_run_is_tuned_again_only_where_the_machine_has_changed(tmp_path: Path, cache: Path) -> None:
    words = ("--if-changed", "--json", "--no-progress")
    code, out, err = real(tmp_path, cache, "tune", "digits", "--budget", "16 trials", "--out", "run", "--json")
    assert code in (0, 3), err
    before = json.loads(out)
    code, out, err = real(tmp_path, cache, "retune", "run", *words)
    assert (code, json.loads(out)["retuned"], err) == (10, False, "since the run: nothing has changed\n")

    hardware = json.loads((tmp_path / "run/hardware.json").read_text())
    hardware["machine"]["usable_cores"] += 1
    (tmp_path / "run/hardware.json").write_text(json.dumps(hardware))
    code, line, err = real(tmp_path, cache, "schedule", "run", "--as", "cron", "--budget", "10 trials")
    assert code == 0, err
    command = line.split(" ", 5)[5].replace("\\%", "%")
    for _ in range(2):  # as cron calls it, twice: one re-tuning
        bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AUTOACCEL_MARK": str(tmp_path)}
        subprocess.run(["/bin/sh", "-c", command], env=bare, cwd="/", check=False, timeout=280)
    log = (tmp_path / "run/retune.log").read_text()
    assert log.count("usable_cores: ") == 1 and log.count("nothing has changed") == 1, log
    [new] = (tmp_path / "run/retuned").iterdir()
    document = {"result": json.loads((new / "result.json").read_text())}
    assert "hard" in log and document["result"]["after"] == str(tmp_path / "run")
    assert_consistent(document["result"], new)
    assert document["result"]["past"]["trainings"] > 5 and document["result"]["n_trials"] == 10
    first = next(r for r in trained(new) if r["spec"]["purpose"] == "baseline")
    old = load_config(tmp_path / "run/best/config.json")
    again, answer = to_params(from_dict(first["spec"]["config"])), to_params(old)
    differs = {path for path in answer if again[path] != answer[path]}
    assert differs <= {"seed", *SECONDS_ALONE}, "the answer of the run is trained first, as this machine has it"
    assert before["config"]["optim.lr"] == old.optim.lr

    code, out, err = real(tmp_path, cache, "retune", "run", *words)
    assert (code, json.loads(out)["run"]) == (10, str(new.relative_to(tmp_path))), err
    code, out, err = real(tmp_path, cache, "retune", "run")
    assert code == 2 and "was tuned again for this machine already" in err
    code, out, err = real(tmp_path, cache, "train", "run", "--json")
    assert code in (0, 3) and f"config: {new.relative_to(tmp_path)}/best/config.json" in err

    hardware["machine"] = {**json.loads((new / "hardware.json").read_text())["machine"], "torch": "1.0"}
    (tmp_path / "run/hardware.json").write_text(json.dumps(hardware))
    shutil.rmtree(tmp_path / "run/retuned")
    code, out, err = real(tmp_path, cache, "retune", "run", "--budget", "10 trials", *words)
    document = json.loads(out)
    assert document["change"]["level"] == "soft" and document["trained_again"]["attempts"] == 5
    expected = (0 if document["result"]["target_met"] else 3) if document["retuned"] else 10
    assert code == expected, err
    kept = tmp_path / "run" / ("retuned" if document["retuned"] else "verified.json")
    assert kept.exists(), err
    assert real(tmp_path, cache, "retune", "run", *words)[0] == 10


@pytest.mark.slow
def test_a_finished_run_with_trials_at_once_is_extended(tmp_path: Path, cache: Path) -> None:
    words = ("tune", "digits", "--budget", "16 trials", "--trials-at-once", "2", "--use-all-budget", "--out", "run")
    database = f"sqlite:///{tmp_path}/studies.db"
    code, out, err = real(tmp_path, cache, *words, "--storage", database, "--json")
    assert code in (0, 3), err
    first = trained(tmp_path / "run")
    where = json.loads(out)["storage"]
    assert where["url"] == database and where["missing"] <= 3, "a busy disk may still be writing the last ones"
    assert len(first) == 16 and json.loads(out)["budget"] == "16 trials"

    code, out, err = real(tmp_path, cache, "tune", "--resume", "run", "--budget", "+8 trials", "--json")
    assert code in (0, 3), err
    done, document = trained(tmp_path / "run"), json.loads(out)
    assert done[:16] == first and len(done) == 24 and document["budget"] == "24 trials"
    assert {lesson["trial"] for lesson in document["lessons"]} <= {r["spec"]["trial"] for r in done}
    assert document["search_ended"]
    assert_consistent(document, tmp_path / "run")
    shown = optuna.load_study(study_name=where["study"], storage=database).trials
    numbers, wanted = [t.user_attrs["trial"] for t in shown], [r["spec"]["trial"] for r in done]
    assert numbers == wanted[: len(numbers)], "both sessions, each once"
    assert len(numbers) >= len(wanted) - document["storage"]["missing"] >= len(wanted) - 3
    assert len({t.user_attrs["driver"] for t in shown}) == 1


@pytest.mark.full
def test_two_tunings_share_a_study_on_a_server_that_restarts(tmp_path: Path, cache: Path) -> None:
    """200 trials; a password in the environment is found nowhere afterwards."""
    with postgresql() as server, pytest.MonkeyPatch.context() as environment:
        url = server.url.replace("tuner@", "tuner:hunter2@")
        environment.setenv("AUTOACCEL_STORAGE", url)
        words = ("tune", "digits", "--budget", "100 trials", "--use-all-budget", "--no-library", "--json", "--out")
        with Command(tmp_path, cache, *words, "a") as one, Command(tmp_path, cache, *words, "b", "--seed", "1") as two:
            for process in (one, two):
                process.read_until("race")
            server.restart()
            one.read_until("race")
            server.restart()
            threads = [Finishing(one), Finishing(two)]  # both are read to their ends: a full pipe would stop them
            for thread in threads:
                thread.join()
        results = [thread.found for thread in threads]
        documents = [json.loads(out) for code, out, err in results]
        assert {code for code, _, _ in results} <= {0, 3}, results
        assert {d["storage"]["study"] for d in documents} == {documents[0]["storage"]["study"]}, "one question"
        assert [d["storage"]["missing"] for d in documents] == [0, 0]
        storage = open_storage(StorageUrl(url))
        shown = optuna.load_study(study_name=documents[0]["storage"]["study"], storage=storage).trials
        close_storage(storage)
        found = Counter((t.user_attrs["driver"], t.user_attrs["trial"]) for t in shown)
        assert len(found) == 200 and set(found.values()) == {1}
        for name in ("a", "b"):
            driver = study_id(name, read_ledger(tmp_path / name / "ledger.jsonl")[0])
            numbers = sorted(number for who, number in found if who == driver)
            assert numbers == sorted(r["spec"]["trial"] for r in trained(tmp_path / name))
        texts = [p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file()]
        assert not [t for t in (*texts, *(out + err for _, out, err in results)) if "hunter2" in t]


class Finishing(threading.Thread):
    """Waits for a command, beside another one."""

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command = command
        self.found: tuple[int, str, str] = (-1, "", "")
        self.start()

    def run(self) -> None:
        out, err = self.command.process.communicate(timeout=900)
        self.found = self.command.process.returncode, out, err


@pytest.mark.slow
def test_a_flop_budget_is_kept_to_the_step(tmp_path: Path, cache: Path) -> None:
    code, out, err = real(tmp_path, cache, "tune", "digits", "--budget", "1e11FLOPs", "--out", "run", "--json")
    assert code in (0, 3), err
    document = json.loads(out)
    assert_consistent(document, tmp_path / "run")
    assert document["flops"] <= document["budget_flops"] == 1e11
    assert document["flops"] >= 0.5e11


@pytest.mark.slow
def test_a_folder_of_images_is_tuned_continued_and_trained(tmp_path: Path, cache: Path) -> None:
    images, labels = load_digits(n_class=2, return_X_y=True)
    for index, (image, label) in enumerate(zip(images[:200], labels[:200], strict=True)):
        folder = tmp_path / "scans" / f"digit{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15.9).astype("uint8")).save(folder / f"{index}.png")
    (tmp_path / "autoaccel.toml").write_text('data = "scans"\nimage_size = 16\ntarget = 0.9\n')
    words = ("tune", "--model", "timm:test_resnet", "--budget", "8 trials", "--out", "run", "--json")
    code, out, err = real(tmp_path, cache, *words)
    document = json.loads(out)
    assert code == (0 if document["target_met"] else 3), err
    assert_consistent(document, tmp_path / "run")
    assert document["task"] == "test_resnet-scans" and document["best_value_seen"] > 0.8
    reference = f"timm:test_resnet?data={tmp_path}/scans&image_size=16"
    assert json.loads((tmp_path / "run/job.json").read_text())["task"] == reference
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again, text, err = real(elsewhere, cache, "tune", "--resume", "../run", "--budget", "+2 trials", "--json")
    assert again in (0, 3) and json.loads(text)["n_trials"] > document["n_trials"], err
    code, out, err = real(elsewhere, cache, "train", "../run/best/config.json", "--json")
    assert json.loads(out)["outcome"] == {0: "hit", 3: "missed"}[code], err


def test_a_model_that_timm_does_not_have_ends_with_exit_2(tmp_path: Path, cache: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "scans" / label).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "scans" / label / "1.png")
    words = ("--model", "timm:resnet19", "--data", "scans", "--budget", "60s", "--target", "0.9", "--out", "run")
    code, out, err = real(tmp_path, cache, "tune", *words)
    assert (code, out) == (2, ""), err
    assert "--model timm:resnet19: timm has no such model" in err and "Did you mean timm:resnet18" in err
    assert not (tmp_path / "run").exists(), "wrong input leaves nothing behind"


def test_a_budget_below_one_trial_ends_with_exit_4_and_names_one_that_works(tmp_path: Path, cache: Path) -> None:
    code, out, err = real(tmp_path, cache, "tune", "digits", "--budget", "1s", "--out", "run")
    assert (code, out) == (4, ""), err
    assert "budget 1s is below one trial" in err and "Traceback" not in err
    assert re.search(r"The smallest that would work here is about [\dhms]+\.", err)
    assert not (tmp_path / "run").exists(), "a refused budget leaves nothing behind"


TASKS = {
    "broken": ("import torhc\n", "task 'mine.py:task': import failed: ModuleNotFoundError: No module named 'torhc'"),
    "not a task": ("task = 3\n", "task 'mine.py:task': task is a int, not a Task"),
}


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_file_that_is_wrong_ends_with_exit_2(tmp_path: Path, cache: Path, kind: str) -> None:
    text, what = TASKS[kind]
    (tmp_path / "mine.py").write_text(text)
    code, out, err = real(tmp_path, cache, "tune", "mine.py:task", "--budget", "60s", "--out", "run")
    assert (code, out) == (2, ""), err
    assert what in err and "Traceback" not in err


def test_a_target_that_is_no_ratio_ends_with_exit_2(tmp_path: Path, cache: Path) -> None:
    code, out, err = real(tmp_path, cache, "tune", "digits", "--budget", "60s", "--target", "93", "--out", "run")
    assert (code, out) == (2, ""), err
    assert "target 93: accuracy is a ratio between 0 and 1" in err and "Did you mean 0.93?" in err


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    assert eventually(lambda: not marked(str(tmp_path_factory.getbasetemp())))


def test_ctrl_c_in_train_keeps_a_checkpoint_and_a_second_training_does_not_overwrite_it(
    tmp_path: Path, cache: Path
) -> None:
    save_config(
        tmp_path / "config.json", ConfigFile(with_params(keras_recipe(1077), {"horizon.samples": 10**8}), task="digits")
    )
    with Command(tmp_path, cache, "train", "config.json", "--out", "out") as command:
        command.read_until("step ")
        command.process.send_signal(signal.SIGINT)
        code, _, err = command.finish()
    assert code == 130
    assert "--out out --resume" in err
    assert (tmp_path / "out" / "checkpoint.json").exists()
    with Command(tmp_path, cache, "train", "config.json", "--out", "out", "--seed", "5") as command:
        code, _, err = command.finish()
    assert code == 2
    assert "holds another training" in err
