"""SI numbers written with readable units."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable

from effbench.common.columns import score_unit

_SECONDS = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")]
_BYTES = [(2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")]
_JOULES = [(1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")]
_COUNTS = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]


class Figure(str):
    """A number as it is printed, with the number itself, for the formats that write it in another way.

    ``value`` is in SI units; ``low`` and ``high`` are the ends of its interval, NaN if it has none.
    ``written`` is the function that formats a value. ``best`` and ``noisy`` say that the text has a ``*`` or
    a ``~``.
    """

    value: float
    low: float
    high: float
    written: Callable[[float], str]
    best: bool
    noisy: bool


def figure(
    value: float,
    written: Callable[[float], str],
    interval: tuple[float, float] = (math.nan, math.nan),
    *,
    best: bool = False,
    noisy: bool = False,
) -> str:
    """Return the value as ``written`` formats it, after ``~`` if noisy, before ``*`` if best; "" for NaN."""
    if math.isnan(value):
        return ""
    number = Figure(f"{'~' * noisy}{written(value)}{'*' * best}")
    number.value, (number.low, number.high), number.written = value, interval, written
    number.best, number.noisy = best, noisy
    return number


def shared(figures: Iterable[Figure]) -> tuple[float, str]:
    """Return (factor, unit) of the unit in which the median of some figures of one kind is printed."""
    sizes = [(abs(number.value), number.written) for number in figures]
    median, written = statistics.median_low([size for size, _ in sizes]), sizes[0][1]
    if written in (percent, points):
        return 0.01, ""
    unit = written(median).partition(" ")[2]
    known = {name: factor for factor, name in (*_SECONDS, *_BYTES, *_JOULES, *_COUNTS, (0.01, "%"))}
    return (known[unit], unit) if unit in known else (known.get(unit[:1], 1.0), unit)


def seconds(value: float) -> str:
    """``3.21 ms``"""
    return _scaled(value, _SECONDS)


def size(value: float) -> str:
    """``7.02 MiB``"""
    return _scaled(value, _BYTES)


def energy(value: float) -> str:
    """``4.21 mJ``"""
    return _scaled(value, _JOULES)


def count(value: float, unit: str = "") -> str:
    """``1.23 G``, ``1.23 GFLOP``"""
    return _scaled(value, [(factor, prefix + unit) for factor, prefix in _COUNTS])


def share(value: float) -> str:
    """``87.5 %``"""
    return f"{100 * value:.1f} %"


def percent(value: float) -> str:
    """``87.53``: per cent with two digits, as papers print scores."""
    return f"{100 * value:.2f}"


def points(value: float) -> str:
    """``-0.54``: a difference of two scores in percentage points."""
    return f"{100 * value:+.2f}"


def ratio(value: float) -> str:
    """``45.8``, ``1.15``, ``0.0675``: three significant digits."""
    return f"{value:#.3g}".rstrip(".") if abs(value) < 999.5 else f"{value:.0f}"


def p_value(value: float) -> str:
    """``0.012``, or ``<0.001``; nothing for NaN."""
    if math.isnan(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def score_words(score: str) -> str:
    """``macro F1``: a score's name in words."""
    return score.replace("_", " ").replace("f1", "F1")


def written_score(score: str) -> Callable[[float], str]:
    """Return the function that formats values of a score: shares in per cent, others as numbers."""
    return share if score_unit(score) == "share" else ratio


def length(value: float) -> str:
    """``512``, or ``4k`` for multiples of 1024: a sequence length."""
    whole = int(value)
    return f"{whole // 1024}k" if whole >= 1024 and whole % 1024 == 0 else str(whole)


def _scaled(value: float, scales: list[tuple[float, str]]) -> str:
    if value == 0 or math.isnan(value):
        return "0" if value == 0 else ""
    factor, unit = next((pair for pair in scales if abs(value) >= 0.9995 * pair[0]), scales[-1])
    scaled = value / factor
    digits = 0 if abs(scaled) >= 99.95 else 1 if abs(scaled) >= 9.995 else 2
    return f"{scaled:.{digits}f} {unit}".rstrip()
