"""Causal language modelling: predict the next token of a text with the causal form of a mechanism."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effbench.common.spec import Cell, UsageError
from effbench.measured.data.examples import Integers
from effbench.measured.data.language_rows import Segments
from effbench.measured.data.source_targets import BEGIN
from effbench.measured.tasks.language import LanguageModelling

if TYPE_CHECKING:
    from effbench.measured.tasks.base import Batch


class CausalLanguage(LanguageModelling):
    """Predict the next token, in byte pairs of unlabelled texts, for mechanisms with ``causal=true``.

    Each row is read after a begin token, so that all of its tokens are predicted, the first ones from little
    context. ``texts`` without their labels are ``imdb``, ``newsgroups``, ``sumpubmed``, or several joined by
    +; ``vocabulary`` is the most byte pairs; ``train``, ``validation`` and ``test`` count documents (train=0:
    all others). ``bits_per_byte`` is the number of bits in which the model would compress the test texts, for
    each byte; the end of each document is part of these bits. The trigram model beside it reads the same
    rows.
    """

    source = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners"
    generates = True

    def check_cell(self, cell: Cell) -> None:
        """Refuse a mechanism that is not asked for its causal form, which would see the token to predict."""
        super().check_cell(cell)
        if cell.options.get("causal") is not True:
            raise UsageError(
                f"causal-language: {cell.label} may look at later tokens; ask for the causal form: "
                f"{cell.mechanism}:causal=true"
            )

    def segments(self, rows: Integers, part: str, seed: int) -> Segments:
        """Return the rows."""
        return Segments(tokens=rows)

    def predicted(self, part: Segments) -> NDArray[np.bool_]:
        """Return all tokens."""
        return np.ones(part.tokens.shape, dtype=bool)

    def predicted_in(self, seq_len: int) -> int:
        """Return all tokens of the row."""
        return seq_len

    def batch(self, part: Segments, rows: Integers) -> Batch:  # type: ignore[override]
        """Return ``tokens`` [B, N], the row after BEGIN without its last token, and ``targets`` [B, N].

        ``chosen`` and ``mask`` [B, N] are True everywhere.
        """
        import torch

        targets = part.tokens[rows].astype(np.int64)
        inputs = np.full_like(targets, BEGIN)
        inputs[:, 1:] = targets[:, :-1]
        everywhere = torch.ones(targets.shape, dtype=torch.bool)
        return {
            "tokens": torch.from_numpy(inputs),
            "mask": everywhere,
            "targets": torch.from_numpy(targets),
            "chosen": everywhere,
        }
