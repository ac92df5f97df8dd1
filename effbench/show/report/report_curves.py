"""The data of the cost charts: each mechanism's costs at each length with intervals, and ratios of times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from effbench.common.wording import plural
from effbench.records.analyse.load import comparable
from effbench.records.analyse.pairs import Pair, by_pair
from effbench.records.analyse.summary import label
from effbench.records.analyse.uncertainty import Interval, Noise, medians, noises, ratio_interval
from effbench.show.report.report_legend import Legend
from effbench.show.report.report_sources import Source
from effbench.show.report.report_text import known, numbers
from effbench.show.tables import (
    SHAPE,
    compiled_in_words,
    items_in_words,
    of_shape,
    what_was_measured,
)

MODES = ("forward", "train", "decode")
# Column -> (words, words in mode decode, unit of the charts' axes). The first is what a chart shows at first.
METRICS: Mapping[str, tuple[str, str, str]] = {
    "time_s": ("time per call", "time of a step", "s"),
    "tokens_per_s": ("tokens per second", "tokens per second", "per_s"),
    "peak_bytes": ("peak memory", "peak memory of a step beside the state", "bytes"),
    "saved_bytes": ("memory kept for backward", "memory kept for backward", "bytes"),
    "flops": ("FLOPs per call", "FLOPs of a step", "flops"),
    "state_bytes": ("state", "state after N tokens", "bytes"),
    "prefill_s": ("time to read the tokens before", "time to read the N tokens before", "s"),
    "energy_j": ("energy per call", "energy of a step", "J"),
}
_TIMED = ("time_s", "tokens_per_s")
Samples = dict[Pair, list[float]]  # the median of each pair, as the only sample


@dataclass(frozen=True, kw_only=True)
class CostPanel:
    """A chart of costs: the columns that its rows have in common, and its data for the page."""

    shape: Mapping[str, Any]
    data: dict[str, Any]


def cost_panels(source: Source, legend: Legend) -> list[CostPanel]:
    """Return a chart per shape: title, and for each mode its series and the ratios of every pair of times.

    A series has the number of its mechanism, its code if there are several, lengths, values by metric, the
    interval of the time, and for each point its status, the reason, and why it is noisy.
    """
    cost = source.frame[source.frame["task"] == ""]
    times = source.raw[(source.raw["probe"] == "time") & (source.raw["status"] == "ok")]
    times = comparable(times[times["task"] == ""])
    noise = noises(times).get(source.machine, Noise()) if len(times) else Noise()
    panels = []
    for shape, rows in shapes(cost):
        mine = of_shape(times, shape)
        data = {
            "source": source.number,
            "title": what_was_measured(shape),
            "shape": shape_in_words(shape),
            "items": items_in_words(shape),
            "modes": {
                mode: _mode(rows[rows["mode"] == mode], mine[mine["mode"] == mode], noise, legend)
                for mode in MODES
                if (rows["mode"] == mode).any()
            },
        }
        panels.append(CostPanel(shape=shape, data=data))
    return panels


def shapes(cost: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return (shape, its rows) of the rows of costs.

    At a constant number of tokens per batch, all batch sizes are one shape, which then has no batch size:
    only together they have several lengths.
    """
    tokens = (cost["batch_size"] * cost["seq_len"]).nunique()
    constant = cost["batch_size"].nunique() > 1 and tokens == 1
    keys = [name for name in SHAPE if not (constant and name == "batch_size")]
    return [(dict(zip(keys, key, strict=True)), rows) for key, rows in cost.groupby(keys, sort=False)]


def shape_in_words(shape: Mapping[str, Any]) -> str:
    """Return ``batch 1, d_model 256, 16 heads, ...``: the shape of a call, without its scope."""
    batch = f"batch {shape['batch_size']}" if "batch_size" in shape else "batch size by length"
    return (
        f"{batch}, d_model {shape['d_model']}, {plural(int(shape['heads']), 'head')}, "
        f"{shape['dtype']}, {shape['device']}, {plural(int(shape['threads']), 'thread')}, "
        f"{shape['allocator']} allocator{compiled_in_words(shape)}"
    )


def _mode(rows: pd.DataFrame, times: pd.DataFrame, noise: Noise, legend: Legend) -> dict[str, Any]:
    series, samples = [], []
    own = {
        key: medians(by_pair(group))
        for key, group in times.groupby(["mechanism", "options", "code", "seq_len"])
    }
    codes = rows.groupby(["mechanism", "options"])["code"].nunique()
    for (mechanism, options, code), group in rows.groupby(["mechanism", "options", "code"], sort=False):
        several = {"code": code} if codes[mechanism, options] > 1 else {}
        group = group.drop_duplicates("seq_len").sort_values("seq_len")
        series.append({"mechanism": legend.place(label(mechanism, options)), **several, **_series(group)})
        samples.append({int(n): own.get((mechanism, options, code, n), {}) for n in group["seq_len"]})
    ratios = {}
    for first, second in itertools.combinations(range(len(series)), 2):
        pairs = pair_ratios(samples[first], samples[second], noise)
        if pairs:
            ratios[f"{first},{second}"] = [
                list(pairs),
                *(numbers(part) for part in zip(*pairs.values(), strict=True)),
            ]
    return {"series": series, "ratios": ratios}


def _series(group: pd.DataFrame) -> dict[str, Any]:
    low, high = group["time_low_s"], group["time_high_s"]
    work = group["tokens_per_s"] * group["time_s"]
    return {
        "n": [int(n) for n in group["seq_len"]],
        "values": {name: numbers(group[name]) for name in METRICS if group[name].notna().any()},
        "low": {"time_s": numbers(low), "tokens_per_s": numbers(work / high)},
        "high": {"time_s": numbers(high), "tokens_per_s": numbers(work / low)},
        "repeats": [int(n) for n in group["repeats"]],
        "status": list(group["status"]),
        "reason": [known(text) for text in group["reason"]],
        "noisy": [known(text) for text in group["noisy"]],
    }


def pair_ratios(
    ours: Mapping[int, Samples], theirs: Mapping[int, Samples], noise: Noise
) -> dict[int, Interval]:
    """Return length -> (ratio, low, high) of two mechanisms' times, ours over theirs, where both have one.

    Lengths at which the two were measured on different hosts are left out.
    """
    ratios = {
        n: ratio_interval(ours[n], theirs[n], noise)
        for n in sorted(ours.keys() & theirs.keys())
        if ours[n] and theirs[n]
    }
    return {n: interval for n, interval in ratios.items() if not math.isnan(interval[0])}
