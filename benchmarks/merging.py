"""Time `effbench merge` and `effbench show` with many synthetic records, in the folders of a job array.

    python benchmarks/merging.py [RECORDS] [FOLDERS]     (default: 10000 8)

writes that many records of times, memory and FLOPs, half of the shards on one host and half on another, and a
tenth of the records twice. It prints the seconds of each command, and those of them in which it computed.
Everything is in a temporary folder that is removed at the end.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from effbench.common.spec import Cell, Mode, Record, block_of
from effbench.records import record_file

MECHANISMS = ("vanilla", "linear", "fastformer", "linformer", "longformer", "bigbird", "performer", "fnet")
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MODES: tuple[Mode, ...] = ("forward", "train")
REPEATS, SAMPLES = 5, 30


def main() -> None:
    """Write the folders, merge them and show the tables."""
    count, folders = (*map(int, sys.argv[1:3]), *(10_000, 8)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as place:
        shards = [Path(place) / f"{number}of{folders}" for number in range(1, folders + 1)]
        for shard in shards:
            (shard / "records").mkdir(parents=True)
        for number, cell in enumerate(itertools.islice(cells(), count)):
            mine = int(block_of(cell), 16) % folders
            for place_of_copy in {mine, (mine + 1) % folders} if number % 10 == 0 else {mine}:
                write(shards[place_of_copy], cell, number, f"n{place_of_copy % 2}")
        size = sum(path.stat().st_size for shard in shards for path in shard.rglob("*.json"))
        print(f"{count} cells in {folders} folders, {size / 2**20:.0f} MiB")
        out = Path(place) / "merged"
        for command in (["merge", *shards, "--out", out], ["merge", *shards, "--out", out], ["show", out]):
            began, used = time.perf_counter(), cpu_s()
            done = subprocess.run(
                [sys.executable, "-m", "effbench", *map(str, command)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds, used = time.perf_counter() - began, cpu_s() - used
            last = done.stdout.splitlines()[-1].partition(" in ")[0]
            print(f"effbench {command[0]}: {seconds:.1f} s, {used:.1f} s of processor time; {last}")


def cpu_s() -> float:
    """Return the processor time of the commands that have ended, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cells() -> Iterator[Cell]:
    """Yield the cells of a sweep over width, length, mode, repeat, mechanism and probe, without an end."""
    for d_model in itertools.count(64, 64):
        for n, mode, repeat, name in itertools.product(LENGTHS, MODES, range(REPEATS), MECHANISMS):
            for probe in ("time", "memory", "flops") if repeat == 0 else ("time",):
                yield Cell(
                    mechanism=name, probe=probe, mode=mode, seq_len=n, d_model=d_model,
                    repeat=repeat if probe == "time" else 0,
                )  # fmt: skip


def write(folder: Path, cell: Cell, number: int, host: str) -> None:
    """Write a record with as many samples as a run takes."""
    rng = np.random.default_rng(number)
    base = 1e-6 * cell.seq_len * (1 + MECHANISMS.index(cell.mechanism) / 3)
    samples = {}
    if cell.probe == "time":
        series = (base * rng.lognormal(0, 0.05, SAMPLES), 1e-4 * rng.lognormal(0, 0.02, SAMPLES))
        samples = {
            name: tuple(map(float, own)) for name, own in zip(("time_s", "control_s"), series, strict=True)
        }
    values = {"memory": {"peak_bytes": 1000 * cell.seq_len}, "flops": {"flops": 10**5 * cell.seq_len}}
    record = Record(
        cell=cell,
        status="ok",
        samples=samples,
        values={"parameters": 1000, **values.get(cell.probe, {})},
        machine={"name": "Synthetic CPU, 2 cores, 8 GiB", "host": host, "torch": "2", "machine_cores": 2},
        code="0.1.0-aaaa-bbbb",
        started=f"2026-01-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}+00:00",
        seconds=1.0,
    )
    (folder / "records" / record_file.name_of(record)).write_bytes(record_file.content_of(record))


if __name__ == "__main__":
    main()
