"""The layout of a table on a terminal: no line is wider than the terminal, and no column is lost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import strip_control_codes
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

_GAP = 2  # between columns
_LEAST = 10  # characters of a text that is folded, on a very narrow terminal


class Fitted:
    """A table that takes the form that fits the width it is printed at.

    The forms, in this order: whole; in as few parts below each other as possible, each with the columns that
    identify a row and as many others as fit, heads in several lines, texts folded to a quarter of the width
    or more; one line ``column: value`` for each value. Numbers are never cropped.

    ``left`` are the indices of the text columns, ``keys`` those of the columns that identify a row, and
    ``style`` returns the style of a text.
    """

    def __init__(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        left: Collection[int],
        keys: Sequence[int],
        style: Callable[[str], str] = lambda text: "",
    ) -> None:
        self.head, self.rows, self.left, self.keys, self.style = head, rows, left, keys, style
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(head)
        self.bodies = [max(map(_lines_width, column), default=0) for column in columns]
        self.places = range(len(head))

    @property
    def width(self) -> int:
        """The width of the whole table."""
        return self._total([self._natural(place) for place in self.places])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, or its parts with empty lines between them."""
        width = options.max_width
        parts = self._forms(width)
        if parts is None:
            yield Text("\n\n".join(map(self._in_lines, self.rows)), overflow="fold")
            return
        for number, part in enumerate(parts):
            if number:
                yield Segment.line()
            yield from Segment.simplify(self._table(part, console))

    def _forms(self, width: int) -> list[list[tuple[int, int]]] | None:
        """Return (column, its width) of each part; None if a value needs a line of its own."""
        if self.width <= width:
            return [[(place, self._natural(place)) for place in self.places]]
        least = max(_LEAST, width // 4)
        longest = max((self.bodies[place] for place in self.left), default=0)
        fewest = self._parts(width, least)
        if fewest is None:
            return None
        for cap in range(max(longest, least), least - 1, -1):
            parts = self._parts(width, cap)
            if parts is not None and len(parts) == len(fewest):
                break
        return [[(place, self._folded(place, cap)) for place in part] for part in parts or fewest]

    def _parts(self, width: int, cap: int) -> list[list[int]] | None:
        """Return the columns of each part, with texts of at most ``cap`` characters in a line.

        None if a column does not fit beside those that identify a row.
        """

        def fits(part: list[int]) -> bool:
            return self._total([self._folded(place, cap) for place in part]) <= width

        parts = [list(self.keys)]
        for place in (place for place in self.places if place not in self.keys):
            if fits([*parts[-1], place]):
                parts[-1].append(place)
            elif fits([*self.keys, place]):
                parts.append([*self.keys, place])
            else:
                return None
        return parts if all(map(fits, parts)) else None

    def _in_lines(self, row: Sequence[str]) -> str:
        return "\n".join(f"{name}: {text}" for name, text in zip(self.head, row, strict=True) if text)

    def _natural(self, place: int) -> int:
        return max(self.bodies[place], _lines_width(self.head[place]), 1)

    def _folded(self, place: int, cap: int) -> int:
        """Return the width of a column whose text has at most ``cap`` characters in a line."""
        body = min(self.bodies[place], cap) if place in self.left else self.bodies[place]
        words = max(map(cell_len, self.head[place].split()), default=1)
        return max(body, min(words, cap) if place in self.left else words, 1)

    def _total(self, widths: Sequence[int]) -> int:
        return sum(widths) + _GAP * (len(widths) - 1)

    def _table(self, part: Sequence[tuple[int, int]], console: Console) -> Iterator[Segment]:
        """Yield the lines of some columns: heads at the bottom of their row, texts at the top."""
        bold = console.get_style("bold")
        heads = [_broken(self.head[place], width) for place, width in part]
        height = max(map(len, heads))
        yield from self._row(
            part, [[*[""] * (height - len(head)), *head] for head in heads], [bold] * len(part)
        )
        for row in self.rows:
            names = [self.style(row[place]) for place, _ in part]
            styles = [console.get_style(name) if name else None for name in names]
            yield from self._row(part, [_broken(row[place], width) for place, width in part], styles)

    def _row(
        self,
        part: Sequence[tuple[int, int]],
        cells: Sequence[Sequence[str]],
        styles: Sequence[Style | None],
    ) -> Iterator[Segment]:
        for texts in itertools.zip_longest(*cells, fillvalue=""):
            for number, ((place, width), text, style) in enumerate(zip(part, texts, styles, strict=True)):
                blank = " " * (width - cell_len(text))
                yield Segment(f"{text}{blank}" if place in self.left else f"{blank}{text}", style)
                yield Segment(" " * _GAP if number + 1 < len(part) else "\n")


def _broken(text: str, width: int) -> list[str]:
    """Return lines of a text that end after a colon, a comma or a blank where that is possible."""
    text = strip_control_codes(text)
    lines = [""]
    for piece in re.findall(r"[^:,\s]*[:,\s]?", text) if cell_len(text) > width else [text]:
        if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    whole = "\n".join(line.rstrip() for line in lines).split("\n")
    return [
        part for line in whole for part in (chop_cells(line, width) if cell_len(line) > width else [line])
    ]


def _lines_width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))
