"""Files: those that a user names, read within a bound; and files replaced atomically."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from effbench.common.spec import UsageError
from effbench.common.wording import shown

TEXT_BYTES = 16 * 2**20  # of a configuration or a source file


def read_bytes(path: Path, most: int = TEXT_BYTES) -> bytes:
    """Return the whole file. Raises UsageError if it cannot be read or has more than ``most`` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {_name(path)}: {why(error)}") from None
    if len(content) > most:
        raise UsageError(f"cannot read {_name(path)}: it has more than {size(most)}")
    return content


def digest(path: Path) -> bytes:
    """Return the SHA-256 digest of a file of any size. Raises UsageError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {_name(path)}: {why(error)}") from None


def read_text(path: Path, most: int = TEXT_BYTES) -> str:
    """Return the whole file as UTF-8 text, without a byte order mark.

    Raises UsageError if it is not UTF-8, cannot be read or has more than ``most`` bytes.
    """
    try:
        return read_bytes(path, most).decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"cannot read {_name(path)}: byte {error.start} is not UTF-8 text ({error.reason})"
        ) from None


def is_file(path: Path) -> bool:
    """True if there is a regular file of this name; False also if no file can have this name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_dir(path: Path) -> bool:
    """True if there is a folder of this name; False also if no folder can have this name."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def entries(folder: Path) -> list[Path]:
    """Return the paths in a folder, sorted by name. Raises UsageError if it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot list the folder {_name(folder)}: {why(error)}") from None


def refuse_special(path: Path) -> None:
    """Raise UsageError unless this is a regular file: a pipe can block, and a device need not end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {why(error)}") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: {'is a folder' if stat.S_ISDIR(mode) else 'is no regular file'}")


@contextlib.contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[IO[bytes]]:
    """Replace a file atomically: the body writes a new file, which is flushed to the disk and then renamed.

    At any moment ``path`` is whole: the old file or the new one. If the body raises, the old one stays.
    ``partial`` is the new file's name until then; by default a hidden file beside ``path``, of this call
    alone, since processes of other machines write too. Raises OSError if the disk does not take the file.
    """
    partial = partial or path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        with partial.open("w+b") as file:
            yield file
            flush(file)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    flush_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Replace a file by one with these bytes, as ``replacing`` does."""
    with replacing(path) as file:
        file.write(data)


def keep_checked(path: Path, text: str) -> None:
    """Write a text of the cache with its checksum; a cache that cannot be written keeps nothing."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n".encode())


def read_checked(path: Path) -> str | None:
    """Return a text that ``keep_checked`` wrote; None if there is none, or if the file was changed."""
    if not is_file(path):
        return None
    try:
        checksum, _, text = read_text(path).removesuffix("\n").partition("\n")
    except UsageError:
        return None
    return text if checksum == hashlib.sha256(text.encode()).hexdigest() else None


def flush(file: IO[bytes]) -> None:
    """Flush an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, so that a rename survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(path: Path) -> str:
    return shown(str(path), 300)


def why(error: Exception) -> str:
    """Return the reason of a failed file operation, without the file's name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def move_reference(text: str, start: Path, end: Path) -> str:
    """Rename ``file.py:Class``, given relative to folder ``start``, relative to ``end``; keep other texts.

    A file outside the working folder gets its absolute path, unless it is written into a sweep's own file,
    which may be moved together with its neighbours.
    """
    file, colon, rest = text.partition(":")
    if not file.endswith(".py") or Path(file).is_absolute():
        return text
    whole = os.path.normpath(Path.cwd() / start / file)
    if end == Path() and not Path(whole).is_relative_to(Path.cwd()):
        return f"{whole}{colon}{rest}"
    return f"{os.path.relpath(whole, Path.cwd() / end)}{colon}{rest}"


def size(count: int) -> str:
    """Return a number of bytes with a unit, for limits in messages, which are whole numbers of a unit."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power and count % (1 << power) == 0:
            return f"{count >> power} {unit}"
    return f"{count} bytes"


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises UsageError with the file's name and the reason."""
    return parse_toml(read_text(path), str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the tables of a TOML text. Raises UsageError with the reason; ``where`` names the text in it."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        lines = text.split("\n")
        end = f"at line {len(lines)}, column {len(lines[-1]) + 1}, the end of the file"
        reason = str(error).replace("at end of document", end)
        raise UsageError(f"{where}: not valid TOML: {reason}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{where}: cannot be read as TOML: {reason}") from None
