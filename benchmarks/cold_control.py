"""Measure how long the control is slower after a call than it is later, beside each mechanism.

    python benchmarks/cold_control.py [processes]

After a call, the first operations of the control find their data and code out of the caches. The script times
50 operations after each of 60 calls, in fresh processes, and prints Markdown: the time of some of them over
that of the last twenty, and the same for what a reading keeps, which should be 1 beside every mechanism.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from statistics import geometric_mean, median

import torch

from baselines.attention.fastformer import Fastformer
from baselines.attention.linear import LinearAttention
from baselines.attention.longformer import Longformer
from baselines.attention.vanilla import Vanilla
from effbench.measured.probes.control import Control, counts

LAYERS = {
    "vanilla": Vanilla,
    "linear": LinearAttention,
    "longformer": Longformer,
    "fastformer": Fastformer,
}
LENGTHS = [128, 256, 1024, 4096]
CALLS, OPERATIONS, SHOWN = 60, 50, [0, 1, 2, 4, 8, 16]


def profile(name: str, length: int) -> tuple[float, list[list[int]]]:
    """Return the seconds of a call and, for each call, the nanoseconds of the operations after it."""
    layer = LAYERS[name](256, 16, max_len=length)
    x, mask = torch.randn(1, length, 256), torch.ones(1, length, dtype=torch.bool)
    control, clock = Control(), time.perf_counter_ns
    calls, rows = [], []
    with torch.inference_mode():
        end = time.perf_counter() + 0.5
        while time.perf_counter() < end:
            layer(x, mask)
        for _ in range(CALLS):
            start = clock()
            layer(x, mask)
            calls.append(clock() - start)
            ends = [clock()]
            for _ in range(OPERATIONS):
                control.operate()
                ends.append(clock())
            rows.append([after - before for before, after in pairwise(ends)])
    return median(calls) / 1e9, rows


def main() -> None:
    """Print the table; with a name and a length, the profile of one process as JSON."""
    if len(sys.argv) > 2:
        print(json.dumps(profile(sys.argv[1], int(sys.argv[2]))))
        return
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print("| N | mechanism | call | " + " | ".join(f"operation {i + 1}" for i in SHOWN) + " | a reading |")
    print("| --- " * (len(SHOWN) + 4) + "|")
    for length in LENGTHS:
        for name in LAYERS:
            command = [sys.executable, __file__, name, str(length)]
            calls, shares, readings = [], [], []
            for _ in range(processes):
                call_s, rows = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                late = [median(row[-20:]) for row in rows]
                calls.append(call_s)
                shares.append(
                    [median(row[i] / own for row, own in zip(rows, late, strict=True)) for i in SHOWN]
                )
                untimed, timed = counts(call_s, median(late) / 1e9)
                first = min(untimed, OPERATIONS - 20)
                kept = [median(row[first : first + timed]) for row in rows]
                readings.append(median(a / b for a, b in zip(kept, late, strict=True)))
            values = [*map(geometric_mean, zip(*shares, strict=True)), geometric_mean(readings)]
            print(
                f"| {length} | {name} | {1e3 * median(calls):.3g} ms | "
                + " | ".join(f"{v:.2f}" for v in values)
                + " |"
            )


if __name__ == "__main__":
    main()
