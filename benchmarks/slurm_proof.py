"""Proof that a sweep on Slurm loses nothing and counts nothing twice, on three nodes of one machine.

    python benchmarks/slurm_proof.py [--seed 0] [--out results/reference/slurm-proof.md]
    python benchmarks/slurm_proof.py --only overhead

It starts a real Slurm (tests/slurm_cluster.py; as root, with Debian's packages) and has a sweep measured.
Some mechanisms of it crash, hang, or take too much memory for a process or for a whole job. Meanwhile it
kills the command at 20 random moments and starts it again, kills nodes, and kills the controller. Then it
checks the records against a log of everything that it saw (slurm_watch.py), and the table against one that is
measured without Slurm. The second part measures what a cell costs more than without Slurm. The three nodes
share the cores of this machine: what is measured says nothing about the noise of a real cluster.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import pandas as pd
import slurm_cluster
from slurm_cluster import NODES, Cluster
from slurm_watch import Watch

from effbench.common import columns, machine
from effbench.records.store import Store, load
from effbench.sweep.sweep import Sweep

PLUGINS = Path(slurm_cluster.__file__).with_name("plugins.py")
KILLS, NODE_KILLS, CONTROLLER_KILLS = 20, 5, 2
IN_SBATCH = 6  # of the kills, while sbatch runs; if a submission is due
GRACE_S = 25.0  # instead of 180 s, to wait less for submissions that never reached Slurm
SHAPE = "d_model = 16\nheads = 2\nthreads = 1\nseconds = 0.02\n"
HEAD = 'timeout = "30s"\nmemory_limit = "512MiB"\n'
SWEEP = f"""
name = "proof"
{HEAD}
[[grid]]  # ten blocks
mechanism = ["fnet", "linear", "vanilla", "fastformer"]
mode = ["forward", "train"]
seq_len = [16, 24, 32, 40, 48]
repeats = 2
max_repeats = 2
{SHAPE}
[[grid]]  # a block with a segmentation fault, an exception, os._exit, and too much memory for a process
mechanism = [{", ".join(f'"{PLUGINS}:{name}"' for name in ("Segfault", "Raises", "Exits", "Hog", "Empty"))}]
mode = "forward"
seq_len = 64
repeats = 2
max_repeats = 2
{SHAPE}
[[grid]]  # in the same block: it never returns
mechanism = "{PLUGINS}:Hang"
probe = "time"
mode = "forward"
seq_len = 64
repeats = 2
max_repeats = 2
{SHAPE}
[[grid]]  # it takes more memory than its whole job has, which Slurm then kills
mechanism = ["{PLUGINS}:Swallows", "fnet"]
probe = "time"
mode = "forward"
seq_len = 80
repeats = 2
max_repeats = 2
{SHAPE}
[[grid]]  # a job that takes so long that its node can be lost in the middle of it
mechanism = ["fnet", "linear", "vanilla", "fastformer"]
probe = "time"
mode = "forward"
seq_len = 96
repeats = 15
max_repeats = 15
{SHAPE}
[[grid]]
mechanism = ["linear", "vanilla"]
probe = "accuracy"
task = "mqar:pairs=2,vocab=32,train=256,validation=8,test=8,epochs=30,patience=30"
seq_len = 32
batch_size = 32
layers = 1
repeats = 3
{SHAPE}
"""
# For the overhead: 60 cells in one block, and the same number in twelve.
MECHANISMS = '["fnet", "linear", "vanilla", "fastformer", "luna"]'
ONE_BLOCK = f"""
name = "one-block"
{HEAD}
[[grid]]
mechanism = {MECHANISMS}
probe = "time"
mode = "forward"
seq_len = 32
repeats = 12
max_repeats = 12
{SHAPE}
"""
TWELVE = ONE_BLOCK.replace("seq_len = 32", f"seq_len = {list(range(16, 112, 8))}").replace("= 12", "= 1")
# The commands of this proof: a poll a second, so that little time passes between an event and the next.
COMMAND = f"""
from effbench.sweep.cluster import driver
driver.GRACE_S = {GRACE_S}
driver.run.__kwdefaults__["poll_s"] = 1.0
from effbench.cli import main
main()
"""
# Takes its time before and after Slurm's own sbatch, so that kills hit both.
SBATCH = """#!/bin/sh
touch {mark}
sleep 0.4
{sbatch} "$@"
code=$?
sleep 0.4
rm -f {mark}
exit $code
"""
# What a table of times, or of a process, does not repeat.
OF_TIME = ("seconds", "per_s")
NOT_REPEATED = {
    "time_interval", "slowdown", "noisy", "time_ratio", "time_ratio_low", "time_ratio_high", "flops_per_s",
    "roof_flops_per_s", "roof_share", "peak_rss_bytes", "rss_growth_bytes", "hosts",
}  # fmt: skip


def command(sweep: Path, out: Path, *more: str) -> list[str]:
    """Return the command that measures a sweep."""
    return [sys.executable, "-c", COMMAND, "run", "--config", str(sweep), "--out", str(out), *more]


class Chaos:
    """Kills the command, nodes and the controller while a sweep is measured; ``log`` says what was hit."""

    def __init__(self, cluster: Cluster, folder: Path, rng: random.Random) -> None:
        self.log = Counter[str]()
        self._cluster, self._folder, self._rng = cluster, folder, rng
        self._mark = folder / "in-sbatch"
        bin_ = folder / "bin"
        bin_.mkdir()
        script = bin_ / "sbatch"
        script.write_text(SBATCH.format(mark=self._mark, sbatch=shutil.which("sbatch")))
        script.chmod(0o755)
        self._environment = {
            **cluster.environment,
            "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        self.over = threading.Event()
        self.code = -1  # that the last command ended with

    def drive(self, sweep: Path, out: Path, kills: int, watch: Watch, cells: int) -> None:
        """Start the command, kill it, and start it again, ``kills`` times; then let it end."""
        words = command(sweep, out, "--executor", "slurm", "--quiet")
        with (self._folder / "driver.log").open("wb") as log:
            for number in range(kills):
                driver = self._start(words, log)
                if number < IN_SBATCH:
                    self._until_submitting(driver, 10.0)
                    time.sleep(self._rng.uniform(0.0, 0.8))
                else:
                    time.sleep(self._rng.uniform(0.5, 18.0))
                where = "in sbatch" if self._mark.exists() else "elsewhere"
                if driver.poll() is not None:
                    where = "after the end"
                elif not watch.submissions:
                    where = "before the first submission"
                driver.kill()
                driver.wait()
                self.log[f"command killed {where}"] += 1
                self.log["cells left at the last of these kills"] = cells - watch.finished()
            self.code = self._start(words, log).wait(timeout=900)
        self.over.set()

    def fail_nodes(self, kills: int, every_s: float) -> None:
        """Kill nodes with all that runs on them; of one only the daemon, so that its job goes on alone."""
        alone = kills // 2
        back: list[tuple[float, str]] = []
        for number in range(kills):
            self._wait(self._rng.uniform(0.6, 1.2) * every_s, back)
            busy = self._busy()
            down = {node for _, node in back}
            choice = [node for node in busy if node not in down] or [n for n in NODES if n not in down]
            if not choice or self.over.is_set():
                continue
            if number == alone:
                node = next((n for n, job in busy.items() if "N=96" in job and n not in down), choice[0])
                self._cluster.kill(node)
                self.log["node's daemon killed, its job goes on"] += 1
            else:
                node = self._rng.choice(choice)
                self._cluster.fail_node(node)
                self.log["node killed"] += 1
            self.log["of these busy"] += node in busy
            # Slurm takes half a minute to notice; one node is back before that
            back.append((time.monotonic() + (8.0 if number == 1 else 45.0), node))
        while back:
            self._wait(1.0, back, to_the_end=True)

    def fail_controller(self, kills: int, every_s: float) -> None:
        """Kill the controller, and start it again some seconds later."""
        for _ in range(kills):
            if self.over.wait(self._rng.uniform(0.6, 1.2) * every_s):
                return
            self._cluster.kill("slurmctld")
            self.log["controller killed"] += 1
            time.sleep(self._rng.uniform(4.0, 8.0))
            self._cluster.start_controller()

    def _start(self, words: Sequence[str], log: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words, stdout=log, stderr=log, env=self._environment, cwd=self._folder, start_new_session=True
        )

    def _busy(self) -> dict[str, str]:
        """Return the nodes with a running job, and the labels of its cells."""
        found = {}
        running = self._cluster.ask("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%N|%i|%j")
        ledger = self._folder / "out" / "cluster"
        for line in running.splitlines():
            node, job, name = line.split("|")
            path = ledger / f"{name}.json"
            text = path.read_text() if path.exists() else ""
            labels = re.findall(r'"label": "([^"]*)"', text)
            place = int(job.partition("_")[2] or 0)
            found[node] = labels[place] if place < len(labels) else ""
        return found

    def _wait(self, seconds: float, back: list[tuple[float, str]], *, to_the_end: bool = False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and (to_the_end or not self.over.is_set()):
            for due in [one for one in back if one[0] <= time.monotonic()]:
                back.remove(due)
                self._cluster.start_node(due[1])
            time.sleep(0.2)

    def _until_submitting(self, driver: subprocess.Popen[bytes], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._mark.exists() and driver.poll() is None and time.monotonic() < end:
            time.sleep(0.02)


def chaos(cluster: Cluster, folder: Path, seed: int, kills: int) -> Iterator[tuple[str, str]]:
    """Run the sweep on Slurm and kill; yield (what, figure, ``yes`` or ``NO``) for each row of the table."""
    rng = random.Random(seed)
    path, out = folder / "proof.toml", folder / "out"
    path.write_text(SWEEP)
    sweep = Sweep.load(path)
    cells = {cell.key for cell in sweep.cells()}
    began = time.monotonic()
    made = Chaos(cluster, folder, rng)
    with Watch(out, cluster) as watch:
        threads = [
            threading.Thread(target=made.fail_nodes, args=(NODE_KILLS, 28.0)),
            threading.Thread(target=made.fail_controller, args=(CONTROLLER_KILLS, 70.0)),
        ]
        for thread in threads:
            thread.start()
        made.drive(path, out, kills, watch, len(cells))
        for thread in threads:
            thread.join()
        time.sleep(2.0)
    yield "cells", str(len(cells))
    yield "minutes", f"{(time.monotonic() - began) / 60:.1f}"
    for what, count in made.log.items():
        yield what, str(count)
    yield from _records(out, cells, watch)
    yield from _submissions(watch)
    local = folder / "local"
    words = command(path, local, "--executor", "process", "--quiet")
    code = subprocess.run(words, check=False, cwd=folder, capture_output=True).returncode
    yield "exit code of the last command, and without Slurm", f"{made.code}, {code}"
    yield "the same exit code", _yes(made.code == code)
    yield from _tables(out, local)


def _records(out: Path, cells: set[str], watch: Watch) -> Iterator[tuple[str, str]]:
    records, problems = Store(out).read()
    keys = Counter(record.cell.key for record in records)
    files = Counter(path.name.split(".")[-2] for path in (out / "records").glob("[!.]*.json"))
    yield "every cell has exactly one record", _yes(keys == files == Counter(dict.fromkeys(cells, 1)))
    yield "files that are no sound records", str(len(problems))
    kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "superseded").glob("*.json")}
    now = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (out / "records").glob("[!.]*.json")}
    finals = {
        name: [one for one in seen if one.status != "interrupted"] for name, seen in watch.records.items()
    }
    lost = [n for n, seen in finals.items() for one in seen if one.checksum not in {now.get(n), *kept}]
    yield "finished records seen", str(sum(map(len, finals.values())))
    yield "finished records that are neither in records/ nor in superseded/", str(len(lost))
    replaced = {name: seen for name, seen in finals.items() if len(seen) > 1}
    of_hosts = [
        name for name, seen in replaced.items() if "-time-" in name and len({one.host for one in seen}) > 1
    ]
    yield "finished times measured again, so that a repeat is of one host", str(len(of_hosts))
    yield "finished records replaced for no such reason", str(len(replaced) - len(of_hosts))
    seen_before = {one.checksum for seen in finals.values() for one in seen}
    yield "cells measured a second time by a job that Slurm had given up", str(len(kept - seen_before))
    raw = load(out, raw=True)
    identity = [one.name for one in columns.KNOWN if one.role == "identity"]
    cell = [name for name in (*identity, "probe", "repeat", "seed") if name in raw]
    yield "rows of the raw table", str(len(raw))
    yield "no cell is in the raw table twice", _yes(not raw.duplicated(cell).any() and len(raw) == len(cells))


def _submissions(watch: Watch) -> Iterator[tuple[str, str]]:
    """Compare the ledger with the queue: when each block was submitted, and how long its jobs were there."""
    blocks: dict[str, list[tuple[float, str, int]]] = {}
    for name, submission in watch.submissions.items():
        for place, handed in enumerate(submission["handed"]):
            blocks.setdefault(handed["block"], []).append((submission["made_s"], name, place))
    twice = 0
    for handed_out in blocks.values():
        handed_out.sort()
        for number, (_, name, place) in enumerate(handed_out):
            _, last_s = watch.alive.get((name, place), (0.0, 0.0))
            twice += sum(made_s < last_s for made_s, *_ in handed_out[number + 1 :])
    yield "submissions written into the ledger", str(len(watch.submissions))
    yield "jobs seen in the queue", str(len(watch.alive))
    unnamed = [name for name, one in watch.submissions.items() if not one["job"]]
    there = sum((name, 0) in watch.alive for name in unnamed)
    yield "of these never in the queue, since the command was killed before", str(len(unnamed) - there)
    yield "of these ended, since the command was killed before the jobs got their orders", str(there)
    yield (
        "blocks submitted again, after that or after their jobs had ended",
        str(sum(len(made) > 1 for made in blocks.values())),
    )
    yield "blocks submitted while an earlier job of theirs was in the queue", str(twice)
    unknown = {name for name, _ in watch.alive} - set(watch.submissions)
    yield "jobs that the ledger never knew", str(len(unknown))
    yield "calls of squeue without an answer", str(watch.unanswered)


def _tables(out: Path, local: Path) -> Iterator[tuple[str, str]]:
    """Compare the tables of both runs in everything that is no time and no figure of a process."""
    identity = [one.name for one in columns.KNOWN if one.role == "identity"]
    mine, other = (load(folder).set_index(identity).sort_index() for folder in (out, local))
    yield "rows of the table, on Slurm and without", f"{len(mine)}, {len(other)}"
    yield "the same rows", _yes(mine.index.equals(other.index))
    if not mine.index.equals(other.index):
        return
    exact = [
        name
        for name in mine.columns
        if name not in NOT_REPEATED
        and columns.column(name).unit not in OF_TIME
        and not (mine[name].isna().all() and other[name].isna().all())
    ]
    differ = pd.Series(False, index=mine.index)
    for name in exact:
        a, b = (
            frame[name].map(_without_numbers) if name == "reason" else frame[name] for frame in (mine, other)
        )
        differ |= (a != b) & ~(a.isna() & b.isna())
    yield f"columns compared: {', '.join(exact)}", str(len(exact))
    swallows = mine.index.get_level_values("mechanism").str.endswith(":Swallows")
    yield "rows that differ", str(int((differ & ~swallows).sum()))
    for index in mine.index[differ & ~swallows]:
        names = [n for n in exact if mine.loc[index, n] != other.loc[index, n]]
        yield (
            f"differs: {index[0]} {index[3]} N={index[5]}",
            "; ".join(f"{n}: {mine.loc[index, n]} / {other.loc[index, n]}" for n in names),
        )
    ends = [" ".join(sorted(set(frame.loc[swallows, "status"]))) for frame in (mine, other)]
    yield (
        "status of what fills its job's memory, on Slurm, and without, where nothing ends it",
        ", ".join(ends),
    )


def _without_numbers(reason: Any) -> Any:
    return re.sub(r"[0-9]+(\.[0-9]+)?", "#", reason) if isinstance(reason, str) else reason


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


def overhead(cluster: Cluster, folder: Path) -> Iterator[tuple[str, str]]:
    """Measure the same cells without Slurm, on one node, and on three; yield rows of the table."""
    environment = {**cluster.environment, "OMP_NUM_THREADS": "1"}
    for name, text in (("one block", ONE_BLOCK), ("twelve blocks", TWELVE)):
        path = folder / f"{name.replace(' ', '-')}.toml"
        path.write_text(text)
        count = len(Sweep.load(path).cells())
        took = {}
        for where, more in (
            ("without Slurm", ["--executor", "process"]),
            ("on one node", ["--executor", "slurm", "--sbatch", "nodelist=n1"]),
            ("on three nodes", ["--executor", "slurm"]),
        ):
            out = folder / f"{path.stem}-{where.replace(' ', '-')}"
            began = time.monotonic()
            done = subprocess.run(
                command(path, out, "--quiet", *more),
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
            )
            took[where] = time.monotonic() - began
            if done.returncode:
                raise RuntimeError(done.stderr)
        for where, seconds in took.items():
            if name == "one block" and where == "on three nodes":
                continue
            figure = f"{seconds / count:.2f} s a cell, {60 * count / seconds:.0f} cells a minute"
            yield f"{count} cells in {name}, {where}", figure
        more_s = (took["on one node"] - took["without Slurm"]) / count
        yield f"overhead of a cell on one node, {name}", f"{more_s:.2f} s"


def main() -> int:
    """Run the parts that are asked for, print the table, and return 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=KILLS, help="of the command")
    parser.add_argument("--only", choices=("chaos", "overhead"))
    parser.add_argument("--out", type=Path, help="file for the table; default: it is printed only")
    options = parser.parse_args()
    if why := slurm_cluster.missing():
        print(f"no Slurm: {why}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="slurm-proof-"))
    lines = [
        "# A sweep on Slurm while everything is killed",
        "",
        f"Output of `python benchmarks/slurm_proof.py --seed {options.seed}`; {machine.name()}. The three "
        "nodes are of one machine and share its cores.",
    ]
    failed = False
    folder.chmod(0o755)  # munged is another user
    for part, title in (("chaos", "What was killed, and what is left"), ("overhead", "What a cell costs")):
        if options.only not in (None, part):
            continue
        lines += ["", f"## {title}", "", "| what | |", "| --- | --- |"]
        place = folder / part
        place.mkdir(mode=0o755)
        # small arrays, so that there are more submissions to kill
        most = 5 if part == "chaos" else 1001
        with slurm_cluster.running(place / "slurm", most_in_an_array=most) as cluster:
            if part == "chaos":
                rows = chaos(cluster, place, options.seed, options.kills)
            else:
                rows = overhead(cluster, place)
            for what, figure in rows:
                print(f"{what}: {figure}", flush=True)
                lines.append(f"| {what} | {figure} |")
                failed |= figure == "NO" or (what in MUST_BE_0 and figure != "0")
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text)
    print(f"\n{text}")
    if failed:
        print(f"FAILED; what it left is in {folder}")
    else:
        shutil.rmtree(folder)
    return int(failed)


MUST_BE_0 = {
    "files that are no sound records",
    "finished records that are neither in records/ nor in superseded/",
    "finished records replaced for no such reason",
    "blocks submitted while an earlier job of theirs was in the queue",
    "jobs that the ledger never knew",
    "rows that differ",
}


if __name__ == "__main__":
    sys.exit(main())
