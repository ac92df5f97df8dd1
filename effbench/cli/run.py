"""``effbench run``: measure a sweep, print its tables and draw its plots."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effbench.cli.completion import preset_names, task_names
from effbench.cli.options import (
    LIMITS,
    MEASURING,
    OUTPUT,
    WHAT,
    Allocator,
    BatchSize,
    BatchTokens,
    Compile,
    Device,
    DModel,
    Dtype,
    Heads,
    Layers,
    Mechanisms,
    Mode,
    Scope,
    SeqLen,
    flag,
    given,
    one_of,
    value,
)
from effbench.cli.plot import draw
from effbench.cli.printing import print_blocks
from effbench.common.exits import Exit, of_run
from effbench.common.probes import PROBES
from effbench.common.spec import UsageError
from effbench.common.values import parse_bytes, parse_time_s, parse_whole
from effbench.common.wording import plural
from effbench.sweep.executor import EXECUTORS

if TYPE_CHECKING:
    from pandas import DataFrame

    from effbench.sweep.executor import Executor
    from effbench.sweep.sweep import Sweep


def run(
    context: typer.Context,
    preset: Annotated[
        str | None,
        value("NAME", "Sweep that comes with effbench. Default: quick.", WHAT, autocompletion=preset_names),
    ] = None,
    config: Annotated[Path | None, value("FILE.toml", "Your own sweep.", WHAT)] = None,
    mechanism: Mechanisms = None,
    mode: Mode = None,
    scope: Scope = None,
    probe: Annotated[str | None, value("PROBE,...", f"{', '.join(PROBES)}.", WHAT)] = None,
    task: Annotated[
        list[str] | None,
        value(
            "NAME[:option=value,...]",
            "Task to measure accuracy on; repeat the option for more.",
            WHAT,
            autocompletion=task_names,
        ),
    ] = None,
    data_dir: Annotated[Path | None, value("DIR", "Folder of the task's files.", WHAT)] = None,
    seq_len: SeqLen = None,
    batch_size: BatchSize = None,
    batch_tokens: BatchTokens = None,
    d_model: DModel = None,
    heads: Heads = None,
    layers: Layers = None,
    dtype: Dtype = None,
    device: Device = None,
    repeats: Annotated[
        str | None, value("N", "Repeats, each in a fresh process with its own seed.", MEASURING)
    ] = None,
    seconds: Annotated[
        str | None, value("TIME", "Sampling time per process. Default: 0.5s.", MEASURING)
    ] = None,
    precision: Annotated[
        str | None,
        value("SHARE", "Target error of a time within this run. Default: 5%.", MEASURING),
    ] = None,
    max_repeats: Annotated[
        str | None,
        value("N", "Maximum repeats of times that miss the target. Default: 10.", MEASURING),
    ] = None,
    threads: Annotated[
        str | None, value("N,...", "Threads of an operation. Default: all cores.", MEASURING)
    ] = None,
    allocator: Allocator = None,
    compile: Compile = None,
    seed: Annotated[
        str | None, value("N", "Seed of the order, the weights and the data. Default: 0.", MEASURING)
    ] = None,
    isolate: Annotated[
        str,
        value("HOW", "process (a fresh one per measurement) or inline (for a debugger).", MEASURING),
    ] = "process",
    timeout: Annotated[str | None, value("TIME", "Time limit of one measurement: 60s, 5m.", LIMITS)] = None,
    memory_limit: Annotated[
        str | None, value("SIZE", "Memory limit of one measurement: 8GiB.", LIMITS)
    ] = None,
    budget: Annotated[
        str | None,
        value("TIME", "Time limit of the whole run: 10m. The same command continues it.", LIMITS),
    ] = None,
    out: Annotated[Path | None, value("DIR", "Results folder. Default: results/NAME.", OUTPUT)] = None,
    resume: Annotated[
        bool,
        flag(
            "--resume/--no-resume",
            help="Keep what is already measured, or measure everything again.",
            panel=OUTPUT,
        ),
    ] = True,
    predictions: Annotated[
        bool,
        flag(
            "--predictions",
            help="Write what each trained recommender predicts into DIR/predictions.",
            panel=OUTPUT,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        flag("--dry-run", help="Print the cells and an estimate of the time; measure nothing.", panel=OUTPUT),
    ] = False,
    strict: Annotated[
        bool,
        flag(
            "--strict",
            help="End with exit code 6 if any configuration crashed or is incorrect.",
            panel=OUTPUT,
        ),
    ] = False,
    quiet: Annotated[
        bool, flag("--quiet", "-q", help="Print no progress and no summary.", panel=OUTPUT)
    ] = False,
    verbose: Annotated[
        bool, flag("--verbose", "-v", help="Print a message for every record.", panel=OUTPUT)
    ] = False,
) -> None:
    """Measure a sweep. Without options: the preset quick, six mechanisms at 128 to 4096 tokens."""
    from effbench.sweep.axes import AXES

    sweep = _resolve(preset, config, given(context, AXES), timeout, memory_limit, budget, seed)
    folder = out or Path("results") / sweep.name
    one_of("isolate", isolate, EXECUTORS)
    if seq_len is not None and not quiet:
        _warn_of_training_lengths(sweep, asked=probe is not None or bool(task))
    if dry_run:
        _print_plan(sweep, folder, data_dir, resume, predictions)
        return
    executor = _executor(isolate)
    raise typer.Exit(_run(sweep, folder, data_dir, resume, predictions, executor, quiet, verbose, strict))


def _resolve(
    preset: str | None,
    config: Path | None,
    axes: Mapping[str, Any],
    timeout: str | None,
    memory_limit: str | None,
    budget: str | None,
    seed: str | None,
) -> Sweep:
    """Return the sweep that the options describe, with its own name if they change what is measured."""
    from dataclasses import replace

    from effbench.sweep.sweep import Sweep

    if preset and config:
        raise UsageError("give --preset or --config, not both")
    sweep = Sweep.load(config) if config else Sweep.preset(preset or "quick")
    changed = sweep.override(axes) if axes else sweep
    if timeout is not None:
        changed = replace(changed, timeout_s=parse_time_s(timeout))
    if memory_limit is not None:
        changed = replace(changed, memory_bytes=parse_bytes(memory_limit))
    if seed is not None:
        changed = replace(changed, seed=parse_whole("seed", seed, least=0)).renamed(changed, f"seed {seed}")
    if budget is not None:  # how far to go this time, not what to measure
        changed = replace(changed, budget_s=parse_time_s(budget))
    changed.cells()  # raises for what cannot be a cell, before anything starts
    return changed


def _warn_of_training_lengths(sweep: Sweep, *, asked: bool) -> None:
    """Say that a length is also that of trainings; ``asked``: the trainings were asked for by name."""
    trained = [cell for cell in sweep.cells() if cell.probe == "accuracy"]
    if not trained:
        return
    lengths = sorted({cell.seq_len for cell in trained})
    span = f"{lengths[0]} tokens" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]} tokens"
    tasks = ", ".join(sorted({str(cell.task) for cell in trained}))
    advice = "" if asked else " Leave trainings out with --probe time,memory,flops."
    print(
        f"effbench: careful: --seq-len is also the length of {plural(len(trained), 'training')} on {tasks}, "
        f"at {span}. It does not make shorter examples longer, and the estimate of a training's time can "
        f"be far off.{advice}",
        file=sys.stderr,
    )


def _executor(isolate: str) -> Executor:
    made: Executor = resolve_name(EXECUTORS[isolate])()
    return made


def _run(
    sweep: Sweep,
    folder: Path,
    data_dir: Path | None,
    resume: bool,
    predictions: bool,
    executor: Executor,
    quiet: bool,
    verbose: bool,
    strict: bool,
) -> Exit:
    """Measure, draw the plots, print the tables and return the exit code."""
    from rich.console import Console

    from effbench.records.store import Store
    from effbench.show.progress import TerminalProgress
    from effbench.sweep.loop import measure
    from effbench.sweep.planning import plan

    progress = TerminalProgress(Console(stderr=True), quiet=quiet, verbose=verbose)
    try:
        with progress:
            store = Store(folder)
            todo = plan(sweep, store, data_dir=data_dir, resume=resume, predictions=predictions)
            outcome = measure(sweep, store, todo, executor, progress)
    except KeyboardInterrupt:
        print(
            f"interrupted; what was measured is in {folder}. Run the same command again for the rest.",
            file=sys.stderr,
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    plots = draw(outcome.all_summary, outcome.all_raw, folder / "plots")
    code = of_run(_outcomes(outcome.summary), strict=strict)
    if quiet:
        return code
    from effbench.show import overview

    print_blocks(overview.overview(outcome.summary, outcome.raw), "table")
    if left := progress.statuses["interrupted"]:
        print(f"{plural(left, 'cell')} not reached: the budget ended. The same command continues with them.")
    others = len(outcome.all_summary) - len(outcome.summary)
    more = f"; {plural(others, 'configuration')} of other sweeps too" if others else ""
    print(f"results: {folder}  (results.csv, results.parquet, raw.csv{more}; effbench show {folder})")
    for path, _ in plots:
        print(f"plot: {path}")
    return code


def _outcomes(summary: DataFrame) -> Iterator[tuple[str, str, bool]]:
    """Yield (mechanism, status, whether anything was measured) of each configuration."""
    from effbench.records.analyse.summary import label

    measured = summary[["time_s", "peak_bytes", "flops", "train_seconds"]].notna().any(axis=1)
    names = [label(m, o) for m, o in zip(summary["mechanism"], summary["options"], strict=True)]
    yield from zip(names, summary["status"], measured, strict=True)


def _print_plan(sweep: Sweep, folder: Path, data_dir: Path | None, resume: bool, predictions: bool) -> None:
    from effbench.records.store import Store
    from effbench.show.progress import describe
    from effbench.sweep.estimate import Estimate
    from effbench.sweep.planning import plan

    todo = plan(
        sweep,
        Store(folder),
        data_dir=data_dir,
        resume=resume,
        check_data=data_dir is not None,
        predictions=predictions,
    )
    estimate = Estimate(todo.done)
    seconds = [estimate.seconds(job.cell) for job in todo.jobs]
    for job, expected in zip(todo.jobs, seconds, strict=True):
        cell = job.cell
        shape = f"B={cell.batch_size} d_model={cell.d_model} heads={cell.heads} layers={cell.layers}"
        shape += "" if cell.compile == "none" else f" compile={cell.compile}"
        print(f"{describe(cell):<50} {cell.scope:<12} {shape}  about {expected:.1f} s")
    done = f", {len(todo.done)} more are measured already" if todo.done else ""
    for reason in todo.unchecked:
        print(f"not checked: {reason}")
    minutes = f"about {sum(seconds) / 60:.1f} min"
    print(f"{plural(len(todo.jobs), 'cell')}, {minutes}{done}; results would go to {folder}")
