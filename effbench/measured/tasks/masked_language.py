"""Masked language modelling: predict the masked tokens of a text from both sides, as BERT was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effbench.measured.data.examples import Integers
from effbench.measured.data.language_rows import MASKED_SHARE, PARTS, Segments, masked
from effbench.measured.tasks.language import LanguageModelling

if TYPE_CHECKING:
    from effbench.measured.tasks.base import Batch


class MaskedLanguage(LanguageModelling):
    """Predict masked tokens from both sides (BERT), in byte pairs of unlabelled texts.

    15 % of the tokens of each row are chosen, never an end token. In the input, 80 % of these are a mask
    token, 10 % a random token, and 10 % stay; the model predicts all of them. Each training batch draws anew,
    from the seed; validation and test rows are masked once, the same way for all mechanisms and repeats.

    ``texts`` without their labels are ``imdb``, ``newsgroups``, ``sumpubmed``, or several joined by +;
    ``vocabulary`` is the most byte pairs; ``train``, ``validation`` and ``test`` count documents (train=0:
    all others). ``bits_per_byte`` counts the bits and the bytes of the masked tokens alone, whose neighbours
    on both sides are known: it cannot be compared with that of ``causal-language``. The trigram model beside
    it knows the two tokens to the left, none of them masked, and nothing to the right.
    """

    source = "Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers (arXiv 1810.04805)"

    def segments(self, rows: Integers, part: str, seed: int) -> Segments:
        """Return the rows; those of validation and test with their masks."""
        if part == "train":
            return Segments(tokens=rows)
        inputs, chosen = masked(rows, self._made.size, np.random.default_rng((seed, PARTS.index(part))))
        return Segments(tokens=rows, inputs=inputs, chosen=chosen)

    def predicted(self, part: Segments) -> NDArray[np.bool_]:
        """Return the masked tokens."""
        assert part.chosen is not None
        return part.chosen

    def predicted_in(self, seq_len: int) -> int:
        """Return 15 % of the row, at least one token."""
        return max(1, round(MASKED_SHARE * seq_len))

    def batch(self, part: Segments, rows: Integers) -> Batch:  # type: ignore[override]
        """Return ``tokens`` [B, N] with masks, ``targets`` [B, N], ``chosen`` [B, N], and ``mask``, all True.

        A training batch draws its masks from torch's random state, which a checkpoint keeps.
        """
        import torch

        targets = part.tokens[rows].astype(np.int64)
        if part.inputs is not None and part.chosen is not None:
            inputs, chosen = part.inputs[rows], part.chosen[rows]
        else:
            seed = int(torch.randint(2**62, ()))
            inputs, chosen = masked(targets, self._made.size, np.random.default_rng(seed))
        return {
            "tokens": torch.from_numpy(inputs),
            "mask": torch.ones(targets.shape, dtype=torch.bool),
            "targets": torch.from_numpy(targets),
            "chosen": torch.from_numpy(chosen),
        }
