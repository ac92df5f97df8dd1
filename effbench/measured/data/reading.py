"""Bytes of data files, whole or by lines, unpacked within bounds; errors name the file and line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from effbench.common.files import is_dir, is_file, refuse_special, size, why
from effbench.common.spec import UsageError
from effbench.common.wording import shown

PACKED = ("", ".xz", ".gz")  # possible ends of a file's name
LINE_BYTES = 16 * 2**20
FILE_BYTES = 2**30  # kept of one file at most, so that a small packed file cannot fill the memory
XZ_MEMORY = 512 * 2**20  # bytes that unpacking may take: xz -9 needs 65 MiB

_CHUNK = 2**20
_BOM = b"\xef\xbb\xbf"
DAMAGE = (EOFError, OSError, lzma.LZMAError, zlib.error)  # raised by reading and unpacking


def lines(path: Path, most: int | None = FILE_BYTES, *, member: str = "") -> Iterator[tuple[int, bytes]]:
    """Yield (1-based number, line without its end) of a file that may be packed with .xz or .gz.

    With ``member`` the file is the one of that name inside the zip ``path``. A byte order mark at the
    beginning is left out. Raises UsageError for a file that cannot be read, a line of more than 16 MiB, and
    more than ``most`` bytes in all.
    """
    for number, line in whole_lines(path, most, member=member):
        yield number, (line.removeprefix(_BOM) if number == 1 else line).rstrip(b"\r\n")


def whole_lines(path: Path, most: int | None = FILE_BYTES, member: str = "") -> Iterator[tuple[int, bytes]]:
    """Yield (1-based number, line with its end), with the errors of ``lines``."""
    where = place_of(path, member)
    number = total = 0
    try:
        with _opened(path, member) as file:
            while line := file.readline(LINE_BYTES + 1):
                number, total = number + 1, total + len(line)
                if len(line) > LINE_BYTES:
                    raise UsageError(f"{where}:{number}: the line has more than {size(LINE_BYTES)}")
                if most is not None and total > most:
                    raise UsageError(f"{where}:{number}: the file has more than {size(most)}")
                yield number, line
    except DAMAGE as error:
        raise UsageError(f"{where}:{number + 1}: {_verb(path)}: {why(error)}") from None


def place_of(path: Path, member: str = "") -> str:
    """Return the name of a file, or of a file inside a zip, for a message."""
    return f"{path}:{shown(member)[1:-1]}" if member else str(path)


def zip_members(path: Path) -> list[str]:
    """Return the names of the files in a zip. Raises UsageError where it is no whole zip."""
    refuse_special(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]
    except Exception as error:  # a damaged archive raises nearly anything
        raise UsageError(f"{path}: cannot be unpacked: {why(error)}") from None


def content(path: Path, most: int = FILE_BYTES) -> bytes:
    """Return the whole file, unpacked.

    Raises UsageError where it cannot be read or has more than ``most`` bytes.
    """
    unpacked = bytearray()
    try:
        with _opened(path) as file:
            while chunk := file.read(_CHUNK):
                unpacked += chunk
                if len(unpacked) > most:
                    raise UsageError(f"{path}: the file has more than {size(most)}")
    except DAMAGE as error:
        raise UsageError(f"{path}: {_verb(path)}: {why(error)} (after {len(unpacked)} bytes)") from None
    return bytes(unpacked)


def decoded(text: bytes, where: str) -> str:
    """Return the bytes decoded as UTF-8. Raises UsageError that names ``where``."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8 text: {error.reason} (byte {error.start})") from None


@contextmanager
def large_fields() -> Iterator[None]:
    """Lift the csv module's limit of 128 KiB per field, for the whole process: papers are longer."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def digest_of(paths: Iterable[Path]) -> str:
    """Return a digest of the files' contents in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        refuse_special(path)
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UsageError(f"{path}: {why(error)}") from None
    return digest.hexdigest()[:16]


def packed_file(folder: Path, name: str) -> Path | None:
    """Return the file of this name in the folder, plain or packed; None without one."""
    return next((path for suffix in PACKED if is_file(path := folder / f"{name}{suffix}")), None)


def folder_of(data_dir: Path | None, *names: str) -> Path | None:
    """Return the first folder of these names inside ``data_dir``, or ``data_dir`` where there is none.

    One data folder can hold those of several tasks, each under its task's name.
    """
    if data_dir is None:
        return None
    return next((data_dir / name for name in names if is_dir(data_dir / name)), data_dir)


def unchanged(before: str, now: Callable[[], str], where: object) -> Callable[[], None]:
    """Return a check for ``cache.cached`` that raises UsageError if the digest of the files has changed."""

    def check() -> None:
        if now() != before:
            raise UsageError(f"{where}: the files changed while they were read; run it again")

    return check


def _opened(path: Path, member: str = "") -> IO[bytes]:
    refuse_special(path)
    if member:
        return io.BufferedReader(_Zipped(path, member), _CHUNK)
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    file = path.open("rb")
    return io.BufferedReader(_Xz(file)) if path.suffix == ".xz" else file


def _verb(path: Path) -> str:
    return "cannot be unpacked" if path.suffix in (*PACKED[1:], ".zip") else "cannot be read"


class _Zipped(io.RawIOBase):
    """The content of a file inside a zip, whose every damage raises OSError."""

    def __init__(self, path: Path, member: str) -> None:
        self._file: IO[bytes] | None = None
        try:
            with zipfile.ZipFile(path) as archive:
                info = archive.getinfo(member)
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    # the memory of other methods has no bound
                    raise OSError(f"it is packed by method {info.compress_type}, not deflate")
                self._file = archive.open(info)
        except Exception as error:  # a damaged archive raises nearly anything
            raise OSError(why(error)) from None

    def readable(self) -> bool:
        """Return True: it can be read."""
        return True

    def close(self) -> None:
        """Close the zip too."""
        if self._file is not None:
            self._file.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the beginning of the buffer; 0 at the end of the file."""
        assert self._file is not None
        try:
            unpacked = self._file.read(len(buffer))
        except Exception as error:
            raise OSError(why(error)) from None
        buffer[: len(unpacked)] = unpacked
        return len(unpacked)


class _Xz(io.RawIOBase):
    """The content of an xz file.

    Unlike the standard library's reader it bounds the memory of unpacking, and raises for a damaged second
    stream instead of ending there.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream: lzma.LZMADecompressor | None = None

    def readable(self) -> bool:
        """Return True: it can be read."""
        return True

    def close(self) -> None:
        """Close the packed file too."""
        self._file.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the beginning of the buffer; 0 at the end of the file."""
        unpacked = self._next(len(buffer))
        buffer[: len(unpacked)] = unpacked
        return len(unpacked)

    def _next(self, most: int) -> bytes:
        """Return the next bytes, at most ``most``; none at the end."""
        while True:
            packed = b""
            if self._stream is None or self._stream.eof:
                packed = self._padded(self._stream.unused_data if self._stream else b"")
                if not packed and self._stream is not None:
                    return b""
                self._stream = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
            elif self._stream.needs_input:
                packed = self._file.read(_CHUNK)
            if not packed and self._stream.needs_input:
                raise EOFError("the file is cut: its end is missing")
            if unpacked := self._stream.decompress(packed, most):
                return unpacked

    def _padded(self, packed: bytes) -> bytes:
        """Return the bytes after a stream, without the zeros that may stand between two streams."""
        while not (packed := packed.lstrip(b"\0")):
            packed = self._file.read(_CHUNK)
            if not packed:
                return b""
        return packed
