"""Slurm jobs on the command line: the settings of ``run --executor slurm``, and ``status`` and ``cancel``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effbench.cli.options import TABLE_OR_JSON, Format, given, one_of
from effbench.cli.printing import print_blocks
from effbench.common.spec import UsageError
from effbench.common.wording import plural

if TYPE_CHECKING:
    from effbench.records.store import Store
    from effbench.show.progress import TerminalProgress
    from effbench.sweep.cluster.job_request import Settings
    from effbench.sweep.loop import Outcome
    from effbench.sweep.planning import Plan
    from effbench.sweep.sweep import Sweep

    # How a plan is measured; None if it goes on without this command.
    Measure = Callable[[Sweep, Store, Plan, TerminalProgress], Outcome | None]

SLURM_EXECUTOR = "slurm"
_REQUEST = ("account", "partition", "qos", "constraint", "gpu", "time_limit")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Results folder of effbench run.")]


def job_settings(context: typer.Context, executor: str) -> Settings | None:
    """Return the settings of Slurm jobs, None for another executor; refuse options that clash."""
    params = context.params
    if executor != SLURM_EXECUTOR:
        for name in ("cluster", *_REQUEST, "sbatch"):
            if params[name]:
                raise UsageError(f"--{name.replace('_', '-')} is an option of --executor slurm")
        if not params["wait"]:
            raise UsageError("--no-wait is an option of --executor slurm")
        return None
    from effbench.sweep.cluster import job_request

    if params["budget"] is not None:
        raise UsageError("--budget does not go with --executor slurm: jobs have --time-limit")
    if not params["resume"]:
        raise UsageError("--no-resume does not go with --executor slurm; give another --out")
    return job_request.load(params["cluster"], given(context, _REQUEST), params["sbatch"] or ())


def by_jobs(settings: Settings, wait: bool) -> Measure:
    """Return how a plan is measured by Slurm jobs."""

    def measure(sweep: Sweep, store: Store, todo: Plan, progress: TerminalProgress) -> Outcome | None:
        from effbench.sweep.cluster import driver

        return driver.run(sweep, store, todo, settings, progress, progress.say, wait=wait)

    return measure


def status(folder: Folder, format: Format = "table") -> None:
    """Say what waits, runs, is done, failed or lost of a sweep on a cluster, and where."""
    from effbench.show.status_table import blocks
    from effbench.sweep.cluster.status import status as status_of

    one_of("format", format, TABLE_OR_JSON)
    print_blocks(blocks(status_of(folder)), format)


def cancel(folder: Folder) -> None:
    """End the Slurm jobs of a sweep. What is measured stays; effbench run goes on with the rest."""
    from effbench.sweep.cluster.status import cancel as cancel_jobs

    print(f"ended {plural(cancel_jobs(folder), 'job')}")
