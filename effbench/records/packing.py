"""Pack the record files of a results folder into one file, and unpack them again.

Both hold the folder's lock. Both write the new files and flush them to the disk before they remove the old
ones: a process that is killed at any point leaves each record packed, loose or both, and a loose record is
read instead of its packed copy. Calling either again finishes the work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from effbench.common import files
from effbench.common.spec import UsageError
from effbench.records import pack_file, record_file
from effbench.records.pack_file import RECORDS, SUPERSEDED
from effbench.records.store import Problem, Store, StoreFull, saying

Contents = dict[str, bytes]  # path in the results folder -> content


@dataclass(frozen=True, kw_only=True)
class Moved:
    """The number of record files in the pack (before it was unpacked), and what was left alone."""

    file: Path
    records: int
    superseded: int
    problems: tuple[Problem, ...]


def pack(folder: str | Path) -> Moved:
    """Move the files of ``records/`` and ``superseded/`` into ``records.jsonl``, byte for byte.

    Files that are not sound records stay where they are. If the folder has a pack already, the files are
    added to it, and a packed record that has a newer loose one becomes a superseded record. Raises
    UsageError if the folder is not a results folder, if another effbench run is writing to it, or if its
    pack cannot be read to the end; StoreFull if the disk does not take the pack.
    """
    store = Store(Path(folder))
    store.require()
    with store.lock(), saying(f"cannot pack {store.folder}"):
        _unfinished(store).unlink(missing_ok=True)  # of a process that was killed
        packed, unreadable, problems = _packed(store)
        loose, unsound = _loose(store)
        contents = _merged(packed, loose)
        if loose or contents != packed or not files.is_file(store.pack):
            with files.replacing(store.pack, _unfinished(store)) as file:
                pack_file.write(file, contents, unreadable)
                files.flush(file)
                file.seek(0)
                written = {line.path: line.content for line in pack_file.read_open(file) if not line.reason}
                if not contents.items() <= written.items():
                    raise StoreFull(
                        f"cannot pack {store.folder}: the disk does not give back what was written"
                    )
        for path in loose:
            (store.folder / path).unlink(missing_ok=True)
        for name in (RECORDS, SUPERSEDED):
            with contextlib.suppress(OSError):  # something that is not a sound record is in it
                (store.folder / name).rmdir()
    return _moved(store, contents, problems + unsound)


def unpack(folder: str | Path) -> Moved:
    """Restore the files that are packed in ``records.jsonl``, byte for byte, and remove it.

    A packed record that has a newer loose one goes to ``superseded/``. If lines are damaged,
    ``records.jsonl`` stays with these lines alone. Raises UsageError and StoreFull as ``pack`` does, and
    UsageError if the folder is not packed.
    """
    store = Store(Path(folder))
    store.require()
    if not files.is_file(store.pack):
        raise UsageError(f"{store.folder} is not packed: it has no {store.pack.name}")
    with store.lock(), saying(f"cannot unpack {store.folder}"):
        _unfinished(store).unlink(missing_ok=True)  # of a process that was killed
        packed, unreadable, problems = _packed(store)
        loose, _ = _loose(store)
        (store.folder / RECORDS).mkdir(exist_ok=True)
        for path, content in _merged(packed, loose).items():
            if path in loose:
                continue
            target = store.folder / path
            target.parent.mkdir(exist_ok=True)
            if path.startswith(RECORDS) and files.is_file(target):  # damaged, or it would be in loose
                store.supersede(target)
            elif files.is_file(target):
                target = target.with_name(record_file.superseded_name(target.name, content))
            # half-written files are not in records/, where they would be read
            with files.replacing(target, _unfinished(store)) as file:
                file.write(content)
        files.flush_folder(store.folder)
        if unreadable:
            with files.replacing(store.pack, _unfinished(store)) as file:
                pack_file.write(file, {}, unreadable)
        else:
            store.pack.unlink()
    return _moved(store, packed, problems)


def _packed(store: Store) -> tuple[Contents, list[bytes], list[Problem]]:
    """Return the files in the pack, its lines that cannot be read, and a problem for each damage."""
    contents: Contents = {}
    unreadable: list[bytes] = []
    problems: list[Problem] = []
    for line in pack_file.read(store.pack):
        if line.last:
            raise UsageError(f"{store.pack}: {line.reason}")
        if line.reason:
            problems.append(Problem(path=store.pack, reason=str(line)))
            unreadable += [line.raw] if line.raw else []
        else:
            contents[line.path] = line.content
            try:
                record_file.parse(line.path.partition("/")[2], line.content)
            except ValueError as error:
                problems.append(Problem(path=store.pack, reason=f"{line.path}: {error}"))
    return contents, unreadable, problems


def _loose(store: Store) -> tuple[Contents, list[Problem]]:
    """Return the sound record files that are not packed, and a problem for every other file."""
    contents: Contents = {}
    problems: list[Problem] = []
    for folder in (store.folder / RECORDS, store.folder / SUPERSEDED):
        for path in files.entries(folder) if files.is_dir(folder) else ():
            try:
                content, _ = record_file.read(path)
                if not pack_file.can_hold(f"{folder.name}/{path.name}"):
                    raise ValueError("a file of this name is not packed")
                contents[f"{folder.name}/{path.name}"] = content
            except ValueError as error:
                problems.append(Problem(path=path, reason=str(error)))
    return contents, problems


def _merged(packed: Contents, loose: Contents) -> Contents:
    """Return all files by path; a packed record that has a newer loose one is under superseded/."""
    newer = {record_file.key_in(path) for path in loose if path.startswith(RECORDS)} - {""}
    merged = dict(loose)
    for path, content in packed.items():
        place, _, name = path.partition("/")
        if loose.get(path) == content:
            continue
        if place == RECORDS and record_file.key_in(name) in newer:
            if not _is_interrupted(name, content):
                merged[f"{SUPERSEDED}/{record_file.superseded_name(name, content)}"] = content
        elif path in loose:
            merged[f"{place}/{record_file.superseded_name(name, content)}"] = content
        else:
            merged[path] = content
    return merged


def _is_interrupted(name: str, content: bytes) -> bool:
    with contextlib.suppress(ValueError):
        return record_file.parse(name, content).status == "interrupted"
    return False


def _unfinished(store: Store) -> Path:
    """Return where a file is written until it is whole; one place, since the lock keeps others away."""
    return store.folder / f".{store.pack.name}.part"


def _moved(store: Store, contents: Iterable[str], problems: list[Problem]) -> Moved:
    paths = list(contents)
    return Moved(
        file=store.pack,
        records=sum(path.startswith(RECORDS) for path in paths),
        superseded=sum(path.startswith(SUPERSEDED) for path in paths),
        problems=tuple(problems),
    )
