"""Changes of the machine's speed while a sweep ran, as far as the records show them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from effbench.records.analyse.load import comparable
from effbench.records.analyse.pairs import several_hosts
from effbench.records.analyse.statistics import mean_interval
from effbench.records.analyse.summary import IDENTITY, ORIGIN

# Changes above these are reported: a repeat's speed relative to the others', cores busy with other processes,
# the share of stolen time, a change of the clock within a cell.
SPEED, OTHERS_CORES, STEAL_SHARE, FREQUENCY = 0.03, 0.25, 0.02, 0.05
_FEWEST = 5  # cells of a repeat that a report is based on


def doubts(raw: pd.DataFrame) -> list[str]:
    """Return sentences about disturbances of the machine while these records were made, possibly none.

    The first one says if the times of one machine come from several hosts. A repeat of the whole grid on one
    host is slower or faster than the others if the mean, over cells, of the logarithm
    of its times, divided by the control, over the cell's own median differs from 0 by more than 3 % and its
    95 % interval excludes 0. Load by other processes, stolen time and changes of the clock are read from the
    records, if the system shows them.
    """
    return [sentence for _, group in raw.groupby("machine", sort=False) for sentence in _doubts(group)]


def _doubts(raw: pd.DataFrame) -> Iterator[str]:
    times = comparable(raw[(raw["probe"] == "time") & (raw["status"] == "ok")])
    if not times.empty:
        if hosts := several_hosts(times):
            yield (
                f"the times were measured on {hosts} of equal hardware: two times are compared only where "
                "both are of one host"
            )
        yield from _repeats(times)
    measured = raw[raw["status"] == "ok"]
    seconds = measured["seconds"].clip(lower=1e-3)
    if "others_cores" in measured:
        others = measured["others_cores"].fillna(0).astype(float)
        busy = float((others * seconds).sum() / max(1e-9, float(seconds.sum())))
        if busy > OTHERS_CORES:
            yield f"other processes kept {busy:.1f} cores busy on average while this was measured"
    if "steal_s" in measured:
        stolen = measured["steal_s"].fillna(0).astype(float).sum() / max(1e-9, float(seconds.sum()))
        if stolen > STEAL_SHARE:
            yield f"the hypervisor took {100 * stolen:.0f} % of a core away while this was measured"
    if "no_ceiling" in measured and len(reasons := measured["no_ceiling"].dropna().unique()):
        yield f"no roofline: {reasons[0]}"
    if "frequency_change" in measured:
        change = measured["frequency_change"].fillna(0).astype(float).abs()
        if (share := float((change > FREQUENCY).mean())) > 0.1:
            most = f"{100 * FREQUENCY:.0f} %"
            yield f"the clock changed by more than {most} within {100 * share:.0f} % of the cells"


def _repeats(times: pd.DataFrame) -> Iterator[str]:
    cell = times.groupby([*IDENTITY, *ORIGIN], dropna=False)["time_s"]
    relative = np.log(times["time_s"].astype(float)) - np.log(cell.transform("median").astype(float))
    relative = relative[cell.transform("size") > 1]
    several = times["host"].nunique() > 1
    for (host, repeat), group in relative.groupby([times["host"], times["repeat"]]):
        if len(group) < _FEWEST:
            continue
        mean, low, high = mean_interval(list(group))
        if abs(mean) > SPEED and low * high > 0:
            when = times.loc[group.index, "started"].astype(str).str.slice(11, 16)
            span = f"{when.min()} to {when.max()} UTC" if when.min() else "no time recorded"
            how = f"{100 * abs(np.expm1(mean)):.0f} % {'slower' if mean > 0 else 'faster'} than the others"
            where = f" on {host or 'a host that is not recorded'}" if several else ""
            yield f"repeat {int(repeat) + 1}{where} ({span}) was {how}, over {len(group)} cells"
