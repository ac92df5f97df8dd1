"""Targets csv and parquet: the rows as ``effbench.load`` returns them."""

from __future__ import annotations

from effbench.records.table_files import as_csv, as_parquet
from effbench.show.export.selection import Selection


def csv(selection: Selection) -> bytes:
    """Return the chosen rows as CSV, without series of samples."""
    return as_csv(selection.rows)


def parquet(selection: Selection) -> bytes:
    """Return the chosen rows as Parquet, with the unit of each column; see ``as_parquet``."""
    return as_parquet(selection.rows.reset_index(drop=True))
