"""``effbench plot``: draw results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from effbench.cli.options import Folders, one_of, value
from effbench.cli.printing import load_both
from effbench.common.spec import UsageError
from effbench.show import plots

if TYPE_CHECKING:
    from pandas import DataFrame


def plot(
    folders: Folders,
    kind: Annotated[
        str | None,
        value(
            "KIND,...",
            f"{', '.join(plots.KINDS)}. Default: all.",
        ),
    ] = None,
    out: Annotated[
        Path | None, value("FILE|DIR", "Folder, or file of a single plot. Default: DIR/plots.")
    ] = None,
    format: Annotated[
        str, value("FORMAT", "png, svg or pdf; the suffix of a file takes precedence.")
    ] = "png",
) -> None:
    """Draw plots: cost against length, accuracies, and accuracy against speed and memory."""
    kinds = tuple(kind.split(",")) if kind else None
    for name in kinds or ():
        one_of("kind", name, plots.KINDS)
    summary, raw = load_both(folders)
    if raw.empty:
        print("no results")
        return
    for path in draw(summary, raw, out or folders[0] / "plots", kinds, format):
        print(path)


def draw(
    summary: DataFrame,
    raw: DataFrame,
    out: Path,
    kinds: tuple[str, ...] | None = None,
    format: str = "png",
) -> list[Path]:
    """Draw the kinds, or all that the data allows, and return the files.

    ``out`` is a folder, or the file of a single plot.
    """
    if out.suffix:
        if kinds is None or len(kinds) != 1:
            raise UsageError(f"{str(out)!r} is one file: name the one --kind to draw")
        figures = plots.draw(summary, raw, kinds[0])
        if len(figures) != 1:
            raise UsageError(f"{kinds[0]} has {len(figures)} plots, one per shape: give a folder as --out")
        return [plots.save(figures[0][1], out)]
    figures = (
        [pair for name in kinds for pair in plots.draw(summary, raw, name)]
        if kinds
        else plots.draw_all(summary, raw)
    )
    return [plots.save(figure, out / f"{name}.{format}") for name, figure in figures]
