"""Times that were measured beside the load of other processes: find them, and leave them out."""

from __future__ import annotations

import pandas as pd

from effbench.common.columns import of_role
from effbench.common.machine import crowded
from effbench.common.spec import Record

BESIDE_LOAD = "beside other load"


def is_crowded(record: Record) -> bool:
    """True if other processes competed with the record's cell for the machine's cores."""
    facts = record.machine
    return crowded(facts.get("others_cores"), record.cell.threads, facts.get("machine_cores"))


def crowded_rows(raw: pd.DataFrame) -> pd.Series:
    """Return :func:`is_crowded` of each row of the raw frame."""
    if "others_cores" not in raw or "machine_cores" not in raw:
        return pd.Series(False, index=raw.index)
    facts = zip(raw["others_cores"], raw["threads"], raw["machine_cores"], strict=True)
    return pd.Series([crowded(*of_row) for of_row in facts], index=raw.index, dtype=bool)


def undisturbed(times: pd.DataFrame) -> pd.DataFrame:
    """Return the times without those measured beside other load, for configurations that have two without.

    A configuration with fewer keeps all its times: too few would be left, and the summary marks it. Times are
    left out because of the load, never because of their value.
    """
    disturbed = crowded_rows(times)
    if not disturbed.any():
        return times
    configuration = [times[name] for name in of_role("identity", "origin")]
    quiet = (~disturbed).groupby(configuration, dropna=False).transform("sum")
    return times[~disturbed | (quiet < 2)]
