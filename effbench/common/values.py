"""The grammar of numbers that a user writes: whole numbers, lengths, shares, times, amounts of memory.

A number is plain ASCII digits, with a minus, a decimal point or an exponent where these make sense; no plus,
no underscores, no other script's digits, no NaN and no infinity. Every ``parse_`` function raises UsageError,
which states the value, what it was for, and what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from effbench.common.spec import DEVICE, UsageError
from effbench.common.wording import shown

MOST = 10**9  # of a length, a width, a number of tokens
MOST_SEED = 2**53
MOST_SECONDS = 2e6  # 23 days; the operating system waits for 24.8 days at most
MOST_BYTES = 2**60
MOST_LENGTHS = 1000  # of one axis

_WHOLE = re.compile(r"-?[0-9]{1,4000}")  # more digits than Python reads
NUMBER = r"-?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,6})?"
_NUMBER = re.compile(NUMBER)
_BLANKS = " \t"
# A keyboard has either of the two letters: the micro sign and the Greek mu.
_SECONDS_IN = {"us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600}


def whole(value: object) -> int | None:
    """Return the whole number in a value or a text, or None if there is none."""
    if isinstance(value, str):
        text = value.strip(_BLANKS)
        return int(text) if _WHOLE.fullmatch(text) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """Return the finite number in a value or a text, or None if there is none; -0.0 becomes 0.0."""
    if isinstance(value, str):
        text = value.strip(_BLANKS)
        result = float(text) if _NUMBER.fullmatch(text) else math.nan
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            return None
    else:
        return None
    return result + 0.0 if math.isfinite(result) else None


def parse_whole(name: str, value: object, least: int = 1, most: int = MOST) -> int:
    """Read a whole number from ``least`` to ``most``; ``name`` is what an error message calls the value."""
    count = whole(value)
    if count is None or count < least:
        raise UsageError(f"{name} {shown(value)} is not a whole number of at least {least}")
    if count > most:
        raise UsageError(f"{name} {shown(value)} is more than {most}, the most that is allowed")
    return count


def parse_lengths(value: object, name: str = "seq_len") -> list[int]:
    """Read lengths: ``128,512``, ``512:16384:x2`` (times 2), ``512:4096:+512`` (plus 512), ends included."""
    if not isinstance(value, str):
        return [parse_whole(name, value)]
    lengths: list[int] = []
    for part in value.split(","):
        more = _range(part, name)
        if len(lengths) + len(more) > MOST_LENGTHS:
            raise UsageError(f"{name} {shown(value)} has more than {MOST_LENGTHS} lengths")
        lengths += more
    return lengths


def _range(part: str, name: str) -> Sequence[int]:
    pieces = [piece.strip(_BLANKS) for piece in part.split(":")]
    if len(pieces) == 1:
        return [parse_whole(name, pieces[0])]
    step = re.fullmatch(r"([x*+])([0-9]{1,10})", pieces[2]) if len(pieces) == 3 else None
    if step is None:
        raise UsageError(
            f"{name} {shown(part.strip())} is neither a length nor a range; write 128,512 or 512:16384:x2"
        )
    first, last, by = parse_whole(name, pieces[0]), parse_whole(name, pieces[1]), int(step[2])
    if by < (1 if step[1] == "+" else 2) or last < first:
        raise UsageError(f"{name} {shown(part.strip())} never reaches its end")
    if step[1] == "+":
        return range(first, last + 1, by)
    lengths = [first]
    while lengths[-1] * by <= last:
        lengths.append(lengths[-1] * by)
    return lengths


def parse_share(name: str, value: object) -> float:
    """Read a share between 0 and 1: ``2%`` or ``0.02``; ``name`` is what an error message calls the value."""
    percent = isinstance(value, str) and value.strip(_BLANKS).endswith("%")
    amount = number(value.strip(_BLANKS).removesuffix("%") if isinstance(value, str) else value)
    share = 0.0 if amount is None else amount / (100 if percent else 1)
    if not 0 < share < 1:
        raise UsageError(f"{name} {shown(value)} is not a share between 0 and 1; write 2% or 0.02")
    return share


def parse_device(value: object) -> str:
    """Read the name of a device: cpu, cuda or cuda:N."""
    if not isinstance(value, str) or not re.fullmatch(DEVICE, value):
        raise UsageError(f"device {shown(value)} is not cpu, cuda or cuda:N")
    return value


def parse_time_s(value: object, name: str = "", *, zero: bool = False, unit: bool = False) -> float:
    """Read a time in seconds: ``10us``, ``10µs``, ``1.5ms``, ``90s``, ``10m``, ``1h`` or a plain number.

    ``zero`` allows 0; ``unit`` refuses a text without a unit, but for 0. ``name`` is what an error message
    calls the value.
    """
    lacks_unit = unit and isinstance(value, str) and number(value) not in (None, 0)
    scale, amount = math.nan if lacks_unit else 1.0, value
    if isinstance(value, str) and (parts := re.fullmatch(r"(.*?[0-9.])[ \t]*([a-zµμ]+)[ \t]*", value)):
        scale, amount = _SECONDS_IN.get(parts[2], math.nan), parts[1]
    count = number(amount)
    seconds = -1.0
    if count is not None and not math.isnan(scale):
        # divided, not multiplied by a rounded 1e-6, so that 10us is 10e-6 to the last bit
        seconds = count * scale if scale >= 1 else count / round(1 / scale)
    if seconds < 0 or (seconds == 0 and not zero):
        raise UsageError(f"{_named(name, value)} is not a time; write 10us, 1.5ms, 90s, 10m or 1h")
    if seconds > MOST_SECONDS:
        raise UsageError(
            f"{_named(name, value)} is more than {MOST_SECONDS:.0f} s, the longest time that is allowed"
        )
    return seconds


def _named(name: str, value: object) -> str:
    return f"{name} {shown(value)}" if name else shown(value)


def parse_bytes(value: object, name: str = "") -> int:
    """Read an amount of memory in bytes: ``8GiB``, ``512MiB``, ``4GB`` or a plain number.

    ``name`` is what an error message calls the value.
    """
    scale, amount = 1, value
    if isinstance(value, str) and (parts := re.fullmatch(r"(.*?[0-9.])[ \t]*([kKMGT]i?)?B?[ \t]*", value)):
        unit = (parts[2] or "").upper()
        power = " KMGT".index(unit[0]) if unit else 0
        scale, amount = (1024 if unit.endswith("I") else 1000) ** power, parts[1]
    count = number(amount)
    size = 0.0 if count is None else count * scale
    if size < 1:
        raise UsageError(
            f"{_named(name, value)} is not an amount of memory; write 8GiB, 512MiB or a number of bytes"
        )
    if size > MOST_BYTES:
        raise UsageError(f"{_named(name, value)} is more than {MOST_BYTES} bytes, the most that is allowed")
    return int(size)
