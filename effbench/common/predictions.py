"""Predictions of a trained recommender: a file of scores, and a file of ranks as MIND's evaluation reads."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.common.bootstrap import Floats, Integers
from effbench.common.files import replacing
from effbench.common.ranking import ranks, write_ranks
from effbench.common.spec import UsageError

SCORES, RANKS = ".npz", ".txt"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A score of each candidate of impressions, in the order of the behaviours file.

    Impression i has the candidates ``starts[i]`` to ``starts[i + 1]`` with ``scores`` and ``labels`` (1
    clicked, 0 not, -1 unknown). ``users`` [n] are numbers of users, ``ids`` [n] the impression ids as in the
    file.
    """

    scores: Floats
    labels: Integers
    starts: Integers
    users: Integers
    ids: NDArray[np.bytes_]

    def write(self, folder: Path, part: str) -> None:
        """Write ``part.npz``, all arrays, and ``part.txt``, MIND's prediction file: ranks from 1."""
        folder.mkdir(parents=True, exist_ok=True)
        write_ranks(folder / f"{part}{RANKS}", self.ids, ranks(self.scores, self.starts), self.starts)
        with replacing(folder / f"{part}{SCORES}") as file:
            np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    def is_of_the_same(self, other: Predictions) -> bool:
        """True if both are of the same candidates of the same impressions."""
        return all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("labels", "starts", "users", "ids")
        )


def read(path: Path) -> Predictions:
    """Read a file of scores. Raises UsageError if it is not one."""
    try:
        # a file of our own: numpy leaves one that it opened open if it is no archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays: dict[str, Any] = {field.name: stored[field.name] for field in fields(Predictions)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} holds no predictions: {error}") from None
    predictions = Predictions(**arrays)
    count = int(predictions.starts[-1]) if len(predictions.starts) else 0
    rows = len(predictions.starts) - 1
    if not len(predictions.scores) == len(predictions.labels) == count or not (
        len(predictions.users) == len(predictions.ids) == rows
    ):
        raise UsageError(f"{path} holds no predictions: its arrays do not fit together")
    return predictions
