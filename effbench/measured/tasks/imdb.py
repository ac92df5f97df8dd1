"""IMDB: movie reviews by polarity or rating, from JSON Lines, the raw folders, or Hugging Face."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from effbench.common.files import entries, is_dir
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.corpus import Corpus
from effbench.measured.data.examples import Integers
from effbench.measured.data.reading import folder_of
from effbench.measured.data.text_sets import (
    OFFICIAL,
    Text,
    TextFile,
    TextSet,
    hub_texts,
    json_lines,
    text_column,
    text_files,
)
from effbench.measured.tasks.base import require
from effbench.measured.tasks.text import TextClassification

POLARITIES = ("neg", "pos")
CLASSES = ("polarity", "rating")
RATINGS = (1, 2, 3, 4, 7, 8, 9, 10)
HUB = "stanfordnlp/imdb"


class IMDB(TextClassification):
    """Sentiment of movie reviews (Large Movie Review Dataset), 2 polarities or 8 ratings.

    Reads from the data folder, or its folder ``imdb``, ``{train,test}.jsonl[.xz|.gz]`` (one object per line:
    label 0 or 1, text, and for ``classes=rating`` rating 1-4 or 7-10) or the raw
    ``aclImdb/<split>/<pos|neg>/<id>_<rating>.txt``; without a data folder, ``stanfordnlp/imdb`` through the
    ``datasets`` library (polarity only). The unlabelled reviews are not read; nothing else is dropped.

    Words are lower-case runs of letters and digits, ! and ?. The ``vocabulary`` commonest words of the
    training examples are kept; all others are one unknown token. The official training part is divided,
    stratified by class, into ``validation`` reviews and ``train`` ones (0: all others); ``test`` reviews of
    the official test part are scored (0: all). Reviews are cut to their first seq_len words. ``vectors`` are
    the first weights of the word embedding: ``none``, ``package`` (GloVe) or the path of a GloVe text file.

    In the official data some test texts (123) also stand in the training part; ``test_texts_in_train``
    counts the test reviews whose text is among the training examples used.
    """

    source = "Maas et al. 2011, Learning Word Vectors for Sentiment Analysis (ACL)"
    name = "imdb"
    unit = "reviews"
    names = POLARITIES

    classes: Literal["polarity", "rating"] = "polarity"
    validation: int = 2_500
    test: int = 0

    def check_options(self) -> None:
        """Refuse other classes."""
        super().check_options()
        require(self.classes in CLASSES, f"classes is {self.classes!r}, not polarity or rating")

    def texts_in(self, data_dir: Path | None) -> TextSet:
        """Return the official parts of the reviews, with their rating as number (0 if there is none)."""
        return _reviews(data_dir)

    def labels(self, corpus: Corpus) -> tuple[Integers, int]:
        """Return polarities, negative first, or ratings in ascending order."""
        if self.classes == "polarity":
            return super().labels(corpus)
        if not corpus.numbers.all():
            where = corpus.where(int(np.argmin(corpus.numbers)))
            raise UsageError(f"{where}: imdb:classes=rating needs the column 'rating', which is missing")
        return np.searchsorted(RATINGS, corpus.numbers), len(RATINGS)


def texts(data_dir: Path | None) -> tuple[dict[str, tuple[list[str], list[int]]], str]:
    """Return ({split: (texts, polarities)} of train and test in the files' order, digest of all bytes).

    For tasks that read the same reviews in other units than words. Raises UsageError as the task does.
    """
    reviews = _reviews(data_dir)
    splits: dict[str, tuple[list[str], list[int]]] = {}
    for split in OFFICIAL:
        rows = list(reviews.read(split))
        if not rows:
            raise UsageError(f"{reviews.where(split, 0)}: the {split} part is empty")
        splits[split] = ([row.text for row in rows], [POLARITIES.index(row.label) for row in rows])
    return splits, reviews.digest


def digest(data_dir: Path | None) -> str:
    """Return the digest that ``texts`` returns, without reading a review."""
    return _reviews(data_dir).digest


def _reviews(data_dir: Path | None) -> TextSet:
    folder = folder_of(data_dir, "imdb")
    if folder is None:
        instead = "or pass --data-dir DIR with train.jsonl and test.jsonl, or aclImdb/"
        return hub_texts("imdb", HUB, ("text", "label"), _review, instead=instead, what="reviews")
    reviews = json_lines(folder, ("label", "text"), _review) or _folders(folder)
    if reviews is None:
        raise UsageError(
            f"{folder}: there is neither train.jsonl (or .jsonl.xz, .jsonl.gz) nor aclImdb/train/ with "
            "pos/ and neg/"
        )
    return reviews


def _review(row: dict[str, Any], where: str) -> Text:
    label, rating = row["label"], row.get("rating")
    if type(label) is not int or label not in (0, 1):
        raise UsageError(f"{where}: column 'label' is {shown(label)}, not 0 (negative) or 1 (positive)")
    text = text_column(row, "text", where)
    if rating is None:
        return Text(text, POLARITIES[label])
    return Text(text, POLARITIES[label], _checked_rating(rating, label, f"{where}: column 'rating'"))


def _checked_rating(rating: object, label: int, what: str) -> int:
    if type(rating) is not int or rating not in RATINGS:
        raise UsageError(f"{what} is {shown(rating)}, not one of {', '.join(map(str, RATINGS))}")
    if (rating >= 7) != (label == 1):
        raise UsageError(f"{what} is {rating}, but the review is {'positive' if label else 'negative'}")
    return rating


def _folders(folder: Path) -> TextSet | None:
    root = next((path for path in (folder, folder / "aclImdb") if is_dir(path / "train")), None)
    if root is None:
        return None
    files: dict[str, list[TextFile]] = {}
    for split in OFFICIAL:
        files[split] = []
        for label, name in enumerate(POLARITIES):
            part = root / split / name
            if not is_dir(part):
                raise UsageError(f"{part}: there is no such folder")
            rated = sorted((*_named(path, label), path) for path in entries(part) if path.suffix == ".txt")
            files[split] += [TextFile(path=path, label=name, number=rating) for _, rating, path in rated]
    return text_files(root, files)


def _named(path: Path, label: int) -> tuple[int, int]:
    """Return (id, rating) from ``<id>_<rating>.txt``."""
    match = re.fullmatch(r"([0-9]+)_([0-9]+)", path.stem)
    if match is None:
        raise UsageError(f"{path}: its name is not <id>_<rating>.txt")
    return int(match[1]), _checked_rating(int(match[2]), label, f"{path}: the rating in its name")
