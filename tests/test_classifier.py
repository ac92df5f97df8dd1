"""The classifier's ways of reading tokens: given vectors, n-grams, words left out in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effbench.measured.models.classifier import Classifier, HashedNGrams, WordRecipe, token_embedding


class Mean(torch.nn.Module):
    """Every real token gets the mean of all real tokens, through a linear layer."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x, mask=None):
        weights = torch.ones(x.shape[:2]) if mask is None else mask.float()
        mean = (x * weights[..., None]).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
        return self.linear(mean).expand_as(x)


def classifier(**options):
    words = WordRecipe(**options)
    return Classifier(Mean, vocab_size=50, classes=3, max_len=12, d_model=8, layers=1, words=words)


def test_an_ngram_is_the_tokens_that_end_there_and_their_order():
    torch.manual_seed(0)
    bigrams = HashedNGrams(2, 8)
    made = bigrams(torch.tensor([[3, 4, 5, 3, 4, 4, 3]]))[0]
    assert torch.equal(made[0], torch.zeros(8))  # nothing ends at the first token
    assert torch.equal(made[1], made[4])  # 3 4 twice
    assert not torch.equal(made[1], made[6])  # 4 3 is another
    assert len({tuple(row.tolist()) for row in made}) == 6


def test_a_row_shorter_than_an_ngram_has_none():
    assert torch.equal(HashedNGrams(3, 8)(torch.tensor([[3, 4]])), torch.zeros(1, 2, 8))


def test_padding_changes_no_logits_with_ngrams_either():
    torch.manual_seed(0)
    model = classifier(ngrams=3).eval()
    tokens = torch.randint(1, 50, (2, 7))
    padded = torch.cat([tokens, torch.zeros(2, 5, dtype=torch.long)], 1)
    mask = torch.arange(12).expand(2, 12) < 7
    torch.testing.assert_close(model(tokens, mask[:, :7]), model(padded, mask))


def test_ngrams_tell_the_order_of_words_apart_where_a_mean_cannot():
    torch.manual_seed(0)
    forth, back = torch.tensor([[3, 4, 3, 5]]), torch.tensor([[3, 5, 3, 4]])
    for n, equal in ((1, True), (2, False)):
        model = classifier(ngrams=n).eval()
        torch.nn.init.zeros_(model.positions.weight)
        assert torch.allclose(model(forth), model(back), atol=1e-6) is equal


def test_words_are_left_out_in_training_alone_and_as_often_as_asked():
    torch.manual_seed(0)
    model = classifier(word_dropout=0.25)
    x = torch.ones(200, 50, 8)
    kept = model._without_some(x)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(kept.amin(-1), kept.amax(-1))  # a word as a whole
    assert kept.mean().item() == pytest.approx(0.75, abs=0.02)
    assert torch.equal(model.eval()._without_some(x), x)


@pytest.mark.parametrize("width", [8, 5])
def test_vectors_start_the_embedding_and_are_not_trained_in_place(width):
    vectors = np.random.default_rng(0).standard_normal((50, width)).astype(np.float32)
    vectors[0] = 0
    before = vectors.copy()
    model = classifier(vectors=vectors)
    tables = [p for p in model.tokens.parameters() if p.shape == (50, width)]
    assert len(tables) == 1
    assert torch.equal(tables[0], torch.from_numpy(before))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randint(1, 50, (4, 6))).sum().backward()
    optimizer.step()
    assert not torch.equal(tables[0], torch.from_numpy(before))
    assert np.array_equal(vectors, before)
    assert torch.equal(tables[0][0], torch.zeros(width))  # padding


def test_vectors_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match="49 vectors for a vocabulary of 50"):
        token_embedding(50, 8, np.zeros((49, 8), dtype=np.float32))
