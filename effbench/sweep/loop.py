"""The loop: plan -> pending cells -> executor -> store."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from effbench.common import files, machine, registry
from effbench.common.growth import slope
from effbench.common.spec import PROBES, Cell, Job, Probe, Record, Status, UsageError, spec_label
from effbench.records.analyse.load import is_crowded
from effbench.records.analyse.statistics import half_width, median_interval
from effbench.records.analyse.summary import summarise
from effbench.records.store import Problem, Store, StoreFull, export, raw_frame
from effbench.sweep.estimate import Estimate, whole_seconds
from effbench.sweep.executor import Executor
from effbench.sweep.fingerprint import code_of
from effbench.sweep.local import LocalExecutor
from effbench.sweep.machine_ceiling import Ceilings
from effbench.sweep.preparation import Preparation
from effbench.sweep.sweep import Sweep

if TYPE_CHECKING:
    from pandas import DataFrame

RESULTS = Path("results")
SWEEP_FILES = "sweep{}.toml"  # one for each sweep that was run into a folder: sweep.toml, sweep-2.toml, ...

# After these a cell may be measured again, some once the limits are raised: its checkpoint is kept.
_MAY_GO_ON: tuple[Status, ...] = ("interrupted", "timeout", "oom", "skipped")


class Listener(Protocol):
    """Who watches a run: the terminal's progress, or nobody."""

    def planned(self, jobs: Sequence[Job], done: Sequence[Record], problems: Sequence[Problem]) -> None:
        """Before the first cell: what will be measured, what was found, what was damaged."""

    def began(self, job: Job, eta_s: float) -> None:
        """A cell starts; ``eta_s`` is the expected time to the end of the sweep."""

    def progressed(self, fraction: float, text: str) -> None:
        """The cell in flight says how far it is."""

    def finished(self, record: Record) -> None:
        """A record was written."""

    def refining(self, cells: Sequence[Cell]) -> None:
        """All that was planned is done; these are measured once more, for their intervals are too wide."""


class Silent:
    """Listens to nothing."""

    def planned(self, jobs: Sequence[Job], done: Sequence[Record], problems: Sequence[Problem]) -> None:
        """Ignore."""

    def began(self, job: Job, eta_s: float) -> None:
        """Ignore."""

    def progressed(self, fraction: float, text: str) -> None:
        """Ignore."""

    def finished(self, record: Record) -> None:
        """Ignore."""

    def refining(self, cells: Sequence[Cell]) -> None:
        """Ignore."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run has to do: jobs in order, what is done already, and what could not be read.

    ``known`` are all records of the folder, ``data`` the fingerprints of the tasks' data by label, and
    ``unchecked`` says why the data of others is not known.
    """

    jobs: tuple[Job, ...]
    done: tuple[Record, ...]
    problems: tuple[Problem, ...]
    known: Mapping[str, Record]
    data: Mapping[str, str]
    data_dir: str | None
    unchecked: tuple[str, ...] = ()


def run(
    sweep: Sweep,
    out: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    resume: bool = True,
    executor: Executor | None = None,
    listener: Listener | None = None,
) -> DataFrame:
    """Measure what is pending of a sweep into ``out`` (``results/NAME``) and return the sweep's summary.

    Then go on with further repeats of what is not known to the sweep's ``precision``, up to ``max_repeats``
    or the budget. A cell with a final record for this code, machine and data is not measured again, unless
    ``resume`` is False. Raises UsageError, before anything is written, for what cannot be run; StoreFull if
    the disk is full; KeyboardInterrupt once the cell in flight is recorded as interrupted. The results folder
    stays sound in every case.
    """
    store = Store(Path(out) if out is not None else RESULTS / sweep.name)
    executor = executor or LocalExecutor()
    found = plan(sweep, store, data_dir=data_dir, resume=resume)
    if listener is None:
        listener = Silent()
        for problem in found.problems:
            warnings.warn(f"ignored {problem}", stacklevel=2)
    try:
        wanted = {job.cell.device for job in found.jobs} - {"cpu"}
        offers = executor.start() if found.jobs else {}
        if wanted and not offers["cuda_devices"]:
            raise UsageError(
                f"device {min(wanted)!r}: torch {offers['torch']} finds no CUDA device here; choose cpu"
            )
        store.create()
        with store.lock():
            if found.jobs:
                _write_sweep(sweep, store.folder)
            if not resume:
                for job in found.jobs:
                    store.drop_checkpoint(job.cell)
            listener.planned(found.jobs, found.done, found.problems)
            try:
                _measure(found, sweep, store, executor, listener)
            except KeyboardInterrupt:
                export(store.folder)
                raise
            # also when nothing was left to do: the run before may have been killed before it got here
            export(store.folder)
            return summarise(raw_frame(records_of(sweep, store)))
    finally:
        executor.close()


def records_of(sweep: Sweep, store: Store) -> list[Record]:
    """The folder's records of the sweep's own cells: a folder may hold other sweeps too."""
    own = {cell.key for cell in sweep.cells(most=True)}
    return [record for record in store.read()[0] if record.cell.key in own]


def plan(
    sweep: Sweep,
    store: Store,
    *,
    data_dir: str | Path | None = None,
    resume: bool = True,
    check_data: bool = True,
) -> Plan:
    """What is left to measure, in the order in which to measure it; writes nothing.

    Raises UsageError for tasks whose data is missing or damaged. Without ``check_data`` such tasks are named
    in ``unchecked`` instead, and all of their cells are planned.
    """
    cells = sweep.cells()
    data, unchecked = _check_tasks(cells, Path(data_dir) if data_dir is not None else None, check_data)
    records, problems = store.read() if store.exists() else ([], [])
    known = {record.cell.key: record for record in records} if resume else {}
    empty = Plan(
        jobs=(),
        done=(),
        problems=tuple(problems),
        known=known,
        data=data,
        data_dir=str(data_dir) if data_dir is not None else None,
        unchecked=tuple(unchecked),
    )
    jobs, done = _pending(cells, sweep, empty)
    while not jobs and (more := too_wide(sweep, done)):
        jobs, found = _pending(more, sweep, empty)
        done += found
    return replace(empty, jobs=tuple(jobs), done=tuple(done))


def too_wide(sweep: Sweep, records: Sequence[Record]) -> list[Cell]:
    """The next repeats to make: those of blocks in which some time's interval is wider than asked.

    Or in which some time was measured beside other load, so that fewer undisturbed ones are left than asked.

    A block is all mechanisms at one shape, length and mode. It is repeated whole, without the mechanisms that
    failed in it, so that its repeats stay pairs that can be compared; up to ``max_repeats``. Who asks for one
    repeat gets one: it has no interval that could be too wide.
    """
    measured = {record.cell.key: record for record in records}
    planned = {cell.key for cell in sweep.cells()}
    blocks: dict[str, dict[str, list[Cell]]] = {}
    for cell in sweep.cells(most=True):
        if cell.probe == "time":
            key = replace(cell, mechanism="", options={}, repeat=0).key
            blocks.setdefault(key, {}).setdefault(cell.label, []).append(cell)
    found: list[Cell] = []
    for block in blocks.values():
        lives: list[tuple[list[Cell], list[Record]]] = []
        for repeats in block.values():
            made = [measured[cell.key] for cell in repeats if cell.key in measured]
            if made and all(record.status == "ok" for record in made):
                lives.append((repeats, made))
        least = min((len(made) for _, made in lives), default=0)
        coming = [repeats[least] for repeats, made in lives if len(made) == least < len(repeats)]
        if coming and any(_is_too_wide(made, planned) for _, made in lives):
            found += coming
    return found


def _is_too_wide(made: Sequence[Record], planned: set[str]) -> bool:
    if len(made) < 2:
        return False
    quiet = [record for record in made if not is_crowded(record)]
    if len(quiet) < min(len(made), sum(record.cell.key in planned for record in made)):
        return True
    interval = median_interval([record.samples["time_s"] for record in quiet])
    return half_width(interval) > made[0].cell.precision


def _pending(cells: Iterable[Cell], sweep: Sweep, found: Plan) -> tuple[list[Job], list[Record]]:
    """(what is left to measure of these cells, in order; the final records of the others)."""
    jobs: list[Job] = []
    done: list[Record] = []
    for cell in order(cells, sweep.seed):
        task = _task_label(cell)
        job = Job(
            cell=cell,
            limits=sweep.limits(cell.probe),
            data_dir=found.data_dir if task else None,
            code=code_of(cell),
            data=found.data.get(task, ""),
        )
        record = found.known.get(cell.key)
        if record is not None and _is_final(record, job):
            done.append(record)
        else:
            jobs.append(job)
    return jobs, done


def order(cells: Iterable[Cell], seed: int) -> list[Cell]:
    """Costs before trainings; repeats outermost, lengths ascending, mechanisms shuffled within a block.

    Drift of the machine then hits all mechanisms alike, repeats are far apart in time, and a sweep that is
    cut short has measured everything at least once before it measures anything twice. Trainings take longest
    and come last, so that a budget which ends among them leaves complete tables of costs.
    """
    shuffled = sorted(cells, key=lambda cell: cell.key)
    random.Random(seed).shuffle(shuffled)
    return sorted(
        shuffled,
        key=lambda c: (c.probe == "accuracy", c.repeat, c.seq_len, c.mode, c.scope, PROBES.index(c.probe)),
    )


def _measure(found: Plan, sweep: Sweep, store: Store, executor: Executor, listener: Listener) -> None:
    loop = _Loop(sweep, store, executor, listener, found.done)
    loop.go(found.jobs)
    while not loop.out_of_budget and (more := too_wide(sweep, loop.records)):
        jobs, done = _pending(more, sweep, found)
        loop.records += done
        if jobs:
            listener.refining([job.cell for job in jobs])
            loop.go(jobs, planned=False)


class _Loop:
    """Measures jobs one after the other, into the store, within the sweep's budget."""

    def __init__(
        self, sweep: Sweep, store: Store, executor: Executor, listener: Listener, done: Iterable[Record]
    ) -> None:
        self.records = list(done)
        self.out_of_budget = False
        self._budget_s, self._store = sweep.budget_s, store
        self._executor, self._listener = executor, listener
        self._estimate = Estimate(self.records)
        self._preparation = Preparation()
        # a roofline needs the FLOPs and the time of a cell
        self._ceilings = Ceilings(executor) if {"time", "flops"} <= {c.probe for c in sweep.cells()} else None
        self._began = time.monotonic()

    def go(self, jobs: Sequence[Job], *, planned: bool = True) -> None:
        """Measure them; what the budget leaves of ``planned`` jobs is recorded as interrupted."""
        for position, job in enumerate(jobs):
            eta_s = sum(self._estimate.seconds(other.cell) for other in jobs[position:])
            if self._is_over(job.cell):
                if not planned:
                    return
                reason = f"the budget of {self._budget_s:g} s ended before its turn"
                record = _unmeasured(job, "interrupted", reason)
            elif reason := _hopeless(job.cell, self.records):
                record = _unmeasured(job, "skipped", reason)
            else:
                self._listener.began(job, eta_s)
                try:
                    record = self._train(job) if job.cell.probe == "accuracy" else self._run(job)
                    record = self._ceilings.beside(record) if self._ceilings else record
                except KeyboardInterrupt:
                    self._executor.close()
                    self._keep(_unmeasured(job, "interrupted", "stopped by the user while it ran"))
                    raise
            self._keep(record)

    def _run(self, job: Job) -> Record:
        return self._executor.run(job, self._listener.progressed)

    def _train(self, job: Job) -> Record:
        """Train with a checkpoint, until the end of the budget if that comes first."""
        self._preparation.of(job, self._listener.progressed)
        job = replace(job, checkpoint=str(self._store.checkpoint(job.cell)))
        left_s = math.inf if self._budget_s is None else self._budget_s - self._spent_s()
        if left_s >= job.limits.timeout_s:
            return self._run(job)
        record = self._run(replace(job, limits=replace(job.limits, timeout_s=left_s)))
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
            expected_s = 0.0 if cell.probe == "accuracy" else self._estimate.seconds(cell)
            self.out_of_budget = self._spent_s() + expected_s > self._budget_s
        return self.out_of_budget

    def _keep(self, record: Record) -> None:
        self._store.write(record)
        if record.cell.probe == "accuracy" and record.status not in _MAY_GO_ON:
            self._store.drop_checkpoint(record.cell)
        self.records.append(record)
        self._estimate.learn(record)
        self._listener.finished(record)


def _is_final(record: Record, job: Job) -> bool:
    """Whether the record answers the job: same code, machine and data, and limits no tighter than now."""
    if record.status == "interrupted" or (record.code, record.data) != (job.code, job.data):
        return False
    if record.machine.get("name") != machine.name():
        return False
    if record.status in ("oom", "timeout", "skipped") and record.limits is not None:
        tighter = record.limits.timeout_s < job.limits.timeout_s
        return not (tighter or record.limits.memory_bytes < job.limits.memory_bytes)
    return True


def _unmeasured(job: Job, status: Status, reason: str) -> Record:
    return Record.of(job, status, reason, machine.name())


def _line_of(cell: Cell) -> Cell:
    """The line of cells that differ only in length: what is too much at one is too much at the longer."""
    probe: Probe = "accuracy" if cell.probe == "accuracy" else "time"
    return replace(cell, seq_len=1, repeat=0, seconds=0.0, precision=0.0, probe=probe)


def _hopeless(cell: Cell, records: Sequence[Record]) -> str:
    """Why not to try: a cell of the same line, as long or shorter, ran out of memory or time."""
    line = _line_of(cell)
    same = [record for record in records if _line_of(record.cell) == line]
    for failed in same:
        if failed.status not in ("oom", "timeout"):
            continue
        again = failed.cell.seq_len == cell.seq_len and failed.cell.probe == cell.probe
        if failed.cell.seq_len < cell.seq_len or again:
            what = "ran out of memory" if failed.status == "oom" else "ran out of time"
            return f"N={failed.cell.seq_len} {what}; {_prediction(cell, failed, same)}"
    return ""


def _prediction(cell: Cell, failed: Record, same: Sequence[Record]) -> str:
    """What the cell would cost, from the shorter lengths that were measured, said with its basis."""
    quantity = "peak_bytes" if failed.status == "oom" else "time_s"
    measured: dict[int, float] = {}
    for record in same:
        if quantity == "peak_bytes" and isinstance(record.values.get("peak_bytes"), int):
            measured[record.cell.seq_len] = float(record.values["peak_bytes"] or 0)
        if quantity == "time_s" and record.samples.get("time_s"):
            measured[record.cell.seq_len] = min(record.samples["time_s"])
        if quantity == "time_s" and record.cell.probe == "accuracy" and record.status == "ok":
            measured[record.cell.seq_len] = whole_seconds(record)
    lengths = sorted(n for n, value in measured.items() if value > 0)
    if len(lengths) >= 2:
        low, high = lengths[-2:]
        power = slope((low, high), (measured[low], measured[high]))
        basis = f"it grew as N^{power:.2f} from {low} to {high}"
    elif len(lengths) == 1 and (declared := registry.find(cell.mechanism, "mechanism").order):
        high = lengths[0]
        power = declared.exponent((high, cell.seq_len)) if cell.seq_len > high else declared.power
        basis = f"{high} measured, {declared} declared"
    else:
        return f"too few shorter lengths are measured to predict N={cell.seq_len}"
    value = measured[high] * (cell.seq_len / high) ** power
    shown = f"{value / 2**30:.2g} GiB" if quantity == "peak_bytes" else f"{value:.2g} s a call"
    if quantity == "time_s" and cell.probe == "accuracy":
        shown = f"{value:.2g} s"
    return f"predicted for N={cell.seq_len}: {shown} ({basis})"


def _check_tasks(
    cells: Iterable[Cell], data_dir: Path | None, strict: bool
) -> tuple[dict[str, str], list[str]]:
    """(task label -> fingerprint of its data, reasons why others' data is not known).

    Raises UsageError for a data folder, options or lengths that do not fit, for a task that cannot be
    imported and, if ``strict``, for data that does not fit.
    """
    fingerprints: dict[str, str] = {}
    unknown: dict[str, str] = {}
    tasks: dict[str, Any] = {}
    fitting: set[tuple[str, int]] = set()
    for cell in cells:
        label = _task_label(cell)
        if not label or label in unknown or (label, cell.seq_len) in fitting:
            continue
        try:
            if label not in tasks:
                if data_dir is not None:
                    files.entries(data_dir)  # raises for a folder that is not there
                tasks[label] = _task_class(cell.task or "")(**cell.task_options)
                try:
                    fingerprints[label] = tasks[label].fingerprint(data_dir)
                except UsageError as error:
                    if strict:
                        raise
                    unknown[label] = f"the data of {label}: {error}"
                    continue
            tasks[label].check_length(cell.seq_len, data_dir)
        except UsageError:
            raise
        except (ValueError, TypeError, OSError) as error:
            raise UsageError(f"task {label}: {error}") from None
        fitting.add((label, cell.seq_len))
    return fingerprints, list(unknown.values())


def _task_class(name: str) -> Callable[..., Any]:
    plugin = registry.find(name, "task")
    try:
        return registry.load(plugin)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise UsageError(
            f"task {name}: {plugin.path} cannot be imported: {type(error).__name__}: {error}"
        ) from None


def _task_label(cell: Cell) -> str:
    return spec_label(cell.task, cell.task_options) if cell.task else ""


def _write_sweep(sweep: Sweep, folder: Path) -> None:
    """Keep the sweep beside its results, and the sweeps that were run into the folder before it."""
    text = sweep.to_toml(folder)
    for number in itertools.count(1):
        path = folder / SWEEP_FILES.format(f"-{number}" if number > 1 else "")
        if not path.exists():
            break
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text(encoding="utf-8") == text:
                return
    try:
        files.replace(path, text.encode())
    except OSError as error:
        raise StoreFull(f"cannot write {path}: {error.strerror or error}") from error
