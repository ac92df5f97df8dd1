"""Text classification in words: the options, parts and baseline scores that its tasks share."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from effbench.common.extent import Extent
from effbench.common.spec import Cell, UsageError
from effbench.measured.data.baseline_scores import no_shared_word, prior, tfidf_logreg
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.corpus import UNKNOWN, VERSION, Corpus, some, tokenise, vocabulary
from effbench.measured.data.examples import Examples, Integers, Splits, stratified_order
from effbench.measured.data.reading import unchanged
from effbench.measured.data.text_sets import OFFICIAL, TextSet
from effbench.measured.tasks.base import LastRead, require
from effbench.measured.tasks.beside_linear import BesideLinear
from effbench.measured.tasks.pretrained import Pretrained

if TYPE_CHECKING:
    from torch import nn

    from effbench.measured.models.classifier import WordRecipe
    from effbench.measured.tasks.base import MakeMechanism

_BASELINE_VERSION = 1  # of the baseline scores
_NO_WORD = "\0"  # stands for the unknown token where vectors are looked up: nobody's word


@dataclass(frozen=True, kw_only=True)
class _Division:
    """The rows of each part, the classes of all rows, and the number of rows left out for a rare class."""

    train: Integers
    validation: Integers
    test: Integers
    labels: Integers
    classes: int
    left_out: int


class WordVectors:
    """The option of how an embedding of words begins.

    ``vectors`` are the first weights of the word embedding: ``none``, ``package`` (GloVe) or the path of a
    GloVe text file.
    """

    vectors: str = "none"

    def check_vectors(self) -> None:
        """Raise ValueError for a value that is not allowed."""
        message = "vectors is empty, not none, package or the path of a GloVe text file"
        require(self.vectors != "", message)

    def vectors_fingerprint(self) -> str:
        """Return a digest of the vectors, "" without any. Raises UsageError for vectors that are wrong."""
        if self.vectors == "none":
            return ""
        from effbench.measured.data.vectors import fingerprint, initial

        initial([_NO_WORD], self.vectors, 0)
        return fingerprint(self.vectors)

    def vectors_of(self, ids: Integers, lexicon: Sequence[str], seed: int) -> NDArray[np.float32] | None:
        """Return [vocab_size, width]: zeros for padding, then a given or drawn vector for each token id."""
        if self.vectors == "none":
            return None
        from effbench.measured.data.vectors import initial

        known = np.flatnonzero(ids > UNKNOWN)
        words = [lexicon[word] for word in known[np.argsort(ids[known])]]
        rows = initial([_NO_WORD, *words], self.vectors, seed)
        return np.concatenate([np.zeros((1, rows.shape[1]), dtype=np.float32), rows])


class WordOptions(WordVectors):
    """Options of how a classifier embeds words.

    ``ngrams`` of 2 or more adds hashed n-grams to the word embedding. ``word_dropout`` is the share of
    embeddings that are left out in training. The embeddings of words and n-grams learn at ``embedding_lr``
    times the rate of all other weights.
    """

    ngrams: int = 1
    word_dropout: float = 0.0
    embedding_lr: float = 1.0

    def check_words(self) -> None:
        """Raise ValueError for a value that is not allowed."""
        self.check_vectors()
        share = self.word_dropout
        require(1 <= self.ngrams <= 5, f"ngrams must be 1 (words alone) to 5, got {self.ngrams}")
        require(0 <= share < 1, f"word_dropout must be at least 0 and below 1, got {share}")
        require(self.embedding_lr > 0, f"embedding_lr must be above 0, got {self.embedding_lr}")


class TextClassification(BesideLinear, WordOptions, Pretrained):
    """Texts with a class each, read as words.

    A subclass brings ``texts_in`` and the names for messages: ``name`` of the task, ``unit`` of its texts.
    ``names`` are the sorted names of the classes if they are fixed; otherwise the classes are those of the
    first part. A class with fewer than ``least`` training texts is left out of all parts.

    Words are lower-case runs of letters and digits (apostrophes may stand inside), ! and ?. ``vocabulary``
    is the number of words kept: the commonest of the training texts used, of those that occur at least twice.
    All others are one unknown token. Texts are cut to their first seq_len words; baseline scores read them
    uncut. With ``pretrained`` texts are read as the byte pairs of that file instead, cut in the same way.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "texts"
    names: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[int] = 0
    evaluations: ClassVar[int] = 2

    train: int = 0
    validation: int | None = None
    test: int | None = 0
    vocabulary: int = 20_000
    epochs: int = 5
    dropout: float = 0.2
    patience: int = 2

    def check_options(self) -> None:
        """Refuse sizes and word options that no text classification can have."""
        super().check_options()
        self.check_words()
        self.check_pretrained(self.vectors)
        self.check_linear(self.vocabulary)
        words = f"linear={self.linear} is of words: pretrained reads byte pairs"
        require(not (self.pretrained and self.linear), words)
        train, validation, test = self.sizes
        require(train >= 0, f"train must be at least 0 (all), got {train}")
        require(validation is None or validation >= 1, f"validation must be at least 1, got {validation}")
        require(test is None or test >= 0, f"test must be at least 0 (all), got {test}")
        require(self.vocabulary >= 1, f"vocabulary must be at least 1, got {self.vocabulary}")

    def word_recipe(self, splits: Splits) -> WordRecipe:
        """Return the word options, with the vectors of this data."""
        from effbench.measured.models.classifier import WordRecipe

        return WordRecipe(
            vectors=splits.vectors,
            ngrams=self.ngrams,
            word_dropout=self.word_dropout,
            embedding_lr=self.embedding_lr,
        )

    def check_cell(self, cell: Cell) -> None:
        """Refuse a cell that the pre-trained weights do not fit."""
        self.require_fit(cell)

    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """Return the classifier; one that is pre-trained is as long as it was then."""
        longest = self.weights_file.seq_len if self.pretrained else seq_len
        made = super().model(
            partial(make_mechanism, longest), splits=splits, seq_len=longest, d_model=d_model, layers=layers
        )
        self.begin(made)
        return made

    @property
    def sizes(self) -> tuple[int, int | None, int | None]:
        """Texts of the training, validation and test parts."""
        return self.train, self.validation, self.test

    @abstractmethod
    def texts_in(self, data_dir: Path | None) -> TextSet:
        """Return the texts of the data folder. Raises UsageError where there are none."""

    def labels(self, corpus: Corpus) -> tuple[Integers, int]:
        """Return (class of every row [n], number of classes)."""
        return corpus.examples.labels, len(corpus.names)

    def held_out(self, corpus: Corpus) -> NDArray[np.bool_] | None:
        """Return a mask [n] of the rows of the test part; None if the test part is drawn like the others."""
        if corpus.texts.parts != OFFICIAL:
            return None
        held_out: NDArray[np.bool_] = np.arange(len(corpus.examples)) >= corpus.ends[0]
        return held_out

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every text, so that errors in the files show before anything is measured."""
        corpus = self._corpora.anew(data_dir)
        division = self._divide(corpus, 0)
        if not corpus.share_a_word(division.train):
            raise UsageError(no_shared_word(self.name, len(division.train)))
        more = (self.vectors_fingerprint(), self.pretrained_fingerprint())
        return "-".join(filter(None, (corpus.texts.digest, *more)))

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Compute the baseline scores."""
        corpus = self._corpora.of(data_dir)
        self._baseline(corpus, self._divide(corpus, seed))

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the texts of each part, with their words after the cut."""
        corpus = self._corpora.of(data_dir)
        division = self._divide(corpus, seed)
        lengths = np.minimum(self._in_tokens(corpus, data_dir).lengths, seq_len)
        parts = (division.train, division.validation, division.test)
        return self.extent_of(*(lengths[rows] for rows in parts), vocabulary=self.vocabulary)

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return texts of at most ``seq_len`` words; ``seed`` draws each part or subset that is not fixed."""
        corpus = self._corpora.of(data_dir)
        division = self._divide(corpus, seed)
        whole = self._in_tokens(corpus, data_dir)
        if self.pretrained:
            ids: Integers = np.arange(self.byte_pairs().size)
        else:
            chosen = np.isin(np.arange(len(whole)), division.train)
            read = whole.tokens[np.repeat(chosen, whole.lengths)]
            ids = vocabulary(read, len(corpus.lexicon), self.vocabulary)

        def part(rows: Integers) -> Examples:
            taken = whole.take(rows, longest=seq_len)
            return Examples(tokens=ids[taken.tokens], starts=taken.starts, labels=division.labels[rows])

        train, test = part(division.train), part(division.test)
        accuracy, macro_f1 = self._baseline(corpus, division)
        seen = np.isin(corpus.hashes[division.test], corpus.hashes[division.train])
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
            vectors=self.vectors_of(ids, corpus.lexicon, seed),
        )

    def measurements(
        self, model: nn.Module, splits: Splits, seq_len: int
    ) -> Mapping[str, float | str | tuple[float, ...]]:
        """Return what the model began with, if it was pre-trained, and the share of a linear model."""
        return {**super().measurements(model, splits, seq_len), **self.pretrained_facts()}

    def _in_tokens(self, corpus: Corpus, data_dir: Path | None) -> Examples:
        """Return the texts of all parts as words, or as the byte pairs of the pre-trained weights."""
        if not self.pretrained:
            return corpus.examples
        return self.encoded(
            corpus.texts, corpus.examples.labels, self.name, self._again(corpus.texts, data_dir)
        )

    def _again(self, texts: TextSet, data_dir: Path | None) -> Callable[[], None]:
        return unchanged(texts.digest, lambda: self.texts_in(data_dir).digest, data_dir or self.name)

    @cached_property
    def _corpora(self) -> LastRead[Corpus]:
        return LastRead(self._corpus)

    def _corpus(self, data_dir: Path | None) -> Corpus:
        texts = self.texts_in(data_dir)
        key = {"version": VERSION, "digest": texts.digest, "parts": texts.parts, "names": self.names}
        arrays = cached(self.name, key, lambda: tokenise(texts, self.names), self._again(texts, data_dir))
        return Corpus.of(texts, arrays)

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
                f"{self.name} found are {some(corpus.names)}"
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
        """Draw all three parts; None for validation or test means a tenth of all texts."""
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

    def _baseline(self, corpus: Corpus, division: _Division) -> tuple[float, float]:
        rows = {"train": division.train, "validation": division.validation, "test": division.test}
        labels = {part: division.labels[chosen] for part, chosen in rows.items()}
        digest = hashlib.sha256()
        for part, chosen in rows.items():
            for numbers in (chosen, labels[part]):
                digest.update(part.encode() + numbers.astype(np.int64).tobytes())

        def make() -> Arrays:
            texts = {part: corpus.written(chosen) for part, chosen in rows.items()}
            return {"scores": np.array(list(tfidf_logreg(texts, labels, self.name)))}

        key = {"version": _BASELINE_VERSION, "words": VERSION, "digest": corpus.texts.digest}
        accuracy, macro_f1 = cached(f"{self.name}-tfidf", {**key, "rows": digest.hexdigest()}, make)["scores"]
        return float(accuracy), float(macro_f1)
