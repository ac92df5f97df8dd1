"""The fingerprint of the code that a number comes from: a digest of the sources that decide it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from effbench import __version__
from effbench.common import files, folders, registry
from effbench.common.own_files import forget_files, own_files
from effbench.common.plugin_source import Plugin
from effbench.common.spec import Cell

# Below the wire: what runs in the measured process. What plans, stores and shows changes no number. A folder
# stands for the files directly in it.
_MEASURING = (
    "common/machine.py",
    "measured",
    "measured/probes",
    "measured/models",
)
# In a training's process, beside the task's own file.
_PREPARING = (
    "measured/data",
    "measured/tasks",
    "common/ranking.py",
    "common/bootstrap.py",
    "common/weights.py",
)


def forget() -> None:
    """Forget what the sources were: in a notebook they change between two runs of one process."""
    for known in (_digest, _python_files, registry.find, registry.model_kind):
        known.cache_clear()
    forget_files()


def code_of(cell: Cell) -> str:
    """``version-measuring-plugin``: digests of effbench's measuring code with torch, and of the plug-ins.

    The last part covers the mechanism or recommender, the folders that its options name, the versions of the
    libraries it requires and, for accuracy, the task; and what their files import of their own packages.
    """
    model = registry.model(cell.mechanism)
    plugins = [model]
    home = Path(__file__).parents[1]
    measuring = _python_files(home, _MEASURING)
    sources = registry.sources(model)
    if cell.task:
        task = registry.find(cell.task, "task")
        plugins.append(task)
        sources += _of_task(task, home, measuring)
    libraries = " ".join(f"{name} {number}" for p in plugins for name, number in registry.versions(p).items())
    given = folders.read_by(model, cell.options)
    return f"{__version__}-{_digest(measuring, version('torch'))}-{_digest((*sources, *given), libraries)}"


def _of_task(task: Plugin, home: Path, measuring: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the files that prepare and score a training of the task.

    A task of another package may use any of effbench's: for it, all of them count.
    """
    preparing = _python_files(home, _PREPARING)
    if home in task.path.parents:
        used = own_files(task.path, task.module, frozenset(preparing + measuring))
        return tuple(path for path in used if path not in measuring)
    return registry.sources(task) + preparing


@cache
def _digest(paths: tuple[Path, ...], more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for path in paths:
        digest.update(path.name.encode() + b"\0" + files.digest(path) + b"\0")
    return digest.hexdigest()[:8]


@cache
def _python_files(home: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    found: list[Path] = []
    for place in (home / name for name in names):
        found += sorted(place.glob("*.py")) if place.is_dir() else [place]
    return tuple(found)
