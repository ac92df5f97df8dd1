"""Times, their ratios and memory at one length: measured, or interpolated between measured lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from effbench.common.spec import UsageError
from effbench.records.analyse.load import comparable
from effbench.records.analyse.pairs import Pair, Samples, by_pair, on_one_host
from effbench.records.analyse.summary import IDENTITY, ORIGIN, label, summarise
from effbench.records.analyse.uncertainty import Interval, Noise, noises, ratio_interval

# The times and bytes of a configuration come from these; another probe that failed does not concern a choice.
PROBES = ("time", "memory")
_ROW = [*IDENTITY, *ORIGIN]


def costs(raw: pd.DataFrame, mode: str) -> pd.DataFrame:
    """Return the summary of the times and memory of a mode, folder by folder, with ``label`` and ``folder``.

    ``memory_bytes`` is the peak of a call; of ``decode``, that of a step and the state that it extends.
    """
    own = raw[raw["probe"].isin(PROBES) & (raw["task"] == "")]
    tables = [summarise(group).assign(folder=folder) for folder, group in _by_folder(own)]
    rows = pd.concat(tables, ignore_index=True) if tables else summarise(own).assign(folder="")
    rows = rows[rows["mode"] == mode]
    memory = rows["peak_bytes"] + (rows["state_bytes"] if mode == "decode" else 0)
    names = [label(m, o) for m, o in zip(rows["mechanism"], rows["options"], strict=True)]
    return rows.assign(label=names, memory_bytes=memory.astype(float))


def _by_folder(raw: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if "folder" not in raw:
        return [("", raw)] if len(raw) else []
    return [(str(folder), group) for folder, group in raw.groupby("folder", sort=False)]


@dataclass(frozen=True, kw_only=True)
class AtLength:
    """The costs of the rows of one setting at one length.

    ``weights`` maps each measured length that the costs come from to its weight: one length has the weight 1,
    two neighbours those of a linear interpolation in the logarithms. ``rows`` are those of ``costs`` at these
    lengths, ``samples`` the times by (label, length) and pair, ``noise`` that of each folder's times.
    """

    rows: pd.DataFrame
    weights: Mapping[int, float]
    samples: Mapping[tuple[str, int], Mapping[Pair, Samples]]
    noise: Mapping[str, Noise]

    @classmethod
    def of(cls, rows: pd.DataFrame, raw: pd.DataFrame, seq_len: int) -> AtLength:
        """Take ``rows`` of one setting, measured at ``seq_len`` or on both sides of it, and their records.

        Raises UsageError if a configuration was measured twice.
        """
        lengths = sorted(int(n) for n in set(rows["seq_len"]))
        weights = {seq_len: 1.0}
        if seq_len not in lengths:
            low = max(n for n in lengths if n < seq_len)
            high = min(n for n in lengths if n > seq_len)
            upper = math.log(seq_len / low) / math.log(high / low)
            weights = {low: 1 - upper, high: upper}
        rows = rows[rows["seq_len"].isin(list(weights))]
        _refuse_twice(rows)
        samples: dict[tuple[str, int], Mapping[Pair, Samples]] = {}
        noise = {}
        machine = str(rows["machine"].iloc[0])
        for folder, group in _by_folder(raw[(raw["probe"] == "time") & (raw["status"] == "ok")]):
            times = comparable(group)
            noise[folder] = noises(times).get(machine, Noise())
            own = rows[rows["folder"] == folder]
            mine_only = times.merge(own[[*_ROW, "label"]], on=_ROW)
            for key, mine in mine_only.groupby(["label", "seq_len"]):
                samples[key] = by_pair(mine)
        return cls(rows=rows, weights=weights, samples=samples, noise=noise)

    def of_label(self, name: str) -> dict[str, Any]:
        """Return the costs of a label as a row; ``why`` says why it has none, else there is no ``why``."""
        mine = self.rows[self.rows["label"] == name].set_index("seq_len")
        missing = [n for n in self.weights if n not in mine.index]
        row: dict[str, Any] = {"label": name}
        if missing:
            return row | {"why": f"not measured at {' and '.join(map(str, missing))}"}
        own = [mine.loc[n] for n in self.weights]
        row |= {"mechanism": own[0]["mechanism"], "options": own[0]["options"], "status": "ok"}
        for n, measured in zip(self.weights, own, strict=True):
            if measured["status"] != "ok":
                why = f"{measured['status']} at {n}: {measured['reason']}"
                return row | {"status": measured["status"], "why": why}
        weights = list(self.weights.values())
        times = [tuple(m[["time_s", "time_low_s", "time_high_s"]].astype(float)) for m in own]
        if any(math.isnan(time) for time, *_ in times):
            return row | {"why": "its time was not measured"}
        time_s, low, high = _interpolated(times, weights)
        sizes = [float(m["memory_bytes"]) for m in own]
        memory, *_ = _interpolated([(size, size, size) for size in sizes], weights)
        texts = {
            at: "; ".join(dict.fromkeys(str(m[at]) for m in own if isinstance(m[at], str) and m[at]))
            for at in ("memory_left_out", "time_interval")
        }
        noisy = {n: m["noisy"] for n, m in zip(self.weights, own, strict=True) if isinstance(m["noisy"], str)}
        texts["noisy"] = "; ".join(
            f"at {n}: {why}" if len(own) > 1 else why for n, why in noisy.items() if why
        )
        numbers = {"time_s": time_s, "time_low_s": low, "time_high_s": high, "memory_bytes": memory}
        numbers |= {"memory_low_bytes": min(sizes), "memory_high_bytes": max(sizes)}
        return row | texts | numbers | {"folder": "; ".join(dict.fromkeys(m["folder"] for m in own))}

    def ratio(self, ours: str, theirs: str) -> Interval:
        """Return the time of one label over that of another with its interval, as ``ratio_interval`` does.

        Times of two folders share no repeats: the interval then has the ends of their two intervals, and
        without a common host all is NaN.
        Interpolated, it has the relative width of the wider of the neighbours' intervals.
        """
        if ours == theirs:
            return 1.0, 1.0, 1.0
        return _interpolated(
            [self._ratio_at(ours, theirs, n) for n in self.weights], list(self.weights.values())
        )

    def _ratio_at(self, ours: str, theirs: str, n: int) -> Interval:
        at = self.rows[self.rows["seq_len"] == n].set_index("label")
        a, b = at.loc[ours], at.loc[theirs]
        if a["folder"] == b["folder"]:
            return ratio_interval(self.samples[ours, n], self.samples[theirs, n], self.noise[a["folder"]])
        if not on_one_host((a["hosts"], b["hosts"])):
            return math.nan, math.nan, math.nan
        low, high = a["time_low_s"] / b["time_high_s"], a["time_high_s"] / b["time_low_s"]
        return float(a["time_s"] / b["time_s"]), float(low), float(high)

    def together(self, names: Sequence[str]) -> bool:
        """True if all these labels were measured in one folder."""
        return bool(self.rows.loc[self.rows["label"].isin(list(names)), "folder"].nunique() == 1)


def _refuse_twice(rows: pd.DataFrame) -> None:
    twice = rows[rows.duplicated(["label", "seq_len"])]
    if len(twice):
        row = twice.iloc[0]
        raise UsageError(
            f"{row['label']} at {row['seq_len']} was measured more than once, in several folders or with "
            "several versions of the code: name folders that hold each configuration once"
        )


def _interpolated(intervals: Sequence[Interval], weights: Sequence[float]) -> Interval:
    """Return the weighted geometric mean of centers; it is as wide, relatively, as the widest interval."""
    if len(intervals) == 1:
        return intervals[0]
    if any(center <= 0 for center, *_ in intervals):  # no logarithm
        return math.nan, math.nan, math.nan
    center = math.exp(sum(w * math.log(i[0]) for w, i in zip(weights, intervals, strict=True)))
    halves = [math.log(high / low) / 2 for _, low, high in intervals]
    half = math.nan if any(map(math.isnan, halves)) else max(halves)
    return center, center * math.exp(-half), center * math.exp(half)
