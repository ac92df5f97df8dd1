"""What a user writes where a number is expected: whole numbers, lengths, shares, times, amounts of memory.

A number is plain ASCII digits, with a minus, a decimal point or an exponent where these make sense; no plus,
no underscores, no other script's digits, no NaN and no infinity. Every reader here raises UsageError, which
says what was read, what for, and what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from effbench.common.spec import UsageError
from effbench.common.wording import shown

MOST = 10**9  # of a length, a width, a number of tokens
MOST_SEED = 2**53
MOST_SECONDS = 2e6  # 23 days; the system's own waiting ends at 24.8
MOST_BYTES = 2**60
MOST_LENGTHS = 1000  # of one axis

_WHOLE = re.compile(r"-?[0-9]{1,4000}")  # more digits than Python reads
NUMBER = r"-?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,6})?"
_NUMBER = re.compile(NUMBER)
_BLANKS = " \t"
# A keyboard has either of the two letters: the micro sign and the Greek mu.
_SECONDS_IN = {"us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600}
_LONG = {unit: scale for unit, scale in _SECONDS_IN.items() if scale >= 1}


def whole(value: object) -> int | None:
    """The whole number that a value is or a text says; None if it is none."""
    if isinstance(value, str):
        text = value.strip(_BLANKS)
        return int(text) if _WHOLE.fullmatch(text) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """The finite number that a value is or a text says, never -0.0; None if it is none."""
    if isinstance(value, str):
        text = value.strip(_BLANKS)
        found = float(text) if _NUMBER.fullmatch(text) else math.nan
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            return None
    else:
        return None
    return found + 0.0 if math.isfinite(found) else None


def parse_whole(name: str, value: object, least: int = 1, most: int = MOST) -> int:
    """A whole number from ``least`` to ``most``; ``name`` says in a complaint what it was for."""
    found = whole(value)
    if found is None or found < least:
        raise UsageError(f"{name} {shown(value)} is not a whole number of at least {least}")
    if found > most:
        raise UsageError(f"{name} {shown(value)} is more than {most}, the most that is allowed")
    return found


def parse_lengths(value: object, name: str = "seq_len") -> list[int]:
    """``128,512``, ``512:16384:x2`` (times 2) or ``512:4096:+512`` (plus 512), ends included."""
    if not isinstance(value, str):
        return [parse_whole(name, value)]
    lengths: list[int] = []
    for part in value.split(","):
        found = _range(part, name)
        if len(lengths) + len(found) > MOST_LENGTHS:
            raise UsageError(f"{name} {shown(value)} has more than {MOST_LENGTHS} lengths")
        lengths += found
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
    found = [first]
    while found[-1] * by <= last:
        found.append(found[-1] * by)
    return found


def parse_share(name: str, value: object) -> float:
    """``2%`` or ``0.02``: a share between 0 and 1; ``name`` says in a complaint what it was for."""
    percent = isinstance(value, str) and value.strip(_BLANKS).endswith("%")
    found = number(value.strip(_BLANKS).removesuffix("%") if isinstance(value, str) else value)
    share = 0.0 if found is None else found / (100 if percent else 1)
    if not 0 < share < 1:
        raise UsageError(f"{name} {shown(value)} is not a share between 0 and 1; write 2% or 0.02")
    return share


def parse_seconds(value: object, name: str = "") -> float:
    """``90s``, ``10m``, ``1.5h`` or plain seconds; ``name`` says in a complaint what they were for."""
    return _time_s(name, value, _LONG, "write 90s, 10m or 1h", zero=False)


def parse_time_s(value: object, name: str = "", *, zero: bool = False) -> float:
    """``10us``, ``10µs``, ``1.5ms``, ``90s``, ``10m``, ``1h`` or plain seconds; 0 only if asked."""
    return _time_s(name, value, _SECONDS_IN, "write 10us, 1.5ms, 90s, 10m or 1h", zero=zero)


def _time_s(name: str, value: object, units: dict[str, float], how: str, *, zero: bool) -> float:
    scale, amount = 1.0, value
    if isinstance(value, str) and (found := re.fullmatch(r"(.*?[0-9.])[ \t]*([a-zµμ]+)[ \t]*", value)):
        scale, amount = units.get(found[2], math.nan), found[1]
    read = number(amount)
    seconds = -1.0
    if read is not None and not math.isnan(scale):
        # divided, not multiplied by a rounded 1e-6, so that 10us is 10e-6 to the last bit
        seconds = read * scale if scale >= 1 else read / round(1 / scale)
    if seconds < 0 or (seconds == 0 and not zero):
        raise UsageError(f"{_named(name, value)} is not a time; {how}")
    if seconds > MOST_SECONDS:
        raise UsageError(
            f"{_named(name, value)} is more than {MOST_SECONDS:.0f} s, the longest time that is allowed"
        )
    return seconds


def _named(name: str, value: object) -> str:
    return f"{name} {shown(value)}" if name else shown(value)


def parse_bytes(value: object, name: str = "") -> int:
    """``8GiB``, ``512MiB``, ``4GB`` or plain bytes; ``name`` says in a complaint what they were for."""
    scale, amount = 1, value
    if isinstance(value, str) and (found := re.fullmatch(r"(.*?[0-9.])[ \t]*([kKMGT]i?)?B?[ \t]*", value)):
        unit = (found[2] or "").upper()
        power = " KMGT".index(unit[0]) if unit else 0
        scale, amount = (1024 if unit.endswith("I") else 1000) ** power, found[1]
    read = number(amount)
    size = 0.0 if read is None else read * scale
    if size < 1:
        raise UsageError(
            f"{_named(name, value)} is not an amount of memory; write 8GiB, 512MiB or a number of bytes"
        )
    if size > MOST_BYTES:
        raise UsageError(f"{_named(name, value)} is more than {MOST_BYTES} bytes, the most that is allowed")
    return int(size)
