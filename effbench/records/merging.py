"""Merge results folders into one: every record is kept, and a rule chooses the one of each cell that counts.

The new files are written into a folder of their own and flushed to the disk before they get their names, and
the old ones are removed last: a process that is killed at any point leaves every record whole in the merged
folder or in the one that it comes from. Merging again finishes the work.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from effbench.common import files
from effbench.common.spec import MAY_GO_ON, UsageError
from effbench.common.weights import SUFFIX
from effbench.common.wording import shown
from effbench.records import pack_file, packing, record_file
from effbench.records.merge_rule import Entry, chosen, conflicts, left_out
from effbench.records.pack_file import RECORDS, SUPERSEDED
from effbench.records.store import (
    CHECKPOINTS,
    PREDICTIONS,
    WEIGHTS,
    Problem,
    Store,
    saying,
    write_tables,
)
from effbench.records.sweep_files import keep_sweeps, sweeps_of

# what a training leaves beside its record: the folder, and how the names in it end
_OUTPUTS = {PREDICTIONS: "", WEIGHTS: SUFFIX}
_UNFINISHED = ".merge.part"  # in the merged folder; one place, since the lock keeps others away


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge found and wrote: numbers of records, by folder too, and sentences about the rest.

    ``kept`` is the number of records that stay of each folder's current ones; two folders may hold the same.
    """

    records: int
    superseded: int
    kept: dict[str, tuple[int, int]]
    conflicts: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(kw_only=True)
class _Contents:
    """What a results folder holds: its current record of each cell, all records, and what is no record."""

    folder: Path
    current: dict[str, Entry] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    loose: dict[str, Entry] = field(default_factory=dict)  # files of their own, by path in the folder
    sweeps: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def merge(folders: Sequence[str | Path], out: str | Path, *, strict: bool = False) -> Merged:
    """Merge results folders, packed or not, into ``out``, which may be a results folder already.

    Records are copied byte for byte. Of several records of a cell, the one that ``merge_rule.chosen`` names
    is in ``records/``, and the others are in ``superseded/``. Sweeps, predictions, weights and checkpoints
    come with their records. Damaged files are left out and named, as conflicts of code, data and machine are;
    with ``strict`` either is refused. Afterwards ``out`` has the tables of a run.

    Raises UsageError, before anything is written, for a folder that is none of results, for an ``out`` inside
    of one, and if another effbench run writes to ``out``; StoreFull if the disk does not take the files.
    """
    store = Store(Path(out))
    sources = [Store(Path(folder)) for folder in folders]
    _refuse(sources, store)
    read = [_contents(source, store) for source in sources if not _same(source.folder, store.folder)]
    if strict:
        _refuse_doubtful([*read, *([_contents(store, store)] if store.exists() else [])])
    if files.is_file(store.pack):
        packing.unpack(store.folder)
    store.create()
    with store.lock(), saying(f"cannot merge into {store.folder}"):
        shutil.rmtree(store.folder / _UNFINISHED, ignore_errors=True)  # of a process that was killed
        own = _contents(store, store)
        every = [own, *read]
        entries = {entry.digest: entry for one in every for entry in one.entries}
        winners = chosen(entries.values())
        superseded = _write(own, winners, entries.values(), every)
        keep_sweeps(store.folder, [text for one in every for text in one.sweeps])
        shutil.rmtree(store.folder / _UNFINISHED)
        write_tables(store.folder, [entry.record for entry in sorted(winners.values(), key=lambda e: e.name)])
    return Merged(
        records=len(winners),
        superseded=superseded,
        kept={str(one.folder): _kept(one, winners) for one in every if one.entries or one is not own},
        conflicts=tuple(_conflicts(every)),
        problems=tuple(problem for one in every for problem in one.problems),
    )


def _kept(contents: _Contents, winners: dict[str, Entry]) -> tuple[int, int]:
    """Return how many of a folder's current records stay, and how many there are."""
    stay = sum(winners[cell].digest == entry.digest for cell, entry in contents.current.items())
    return stay, len(contents.current)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _refuse(sources: Sequence[Store], store: Store) -> None:
    if not sources:
        raise UsageError("no results folder was given")
    for source in sources:
        source.require()
        inside = store.folder.resolve().is_relative_to(source.folder.resolve())
        if inside and not _same(source.folder, store.folder):
            raise UsageError(
                f"{shown(str(store.folder))} is inside {shown(str(source.folder))}: merge elsewhere"
            )


def _refuse_doubtful(read: Sequence[_Contents]) -> None:
    """Raise UsageError with the first damaged file or conflict."""
    doubts = [str(problem) for one in read for problem in one.problems] + _conflicts(read)
    if doubts:
        more = f" (and {len(doubts) - 1} more)" if len(doubts) > 1 else ""
        raise UsageError(f"--strict: nothing is merged: {doubts[0]}{more}")


def _conflicts(read: Iterable[_Contents]) -> list[str]:
    return conflicts({str(one.folder): one.current for one in read})


def _contents(store: Store, target: Store) -> _Contents:
    """Read a results folder that is merged into ``target``; a run may write to it meanwhile."""
    contents = _Contents(folder=store.folder, sweeps=sweeps_of(store.folder, target.folder))
    for place in (RECORDS, SUPERSEDED):
        folder = store.folder / place
        for path in files.entries(folder) if files.is_dir(folder) else ():
            try:
                content, record = record_file.read(path)
            except ValueError as error:
                if os.path.lexists(path):  # else it was replaced meanwhile
                    contents.problems.append(Problem(path=path, reason=str(error)))
                continue
            entry = Entry.of(path.name, content, record)
            contents.loose[f"{place}/{path.name}"] = entry
            contents.entries.append(entry)
            if place == RECORDS:
                contents.current[entry.cell] = entry
    for line in pack_file.read(store.pack):
        place, _, name = line.path.partition("/")
        try:
            if line.reason:
                raise ValueError(line.reason)
            entry = Entry.of(name, line.content, record_file.parse(name, line.content))
        except ValueError as error:
            reason = str(pack_file.Line(path=line.path, reason=str(error)))
            contents.problems.append(Problem(path=store.pack, reason=reason))
            continue
        contents.entries.append(entry)
        if place == RECORDS:
            contents.current.setdefault(entry.cell, entry)
    return contents


def _write(
    own: _Contents, winners: dict[str, Entry], entries: Iterable[Entry], every: Sequence[_Contents]
) -> int:
    """Bring the merged folder from what it holds to what it is to hold; return the number of superseded."""
    folder, unfinished = own.folder, own.folder / _UNFINISHED
    names = {f"{RECORDS}/{entry.name}": entry for entry in winners.values()}
    older = {
        f"{SUPERSEDED}/{entry.superseded_name}": entry
        for entry in entries
        if entry.digest != winners[entry.cell].digest and not left_out(entry, winners[entry.cell])
    }
    wanted = {**older, **names}  # in this order: a record is superseded before another takes its place
    new = {path: entry for path, entry in wanted.items() if _digest_at(own, path) != entry.digest}
    outputs = _outputs(own, winners, every)
    checkpoints = _checkpoints(own, winners, every)
    for place in (RECORDS, SUPERSEDED, *_OUTPUTS, CHECKPOINTS):
        (unfinished / place).mkdir(parents=True)
    for path, entry in new.items():
        (unfinished / path).write_bytes(entry.content)
    for path, source in {**outputs, **checkpoints}.items():
        if source is not None and source.is_dir():
            shutil.copytree(source, unfinished / path)
        elif source is not None:
            shutil.copy2(source, unfinished / path)
    os.sync()
    if older:
        (folder / SUPERSEDED).mkdir(exist_ok=True)
    for path in outputs:  # they go before their record does, and the new ones come after it
        _remove(folder / path)
    for path in new:
        if path not in own.loose and os.path.lexists(folder / path):  # damaged, or it would be loose
            Store(folder).supersede(folder / path)
        os.replace(unfinished / path, folder / path)
    for path, source in {**outputs, **checkpoints}.items():
        if source is not None:
            (folder / path).parent.mkdir(exist_ok=True)
            os.replace(unfinished / path, folder / path)
    os.sync()
    for path in [*(own.loose.keys() - wanted.keys()), *_ended(own, winners)]:
        (folder / path).unlink()
    for place in (SUPERSEDED, *_OUTPUTS, CHECKPOINTS):
        with contextlib.suppress(OSError):  # it is not there, or something is in it
            (folder / place).rmdir()
    return len(older)


def _digest_at(own: _Contents, path: str) -> str:
    return own.loose[path].digest if path in own.loose else ""


def _outputs(own: _Contents, winners: dict[str, Entry], every: Sequence[_Contents]) -> dict[str, Path | None]:
    """Return the predictions and weights to replace, by path, with those to copy; None where there are none.

    They belong to the record that is current in their folder.
    """
    changes: dict[str, Path | None] = {}
    for place, suffix in _OUTPUTS.items():
        named = {path.name for one in every for path in _files(one.folder / place)}
        for entry in winners.values():
            name = f"{record_file.stem_of(entry.record.cell)}{suffix}"
            if name not in named:
                continue
            path = f"{place}/{name}"
            of_winner = [
                one.folder / path
                for one in every
                if entry.cell in one.current
                and one.current[entry.cell].digest == entry.digest
                and (one.folder / path).exists()
            ]
            if own.folder / path not in of_winner:
                changes[path] = min(of_winner, key=_digest_of) if of_winner else None
    return changes


def _digest_of(path: Path) -> bytes:
    """Return the digest of a file, or of all files in a folder."""
    if path.is_file():
        return files.digest(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0" + files.digest(file))
    return digest.digest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _checkpoints(
    own: _Contents, winners: dict[str, Entry], every: Sequence[_Contents]
) -> dict[str, Path | None]:
    """Return the checkpoints to copy, by path: the last written one of each training that may go on."""
    found: dict[str, list[Path]] = {}
    for one in every:
        for path in _files(one.folder / CHECKPOINTS):
            if path.suffix == ".pt" and _may_go_on(path, winners):
                found.setdefault(f"{CHECKPOINTS}/{path.name}", []).append(path)
    last = {
        name: max(paths, key=lambda path: (path.stat().st_mtime_ns, files.digest(path)))
        if paths[1:]
        else paths[0]
        for name, paths in found.items()
    }
    return {name: path for name, path in last.items() if path != own.folder / name}


def _ended(own: _Contents, winners: dict[str, Entry]) -> list[str]:
    """Return the merged folder's checkpoints of trainings that have a final record."""
    paths = _files(own.folder / CHECKPOINTS)
    return [
        f"{CHECKPOINTS}/{path.name}"
        for path in paths
        if path.suffix == ".pt" and not _may_go_on(path, winners)
    ]


def _may_go_on(checkpoint: Path, winners: dict[str, Entry]) -> bool:
    winner = winners.get(checkpoint.stem)
    return winner is None or winner.record.status in MAY_GO_ON


def _files(folder: Path) -> list[Path]:
    return files.entries(folder) if files.is_dir(folder) else []
