"""Trainings whose last evaluation was the best: more training may give more, and another order."""

from __future__ import annotations

import pandas as pd

from effbench.common.wording import plural

_NEEDED = {"best_epoch", "epochs"}
_MOST = 0.5  # in fewer it may be chance: the last of k evaluations is the best in one case of k


def best_at_end(raw: pd.DataFrame) -> str:
    """Return a warning if most of these trainings scored best in their last evaluation; "" if not.

    It is a reason to try more training, not a proof of too little: a learning rate that falls to 0 flattens
    every curve at its end. ``raw`` holds rows of the raw frame; other probes and failed trainings are left
    out.
    """
    if not set(raw) >= _NEEDED:
        return ""
    ended = raw[(raw["probe"] == "accuracy") & (raw["status"] == "ok") & raw["best_epoch"].notna()]
    last = int((ended["best_epoch"] >= ended["epochs"]).sum())
    if last <= _MOST * len(ended):
        return ""
    return (
        f"{last} of {plural(len(ended), 'training')} had the best validation score at the end: more epochs "
        "or a higher learning rate may raise the scores and change the order of the mechanisms; try both "
        "with one seed"
    )
