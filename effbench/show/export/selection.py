"""What is exported: the rows of results folders that a user chose, with the records behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from effbench.common import columns
from effbench.common.plugin_source import unknown
from effbench.common.spec import MODES, Record, UsageError
from effbench.common.wording import shown
from effbench.records.store import Store, load_all
from effbench.show.shaping import matching
from effbench.show.tables import labels

FOLDER = "folder"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The rows that a user asks for. None asks for all.

    ``mechanisms`` are labels or names, ``where`` a condition as that of ``effbench show``. ``raw`` asks for
    one row per record, ``column`` for the number of a badge.
    """

    mechanisms: Sequence[str] | None = None
    lengths: Sequence[int] | None = None
    mode: str | None = None
    where: str | None = None
    raw: bool = False
    column: str | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The chosen rows.

    ``rows`` are those of the summary, or with ``wish.raw`` those of the raw frame. ``raw`` has all records of
    the folders, and ``records`` the record of each of its rows. ``names`` maps a folder, as it is in the
    column ``folder``, to its name; if there is one folder, the frames do not have this column.
    """

    wish: Wish
    rows: pd.DataFrame
    raw: pd.DataFrame
    records: Sequence[Record]
    names: dict[str, str]


def select(folders: Sequence[Path], wish: Wish) -> Selection:
    """Read results folders and choose rows. A file that is not a sound record is left out, with a warning.

    A folder is known by its name alone, so that a copy elsewhere is the same folder. Raises UsageError for
    two folders of one name, a folder that is no results folder or has no records, a mechanism, length or mode
    that the folders do not have, and a condition that is wrong or leaves no row.
    """
    names = _names(folders)
    for folder in folders:
        Store(folder).require()
    frame, raw, records = load_all(folders)
    held = set(raw[FOLDER]) if FOLDER in raw else {str(folders[0])} if len(raw) else set()
    for folder in folders:
        if str(folder) not in held:
            raise UsageError(f"{shown(str(folder))} has no records: there is nothing to export")
    rows = raw if wish.raw else frame
    if wish.mechanisms is not None:
        rows = rows[_of_mechanisms(rows, wish.mechanisms)]
    for name, values in (("seq_len", wish.lengths), ("mode", None if wish.mode is None else [wish.mode])):
        if values is not None:
            rows = _having(rows, name, values)
    if wish.where is not None:
        rows = matching(rows, wish.where)
        if rows.empty:
            raise UsageError(f"--where {shown(wish.where)} is true for no row")
    return Selection(wish=wish, rows=rows, raw=raw, records=records, names=names)


def _names(folders: Sequence[Path]) -> dict[str, str]:
    """Return the name of each folder. Raises UsageError if two have one name."""
    names: dict[str, str] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in names.values():
            raise UsageError(
                f"two folders are called {shown(name)}, and an export knows a folder by its name: "
                "rename one, or export them apart"
            )
        names[str(folder)] = name
    return names


def _of_mechanisms(rows: pd.DataFrame, wanted: Sequence[str]) -> pd.Series:
    """True for the rows of these labels; a name without options is also that of all its options."""
    known = labels(rows)
    inside = pd.Series(False, index=rows.index)
    for name in wanted:
        these = known == name
        these = these if these.any() else rows["mechanism"] == name
        if not these.any():
            raise UsageError(unknown("mechanism in these results", name, sorted(set(known)), "there are"))
        inside |= these
    return inside


def _having(rows: pd.DataFrame, name: str, wanted: Sequence[object]) -> pd.DataFrame:
    """Return the rows with one of these values. Raises UsageError for a value that no row has."""
    there = sorted(set(rows[name]), key=MODES.index if name == "mode" else None)
    for value in wanted:
        if value not in there:
            raise UsageError(f"{name} {value}: no such row; there are {', '.join(map(str, there))}")
    return rows[rows[name].isin(wanted)]


def keys_of(frame: pd.DataFrame) -> pd.Series:
    """Return what identifies the configuration of each row: a tuple of its identity, origin and folder."""
    names = [*columns.of_role("identity", "origin"), *([FOLDER] if FOLDER in frame else [])]
    return pd.Series(list(frame[names].itertuples(index=False, name=None)), index=frame.index, dtype=object)
