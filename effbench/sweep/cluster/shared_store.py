"""The results folder on a shared disk: many processes write into it, each reads its own cells' records."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from pathlib import Path

from effbench.common import files
from effbench.common.spec import MAY_GO_ON, Record
from effbench.records import record_file
from effbench.records.pack_file import RECORDS, SUPERSEDED
from effbench.records.store import Problem, Store, StoreFull


class SharedStore(Store):
    """A results folder for one bundle's cells: it reads their records only, however many others there are.

    Two processes can measure the same cell: Slurm requeues the job of a node that it lost, while the lost
    node still works. The first final record stays, and a later one of the same code and data goes to
    ``superseded/``: nothing is overwritten, and no cell counts twice.
    """

    def __init__(self, folder: Path, keys: Collection[str]) -> None:
        super().__init__(folder)
        self._keys = frozenset(keys)
        self._seen: dict[str, Record] = {}

    def read(self) -> tuple[list[Record], list[Problem]]:
        """Return the sound records of these cells. Damaged files are told by the folder's reader."""
        if files.is_file(self.pack):
            records = [record for record in super().read()[0] if record.cell.key in self._keys]
        else:
            records = [record for path in self.paths() if (record := sound(path))]
        self._seen = {record.cell.key: record for record in records}
        return records, []

    def paths(self) -> list[Path]:
        """Return the record files of these cells."""
        found = files.entries(self.folder / RECORDS)
        return [path for path in found if record_file.key_in(path.name) in self._keys]

    def write(self, record: Record) -> Path:
        """Write a record, beside the first final one of the same code and data if there is one.

        A record that ``read`` returned is replaced: it was known when the cell was planned again, for example
        since it is a time of another host than the rest of its repeat. An interrupted record replaces none.
        """
        path = self.folder / RECORDS / record_file.name_of(record)
        first = sound(path)
        if first is None:
            if _add(path, record_file.content_of(record)):
                return path
            first = sound(path)
        same = first is not None and (first.code, first.data) == (record.code, record.data)
        if first is None or not same or first.status in MAY_GO_ON:
            return super().write(record)
        if record.status == "interrupted":
            return path
        if first == self._seen.get(record.cell.key):
            return super().write(record)
        content = record_file.content_of(record)
        name = record_file.superseded_name(record_file.name_of(record), content)
        target = self.folder / SUPERSEDED / name
        try:
            target.parent.mkdir(exist_ok=True)
            files.replace(target, content)
        except OSError as error:
            raise StoreFull(f"cannot write {target}: {error.strerror or error}") from error
        return target


def _add(path: Path, content: bytes) -> bool:
    """Write a file unless there is one; False if there is one, or if the disk cannot do this.

    The disk's server decides: what this machine remembers of a shared folder can be a minute old.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            files.flush(file)
        os.link(part, path)
        files.flush_folder(path.parent)
    except OSError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def sound(path: Path) -> Record | None:
    """Return the record in a file; None if it is damaged, or gone."""
    try:
        return record_file.read(path)[1]
    except ValueError:
        return None
