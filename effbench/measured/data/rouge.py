"""ROUGE of summaries against references, with intervals over documents; through the rouge-score package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from effbench.common.bootstrap import DRAWS, PERCENTILES, Floats, resampled_sums
from effbench.common.spec import UsageError

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

# the name here, and the name in the package
METRICS = {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}
INSTALL = "pip install 'effbench[summarization]'"

_STEMS = 2**17  # kept; a data set has a few ten thousand words


def rouge_scores(references: Sequence[str], summaries: Sequence[str]) -> dict[str, Floats]:
    """Return the F1 of ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum (Lin 2004) of each document [n].

    Words are runs of a-z and 0-9 of the lower-case text, those of more than three characters are stemmed
    (Porter). ROUGE-L takes the whole text as one sequence; ROUGE-Lsum takes each line as a sentence. An empty
    summary scores 0. Raises UsageError without the rouge-score package.
    """
    scorer = _scorer()
    rows = [scorer.score(*pair) for pair in zip(references, summaries, strict=True)]
    return {
        name: np.array([row[theirs].fmeasure for row in rows], dtype=np.float64)
        for name, theirs in METRICS.items()
    }


def mean_rouge(by_document: Mapping[str, Floats], draws: int = DRAWS) -> dict[str, float | str]:
    """Return the mean of each metric over the documents, with its 95 % interval.

    ``rouge1`` has the interval ``rouge1_low`` to ``rouge1_high`` and its method ``rouge1_interval``.
    """
    scores: dict[str, float | str] = {}
    for name, (mean, low, high) in bootstrapped(by_document, draws).items():
        scores |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        scores[f"{name}_interval"] = "bootstrap over documents"
    return scores


def bootstrapped(
    by_document: Mapping[str, Floats], draws: int = DRAWS
) -> dict[str, tuple[float, float, float]]:
    """Return (mean, low, high) of each metric: the percentile bootstrap over documents, with a fixed seed."""
    values = np.stack(list(by_document.values()), axis=1)
    if not len(values):
        return dict.fromkeys(by_document, (np.nan, np.nan, np.nan))
    low, high = np.percentile(resampled_sums(values, draws) / len(values), PERCENTILES, axis=0)
    means = values.mean(axis=0)
    return {name: (float(means[i]), float(low[i]), float(high[i])) for i, name in enumerate(by_document)}


def difference(
    first: Mapping[str, Floats], second: Mapping[str, Floats], draws: int = DRAWS
) -> dict[str, tuple[float, float, float]]:
    """Return (mean, low, high) of first minus second, two systems on the same documents in the same order.

    The bootstrap draws documents with both of their scores (paired). Raises ValueError for other numbers of
    documents.
    """
    for name in first:
        if len(first[name]) != len(second[name]):
            raise ValueError(f"{len(first[name])} and {len(second[name])} documents cannot be paired")
    return bootstrapped({name: first[name] - second[name] for name in first}, draws)


def words_of() -> Callable[[str], list[str]]:
    """Return what makes the stemmed words of a text, as the scores count them.

    Raises UsageError without the rouge-score package.
    """
    require_rouge()
    from nltk.stem.porter import PorterStemmer
    from rouge_score.tokenize import tokenize

    stemmer = _Stemmer(PorterStemmer().stem)
    return lambda text: list(tokenize(text, stemmer))


def require_rouge() -> str:
    """Return the version of rouge-score. Raises UsageError that says how to install it."""
    try:
        return metadata.version("rouge-score")
    except metadata.PackageNotFoundError:
        raise UsageError(f"ROUGE needs the package rouge-score: {INSTALL}") from None


class _Stemmer:
    """A stemmer that remembers: most of the time of scoring goes into stems otherwise."""

    def __init__(self, stem: Callable[[str], str]) -> None:
        self.stem = lru_cache(maxsize=_STEMS)(stem)


class _Words:
    """A tokenizer as the package takes it."""

    def __init__(self) -> None:
        self.tokenize = words_of()


@cache
def _scorer() -> RougeScorer:
    require_rouge()
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(METRICS.values()), tokenizer=_Words())
