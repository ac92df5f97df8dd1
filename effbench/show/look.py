"""The look that all plots share: a mechanism's colour and marker, captions, ticks, marks of failures."""

from __future__ import annotations

import textwrap
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.records.analyse.pairs import several_hosts
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.tables import compiled_in_words, each_row, labels, what_was_measured

# Okabe and Ito's colours without the yellow, which is too light for a line; markers and dashes carry the
# same information in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
)
GREY = "#666666"
TITLE_CHARACTERS_PER_INCH = 13
LABEL_POINTS = 8.0  # the size of a label's letters
LABEL_WIDTH = 24  # characters, before a label goes on in another line
RC: dict[Any, Any] = {
    "svg.hashsalt": "effbench",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}

Style = dict[str, Any]


class NothingToDraw(UsageError):
    """The records lack what a kind of plot needs; the message says what."""


# Mechanisms that look the same in every plot, whatever else it shows: each has its own place in the cycles
# of colours, markers and dashes.
PLACES = (
    "vanilla", "fastformer", "linformer", "longformer", "bigbird", "linear", "poolingformer", "performer",
    "cosformer", "nystromformer", "luna", "fnet",
    "retention", "gla", "deltanet", "mamba2", "sinks", "hyena",
)  # fmt: skip
_LOOKS = len(COLOURS) * len(MARKERS) * len(DASHES)


def looks(frame: pd.DataFrame, more: Iterable[str] = ()) -> dict[str, Style]:
    """Return the look of each mechanism of a frame, and of ``more`` labels.

    A mechanism of ``PLACES`` has its own look, with options too if no other row has its name. The look of any
    other label comes from a hash of its text, and is moved on only if another label of the frame has that
    colour already and a colour is free.
    """
    names = set(labels(frame)) | set(more)
    kin = Counter(name.partition(":")[0] for name in names)
    own = {
        name: name.partition(":")[0] for name in names if name in PLACES or kin[name.partition(":")[0]] == 1
    }
    places = {name: PLACES.index(first) for name, first in own.items() if first in PLACES}
    for name in sorted(names - set(places)):
        start = zlib.crc32(name.encode()) % _LOOKS
        colours = {place % len(COLOURS) for place in places.values()}
        free = [
            place
            for step in range(_LOOKS)
            if (place := (start + step) % _LOOKS) >= len(PLACES) and place not in places.values()
        ]
        apart = [place for place in free if place % len(COLOURS) not in colours]
        places[name] = (apart or free)[0]
    return {
        name: {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": DASHES[place % len(DASHES)],
        }
        for name, place in places.items()
    }


def set_title(figure: Figure, shape: Mapping[str, Any], note: str) -> None:
    """Set a title with the subject, the machine, the shape and a note, wrapped to the figure's width."""
    subject = str(shape["task"]).replace(",", ", ") if "task" in shape else what_was_measured(shape)
    model = f"{plural(int(shape['layers']), 'block')}, " if "task" in shape else ""
    heads = f"{shape['heads']} head{'' if str(shape['heads']) == '1' else 's'}"
    second = (
        f"{model}batch {shape['batch_size']}, d_model {shape['d_model']}, {heads}, "
        f"{shape['dtype']}, {shape['device']}, {plural(int(shape['threads']), 'thread')}, "
        f"{shape['allocator']} allocator{compiled_in_words(shape)}"
    )
    lines = filter(None, [f"{subject} on {shape['machine']}", second, note])
    width = int(figure.get_figwidth() * TITLE_CHARACTERS_PER_INCH)
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in lines), fontsize=9)


def hosts_note(rows: pd.DataFrame) -> str:
    """A caption's note if the times of these rows come from several hosts, empty if not."""
    hosts = several_hosts(rows)
    return f"measured on {hosts} of equal hardware" if hosts else ""


def span(values: Iterable[float]) -> str:
    """``64`` if all values are equal, ``64 to 512`` otherwise."""
    low, high = min(values := list(values)), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def percent(value: float, _: object = None) -> str:
    """Format a share as a tick label in per cent, with as many digits as it needs."""
    return f"{round(100 * value, 6):g} %"


def minor_tick(value: float) -> str:
    """Format the minor ticks 2 and 5 of a decade, so that a narrow logarithmic axis has tick labels."""
    digit = round(value / 10 ** np.floor(np.log10(value)))
    return units.count(value) if digit in (2, 5) else ""


def _ticks_apart(values: Sequence[int]) -> list[int]:
    """Return the values without those whose labels would touch the one before on a logarithmic axis."""
    kept = [values[0]]
    for n in values[1:]:
        if n / kept[-1] >= (values[-1] / values[0]) ** 0.08:
            kept.append(n)
    return kept


def set_length_axis(
    axes: Axes, lengths: Sequence[int], *, margin: float = 1.25, items: str = "tokens"
) -> None:
    """Make x a logarithmic axis of length with ticks at these lengths, in increasing order.

    ``items`` says what a length counts, ``tokens`` of a sequence or ``clicks`` of a history.
    """
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(_ticks_apart(lengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.length(value)))
    axes.set_xlabel(f"{'history' if items == 'clicks' else 'sequence'} length N ({items})")
    axes.set_xlim(lengths[0] / margin, lengths[-1] * margin)


def mark_failures(
    axes: Axes, rows: pd.DataFrame, column: str, styles: Mapping[str, Style], *, x: str = "seq_len"
) -> set[str]:
    """Draw an x at the upper edge for each row that failed and has no value; return their statuses."""
    statuses: set[str] = set()
    failed = rows[~rows["status"].isin(["ok", "interrupted"]) & rows[column].isna()]
    for at, group in failed.groupby(x):
        for place, row in enumerate(each_row(group)):
            statuses.add(str(row.status))
            axes.plot(
                float(at) * 1.09 ** (place - (len(group) - 1) / 2), 0.985, marker="x", markersize=6,
                markeredgewidth=1.6, linestyle="none", transform=axes.get_xaxis_transform(), clip_on=False,
                color=styles[label(row.mechanism, row.options)]["color"], gid=f"failed-{row.status}",
            )  # fmt: skip
    return statuses


def failures_note(statuses: Iterable[str]) -> str:
    """A caption's explanation of the x marks, empty if there are none."""
    return f"x at the upper edge: failed ({', '.join(sorted(statuses))})" if statuses else ""


def wrapped(name: str, width: int = LABEL_WIDTH) -> str:
    """Break a name longer than ``width`` into lines, after its colons, commas and spaces if it has any."""
    if len(name) <= width:
        return name
    pieces = name.replace(":", ":\0").replace(",", ",\0").replace(" ", " \0").split("\0")
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
