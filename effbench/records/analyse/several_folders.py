"""Rows of several results folders: whether they belong into one table, or each folder into its own."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from effbench.common.spec import UsageError
from effbench.records.analyse.summary import IDENTITY, label

_CONFIGURATION = [*IDENTITY, "machine"]


def repeated(frame: pd.DataFrame) -> str:
    """Return a configuration that several folders hold of one machine, in words; empty if there is none."""
    if "folder" not in frame:
        return ""
    places = frame[[*_CONFIGURATION, "folder"]].drop_duplicates()
    twice = places[places.duplicated(_CONFIGURATION)]
    if twice.empty:
        return ""
    row = twice.iloc[0]
    return f"{label(row['mechanism'], row['options'])}, {row['task'] or row['mode']}, N = {row['seq_len']}"


def refuse_repeated(frame: pd.DataFrame) -> None:
    """Raise UsageError if several folders hold one configuration, so that both would be one point."""
    if where := repeated(frame):
        raise UsageError(f"several of these folders hold {where}: give one of them at a time")


def apart(*frames: pd.DataFrame) -> list[tuple[str, Sequence[pd.DataFrame]]]:
    """Return each folder's name with its rows of the frames if a configuration is repeated in the first one.

    Otherwise all rows belong together: one pair, with an empty name.
    """
    if not repeated(frames[0]):
        return [("", frames)]
    names = dict.fromkeys(name for frame in frames for name in frame["folder"])
    return [
        (
            str(name),
            [
                frame[frame["folder"] == name].drop(columns="folder").reset_index(drop=True)
                for frame in frames
            ],
        )
        for name in names
    ]
