"""How often the gate cries wolf, and how often it finds a slowdown that is there.

    python benchmarks/gate_proof.py measure --minutes 25 --burners 0 --out quiet.jsonl.gz
    python benchmarks/gate_proof.py report quiet.jsonl.gz

``measure`` plays rounds as the gate does, with fresh workers each, on two folders of code: Fastformer, and
Fastformer with a share of its own work done twice. Cells whose share is 0 are the same code on both sides.
It appends a round a line, and can be stopped and gone on with. ``report`` feeds the rounds of every file to
the gate's own rules, in two ways: one after the other, each round used once (what really happened), and drawn
with replacement, many times over (what rounds like these do, for rates too small to be counted).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from gate_peers import burners

from effbench import machine
from effbench.analyse.statistics import mean_interval, proportion_interval
from effbench.gate.decide import Plan, Round
from effbench.gate.judge import Track
from effbench.gate.lockstep import play
from effbench.spec import Cell

LENGTHS, MODES = (512, 2048), ("forward", "train")
D_MODEL, HEADS = 128, 8
EXTRAS = (0.03, 0.05, 0.10, 0.20)
CELL_S = 0.4  # of turns, a cell and round
ROUNDS = 11  # that two minutes hold for a gate of four cells
THRESHOLD, FLOOR_S, ERROR = 0.05, 10e-6, 0.01
GATES, DECISIONS = 1000, 2000  # drawn with replacement

CODE = '''\
"""Fastformer, and as many rows of its own first product once more as ``rows`` says."""

import torch
from torch.nn import functional as F

from baselines.attention.fastformer import Fastformer

PLANTED = {planted}


class _Tied(torch.autograd.Function):
    """The first argument; the second gets a gradient of zero, so that its backward runs all the same."""

    @staticmethod
    def forward(context, out, work):
        context.save_for_backward(work)
        return out.view_as(out)

    @staticmethod
    def backward(context, gradient):
        (work,) = context.saved_tensors
        return gradient, torch.zeros_like(work)


class Planted(Fastformer):
    """Fastformer that does some of its work twice, if it is the head."""

    order = 1.0
    source = "Wu et al. 2021, arXiv 2108.09084"

    def __init__(self, d_model, heads, *, max_len, causal=False, rows: int = 0, copy: int = 0):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.rows = rows if PLANTED else 0

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        if not self.rows:
            return out
        tokens = x.detach().flatten(0, 1)
        tokens = tokens.repeat(-(-self.rows // len(tokens)), 1)[: self.rows] if self.rows > len(tokens) else (
            tokens[: self.rows]
        )
        work = F.linear(tokens, self.query.weight)
        return _Tied.apply(out, work) if torch.is_grad_enabled() else out
'''


def plant(folder: Path) -> dict[str, Path]:
    """The two folders: the head does the extra work, the base takes its options and does not."""
    roots = {}
    for side in ("base", "head"):
        roots[side] = folder / side
        roots[side].mkdir()
        (roots[side] / "attn.py").write_text(CODE.format(planted=side == "head"), encoding="utf-8")
    return roots


def rows_for(folder: Path) -> dict[tuple[int, str, float], int]:
    """How many rows make about each extra share; found from two sizes, so that it is only about right.

    What a share really costs is seen in all rounds together; ``report`` judges by that.
    """
    found = {}
    for mode in MODES:
        for length in LENGTHS:
            sizes = (64, 8 * length)
            cells = [cell(length, mode, rows) for rows in sizes]
            shares = []
            for one in play(plant_once(folder), cells, seconds=6.0, rng=random.Random(0)):
                shares.append(float(np.expm1(one.ratio.median)))
            slope = (shares[1] - shares[0]) / (sizes[1] - sizes[0])
            fixed = shares[0] - slope * sizes[0]
            for extra in EXTRAS:
                found[length, mode, extra] = max(1, round((extra - fixed) / slope))
            print(f"{mode} at {length}: {shares[0]:.1%} for {sizes[0]} rows, {shares[1]:.1%} for {sizes[1]}")
    return found


def plant_once(folder: Path) -> dict[str, Path]:
    """The planted folders, made if they are not there."""
    if (folder / "base").is_dir():
        return {side: folder / side for side in ("base", "head")}
    return plant(folder)


def cell(length: int, mode: Any, rows: int, copy: int = 0) -> Cell:
    """A cell of the planted mechanism; ``copy`` tells apart those that are otherwise the same."""
    return Cell(
        mechanism="attn.py:Planted",
        options={"rows": rows, "copy": copy},
        probe="time",
        mode=mode,
        seq_len=length,
        d_model=D_MODEL,
        heads=HEADS,
    )


def measure(minutes: float, burning: int, out: Path, same: int) -> None:
    """Append rounds for so many minutes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        roots = plant_once(folder)
        known = next(lines(out), None) if out.exists() else None
        if known is None:
            rows = rows_for(folder)
            head = {
                "machine": machine.name(),
                "burners": burning,
                "cell_s": CELL_S,
                "rows": [[*key, value] for key, value in rows.items()],
            }
            append(out, head)
        else:
            rows = {(n, mode, extra): value for n, mode, extra, value in known["rows"]}
        asked = [(0.0, copy, n, mode) for copy in range(same) for n in LENGTHS for mode in MODES]
        asked += [(extra, 0, n, mode) for extra in EXTRAS for n in LENGTHS for mode in MODES]
        cells = [cell(n, mode, rows.get((n, mode, extra), 0), copy) for extra, copy, n, mode in asked]
        rng = random.Random()
        end = time.monotonic() + 60 * minutes
        with ExitStack() as stack:
            if burning:
                stack.enter_context(burners(burning))
            while time.monotonic() < end:
                began = time.monotonic()
                found = play(roots, cells, seconds=CELL_S * len(cells), rng=rng)
                entry = {
                    "seconds": round(time.monotonic() - began, 2),
                    "load_1min": machine.load_1min(),
                    "cells": [
                        {"cell": key, "ns": [[round(s * 1e9) for s in series] for series in
                                             (one.base_s, one.head_s, one.again_s)]}
                        for key, one in zip(asked, found, strict=True)
                    ],
                }  # fmt: skip
                append(out, entry)
                print(f"{entry['seconds']} s, {max(0, end - time.monotonic()):.0f} s left", flush=True)


def append(out: Path, entry: dict[str, Any]) -> None:
    """Add one line to a gzip file; each line is a member of its own, so that a cut loses one line at most."""
    with gzip.open(out, "at", encoding="utf-8") as file:
        file.write(json.dumps(entry, separators=(",", ":")) + "\n")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The parsed lines of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


Key = tuple[float, int, int, str]


def rounds_of(path: Path) -> tuple[dict[str, Any], dict[Key, list[Round]], list[float]]:
    """(the head line, the rounds of each cell in order, seconds of each round)."""
    head, *rest = lines(path)
    found: dict[Key, list[Round]] = {}
    for entry in rest:
        for each in entry["cells"]:
            base, again_head, again = ([ns * 1e-9 for ns in series] for series in each["ns"])
            key = tuple(each["cell"])
            found.setdefault(key, []).append(Round(base_s=base, head_s=again_head, again_s=again))
    return head, found, [entry["seconds"] for entry in rest]


def verdict(rounds: Iterator[Round], plan: Plan) -> tuple[str, int]:
    """(the gate's verdict on rounds as they come, within what two minutes hold; how many it took).

    An unfinished decision, for want of rounds, is "".
    """
    track = Track(cell=cell(LENGTHS[0], "forward", 0), threshold=THRESHOLD, floor_s=FLOOR_S, plan=plan)
    used = 0
    while not track.done and used < ROUNDS:
        one = next(rounds, None)
        if one is None:
            return "", used
        track.add(one)
        used += 1
    if not track.done:
        track.end()
    return track.line("two minutes").verdict, used


def in_order(rounds: Sequence[Round], plan: Plan) -> Iterator[tuple[str, int]]:
    """Decisions one after the other, every round used once."""
    left = iter(rounds)
    while True:
        found, used = verdict(left, plan)
        if not found:
            return
        yield found, used


def share(hits: int, trials: int) -> str:
    """``12 of 60: 20.0 % [11.8, 31.8]``, Wilson's interval."""
    if not trials:
        return "none"
    p, low, high = proportion_interval(hits, trials)
    return f"{hits} of {trials}: {100 * p:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def report(paths: Sequence[Path]) -> Iterator[str]:
    """The tables, a line each, as Markdown."""
    for path in paths:
        yield from _report(path)


def _report(path: Path) -> Iterator[str]:
    head, cells, seconds = rounds_of(path)
    four = Plan(cells=len(LENGTHS) * len(MODES), error=ERROR)
    rng = random.Random(0)
    yield f"\n## {path.name.split('.')[0]}: {head['burners']} burners, {head['machine']}\n"
    yield (
        f"{len(seconds)} rounds of {len(cells)} cells, {np.median(seconds):.1f} s each; "
        f"{head['cell_s']} s of turns a cell and round; threshold {THRESHOLD:.0%}, "
        f"floor {FLOOR_S * 1e6:.0f} µs, error {ERROR:.0%} a gate\n"
    )
    yield "| planted | measured | verdicts, each round used once | slower | rounds | slower, drawn |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for extra in sorted({key[0] for key in cells}):
        own = {key: rounds for key, rounds in cells.items() if key[0] == extra}
        truths = [mean_interval([one.ratio.median for one in rounds]) for rounds in own.values()]
        written = ", ".join(
            f"{np.expm1(m):+.1%} ± {(h - low) / 2:.1%}" for m, low, h in truths[: len(LENGTHS) * len(MODES)]
        )
        found = [each for rounds in own.values() for each in in_order(rounds, four)]
        counted = Counter(name for name, _ in found)
        pools = list(own.values())
        drawn = Counter(
            verdict(iter(rng.choices(rng.choice(pools), k=ROUNDS)), four)[0] for _ in range(DECISIONS)
        )
        yield (
            f"| {extra:.0%} | {written} | {', '.join(f'{n} {name}' for name, n in counted.most_common())} | "
            f"{share(counted['slower'], len(found))} | {np.mean([used for _, used in found]):.1f} | "
            f"{share(drawn['slower'], DECISIONS)} |"
        )
    yield ""
    yield from _gates([rounds for key, rounds in cells.items() if key[0] == 0.0], rng)


def _gates(same: Sequence[Sequence[Round]], rng: random.Random) -> Iterator[str]:
    """Gates of 24 unchanged cells, their rounds drawn together so that they share what they shared."""
    plan = Plan(cells=24, error=ERROR)
    picked = [same[i % len(same)] for i in range(24)]
    rounds = min(len(each) for each in same)
    wrong = Counter[str]()
    for _ in range(GATES):
        order = rng.choices(range(rounds), k=ROUNDS)
        verdicts = {verdict(iter([cell_rounds[i] for i in order]), plan)[0] for cell_rounds in picked}
        wrong["slower"] += "slower" in verdicts
        wrong["faster"] += "faster" in verdicts
        wrong["suspected"] += "suspected" in verdicts
    yield f"Gates of 24 unchanged cells, drawn: slower in {share(wrong['slower'], GATES)}; "
    yield f"suspected (which fails nothing) in {share(wrong['suspected'], GATES)}; "
    yield f"faster in {share(wrong['faster'], GATES)}."


def main() -> None:
    """Measure or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("--minutes", type=float, required=True)
    one.add_argument("--burners", type=int, default=0)
    one.add_argument("--same", type=int, default=4, help="how many times each unchanged cell is there [4]")
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("report")
    two.add_argument("files", type=Path, nargs="+")
    asked = parser.parse_args()
    if asked.command == "measure":
        measure(asked.minutes, asked.burners, asked.out, asked.same)
    else:
        for line in report(asked.files):
            print(line)
    sys.exit(0)


if __name__ == "__main__":
    main()
