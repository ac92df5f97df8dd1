"""The command's side of a sweep on a cluster: submit bundles, watch the queue, and collect the records.

It can be killed at any moment: the jobs go on, and the next call finds them through the ledger.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from effbench.common import host
from effbench.common.exits import Fault
from effbench.common.spec import Job, Record, UsageError
from effbench.common.wording import plural
from effbench.records.store import Store
from effbench.sweep import loop, planning
from effbench.sweep.cluster import slurm
from effbench.sweep.cluster.bundles import Bundle, Need, bundled_in, bundles, require_portable
from effbench.sweep.cluster.job_request import Settings
from effbench.sweep.cluster.ledger import CLUSTER, JOBS, Ledger, Submission
from effbench.sweep.cluster.node import MOST_ATTEMPTS, Order, measure
from effbench.sweep.cluster.shared_store import SharedStore, sound
from effbench.sweep.loop import Listener, Outcome
from effbench.sweep.planning import Plan
from effbench.sweep.sweep import Sweep

POLL_S = 5.0
# A submission without a job may still be on its way to Slurm for so long after it was written down: while the
# queue is full, sbatch itself tries again for two minutes, even if the command that called it was killed.
GRACE_S = 180.0
# Polls of the queue between two submissions that Slurm does not take.
_POLLS_WHILE_BUSY = 6
# How often a block is submitted if its jobs end without a new record.
MOST_SUBMISSIONS = MOST_ATTEMPTS + 1
Say = Callable[[str], None]


class Cancelled(KeyboardInterrupt):
    """``effbench cancel`` ended the sweep while this command waited for it."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What Slurm still has: the bundles in the queue by job, and the submissions whose job is not known yet.

    ``queue`` is None if squeue does not answer: then everything that was submitted counts as alive.
    """

    submissions: tuple[Submission, ...]
    queue: dict[str, slurm.Queued] | None

    @property
    def alive(self) -> set[str]:
        """Return the keys of the blocks that a job may still measure."""
        return {
            handed.block
            for submission in self.submissions
            for place, handed in enumerate(submission.handed)
            if self.queue is None or not submission.job or self.job(submission, place)
        }

    def job(self, submission: Submission, place: int) -> slurm.Queued | None:
        """Return the job of a bundle if it is in the queue."""
        found = (self.queue or {}).get(submission.job_of(place))
        return found if found and found.name == submission.name else None

    def queued(self) -> list[slurm.Queued]:
        """Return the jobs of these submissions that are in the queue."""
        names = {submission.name for submission in self.submissions}
        return [queued for queued in (self.queue or {}).values() if queued.name in names]


def standing(ledger: Ledger) -> Standing:
    """Return what Slurm has of the ledger's submissions, without a change of the ledger."""
    submissions = tuple(ledger.read())  # before the queue: what is submitted in between is not missed
    return Standing(submissions=submissions, queue=slurm.queue())


def mend(ledger: Ledger) -> Standing:
    """Return what Slurm has, and complete the ledger. Only for the one command that submits.

    A submission that was written down without its job (the command was killed, or sbatch got no answer) gets
    it from the queue. Jobs that were submitted and did not get their orders any more are ended. A submission
    that is not in the queue after ``GRACE_S`` is not there at all, and is forgotten.
    """
    now = standing(ledger)
    if now.queue is None:
        return now
    known = []
    for submission in now.submissions:
        if not submission.job:
            numbers = [queued.number for queued in now.queue.values() if queued.name == submission.name]
            if numbers:
                found = replace(submission, job=min(numbers))
                jobs = [found.job_of(place) for place in range(len(found.handed))]
                if slurm.has_orders(ledger.folder / JOBS, jobs):
                    submission = ledger.write(found)
                else:
                    slurm.cancel(set(numbers))
            elif time.time() - submission.made_s > GRACE_S:
                ledger.forget(submission)
                continue
        known.append(submission)
    return replace(now, submissions=tuple(known))


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
    what cannot be run or what Slurm refuses, and then leaves nothing behind. Raises KeyboardInterrupt while
    it waits; the jobs then go on, except if it is Cancelled.
    """
    ledger = Ledger(store.folder)
    if plan.jobs:
        slurm.require()
        require_portable(sweep)
    if plan.stored and not ledger.exists():
        raise UsageError(
            f"{store.folder} has records of a run without Slurm, on another machine; choose another --out"
        )
    is_new = not store.folder.exists()
    store.create()
    with store.lock():
        driver = _Driver(sweep, store, plan, settings, listener, say, ledger, poll_s)
        if plan.jobs:
            ledger.go_on()
            loop.write_sweep(sweep, store.folder)
            listener.planned(plan.jobs, plan.done, plan.problems)
            try:
                driver.submit(plan.jobs)
            except UsageError:
                driver.withdraw()
                if is_new:
                    shutil.rmtree(store.folder)
                raise
            if not wait:
                if driver.refused:
                    say(f"not everything is submitted: {driver.refused}; the same command submits the rest")
                return None
            driver.wait()
        return loop.tables(store.read()[0], sweep, store)


class _Driver:
    """Submits jobs until every cell of the plan has a final record, or was submitted too often in vain."""

    def __init__(
        self,
        sweep: Sweep,
        store: Store,
        plan: Plan,
        settings: Settings,
        listener: Listener,
        say: Say,
        ledger: Ledger,
        poll_s: float,
    ) -> None:
        self._sweep, self._store, self._plan, self._settings = sweep, store, plan, settings
        self._listener, self._say, self._ledger = listener, say, ledger
        self._poll_s = poll_s
        self._wanted = {job.cell.key: job for job in plan.jobs}
        self._block = {key: bundled_in(job.cell) for key, job in self._wanted.items()}
        self._told: set[str] = set()  # cells whose record the listener knows
        self._final: set[str] = set()
        self._in_vain = Counter[str]()  # submissions of each block since its last record
        self._own: list[Submission] = []  # the submissions of this call
        self._most = self._array = 0  # bundles of one array: what Slurm allows, and what it takes now
        self._not_before_s = 0.0  # Slurm is not asked again so soon after it took no more jobs
        self.refused = ""  # why it took no more
        self._last = ""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit the jobs that Slurm does not have, as far as it takes them now."""
        now = mend(self._ledger)
        alive = now.alive
        left = []
        for job in jobs:
            block = self._block[job.cell.key]
            if block in alive:
                continue
            if self._in_vain[block] < MOST_SUBMISSIONS:
                left.append(job)
            else:
                self._give_up(job, now)
        self._most = self._most or slurm.most_in_an_array()
        self._array = self._array or self._most
        new = sorted(bundles(self._sweep, left, self._settings), key=lambda b: b.need, reverse=True)
        for _, group in groupby(new, key=lambda b: b.need):
            alike = list(group)
            while alike:
                self._heed_cancel()
                if time.monotonic() < self._not_before_s:
                    return
                some, alike = alike[: self._array], alike[self._array :]
                if not self._submit(some):
                    self._not_before_s = time.monotonic() + _POLLS_WHILE_BUSY * self._poll_s
        self._heed_cancel()

    def _submit(self, some: Sequence[Bundle]) -> bool:
        """Submit bundles of equal needs as one array; False if Slurm takes no more jobs now.

        A limit of jobs can be less than the array has: the next one is then half as long.
        """
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
            self._array = max(1, len(some) // 2)
            self.refused = f"Slurm takes no more jobs now ({error})"
            return False
        except slurm.Unanswered as error:
            self.refused = f"sbatch got no answer ({error})"
            return False
        except (UsageError, Fault):
            self._ledger.forget(submission)
            raise
        self._own.append(self._ledger.write(replace(submission, job=job)))
        self.refused = ""
        self._array = min(self._most, 2 * self._array)
        self._in_vain.update(bundle.block for bundle in some)
        self._tell(f"job {job}: {plural(len(some), 'bundle')}, each with {in_words(need)}")
        return True

    def withdraw(self) -> None:
        """End what this call submitted, wait for the end, and forget it."""
        names = {submission.name for submission in self._own}
        slurm.cancel(submission.job for submission in self._own)
        while any(queued.name in names for queued in (slurm.queue() or {}).values()):
            time.sleep(self._poll_s)
        for submission in self._own:
            self._ledger.forget(submission)

    def _heed_cancel(self) -> None:
        """Raise Cancelled if ``effbench cancel`` was called, and end what it did not see."""
        if self._ledger.is_cancelled():
            slurm.cancel({queued.number for queued in standing(self._ledger).queued()})
            raise Cancelled("effbench cancel ended its jobs")

    def _order(self, bundle: Bundle) -> Order:
        data_dir = self._plan.data_dir
        return Order(
            folder=str(self._store.folder.absolute()),
            sweep=replace(self._sweep, only=frozenset(bundle.possible)),
            data_dir=str(Path(data_dir).absolute()) if data_dir else None,
            predictions=self._plan.predictions_of is not None,
            weights=self._plan.weights_of is not None,
            minutes=bundle.need.minutes,
        )

    def _give_up(self, job: Job, now: Standing) -> None:
        """Write a record of a cell that was submitted too often in vain; it says how its last job ended."""
        key = job.cell.key
        self._final.add(key)
        store = SharedStore(self._store.folder, [key])
        why = ""
        for record in store.read()[0]:
            if record.status == "interrupted":
                why = f"; {record.reason}"
                continue
            if (record.code, record.data) != (job.code, job.data):
                self._say(
                    f"{job.cell.label} N={job.cell.seq_len}: the nodes measure other code or data than this "
                    f"machine has: {record.code} {record.data}, not {job.code} {job.data}"
                )
            return  # it stays, although it is a time of another host than the rest of its repeat
        last = next(
            submission.job_of(place)
            for submission in reversed(now.submissions)
            for place, handed in enumerate(submission.handed)
            if handed.block == self._block[key]
        )
        how = slurm.ending(last) or "Slurm no longer knows how"
        reason = (
            f"{MOST_SUBMISSIONS} Slurm jobs ended without a record of it; the last one, {last}: {how}; "
            f"its output is in {CLUSTER}/{JOBS}{why}"
        )
        store.write(Record.of(job, "interrupted", reason, host.identity()))

    def wait(self) -> None:
        """Wait until no job is left, and submit again what jobs left unfinished. Raises Cancelled."""
        while True:
            self._heed_cancel()
            now = mend(self._ledger)
            self._hear()
            alive = now.alive
            left = self._left([key for key in self._wanted if self._block[key] not in alive])
            self._tell(self._in_words(now))
            if left:
                self.submit(left)
            elif alive.isdisjoint(self._block.values()):
                self._hear()
                return
            time.sleep(self._poll_s)

    def _hear(self) -> None:
        """Give the listener the records that were written meanwhile."""
        for path in SharedStore(self._store.folder, self._wanted.keys() - self._told).paths():
            record = sound(path)
            if record is None or record.status == "interrupted":
                continue
            job = self._wanted[record.cell.key]
            if (record.code, record.data) == (job.code, job.data):
                self._told.add(job.cell.key)
                self._in_vain[self._block[job.cell.key]] = 0
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
        waiting = Counter(one.why for one in queued if one.state == "PENDING")
        nodes = ", ".join(sorted({one.nodes for one in running}))
        parts = [f"{len(self._told)} of {plural(len(self._wanted), 'cell')} measured"]
        if running:
            parts.append(f"{plural(len(running), 'job')} running on {nodes}")
        if waiting:
            why = ", ".join(f"{count} {reason}" for reason, count in waiting.most_common(3) if reason)
            parts.append(f"{plural(waiting.total(), 'job')} waiting" + (f" ({why})" if why else ""))
        if self.refused:
            parts.append(f"{self.refused}; the rest is submitted later")
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
