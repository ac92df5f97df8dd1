"""Labelled texts from files, folders or the Hugging Face hub; errors name the file and line."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from effbench.common.files import size
from effbench.common.spec import UsageError
from effbench.common.strict_json import parse_json
from effbench.measured.data.reading import (
    FILE_BYTES,
    LINE_BYTES,
    content,
    decoded,
    digest_of,
    lines,
    packed_file,
)

OFFICIAL = ("train", "test")
WHOLE = ("whole",)  # the parts of a text set that has no official split

T = TypeVar("T")


class Text(NamedTuple):
    """A text and the name of its class; ``number`` is a number that the task reads of it, else 0."""

    text: str
    label: str
    number: int = 0


Parse = Callable[[dict[str, Any], str], Text]


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """Texts in their order, not read yet.

    ``digest`` is of all bytes. ``parts`` is ``OFFICIAL`` or ``WHOLE``, and ``read(part)`` gives the texts of
    one. ``where(part, row)`` names the place of a text for an error; rows are numbered from 0 in each part.
    """

    digest: str
    parts: tuple[str, ...]
    read: Callable[[str], Iterable[Text]]
    where: Callable[[str, int], str]


def json_object(line: bytes, where: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return the object on a line of JSON Lines, which must have the given columns."""
    text = decoded(line, where)
    try:
        row = parse_json(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: not a JSON object but {type(row).__name__}")
    for column in columns:
        if column not in row:
            raise UsageError(f"{where}: the column {column!r} is missing; it has {', '.join(row) or 'none'}")
    return row


def text_column(row: dict[str, Any], column: str, where: str) -> str:
    """Return the value of a column of texts."""
    value = row[column]
    if not isinstance(value, str):
        raise UsageError(f"{where}: column {column!r} is {type(value).__name__}, not text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{where}: column {column!r} holds half of a surrogate pair, which is no character")
    return value


def json_lines(folder: Path, columns: Sequence[str], parse: Parse) -> TextSet | None:
    """Return the texts of ``{train,test}.jsonl[.xz|.gz]``, an object per line; None without both."""
    existing = {part: packed_file(folder, f"{part}.jsonl") for part in OFFICIAL}
    if not any(existing.values()):
        return None
    paths: dict[str, Path] = {}
    for part, path in existing.items():
        if path is None:
            raise UsageError(f"{folder}: there is no {part}.jsonl (or .jsonl.xz, .jsonl.gz)")
        paths[part] = path

    def read(part: str) -> Iterator[Text]:
        for number, line in lines(paths[part]):
            where = f"{paths[part]}:{number}"
            yield parse(json_object(line, where, columns), where)

    return TextSet(
        digest=digest_of(paths.values()),
        parts=OFFICIAL,
        read=read,
        where=lambda part, row: f"{paths[part]}:{row + 1}",
    )


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file that is one text; its path tells its class and number."""

    path: Path
    label: str
    number: int = 0


def text_files(
    root: Path, files: dict[str, list[TextFile]], read: Callable[[bytes, str], str] | None = None
) -> TextSet:
    """Return the texts of lists of files, one per part; ``read`` turns a file's bytes into text (UTF-8)."""
    digest = hashlib.sha256()
    for listed in files.values():
        for file in listed:
            digest.update(os.fsencode(file.path.relative_to(root)) + b"\0")
            digest.update(hashlib.sha256(content(file.path, LINE_BYTES)).digest())
    read_text = read or decoded

    def read_part(part: str) -> Iterator[Text]:
        for file in files[part]:
            yield Text(read_text(content(file.path, LINE_BYTES), str(file.path)), file.label, file.number)

    def where(part: str, row: int) -> str:
        if row < len(files[part]):
            return str(files[part][row].path)
        return str(root / part if part in OFFICIAL else root)

    return TextSet(digest=digest.hexdigest()[:16], parts=tuple(files), read=read_part, where=where)


def hub_texts(
    task: str, name: str, columns: Sequence[str], parse: Parse, *, instead: str, what: str = "texts"
) -> TextSet:
    """Return the train and test splits of a Hugging Face data set; ``instead`` says what else to do."""
    load_dataset = hub_loader(task, instead, what)
    try:
        loaded = {part: load_dataset(name, split=part) for part in OFFICIAL}
        table = {part: [loaded[part][column] for column in columns] for part in OFFICIAL}
    except Exception as error:  # the library and its transports have no common class of errors
        raise hub_failure(task, name, error, instead) from None
    rows: dict[str, list[Text]] = {}
    digest = hashlib.sha256()
    for part, values in table.items():
        rows[part] = [
            parse(dict(zip(columns, row, strict=True)), f"{name} {part} row {number}")
            for number, row in enumerate(zip(*values, strict=True))
        ]
        for row in rows[part]:
            digest.update(f"{row.label}\0{row.text}\0".encode())
    return TextSet(
        digest=digest.hexdigest()[:16],
        parts=OFFICIAL,
        read=lambda part: rows[part],
        where=lambda part, row: f"{name} {part} row {row}",
    )


def hub_loader(task: str, instead: str, what: str) -> Callable[..., Any]:
    """Return ``datasets.load_dataset``. Raises UsageError that says how to install it or do without."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(
            f"{task} needs its {what}: pip install 'effbench[data]' to download them, {instead}"
        ) from None
    return cast("Callable[..., Any]", load_dataset)


def hub_failure(task: str, name: str, error: Exception, instead: str) -> UsageError:
    """Return the message about a data set that did not load."""
    reason = " ".join(str(error).split())[:200]
    return UsageError(
        f"{task}: {name} cannot be loaded ({type(error).__name__}: {reason}); check the network, {instead}"
    )


def reservoir(
    rows: Iterable[T], count: int, size_of: Callable[[T], int] = lambda row: 0, most: int = FILE_BYTES
) -> list[T]:
    """Return ``count`` of the rows in their order, drawn uniformly and reproducibly (algorithm R).

    Raises ValueError once the rows that are held have more than ``most`` together by ``size_of``.
    """
    draw = random.Random(0)
    kept: list[tuple[int, T]] = []
    held = 0
    for place, row in enumerate(rows):
        if place < count:
            kept.append((place, row))
        elif (slot := draw.randrange(place + 1)) < count:
            held -= size_of(kept[slot][1])
            kept[slot] = place, row
        else:
            continue
        held += size_of(row)
        if held > most:
            raise ValueError(f"{len(kept)} of the rows up to row {place + 1} have more than {size(most)}")
    return [row for _, row in sorted(kept, key=lambda placed: placed[0])]
