"""Baseline summaries: the first sentences, the first words, and a greedy extract that sees the reference."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from effbench.common.bootstrap import Floats
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Integers
from effbench.measured.data.rouge import METRICS, require_rouge, rouge_scores, words_of

VERSION = 1  # of the baselines: raise it when their summaries change
LEAD = 3  # sentences

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

Words = Callable[[str], list[str]]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: its lines, which also end after ``.``, ``!`` or ``?`` and a blank.

    An abbreviation with a full stop ends a sentence too.
    """
    lines = (_SENTENCE_END.split(line.strip()) for line in text.split("\n"))
    return [sentence for line in lines for sentence in line if sentence]


def lead(article: str, count: int = LEAD) -> str:
    """Return the first sentences of an article, one a line."""
    return "\n".join(sentences(article)[:count])


def first_words(article: str, count: int) -> str:
    """Return the first words of an article (what blanks divide), a sentence a line."""
    lines: list[str] = []
    for sentence in sentences(article):
        words = sentence.split()[:count]
        count -= len(words)
        if not words:
            break
        lines.append(" ".join(words))
    return "\n".join(lines)


def oracle(article: str, reference: str, words: Words) -> str:
    """Return the sentences that a greedy search picks by the reference, in the article's order, one a line.

    Each step adds the sentence that raises the F1 of ROUGE-1 plus that of ROUGE-2 most, the earlier one of
    equals; it ends when none does. Pairs of words across two sentences never match. It is no upper bound:
    other sentences together can score higher (Nallapati et al. 2017 use such a search to make labels).
    """
    parts = sentences(article)
    chosen, _ = greedy([words(part) for part in parts], words(reference))
    return "\n".join(parts[i] for i in chosen)


def greedy(split: Sequence[Sequence[str]], reference: Sequence[str]) -> tuple[list[int], float]:
    """Return (places of the picked sentences in order, their F1 of ROUGE-1 plus that of ROUGE-2)."""
    lengths = np.array([len(words) for words in split], dtype=np.int64)
    grams = [_Overlap(split, reference, n) for n in (1, 2)]
    chosen = np.zeros(len(split), dtype=bool)
    best, length = 0.0, 0
    while not chosen.all():
        scores = grams[0].f1(length + lengths) + grams[1].f1(length + lengths)
        scores[chosen] = -1
        place = int(np.argmax(scores))
        if scores[place] <= best:
            break
        chosen[place], best, length = True, float(scores[place]), length + int(lengths[place])
        for gram in grams:
            gram.add(place)
    return np.flatnonzero(chosen).tolist(), best


class _Overlap:
    """The n-grams that sentences share with a reference, and how many of them a growing extract has."""

    def __init__(self, split: Sequence[Sequence[str]], reference: Sequence[str], n: int) -> None:
        wanted = _grams(reference, n)
        place = {gram: i for i, gram in enumerate(wanted)}
        self._n = n
        self._total = sum(wanted.values())
        self._wanted = np.array(list(wanted.values()), dtype=np.int64)
        self._counts = np.zeros((len(split), len(wanted)), dtype=np.int64)
        for row, words in enumerate(split):
            for gram, count in _grams(words, n).items():
                if gram in place:
                    self._counts[row, place[gram]] = count
        self._taken = np.zeros(len(wanted), dtype=np.int64)

    def f1(self, lengths: Integers) -> Floats:
        """Return the F1 of the extract with each sentence added, given the words it then has."""
        shared = np.minimum(self._taken + self._counts, self._wanted).sum(axis=1)
        both = np.maximum(lengths - self._n + 1, 0) + self._total
        f1: Floats = 2 * shared / np.maximum(both, 1)
        return f1

    def add(self, row: int) -> None:
        """Add a sentence to the extract."""
        self._taken += self._counts[row]


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def summary_baselines(
    articles: Sequence[str], references: Sequence[str], digest: str, counts: Mapping[str, int]
) -> dict[str, dict[str, Floats]]:
    """Return the scores of each document [n] by metric, of each baseline: lead, oracle, those of ``counts``.

    ``counts`` names baselines by first words, ``{"first_200_words": 200}``. ``digest`` is of the articles and
    references: the scores are computed once for it. Raises UsageError without the rouge-score package.
    """
    names = {f"lead_{LEAD}": 0, **counts, "oracle": 0}
    key = {"version": VERSION, "digest": digest, "rouge": require_rouge()}
    found: dict[str, dict[str, Floats]] = {}
    for name, count in names.items():

        def make(name: str = name, count: int = count) -> Arrays:
            if name == "oracle":
                words = words_of()
                pairs = zip(articles, references, strict=True)
                summaries = [oracle(article, reference, words) for article, reference in pairs]
            elif count:
                summaries = [first_words(article, count) for article in articles]
            else:
                summaries = [lead(article) for article in articles]
            return dict(rouge_scores(references, summaries))

        scores = cached("summary-baseline", {**key, "baseline": name, "words": count}, make)
        found[name] = {metric: scores[metric] for metric in METRICS}
    return found
