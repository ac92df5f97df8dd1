"""Reading results folders and printing tables, as several commands do it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.show.terminal import width_for_sentences

if TYPE_CHECKING:
    from pandas import DataFrame

    from effbench.show.blocks import Block


def console() -> Any:
    """Return a console that breaks sentences at the width of the terminal."""
    from rich.console import Console

    return Console(width=width_for_sentences(), highlight=False)


def print_blocks(tables: list[Block], format: str) -> None:
    """Print blocks of tables in one of the formats of ``effbench show``."""
    from effbench.show import blocks

    if format == "table":
        console().print(blocks.renderable(tables))
    else:
        print(blocks.as_text(tables, format).rstrip("\n"))


def load_raw(folders: list[Path]) -> DataFrame:
    """Return the records of results folders, one per row, and warn of files that cannot be read."""
    import warnings

    from effbench.records.store import load

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = load(folders, raw=True)
    for warning in caught:
        print(f"effbench: {warning.message}", file=sys.stderr)
    return frame


def load_both(folders: list[Path]) -> tuple[DataFrame, DataFrame]:
    """Return the configurations of results folders, one per row, and their records, one per row."""
    import warnings

    from effbench.records.analyse.summary import summarise
    from effbench.records.store import load

    raw = load_raw(folders)
    if len(folders) == 1:
        return summarise(raw), raw
    with warnings.catch_warnings():  # load_raw has printed them
        warnings.simplefilter("ignore")
        return load(folders), raw
