"""A plot of one's own: time per token against sequence length, with 95 % confidence intervals.

    python docs/examples/plot.py results/reference/quick time_per_token.png

`effbench.load(folder)` returns one row per configuration; docs/results.md lists the columns. To make this
a kind of `effbench plot`, move the file to effbench/show/plots/ and add one line to KINDS there.
"""

import sys

import pandas as pd
from matplotlib.figure import Figure

import effbench


def draw(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    """Draw one figure from the configurations (``frame``); ``raw`` has one row per record."""
    timed = frame[(frame["mode"] == "forward") & frame["time_s"].notna()].sort_values("seq_len")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (mechanism, options), rows in timed.groupby(["mechanism", "options"]):
        microseconds = 1e6 / (rows["batch_size"] * rows["seq_len"])  # per token
        below = rows["time_s"] - rows["time_low_s"]
        above = rows["time_high_s"] - rows["time_s"]
        axes.errorbar(rows["seq_len"], microseconds * rows["time_s"], label=f"{mechanism} {options}".strip(),
                      yerr=[microseconds * below, microseconds * above], capsize=2)  # fmt: skip
    axes.set(yscale="log", xlabel="sequence length (tokens)", ylabel="time per token (µs)")
    axes.set_xscale("log", base=2)
    lengths = timed["seq_len"].unique()
    axes.set_xticks(lengths, lengths)
    figure.legend(loc="outside right upper")
    return [figure]


if __name__ == "__main__":
    folder, path = sys.argv[1:]
    (figure,) = draw(effbench.load(folder), effbench.load(folder, raw=True))
    figure.savefig(path)
