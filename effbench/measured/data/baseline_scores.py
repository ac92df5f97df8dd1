"""Baseline scores: test scores of trivial predictors, against which a task's scores are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from effbench.common.spec import UsageError
from effbench.measured.data.examples import Examples, Integers
from effbench.measured.data.scoring import classification_scores

FEATURES = 200_000
STRENGTHS = (1.0, 10.0)  # C of words: the validation part picks
PIXEL_STRENGTHS = (0.01, 0.1, 1.0)  # C of pixels
PIXEL_ROWS = 10_000  # a linear model on pixels gains little from more
COSINE_PAIRS = 10_000  # TF-IDF weights and a threshold gain little from more


def prior(train: Examples, test: Examples, clue: Callable[[Examples], Integers] | None = None) -> float:
    """Return the test accuracy of always answering the commonest training label among rows of the same clue.

    ``clue`` gives an integer per row; without it there is one group, so that this is the majority class. A
    clue that training never had is answered with the commonest label of all.
    """
    common = int(np.bincount(train.labels).argmax())
    if clue is None:
        return float((test.labels == common).mean())
    train_clue, test_clue = clue(train), clue(test)
    answers = np.full(len(test), common)
    for value in np.unique(train_clue):
        answers[test_clue == value] = np.bincount(train.labels[train_clue == value]).argmax()
    return float((test.labels == answers).mean())


def no_shared_word(task: str, count: int) -> str:
    """Return the message about training texts from which no feature can be made."""
    return f"{task}: no word stands in two of the {count} training texts"


def tfidf_logreg(
    texts: Mapping[str, Sequence[str]], labels: Mapping[str, Integers], task: str
) -> tuple[float, float]:
    """Return (accuracy, macro F1) on the test part of logistic regression on TF-IDF of words and word pairs.

    ``texts``, whose words are separated by spaces, and ``labels`` have the parts train, validation and test.
    Features are words and pairs of neighbours that two training texts have, at most 200,000 of the commonest,
    as 1 + log of their count times the inverse document frequency, each row of length 1. Multinomial logistic
    regression with an L2 penalty is fitted to the training part alone, by SAGA until no weight changes by
    more than 1e-3 of the largest in a pass. Of C = 1 and C = 10 the one with the higher validation accuracy
    is scored, the smaller in a tie. Raises UsageError where no word stands in two training texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        min_df=2,
        max_features=FEATURES,
        tokenizer=str.split,
        token_pattern=None,
        lowercase=False,
        dtype=np.float32,
    )
    try:
        train = vectorizer.fit_transform(texts["train"])
    except ValueError:  # an empty vocabulary has no class of errors of its own
        raise UsageError(no_shared_word(task, len(labels["train"]))) from None
    validation, test = (vectorizer.transform(texts[part]) for part in ("validation", "test"))
    models = [
        LogisticRegression(C=strength, solver="saga", tol=1e-3, max_iter=1000, random_state=0).fit(
            train, labels["train"]
        )
        for strength in STRENGTHS
    ]
    right = [float((model.predict(validation) == labels["validation"]).mean()) for model in models]
    scores = classification_scores(labels["test"], models[int(np.argmax(right))].predict(test))
    return scores["accuracy"], scores["macro_f1"]


def byte_texts(part: Examples) -> list[str]:
    """Return the texts of rows in which byte b has id b + 1; a character cut at the end is left out."""
    return [(part.row(i) - 1).astype(np.uint8).tobytes().decode(errors="ignore") for i in range(len(part))]


def byte_tfidf_logreg(train: Examples, test: Examples) -> float:
    """Return the test accuracy of logistic regression on TF-IDF of the words in rows of bytes.

    The majority class is scored where there is no word or only one class.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(train.labels)) < 2:  # nothing to tell apart
        return prior(train, test)
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    try:
        features = vectorizer.fit_transform(byte_texts(train))
    except ValueError:  # there is not one word in the training texts
        return prior(train, test)
    model = LogisticRegression(C=10, max_iter=1000).fit(features, train.labels)
    return float(model.score(vectorizer.transform(byte_texts(test)), test.labels))


def pixel_logreg(train: Examples, validation: Examples, test: Examples, levels: int) -> float:
    """Return the test accuracy of multinomial logistic regression on the pixels of rows of equal length.

    It is fitted to at most 10,000 training rows; the validation part picks C.
    """
    from sklearn.linear_model import LogisticRegression

    pixels, *others = (
        part.tokens.reshape(len(part), -1).astype(np.float32) / levels for part in (train, validation, test)
    )
    rows = np.linspace(0, len(train) - 1, min(len(train), PIXEL_ROWS)).astype(np.int64)
    if len(np.unique(train.labels[rows])) < 2:  # nothing to tell apart
        return prior(train, test)
    mean = pixels[rows].mean(axis=0)
    models = [
        LogisticRegression(C=strength, max_iter=2000, tol=1e-3).fit(pixels[rows] - mean, train.labels[rows])
        for strength in PIXEL_STRENGTHS
    ]
    right = [model.score(others[0] - mean, validation.labels) for model in models]
    return float(models[int(np.argmax(right))].score(others[1] - mean, test.labels))


def tfidf_cosine(train: tuple[Examples, Examples], test: tuple[Examples, Examples]) -> float:
    """Return the test accuracy of "related if the cosine of both texts' TF-IDF vectors exceeds a threshold".

    ``train`` and ``test`` are the two sides of labelled pairs of byte rows. TF-IDF weights and the threshold
    are from at most 10,000 training pairs.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    pairs = len(train[0])
    chosen = np.linspace(0, pairs - 1, min(pairs, COSINE_PAIRS)).astype(np.int64)
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    texts = [byte_texts(side.take(chosen)) for side in train]
    try:
        vectorizer.fit(texts[0] + texts[1])
    except ValueError:  # there is not one word in the training texts
        return prior(train[0], test[0])

    def cosines(first: list[str], second: list[str]) -> Any:
        a, b = vectorizer.transform(first), vectorizer.transform(second)
        return np.asarray(a.multiply(b).sum(axis=1)).ravel()

    threshold = best_threshold(cosines(*texts), train[0].labels[chosen])
    related = cosines(*(byte_texts(side) for side in test)) > threshold
    return float((related == (test[0].labels == 1)).mean())


def best_threshold(values: Any, labels: Integers) -> float:
    """Return the t for which "label 1 if value > t" is right most often.

    It lies half-way between two values, or is -inf or inf.
    """
    order = np.argsort(values, kind="stable")
    ordered, ones = values[order], labels[order] == 1
    # Right answers if the first i values are answered 0 and the others 1.
    right = np.concatenate(([0], np.cumsum(~ones))) + ones.sum() - np.concatenate(([0], np.cumsum(ones)))
    possible = np.concatenate(([True], ordered[1:] > ordered[:-1], [True]))  # equal values are not parted
    best = int(np.where(possible, right, -1).argmax())
    if best == 0:
        return -math.inf
    return math.inf if best == len(ordered) else float((ordered[best - 1] + ordered[best]) / 2)
