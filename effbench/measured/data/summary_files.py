"""Articles with their summaries, in files of any of the usual formats; errors name the file and the row."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from effbench.common.files import entries, is_dir, is_file, refuse_special, size, why
from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.measured.data.reading import (
    LINE_BYTES,
    PACKED,
    decoded,
    digest_of,
    large_fields,
    lines,
    whole_lines,
)
from effbench.measured.data.stories import story, story_parts
from effbench.measured.data.text_sets import json_object, text_column

PARTS = ("train", "validation", "test")
FIELDS = (("article", "highlights"), ("article", "abstract"), ("article_text", "abstract_text"))
FORMATS = "train.jsonl (or .json, .txt, .csv; or .xz, .gz of these), train*.parquet or train/*.story"

_PART = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_BATCH = 256  # rows of a parquet file at a time
_MARKS = re.compile(r"</?S>")  # around a sentence in the files of Cohan et al. 2018


class Pair(NamedTuple):
    """An article, its summary (a sentence a line where the file tells sentences), and the place of both."""

    article: str
    summary: str
    where: str


Columns = Callable[[Sequence[str], str], tuple[str, str]]  # (columns there, place) -> the two to read


@dataclass(frozen=True, kw_only=True)
class SummaryFiles:
    """The files of each part that there is; ``fields`` are the two columns to read, None for a usual pair."""

    parts: dict[str, list[Path]]
    fields: tuple[str, str] | None

    def digest(self) -> str:
        """Return a digest of all bytes, and of what is read of them."""
        digest = hashlib.sha256(repr(self.fields).encode())
        for part, paths in self.parts.items():
            # the name tells the format
            digest.update(f"{part} {len(paths)} {_suffix(paths[0])} {digest_of(paths)}\n".encode())
        return digest.hexdigest()[:16]

    def where(self, part: str) -> str:
        """Return the name of the first file of a part, for an error about all of it."""
        return str(self.parts[part][0])

    def read(self, part: str) -> Iterator[Pair]:
        """Yield the pairs of a part, empty texts included. Raises UsageError that names file and row."""
        for path in self.parts[part]:
            suffix = _suffix(path)
            if suffix == ".story":
                yield Pair(*story(path), str(path))
                continue
            reader = {".parquet": _parquet_rows, ".csv": _csv_rows}.get(suffix, _json_rows)
            for row, (article, summary), where in reader(path, self._columns):
                yield Pair(
                    _text(row, article, where).strip(), sentence_lines(_text(row, summary, where)), where
                )

    def _columns(self, found: Sequence[str], where: str) -> tuple[str, str]:
        for pair in (self.fields,) if self.fields else FIELDS:
            if set(pair) <= set(found):
                for name in pair:
                    if found.count(name) > 1:
                        raise UsageError(f"{where}: there are several columns {name!r}")
                return pair
        has = ", ".join(found) or "none"
        if self.fields:
            missing = next(name for name in self.fields if name not in found)
            raise UsageError(f"{where}: the column {missing!r} is missing; it has {has}")
        usual = ", ".join(" and ".join(pair) for pair in FIELDS)
        raise UsageError(
            f"{where}: the columns are {has}, without a usual pair ({usual}); name the two columns to read"
        )


def find(folder: Path, article: str = "", summary: str = "") -> SummaryFiles:
    """Return the files of articles and summaries in a folder, or in the one folder inside it that has some.

    A file's name begins with its part: train; validation, valid, val or dev; test. A part is one file (JSON
    Lines in ``.jsonl``, ``.json`` or ``.txt``, or ``.csv``; plain, or packed with ``.xz`` or ``.gz``; or
    ``.parquet``), or all of its ``-00000-of-00003`` shards; or it is stories (``stories.story_parts``).
    ``article`` and ``summary`` name the columns; by default the first pair of ``FIELDS`` that a row has.
    Raises UsageError where there is no file of a training part, and where it is not clear what to read.
    """
    if bool(article) != bool(summary):
        raise UsageError(
            f"the columns are article={article!r} and summary={summary!r}: name both of them, or neither"
        )
    parts = parts_in(folder)
    if not parts:
        inside = {path: found for path in entries(folder) if is_dir(path) and (found := parts_in(path))}
        if len(inside) > 1:
            names = ", ".join(path.name for path in inside)
            raise UsageError(f"{folder}: {len(inside)} folders have articles: {names}; name one of them")
        parts = next(iter(inside.values()), {})
    if "train" not in parts:
        has = f"only {' and '.join(parts)}" if parts else "none"
        raise UsageError(f"{folder}: there is no training part of articles and summaries ({has}): {FORMATS}")
    fields = (article, summary) if article else None
    return SummaryFiles(parts={part: parts[part] for part in PARTS if part in parts}, fields=fields)


def sentence_lines(text: str) -> str:
    """Return a text without blank lines, and without blanks around lines."""
    return "\n".join(filter(None, (line.strip() for line in text.split("\n"))))


def parts_in(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each part that lie in the folder, or its stories at any depth; empty without."""
    found: dict[str, list[Path]] = {}
    for path in entries(folder):
        suffix = _suffix(path)
        named = _PART.match(path.name.lower())
        if not named or not suffix or not is_file(path):
            continue
        stem = path.name.removesuffix("".join(path.suffixes[-2:])).removesuffix(path.suffix)
        if suffix == ".txt" and stem.lower() != named[1]:
            continue  # notes of somebody
        found.setdefault(_official(named[1]), []).append(path)
    for part, paths in found.items():
        _check_whole(folder, part, paths)
    return found or story_parts(folder, lambda name: _official(name) if _PART.fullmatch(name) else None)


def _check_whole(folder: Path, part: str, paths: list[Path]) -> None:
    """Raise UsageError unless the files are one file, or all shards of one set."""
    shards = [_SHARD.search(path.stem) for path in paths]
    if len(paths) == 1 and not shards[0]:
        return
    names = ", ".join(path.name for path in paths[:5]) + (", ..." if len(paths) > 5 else "")
    expected = {shard[2] for shard in shards if shard}
    if None in shards or len(expected) > 1:
        raise UsageError(f"{folder}: {len(paths)} files could be the {part} part: {names}; keep one")
    numbers = [int(shard[1]) for shard in shards if shard]
    count = int(expected.pop())
    if sorted(numbers) != list(range(count)):
        raise UsageError(f"{folder}: {len(paths)} of the {count} files of the {part} part: {names}")


def _official(name: str) -> str:
    return name if name in ("train", "test") else "validation"


def _suffix(path: Path) -> str:
    """Return the end of a name that tells its format, "" for one that is not read."""
    name = path.name.lower()
    for end in (".parquet", ".story"):
        if name.endswith(end):
            return end
    name = next((name.removesuffix(end) for end in PACKED[1:] if name.endswith(end)), name)
    return next((end for end in (".jsonl", ".json", ".txt", ".csv") if name.endswith(end)), "")


def _text(row: dict[str, Any], column: str, where: str) -> str:
    """Return a value that is a text, or a list of sentences, which may stand between <S> and </S>."""
    value = row[column]
    if not isinstance(value, list):
        text = text_column(row, column, where)
    else:
        for sentence in value:
            text_column({column: sentence}, column, where)
        text = "\n".join(_MARKS.sub("", sentence).strip() for sentence in value)
    if len(text) > LINE_BYTES:
        raise UsageError(f"{where}: column {column!r} has more than {size(LINE_BYTES)}")
    return text


Row = tuple[dict[str, Any], tuple[str, str], str]


def _json_rows(path: Path, columns: Columns) -> Iterator[Row]:
    for number, line in lines(path, most=None):
        where = f"{path}:{number}"
        row = json_object(line, where, ())
        yield row, columns(list(row), where), where


def _csv_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header; a quoted field may have several lines."""
    first = held = 0  # the line before the row, and the row's bytes so far

    def texts() -> Iterator[str]:
        nonlocal held
        for number, line in whole_lines(path, most=None):
            held += len(line)
            if held > 2 * LINE_BYTES:
                raise UsageError(
                    f"{path}:{first + 1}: the row has more than {size(2 * LINE_BYTES)}; is a quotation mark "
                    "not closed?"
                )
            text = decoded(line, f"{path}:{number}")
            yield text.removeprefix("\ufeff") if number == 1 else text

    reader = csv.reader(texts(), strict=True)
    header: list[str] | None = None
    chosen = ("", "")
    while True:
        first, held = reader.line_num, 0
        where = f"{path}:{first + 1}"
        try:
            with large_fields():
                row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise UsageError(f"{where}: {error}") from None
        if header is None:
            header, chosen = row, columns(row, where)
            continue
        if len(row) != len(header):
            raise UsageError(f"{where}: {plural(len(row), 'column')}, not {len(header)} as in the header")
        yield dict(zip(header, row, strict=True)), chosen, where
    if header is None:
        raise UsageError(f"{path}:1: the file is empty")


def _parquet_rows(path: Path, columns: Columns) -> Iterator[Row]:
    import pyarrow.parquet as pq

    refuse_special(path)
    number = 0
    try:
        with pq.ParquetFile(os.fspath(path)) as file:
            chosen = columns(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(chosen)):
                for row in batch.to_pylist():
                    number += 1
                    yield row, chosen, f"{path}: row {number}"
    except UsageError:
        raise
    except Exception as error:  # the library has no common class of errors
        raise UsageError(f"{path}: cannot be read as parquet after row {number}: {why(error)}") from None
