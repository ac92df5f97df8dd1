"""Where labelled texts come from: files, folders, the hub. Whatever is wrong is named by file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

from effbench.spec import UsageError

PACKED = ("", ".xz", ".gz")  # what a file's name may end with
OFFICIAL = ("train", "test")
WHOLE = ("whole",)  # the parts of a source that has no split of its own

_OPEN: dict[str, Callable[..., IO[bytes]]] = {
    ".gz": cast("Callable[..., IO[bytes]]", gzip.open),
    ".xz": lzma.open,
}

T = TypeVar("T")


class Text(NamedTuple):
    """A text and the name of its class; ``number`` is what else the task reads of it, 0 if nothing."""

    text: str
    label: str
    number: int = 0


Parse = Callable[[dict[str, Any], str], Text]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Texts in their order: a digest of all bytes, a reader of a part, and how to name a row's place.

    ``parts`` is ``OFFICIAL`` or ``WHOLE``; rows are numbered from 0 in each part.
    """

    digest: str
    parts: tuple[str, ...]
    read: Callable[[str], Iterable[Text]]
    where: Callable[[str, int], str]


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(1-based number, line without its end) of a file that may be packed with .xz or .gz."""
    number = 0
    try:
        with _OPEN.get(path.suffix, open)(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip(b"\r\n")
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise UsageError(f"{path}:{number + 1}: cannot be unpacked: {error}") from None


def decoded(content: bytes, where: str) -> str:
    """The content as UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8 text: {error.reason}") from None


def digest_of(paths: Iterable[Path]) -> str:
    """A digest of the files' contents in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def packed_file(folder: Path, name: str) -> Path | None:
    """The file of this name in the folder, as it is or packed."""
    return next((path for suffix in PACKED if (path := folder / f"{name}{suffix}").is_file()), None)


def json_object(line: bytes, where: str, columns: Sequence[str]) -> dict[str, Any]:
    """The object on a line of JSON Lines, which must have the given columns."""
    try:
        row: Any = json.loads(line)
    except ValueError as error:  # of UTF-8 or of JSON
        raise UsageError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: not a JSON object but {type(row).__name__}")
    for column in columns:
        if column not in row:
            raise UsageError(f"{where}: the column {column!r} is missing; it has {', '.join(row) or 'none'}")
    return row


def text_column(row: dict[str, Any], column: str, where: str) -> str:
    """The value of a column of texts."""
    value = row[column]
    if not isinstance(value, str):
        raise UsageError(f"{where}: column {column!r} is {type(value).__name__}, not text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{where}: column {column!r} holds half of a surrogate pair, which is no character")
    return value


def json_lines(folder: Path, columns: Sequence[str], parse: Parse) -> Source | None:
    """``{train,test}.jsonl[.xz|.gz]``, an object a line; None where there is neither file."""
    found = {part: packed_file(folder, f"{part}.jsonl") for part in OFFICIAL}
    if not any(found.values()):
        return None
    paths: dict[str, Path] = {}
    for part, path in found.items():
        if path is None:
            raise UsageError(f"{folder}: there is no {part}.jsonl (or .jsonl.xz, .jsonl.gz)")
        paths[part] = path

    def read(part: str) -> Iterator[Text]:
        for number, line in lines(paths[part]):
            where = f"{paths[part]}:{number}"
            yield parse(json_object(line, where, columns), where)

    return Source(
        digest=digest_of(paths.values()),
        parts=OFFICIAL,
        read=read,
        where=lambda part, row: f"{paths[part]}:{row + 1}",
    )


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file that is one text: its class and number are known from where it stands."""

    path: Path
    label: str
    number: int = 0


def text_files(
    root: Path, files: dict[str, list[TextFile]], read: Callable[[Path], str] | None = None
) -> Source:
    """A text a file, a list of files a part; ``read`` makes a text of one, by default all of it in UTF-8."""
    digest = hashlib.sha256()
    for listed in files.values():
        for file in listed:
            digest.update(str(file.path.relative_to(root)).encode() + b"\0")
            digest.update(hashlib.sha256(file.path.read_bytes()).digest())
    read_file = read or (lambda path: decoded(path.read_bytes(), str(path)))

    def read_part(part: str) -> Iterator[Text]:
        for file in files[part]:
            yield Text(read_file(file.path), file.label, file.number)

    def where(part: str, row: int) -> str:
        if row < len(files[part]):
            return str(files[part][row].path)
        return str(root / part if part in OFFICIAL else root)

    return Source(digest=digest.hexdigest()[:16], parts=tuple(files), read=read_part, where=where)


def hub(
    task: str, name: str, columns: Sequence[str], parse: Parse, *, instead: str, what: str = "texts"
) -> Source:
    """The train and test splits of a Hugging Face data set; ``instead`` says what a user may do otherwise."""
    load_dataset = hub_loader(task, instead, what)
    try:
        loaded = {part: load_dataset(name, split=part) for part in OFFICIAL}
        found = {part: [loaded[part][column] for column in columns] for part in OFFICIAL}
    except Exception as error:  # the library and its transports have no common class of errors
        raise hub_failure(task, name, error, instead) from None
    rows: dict[str, list[Text]] = {}
    digest = hashlib.sha256()
    for part, values in found.items():
        rows[part] = [
            parse(dict(zip(columns, row, strict=True)), f"{name} {part} row {number}")
            for number, row in enumerate(zip(*values, strict=True))
        ]
        for row in rows[part]:
            digest.update(f"{row.label}\0{row.text}\0".encode())
    return Source(
        digest=digest.hexdigest()[:16],
        parts=OFFICIAL,
        read=lambda part: rows[part],
        where=lambda part, row: f"{name} {part} row {row}",
    )


def hub_loader(task: str, instead: str, what: str) -> Callable[..., Any]:
    """``datasets.load_dataset``, or a complaint that says how to do with or without it."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(
            f"{task} needs its {what}: pip install 'effbench[data]' to download them, {instead}"
        ) from None
    return cast("Callable[..., Any]", load_dataset)


def hub_failure(task: str, name: str, error: Exception, instead: str) -> UsageError:
    """The complaint about a data set that did not load."""
    reason = " ".join(str(error).split())[:200]
    return UsageError(
        f"{task}: {name} cannot be loaded ({type(error).__name__}: {reason}); check the network, {instead}"
    )


def reservoir(rows: Iterable[T], count: int) -> list[T]:
    """``count`` of the rows, all alike likely, in their order; the same ones every time (algorithm R)."""
    draw = random.Random(0)
    kept: list[tuple[int, T]] = []
    for place, row in enumerate(rows):
        if place < count:
            kept.append((place, row))
        elif (slot := draw.randrange(place + 1)) < count:
            kept[slot] = place, row
    return [row for _, row in sorted(kept, key=lambda placed: placed[0])]
