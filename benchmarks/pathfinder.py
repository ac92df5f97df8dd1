"""Measure the speed of drawing Pathfinder images on one core, by side and difficulty.

    OMP_NUM_THREADS=1 python benchmarks/pathfinder.py [side ...]

prints Markdown: the best of a few runs of one block, by processor time and by wall-clock time.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from effbench.measured.data.pathfinder_dashes import CONTOUR_LENGTHS, shape_of
from effbench.measured.data.pathfinder_images import BLOCK, draw

RUNS = 5


def main(sides: list[int]) -> None:
    """Measure and print."""
    print("| side | contour | images per processor second | images per second | processor ms per image |")
    print("| --- | --- | --- | --- | --- |")
    for side in sides:
        for contour in CONTOUR_LENGTHS:
            shape = shape_of(side, contour)
            draw(shape, np.random.default_rng(0), count=1)  # warm-up: makes the tables
            busy, passed = [], []
            for run in range(RUNS):
                clock, processor = time.perf_counter(), time.process_time()
                draw(shape, np.random.default_rng(run))
                busy.append(time.process_time() - processor)
                passed.append(time.perf_counter() - clock)
            cells = (BLOCK / min(busy), BLOCK / min(passed), 1000 * min(busy) / BLOCK)
            print(f"| {side} | {contour} | {cells[0]:.0f} | {cells[1]:.0f} | {cells[2]:.2f} |", flush=True)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [32])
