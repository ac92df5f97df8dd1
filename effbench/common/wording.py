"""Texts for messages and tables: one printable line of bounded length, plurals. Standard library only."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence

MOST_CHARACTERS = 300
_VALUE = 80  # characters of a value inside a message
_GAP = " ... "
_BITS = 200  # of an integer that is written in decimal: Python refuses thousands of digits


def plural(count: int, noun: str, several: str = "") -> str:
    """Return ``1 cell`` or ``2 cells``; ``several`` is the plural if it does not end with ``s``."""
    return f"{count} {noun}" if count == 1 else f"{count} {several or noun + 's'}"


def listed(values: Sequence[str], most: int) -> str:
    """Return the first values and how many there are beside them: ``a, b, c and 2 more``."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(values[:most]) + more


def shown(value: object, most: int = _VALUE) -> str:
    """Return the value as Python writes it, in at most ``most`` printable characters."""
    if isinstance(value, str):
        return _cut(repr(value if len(value) <= 2 * most else value[:most] + value[-most:]), most)
    return one_line(_Short().repr(value), most)


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return the text in one line of at most ``most`` printable characters; a longer text loses its middle.

    A line end and the blanks around it become one space; other control characters are escaped.
    """
    line = _cut(text.strip(), 8 * most)  # first, since the rest is slow for megabytes
    if not line.isprintable():
        line = re.sub(r"\s*[\t\n\v\f\r]\s*", " ", line)
        line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line)
    return _cut(line, most)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - len(_GAP)]}{_GAP}{text[-end:]}"


class _Short(reprlib.Repr):
    """Python's ``repr`` with a bounded number of items and levels; an integer may have any size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, _VALUE, _VALUE

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= _BITS else f"an integer of {x.bit_length()} bits"
