"""MIND's impressions as ragged arrays over one table of titles, and what is made of both for a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.measured.data import corpus
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import PAD, Integers, ragged_places
from effbench.measured.data.mind_files import PARTS, MindFiles, find
from effbench.measured.data.mind_rows import UNKNOWN, VERSION, read_behaviours, read_news
from effbench.measured.data.reading import unchanged

NO_NEWS = 0  # the row of no news in the table of titles


@dataclass(frozen=True, kw_only=True)
class Impressions:
    """Ragged impressions: the news that a user clicked before, and the candidates that were shown.

    Impression i has the history ``history[history_starts[i]:history_starts[i + 1]]``, oldest news first, and
    likewise candidates and labels (1 clicked, 0 not, -1 unknown, for a whole impression). News are rows of
    the table of titles. ``users`` [n] are numbers of users, the same in all parts; ``ids`` [n] are the
    impression ids as in the file.
    """

    history: Integers
    history_starts: Integers
    candidates: Integers
    candidate_starts: Integers
    labels: Integers
    users: Integers
    ids: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> Integers:
        """News in the history of each impression, [n]."""
        return np.diff(self.history_starts)

    @property
    def clicks(self) -> Integers:
        """Clicked candidates of each impression, [n]."""
        return _sums(self.labels == 1, self.candidate_starts)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """True for an impression whose candidates have labels [n]."""
        known: NDArray[np.bool_] = _sums(self.labels == UNKNOWN, self.candidate_starts) == 0
        return known

    @property
    def contrasted(self) -> NDArray[np.bool_]:
        """True for an impression with a clicked and another candidate [n]: others cannot be learnt from."""
        others = _sums(self.labels == 0, self.candidate_starts)
        contrasted: NDArray[np.bool_] = (self.clicks > 0) & (others > 0)
        return contrasted

    def take(self, rows: Integers, longest_history: int | None = None) -> Impressions:
        """Return the given impressions in the given order, with the latest of their histories' news."""
        history, history_starts = ragged_places(self.history_starts, rows, longest_history, latest=True)
        candidates, candidate_starts = ragged_places(self.candidate_starts, rows)
        return Impressions(
            history=self.history[history],
            history_starts=history_starts,
            candidates=self.candidates[candidates],
            candidate_starts=candidate_starts,
            labels=self.labels[candidates],
            users=self.users[rows],
            ids=self.ids[rows],
        )

    def facts(self) -> dict[str, int]:
        """Return counts of what a model or a score does without."""
        known = self.labelled
        return {
            "without_history": int((self.lengths == 0).sum()),
            "without_labels": int((~known).sum()),
            "all_or_none_clicked": int((known & ~self.contrasted).sum()),
        }


@dataclass(frozen=True, kw_only=True)
class Titles:
    """The table of titles as ragged word numbers; ``lexicon`` is the word of each word number.

    Row i is ``words[starts[i]:starts[i + 1]]``. Row 0 stands for no news and has no word. If ``are_ids``, the
    data has no titles, and the only word of an item is its id.
    """

    words: Integers
    starts: Integers
    lexicon: list[str]
    are_ids: bool = False

    def __len__(self) -> int:
        return len(self.starts) - 1

    def written(self) -> list[str]:
        """Return the words of each title with a space between two."""
        words = [self.lexicon[word] for word in self.words.tolist()]
        bounds = self.starts.tolist()
        return [" ".join(words[bounds[i] : bounds[i + 1]]) for i in range(len(self))]

    def vocabulary(self, times: Integers | NDArray[np.bool_], limit: int) -> Integers:
        """Return the token id of each word of the lexicon; the title of row i counts ``times[i]`` times [n].

        The ``limit`` commonest words that these titles have at least twice have an id of their own.
        """
        weights = np.repeat(times, np.diff(self.starts))
        counts = np.bincount(self.words, weights=weights, minlength=len(self.lexicon))
        return corpus.vocabulary_of(counts.astype(np.int64), limit)

    def tokens(self, ids: Integers, longest: int) -> Integers:
        """Return the token ids of the first ``longest`` words of each title [n, longest], padded with 0."""
        places, starts = ragged_places(self.starts, np.arange(len(self)), longest)
        table = np.full((len(self), longest), PAD, dtype=np.int32)
        table[np.arange(longest) < np.diff(starts)[:, None]] = ids[self.words[places]]
        return table


@dataclass(frozen=True, kw_only=True)
class Mind:
    """MIND as read: impressions of train, of dev or test or both, and the titles of all news.

    ``facts`` are counts of the news.
    """

    parts: Mapping[str, Impressions]
    titles: Titles
    facts: Mapping[str, int]

    @property
    def evaluated(self) -> str:
        """The part that is scored: test if it has labels, else dev. MINDlarge's test has none."""
        return next(part for part in ("test", "dev") if part in self.parts and self.parts[part].clicks.any())

    def occurs(self, impressions: Impressions) -> NDArray[np.bool_]:
        """Return a mask of the rows of titles [n] that occur in the impressions, as history or candidate."""
        mask = np.zeros(len(self.titles), dtype=bool)
        mask[impressions.history] = mask[impressions.candidates] = True
        return mask

    def vocabulary(self, impressions: Impressions, limit: int) -> Integers:
        """Return the token id of each word, by the titles that occur in the impressions.

        Each of these titles counts once. Where ids stand for titles, each of their occurrences counts.
        """
        if not self.titles.are_ids:
            return self.titles.vocabulary(self.occurs(impressions), limit)
        occurrences = np.concatenate((impressions.history, impressions.candidates))
        return self.titles.vocabulary(np.bincount(occurrences, minlength=len(self.titles)), limit)


def read_mind(folder: Path) -> tuple[Mind, str]:
    """Return (MIND as the files in the folder have it, digest of the files).

    ``mind_files.find`` says which files are read. Raises UsageError that names the file, line and column of
    what is wrong. An impression may have an empty history, only clicked candidates or none clicked, or no
    labels: ``Impressions.facts`` counts these. Train, and one of dev and test, must have an impression with
    a clicked and another candidate.
    """
    files = find(folder)
    digest = files.digest()
    again = unchanged(digest, lambda: find(folder).digest(), folder)
    key = {"version": VERSION, "words": corpus.VERSION, "digest": digest}
    return mind_of(cached("mind", key, lambda: _read(files), again)), digest


def held_out_users(
    train: Impressions, count: int, rng: np.random.Generator, option: str = "validation"
) -> tuple[Integers, Integers]:
    """Return (rows of train that are left, rows held out): users drawn until they have ``count`` impressions.

    All impressions of a user are on one side, since they share most of their history. Raises UsageError where
    none is left; it names the ``option`` that asked for so many.
    """
    _, user = np.unique(train.users, return_inverse=True)
    sizes = np.bincount(user)
    order = rng.permutation(len(sizes))
    drawn = int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1 if count else 0
    held = np.isin(user, order[:drawn])
    if drawn >= len(sizes):
        raise UsageError(
            f"{option}={count} leaves no user to train on: there are {plural(len(train), 'impression')} of "
            f"{plural(len(sizes), 'user')}"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def _read(files: MindFiles) -> Arrays:
    rows, titles, other_titles = read_news(files.news)
    arrays: Arrays = {}
    users: dict[bytes, int] = {}
    for part, file in files.behaviours.items():
        for name, values in read_behaviours(file, list(rows), users).items():
            arrays[f"{part}_{name}"] = values
    for parts in (("train",), ("dev", "test")):
        found = [part for part in parts if part in files.behaviours]
        if not any(_part(arrays, part).contrasted.any() for part in found):
            names = " and ".join(str(files.behaviours[part]) for part in found)
            raise UsageError(f"{names}: no impression has both a clicked candidate and another one")
    return {**arrays, **title_arrays(titles), "news_with_other_titles": np.array(other_titles)}


def title_arrays(titles: list[str]) -> Arrays:
    """Return what ``mind_of`` needs of a table of titles, the first of which stands for no news."""
    words_of = corpus.splitter()
    lexicon: dict[str, int] = {}
    split = [[lexicon.setdefault(word, len(lexicon)) for word in words_of(title)] for title in titles]
    lengths = np.array([len(words) for words in split])
    return {
        "words": np.array([word for words in split for word in words], dtype=np.int32),
        "starts": np.concatenate(([0], np.cumsum(lengths))),
        "lexicon": corpus.packed(list(lexicon)),
        "news_without_title": np.array((lengths[1:] == 0).sum()),
    }


def mind_of(arrays: Arrays) -> Mind:
    """Return the impressions and titles of arrays as readers make them.

    These are the fields of ``Impressions`` with the name of their part before, those of ``Titles``, and the
    counts ``news_without_title`` and ``news_with_other_titles``.
    """
    return Mind(
        parts={part: _part(arrays, part) for part in PARTS if f"{part}_users" in arrays},
        titles=Titles(
            words=arrays["words"],
            starts=arrays["starts"],
            lexicon=corpus.unpacked(arrays["lexicon"]),
            are_ids="are_ids" in arrays,
        ),
        facts={name: int(arrays[name]) for name in ("news_without_title", "news_with_other_titles")},
    )


def _part(arrays: Arrays, part: str) -> Impressions:
    return Impressions(**{field.name: arrays[f"{part}_{field.name}"] for field in fields(Impressions)})


def _sums(values: NDArray[Any], starts: Integers) -> Integers:
    """Return the sum of each row's values; no row is empty."""
    sums: Integers = np.add.reduceat(values, starts[:-1], dtype=np.int64)
    return sums
