"""Trainings that ended while they were still learning: their order may be another after more training."""

from __future__ import annotations

import pandas as pd

from effbench.common.wording import plural

_NEEDED = {"best_epoch", "epochs"}
_MOST = 0.5  # in fewer it may be chance: the last of k evaluations is the best in one case of k


def still_learning(raw: pd.DataFrame) -> str:
    """Return a warning if most of these trainings scored best in their last evaluation; "" if not.

    ``raw`` holds rows of the raw frame; other probes and failed trainings do not count.
    """
    if not set(raw) >= _NEEDED:
        return ""
    ended = raw[(raw["probe"] == "accuracy") & (raw["status"] == "ok") & raw["best_epoch"].notna()]
    last = int((ended["best_epoch"] >= ended["epochs"]).sum())
    if last <= _MOST * len(ended):
        return ""
    return (
        f"{last} of {plural(len(ended), 'training')} had the best validation score at the end: they were "
        "still learning, and more epochs or a higher learning rate may change the order of the mechanisms"
    )
