"""Measure calls under each policy by which threads wait for each other, quiet and beside a busy process.

    python benchmarks/waiting.py measure waiting.jsonl [rounds]
    python benchmarks/waiting.py report waiting.jsonl

``measure`` times attention layers in fresh processes of effbench's fork server, which is started with each of
the policies in turn; the policies of one layer run directly one after the other. Half of the rounds run
beside one busy loop. It appends one line per cell. ``report`` prints Markdown: the time under each policy
over that under the default, quiet, and how many times longer a call takes beside the loop.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean, median

from effbench.common import machine
from effbench.common.spec import Cell, Job, Limits
from effbench.sweep.local import LocalExecutor

THREADS = machine.cores()
POLICIES: dict[str, tuple[int, dict[str, str]]] = {
    "default": (THREADS, {}),
    "GOMP_SPINCOUNT=100000": (THREADS, {"GOMP_SPINCOUNT": "100000"}),
    "GOMP_SPINCOUNT=10000": (THREADS, {"GOMP_SPINCOUNT": "10000"}),
    "GOMP_SPINCOUNT=1000": (THREADS, {"GOMP_SPINCOUNT": "1000"}),
    "OMP_WAIT_POLICY=passive": (THREADS, {"OMP_WAIT_POLICY": "passive"}),
    f"{THREADS - 1} of {THREADS} threads": (THREADS - 1, {}),
}
NAMES = {name for _, settings in POLICIES.values() for name in settings}
MECHANISMS = ("vanilla", "fastformer", "linear", "longformer")
KINDS = [(64, "forward"), (256, "forward"), (1024, "forward"), (4096, "forward"), (1024, "train")]
LIMITS = Limits(timeout_s=60.0, memory_bytes=8 * 2**30)
BUSY = [sys.executable, "-c", "while True: pass"]


def main() -> None:
    """Run the command that the arguments name."""
    command, path = sys.argv[1], Path(sys.argv[2])
    if command == "measure":
        measure(path, int(sys.argv[3]) if len(sys.argv) > 3 else 3)
    else:
        print(report([json.loads(line) for line in path.read_text().splitlines()]))


def measure(path: Path, rounds: int) -> None:
    """Append the cells of ``rounds`` quiet and as many loaded rounds to the file."""
    executors = {}
    for policy, (_, settings) in POLICIES.items():
        for name in NAMES:
            os.environ.pop(name, None)
        os.environ.update(settings)
        executors[policy] = LocalExecutor()
        executors[policy].start()
    try:
        for number in range(2 * rounds):
            loaded = number % 2 == 1
            busy = [subprocess.Popen(BUSY)] if loaded else []
            try:
                _round(executors, number // 2, loaded, path)
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
    finally:
        for executor in executors.values():
            executor.close()


def _round(executors: dict[str, LocalExecutor], number: int, loaded: bool, path: Path) -> None:
    layers = [(mechanism, *kind) for kind in KINDS for mechanism in MECHANISMS]
    random.Random(number).shuffle(layers)
    for mechanism, seq_len, mode in layers:
        for policy in random.sample(list(POLICIES), len(POLICIES)):
            cell = Cell(
                mechanism=mechanism,
                probe="time",
                mode=mode,  # type: ignore[arg-type]
                seq_len=seq_len,
                threads=POLICIES[policy][0],
                seconds=0.1,
                precision=0.0,
                repeat=number,
            )
            record = executors[policy].run(Job(cell=cell, limits=LIMITS), lambda fraction, text: None)
            row = {"policy": policy, "loaded": loaded, "round": number, "mechanism": mechanism}
            row |= {"seq_len": seq_len, "mode": mode, "status": record.status, "started": record.started}
            row |= {"others_cores": record.machine["others_cores"]} if record.machine else {}
            if record.status == "ok":
                row |= {
                    "time_s": median(record.samples["time_s"]),
                    "longest_s": max(record.samples["time_s"]),
                }
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def report(rows: list[dict]) -> str:  # type: ignore[type-arg]
    """Return Markdown: one table of quiet times and one of loaded times, by policy and kind of call."""
    times: dict[tuple, dict[int, float]] = defaultdict(dict)  # type: ignore[type-arg]
    for row in rows:
        assert row["status"] == "ok", row
        key = (row["loaded"], row["policy"], row["mechanism"], row["seq_len"], row["mode"])
        times[key][row["round"]] = row["time_s"]
    lines = []
    for loaded, title in (
        (False, "Quiet: time of a call over that with the default policy (paired by round)"),
        (True, "Beside one busy process: time of a call over the quiet one with the default policy"),
    ):
        heads = [f"{n} {mode}" for n, mode in KINDS]
        lines += [f"{title}:", "", f"| policy | {' | '.join(heads)} |", "| --- " * (len(KINDS) + 1) + "|"]
        for policy in POLICIES:
            cells = []
            for n, mode in KINDS:
                ratios = []
                for mechanism in MECHANISMS:
                    own, base = (
                        times[loaded, policy, mechanism, n, mode],
                        times[False, "default", mechanism, n, mode],
                    )
                    ratios.append(geometric_mean([own[r] / base[r] for r in own.keys() & base.keys()]))
                cells.append(f"{geometric_mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
            lines.append(f"| {policy} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
