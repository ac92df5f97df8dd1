"""Blocks of tables as LaTeX for a paper: one unit a column, decimals aligned, the best values in bold."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from effbench.show import units
from effbench.show.units import Figure

if TYPE_CHECKING:
    from effbench.show.blocks import Block

PREAMBLE = r"""% needs in the preamble:
% \usepackage{booktabs}
% \usepackage{graphicx}
% \usepackage{siunitx}"""
_NOISY = r"$\sim$: a noisy time."
_INTERVAL = r"In brackets: the farther end of the 95\,\% interval, in units of the last digits."
_SIGNS = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "µ": r"$\mu$", "×": r"$\times$", "±": r"$\pm$",
          "<": r"$<$", ">": r"$>$", "\N{NO-BREAK SPACE}": "~"}  # fmt: skip
_POWERS = {"k": 3, "M": 6, "G": 9, "T": 12}
_PLAIN = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_EXPONENT = re.compile(r"\bN\^(-?[0-9.]+[0-9])")


def as_latex(blocks: Sequence[Block]) -> str:
    """Return a ``table`` for each block that has one; titles without a table and sentences are comments.

    A column of numbers has one unit, that of its median, in its head. A number with a known interval has the
    distance to the interval's farther end in brackets, rounded up to two digits. A table that is wider than
    the column of a paper is made smaller.
    """
    parts = [PREAMBLE] if any(block.head for block in blocks) else []
    for block in blocks:
        parts.append(_table(block) if block.head else _comment(block.title) if block.title else "")
        parts += map(_comment, (*block.notes, *block.warnings))
    return "\n".join(filter(None, parts))


def _comment(text: str) -> str:
    return f"% {' '.join(text.split())}"


def _escaped(text: str) -> str:
    """Return the text with LaTeX's signs escaped, and the powers of N as such."""
    parts = _EXPONENT.split(" ".join(text.split("\n")))
    return "".join(
        f"$N^{{{part}}}$" if place % 2 else "".join(_SIGNS.get(sign, sign) for sign in part)
        for place, part in enumerate(parts)
    )


def _breakable(text: str) -> str:
    """Return the text with places where LaTeX may break a name with options."""
    return re.sub(r"(?<=[,:=])(?=[^ ])", r"\\allowbreak{}", text)


def _table(block: Block) -> str:
    columns = [
        _column(name, [row[place] for row in block.rows], place in block.left)
        for place, name in enumerate(block.head)
        if place not in block.intervals
    ]
    figures = [cell for row in block.rows for cell in row if isinstance(cell, Figure)]
    about = [
        f"{_breakable(_escaped(block.title))}." if block.title else "",
        f"Bold: {_escaped(block.marks)}." if any(number.best for number in figures) else "",
        _NOISY if any(number.noisy for number in figures) else "",
        _INTERVAL if any(not math.isnan(number.high) for number in figures) else "",
    ]
    caption = " ".join(filter(None, about))
    kinds = "".join(kind for kind, *_ in columns)
    head, *rows = (
        " & ".join(cells) + r" \\" for cells in zip(*(cells for _, *cells in columns), strict=True)
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            r"\sisetup{detect-weight, mode=text, retain-explicit-plus}",
            *([rf"\caption{{{caption}}}"] if caption else []),
            r"\resizebox{\ifdim\width>\columnwidth\columnwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{kinds}}}",
            *(r"\toprule", head, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def _column(name: str, cells: Sequence[str], left: bool) -> list[str]:
    """Return the column's kind for ``tabular``, its head, and its cells."""
    figures = [cell for cell in cells if isinstance(cell, Figure)]
    factor, unit = units.shared(figures) if figures else (1.0, "")
    numbers = [
        _number(cell, factor) if isinstance(cell, Figure) else cell if _PLAIN.fullmatch(cell) else ""
        for cell in cells
    ]
    words = [cell for cell, number in zip(cells, numbers, strict=True) if cell and not number]
    if left or not any(numbers) or any(re.search("[0-9]", word) for word in words):
        return ["l" if left else "r", _escaped(name), *(_bold(cell, _escaped(cell)) for cell in cells)]
    return [
        f"S[table-format={_format(list(filter(None, numbers)))}]",
        f"{{{_escaped(name)}{_in_brackets(unit)}}}",
        *(
            f"{_weight(cell)}{number}" if number else f"{{{_escaped(cell)}}}"
            for cell, number in zip(cells, numbers, strict=True)
        ),
    ]


def _bold(cell: str, text: str) -> str:
    best = isinstance(cell, Figure) and cell.best
    return rf"\textbf{{{text.removesuffix('*')}}}" if best else text


def _weight(cell: str) -> str:
    """Return the weight of a number: in a column ``S`` it is a switch, as siunitx reads no ``\\textbf``."""
    return r"\bfseries " if isinstance(cell, Figure) and cell.best else ""


def _in_brackets(unit: str) -> str:
    if unit in _POWERS:
        return rf" ($10^{{{_POWERS[unit]}}}$)"
    return f" ({_escaped(unit)})" if unit else ""


def _number(number: Figure, factor: float) -> str:
    """Return ``428.0(12)``: the value in a unit of this size, its uncertainty in units of the last digits."""
    text = number.written(number.value)
    half = max(number.high - number.value, number.value - number.low)
    plain = bool(_PLAIN.fullmatch(text))
    scaled = number.value / factor
    sign = "+" if text.startswith("+") else ""
    mark = r" {\rlap{$\sim$}}" if number.noisy else ""
    if math.isnan(half) or half <= 0:
        digits = len(text.partition(".")[2].split(" ")[0])
        if not plain and number.written is not units.share:
            digits = max(0, 2 - _order(scaled))
        return f"{scaled:{sign}.{digits}f}{mark}"
    half /= factor
    digits = max(0, 1 - _order(half))
    return f"{scaled:{sign}.{digits}f}({math.ceil(round(half * 10**digits, 6))}){mark}"


def _order(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def _format(numbers: Sequence[str]) -> str:
    """Return the digits that a column needs, as siunitx's ``table-format``: ``-3.2(2)``."""
    parts = [re.match(r"([+-]?)([0-9]+)\.?([0-9]*)(?:\(([0-9]+)\))?", number) for number in numbers]
    found = [part.groups(default="") for part in parts if part]
    sign = next((sign for sign, *_ in found if sign), "")
    whole, decimals, bracket = (max(len(part[place]) for part in found) for place in (1, 2, 3))
    return f"{sign}{whole}{f'.{decimals}' if decimals else ''}{f'({bracket})' if bracket else ''}"
