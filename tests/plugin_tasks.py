"""Tasks of a user's own: one that scores something else than accuracy, and one whose scores do not fit."""

from __future__ import annotations

import numpy as np

from effbench.measured.data.examples import Examples, Splits
from effbench.measured.tasks.base import Classification


class Ranking(Classification):
    """Tell rows of larger tokens from rows of smaller ones; scored by ``auc``, with a loss beside it."""

    metric = "auc"

    def __init__(self, *, epochs: int = 1):
        super().__init__(epochs=epochs, lr=1e-2, dropout=0.0, patience=9)

    def fingerprint(self, data_dir):
        return ""

    def data(self, seq_len, seed, data_dir):
        rng = np.random.default_rng(seed)

        def part(count):
            labels = rng.integers(0, 2, count)
            tokens = rng.integers(1, 10, (count, seq_len)) + 8 * labels[:, None]
            return Examples(tokens=tokens.reshape(-1), starts=np.arange(count + 1) * seq_len, labels=labels)

        return Splits(
            train=part(64), validation=part(32), test=part(32), vocab_size=20, classes=2,
            priors={"sum of tokens": 0.75},
        )  # fmt: skip

    def score(self, model, batches):
        found = super().score(model, batches)
        return {"auc": found["accuracy"], "loss_nats": 0.25, "examples": found["examples"]}


class NoMetric(Ranking):
    """Its scores lack its metric."""

    metric = "recall"


class TakenName(Ranking):
    """Scores under the name of a column of costs."""

    metric = "time_s"

    def score(self, model, batches):
        return {"time_s": super().score(model, batches)["auc"]}
