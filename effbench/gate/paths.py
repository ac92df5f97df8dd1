"""What a path means where it was written: mechanisms' files by their place in the repository."""

from __future__ import annotations

import os
from pathlib import Path


def from_root(text: str, folder: Path, root: Path) -> str:
    """A mechanism's text, ``path/to/file.py:Class:k=64``, its path counted from ``root`` and not ``folder``.

    The same place is found in every tree of the repository by it. A path out of ``root`` becomes absolute,
    and what names no file stays as it is. Symbolic links inside of ``root`` keep their names, since a link
    may lead elsewhere in another revision; those on the way to it are followed.
    """
    path, colon, rest = text.partition(":")
    if not path.endswith(".py"):
        return text
    return _relative(folder / path, root) + colon + rest


def inside(folder: Path, root: Path) -> str:
    """A folder's place in ``root``, "" for ``root`` itself and for a folder that is not in it."""
    place = _relative(folder, root)
    return "" if os.path.isabs(place) or place == "." else place


def _relative(path: Path, root: Path) -> str:
    plain, home = Path(os.path.normpath(path)), root.resolve()
    # as it is written, below the first folder on its way that is the root
    within = [plain.relative_to(top) for top in (plain, *plain.parents) if top.resolve() == home][-1:]
    followed = path.parent.resolve() / path.name  # where ".." leads if there is a link before it
    within += [followed.relative_to(home)] if followed.is_relative_to(home) else []
    there = [place for place in within if (root / place).exists()]
    return (there or within or [plain])[0].as_posix()
