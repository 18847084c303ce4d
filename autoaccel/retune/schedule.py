"""Units that tune a run again on a schedule: systemd, cron, Kubernetes, Slurm, as text.

Every one calls the same idempotent command, which says with exit code 10 that there is nothing to do. Pure: must not
write files or talk to any of these systems.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from autoaccel.budget import Budget
from autoaccel.errors import UsageError, did_you_mean
from autoaccel.fingerprint import digest

GRACE_S = 120
"""What a run that is told to end may take to do so, and what a batch system warns before it ends one."""
SETUP_S = 600
"""What may come on top of a budget before a run counts as stuck: waiting for a device, loading data, a soft change
that is tried out."""
UNCHANGED, PREEMPTED, TERMINATED = 10, 75, 143
FINAL = (2, 3, 4, 5)
"""Exit codes that another try would only repeat: wrong input, target missed, budget too small, every trial failed."""


@dataclass(frozen=True)
class Every:
    """How often, in the words of each system."""

    cron: str
    """Minute, hour, day of the month, month, day of the week; {minute} is the run's own."""
    systemd: str
    spread: str
    """By how much systemd delays it at random, so that machines do not all begin at once."""
    slurm: str


EVERY: dict[str, Every] = {
    "hourly": Every("{minute} * * * *", "hourly", "10min", "now+1hour"),
    "daily": Every("{minute} 3 * * *", "daily", "1h", "now+1day"),
    "weekly": Every("{minute} 3 * * 0", "weekly", "4h", "now+7days"),
    "monthly": Every("{minute} 3 1 * *", "monthly", "12h", "now+30days"),
}


@dataclass(frozen=True)
class Plan:
    """What is to be called, and where."""

    run: PurePosixPath
    """Absolute."""
    command: tuple[str, ...]
    """Everything up to `retune`, absolute: timers have no PATH to speak of."""
    folder: PurePosixPath
    """Where it is called: references to tasks and spaces may be relative to it."""
    every: str
    budget: Budget
    """What a re-tuning may take."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that change what is measured, or where it is kept. None may be a secret: units are read by others."""
    n_gpus: int = 0
    image: str = ""
    """Kubernetes: an image with autoaccel and the task in it."""
    claim: str = ""
    """Kubernetes: the PersistentVolumeClaim that holds the folder of the run."""

    def __post_init__(self) -> None:
        if self.every not in EVERY:
            raise UsageError(f"--every {self.every!r}: no such interval", did_you_mean(self.every, EVERY))
        texts = [str(self.run), str(self.folder), *self.command, *self.environment.values()]
        spoilt = next((text for text in texts if not text.isprintable()), None)
        if spoilt is not None:
            raise UsageError(f"{spoilt!r}: a unit has no place for control characters", "Rename it.")

    @property
    def name(self) -> str:
        """Of the units: the run's, fit for all systems, and a digest, since runs in two folders may share theirs."""
        kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in self.run.name.lower()).strip("-")
        return f"autoaccel-retune-{kept[:24].strip('-') or 'run'}-{digest(str(self.run), 6)}"

    @property
    def minute(self) -> int:
        """Of the hour, the run's own: not everything on the hour."""
        return int(digest(str(self.run)), 16) % 60

    @property
    def words(self) -> tuple[str, ...]:
        """What follows the command."""
        return ("retune", str(self.run), "--if-changed", "--budget", str(self.budget), "--json")

    @property
    def log(self) -> PurePosixPath:
        return self.run / "retune.log"

    @property
    def limit_s(self) -> int | None:
        """Seconds after which a run is stuck; None where the budget has no time."""
        limits = [s for s in (self.budget.seconds, self.budget.device_seconds) if s is not None]
        return math.ceil(min(limits)) + SETUP_S if limits else None

    @property
    def cron_time(self) -> str:
        return EVERY[self.every].cron.format(minute=self.minute)


def systemd_units(plan: Plan) -> dict[str, str]:
    """A service and its timer, by file name, for the user's own systemd.

    Exit code 10 is a success. An ExecCondition would show it as skipped, but it would hide errors with it: systemd
    takes every exit code of a condition but 255 for a skip.
    """
    limit = f"TimeoutStartSec={plan.limit_s}\n" if plan.limit_s is not None else ""
    environment = "".join(f"Environment={_unit_word(f'{k}={v}')}\n" for k, v in sorted(plan.environment.items()))
    # systemd would replace variables in a command; a word of the environment it takes as it is.
    command = " ".join(_unit_word(word).replace("$", "$$") for word in (*plan.command, *plan.words))
    service = f"""[Unit]
Description=Tune {_unit_text(plan.run.name)} again if the hardware has changed

[Service]
Type=oneshot
WorkingDirectory={_unit_text(str(plan.folder))}
{environment}ExecStart={command}
SuccessExitStatus={UNCHANGED} {TERMINATED}
{limit}TimeoutStopSec={GRACE_S}
KillMode=mixed
"""
    timer = f"""[Unit]
Description=Look {plan.every} whether {_unit_text(plan.run.name)} has to be tuned again

[Timer]
OnCalendar={EVERY[plan.every].systemd}
Persistent=true
RandomizedDelaySec={EVERY[plan.every].spread}

[Install]
WantedBy=timers.target
"""
    return {f"{plan.name}.service": service, f"{plan.name}.timer": timer}


def cron_line(plan: Plan) -> str:
    """One line of a crontab. `flock` keeps two from running at once; the name at its end finds the line again."""
    variables = "".join(f"{k}={shlex.quote(v)} " for k, v in sorted(plan.environment.items()))
    lock, log = shlex.quote(str(plan.run / "retune.lock")), shlex.quote(str(plan.log))
    command = f"{variables}flock -n {lock} {shlex.join((*plan.command, *plan.words))} >> {log} 2>&1"
    line = f"cd {shlex.quote(str(plan.folder))} && {command}".replace("%", "\\%")  # cron's own line break
    return f"{plan.cron_time} {line} # {plan.name}\n"


def kubernetes_cron_job(plan: Plan) -> str:
    """A CronJob (batch/v1) as YAML.

    Jobs may run twice or not at all, which does no harm here. What another try would only repeat fails at once; a pod
    that was evicted, or saved its state when it was told to end, is replaced and goes on.
    """
    import yaml

    if not plan.image or not plan.claim:
        missing = " and ".join(n for n, v in (("--image", plan.image), ("--claim", plan.claim)) if not v)
        raise UsageError(
            f"--as k8s without {missing}",
            "Name an image with autoaccel and your task in it, and the PersistentVolumeClaim that holds the run.",
        )
    gpus = {"resources": {"limits": {"nvidia.com/gpu": str(plan.n_gpus)}}} if plan.n_gpus else {}
    container = {
        "name": _CONTAINER,
        "image": plan.image,
        # No shell: it would be the process that is told to end, and would not pass that on.
        "command": [*plan.command, *plan.words, "--unchanged-ok"],
        "workingDir": str(plan.folder),
        "env": [{"name": k, "value": v} for k, v in sorted(plan.environment.items())],
        "volumeMounts": [{"name": "runs", "mountPath": str(plan.run.parent)}],
        **gpus,
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "containers": [container],
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": plan.claim}}],
    }
    evicted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    rules = [evicted, _on_exit("Ignore", (PREEMPTED, TERMINATED)), _on_exit("FailJob", FINAL)]
    limit = {"activeDeadlineSeconds": plan.limit_s + GRACE_S} if plan.limit_s is not None else {}
    job = {"backoffLimit": 1, **limit, "podFailurePolicy": {"rules": rules}, "template": {"spec": pod}}
    spec = {
        "schedule": plan.cron_time,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600,
        "jobTemplate": {"spec": job},
    }
    document = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": plan.name}, "spec": spec}
    return str(yaml.safe_dump(document, sort_keys=False, width=1000))


def slurm_script(plan: Plan) -> str:
    """A batch script that submits its successor, to be kept at `slurm_file` and submitted once.

    Slurm warns the step with SIGUSR1 before the time is over; the run then saves its state and ends with 75.
    """
    file = slurm_file(plan)
    options = {
        "job-name": plan.name,
        "chdir": str(plan.folder),
        "output": str(plan.log),
        "open-mode": "append",
        "dependency": "singleton",
        **({"time": str(math.ceil((plan.limit_s + GRACE_S) / 60))} if plan.limit_s is not None else {}),
        "signal": f"USR1@{GRACE_S}",
        **({"gpus": str(plan.n_gpus)} if plan.n_gpus else {}),
    }
    lines = "\n".join(f"#SBATCH --{name}={_slurm_value(value)}" for name, value in options.items())
    exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in sorted(plan.environment.items()))
    return f"""#!/bin/sh
{lines}
#SBATCH --requeue
# Keep this as {file} and submit it once: sbatch {shlex.quote(str(file))}
{exports}# The next one comes first, so that an error today does not end the schedule; a requeued job has one already.
if test "${{SLURM_RESTART_COUNT:-0}}" -eq 0; then
  sbatch --begin={EVERY[plan.every].slurm} {shlex.quote(str(file))} || exit 6
fi
srun {shlex.join((*plan.command, *plan.words))}
code=$?
test $code -eq {UNCHANGED} && exit 0
test $code -eq {PREEMPTED} && scontrol requeue "$SLURM_JOB_ID"
exit $code
"""


def slurm_file(plan: Plan) -> PurePosixPath:
    """Where the batch script is."""
    return plan.run / "retune.sbatch"


FORMS: dict[str, Callable[[Plan], str]] = {
    "systemd": lambda plan: "\n".join(f"# {name}\n{text}" for name, text in systemd_units(plan).items()),
    "cron": cron_line,
    "k8s": kubernetes_cron_job,
    "slurm": slurm_script,
}
"""The text of a schedule, by the system it is for."""
_CONTAINER = "retune"


def _on_exit(action: str, codes: tuple[int, ...]) -> dict[str, object]:
    return {"action": action, "onExitCodes": {"containerName": _CONTAINER, "operator": "In", "values": list(codes)}}


def _unit_text(text: str) -> str:
    """Text in a unit file: systemd would replace what follows a percent sign."""
    return text.replace("%", "%%")


def _unit_word(word: str) -> str:
    """One word of a list of words in a unit file."""
    quoted = word.replace("\\", "\\\\").replace('"', '\\"')
    return _unit_text(f'"{quoted}"' if quoted != word or not word or set(word) & set(" \t';") else word)


def _slurm_value(text: str) -> str:
    """A value of an option in a batch script; in names of files Slurm would replace what follows a percent sign."""
    escaped = text.replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped
