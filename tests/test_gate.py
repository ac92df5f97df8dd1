"""The gate from the command line and its loop: what is compared, what is said, that nothing stays behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from effbench import cli
from effbench.gate import judge as judging
from effbench.gate.checkout import Tree, checked_out, working_tree
from effbench.gate.decide import Plan, Round
from effbench.gate.judge import CONFIRMATION, Track
from effbench.gate.lockstep import CellFailed, play
from effbench.gate.settings import read
from effbench.gate.workers import Nursery, Worker, WorkerDied
from effbench.spec import Cell, UsageError

MINE = '''
"""A mechanism of somebody's own."""

import os
import time

import torch

from effbench import Mechanism


class Mine(Mechanism):
    """A linear map, twice if asked."""

    def __init__(self, d_model, heads, *, max_len, causal=False{options}):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.map = torch.nn.Linear(d_model, d_model)

    def forward(self, x, mask=None):
        {body}
'''
ONCE, TWICE = "return self.map(x)", "return self.map(self.map(x))"
FAST = ("--seq-len", "64", "--d-model", "32", "--heads", "2", "--mode", "forward")


def git(folder, *arguments):
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments],
        cwd=folder, check=True, capture_output=True, text=True, env=env,
    )  # fmt: skip
    return done.stdout


def write(folder, body, options=""):
    (folder / "mine.py").write_text(MINE.format(body=body, options=options))


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit: a mechanism that maps once."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    write(folder, ONCE)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "once")
    return folder


def gate(folder, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "effbench", "gate", *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300, **more,
    )  # fmt: skip


def nothing_left(folder):
    """No worktree that git knows of, and no worker that still runs the repository's code."""
    assert len(git(folder, "worktree", "list").splitlines()) == 1
    assert not list((folder / ".git").glob("worktrees/*"))


@pytest.mark.slow
def test_unchanged_code_passes_and_grown_figures_fail(repository, tmp_path):
    summary = tmp_path / "summary.md"
    write(repository, ONCE + "  # the same")
    arguments = ("--base", "HEAD", "-m", "mine.py:Mine", *FAST, "--exact-only", "--json", "-")
    done = gate(repository, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["head"]["dirty"]
    assert {f["name"] for f in report["figures"]} == {"flops", "peak_bytes", "parameters", "ops"}
    assert all(f["base"] == f["head"] > 0 for f in report["figures"])
    nothing_left(repository)

    write(repository, TWICE)
    done = gate(
        repository, "--base", "HEAD", "-m", "mine.py:Mine", *FAST, "--exact-only",
        "--json", "found.json", "--junit", "found.xml", "--plot", "found.svg", "--markdown", "found.md",
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(summary)},
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    report = json.loads((repository / "found.json").read_text())
    flops, *_ = (f for f in report["figures"] if f["name"] == "flops")
    assert flops["head"] == 2 * flops["base"]
    assert {f["name"] for f in report["figures"] if f["fails"]} >= {"flops", "ops"}
    assert list(ET.parse(repository / "found.xml").getroot().iter("failure"))
    assert summary.read_text() == (repository / "found.md").read_text()
    assert "FLOPs" in done.stdout


@pytest.mark.slow
def test_what_only_one_side_has_is_new_or_gone(repository):
    write(repository, ONCE, options=", often: int = 1")
    (repository / "other.py").write_text((repository / "mine.py").read_text())
    asked = ("-m", "mine.py:Mine", "-m", "mine.py:Mine:often=2", "-m", "other.py:Mine")
    done = gate(repository, "--base", "HEAD", *asked, *FAST, "--exact-only", "--json", "-")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    verdicts = {(each["cell"]["mechanism"], str(each["cell"]["options"])): each for each in report["lines"]}
    assert {each["verdict"] for each in verdicts.values()} == {"new"}
    assert len(verdicts) == 2
    assert len({f["cell"]["mechanism"] for f in report["figures"]}) == 1

    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "more")
    (repository / "other.py").unlink()
    done = gate(repository, "--base", "HEAD", "-m", "other.py:Mine", *FAST, "--exact-only", "--json", "-")
    assert [each["verdict"] for each in json.loads(done.stdout)["lines"]] == ["gone"]
    assert done.returncode == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "says"), [("os.kill(os.getpid(), 11)", "SIGSEGV"), ("raise KeyError('lost')", "lost")]
)
def test_a_head_that_fails_is_a_line_and_under_strict_an_exit_code(repository, body, says):
    write(repository, body)
    arguments = ("--base", "HEAD", "-m", "mine.py:Mine", *FAST, "--budget", "30s", "--json", "-")
    done = gate(repository, *arguments, "--strict")
    (line,) = json.loads(done.stdout)["lines"]
    assert line["verdict"] == "failed"
    assert says in line["reason"]
    assert done.returncode == 6
    nothing_left(repository)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_the_worktree_and_the_workers_go(repository, tmp_path, number):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    write(repository, "time.sleep(0.05); " + ONCE)
    running = subprocess.Popen(
        [sys.executable, "-m", "effbench", "gate", "--base", "HEAD", "-m", "mine.py:Mine", *FAST],
        cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert running.stderr is not None
    assert "exact figures" in running.stderr.readline()
    assert "round 1" in running.stderr.readline()
    deadline = time.monotonic() + 30
    while len(workers := descendants(running.pid)) < 5:  # a keeper, a nursery and its three workers
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode == (130 if number == signal.SIGINT else -9)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        alive = [pid for pid in workers if Path(f"/proc/{pid}/cmdline").is_file() and cmdline(pid)]
        known = list((repository / ".git").glob("worktrees/*"))
        if not alive and not known and not list(temporary.glob("effbench-*")):
            break
        time.sleep(0.1)
    assert not alive
    assert not list(temporary.glob("effbench-*"))
    nothing_left(repository)


def descendants(pid):
    """Of a process, its children's included."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                status = (path / "stat").read_text()
            except OSError:  # it has ended
                continue
            children.setdefault(int(status.rpartition(")")[2].split()[1]), []).append(int(path.name))
    found, left = [], [pid]
    while left:
        new = children.get(left.pop(), [])
        found += new
        left += new
    return found


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--base", "no-such-branch", "-m", "mine.py:Mine"), "neither a revision"),
        (("--base=-x", "-m", "mine.py:Mine"), "is not a revision"),
        (("--base", "HEAD"), "no mechanism to compare"),
        (("--base", "HEAD", "-m", "mine.py:Mine", "--threshold", "7"), "threshold '7'"),
        (
            ("--base", "HEAD", "-m", "mine.py:Mine", "--json", "no/such/folder.json"),
            "its folder is not there",
        ),
        (("--base", "HEAD", "-m", "mine.py:Mine", "--plot", "gate.jpg"), "does not end in .png"),
    ],
)
def test_wrong_usage_is_one_line_before_anything_starts(repository, arguments, says):
    done = gate(repository, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    nothing_left(repository)


@pytest.mark.parametrize("exists", [False, True])
def test_an_output_that_may_not_be_written_is_refused_before_anything_starts(tmp_path, monkeypatch, exists):
    """The rights are made up: root has them all."""
    path = tmp_path / "gate.json"
    if exists:
        path.touch()
    asked = path if exists else tmp_path
    monkeypatch.setattr(cli.os, "access", lambda place, mode: (Path(place), mode) != (asked, os.W_OK))
    with pytest.raises(UsageError, match="--json .*gate.json': this user may not write there"):
        cli._check_outputs({"json": path})
    cli._check_outputs({"json": Path("-"), "plot": None})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanism", "says"),
    [("mine.py:Yours", "Yours"), ("vanilla", "outside of"), ("mine.py:Mine:k=1", "option")],
)
def test_a_mechanism_that_is_not_there_or_not_of_the_repository_is_refused(repository, mechanism, says):
    done = gate(repository, "--base", "HEAD", "-m", mechanism, *FAST)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr
    nothing_left(repository)


def test_outside_of_a_repository_there_is_no_gate(tmp_path):
    with pytest.raises(UsageError, match="in no git repository"):
        working_tree(tmp_path)


def test_a_base_may_be_a_folder_and_a_revision_is_a_worktree(repository, tmp_path):
    head = working_tree(repository)
    assert not head.dirty
    other = tmp_path / "other"
    other.mkdir()
    with checked_out(head, str(other)) as tree:
        assert tree.root == other.resolve()
        assert tree.commit == ""
    assert other.is_dir()
    with checked_out(head, "HEAD") as tree:
        assert (tree.root / "mine.py").read_text() == (repository / "mine.py").read_text()
        assert tree.commit == head.commit
        place = tree.root
    assert not place.exists()
    nothing_left(repository)


@pytest.mark.slow
def test_a_worker_that_hangs_or_ends_is_told(repository):
    cell = Cell(mechanism="mine.py:Mine", probe="time", seq_len=16, d_model=8, heads=2)
    write(repository, "time.sleep(600)")
    with Nursery() as nursery, Worker(nursery, "head", repository) as worker:
        worker.greet()
        assert worker.build([cell], check=False, timeout_s=60) == [""]
        with pytest.raises(WorkerDied, match="no answer within 1 s"):
            worker.ask("call", 0, 0, 1, timeout_s=1.0)


@pytest.mark.slow
@pytest.mark.alone
def test_turns_find_what_the_head_does_longer_and_blame_the_side_that_fails(repository, tmp_path):
    spin = "while time.perf_counter() < end: pass"
    wait = "end = time.perf_counter() + {}\n        " + spin + "\n        return x.clone()"
    cells = [Cell(mechanism="mine.py:Mine", probe="time", seq_len=16, d_model=8, heads=2)]
    base = tmp_path / "base"
    base.mkdir()
    write(repository, wait.format("0.004"))
    write(base, wait.format("0.002"))
    with Nursery() as nursery:
        roots = {"base": base, "head": repository}
        (found,) = play(nursery, roots, cells, seconds=0.5, rng=random.Random(0))
        write(base, "raise RuntimeError('old')")
        with pytest.raises(CellFailed, match="old") as caught:
            play(nursery, roots, cells, seconds=0.5, rng=random.Random(0))
    assert min(found.head_s) / min(found.base_s) == pytest.approx(2, rel=0.1)
    assert min(found.again_s) / min(found.base_s) == pytest.approx(1, rel=0.1)
    assert len(found.base_s) == len(found.head_s) == len(found.again_s) >= 7
    assert (caught.value.index, caught.value.side) == (0, "base")


# The loop, with rounds that are made up: no worker, and a clock that only the rounds move.


class NURSERIES:
    """None is needed."""

    next = staticmethod(lambda: None)


def made(rng, ratio, spread=0.004, again=1.0):
    series = [0.002 * factor * np.exp(spread * rng.standard_normal(9)) for factor in (1.0, ratio, again)]
    return Round(base_s=series[0], head_s=series[1], again_s=series[2])


def track(ratios, **more):
    """A track fed with one round a ratio, until it is done."""
    cell = Cell(mechanism="mine.py:Mine", probe="time", seq_len=16)
    found = Track(cell=cell, threshold=0.05, floor_s=0.0, plan=Plan(cells=4))
    rng = np.random.default_rng(0)
    for ratio in ratios:
        if not found.done:
            found.add(made(rng, ratio, **more))
    return found


def test_a_slowdown_must_be_found_again_by_fresh_workers():
    first, second = Plan(cells=4).looks[0], CONFIRMATION.looks[0]
    found = track([1.2] * (first + second))
    line = found.line("the budget")
    assert (line.verdict, line.rounds, line.confirmed_in) == ("slower", first, second)
    gone = track([1.2] * first + [1.0] * second)
    assert gone.done
    assert gone.line("the budget").verdict == "suspected"
    assert "did not confirm" in gone.line("the budget").reason
    cut = track([1.2] * (first + 1))
    cut.end()
    assert cut.line("the budget").verdict == "suspected"
    assert "ended before" in cut.line("the budget").reason


def test_what_is_the_same_ends_at_the_first_look_and_what_is_not_clear_goes_on():
    looks = Plan(cells=4).looks
    assert track([1.0] * 30).line("b").rounds == looks[0]
    assert track([1.05] * 30).line("b").rounds == looks[-1]
    assert track([1.05] * 30).line("b").verdict == "inconclusive"


def test_too_few_rounds_are_no_verdict():
    found = track([1.5] * 3)
    found.end()
    line = found.line("the budget of 5 s")
    assert line.verdict == "inconclusive"
    assert "3 rounds within the budget of 5 s" in line.reason
    assert line.ratio == pytest.approx(1.5, rel=0.02)


def test_the_budget_is_kept_and_its_cost_told(monkeypatch, tmp_path):
    now = [0.0]
    rng = np.random.default_rng(1)

    def played(nursery, roots, cells, *, seconds, rng=rng, check, clock):
        now[0] += 5.0 + seconds
        return [made(np.random.default_rng(int(now[0])), 1.0, spread=0.2) for _ in cells]

    monkeypatch.setattr(judging, "play", played)
    settings = read(tmp_path, None, {"mechanism": ["mine.py:Mine"], "budget": "100s"})
    cells = settings.cells("mine.py:Mine", {})
    tree = Tree(root=tmp_path, label="x")
    lines, notes = judging._time(
        settings,
        tree,
        tree,
        cells,
        NURSERIES,
        100.0,
        3.0,
        random.Random(0),
        lambda text: None,
        lambda: now[0],
    )
    assert now[0] <= 100.0
    assert {line.verdict for line in lines} <= {"inconclusive", "unfit"}
    (note,) = notes
    assert "the budget of 100 s ended after" in note
    assert "rounds" in note
    assert "found less than 4 times in 5" in note


def test_a_cell_that_fails_while_it_is_timed_leaves_the_others(monkeypatch, tmp_path):
    now = [0.0]

    def played(nursery, roots, cells, *, seconds, rng, check, clock):
        now[0] += 1.0
        if len(cells) == 4:
            raise CellFailed(1, "again", "it broke")
        return [made(np.random.default_rng(int(now[0])), 1.0) for _ in cells]

    monkeypatch.setattr(judging, "play", played)
    settings = read(tmp_path, None, {"mechanism": ["mine.py:Mine"]})
    cells = settings.cells("mine.py:Mine", {})
    tree = Tree(root=tmp_path, label="x")
    lines, _ = judging._time(
        settings,
        tree,
        tree,
        cells,
        NURSERIES,
        120.0,
        1.0,
        random.Random(0),
        lambda text: None,
        lambda: now[0],
    )
    assert [line.verdict for line in lines] == ["same", "same", "same", "new"]
    assert lines[-1].cell == cells[1]
    assert "it broke" in lines[-1].reason
