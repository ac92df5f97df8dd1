"""Language modelling: parts, packed rows, masks, bits per byte, and the n-gram models beside the scores."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training import Killed, eager, make

from effbench.common.spec import Cell, UsageError
from effbench.measured.data.byte_pairs import BytePairs
from effbench.measured.data.examples import PAD
from effbench.measured.data.language_rows import MASK, bytes_of_tokens, divided, documents_of, masked
from effbench.measured.data.ngrams import DISCOUNT, KneserNey
from effbench.measured.data.source_targets import BEGIN, END, SPECIAL
from effbench.measured.probes.accuracy import measure_accuracy
from effbench.measured.tasks.causal_language import CausalLanguage
from effbench.measured.tasks.masked_language import MaskedLanguage

SMALL = {"vocabulary": 300, "validation": 6, "test": 8, "epochs": 2}
KINDS = [MaskedLanguage, CausalLanguage]
LENGTH = 16


def written_reviews(folder: Path, count: int = 60) -> Path:
    """Write reviews of random words, all different, as imdb reads them."""
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "film", "größer", "the", "a", "plot", "— never", "so!"])
    rows = [
        {"label": i % 2, "text": f"{i} " + " ".join(rng.choice(words, rng.integers(5, 20)))}
        for i in range(count)
    ]
    (folder / "imdb").mkdir(parents=True)
    for part in ("train", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "imdb" / f"{part}.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_reviews(tmp_path_factory.mktemp("reviews"))


def read_by(kind, folder, **options):
    """Return a task that has read the folder, its splits and its byte pairs."""
    task = kind(**{**SMALL, **options})
    task.fingerprint(folder)
    return task, task.data(LENGTH, 0, folder)


# Parts and rows.


def test_blank_and_repeated_texts_are_left_out():
    assert documents_of(["a", " \n", "b", "a", "", "b", "c"], "here") == (["a", "b", "c"], 2)


@given(st.integers(3, 40), st.integers(0, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 9))
def test_no_document_is_in_two_parts(count, train, validation, test, seed):
    sizes = (train, validation, test)
    if test + validation + max(train, 1) > count:
        with pytest.raises(ValueError, match=f"exceed the {count} documents"):
            divided(count, sizes, seed)
        return
    parts = divided(count, sizes, seed)
    rows = np.concatenate(list(parts.values()))
    assert len(set(rows.tolist())) == len(rows) <= count
    assert (len(parts["validation"]), len(parts["test"])) == (validation, test)
    assert len(parts["train"]) == (train or count - validation - test)
    more = divided(count, (0, validation, test), seed)
    assert all(np.array_equal(parts[name], more[name]) for name in ("validation", "test"))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_cover_the_documents_without_padding(reviews, kind):
    task, splits = read_by(kind, reviews)
    lines = (reviews / "imdb" / "train.jsonl").read_text().splitlines()
    documents = {json.loads(line)["text"] for line in lines}
    found: set[str] = set()
    for part in (splits.train, splits.validation, splits.test):
        assert part.tokens.shape == (len(part), LENGTH)
        assert not np.isin(part.tokens, (PAD, BEGIN)).any()
        stream = part.tokens.reshape(-1)
        pieces = np.split(stream, np.flatnonzero(stream == END) + 1)
        whole = {task._made.decode(piece) for piece in pieces if len(piece) and piece[-1] == END}
        assert not whole & found
        assert whole <= documents
        found |= whole
    assert len(found) >= len(documents) - 3, "one of each part may end in a row that is left out"


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_without_a_row_is_refused_in_words(reviews, kind):
    task = kind(**SMALL)
    task.fingerprint(reviews)
    with pytest.raises(UsageError, match=r"the (train|validation|test) part of imdb has at most \d+ tokens"):
        task.check_length(100_000, reviews)


def test_several_texts_are_read_one_after_the_other(tmp_path):
    folder = written_reviews(tmp_path, 20)
    (folder / "newsgroups").mkdir()
    posts = [json.dumps({"label": f"g{i % 3}", "text": f"post number {i}"}) + "\n" for i in range(20)]
    for part in ("train", "test"):
        (folder / "newsgroups" / f"{part}.jsonl").write_text("".join(posts))
    both = MaskedLanguage(**SMALL, texts="imdb+newsgroups")
    digests = {both.fingerprint(folder)}
    documents = both._documents.of(folder)[0]
    assert len(documents) == 40
    assert documents[20] == "post number 0"
    digests |= {MaskedLanguage(**SMALL, texts=name).fingerprint(folder) for name in ("imdb", "newsgroups")}
    assert len(digests) == 3
    with pytest.raises(UsageError, match="there is no folder sumpubmed in it"):
        MaskedLanguage(**SMALL, texts="sumpubmed").fingerprint(folder)


@pytest.mark.parametrize(
    "wrong",
    [{"texts": "imdb,newsgroups"}, {"texts": "imdb+imdb"}, {"texts": ""}, {"vocabulary": 5}, {"test": 0}],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MaskedLanguage(**{**SMALL, **wrong})


def test_tokens_stand_for_all_bytes_of_a_text(reviews):
    task, _ = read_by(MaskedLanguage, reviews)
    sizes = bytes_of_tokens(task._made)
    assert not sizes[:SPECIAL].any()
    for text in ("größer — never", "naïve\n\t🙂", "film"):
        assert sizes[task._made.encode([text])[0]].sum() == len(text.encode())


# Masks.


@given(st.integers(1, 40), st.integers(0, 5))
def test_masks_have_their_share_of_the_real_tokens_of_each_row(length, seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(SPECIAL, 50, (30, length))
    tokens[rng.random(tokens.shape) < 0.2] = END
    inputs, chosen = masked(tokens, 50, rng)
    real = tokens >= SPECIAL
    assert not (chosen & ~real).any()
    assert (chosen.sum(axis=1) == np.minimum(max(1, round(0.15 * length)), real.sum(axis=1))).all()
    assert (inputs[~chosen] == tokens[~chosen]).all()
    assert np.isin(inputs[chosen], (MASK, *range(SPECIAL, 50))).all()


def test_masks_are_eight_of_ten_random_one_and_kept_one():
    tokens = np.full((2000, 100), 7)
    inputs, chosen = masked(tokens, 10_000, np.random.default_rng(0))
    shares = [(inputs[chosen] == MASK).mean(), (inputs[chosen] == 7).mean()]
    assert shares == pytest.approx([0.8, 0.1], abs=0.01)  # 30,000 tokens: four standard errors


def test_evaluation_has_the_same_masks_every_time_and_training_new_ones(reviews):
    (task, splits), (other, again) = (read_by(MaskedLanguage, reviews) for _ in range(2))
    rows = np.arange(3)
    for part, twin in ((splits.test, again.test), (splits.validation, again.validation)):
        one, two = task.batch(part, rows), other.batch(twin, rows)
        assert all(torch.equal(one[name], two[name]) for name in one)
    torch.manual_seed(3)
    first, second = (task.batch(splits.train, rows) for _ in range(2))
    assert not torch.equal(first["chosen"], second["chosen"])
    torch.manual_seed(3)
    assert torch.equal(task.batch(splits.train, rows)["tokens"], first["tokens"])


def test_a_causal_row_predicts_each_token_from_those_before(reviews):
    task, splits = read_by(CausalLanguage, reviews)
    batch = task.batch(splits.test, np.arange(3))
    assert (batch["tokens"][:, 0] == BEGIN).all()
    assert torch.equal(batch["tokens"][:, 1:], batch["targets"][:, :-1])
    assert torch.equal(batch["targets"], torch.from_numpy(splits.test.tokens[:3].astype(np.int64)))
    assert batch["chosen"].all()


def test_causal_language_refuses_a_mechanism_that_sees_what_it_predicts():
    cell = Cell(mechanism="linear", probe="accuracy", task="causal-language", seq_len=8)
    CausalLanguage().check_cell(replace(cell, options={"causal": True}))
    for other in (cell, replace(cell, options={"causal": False})):
        with pytest.raises(UsageError, match="ask for the causal form: linear:causal=true"):
            CausalLanguage().check_cell(other)


# Scores.


@pytest.mark.parametrize("kind", KINDS)
def test_a_uniform_model_has_log2_v_bits_a_token(reviews, kind):
    task, splits = read_by(kind, reviews)

    def uniform(tokens, mask, at):
        return torch.zeros(int(at.sum()), splits.vocab_size)

    batches = [task.batch(splits.test, rows) for rows in (np.arange(2), np.arange(2, len(splits.test)))]
    scores = task.score(uniform, batches)
    tokens, text_bytes = splits.facts["test_tokens"], splits.facts["test_text_bytes"]
    assert scores["bits_per_byte"] == pytest.approx(math.log2(splits.vocab_size) * tokens / text_bytes)
    assert scores["perplexity"] == pytest.approx(splits.vocab_size, rel=1e-5)
    assert task.validate(uniform, batches)["inverse_perplexity"] == pytest.approx(1 / splits.vocab_size)


@pytest.mark.parametrize("kind", KINDS)
def test_baselines_are_scored_on_the_predicted_tokens_of_the_test_rows(reviews, kind):
    task, splits = read_by(kind, reviews)
    model = KneserNey(splits.train.tokens, splits.vocab_size)
    at = task.predicted(splits.test)
    for name, of in (("unigram", model.unigram), ("trigram", model.of)):
        bits = -np.log2(of(splits.test.tokens)[at]).sum()
        assert splits.priors[name] == pytest.approx(bits / splits.facts["test_text_bytes"])
        assert splits.priors[f"{name}_perplexity"] == pytest.approx(2 ** (bits / at.sum()))


# The n-gram model.


@given(st.integers(0, 20), st.integers(3, 9))
def test_probabilities_of_an_ngram_model_add_up_to_one(seed, vocab):
    rng = np.random.default_rng(seed)
    model = KneserNey(rng.integers(0, vocab, (4, 6)), vocab)
    grams = np.arange(vocab**3)
    p = model.of_grams(grams).reshape(vocab**2, vocab)
    assert (p > 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert model.unigram(np.arange(vocab)).sum() == pytest.approx(1.0)


def test_probabilities_of_an_ngram_model_are_those_computed_by_hand():
    """One row, 3 4 3 4 5, after BEGIN BEGIN; ids 0 to 5."""
    model, d = KneserNey(np.array([[3, 4, 3, 4, 5]]), 6), DISCOUNT
    # different bigrams: 1 3, 3 4, 4 3, 4 5; so 3 follows two tokens, 4 and 5 one each, of four in all
    low = {w: d * 3 / 4 / 6 for w in range(6)}
    low[3] += (2 - d) / 4
    low[4] += (1 - d) / 4
    low[5] += (1 - d) / 4
    # after 4: 3 and 5, each after one different token (3 4 3, 3 4 5)
    after_4 = {w: d * 2 / 2 * low[w] + ((1 - d) / 2 if w in (3, 5) else 0) for w in range(6)}
    # after 3: 4, after two different tokens (1 3 4, 4 3 4)
    after_3 = {w: d * 1 / 2 * low[w] + ((2 - d) / 2 if w == 4 else 0) for w in range(6)}
    # 3 4 was followed by 3 and by 5 once each; 5 3 never occurred
    after_34 = {w: d * 2 / 2 * after_4[w] + ((1 - d) / 2 if w in (3, 5) else 0) for w in range(6)}
    key = np.array([(3 * 6 + 4) * 6 + w for w in range(6)])
    np.testing.assert_allclose(model.of_grams(key), list(after_34.values()))
    key = np.array([(5 * 6 + 3) * 6 + w for w in range(6)])
    np.testing.assert_allclose(model.of_grams(key), list(after_3.values()))
    key = np.array([(3 * 6 + 5) * 6 + w for w in range(6)])  # nothing follows 5
    np.testing.assert_allclose(model.of_grams(key), list(low.values()))


def test_an_ngram_model_learns_what_follows():
    rows = np.tile([3, 4, 5, 6], (20, 4))
    model = KneserNey(rows, 7)
    assert model.of(rows)[:, 2:].min() > 0.9
    assert model.unigram(rows).max() < 0.3


# Trainings.


def trained(task, folder, checkpoint=None, causal=False):
    cell = Cell(
        mechanism="linear", options={"causal": causal}, probe="accuracy", task="language", mode="train",
        seq_len=LENGTH, batch_size=8, d_model=8, heads=2, layers=1,
    )  # fmt: skip
    return measure_accuracy(
        task, make_mechanism=make(), cell=cell, data_dir=folder,
        progress=lambda fraction, text: None, checkpoint=checkpoint,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_equals_uninterrupted_with_the_same_masks(reviews, kind, tmp_path):
    samples, values = trained(kind(**SMALL), reviews)
    assert values["bits_per_byte"] > 0
    assert {"test_perplexity", "test_token_accuracy", "prior_trigram", "tokens_per_s"} <= values.keys()

    class Killing(kind):  # type: ignore[misc, valid-type]
        losses = itertools.count(1)

        def loss(self, model, batch):
            if next(self.losses) == 3:
                raise Killed
            return super().loss(model, batch)

    with pytest.raises(Killed):
        trained(Killing(**SMALL), reviews, eager(tmp_path / "cell.pt"))
    again, others = trained(kind(**SMALL), reviews, eager(tmp_path / "cell.pt"))
    assert others["resumed"] == 1
    for name in ("step_loss", "validation_bits_per_byte", "learning_rate"):
        assert again[name] == samples[name]
    assert others["bits_per_byte"] == values["bits_per_byte"]


def test_pieces_are_those_of_the_ids(reviews):
    task, _ = read_by(MaskedLanguage, reviews)
    made = BytePairs(task._made.written)
    assert sorted(made.pieces()) == list(range(SPECIAL, made.size))
