"""A gate's report for a reader: a table of cells, exact figures that changed, one sentence, a forest plot."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from effbench.gate import words
from effbench.gate.report import Figure, Line, Report, Verdict
from effbench.show import units
from effbench.show.look import GREY, RC, TITLE_CHARACTERS_PER_INCH, NothingToDraw, wrapped

_STYLES: dict[Verdict, str] = {
    "slower": "bold red", "suspected": "red", "failed": "bold red", "inconclusive": "yellow",
    "unfit": "magenta", "faster": "green", "same": "", "new": "cyan", "gone": "cyan",
    "base-failed": "bold red",
}  # fmt: skip
# (colour, marker, filled): the marker alone tells them apart in grey, an arrow pointing where the time went.
_LOOKS: dict[Verdict, tuple[str, str, bool]] = {
    "slower": ("#D55E00", ">", True),
    "suspected": ("#CC79A7", ">", False),
    "same": ("#0072B2", "o", True),
    "faster": ("#009E73", "<", True),
    "inconclusive": ("#B07400", "D", False),
    "unfit": ("#000000", "X", True),
    "new": (GREY, "s", False),
    "gone": (GREY, "s", False),
    "failed": (GREY, "s", False),
    "base-failed": (GREY, "s", False),
}
_BAND, _CONTROL = "#E8EEF4", "#C4C4C4"
_TICKS = (
    0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 0.95, 0.98, 1.0,
    1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0,
)  # fmt: skip
_NAME_WIDTH = 44  # characters of a cell's name in a picture, before it goes on in another line
_ROW_INCHES, _LINE_INCHES = 0.27, 0.14
_FAR = 1.6  # an interval that reaches further beyond all ratios than this factor is cut at the edge


def gate_tables(report: Report) -> RenderableType:
    """What was compared, a row a cell, the exact figures that changed, reasons, notes, and what it comes to.

    Nothing depends on colour. Interval and smallest slowdown found are explained under the table.
    """
    names = words.Names(report)
    parts: list[RenderableType] = [Text(f"{report.kind}: {words.sides(report)}", "bold")]
    about = "; ".join(filter(None, [names.what(), words.machine(report)]))
    if about:
        parts.append(Text(about))
    if report.lines:
        parts += [Text(""), _cells(report.lines, names), *_legend(report.lines)]
    if report.figures:
        parts += [Text(""), *_figures(report, names)]
    said = [*_reasons(report), *(Text(f"note: {words.printable(note)}") for note in report.notes)]
    parts += [Text(""), *said] if said else []
    parts += [Text(""), Text(words.conclusion(report), _style(report))]
    return Group(*parts)


def _cells(lines: Sequence[Line], names: words.Names) -> Table:
    # one space between columns: ten of them have to leave room for a mechanism's name in 100 characters
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("mechanism", overflow="fold", min_width=9)
    for name in ("mode", "N", "base", "head", "ratio", "interval", "verdict", "finds", "rounds"):
        left = name in ("mode", "verdict")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for line in lines:
        found = words.bounds(line)
        table.add_row(
            Text(names.mechanism(line.cell)),
            line.cell.mode,
            units.length(line.cell.seq_len),
            _seconds(line.base_s),
            _seconds(line.head_s),
            words.ratio(found[0]) if found else "",
            Text(words.interval(line)),
            Text(line.verdict, _STYLES[line.verdict]),
            words.share(line.detectable),
            words.rounds(line),
        )
    return table


def _seconds(value: float | None) -> str:
    known = words.number(value)
    return "" if known is None else units.seconds(known)


def _legend(lines: Sequence[Line]) -> list[Text]:
    """What ratio, interval, finds and rounds are; nothing where no cell has them."""
    if not any(map(words.bounds, lines)):
        return []
    said = ["ratio: head over base, more than 1 is slower"]
    errors = [known for line in lines if (known := words.number(line.error)) is not None]
    if errors:
        said.append(f"interval: misses the ratio with a chance of at most {100 * max(errors):.2g} %")
    if any(words.number(line.detectable) is not None for line in lines):
        said.append("finds: the smallest slowdown that these rounds find with a chance of 80 %")
    if any(line.confirmed_in for line in lines):
        said.append("rounds: + those of the confirmation")
    return [Text("; ".join(said), "dim")]


def _figures(report: Report, names: words.Names) -> list[RenderableType]:
    said = Text(words.figures_in_words(report))
    changed = words.changes(report.figures)
    if not changed:
        return [said]
    # under the table, where they have its whole width
    details = [
        Text(
            f"{names.full(each.cell)}: {words.figure_name(each.name)}: {words.printable(each.detail)}", "dim"
        )
        for each in changed
        if each.detail
    ]
    return [said, _figure_table(changed, names), *details]


def _figure_table(figures: Sequence[Figure], names: words.Names) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("mechanism", overflow="fold", min_width=9)
    for name in ("mode", "N", "figure", "base", "head", "change", "allowed", ""):
        table.add_column(name, justify="left" if name in ("mode", "figure", "") else "right", overflow="fold")
    for figure in figures:
        table.add_row(
            Text(names.mechanism(figure.cell)),
            figure.cell.mode,
            units.length(figure.cell.seq_len),
            Text(words.figure_name(figure.name)),
            words.exact(figure.base),
            words.exact(figure.head),
            words.growth(figure),
            words.allowance(figure),
            Text("fails", _STYLES["slower"]) if figure.fails else "",
        )
    return table


def _reasons(report: Report) -> list[Text]:
    """Each reason once; the cells it holds for, unless it is the only one of its verdict."""
    found = words.reasons(report)
    lines = []
    for verdict, reason, cells in found:
        alone = len(cells) == sum(line.verdict == verdict for line in report.lines) and len(cells) > 1
        which = f"all {len(cells)}" if alone else ", ".join(cells)
        lines.append(Text.assemble((verdict, _STYLES[verdict]), f": {which}: {reason}"))
    return lines


def _style(report: Report) -> str:
    if report.exit_code() in (3, 4, 6):
        return "bold red"
    return f"bold {'yellow' if report.exit_code(strict=True) else 'green'}"


def forest(report: Report) -> Picture:
    """A line a cell: its ratio with the interval, the base against itself behind it, the band it is held to.

    The axis is logarithmic; what reaches beyond it ends in an arrow. Cells without numbers are named with
    their verdict. Raises NothingToDraw where the report has no cells.
    """
    if not report.lines:
        raise NothingToDraw("there is nothing to draw: the report holds no times")
    names = words.Names(report)
    wanted = [_lines(names.full(line.cell)) for line in report.lines]
    heights = [_ROW_INCHES + _LINE_INCHES * text.count("\n") for text in wanted]
    tops = [sum(heights[:i]) for i in range(len(heights))]
    places = [top + height / 2 for top, height in zip(tops, heights, strict=True)]
    with mpl.rc_context(RC):
        picture = Picture(figsize=(8.6, 1.9 + sum(heights)), layout="constrained")
        axes = picture.subplots()
        low, high = _limits(report.lines)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(sum(heights), 0.0)
        for line, place, height in zip(report.lines, places, heights, strict=True):
            _draw(axes, line, place, height)
        axes.axvline(1.0, color=GREY, linewidth=0.8, zorder=1.5)
        axes.set_yticks(places, wanted, parse_math=False)  # a name may hold dollar signs
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("time of the head over time of the base (more than 1 is slower)")
        if handles := _handles(report.lines):
            picture.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
        _title(picture, report, names)
    return picture


def _lines(name: str) -> str:
    """The name in lines of limited width: after its colons and commas if it can be, else anywhere."""
    return "\n".join(textwrap.fill(line, _NAME_WIDTH) for line in wrapped(name, _NAME_WIDTH).split("\n"))


def _draw(axes: Axes, line: Line, place: float, height: float) -> None:
    colour, marker, filled = _LOOKS[line.verdict]
    low, high = axes.get_xlim()
    threshold = words.number(line.threshold)
    if threshold is not None:
        band = (max(low, 1 / (1 + threshold)), min(high, 1 + threshold))
        axes.fill_between(
            band, place - 0.46 * height, place + 0.46 * height, color=_BAND, linewidth=0, zorder=0
        )
    control = words.control_bounds(line)
    if control:
        axes.hlines(place, max(low, control[1]), min(high, control[2]), color=_CONTROL, linewidth=6, zorder=1)
    found = words.bounds(line)
    said = f"{line.verdict}  {words.ratio(found[0])}" if found else line.verdict
    axes.text(1.01, place, said, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=colour)
    if not found:
        axes.text(
            0.01, place, "no time", transform=axes.get_yaxis_transform(), va="center", fontsize=8,
            color=GREY, style="italic",
        )  # fmt: skip
        return
    ratio, least, most = found
    axes.hlines(place, max(low, least), min(high, most), color=colour, linewidth=1.6, zorder=2)
    for beyond, edge, arrow in ((least < low, low, CARETLEFT), (most > high, high, CARETRIGHT)):
        if beyond:
            axes.plot(edge, place, marker=arrow, color=colour, markersize=6, clip_on=False, zorder=3)
    axes.plot(
        ratio, place, marker=marker, color=colour, markersize=6, zorder=4, linestyle="none",
        markerfacecolor=colour if filled else "white",
    )  # fmt: skip


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    """Symmetrical about 1 in logarithms: all ratios and bands are inside, intervals if not far off."""
    centers, ends = [math.log(1.05)], [0.0]
    for line in lines:
        threshold = words.number(line.threshold)
        centers.append(0.0 if threshold is None else math.log1p(threshold))
        for found in filter(None, (words.bounds(line), words.control_bounds(line))):
            centers.append(abs(math.log(found[0])))
            ends += [abs(math.log(value)) for value in found[1:]]
    reach = max(*centers, min(max(ends), max(centers) * _FAR)) * 1.12
    return math.exp(-reach), math.exp(reach)


def _ticks(low: float, high: float) -> list[float]:
    """Round ratios inside the limits, no two nearer than a twelfth of the axis; 1 is always one."""
    kept: list[float] = [1.0]
    gap = math.log(high / low) / 12
    for value in sorted(_TICKS, key=lambda value: abs(math.log(value))):
        if low <= value <= high and all(abs(math.log(value / other)) >= gap for other in kept):
            kept.append(value)
    return sorted(kept)


def _handles(lines: Sequence[Line]) -> list[Line2D | Patch]:
    """What the marks mean, of those that are there."""
    handles: list[Line2D | Patch] = []
    for verdict, (colour, marker, filled) in _LOOKS.items():
        if any(line.verdict == verdict and words.bounds(line) for line in lines):
            handles.append(
                Line2D([], [], color=colour, marker=marker, markersize=6, linewidth=1.6, label=verdict,
                       markerfacecolor=colour if filled else "white")
            )  # fmt: skip
    if any(map(words.control_bounds, lines)):
        handles.append(Line2D([], [], color=_CONTROL, linewidth=6, label="the base against itself"))
    if any(words.number(line.threshold) is not None for line in lines):
        handles.append(Patch(color=_BAND, label="within the threshold"))
    return handles


def _title(picture: Picture, report: Report, names: words.Names) -> None:
    errors = [known for line in report.lines if (known := words.number(line.error)) is not None]
    note = f"bars miss their ratio with a chance of at most {100 * max(errors):.2g} %" if errors else ""
    about = [words.sides(report), names.what(), "; ".join(filter(None, [words.machine(report), note]))]
    width = int(picture.get_figwidth() * TITLE_CHARACTERS_PER_INCH)
    text = "\n".join(textwrap.fill(line, width) for line in about if line)
    picture.suptitle(text, fontsize=9, parse_math=False)
