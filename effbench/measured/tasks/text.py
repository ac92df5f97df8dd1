"""Text classification in words: tokeniser, vocabulary, stratified parts and reference scores of its tasks."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.reading import FILE_BYTES, unchanged
from effbench.measured.data.sources import OFFICIAL, Source
from effbench.measured.tasks.base import Classification, Examples, Integers, Splits, prior, require
from effbench.measured.tasks.reference import no_shared_word, tfidf_logreg

_VERSION = 1  # of the readers and the tokeniser: raise it when their output changes
_REFERENCE_VERSION = 1  # of the reference scores
_WORD = r"\w+(?:'\w+)*|[!?]"
_BREAK = r"<br\s*/?>"
_UNKNOWN = 1  # token id; 0 is padding
_NO_WORD = "\0"  # stands for the unknown token where vectors are looked up: nobody's word
_MIN_COUNT = 2  # a word that training has once is unknown too, which trains the unknown token


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All texts of a source as word numbers, in its order; rows are numbered through its parts.

    ``labels`` [n] are numbers of ``names``, the sorted names of the classes; ``numbers`` [n] are the source's
    own; ``texts`` [n] are 64-bit hashes; ``lexicon`` is each word number's word.
    """

    source: Source
    examples: Examples
    numbers: Integers
    texts: Integers
    ends: Integers
    names: list[str]
    lexicon: list[str]

    def where(self, row: int) -> str:
        """The place of a row in its source, for a complaint."""
        part = int(np.searchsorted(self.ends, row, side="right"))
        return self.source.where(self.source.parts[part], row - int(([0, *self.ends])[part]))


@dataclass(frozen=True, kw_only=True)
class _Division:
    """Rows of each part, the classes of all rows, and how many rows were left out for a rare class."""

    train: Integers
    validation: Integers
    test: Integers
    labels: Integers
    classes: int
    left_out: int


class TextClassification(Classification):
    """Texts with a class each, read as words.

    A subclass brings ``source_of`` and the names in complaints: ``name`` of the task, ``unit`` of its texts.
    ``names`` are the classes' names, sorted, where they are known beforehand; otherwise they are those of the
    source's first part. A class with fewer than ``least`` training texts is left out of all parts.

    Words are lower-case runs of letters and digits (apostrophes may stand inside), ! and ?. ``vocabulary``
    counts the commonest words of the training texts used that they have at least twice; all others are one
    unknown token. Texts are cut to their first seq_len words; reference scores read them uncut. ``ngrams`` of
    2 or more adds hashed n-grams to the word embedding, ``word_dropout`` leaves embeddings out in training.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "texts"
    names: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[int] = 0

    def __init__(
        self,
        *,
        train: int,
        validation: int | None,
        test: int | None,
        vocabulary: int,
        epochs: int,
        lr: float,
        dropout: float,
        patience: int,
        vectors: str,
        ngrams: int,
        word_dropout: float,
        evaluations: int = 2,
    ) -> None:
        super().__init__(
            epochs=epochs,
            lr=lr,
            dropout=dropout,
            patience=patience,
            evaluations=evaluations,
            ngrams=ngrams,
            word_dropout=word_dropout,
        )
        require(train >= 0, f"train must be at least 0 (all), got {train}")
        require(validation is None or validation >= 1, f"validation must be at least 1, got {validation}")
        require(test is None or test >= 0, f"test must be at least 0 (all), got {test}")
        require(vocabulary >= 1, f"vocabulary must be at least 1, got {vocabulary}")
        require(vectors != "", "vectors is empty, not none, package or the path of a GloVe text file")
        self.vocabulary, self.vectors = vocabulary, vectors
        self.sizes = (train, validation, test)

    @abstractmethod
    def source_of(self, data_dir: Path | None) -> Source:
        """Where the texts come from. Raises UsageError where there are none, or with no data folder."""

    def labels(self, corpus: Corpus) -> tuple[Integers, int]:
        """(class of every row [n], number of classes)."""
        return corpus.examples.labels, len(corpus.names)

    def held_out(self, corpus: Corpus) -> NDArray[np.bool_] | None:
        """Which rows [n] are the test part, where that is settled; None for a part drawn like the others."""
        if corpus.source.parts != OFFICIAL:
            return None
        held_out: NDArray[np.bool_] = np.arange(len(corpus.examples)) >= corpus.ends[0]
        return held_out

    def check(self, data_dir: Path | None) -> str:
        """Read every text, so that whatever is wrong with the files shows before anything is measured."""
        corpus = self._corpus(data_dir)
        division = self._divide(corpus, 0)
        if not _share_a_word(corpus.examples, division.train):
            raise UsageError(no_shared_word(self.name, len(division.train)))
        if self.vectors == "none":
            return corpus.source.digest
        from effbench.measured.data.vectors import fingerprint, initial

        initial([_NO_WORD], self.vectors, 0)
        return f"{corpus.source.digest}-{fingerprint(self.vectors)}"

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Texts of at most ``seq_len`` words; ``seed`` draws whatever part or subset is not settled."""
        corpus = self._corpus(data_dir)
        division = self._divide(corpus, seed)
        whole = corpus.examples
        chosen = np.isin(np.arange(len(whole)), division.train)
        ids = _vocabulary(
            whole.tokens[np.repeat(chosen, whole.lengths)], len(corpus.lexicon), self.vocabulary
        )

        def part(rows: Integers) -> Examples:
            taken = whole.take(rows, longest=seq_len)
            return Examples(tokens=ids[taken.tokens], starts=taken.starts, labels=division.labels[rows])

        train, test = part(division.train), part(division.test)
        accuracy, macro_f1 = self._reference(corpus, division)
        seen = np.isin(corpus.texts[division.test], corpus.texts[division.train])
        facts = {"test_texts_in_train": int(seen.sum())}
        if self.least:
            facts["texts_of_rare_classes"] = division.left_out
        return Splits(
            train=train,
            validation=part(division.validation),
            test=test,
            vocab_size=int(ids.max()) + 1,
            classes=division.classes,
            priors={
                "majority": prior(train, test),
                "tfidf_logreg": accuracy,
                "tfidf_logreg_macro_f1": macro_f1,
            },
            facts=facts,
            vectors=self._vectors(ids, corpus.lexicon, seed),
        )

    def _corpus(self, data_dir: Path | None) -> Corpus:
        source = self.source_of(data_dir)
        key = {"version": _VERSION, "digest": source.digest, "parts": source.parts, "names": self.names}
        again = unchanged(source.digest, lambda: self.source_of(data_dir).digest, data_dir or self.name)
        arrays = cached(self.name, key, lambda: _tokenise(source, self.names), again)
        return Corpus(
            source=source,
            examples=Examples(tokens=arrays["words"], starts=arrays["starts"], labels=arrays["labels"]),
            numbers=arrays["numbers"],
            texts=arrays["texts"],
            ends=arrays["ends"],
            names=_unpacked(arrays["names"]),
            lexicon=_unpacked(arrays["lexicon"]),
        )

    def _divide(self, corpus: Corpus, seed: int) -> _Division:
        labels, classes = self.labels(corpus)
        held_out = self.held_out(corpus)
        if held_out is None:
            train, validation, test = self._own_split(labels, seed)
        else:
            train, validation, test = self._official_split(labels, held_out, seed)
        kept = np.bincount(labels[train], minlength=classes) >= self.least
        if self.least:
            labels = np.where(kept[labels], (np.cumsum(kept) - 1)[labels], -1)
        parts = [rows[labels[rows] >= 0] for rows in (train, validation, test)]
        if len(np.unique(labels[parts[0]])) < 2:
            raise UsageError(
                f"{corpus.where(int(train[0]))}: the {len(train)} training {self.unit} that begin there have "
                f"fewer than two classes{f' of {self.least} or more' if self.least else ''}; the classes of "
                f"{self.name} found are {_some(corpus.names)}"
            )
        return _Division(
            train=parts[0],
            validation=parts[1],
            test=parts[2],
            labels=labels,
            classes=int(kept.sum()),
            left_out=len(train) + len(validation) + len(test) - sum(map(len, parts)),
        )

    def _official_split(
        self, labels: Integers, held_out: NDArray[np.bool_], seed: int
    ) -> tuple[Integers, Integers, Integers]:
        train, validation, test = self.sizes[0], self.sizes[1] or 1, self.sizes[2] or 0
        rest, tests = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if validation + max(train, 1) > len(rest):
            raise UsageError(
                f"{self.name}: validation={validation} and train={train} together exceed the {len(rest)} "
                f"{self.unit} of the training part"
            )
        if not len(tests):
            raise UsageError(f"{self.name}: none of the {len(rest)} {self.unit} found is of the test part")
        if test > len(tests):
            raise UsageError(
                f"{self.name}: test={test} exceeds the {len(tests)} {self.unit} of the test part"
            )
        order = rest[stratified_order(labels[rest], np.random.default_rng((seed, 0)))]
        end = validation + train if train else len(order)
        tests = tests[stratified_order(labels[tests], np.random.default_rng((seed, 1)))]
        return np.sort(order[validation:end]), np.sort(order[:validation]), np.sort(tests[: test or None])

    def _own_split(self, labels: Integers, seed: int) -> tuple[Integers, Integers, Integers]:
        """Parts that are drawn together; None for validation or test is a tenth of all texts."""
        train, validation, test = self.sizes
        tenth = max(1, len(labels) // 10)
        validation, test = validation or tenth, test or tenth
        if validation + test + max(train, 1) > len(labels):
            raise UsageError(
                f"{self.name}: train={train}, validation={validation} and test={test} together exceed the "
                f"{len(labels)} {self.unit} found"
            )
        order = stratified_order(labels, np.random.default_rng((seed, 0)))
        tests, validations, rest = np.split(order, [test, test + validation])
        return np.sort(rest[: train or None]), np.sort(validations), np.sort(tests)

    def _reference(self, corpus: Corpus, division: _Division) -> tuple[float, float]:
        rows = {"train": division.train, "validation": division.validation, "test": division.test}
        labels = {part: division.labels[chosen] for part, chosen in rows.items()}
        digest = hashlib.sha256()
        for part, chosen in rows.items():
            for numbers in (chosen, labels[part]):
                digest.update(part.encode() + numbers.astype(np.int64).tobytes())

        def make() -> Arrays:
            texts = {part: _texts(corpus, chosen) for part, chosen in rows.items()}
            return {"scores": np.array(list(tfidf_logreg(texts, labels, self.name)))}

        key = {"version": _REFERENCE_VERSION, "words": _VERSION, "digest": corpus.source.digest}
        accuracy, macro_f1 = cached(f"{self.name}-tfidf", {**key, "rows": digest.hexdigest()}, make)["scores"]
        return float(accuracy), float(macro_f1)

    def _vectors(self, ids: Integers, lexicon: Sequence[str], seed: int) -> NDArray[np.float32] | None:
        """[vocab_size, width]: zeros for padding, then what ``vectors`` has for each word or draws for it."""
        if self.vectors == "none":
            return None
        from effbench.measured.data.vectors import initial

        known = np.flatnonzero(ids > _UNKNOWN)
        words = [lexicon[word] for word in known[np.argsort(ids[known])]]
        rows = initial([_NO_WORD, *words], self.vectors, seed)
        return np.concatenate([np.zeros((1, rows.shape[1]), dtype=np.float32), rows])


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


def _tokenise(source: Source, names: Sequence[str]) -> Arrays:
    """The arrays of a corpus. One text at a time: the library's threads would not survive a fork."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(_BREAK), " ")])
    splitter = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    lexicon: dict[str, int] = {}
    # arrays, since a packed file may hold millions of short texts
    words, lengths, labels, numbers = array("i"), array("q"), array("q"), array("q")
    hashes = bytearray()
    ends: list[int] = []
    found_names: dict[str, int] = {}
    allowed = set(names)
    held = 0
    for part in source.parts:
        for row, (text, label, number) in enumerate(source.read(part)):
            if (names or ends) and label not in allowed:
                raise UsageError(
                    f"{source.where(part, row)}: the class is {shown(label)}, not one of "
                    f"{_some(sorted(allowed))}"
                )
            allowed.add(label)
            held += len(text)
            if held > FILE_BYTES:
                raise UsageError(f"{source.where(part, row)}: the texts up to here have more than 1 GiB")
            found = splitter.pre_tokenize_str(normalizer.normalize_str(text))
            words.extend([lexicon.setdefault(word, len(lexicon)) for word, _ in found])
            lengths.append(len(found))
            labels.append(found_names.setdefault(label, len(found_names)))
            numbers.append(number)
            hashes += hashlib.blake2b(text.encode(), digest_size=8).digest()
        if len(labels) == (ends[-1] if ends else 0):
            raise UsageError(f"{source.where(part, 0)}: the {part} part is empty")
        ends.append(len(labels))
    classes = list(names) or sorted(allowed)
    place = np.array([classes.index(name) for name in found_names])
    return {
        "words": np.array(words, dtype=np.int32),
        "starts": np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
        "labels": place[np.array(labels)],
        "numbers": np.array(numbers),
        "texts": np.frombuffer(bytes(hashes), dtype=np.int64),
        "ends": np.array(ends),
        "names": _packed(classes),
        "lexicon": _packed(list(lexicon)),
    }


def _share_a_word(examples: Examples, rows: Integers) -> bool:
    """Whether some word stands in two of the rows: without one there is no reference score."""
    seen: set[int] = set()
    for row in rows.tolist():
        words = set(examples.row(row).tolist())
        if not seen.isdisjoint(words):
            return True
        seen |= words
    return False


def _packed(words: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\0".join(words).encode(), dtype=np.uint8)


def _unpacked(joined: NDArray[np.uint8]) -> list[str]:
    return joined.tobytes().decode().split("\0")


def _texts(corpus: Corpus, rows: Integers) -> list[str]:
    """The words of the rows, uncut, with a space between two."""
    return [
        " ".join([corpus.lexicon[word] for word in corpus.examples.row(i).tolist()]) for i in rows.tolist()
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:25]) + (f" and {len(names) - 25} more" if len(names) > 25 else "")
