"""The gate from the command line and its loop: what is compared, what is said, that nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from repositories import commit, everything, git

from effbench.cli import app as cli
from effbench.cli import outputs
from effbench.cli.gate import deliver
from effbench.common.spec import Cell, UsageError
from effbench.gate import judge as judging
from effbench.gate.checkout import Tree
from effbench.gate.decide import Plan, Round
from effbench.gate.judge import CONFIRMATION, Nurseries, Track
from effbench.gate.lockstep import CellFailed, play
from effbench.gate.report import Report
from effbench.gate.settings import read
from effbench.gate.workers import Nursery, Worker, WorkerDied

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


def write(folder, body, options=""):
    (folder / "mine.py").write_text(MINE.format(body=body, options=options))


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit: a mechanism that maps once."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    write(folder, ONCE)
    commit(folder, "once")
    return folder


def gate(folder, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "effbench", "gate", *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300, **more,
    )  # fmt: skip


def command(capsys, monkeypatch, *arguments):
    """The gate in this process: (exit code, what it printed, what it said on stderr)."""
    monkeypatch.setattr(sys, "argv", ["effbench", "gate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, *capsys.readouterr()


@pytest.mark.slow
def test_in_a_hook_unchanged_code_is_committed_and_grown_figures_are_not(repository, tmp_path, monkeypatch):
    """The commit holds the files that it was to hold; a refused one leaves index and reports."""
    paths = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "markdown", "svg")}
    outputs = [word for kind, path in paths.items() for word in (f"--{kind.replace('svg', 'plot')}", path)]
    words = [
        sys.executable,
        "-m",
        "effbench",
        "gate",
        "--base",
        "HEAD",
        "-m",
        "mine.py:Mine",
        *FAST,
        *outputs,
    ]
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.write_text(f"#!/bin/sh\nexec {shlex.join(map(str, words))} --exact-only\n")
    hook.chmod(0o755)
    (repository / "other.txt").write_text("other")
    write(repository, ONCE + "  # mine")
    commit(repository)
    report = json.loads(paths["json"].read_text())
    assert report["head"]["dirty"]
    assert {f["name"] for f in report["figures"]} == {"flops", "peak_bytes", "parameters", "ops"}
    assert all(f["base"] == f["head"] > 0 for f in report["figures"])
    shown = git(repository, "show", "--stat", "--format=", "HEAD")
    assert "mine.py   | 2 +-" in shown
    assert "other.txt | 1 +" in shown
    assert "2 files changed" in shown
    assert git(repository, "status", "--porcelain") == ""

    write(repository, TWICE)
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        commit(repository)
    assert git(repository, "status", "--porcelain") == "M  mine.py\n"
    report = json.loads(paths["json"].read_text())
    flops, *_ = (f for f in report["figures"] if f["name"] == "flops")
    assert flops["head"] == 2 * flops["base"]
    assert {f["name"] for f in report["figures"] if f["fails"]} == {"flops", "peak_bytes"}
    assert list(ET.parse(paths["junit"]).getroot().iter("failure"))
    assert summary.read_text() == paths["markdown"].read_text()
    printed = refused.value.stderr  # git sends a hook's output there
    assert "FLOPs" in printed
    assert f"no times were compared, so that there is no plot '{paths['svg']}'" in printed
    assert not paths["svg"].exists()


@pytest.mark.slow
def test_what_is_broken_fails_without_strict_and_is_in_every_output(repository, tmp_path):
    """As a hook runs it: no worker is to see the hook's index."""
    checked = "assert 'GIT_INDEX_FILE' not in os.environ; " + ONCE
    broken = "raise KeyError('lost')"
    for name, before in (("mine", checked), ("fails", ONCE), ("base_fails", broken), ("lost", ONCE)):
        (repository / f"{name}.py").write_text(MINE.format(body=before, options=""))
    commit(repository)
    (repository / "fails.py").write_text(MINE.format(body=broken, options=""))
    (repository / "base_fails.py").write_text(MINE.format(body=ONCE, options=""))
    (repository / "lost.py").unlink()
    wanted = {"fails.py": "failed", "base_fails.py": "base-failed", "lost.py": "gone"}
    names = [word for name in ("mine.py", *wanted) for word in ("-m", f"{name}:Mine")]
    summary = tmp_path / "summary.md"
    done = gate(
        repository, "--base", "HEAD", *names, *FAST, "--exact-only", "--quiet",
        "--json", "found.json", "--junit", "found.xml", "--plot", "found.svg",
        env={**os.environ, "GIT_DIR": ".git", "GIT_INDEX_FILE": str(tmp_path / "index"),
             "GITHUB_STEP_SUMMARY": str(summary)},
    )  # fmt: skip
    assert done.returncode == 6, done.stdout + done.stderr
    report = json.loads((repository / "found.json").read_text())
    verdicts = {
        each["cell"]["mechanism"].partition(":")[0]: each["verdict"] for each in report["comparisons"]
    }
    assert verdicts == wanted
    assert {figure["cell"]["mechanism"] for figure in report["figures"]} == {"mine.py:Mine"}
    said = " ".join(done.stdout.split())
    assert "the head cannot run fails.py:Mine forward at 64; the head lacks lost.py:Mine" in said
    assert said.endswith("the base cannot run base_fails.py:Mine forward at 64")
    errors = [each.attrib["type"] for each in ET.parse(repository / "found.xml").getroot().iter("error")]
    assert sorted(errors) == sorted(wanted.values())
    assert all(f"**{verdict}**" in summary.read_text() for verdict in wanted.values())
    assert "base-failed" in (repository / "found.svg").read_text()
    assert not (tmp_path / "index").exists()


@pytest.mark.slow
def test_names_mean_what_they_mean_where_they_were_written(repository):
    """From a folder in the repository: its own file and module, one above, one by its whole path."""
    place = repository / "sub folder" / "ünder"
    (place / "src" / "mine_inside").mkdir(parents=True)
    files = {
        place / "my own.py": "my own.py:Mine",
        place / "src" / "mine_inside" / "attn.py": "mine_inside.attn:Mine",
        place.parent / "above.py": "../above.py:Mine",
        place / "whole.py": f"{place / 'whole.py'}:Mine",
    }
    for path in files:
        path.write_text(MINE.format(body=ONCE, options=""))
    commit(repository)
    for path in files:
        path.write_text(MINE.format(body=TWICE, options=""))
    names = [word for name in files.values() for word in ("-m", name)]
    before = everything(repository)
    done = gate(place, "--base", "HEAD", *names, *FAST, "--exact-only", "--json", "-", "--quiet")
    assert done.returncode == 3, done.stdout + done.stderr
    assert everything(repository) == before
    report = json.loads(done.stdout)
    assert report["comparisons"] == []
    grown = {each["cell"]["mechanism"] for each in report["figures"] if each["fails"]}
    assert grown == {
        "sub folder/ünder/my own.py:Mine", "mine_inside.attn:Mine", "sub folder/above.py:Mine",
        "sub folder/ünder/whole.py:Mine",
    }  # fmt: skip


@pytest.mark.slow
def test_whatever_ends_it_the_base_and_the_workers_go(repository, tmp_path):
    """Two gates at once, one interrupted and one killed."""
    write(repository, "time.sleep(0.02); " + ONCE)
    before = everything(repository)
    with contextlib.ExitStack() as stack:
        running = {}
        for number in (signal.SIGINT, signal.SIGKILL):
            temporary = tmp_path / str(number)
            temporary.mkdir()
            started = subprocess.Popen(
                [sys.executable, "-m", "effbench", "gate", "--base", "HEAD", "-m", "mine.py:Mine", *FAST],
                cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "TMPDIR": str(temporary)},
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
            stack.enter_context(started)
            stack.callback(started.kill)
            running[number] = temporary, started
        for number, (temporary, started) in running.items():
            end_and_look(started, number, temporary)
    assert everything(repository) == before


def end_and_look(started, number, temporary):
    """End a gate as it times, and wait for what it started, and for its temporary folder, to be gone."""
    assert "exact figures" in started.stderr.readline()
    assert "round 1" in started.stderr.readline()
    deadline = time.monotonic() + 30
    while len(workers := descendants(started.pid)) < 5:  # a keeper, a nursery and its three workers
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert list(temporary.glob("effbench-*"))
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert started.returncode == (130 if number == signal.SIGINT else -9)
    assert ("interrupted; nothing was judged" in said) == (number == signal.SIGINT)
    deadline = time.monotonic() + 30
    while (alive := [pid for pid in workers if cmdline(pid)]) or list(temporary.glob("effbench-*")):
        assert time.monotonic() < deadline, f"left behind: {alive}"
        time.sleep(0.05)


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


MINE_AT_HEAD = ("--base", "HEAD", "-m", "mine.py:Mine")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--base", "no-such-branch", "-m", "mine.py:Mine"), "neither a revision"),
        (("--base=-x", "-m", "mine.py:Mine"), "is not a revision"),
        (("--base", "", "-m", "mine.py:Mine"), "--base is empty"),
        (("--base", "HEAD"), "no mechanism to compare"),
        (("--base", "HEAD", "-m", ""), "-m is empty"),
        ((*MINE_AT_HEAD, "--threshold", "7"), "threshold '7'"),
        *(((*MINE_AT_HEAD, f"--{name}", ""), f"--{name} is empty") for name in (
            "seq-len", "mode", "batch-size", "batch-tokens", "d-model", "heads", "layers", "scope", "dtype",
            "device", "threads", "allocator", "compile", "threshold", "floor", "error", "budget", "config",
            "json", "plot", "junit", "markdown",
        )),
        ((*MINE_AT_HEAD, "--json", "no/such/folder.json"), "its folder is not there"),
        ((*MINE_AT_HEAD, "--plot", "gate.jpg"), "does not end in .png"),
        ((*MINE_AT_HEAD, "--junit", "-"), "only --json can be printed"),
        ((*MINE_AT_HEAD, "--junit", "found", "--json", "./found"), "--json is written there too"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_before_anything_starts(repository, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(repository)
    before = everything(repository)
    code, out, err = command(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert everything(repository) == before


def test_a_verdict_is_not_lost_with_a_file_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    """What a full disk would do: the folder is gone when the gate is done."""
    lost, kept = tmp_path / "gone" / "found.json", tmp_path / "found.xml"
    report = Report(kind="gate", base={"label": "a"}, head={"label": "b"}, comparisons=(), figures=())
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "gone" / "summary.md"))
    assert deliver(report, {"json": lost, "junit": kept})
    err = capsys.readouterr().err
    assert f"--json '{lost}': No such file or directory" in err
    assert "GITHUB_STEP_SUMMARY" in err
    assert kept.read_text().startswith("<?xml")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert not deliver(report, {"json": tmp_path / "found.json"})


@pytest.mark.parametrize("exists", [False, True])
def test_an_output_that_may_not_be_written_is_refused_before_anything_starts(tmp_path, monkeypatch, exists):
    """The rights are made up: root has them all."""
    path = tmp_path / "gate.json"
    if exists:
        path.touch()
    asked = path if exists else tmp_path
    monkeypatch.setattr(os, "access", lambda place, mode: (Path(place), mode) != (asked, os.W_OK))
    with pytest.raises(UsageError, match="--json .*gate.json': this user may not write there"):
        outputs.check_outputs({"json": path})
    outputs.check_outputs({"json": Path("-"), "plot": None})


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
    # by a clock that stands while the thread waits for its core, as the gate's time does
    spin = "while time.thread_time() < end: pass"
    wait = "end = time.thread_time() + {}\n        " + spin + "\n        return x.clone()"
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


class NoNurseries(Nurseries):
    """None is needed."""

    def next(self):
        return None


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
    line = found.comparison("the budget")
    assert (line.verdict, line.rounds, line.confirmed_in) == ("slower", first, second)
    gone = track([1.2] * first + [1.0] * second)
    assert gone.done
    assert gone.comparison("the budget").verdict == "suspected"
    assert "not confirmed" in gone.comparison("the budget").reason
    cut = track([1.2] * (first + 1))
    cut.end()
    assert cut.comparison("the budget").verdict == "suspected"
    assert "ended before" in cut.comparison("the budget").reason


def test_what_is_the_same_ends_at_the_first_look_and_what_is_not_clear_goes_on():
    looks = Plan(cells=4).looks
    assert track([1.0] * 30).comparison("b").rounds == looks[0]
    assert track([1.05] * 30).comparison("b").rounds == looks[-1]
    assert track([1.05] * 30).comparison("b").verdict == "inconclusive"


def test_too_few_rounds_are_no_verdict():
    found = track([1.5] * 3)
    found.end()
    line = found.comparison("the budget of 5 s")
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
        NoNurseries(),
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
    assert "less than 80 %" in note


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
        NoNurseries(),
        120.0,
        1.0,
        random.Random(0),
        lambda text: None,
        lambda: now[0],
    )
    assert [line.verdict for line in lines] == ["same", "same", "same", "base-failed"]
    assert lines[-1].cell == cells[1]
    assert "it broke" in lines[-1].reason
