"""Measured rates of the gate's false alarms and of the slowdowns that it finds.

    python benchmarks/gate_proof.py measure --minutes 25 --burners 0 --planted DIR --out quiet.jsonl.gz
    python benchmarks/gate_proof.py report quiet.jsonl.gz peers.jsonl

``measure`` plays rounds as the gate does, with fresh workers each, on folders of code: Fastformer, Fastformer
again, and Fastformer with a share of its own work done twice, as gate_peers.py plants it. DIR holds the
amounts of extra work; missing ones are measured and written there. A round has one worker for the base, one
for the base again and one for each head, all called within the same turns. An hour then holds two to three
times as many decisions as with one base per head, but decisions on two heads of a round are not independent.
With ``--apart`` each head has its own base, and with ``--turns-s 0.5`` as many turns as in a gate. It appends
one line per round; after an interruption, run it again to continue.

``report`` applies the gate's rules to the rounds of every file in two ways: one after the other, using each
round once (the counted rates), and drawn with replacement many times (for rates too small to count). Lines of
gate_peers.py are counted by tool and rule.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gate_peers
import numpy as np

from effbench.common import machine
from effbench.common.spec import Cell
from effbench.gate.decide import Plan, Round, estimate
from effbench.gate.judge import Nurseries, Track
from effbench.gate.lockstep import take_turns
from effbench.records.analyse.statistics import mean_interval, proportion_interval

KINDS = [(length, mode) for length in gate_peers.LENGTHS for mode in gate_peers.MODES]
EXTRAS = (0.03, 0.05, 0.10, 0.20)
SHARED = ("base", "again")  # the workers that the heads of a round share
TURNS_S = 0.15  # per cell, round and worker; a gate of four cells within two minutes has 0.5
ROUNDS = 11  # of a gate of four cells within two minutes
THRESHOLD, FLOOR_S, ERROR = 0.05, 10e-6, 0.01
COVERAGE_ROUNDS, COVERAGE_ERROR = 6, 0.1
GATES, DECISIONS = 1000, 2000  # drawn with replacement

Key = tuple[float, str, int, Any]  # share, head, length, mode


def heads_of(extras: Sequence[float], same: int, planted: Path) -> dict[str, str]:
    """Return the text of attn.py of every head by name; ``0/1`` is the second one without extra work."""
    texts = {f"0/{i}": gate_peers.BASE + gate_peers.COMMENT for i in range(same)}
    for extra in extras:
        kept = planted / f"{extra:g}.json"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            gate_peers.calibrate(extra).save(kept)
        texts[f"{extra:g}"] = gate_peers.head_text(gate_peers.Calibration.load(kept).rows)
    return texts


def share_of(head: str) -> float:
    """Return the share of work that the head of this name does twice."""
    return float(head.partition("/")[0])


def write_folders(place: Path, heads: Mapping[str, str]) -> dict[str, Path]:
    """Write a folder with an attn.py for each head and for the base."""
    folders = {}
    for name, text in ({"base": gate_peers.BASE} | dict(heads)).items():
        folders[name] = place / name.replace("/", "-")
        folders[name].mkdir()
        (folders[name] / "attn.py").write_text(text, encoding="utf-8")
    return folders | {"again": folders["base"]}


def cell(length: int, mode: Any) -> Cell:
    """Return a cell of the planted mechanism."""
    return Cell(
        mechanism="attn.py:Planted",
        probe="time",
        mode=mode,
        seq_len=length,
        d_model=gate_peers.D_MODEL,
        heads=gate_peers.HEADS,
    )


def measure(
    minutes: float, burning: int, out: Path, heads: Mapping[str, str], apart: bool, worker_s: float
) -> None:
    """Append rounds for some minutes, with ``worker_s`` seconds of turns per cell and worker."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        append(out, {"machine": machine.name(), "burners": burning, "apart": apart})
    cells = [cell(*kind) for kind in KINDS]
    rng = random.Random()
    end = time.monotonic() + 60 * minutes
    with ExitStack() as stack, Nurseries() as nurseries:
        folders = write_folders(Path(stack.enter_context(tempfile.TemporaryDirectory())), heads)
        stack.enter_context(gate_peers.burners(burning))
        played = 0
        while time.monotonic() < end:
            began = time.monotonic()
            played += 1
            nursery = nurseries.next()
            measured: list[list[Any]] = []
            for group in [[head] for head in heads] if apart else [list(heads)]:
                own = {name: folders[name] for name in (*SHARED, *group)}
                turns_s = worker_s * len(own) * len(cells)
                for kind, times in zip(
                    KINDS, take_turns(nursery, own, cells, seconds=turns_s, rng=rng), strict=True
                ):
                    measured.append([*kind, {name: _short(series) for name, series in times.items()}])
            entry = {"seconds": round(time.monotonic() - began, 2), "load_1min": machine.load_1min()}
            append(out, entry | {"times": measured})
            print(f"round {played}, {max(0, end - time.monotonic()):.0f} s left", flush=True)


def _short(times_s: Sequence[float]) -> list[int]:
    """The times in tenths of microseconds."""
    return [round(s * 1e7) for s in times_s]


def append(out: Path, entry: dict[str, Any]) -> None:
    """Append one line to a gzip file, each as a separate member, so that a cut loses at most one line."""
    with gzip.open(out, "at", encoding="utf-8") as file:
        file.write(json.dumps(entry, separators=(",", ":")) + "\n")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the parsed lines of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def rounds_of(path: Path) -> tuple[dict[str, Any], dict[Key, list[Round]], list[float]]:
    """Return (the first line, the rounds of each cell in order, the seconds of each round)."""
    first, *rest = lines(path)
    rounds: dict[Key, list[Round]] = defaultdict(list)
    for entry in rest:
        for length, mode, times in entry["times"]:
            base, again = (_seconds(times[name]) for name in SHARED)
            for head in times.keys() - set(SHARED):
                one = Round(base_s=base, head_s=_seconds(times[head]), again_s=again)
                rounds[share_of(head), head, length, mode].append(one)
    return first, dict(sorted(rounds.items())), [entry["seconds"] for entry in rest]


def _seconds(series: Sequence[int]) -> list[float]:
    return [tenths * 1e-7 for tenths in series]


def verdict(rounds: Iterator[Round], plan: Plan) -> tuple[str, int]:
    """Return (the gate's verdict on the rounds in their order, at most ROUNDS; how many it used).

    The verdict is "" if there are too few rounds.
    """
    track = Track(cell=cell(*KINDS[0]), threshold=THRESHOLD, floor_s=FLOOR_S, plan=plan)
    used = 0
    while not track.done and used < ROUNDS:
        one = next(rounds, None)
        if one is None:
            return "", used
        track.add(one)
        used += 1
    if not track.done:
        track.end()
    return track.comparison("two minutes").verdict, used


def in_order(rounds: Sequence[Round], plan: Plan) -> Iterator[tuple[str, int]]:
    """Yield decisions one after the other, using every round once."""
    left = iter(rounds)
    while True:
        name, used = verdict(left, plan)
        if not name:
            return
        yield name, used


def share(hits: int, trials: int) -> str:
    """``12 of 60: 20.0 % [11.8, 31.8]``, Wilson's interval."""
    if not trials:
        return "none"
    p, low, high = proportion_interval(hits, trials)
    return f"{hits} of {trials}: {100 * p:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def report(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the tables line by line, as Markdown."""
    peers = [path for path in paths if not path.name.endswith(".gz")]
    for path in paths:
        if path not in peers:
            yield from _report(path)
    if peers:
        yield from _peers([json.loads(line) for path in peers for line in path.read_text().splitlines()])


def _report(path: Path) -> Iterator[str]:
    first, cells, seconds = rounds_of(path)
    four = Plan(cells=len(KINDS), error=ERROR)
    rng = random.Random(0)
    yield f"\n## {path.name.split('.')[0]}: {first['burners']} burners, {first['machine']}\n"
    yield (
        f"{len(seconds)} rounds of {len(cells)} cells, {np.median(seconds):.1f} s each; "
        f"{'a base for each head' if first['apart'] else 'a base for all heads'}; threshold {THRESHOLD:.0%}, "
        f"floor {FLOOR_S * 1e6:.0f} µs, error {ERROR:.0%} a gate\n"
    )
    yield "| planted | measured | verdicts, each round used once | slower | rounds | slower, drawn |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for extra in sorted({key[0] for key in cells}):
        own = {key: rounds for key, rounds in cells.items() if key[0] == extra}
        written = ", ".join(
            f"{np.expm1(m):+.1%} ± {(h - low) / 2:.1%}"
            for m, low, h in (
                mean_interval([one.ratio.median for key in own if key[2:] == kind for one in own[key]])
                for kind in KINDS
            )
        )
        decisions = [decision for rounds in own.values() for decision in in_order(rounds, four)]
        counted = Counter(name for name, _ in decisions)
        pools = list(own.values())
        drawn = Counter(
            verdict(iter(rng.choices(rng.choice(pools), k=ROUNDS)), four)[0] for _ in range(DECISIONS)
        )
        yield (
            f"| {extra:.0%} | {written} | {', '.join(f'{n} {name}' for name, n in counted.most_common())} | "
            f"{share(counted['slower'], len(decisions))} | {np.mean([used for _, used in decisions]):.1f} | "
            f"{share(drawn['slower'], DECISIONS)} |"
        )
    yield ""
    yield from _gates([rounds for key, rounds in cells.items() if key[0] == 0.0], rng)
    yield _coverage(cells)


def _coverage(cells: Mapping[Key, Sequence[Round]]) -> str:
    """Say how many intervals of a few rounds miss the true ratio, and how many may.

    For unchanged code the true ratio is 1; for slowed code it is the mean of all rounds of the cell, which
    include those of the interval.
    """
    missed, made = Counter[bool](), Counter[bool]()
    for (extra, *_), rounds in cells.items():
        truth = float(np.mean([one.ratio.median for one in rounds])) if extra else 0.0
        for i in range(0, len(rounds) - COVERAGE_ROUNDS + 1, COVERAGE_ROUNDS):
            head, _ = estimate(rounds[i : i + COVERAGE_ROUNDS], COVERAGE_ERROR)
            made[bool(extra)] += 1
            missed[bool(extra)] += not head.low <= np.exp(truth) <= head.high
    return (
        f"\nIntervals of {COVERAGE_ROUNDS} rounds made to miss in {COVERAGE_ERROR:.0%}: on unchanged code "
        f"{share(missed[False], made[False])} miss 1; on slowed code {share(missed[True], made[True])} miss "
        "the mean of all the cell's rounds."
    )


def _gates(same: Sequence[Sequence[Round]], rng: random.Random) -> Iterator[str]:
    """Simulate gates of 24 unchanged cells; all draw the same rounds, to keep their correlation."""
    plan = Plan(cells=24, error=ERROR)
    picked = [same[i % len(same)] for i in range(24)]
    rounds = min(map(len, same))
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


def _peers(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the decisions of complete runs of the tools on the same code."""
    yield "\n## The tools on the same commits\n"
    yield "| burners | planted | tool, rule | runs that fail | cells that fail | seconds a run |"
    yield "| --- | --- | --- | --- | --- | --- |"
    groups: dict[tuple[Any, ...], list[tuple[Mapping[str, Any], float]]] = defaultdict(list)
    for line in entries:
        for rule, decided in line["rules"].items():
            key = (line["burners"], line["extra"], line["tool"], rule)
            groups[key].append((decided, line["seconds"]))
    for (burning, extra, tool, rule), decisions in sorted(groups.items()):
        runs = sum(decided["regressed"] for decided, _ in decisions)
        benches = [bench["regressed"] for decided, _ in decisions for bench in decided["benches"].values()]
        yield (
            f"| {burning} | {extra:.0%} | {tool} `{rule}` | {share(runs, len(decisions))} | "
            f"{share(sum(benches), len(benches))} | {statistics.median(s for _, s in decisions):.0f} |"
        )


def main() -> None:
    """Measure or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("--minutes", type=float, required=True)
    one.add_argument("--burners", type=int, default=0)
    one.add_argument("--same", type=int, default=2, help="number of heads without extra work [2]")
    one.add_argument("--shares", type=float, nargs="*", default=EXTRAS, help="of extra work, one head each")
    one.add_argument("--apart", action="store_true", help="one base per head")
    one.add_argument(
        "--turns-s", type=float, default=TURNS_S, help=f"seconds of turns per cell and worker [{TURNS_S}]"
    )
    one.add_argument("--planted", type=Path, required=True, help="folder with the amounts of extra work")
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("report")
    two.add_argument("files", type=Path, nargs="+", help="*.gz of measure, *.jsonl of gate_peers.py")
    asked = parser.parse_args()
    if asked.command == "measure":
        heads = heads_of(asked.shares, asked.same, asked.planted)
        measure(asked.minutes, asked.burners, asked.out, heads, asked.apart, asked.turns_s)
    else:
        for line in report(asked.files):
            print(line)
    sys.exit(0)


if __name__ == "__main__":
    main()
