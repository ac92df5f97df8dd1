"""The registry of plot kinds, and how a kind is drawn and saved. A new kind is one file and one line here.

Importing this module imports neither matplotlib nor pandas: the command line reads the names of the kinds.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from effbench.common.spec import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    Draw = Callable[[pd.DataFrame, pd.DataFrame], list[Figure]]

# Name of a kind -> module:function. The function gets the summary frame and the raw frame
# (``effbench.load(folder)`` and ``effbench.load(folder, raw=True)``) and returns its figures, often one per
# shape. It raises NothingToDraw, or returns no figure, if the records lack what it needs.
KINDS: Mapping[str, str] = {
    "time": "effbench.show.plots.cost_curves:time",
    "tokens": "effbench.show.plots.cost_curves:tokens",
    "memory": "effbench.show.plots.cost_curves:memory",
    "flops": "effbench.show.plots.cost_curves:flops",
    "decode": "effbench.show.plots.decode_curves:draw",
    "prefill": "effbench.show.plots.decode_curves:against_prefill",
    "roofline": "effbench.show.plots.roofline_plot:draw",
    "accuracy": "effbench.show.plots.score_curves:draw",
    "tradeoff": "effbench.show.plots.tradeoff:draw",
    "bubble": "effbench.show.plots.bubble:draw",
    "curves": "effbench.show.plots.learning_curves:draw",
    "reliability": "effbench.show.plots.reliability:draw",
    "recall": "effbench.show.plots.recall_curves:draw",
    "state": "effbench.show.plots.state_scatter:draw",
    "generation": "effbench.show.plots.generation_curves:draw",
    "figure2": "effbench.show.plots.relative_time:draw",
    "ablation": "effbench.show.plots.ablation:draw",
}
SUFFIXES = (".png", ".svg", ".pdf")
DPI = 160
# One figure per shape, with length on an axis or as the points of a curve.
_PER_SHAPE = ("time", "tokens", "memory", "flops", "roofline", "decode", "prefill")


def draw_all(frame: pd.DataFrame, raw: pd.DataFrame, inches: float | None = None) -> list[tuple[str, Figure]]:
    """Draw every kind that the frames have data for, as (name, figure).

    At a constant number of tokens per batch each length has a batch size, and so a shape, of its own. A cost
    against length would then be one figure per length with one point in it, so these kinds are left out:
    ``figure2`` shows such a sweep.
    """
    from effbench.show.look import NothingToDraw

    drawn = []
    for kind in KINDS:
        if kind in _PER_SHAPE and _constant_tokens(frame):
            continue
        with contextlib.suppress(NothingToDraw):
            drawn += draw(frame, raw, kind, inches)
    return drawn


def draw(
    frame: pd.DataFrame, raw: pd.DataFrame, kind: str, inches: float | None = None
) -> list[tuple[str, Figure]]:
    """Draw the figures of one kind from a summary frame and its raw frame, as (name, figure).

    A name is the kind, the label of the figure if it has one, and a number if several figures would have the
    same name: ``time``, ``ablation-sharing``, ``time-2``. They are drawn for a screen, or with
    ``inches`` for a paper's column of that width, where their titles are hidden. Raises UsageError for an
    unknown kind, and NothingToDraw if the records lack what the kind needs.
    """
    if kind not in KINDS:
        raise UsageError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    from effbench.show.look import NothingToDraw
    from effbench.show.plots.sheet import Page, drawn_for, fit

    page = Page(inches)
    draw_kind: Draw = resolve_name(KINDS[kind])
    with drawn_for(page):
        figures = draw_kind(frame, raw)
        for figure in figures:
            fit(figure, page)
    if not figures:
        raise NothingToDraw(f"there is nothing to draw for {kind}")
    return _named(kind, figures)


def check_suffix(path: Path) -> None:
    """Raise UsageError if a figure cannot be saved under this file name."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{str(path)!r} does not end in {', '.join(SUFFIXES)}")


def save(figure: Figure, path: Path) -> Path:
    """Write the figure in the format of the path's suffix; equal figures give equal bytes.

    Raises UsageError for another suffix, or if the file cannot be written.
    """
    import matplotlib as mpl

    from effbench.show.look import RC

    check_suffix(path)
    metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[
        path.suffix
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(RC):
            figure.savefig(path, dpi=max(DPI, figure.dpi), metadata=metadata)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    return path


def _constant_tokens(frame: pd.DataFrame) -> bool:
    cost = frame[frame["task"] == ""]
    tokens = cost["batch_size"] * cost["seq_len"]
    return bool(cost["batch_size"].nunique() > 1 and tokens.nunique() == 1)


def _named(kind: str, figures: Sequence[Figure]) -> list[tuple[str, Figure]]:
    names = [f"{kind}-{label}" if (label := str(figure.get_label())) else kind for figure in figures]
    total, seen = Counter(names), Counter[str]()
    drawn = []
    for name, figure in zip(names, figures, strict=True):
        seen[name] += 1
        drawn.append((name if total[name] == 1 else f"{name}-{seen[name]}", figure))
    return drawn
