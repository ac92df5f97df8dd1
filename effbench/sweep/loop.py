"""The loop of a run: plan, measure what is pending, add repeats of noisy times, and write the tables."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from effbench.common import files, host
from effbench.common.spec import MAY_GO_ON, Cell, Job, Record, Status
from effbench.records import sweep_files
from effbench.records.analyse.summary import summarise
from effbench.records.frame import raw_frame
from effbench.records.store import Problem, Store, StoreFull, write_tables
from effbench.sweep import machine_pace, planning
from effbench.sweep.devices import trains_on_any, workers
from effbench.sweep.executor import Executor, Progress, refuse_missing
from effbench.sweep.local import LocalExecutor
from effbench.sweep.machine_ceiling import Ceilings
from effbench.sweep.machine_history import History
from effbench.sweep.planning import Plan
from effbench.sweep.preparation import Preparation
from effbench.sweep.skipping import reason_to_skip
from effbench.sweep.sweep import Sweep

if TYPE_CHECKING:
    from pandas import DataFrame

RESULTS = Path("results")

_STOPPED = "stopped by the user while it ran"


class Listener(Protocol):
    """Receives the events of a run; the terminal's progress is one."""

    def planned(self, jobs: Sequence[Job], done: Sequence[Record], problems: Sequence[Problem]) -> None:
        """Called before the first cell: the jobs, the final records, and the files that could not be read."""

    def began(self, job: Job, eta_s: float) -> None:
        """Called when a cell starts; ``eta_s`` is the expected time in seconds to the end of the sweep."""

    def progressed(self, fraction: float, message: str) -> None:
        """Called while a cell runs, with the fraction that is done and a message."""

    def finished(self, record: Record) -> None:
        """Called when a record was written."""

    def refining(self, cells: Sequence[Cell]) -> None:
        """Called when everything planned is done and these cells of noisy times are measured next."""


class Silent:
    """A listener that ignores every event."""

    def planned(self, jobs: Sequence[Job], done: Sequence[Record], problems: Sequence[Problem]) -> None:
        """Ignore."""

    def began(self, job: Job, eta_s: float) -> None:
        """Ignore."""

    def progressed(self, fraction: float, message: str) -> None:
        """Ignore."""

    def finished(self, record: Record) -> None:
        """Ignore."""

    def refining(self, cells: Sequence[Cell]) -> None:
        """Ignore."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The tables of a finished run.

    ``summary`` has a row for each configuration of the sweep and ``raw`` one for each of its records;
    ``all_summary`` and ``all_raw`` have those of the whole folder, which may hold other sweeps too.
    """

    summary: DataFrame
    raw: DataFrame
    all_summary: DataFrame
    all_raw: DataFrame


def run(
    sweep: Sweep,
    out: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    resume: bool = True,
    predictions: bool = False,
    weights: bool = False,
    executor: Executor | None = None,
    listener: Listener | None = None,
) -> DataFrame:
    """Measure what is pending of a sweep into ``out`` (``results/NAME``) and return the sweep's summary.

    Then repeat the times that are noisier than the sweep's ``precision``, up to ``max_repeats`` or the end of
    the budget. A cell with a final record for this code, machine and data is not measured again, unless
    ``resume`` is False. With ``predictions``, each trained model writes what it predicts for the test part
    into the folder's ``predictions/``; with ``weights``, its weights are kept in ``weights/``.

    Raises UsageError, before anything is written, for what cannot be run; StoreFull if the disk is full;
    KeyboardInterrupt once the cell in flight is recorded as interrupted. The results folder stays sound in
    every case.
    """
    store = Store(Path(out) if out is not None else RESULTS / sweep.name)
    plan = planning.plan(
        sweep, store, data_dir=data_dir, resume=resume, predictions=predictions, keep_weights=weights
    )
    if listener is None:
        listener = Silent()
        for problem in plan.problems:
            warnings.warn(f"ignored {problem}", stacklevel=2)
    return measure(sweep, store, plan, executor or LocalExecutor(), listener).summary


def measure(sweep: Sweep, store: Store, plan: Plan, executor: Executor, listener: Listener) -> Outcome:
    """Carry out a plan as ``run`` does, close the executor and return all tables of the run."""
    try:
        gpus = 0
        if plan.jobs:
            offers = executor.start()
            refuse_missing({job.cell.device for job in plan.jobs}, offers)
            gpus = offers["cuda_devices"]
        store.create()
        with store.lock():
            if plan.jobs:
                write_sweep(sweep, store.folder)
            if not plan.resume:
                for job in plan.jobs:
                    store.drop_checkpoint(job.cell)
            try:
                wrote = carry_out(sweep, store, plan, executor, listener, gpus)
            except KeyboardInterrupt:
                write_tables(store.folder)
                raise
            return tables(store.read()[0] if wrote else plan.stored, sweep, store)
    finally:
        executor.close()


def tables(records: Sequence[Record], sweep: Sweep, store: Store) -> Outcome:
    """Write the tables of the folder's records and return them with the sweep's own.

    They are written also if nothing was left to measure: the run before may have been killed before it wrote
    them.
    """
    all_raw, all_summary = write_tables(store.folder, records)
    own = {cell.key for cell in sweep.cells(most=True)}
    mine = [record for record in records if record.cell.key in own]
    if len(mine) == len(records):
        return Outcome(summary=all_summary, raw=all_raw, all_summary=all_summary, all_raw=all_raw)
    raw = raw_frame(mine)
    return Outcome(summary=summarise(raw), raw=raw, all_summary=all_summary, all_raw=all_raw)


def carry_out(
    sweep: Sweep, store: Store, plan: Plan, executor: Executor, listener: Listener, gpus: int = 0
) -> bool:
    """Measure the plan and further repeats of noisy times; return True if a record was written.

    With several ``gpus``, trainings that may use any of them run at the same time, one on each, after all
    costs. It neither locks the folder nor writes its tables, which ``measure`` does. The caller closes the
    executor.
    """
    listener.planned(plan.jobs, plan.done, plan.problems)
    loop = _Loop(sweep, store, executor, listener, plan, gpus)
    try:
        loop.go(plan.jobs)
        while not loop.out_of_budget and (more := planning.too_wide(sweep, loop.records)):
            jobs, done = planning.pending(more, sweep, plan)
            loop.records += done
            if jobs:
                listener.refining([job.cell for job in jobs])
                loop.go(jobs, planned=False)
    finally:
        loop.history.keep(loop.measured)
        machine_pace.keep(loop.estimate.sums)
    return loop.wrote


class _Loop:
    """Measures jobs one after the other, into the store, within the sweep's budget."""

    def __init__(
        self,
        sweep: Sweep,
        store: Store,
        executor: Executor,
        listener: Listener,
        plan: Plan,
        gpus: int,
    ) -> None:
        self._gpus = gpus
        self.records, self.measured = list(plan.done), list[Record]()
        self._known = {record.cell.key: record for record in plan.stored}
        self.out_of_budget = self.wrote = False
        self._budget_s, self._store = sweep.budget_s, store
        self._executor, self._listener = executor, listener
        self.estimate = machine_pace.estimate_of(plan)
        self._preparation = Preparation()
        self.history = History()
        self._checked: set[tuple[str, str]] = set()  # configurations and their code
        # a roofline needs the FLOPs and the time of a cell
        self._ceilings = Ceilings(executor) if {"time", "flops"} <= {c.probe for c in sweep.cells()} else None
        self._began = time.monotonic()

    def go(self, jobs: Sequence[Job], *, planned: bool = True) -> None:
        """Measure the jobs; ``planned`` jobs that the budget does not reach are recorded as interrupted."""
        apart = [job for job in jobs if self._gpus > 1 and trains_on_any(job.cell)]
        alone = [job for job in jobs if self._gpus < 2 or not trains_on_any(job.cell)]
        left = self.estimate.left(job.cell for job in jobs)
        for job in alone:
            record = self._unneeded(job)
            if record is not None and self.out_of_budget and not planned:
                return
            if record is None:
                self._listener.began(job, left.seconds())
                try:
                    record = self._train(job) if job.cell.probe == "accuracy" else self._run(job)
                    record = self._ceilings.beside(record) if self._ceilings else record
                    record = self.history.beside(record)
                except KeyboardInterrupt:
                    self._executor.close()
                    self._keep(self._unmeasured(job, "interrupted", _STOPPED))
                    raise
            self._keep(record)
            left.without(job.cell)
        if apart:
            self._train_apart(apart)

    def _train_apart(self, jobs: Sequence[Job]) -> None:
        """Train on all GPUs at the same time, one training on each."""
        self._executor.close()  # its server would keep memory on the first one
        with workers(self._gpus) as on_gpus:
            try:
                for job in jobs:
                    if (record := self._unneeded(job)) is not None:
                        self._keep(record)
                        continue
                    self._preparation.of(job, lambda fraction, text: None)
                    for record in on_gpus.start(job, self._train_on):
                        self._keep(record)
                for record in on_gpus.rest():
                    self._keep(record)
            except KeyboardInterrupt:
                stopped = on_gpus.jobs()
                on_gpus.close()
                for job in stopped:
                    self._keep(self._unmeasured(job, "interrupted", _STOPPED))
                raise

    def _unneeded(self, job: Job) -> Record | None:
        """Return the record of a job that is not measured: the budget ended, or it would fail; else None."""
        if self._is_over(job.cell):
            reason = f"the budget of {self._budget_s:g} s ended before its turn"
            return self._unmeasured(job, "interrupted", reason)
        if reason := reason_to_skip(job.cell, self.records):
            return self._unmeasured(job, "skipped", reason)
        return None

    def _run(self, job: Job) -> Record:
        """Run a job; a time whose other repeat passed the checks before the timing is not checked again."""
        configuration = planning.configuration_of(job.cell), job.code
        record = self._executor.run(
            replace(job, checked=configuration in self._checked), self._listener.progressed
        )
        if record.status == "ok" and job.cell.probe == "time":
            self._checked.add(configuration)
        return record

    def _train(self, job: Job) -> Record:
        """Train on the loop's own executor, and show the progress."""
        self._preparation.of(job, self._listener.progressed)
        return self._train_with(job, self._executor, self._listener.progressed)

    def _train_on(self, job: Job, executor: Executor) -> Record:
        """Train beside others, whose progress would be mixed with this one's."""
        return self._train_with(job, executor, lambda fraction, text: None)

    def _train_with(self, job: Job, executor: Executor, progress: Progress) -> Record:
        """Train with a checkpoint, until the end of the budget if that comes first."""
        self._store.drop_predictions(job.cell)
        self._store.drop_weights(job.cell)
        job = replace(job, checkpoint=str(self._store.checkpoint(job.cell)))
        left_s = math.inf if self._budget_s is None else self._budget_s - self._spent_s()
        if left_s >= job.limits.timeout_s:
            return executor.run(job, progress)
        record = executor.run(replace(job, limits=replace(job.limits, timeout_s=left_s)), progress)
        if record.status == "timeout":
            self.out_of_budget = True
            reason = f"the budget of {self._budget_s:g} s ended while it trained"
            record = replace(record, status="interrupted", reason=reason)
        return replace(record, limits=job.limits)

    def _spent_s(self) -> float:
        return time.monotonic() - self._began

    def _is_over(self, cell: Cell) -> bool:
        if self._budget_s is not None and not self.out_of_budget:
            # a training is stopped when the budget ends, and goes on from its checkpoint in the next run
            expected_s = 0.0 if cell.probe == "accuracy" else self.estimate.seconds(cell)
            self.out_of_budget = self._spent_s() + expected_s > self._budget_s
        return self.out_of_budget

    def _keep(self, record: Record) -> None:
        if record.status != "interrupted" or not self._has_result(record):
            self._store.write(record)
            self.wrote = True
        if record.cell.probe == "accuracy" and record.status not in MAY_GO_ON:
            self._store.drop_checkpoint(record.cell)
        self.records.append(record)
        self.measured.append(record)
        self.estimate.learn(record)
        self._listener.finished(record)

    def _unmeasured(self, job: Job, status: Status, reason: str) -> Record:
        """Return the record of a job that was not run, on the GPU of the other records of its device."""
        own = (r.machine for r in reversed(self.records) if r.cell.device == job.cell.device)
        gpu = next((facts["gpu"] for facts in own if "gpu" in facts), None)
        return Record.of(job, status, reason, host.identity() | ({"gpu": gpu} if gpu else {}))

    def _has_result(self, record: Record) -> bool:
        """True if the folder holds a result of the cell by the same code, data and machine."""
        known = self._known.get(record.cell.key)
        return known is not None and known.status != "interrupted" and _origin(known) == _origin(record)


def _origin(record: Record) -> tuple[str, str, object]:
    return record.code, record.data, record.machine.get("name")


def write_sweep(sweep: Sweep, folder: Path) -> None:
    """Write the sweep beside its results; keep the files of other sweeps that were run into the folder."""
    text = sweep.to_toml(folder)
    for number in itertools.count(1):
        path = sweep_files.path_of(folder, number)
        if not path.exists():
            break
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text(encoding="utf-8") == text:
                return
    try:
        files.replace(path, text.encode())
    except OSError as error:
        raise StoreFull(f"cannot write {path}: {error.strerror or error}") from error
