"""The verbs that keep a finished run right: retune and schedule. Parse, call, print, exit code.

Whether anything has changed is said without loading the tuner, so heavy imports happen inside.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoaccel.clock import process_start
from autoaccel.shell import EXIT_UNCHANGED, Json, Verbose, console, guard, print_document, tuned_code

if TYPE_CHECKING:
    from autoaccel.retune.schedule import Plan
    from autoaccel.retuning import Retuning


def retune(  # noqa: PLR0913 - the options of one verb
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    budget: Annotated[str | None, typer.Option(help="As in tune; default: 15 % of the run's own.")] = None,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="Exit 10 at once unless the hardware, torch or the driver has changed.")
    ] = False,
    unchanged_ok: Annotated[
        bool, typer.Option("--unchanged-ok", help="Exit 0 instead of 10, for what takes any other code for a failure.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Run directory; default: a folder in RUN for this machine.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an earlier re-tuning.")] = False,
    as_json: Json = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No live view and no lines.")] = False,
    verbose: Verbose = False,
) -> None:
    """Tune a finished run again for this machine, from what it learned."""
    began_s = process_start()

    def tune_again() -> int:
        from autoaccel.retuning import retune_run

        found = retune_run(
            run,
            budget=budget,
            if_changed=if_changed,
            out=out,
            fresh=fresh,
            progress=not no_progress,
            began_s=began_s,
        )
        _print_retuning(found, as_json)
        if found.tuned is None:
            return 0 if unchanged_ok else EXIT_UNCHANGED
        return tuned_code(found.tuned.target_met, found.tuned.signal, found.tuned.run_dir)

    guard(tune_again, verbose)


def schedule(  # noqa: PLR0913 - the options of one verb
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    every: Annotated[str, typer.Option(help="hourly, daily, weekly or monthly.")] = "weekly",
    form: Annotated[str, typer.Option("--as", help="systemd, cron, k8s or slurm.")] = "systemd",
    budget: Annotated[str | None, typer.Option(help="What a re-tuning may take; default: 15 % of the run's.")] = None,
    install: Annotated[bool, typer.Option("--install", help="Put it in place: your own systemd or crontab.")] = False,
    image: Annotated[str, typer.Option(help="k8s: an image with autoaccel and the task.")] = "",
    claim: Annotated[str, typer.Option(help="k8s: the PersistentVolumeClaim that holds the run.")] = "",
    verbose: Verbose = False,
) -> None:
    """Print units that tune a run again, on a schedule, where the hardware has changed."""

    def show() -> int:
        from autoaccel.retune.schedule import FORMS
        from autoaccel.retuning import plan_of

        plan = plan_of(run, every, form, budget, image=image, claim=claim)
        if install:
            return _install(plan, form)
        print(FORMS[form](plan), end="")
        return 0

    guard(show, verbose)


def _install(plan: Plan, form: str) -> int:
    from autoaccel.errors import UsageError
    from autoaccel.retune.install import install_cron, install_systemd
    from autoaccel.retune.schedule import cron_line, systemd_units

    if form == "systemd":
        print(*install_systemd(systemd_units(plan)), sep="\n")
        print("timers of yours run while you are logged in; always: loginctl enable-linger", file=sys.stderr)
    elif form == "cron":
        install_cron(cron_line(plan))
        print(cron_line(plan), end="")
    else:
        way = "| kubectl apply -f -" if form == "k8s" else f"> {plan.run}/retune.sbatch, then sbatch it"
        raise UsageError(f"--install does not work with --as {form}", f"Print it: autoaccel schedule ... {way}")
    return 0


def _print_retuning(found: Retuning, as_json: bool) -> None:
    from autoaccel.report.progress import plain, seconds

    print(plain(f"since the run: {found.change}"), file=sys.stderr)
    if as_json:
        print_document(found.to_json())
    elif found.tuned is not None:
        from autoaccel.report.terminal import print_summary

        print_summary(console(), found.tuned.summary, str(found.run_dir))
    else:
        again = found.again
        how = f" (trained again: {seconds(again.ert_s)}, {again.hits}/{again.attempts} hits)" if again else ""
        print(plain(f"nothing to do: the answer still holds{how}"), plain(f"config: {found.config_file}"), sep="\n")
