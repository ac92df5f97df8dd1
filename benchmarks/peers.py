"""Compare our mechanisms with the best public implementations: time, memory and the longest sequence.

    pip install 'effbench[peers]'   (and pytorch-fast-transformers: see docs/mechanisms.md)
    python benchmarks/peers.py FOLDER [family ...]

measures into FOLDER/<family>, keeps existing records, and prints Markdown: for each shape the ratio of ours
over theirs with its interval, paired by repeat. It takes more than two hours on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import effbench
from effbench.records.analyse.statistics import paired_ratio
from effbench.records.analyse.summary import label

# Our mechanism, and the one that it is compared with.
FAMILIES = {
    "fastformer": ("fastformer", "authors:fastformer"),
    "linformer": ("linformer", "lucidrains:linformer"),
    "longformer-window": ("longformer:global_tokens=0", "lucidrains:local"),
    "longformer-global": ("longformer", "hf:longformer"),
    "bigbird": ("bigbird", "hf:bigbird"),
    "linear": ("linear", "fast-transformers:linear"),
    "linear-causal": ("linear:causal=true", "fast-transformers:linear:causal=true"),
    "longformer-causal": ("longformer:causal=true,global_tokens=0", "lucidrains:local:causal=true"),
    "performer": ("performer", "lucidrains:performer"),
    "nystromformer": ("nystromformer", "hf:nystromformer"),
    "fnet": ("fnet", "hf:fnet"),
    "vanilla": ("vanilla", "torch:sdpa"),
    "vanilla-mha": ("vanilla", "torch:mha"),
}
# (lengths, width and heads, batch sizes); vanilla's calls at 16,384 tokens would take most of the time.
WIDTHS = ((256, 16), (512, 8))
WHOLE = tuple(([1024, 4096, 16384], width, [1, 4]) for width in WIDTHS)
SHORT = tuple(([1024, 4096], width, [1, 4]) for width in WIDTHS)
SHAPES = {**dict.fromkeys(FAMILIES, WHOLE), **dict.fromkeys(("vanilla", "vanilla-mha"), SHORT)}
# Every mechanism of ours whose order is linear, at a length that only such a one can reach.
LONG = (
    "fastformer", "fastformer:causal=true", "linformer", "longformer", "longformer:global_tokens=0",
    "longformer:causal=true", "bigbird", "linear", "linear:causal=true", "performer", "performer:causal=true",
    "cosformer", "cosformer:causal=true", "nystromformer", "luna", "poolingformer",
    "poolingformer:causal=true", "fnet",
)  # fmt: skip
LONGEST = 131_072
LONG_MEMORY = "6GiB"
ROW = ["seq_len", "d_model", "heads", "batch_size"]


def main() -> None:
    """Measure and report."""
    folder, wanted = Path(sys.argv[1]), sys.argv[2:] or [*FAMILIES, "long"]
    frames = {}
    for family in wanted:
        print(f"{family} ...", file=sys.stderr)
        effbench.run(_sweep(family), folder / family)
        frames[family] = effbench.load(folder / family, raw=True)
    for line in report(frames):
        print(line)


def _sweep(family: str) -> effbench.Sweep:
    if family == "long":
        grids = [_grid(LONG, [LONGEST], (256, 16), [1], ["memory"])]
        head = f'name = "long"\nmemory_limit = "{LONG_MEMORY}"\n'
    else:
        grids = [_grid(FAMILIES[family], *shape, ["time", "memory"]) for shape in SHAPES[family]]
        head = f'name = "{family}"\n'
    return effbench.Sweep.from_toml(head + "timeout = 600\n" + "".join(grids), family, family)


def _grid(
    mechanisms: tuple[str, ...],
    lengths: list[int],
    width: tuple[int, int],
    batches: list[int],
    probes: list[str],
) -> str:
    return f"""
[[grid]]
mechanism = {list(mechanisms)}
probe = {probes}
seq_len = {lengths}
d_model = {width[0]}
heads = {width[1]}
batch_size = {batches}
seconds = 0.2
repeats = 3
max_repeats = 3
"""


def report(frames: dict[str, pd.DataFrame]) -> Iterator[str]:
    """The tables, as Markdown; ratios are ours over theirs, below 1 where ours is better."""
    first = next(iter(frames.values())).iloc[0]
    yield f"Measured on {first['machine']}, {first['threads']} threads, torch {first['torch']}, float32."
    for family, raw in frames.items():
        yield ""
        if family == "long":
            yield from _longest(raw)
        else:
            yield from _family(family, raw)


def _family(family: str, raw: pd.DataFrame) -> Iterator[str]:
    ours, theirs = FAMILIES[family]
    names = pd.Series(
        [label(*pair) for pair in zip(raw["mechanism"], raw["options"], strict=True)], raw.index
    )
    libraries = raw.loc[(names == theirs) & (raw["status"] == "ok"), "libraries"]
    yield f"## {ours} : {theirs} ({next(iter(libraries.dropna()), '') or 'torch'})"
    yield ""
    yield "| N | width, heads | batch | forward, ms | ratio | train, ms | ratio | peak | train | kept |"
    yield "|" + " --- |" * 10
    for shape, block in raw.groupby(ROW):
        n, width, heads, batch = shape
        cells = {
            (name, mode): rows for (name, mode), rows in block.groupby([names[block.index], block["mode"]])
        }
        written = [f"{n}", f"{width} / {heads}", f"{batch}"]
        for mode in ("forward", "train"):
            written += _times(cells.get((ours, mode)), cells.get((theirs, mode)))
        for mode, column in (("forward", "peak_bytes"), ("train", "peak_bytes"), ("train", "saved_bytes")):
            written.append(_exact(cells.get((ours, mode)), cells.get((theirs, mode)), column))
        yield f"| {' | '.join(written)} |"


def _times(ours: pd.DataFrame | None, theirs: pd.DataFrame | None) -> tuple[str, str]:
    pair = [_samples(rows) for rows in (ours, theirs)]
    if not all(pair):
        return "; ".join(dict.fromkeys(_failure(rows) for rows in (ours, theirs) if not _samples(rows))), ""
    if len(pair[0].keys() & pair[1].keys()) < 2:
        return "fewer than two repeats", ""
    ratio, low, high = paired_ratio(*pair)
    medians = [pd.Series([pd.Series(s).median() for s in samples.values()]).median() for samples in pair]
    return f"{1e3 * medians[0]:.3g} : {1e3 * medians[1]:.3g}", f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def _samples(rows: pd.DataFrame | None) -> dict[int, list[float]]:
    if rows is None:
        return {}
    times = rows[(rows["probe"] == "time") & (rows["status"] == "ok")]
    return dict(zip(times["repeat"], times["samples_time_s"], strict=True)) if len(times) else {}


def _failure(rows: pd.DataFrame | None) -> str:
    if rows is None:
        return "not measured"
    failed = rows[rows["status"] != "ok"].iloc[0]
    reason = failed["reason"].partition(": ")[0]  # what follows are the allocator's own words
    return f"{label(failed['mechanism'], failed['options'])} {failed['status']}: {reason}"


def _exact(ours: pd.DataFrame | None, theirs: pd.DataFrame | None, column: str) -> str:
    values = []
    for rows in (ours, theirs):
        known = pd.Series(dtype=float) if rows is None or column not in rows else rows[column].dropna()
        if known.empty:
            return "-"
        values.append(float(known.iloc[0]))
    return f"{values[0] / values[1]:.2f}" if values[1] else f"{values[0]:.0f} : 0 bytes"


def _longest(raw: pd.DataFrame) -> Iterator[str]:
    yield f"## {LONGEST:,} tokens, d_model 256, batch 1, within {LONG_MEMORY}"
    yield ""
    yield "| mechanism | forward, peak GiB | train, peak GiB |"
    yield "| --- | --- | --- |"
    for (name, options), rows in raw.groupby(["mechanism", "options"]):
        found = {}
        for row in rows.itertuples():
            peak = f"{row.peak_bytes / 2**30:.2f}" if row.status == "ok" else f"{row.status}: {row.reason}"
            found[row.mode] = peak
        yield f"| {label(name, options)} | {found['forward']} | {found['train']} |"


if __name__ == "__main__":
    main()
