"""The plan of a run: which cells are left to measure, in which order, and which repeats to add."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from effbench.common import files, folders, host, machine, registry, weights
from effbench.common.extent import Extent
from effbench.common.probes import PROBES
from effbench.common.spec import Cell, Job, Record, UsageError, block_of
from effbench.records.analyse.load import comparable, is_crowded
from effbench.records.analyse.uncertainty import noises, own_error
from effbench.records.frame import raw_frame
from effbench.records.store import Problem, Store
from effbench.sweep.estimate import Extents
from effbench.sweep.fingerprint import code_of, forget
from effbench.sweep.sweep import Sweep


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The jobs of a run in order, the records that are final already, and the files that could not be read.

    ``stored`` are all records of the folder; ``known`` are those that may answer a cell, by its key: none
    without ``resume``. ``data`` holds the fingerprints of the tasks' data by label; ``unchecked`` says why
    the data of other tasks is not known, and which folders of models are missing.
    ``extents`` say how much trainings read, by task's label and length, as far as that is known.
    ``predictions_of`` gives the folder of a training's predictions, if they are asked for, and
    ``weights_of`` the file of its weights. ``anywhere``: a record of any machine is final, since the nodes of
    a cluster are several.
    """

    jobs: tuple[Job, ...]
    done: tuple[Record, ...]
    problems: tuple[Problem, ...]
    stored: tuple[Record, ...]
    known: Mapping[str, Record]
    resume: bool
    data: Mapping[str, str]
    data_dir: str | None
    unchecked: tuple[str, ...] = ()
    extents: Extents = field(default_factory=dict)
    predictions_of: Callable[[Cell], Path] | None = None
    weights_of: Callable[[Cell], Path] | None = None
    anywhere: bool = False


def plan(
    sweep: Sweep,
    store: Store,
    *,
    data_dir: str | Path | None = None,
    resume: bool = True,
    check_data: bool = True,
    predictions: bool = False,
    keep_weights: bool = False,
    anywhere: bool = False,
) -> Plan:
    """Find out what is left to measure, in the order in which to measure it; writes nothing.

    Raises UsageError for tasks whose data is missing or damaged. Without ``check_data`` such tasks are named
    in ``unchecked`` instead, and all of their cells are planned. With ``predictions``, a training that wrote
    none is made again. Raises UsageError if no task of the sweep can write them. With ``keep_weights``, a
    training whose weights are not kept is made again. ``anywhere``: records of other machines are final too.
    """
    forget()
    cells = sweep.cells()
    if keep_weights:
        weights.require_library("--weights")
        if not any(cell.task for cell in cells):
            raise UsageError("--weights: the sweep has no training")
    data, unchecked, extents = _check_tasks(
        cells, Path(data_dir) if data_dir is not None else None, check_data, predictions
    )
    unchecked += _check_folders(cells, check_data)
    records, problems = store.read() if store.exists() else ([], [])
    empty = Plan(
        jobs=(),
        done=(),
        problems=tuple(problems),
        stored=tuple(records),
        known={record.cell.key: record for record in records} if resume else {},
        resume=resume,
        data=data,
        data_dir=str(data_dir) if data_dir is not None else None,
        unchecked=tuple(unchecked),
        extents=extents,
        predictions_of=store.predictions if predictions else None,
        weights_of=store.weights if keep_weights else None,
        anywhere=anywhere,
    )
    jobs, done = pending(cells, sweep, empty)
    while not jobs and (more := too_wide(sweep, done)):
        jobs, final = pending(more, sweep, empty)
        done += final
    return replace(empty, jobs=tuple(jobs), done=tuple(done))


def pending(cells: Iterable[Cell], sweep: Sweep, plan: Plan) -> tuple[list[Job], list[Record]]:
    """Return the jobs that are left of these cells, in order, and the final records of the others.

    Times are compared in pairs of one host. So if the same repeat of a block is not whole from one host, its
    times from another host than this one are measured again, here, with the rest.
    """
    final: dict[str, Record] = {}
    planned: list[Job] = []
    codes: dict[tuple[str, str | None], str] = {}  # of a model and a task, since a digest takes milliseconds
    for cell in order(cells, sweep.seed):
        sources = cell.label, cell.task
        codes[sources] = codes.get(sources) or code_of(cell)
        task = cell.task_label
        predictions = plan.predictions_of(cell) if plan.predictions_of and task else None
        kept = plan.weights_of(cell) if plan.weights_of and task else None
        job = Job(
            cell=cell,
            limits=sweep.limits(cell.probe),
            data_dir=plan.data_dir if task else None,
            code=codes[sources],
            data=plan.data.get(task, ""),
            predictions=str(predictions) if predictions else None,
            weights=str(kept) if kept else None,
        )
        record = plan.known.get(cell.key)
        if record is not None and _is_final(record, job, plan.anywhere):
            final[cell.key] = record
        planned.append(job)
    for key in _of_broken_repeats(planned, final):
        del final[key]
    jobs = [job for job in planned if job.cell.key not in final]
    return jobs, [final[job.cell.key] for job in planned if job.cell.key in final]


def _of_broken_repeats(planned: Iterable[Job], final: Mapping[str, Record]) -> list[str]:
    """Return the keys of the times from other hosts in repeats of blocks that are not whole from one host."""
    here = host.host_of(host.facts())
    repeats: dict[tuple[str, int], list[str]] = {}
    for job in planned:
        if job.cell.probe == "time":
            repeats.setdefault((block_of(job.cell), job.cell.repeat), []).append(job.cell.key)
    broken = []
    for keys in repeats.values():
        timed = {key: final[key] for key in keys if key in final and final[key].status == "ok"}
        hosts = {key: host.host_of(record.machine) for key, record in timed.items()}
        if not all(key in final for key in keys) or len(set(hosts.values())) > 1:
            broken += [key for key, name in hosts.items() if name != here]
    return broken


def order(cells: Iterable[Cell], seed: int) -> list[Cell]:
    """Sort cells: costs before trainings, repeats outermost, lengths ascending, mechanisms shuffled.

    Drift of the machine then affects all mechanisms alike, repeats are far apart in time, and a sweep that is
    cut short has measured everything at least once before it measures anything twice. Trainings take longest
    and come last, so that a budget which ends among them leaves complete tables of costs.
    """
    rank = {probe: place for place, probe in enumerate(PROBES)}
    shuffled = sorted(cells, key=lambda cell: cell.key)
    random.Random(seed).shuffle(shuffled)
    return sorted(
        shuffled,
        key=lambda c: (
            c.probe == "accuracy",
            c.repeat,
            c.seq_len,
            c.mode,
            c.scope,
            rank[c.probe],
            block_of(c),  # one shape after the other
        ),
    )


def too_wide(sweep: Sweep, records: Sequence[Record]) -> list[Cell]:
    """Return the next repeats to measure: those of blocks with a noisy time.

    A time is noisy if its own error, which more repeats reduce, is larger than ``precision``, or if other
    processes disturbed so many of its repeats that fewer than the planned number are left. If a repeat beyond
    the planned ones was disturbed too, the load is there to stay, and no further one is made because of it.

    A block (``spec.block_of``) is repeated whole, without the mechanisms that failed in it, so that its
    repeats stay pairs that can be compared; up to ``max_repeats``. A sweep with one
    repeat gets no further ones: one repeat has no interval.
    """
    measured = {record.cell.key: record for record in records}
    planned = {cell.key for cell in sweep.cells()}
    errors = _own_errors(records)
    blocks: dict[str, dict[str, list[Cell]]] = {}
    for cell in sweep.cells(most=True):
        if cell.probe == "time":
            blocks.setdefault(block_of(cell), {}).setdefault(f"{cell.label} {cell.compile}", []).append(cell)
    repeats_to_add: list[Cell] = []
    for block in blocks.values():
        lives: list[tuple[list[Cell], list[Record]]] = []
        for repeats in block.values():
            made = [measured[cell.key] for cell in repeats if cell.key in measured]
            if made and all(record.status == "ok" for record in made):
                lives.append((repeats, made))
        least = min((len(made) for _, made in lives), default=0)
        coming = [repeats[least] for repeats, made in lives if len(made) == least < len(repeats)]
        if coming and any(_is_noisy(made, planned, errors) for _, made in lives):
            repeats_to_add += coming
    return repeats_to_add


def _is_noisy(made: Sequence[Record], planned: set[str], errors: Mapping[str, float]) -> bool:
    if len(made) < 2:
        return False
    asked = sum(record.cell.key in planned for record in made)
    quiet = sum(not is_crowded(record) for record in made)
    if quiet < min(len(made), asked) and not (len(made) > asked and is_crowded(made[-1])):
        return True
    return errors[configuration_of(made[0].cell)] > made[0].cell.precision


def _own_errors(records: Sequence[Record]) -> dict[str, float]:
    """Return the error of each configuration's time within this run; NaN for a single repeat."""
    timed = [record for record in records if record.cell.probe == "time" and record.status == "ok"]
    times = comparable(raw_frame(timed))
    noise = noises(times)
    configurations = [configuration_of(timed[row].cell) for row in times.index]
    return {
        str(key): own_error(list(own["samples_time_s"]), noise[str(own["machine"].iloc[0])])
        for key, own in times.groupby(configurations, sort=False)
    }


def configuration_of(cell: Cell) -> str:
    """Return a key that the repeats of a cell share."""
    return replace(cell, repeat=0).key


def _is_final(record: Record, job: Job, anywhere: bool = False) -> bool:
    """True if the record answers the job: same code, machine and data, and limits no tighter than now.

    ``anywhere``: the machine may be another.
    """
    if record.status == "interrupted" or (record.code, record.data) != (job.code, job.data):
        return False
    if record.status == "ok" and job.predictions and not files.is_dir(Path(job.predictions)):
        return False
    if record.status == "ok" and job.weights and not files.is_file(Path(job.weights)):
        return False
    if not anywhere and record.machine.get("name") != machine.name():
        return False
    if record.status in ("oom", "timeout", "skipped") and record.limits is not None:
        tighter = record.limits.timeout_s < job.limits.timeout_s
        return not (tighter or record.limits.memory_bytes < job.limits.memory_bytes)
    return True


def _check_tasks(
    cells: Sequence[Cell], data_dir: Path | None, strict: bool, predictions: bool
) -> tuple[dict[str, str], list[str], dict[tuple[str, int], Extent]]:
    """Return the fingerprint of each task's data by the task's label, and why other tasks' data is unknown.

    Return also the extents of the trainings that their tasks know.

    Raises UsageError for a data folder, options or lengths that do not fit, for a task that cannot be
    imported and, if ``strict``, for data that does not fit; and if ``predictions`` are asked for and a task
    writes none.
    """
    fingerprints: dict[str, str] = {}
    unknown: dict[str, str] = {}
    tasks: dict[str, Any] = {}
    extents: dict[tuple[str, int], Extent | None] = {}
    for cell in cells:
        label = cell.task_label
        if not label:
            continue
        try:
            if label not in tasks:
                if data_dir is not None:
                    files.entries(data_dir)  # raises for a folder that is not there
                tasks[label] = _task_class(cell.task or "")(**cell.task_options)
                _check_recommenders(cells, label, tasks[label])
                if predictions and not tasks[label].predicts:
                    raise UsageError(f"--predictions: the task {label} writes no predictions")
            tasks[label].check_cell(cell)
            if label in unknown or (label, cell.seq_len) in extents:
                continue
            if label not in fingerprints:
                try:
                    fingerprints[label] = tasks[label].fingerprint(data_dir)
                except UsageError as error:
                    if strict:
                        raise
                    unknown[label] = f"the data of {label}: {error}"
                    continue
            tasks[label].check_length(cell.seq_len, data_dir)
            extents[label, cell.seq_len] = tasks[label].extent(cell.seq_len, cell.seed, data_dir)
        except UsageError:
            raise
        except (ValueError, TypeError, OSError) as error:
            raise UsageError(f"task {label}: {error}") from None
    if predictions and not tasks:
        raise UsageError("--predictions: the sweep has no training")
    known = {key: extent for key, extent in extents.items() if extent is not None}
    return fingerprints, list(unknown.values()), known


def _check_folders(cells: Sequence[Cell], strict: bool) -> list[str]:
    """Return what is wrong with the folders that options of models name. Raises UsageError if ``strict``."""
    unknown: list[str] = []
    for cell in {cell.label: cell for cell in cells}.values():
        try:
            folders.require(registry.model(cell.mechanism), cell.options)
        except UsageError as error:
            if strict:
                raise
            unknown.append(str(error))
    return unknown


def _check_recommenders(cells: Sequence[Cell], label: str, task: Any) -> None:
    """Raise UsageError if a recommender is to be trained with a task that is none of recommendation."""
    if getattr(task, "recommends", False):
        return
    for name, other in dict.fromkeys((c.mechanism, c.task) for c in cells if c.task_label == label):
        if registry.model(name).kind == "recommender":
            raise UsageError(
                f"{name} is a recommender: it is trained with a task of news recommendation, not with {other}"
            )


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
