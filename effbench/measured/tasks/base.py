"""Base classes of tasks: data, a model around a mechanism, a loss and a score. Imports no torch."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from effbench.common.extent import Extent
from effbench.common.spec import Cell, UsageError
from effbench.measured.data.examples import Examples, Integers, Splits, padded
from effbench.measured.data.scoring import classification_scores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.models.classifier import WordRecipe
    from effbench.measured.models.training import Recipe

    # takes the longest sequence, by default that of the cell
    MakeMechanism = Callable[..., nn.Module]
    Batch = Mapping[str, Tensor]

T = TypeVar("T")


class Task(ABC):
    """The thing that accuracy is measured on.

    The first line of a task's docstring is its summary and ``source`` is where it comes from. Its options are
    annotated class fields with literal defaults, ``epochs: int = 10``, of type int, float, bool, str or
    Literal, with ``| None`` if need be. effbench reads them from the source, base classes included; there is
    no other schema. A subclass changes a default by assigning the field again. ``ClassVar`` fields are no
    options, and neither are names that begin with an underscore. An option whose name the class needs
    otherwise gets an underscore at its end: ``data_: str = "auto"`` is the option ``data``.

    The constructor sets the options as attributes and calls ``check_options``. A class may have a constructor
    of its own instead: then its keyword-only parameters are the options.

    The training loop and the probe know only this class: they pass the parts of ``Splits`` and what
    ``batch`` makes of them back to the task, and read ``lengths`` of a part and ``mask`` of a batch. A task
    whose examples are not labelled rows brings its own parts and batches.
    """

    source: ClassVar[str] = ""
    metric: ClassVar[str] = "accuracy"  # the main score, higher is better
    validation_metric: ClassVar[str] = ""  # the score of ``validate`` that training stops on; "": the metric
    # Its models read a row in order and can go on token by token: they have ``prefill``, tokens [B, N] ->
    # (encoded tokens, state), as an encoder has. Records of causal forms then have ``state_bytes``.
    generates: ClassVar[bool] = False
    recommends: ClassVar[bool] = False  # its model may be a recommender, in the place of a mechanism
    predicts: ClassVar[bool] = False  # it has write_predictions

    def __init__(self, **options: Any) -> None:
        attributes = _option_attributes(type(self))
        for name in options:
            if name not in attributes:
                allowed = ", ".join(attributes) or "none"
                raise TypeError(f"{type(self).__name__} has no option {name!r}; its options: {allowed}")
        for name, attribute in attributes.items():
            if name in options:
                setattr(self, attribute, options[name])
            elif not hasattr(type(self), attribute):
                raise TypeError(f"{type(self).__name__} needs the option {name!r}")
        self.check_options()

    def check_options(self) -> None:  # noqa: B027  # nothing is refused
        """Raise ValueError for an option's value that is not allowed."""

    def check_cell(self, cell: Cell) -> None:  # noqa: B027  # none is refused
        """Raise UsageError for a mechanism or a shape that the task cannot train; called first."""

    @abstractmethod
    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every file and return a fingerprint of them, "" if the data is generated.

        It is called before anything runs, and again before a training. Raises UsageError that names the file,
        line and column that is wrong, and what is allowed: whatever can be wrong with a file, so that
        ``data`` meets only what has changed since.
        """

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:  # noqa: B027  # none is refused
        """Raise UsageError for a length that the task or its files lack; called after ``fingerprint``."""

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:  # noqa: B027  # nothing is kept
        """Put into the cache on disk what all trainings on this data share, such as baseline scores.

        It is called once before the trainings on this data begin, so that the time limit of the first one
        does not include it.
        """

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent | None:
        """Return how much a training reads, without preparing its data; None if that is not known.

        It is called after ``check_length``. The time of a training is estimated from it, and a run says
        before it begins if the rows would be mostly padding.
        """
        return None

    @abstractmethod
    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return the data at up to ``seq_len`` tokens per row, a function of seq_len, seed and files only."""

    @abstractmethod
    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """Return the model around the mechanism, freshly initialised from torch's random state.

        A task that ``recommends`` gets a ``MakeRecommender`` instead if the cell names a recommender.
        """

    @abstractmethod
    def batch(self, part: Examples, rows: Integers) -> Batch:
        """Return CPU tensors for the given rows of a part; ``mask`` [B, N] is True for a real token."""

    @abstractmethod
    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Return a batch without padding, of the largest size that a model of ``seq_len`` meets."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    @abstractmethod
    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
        """Return scores over all batches, ``metric`` among them; the model is in evaluation mode.

        A float is a score: a share from 0 to 1, or in the unit that its name ends with (``loss_nats``). An
        int is a count beside them. A score ``s`` may have the 95 % interval ``s_low`` to ``s_high`` over the
        examples, and its method ``s_interval``, a text. A tuple of numbers is a series: that of the test part
        is kept in the record's samples, as ``test_`` and its name.
        """

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
        """Return scores of the validation part, ``validation_metric`` among them; by default ``score``.

        A task whose ``score`` takes long, as one that generates texts does, returns cheaper ones.
        """
        return self.score(model, batches)

    def check(self, model: nn.Module, splits: Splits, seq_len: int) -> None:  # noqa: B027  # none is refused
        """Raise Incorrect if the model breaks a law, before it is trained.

        The mechanism alone was tested before. The model is in evaluation mode.
        """

    def measurements(
        self, model: nn.Module, splits: Splits, seq_len: int
    ) -> Mapping[str, float | str | tuple[float, ...]]:
        """Return further values of the trained model, numbers with their unit in the name; none here.

        A tuple is a series and becomes one of the record's samples. The model is in evaluation mode.
        """
        return {}

    def write_predictions(
        self,
        model: nn.Module,
        splits: Splits,
        seq_len: int,
        batches: Callable[[Examples], Iterator[tuple[Integers, Batch]]],
        folder: Path,
    ) -> None:
        """Write what the trained model predicts for the test part and for parts without labels.

        ``batches(part)`` yields the rows of a part and their batch on the model's device. The model is in
        evaluation mode. Only a task that ``predicts`` has it.
        """
        raise NotImplementedError

    def kept_with_weights(self) -> Mapping[str, str]:
        """Return texts that a file of the trained weights needs besides the model's shape, by name."""
        return {}

    @abstractmethod
    def recipe(self) -> Recipe:
        """Return how to train."""


class TrainedTask(Task):
    """A task with the usual options of training.

    ``patience`` is the number of evaluations without a new best after which training stops. A subclass sets
    ``evaluations`` per epoch, and ``bucketed`` to False if batches must mix rows of different lengths.
    """

    epochs: int = 10
    lr: float = 1e-3
    dropout: float = 0.1
    patience: int = 3

    evaluations: ClassVar[int] = 1
    bucketed: ClassVar[bool] = True

    def check_options(self) -> None:
        """Refuse what no training can have."""
        require(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        require(self.lr > 0, f"lr must be above 0, got {self.lr}")
        require(0 <= self.dropout < 1, f"dropout must be at least 0 and below 1, got {self.dropout}")
        require(self.patience >= 1, f"patience must be at least 1, got {self.patience}")

    def extent_of(self, train: Integers, validation: Integers, test: Integers, **more: Any) -> Extent:
        """Return the extent of parts whose rows have these lengths [n]; ``more`` are its other fields."""
        means = [float(lengths.mean()) if len(lengths) else 0.0 for lengths in (train, test)]
        known = {"passes": ((1, means[0]),), "epochs": self.epochs, "evaluations": self.evaluations}
        sizes = {"train": len(train), "validation": len(validation), "test": len(test)}
        return Extent(**{**known, **sizes, "tokens": means[1], **more})

    def recipe(self) -> Recipe:
        """Return AdamW with the task's options; the rest is the recipe's own."""
        from effbench.measured.models.training import Recipe

        return Recipe(
            epochs=self.epochs,
            lr=self.lr,
            patience=self.patience,
            evaluations=self.evaluations,
            bucketed=self.bucketed,
        )


class Classification(TrainedTask):
    """Rows of tokens with one of a few classes each: cross-entropy, accuracy and macro-averaged F1.

    A subclass brings ``fingerprint`` and ``data``.
    """

    def word_recipe(self, splits: Splits) -> WordRecipe | None:
        """Return how the classifier embeds words; None for a plain embedding."""
        return None

    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """Return an encoder under additive-attention pooling and a linear classifier."""
        from effbench.measured.models.classifier import Classifier

        return Classifier(
            make_mechanism,
            vocab_size=splits.vocab_size,
            classes=splits.classes,
            max_len=seq_len,
            d_model=d_model,
            layers=layers,
            dropout=self.dropout,
            words=self.word_recipe(splits),
        )

    def batch(self, part: Examples, rows: Integers) -> Batch:
        """Return ``tokens`` [B, N], ``mask`` [B, N] and ``labels`` [B]; N is the longest row's length."""
        import torch

        tokens, mask = padded(part.tokens, part.starts, rows)
        return {
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(part.labels[rows].astype(np.int64)),
        }

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Return arbitrary tokens and labels: memory does not depend on their values."""
        import torch

        tokens = torch.arange(batch_size * seq_len).reshape(batch_size, seq_len) % (splits.vocab_size - 1) + 1
        return {
            "tokens": tokens,
            "mask": torch.ones(batch_size, seq_len, dtype=torch.bool),
            "labels": torch.arange(batch_size) % splits.classes,
        }

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy in nats."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(model(batch["tokens"], batch["mask"]), batch["labels"])

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return ``accuracy``, ``macro_f1`` over the classes that occur, ``correct`` and ``examples``."""
        truth: list[int] = []
        predicted: list[int] = []
        for batch in batches:
            truth += batch["labels"].tolist()
            predicted += model(batch["tokens"], batch["mask"]).argmax(dim=-1).tolist()
        return classification_scores(np.array(truth), np.array(predicted))


class Sized(Classification):
    """Classification of a data set with three parts, of which an option can take fewer examples; 0: all."""

    train: int = 0
    validation: int = 0
    test: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples of each part, 0 for all."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def check_options(self) -> None:
        """Refuse negative sizes too."""
        super().check_options()
        for name, count in self.sizes.items():
            require(count >= 0, f"{name} must be at least 0 (all), got {count}")


class LastRead(Generic[T]):
    """The content of folders as ``fingerprint`` read it, so that ``data`` need not read them again."""

    def __init__(self, read: Callable[[Path | None], T]) -> None:
        self._read = read
        self._content: dict[Path | None, T] = {}

    def anew(self, folder: Path | None) -> T:
        """Read the folder and keep its content."""
        self._content.pop(folder, None)
        self._content[folder] = content = self._read(folder)
        return content

    def of(self, folder: Path | None) -> T:
        """Return what ``anew`` read from the folder; read it where ``anew`` was not called."""
        return self._content[folder] if folder in self._content else self._read(folder)


def confirm(task: Task, data_dir: Path | None, fingerprint: str) -> None:
    """Raise UsageError where the task's files are not those of the fingerprint that was taken before."""
    if fingerprint and task.fingerprint(data_dir) != fingerprint:
        raise UsageError(f"{data_dir}: the data changed after the run was planned; run it again")


def require(allowed: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not allowed:
        raise ValueError(message)


def _option_attributes(kind: type[Task]) -> dict[str, str]:
    """Return the class's options, each with the attribute that holds it, as plugin_source.py reads them."""
    attributes: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for attribute, annotation in inspect.get_annotations(base).items():
            written = annotation if isinstance(annotation, str) else repr(annotation)
            name = attribute.removesuffix("_")
            if "ClassVar" in written.partition("[")[0]:
                attributes.pop(name, None)
            elif not name.startswith("_"):
                attributes[name] = attribute
    return attributes
