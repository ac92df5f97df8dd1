"""Measure a small sweep at random moments, to see how times vary between calls, processes and runs.

    python benchmarks/variance.py OUT.jsonl.gz --runs 48 --gap 100 [--load 0.15] [--lock FILE]

A run measures every setting of ``SETTINGS``, one after the other; beside a load only the last one. The script
waits a random time of ``--gap`` seconds in the mean before each run; the share ``--load`` of the runs is
measured beside a busy process. It holds an exclusive lock on ``--lock`` during a run, so that other work of
this machine can be kept out with flock(1). It appends one line per cell, and continues a file that is there
already.
``python benchmarks/variance_report.py OUT.jsonl.gz`` analyses the file.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import effbench

# A mechanism under two names has twins: they should never be called different.
MECHANISMS = [
    "fastformer",
    "fastformer:interaction=product",
    "linear",
    "longformer",
    "vanilla",
    "baselines.attention.vanilla:Vanilla",
]
LENGTHS = [256, 1024]
SETTINGS = {"3 x 0.3": (3, 0.3), "6 x 0.1": (6, 0.1)}  # repeats, seconds
MOST_SAMPLES = 60  # per cell; of more, so many are kept at equal distances
# A process that is busy all the time, and one that is busy for a third of the time.
LOADS = {
    "one core": "while True: pass",
    "a third of a core": """
import time
while True:
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end: pass
    time.sleep(0.1)
""",
}


def main() -> None:
    """Measure the runs that the file does not hold yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=int, default=48)
    parser.add_argument("--gap", type=float, default=100.0, help="mean seconds between two runs")
    parser.add_argument("--load", type=float, default=0.15, help="share of runs beside a busy process")
    parser.add_argument("--lock", type=Path)
    asked = parser.parse_args()
    done = {row["run"] for row in read(asked.out)} if asked.out.exists() else set()
    chance = random.Random(20261128)
    for run in range(asked.runs):
        gap_s = chance.expovariate(1 / asked.gap)
        load = chance.choice(list(LOADS)) if chance.random() < asked.load else ""
        if run in done:
            continue
        time.sleep(gap_s)
        with locked(asked.lock), busy(load):
            time.sleep(2.0)
            settings = list(SETTINGS)[-1:] if load else SETTINGS  # a run beside a load takes minutes
            rows = [row for setting in settings for row in measured(setting)]
        lines = [json.dumps({"run": run, "load": load, **row}, separators=(",", ":")) for row in rows]
        with gzip.open(asked.out, "at") as file:
            file.write("\n".join(lines) + "\n")
        print(f"run {run}: {len(rows)} cells{f', beside {load}' if load else ''}", flush=True)


def measured(setting: str) -> list[dict[str, Any]]:
    """Measure the sweep with one setting and return a row per cell."""
    repeats, seconds = SETTINGS[setting]
    text = f"""
name = "variance"
[[grid]]
mechanism = {json.dumps(MECHANISMS)}
seq_len = {json.dumps(LENGTHS)}
probe = "time"
mode = "forward"
seconds = {seconds}
precision = 0.001
repeats = {repeats}
max_repeats = {repeats}
"""
    with tempfile.TemporaryDirectory() as folder:
        effbench.run(effbench.Sweep.from_toml(text, "variance", "variance"), Path(folder) / "out")
        raw = effbench.load(Path(folder) / "out", raw=True)
    rows = []
    for cell in raw.to_dict("records"):
        if cell["status"] != "ok":
            raise RuntimeError(f"{cell['mechanism']}: {cell['status']}: {cell['reason']}")
        name = cell["mechanism"].rpartition(":")[2] if ":" in cell["mechanism"] else cell["mechanism"]
        rows.append(
            {
                "setting": setting,
                "mechanism": f"{name}:{cell['options']}" if cell["options"] else name,
                "seq_len": cell["seq_len"],
                "repeat": cell["repeat"],
                "started": cell["started"],
                "others_cores": cell["others_cores"],
                "steal_s": cell["steal_s"],
                "waited_share": round(cell["waited_share"], 5),
                "warm_up_s": round(cell["warm_up_s"], 4),
                "time_s": float(f"{cell['time_s']:.6g}"),
                "samples_us": microseconds(cell["samples_time_s"]),
                "control_us": microseconds(cell["samples_control_s"]),
            }
        )
    return rows


def microseconds(samples: list[float]) -> list[float]:
    """Return the samples in microseconds, to five digits; of more than MOST_SAMPLES, so many."""
    count = min(len(samples), MOST_SAMPLES)
    return [float(f"{1e6 * samples[i * len(samples) // count]:.5g}") for i in range(count)]


@contextlib.contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Hold an exclusive lock on the file, if there is one."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def busy(load: str) -> Iterator[None]:
    """Keep a process busy beside the measurement; none if ``load`` is empty."""
    process = subprocess.Popen([sys.executable, "-c", LOADS[load]]) if load else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    main()
