"""``effbench run``: measure a sweep, print its tables and draw its plots."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effbench.cli import training_lengths
from effbench.cli.cluster_jobs import SLURM_EXECUTOR, by_jobs, job_settings
from effbench.cli.completion import preset_names, task_names
from effbench.cli.options import (
    LIMITS,
    MEASURING,
    OUTPUT,
    SLURM,
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

    from effbench.cli.cluster_jobs import Measure
    from effbench.records.store import Store
    from effbench.show.progress import TerminalProgress
    from effbench.sweep.executor import Executor
    from effbench.sweep.loop import Outcome
    from effbench.sweep.planning import Plan
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
    executor: Annotated[
        str,
        value(
            "HOW",
            "process (a fresh one per measurement), inline (for a debugger) or slurm (jobs on a cluster).",
            MEASURING,
        ),
    ] = "process",
    timeout: Annotated[str | None, value("TIME", "Time limit of one measurement: 60s, 5m.", LIMITS)] = None,
    memory_limit: Annotated[
        str | None, value("SIZE", "Memory limit of one measurement: 8GiB.", LIMITS)
    ] = None,
    budget: Annotated[
        str | None,
        value("TIME", "Time limit of the whole run: 10m. The same command continues it.", LIMITS),
    ] = None,
    cluster: Annotated[Path | None, value("FILE.toml", "Settings of the jobs.", SLURM)] = None,
    account: Annotated[str | None, value("NAME", "Account.", SLURM)] = None,
    partition: Annotated[str | None, value("NAME,...", "Partition.", SLURM)] = None,
    qos: Annotated[str | None, value("NAME", "Quality of service.", SLURM)] = None,
    constraint: Annotated[str | None, value("FEATURE", "Features that a node must have.", SLURM)] = None,
    gpu: Annotated[str | None, value("TYPE", "GPU type of --device cuda: the TYPE of gres.", SLURM)] = None,
    time_limit: Annotated[
        str | None, value("TIME", "Longest time limit of a job. Default: 4h. Longer work is requeued.", SLURM)
    ] = None,
    sbatch: Annotated[
        list[str] | None, value("NAME=VALUE", "Further option of sbatch; repeat the option for more.", SLURM)
    ] = None,
    wait: Annotated[
        bool,
        flag(
            "--wait/--no-wait",
            help="Wait for the jobs and print the tables, or end when the jobs are submitted.",
            panel=SLURM,
        ),
    ] = True,
    shard: Annotated[
        str | None,
        value(
            "I/N",
            "Measure one part of N, such as 3/8: whole blocks. effbench merge joins the folders.",
            LIMITS,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        value("DIR", "Results folder. Default: results/NAME, of a shard results/NAME-IofN.", OUTPUT),
    ] = None,
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
    weights: Annotated[
        bool,
        flag("--weights", help="Keep the weights of each trained model in DIR/weights.", panel=OUTPUT),
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

    axes = given(context, AXES)
    asked = training_lengths.without_unasked(axes, named=preset is not None or config is not None)
    sweep = _resolve(preset, config, asked, timeout, memory_limit, budget, seed)
    if asked != axes and not quiet:
        print(f"effbench: {training_lengths.NO_TRAININGS}", file=sys.stderr)
    folder = out or Path("results") / sweep.name
    if shard is not None:
        sweep, suffix = _shard(sweep, shard)
        folder = out or folder.with_name(f"{folder.name}{suffix}")
    one_of("executor", executor, [*EXECUTORS, SLURM_EXECUTOR])
    jobs = job_settings(context, executor)
    moved = seq_len is not None and not (task or probe)

    def planned() -> Plan:
        from effbench.records.store import Store
        from effbench.sweep.planning import plan

        return plan(
            sweep,
            Store(folder),
            data_dir=data_dir,
            resume=resume,
            check_data=not dry_run or data_dir is not None,
            predictions=predictions,
            keep_weights=weights,
            anywhere=jobs is not None,
        )

    if dry_run:
        _print_plan(planned(), folder, moved and not quiet)
        return
    how = by_jobs(jobs, wait) if jobs else _measuring(executor)
    raise typer.Exit(_run(sweep, folder, planned, jobs is not None, how, quiet, verbose, strict, moved))


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


def _shard(sweep: Sweep, text: str) -> tuple[Sweep, str]:
    """Return the shard of a sweep, and what distinguishes the name of its folder; say how large it is."""
    from effbench.sweep import parts

    number, count = parts.parse_shard(text)
    mine = parts.shard(sweep, number, count)
    cells, every = mine.cells(), sweep.cells()
    blocks = f"{len(parts.blocks_of(cells))} of {plural(len(parts.blocks_of(every)), 'block')}"
    size = f"{blocks}, {len(cells)} of {plural(len(every), 'cell')}"
    print(f"effbench: shard {number} of {count}: {size}", file=sys.stderr)
    return mine, f"-{number}of{count}"


def _measuring(executor: str) -> Measure:
    """Return how a plan is measured on this machine, by the executor of this name."""

    def measure(sweep: Sweep, store: Store, todo: Plan, progress: TerminalProgress) -> Outcome:
        from effbench.sweep import loop
        from effbench.sweep.cluster.ledger import Ledger

        if todo.jobs and Ledger(store.folder).exists():
            raise UsageError(
                f"the records of {store.folder} come from Slurm jobs: add --executor slurm, or choose "
                "another --out"
            )
        return loop.measure(sweep, store, todo, _executor(executor), progress)

    return measure


def _executor(name: str) -> Executor:
    made: Executor = resolve_name(EXECUTORS[name])()
    return made


def _run(
    sweep: Sweep,
    folder: Path,
    planned: Callable[[], Plan],
    on_cluster: bool,
    measure: Measure,
    quiet: bool,
    verbose: bool,
    strict: bool,
    moved: bool,
) -> Exit:
    """Measure, draw the plots, print the tables and return the exit code."""
    from rich.console import Console

    from effbench.records.store import Store
    from effbench.show.progress import TerminalProgress
    from effbench.sweep.machine_pace import estimate_of

    progress = TerminalProgress(Console(stderr=True), quiet=quiet, verbose=verbose)
    try:
        with progress:
            todo = planned()
            for sentence in training_lengths.cautions(todo, estimate_of(todo), moved=moved):
                progress.say(sentence)
            outcome = measure(sweep, Store(folder), todo, progress)
    except KeyboardInterrupt as error:
        jobs = f" The jobs go on; effbench cancel {folder} ends them." if on_cluster else ""
        if str(error):  # it says that the jobs were cancelled
            jobs = f" {error}."
        print(
            f"interrupted; what was measured is in {folder}.{jobs} Run the same command again for the rest.",
            file=sys.stderr,
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    if outcome is None:
        print(
            f"submitted; effbench status {folder} says how far it is. The same command waits for the tables."
        )
        return Exit.DONE
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

    measured = summary[["time_s", "peak_bytes", "flops", "train_seconds", "energy_j"]].notna().any(axis=1)
    names = [label(m, o) for m, o in zip(summary["mechanism"], summary["options"], strict=True)]
    yield from zip(names, summary["status"], measured, strict=True)


def _print_plan(todo: Plan, folder: Path, moved: bool) -> None:
    from effbench.show.progress import describe
    from effbench.sweep.machine_pace import estimate_of

    estimate = estimate_of(todo)
    seconds = [estimate.seconds(job.cell) for job in todo.jobs]
    for job, expected in zip(todo.jobs, seconds, strict=True):
        cell = job.cell
        shape = f"B={cell.batch_size} d_model={cell.d_model} heads={cell.heads} layers={cell.layers}"
        shape += "" if cell.compile == "none" else f" compile={cell.compile}"
        print(f"{describe(cell):<50} {cell.scope:<12} {shape}  about {expected:.1f} s")
    done = f", {len(todo.done)} more are measured already" if todo.done else ""
    for sentence in training_lengths.cautions(todo, estimate, moved=moved):
        print(f"effbench: {sentence}", file=sys.stderr)
    for reason in todo.unchecked:
        print(f"not checked: {reason}")
    minutes = f"about {sum(seconds) / 60:.1f} min"
    print(f"{plural(len(todo.jobs), 'cell')}, {minutes}{done}; results would go to {folder}")
