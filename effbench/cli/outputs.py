"""Files that a command writes beside its output: checked before anything is measured."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.common.spec import UsageError

if TYPE_CHECKING:
    from effbench.gate.report import Report


def check_outputs(outputs: dict[str, Path | None]) -> None:
    """Raise UsageError for a file that could not be written; ``outputs`` are files by option name."""
    taken: dict[Path, str] = {}
    for name, path in outputs.items():
        if path is None or (name == "json" and str(path) == "-"):
            continue
        if str(path) == "-":
            raise UsageError(f"--{name} '-': only --json can be printed; name a file")
        if (other := taken.setdefault(path.absolute(), name)) != name:
            raise UsageError(f"--{name} {str(path)!r}: --{other} is written there too")
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(
                f"--{name} {str(path)!r}: {'is a folder' if path.is_dir() else 'its folder is not there'}"
            )
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise UsageError(f"--{name} {str(path)!r}: this user may not write there")
        if name == "plot":
            from effbench.show.plots import check_suffix

            check_suffix(path)


def save_forest(report: Report, path: Path | None) -> None:
    """Write the forest plot if a file is given; print a message instead if no times were compared."""
    if path is None:
        return
    if not report.comparisons:
        print(f"effbench: no times were compared, so that there is no plot {str(path)!r}", file=sys.stderr)
        return
    from effbench.show import plots
    from effbench.show.gate_plot import forest

    plots.save(forest(report), path)
