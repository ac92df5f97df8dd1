"""Multi-query recall: what every row must be, what the model may compute, and who can solve it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn
from torch.nn.functional import cross_entropy

from effbench.common import registry
from effbench.common.spec import Cell, UsageError
from effbench.measured.data.examples import UNLABELLED
from effbench.measured.data.recall_rows import Recall, distinct, generate, weighted
from effbench.measured.models.batches import sorted_batches
from effbench.measured.models.encoder import Encoder
from effbench.measured.models.tagger import Tagger
from effbench.measured.probes.accuracy import measure_accuracy
from effbench.measured.tasks.mqar import BASED_TEST, MQAR

SMALL = {"train": 400, "validation": 50, "test": 60}


pytestmark = pytest.mark.usefixtures("one_thread")


def vanilla(d_model: int, max_len: int):
    kind = registry.load(registry.find("vanilla", "mechanism"))
    return lambda: kind(d_model, 2, max_len=max_len, causal=True)


def recall(part: object) -> Recall:
    """A part of the task's splits, whose type says less than it is."""
    assert isinstance(part, Recall)
    return part


def read_row(tokens: list[int], labels: list[int], pairs: int, vocab: int, fillers: bool) -> None:
    """A row by its definition, token by token, sharing nothing with the generator."""
    seen: dict[int, int] = {}
    for i in range(pairs):
        key, value = tokens[2 * i], tokens[2 * i + 1]
        assert 1 <= key < vocab // 2 <= value < vocab
        assert key not in seen
        seen[key] = value
    assert len(set(seen.values())) == pairs
    asked = []
    for position, (token, label) in enumerate(zip(tokens, labels, strict=True)):
        if label == UNLABELLED:
            assert fillers or token == 0 or position < 2 * pairs
            continue
        assert position >= 2 * pairs
        assert position % 2 == 0
        assert label == seen[token]
        asked.append(token)
    assert sorted(asked) == sorted(seen)


@given(
    pairs=st.integers(1, 6),
    spare=st.integers(0, 20),
    more=st.integers(1, 40),
    fillers=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_row_is_a_row_of_mqar(pairs, spare, more, fillers, seed):
    length, vocab = 4 * pairs + 2 * spare, 2 * (pairs + more)
    task = MQAR(pairs=pairs, vocab=vocab, fillers=fillers, train=5, validation=1, test=1)
    try:
        splits = task.data(length, seed, None)
    except UsageError:
        assert length <= 4, "only tiny rows can run out of rows that training has not seen"
        return
    batch = task.batch(recall(splits.train), np.arange(5))
    assert batch["tokens"].shape == (5, length)
    assert batch["mask"].all()
    for tokens, labels in zip(batch["tokens"].tolist(), batch["labels"].tolist(), strict=True):
        read_row(tokens, labels, pairs, vocab, fillers)


def test_rows_of_a_mixture_are_rows_of_mqar_with_padding_behind():
    task = MQAR(mix="based", vocab=256, fillers=True, train=90, validation=2, test=3)
    splits = task.data(256, 0, None)
    assert [len(block.tokens) for block in recall(splits.train).blocks] == [50, 10, 10, 10, 10]
    assert [block.tokens.shape[1:] + block.slots.shape[1:] for block in recall(splits.test).blocks] == list(
        BASED_TEST
    )
    rows = np.random.default_rng(0).permutation(len(splits.train))
    batch = task.batch(recall(splits.train), rows)
    lengths = batch["mask"].sum(dim=1)
    assert lengths.tolist() == splits.train.lengths[rows].tolist()
    for row in range(len(rows)):
        n, pairs = int(lengths[row]), int((batch["labels"][row] != UNLABELLED).sum())
        assert batch["mask"][row, :n].all()
        assert (batch["labels"][row, n:] == UNLABELLED).all()
        read_row(batch["tokens"][row, :n].tolist(), batch["labels"][row, :n].tolist(), pairs, 256, True)
    shorter = MQAR(mix="based", vocab=256, **SMALL).data(128, 0, None)
    assert [block.tokens.shape[1] for block in recall(shorter.train).blocks] == [64, 128]
    assert len(shorter.train) == 400


def test_slots_follow_the_power_law():
    rows, length, alpha = 40_000, 24, 0.3
    weights = np.arange(1, (length - 8) // 2 + 1) ** (alpha - 1)
    slots = generate(rows, length, 4, 64, alpha, False, np.random.default_rng(7)).slots
    # The first pair has the first choice: its slot is a plain draw.
    first = np.bincount(slots[:, 0], minlength=len(weights))
    assert chisquare(first, rows * weights / weights.sum()).pvalue > 1e-3
    assert chisquare(first, np.full(len(weights), rows / len(weights))).pvalue < 1e-9
    # The second draws from what the first has left.
    shares = weights / weights.sum()
    left = np.array(
        [sum(shares[i] * shares[s] / (1 - shares[i]) for i in range(8) if i != s) for s in range(8)]
    )
    assert chisquare(np.bincount(slots[:, 1], minlength=8), rows * left).pvalue > 1e-3


def test_keys_are_drawn_without_replacement_and_all_alike():
    drawn = distinct(30_000, 3, 5, np.random.default_rng(1))
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(orders) == 5 * 4 * 3
    assert chisquare(counts).pvalue > 1e-3
    every = weighted(50, 6, np.arange(1.0, 7.0), np.random.default_rng(2))
    assert (np.sort(every, axis=1) == np.arange(6)).all()


def test_no_test_row_is_a_training_row():
    # 7 keys, 8 values, 6 slots: 336 rows, most of which training has.
    splits = MQAR(pairs=1, vocab=16, train=600, validation=30, test=30).data(14, 0, None)
    train, validation, test = (
        {row.tobytes() for block in recall(part).blocks for row in block.tokens}
        for part in (splits.train, splits.validation, splits.test)
    )
    assert len(train) > 150
    assert not train & validation
    assert not train & test
    with pytest.raises(UsageError, match="too few different rows"):
        MQAR(pairs=1, vocab=4, train=500, validation=1, test=1).data(4, 0, None)


def test_the_seed_decides_the_data():
    parts = (MQAR(**SMALL).data(32, seed, None).train for seed in (1, 1, 2))
    one, same, other = (recall(part).blocks[0].tokens for part in parts)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


class LookUp(nn.Module):
    """Answers each query with the token behind the first place of the same token."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab = vocab

    def forward(self, tokens, mask, at):
        rows, places = at.nonzero(as_tuple=True)
        answers = [
            tokens[row, tokens[row].tolist().index(int(tokens[row, place])) + 1]
            for row, place in zip(rows.tolist(), places.tolist(), strict=True)
        ]
        return nn.functional.one_hot(torch.stack(answers), self.vocab).float()


@pytest.mark.parametrize("options", [{"pairs": 4}, {"mix": "based"}])
def test_looking_up_scores_all_and_each_shape_has_its_score(options):
    task = MQAR(vocab=256, fillers=True, **SMALL | options)
    splits = task.data(64, 0, None)
    batches = [task.batch(recall(splits.test), r) for r in sorted_batches(splits.test.lengths, 640)]
    scores = task.score(LookUp(256), batches)
    assert scores["accuracy"] == 1
    queries = sum(block.slots.size for block in recall(splits.test).blocks)
    assert scores["examples"] == scores["correct"] == queries
    if "mix" in options:
        assert {name: value for name, value in scores.items() if name.startswith("accuracy_")} == {
            "accuracy_64_4": 1,
            "accuracy_64_8": 1,
            "accuracy_64_16": 1,
        }


def test_priors_are_what_such_answers_score():
    splits = MQAR(pairs=4, vocab=32, **SMALL | {"train": 5000, "test": 5000}).data(32, 0, None)
    assert splits.priors["a value of the row"] == 0.25
    assert splits.priors["majority"] == pytest.approx(1 / 16, abs=0.01)
    # By hand: the commonest pair of each slot, counted one query at a time.
    block, counts = recall(splits.train).blocks[0], np.zeros((12, 4))
    for row in block.slots.tolist():
        for pair, slot in enumerate(row):
            counts[slot, pair] += 1
    tested = recall(splits.test).blocks[0].slots
    hits = [counts[slot].argmax() == pair for row in tested for pair, slot in enumerate(row)]
    assert splits.priors["slot"] == pytest.approx(np.mean(hits))
    assert splits.priors["slot"] > 0.26


def test_the_loss_is_the_dense_one():
    task = MQAR(mix="based", vocab=160, **SMALL)
    splits = task.data(256, 0, None)
    torch.manual_seed(0)
    model = task.model(vanilla(16, 256), splits=splits, seq_len=256, d_model=16, layers=1)
    batch = task.batch(recall(splits.train), np.array([0, 399, 230, 5]))
    logits = model(batch["tokens"], batch["mask"], torch.ones_like(batch["mask"])).view(4, 256, 160)
    dense = cross_entropy(logits.transpose(1, 2), batch["labels"], ignore_index=UNLABELLED)
    torch.testing.assert_close(task.loss(model, batch), dense)


def test_padding_changes_no_logit():
    torch.manual_seed(0)
    model = Tagger(vanilla(16, 12), vocab_size=20, max_len=12, d_model=16, layers=2).eval()
    tokens = torch.randint(20, (3, 8))
    at = torch.rand(3, 8) < 0.5
    wide = torch.cat([tokens, torch.randint(20, (3, 4))], dim=1)
    mask = torch.arange(12).expand(3, 12) < 8
    found = model(wide, mask, nn.functional.pad(at, (0, 4)))
    assert found.shape == (int(at.sum()), 20)
    torch.testing.assert_close(found, model(tokens, None, at), atol=1e-5, rtol=1e-5)


def test_an_encoder_without_feed_forward_is_its_mechanism_alone():
    torch.manual_seed(0)
    encoder = Encoder(vanilla(8, 6), d_model=8, layers=1, ffn_width=0)
    x = torch.randn(2, 6, 8)
    block: Any = encoder.blocks[0]
    torch.testing.assert_close(encoder(x), encoder.norm(x + block.mechanism(block.mix_norm(x))))
    assert not [name for name, _ in encoder.named_parameters() if "ffn" in name]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"pairs": 0}, "pairs must be at least 1, got 0"),
        ({"vocab": 7}, "vocab must be even and at least 4, got 7"),
        ({"pairs": 8, "vocab": 16}, "vocab=16 has 7 keys, too few for 8 pairs"),
        ({"mix": "based", "vocab": 64}, "vocab=64 has 31 keys, too few for 64 pairs"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"mix": "based", "pairs": 4}, "leave pairs out"),
        ({"test": 0}, "must each be at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
    ],
)
def test_a_wrong_option_is_named(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        MQAR(**options)


@pytest.mark.parametrize(
    ("options", "seq_len"),
    [({"pairs": 4}, 14), ({"pairs": 4}, 17), ({"mix": "based"}, 32), ({"mix": "based"}, 512)],
)
def test_a_length_that_does_not_fit_is_named(options, seq_len):
    with pytest.raises(UsageError, match=f"seq_len (is )?{seq_len}"):
        MQAR(**options).data(seq_len, 0, None)


class BagOfWords(nn.Module):
    """Every token receives a map of the mean of the row: which value followed which key is lost."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, x, mask=None):
        return self.linear(x.mean(dim=1, keepdim=True)).expand_as(x)


@pytest.mark.slow
def test_attention_learns_to_recall_and_a_bag_of_words_does_not():
    task = MQAR(pairs=2, vocab=16, train=4000, validation=100, test=300, epochs=8, lr=5e-3)
    cell = Cell(
        mechanism="-", probe="accuracy", task="mqar", seq_len=12, batch_size=64, d_model=32, heads=2, layers=2
    )

    def accuracy(make):
        _, values = measure_accuracy(
            task, make_mechanism=make, cell=cell, data_dir=None, progress=lambda *_: None
        )
        return values["accuracy"], values["prior_slot"]

    recalled, prior = accuracy(vanilla(32, 12))
    assert recalled > prior + 0.15
    bag, _ = accuracy(lambda: BagOfWords(32))
    assert bag < prior + 0.05
