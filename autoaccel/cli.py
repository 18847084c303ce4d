"""The command line: parse, call the API, print, exit with the agreed code. One typed function per verb.

stdout carries the answer only; progress and messages go to stderr. Heavy imports happen inside the verbs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoaccel import cli_retune
from autoaccel.clock import process_start
from autoaccel.shell import (
    EXIT_ENVIRONMENT,
    EXIT_FAILED,
    EXIT_MISSED,
    Json,
    Verbose,
    console,
    guard,
    print_document,
    signal_code,
    tuned_code,
)

if TYPE_CHECKING:
    from rich.console import Console

    from autoaccel.job import Job

app = typer.Typer(
    help="Find the fastest way to train a model to the accuracy you need, within a budget.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)


@app.command()
def tune(  # noqa: PLR0913 - the options of one verb
    task: Annotated[
        str | None, typer.Argument(help="digits, path/to/file.py:name or package.module:name; default: autoaccel.toml")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="90m, 2h, 1e18FLOPs, 16 device-hours, 50 trials; with --resume: +2h")
    ] = None,
    target: Annotated[float | None, typer.Option(help="Metric value to reach; default: the task's own.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Make a task from data: timm:NAME, char-transformer or mlp.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Images: a folder, .npz or .parquet (timm:NAME).")] = None,
    text: Annotated[Path | None, typer.Option(help="A text file (char-transformer).")] = None,
    table: Annotated[Path | None, typer.Option(help="A .parquet or .csv file (mlp).")] = None,
    label: Annotated[str | None, typer.Option(help="The column to predict.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images; default: the commonest.")] = None,
    context: Annotated[int | None, typer.Option(help="Characters the model looks back (default 128).")] = None,
    metric: Annotated[str | None, typer.Option(help="accuracy, f1, auc, loss or perplexity, as the model has.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start from timm's weights.")] = False,
    weights: Annotated[Path | None, typer.Option(help="Start from the weights in this file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/TASK-TIME.")] = None,
    space: Annotated[str | None, typer.Option(help="Search space: a shipped name or a .toml file.")] = None,
    fix: Annotated[list[str] | None, typer.Option(help="Pin a knob: --fix optim.name=adamw. Repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search.")] = None,
    hit_probability: Annotated[float | None, typer.Option(help="Hit rate the answer needs (default 0.9).")] = None,
    devices: Annotated[int | None, typer.Option(help="GPUs, or cores where there are none, to run on.")] = None,
    trials_at_once: Annotated[int | None, typer.Option(help="Trials at once; default: one on each device.")] = None,
    executor: Annotated[str | None, typer.Option(help="Where trials run: local (default), ray or ray-tune.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="The Ray cluster's head, host:port or auto; default: a private Ray here.")
    ] = None,
    ray_resources: Annotated[
        list[str] | None, typer.Option(help="What a trial needs on Ray: --ray-resources CPU=4. Repeatable.")
    ] = None,
    use_all_budget: Annotated[
        bool, typer.Option("--use-all-budget", help="Search on when next to nothing is to be gained.")
    ] = False,
    no_library: Annotated[
        bool, typer.Option("--no-library", help="Do not start from past studies of this task, nor keep this one.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(help="Also write the study to this database while it runs: postgresql://...")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this directory; --budget +2h extends it.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the budget will buy; train nothing.")] = False,
    as_json: Json = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No live view and no lines.")] = False,
    verbose: Verbose = False,
) -> None:
    """Find the fastest configuration that reaches the target."""
    given = {
        "task": task,
        "budget": budget,
        "target": target,
        "model": model,
        "data": data,
        "text": text,
        "table": table,
        "label": label,
        "image_size": image_size,
        "context": context,
        "metric": metric,
        "pretrained": pretrained or None,
        "weights": weights,
        "space": space,
        "seed": seed,
        "hit_probability": hit_probability,
        "devices": devices,
        "trials_at_once": trials_at_once,
        "executor": executor,
        "ray_address": ray_address,
        "ray_resources": ray_resources or None,
        "use_all_budget": use_all_budget or None,
        "use_library": False if no_library else None,
        "storage": storage,
    }
    began_s = process_start()
    guard(lambda: _tune(given, fix or [], out, resume, fresh, dry_run, as_json, no_progress, began_s), verbose)


def _tune(  # noqa: PLR0913 - the options of one verb
    given: dict[str, Any],
    fix: list[str],
    out: Path | None,
    resume: Path | None,
    fresh: bool,
    dry_run: bool,
    as_json: bool,
    no_progress: bool,
    began_s: float,
) -> int:
    from autoaccel import api

    errors = console(stderr=True)
    if resume is not None:
        more, address = given.pop("budget"), given.pop("ray_address")
        also = {**given, "fix": fix or None, "out": out, "fresh": fresh or None, "dry_run": dry_run or None}
        names = {"task": "TASK", "use_library": "--no-library"}
        stray = [names.get(k, f"--{k.replace('_', '-')}") for k, v in also.items() if v is not None]
        _refuse(stray, "--resume takes its settings from the run")
        result = api.resume_run(resume, budget=more, ray_address=address, progress=not no_progress, began_s=began_s)
    else:
        job = _job(given, fix, errors)
        if dry_run:
            _refuse(["--out"] * (out is not None) + ["--fresh"] * fresh, "--dry-run writes nothing")
            return _print_plan(api.dry_run(job, began_s=began_s), as_json)
        result = api.tune(**vars(job), run_dir=out, fresh=fresh, progress=not no_progress, began_s=began_s)
    if as_json:
        print_document(result.summary)
    else:
        from autoaccel.report.terminal import print_summary

        print_summary(console(), result.summary, str(result.run_dir))
    return tuned_code(result.target_met, result.signal, result.run_dir)


@app.command()
def train(  # noqa: PLR0913 - the options of one verb
    config: Annotated[
        Path, typer.Argument(help="A config.json, or the directory of a run: its answer for this machine.")
    ],
    task: Annotated[str | None, typer.Option(help="Task; default: the one the config was tuned for.")] = None,
    target: Annotated[float | None, typer.Option(help="Stop here; default: the target it was tuned for.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of this training.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where checkpoints and weights go; default: nowhere.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in --out.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train once with a config; exit 0 if the target was reached."""
    guard(lambda: _train(config, task, target, seed, out, resume, as_json), verbose)


def _train(  # noqa: PLR0913 - the options of one verb
    path: Path, task: str | None, target: float | None, seed: int | None, out: Path | None, resume: bool, as_json: bool
) -> int:
    from dataclasses import replace

    from autoaccel import training
    from autoaccel.config import read_config_file, validated
    from autoaccel.errors import UsageError
    from autoaccel.execution.local import quiet_threads
    from autoaccel.report.progress import plain
    from autoaccel.store.run import BEST_CONFIG
    from autoaccel.trial import FAILURES, Target

    if path.is_dir():
        from autoaccel.retuning import answer_here

        path = answer_here(path) / BEST_CONFIG
        print(plain(f"config: {path}"), file=sys.stderr)
    file = read_config_file(path)
    reference = task or file.task
    if not isinstance(reference, str):
        raise UsageError(f"{path}: was tuned for a task given as an object", "Name the task: --task file.py:name.")
    goal: Target | float | None = target
    if target is None and file.target is not None:
        goal = validated(Target, file.target, lambda keys: ".".join((f"{path}: target", *keys)))
    quiet_threads()
    config = file.config if seed is None else replace(file.config, seed=seed)
    errors = console(stderr=True)
    result = training.train(
        reference,
        config,
        target=goal,
        run_dir=out,
        resume=resume,
        report=lambda r: errors.print(f"step {r.steps} {r.elapsed_s:.2f}s metric {r.value:.4f} loss {r.loss:.4f}"),
    )
    document = {
        "outcome": result.outcome,
        "elapsed_s": result.elapsed_s,
        "metric": result.value,
        "test_metric": result.test_value,
        "seed": config.seed,
        "run_dir": str(out) if out else None,
        "message": result.message,
    }
    if as_json:
        print_document(document)
    else:
        metric = "-" if result.value is None else f"{result.value:.4f}"
        print(plain(f"{result.outcome} after {result.elapsed_s:.2f}s: metric {metric} {result.message}".rstrip()))
    if result.signal is not None:
        go_on = f"; continue with: autoaccel train {path} --out {out} --resume" if out else ""
        print(f"stopped by a signal{go_on}", file=sys.stderr)
        return signal_code(result.signal)
    if result.outcome in FAILURES:
        return EXIT_FAILED
    return 0 if result.outcome in ("hit", "finished") else EXIT_MISSED


@app.command()
def profile(
    task: Annotated[str | None, typer.Argument(help="Also measure where this task's step goes.")] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Take rates of this machine measured before.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure this machine and, with a task, where its step goes and what bounds it."""

    def run() -> int:
        from autoaccel import inspection
        from autoaccel.report.terminal import print_profile

        document = inspection.profile(task, cached=cached)
        if as_json:
            print_document(document)
        else:
            print_profile(console(), document)
        return 0

    guard(run, verbose)


@app.command()
def status(
    run: Annotated[Path | None, typer.Argument(help="A run directory.")] = None,
    library: Annotated[
        bool, typer.Option("--library", help="The history of answers, for each task and machine.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Where a run is; works while it is active. Or what all runs have found."""

    def show() -> int:
        from autoaccel import inspection
        from autoaccel.errors import UsageError
        from autoaccel.report.history import history, status_rows
        from autoaccel.report.progress import plain
        from autoaccel.report.terminal import print_summary

        if (run is None) != library:
            raise UsageError("status: a run or --library", "Give one of them.")
        document = inspection.library() if run is None else inspection.status(run)
        if as_json:
            print_document(document)
            return 0
        print("\n".join(map(plain, history(document) if run is None else status_rows(document))))
        if document.get("result") is not None:
            print_summary(console(), document["result"], str(run))
        return 0

    guard(show, verbose)


@app.command()
def doctor(as_json: Json = False, verbose: Verbose = False) -> None:
    """Check that this machine can run autoaccel; exit 6 if it cannot."""

    def run() -> int:
        from autoaccel import inspection

        checks = inspection.doctor()
        if as_json:
            print_document({"checks": checks})
        else:
            print("\n".join(f"{'ok  ' if c['ok'] else 'FAIL'} {c['name']:18} {c['found']}" for c in checks))
        return 0 if all(c["ok"] for c in checks) else EXIT_ENVIRONMENT

    guard(run, verbose)


app.command()(cli_retune.retune)
app.command()(cli_retune.schedule)


def main() -> None:
    """Entry point of the `autoaccel` command."""
    app()


def _job(given: dict[str, Any], fix: list[str], errors: Console) -> Job:
    """Flags over autoaccel.toml over the built-in digits task, which is said."""
    from autoaccel.budget import parse_budget
    from autoaccel.config import parse_params
    from autoaccel.errors import UsageError
    from autoaccel.job import FILE, Job, parse_amounts, read_job_file
    from autoaccel.storage_url import VARIABLE, StorageUrl
    from autoaccel.tasks.from_data import OPTIONS, chosen_task, parsed

    settings = read_job_file(Path(FILE)) if Path(FILE).is_file() else {}
    if settings:
        errors.print(f"settings from {FILE}", highlight=False)
    task = chosen_task(settings, given)
    settings |= {k: v for k, v in given.items() if v is not None} | {"task": task}
    settings = {k: v for k, v in settings.items() if k not in OPTIONS}
    if fix:
        settings["fix"] = {**settings.get("fix", {}), **parse_params(fix)}
    if given["ray_resources"]:
        settings["ray_resources"] = parse_amounts(given["ray_resources"])
    if "budget" not in settings:
        raise UsageError("no budget", f"Say what the tuning may spend: --budget 60s, or budget = '2h' in {FILE}.")
    settings["budget"] = parse_budget(settings["budget"])
    url = given.get("storage") or os.environ.get(VARIABLE)
    if url:
        settings["storage"] = StorageUrl(url)
    made = parsed(task) if task else None
    if made is not None and settings.get("target") is None:
        raise UsageError(f"task {made.name!r} has no target", f"Give one: --target VALUE ({made.metric}).")
    if task is None:
        where = "" if Path(FILE).is_file() else f" and no {FILE} here"
        settings["task"] = "digits"
        errors.print(f"no task given{where}: using the built-in digits task", highlight=False)
    return Job(**settings)


def _refuse(flags: list[str], why: str) -> None:
    from autoaccel.errors import UsageError

    if flags:
        raise UsageError(f"{', '.join(flags)}: {why}", "Leave them out, or start a new run.")


def _print_plan(document: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_document({k: v for k, v in document.items() if k != "text"})
    else:
        decided = [f"{path}: {why}" for path, why in document["decided"].items()]
        print("\n".join([document["text"], *decided]))
    return 0


if __name__ == "__main__":
    main()
