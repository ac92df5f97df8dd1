"""Paths of mechanisms: from the folder in which they were written to the root of the repository."""

from __future__ import annotations

import os
from pathlib import Path


def from_root(text: str, folder: Path, root: Path) -> str:
    """Return ``path/to/file.py:Class:k=64`` with its path relative to ``root`` instead of ``folder``.

    It then names the same place in every tree of the repository. A path outside of ``root`` becomes absolute;
    a text that names no file is returned unchanged. Symbolic links inside ``root`` keep their names, since a
    link may have another target in another revision; those on the way to ``root`` are followed.
    """
    path, colon, rest = text.partition(":")
    if not path.endswith(".py"):
        return text
    return _relative(folder / path, root) + colon + rest


def inside(folder: Path, root: Path) -> str:
    """Return a folder relative to ``root``; "" for ``root`` itself and for a folder outside of it."""
    place = _relative(folder, root)
    return "" if os.path.isabs(place) or place == "." else place


def _relative(path: Path, root: Path) -> str:
    plain, home = Path(os.path.normpath(path)), root.resolve()
    # as written, relative to the first of its parents that is the root
    within = [plain.relative_to(top) for top in (plain, *plain.parents) if top.resolve() == home][-1:]
    followed = path.parent.resolve() / path.name  # where ".." leads if there is a link before it
    within += [followed.relative_to(home)] if followed.is_relative_to(home) else []
    there = [place for place in within if (root / place).exists()]
    return (there or within or [plain])[0].as_posix()
