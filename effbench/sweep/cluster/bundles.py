"""Bundles: the cells that one Slurm job measures, one after the other, and the resources that they need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from effbench.common.spec import Cell, Job, UsageError, block_of
from effbench.sweep.cluster.job_request import Kind, Settings
from effbench.sweep.estimate import Estimate
from effbench.sweep.sweep import Sweep

# Beside the cells' own memory: the measuring process with torch and the one that starts it.
BASE_BYTES = 2 * 2**30
_START_S = 120.0  # of a job: Python, torch, slow disks
RESERVE_S = 30.0  # before the time limit: what a stopped job needs to end by itself
_ESTIMATES = 3.0  # times the estimate, which is rough, are asked for
# Minutes that jobs ask for: few different values, so that many bundles fit into one array.
_MINUTES = (5, 10, 20, 30, 60, 120, 240, 480, 960, 1440, 2880, 5760, 10080)


@dataclass(frozen=True, kw_only=True, order=True)
class Need:
    """The resources of a job. Bundles with equal needs become one array.

    A job that times has its node alone (``exclusive``); one that trains shares it.
    """

    kind: Kind
    cores: int
    memory_bytes: int
    gpus: int
    minutes: int

    @property
    def exclusive(self) -> bool:
        """True if nothing else may run on the node."""
        return self.kind == "timing"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The cells of one job by key: ``planned`` are to be measured; ``possible`` adds their further repeats.

    The bundle of a cost is a block, so that everything that is compared is measured on one node; that of a
    training is one cell. ``block`` is the key of either: no two jobs may measure one block at the same time.
    """

    label: str
    block: str
    need: Need
    planned: tuple[str, ...]
    possible: tuple[str, ...]


def require_portable(sweep: Sweep) -> None:
    """Raise UsageError if a default of the sweep is this machine's, which need not be that of a node."""
    if sweep.memory_bytes is None:
        raise UsageError(
            "a sweep on a cluster needs --memory-limit SIZE, the memory of one cell: the default is a share "
            "of this machine's memory. A job asks for 2 GiB more"
        )
    if any("threads" not in grid for grid in sweep.grids):
        raise UsageError(
            "a sweep on a cluster needs --threads N, the cores of one operation: the default is all cores of "
            "this machine"
        )


def bundles(sweep: Sweep, jobs: Iterable[Job], settings: Settings) -> list[Bundle]:
    """Return the jobs in bundles: whole blocks of costs, single trainings; the longest ones first.

    A block with one job left is a bundle with all repeats that may be added to it.
    """
    wanted = {job.cell.key: job.cell for job in jobs}
    possible: dict[str, list[Cell]] = {}
    for cell in sweep.cells(most=True):
        if cell.probe != "accuracy" or cell.key in wanted:
            possible.setdefault(bundled_in(cell), []).append(cell)
    made = []
    estimate = Estimate()
    for block, cells in possible.items():
        planned = [cell for cell in cells if cell.key in wanted]
        if planned:
            made.append(_bundle(sweep, block, planned, cells, settings, estimate))
    return sorted(made, key=lambda bundle: -bundle.need.minutes)


def bundled_in(cell: Cell) -> str:
    """Return the key of the block that is measured in one job with the cell."""
    return cell.key if cell.probe == "accuracy" else block_of(cell)


def _bundle(
    sweep: Sweep,
    block: str,
    planned: Sequence[Cell],
    possible: Sequence[Cell],
    settings: Settings,
    estimate: Estimate,
) -> Bundle:
    first = planned[0]
    kind: Kind = "training" if first.probe == "accuracy" else "timing"
    limits = [sweep.limits(cell.probe) for cell in planned]
    longest_s = max(limit.timeout_s for limit in limits)
    if kind == "training":
        seconds = longest_s
    else:
        seconds = longest_s + _ESTIMATES * sum(estimate.seconds(cell) for cell in possible)
    most_s = settings.of(kind).most_s
    if kind == "timing" and longest_s + RESERVE_S > most_s:
        raise UsageError(
            f"a cost may take {longest_s:g} s, which does not fit into jobs of at most {most_s:g} s: give a "
            "longer --time-limit or a shorter --timeout"
        )
    need = Need(
        kind=kind,
        cores=max(cell.threads for cell in planned),
        memory_bytes=max(limit.memory_bytes for limit in limits) + BASE_BYTES,
        gpus=int(any(cell.device.startswith("cuda") for cell in planned)),
        minutes=_minutes(min(_START_S + seconds, most_s), most_s),
    )
    what = first.label if kind == "training" else f"{first.scope} {first.mode}"
    label = f"{what} N={first.seq_len}" + (f" {first.task_label} #{first.repeat}" if first.task else "")
    return Bundle(
        label=label,
        block=block,
        need=need,
        planned=tuple(cell.key for cell in planned),
        possible=tuple(cell.key for cell in possible),
    )


def _minutes(seconds: float, most_s: float) -> int:
    """Return the minutes to ask for: the next of a few values, at most ``most_s``."""
    asked = next((m for m in _MINUTES if m * 60 >= seconds), math.ceil(seconds / 60))
    return max(1, min(asked, int(most_s // 60)))
