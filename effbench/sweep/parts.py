"""Parts of a sweep, for several processes or machines: whole blocks, so that pairs stay together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from effbench.common.spec import Cell, UsageError, block_of
from effbench.common.wording import shown
from effbench.sweep.estimate import Estimate
from effbench.sweep.sweep import Sweep


def blocks_of(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Return the cells of each block, by the block's key, in the order of the cells."""
    blocks: dict[str, list[Cell]] = {}
    for cell in cells:
        blocks.setdefault(block_of(cell), []).append(cell)
    return blocks


def part(sweep: Sweep, cells: Iterable[Cell]) -> Sweep:
    """Return the part of a sweep with these cells; the file and the name of the sweep stay."""
    return replace(sweep, only=frozenset(cell.key for cell in cells))


def parse_shard(text: str) -> tuple[int, int]:
    """Return (number, count) of ``3/8``, the third of eight shards. Raises UsageError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"shard {shown(text)} is not i/n with a number i from 1 to n, such as 3/8")
    return number, count


def shard(sweep: Sweep, number: int, count: int) -> Sweep:
    """Return the shard ``number`` (from 1) of ``count``: whole blocks, each of them in exactly one shard.

    It follows from the sweep's cells alone, whatever is measured already: the blocks are dealt out by the
    estimated time of their planned cells, the longest first, each to the shard that has least so far. If
    there are more shards than blocks, some have no cells. Raises UsageError if a grid does not name its
    threads: their default is the number of cores, and the shards of two machines would not fit together.
    """
    if any("threads" not in grid for grid in sweep.grids):
        raise UsageError(
            "shards need --threads: by default a cell has as many threads as its machine has cores, so that "
            "the shards of different machines would not fit together"
        )
    expected_ms = dict.fromkeys(blocks := blocks_of(sweep.cells(most=True)), 0)
    estimate = Estimate()
    for cell in sweep.cells():
        expected_ms[block_of(cell)] += round(1000 * estimate.seconds(cell))
    loads = [0] * count
    mine: list[Cell] = []
    for key in sorted(blocks, key=lambda key: (-expected_ms[key], key)):
        least = loads.index(min(loads))
        loads[least] += expected_ms[key]
        if least == number - 1:
            mine += blocks[key]
    return part(sweep, mine)
