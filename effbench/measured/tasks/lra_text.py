"""Byte-level text: IMDB's polarity from bytes, as in Long Range Arena."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from effbench.common.extent import Extent
from effbench.common.spec import UsageError
from effbench.measured.data.baseline_scores import byte_tfidf_logreg, prior
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Examples, Integers, Splits, joined_rows, stratified_order
from effbench.measured.data.reading import unchanged
from effbench.measured.tasks import imdb
from effbench.measured.tasks.base import Classification, LastRead, require

BYTES = 256

_VERSION = 1  # of the part of a review that is kept: raise it when that changes
_BASELINE_VERSION = 1  # of the linear model


class ByteText(Classification):
    """Sentiment of IMDB's reviews from their bytes (Long Range Arena's Text), 2 polarities.

    The reviews are those of the task ``imdb``, from the same files or the hub. A text is its unchanged UTF-8
    bytes, markup included, cut to the first seq_len; byte b has id b + 1, and 0 is padding. There is no
    vocabulary to learn and no tokeniser. LRA cuts to 1,000 bytes in its
    base configuration, published results often to 2,000 or 4,000; a review has 1,310 bytes on average.

    LRA chooses its weights on the test part. Here the official training part is divided, stratified by
    class, into ``validation`` reviews and ``train`` ones (0: all others); ``test`` reviews of the official
    test part are scored (0: all).

    Compare scores with the baseline score ``tfidf_logreg``: logistic regression on TF-IDF of the words in the
    same bytes.
    ``test_texts_in_train`` counts the test reviews whose whole text is among the training examples used.
    """

    source = "Maas et al. 2011 (ACL); Tay et al. 2021, Long Range Arena (arXiv 2011.04006)"

    evaluations: ClassVar[int] = 2

    train: int = 0
    validation: int = 2_500
    test: int = 0

    def check_options(self) -> None:
        """Refuse sizes below 0, and no validation part."""
        super().check_options()
        require(self.train >= 0, f"train must be at least 0 (all), got {self.train}")
        require(self.validation >= 1, f"validation must be at least 1, got {self.validation}")
        require(self.test >= 0, f"test must be at least 0 (all), got {self.test}")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every review, so that errors in the files show before anything is measured."""
        arrays, digest = self._reviews.anew(data_dir)
        self._rows(arrays["train_labels"], arrays["test_labels"], 0)
        return digest

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the reviews of each part, with their bytes after the cut."""
        arrays, _ = self._reviews.of(data_dir)
        parts = self._rows(arrays["train_labels"], arrays["test_labels"], seed)
        return self.extent_of(
            *(
                np.minimum(np.diff(arrays[f"{split}_starts"])[rows], seq_len)
                for split, rows in zip(("train", "train", "test"), parts, strict=True)
            )
        )

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Compute the baseline score."""
        self.data(seq_len, seed, data_dir)

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return reviews of at most ``seq_len`` bytes; ``seed`` draws the validation part and any subset."""
        arrays, digest = self._reviews.of(data_dir)
        train_rows, validation_rows, test_rows = self._rows(
            arrays["train_labels"], arrays["test_labels"], seed
        )

        def part(split: str, rows: Integers) -> Examples:
            whole = Examples(
                tokens=arrays[f"{split}_bytes"],
                starts=arrays[f"{split}_starts"],
                labels=arrays[f"{split}_labels"],
            )
            taken = whole.take(rows, longest=seq_len)
            return Examples(
                tokens=taken.tokens.astype(np.int16) + 1, starts=taken.starts, labels=taken.labels
            )

        train, test = part("train", train_rows), part("test", test_rows)
        key = {
            "version": _BASELINE_VERSION,
            "reviews": _VERSION,
            "digest": digest,
            "seed": seed,
            "sizes": (self.train, self.validation, self.test),
            "seq_len": seq_len,
        }
        linear = cached("lra-text-prior", key, lambda: {"accuracy": np.array(byte_tfidf_logreg(train, test))})
        seen = np.isin(arrays["test_texts"][test_rows], arrays["train_texts"][train_rows])
        return Splits(
            train=train,
            validation=part("train", validation_rows),
            test=test,
            vocab_size=BYTES + 1,
            classes=2,
            priors={"majority": prior(train, test), "tfidf_logreg": float(linear["accuracy"])},
            facts={"test_texts_in_train": int(seen.sum())},
        )

    @cached_property
    def _reviews(self) -> LastRead[tuple[Arrays, str]]:
        return LastRead(_read)

    def _rows(
        self, labels: Integers, test_labels: Integers, seed: int
    ) -> tuple[Integers, Integers, Integers]:
        """Return (training, validation, test) rows, the first two of the official training part."""
        train, validation, test = self.train, self.validation, self.test
        if validation + max(train, 1) > len(labels):
            raise UsageError(
                f"lra-text: validation={validation} and train={train} together exceed the {len(labels)} "
                "reviews of the training part"
            )
        if test > len(test_labels):
            raise UsageError(f"lra-text: test={test} exceeds the {len(test_labels)} reviews of the test part")
        order = stratified_order(labels, np.random.default_rng((seed, 0)))
        end = validation + train if train else len(order)
        test_order = stratified_order(test_labels, np.random.default_rng((seed, 1)))
        return (
            np.sort(order[validation:end]),
            np.sort(order[:validation]),
            np.sort(test_order[: test or len(test_order)]),
        )


def _read(data_dir: Path | None) -> tuple[Arrays, str]:
    """Return ({split}_bytes, _starts, _labels and _texts, a hash of each text; digest of all)."""
    digest = imdb.digest(data_dir)

    def make() -> Arrays:
        arrays: Arrays = {}
        for split, (texts, labels) in imdb.texts(data_dir)[0].items():
            if not labels:
                raise UsageError(f"lra-text: the {split} part of IMDB in {data_dir} is empty")
            rows = [text.encode(errors="surrogatepass") for text in texts]
            hashes = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
            arrays[f"{split}_bytes"], arrays[f"{split}_starts"] = joined_rows(rows)
            arrays[f"{split}_labels"] = np.array(labels)
            arrays[f"{split}_texts"] = np.frombuffer(hashes, dtype=np.int64)
        return arrays

    again = unchanged(digest, lambda: imdb.digest(data_dir), data_dir or "IMDB")
    return cached("lra-text", {"version": _VERSION, "digest": digest}, make, again), digest
