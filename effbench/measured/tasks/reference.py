"""A reference score for text: logistic regression on TF-IDF, which no order of words beyond two reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effbench.common.spec import UsageError
from effbench.measured.tasks.base import Integers, classification_scores

FEATURES = 200_000
STRENGTHS = (1.0, 10.0)  # C: the validation part picks


def no_shared_word(task: str, count: int) -> str:
    """The complaint about training texts from which no feature can be made."""
    return f"{task}: no word stands in two of the {count} training texts"


def tfidf_logreg(
    texts: Mapping[str, Sequence[str]], labels: Mapping[str, Integers], task: str
) -> tuple[float, float]:
    """(accuracy, macro F1) on the test part, from words separated by spaces.

    ``texts`` and ``labels`` have the parts train, validation and test. Features are words and pairs of
    neighbours that two training texts have, at most 200,000 of the commonest, as 1 + log of their count times
    the inverse document frequency, each row of length 1. Multinomial logistic regression with an L2 penalty
    is fitted to the training part alone, by SAGA until no weight changes by more than 1e-3 of the largest in
    a pass; of C = 1 and C = 10 that which is right more often on the validation part is scored, the smaller
    in a tie.
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
