"""Amazon Electronics: reviews by their stars, from the raw files of 2014 or 2023 or from Hugging Face."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from effbench.common.files import entries
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.reading import digest_of, folder_of, lines
from effbench.measured.data.text_sets import (
    WHOLE,
    Text,
    TextSet,
    hub_failure,
    hub_loader,
    json_object,
    reservoir,
    text_column,
)
from effbench.measured.tasks.base import require
from effbench.measured.tasks.text import TextClassification

STARS = ("1", "2", "3", "4", "5")
COLUMNS = (("reviewText", "overall"), ("text", "rating"))  # of 2014, of 2023
PATTERNS = tuple(
    f"{name}{packed}"
    for name in ("reviews_Electronics*.json", "Electronics*.jsonl")
    for packed in ("", ".gz", ".xz")
)
HUB = "hf://datasets/McAuley-Lab/Amazon-Reviews-2023/raw/review_categories/Electronics.jsonl"
LOCATION = "jmcauley.ucsd.edu/data/amazon (2014) or amazon-reviews-2023.github.io (2023)"

_VERSION = 1  # of the part of the hub's stream that is kept


class AmazonElectronics(TextClassification):
    """Stars of product reviews (Amazon Electronics), 5 classes.

    Reads from the data folder, or its folder ``amazon``, the one raw file there: of 2014,
    ``reviews_Electronics*.json[.gz|.xz]`` (an object per line: reviewText, overall), or of 2023,
    ``Electronics*.jsonl[.gz|.xz]`` (text, rating). Titles and summaries are not read; reviews without text
    are dropped. Without a data folder, the file of 2023 through the ``datasets`` library, as a stream.

    There is no official split; as many reviews as the paper has are used: ``train``, ``validation`` and
    ``test`` together are a uniform sample of the whole file, always the same one, and ``seed`` divides them,
    stratified by stars. The file is read line by line and never held in memory. From the hub the first
    reviews of the stream are taken instead, since the whole is 22 GB. It is not known which of Amazon's
    reviews the paper took. Words, ``vocabulary`` and ``vectors`` are as in ``imdb``.
    """

    source = "McAuley et al. 2015, Image-based Recommendations on Styles and Substitutes (SIGIR)"
    name = "amazon"
    unit = "reviews"
    names = STARS

    train: int = 40_000
    validation: int = 5_000
    test: int = 5_000

    def check_options(self) -> None:
        """Refuse parts of all reviews: the file is sampled."""
        super().check_options()
        require(self.train >= 1, f"train must be at least 1, got {self.train}")
        require(self.test >= 1, f"test must be at least 1, got {self.test}")

    @property
    def count(self) -> int:
        """Reviews of all parts together."""
        return self.train + self.validation + self.test

    def texts_in(self, data_dir: Path | None) -> TextSet:
        """Return the sample of reviews, in the order of the file."""
        folder = folder_of(data_dir, "amazon")
        if folder is None:
            return self._hub()
        paths = [path for path in entries(folder) if any(fnmatch(path.name, each) for each in PATTERNS)]
        if not paths:
            raise UsageError(
                f"{folder}: there is neither reviews_Electronics*.json nor Electronics*.jsonl (or .gz, .xz), "
                f"from {LOCATION}"
            )
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise UsageError(f"{folder}: there are {len(paths)} files of reviews, not one: {names}")
        path = paths[0]

        def read(part: str) -> list[Text]:
            try:
                sample = reservoir(_reviews(path), self.count, lambda review: len(review.text))
            except UsageError:
                raise
            except ValueError as error:
                raise UsageError(f"{path}: {error}") from None
            self._enough(len(sample), str(path))
            return sample

        digest = hashlib.sha256(f"{digest_of([path])} {self.count}".encode()).hexdigest()[:16]
        return TextSet(digest=digest, parts=WHOLE, read=read, where=lambda part, row: str(path))

    def _enough(self, found: int, where: str) -> None:
        if found < self.count:
            train, validation, test = self.sizes
            raise UsageError(
                f"{where}: amazon: train={train}, validation={validation} and test={test} together exceed "
                f"the {found} reviews with text found"
            )

    def _hub(self) -> TextSet:
        instead = f"or pass --data-dir DIR with a file from {LOCATION}"

        def make() -> Arrays:
            load_dataset = hub_loader("amazon", instead, "reviews")
            texts: list[bytes] = []
            stars: list[int] = []
            try:
                for row in load_dataset("json", data_files=HUB, split="train", streaming=True):
                    review = _review(row, f"{HUB} row {len(texts)}")
                    if review is not None:
                        texts.append(review.text.encode())
                        stars.append(int(review.label))
                    if len(texts) == self.count:
                        break
            except UsageError:
                raise
            except Exception as error:  # the library and its transports have no common class of errors
                raise hub_failure("amazon", HUB, error, instead) from None
            self._enough(len(texts), HUB)
            return {
                "texts": np.frombuffer(b"".join(texts), dtype=np.uint8),
                "ends": np.cumsum([len(text) for text in texts]),
                "stars": np.array(stars),
            }

        # A stream is not kept by the library, and is downloaded once for all cells that way.
        arrays = cached("amazon-hub", {"version": _VERSION, "file": HUB, "count": self.count}, make)
        joined = arrays["texts"].tobytes()

        def read(part: str) -> Iterator[Text]:
            begin = 0
            for end, stars in zip(arrays["ends"].tolist(), arrays["stars"].tolist(), strict=True):
                yield Text(joined[begin:end].decode(), str(stars))
                begin = end

        digest = hashlib.sha256(joined + arrays["ends"].tobytes() + arrays["stars"].tobytes()).hexdigest()[
            :16
        ]
        return TextSet(
            digest=digest, parts=WHOLE, read=read, where=lambda part, row: f"{HUB}, review {row} with text"
        )


def _reviews(path: Path) -> Iterator[Text]:
    for number, line in lines(path, most=None):
        where = f"{path}:{number}"
        review = _review(json_object(line, where, ()), where)
        if review is not None:
            yield review


def _review(row: dict[str, Any], where: str) -> Text | None:
    """Return the review, or None if it has no text."""
    text, stars = next((names for names in COLUMNS if names[0] in row), COLUMNS[0])
    for column in (text, stars):
        if column not in row:
            wanted = " or ".join(" and ".join(names) for names in COLUMNS)
            raise UsageError(
                f"{where}: the column {column!r} is missing; it has {', '.join(row) or 'none'}, not {wanted}"
            )
    value = row[stars]
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (1, 2, 3, 4, 5):
        raise UsageError(f"{where}: column {stars!r} is {shown(value)}, not 1 to 5 stars")
    written = text_column(row, text, where)
    return Text(written, str(int(value))) if written.strip() else None
