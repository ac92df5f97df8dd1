"""The linear model beside a classifier's encoder: its features, its scores and its place in a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effbench.measured.data.examples import Examples, Splits
from effbench.measured.models.classifier import Classifier, WordRecipe
from effbench.measured.models.training import Recipe, _optimizer
from effbench.measured.models.with_linear import LinearNGrams, WithLinear
from effbench.measured.tasks.newsgroups import Newsgroups

TEXTS = [[2, 3, 4, 2, 3], [2, 3, 1, 5], [5, 4, 3], [2, 2, 3, 6, 6]]
VOCABULARY = 7


def examples(texts=TEXTS):
    starts = np.cumsum([0, *map(len, texts)])
    return Examples(tokens=np.concatenate(texts), starts=starts, labels=np.zeros(len(texts), dtype=np.int64))


def nothing() -> Splits:
    part = examples()
    return Splits(train=part, validation=part, test=part, vocab_size=VOCABULARY, classes=2, priors={})


def features(texts, *, longest=2, rows=100, classes=3, dropout=0.7):
    sizes = {"vocab_size": VOCABULARY, "classes": classes, "longest": longest, "rows": rows}
    return LinearNGrams(examples(texts), **sizes, dropout=dropout).eval()


def linear(longest=2, rows=100, texts=TEXTS, dropout=0.7):
    made = features(texts, longest=longest, rows=rows, dropout=dropout)
    torch.manual_seed(0)
    torch.nn.init.normal_(made.weights.weight)
    return made


def test_its_features_have_the_values_of_the_baseline():
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    # the unknown word 1 is no feature here, so the text that has it is left out of the comparison
    texts = [TEXTS[0], TEXTS[2], TEXTS[3]]
    made = features(texts, classes=50)
    made.weights.weight.data = torch.eye(len(made.idf), 50)
    written = [" ".join(map(str, text)) for text in texts]
    theirs = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, tokenizer=str.split, token_pattern=None, lowercase=False
    )
    theirs.fit(written)
    pairs = [name for name in theirs.get_feature_names_out() if " " in name]
    in_two = [name for name in pairs if sum(f" {name} " in f" {text} " for text in written) >= 2]
    vocabulary = sorted({token for text in texts for token in text})
    theirs = TfidfVectorizer(**{**theirs.get_params(), "vocabulary": [*map(str, vocabulary), *in_two]})
    expected = theirs.fit_transform(written).toarray()
    for text, row in zip(texts, expected, strict=True):
        found = made(torch.tensor([text]))[0].detach().numpy()
        np.testing.assert_allclose(found[found > 0], row[row > 0], rtol=1e-5)


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_padding_changes_nothing(longest):
    made = linear(longest)
    tokens = torch.tensor([[2, 3, 4, 2, 3], [5, 2, 3, 0, 0]])
    mask = tokens > 0
    longer = torch.nn.functional.pad(tokens, (0, 3))
    torch.testing.assert_close(made(tokens, mask), made(longer, longer > 0))
    torch.testing.assert_close(made(tokens, mask)[1:], made(torch.tensor([[5, 2, 3]])))


def test_an_ngram_of_one_text_is_no_feature_and_the_limit_keeps_the_commonest():
    assert len(linear(2).keys_2) == 1  # 2 3 stands in three texts, every other pair in one
    assert linear(2).keys_2.tolist() == [2 * VOCABULARY + 3]
    assert len(linear(2, rows=0).keys_2) == 0
    assert len(linear(3).keys_3) == 0
    alone, pair = linear(1, texts=TEXTS), linear(2, texts=TEXTS)
    assert len(pair.idf) == len(alone.idf) + 1 == VOCABULARY + 1


def test_texts_of_unknown_words_and_texts_shorter_than_an_ngram_have_finite_logits():
    made = linear(3)
    for text in ([1], [1, 1, 1], [2]):
        assert torch.isfinite(made(torch.tensor([text]))).all()


def test_weights_are_left_out_in_training_alone_without_a_change_of_their_mean():
    made = linear(2)
    text = torch.tensor([[2, 3, 4, 2, 3]])
    exact = made(text)
    made.train()
    drawn = torch.stack([made(text) for _ in range(2000)])
    assert drawn.std(dim=0).min() > 0.01
    torch.testing.assert_close(drawn.mean(dim=0), exact, atol=0.1, rtol=0.1)
    without = linear(2, dropout=0.0).train()
    torch.testing.assert_close(without(text), exact)


class Nothing(torch.nn.Module):
    def forward(self, x, mask=None):
        return torch.zeros_like(x)


def beside():
    words = WordRecipe(ngrams=2, embedding_lr=5.0)
    encoder = Classifier(
        Nothing, vocab_size=VOCABULARY, classes=3, max_len=8, d_model=8, layers=1, words=words
    )
    return WithLinear(encoder, linear(), lr_factor=60.0).eval()


def test_each_part_has_its_own_rate():
    model = beside()
    factors = {id(p): g["factor"] for g in _optimizer(model, Recipe()).param_groups for p in g["params"]}
    assert factors[id(model.encoder.tokens.weight)] == factors[id(model.encoder.ngrams[0].rows.weight)] == 5
    assert factors[id(model.encoder.classify.weight)] == 1
    assert factors[id(model.linear.weights.weight)] == 60


def test_a_prediction_is_the_weighted_mean_and_each_of_both_is_scored_alone():
    task, model = Newsgroups(linear=2), beside()
    model.share.fill_(0.3)
    batch = task.batch(examples(), np.arange(3))
    paths = model.paths(batch["tokens"], batch["mask"])
    mean = model(batch["tokens"], batch["mask"])
    torch.testing.assert_close(mean, 0.7 * paths["encoder"] + 0.3 * paths["linear"])
    scores = task.score(model, [batch])
    for column, logits in {
        "encoder_accuracy": paths["encoder"],
        "linear_accuracy": paths["linear"],
        "accuracy": mean,
    }.items():
        assert scores[column] == pytest.approx(float((logits.argmax(-1) == 0).float().mean()))
    assert float(model.share) == pytest.approx(0.3)  # only the validation part changes it


class Fixed(torch.nn.Module):
    def __init__(self, paths):
        super().__init__()
        self._paths = paths
        self.share: torch.Tensor
        self.register_buffer("share", torch.tensor(0.5))

    def paths(self, tokens, mask=None):
        return {name: torch.tensor(values) for name, values in self._paths.items()}


def test_validation_picks_the_share_that_is_right_most_often():
    task = Newsgroups(linear=1)
    batch = {"tokens": torch.ones(2, 1), "mask": torch.ones(2, 1), "labels": torch.tensor([0, 1])}
    # a share above 3/4 gets the first row right, one below 9/10 the second
    model = Fixed({"encoder": [[0.0, 3.0], [0.0, 9.0]], "linear": [[1.0, 0.0], [1.0, 0.0]]})
    assert task.validate(model, [batch])["accuracy"] == 1
    assert float(model.share) == pytest.approx(0.8)
    assert task.measurements(model, nothing(), 1) == {"linear_share": 0.8}
    right = Fixed({"encoder": [[3.0, 0.0], [0.0, 3.0]], "linear": [[0.0, 1.0], [1.0, 0.0]]})
    assert task.validate(right, [batch])["accuracy"] == 1
    assert float(right.share) == 0  # the smallest of those that are equally right


def test_neither_part_learns_from_the_loss_of_the_other():
    task, model = Newsgroups(linear=2), beside()
    batch = task.batch(examples(), np.arange(3))
    task.loss(model, batch).backward()
    together = model.linear.weights.weight.grad.clone()
    model.zero_grad()
    torch.nn.functional.cross_entropy(
        model.linear(batch["tokens"], batch["mask"]), batch["labels"]
    ).backward()
    torch.testing.assert_close(together, model.linear.weights.weight.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"linear": 4}, "linear must be 0"),
        ({"linear": 1, "vocabulary": 3_000_000}, "vocabulary must be at most 2000000, got 3000000"),
        ({"linear_lr": 0.02}, r"linear_lr needs linear, .*got linear_lr=0.02 alone"),
        ({"linear_dropout": 0.5}, r"linear_dropout needs linear, .*got linear_dropout=0.5 alone"),
        ({"linear": 1, "linear_lr": 0.0}, "linear_lr must be above 0, got 0.0"),
        ({"linear": 1, "linear_dropout": 1.0}, "linear_dropout must be at least 0 and below 1, got 1.0"),
        ({"embedding_lr": 0.0}, "embedding_lr must be above 0"),
    ],
)
def test_values_that_are_not_allowed_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Newsgroups(**options)
