"""Compare the estimate of a run with what the runs in results/reference/ took.

    python benchmarks/estimates.py DATA

DATA is a data folder; trainings whose data is not there are estimated from their options alone. The
estimate is that of a machine that has measured nothing. Prints a row for each folder, probe and task: the
number of cells, the seconds that they took, those of the estimate, and the estimate over what they took.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from effbench.common import registry
from effbench.common.extent import Extent
from effbench.common.spec import Cell, UsageError
from effbench.records.store import Store
from effbench.sweep.estimate import Estimate, whole_seconds

REFERENCE = Path(__file__).parents[1] / "results" / "reference"


def main() -> None:
    """Print the table, then the same by folder."""
    data = Path(sys.argv[1])
    rows = []
    for folder in sorted(path.parent for path in REFERENCE.glob("*/records.jsonl")):
        done = [record for record in Store(folder).read()[0] if record.status == "ok"]
        cells = [record.cell for record in done]
        estimate = Estimate((), extents_of(cells, data))
        for record in done:
            cell = record.cell
            expected_s = estimate.seconds(cell)
            rows.append((folder.name, cell.probe, cell.task or "", 1, whole_seconds(record), expected_s))
    frame = pd.DataFrame(rows, columns=["folder", "probe", "task", "cells", "took_s", "estimate_s"])
    for keys in (["folder", "probe", "task"], ["folder"]):
        sums = frame.groupby(keys)[["cells", "took_s", "estimate_s"]].sum()
        sums["ratio"] = sums["estimate_s"] / sums["took_s"]
        print(sums.round(2).to_string(), end="\n\n")


def extents_of(cells: list[Cell], data: Path) -> dict[tuple[str, int], Extent]:
    """Return the extents of trainings by task and length, as far as their data is there."""
    found = {}
    for cell in cells:
        key = cell.task_label, cell.seq_len
        if cell.task is None or key in found:
            continue
        task = registry.load(registry.find(cell.task, "task"))(**cell.task_options)
        try:
            task.fingerprint(data)
            task.check_length(cell.seq_len, data)
            found[key] = task.extent(cell.seq_len, cell.seed, data)
        except (UsageError, OSError) as error:
            print(f"from its options alone: {cell.task_label} at {cell.seq_len}: {error}", file=sys.stderr)
            found[key] = None
    return {key: extent for key, extent in found.items() if extent is not None}


if __name__ == "__main__":
    main()
