"""Parts of a sweep: whole blocks, every cell in exactly one shard, the same shards on every machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import Fake
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.common.spec import UsageError, block_of
from effbench.records.store import Store
from effbench.sweep.estimate import Estimate
from effbench.sweep.loop import run
from effbench.sweep.parts import blocks_of, parse_shard, shard
from effbench.sweep.sweep import Sweep


def some(values: list[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple)


COSTS = st.fixed_dictionaries(
    {
        "mechanism": some(["vanilla", "linear", "fastformer", "fnet"]),
        "probe": some(["time", "memory", "flops"]),
        "mode": some(["forward", "train"]),
        "seq_len": some([16, 32, 64, 128]),
        "compile": some(["none", "default"]),
        "repeats": st.integers(1, 2).map(lambda n: (n,)),
        "max_repeats": st.integers(2, 4).map(lambda n: (n,)),
        "threads": st.just((1,)),
    }
)
TRAININGS = st.fixed_dictionaries(
    {
        "mechanism": some(["vanilla", "linear", "fastformer"]),
        "probe": st.just(("accuracy",)),
        "task": st.just(("listops",)),
        "seq_len": some([16, 32]),
        "repeats": st.integers(1, 3).map(lambda n: (n,)),
        "threads": st.just((2,)),
    }
)
SWEEPS = st.builds(
    lambda grids, seed: Sweep(name="drawn", grids=tuple(grids), seed=seed),
    st.lists(COSTS | TRAININGS, min_size=1, max_size=2),
    st.integers(0, 3),
)


def seconds(sweep: Sweep) -> float:
    return sum(map(Estimate().seconds, sweep.cells()))


@given(SWEEPS, st.integers(1, 12))
@settings(max_examples=12)
def test_every_block_is_in_exactly_one_shard(sweep, count):
    shards = [shard(sweep, number, count) for number in range(1, count + 1)]
    for most in (False, True):
        whole = {cell.key for cell in sweep.cells(most=most)}
        keys = [cell.key for part in shards for cell in part.cells(most=most)]
        assert len(keys) == len(whole)
        assert set(keys) == whole
    blocks = [set(blocks_of(part.cells(most=True))) for part in shards]
    assert sum(map(len, blocks)) == len(set().union(*blocks))
    assert all(part.to_toml() == sweep.to_toml() and part.name == sweep.name for part in shards)


@given(SWEEPS, st.integers(1, 12))
@settings(max_examples=12)
def test_shards_take_about_equally_long(sweep, count):
    shards = [shard(sweep, number, count) for number in range(1, count + 1)]
    longest = max(
        sum(Estimate().seconds(cell) for cell in cells) for cells in blocks_of(sweep.cells()).values()
    )
    times = [seconds(part) for part in shards]
    assert max(times) <= sum(times) / count + longest + 0.01 * len(sweep.cells())


def test_the_block_of_a_cost_has_all_mechanisms_repeats_and_probes_and_that_of_a_training_one_seed():
    sweep = Sweep.from_toml(
        '[[grid]]\nmechanism = ["vanilla", "linear"]\nprobe = ["time", "memory"]\nmode = "forward"\n'
        "seq_len = [16, 32]\n"
        'compile = ["none", "default"]\nthreads = 1\nrepeats = 2\n'
        '[[grid]]\nmechanism = ["vanilla", "linear"]\nprobe = "accuracy"\ntask = "listops"\nseq_len = 16\n'
        "threads = 1\nrepeats = 2\n",
        "test",
        "test",
    )
    blocks = blocks_of(sweep.cells(most=True))
    assert len(blocks) == 4
    for cells in blocks.values():
        assert {cell.mechanism for cell in cells} == {"vanilla", "linear"}
        assert len({cell.seq_len for cell in cells}) == 1
        if cells[0].probe == "accuracy":
            assert len({cell.repeat for cell in cells}) == 1
        else:
            assert {cell.probe for cell in cells} == {"time", "memory"}
            assert {cell.compile for cell in cells} == {"none", "default"}
    assert all(block_of(cell) == key for key, cells in blocks.items() for cell in cells)


SWEEP = Sweep.from_toml(
    '[[grid]]\nmechanism = ["vanilla", "linear"]\nprobe = ["time", "memory"]\nseq_len = [16, 32, 64]\n'
    "d_model = 16\nheads = 2\nthreads = 1\nseconds = 0.01\nrepeats = 2\nmax_repeats = 3\n",
    "test",
    "test",
)


def test_what_is_measured_already_does_not_move_a_cell_to_another_shard(tmp_path):
    before = [shard(SWEEP, number, 2).only for number in (1, 2)]
    run(shard(SWEEP, 1, 2), tmp_path / "out", executor=Fake())
    assert [shard(SWEEP, number, 2).only for number in (1, 2)] == before
    executor = Fake()
    run(shard(SWEEP, 2, 2), tmp_path / "out", executor=executor)
    assert {job.cell.key for job in executor.ran} <= set(before[1] or ())
    last = Fake()
    run(SWEEP, tmp_path / "out", executor=last)
    assert last.ran == []
    assert [path.name for path in (tmp_path / "out").glob("sweep*.toml")] == ["sweep.toml"]
    assert Sweep.load(tmp_path / "out" / "sweep.toml").cells() == SWEEP.cells()


def test_a_further_repeat_belongs_to_the_shard_of_its_block(tmp_path):
    executor = Fake(noise={"linear": 0.5})
    mine = shard(SWEEP, 1, 3)
    run(mine, tmp_path / "out", executor=executor)
    assert {job.cell.key for job in executor.ran} == {cell.key for cell in mine.cells(most=True)}
    assert {job.cell.repeat for job in executor.ran if job.cell.probe == "time"} == {0, 1, 2}


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "a/b", "1/2/3", "-1/3", "1/0", "1 / 2", "1/8.0", "٣/8"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="is not i/n with a number i from 1 to n, such as 3/8"):
        parse_shard(text)


def test_a_shard_needs_threads_that_are_the_same_everywhere():
    sweep = Sweep.from_toml('[[grid]]\nmechanism = "linear"\nseq_len = 16\n', "test", "test")
    with pytest.raises(UsageError, match="shards need --threads"):
        shard(sweep, 1, 2)
    assert shard(sweep.override({"threads": "2"}), 1, 1).cells()


def effbench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "effbench", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_each_shard_has_a_folder_of_its_own_and_one_without_a_cell_is_a_results_folder_too(tmp_path):
    (tmp_path / "small.toml").write_text(
        '[[grid]]\nmechanism = "linear"\nprobe = "memory"\nmode = "forward"\nseq_len = [16]\n'
        "d_model = 8\nheads = 2\nthreads = 1\n"
    )
    common = ("run", "--config", "small.toml")
    planned = effbench(*common, "--shard", "2/2", "--dry-run", cwd=tmp_path)
    assert planned.stdout.endswith("0 cells, about 0.0 min; results would go to results/small-2of2\n")
    assert planned.stderr == "effbench: shard 2 of 2: 0 of 1 block, 0 of 1 cell\n"
    assert not (tmp_path / "results").exists()
    assert effbench(*common, "--shard", "2/2", cwd=tmp_path).returncode == 0
    assert Store(tmp_path / "results" / "small-2of2").read() == ([], [])
    wrong = effbench(*common, "--shard", "3/2", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "shard '3/2' is not i/n" in wrong.stderr
