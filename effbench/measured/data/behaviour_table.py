"""Behaviours from tables: a CSV or Parquet file of each part, with a column of histories."""

from __future__ import annotations

import hashlib
import io
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effbench.common.files import is_file, refuse_special, size
from effbench.common.spec import UsageError
from effbench.common.wording import one_line, shown
from effbench.measured.data import corpus
from effbench.measured.data.behaviours import Mind, mind_of, title_arrays
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Integers
from effbench.measured.data.mind_rows import MOST_NEWS
from effbench.measured.data.reading import FILE_BYTES, content, digest_of, packed_file, unchanged

VERSION = 1  # of the reader: raise it when its output changes
PARTS = ("train", "test")
ITEM, TITLE = "item", "title"  # columns of the table of items

_USER = "user"  # the column of users where none is named
_BETWEEN = "[ |]+"  # the items of a history in a text
_ID = "^[!-~]{1,64}$"


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """The names of the columns of a table of behaviours; ``user`` may be empty: user, if there is one."""

    user: str
    history: str
    item: str
    label: str


def read_table(folder: Path, columns: TableColumns) -> tuple[Mind, str]:
    """Return (the parts train and test of a folder as impressions of one candidate, digest of the files).

    A part is ``NAME.csv``, plain or packed with xz or gzip, or ``NAME.parquet``. A history is a text of item
    ids with blanks or | between, oldest first, or in Parquet also a list; it may be empty. Items are text or
    whole numbers, labels 0 or 1. Without a column of users every row is a user of its own. ``items.csv`` or
    ``items.parquet``, if there is one, gives each item's title.

    Raises UsageError that names the file, row (the first is 1, without the header of a CSV file) and column
    of what is wrong.
    """
    files = _find(folder)
    digest = _digest(files, columns)
    again = unchanged(digest, lambda: _digest(_find(folder), columns), folder)
    key = {"version": VERSION, "words": corpus.VERSION, "digest": digest}
    return mind_of(cached("behaviour-table", key, lambda: _read(files, columns), again)), digest


def _find(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name in (*PARTS, "items"):
        parquet = folder / f"{name}.parquet"
        found = [path for path in (packed_file(folder, f"{name}.csv"), parquet) if path and is_file(path)]
        if len(found) > 1:
            raise UsageError(f"{found[1]}: {found[0].name} is there too; keep one")
        if found:
            files[name] = found[0]
        elif name in PARTS:
            raise UsageError(f"{folder}: there is no {name}.csv (or .csv.xz, .csv.gz) or {name}.parquet")
    return files


def _digest(files: dict[str, Path], columns: TableColumns) -> str:
    names = " ".join(
        [*(f"{name} {path.suffix}" for name, path in files.items()), *map(repr, astuple(columns))]
    )
    return hashlib.sha256(f"{digest_of(files.values())} {names}".encode()).hexdigest()[:16]


def _read(files: dict[str, Path], columns: TableColumns) -> Arrays:
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = {part: _Table(files[part]) for part in PARTS}
    user = columns.user or (_USER if any(_USER in table.names for table in parts.values()) else "")
    candidates = {part: table.ids(columns.item) for part, table in parts.items()}
    histories = {part: table.lists(columns.history) for part, table in parts.items()}
    if "items" in files:
        items, titles, others = _titles(_Table(files["items"]))
        texts = title_arrays(["", *titles])
    else:
        seen = [*candidates.values(), *(values for values, _ in histories.values())]
        items, others = pc.unique(pa.concat_arrays(seen)), 0
        texts = _id_arrays(items.to_pylist())
    if len(items) > MOST_NEWS:
        raise UsageError(f"{files['train'].parent}: there are more than {MOST_NEWS:,} items")
    arrays: Arrays = {**texts, "news_with_other_titles": np.array(others)}
    numbers = _users({part: table.ids(user) for part, table in parts.items()} if user else {}, parts)
    for part, table in parts.items():
        values, lengths = histories[part]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        history = table.known(values, items, columns.history, starts)
        every = np.arange(len(table))
        fields = {
            "history": history,
            "history_starts": starts,
            "candidates": table.known(candidates[part], items, columns.item, np.arange(len(table) + 1)),
            "candidate_starts": np.arange(len(table) + 1),
            "labels": table.labels(columns.label),
            "users": numbers[part],
            "ids": (every + 1).astype("S"),
        }
        arrays |= {f"{part}_{name}": array for name, array in fields.items()}
    return arrays


def _titles(table: _Table) -> tuple[Any, list[str], int]:
    """Return (ids of the items, their titles, number of other titles of items that occurred before)."""
    first: dict[str, str] = {}
    others = 0
    for name, title in zip(table.ids(ITEM).to_pylist(), table.texts(TITLE).to_pylist(), strict=True):
        others += first.setdefault(name, title or "") != (title or "")
    import pyarrow as pa

    return pa.array(list(first), pa.string()), list(first.values()), others


def _id_arrays(ids: list[str]) -> Arrays:
    """Return the titles of items whose only word is their id."""
    return {
        "words": np.arange(len(ids), dtype=np.int32),
        "starts": np.concatenate(([0], np.arange(len(ids) + 1))),
        "lexicon": corpus.packed(ids),
        "news_without_title": np.array(0),
        "are_ids": np.array(True),
    }


def _users(named: dict[str, Any], parts: dict[str, _Table]) -> dict[str, Integers]:
    """Return the number of each row's user, the same in all parts."""
    import pyarrow as pa

    ends = np.cumsum([len(table) for table in parts.values()])
    numbers = np.arange(ends[-1], dtype=np.int32)
    if named:
        numbers = pa.concat_arrays(named.values()).dictionary_encode().indices.to_numpy()
    return dict(zip(parts, np.split(numbers, ends[:-1]), strict=True))


class _Table:
    """A table that was read, with the name of its file for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
        self.names = self._table.column_names
        if not len(self):
            raise UsageError(f"{path}: the table has no rows")
        for name in self.names:
            if self.names.count(name) > 1:
                raise UsageError(f"{path}: the table has several columns {shown(name)}")

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def texts(self, name: str) -> Any:
        """Return a column of text or whole numbers as text."""
        import pyarrow as pa

        column = self._column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (_is_text(kind) or pa.types.is_integer(kind)):
            raise UsageError(f"{self._path}: column {shown(name)} is of type {kind}, not text or integers")
        return column.cast(pa.string())

    def ids(self, name: str) -> Any:
        """Return a column of ids, one in each row."""
        ids = self.texts(name)
        self._check_ids(ids, name, np.arange(len(self) + 1))
        return ids

    def lists(self, name: str) -> tuple[Any, Integers]:
        """Return (ids of all histories one after the other, number of ids of each row)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self._column(name)
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            kind = column.type.value_type
            if not (_is_text(kind) or pa.types.is_integer(kind)):
                raise UsageError(
                    f"{self._path}: column {shown(name)} has lists of type {kind}, not of text or integers"
                )
            lists = column
        else:
            trimmed = pc.utf8_trim(self.texts(name), characters=" |")
            empty = pc.fill_null(pc.equal(trimmed, ""), True)
            lists = pc.split_pattern_regex(pc.if_else(empty, None, trimmed), _BETWEEN)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        ids = lists.flatten().cast(pa.string())
        self._check_ids(ids, name, np.concatenate(([0], np.cumsum(lengths))))
        return ids, lengths

    def labels(self, name: str) -> Integers:
        """Return a column of labels 0 and 1. Raises UsageError if only one of them occurs."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self._column(name)
        written = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
        if not (
            _is_text(written.type) or pa.types.is_integer(written.type) or pa.types.is_floating(written.type)
        ):
            raise UsageError(f"{self._path}: column {shown(name)} is of type {written.type}, not 0 and 1")
        allowed = pa.array([0, 1]).cast(pa.float64() if pa.types.is_floating(written.type) else pa.string())
        places = pc.index_in(written.cast(allowed.type), value_set=allowed)
        if places.null_count:
            row = _first_null(places)
            raise UsageError(
                f"{self._path}: row {row + 1}: column {shown(name)} is {shown(column[row].as_py())}, "
                "neither 0 nor 1"
            )
        labels = places.to_numpy().astype(np.int8)
        if labels.min() == labels.max():
            raise UsageError(
                f"{self._path}: column {shown(name)} is {labels[0]} in all {len(labels)} rows, not 0 and 1"
            )
        return np.asarray(labels)

    def known(self, ids: Any, items: Any, name: str, starts: Integers) -> Integers:
        """Return the row of each id in the table of titles, in which the items begin with row 1."""
        import pyarrow.compute as pc

        places = pc.index_in(ids, value_set=items)
        if places.null_count:
            place = _first_null(places)
            raise UsageError(
                f"{self._where(place, starts)}: column {shown(name)} names {shown(ids[place].as_py())}, "
                "which the table of items lacks"
            )
        return np.asarray(places.to_numpy().astype(np.int32) + np.int32(1))

    def _column(self, name: str) -> Any:
        if name not in self.names:
            raise UsageError(
                f"{self._path}: there is no column {shown(name)}, only {one_line(', '.join(self.names))}"
            )
        return self._table.column(name).combine_chunks()

    def _check_ids(self, ids: Any, name: str, starts: Integers) -> None:
        import pyarrow.compute as pc

        right = pc.fill_null(pc.match_substring_regex(ids, _ID), False).to_numpy(zero_copy_only=False)
        if not right.all():
            place = int(np.flatnonzero(~right)[0])
            raise UsageError(
                f"{self._where(place, starts)}: column {shown(name)} has {shown(ids[place].as_py())}, not 1 "
                "to 64 printable ASCII characters"
            )

    def _where(self, place: int, starts: Integers) -> str:
        """Return the file and row of a value of a ragged column."""
        return f"{self._path}: row {int(np.searchsorted(starts, place, side='right'))}"


def _csv(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    text = content(path, FILE_BYTES)
    parsing = csv.ParseOptions(newlines_in_values=True)
    reading = csv.ReadOptions(use_threads=False, block_size=max(2**20, len(text) + 1))
    try:
        names = csv.read_csv(io.BytesIO(text), reading, parsing).column_names
        as_text = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        )
        return csv.read_csv(io.BytesIO(text), reading, parsing, as_text)
    except pa.ArrowException as error:
        raise UsageError(f"{path}: cannot be read as CSV: {one_line(str(error))}") from None


def _parquet(path: Path) -> Any:
    from pyarrow import parquet

    refuse_special(path)
    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            unpacked = sum(group.total_byte_size for group in groups)
            table = file.read(use_threads=False) if unpacked <= FILE_BYTES else None
    except Exception as error:  # a damaged file raises nearly anything
        raise UsageError(f"{path}: cannot be read as Parquet: {one_line(str(error))}") from None
    if table is None:
        raise UsageError(f"{path}: the file has more than {size(FILE_BYTES)}")
    return table


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first_null(values: Any) -> int:
    return int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
