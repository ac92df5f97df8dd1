"""Roofline plot: achieved FLOP/s against arithmetic intensity, below this machine's measured limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from effbench.show import units
from effbench.show.look import NothingToDraw, hosts_note, minor_tick
from effbench.show.palette import Style, looks
from effbench.show.plots.sheet import Sheet, set_title
from effbench.show.tables import SHAPE, by_label, of_shape


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """One figure per shape and machine. Raises NothingToDraw."""
    keys = [*SHAPE, "machine"]
    styles = looks(frame)
    figures = []
    for key, rows in frame[(frame["task"] == "") & (frame["mode"] != "decode")].groupby(keys, sort=False):
        if rows["roof_share"].notna().any():
            shape = dict(zip(keys, key, strict=True))
            known = rows[rows["roof_share"].notna()]
            figures.append(_figure(known, of_shape(raw, shape), shape, styles))
    if not figures:
        raise NothingToDraw("there is nothing to draw for roofline: no row has a value of roof_share")
    return figures


def _figure(
    known: pd.DataFrame, raw: pd.DataFrame, shape: dict[str, Any], styles: dict[str, Style]
) -> Figure:
    modes = [mode for mode in ("forward", "train") if mode in set(known["mode"])]
    ceiling = raw[raw["peak_flops_per_s"].notna()].iloc[0]
    peak = float(ceiling["peak_flops_per_s"])
    slopes = {
        units.size(size): float(speed)
        for size, speed in zip(
            ceiling["samples_bandwidth_at_bytes"], ceiling["samples_bandwidth_bytes_per_s"], strict=True
        )
    }
    fastest, memory = max(slopes, key=lambda size: slopes[size]), list(slopes)[-1]
    first = min(known["arithmetic_intensity"].min() / 2, 0.5 * peak / slopes[fastest])
    last = known["arithmetic_intensity"].max() * 3
    figure = Sheet(len(modes), wide=5.0, tall=2.7, share=("all", "all"))
    for axes, mode in zip(figure.panels, modes, strict=True):
        intensity = np.geomspace(first, last, 100)
        for size, dash in ((fastest, ":"), (memory, "--")):
            roof = np.minimum(peak, intensity * slopes[size])
            axes.plot(intensity, roof, color="#666666", linestyle=dash, linewidth=1.1,
                      label=f"limit: {units.count(slopes[size], 'B')}/s at {size} of data")  # fmt: skip
        for name, rows in by_label(known):
            mine = rows[rows["mode"] == mode].sort_values("seq_len")
            axes.plot(mine["arithmetic_intensity"], mine["flops_per_s"], label=name, linewidth=0.7,
                      **styles[name])  # fmt: skip
            longest = mine.iloc[-1:]
            axes.plot(longest["arithmetic_intensity"], longest["flops_per_s"], markersize=6.5,
                      markeredgecolor="black", markeredgewidth=1.1, **styles[name])  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(known["flops_per_s"].min() / 2, max(peak, known["flops_per_s"].max()) * 1.5)
        axes.set_title(mode)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: minor_tick(value)))
    for axes in figure.left:
        axes.set_ylabel("achieved FLOP/s")
    for axes in figure.lowest:
        axes.set_xlabel("arithmetic intensity (FLOP per byte moved)")
    figure.legend_below(figure.panels[0].get_legend_handles_labels()[0])
    limits = f"grey: measured limits of this machine ({units.count(peak, 'FLOP')}/s and bandwidth)"
    most = units.length(known["seq_len"].max())
    edge = f"black edge: longest length of a series (at most {most})"
    set_title(figure, shape, "; ".join(filter(None, [limits, edge, hosts_note(known)])))
    return figure
