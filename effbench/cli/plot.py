"""``effbench plot``: draw results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from effbench.cli.options import Folders, one_of, value
from effbench.cli.printing import load_both
from effbench.common.spec import UsageError
from effbench.common.values import number
from effbench.common.wording import shown
from effbench.show import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

STYLES = ("screen", "paper")
COLUMN, NARROWEST, WIDEST = 3.3, 3.0, 7.5  # inches


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
        str | None,
        value(
            "FORMAT",
            "png, svg or pdf; the suffix of a file takes precedence. Default: png, or pdf for a paper.",
        ),
    ] = None,
    style: Annotated[
        str, value("STYLE", "screen, or paper: as wide as a column, letters of 8 points, captions printed.")
    ] = "screen",
    width: Annotated[
        str | None,
        value("INCHES", "Width of a figure for a paper: 3.3 for one column (default), 6.9 for two."),
    ] = None,
) -> None:
    """Draw plots: cost against length, accuracies, and accuracy against speed and memory."""
    kinds = tuple(kind.split(",")) if kind else None
    for name in kinds or ():
        one_of("kind", name, plots.KINDS)
    one_of("style", style, STYLES)
    if width is not None and style != "paper":
        raise UsageError(f"--width {shown(width)} is of figures for a paper: give --style paper too")
    column = COLUMN if width is None else _inches(width)
    inches = column if style == "paper" else None
    if format is not None:
        one_of("format", format, [suffix[1:] for suffix in plots.SUFFIXES])
    summary, raw = load_both(folders)
    if raw.empty:
        print("no results")
        return
    from effbench.records.analyse.several_folders import refuse_repeated

    refuse_repeated(summary)
    written = format or ("pdf" if style == "paper" else "png")
    for path, figure in draw(summary, raw, out or folders[0] / "plots", kinds, written, inches):
        print(path)
        if style == "paper":
            print(*(f"  {line}" for line in figure.get_suptitle().split("\n")), sep="\n")


def _inches(text: str) -> float:
    inches = number(text)
    if inches is None or not NARROWEST <= inches <= WIDEST:
        raise UsageError(f"--width {shown(text)} is not between {NARROWEST:g} and {WIDEST:g} inches")
    return inches


def draw(
    summary: DataFrame,
    raw: DataFrame,
    out: Path,
    kinds: tuple[str, ...] | None = None,
    format: str = "png",
    inches: float | None = None,
) -> list[tuple[Path, Figure]]:
    """Draw the kinds, or all that the data allows, and return the files with their figures.

    ``out`` is a folder, or the file of a single plot. ``inches`` is the width of a paper's column, None for
    a screen.
    """
    if out.suffix:
        if kinds is None or len(kinds) != 1:
            raise UsageError(f"{str(out)!r} is one file: name the one --kind to draw")
        figures = plots.draw(summary, raw, kinds[0], inches)
        if len(figures) != 1:
            raise UsageError(f"{kinds[0]} has {len(figures)} plots, one per shape: give a folder as --out")
        return [(plots.save(figures[0][1], out), figures[0][1])]
    figures = (
        [pair for name in kinds for pair in plots.draw(summary, raw, name, inches)]
        if kinds
        else plots.draw_all(summary, raw, inches)
    )
    return [(plots.save(figure, out / f"{name}.{format}"), figure) for name, figure in figures]
