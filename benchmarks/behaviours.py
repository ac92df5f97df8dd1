"""Measure how MIND's behaviours are read: seconds without and with the cache, and the peak memory.

    python benchmarks/behaviours.py [rows] [news]

The rows are random, of MIND's size: 2,200,000 training impressions of 800,000 users over 160,000 news, with a
mean of 37 news in a history and 37 candidates. They are written, with a hundredth as many dev rows, to a
temporary folder that also has the cache. Each reading is a fresh process. The script prints Markdown.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROWS, NEWS, USERS = 2_200_000, 160_000, 800_000
MEAN = 37
BLOCK = 10_000  # rows at a time


def main(rows: int, news: int) -> None:
    """Write the files, read them twice, and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        for part, count in (("train", rows), ("dev", max(1, rows // 100))):
            (folder / part).mkdir()
            write_news(folder / part / "news.tsv", news)
            write_behaviours(folder / part / "behaviors.tsv", count, news, rng)
        size = (folder / "train" / "behaviors.tsv").stat().st_size
        print(f"{rows:,} rows, {size / 1e9:.2f} GB\n")
        print("| reading | s | peak memory, GiB |\n| --- | --- | --- |")
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        for reading in ("cold", "cached"):
            command = [sys.executable, __file__, "--read", name]
            said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            seconds, peak = said.split()
            print(f"| {reading} | {float(seconds):.1f} | {float(peak):.2f} |", flush=True)


def write_news(path: Path, news: int) -> None:
    """Write news with titles of ten words."""
    with path.open("w") as file:
        for i in range(news):
            title = " ".join(f"w{i * place % 9973}" for place in range(1, 11))
            file.write(f"N{i}\tnews\tnewsworld\t{title}\tAn abstract.\t\t[]\t[]\n")


def write_behaviours(path: Path, rows: int, news: int, rng: np.random.Generator) -> None:
    """Write impressions, one candidate of each clicked; lengths are geometric."""
    names = [f"N{i}" for i in range(news)]
    with path.open("w") as file:
        for first in range(0, rows, BLOCK):
            count = min(BLOCK, rows - first)
            histories, candidates = rng.geometric(1 / MEAN, size=(2, count)).tolist()
            users = rng.integers(USERS, size=count).tolist()
            for i in range(count):
                history = " ".join([names[n] for n in rng.integers(news, size=histories[i]).tolist()])
                listed = "-0 ".join([names[n] for n in rng.integers(news, size=candidates[i] + 1).tolist()])
                file.write(f"{first + i + 1}\tU{users[i]}\t11/11/2019 9:05:58 AM\t{history}\t{listed}-1\n")


def read(folder: Path) -> None:
    """Read the folder in this process; print the seconds and the peak memory."""
    from effbench.measured.data.behaviours import read_mind

    began = time.perf_counter()
    mind, _ = read_mind(folder)
    seconds = time.perf_counter() - began
    assert mind.parts["train"].contrasted.any()
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read(Path(sys.argv[2]))
    else:
        numbers = [int(text) for text in sys.argv[1:]]
        main(*[*numbers, *(ROWS, NEWS)[len(numbers) :]])
