"""One JSON file a record, written so that a crash loses nothing but the cell in flight."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from effbench.common import columns, files
from effbench.common.exits import Fault
from effbench.common.files import why
from effbench.common.spec import (
    MESSAGE,
    Cell,
    Record,
    UsageError,
    cell_key,
    parse_json,
    record_from,
    spec_label,
    to_json,
)
from effbench.common.wording import one_line, shown
from effbench.records.soundness import check_content

if TYPE_CHECKING:
    from pandas import DataFrame

RECORDS = "records"
SUPERSEDED = "superseded"
CHECKPOINTS = "checkpoints"
RECORD_BYTES = 256 * 2**20  # of one record, most of them samples


class StoreFull(Fault):
    """A record could not be written; its text says where and why."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file in a results folder that is not a sound record, and why. It is reported and left alone."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return one_line(f"{self.path}: {self.reason}", MESSAGE)


class Store:
    """A results folder: ``records/`` with one file a record, named after its cell's key.

    A newer record of the same cell moves the older one to ``superseded/``; no record is ever deleted.
    ``checkpoints/`` holds what trainings under way need to go on, a file a cell.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = folder / RECORDS

    def create(self) -> None:
        """Make the folder. Raises UsageError if something that is no results folder is in its place."""
        try:
            if self.folder.exists() and not self._records.is_dir() and any(self.folder.iterdir()):
                raise UsageError(f"{self.folder} exists and is not a results folder: it has no {RECORDS}/")
            self._records.mkdir(parents=True, exist_ok=True)
        except UsageError:
            raise
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot make the results folder {shown(str(self.folder))}: {why(error)}"
            ) from None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one writer. Raises UsageError if another effbench run is writing here."""
        path = self.folder / ".lock"
        try:
            file = path.open("w")
        except OSError as error:
            raise UsageError(f"cannot write to the results folder: {path}: {why(error)}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another effbench run is writing to {self.folder}") from None
            except OSError as error:
                raise UsageError(f"cannot lock the results folder: {path}: {why(error)}") from None
            yield

    def write(self, record: Record) -> Path:
        """Write a record atomically and durably. Raises StoreFull when the disk does not take it."""
        path = self._records / f"{_slug(record)}.{record.cell.key}.json"
        body = to_json(record)
        text = f'{{"checksum":"{_checksum(body)}","record":{body}}}\n'
        try:
            with replacing(path, text.encode()):
                for old in self._records.glob(f"*.{record.cell.key}.json"):
                    self._supersede(old)
        except OSError as error:
            raise StoreFull(f"cannot write {path}: {error.strerror or error}") from error
        return path

    def read(self) -> tuple[list[Record], list[Problem]]:
        """Every sound record, by file name, and every file that is not one."""
        if not files.is_dir(self._records):
            raise UsageError(
                f"{shown(str(self.folder))} is not a results folder: it has no {RECORDS}/ inside"
            )
        records: list[Record] = []
        problems: list[Problem] = []
        for path in files.entries(self._records):
            try:
                records.append(_read(path))
            except ValueError as error:
                problems.append(Problem(path=path, reason=str(error)))
        return records, problems

    def checkpoint(self, cell: Cell) -> Path:
        """Where a training of the cell may keep its state; absolute, for another process."""
        return (self.folder / CHECKPOINTS / f"{cell.key}.pt").absolute()

    def drop_checkpoint(self, cell: Cell) -> None:
        """Remove the cell's checkpoint, half-written ones too, and the folder with the last of them."""
        path = self.checkpoint(cell)
        for file in (path, path.with_name(f"{path.name}.part")):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise StoreFull(f"cannot remove {file}: {why(error)}") from error
        with contextlib.suppress(OSError):  # it is not there, or others are in it
            path.parent.rmdir()

    def _supersede(self, old: Path) -> None:
        """Move what is being replaced out of the way, under a name of its own, if it measured something."""
        with contextlib.suppress(ValueError):
            if _read(old).status == "interrupted":
                old.unlink()
                return
        folder = self.folder / SUPERSEDED
        folder.mkdir(exist_ok=True)
        digest = hashlib.sha256(old.read_bytes()).hexdigest()[:8]
        os.replace(old, folder / f"{old.stem}.{digest}.json")


def load(folders: str | Path | Sequence[str | Path], *, raw: bool = False) -> DataFrame:
    """Results as a DataFrame; docs/results.md defines its columns.

    One row a cell with repeats and probes merged, or, with ``raw``, one row a record. Several folders are
    joined, with a column ``folder``. Files that are not sound records are warned about by name and left out.
    Raises UsageError for what is not a results folder.
    """
    import pandas as pd

    from effbench.records.analyse.summary import summarise

    many = [folders] if isinstance(folders, str | Path) else list(folders)
    if not many:
        raise UsageError("no results folder was given")
    frames = []
    for folder in many:
        records, problems = Store(Path(folder)).read()
        for problem in problems:
            warnings.warn(f"ignored {problem}", stacklevel=2)
        frame = raw_frame(records) if raw else summarise(raw_frame(records))
        if len(many) > 1:
            frame.insert(0, "folder", str(folder))
        frames.append(frame)
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def raw_frame(records: Iterable[Record]) -> DataFrame:
    """One row a record. Series of samples are lists in columns ``samples_NAME``."""
    import pandas as pd

    rows = [_row(record) for record in records]
    first = list(_row(_EMPTY)) if not rows else []
    return pd.DataFrame(rows, columns=first or None)


@contextlib.contextmanager
def replacing(path: Path, data: bytes) -> Iterator[None]:
    """Write beside the target and flush to the disk; the body runs; then rename.

    The target is whole, old or new, at any moment, and the body runs only once the new one is safe.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def export(folder: Path, records: Iterable[Record] | None = None) -> tuple[DataFrame, DataFrame]:
    """Write results.csv, results.parquet (configurations) and raw.csv (records, without samples).

    ``records`` are those of the folder if they were read already. Returns the rows of records and those of
    configurations. Raises StoreFull when the disk does not take the files.
    """
    from effbench.records.analyse.summary import summarise

    if records is None:
        records, _ = Store(folder).read()
    raw = raw_frame(records)
    frame = summarise(raw)
    series = [column for column in raw.columns if column.startswith("samples_")]
    contents = {
        "results.csv": frame.to_csv(index=False).encode(),
        "results.parquet": frame.to_parquet(index=False),
        "raw.csv": raw.drop(columns=series).to_csv(index=False).encode(),
    }
    for name, data in contents.items():
        try:
            with replacing(folder / name, data):
                pass
        except OSError as error:
            raise StoreFull(f"cannot write {folder / name}: {error.strerror or error}") from error
    return raw, frame


def _read(path: Path) -> Record:
    if path.name.startswith(".") and path.name.endswith(".part"):
        raise ValueError("half-written by a run that was killed; its cell is measured again")
    if not files.is_file(path) or path.suffix != ".json":
        raise ValueError("not a record of effbench")
    content = files.read_bytes(path, RECORD_BYTES)
    try:
        data = parse_json(content.decode())
    except UnicodeDecodeError:
        raise ValueError("damaged: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"damaged: not JSON ({error.msg} at line {error.lineno})") from None
    except ValueError as error:
        raise ValueError(f"damaged: {error}") from None
    if not isinstance(data, dict) or set(data) != {"checksum", "record"}:
        raise ValueError("not a record of effbench")
    try:
        record = record_from(data["record"])
        check_content(record, _COLUMNS)
    except ValueError as error:
        raise ValueError(f"damaged or of another version: {error}") from None
    # what was written is checked, not what this version would write: it may know more fields
    if _checksum(_canonical(data["record"])) != data["checksum"]:
        raise ValueError("changed since it was written: the checksum does not fit")
    if cell_key(_canonical(data["record"]["cell"])) not in path.name.split("."):
        raise ValueError("the file's name is not its cell's")
    return record


def _canonical(data: object) -> str:
    """Parsed JSON as effbench.common.spec.to_json writes it."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _slug(record: Record) -> str:
    cell = record.cell
    name = re.sub(r"[^A-Za-z0-9]+", "-", cell.label).strip("-")[-40:]
    return f"{name}-{cell.probe}-{cell.mode}-n{cell.seq_len}-r{cell.repeat}"


def _row(record: Record) -> dict[str, Any]:
    cell = record.cell
    times = record.samples.get("time_s")
    return {
        "mechanism": cell.mechanism,
        "options": spec_label("", cell.options).removeprefix(":"),
        "probe": cell.probe,
        "scope": cell.scope,
        "mode": cell.mode,
        "task": spec_label(cell.task, cell.task_options) if cell.task else "",
        "seq_len": cell.seq_len,
        "batch_size": cell.batch_size,
        "d_model": cell.d_model,
        "heads": cell.heads,
        "layers": cell.layers,
        "dtype": cell.dtype,
        "device": cell.device,
        "threads": cell.threads,
        "allocator": cell.allocator,
        "seconds_budget": cell.seconds,
        "precision": cell.precision,
        "seed": cell.seed,
        "repeat": cell.repeat,
        "status": record.status,
        "reason": record.reason,
        "time_s": median(times) if times else None,
        **{f"samples_{name}": list(series) for name, series in record.samples.items()},
        **record.values,
        **_ceiling(record),
        **{name: record.machine.get(name) for name in columns.of_role("fact")},
        "torch": record.machine.get("torch"),
        "machine": _machine_name(record),
        "code": record.code,
        "data": record.data,
        "started": record.started,
        "seconds": record.seconds,
    }


def _ceiling(record: Record) -> dict[str, Any]:
    """What the machine can do at most, where the record holds it: see effbench.sweep.machine_ceiling."""
    ceiling = record.machine.get("ceiling") or {}
    return {
        "peak_flops_per_s": ceiling.get("peak_flops_per_s"),
        "no_ceiling": ceiling.get("reason"),
        "samples_bandwidth_at_bytes": ceiling.get("bandwidth_at_bytes"),
        "samples_bandwidth_bytes_per_s": ceiling.get("bandwidth_bytes_per_s"),
    }


def _machine_name(record: Record) -> str:
    gpu = record.machine.get("gpu")
    return f"{record.machine.get('name', '')}{f', {gpu}' if gpu else ''}"


_EMPTY = Record(cell=Cell(mechanism="", probe="time", seq_len=1), status="ok")
_COLUMNS = frozenset(_row(_EMPTY))  # of every row
