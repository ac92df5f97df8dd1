"""The command's side of a sweep on a cluster: submit bundles, watch the queue, and collect the records.

It can be killed at any moment: the jobs go on, and the next call finds them through the ledger.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from effbench.common import machine
from effbench.common.spec import Job, Record, UsageError
from effbench.common.wording import plural
from effbench.records.store import Store
from effbench.sweep import loop, planning
from effbench.sweep.cluster import slurm
from effbench.sweep.cluster.bundles import Bundle, Need, bundles, require_portable, without
from effbench.sweep.cluster.job_request import Settings
from effbench.sweep.cluster.ledger import CLUSTER, JOBS, Ledger, Submission, times_handed
from effbench.sweep.cluster.node import MOST_ATTEMPTS, Order, measure
from effbench.sweep.cluster.shared_store import SharedStore, sound
from effbench.sweep.loop import Listener, Outcome
from effbench.sweep.planning import Plan
from effbench.sweep.sweep import Sweep

POLL_S = 5.0
# A submission without a job may still be on its way to Slurm for so long after it was written down.
GRACE_S = 60.0
# How often a cell is submitted if its jobs end without a record of it.
MOST_SUBMISSIONS = MOST_ATTEMPTS + 1
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What Slurm still has: the bundles in the queue by job, and the submissions whose job is not known yet.

    ``queue`` is None if squeue does not answer: then everything that was submitted counts as alive.
    """

    submissions: tuple[Submission, ...]
    queue: dict[str, slurm.Queued] | None

    @property
    def alive(self) -> set[str]:
        """Return the keys of the cells that a job may still measure."""
        keys: set[str] = set()
        for submission in self.submissions:
            for place, handed in enumerate(submission.handed):
                if self.queue is None or not submission.job or submission.job_of(place) in self.queue:
                    keys.update(handed.keys)
        return keys

    def queued(self) -> list[slurm.Queued]:
        """Return the jobs of these submissions that are in the queue."""
        names = {submission.name for submission in self.submissions}
        return [queued for queued in (self.queue or {}).values() if queued.name in names]


def standing(ledger: Ledger) -> Standing:
    """Return what Slurm has of the ledger's submissions.

    A submission that was written down without its job (the command was killed) gets it from the queue. If it
    is not there after a minute, it never reached Slurm, and is forgotten.
    """
    queue = slurm.queue()
    known = []
    for submission in ledger.read():
        if not submission.job and queue is not None:
            jobs = {
                queued.job.partition("_")[0] for queued in queue.values() if queued.name == submission.name
            }
            if jobs:
                submission = ledger.named(submission, min(jobs))
            elif time.time() - submission.made_s > GRACE_S:
                ledger.forget(submission)
                continue
        known.append(submission)
    return Standing(submissions=tuple(known), queue=queue)


def run(
    sweep: Sweep,
    store: Store,
    plan: Plan,
    settings: Settings,
    listener: Listener,
    say: Say,
    *,
    wait: bool = True,
    poll_s: float = POLL_S,
) -> Outcome | None:
    """Have a plan measured by Slurm jobs, wait for them, and return the tables; None without ``wait``.

    Jobs of an earlier call that are still alive are waited for, not submitted again. Raises UsageError for
    what cannot be run or what Slurm refuses, and KeyboardInterrupt while it waits: the jobs then go on.
    """
    ledger = Ledger(store.folder)
    if plan.jobs:
        slurm.require()
        require_portable(sweep)
    if plan.stored and not ledger.exists():
        raise UsageError(
            f"{store.folder} has records of a run without Slurm, on another machine; choose another --out"
        )
    store.create()
    with store.lock():
        driver = _Driver(sweep, store, plan, settings, listener, say, ledger)
        if plan.jobs:
            loop.write_sweep(sweep, store.folder)
            listener.planned(plan.jobs, plan.done, plan.problems)
            driver.submit(plan.jobs)
            if not wait:
                return None
            driver.wait(poll_s)
        return loop.tables(store.read()[0], sweep, store)


class _Driver:
    """Submits jobs until every cell of the plan has a final record, or was submitted too often."""

    def __init__(
        self,
        sweep: Sweep,
        store: Store,
        plan: Plan,
        settings: Settings,
        listener: Listener,
        say: Say,
        ledger: Ledger,
    ) -> None:
        self._sweep, self._store, self._plan, self._settings = sweep, store, plan, settings
        self._listener, self._say, self._ledger = listener, say, ledger
        self._wanted = {job.cell.key: job for job in plan.jobs}
        self._told: set[str] = set()  # cells whose record the listener knows
        self._final: set[str] = set()
        self._before = times_handed(ledger.read())
        self._array = 0
        self._last = ""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit the jobs that Slurm does not have, as far as it takes them now."""
        now = standing(self._ledger)
        alive, often = now.alive, times_handed(now.submissions)
        left = []
        for job in jobs:
            key = job.cell.key
            if key in alive:
                continue
            if often.get(key, 0) - self._before.get(key, 0) < MOST_SUBMISSIONS:
                left.append(job)
            else:
                self._give_up(job, now)
        new = without(bundles(self._sweep, left, self._settings), alive)
        self._array = self._array or slurm.most_in_an_array()
        for _, group in groupby(sorted(new, key=lambda b: b.need, reverse=True), key=lambda b: b.need):
            alike = list(group)
            for first in range(0, len(alike), self._array):
                if not self._submit(alike[first : first + self._array]):
                    return

    def _submit(self, some: Sequence[Bundle]) -> bool:
        """Submit bundles of equal needs as one array; False if Slurm takes no more jobs now."""
        need = some[0].need
        submission = self._ledger.intend(some)
        try:
            job = slurm.submit(
                self._ledger.folder / JOBS,
                submission.name,
                need,
                self._settings.of(need.kind),
                self._settings.most_jobs,
                [(measure, self._order(bundle)) for bundle in some],
            )
        except slurm.Busy as error:
            self._ledger.forget(submission)
            self._tell(f"Slurm takes no more jobs now: {error}. The rest is submitted later")
            return False
        except UsageError:
            self._ledger.forget(submission)
            raise
        self._ledger.named(submission, job)
        self._tell(f"job {job}: {plural(len(some), 'bundle')}, each with {in_words(need)}")
        return True

    def _order(self, bundle: Bundle) -> Order:
        data_dir = self._plan.data_dir
        return Order(
            folder=str(self._store.folder.absolute()),
            sweep=replace(self._sweep, only=frozenset(bundle.possible)),
            data_dir=str(Path(data_dir).absolute()) if data_dir else None,
            predictions=self._plan.predictions_of is not None,
            minutes=bundle.need.minutes,
        )

    def _give_up(self, job: Job, now: Standing) -> None:
        """Write a record of a cell that was submitted too often; it says how its last job ended."""
        key = job.cell.key
        last = next(
            submission.job_of(place)
            for submission in reversed(now.submissions)
            for place, handed in enumerate(submission.handed)
            if key in handed.keys
        )
        how = slurm.ending(last) or "Slurm no longer knows how"
        reason = (
            f"{MOST_SUBMISSIONS} Slurm jobs ended without a record of it; the last one, {last}: {how}; "
            f"its output is in {CLUSTER}/{JOBS}"
        )
        record = Record.of(job, "interrupted", reason, machine.name())
        SharedStore(self._store.folder, [key]).write(record)
        self._final.add(key)

    def wait(self, poll_s: float) -> None:
        """Wait until no job is left, and submit again what jobs left unfinished."""
        while True:
            now = standing(self._ledger)
            self._hear()
            alive = now.alive
            left = self._left([key for key in self._wanted if key not in alive])
            self._tell(self._in_words(now))
            if left:
                self.submit(left)
            elif not alive & self._wanted.keys():
                self._hear()
                return
            time.sleep(poll_s)

    def _hear(self) -> None:
        """Give the listener the records that were written meanwhile."""
        for path in SharedStore(self._store.folder, self._wanted.keys() - self._told).paths():
            record = sound(path)
            if record is not None and record.status != "interrupted":
                self._told.add(record.cell.key)
                self._listener.finished(record)

    def _left(self, ended: Iterable[str]) -> list[Job]:
        """Return the jobs among these cells that have no final record."""
        cells = [self._wanted[key].cell for key in ended if key not in self._final]
        records, _ = SharedStore(self._store.folder, {cell.key for cell in cells}).read()
        known = replace(self._plan, known={record.cell.key: record for record in records})
        jobs, done = planning.pending(cells, self._sweep, known)
        self._final |= {record.cell.key for record in done}
        return jobs

    def _in_words(self, now: Standing) -> str:
        if now.queue is None:
            return "squeue does not answer: everything that was submitted counts as running"
        queued = now.queued()
        running = [one for one in queued if one.state == "RUNNING"]
        waiting = Counter(one.reason for one in queued if one.state == "PENDING")
        nodes = ", ".join(sorted({one.nodes for one in running}))
        parts = [f"{len(self._told)} of {plural(len(self._wanted), 'cell')} measured"]
        if running:
            parts.append(f"{plural(len(running), 'job')} running on {nodes}")
        if waiting:
            why = ", ".join(f"{count} {reason}" for reason, count in waiting.most_common(3))
            parts.append(f"{plural(waiting.total(), 'job')} waiting ({why})")
        return "; ".join(parts)

    def _tell(self, text: str) -> None:
        """Say a sentence, once until it changes."""
        if text != self._last:
            self._last = text
            self._say(text)


def in_words(need: Need) -> str:
    """Return the resources of a job in words."""
    cores = plural(need.cores, "core")
    gpus = f", {plural(need.gpus, 'GPU')}" if need.gpus else ""
    node = "a node alone" if need.exclusive else "a share of a node"
    return f"{node}, {cores}{gpus}, {need.memory_bytes / 2**30:.3g} GiB, {need.minutes} minutes"
