"""The seam: a task is data, a model around a mechanism, a loss and a score. NumPy only until it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from effbench.common.files import is_dir
from effbench.common.spec import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.models.training import Recipe

    MakeMechanism = Callable[[], nn.Module]
    Batch = Mapping[str, Tensor]

Integers = NDArray[np.integer[Any]]

PAD = 0


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Ragged token rows with a label each: row i is ``tokens[starts[i]:starts[i + 1]]``.

    ``tokens`` [all tokens], ``starts`` [n + 1] and ``labels`` [n] are integer arrays; id 0 is padding and
    stands in no row.
    """

    tokens: Integers
    starts: Integers
    labels: Integers

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> Integers:
        """Tokens in each row, [n]."""
        return np.diff(self.starts)

    def row(self, i: int) -> Integers:
        """The tokens of row i."""
        return self.tokens[self.starts[i] : self.starts[i + 1]]

    def take(self, rows: Integers, longest: int | None = None) -> Examples:
        """The given rows in the given order, cut to their first ``longest`` tokens."""
        first = self.starts[rows]
        lengths = self.lengths[rows]
        if longest is not None:
            lengths = np.minimum(lengths, longest)
        starts = np.concatenate(([0], np.cumsum(lengths)))
        inside = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        return Examples(
            tokens=self.tokens[np.repeat(first, lengths) + inside], starts=starts, labels=self.labels[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A task's data: three parts, the sizes that its model needs, and what a score is to be read against.

    ``priors`` are the scores on the test part of predictors that hardly read the input; ``facts`` are
    counts worth keeping beside a score. Both are copied into the record. ``vectors`` [vocab_size, width], if
    given, initialise the token embedding, in whatever width they have.
    """

    train: Examples
    validation: Examples
    test: Examples
    vocab_size: int
    classes: int
    priors: Mapping[str, float]
    facts: Mapping[str, int] = field(default_factory=dict)
    vectors: NDArray[np.float32] | None = None


class Task(ABC):
    """What accuracy is measured on.

    The first line of a task's docstring is its summary and ``source`` where it comes from. The constructor
    takes keyword-only options with literal defaults, int, float, bool, str or Literal: they are read from
    the source, there is no other schema. It raises ValueError for a value that is not allowed.

    The training loop and the probe know only this class: they pass the parts of ``Splits`` and what
    ``batch`` makes of them back to the task, and read ``lengths`` of a part and ``mask`` of a batch. A task
    whose examples are not labelled rows brings its own parts and batches.
    """

    source: ClassVar[str] = ""
    metric: ClassVar[str] = "accuracy"  # the score that training stops on; higher is better

    @abstractmethod
    def check(self, data_dir: Path | None) -> str:
        """A fingerprint of the input files, "" if the data is generated; called before anything runs.

        Raises UsageError naming the file, line and column that is wrong, and what is allowed: whatever can be
        wrong with a file, so that ``data`` meets only what has changed since.
        """

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:  # noqa: B027  # none is refused
        """Raise UsageError for a length that the task or its files do not have; called after ``check``."""

    @abstractmethod
    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """The data at up to ``seq_len`` tokens a row, the same whenever seq_len, seed and files are."""

    @abstractmethod
    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """The model around the mechanism, freshly initialised from torch's random state."""

    @abstractmethod
    def batch(self, part: Examples, rows: Integers) -> Batch:
        """CPU tensors for the given rows of a part; ``mask`` [B, N] is True for a real token."""

    @abstractmethod
    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """A batch without padding, of the largest size that a model of ``seq_len`` meets."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar."""

    @abstractmethod
    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Scores over all batches, ``metric`` among them; the model is in evaluation mode.

        A float is a score: a share from 0 to 1, or in the unit that its name ends with (``loss_nats``). An
        int is a count beside them.
        """

    @abstractmethod
    def recipe(self) -> Recipe:
        """How to train."""


class Classification(Task):
    """Rows of tokens with one of a few classes each: cross-entropy, accuracy and macro-averaged F1.

    A subclass brings ``check`` and ``data``, and sets the part of the recipe that depends on the task:
    ``epochs``, ``lr``, ``dropout``, ``evaluations`` an epoch and ``patience``, the evaluations without a new
    best after which training stops; ``bucketed`` says whether rows of similar length share a batch.
    ``ngrams`` and ``word_dropout`` are the classifier's.
    """

    def __init__(
        self,
        *,
        epochs: int,
        lr: float,
        dropout: float,
        patience: int,
        evaluations: int = 1,
        bucketed: bool = True,
        ngrams: int = 1,
        word_dropout: float = 0.0,
    ) -> None:
        require(epochs >= 1, f"epochs must be at least 1, got {epochs}")
        require(lr > 0, f"lr must be above 0, got {lr}")
        require(0 <= dropout < 1, f"dropout must be at least 0 and below 1, got {dropout}")
        require(patience >= 1, f"patience must be at least 1, got {patience}")
        require(1 <= ngrams <= 5, f"ngrams must be 1 (words alone) to 5, got {ngrams}")
        require(0 <= word_dropout < 1, f"word_dropout must be at least 0 and below 1, got {word_dropout}")
        self.ngrams, self.word_dropout = ngrams, word_dropout
        self.epochs, self.lr, self.dropout = epochs, lr, dropout
        self.patience, self.evaluations, self.bucketed = patience, evaluations, bucketed

    def recipe(self) -> Recipe:
        """AdamW with the subclass's options; the rest is the recipe's own."""
        from effbench.measured.models.training import Recipe

        return Recipe(
            epochs=self.epochs,
            lr=self.lr,
            patience=self.patience,
            evaluations=self.evaluations,
            bucketed=self.bucketed,
        )

    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """An encoder under additive-attention pooling and a linear classifier."""
        from effbench.measured.models.classifier import Classifier

        return Classifier(
            make_mechanism,
            vocab_size=splits.vocab_size,
            classes=splits.classes,
            max_len=seq_len,
            d_model=d_model,
            layers=layers,
            dropout=self.dropout,
            vectors=splits.vectors,
            ngrams=self.ngrams,
            word_dropout=self.word_dropout,
        )

    def batch(self, part: Examples, rows: Integers) -> Batch:
        """``tokens`` [B, N], ``mask`` [B, N] and ``labels`` [B], N being the longest of the rows."""
        import torch

        taken = part.take(rows)
        lengths = taken.lengths
        mask = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
        tokens = np.full(mask.shape, PAD, dtype=np.int64)
        tokens[mask] = taken.tokens  # row-major on both sides
        return {
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(taken.labels.astype(np.int64)),
        }

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Arbitrary tokens and labels: memory does not depend on which."""
        import torch

        tokens = torch.arange(batch_size * seq_len).reshape(batch_size, seq_len) % (splits.vocab_size - 1) + 1
        return {
            "tokens": tokens,
            "mask": torch.ones(batch_size, seq_len, dtype=torch.bool),
            "labels": torch.arange(batch_size) % splits.classes,
        }

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy in nats."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(model(batch["tokens"], batch["mask"]), batch["labels"])

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """``accuracy``, ``macro_f1`` over the classes that occur, and counts ``correct`` and ``examples``."""
        truth: list[int] = []
        predicted: list[int] = []
        for batch in batches:
            truth += batch["labels"].tolist()
            predicted += model(batch["tokens"], batch["mask"]).argmax(dim=-1).tolist()
        return classification_scores(np.array(truth), np.array(predicted))


def classification_scores(truth: Integers, predicted: Integers) -> dict[str, float]:
    """Accuracy and macro F1 of predicted labels [n] against the true ones [n]."""
    right = truth == predicted
    # F1 of a class is 2 TP / (true + predicted): finite for every class that occurs among the true ones.
    f1 = [
        2 * int(right[truth == c].sum()) / (int((truth == c).sum()) + int((predicted == c).sum()))
        for c in np.unique(truth)
    ]
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(np.mean(f1)),
        "correct": int(right.sum()),
        "examples": len(truth),
    }


def folder_of(data_dir: Path | None, *names: str) -> Path | None:
    """The first folder of these names inside ``data_dir``, or ``data_dir`` itself where there is none.

    So that one data folder can hold those of several tasks, each under its task's name.
    """
    if data_dir is None:
        return None
    return next((data_dir / name for name in names if is_dir(data_dir / name)), data_dir)


def confirm(task: Task, data_dir: Path | None, fingerprint: str) -> None:
    """Raise UsageError where the task's files are not what they were when ``check`` gave the fingerprint."""
    if fingerprint and task.check(data_dir) != fingerprint:
        raise UsageError(f"{data_dir}: the data changed after the run was planned; run it again")


def prior(train: Examples, test: Examples, clue: Callable[[Examples], Integers] | None = None) -> float:
    """Test accuracy of always answering the commonest training label among rows of the same clue.

    ``clue`` gives an integer a row; without it there is one group, which makes this the majority class. A
    clue that training never saw is answered with the commonest label of all.
    """
    common = int(np.bincount(train.labels).argmax())
    if clue is None:
        return float((test.labels == common).mean())
    train_clue, test_clue = clue(train), clue(test)
    answers = np.full(len(test), common)
    for value in np.unique(train_clue):
        answers[test_clue == value] = np.bincount(train.labels[train_clue == value]).argmax()
    return float((test.labels == answers).mean())


def require(allowed: bool, message: str) -> None:
    """Raise ValueError with the message unless what it is about is allowed."""
    if not allowed:
        raise ValueError(message)
