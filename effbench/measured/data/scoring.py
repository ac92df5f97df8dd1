"""Scores of predicted labels against the true ones."""

from __future__ import annotations

import numpy as np

from effbench.measured.data.examples import Integers


def classification_scores(truth: Integers, predicted: Integers) -> dict[str, float]:
    """Return accuracy and macro-averaged F1 of predicted labels [n] against the true ones [n].

    ``correct`` and ``examples`` are the counts behind the accuracy.
    """
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
