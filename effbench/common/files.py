"""Files that a user names, read within a bound; whatever is wrong with one is a complaint with its name."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from effbench.common.spec import UsageError
from effbench.common.wording import shown

TEXT_BYTES = 16 * 2**20  # of a configuration or a source file


def read_bytes(path: Path, most: int = TEXT_BYTES) -> bytes:
    """The whole file. Raises UsageError for what cannot be read, and for more than ``most`` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {_name(path)}: {why(error)}") from None
    if len(content) > most:
        raise UsageError(f"cannot read {_name(path)}: it has more than {size(most)}")
    return content


def read_text(path: Path, most: int = TEXT_BYTES) -> str:
    """The whole file as UTF-8, without a byte order mark. Raises UsageError as ``read_bytes`` does, too."""
    try:
        return read_bytes(path, most).decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"cannot read {_name(path)}: byte {error.start} is not UTF-8 text ({error.reason})"
        ) from None


def is_file(path: Path) -> bool:
    """Whether there is a regular file of this name; False for what is no name, too."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_dir(path: Path) -> bool:
    """Whether there is a folder of this name; False for what is no name, too."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def entries(folder: Path) -> list[Path]:
    """What stands in a folder, sorted by name. Raises UsageError for a folder that cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot list the folder {_name(folder)}: {why(error)}") from None


def refuse_special(path: Path) -> None:
    """Raise UsageError unless this is a regular file: a pipe would be waited for, a device never ends."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {why(error)}") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: {'is a folder' if stat.S_ISDIR(mode) else 'is no regular file'}")


def _name(path: Path) -> str:
    return shown(str(path), 300)


def why(error: Exception) -> str:
    """What went wrong with a file, without its name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def size(count: int) -> str:
    """Bytes in words: the limits that complaints name are whole numbers of a unit."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power and count % (1 << power) == 0:
            return f"{count >> power} {unit}"
    return f"{count} bytes"


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UsageError with the file and what is wrong."""
    return parse_toml(read_text(path), str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text; ``where`` names it in a complaint, which is a UsageError."""
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
