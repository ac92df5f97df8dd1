"""Parts of a sweep, for several processes or machines: whole blocks, so that pairs stay together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from effbench.common.spec import Cell
from effbench.sweep.sweep import Sweep


def block_of(cell: Cell) -> str:
    """Return a key that all cells of a block share.

    The block of a cost is all mechanisms, repeats and probes at one shape, length and mode: its times are
    compared pair by pair. The block of a training is all mechanisms with one seed, since scores are paired by
    seed.
    """
    bare = replace(cell, mechanism="", options={}, compile="none", seconds=0.0, precision=0.0)
    return bare.key if cell.probe == "accuracy" else replace(bare, probe="time", repeat=0).key


def blocks_of(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Return the cells of each block, by the block's key, in the order of the cells."""
    blocks: dict[str, list[Cell]] = {}
    for cell in cells:
        blocks.setdefault(block_of(cell), []).append(cell)
    return blocks


def part(sweep: Sweep, cells: Iterable[Cell]) -> Sweep:
    """Return the part of a sweep with these cells; the file and the name of the sweep stay."""
    return replace(sweep, only=frozenset(cell.key for cell in cells))
