"""Logistic regression on hashed features of histories and candidates: the usual baseline of click rates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.measured.data.behaviours import Impressions, Titles
from effbench.measured.data.click_scores import Floats
from effbench.measured.data.examples import Integers, ragged_places

VERSION = 1  # of the features and the fit
COLUMNS = 2**18
MOST = 500_000  # training candidates
STRENGTHS = (0.01, 0.1, 1.0)  # C, of which the validation part picks one

_ROWS = 2**12  # impressions at a time: their histories have hundreds of words each
_MOST_SHARED = 8  # shared words that are told apart
_MIX = np.uint64(0x9E3779B97F4A7C15)  # the constants of splitmix64
_STEPS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))

Field = tuple[Integers, Integers]  # examples, and a value for each


def hashed_logreg(
    titles: Titles, train: Impressions, validation: Impressions, test: Impressions, seed: int
) -> Floats:
    """Return the log odds of a click of every candidate of the test part [candidates].

    It is fitted to the labelled candidates of the training part, at most 500,000 drawn by the seed; the log
    loss on the validation part picks the regularisation C. All parts must have labels.

    Features of an example are 1 in one of 2^18 columns, which a hash picks: the candidate; each word of its
    title; the candidate with the latest click; how many of its words stand in the history, and in the latest
    click; whether the history has the candidate; the history's length; and how many other users clicked the
    candidate in the training part. Numbers are in steps of powers of two. Raises nothing of its own.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    readers = _Readers(titles, train)
    count = len(train.candidates)
    chosen = np.arange(count)
    if count > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(count, MOST, replace=False))
        # a draw without one of the labels teaches nothing
        chosen = chosen if len(np.unique(train.labels[chosen])) == 2 else np.arange(count)
    examples = readers.features(train, chosen)
    held_out = readers.features(validation, np.arange(len(validation.candidates)))
    best, least = None, np.inf
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000, tol=1e-3).fit(examples, train.labels[chosen])
        log_odds = model.decision_function(held_out)
        loss = float((np.logaddexp(0, log_odds) - np.where(validation.labels == 1, log_odds, 0)).mean())
        if loss < least:
            best, least = model, loss
    assert best is not None
    log_odds = best.decision_function(readers.features(test, np.arange(len(test.candidates))))
    return np.asarray(log_odds)


class _Readers:
    """The users of the training part with what each of them clicked, and the words of each title."""

    def __init__(self, titles: Titles, train: Impressions) -> None:
        self._rows, self._words = len(titles), len(titles.lexicon)
        owner = np.repeat(np.arange(self._rows), np.diff(titles.starts))
        pairs = np.unique(owner * self._words + titles.words)  # each word of a title once
        self._title_words = pairs % self._words
        self._starts = np.searchsorted(pairs // self._words, np.arange(self._rows + 1))
        clicked = train.labels == 1
        self._clicks = np.unique(
            np.concatenate(
                (
                    self._key(np.repeat(train.users, train.lengths), train.history),
                    self._key(_per_candidate(train, train.users)[clicked], train.candidates[clicked]),
                )
            )
        )
        self._users = np.bincount(self._clicks % self._rows, minlength=self._rows)

    def features(self, part: Impressions, examples: Integers) -> Any:
        """Return a sparse matrix [examples, COLUMNS] of candidates of a part, given in rising order."""
        from scipy.sparse import csr_array

        owners = _per_candidate(part, np.arange(len(part)))[examples]
        places: list[Integers] = [np.empty(0, dtype=np.int64)]
        columns: list[Integers] = [np.empty(0, dtype=np.int64)]
        for first in range(0, len(part), _ROWS):
            low, high = np.searchsorted(owners, (first, first + _ROWS))
            if low == high:
                continue
            rows = part.take(np.arange(first, min(first + _ROWS, len(part))))
            candidates = part.candidates[examples[low:high]]
            for number, (of, value) in enumerate(self._fields(rows, owners[low:high] - first, candidates)):
                places.append(low + of)
                columns.append(_hashed(number, value))
        place, column = np.concatenate(places), np.concatenate(columns)
        ones = np.ones(len(place), dtype=np.float32)
        return csr_array((ones, (place, column)), shape=(len(examples), COLUMNS))

    def _fields(self, part: Impressions, owner: Integers, candidate: Integers) -> Iterator[Field]:
        """Yield each field of the candidates of impressions ``owner`` of a small part."""
        every = np.arange(len(candidate))
        places, starts = ragged_places(self._starts, candidate)
        example, word = np.repeat(every, np.diff(starts)), self._title_words[places]
        latest = np.zeros(len(part), dtype=np.int64)  # 0: no news
        some = part.lengths > 0
        latest[some] = part.history[part.history_starts[1:][some] - 1]
        yield every, candidate
        yield example, word
        yield every, candidate.astype(np.int64) * self._rows + latest[owner]
        reader = np.repeat(np.arange(len(part)), part.lengths)
        for readers, read in ((reader, part.history), (np.arange(len(part)), latest)):
            places, starts = ragged_places(self._starts, read)
            known = np.unique(np.repeat(readers, np.diff(starts)) * self._words + self._title_words[places])
            shared = np.bincount(
                example, weights=_among(owner[example] * self._words + word, known), minlength=len(every)
            )
            yield every, np.minimum(shared.astype(np.int64), _MOST_SHARED)
        history = np.unique(reader * self._rows + part.history)
        yield every, _among(owner * self._rows + candidate, history).astype(np.int64)
        yield every, _power(part.lengths)[owner]
        own = _among(self._key(part.users[owner], candidate), self._clicks)
        yield every, _power(self._users[candidate] - own)

    def _key(self, users: Integers, news: Integers) -> Integers:
        keys: Integers = users.astype(np.int64) * self._rows + news
        return keys


def _per_candidate(part: Impressions, values: Integers) -> Integers:
    return np.repeat(values, np.diff(part.candidate_starts))


def _among(values: Integers, known: Integers) -> NDArray[np.bool_]:
    """Return a mask of the values that occur among the known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: NDArray[np.bool_] = known[places] == values
    return found


def _power(counts: Integers) -> Integers:
    """Return 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7, and so on."""
    return np.ceil(np.log2(counts + 1)).astype(np.int64)


def _hashed(field: int, values: Integers) -> Integers:
    """Return the column of each value of a field, by the finaliser of splitmix64."""
    mixed = values.astype(np.uint64) * np.uint64(64) + np.uint64(field)
    mixed = mixed * _MIX + _MIX
    for shift, factor in _STEPS:
        mixed = (mixed ^ (mixed >> shift)) * factor
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(COLUMNS)).astype(np.int64)
