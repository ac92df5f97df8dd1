"""Measure how fast Pathfinder images are drawn: images per second of one core, by side and difficulty.

    OMP_NUM_THREADS=1 python benchmarks/pathfinder.py [side ...]

The script prints Markdown: the fastest of a few runs of one block, in processor time and in wall-clock time.
"""

from __future__ import annotations

import sys
import time
from typing import Literal

import numpy as np

from effbench.measured.data.pathfinder_dashes import shape_of
from effbench.measured.data.pathfinder_images import BLOCK, draw

RUNS = 5
CONTOURS: tuple[Literal["baseline", "intermediate", "hard"], ...] = ("baseline", "intermediate", "hard")


def main(sides: list[int]) -> None:
    """Measure every side and contour length, and print a table."""
    print("| side | contour | images per processor second | images per second | processor ms per image |")
    print("| --- | --- | --- | --- | --- |")
    for side in sides:
        for contour in CONTOURS:
            shape = shape_of(side, contour)
            draw(shape, np.random.default_rng(0), count=1)  # warm-up: computes the tables
            processor_s, wall_s = [], []
            for run in range(RUNS):
                wall, processor = time.perf_counter(), time.process_time()
                draw(shape, np.random.default_rng(run))
                processor_s.append(time.process_time() - processor)
                wall_s.append(time.perf_counter() - wall)
            busy, elapsed = min(processor_s), min(wall_s)
            rates = f"{BLOCK / busy:.0f} | {BLOCK / elapsed:.0f} | {1000 * busy / BLOCK:.2f}"
            print(f"| {side} | {contour} | {rates} |", flush=True)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [32])
