"""Lookup: rows of entries and questions, where every question is answered by one other token of the row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from effbench.common.extent import Extent
from effbench.measured.data.examples import UNLABELLED, Integers, Splits
from effbench.measured.data.lookup_rows import (
    Lookups,
    keys_of,
    lookup_parts,
    lookup_priors,
    require_rows,
)
from effbench.measured.tasks.base import require
from effbench.measured.tasks.tagging import Tagging

if TYPE_CHECKING:
    from torch import nn

    from effbench.measured.tasks.base import Batch


class Lookup(Tagging):
    """Answer N / 2 questions, each from one other token of the row: a short test of what attention can find.

    A row of N tokens has N / 2 keys. Each key has one entry, a single token that holds the key and its value,
    and one question, a token that holds the key alone. All tokens stand in random order. At every question
    the model must predict the entry of its key. The values of the keys are drawn anew in every row, and all
    ``values`` values occur equally often in a row. At an odd N one key has no question; if the keys do not
    divide by ``values``, some values occur once more. No row occurs twice in ``train``, ``validation`` and
    ``test`` rows together. Rows are generated; no data folder is read.

    One layer can solve it: a question attends to the entry of its own key. All N / 2 questions do so at once,
    each to another entry, wherever it stands. So the length is the difficulty. A window misses entries
    that are far away. A state or a summary of fixed size must keep N / 2 values. A projection along the
    positions mixes tokens that stand elsewhere in the next row. The training is short, so a low score
    may also mean that a mechanism learns slowly.

    It derives from associative recall (the task ``mqar``). There, key and value are two tokens, so that a
    model needs two layers and long training, and all questions follow the pairs, so that a causal model can
    answer. Here questions stand before their entries as often as behind them: the task is for mechanisms that
    are not causal.

    Compare scores with the baseline score ``key alone``, the best answer that reads no other token: it scores
    about 1 / ``values``. Knowing how often each value occurs in the row does not help.
    """

    source = "effbench's own; after associative recall, Arora et al. 2023, Zoology (arXiv 2312.04927)"
    evaluations: ClassVar[int] = 4

    values: int = 2
    train: int = 6_000
    validation: int = 200
    test: int = 500
    epochs: int = 1
    patience: int = 8
    lr: float = 5e-3
    dropout: float = 0.0

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def check_options(self) -> None:
        """Refuse a single value and empty parts."""
        super().check_options()
        require(self.values >= 2, f"values must be at least 2, got {self.values}")
        for name, count in self.sizes.items():
            require(count >= 1, f"{name} must be at least 1, got {count}")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Return "": nothing is read."""
        return ""

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:
        """Refuse a length that has too few different rows."""
        require_rows(sum(self.sizes.values()), seq_len, self.values)

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the sizes: all rows have ``seq_len`` tokens, half of which are predicted."""
        lengths = (np.broadcast_to(seq_len, size) for size in self.sizes.values())
        return self.extent_of(*lengths, predicted=seq_len // 2, vocabulary=self._vocabulary(seq_len))

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return rows of ``seq_len`` tokens drawn with ``seed``."""
        parts = lookup_parts(self.sizes, seq_len, self.values, seed)
        return Splits(
            **parts,  # type: ignore[arg-type]  # parts of our own: see Task
            vocab_size=self._vocabulary(seq_len),
            classes=self._vocabulary(seq_len),
            priors=lookup_priors(parts["train"], parts["test"]),
        )

    def _vocabulary(self, seq_len: int) -> int:
        return keys_of(seq_len) * (1 + self.values)

    def batch(self, part: Lookups, rows: Integers) -> Batch:  # type: ignore[override]
        """Return ``tokens``, ``mask``, ``labels`` [B, N]; labels are UNLABELLED except at questions."""
        import torch

        tokens = torch.from_numpy(part.tokens[rows])
        labels = torch.from_numpy(part.labels(rows))
        return {"tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool), "labels": labels}

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Return rows of the training part, each as often as needed: all rows are full."""
        return self.batch(splits.train, np.arange(batch_size) % len(splits.train))  # type: ignore[arg-type]

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return ``accuracy`` over all questions, ``correct`` and ``examples``, the number of questions."""
        correct = questions = 0
        for batch in batches:
            at = batch["labels"] != UNLABELLED
            answers = model(batch["tokens"], batch["mask"], at).argmax(dim=-1)
            correct += int((answers == batch["labels"][at]).sum())
            questions += len(answers)
        return {"accuracy": correct / questions, "correct": correct, "examples": questions}
