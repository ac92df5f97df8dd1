"""Compare tensors, and report a broken law: what all checks of an audit share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from effbench.measured.probes.correctness import TOLERANCE

Passed = tuple[str, float | None]  # what a check that passed reports, and its number if it has one


class LawBroken(Exception):
    """A mechanism breaks a law; the text says how. ``number``: the measured error, exponent or count."""

    def __init__(self, reason: str, number: float | None = None) -> None:
        super().__init__(reason)
        self.number = number


def relative_difference(actual: Tensor, expected: Tensor, largest: float | None = None) -> float:
    """Return the largest difference divided by the largest expected number, or by ``largest``.

    It is computed in float64. Infinity if a number is not finite; 0 for empty tensors.
    """
    if not expected.numel():
        return 0.0
    error = float((_wide(actual) - _wide(expected)).abs().max())
    scale = float(expected.abs().max()) if largest is None else largest
    return error / max(scale, 1e-30) if math.isfinite(error) else math.inf


def require_equal(actual: Tensor, expected: Tensor, what: str, largest: float | None = None) -> float:
    """Return the relative difference. Raises LawBroken, with ``what`` in front, if it exceeds rounding.

    What is allowed is that of the dtype of ``actual``; ``expected`` may have a wider one.
    """
    error = relative_difference(actual, expected, largest)
    allowed = TOLERANCE[actual.dtype]
    if not error <= allowed:
        raise LawBroken(f"{what}: relative difference {error:.1e}, allowed {allowed:.0e}", error)
    return error


def _wide(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t


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
