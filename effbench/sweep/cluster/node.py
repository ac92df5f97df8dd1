"""What a Slurm job runs: measure one bundle's cells on this node, and write their records as they come."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from effbench.common import files, host
from effbench.common.spec import Cell, Job, Record
from effbench.records.store import Problem, Store
from effbench.sweep import loop, planning
from effbench.sweep.cluster import slurm
from effbench.sweep.cluster.bundles import RESERVE_S
from effbench.sweep.cluster.ledger import CLUSTER, JOBS
from effbench.sweep.cluster.shared_store import SharedStore
from effbench.sweep.local import LocalExecutor
from effbench.sweep.planning import Plan
from effbench.sweep.sweep import Sweep

ATTEMPTS = "attempts"  # in the ledger's folder: one empty file while a cell is measured
MOST_ATTEMPTS = 2  # jobs that may end while they measure one cell, before it counts as crashed


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one job is to do: the part of a sweep that a bundle is, and where the records go.

    ``minutes`` is the job's time limit, which counts if squeue does not tell how much of it is left.
    """

    folder: str
    sweep: Sweep
    data_dir: str | None
    predictions: bool
    weights: bool
    minutes: int


def measure(order: Order) -> None:
    """Measure what is left of a bundle. Called by submitit in a Slurm job.

    A job that reaches its time limit or is preempted stops the cell that it measures, and is requeued: it
    goes on with the rest, and a training with its checkpoint. A job that reaches its time limit without a
    record or a checkpoint is not requeued, since the next one would not come further.
    """
    left_s = slurm.left_s(_job())
    end_s = time.monotonic() + (60.0 * order.minutes if left_s is None else left_s)
    assert order.sweep.only is not None
    keys = order.sweep.only
    store = SharedStore(Path(order.folder), keys)
    attempts = Attempts(Path(order.folder))
    plan = planning.plan(
        order.sweep,
        store,
        data_dir=order.data_dir,
        predictions=order.predictions,
        keep_weights=order.weights,
        anywhere=True,
    )
    plan = _without_deadly(order.sweep, plan, store, attempts)
    if not plan.jobs:
        return
    executor = LocalExecutor()
    before = _checkpoints(store, plan)
    with _ends(end_s - RESERVE_S - time.monotonic()) as late:
        try:
            loop.carry_out(order.sweep, store, plan, executor, attempts)
        except KeyboardInterrupt:
            attempts.interrupted()
            if late.is_set() and (attempts.wrote or _checkpoints(store, plan) != before):
                slurm.requeue(_job())
            elif late.is_set() and attempts.last is not None:
                reason = (
                    f"neither a record nor a checkpoint came of it within {order.minutes} minutes, the time "
                    "limit of its Slurm job: give a longer --time-limit"
                )
                store.write(Record.of(attempts.last, "interrupted", reason, host.identity()))
            sys.exit(1)
        finally:
            executor.close()


class Attempts(loop.Silent):
    """Leaves a file while a cell is measured; it stays if the whole job ends, and names the cell."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CLUSTER / ATTEMPTS
        self.last: Job | None = None  # the job that began last
        self.wrote = False  # a record of a cell that was not stopped

    def planned(self, jobs: Sequence[Job], done: Sequence[Record], problems: Sequence[Problem]) -> None:
        """Make the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def began(self, job: Job, eta_s: float) -> None:
        """Leave the file of the cell."""
        self.last = job
        files.replace(self._file(job), b"")

    def finished(self, record: Record) -> None:
        """Remove the file: the record is written."""
        self.wrote |= record.status != "interrupted"
        self.interrupted()

    def interrupted(self) -> None:
        """Remove the file of the cell: it, or the whole job, ends in order."""
        if self.last is not None:
            self._file(self.last).unlink(missing_ok=True)

    def of(self, cells: Iterable[Cell]) -> int:
        """Return how many other jobs ended while they measured one of these cells.

        A requeued job is the same job.
        """
        keys = {cell.key for cell in cells}
        names = [path.name.split(".") for path in self._folder.glob("[!.]*")]
        return len({job for key, job in names if key in keys} - {_job()})

    def _file(self, job: Job) -> Path:
        return self._folder / f"{job.cell.key}.{_job()}"


def _without_deadly(part: Sweep, plan: Plan, store: Store, attempts: Attempts) -> Plan:
    """Return the plan without the mechanisms that ended several jobs; their cells get a record that says so.

    All cells of one mechanism count together: else each of its repeats would end several jobs.
    """
    alike: dict[tuple[str, str], list[Cell]] = {}
    for cell in part.cells(most=True):
        alike.setdefault((cell.label, cell.compile), []).append(cell)
    jobs = []
    for job in plan.jobs:
        if (count := attempts.of(alike[job.cell.label, job.cell.compile])) < MOST_ATTEMPTS:
            jobs.append(job)
            continue
        reason = (
            f"{count} Slurm jobs ended while they measured this mechanism, without a record: most likely "
            f"they exceeded the memory of the job; see {CLUSTER}/{JOBS}"
        )
        store.write(Record.of(job, "crashed", reason, host.identity()))
    return replace(plan, jobs=tuple(jobs))


def _checkpoints(store: Store, plan: Plan) -> list[int]:
    """Return when the checkpoint of each training was written, 0 if there is none."""
    paths = [store.checkpoint(job.cell) for job in plan.jobs if job.cell.probe == "accuracy"]
    return [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]


@contextlib.contextmanager
def _ends(seconds: float) -> Iterator[threading.Event]:
    """Raise KeyboardInterrupt in the body after so many seconds, or on SIGTERM.

    The event that it yields is set in the first case: the job then requeues itself. A job that is preempted
    is requeued by Slurm.
    """
    late = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def end_in_time() -> None:
        late.set()
        os.kill(os.getpid(), signal.SIGTERM)

    # submitit's own handlers ignore SIGTERM
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGUSR2)}
    timer = threading.Timer(max(0.0, seconds), end_in_time)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _job() -> str:
    """Return the number of this Slurm job, as squeue prints it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", str(os.getpid()))
