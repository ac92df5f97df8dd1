"""A task: tell which of two tokens a row has more of. The rows are generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from effbench import Classification, Examples, Splits


class Majority(Classification):
    """Tell whether a row has more 1s or more 2s among its other tokens, 2 classes."""

    source = "docs/extending.md"

    # The options, beside those that Classification has: epochs, lr, dropout and patience.
    signal: float = 0.5
    train: int = 512
    test: int = 256
    epochs: int = 8  # other defaults than those of Classification
    lr: float = 1e-2

    def check_options(self) -> None:
        """Raise ValueError for an option's value that is not allowed."""
        super().check_options()
        if not 0 < self.signal <= 1:
            raise ValueError(f"signal must be above 0 and at most 1, got {self.signal}")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Return "" since no file is read."""
        return ""

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return three parts, drawn from the seed alone. A share ``signal`` of each row are 1s and 2s."""
        rng = np.random.default_rng(seed)

        def part(rows: int) -> Examples:
            tokens = rng.integers(3, 10, size=(rows, seq_len))  # 0 is padding
            telling = rng.random((rows, seq_len)) < self.signal
            tokens[telling] = rng.integers(1, 3, size=telling.sum())
            more_ones = (tokens == 1).sum(axis=1) > (tokens == 2).sum(axis=1)
            starts = np.arange(rows + 1) * seq_len  # row i is tokens[starts[i] : starts[i + 1]]
            return Examples(tokens=tokens.reshape(-1), starts=starts, labels=more_ones.astype(np.int64))

        train, validation, test = part(self.train), part(self.test), part(self.test)
        share = float(test.labels.mean())
        priors = {"majority": max(share, 1 - share)}  # the baseline score: always give the same answer
        return Splits(train=train, validation=validation, test=test, vocab_size=10, classes=2, priors=priors)
