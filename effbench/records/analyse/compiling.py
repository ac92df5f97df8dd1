"""The effect of torch.compile: the ratio of a compiled time to the time of the plain form, by repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from effbench.records.analyse.pairs import by_pair, shared_pairs
from effbench.records.analyse.uncertainty import Noise, ratio_interval

RATIO = ["compile_ratio", "compile_ratio_low", "compile_ratio_high"]


def compile_ratios(
    times: pd.DataFrame, identity: Sequence[str], noise: Mapping[str, Noise]
) -> dict[tuple[object, ...], tuple[float, float, float]]:
    """Return for each compiled configuration its time over that of the plain form, with the interval.

    ``times`` are records of time that can be compared, of every compile mode; a key are the values of
    ``identity``. A configuration whose plain form was not timed has no ratio.
    """
    if (times["compile"] == "none").all():
        return {}
    ratios: dict[tuple[object, ...], tuple[float, float, float]] = {}
    others = [name for name in [*identity, "machine"] if name != "compile"]
    for _, block in times.groupby(others, sort=False, dropna=False):
        samples = {kind: by_pair(rows) for kind, rows in block.groupby("compile", sort=False)}
        for kind in samples:
            if kind != "none" and "none" in samples and shared_pairs(samples[kind], samples["none"]):
                row = block[block["compile"] == kind].iloc[0]
                ratio = ratio_interval(samples[kind], samples["none"], noise[str(row["machine"])])
                ratios[tuple(row[list(identity)])] = ratio
    return ratios
