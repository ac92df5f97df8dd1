"""The sheet that a plot draws on: panels, legend and caption, for a screen or for a column of a paper."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, Tick
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedFormatter, Formatter, FuncFormatter
from matplotlib.transforms import Bbox, ScaledTranslation, blended_transform_factory

from effbench.common.wording import plural
from effbench.show.look import RC, TITLE_CHARACTERS_PER_INCH, wrapped
from effbench.show.tables import compiled_in_words, what_was_measured

_PAPER: Mapping[Any, Any] = {
    **RC,
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.dpi": 300,
}
_LOWEST = 0.62  # a panel's height in a narrow column over that on a screen, at least
_NARROW = 5.0  # inches
_SETTLED = 0.12  # inches that a panel may be higher or lower than asked
# Of a legend, in sizes of its letters.
_SPACING: Mapping[str, Any] = {
    "handlelength": 3.0,
    "handletextpad": 0.8,
    "columnspacing": 1.6,
    "borderpad": 0.4,
}
_APART = 2.0  # points between two tick labels

Share = Literal["none", "all", "row", "col"]


@dataclass(frozen=True)
class Page:
    """What figures are drawn for: a screen, or a column of a paper that is ``width`` inches wide.

    In a paper, letters have 8 and 7 points, and the title is hidden: a caption says the same.
    """

    width: float | None = None

    def settings(self) -> dict[Any, Any]:
        """Return matplotlib's settings."""
        return dict(RC) if self.width is None else dict(_PAPER)


_SCREEN = Page()
_PAGE: ContextVar[Page] = ContextVar("page", default=_SCREEN)


@contextmanager
def drawn_for(page: Page) -> Iterator[None]:
    """Draw for this page inside the context."""
    token = _PAGE.set(page)
    try:
        with mpl.rc_context(page.settings()):
            yield
    finally:
        _PAGE.reset(token)


def narrow() -> bool:
    """True on a page where labels beside the panels would take too much of the width."""
    width = _PAGE.get().width
    return width is not None and width < _NARROW


class Sheet(Figure):
    """A figure whose panels keep their height, whatever is written around them.

    ``count`` panels are ``wide`` by ``tall`` inches on a screen, ``across`` beside each other (default:
    all). In a column of a paper as many as have ``least`` inches are beside each other, and narrow ones are
    lower if ``scaled``. ``beside`` inches at the right stay free for labels.
    """

    def __init__(
        self,
        count: int,
        *,
        wide: float,
        tall: float,
        across: int = 0,
        least: float = 2.4,
        beside: float = 0.0,
        share: tuple[Share, Share] = ("none", "none"),
        scaled: bool = True,
    ) -> None:
        self.page = _PAGE.get()
        across = across or count
        if self.page.width is None:
            width = wide * across + beside
        else:
            width = self.page.width
            across = max(1, min(across, int((width - beside) / least)))
        self.across, self.down = across, -(-count // across)
        scale = min(1.0, max(_LOWEST, (width - beside) / across / wide))
        self.tall = tall * scale if scaled else tall
        self._is_settled = False
        rows_with_names = self.down if share[0] == "none" else 1
        height = self.tall * self.down + 0.5 * rows_with_names + 0.1 * self.down  # about: see settle
        super().__init__(figsize=(width, height), layout="constrained")
        grid = self.subplots(self.down, across, sharex=share[0], sharey=share[1], squeeze=False).ravel()
        for axes in grid[count:]:
            axes.set_visible(False)
        self.panels: list[Axes] = [*grid[:count]]

    @property
    def left(self) -> list[Axes]:
        """The panels at the left edge, which name the y axis."""
        return self.panels[:: self.across]

    @property
    def lowest(self) -> list[Axes]:
        """The lowest panel of each column, which names the x axis."""
        return self.panels[-self.across :]

    def inches(self) -> float:
        """Return the width of a panel with its labels."""
        return float(self.get_figwidth()) / self.across

    def legend_below(self, handles: Sequence[Any], **spacing: float) -> None:
        """Write a legend below all panels, in as many columns as fit."""
        self._legend("outside lower center", handles, spacing)

    def legend_above(self, handles: Sequence[Any], **spacing: float) -> None:
        """Write a legend above all panels, in as many columns as fit."""
        self._legend("outside upper center", handles, spacing)

    def _legend(self, place: Any, handles: Sequence[Any], spacing: Mapping[str, float]) -> None:
        columns = self._arranged(handles, self.get_figwidth() - 0.1, spacing)
        self.legend(handles=[*handles], loc=place, ncols=columns, **{**_SPACING, **spacing})

    def legend_under(self, axes: Axes, handles: Sequence[Any]) -> None:
        """Write a legend under one panel, in as many columns as fit."""
        letters = sum(in_points(mpl.rcParams[name]) for name in ("xtick.labelsize", "axes.labelsize"))
        down = ScaledTranslation(0, -(letters * 1.3 + 14) / 72, self.dpi_scale_trans)
        before = self.get_figheight()
        columns = self._arranged(handles, self.inches() - 0.1, {})
        place = self.panels.index(axes) % self.across
        if place:  # beside another legend
            self.set_figheight(before)
        else:
            self.set_figheight(self.get_figheight() + 0.2)
        middle = (place + 0.5) / self.across
        axes.legend(
            handles=[*handles], loc="upper center", bbox_to_anchor=(middle, 0.0), ncols=columns,
            bbox_transform=blended_transform_factory(self.transFigure, axes.transAxes) + down,
            borderaxespad=0.0, **_SPACING,
        )  # fmt: skip

    def _arranged(self, handles: Sequence[Any], room: float, spacing: Mapping[str, float]) -> int:
        """Wrap labels that are wider than ``room`` inches, make the figure higher, and return the columns.

        They are as few as the least number of lines allows.
        """
        letters = legend_letters() / 72
        handle_length, after, between, border = (
            letters * spacing.get(name, default) for name, default in _SPACING.items()
        )
        fixed, room = handle_length + after, room - 2 * border
        for handle in handles:
            text = str(handle.get_label())
            name, gap, slope = text.partition("  ")
            if (width := text_width(text)) > room - fixed:
                name = wrapped(name, int(len(name) * (room - fixed) / width))
            handle.set_label(name.replace("$", r"\$") + gap + slope)  # only the slope is a formula
        lines = columns = 1
        widths = np.array([fixed + text_width(str(handle.get_label())) for handle in handles])
        for lines in range(1, len(handles) + 1):
            columns = -(-len(handles) // lines)
            parts = np.array_split(widths, columns)
            if sum(max(each) for each in parts) + between * (columns - 1) <= room:
                break
        # so much that the first layout is nearly right
        breaks = max(str(handle.get_label()).count("\n") for handle in handles) if handles else 0
        self.set_figheight(self.get_figheight() + lines * (1.65 + breaks) * letters + 2 * border)
        return columns

    def _break_labels(self) -> bool:
        """Break titles of panels and names of axes that are longer than their place; True if some were."""
        broken = False
        boxes = [axes.get_window_extent() for axes in self.panels]
        for place, (axes, box) in enumerate(zip(self.panels, boxes, strict=True)):
            column = place % self.across
            before = boxes[place - 1].x1 if column else -box.x0
            after = 2 * self.bbox.width - box.x1
            if column + 1 < self.across and place + 1 < len(boxes):
                after = boxes[place + 1].x0
            # to the middle between two panels, or to the edge of the figure
            across = box.width + min(box.x0 - before, after - box.x1)
            for text, room, side in (
                (axes.title, across, "width"),
                (axes.xaxis.label, across, "width"),
                (axes.yaxis.label, self.tall * self.dpi, "height"),
            ):
                length = getattr(text.get_window_extent(), side)
                if length > room:
                    letters = max(map(len, text.get_text().split("\n")))
                    text.set_text(textwrap.fill(text.get_text(), max(8, int(letters * room / length))))
                    broken = True
        return broken

    def settle(self) -> None:
        """Give the panels their height and leave out numbers of axes that would touch others.

        Call it before something is placed by the positions of others. It does nothing a second time, unless
        ``unsettle`` was called: each time the whole figure is laid out, which takes a tenth of a second.
        """
        if self._is_settled:
            return
        self._is_settled = True
        self._lay_out()
        if self._break_labels():
            self._lay_out()
        for _ in range(3):
            heights = [axes.get_position(original=True).height for axes in self.panels]
            missing = self.tall - min(heights) * self.get_figheight()
            if abs(missing) < _SETTLED:
                break
            self.set_figheight(self.get_figheight() + missing * self.down)
            self._lay_out()
        for axes in self.panels:
            for axis in (axes.xaxis, axes.yaxis):
                _thin(axis)

    def _lay_out(self) -> None:
        """Give the panels and texts their places, as drawing does, in two thirds of the time."""
        engine = self.get_layout_engine()
        assert engine is not None
        engine.execute(self)

    def unsettle(self) -> None:
        """Say that something was added that changes the places of others."""
        self._is_settled = False


def fit(figure: Figure, page: Page) -> None:
    """Settle a figure; one that is no sheet gets the page's width, with its height in proportion."""
    if isinstance(figure, Sheet):
        figure.settle()
    elif page.width is not None:
        width, height = figure.get_size_inches()
        figure.set_size_inches(page.width, height * page.width / width)


def set_title(figure: Sheet, shape: Mapping[str, Any], note: str) -> None:
    """Set a title with the subject, the machine, the shape and a note, wrapped to the figure's width.

    In a paper the caption below says this, so the title is hidden; ``Figure.get_suptitle`` returns it.
    """
    subject = str(shape["task"]).replace(",", ", ") if "task" in shape else what_was_measured(shape)
    model = f"{plural(int(shape['layers']), 'block')}, " if "task" in shape else ""
    heads = plural(int(shape["heads"]), "head")
    second = (
        f"{model}batch {shape['batch_size']}, d_model {shape['d_model']}, {heads}, "
        f"{shape['dtype']}, {shape['device']}, {plural(int(shape['threads']), 'thread')}, "
        f"{shape['allocator']} allocator{compiled_in_words(shape)}"
    )
    lines = list(filter(None, [f"{subject} on {shape['machine']}", second, note]))
    if figure.page.width is None:
        width = int(figure.get_figwidth() * TITLE_CHARACTERS_PER_INCH)
        text = "\n".join(textwrap.fill(line, width) for line in lines)
        figure.suptitle(text, fontsize=9, parse_math=False)
        figure.set_figheight(figure.get_figheight() + (text.count("\n") + 1) * 0.15 + 0.1)
    else:
        figure.suptitle("\n".join(lines), visible=False, in_layout=False)


def text_width(text: str, letters: float | None = None) -> float:
    """Return the inches that the longest line of a text takes, by default in the letters of a legend."""
    font = FontProperties(size=letters or legend_letters())

    def width(line: str) -> float:
        return float(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]) / 72

    # formulas are not set, which is slow: exponents have letters of 70 %
    plain = text.translate(dict.fromkeys(map(ord, "${}"))) if "$N^" in text else text
    lines = [line.partition("^") for line in plain.split("\n")]
    return max(width(base) + 0.7 * width(exponent) for base, _, exponent in lines)


def legend_letters() -> float:
    """Return the size of a legend's letters in points, which labels in a plot have too."""
    return in_points(mpl.rcParams["legend.fontsize"])


def in_points(size: float | str) -> float:
    """Return a size of letters in points; ``size`` as matplotlib's settings have it."""
    return float(FontProperties(size=size).get_size_in_points())


def _thin(axis: Axis) -> None:
    """Leave out the numbers of an axis that would touch one before, the minor ones first; names stay."""
    if isinstance(axis.get_major_formatter(), FixedFormatter):
        return
    kept: list[Bbox] = []
    for major in (True, False):
        ticks = axis.get_major_ticks() if major else axis.get_minor_ticks()
        named = [(tick, _box(tick.label1, axis)) for tick in ticks if _is_drawn(tick, axis)]
        places = []
        for tick, box in named:
            if not any(box.overlaps(other) for other in kept):
                kept.append(box)
                places.append(tick.get_loc())
        if len(places) < len(named):
            formatter = axis.get_major_formatter() if major else axis.get_minor_formatter()
            only = FuncFormatter(_only(formatter, places))
            (axis.set_major_formatter if major else axis.set_minor_formatter)(only)


def _is_drawn(tick: Tick, axis: Axis) -> bool:
    low, high = sorted(axis.get_view_interval())
    inside = low <= tick.get_loc() <= high
    return inside and tick.label1.get_visible() and bool(tick.label1.get_text())


def _box(text: Text, axis: Axis) -> Bbox:
    """Return the text's place, and half the room between two labels around it."""
    figure = axis.get_figure(root=True)
    assert figure is not None
    half = _APART / 2 * figure.dpi / 72
    return text.get_window_extent().padded(half)


def _only(formatter: Formatter, places: Sequence[float]) -> Callable[[float, int | None], str]:
    def text(value: float, place: int | None = None) -> str:
        kept = any(math.isclose(value, each, rel_tol=1e-9) for each in places)
        return formatter(value, place) if kept else ""

    return text
