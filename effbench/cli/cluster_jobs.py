"""``effbench status`` and ``effbench cancel``: what the Slurm jobs of a results folder do, and their end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effbench.cli.options import TABLE_OR_JSON, Format, one_of
from effbench.cli.printing import print_blocks
from effbench.common.wording import plural

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Results folder of effbench run.")]


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
