"""Times that were taken beside other processes' work: which they are, and what is left without them."""

from __future__ import annotations

import pandas as pd

from effbench.common.columns import of_role
from effbench.common.machine import crowded
from effbench.common.spec import Record

BESIDE_LOAD = "beside other load"


def is_crowded(record: Record) -> bool:
    """Whether other processes competed with the record's cell for the machine's cores."""
    facts = record.machine
    return crowded(facts.get("others_cores"), record.cell.threads, facts.get("machine_cores"))


def crowded_rows(raw: pd.DataFrame) -> pd.Series:
    """The same of each row of the raw frame."""
    if "others_cores" not in raw or "machine_cores" not in raw:
        return pd.Series(False, index=raw.index)
    facts = zip(raw["others_cores"], raw["threads"], raw["machine_cores"], strict=True)
    return pd.Series([crowded(*each) for each in facts], index=raw.index, dtype=bool)


def undisturbed(times: pd.DataFrame) -> pd.DataFrame:
    """The times that were not taken beside other load, of each cell that has two of them.

    A cell with fewer keeps all: it is known too badly to choose among its repeats, and the summary marks it.
    What is left out is chosen by the load, never by the time.
    """
    disturbed = crowded_rows(times)
    if not disturbed.any():
        return times
    cell = [times[name] for name in of_role("identity", "origin")]
    quiet = (~disturbed).groupby(cell, dropna=False).transform("sum")
    return times[~disturbed | (quiet < 2)]
