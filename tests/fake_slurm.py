"""A Slurm of Python objects: it takes the driver's jobs and runs them in this process when a test says so."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Fake

from effbench.common import files
from effbench.common.exits import Fault
from effbench.common.spec import Record, UsageError
from effbench.records.store import Store
from effbench.sweep.cluster import driver, node, slurm
from effbench.sweep.cluster.bundles import bundled_in
from effbench.sweep.cluster.job_request import Settings
from effbench.sweep.planning import plan
from effbench.sweep.sweep import Sweep


class Killed(BaseException):
    """The command was killed here."""


class Heard:
    """A listener that keeps the records that it is told."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def planned(self, jobs, done, problems) -> None:
        pass

    def began(self, job, eta_s) -> None:
        pass

    def progressed(self, fraction, message) -> None:
        pass

    def refining(self, cells) -> None:
        pass

    def finished(self, record) -> None:
        self.records.append(record)


class FakeSlurm:
    """Takes the place of effbench.sweep.cluster.slurm; no two of its jobs may measure one block at once.

    ``ends`` is what happens to the next jobs that run: ``done``, ``dies`` (at once) or ``in cell`` (while it
    measures). ``says`` is what sbatch does next: an exception, or ``killed before`` or ``killed after`` the
    submission. ``silent``: squeue does not answer.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, executor: Fake | None = None) -> None:
        self.jobs: dict[str, tuple[str, Any, str]] = {}  # name, order, and key of the block
        self.with_orders: set[str] = set()
        self.arrays: list[int] = []
        self.submitted = 0
        self.ends: list[str] = []
        self.says: list[Any] = []
        self.silent = False
        self.most = 1000
        self.polls = 0
        self.executor = executor or Fake()
        self._monkeypatch = monkeypatch
        for name in ("submit", "queue", "cancel", "has_orders"):
            monkeypatch.setattr(slurm, name, getattr(self, name))
        monkeypatch.setattr(slurm, "require", lambda: None)
        monkeypatch.setattr(slurm, "left_s", lambda job: None)
        monkeypatch.setattr(slurm, "ending", lambda job: "FAILED on n1 (NonZeroExitCode, 1:0)")
        monkeypatch.setattr(slurm, "most_in_an_array", lambda: self.most)
        monkeypatch.setattr(node, "LocalExecutor", lambda: self.executor)
        monkeypatch.setattr(driver, "GRACE_S", 0.0)
        for name in ("flush", "flush_folder"):  # a test needs no durable disk
            monkeypatch.setattr(files, name, lambda file: None)
        self.while_waiting = self.run_all
        clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=self._sleep)
        monkeypatch.setattr(driver, "time", clock)

    def submit(self, folder, name, need, request, most_jobs, calls) -> str:
        """Take an array."""
        says = self.says.pop(0) if self.says else None
        if isinstance(says, slurm.Busy | UsageError):
            raise says
        if says == "killed before":
            raise Killed
        blocks = [self._block(order) for _, order in calls]
        busy = {block for *_, block in self.jobs.values()}
        assert len(set(blocks)) == len(blocks)
        assert not busy & set(blocks), "two jobs measure one block"
        self.submitted += 1
        self.arrays.append(len(calls))
        number = str(self.submitted)
        for place, ((_, order), block) in enumerate(zip(calls, blocks, strict=True)):
            job = f"{number}_{place}" if len(calls) > 1 else number
            self.jobs[job] = (name, order, block)
            if not says:
                self.with_orders.add(job)
        if says == "killed after":
            raise Killed
        if says:
            raise says
        return number

    def queue(self) -> dict[str, slurm.Queued] | None:
        """Tell the jobs that did not run yet."""
        if self.silent:
            return None
        return {
            job: slurm.Queued(job=job, name=name, state="PENDING", nodes="", why="Resources")
            for job, (name, *_) in self.jobs.items()
        }

    def cancel(self, jobs) -> None:
        """End jobs or whole arrays."""
        if self.silent:
            raise Fault("Slurm does not answer")
        for wanted in jobs:
            for job in list(self.jobs):
                if wanted in (job, job.partition("_")[0]):
                    del self.jobs[job]

    def has_orders(self, folder, jobs) -> bool:
        """True unless the command was killed before submitit wrote them."""
        return set(jobs) <= self.with_orders

    def run_all(self) -> None:
        """Run what is in the queue."""
        for job in list(self.jobs):
            self.run(job)

    def run(self, job: str) -> None:
        """Run a job to its end."""
        ends = self.ends.pop(0) if self.ends else "done"
        _, order, _ = self.jobs[job]
        if ends != "dies" and job in self.with_orders:
            self._monkeypatch.setenv("SLURM_JOB_ID", job)
            with pytest.MonkeyPatch.context() as patches, contextlib.suppress(Killed):
                if ends == "in cell":
                    patches.setattr(self.executor, "run", _die)
                node.measure(order)
        del self.jobs[job]

    def _sleep(self, seconds: float) -> None:
        self.polls += 1
        assert self.polls < 200, "the driver waits for ever"
        self.while_waiting()

    def _block(self, order: Any) -> str:
        cells = order.sweep.cells(most=True)
        (block,) = {bundled_in(cell) for cell in cells}
        return block


def _die(job, progress) -> Record:
    raise Killed


def drive(sweep: Sweep, out: Any, *, wait: bool = True, said: list[str] | None = None, heard: Any = None):
    """Call the driver as ``effbench run --executor slurm`` does."""
    store = Store(out)
    todo = plan(sweep, store, anywhere=True)
    say = (said if said is not None else []).append
    return driver.run(sweep, store, todo, Settings(), heard or Heard(), say, wait=wait, poll_s=0.0)
