"""The results folder: one JSON file per record, written so that a crash loses only the cell in flight."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.common import files
from effbench.common.exits import Fault
from effbench.common.files import why
from effbench.common.spec import MESSAGE, Cell, Record, UsageError
from effbench.common.weights import SUFFIX
from effbench.common.wording import one_line, shown
from effbench.records import pack_file, record_file
from effbench.records.frame import raw_frame
from effbench.records.pack_file import PACK, RECORDS, SUPERSEDED

if TYPE_CHECKING:
    from pandas import DataFrame

CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions"
WEIGHTS = "weights"
_ATTEMPTS = 5  # to read a folder that is packed or unpacked meanwhile


class StoreFull(Fault):
    """A record could not be written; the message says where and why."""


@contextlib.contextmanager
def saying(what: str) -> Iterator[None]:
    """Turn an error of the disk into StoreFull, with the file and the reason."""
    try:
        yield
    except OSError as error:
        raise StoreFull(f"{what}: {error.filename or ''}: {why(error)}") from error


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file in a results folder that is not a sound record, with the reason; it is left alone."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return one_line(f"{self.path}: {self.reason}", MESSAGE)


class Store:
    """A results folder: ``records/`` with one file per record, named after its cell's key.

    A newer record of the same cell moves the older one to ``superseded/``; no record is ever deleted.
    ``records.jsonl`` holds packed records (see effbench.records.packing): they are read as if they were in
    ``records/``, where a record of the same cell is newer and replaces the packed one.
    ``checkpoints/`` holds the state of unfinished trainings, one file per cell, ``predictions/`` what the
    trained models predict, one folder per cell, and ``weights/`` their weights, one file per cell: these two
    if asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pack = folder / PACK
        self._records = folder / RECORDS
        # files of earlier versions, whose cells had fewer fields and so another key: by today's key
        self._named_otherwise: dict[str, Path] = {}

    def exists(self) -> bool:
        """True if the folder is a results folder, with records or with none yet."""
        return files.is_dir(self._records) or files.is_file(self.pack)

    def require(self) -> None:
        """Raise UsageError if the folder is not a results folder."""
        if not self.exists():
            raise UsageError(
                f"{shown(str(self.folder))} is not a results folder: "
                f"it has no {RECORDS}/ and no {PACK} inside"
            )

    def create(self) -> None:
        """Make the folder. Raises UsageError if something that is no results folder is in its place."""
        try:
            if self.folder.exists() and not self.exists() and any(self.folder.iterdir()):
                raise UsageError(
                    f"{self.folder} exists and is not a results folder: it has no {RECORDS}/ and no {PACK}"
                )
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
        path = self._records / record_file.name_of(record)
        try:
            with files.replacing(path) as file:
                file.write(record_file.content_of(record))
                files.flush(file)  # the older record moves away only when the new one is safe
                older = {*self._records.glob(f"*.{record.cell.key}.json")}
                otherwise = self._named_otherwise.pop(record.cell.key, None)
                if otherwise is not None and otherwise.exists():
                    older.add(otherwise)
                for old in older:
                    self.supersede(old)
        except OSError as error:
            raise StoreFull(f"cannot write {path}: {error.strerror or error}") from error
        return path

    def read(self) -> tuple[list[Record], list[Problem]]:
        """Return every sound record, packed or not, by file name; and a problem for everything else.

        Raises UsageError if the folder is not a results folder.
        """
        self.require()
        for _ in range(_ATTEMPTS):
            before = pack_file.stamp(self.pack)
            records, problems = self._read()
            if pack_file.stamp(self.pack) == before:
                break
        return records, problems

    def _read(self) -> tuple[list[Record], list[Problem]]:
        records: list[tuple[str, Record]] = []
        problems: list[Problem] = []
        for path in files.entries(self._records) if files.is_dir(self._records) else ():
            try:
                record = record_file.read(path)[1]
                records.append((path.name, record))
                if record_file.key_in(path.name) != record.cell.key:
                    self._named_otherwise[record.cell.key] = path
            except ValueError as error:
                if os.path.lexists(path):  # else it was packed or replaced meanwhile
                    problems.append(Problem(path=path, reason=str(error)))
        newer = {key for name, own in records for key in (record_file.key_in(name), own.cell.key)} - {""}
        for line in pack_file.read(self.pack):
            place, _, name = line.path.partition("/")
            if place == SUPERSEDED or record_file.key_in(name) in newer:
                continue
            try:
                if line.reason:
                    raise ValueError(line.reason)
                record = record_file.parse(name, line.content)
                if record.cell.key not in newer:
                    records.append((name, record))
            except ValueError as error:
                problem = pack_file.Line(path=line.path, reason=str(error))
                problems.append(Problem(path=self.pack, reason=str(problem)))
        return [record for _, record in sorted(records, key=lambda pair: pair[0])], problems

    def checkpoint(self, cell: Cell) -> Path:
        """Return the path where a training of the cell may keep its state; absolute, for another process."""
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

    def predictions(self, cell: Cell) -> Path:
        """Return the folder where a training of the cell may write its predictions; absolute."""
        return (self.folder / PREDICTIONS / record_file.stem_of(cell)).absolute()

    def drop_predictions(self, cell: Cell) -> None:
        """Remove the cell's predictions, which belong to the record that is replaced next."""
        folder = self.predictions(cell)
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            raise StoreFull(f"cannot remove {folder}: {why(error)}") from error

    def weights(self, cell: Cell) -> Path:
        """Return the file where a training of the cell may keep its weights; absolute."""
        return (self.folder / WEIGHTS / f"{record_file.stem_of(cell)}{SUFFIX}").absolute()

    def drop_weights(self, cell: Cell) -> None:
        """Remove the cell's weights, which belong to the record that is replaced next."""
        path = self.weights(cell)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreFull(f"cannot remove {path}: {why(error)}") from error

    def supersede(self, old: Path) -> None:
        """Move a record file that is replaced to ``superseded/``, unless it is an interrupted record."""
        with contextlib.suppress(ValueError):
            if record_file.read(old)[1].status == "interrupted":
                old.unlink()
                return
        folder = self.folder / SUPERSEDED
        folder.mkdir(exist_ok=True)
        os.replace(old, folder / record_file.superseded_name(old.name, old.read_bytes()))


def load(folders: str | Path | Sequence[str | Path], *, raw: bool = False) -> DataFrame:
    """Return results as a DataFrame; docs/results.md defines its columns.

    The summary has one row per configuration, with repeats and probes merged. With ``raw``, there is one
    row per record. Several folders are joined, with a column ``folder``. Files and packed lines that are
    not sound records are left out, with a warning that names them. Raises UsageError for a folder that is
    not a results folder or is given twice.
    """
    names, frames, _ = _raw_frames(folders)
    return _joined(names, frames if raw else _summaries(frames))


def load_both(folders: str | Path | Sequence[str | Path]) -> tuple[DataFrame, DataFrame]:
    """Return the summary and the raw frame of results, as ``load`` does, and read each folder once."""
    return load_all(folders)[:2]


def load_all(
    folders: str | Path | Sequence[str | Path],
) -> tuple[DataFrame, DataFrame, list[Record]]:
    """Return the summary, the raw frame and its records, one for each row; ``load_both`` without these."""
    names, frames, records = _raw_frames(folders)
    return _joined(names, _summaries(frames)), _joined(names, frames), records


def refuse_twice(folders: Sequence[str | Path]) -> None:
    """Raise UsageError for a folder that is given twice, under whatever name."""
    places = [Path(folder).resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{shown(str(folder))} is given twice")


def _raw_frames(
    folders: str | Path | Sequence[str | Path],
) -> tuple[list[str], list[DataFrame], list[Record]]:
    """Return the folders' names, raw frames and records; warn of what is not a sound record."""
    many = [folders] if isinstance(folders, str | Path) else list(folders)
    if not many:
        raise UsageError("no results folder was given")
    refuse_twice(many)
    frames, all_records = [], []
    for folder in many:
        records, problems = Store(Path(folder)).read()
        for problem in problems:
            warnings.warn(f"ignored {problem}", stacklevel=3)
        frames.append(raw_frame(records))
        all_records += records
    return [str(folder) for folder in many], frames, all_records


def _summaries(frames: Sequence[DataFrame]) -> list[DataFrame]:
    from effbench.records.analyse.summary import summarise

    return [summarise(frame) for frame in frames]


def _joined(names: Sequence[str], frames: Sequence[DataFrame]) -> DataFrame:
    """Return one frame; if there are several, each row begins with its folder's name."""
    import pandas as pd

    if len(frames) == 1:
        return frames[0]
    named = [frame.copy() for frame in frames]
    for name, frame in zip(names, named, strict=True):
        frame.insert(0, "folder", name)
    return pd.concat(named, ignore_index=True)


def write_tables(folder: Path, records: Iterable[Record] | None = None) -> tuple[DataFrame, DataFrame]:
    """Write results.csv and results.parquet (the summary) and raw.csv (one row per record, without samples).

    ``records`` are those of the folder, if known. Returns the frame of records and the summary.
    Raises StoreFull when the disk does not take the files.
    """
    from effbench.records.analyse.summary import summarise
    from effbench.records.table_files import as_csv, as_parquet

    if records is None:
        records, _ = Store(folder).read()
    raw = raw_frame(records)
    frame = summarise(raw)
    contents = {
        "results.csv": as_csv(frame),
        "results.parquet": as_parquet(frame),
        "raw.csv": as_csv(raw),
    }
    for name, data in contents.items():
        try:
            files.replace(folder / name, data)
        except OSError as error:
            raise StoreFull(f"cannot write {folder / name}: {error.strerror or error}") from error
    return raw, frame
