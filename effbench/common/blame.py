"""Find the line that an error comes from: the user's rather than effbench's, torch's or Python's."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from effbench.common.wording import one_line

_EFFBENCH = Path(__file__).resolve().parents[1]
_PYTHON = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_FAULT = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>\S+)')

Frame = tuple[str, int, str]  # file, line, function


def message(error: BaseException) -> str:
    """Return an error's message in one printable line, or its type's name if it has none."""
    return one_line(str(error)) or type(error).__name__


def place(error: BaseException, home: Path | None = None) -> str:
    """Return where an exception comes from, as ``mine.py:12 in forward``, or "".

    It is the innermost line that the user can correct. ``home`` is the folder of the measured code, whose
    lines are preferred to all others.
    """
    frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    return _written(_chosen(list(reversed(frames)), home))


def fault_place(log: str, home: Path | None = None) -> str:
    """Return such a line from the log of Python's fault handler, which has the innermost frame first."""
    frames = [(m["file"], int(m["line"]), m["function"]) for m in _FAULT.finditer(log)]
    return _written(_chosen(frames, home))


def _chosen(frames: Sequence[Frame], home: Path | None) -> Frame | None:
    """Return the first frame that the strictest rule accepts; ``frames`` begin with the innermost."""
    rules: list[Callable[[Path], bool]] = [
        lambda path: home is not None and path.is_relative_to(home.resolve()) and not _is_effbench(path),
        lambda path: not (_is_effbench(path) or _is_python(path) or "site-packages" in path.parts),
        lambda path: not (_is_effbench(path) or _is_python(path) or "torch" in path.parts),
        lambda path: not _is_effbench(path),
        lambda path: True,
    ]
    real = [frame for frame in frames if not frame[0].startswith("<")]
    for rule in rules:
        for frame in real:
            if rule(Path(frame[0]).resolve()):
                return frame
    return None


def _is_effbench(path: Path) -> bool:
    return path.is_relative_to(_EFFBENCH)


def _is_python(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _PYTHON) and "site-packages" not in path.parts


def _written(frame: Frame | None) -> str:
    return "" if frame is None else f"{Path(frame[0]).name}:{frame[1]} in {frame[2]}"
