"""Folders that options of a plug-in name, such as that of a pre-trained encoder: checked and listed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from effbench.common import files
from effbench.common.plugin_source import Plugin
from effbench.common.spec import Option, UsageError
from effbench.common.wording import shown


def require(plugin: Plugin, options: Mapping[str, Option]) -> None:
    """Raise UsageError for a folder that is not there or lacks a file that the plug-in reads."""
    for name, folder, patterns in _named(plugin, options):
        what = f"{plugin.name}: {name}={shown(str(folder))[1:-1]}"
        if not files.is_dir(folder):
            raise UsageError(f"{what}: there is no such folder")
        for pattern in patterns:
            if not _matching(folder, pattern):
                raise UsageError(f"{what}: the folder has no file {pattern.replace('|', ' or ')}")


def read_by(plugin: Plugin, options: Mapping[str, Option]) -> tuple[Path, ...]:
    """Return the files that the plug-in reads from the folders that its options name."""
    return tuple(
        path
        for _, folder, patterns in _named(plugin, options)
        for path in sorted({path for pattern in patterns for path in _matching(folder, pattern)})
    )


def _named(plugin: Plugin, options: Mapping[str, Option]) -> list[tuple[str, Path, tuple[str, ...]]]:
    return [
        (name, Path(str(options[name])).expanduser(), patterns)
        for name, patterns in plugin.reads
        if name in options
    ]


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Return the files of the folder that match one of the patterns, which ``|`` separates."""
    if not files.is_dir(folder):
        return []
    return [path for one in pattern.split("|") for path in folder.glob(one) if files.is_file(path)]
