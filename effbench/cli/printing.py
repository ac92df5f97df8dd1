"""Reading results folders and printing tables, as several commands do it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.show.terminal import width, width_for_sentences

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
        out = console()
        if width() is None:  # a pipe or a file: no table is cut into parts
            out.width = max(out.width, blocks.natural_width(tables))
        out.print(blocks.renderable(tables))
    else:
        print(blocks.as_text(tables, format).rstrip("\n"))


def load_raw(folders: list[Path]) -> DataFrame:
    """Return the records of results folders, one per row, and print a warning for each unreadable file."""
    from effbench.records.store import load

    with printed_warnings():
        return load(folders, raw=True)


def load_both(folders: list[Path]) -> tuple[DataFrame, DataFrame]:
    """Return the configurations of results folders, one per row, and their records, as ``load_raw`` does."""
    from effbench.records import store

    with printed_warnings():
        return store.load_both(folders)


@contextlib.contextmanager
def printed_warnings() -> Iterator[None]:
    """Print effbench's own warnings of what is done inside as lines on standard error."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if issubclass(warning.category, UserWarning):  # effbench's own, and not one of pandas or NumPy
            print(f"effbench: {warning.message}", file=sys.stderr)
