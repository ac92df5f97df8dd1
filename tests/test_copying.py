"""Copying: what every row must be, what guesses score, and a model that solves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

import effbench
from effbench.common.spec import Cell, UsageError
from effbench.measured.data.copy_rows import copy_priors, copy_rows, segment_bounds
from effbench.measured.data.source_targets import SPECIAL
from effbench.measured.tasks.copying import Copying
from effbench.measured.workload import maker
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.sweep import Sweep


@given(st.integers(1, 6), st.integers(0, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_a_row_is_noise_with_one_value_in_each_segment(items, more, values, noise, seed):
    """Read by the definition: the values of a source, in order, are its target."""
    length = 2 * items + more
    rng = np.random.default_rng(seed)
    rows = copy_rows(7, length, items=items, values=values, noise=noise, rng=rng)
    assert len(rows) == 7
    bounds = segment_bounds(length, items)
    assert bounds[0] == 0
    assert bounds[-1] == length
    assert np.ptp(np.diff(bounds)) <= 1
    for i in range(7):
        source = rows.source(i)
        assert len(source) == length
        places = [place for place, token in enumerate(source) if token < SPECIAL + values]
        assert [source[place] for place in places] == rows.target(i).tolist()
        assert [int(np.searchsorted(bounds, place, side="right")) - 1 for place in places] == [*range(items)]
        assert source.min() >= SPECIAL
        assert source.max() < SPECIAL + values + noise


def test_places_values_and_noise_are_uniform():
    rows = copy_rows(20_000, 24, items=3, values=5, noise=4, rng=np.random.default_rng(0))
    sources = rows.sources.reshape(-1, 24)
    places = np.nonzero(sources < SPECIAL + 5)[1]
    for drawn, kinds in ((places, 24), (rows.targets - SPECIAL, 5)):
        assert chisquare(np.bincount(drawn, minlength=kinds)).pvalue > 1e-3
    noise = sources[sources >= SPECIAL + 5] - SPECIAL - 5
    assert chisquare(np.bincount(noise, minlength=4)).pvalue > 1e-3


def test_guesses_score_what_the_priors_say():
    items, values, rng = 4, 6, np.random.default_rng(1)
    rows = copy_rows(40_000, 16, items=items, values=values, noise=3, rng=rng)
    targets = rows.targets.reshape(-1, items)
    priors = copy_priors(items, values)
    guesses = rng.integers(SPECIAL, SPECIAL + values, size=targets.shape)
    assert (guesses == targets).mean() == pytest.approx(priors["a_random_value_token_accuracy"], abs=0.005)
    assert (guesses == targets).all(axis=1).mean() == pytest.approx(priors["a_random_value"], abs=0.001)
    of_the_row = np.take_along_axis(targets, rng.integers(items, size=targets.shape), axis=1)
    expected = priors["an_item_of_the_row_token_accuracy"]
    assert (of_the_row == targets).mean() == pytest.approx(expected, abs=0.005)


def test_the_parts_differ_and_depend_on_the_seed_alone():
    task = Copying(train=50, validation=50, test=50)
    first, again, other = (task.data(64, seed, None) for seed in (0, 0, 1))
    for part in ("train", "validation", "test"):
        assert np.array_equal(getattr(first, part).sources, getattr(again, part).sources)
        assert not np.array_equal(getattr(first, part).sources, getattr(other, part).sources)
    assert not np.array_equal(first.train.sources, first.test.sources)


def test_what_is_generated_is_compared_place_by_place(monkeypatch):
    """Of three rows one is right, one has one wrong token, and one is too short."""
    task = Copying(items=3, train=4, validation=4, test=3)
    splits = task.data(12, 0, None)
    found = splits.test.targets.reshape(3, 3).tolist()
    found[1][2] = SPECIAL + task.values  # noise
    found[2] = found[2][:1]
    monkeypatch.setattr(Copying, "generated", lambda self, model, batch: found)
    monkeypatch.setattr(Copying, "forced", lambda self, model, batch: (6.0, 12, 9, 3, 1))
    scores = task.score(torch.nn.Linear(1, 1), [task.batch(splits.test, np.arange(3))])
    assert scores == {"exact_match": 1 / 3, "token_accuracy": 6 / 9, "loss_nats": pytest.approx(0.5)}


def test_the_validation_score_is_the_exact_match_of_greedy_search():
    """Behind right beginnings or its own: where every token is right they are the same."""
    torch.manual_seed(0)
    task = Copying(items=2, values=2, noise=1, train=4, validation=4, test=200)
    splits = task.data(8, 0, None)
    batch = task.batch(splits.test, np.arange(200))
    cell = Cell(mechanism="vanilla", options={}, probe="accuracy", task="copying", seq_len=8, d_model=8,
                heads=2)  # fmt: skip
    model = task.model(maker(cell), splits=splits, seq_len=8, d_model=8, layers=1).double().eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.7)
    with torch.no_grad():
        forced = task.validate(model, [batch])["exact_match"]
        assert task.score(model, [batch])["exact_match"] == forced


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


@pytest.mark.parametrize("name", ["items", "values", "noise", "train", "validation", "test"])
def test_rows_that_cannot_be_drawn_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Copying(**{name: 0})


def test_a_length_without_room_for_noise_is_refused():
    Copying(items=4).check_length(8, None)
    with pytest.raises(UsageError, match="seq_len 7 is below 2 x items, which is 8"):
        Copying(items=4).check_length(7, None)
