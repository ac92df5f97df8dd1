"""Classification with a linear model of n-grams beside the encoder: its option, loss and scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from effbench.measured.data.examples import Splits
from effbench.measured.data.scoring import classification_scores
from effbench.measured.tasks.base import Classification, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.tasks.base import Batch, MakeMechanism

_LINEAR_ROWS = 200_000  # n-grams of each length, as many as the baseline has
_MOST_WORDS = 2_000_000  # a larger vocabulary's triples would not fit into 64 bits


class BesideLinear(Classification):
    """Classification by the mean of an encoder's logits and, as an option, a linear model's.

    ``linear`` is the longest n-gram that the linear model reads, 1 to 3; 0 leaves it out. Each of the two
    is trained on its own loss, so that ``encoder_accuracy`` and ``linear_accuracy`` are the scores of each
    alone.
    """

    linear: int = 0

    def check_linear(self, vocabulary: int) -> None:
        """Raise ValueError for a value that is not allowed."""
        require(0 <= self.linear <= 3, f"linear must be 0 (no linear model) to 3 words, got {self.linear}")
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
        )
        return WithLinear(encoder, linear, lr=self.lr)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy in nats, with a linear model the sum of both."""
        if not self.linear:
            return super().loss(model, batch)
        import torch
        from torch.nn.functional import cross_entropy

        paths = model.paths(batch["tokens"], batch["mask"])  # type: ignore[operator]
        return torch.stack([cross_entropy(logits, batch["labels"]) for logits in paths.values()]).sum()

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the scores of a classification, with a linear model the accuracy of each of both too."""
        if not self.linear:
            return super().score(model, batches)
        truth: list[int] = []
        predicted: dict[str, list[int]] = {"both": [], "encoder": [], "linear": []}
        for batch in batches:
            truth += batch["labels"].tolist()
            paths = model.paths(batch["tokens"], batch["mask"])  # type: ignore[operator]
            for name, logits in {**paths, "both": sum(paths.values())}.items():
                predicted[name] += logits.argmax(dim=-1).tolist()
        labels = np.array(truth)
        scores = classification_scores(labels, np.array(predicted["both"]))
        for name in ("encoder", "linear"):
            scores[f"{name}_accuracy"] = float((np.array(predicted[name]) == labels).mean())
        return scores
