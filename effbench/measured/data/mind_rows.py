"""MIND's news and behaviours, read from their files into arrays; errors name the file, line and column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.cache import Arrays
from effbench.measured.data.examples import Integers
from effbench.measured.data.mind_files import NEWS, MindFile
from effbench.measured.data.reading import FILE_BYTES, decoded

VERSION = 1  # of the readers: raise it when their output changes
NEWS_COLUMNS = (
    "news id", "category", "subcategory", "title", "abstract", "url", "title entities", "abstract entities",
)  # fmt: skip
BEHAVIOUR_COLUMNS = ("impression id", "user id", "time", "history", "impressions")
BEHAVIOUR_BYTES = 4 * 2**30  # of one file, unpacked; MINDlarge's has a third of that
MOST_NEWS = 2**22  # MIND has 161,013
UNKNOWN = -1  # the label of a candidate that has none

_BLOCK_BYTES = 32 * 2**20  # of lines that are looked up together
_LINE_OVERHEAD = 200  # bytes that a line takes in memory beside its own
_ID = re.compile(rb"[!-~]{1,64}")


def read_news(files: list[MindFile]) -> tuple[dict[bytes, int], list[str], int]:
    """Return (row of each news id, title of each row, number of other titles of news that were read before).

    Rows are in the order of the files and lines, from 1. Row 0 is no news, without a title. Of news that
    occur again the first title counts.
    """
    rows: dict[bytes, int] = {}
    titles = [""]
    other_titles = 0
    for file in files:
        for number, line in file.lines(FILE_BYTES):
            where = f"{file}:{number}"
            columns = line.split(b"\t")
            if len(columns) != len(NEWS_COLUMNS):
                raise _wrong_count(columns, NEWS_COLUMNS, where)
            _check_id(columns[0], NEWS_COLUMNS[0], where)
            title = decoded(columns[3], f"{where}: column 'title'")
            row = rows.setdefault(columns[0], len(titles))
            if row == len(titles):
                titles.append(title)
                if row > MOST_NEWS:
                    raise UsageError(f"{where}: there are more than {MOST_NEWS:,} news up to here")
            elif title != titles[row]:
                other_titles += 1
    return rows, titles, other_titles


def read_behaviours(file: MindFile, news: Sequence[bytes], users: dict[bytes, int]) -> Arrays:
    """Return the fields of ``behaviours.Impressions``; new users get the next numbers in ``users``.

    ``news`` are the ids of rows 1, 2 and so on. A candidate that ends with -0 or -1 has that label. Raises
    UsageError for a line that is wrong.
    """
    table = _Table(news)
    blocks: list[Arrays] = []
    held = _Block(1)
    for number, line in file.lines(BEHAVIOUR_BYTES):
        columns = line.split(b"\t")
        if len(columns) != len(BEHAVIOUR_COLUMNS):
            raise _wrong_count(columns, BEHAVIOUR_COLUMNS, f"{file}:{number}")
        impression, user, _, history, candidates = columns
        if not (_ID.fullmatch(impression) and _ID.fullmatch(user)):
            _check_id(impression, "impression id", f"{file}:{number}")
            _check_id(user, "user id", f"{file}:{number}")
        held.ids.append(impression)
        held.users.append(users.setdefault(user, len(users)))
        held.histories.append(history.strip() or None)
        held.candidates.append(candidates.strip() or None)
        held.size += len(line) + _LINE_OVERHEAD
        if held.size > _BLOCK_BYTES:
            blocks.append(held.arrays(table, str(file)))
            held = _Block(number + 1)
    if held.ids:
        blocks.append(held.arrays(table, str(file)))
    if not blocks:
        raise UsageError(f"{file}:1: the file is empty")
    arrays = {name: np.concatenate([block.pop(name) for block in blocks]) for name in list(blocks[0])}
    for name in ("history", "candidate"):
        arrays[f"{name}_starts"] = np.concatenate(([0], np.cumsum(arrays.pop(f"{name}_lengths"))))
    _check_unique(arrays["ids"], str(file))
    return arrays


@dataclass
class _Block:
    """Lines that are looked up together, from the line number ``first`` on; an empty column is None."""

    first: int
    ids: list[bytes] = field(default_factory=list)
    users: list[int] = field(default_factory=list)
    histories: list[bytes | None] = field(default_factory=list)
    candidates: list[bytes | None] = field(default_factory=list)
    size: int = 0

    def arrays(self, table: _Table, where: str) -> Arrays:
        """Return the fields of these lines, with lengths in place of starts."""
        history, lengths, wrong = table.rows(self.histories)
        if wrong is not None:
            raise table.unknown_history(self.histories[wrong] or b"", f"{where}:{self.first + wrong}")
        candidates, labels, listed, wrong = table.candidates(self.candidates)
        if wrong is not None:
            raise table.unknown_candidate(self.candidates[wrong] or b"", f"{where}:{self.first + wrong}")
        places = np.cumsum(listed) - listed
        unlabelled = np.add.reduceat((labels == UNKNOWN).astype(np.int64), places)
        some = np.flatnonzero((unlabelled > 0) & (unlabelled < listed))
        if len(some):
            raise UsageError(
                f"{where}:{self.first + some[0]}: column 'impressions' has news with and without a label"
            )
        return {
            "history": history,
            "history_lengths": lengths,
            "candidates": candidates,
            "candidate_lengths": listed,
            "labels": labels,
            "users": np.array(self.users, dtype=np.int32),
            "ids": np.array(self.ids),
        }


class _Table:
    """News ids, alone and with a label behind, and the rows that they stand for."""

    def __init__(self, news: Sequence[bytes]) -> None:
        import pyarrow as pa

        self._size = len(news)
        self._known = pa.array(news, pa.binary())
        labelled = [b"%b-%d" % (name, label) for label in (0, 1) for name in news]
        self._candidates = pa.array([*labelled, *news], pa.binary())

    def rows(self, lists: list[bytes | None]) -> tuple[Integers, Integers, int | None]:
        """Return (row of each news, number of news of each list, None or the first list that is wrong)."""
        places, lengths, wrong = self._look_up(lists, self._known)
        return places + np.int32(1), lengths, wrong

    def candidates(self, lists: list[bytes | None]) -> tuple[Integers, Integers, Integers, int | None]:
        """Return (row and label of each candidate, number of candidates, None or the first wrong list)."""
        places, lengths, wrong = self._look_up(lists, self._candidates)
        empty = np.flatnonzero(lengths == 0)
        if len(empty) and (wrong is None or empty[0] < wrong):
            wrong = int(empty[0])
        labels = np.array([0, 1, UNKNOWN], dtype=np.int8)[places // max(1, self._size)]
        return places % max(1, self._size) + np.int32(1), labels, lengths, wrong

    def _look_up(self, lists: list[bytes | None], among: Any) -> tuple[Integers, Integers, int | None]:
        import pyarrow as pa
        import pyarrow.compute as pc

        split = pc.split_pattern(pa.array(lists, pa.binary()), " ")
        lengths = pc.fill_null(pc.list_value_length(split), 0).to_numpy()
        places = pc.index_in(split.flatten(), value_set=among)
        wrong = None
        if places.null_count:
            first = int(np.flatnonzero(places.is_null().to_numpy(zero_copy_only=False))[0])
            wrong = int(np.searchsorted(np.cumsum(lengths), first, side="right"))
        return pc.fill_null(places, 0).to_numpy(), lengths, wrong

    def unknown_history(self, text: bytes, where: str) -> UsageError:
        """Return the message about a history with a news that is not in the table."""
        known = set(self._known.to_pylist())
        news = next(news for news in text.split(b" ") if news not in known)
        return UsageError(f"{where}: column 'history' names {_text(news)}, which no {NEWS} has")

    def unknown_candidate(self, text: bytes, where: str) -> UsageError:
        """Return the message about candidates with one that is not in the table, or without any."""
        if not text:
            return UsageError(f"{where}: column 'impressions' is empty")
        known, labelled = set(self._known.to_pylist()), set(self._candidates.to_pylist())
        news = next(news for news in text.split(b" ") if news not in labelled)
        name, _, label = news.rpartition(b"-")
        if name in known:
            return UsageError(
                f"{where}: column 'impressions' labels {_text(name)} {_text(label)}, which is neither 0 nor 1"
            )
        name = name if label in (b"0", b"1") else news
        return UsageError(f"{where}: column 'impressions' names {_text(name)}, which no {NEWS} has")


def _wrong_count(columns: list[bytes], names: tuple[str, ...], where: str) -> UsageError:
    return UsageError(f"{where}: {len(columns)} columns, not {len(names)}: {', '.join(names)}")


def _check_id(text: bytes, column: str, where: str) -> None:
    if not _ID.fullmatch(text):
        raise UsageError(
            f"{where}: column {column!r} is {_text(text)}, not 1 to 64 printable ASCII characters"
        )


def _check_unique(ids: Integers, where: str) -> None:
    """Refuse an impression id that occurs again."""
    order = np.argsort(ids, kind="stable")
    again = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(again):
        line = int(again.min())
        first = int(np.flatnonzero(ids == ids[line])[0])
        raise UsageError(
            f"{where}:{line + 1}: column 'impression id' is {_text(ids[line])} again, as in line {first + 1}"
        )


def _text(text: bytes) -> str:
    return shown(text.decode(errors="replace"))
