"""Choose the record of a cell that stays when folders are merged, from the set of all its records alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from effbench.common.host import host_of
from effbench.common.spec import Record, Status, block_of
from effbench.common.wording import plural
from effbench.records import record_file
from effbench.records.frame import machine_name

# What a record must share with another one for both to answer the same question.
_FINGERPRINTS = ("code", "data", "machine")
_LIMITED: tuple[Status, ...] = ("oom", "timeout", "skipped")


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A record and the content of its file; ``name`` is that of the file in ``records/``."""

    content: bytes
    record: Record
    name: str

    @classmethod
    def of(cls, name: str, content: bytes, record: Record) -> Entry:
        """Return the entry of a sound record file of this name, in ``records/`` or ``superseded/``."""
        return cls(content=content, record=record, name=record_file.plain_name(name, record))

    @cached_property
    def cell(self) -> str:
        """The key of the cell, also of a record that another version wrote with other fields."""
        return self.record.cell.key

    @cached_property
    def digest(self) -> str:
        """A digest of the content: two entries with the same one are the same record."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def superseded_name(self) -> str:
        """The name of the file in ``superseded/``."""
        return record_file.superseded_name(self.name, self.content)

    @property
    def finished(self) -> bool:
        """False if a run would measure the cell again in any case."""
        return self.record.status != "interrupted"

    @cached_property
    def fingerprints(self) -> tuple[str, str, str]:
        """Code, data and machine, in the order of ``_FINGERPRINTS``."""
        return self.record.code, self.record.data, machine_name(self.record)

    @property
    def host(self) -> str:
        """The host that the record was measured on."""
        return host_of(self.record.machine)


def chosen(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return the record that stays of each cell, by the cell's key; docs/results.md states the rule.

    The result depends on the set of the entries, not on their order or number. So if the others are kept too,
    the result of merging is the same whatever was merged first.
    """
    by_cell: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_cell[entry.cell].append(entry)
    best = {cell: _best(own) for cell, own in by_cell.items()}
    ranks = _ranks_of_hosts(best.values())
    return {
        cell: max(own, key=lambda entry: (ranks.get(_place(entry), ()), entry.record.started, entry.digest))
        for cell, own in best.items()
    }


def left_out(entry: Entry, winner: Entry) -> bool:
    """True if nothing is lost without this record: it was interrupted, and another one stays."""
    return not entry.finished and entry.digest != winner.digest


def _best(own: Sequence[Entry]) -> list[Entry]:
    """Return the best records of a cell: finished, of the newest fingerprints, with the best result."""
    own = [entry for entry in own if entry.finished] or list(own)
    newest = max((entry.record.started, entry.fingerprints) for entry in own)[1]
    own = [entry for entry in own if entry.fingerprints == newest]
    highest = max(_result(entry.record) for entry in own)
    return [entry for entry in own if _result(entry.record) == highest]


def _result(record: Record) -> tuple[float, ...]:
    """Return a rank: a success, then a failure of the mechanism, then one at limits, the widest first.

    At equal limits, a cell that was skipped comes last.
    """
    if record.status not in _LIMITED:
        return (2.0 if record.status == "ok" else 1.0,)
    widest = (record.limits.timeout_s, float(record.limits.memory_bytes)) if record.limits else (0.0, 0.0)
    return (0.0, *widest, float(record.status != "skipped"))


def _place(entry: Entry) -> tuple[str, int, str]:
    """Return the repeat of a block that a time belongs to, and its host; others are chosen one by one."""
    cell = entry.record.cell
    if cell.probe != "time" or entry.record.status != "ok":
        return "", 0, ""
    return block_of(cell), cell.repeat, entry.host


def _ranks_of_hosts(best: Iterable[Sequence[Entry]]) -> dict[tuple[str, int, str], tuple[int, str, str]]:
    """Return the rank of each host in each repeat of a block: most cells, then the latest start.

    Times are compared in pairs of one host: so all times of a repeat of a block come from one, if they can.
    """
    cells: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    latest: dict[tuple[str, int, str], str] = defaultdict(str)
    for own in best:
        for entry in own:
            place = _place(entry)
            if place[0]:
                cells[place].add(entry.cell)
                latest[place] = max(latest[place], entry.record.started)
    return {place: (len(keys), latest[place], place[2]) for place, keys in cells.items()}


def conflicts(folders: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    """Return sentences about cells whose records in several folders differ in code, data or machine.

    ``folders`` holds the current records of each folder by cell. Interrupted records do not count.
    """
    held: dict[str, dict[str, Entry]] = defaultdict(dict)
    for folder, entries in folders.items():
        for cell, entry in entries.items():
            if entry.finished:
                held[cell][folder] = entry
    sentences = []
    for place, fingerprint in enumerate(_FINGERPRINTS):
        found = [
            own for own in held.values() if len({entry.fingerprints[place] for entry in own.values()}) > 1
        ]
        if not found:
            continue
        shown = next(iter(found[0].values())).record.cell
        what = f"{shown.probe} of {shown.label} at {shown.seq_len}"
        where = [f"{entry.fingerprints[place] or 'none'} in {folder}" for folder, entry in found[0].items()]
        sentences.append(
            f"different {fingerprint} in the records of {plural(len(found), 'cell')}, such as {what}: "
            f"{'; '.join(where)}. The newest one stays"
        )
    return sentences
