"""Texts of records inside HTML and scripts: everything is data, nothing becomes markup."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

_JOINT = re.compile(r"([:,])(?=[^\s:,])")
_DIGITS = 6  # of a number in the page's data, which shows at most four


def escape(text: object) -> str:
    """Return the text for HTML, inside an element or a quoted attribute."""
    return html.escape(str(text), quote=True)


def breakable(text: str) -> str:
    """Return the text for HTML; a line may end behind a colon or a comma inside a word."""
    return _JOINT.sub(r"\1<wbr>", escape(text))


def as_json(data: object) -> str:
    """Return the data as JSON for a ``script`` element: no text in it can close the element.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number(value: Any) -> float | int | None:
    """Return a number for ``as_json`` with six significant digits; None if it is missing or not finite."""
    if value is None or pd.isna(value) or not math.isfinite(value):
        return None
    short = float(f"{float(value):.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def numbers(values: Iterable[Any]) -> list[float | int | None]:
    """Return :func:`number` of each value."""
    return [number(value) for value in values]


def known(text: Any) -> str:
    """Return a text, or "" if it is missing."""
    return "" if text is None or (isinstance(text, float) and math.isnan(text)) else str(text)


def paragraphs(sentences: Iterable[str], kind: str = "") -> str:
    """Return a paragraph for each sentence."""
    attribute = f' class="{kind}"' if kind else ""
    return "".join(f"<p{attribute}>{escape(sentence)}</p>" for sentence in sentences)


def bullets(sentences: Iterable[str], kind: str = "") -> str:
    """Return the sentences as a list; of answers, what stands before a colon is bold. Nothing if none."""
    items = []
    for sentence in sentences:
        subject, colon, rest = sentence.partition(": ") if kind == "answer" else (sentence, "", "")
        items.append(f"<b>{escape(subject)}:</b> {escape(rest)}" if colon else escape(sentence))
    attribute = f' class="{kind}"' if kind else ""
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul{attribute}>{listed}</ul>" if items else ""
