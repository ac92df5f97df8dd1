"""The state of a sweep on a cluster: what waits, runs, is done, failed or lost, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effbench.common.exits import Fault
from effbench.common.spec import Record, UsageError
from effbench.records.store import Problem, Store
from effbench.sweep.cluster import slurm
from effbench.sweep.cluster.driver import Standing, standing
from effbench.sweep.cluster.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class BundleStatus:
    """A bundle that is not done: its job, Slurm's state of the job, nodes, reason, and its cells.

    ``state`` is Slurm's, or ``SUBMITTING`` (the job's number is not known yet), ``UNKNOWN`` (squeue does not
    answer) or ``LOST`` (the job has ended, and cells have no record); ``reason`` then says how it ended.
    """

    label: str
    job: str
    state: str
    nodes: str
    reason: str
    done: int
    cells: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of a results folder: the open bundles, and how many records have each status."""

    bundles: tuple[BundleStatus, ...]
    statuses: dict[str, int]
    failed: tuple[Record, ...]
    problems: tuple[Problem, ...]
    cells: int
    squeue_answers: bool


def status(folder: Path) -> Status:
    """Return the state of a sweep that was submitted into a results folder.

    Raises UsageError if nothing was submitted there.
    """
    now = _standing(folder)
    records, problems = Store(folder).read()
    final = {record.cell.key for record in records if record.status != "interrupted"}
    submitted = {key for submission in now.submissions for handed in submission.handed for key in handed.keys}
    counts = Counter(record.status for record in records)
    return Status(
        bundles=tuple(_open_bundles(now, final)),
        statuses=dict(counts.most_common()),
        failed=tuple(r for r in records if r.status not in ("ok", "interrupted", "unsupported", "skipped")),
        problems=tuple(problems),
        cells=len(submitted),
        squeue_answers=now.queue is not None,
    )


def cancel(folder: Path) -> int:
    """End the jobs of a results folder and return how many they were. Raises UsageError and Fault.

    An effbench run that waits for them ends too.
    """
    now = _standing(folder)
    if now.queue is None:
        raise Fault("squeue does not answer, so that no job was ended; try again")
    Ledger(folder).cancel()
    queued = _standing(folder).queued()  # again: that run may have submitted meanwhile
    slurm.cancel({job.number for job in queued})
    return len(queued)


def _standing(folder: Path) -> Standing:
    ledger = Ledger(folder)
    Store(folder).require()
    if not ledger.exists():
        raise UsageError(f"nothing was submitted from {folder}: effbench run --executor slurm does that")
    slurm.require()
    return standing(ledger)


def _open_bundles(now: Standing, final: set[str]) -> Sequence[BundleStatus]:
    """Return the bundles that a job has or that were lost, each once: the newest submission counts."""
    found: list[BundleStatus] = []
    seen: set[str] = set()
    for submission in reversed(now.submissions):
        for place, handed in enumerate(submission.handed):
            left = set(handed.keys) - final
            if not left or left <= seen:
                continue
            seen |= left
            job = submission.job_of(place)
            queued = now.job(submission, place)
            if queued is not None:
                state, nodes, reason = queued.state, queued.nodes, queued.why
            elif now.queue is None:
                state, nodes, reason = "UNKNOWN", "", "squeue does not answer"
            elif not submission.job:
                state, nodes, reason = "SUBMITTING", "", ""
            else:
                state, nodes, reason = "LOST", "", slurm.ending(job) or "Slurm no longer knows how it ended"
            found.append(
                BundleStatus(
                    label=handed.label,
                    job=job,
                    state=state,
                    nodes=nodes,
                    reason=reason,
                    done=len(handed.keys) - len(left),
                    cells=len(handed.keys),
                )
            )
    return found[::-1]
