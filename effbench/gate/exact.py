"""The figures that have no noise: of one environment, so that the smallest growth is a change of the code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effbench.gate.report import Figure
from effbench.spec import Cell

FIGURES = ("flops", "peak_bytes", "saved_bytes", "parameters", "ops")
_NAMED_OPS = 6


def compare(
    cell: Cell, base: Mapping[str, Any], head: Mapping[str, Any], tolerances: Mapping[str, float]
) -> list[Figure]:
    """The figures of both sides that ``tolerances`` names, each the share by which it may grow.

    ``base`` and ``head`` are what ``Side.figures`` answers. ``ops`` is compared by the number of all
    operations; ``detail`` says which of them changed. What shrinks never fails; a figure that one side lacks
    (memory saved for backward in forward mode) is left out.
    """
    found = []
    for name in FIGURES:
        if name not in tolerances or name not in base or name not in head:
            continue
        detail = _changed(base["ops"], head["ops"]) if name == "ops" else ""
        before, after = (sum(side[name].values()) if name == "ops" else side[name] for side in (base, head))
        found.append(
            Figure(
                cell=cell, name=name, base=before, head=after, tolerance=tolerances[name],
                fails=after > before * (1 + tolerances[name]), detail=detail,
            )
        )  # fmt: skip
    return found


def _changed(base: Mapping[str, int], head: Mapping[str, int]) -> str:
    """``aten.mul.Tensor 3 -> 4, ...``: the operations whose counts differ, the largest differences first."""
    names = sorted(base.keys() | head.keys(), key=lambda n: (-abs(head.get(n, 0) - base.get(n, 0)), n))
    changed = [n for n in names if base.get(n, 0) != head.get(n, 0)]
    written = ", ".join(f"{n} {base.get(n, 0)} -> {head.get(n, 0)}" for n in changed[:_NAMED_OPS])
    return written + (f", {len(changed) - _NAMED_OPS} more" if len(changed) > _NAMED_OPS else "")
