"""Estimates: they grow with the work, finished cells correct them, and they cost little for each cell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import Fake
from hypothesis import given
from hypothesis import strategies as st

from effbench.common import registry
from effbench.common.extent import Extent
from effbench.common.spec import Cell, Record
from effbench.records.store import Store
from effbench.sweep import machine_pace
from effbench.sweep.estimate import Estimate, training_s
from effbench.sweep.loop import run
from effbench.sweep.planning import plan
from effbench.sweep.sweep import Sweep

COST = Cell(mechanism="linear", probe="time", seq_len=512, threads=1)
TRAINING = Cell(
    mechanism="linear", probe="accuracy", scope="encoder", mode="train", task="listops", seq_len=256,
    batch_size=16, d_model=64, heads=4, layers=2, seconds=0.0, precision=0.0, threads=1,
)  # fmt: skip
EXTENT = Extent(train=10_000, validation=500, test=1000, tokens=200, epochs=4)


def finished(cell: Cell, seconds: float) -> Record:
    return Record(cell=cell, status="ok", seconds=seconds)


@given(
    st.sampled_from(["train", "epochs", "tokens", "validation", "test"]),
    st.integers(2, 5),
    st.sampled_from(["vanilla", "linear", "fastformer"]),
)
def test_a_training_takes_longer_the_more_it_reads(field, factor, mechanism):
    cell = replace(TRAINING, mechanism=mechanism, seq_len=2048)
    one, more = (
        training_s(cell, replace(EXTENT, **{field: getattr(EXTENT, field) * k})) for k in (1, factor)
    )
    assert one < more
    if field in ("train", "epochs"):  # nearly all of the time
        assert more == pytest.approx(factor * one, rel=0.25)
    if field == "tokens":
        assert more > 1.5 * one if mechanism == "linear" else more > 1.2 * one


@pytest.mark.parametrize("axis", ["layers", "d_model"])
def test_a_training_takes_longer_the_larger_the_model_is(axis):
    one, two = (training_s(replace(TRAINING, **{axis: getattr(TRAINING, axis) * k}), EXTENT) for k in (1, 2))
    assert 1.6 * one < two < 4.5 * one


def test_padding_costs_next_to_nothing():
    """Rows of 10 tokens take hardly longer at 4,096 than at 64: but for a few steps on full batches."""
    short = replace(EXTENT, tokens=10)
    at_64, at_4096 = (training_s(replace(TRAINING, seq_len=n), short) for n in (64, 4096))
    assert at_64 < at_4096 < 2 * at_64


def test_options_stand_in_for_an_extent_that_is_not_known():
    """Nothing of the data is read: the options that tasks share are enough to grow with."""
    usual = Estimate().seconds(replace(TRAINING, task_options={"train": 10_000, "epochs": 4}))
    for options in ({"train": 20_000, "epochs": 4}, {"train": 10_000, "epochs": 8}):
        assert Estimate().seconds(replace(TRAINING, task_options=options)) == pytest.approx(
            2 * usual, rel=0.3
        )
    for name in registry.names("task"):
        assert Estimate().seconds(replace(TRAINING, task=name)) > 0
    assert Estimate().seconds(replace(TRAINING, mechanism="nrms", task="news")) > 0


@given(st.floats(0.02, 50))
def test_a_finished_cell_corrects_the_others_of_its_kind(factor):
    cells = [
        replace(COST, repeat=1),
        replace(COST, seq_len=1024, repeat=1),
        replace(COST, mechanism="vanilla"),
    ]
    plain, learnt = Estimate(), Estimate()
    learnt.learn(finished(cells[0], factor * plain.seconds(cells[0])))
    for cell in cells:
        assert learnt.seconds(cell) == pytest.approx(factor * plain.seconds(cell))
    for other in (TRAINING, replace(COST, probe="memory"), replace(COST, device="cuda")):
        assert learnt.seconds(other) == plain.seconds(other)


def test_the_cells_most_alike_decide():
    estimate = Estimate()
    guess = estimate.seconds(TRAINING)
    estimate.learn(finished(TRAINING, 2 * guess))
    estimate.learn(
        finished(
            replace(TRAINING, mechanism="vanilla"),
            8 * Estimate().seconds(replace(TRAINING, mechanism="vanilla")),
        )
    )
    assert estimate.seconds(replace(TRAINING, repeat=1)) == pytest.approx(2 * guess)
    other = replace(TRAINING, mechanism="fastformer")
    assert 2 < estimate.seconds(other) / Estimate().seconds(other) < 8
    failed = Record(cell=TRAINING, status="oom", seconds=1000.0)
    before = estimate.seconds(TRAINING)
    estimate.learn(failed)
    assert estimate.seconds(TRAINING) == before


SWEEP = Sweep.from_toml(
    '[[grid]]\nmechanism = ["vanilla", "linear", "fnet"]\nprobe = ["time", "memory"]\nseq_len = [16, 32]\n'
    "d_model = 16\nheads = 2\nthreads = 1\nseconds = 0.01\nrepeats = 3\n"
    '[[grid]]\nmechanism = ["vanilla", "linear"]\nprobe = "accuracy"\ntask = "mqar:train=200,epochs=1"\n'
    "seq_len = 16\nd_model = 16\nheads = 2\nthreads = 1\nrepeats = 2\n",
    "test",
    "test",
)


def test_what_is_left_is_the_sum_of_the_cells_that_are_left():
    cells = SWEEP.cells()
    estimate = Estimate()
    left = estimate.left(cells)
    for number, cell in enumerate(cells):
        assert left.seconds() == pytest.approx(sum(map(estimate.seconds, cells[number:])))
        estimate.learn(finished(cell, 0.1 * (1 + number % 3)))
        left.without(cell)
    assert left.seconds() == pytest.approx(0.0, abs=1e-6)


def test_a_run_estimates_each_cell_a_few_times_only(tmp_path, monkeypatch):
    asked = []
    guess = Estimate._guess

    def count(self: Estimate, cell: Cell) -> float:
        asked.append(cell)
        return guess(self, cell)

    monkeypatch.setattr(Estimate, "_guess", count)
    executor = Fake()
    run(SWEEP, tmp_path / "out", executor=executor)
    assert len(executor.ran) >= len(SWEEP.cells())
    assert len(asked) <= 8 * len(executor.ran)


def test_the_machine_remembers_its_pace_and_shards_do_not_depend_on_it(tmp_path):
    store = Store(tmp_path / "out")
    planned = plan(SWEEP, store)
    plain, before = Estimate((), planned.extents), machine_pace.read()
    assert before == {}
    cells = [cell for cell in SWEEP.cells() if cell.probe == "time"]
    slow = Estimate([finished(cell, 7 * plain.seconds(cell)) for cell in cells])
    machine_pace.keep(slow.sums)
    later = machine_pace.estimate_of(planned)
    for cell in SWEEP.cells():
        assert later.seconds(cell) == pytest.approx(plain.seconds(cell) * (7 if cell.probe == "time" else 1))
    assert Estimate().seconds(cells[0]) == plain.seconds(cells[0])
    (path,) = (tmp_path / "cache").rglob("pace-*.json")
    path.write_text(path.read_text().replace("7", "8", 1))
    assert machine_pace.read() == {}, "a file that was changed says nothing"


def test_trainings_of_a_plan_know_their_data(tmp_path):
    planned = plan(SWEEP, Store(tmp_path / "out"))
    (key,) = planned.extents
    assert key[1] == 16
    assert planned.extents[key].train == 200
    assert planned.extents[key].tokens == 16
