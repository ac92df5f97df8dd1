"""SI numbers written with readable units."""

from __future__ import annotations

import math
from collections.abc import Callable

from effbench.common.columns import score_unit


def seconds(value: float) -> str:
    """``3.21 ms``"""
    return _scaled(value, [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")])


def size(value: float) -> str:
    """``7.02 MiB``"""
    return _scaled(value, [(2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")])


def count(value: float, unit: str = "") -> str:
    """``1.23 G``, ``1.23 GFLOP``"""
    return _scaled(
        value, [(1e12, "T" + unit), (1e9, "G" + unit), (1e6, "M" + unit), (1e3, "k" + unit), (1.0, unit)]
    )


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
