"""Classification with a linear model of n-grams beside the encoder: its option, loss and scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effbench.measured.data.examples import Integers, Splits
from effbench.measured.data.scoring import classification_scores
from effbench.measured.tasks.base import Classification, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.tasks.base import Batch, MakeMechanism

_LINEAR_ROWS = 200_000  # n-grams of each length, as many as the baseline has
_SHARES = tuple(tenths / 10 for tenths in range(11))  # of the linear model in the mean: validation picks
_MOST_WORDS = 2_000_000  # a larger vocabulary's triples would not fit into 64 bits


class BesideLinear(Classification):
    """Classification by a mean of an encoder's logits and, as an option, a linear model's.

    ``linear`` is the longest n-gram that the linear model reads, 1 to 3; 0 leaves it out. ``linear_lr`` is
    its learning rate, ``linear_dropout`` the share of its features that are left out in training; both need
    ``linear``. Each of the two models is trained on its own loss, so that ``encoder_accuracy`` and
    ``linear_accuracy`` are the scores of each alone. The validation part picks the weights of the mean.
    """

    linear: int = 0
    linear_lr: float = 0.06
    linear_dropout: float = 0.7

    def check_linear(self, vocabulary: int) -> None:
        """Raise ValueError for a value that is not allowed."""
        require(0 <= self.linear <= 3, f"linear must be 0 (no linear model) to 3 words, got {self.linear}")
        for name in ("linear_lr", "linear_dropout"):
            given = getattr(self, name)
            read = self.linear != 0 or given == getattr(BesideLinear, name)
            require(read, f"{name} needs linear, the longest n-gram (1 to 3), got {name}={given} alone")
        require(self.linear_lr > 0, f"linear_lr must be above 0, got {self.linear_lr}")
        share = self.linear_dropout
        require(0 <= share < 1, f"linear_dropout must be at least 0 and below 1, got {share}")
        fits = self.linear == 0 or vocabulary <= _MOST_WORDS
        require(fits, f"with linear, vocabulary must be at most {_MOST_WORDS}, got {vocabulary}")

    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """Return the classifier, beside the linear model if there is one."""
        encoder = super().model(
            make_mechanism, splits=splits, seq_len=seq_len, d_model=d_model, layers=layers
        )
        if not self.linear:
            return encoder
        from effbench.measured.models.with_linear import LinearNGrams, WithLinear

        linear = LinearNGrams(
            splits.train,
            vocab_size=splits.vocab_size,
            classes=splits.classes,
            longest=self.linear,
            rows=_LINEAR_ROWS,
            dropout=self.linear_dropout,
        )
        return WithLinear(encoder, linear, lr_factor=self.linear_lr / self.lr)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy in nats, with a linear model the sum of both."""
        if not self.linear:
            return super().loss(model, batch)
        import torch
        from torch.nn.functional import cross_entropy

        paths = model.paths(batch["tokens"], batch["mask"])  # type: ignore[operator]
        return torch.stack([cross_entropy(logits, batch["labels"]) for logits in paths.values()]).sum()

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Choose the share of the linear model by accuracy, the smaller in a tie, and return the scores."""
        if not self.linear:
            return super().validate(model, batches)
        logits, labels = _logits_of(model, batches)
        right = [float((_mean(logits, share).argmax(axis=1) == labels).mean()) for share in _SHARES]
        model.share.fill_(_SHARES[int(np.argmax(right))])  # type: ignore[operator]
        return _scores(logits, labels, float(model.share))  # type: ignore[arg-type]

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the scores of a classification, with a linear model the accuracy of each of both too."""
        if not self.linear:
            return super().score(model, batches)
        return _scores(*_logits_of(model, batches), float(model.share))  # type: ignore[arg-type]

    def measurements(
        self, model: nn.Module, splits: Splits, seq_len: int
    ) -> Mapping[str, float | str | tuple[float, ...]]:
        """Return the share of the linear model in the mean, if there is one."""
        return {"linear_share": round(float(model.share), 2)} if self.linear else {}  # type: ignore[arg-type]


def _logits_of(model: nn.Module, batches: Iterable[Batch]) -> tuple[dict[str, NDArray[np.float32]], Integers]:
    """Return (logits [n, classes] of the encoder and of the linear model, labels [n])."""
    import torch

    made: dict[str, list[Tensor]] = {"encoder": [], "linear": []}
    labels: list[int] = []
    for batch in batches:
        labels += batch["labels"].tolist()
        for name, logits in model.paths(batch["tokens"], batch["mask"]).items():  # type: ignore[operator]
            made[name].append(logits.detach().float().cpu())
    return {name: torch.cat(parts).numpy() for name, parts in made.items()}, np.array(labels)


def _mean(logits: Mapping[str, NDArray[np.float32]], share: float) -> NDArray[np.float32]:
    return np.asarray((1 - share) * logits["encoder"] + share * logits["linear"], dtype=np.float32)


def _scores(logits: Mapping[str, NDArray[np.float32]], labels: Integers, share: float) -> dict[str, float]:
    scores = classification_scores(labels, _mean(logits, share).argmax(axis=1))
    for name, values in logits.items():
        scores[f"{name}_accuracy"] = float((values.argmax(axis=1) == labels).mean())
    return scores
