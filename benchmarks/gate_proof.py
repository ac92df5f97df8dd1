"""How often the gate cries wolf, and how often it finds a slowdown that is there.

    python benchmarks/gate_proof.py measure --minutes 25 --burners 0 --planted DIR --out quiet.jsonl.gz
    python benchmarks/gate_proof.py report quiet.jsonl.gz peers.jsonl

``measure`` plays rounds as the gate does, with fresh workers each, on folders of code: Fastformer, Fastformer
again, and Fastformer with a share of its own work done twice, as gate_peers.py plants it; how much work that
is stands in DIR, or is measured and written there. A round has one worker for the base, one for the base
again and one for each head, all called within the same turns, so that an hour holds two to three times as
many decisions as with a base for each; what is decided of two heads shares its base and is not independent.
With ``--apart`` each head has a base of its own, and with ``--turns-s 0.5`` as many turns as in a gate. It
appends a round a line, and can be stopped and gone on with.

``report`` feeds the rounds of every file to the gate's own rules, in two ways: one after the other, each
round used once (what really happened), and drawn with replacement, many times over (what rounds like these
do, for rates too small to be counted). Lines that gate_peers.py wrote it counts by tool and rule.
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
SHARED = ("base", "again")  # the workers that a round's heads have in common
TURNS_S = 0.15  # a cell, round and worker: a gate of four cells within two minutes has 0.5
ROUNDS = 11  # that two minutes hold for a gate of four cells
THRESHOLD, FLOOR_S, ERROR = 0.05, 10e-6, 0.01
COVERAGE_ROUNDS, COVERAGE_ERROR = 6, 0.1
GATES, DECISIONS = 1000, 2000  # drawn with replacement

Key = tuple[float, str, int, Any]  # share, head, length, mode


def heads_of(extras: Sequence[float], same: int, planted: Path) -> dict[str, str]:
    """The text of attn.py for every head by its name, ``0/1`` for the second one without extra work."""
    texts = {f"0/{i}": gate_peers.BASE + gate_peers.COMMENT for i in range(same)}
    for extra in extras:
        kept = planted / f"{extra:g}.json"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            gate_peers.calibrate(extra).save(kept)
        texts[f"{extra:g}"] = gate_peers.head_text(gate_peers.Calibration.load(kept).rows)
    return texts


def share_of(head: str) -> float:
    """The share of work that a head of this name does twice."""
    return float(head.partition("/")[0])


def write_folders(place: Path, heads: Mapping[str, str]) -> dict[str, Path]:
    """A folder with an attn.py for each head, and for the base."""
    folders = {}
    for name, text in ({"base": gate_peers.BASE} | dict(heads)).items():
        folders[name] = place / name.replace("/", "-")
        folders[name].mkdir()
        (folders[name] / "attn.py").write_text(text, encoding="utf-8")
    return folders | {"again": folders["base"]}


def cell(length: int, mode: Any) -> Cell:
    """A cell of the planted mechanism."""
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
    """Append rounds for so many minutes, of ``worker_s`` seconds of turns a cell and worker."""
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
            found: list[list[Any]] = []
            for group in [[head] for head in heads] if apart else [list(heads)]:
                own = {name: folders[name] for name in (*SHARED, *group)}
                turns_s = worker_s * len(own) * len(cells)
                for kind, times in zip(
                    KINDS, take_turns(nursery, own, cells, seconds=turns_s, rng=rng), strict=True
                ):
                    found.append([*kind, {name: _short(series) for name, series in times.items()}])
            entry = {"seconds": round(time.monotonic() - began, 2), "load_1min": machine.load_1min()}
            append(out, entry | {"times": found})
            print(f"round {played}, {max(0, end - time.monotonic()):.0f} s left", flush=True)


def _short(times_s: Sequence[float]) -> list[int]:
    """In tenths of microseconds."""
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


def rounds_of(path: Path) -> tuple[dict[str, Any], dict[Key, list[Round]], list[float]]:
    """(the head line, the rounds of each cell in order, seconds of each round)."""
    first, *rest = lines(path)
    found: dict[Key, list[Round]] = defaultdict(list)
    for entry in rest:
        for length, mode, times in entry["times"]:
            base, again = (_seconds(times[name]) for name in SHARED)
            for head in times.keys() - set(SHARED):
                one = Round(base_s=base, head_s=_seconds(times[head]), again_s=again)
                found[share_of(head), head, length, mode].append(one)
    return first, dict(sorted(found.items())), [entry["seconds"] for entry in rest]


def _seconds(series: Sequence[int]) -> list[float]:
    return [each * 1e-7 for each in series]


def verdict(rounds: Iterator[Round], plan: Plan) -> tuple[str, int]:
    """(the gate's verdict on rounds as they come, within what two minutes hold; how many it took).

    An unfinished decision, for want of rounds, is "".
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
    yield _coverage(cells)


def _coverage(cells: Mapping[Key, Sequence[Round]]) -> str:
    """How many intervals of a few rounds miss where they should lie, beside how many may.

    Of unchanged code the truth is 1. Of the others it is what all rounds of the cell say, theirs included.
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


def _peers(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What whole runs of the tools decided, on the same code."""
    yield "\n## The tools on the same commits\n"
    yield "| burners | planted | tool, rule | runs that fail | cells that fail | seconds a run |"
    yield "| --- | --- | --- | --- | --- | --- |"
    groups: dict[tuple[Any, ...], list[tuple[Mapping[str, Any], float]]] = defaultdict(list)
    for line in found:
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
    one.add_argument("--same", type=int, default=2, help="heads without extra work [2]")
    one.add_argument("--shares", type=float, nargs="*", default=EXTRAS, help="of extra work, a head each")
    one.add_argument("--apart", action="store_true", help="a base for each head")
    one.add_argument(
        "--turns-s", type=float, default=TURNS_S, help=f"seconds of turns a cell and worker [{TURNS_S}]"
    )
    one.add_argument("--planted", type=Path, required=True, help="folder of the amounts of extra work")
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
