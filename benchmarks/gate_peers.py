"""Decisions of pytest-benchmark, asv and the gate on two commits with a known difference in speed.

    python -m venv peers
    peers/bin/pip install pytest pytest-benchmark asv wheel
    python benchmarks/gate_peers.py --peer-python peers/bin/python --tool asv --extra 0.1 --out tools.jsonl

Run it with the Python that has torch and effbench: the peers find both on PYTHONPATH, and nothing is
downloaded. Each decision is one line of JSON. The tools run as usual: pytest-benchmark saves the base and
compares the head with it (--benchmark-compare-fail at 5 %, with warm-up), asv runs ``continuous`` with a
factor of 1.05 and its defaults, and ``--tool effbench`` is ``effbench gate`` without exact figures. The cells
are Fastformer at 512 and 2048 tokens, forward and train. gate_proof.py uses the same cells and planted work.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import inspect
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from effbench.common.processes import environment
from effbench.common.spec import UsageError
from effbench.gate.exact import FIGURES
from effbench.records.analyse.statistics import paired_ratio

ROOT = Path(__file__).resolve().parents[1]
LENGTHS, MODES = (512, 2048), ("forward", "train")
BENCHES = tuple(f"{mode}-{length}" for length in LENGTHS for mode in MODES)
D_MODEL, HEADS, BATCH_SIZE = 128, 8, 1
PERCENT = 5
STATISTICS = ("median", "min", "mean")
# Pairs per set of fresh modules: their memory layout is random, and the true ratio is a mean over layouts.
BLOCK = 50
SEARCH_PAIRS = 200
SEARCHES = 3

BASE = '''\
"""Fastformer under a name of its own, to be compared with itself."""

from __future__ import annotations

from torch import Tensor

from baselines.attention.fastformer import Fastformer


class Planted(Fastformer):
    """Fastformer as it is."""

    order = 1.0
    source = "Wu et al. 2021, Fastformer: Additive Attention Can Be All You Need (arXiv 2108.09084)"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        return super().forward(x, mask)
'''
COMMENT = "# The same code: only this comment is new.\n"
# The queries of so many tokens once more, whose values nobody reads: outputs and gradients stay what they
# are, to the last bit.
HEAD = '''\
"""Fastformer under a name of its own, with a share of its work done twice."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.attention.fastformer import Fastformer

# tokens of a batch whose queries are made once more, by max_len and whether it trains
ROWS = {rows}


class Planted(Fastformer):
    """Fastformer, and the queries of some tokens twice."""

    order = 1.0
    source = "Wu et al. 2021, Fastformer: Additive Attention Can Be All You Need (arXiv 2108.09084)"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        with torch.no_grad():
            tokens = x.flatten(0, 1)
            whole, rest = divmod(ROWS[self.max_len, self.training], len(tokens))
            for _ in range(whole):
                F.linear(tokens, self.query.weight)
            F.linear(tokens[:rest], self.query.weight)
        return super().forward(x, mask)
'''
CALLS = '''\
"""The calls that are timed: Fastformer of this checkout, forward and train."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from attn import Planted

D_MODEL, HEADS, BATCH_SIZE = {d_model}, {heads}, {batch_size}
torch.set_num_threads(1)


{call_of}

@cache
def call(bench):
    return call_of(Planted, bench)
'''
PYTEST_BENCH = (
    CALLS
    + """

import pytest


@pytest.mark.parametrize("bench", {benches})
def test_call(benchmark, bench):
    benchmark(call(bench))
"""
)
# no setup: asv would time each call after a fresh one, cold
ASV_BENCH = (
    CALLS
    + """

def time_call(bench):
    call(bench)()


time_call.params = {benches}
time_call.param_names = ["bench"]
"""
)
# asv's runner takes what PYTHONPATH names off the path again: this says where torch and effbench are
ASV_INSTALL = '''\
"""Put a commit's file into this Python's environment."""

import shutil, sys, sysconfig
from pathlib import Path

place = Path(sysconfig.get_path("purelib"))
shutil.copy(Path(sys.argv[1]) / "attn.py", place)
(place / "elsewhere.pth").write_text("\\n".join({paths}) + "\\n")
'''


@dataclass(frozen=True)
class Truth:
    """The head's time over the base's with its 95 % interval, from pairs of calls in one process."""

    ratio: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The number of tokens whose queries are computed twice in each bench, and the measured ratio."""

    extra: float
    rows: Mapping[str, int] = field(default_factory=dict)
    truth: Mapping[str, Truth] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file of ``save``. Raises UsageError for any other file."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            truth = {bench: Truth(**numbers) for bench, numbers in data["truth"].items()}
            return cls(extra=data["extra"], rows=data["rows"], truth=truth)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"--calibration {path}: not a calibration of this script: {error}") from None


def head_text(rows: Mapping[str, int]) -> str:
    """Return the head's file with these extra tokens per bench; without any, the base's with a comment."""
    if not rows:
        return BASE + COMMENT
    table = {(length, mode == "train"): rows[f"{mode}-{length}"] for length in LENGTHS for mode in MODES}
    return HEAD.replace("{rows}", repr(table))


def plant(folder: Path, extra: float, calibration: Calibration | None = None) -> tuple[str, str]:
    """Make a git repository of two commits, each with a file attn.py; return their hashes (base, head).

    The base is Fastformer. The head repeats the share ``extra`` of its work according to ``calibration``
    (without one, it is measured now, which takes minutes); at 0 it is the same code with a comment. The head
    is checked out on the branch main. Raises UsageError for a negative share or the calibration of another
    share.
    """
    if extra < 0 or not math.isfinite(extra):
        raise UsageError(f"extra = {extra}: the share of work that is added, 0 or more")
    if calibration is None:
        calibration = calibrate(extra)
    if calibration.extra != extra:
        raise UsageError(f"extra = {extra}: the calibration is of {calibration.extra}")
    folder.mkdir(parents=True, exist_ok=True)
    _git(folder, "init", "-q", "-b", "main")
    hashes = []
    for name, text in (("base", BASE), ("head", head_text(calibration.rows))):
        (folder / "attn.py").write_text(text, encoding="utf-8")
        _git(folder, "add", "attn.py")
        _git(folder, "commit", "-q", "-m", name)
        hashes.append(_git(folder, "rev-parse", "HEAD").strip())
    return hashes[0], hashes[1]


def call_of(kind: Any, bench: str) -> Callable[[], Any]:  # its text is also that of the peers' benches
    """Return a call of a mechanism without arguments, the same as in effbench's own worker."""
    mode, _, length = bench.partition("-")
    torch.manual_seed(0)
    module = kind(D_MODEL, HEADS, max_len=int(length)).train(mode == "train")
    x = torch.randn(BATCH_SIZE, int(length), D_MODEL, requires_grad=mode == "train")
    gradient = torch.randn(BATCH_SIZE, int(length), D_MODEL)

    def forward() -> Any:
        with torch.inference_mode():
            return module(x)

    def train() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        module(x).backward(gradient)

    return train if mode == "train" else forward


def calibrate(extra: float, *, pairs: int = 2000, benches: Sequence[str] = BENCHES) -> Calibration:
    """Measure how much extra work costs the share ``extra`` of each bench, and its true ratio.

    The true ratio comes from ``pairs`` pairs of single calls of base and head in random order, in this
    process on one thread. For 0 nothing is measured: the code is the same. Raises UsageError if even the
    smallest extra work costs more than ``extra``.
    """
    if extra == 0:
        return Calibration(extra=0.0, truth={bench: Truth(1.0, 1.0, 1.0, 0) for bench in benches})
    rows: dict[str, int] = {}
    truth: dict[str, Truth] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for bench in benches:
            rows[bench] = _find_rows(bench, extra)
            truth[bench] = measure(bench, rows[bench], pairs)
            print(f"calibrated {bench}: {rows[bench]} tokens, {_shown(truth[bench])}", file=sys.stderr)
    finally:
        torch.set_num_threads(threads)
    return Calibration(extra=extra, rows=rows, truth=truth)


def _find_rows(bench: str, extra: float) -> int:
    """Return the number of tokens whose extra queries cost the share, from a linear fit to measurements."""
    tokens = BATCH_SIZE * int(bench.partition("-")[2])
    shares: dict[int, float] = {}
    # the queries of all tokens cost about a third of a call
    for rows in sorted({max(1, round(extra * 3 * tokens * part)) for part in (0.5, 1.0)}):
        shares[rows] = measure(bench, rows, SEARCH_PAIRS).ratio - 1
    for _ in range(SEARCHES):
        rows = _solve(shares, extra)
        if rows in shares:
            break
        shares[rows] = measure(bench, rows, SEARCH_PAIRS).ratio - 1
    least = min(shares)
    if least == 1 and shares[least] > 1.5 * extra:
        raise UsageError(f"extra = {extra}: the least extra work costs {shares[least]:.2%} of {bench}")
    return _solve(shares, extra)


def _solve(shares: Mapping[int, float], extra: float) -> int:
    """Solve the least-squares fit of shares over rows, through the three nearest points, for the share."""
    near = sorted(shares, key=lambda rows: abs(shares[rows] - extra))[:3]
    if len(near) == 1:
        return max(1, round(near[0] * extra / max(shares[near[0]], extra / 4)))
    mean_rows, mean_share = sum(near) / len(near), sum(shares[r] for r in near) / len(near)
    slope = sum((r - mean_rows) * (shares[r] - mean_share) for r in near) / sum(
        (r - mean_rows) ** 2 for r in near
    )
    if slope <= 0:  # noise: more work cannot cost less
        slope = max(mean_share, extra / 4) / mean_rows
    # never far outside what was measured
    rows = mean_rows + (extra - mean_share) / slope
    return max(1, round(min(max(rows, min(shares) / 4), 4 * max(shares))))


def measure(bench: str, rows: int, pairs: int, *, seed: int = 0) -> Truth:
    """Return the ratio of the head's time to the base's with ``rows`` extra tokens, from interleaved calls.

    Raises ValueError for fewer than two blocks of pairs.
    """
    blocks = math.ceil(pairs / BLOCK)
    if blocks < 2:
        raise ValueError(f"{pairs} pairs are fewer than two blocks of {BLOCK}")
    base, head = (_module(text) for text in (BASE, head_text(dict.fromkeys(BENCHES, rows))))
    draw = random.Random(seed)
    times: dict[str, dict[int, list[float]]] = {"base": {}, "head": {}}
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for block in range(blocks):
            made = [("base", base), ("head", head)]
            draw.shuffle(made)
            calls = [(name, call_of(module.Planted, bench)) for name, module in made]
            for name, call in calls:
                times[name][block] = []
                for _ in range(3):
                    call()
            for _ in range(BLOCK):
                draw.shuffle(calls)
                for name, call in calls:
                    start = time.perf_counter()
                    call()
                    times[name][block].append(time.perf_counter() - start)
            gc.collect()
    finally:
        if was_enabled:
            gc.enable()
    return Truth(*paired_ratio(times["head"], times["base"]), blocks * BLOCK)


def _module(text: str) -> ModuleType:
    """Make a module from its text, without a file."""
    spec = importlib.util.spec_from_loader("planted", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(text, "attn.py", "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def burners(number: int) -> Iterator[list[int]]:
    """Start processes that each keep a core busy, and yield their ids; they end with the block.

    They also end with this process: each checks many times per second that its parent still runs.
    """
    loop = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(100_000): pass\n"
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            started.append(subprocess.Popen([sys.executable, "-S", "-c", loop, str(os.getpid())]))
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two commits to compare, the Python of the tool, and a folder for the tool's files."""

    repo: Path
    base: str
    head: str
    python: Path
    work: Path
    seconds: float = 0.5


# for each rule: whether the whole run regressed, and the ratio and decision of each bench
Rules = dict[str, dict[str, Any]]


def decide_by_pytest_benchmark(pair: Pair) -> Rules:
    """Run the base's benches and then the head's; return one rule per statistic from the same two files.

    pytest-benchmark fails a bench whose statistic grew by more than 5 %. It runs with the rule for the
    median. Raises RuntimeError if its exit code differs from the decision computed here, or if pytest failed.
    """
    saved, storage = {}, pair.work / "saved"
    shutil.rmtree(storage, ignore_errors=True)
    for name, commit in (("base", pair.base), ("head", pair.head)):
        checkout = pair.work / name
        if not checkout.is_dir():
            _git(pair.repo, "worktree", "add", "-q", "--detach", str(checkout), commit)
        (checkout / "test_attn.py").write_text(_bench_text(PYTEST_BENCH), encoding="utf-8")
        saved[name] = pair.work / f"{name}.json"
        saved[name].unlink(missing_ok=True)
        compare = [] if name == "base" else ["--benchmark-compare=0001"]
        compare += [] if name == "base" else [f"--benchmark-compare-fail=median:{PERCENT}%"]
        done = _peer(
            pair.python, checkout, "-m", "pytest", "-q", "-p", "pytest_benchmark.plugin", "-p",
            "no:cacheprovider", "--benchmark-only", "--benchmark-warmup=on",
            f"--benchmark-max-time={pair.seconds}", f"--benchmark-storage=file://{storage}",
            f"--benchmark-save={name}", f"--benchmark-json={saved[name]}", *compare,
        )  # fmt: skip
        regressed = "Performance has regressed" in done.stdout + done.stderr
        if (done.returncode != 0) != regressed or not saved[name].is_file():
            raise RuntimeError(f"pytest-benchmark failed on the {name}:\n{done.stdout}{done.stderr}")
    rules = compare_fail(*(json.loads(saved[name].read_text()) for name in ("base", "head")))
    if rules[f"median:{PERCENT}%"]["regressed"] != regressed:
        raise RuntimeError(f"pytest-benchmark says regressed = {regressed}, its files say otherwise: {rules}")
    return rules


def compare_fail(base: Mapping[str, Any], head: Mapping[str, Any], percent: float = PERCENT) -> Rules:
    """Return the decisions of --benchmark-compare-fail on two saved runs, for each statistic.

    Its formula: head / base * 100 - 100 > percent. Raises RuntimeError if a bench is missing.
    """
    stats = [{run["param"]: run["stats"] for run in saved["benchmarks"]} for saved in (base, head)]
    if any(set(of_run) != set(BENCHES) for of_run in stats):
        raise RuntimeError(f"expected {BENCHES}, found {sorted(stats[0])} and {sorted(stats[1])}")
    rules = {}
    for statistic in STATISTICS:
        ratios = {bench: stats[1][bench][statistic] / stats[0][bench][statistic] for bench in stats[0]}
        benches = {
            bench: {"ratio": ratio, "regressed": ratio * 100 - 100 > percent}
            for bench, ratio in ratios.items()
        }
        rules[f"{statistic}:{percent:g}%"] = _rule(benches)
    return rules


def decide_by_asv(pair: Pair) -> Rules:
    """Run ``asv continuous``; return one rule with asv's marks and the ratios of the values that it saved.

    asv makes its own virtual environment (kept in the folder for later decisions); a commit is installed into
    it by copying its file. Raises RuntimeError if asv fails or if its exit code contradicts its marks.
    """
    folder = pair.work / "asv"
    (folder / "benches").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "results", ignore_errors=True)  # earlier decisions must not be seen
    (folder / "benches" / "__init__.py").write_text("")
    (folder / "benches" / "attn_benches.py").write_text(_bench_text(ASV_BENCH), encoding="utf-8")
    (folder / "install.py").write_text(ASV_INSTALL.format(paths=_paths()), encoding="utf-8")
    version = subprocess.run(
        [pair.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    settings = {
        "version": 1, "project": "attn", "repo": str(pair.repo), "branches": ["main"], "dvcs": "git",
        "environment_type": "virtualenv", "pythons": [version], "benchmark_dir": "benches",
        "build_command": [], "install_command": ["python {conf_dir}/install.py {build_dir}"],
        "uninstall_command": [], "env_dir": "env", "results_dir": "results", "html_dir": "html",
    }  # fmt: skip
    (folder / "asv.conf.json").write_text(json.dumps(settings), encoding="utf-8")
    known = _peer(pair.python, folder, "-m", "asv", "machine", "--yes")
    if known.returncode != 0:
        raise RuntimeError(f"asv machine failed:\n{known.stdout}{known.stderr}")
    done = _peer(
        pair.python, folder, "-m", "asv", "continuous", "--factor", f"{1 + PERCENT / 100}",
        "--no-only-changed", pair.base, pair.head,
    )  # fmt: skip
    marks = asv_marks(done.stdout)
    if set(marks) != set(BENCHES) or not set(marks.values()) <= {"+", "-", ""}:
        raise RuntimeError(f"asv failed, exit {done.returncode}:\n{done.stdout}{done.stderr}")
    base, head = (_asv_values(folder / "results", commit) for commit in (pair.base, pair.head))
    rule = _rule({b: {"ratio": head[b] / base[b], "regressed": marks[b] == "+"} for b in BENCHES})
    if (done.returncode != 0) != rule["regressed"]:
        raise RuntimeError(f"asv's exit is {done.returncode}, its marks say otherwise:\n{done.stdout}")
    return {f"factor:{1 + PERCENT / 100:g}": rule}


def asv_marks(output: str) -> dict[str, str]:
    """Return the mark of each bench in asv's table: "+" slower, "-" faster, "" neither, "!" failed."""
    rows = re.findall(
        r"^\|\s*([^|\s]?)\s*\|[^|]*\|[^|]*\|[^|]*\|[^|]*\('([\w-]+)'\)\s*\|$", output, re.MULTILINE
    )
    return {bench: mark for mark, bench in rows}


def _asv_values(results: Path, commit: str) -> dict[str, float]:
    """Return the seconds of each bench that asv saved for a commit."""
    (path,) = results.glob(f"*/{commit[:8]}-*.json")
    saved = json.loads(path.read_text(encoding="utf-8"))
    (values,) = saved["results"].values()
    named = dict(zip(saved["result_columns"], values, strict=False))  # the last columns may be left out
    return {bench.strip("'"): value for bench, value in zip(named["params"][0], named["result"], strict=True)}


def decide_by_effbench(pair: Pair) -> Rules:
    """Run ``effbench gate`` without exact figures; return one rule with the verdict of each bench.

    Raises RuntimeError if it fails or if its exit code contradicts its verdicts.
    """
    report, config = pair.work / "gate.json", pair.work / "gate.toml"
    report.unlink(missing_ok=True)
    config.write_text("[exact]\n" + "".join(f"{name} = false\n" for name in FIGURES), encoding="utf-8")
    done = _peer(
        Path(sys.executable), pair.repo, "-m", "effbench", "gate", "--quiet", "--base", pair.base,
        "-m", "attn.py:Planted", "--seq-len", ",".join(map(str, LENGTHS)), "--batch-size", f"{BATCH_SIZE}",
        "--d-model", f"{D_MODEL}", "--heads", f"{HEADS}", "--config", str(config), "--json", str(report),
    )  # fmt: skip
    if done.returncode not in (0, 3):
        raise RuntimeError(f"the gate failed, exit {done.returncode}:\n{done.stdout}{done.stderr}")
    benches = {
        f"{own['cell']['mode']}-{own['cell']['seq_len']}": {
            "ratio": own["ratio"], "verdict": own["verdict"], "regressed": own["verdict"] == "slower",
        }
        for own in json.loads(report.read_text(encoding="utf-8"))["comparisons"]
    }  # fmt: skip
    rule = _rule(benches)
    if set(benches) != set(BENCHES) or (done.returncode == 3) != rule["regressed"]:
        raise RuntimeError(f"the gate's exit is {done.returncode}, its verdicts say otherwise: {benches}")
    return {f"threshold:{PERCENT}%": rule}


def _rule(benches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {"regressed": any(bench["regressed"] for bench in benches.values()), "benches": dict(benches)}


def _bench_text(template: str) -> str:
    numbers = {"d_model": D_MODEL, "heads": HEADS, "batch_size": BATCH_SIZE, "benches": list(BENCHES)}
    return template.format(call_of=textwrap.dedent(inspect.getsource(call_of)), **numbers)


def _peer(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a peer's module in a folder: one thread, this Python's packages, no home and no network."""
    # where asv's environments find the packages that asv installs into them
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(_paths()),
        "ASV_PYTHONPATH": own,
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # a commit's file replaces the other's within a second
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PIP_NO_INDEX": "1",
    }
    return subprocess.run(
        [python, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def _paths() -> list[str]:
    """Folders from which effbench and torch are imported."""
    return [str(ROOT), str(Path(torch.__file__).parents[1])]


def _git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=effbench", "-c", "user.email=effbench@localhost", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *who, *arguments],
        cwd=folder, capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _shown(truth: Truth) -> str:
    return f"{truth.ratio:.4f} ({truth.low:.4f} to {truth.high:.4f}, {truth.pairs} pairs)"


TOOLS: dict[str, Callable[[Pair], Rules]] = {
    "pytest-benchmark": decide_by_pytest_benchmark,
    "asv": decide_by_asv,
    "effbench": decide_by_effbench,
}


def run(arguments: argparse.Namespace, work: Path) -> None:
    """Calibrate or read the calibration, plant, and append one line per decision."""
    kept: Path | None = arguments.calibration
    if kept is not None and kept.is_file():
        calibration = Calibration.load(kept)
    else:
        calibration = calibrate(arguments.extra, pairs=arguments.pairs)
        if kept is not None:
            calibration.save(kept)
    base, head = plant(work / "repo", arguments.extra, calibration)
    # absolute, but not resolved: the Python of a virtual environment is a link and depends on its place
    python = Path(os.path.abspath(arguments.peer_python or sys.executable))
    pair = Pair(repo=work / "repo", base=base, head=head, python=python, work=work, seconds=arguments.seconds)
    with burners(arguments.burners):
        for number in range(arguments.decisions):
            start = time.perf_counter()
            rules = TOOLS[arguments.tool](pair)
            entry = {
                "tool": arguments.tool,
                "extra": arguments.extra,
                "burners": arguments.burners,
                "truth": {bench: asdict(truth) for bench, truth in calibration.truth.items()},
                "rules": rules,
                "seconds": time.perf_counter() - start,
            }
            with arguments.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(entry) + "\n")
            outcome = ", ".join(
                f"{rule} {'fails' if own['regressed'] else 'passes'}" for rule, own in rules.items()
            )
            seconds = entry["seconds"]
            print(f"{number + 1} of {arguments.decisions}: {outcome}, {seconds:.0f} s", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tool", choices=sorted(TOOLS), required=True)
    made.add_argument("--extra", type=float, default=0.0, help="share of work added; 0: the same code")
    made.add_argument("--decisions", type=int, default=20)
    made.add_argument("--burners", type=int, default=0, help="processes that keep one core each busy")
    made.add_argument("--out", type=Path, required=True, help="JSON lines; appended to")
    made.add_argument("--peer-python", type=Path, help="a Python with pytest-benchmark and asv, see above")
    made.add_argument(
        "--calibration",
        type=Path,
        help="file to read the calibration from, or to write it to if it does not exist",
    )
    made.add_argument("--pairs", type=int, default=2000, help="pairs of calls for the true ratio")
    made.add_argument(
        "--seconds", type=float, default=0.5, help="pytest-benchmark's --benchmark-max-time, per bench"
    )
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Run; return 0, or 2 for wrong usage."""
    arguments = parser().parse_args(given)
    try:
        _check(arguments)
        with tempfile.TemporaryDirectory(prefix="gate-peers-") as work:
            run(arguments, Path(work))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for wrong usage, before anything is measured."""
    if not math.isfinite(arguments.extra) or arguments.extra < 0:
        raise UsageError(f"--extra {arguments.extra}: the share of work that is added, 0 or more")
    for name, least in (("decisions", 1), ("burners", 0), ("pairs", 2 * BLOCK)):
        if getattr(arguments, name) < least:
            raise UsageError(f"--{name} {getattr(arguments, name)}: at least {least}")
    if not arguments.seconds > 0:
        raise UsageError(f"--seconds {arguments.seconds}: more than 0")
    if arguments.tool == "effbench":
        return
    if arguments.peer_python is None:
        raise UsageError("--peer-python: a Python with the tools, see --help")
    if not arguments.peer_python.exists():
        raise UsageError(f"--peer-python {arguments.peer_python}: there is no such file")
    needs = {"asv": "asv, virtualenv, wheel", "pytest-benchmark": "pytest_benchmark"}[arguments.tool]
    tried = subprocess.run([arguments.peer_python, "-c", f"import {needs}"], capture_output=True, check=False)
    if tried.returncode != 0:
        raise UsageError(f"--peer-python {arguments.peer_python}: it cannot import {needs}")


if __name__ == "__main__":
    sys.exit(main())
