"""Exact figures: they have no noise, so even the smallest growth comes from a change of the code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from effbench.common.spec import Cell
from effbench.common.wording import listed
from effbench.gate.report import Figure

FIGURES = ("flops", "peak_bytes", "saved_bytes", "parameters", "ops")
# How much a figure may grow: by a share, by one unit of torch's memory allocation, or by any amount.
Tolerance = float | Literal["alignment", "shown"]
DEFAULTS: Mapping[str, Tolerance] = {
    "flops": 0.0, "peak_bytes": "alignment", "saved_bytes": "alignment", "parameters": 0.0, "ops": "shown",
}  # fmt: skip
# What torch rounds allocations to: c10's gAlignment on the CPU, kMinBlockSize of its CUDA allocator.
ALIGNMENT_BYTES = {"cpu": 64, "cuda": 512}
_NAMED_OPS = 6


def compare(
    cell: Cell, base: Mapping[str, Any], head: Mapping[str, Any], tolerances: Mapping[str, Tolerance]
) -> list[Figure]:
    """Compare the figures that ``tolerances`` names and at least one side has.

    ``base`` and ``head`` are answers of ``Side.figures``. ``ops`` is compared by the total number of
    operations; ``detail`` says which of them changed. A figure that shrinks never fails. A figure that
    neither side has (memory saved for backward in forward mode) is left out.
    """
    figures = []
    for name in FIGURES:
        if name not in tolerances or (name not in base and name not in head):
            continue
        both = name in base and name in head
        detail = _changed(base["ops"], head["ops"]) if name == "ops" and both else ""
        if not both:
            detail = f"the {'head' if name in base else 'base'} has none"
        before, after = (_number(side.get(name)) for side in (base, head))
        figures.append(figure(cell, name, before, after, tolerances[name], detail))
    return figures


def figure(
    cell: Cell, name: str, base: float | None, head: float | None, tolerance: Tolerance, detail: str = ""
) -> Figure:
    """Judge one figure; a side that lacks it has None."""
    share = None if isinstance(tolerance, str) else float(tolerance)
    unit = ALIGNMENT_BYTES[cell.device.partition(":")[0]] if tolerance == "alignment" else None
    fails = False
    if base is not None and head is not None:
        may = unit if share is None else share * base * (1 + 1e-12)  # else 29 % of 100 would be 28.999
        fails = may is not None and head - base > may
    return Figure(
        cell=cell, name=name, base=base, head=head, tolerance=share, tolerance_bytes=unit, fails=fails,
        detail=detail,
    )  # fmt: skip


def _number(value: Any) -> float | None:
    return sum(value.values()) if isinstance(value, Mapping) else value


def _changed(base: Mapping[str, int], head: Mapping[str, int]) -> str:
    """``aten.mul.Tensor 3 -> 4, ...``: operations whose counts differ, largest differences first."""
    names = sorted(base.keys() | head.keys(), key=lambda n: (-abs(head.get(n, 0) - base.get(n, 0)), n))
    changed = [n for n in names if base.get(n, 0) != head.get(n, 0)]
    return listed([f"{n} {base.get(n, 0)} -> {head.get(n, 0)}" for n in changed], _NAMED_OPS)
