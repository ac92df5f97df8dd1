"""The form of records.jsonl, which holds the record files of a results folder, one per line.

The first line is ``{"format":"effbench records 1","lines":366}``. Each other line is
``{"path":"records/NAME.json","file":...}``, where ``...`` is the file's content byte for byte, without the
line end that closes it. A file that is not one line of JSON is held as a string, ``"text":"..."``. Lines
are sorted by path. A damaged byte damages one line; the other lines are read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from effbench.common import files
from effbench.common.strict_json import parse_json
from effbench.common.wording import plural, shown

PACK = "records.jsonl"
RECORDS = "records"
SUPERSEDED = "superseded"
LINE_BYTES = 640 * 2**20  # above the most bytes of one record in either form

_PATH_BYTES = 240  # a name has 255 at most, and one that is superseded becomes longer
_HEADER = '{{"format":"effbench records 1","lines":{}}}\n'
_HEADER_FORM = re.compile(rb'\{"format":"effbench records 1","lines":([0-9]{1,18})\}\n')
_START = re.compile(rb'\{"path":("(?:[^"\\]|\\.)*")')
_LINE = re.compile(_START.pattern + rb',"(file|text)":(.*)\}\n?', re.DOTALL)
_PATH = re.compile(rf"({RECORDS}|{SUPERSEDED})/[^./\0][^/\0]*\.json")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the pack: the path and the content of a file; or, with a reason, one that cannot be read.

    The path may be known then, too. ``last`` is True if the pack could not be read any further.
    """

    raw: bytes = b""
    path: str = ""
    content: bytes = b""
    reason: str = ""
    last: bool = False

    def __str__(self) -> str:
        """Return the path and the reason."""
        return ": ".join(part for part in (self.path, self.reason) if part)


def can_hold(path: str) -> bool:
    """True if the pack can hold a file of this path in a results folder."""
    try:
        return _PATH.fullmatch(path) is not None and len(os.fsencode(path)) <= _PATH_BYTES
    except UnicodeEncodeError:
        return False


def stamp(path: Path) -> tuple[int, ...] | None:
    """Return a value that changes when the pack is replaced; None if there is no pack."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def read(path: Path) -> Iterator[Line]:
    """Yield the lines of a pack, and a line with a reason for each damage; nothing if there is no pack."""
    if not files.is_file(path):
        return
    try:
        with path.open("rb") as file:
            yield from read_open(file)
    except OSError as error:
        yield Line(reason=f"cannot be read: {files.why(error)}", last=True)


def read_open(file: IO[bytes]) -> Iterator[Line]:
    """Yield the lines of an open pack, as ``read`` does."""
    expected, count = None, 0
    seen: set[str] = set()
    for number in range(1, 2**63):
        raw = file.readline(LINE_BYTES)
        if not raw:
            break
        if len(raw) == LINE_BYTES:
            reason = f"line {number} is longer than {files.size(LINE_BYTES)}: the file is read up to there"
            yield Line(reason=reason, last=True)
            return
        if number == 1 and not _START.match(raw):
            if header := _HEADER_FORM.fullmatch(raw):
                expected = int(header[1])
            continue
        count += 1
        line = _line(number, raw)
        if not line.reason and line.path in seen:
            line = Line(raw=raw, path=line.path, reason=f"line {number}: an earlier line has this path")
        seen.add(line.path)
        yield line
    if expected is None:
        yield Line(reason="the first line is damaged or of another version; the others are read")
    elif count != expected:
        yield Line(reason=f"it has {plural(count, 'record')} of {expected}: it was cut or changed")


def write(file: IO[bytes], contents: Mapping[str, bytes], unreadable: Iterable[bytes] = ()) -> None:
    """Write the pack of these files by path, and behind them lines that could not be read, as they are."""
    kept = [raw if raw.endswith(b"\n") else raw + b"\n" for raw in unreadable]
    file.write(_HEADER.format(len(contents) + len(kept)).encode())
    for path, content in sorted(contents.items()):
        start = f'{{"path":{json.dumps(path)},'.encode()
        if content.find(b"\n") == len(content) - 1:
            file.write(start + b'"file":' + content[:-1] + b"}\n")
        else:
            file.write(start + b'"text":' + json.dumps(content.decode()).encode() + b"}\n")
    file.writelines(kept)


def _line(number: int, raw: bytes) -> Line:
    start = _START.match(raw)
    try:
        path = json.loads(start[1]) if start else ""
    except ValueError:
        path = ""
    if not path:
        return Line(raw=raw, reason=f"line {number}: damaged: not a line of packed records")
    if not can_hold(path):
        return Line(raw=raw, reason=f"line {number}: {shown(path)} is not the path of a record file")
    line = _LINE.fullmatch(raw)
    try:
        if line is None:
            raise ValueError("cut or changed")
        content = line[3] + b"\n" if line[2] == b"file" else _text(line[3])
    except ValueError as error:
        return Line(raw=raw, path=path, reason=f"line {number}: damaged: {error}")
    return Line(raw=raw, path=path, content=content)


def _text(written: bytes) -> bytes:
    text = parse_json(written.decode())
    if not isinstance(text, str):
        raise ValueError("not a text")
    return text.encode()
