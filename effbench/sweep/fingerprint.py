"""The fingerprint of the code that a number comes from: a digest of the sources that decide it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from effbench import __version__
from effbench.common import files, folders, registry
from effbench.common.spec import Cell

# Below the wire: what runs in the measured process. What plans, stores and shows changes no number.
_MEASURING = (
    "common/machine.py",
    "measured/facts.py",
    "measured/worker.py",
    "measured/workload.py",
    "measured/mechanism.py",
    "measured/recommender.py",
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


def code_of(cell: Cell) -> str:
    """``version-measuring-plugin``: digests of effbench's measuring code with torch, and of the plug-ins.

    The last part covers the sources of the mechanism or recommender, the folders that its options name, the
    versions of the libraries it requires and, for accuracy, the task's sources, the base classes of tasks and
    the readers of data.
    """
    model = registry.model(cell.mechanism)
    plugins = [model]
    if cell.task:
        plugins.append(registry.find(cell.task, "task"))
    home = Path(__file__).parents[1]
    measuring = tuple(path for name in _MEASURING for path in _python_files(home / name))
    # absolute: digests are cached, and a relative path is another file in another working folder
    sources = tuple(path.absolute() for plugin in plugins for path in registry.sources(plugin))
    if cell.task:
        sources += tuple(path for name in _PREPARING for path in _python_files(home / name))
    libraries = " ".join(f"{name} {number}" for p in plugins for name, number in registry.versions(p).items())
    given = folders.read_by(model, cell.options)
    return f"{__version__}-{_digest(measuring, version('torch'))}-{_digest((*sources, *given), libraries)}"


@cache
def _digest(paths: tuple[Path, ...], more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for path in paths:
        digest.update(path.name.encode() + b"\0" + files.digest(path) + b"\0")
    return digest.hexdigest()[:8]


def _python_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.py")) if path.is_dir() else [path]
