"""How often the gate cries wolf, and how often it finds a slowdown that is there.

    python benchmarks/gate_proof.py measure --minutes 25 --burners 0 --out quiet.jsonl.gz
    python benchmarks/gate_proof.py report quiet.jsonl.gz

``measure`` plays rounds as the gate does, with fresh workers each, on two folders of code: Fastformer, and
Fastformer with a share of its own work done twice. Cells whose share is 0 are the same code on both sides.
With ``--together`` all shares of one length and mode are called within the same turns, against the same
two calls of the base. An hour then holds two to three times as many decisions. But turns are longer and so
noisier than a gate's, the head's process is called more often than the base's and so some 2 % faster, and
what is decided of one share depends on the others. ``--like FILE`` takes the planted work from a file.
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
from effbench.gate.lockstep import SIDES, ask_s, build, one_core, play, turn_for
from effbench.gate.workers import Nursery, Worker
from effbench.spec import Cell

LENGTHS, MODES = (512, 2048), ("forward", "train")
D_MODEL, HEADS = 128, 8
EXTRAS = (0.03, 0.05, 0.10, 0.20)
CELL_S = 1.6  # of turns, a cell and round, as a gate of four cells within two minutes has
TURNS = 55  # of a cell in a round of cells that share a base
ROUNDS = 11  # that two minutes hold for a gate of four cells
THRESHOLD, FLOOR_S, ERROR = 0.05, 10e-6, 0.01
GATES, DECISIONS = 1000, 2000  # drawn with replacement

Asked = tuple[float, int, int, Any]  # share, copy, length, mode

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


def rows_for(roots: dict[str, Path], rng: random.Random) -> dict[tuple[int, Any, float], int]:
    """How many rows make about each extra share: on a line through two sizes, the second time about those.

    It is only about right. What a share really costs is seen in all rounds together; ``report`` tells that.
    """
    kinds = [(n, mode) for n in LENGTHS for mode in MODES]
    sizes = {(n, mode): (64, 8 * n) for n, mode in kinds}
    found: dict[tuple[int, Any, float], int] = {}
    for count in (2, 8):
        asked: list[Asked] = [(0.0, i, n, mode) for i in range(2) for n, mode in kinds]
        cells = [cell(n, mode, sizes[n, mode][i], i) for _, i, n, mode in asked]
        with Nursery() as nursery:
            rounds = [play_together(nursery, roots, asked, cells, rng) for _ in range(count)]
        shares = {
            (n, mode, i): float(np.expm1(np.mean([played[place].ratio.median for played in rounds])))
            for place, (_, i, n, mode) in enumerate(asked)
        }
        for n, mode in kinds:
            (few, many), (less, more) = sizes[n, mode], (shares[n, mode, 0], shares[n, mode, 1])
            slope = (more - less) / (many - few)
            for extra in EXTRAS:
                found[n, mode, extra] = max(1, round(few + (extra - less) / slope))
            print(f"{mode} at {n}: {less:.1%} for {few} rows, {more:.1%} for {many}", flush=True)
            sizes[n, mode] = (found[n, mode, 0.05], found[n, mode, 0.20])
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


def play_together(
    nursery: Nursery,
    roots: dict[str, Path],
    asked: Sequence[Asked],
    cells: Sequence[Cell],
    rng: random.Random,
) -> list[Round]:
    """One round as ``lockstep.play`` has it, but cells of one length and mode share the calls of the base.

    Their options do not matter to the base, so that its two workers build each length and mode once; the
    head's has all the cells. What is in one turn then lies further apart in time than in the gate.
    """
    kinds = list(dict.fromkeys((n, mode) for _, _, n, mode in asked))
    own = {kind: [i for i, each in enumerate(asked) if each[2:] == kind] for kind in kinds}
    built = {"head": list(cells), "base": [cells[own[kind][0]] for kind in kinds]}
    built["again"] = built["base"]
    with ExitStack() as stack:
        order = rng.sample(SIDES, len(SIDES))
        workers = {
            side: stack.enter_context(Worker(nursery, side, roots["head" if side == "head" else "base"]))
            for side in order
        }
        for side in order:
            workers[side].greet()
            build(workers[side], built[side], False)
        stack.enter_context(one_core(workers, rng))
        calls = {
            kind: [("base", j), ("again", j), *(("head", i) for i in own[kind])]
            for j, kind in enumerate(kinds)
        }
        turns = {}
        for kind, places in calls.items():
            call_s = [ask_s(workers[side], i, "warm_up", i) for side, i in places]
            turns[kind] = turn_for(min(call_s))
        times: dict[tuple[Any, ...], list[float]] = {}
        for _ in range(TURNS):
            for kind in rng.sample(kinds, len(kinds)):
                turn = turns[kind]
                for side, i in rng.sample(calls[kind], len(calls[kind])):
                    time_s = ask_s(workers[side], i, "call", i, turn.untimed, turn.timed)
                    times.setdefault((side, i), []).append(time_s)
    return [
        Round(
            base_s=times["base", kinds.index(each[2:])],
            head_s=times["head", i],
            again_s=times["again", kinds.index(each[2:])],
        )
        for i, each in enumerate(asked)
    ]


def measure(
    minutes: float,
    burning: int,
    out: Path,
    same: int,
    shares: Sequence[float],
    together: bool,
    like: Path | None,
) -> None:
    """Append rounds for so many minutes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        roots = plant_once(folder)
        known = next(lines(out), None) if out.exists() else None
        if known is None:
            rows = amounts(next(lines(like))) if like else rows_for(roots, random.Random(0))
            head = {
                "machine": machine.name(),
                "burners": burning,
                "together": together,
                "rows": [[*key, value] for key, value in rows.items()],
            }
            append(out, head)
        else:
            rows = amounts(known)
        asked = [(0.0, copy, n, mode) for copy in range(same) for n in LENGTHS for mode in MODES]
        asked += [(extra, 0, n, mode) for extra in shares for n in LENGTHS for mode in MODES]
        cells = [cell(n, mode, rows.get((n, mode, extra), 0), copy) for extra, copy, n, mode in asked]
        rng = random.Random()
        end = time.monotonic() + 60 * minutes
        with ExitStack() as stack, ExitStack() as nurseries:
            if burning:
                stack.enter_context(burners(burning))
            played = 0
            while time.monotonic() < end:
                began = time.monotonic()
                if played % 3 == 0:  # as the gate does
                    nurseries.close()
                    nursery = nurseries.enter_context(Nursery())
                played += 1
                if together:
                    found = play_together(nursery, roots, asked, cells, rng)
                else:
                    found = play(nursery, roots, cells, seconds=CELL_S * len(cells), rng=rng)
                append(out, entry_of(asked, found, together, time.monotonic() - began))
                print(f"round {played}, {max(0, end - time.monotonic()):.0f} s left", flush=True)


def amounts(head: dict[str, Any]) -> dict[tuple[int, Any, float], int]:
    """The rows planted for each length, mode and share, from the first line of a file."""
    return {(n, mode, extra): value for n, mode, extra, value in head["rows"]}


def entry_of(
    asked: Sequence[Asked], found: Sequence[Round], together: bool, seconds: float
) -> dict[str, Any]:
    """A round as a line of the file: times in tenths of microseconds, a base that is shared only once."""
    if not together:
        return {
            "seconds": round(seconds, 2),
            "load_1min": machine.load_1min(),
            "cells": [
                [*each, *(_short(series) for series in (one.base_s, one.head_s, one.again_s))]
                for each, one in zip(asked, found, strict=True)
            ],
        }
    bases = {each[2:]: one for each, one in zip(asked, found, strict=True)}
    return {
        "seconds": round(seconds, 2),
        "load_1min": machine.load_1min(),
        "bases": [[n, mode, _short(one.base_s), _short(one.again_s)] for (n, mode), one in bases.items()],
        "heads": [[*each, _short(one.head_s)] for each, one in zip(asked, found, strict=True)],
    }


def _short(times_s: Sequence[float]) -> list[int]:
    return [round(s * 1e7) for s in times_s]


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
        for *key, base, head_s, again in entry.get("cells", ()):
            one = Round(base_s=_seconds(base), head_s=_seconds(head_s), again_s=_seconds(again))
            found.setdefault(tuple(key), []).append(one)
        bases = {
            (n, mode): (_seconds(base), _seconds(again)) for n, mode, base, again in entry.get("bases", ())
        }
        for extra, copy, n, mode, series in entry.get("heads", ()):
            base, again = bases[n, mode]
            one = Round(base_s=base, head_s=_seconds(series), again_s=again)
            found.setdefault((extra, copy, n, mode), []).append(one)
    return head, found, [entry["seconds"] for entry in rest]


def _seconds(series: Sequence[int]) -> list[float]:
    return [each * 1e-7 for each in series]


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
        f"{'a base for all shares' if head['together'] else 'a base for each'}; threshold {THRESHOLD:.0%}, "
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
    one.add_argument("--shares", type=float, nargs="+", default=EXTRAS, help="planted; of EXTRAS")
    one.add_argument("--together", action="store_true", help="one base for all shares")
    one.add_argument("--like", type=Path, help="a file whose amounts of work are to be planted")
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("report")
    two.add_argument("files", type=Path, nargs="+")
    asked = parser.parse_args()
    if asked.command == "measure":
        measure(asked.minutes, asked.burners, asked.out, asked.same, asked.shares, asked.together, asked.like)
    else:
        for line in report(asked.files):
            print(line)
    sys.exit(0)


if __name__ == "__main__":
    main()
