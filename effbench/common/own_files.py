"""The files that a module consists of: its own, and those of its package or folder that it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from effbench.common import files
from effbench.common.class_source import Module

__all__ = ["forget_files", "own_files"]


@cache  # a plan asks for every cell
def own_files(path: Path, module: str, among: frozenset[Path] | None = None) -> tuple[Path, ...]:
    """The file of a module, and the files of its top-level package that it or one of them imports.

    ``module`` is the dotted name, or the file as the user gave it: such a file can import its neighbours, as
    a script can, and they are found in the same way. Imports inside functions count, and the ``__init__.py``
    of each package on the way. A module whose name is computed while the program runs is not found. A file
    that cannot be parsed imports nothing. ``among``, if given, holds the only imported files that count.
    """
    if module.endswith(".py"):
        home, top, own = path.parent, "", path.stem
    elif "." not in module and path.stem != "__init__":
        return (path,)  # its neighbours are everything on the path
    else:
        # the package's folder, which may have another name than the package where it was installed from
        depth = module.count(".") - (path.stem != "__init__")
        home, top, own = path.parents[depth], module.partition(".")[0], module
    found = {path}
    left = [(path, own)]
    while left:
        for name in _imported(*left.pop()):
            if top and name.partition(".")[0] != top:
                continue
            for file, dotted in _on_the_way(home, top, name):
                if file not in found and (among is None or file in among):
                    found.add(file)
                    left.append((file, dotted))
    return tuple(sorted(found))


def forget_files() -> None:
    """Read the files again when they are asked for: they may have changed."""
    own_files.cache_clear()
    _imported.cache_clear()


@cache
def _imported(path: Path, module: str) -> frozenset[str]:
    """The dotted names that a file may import, and its own; ``from a import b`` gives a.b, module or not."""
    names = {module}
    try:
        parsed = Module.parse(path, module)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return frozenset(names)
    for node in ast.walk(parsed.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = parsed.absolute(node)
            names |= {f"{source}.{alias.name}" if source else alias.name for alias in node.names}
    return frozenset(names)


def _on_the_way(home: Path, top: str, name: str) -> Iterator[tuple[Path, str]]:
    """The files that ``import name`` runs in ``home``, the folder of ``top``, with their dotted names."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        place, dotted = home.joinpath(*parts[bool(top) : depth]), ".".join(parts[:depth])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if files.is_file(file):
                yield file, dotted
                break
        else:
            if not files.is_dir(place):
                return
