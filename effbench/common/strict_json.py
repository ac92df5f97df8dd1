"""Read JSON strictly: what Python's reader accepts beyond the standard is refused. Standard library only."""

from __future__ import annotations

import json
import math
from typing import Any

from effbench.common.wording import shown

LARGEST = 2**63  # integers of a record are smaller: a table's columns have 64 bits


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, read strictly.

    Raises ValueError for a text that is not JSON, and for what Python's reader accepts: NaN and infinities,
    numbers beyond a float or a 64-bit integer, a key twice in one object, and nesting that is too deep.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_float,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError("arrays or objects are nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for key, value in pairs:
        if key in read:
            raise ValueError(f"the key {shown(key)} stands twice in an object")
        read[key] = value
    return read


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {shown(text)} is too large")
    return number


def _integer(text: str) -> int:
    number = int(text) if len(text) < 40 else LARGEST
    if abs(number) >= LARGEST:
        raise ValueError(f"the number {shown(text)} is too large")
    return number
