"""IMDB: movie reviews by polarity or rating, from JSON Lines, the raw folders, or Hugging Face."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np

from effbench.spec import UsageError
from effbench.tasks import Classification, Examples, Integers, Splits, folder_of, prior, require
from effbench.tasks.cache import Arrays, cached

RATINGS = (1, 2, 3, 4, 7, 8, 9, 10)
SPLITS = ("train", "test")
HUB = "stanfordnlp/imdb"

_VERSION = 1  # of the readers and the tokeniser: raise it when their output changes
_WORD = re.compile(r"\w+(?:'\w+)*|[!?]")
_BREAK = re.compile(r"<br\s*/?>")
_OPEN: dict[str, Callable[..., IO[bytes]]] = {
    ".jsonl": open,
    ".jsonl.xz": lzma.open,
    ".jsonl.gz": cast("Callable[..., IO[bytes]]", gzip.open),
}
_UNKNOWN = 1  # token id; 0 is padding
_MIN_COUNT = 2  # a word that training has once is unknown too, which trains the unknown token


class IMDB(Classification):
    """Sentiment of movie reviews (Large Movie Review Dataset), 2 polarities or 8 ratings.

    Reads from the data folder ``{train,test}.jsonl[.xz|.gz]`` (one object a line: label 0 or 1, text, and
    for ``classes=rating`` rating 1-4 or 7-10) or the raw ``aclImdb/<split>/<pos|neg>/<id>_<rating>.txt``;
    without a data folder, ``stanfordnlp/imdb`` through the ``datasets`` library (polarity only).

    Words are lower-case runs of letters and digits, ! and ?. ``vocabulary`` counts the commonest words of
    the training examples; others are one unknown token. The official training part is divided, stratified
    by class, into ``validation`` reviews and ``train`` ones (0: all others); ``test`` reviews of the
    official test part are scored (0: all). Reviews are cut to their first seq_len words.

    In the official data some test texts (123) also stand in the training part; ``test_texts_in_train``
    counts the test reviews whose text is among the training examples used.
    """

    source = "Maas et al. 2011, Learning Word Vectors for Sentiment Analysis (ACL)"

    def __init__(
        self,
        *,
        classes: Literal["polarity", "rating"] = "polarity",
        train: int = 0,
        validation: int = 2_500,
        test: int = 0,
        vocabulary: int = 20_000,
        epochs: int = 5,
        lr: float = 1e-3,
        dropout: float = 0.2,
        patience: int = 2,
    ) -> None:
        super().__init__(epochs=epochs, lr=lr, dropout=dropout, patience=patience, evaluations=2)
        require(classes in ("polarity", "rating"), f"classes is {classes!r}, not polarity or rating")
        require(train >= 0, f"train must be at least 0 (all), got {train}")
        require(validation >= 1, f"validation must be at least 1, got {validation}")
        require(test >= 0, f"test must be at least 0 (all), got {test}")
        require(vocabulary >= 1, f"vocabulary must be at least 1, got {vocabulary}")
        self.classes, self.vocabulary = classes, vocabulary
        self.sizes = (train, validation, test)

    def check(self, data_dir: Path | None) -> str:
        """Read every review, so that whatever is wrong with the files shows before anything is measured."""
        corpus = _corpus(data_dir)
        self._labels(corpus, "test")
        self._rows(self._labels(corpus, "train"), 0)
        return corpus.fingerprint

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Reviews of at most ``seq_len`` words; ``seed`` draws the validation part and any subset."""
        corpus = _corpus(data_dir)
        labels, test_labels = self._labels(corpus, "train"), self._labels(corpus, "test")
        train_rows, validation_rows = self._rows(labels, seed)
        order = stratified_order(test_labels, np.random.default_rng((seed, 1)))
        test_rows = np.sort(order[: self.sizes[2] or len(order)])
        whole = Examples(tokens=corpus.words("train"), starts=corpus.starts("train"), labels=labels)
        whole_test = Examples(tokens=corpus.words("test"), starts=corpus.starts("test"), labels=test_labels)
        chosen = np.isin(np.arange(len(whole)), train_rows)
        ids = _vocabulary(
            whole.tokens[np.repeat(chosen, whole.lengths)], corpus.lexicon_size, self.vocabulary
        )

        def part(examples: Examples, rows: Integers) -> Examples:
            taken = examples.take(rows, longest=seq_len)
            return Examples(tokens=ids[taken.tokens], starts=taken.starts, labels=taken.labels)

        train, test = part(whole, train_rows), part(whole_test, test_rows)
        seen = np.isin(corpus.texts("test")[test_rows], corpus.texts("train")[train_rows])
        return Splits(
            train=train,
            validation=part(whole, validation_rows),
            test=test,
            vocab_size=int(ids.max()) + 1,
            classes=2 if self.classes == "polarity" else len(RATINGS),
            priors={"majority": prior(train, test)},
            facts={"test_texts_in_train": int(seen.sum())},
        )

    def _labels(self, corpus: _Corpus, split: str) -> Integers:
        if self.classes == "polarity":
            return corpus.arrays[f"{split}_labels"]
        ratings = corpus.arrays[f"{split}_ratings"]
        if not ratings.all():
            where = corpus.where(split, int(np.argmin(ratings)))
            raise UsageError(f"{where}: imdb:classes=rating needs the column 'rating', which is missing")
        return np.searchsorted(RATINGS, ratings)

    def _rows(self, labels: Integers, seed: int) -> tuple[Integers, Integers]:
        """(training, validation) rows of the official training part."""
        train, validation, _ = self.sizes
        if validation + max(train, 1) > len(labels):
            raise UsageError(
                f"imdb: validation={validation} and train={train} together exceed the {len(labels)} reviews "
                "of the training part"
            )
        order = stratified_order(labels, np.random.default_rng((seed, 0)))
        end = validation + train if train else len(order)
        return np.sort(order[validation:end]), np.sort(order[:validation])


def stratified_order(labels: Integers, rng: np.random.Generator) -> Integers:
    """A random order of all rows in which every beginning has the classes in proportion."""
    shuffled = rng.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    # Classes tie often: the shuffle decides.
    return shuffled[np.argsort(place[shuffled], kind="stable")]


def _vocabulary(tokens: Integers, lexicon_size: int, limit: int) -> Integers:
    """Token ids of the lexicon's words [lexicon_size]: the ``limit`` commonest in ``tokens``, or unknown."""
    counts = np.bincount(tokens, minlength=lexicon_size)
    common = np.argsort(-counts, kind="stable")[:limit]
    common = common[counts[common] >= _MIN_COUNT]
    ids = np.full(lexicon_size, _UNKNOWN, dtype=np.int32)
    ids[common] = _UNKNOWN + 1 + np.arange(len(common), dtype=np.int32)
    return ids


# Reading. A review is (text, label, rating or 0); its place is its number in its split, from 0.

_Review = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True)
class _Corpus:
    """Both official parts as word numbers, in the order of the source; ``where`` names a review's place."""

    arrays: Arrays
    fingerprint: str
    where: Callable[[str, int], str]

    def words(self, split: str) -> Integers:
        return self.arrays[f"{split}_words"]

    def starts(self, split: str) -> Integers:
        return self.arrays[f"{split}_starts"]

    def texts(self, split: str) -> Integers:
        """A 64-bit hash of each review's text."""
        return self.arrays[f"{split}_texts"]

    @property
    def lexicon_size(self) -> int:
        return int(self.arrays["lexicon_size"])


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where reviews come from: a digest of all bytes, a reader, and how to name a review's place."""

    digest: str
    read: Callable[[str], Iterable[_Review]]
    where: Callable[[str, int], str]


def texts(data_dir: Path | None) -> tuple[dict[str, tuple[list[str], list[int]]], str]:
    """({split: (texts, polarities)} of train and test in the order of the source, digest of all bytes).

    For tasks that read the same reviews in other units than words. Raises UsageError as the task does.
    """
    source = _source(data_dir)
    found: dict[str, tuple[list[str], list[int]]] = {}
    for split in SPLITS:
        reviews = list(source.read(split))
        found[split] = [text for text, _, _ in reviews], [label for _, label, _ in reviews]
    return found, source.digest


def _source(data_dir: Path | None) -> _Source:
    folder = folder_of(data_dir, "imdb")
    source = _hub() if folder is None else _json_lines(folder) or _folders(folder)
    if source is None:
        raise UsageError(
            f"{folder}: there is neither train.jsonl (or .jsonl.xz, .jsonl.gz) nor aclImdb/train/ with "
            "pos/ and neg/"
        )
    return source


def _corpus(data_dir: Path | None) -> _Corpus:
    source = _source(data_dir)
    arrays = cached("imdb", {"version": _VERSION, "digest": source.digest}, lambda: _tokenise(source))
    return _Corpus(arrays=arrays, fingerprint=source.digest, where=source.where)


def _tokenise(source: _Source) -> Arrays:
    lexicon: dict[str, int] = {}
    arrays: Arrays = {}
    for split in SPLITS:
        words: list[Integers] = []
        labels: list[int] = []
        ratings: list[int] = []
        texts: list[bytes] = []
        for text, label, rating in source.read(split):
            found = _WORD.findall(_BREAK.sub(" ", text.lower()))
            words.append(np.array([lexicon.setdefault(word, len(lexicon)) for word in found], dtype=np.int32))
            labels.append(label)
            ratings.append(rating)
            texts.append(hashlib.blake2b(text.encode(), digest_size=8).digest())
        if not labels:
            raise UsageError(f"{source.where(split, 0)}: the {split} part is empty")
        arrays[f"{split}_words"] = np.concatenate(words)
        arrays[f"{split}_starts"] = np.concatenate(([0], np.cumsum([len(row) for row in words])))
        arrays[f"{split}_labels"] = np.array(labels)
        arrays[f"{split}_ratings"] = np.array(ratings)
        arrays[f"{split}_texts"] = np.frombuffer(b"".join(texts), dtype=np.int64)
    arrays["lexicon_size"] = np.array(max(1, len(lexicon)))
    return arrays


def _json_lines(folder: Path) -> _Source | None:
    found = {split: _json_lines_file(folder, split) for split in SPLITS}
    if found["train"] is None and found["test"] is None:
        return None
    paths: dict[str, Path] = {}
    for split, path in found.items():
        if path is None:
            raise UsageError(f"{folder}: there is no {split}.jsonl (or .jsonl.xz, .jsonl.gz)")
        paths[split] = path
    digest = hashlib.sha256()
    for path in paths.values():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())

    def read(split: str) -> Iterator[_Review]:
        path = paths[split]
        opener = _OPEN["".join(path.suffixes[-2:]) if path.suffix != ".jsonl" else ".jsonl"]
        with opener(path, "rb") as file:
            number = 0
            try:
                for number, line in enumerate(file, start=1):
                    yield _json_review(line, f"{path}:{number}")
            except (EOFError, OSError, lzma.LZMAError) as error:
                raise UsageError(f"{path}:{number + 1}: cannot be unpacked: {error}") from None

    return _Source(
        digest=digest.hexdigest()[:16], read=read, where=lambda split, row: f"{paths[split]}:{row + 1}"
    )


def _json_lines_file(folder: Path, split: str) -> Path | None:
    return next((path for suffix in _OPEN if (path := folder / f"{split}{suffix}").is_file()), None)


def _json_review(line: bytes, where: str) -> _Review:
    try:
        row: Any = json.loads(line)
    except ValueError as error:  # of UTF-8 or of JSON
        raise UsageError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: not a JSON object but {type(row).__name__}")
    for column in ("label", "text"):
        if column not in row:
            raise UsageError(f"{where}: the column {column!r} is missing; it has {', '.join(row) or 'none'}")
    label, text, rating = row["label"], row["text"], row.get("rating")
    if type(label) is not int or label not in (0, 1):
        raise UsageError(f"{where}: column 'label' is {label!r}, not 0 (negative) or 1 (positive)")
    if not isinstance(text, str):
        raise UsageError(f"{where}: column 'text' is {type(text).__name__}, not text")
    if rating is None:
        return text, label, 0
    return text, label, _checked_rating(rating, label, f"{where}: column 'rating'")


def _checked_rating(rating: object, label: int, what: str) -> int:
    if type(rating) is not int or rating not in RATINGS:
        raise UsageError(f"{what} is {rating!r}, not one of {', '.join(map(str, RATINGS))}")
    if (rating >= 7) != (label == 1):
        raise UsageError(f"{what} is {rating}, but the review is {'positive' if label else 'negative'}")
    return rating


def _folders(folder: Path) -> _Source | None:
    root = next((path for path in (folder, folder / "aclImdb") if (path / "train").is_dir()), None)
    if root is None:
        return None
    files: dict[str, list[tuple[Path, int, int]]] = {}
    digest = hashlib.sha256()
    for split in SPLITS:
        files[split] = []
        for label, name in enumerate(("neg", "pos")):
            part = root / split / name
            if not part.is_dir():
                raise UsageError(f"{part}: there is no such folder")
            found = [(*_named(path, label), path) for path in part.iterdir() if path.suffix == ".txt"]
            files[split] += [(path, label, rating) for _, rating, path in sorted(found)]
        for path, _, _ in files[split]:
            digest.update(str(path.relative_to(root)).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())

    def read(split: str) -> Iterator[_Review]:
        for path, label, rating in files[split]:
            try:
                yield path.read_bytes().decode(), label, rating
            except UnicodeDecodeError as error:
                raise UsageError(f"{path}: not UTF-8 text: {error.reason}") from None

    def where(split: str, row: int) -> str:
        return str(files[split][row][0] if row < len(files[split]) else root / split)

    return _Source(digest=digest.hexdigest()[:16], read=read, where=where)


def _named(path: Path, label: int) -> tuple[int, int]:
    """(id, rating) from ``<id>_<rating>.txt``."""
    match = re.fullmatch(r"(\d+)_(\d+)", path.stem)
    if match is None:
        raise UsageError(f"{path}: its name is not <id>_<rating>.txt")
    return int(match[1]), _checked_rating(int(match[2]), label, f"{path}: the rating in its name")


def _hub() -> _Source:
    instead = "or pass --data-dir DIR with train.jsonl and test.jsonl, or aclImdb/"
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(
            f"imdb needs its reviews: pip install 'effbench[data]' to download them, {instead}"
        ) from None
    try:
        found = {split: load_dataset(HUB, split=split) for split in SPLITS}
        columns = {split: (found[split]["text"], found[split]["label"]) for split in SPLITS}
    except Exception as error:  # the library and its transports have no common class of errors
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"imdb: {HUB} cannot be loaded ({type(error).__name__}: {reason}); check the network, {instead}"
        ) from None
    reviews: dict[str, list[_Review]] = {}
    digest = hashlib.sha256()
    for split, (texts, labels) in columns.items():
        reviews[split] = [
            _json_review(json.dumps({"text": text, "label": label}).encode(), f"{HUB} {split} row {row}")
            for row, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        for text, label, _ in reviews[split]:
            digest.update(label.to_bytes(1) + text.encode() + b"\0")
    return _Source(
        digest=digest.hexdigest()[:16],
        read=lambda split: reviews[split],
        where=lambda split, row: f"{HUB} {split} row {row}",
    )
