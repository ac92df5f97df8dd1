"""The sweeps that were run into a results folder: sweep.toml, sweep-2.toml, and so on, each text once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w

from effbench.common import files
from effbench.common.spec import UsageError

SWEEP_FILES = "sweep{}.toml"
_NAME = re.compile(r"sweep(?:-([1-9][0-9]{0,5}))?\.toml")
_UNFINISHED = ".sweep.part"  # one place, since the lock keeps others away
_NAMING_FILES = ("mechanism", "task")  # axes that may name a file of a plug-in, relative to the folder


def path_of(folder: Path, number: int) -> Path:
    """Return the path of the sweep of this number, from 1."""
    return folder / SWEEP_FILES.format(f"-{number}" if number > 1 else "")


def sweeps_of(folder: Path, target: Path) -> list[str]:
    """Return the texts of a folder's sweeps as they are to be written in another folder, ``target``.

    Raises UsageError if one cannot be read.
    """
    return [_moved(files.read_text(path), folder, target) for path in _numbered(folder).values()]


def keep_sweeps(folder: Path, texts: Iterable[str]) -> None:
    """Make these the sweeps of a folder, each once and sorted. Raises OSError if the disk does not take them.

    At any moment each text that was there is in some file. ``texts`` must include those of the folder, whose
    lock the caller holds.
    """
    (folder / _UNFINISHED).unlink(missing_ok=True)  # of a process that was killed
    wanted = sorted(set(texts))
    held = {number: files.read_text(path) for number, path in _numbered(folder).items()}
    for number in range(len(wanted), 0, -1):
        old, new = held.get(number), wanted[number - 1]
        if old == new:
            continue
        if old is not None and sum(text == old for text in held.values()) == 1:  # it has no other place yet
            place = max(*held, len(wanted)) + 1
            _put(folder, place, old)
            held[place] = old
        _put(folder, number, new)
        held[number] = new
    for number in held:
        if number > len(wanted):
            path_of(folder, number).unlink()


def _put(folder: Path, number: int, text: str) -> None:
    with files.replacing(path_of(folder, number), folder / _UNFINISHED) as file:
        file.write(text.encode())


def _numbered(folder: Path) -> dict[int, Path]:
    """Return the sweep files of a folder by number."""
    matches = [(_NAME.fullmatch(path.name), path) for path in files.entries(folder)]
    return {int(match[1] or 1): path for match, path in matches if match and files.is_file(path)}


def _moved(text: str, folder: Path, target: Path) -> str:
    """Return the text with the files of plug-ins named relative to ``target``; unchanged if none is named."""
    try:
        data = files.parse_toml(text, "")
    except UsageError:  # edited by hand: it stays as it is
        return text
    changed = False
    for grid in data.get("grid", []):
        for axis in _NAMING_FILES:
            if isinstance(grid, dict) and axis in grid:
                moved = _each(grid[axis], folder, target)
                changed |= moved != grid[axis]
                grid[axis] = moved
    return tomli_w.dumps(data) if changed else text


def _each(value: Any, folder: Path, target: Path) -> Any:
    if isinstance(value, list):
        return [_each(one, folder, target) for one in value]
    return files.move_reference(value, folder, target) if isinstance(value, str) else value
