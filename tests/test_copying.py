"""Copying: what is scored, and a model that solves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import effbench
from effbench.common.spec import Cell, UsageError
from effbench.measured.data.source_targets import SPECIAL, SourceTargets
from effbench.measured.tasks.copying import Copying
from effbench.measured.workload import maker
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.sweep import Sweep


def pairs(part: object) -> SourceTargets:
    """A part of the task's splits, whose type says less than it is."""
    assert isinstance(part, SourceTargets)
    return part


def test_what_is_generated_is_compared_place_by_place(monkeypatch):
    """Of three rows one is right, one has one wrong token, and one is too short."""
    task = Copying(items=3, train=4, validation=4, test=3)
    splits = task.data(12, 0, None)
    found = pairs(splits.test).targets.reshape(3, 3).tolist()
    found[1][2] = SPECIAL + task.values  # noise
    found[2] = found[2][:1]
    monkeypatch.setattr(Copying, "generated", lambda self, model, batch: found)
    monkeypatch.setattr(Copying, "forced", lambda self, model, batch: (6.0, 12, 9, 3, 1))
    scores = task.score(torch.nn.Linear(1, 1), [task.batch(pairs(splits.test), np.arange(3))])
    assert scores == {"exact_match": 1 / 3, "token_accuracy": 6 / 9, "loss_nats": pytest.approx(0.5)}


def test_the_validation_score_is_the_exact_match_of_greedy_search():
    """Behind right beginnings or its own: where every token is right they are the same."""
    torch.manual_seed(0)
    task = Copying(items=2, values=2, noise=2, train=400, validation=4, test=200)
    splits = task.data(8, 0, None)
    cell = Cell(mechanism="vanilla", options={}, probe="accuracy", task="copying", seq_len=8, d_model=16,
                heads=2)  # fmt: skip
    model = task.model(maker(cell), splits=splits, seq_len=8, d_model=16, layers=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rows = task.batch(pairs(splits.train), np.arange(400))
    for _ in range(25):
        optimizer.zero_grad()
        task.loss(model, rows).backward()
        optimizer.step()
    batch = task.batch(pairs(splits.test), np.arange(200))
    with torch.no_grad():
        forced = task.validate(model.double().eval(), [batch])["exact_match"]
        assert task.score(model, [batch])["exact_match"] == forced
    assert 0 < forced < 1


def test_a_model_learns_to_copy(tmp_path):
    toml = (
        'description = ""\ntimeout = "10m"\n[[grid]]\nmechanism = ["vanilla"]\nprobe = "accuracy"\n'
        "seq_len = 12\nbatch_size = 32\nd_model = 32\nheads = 2\nlayers = 1\nthreads = 1\nrepeats = 1\n"
        'task = "copying:items=2,values=4,noise=2,train=3000,validation=50,test=100,epochs=4,lr=0.01"\n'
    )
    sweep = Sweep.from_toml(toml, "test", "copying")
    frame = effbench.run(sweep, tmp_path / "out", executor=InlineExecutor())
    row = frame.iloc[0]
    assert row["status"] == "ok", row["reason"]
    assert row["exact_match"] > 0.9
    assert row["token_accuracy"] >= row["exact_match"]
    assert row["decode_tokens_per_s"] > 0
    assert 0 < row["prior_majority"] < row["prior_any_order"] < 1
    assert row["prior_any_order_token_accuracy"] == pytest.approx(row["prior_any_order"])  # of two items


@pytest.mark.parametrize("name", ["items", "values", "noise", "train", "validation", "test"])
def test_rows_that_cannot_be_drawn_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Copying(**{name: 0})


def test_a_length_without_room_is_refused():
    Copying(items=4).check_length(8, None)
    with pytest.raises(UsageError, match="seq_len 3 has no room for 4 items"):
        Copying(items=4).check_length(3, None)
    with pytest.raises(UsageError, match="different rows are too many"):
        Copying(items=1, values=2, noise=1).check_length(8, None)
    with pytest.raises(ValueError, match="placement is 'ends', not segments or free"):
        Copying(placement="ends")
