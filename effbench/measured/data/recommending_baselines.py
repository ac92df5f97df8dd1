"""Baseline scores of recommending: what a predictor without training gains on the same impressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from effbench.common.bootstrap import Floats
from effbench.common.ranking import impression_scores, mean_scores
from effbench.common.spec import UsageError
from effbench.measured.data.behaviours import Impressions, Titles

_ROWS = 2**9  # impressions at a time: a profile has hundreds of words, and each candidate a copy of it


def recommending_baselines(
    titles: Titles, train: Impressions, test: Impressions
) -> dict[str, dict[str, float]]:
    """Return ``ranking.mean_scores`` on the test part of four predictors by name.

    ``random`` gives all candidates one score, which counts as the mean over all orders. ``popularity`` is a
    candidate's number of clicks in the training part, plus the number of times that it stands in a history
    there; each impression has the whole history of its user. ``click_rate`` is the share of training
    impressions with it in which it was clicked, 0 without any. ``tfidf`` is the mean, over the news of the
    history, of the cosine of its title's TF-IDF vector with the candidate's: an empty history makes it
    random.
    """
    rows = len(titles)
    shown = np.bincount(train.candidates, minlength=rows)
    clicked = np.bincount(train.candidates[train.labels == 1], minlength=rows)
    before = np.bincount(train.history, minlength=rows)
    predictors: dict[str, Callable[[], Any]] = {
        "random": lambda: np.zeros(len(test.candidates)),
        "popularity": lambda: (before + clicked)[test.candidates],
        "click_rate": lambda: (clicked / np.maximum(shown, 1))[test.candidates],
        "tfidf": lambda: tfidf_profile(titles, train, test),
    }
    return {
        name: mean_scores(impression_scores(predict(), test.labels, test.candidate_starts))
        for name, predict in predictors.items()
    }


def tfidf_profile(titles: Titles, train: Impressions, test: Impressions) -> Floats:
    """Return a score of each candidate: its mean cosine with the history, of TF-IDF vectors of the titles.

    Vectors are of words, as 1 + log of their count times the inverse document frequency in the titles of the
    training part's news. Raises UsageError where these have no word.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    written = titles.written()
    used = np.unique(np.concatenate([train.history, train.candidates]))
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, tokenizer=str.split, token_pattern=None, lowercase=False, dtype=np.float32
    )
    try:
        vectorizer.fit([written[row] for row in used.tolist()])
    except ValueError:  # an empty vocabulary has no class of errors of its own
        raise UsageError("no title of the training part's news has a word") from None
    vectors = csr_array(vectorizer.transform(written))
    scores = [np.empty(0, dtype=np.float32)]
    for first in range(0, len(test), _ROWS):
        part = test.take(np.arange(first, min(first + _ROWS, len(test))))
        # Row i has, for each news, its share of the history of impression i.
        shares = np.repeat(1 / np.maximum(part.lengths, 1), part.lengths).astype(np.float32)
        profiles = (
            csr_array((shares, part.history, part.history_starts), shape=(len(part), len(titles))) @ vectors
        )
        impression = np.repeat(np.arange(len(part)), np.diff(part.candidate_starts))
        scores.append((profiles[impression] * vectors[part.candidates]).sum(axis=1))
    return np.concatenate(scores)
