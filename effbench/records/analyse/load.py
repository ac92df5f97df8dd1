"""Times that can be compared: without those beside other load, and at one speed of the machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from effbench.common.columns import of_role
from effbench.common.machine import crowded
from effbench.common.spec import Record

BESIDE_LOAD = "beside other load"


def is_crowded(record: Record) -> bool:
    """True if other processes competed with the record's cell for the machine's cores."""
    facts = record.machine
    return crowded(
        facts.get("others_cores"),
        record.cell.threads,
        facts.get("machine_cores"),
        record.values.get("waited_share"),  # type: ignore[arg-type]
    )


def has_control(record: Record) -> bool:
    """True if the record has the control beside its samples; ``soundness`` checks that each has one."""
    return bool(record.samples.get("control_s"))


def crowded_rows(raw: pd.DataFrame) -> pd.Series:
    """Return :func:`is_crowded` of each row of the raw frame."""
    if "others_cores" not in raw or "machine_cores" not in raw:
        return pd.Series(False, index=raw.index)
    waited = raw["waited_share"] if "waited_share" in raw else itertools.repeat(None, len(raw))
    facts = zip(raw["others_cores"], raw["threads"], raw["machine_cores"], waited, strict=True)
    return pd.Series([crowded(*of_row) for of_row in facts], index=raw.index, dtype=bool)


def comparable(times: pd.DataFrame) -> pd.DataFrame:
    """Return the times without those beside other load, as they are in the machine's quick phases.

    Left out are times that were measured beside other load, for configurations that have two without. A
    configuration with fewer keeps all its times: too few would be left, and the summary marks it. Times are
    left out because of the load, never because of their value. The others, and ``time_s``, are scaled by the
    control: a sample is divided by the time of the control beside it and multiplied by that of a quick phase.
    """
    disturbed = crowded_rows(times)
    if disturbed.any():
        configuration = [times[name] for name in of_role("identity", "origin")]
        quiet = (~disturbed).groupby(configuration, dropna=False).transform("sum")
        times = times[~disturbed | (quiet < 2)]
    if "slowdown" not in times or times["slowdown"].isna().all():
        return times
    series = zip(times["samples_time_s"], times["samples_control_s"], strict=True)
    quick_s = times["control_s"] / times["slowdown"]
    samples = [
        scaled(own, control, quick) if isinstance(control, list) else own
        for (own, control), quick in zip(series, quick_s, strict=True)
    ]
    return times.assign(samples_time_s=samples, time_s=[float(np.median(own)) for own in samples])


def scaled(samples: Sequence[float], control: Sequence[float], quick_s: float) -> list[float]:
    """Return the samples at the speed at which the control beside them takes ``quick_s`` seconds."""
    return [sample * quick_s / beside for sample, beside in zip(samples, control, strict=True)]
