"""What code a number comes from: a digest of the sources that decide it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from effbench import __version__, registry
from effbench.spec import Cell

# Below the wire: what runs in the measured process. What plans, stores and shows changes no number.
_MEASURING = ("worker.py", "mechanism.py", "machine.py", "probes", "models")


def code_of(cell: Cell) -> str:
    """``version-digest``: changes when effbench's measuring code, the mechanism, its task or torch does."""
    plugins = [registry.find(cell.mechanism, "mechanism")]
    if cell.task:
        plugins.append(registry.find(cell.task, "task"))
    return _digest(tuple(path for plugin in plugins for path in registry.sources(plugin)))


@cache
def _digest(extra: tuple[Path, ...]) -> str:
    home = Path(__file__).parent
    own = [path for name in _MEASURING for path in _python_files(home / name)]
    digest = hashlib.sha256(version("torch").encode())
    for path in (*own, *extra):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}-{digest.hexdigest()[:8]}"


def _python_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.py")) if path.is_dir() else [path]
