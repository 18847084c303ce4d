"""Units for timers: each is read by what will read it, or by its schema, and each calls the same command."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from autoaccel.budget import Budget
from autoaccel.errors import EnvironmentFaultError, UsageError
from autoaccel.retune.install import install_cron, install_systemd
from autoaccel.retune.schedule import (
    EVERY,
    FINAL,
    FORMS,
    Plan,
    cron_line,
    kubernetes_cron_job,
    slurm_file,
    slurm_script,
    systemd_units,
)

HERE = Path(__file__).parent
PLAN = Plan(
    run=PurePosixPath("/data/runs/digits"),
    command=("/usr/bin/env", "python3", "-m", "autoaccel"),
    folder=PurePosixPath("/data"),
    every="weekly",
    budget=Budget(seconds=1080.0),
    environment={"OMP_NUM_THREADS": "2"},
)
ODD = replace(
    PLAN, run=PurePosixPath("/data/runs/50% \"odd\" $HOME 'x'; rm"), environment={"AUTOACCEL_LIBRARY": "/a b/100%$x"}
)
IN_CLUSTER = replace(PLAN, command=("autoaccel",), image="registry.example/tuner:1", claim="runs")


def test_the_names_of_units_are_fit_for_all_systems() -> None:
    names = {plan.name for plan in (PLAN, ODD, replace(PLAN, run=PurePosixPath("/other/digits")))}
    assert len(names) == 3, "runs in two folders may share their name"
    long = replace(PLAN, run=PurePosixPath("/" + "x" * 300))
    for name in (*names, long.name, replace(PLAN, run=PurePosixPath("/ü")).name):
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= 52


def test_an_interval_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="--every 'weakly': no such interval") as caught:
        replace(PLAN, every="weakly")
    assert caught.value.hint == "Did you mean 'weekly'?"


def test_a_line_break_in_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match="no place for control characters"):
        replace(PLAN, run=PurePosixPath("/a\nb"))


def test_a_run_is_stuck_after_its_budget_and_some() -> None:
    assert PLAN.limit_s == 1080 + 600
    untimed = replace(PLAN, budget=Budget(trials=8))
    assert untimed.limit_s is None
    for form, words in (("systemd", "TimeoutStartSec=1680\n"), ("slurm", "#SBATCH --time=30\n")):
        assert words in FORMS[form](PLAN) and words.split("=")[0] not in FORMS[form](untimed)
    cluster = replace(IN_CLUSTER, budget=untimed.budget)
    assert "activeDeadlineSeconds" in FORMS["k8s"](IN_CLUSTER) and "activeDeadlineSeconds" not in FORMS["k8s"](cluster)


# ------------------------------------------------------------------------------------------------------------- systemd


def verify(folder: Path, units: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What systemd says of units."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    for name, text in units.items():
        (folder / name).write_text(text)
    return subprocess.run(
        ["systemd-analyze", "verify", "--user", *(str(folder / name) for name in units)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("every", EVERY)
def test_systemd_reads_the_units(tmp_path: Path, every: str) -> None:
    plan = replace(PLAN, every=every, folder=PurePosixPath(tmp_path))
    done = verify(tmp_path, systemd_units(plan))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_reads_odd_names_and_would_say_what_is_wrong(tmp_path: Path) -> None:
    odd = replace(ODD, folder=PurePosixPath(tmp_path))
    done = verify(tmp_path, systemd_units(odd))
    assert (done.returncode, done.stderr) == (0, "")
    wrong = {name: text.replace("weekly", "weakly") for name, text in systemd_units(odd).items()}
    assert verify(tmp_path, wrong).returncode != 0


def unit_words(text: str) -> list[str]:
    """A command line of a unit as systemd splits it (systemd.service(5)): quotes, then %% and $$."""
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(text)]


@pytest.mark.parametrize("plan", [PLAN, ODD])
def test_a_service_calls_the_command_and_10_is_a_success(plan: Plan) -> None:
    service, timer = systemd_units(plan).values()
    lines = dict(line.split("=", 1) for line in service.splitlines() if "=" in line)
    assert unit_words(lines["ExecStart"]) == [*plan.command, *plan.words]
    assert plan.words[:3] == ("retune", str(plan.run), "--if-changed")
    assert (lines["Type"], lines["KillMode"], lines["TimeoutStopSec"]) == ("oneshot", "mixed", "120")
    assert lines["SuccessExitStatus"].split()[0] == "10" and lines["TimeoutStartSec"] == "1680"
    assert "Persistent=true" in timer and "OnCalendar=weekly" in timer and "RandomizedDelaySec=" in timer
    [(name, value)] = plan.environment.items()
    [word] = [w.replace("%%", "%") for w in shlex.split(lines["Environment"])]
    assert word == f"{name}={value}"


# ---------------------------------------------------------------------------------------------------------------- cron

RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def cron_fields(line: str) -> tuple[list[str], str]:
    """The time and the command of a line, as crontab(5) has them; a percent sign ends a command unless escaped."""
    *fields, command = line.rstrip("\n").split(" ", 5)
    for text, (low, high) in zip(fields, RANGES, strict=True):
        assert text == "*" or low <= int(text) <= high, f"{text!r} is not between {low} and {high}"
    assert not re.search(r"(?<!\\)%", command)
    return fields, command.replace("\\%", "%")


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("plan", [PLAN, ODD])
def test_the_line_of_a_crontab_parses(plan: Plan, every: str) -> None:
    line = cron_line(replace(plan, every=every))
    assert line.count("\n") == 1
    fields, command = cron_fields(line)
    n_fixed = {"hourly": 1, "daily": 2, "weekly": 3, "monthly": 3}[every]
    assert sum(f != "*" for f in fields) == n_fixed and int(fields[0]) == plan.minute
    assert subprocess.run(["/bin/sh", "-n", "-c", command], check=False).returncode == 0
    assert command.endswith(f" # {plan.name}")


def recorder(folder: Path, name: str, code: int = 0) -> Path:
    """A program that writes down how it was called."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f'#!/bin/sh\necho "{name}" "$@" "($PWD)" "${{OMP_NUM_THREADS-}}" >> {folder}/calls\nexit {code}\n')
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def called(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def test_cron_runs_one_at_a_time_and_keeps_what_it_says(tmp_path: Path) -> None:
    """As cron calls it: /bin/sh, hardly any environment."""
    (tmp_path / "run").mkdir()
    program = recorder(tmp_path / "bin", "autoaccel", 10)
    plan = replace(PLAN, run=PurePosixPath(tmp_path / "run"), folder=PurePosixPath(tmp_path), command=(str(program),))
    _, command = cron_fields(cron_line(plan))
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    if shutil.which("flock", path=bare["PATH"]) is None:
        pytest.skip("no flock on this machine")
    subprocess.run(["/bin/sh", "-c", command], env=bare, cwd="/", check=False)
    words = f"autoaccel retune {tmp_path}/run --if-changed --budget 18m --json ({tmp_path}) 2"
    assert called(program.parent) == [words]
    with subprocess.Popen(["flock", str(tmp_path / "run/retune.lock"), "cat"], stdin=subprocess.PIPE) as holder:
        while subprocess.run(["flock", "-n", str(tmp_path / "run/retune.lock"), "true"], check=False).returncode == 0:
            pass
        subprocess.run(["/bin/sh", "-c", command], env=bare, cwd="/", check=False)
        holder.communicate()
    assert called(program.parent) == [words], "two at once"


# ---------------------------------------------------------------------------------------------------------- Kubernetes


def problems(document: Any) -> list[str]:
    """What the schema of Kubernetes says of a CronJob."""
    jsonschema = pytest.importorskip("jsonschema", reason="no jsonschema")
    schema = json.loads((HERE / "kubernetes_cronjob.json").read_text())
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


@pytest.mark.parametrize("plan", [IN_CLUSTER, replace(IN_CLUSTER, n_gpus=1), replace(IN_CLUSTER, run=ODD.run)])
def test_the_cron_job_is_one_by_the_schema_of_kubernetes(plan: Plan) -> None:
    document = yaml.safe_load(kubernetes_cron_job(plan))
    assert problems(document) == []
    spec = document["spec"]
    job = spec["jobTemplate"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    assert container["command"] == ["autoaccel", *plan.words, "--unchanged-ok"]
    assert (spec["concurrencyPolicy"], job["backoffLimit"]) == ("Forbid", 1)
    assert job["activeDeadlineSeconds"] > 1080 + job["template"]["spec"]["terminationGracePeriodSeconds"]
    assert cron_fields(f"{spec['schedule']} x\n")[0] == cron_fields(cron_line(plan))[0]
    assert ("resources" in container) == bool(plan.n_gpus)
    [volume] = job["template"]["spec"]["volumes"]
    assert str(plan.run).startswith(container["volumeMounts"][0]["mountPath"])
    assert volume["persistentVolumeClaim"]["claimName"] == "runs"


def test_the_schema_finds_mistakes() -> None:
    document = yaml.safe_load(kubernetes_cron_job(IN_CLUSTER))
    for path, value in (("concurrencyPolicy", 3), ("colour", "red"), ("startingDeadlineSeconds", "1h")):
        assert problems({**document, "spec": {**document["spec"], path: value}})


def test_the_rules_of_kubernetes_that_no_schema_has_are_kept() -> None:
    """A policy for failures needs pods that are not restarted; its exit codes are sorted, and none of them is 0."""
    job = yaml.safe_load(kubernetes_cron_job(IN_CLUSTER))["spec"]["jobTemplate"]["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            codes = rule["onExitCodes"]["values"]
            assert codes == sorted(set(codes)) and 0 not in codes
            assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
            actions |= dict.fromkeys(codes, rule["action"])
    assert actions == {75: "Ignore", 143: "Ignore", **dict.fromkeys(FINAL, "FailJob")}


def test_a_cron_job_needs_an_image_and_a_claim() -> None:
    with pytest.raises(UsageError, match="--as k8s without --image and --claim"):
        kubernetes_cron_job(PLAN)
    with pytest.raises(UsageError, match="--as k8s without --claim"):
        kubernetes_cron_job(replace(PLAN, image="x"))


# --------------------------------------------------------------------------------------------------------------- Slurm


def run_script(tmp_path: Path, code: int, restarts: int = 0) -> tuple[int, list[str]]:
    """The batch script with programs of the same names in place of Slurm's; its exit code and what it called."""
    folder = tmp_path / f"{code}-{restarts}"
    for name, ends in (("sbatch", 0), ("srun", code), ("scontrol", 0)):
        recorder(folder, name, ends)
    plan = replace(PLAN, folder=PurePosixPath(tmp_path))
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run(["/bin/sh", "-c", slurm_script(plan)], env=environment, cwd=tmp_path, check=False)
    return done.returncode, [line.partition(" (")[0] for line in called(folder)]


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 3), (10, 0), (6, 6)])
def test_a_batch_script_submits_its_successor_and_passes_the_code_on(tmp_path: Path, code: int, expected: int) -> None:
    found, calls = run_script(tmp_path, code)
    file = slurm_file(PLAN)
    assert found == expected
    assert calls == [f"sbatch --begin=now+7days {file}", f"srun {shlex.join((*PLAN.command, *PLAN.words))}"]


def test_a_job_that_saved_its_state_is_queued_again_and_has_its_successor_already(tmp_path: Path) -> None:
    code, calls = run_script(tmp_path, 75)
    assert (code, calls[-1]) == (75, "scontrol requeue 77")
    assert [c.split()[0] for c in run_script(tmp_path, 75, restarts=1)[1]] == ["srun", "scontrol"]


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, n_gpus=1), replace(ODD, environment={})])
def test_the_options_of_a_batch_script_come_first_and_the_shell_reads_it(plan: Plan) -> None:
    text = slurm_script(plan)
    assert subprocess.run(["/bin/sh", "-n"], input=text, text=True, check=False).returncode == 0
    head, _, rest = text.partition("#SBATCH --requeue\n")
    options = dict(line.removeprefix("#SBATCH --").split("=", 1) for line in head.splitlines()[1:])
    assert "#SBATCH" not in rest and options["signal"] == "USR1@120"
    assert options["time"] == "30" and options["dependency"] == "singleton"
    assert ("gpus" in options) == bool(plan.n_gpus)


# ------------------------------------------------------------------------------------------------------------- install


def test_a_line_is_added_to_the_crontab_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table"
    program = tmp_path / "crontab"
    program.write_text(
        f'#!/bin/sh\nif test "$1" = -l; then cat {table} 2>/dev/null || exit 1; else cat > {table}; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    install_cron(cron_line(PLAN))
    assert table.read_text() == cron_line(PLAN)
    table.write_text("# mine\n\n0 0 * * * backup\n" + table.read_text())
    install_cron(cron_line(replace(PLAN, every="daily")))
    assert table.read_text() == "# mine\n\n0 0 * * * backup\n" + cron_line(replace(PLAN, every="daily"))


def test_units_are_written_and_their_timer_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder(tmp_path / "bin", "systemctl")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for _ in range(2):
        files = install_systemd(systemd_units(PLAN))
    assert {f.name: f.read_text() for f in files} == systemd_units(PLAN)
    assert files[0].parent == tmp_path / "config/systemd/user"
    calls = [line.partition(" (")[0] for line in called(tmp_path / "bin")]
    assert calls[:2] == ["systemctl --user daemon-reload", f"systemctl --user enable --now {PLAN.name}.timer"]


def test_what_cannot_be_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFaultError, match="crontab: not found on this machine") as caught:
        install_cron(cron_line(PLAN))
    assert caught.value.exit_code == 6
    recorder(tmp_path, "systemctl", 1)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(EnvironmentFaultError, match="`systemctl --user daemon-reload` failed: exit code 1"):
        install_systemd(systemd_units(PLAN))
