"""Compare tensors, and report a broken law: what all checks of an audit share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Passed = tuple[str, float | None]  # what a check that passed reports, and its number if it has one

# Relative to the largest number compared. In float64 two ways to the same function differ by about 1e-13.
EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}


class LawBroken(Exception):
    """A mechanism breaks a law; the text says how. ``number``: the measured error, exponent or count."""

    def __init__(self, reason: str, number: float | None = None) -> None:
        super().__init__(reason)
        self.number = number


def relative_difference(actual: Tensor, expected: Tensor, largest: float | None = None) -> float:
    """Return the largest difference divided by the largest expected number, or by ``largest``.

    Infinity if a number is not finite; 0 for empty tensors.
    """
    if not expected.numel():
        return 0.0
    error = float((actual - expected).abs().max())
    scale = float(expected.abs().max()) if largest is None else largest
    return error / max(scale, 1e-30) if math.isfinite(error) else math.inf


def require_equal(actual: Tensor, expected: Tensor, what: str, largest: float | None = None) -> float:
    """Return the relative difference. Raises LawBroken, with ``what`` in front, if it exceeds rounding."""
    error = relative_difference(actual, expected, largest)
    allowed = EXACT[expected.dtype]
    if not error <= allowed:
        raise LawBroken(f"{what}: relative difference {error:.1e}, allowed {allowed:.0e}", error)
    return error


def identical(left: Tensor, right: Tensor) -> bool:
    """True if shape, dtype and all numbers are the same; NaN equals NaN."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    same = left == right
    return bool((same | (left.isnan() & right.isnan())).all())


def with_mask(mask: Tensor | None) -> str:
    """Return the end of a message that says whether there was a padding mask."""
    return "" if mask is None else " with a padding mask"


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``float64`` for ``torch.float64``."""
    return str(dtype).removeprefix("torch.")
