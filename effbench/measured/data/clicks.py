"""Clicks as training examples: each click beside negatives of its impression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effbench.measured.data.behaviours import Impressions
from effbench.measured.data.examples import Integers, ragged_places


@dataclass(frozen=True, kw_only=True)
class Clicks:
    """Clicks of impressions that have at least one candidate without a click.

    Click i is candidate ``positives[i]`` (an index into all candidates) of impression ``impression[i]``.
    ``negatives`` are the candidates without a click (news rows) of all impressions, and those of impression j
    are ``negatives[negative_starts[j]:negative_starts[j + 1]]``.
    """

    impressions: Impressions
    impression: Integers
    positives: Integers
    negatives: Integers
    negative_starts: Integers

    def __len__(self) -> int:
        return len(self.impression)

    @property
    def lengths(self) -> Integers:
        """News in the history of each click, [n]."""
        return self.impressions.lengths[self.impression]

    def candidates(self, rows: Integers, count: int, random: NDArray[np.float32]) -> Integers:
        """Return [B, 1 + count]: the clicked news first, then ``count`` negatives of the same impression.

        Negatives are drawn without replacement by the order of ``random``, which has a number for each
        negative of the rows' impressions (``negatives_of``). An impression with fewer negatives than
        ``count`` repeats them.
        """
        places, starts = ragged_places(self.negative_starts, self.impression[rows])
        sizes = np.diff(starts)
        order = np.lexsort((random, np.repeat(np.arange(len(rows)), sizes)))
        drawn = self.negatives[places[order]]
        chosen = drawn[starts[:-1, None] + np.arange(count) % sizes[:, None]]
        return np.concatenate((self.impressions.candidates[self.positives[rows], None], chosen), axis=1)

    def negatives_of(self, rows: Integers) -> int:
        """Return how many negatives the impressions of these clicks have together."""
        return int(np.diff(self.negative_starts)[self.impression[rows]].sum())


def clicks_of(impressions: Impressions) -> Clicks:
    """Return the clicks of all impressions that have a candidate without a click."""
    owner = np.repeat(np.arange(len(impressions)), np.diff(impressions.candidate_starts))
    negative = impressions.labels == 0
    sizes = np.bincount(owner[negative], minlength=len(impressions))
    clicked = (impressions.labels == 1) & (sizes[owner] > 0)
    return Clicks(
        impressions=impressions,
        impression=owner[clicked],
        positives=np.flatnonzero(clicked),
        negatives=impressions.candidates[negative],
        negative_starts=np.concatenate(([0], np.cumsum(sizes))),
    )
