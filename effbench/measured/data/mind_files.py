"""MIND's news and behaviours: the files found in a data folder, read into arrays; errors name the place."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effbench.common.files import entries, is_dir, is_file
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.cache import Arrays
from effbench.measured.data.examples import Integers
from effbench.measured.data.reading import (
    FILE_BYTES,
    decoded,
    digest_of,
    lines,
    packed_file,
    place_of,
    zip_members,
)

VERSION = 1  # of the readers: raise it when their output changes
NEWS, BEHAVIOURS = "news.tsv", "behaviors.tsv"
PARTS = ("train", "dev", "test")
NEWS_COLUMNS = (
    "news id", "category", "subcategory", "title", "abstract", "url", "title entities", "abstract entities",
)  # fmt: skip
BEHAVIOUR_COLUMNS = ("impression id", "user id", "time", "history", "impressions")
BEHAVIOUR_BYTES = 4 * 2**30  # of one file, unpacked; MINDlarge's has a third of that

_WORDS = {"train": ("train",), "dev": ("dev", "valid"), "test": ("test",)}  # in the name of a folder or zip
_ID = re.compile(rb"[!-~]{1,64}")
_UNKNOWN = -1  # the label of a candidate that has none


@dataclass(frozen=True, kw_only=True)
class MindFile:
    """A file that may be packed, or inside a zip; ``part`` is "" where no name around it tells the part."""

    path: Path
    member: str = ""
    part: str

    def __str__(self) -> str:
        return place_of(self.path, self.member)

    def lines(self, most: int) -> Iterator[tuple[int, bytes]]:
        """Yield (1-based number, line without its end)."""
        return lines(self.path, most, self.member)


@dataclass(frozen=True, kw_only=True)
class MindFiles:
    """The behaviours of each part, and all files of news: those of train, dev and test, then others."""

    behaviours: dict[str, MindFile]
    news: list[MindFile]

    def digest(self) -> str:
        """Return a digest of all bytes, and of what the files are."""
        files = [*self.behaviours.values(), *self.news]
        content = digest_of(dict.fromkeys(file.path for file in files))  # a zip holds several
        return hashlib.sha256(" ".join([content, *(file.part for file in files)]).encode()).hexdigest()[:16]


def find(folder: Path) -> MindFiles:
    """Return MIND's files in a folder, at any depth, plain, packed or in a zip.

    The part is told by the nearest folder or zip around a file that has train, dev or valid, or test in its
    name. Raises UsageError where train, or both dev and test, are missing, and where a part occurs twice.
    """
    behaviours: dict[str, MindFile] = {}
    news: list[MindFile] = []
    for name, file in _files(folder):
        if name == NEWS:
            news.append(file)
        elif not file.part:
            raise UsageError(f"{file}: no folder or zip around it has train, dev, valid or test in its name")
        elif file.part in behaviours:
            raise UsageError(
                f"{file}: these are {file.part} behaviours, and so are {behaviours[file.part]}; keep one"
            )
        else:
            behaviours[file.part] = file
    for wanted in (("train",), ("dev", "test")):
        if behaviours.keys().isdisjoint(wanted):
            raise UsageError(
                f"{folder}: there is no {BEHAVIOURS} (or .xz, .gz, or in a .zip) for {' or '.join(wanted)}"
            )
    if not news:
        raise UsageError(f"{folder}: there is no {NEWS} (or .xz, .gz, or in a .zip)")
    order = (*PARTS, "")
    return MindFiles(
        behaviours={part: behaviours[part] for part in PARTS if part in behaviours},
        news=sorted(news, key=lambda file: order.index(file.part)),
    )


def _files(folder: Path) -> Iterator[tuple[str, MindFile]]:
    """Yield (name, file) of all files of news and behaviours in the folder."""
    seen: set[Path] = set()
    waiting = [folder]
    while waiting:
        inner = waiting.pop(0)
        if inner.resolve() in seen:  # a link to a folder around it
            continue
        seen.add(inner.resolve())
        around = inner.relative_to(folder).parts
        for name in (BEHAVIOURS, NEWS):
            path = packed_file(inner, name)
            if path is not None:
                yield name, MindFile(path=path, part=_part(around, path))
        for path in entries(inner):
            if is_dir(path):
                waiting.append(path)
            elif path.suffix == ".zip" and is_file(path):
                for member in zip_members(path):
                    *folders, name = member.split("/")
                    if name in (BEHAVIOURS, NEWS):
                        part = _part((*around, path.stem, *folders), path)
                        yield name, MindFile(path=path, member=member, part=part)


def _part(around: tuple[str, ...], path: Path) -> str:
    """Return the part that the nearest of the names around a file tells, "" if none does."""
    for name in reversed(around):
        told = [part for part, words in _WORDS.items() if any(word in name.lower() for word in words)]
        if len(told) > 1:
            raise UsageError(f"{path}: the name {shown(name)} tells two parts: {' and '.join(told)}")
        if told:
            return told[0]
    return ""


def read_news(files: list[MindFile]) -> tuple[dict[bytes, int], list[str], int]:
    """Return (row of each news id, title of each row, number of other titles of news that were read before).

    Rows are in the order of the files and lines. Row 0 is no news, without a title. Of news that occur again
    the first title counts.
    """
    rows: dict[bytes, int] = {}
    titles = [""]
    other_titles = 0
    for file in files:
        for number, line in file.lines(FILE_BYTES):
            where = f"{file}:{number}"
            columns = line.split(b"\t")
            _check_count(columns, NEWS_COLUMNS, where)
            _check_id(columns[0], NEWS_COLUMNS[0], where)
            title = decoded(columns[3], f"{where}: column 'title'")
            row = rows.setdefault(columns[0], len(titles))
            if row == len(titles):
                titles.append(title)
            elif title != titles[row]:
                other_titles += 1
    return rows, titles, other_titles


def read_behaviours(file: MindFile, rows: dict[bytes, int], users: dict[bytes, int]) -> Arrays:
    """Return the fields of ``behaviours.Impressions``; new users get the next numbers in ``users``.

    A candidate that ends with -0 or -1 has that label. Raises UsageError for a line that is wrong.
    """
    candidate_of = _candidates(rows)
    history, candidates = array("i"), array("i")
    history_starts, candidate_starts = array("q", [0]), array("q", [0])
    numbers, ids = array("i"), []
    for number, line in file.lines(BEHAVIOUR_BYTES):
        columns = line.split(b"\t")
        where = f"{file}:{number}"
        _check_count(columns, BEHAVIOUR_COLUMNS, where)
        impression, user, _, clicked, listed = columns
        _check_id(impression, "impression id", where)
        _check_id(user, "user id", where)
        try:
            history.extend([rows[news] for news in clicked.split()])
            candidates.extend([candidate_of[news] for news in listed.split()])
        except KeyError:
            raise _unknown_news(clicked, listed, rows, where) from None
        if len(candidates) == candidate_starts[-1]:
            raise UsageError(f"{where}: column 'impressions' is empty")
        history_starts.append(len(history))
        candidate_starts.append(len(candidates))
        ids.append(impression)
        numbers.append(users.setdefault(user, len(users)))
    if not ids:
        raise UsageError(f"{file}:1: the file is empty")
    both = np.frombuffer(candidates, dtype=np.int32)
    arrays: Arrays = {
        "history": np.array(history, dtype=np.int32),
        "history_starts": np.array(history_starts),
        "candidates": both >> 2,
        "candidate_starts": np.array(candidate_starts),
        "labels": (both & 3).astype(np.int8) + np.int8(_UNKNOWN),
        "users": np.array(numbers, dtype=np.int32),
        "ids": np.array(ids),
    }
    _check_labels(arrays["labels"], arrays["candidate_starts"], str(file))
    _check_unique(arrays["ids"], str(file))
    return arrays


def _candidates(rows: dict[bytes, int]) -> dict[bytes, int]:
    """Return what a candidate's text stands for: 4 times its row, plus its label, minus ``_UNKNOWN``."""
    found = {news: 4 * row for news, row in rows.items()}
    for label in (0, 1):
        found |= {b"%b-%d" % (news, label): 4 * row + label - _UNKNOWN for news, row in rows.items()}
    return found


def _check_count(columns: list[bytes], names: tuple[str, ...], where: str) -> None:
    if len(columns) != len(names):
        raise UsageError(f"{where}: {len(columns)} columns, not {len(names)}: {', '.join(names)}")


def _check_id(text: bytes, column: str, where: str) -> None:
    if not _ID.fullmatch(text):
        raise UsageError(
            f"{where}: column {column!r} is {_text(text)}, not 1 to 64 printable ASCII characters"
        )


def _unknown_news(clicked: bytes, listed: bytes, rows: dict[bytes, int], where: str) -> UsageError:
    """Return the message about the first news of a line that cannot be read."""
    for news in clicked.split():
        if news not in rows:
            return UsageError(f"{where}: column 'history' names {_text(news)}, which no {NEWS} has")
    for news in listed.split():
        name, _, label = news.rpartition(b"-")
        if name in rows and label not in (b"0", b"1"):
            return UsageError(f"{where}: column 'impressions' labels {_text(news)} neither -0 nor -1")
        if news not in rows and name not in rows:
            name = name if label in (b"0", b"1") else news
            return UsageError(f"{where}: column 'impressions' names {_text(name)}, which no {NEWS} has")
    raise AssertionError(where)  # it is called for a line with such news


def _check_labels(labels: Integers, starts: Integers, where: str) -> None:
    """Refuse an impression of which only some candidates have a label."""
    unlabelled = np.add.reduceat((labels == _UNKNOWN).astype(np.int64), starts[:-1])
    some = np.flatnonzero((unlabelled > 0) & (unlabelled < np.diff(starts)))
    if len(some):
        raise UsageError(f"{where}:{some[0] + 1}: column 'impressions' has news with and without a label")


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
