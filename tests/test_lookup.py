"""Lookup: what every row must be, what answers without attention score, and who can solve it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from effbench.common import registry
from effbench.common.spec import Cell, UsageError
from effbench.measured.data.examples import UNLABELLED
from effbench.measured.data.lookup_rows import (
    Lookups,
    _drawn,
    _possible,
    lookup_parts,
    require_rows,
)
from effbench.measured.models.batches import sorted_batches
from effbench.measured.probes.accuracy import measure_accuracy
from effbench.measured.tasks.lookup import Lookup

SMALL = {"train": 300, "validation": 40, "test": 50}


pytestmark = pytest.mark.usefixtures("one_thread")


def lookups(part: object) -> Lookups:
    """A part of the task's splits, whose type says less than it is."""
    assert isinstance(part, Lookups)
    return part


def read_row(tokens: list[int], labels: list[int], values: int) -> None:
    """A row by its definition, token by token, sharing nothing with the generator."""
    keys = (len(tokens) + 1) // 2
    table: dict[int, list[int]] = {}
    for token in tokens:
        if token >= keys:
            table.setdefault((token - keys) // values, []).append((token - keys) % values)
    assert sorted(table) == list(range(keys))
    assert all(len(found) == 1 for found in table.values()), "every question has exactly one right answer"
    often = np.bincount([found[0] for found in table.values()], minlength=values)
    assert often.max() - often.min() <= 1
    asked = [token for token in tokens if token < keys]
    assert len(set(asked)) == len(asked) == len(tokens) // 2
    for token, label in zip(tokens, labels, strict=True):
        assert label == (UNLABELLED if token >= keys else keys + token * values + table[token][0])


@given(seq_len=st.integers(6, 40), values=st.integers(2, 5), seed=st.integers(0, 2**32))
def test_every_row_is_a_row_of_lookups(seq_len, values, seed):
    task = Lookup(values=values, train=5, validation=2, test=2)
    task.check_length(seq_len, None)
    splits = task.data(seq_len, seed, None)
    batch = task.batch(lookups(splits.train), np.array([4, 0, 2]))
    assert batch["tokens"].shape == (3, seq_len)
    assert batch["mask"].all()
    assert int(batch["tokens"].max()) < splits.vocab_size
    assert batch["tokens"].tolist() == lookups(splits.train).tokens[[4, 0, 2]].tolist()
    for tokens, labels in zip(batch["tokens"].tolist(), batch["labels"].tolist(), strict=True):
        read_row(tokens, labels, values)


@pytest.mark.parametrize(("seq_len", "values"), [(3, 2), (4, 2), (4, 3), (5, 2)])
def test_the_number_of_possible_rows_is_the_number_that_occurs(seq_len, values):
    many = 30 * 2160  # seq_len 5 has the most rows, 2160
    rng = np.random.default_rng(0)
    assert len(np.unique(_drawn(many, seq_len, values, rng), axis=0)) == _possible(seq_len, values)


def test_values_and_places_are_drawn_evenly():
    part = lookup_parts({"train": 4000}, 7, 3, 1)["train"]
    for key, values in enumerate(part.table().T):
        assert chisquare(np.bincount(values, minlength=3)).pvalue > 1e-4, key
    for token in (0, 1):  # a question stands anywhere, before its entry or behind it
        places = np.nonzero(part.tokens == token)[1]
        assert chisquare(np.bincount(places, minlength=7)).pvalue > 1e-4


def test_no_row_occurs_twice():
    splits = Lookup(train=500, validation=80, test=80).data(5, 0, None)
    parts = [lookups(part).tokens for part in (splits.train, splits.validation, splits.test)]
    assert len(np.unique(np.concatenate(parts), axis=0)) == 660
    with pytest.raises(UsageError, match="1081 different rows are too many: there are 2160 of 5 tokens"):
        require_rows(1081, 5, 2)


def test_the_seed_decides_the_data():
    one, same, other = (lookups(Lookup(**SMALL).data(32, seed, None).train).tokens for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    longer = lookups(Lookup(**SMALL | {"test": 500}).data(32, 1, None).train)
    np.testing.assert_array_equal(one, longer.tokens)


@pytest.mark.parametrize("seq_len", [1, 2])
def test_a_length_without_enough_rows_is_refused(seq_len):
    with pytest.raises(UsageError, match=rf"^lookup: .* of {seq_len} tokens .*raise seq_len.*$"):
        Lookup(train=1, validation=1, test=1).check_length(seq_len, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"values": 1}, "values must be at least 2, got 1"),
        ({"train": 0}, "train must be at least 1, got 0"),
        ({"test": -3}, "test must be at least 1, got -3"),
        ({"lr": 0.0}, "lr must be above 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, words):
    with pytest.raises(ValueError, match=words) as error:
        Lookup(**options)
    assert "\n" not in str(error.value)


class Reader(nn.Module):
    """Answers each question with the entry of its key, if it stands at most ``reach`` tokens away, or else
    with the key's value 0."""

    def __init__(self, vocab: int, keys: int, values: int, reach: int) -> None:
        super().__init__()
        self.vocab, self.keys, self.values, self.reach = vocab, keys, values, reach

    def forward(self, tokens, mask, at):
        answers = []
        for row, place in zip(*(index.tolist() for index in at.nonzero(as_tuple=True)), strict=True):
            key = int(tokens[row, place])
            near = tokens[row, max(0, place - self.reach) : place + self.reach + 1].tolist()
            found = [t for t in near if t >= self.keys and (t - self.keys) // self.values == key]
            answers.append(found[0] if found else self.keys + key * self.values)
        return nn.functional.one_hot(torch.tensor(answers), self.vocab).float()


def test_reading_the_row_scores_all_and_a_window_what_it_reaches():
    task, n = Lookup(values=4, **SMALL), 32
    splits = task.data(n, 0, None)

    def scores(reach: int):
        rows = sorted_batches(splits.test.lengths, 10 * n)
        batches = [task.batch(lookups(splits.test), r) for r in rows]
        return task.score(Reader(splits.vocab_size, n // 2, 4, reach), batches)

    assert scores(n) == {"accuracy": 1, "correct": 800, "examples": 800}
    # two of n places are at most w apart in a share of w (2 n - w - 1) / (n (n - 1)) of rows
    reached = 8 * (2 * n - 9) / (n * (n - 1))
    assert scores(8)["accuracy"] == pytest.approx(reached + (1 - reached) / 4, abs=0.05)
    assert scores(0)["accuracy"] == pytest.approx(0.25, abs=0.05)


def test_the_baseline_score_is_what_such_an_answer_scores():
    task = Lookup(values=2, **SMALL | {"train": 41, "test": 2000})
    splits = task.data(12, 0, None)
    train, test = (task.batch(lookups(part), np.arange(len(part))) for part in (splits.train, splits.test))
    counts = np.zeros((6, splits.vocab_size))
    for tokens, labels in zip(train["tokens"].tolist(), train["labels"].tolist(), strict=True):
        for token, label in zip(tokens, labels, strict=True):
            if label != UNLABELLED:
                counts[token, label] += 1
    at = test["labels"] != UNLABELLED
    right = counts.argmax(axis=1)[test["tokens"][at]] == test["labels"][at].numpy()
    assert splits.priors["key alone"] == right.mean()
    assert splits.priors["key alone"] == pytest.approx(0.5, abs=0.05)


class Nothing(nn.Module):
    """No token reads another one."""

    def forward(self, x, mask=None):
        return torch.zeros_like(x)


def test_one_layer_of_attention_solves_it_and_none_does_not():
    task = Lookup(train=800, validation=40, test=100, lr=0.02)
    cell = Cell(
        mechanism="vanilla", probe="accuracy", scope="encoder", mode="train", task="lookup",
        seq_len=8, batch_size=16, d_model=32, heads=2, layers=1,
    )  # fmt: skip
    kind = registry.load(registry.find("vanilla", "mechanism"))

    def accuracy(make):
        values = measure_accuracy(
            task, make_mechanism=make, cell=cell, data_dir=None, progress=lambda share, text: None
        )[1]
        assert values["mean_tokens"] == 8
        return values["accuracy"], values["prior_key_alone"]

    solved, _ = accuracy(lambda: kind(32, 2, max_len=8))
    blind, alone = accuracy(Nothing)
    assert solved > 0.9
    assert abs(blind - alone) < 0.1
