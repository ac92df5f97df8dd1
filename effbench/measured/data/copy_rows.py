"""Rows of the task copying: noise with a few items, and the items in order."""

from __future__ import annotations

import numpy as np

from effbench.measured.data.examples import Integers
from effbench.measured.data.source_targets import SPECIAL, SourceTargets


def copy_rows(
    rows: int, length: int, *, items: int, values: int, noise: int, rng: np.random.Generator
) -> SourceTargets:
    """Return sources of ``length`` tokens, each with ``items`` values among noise, and the values in order.

    A source is divided into ``items`` segments of equal length (as far as they can be), and each has one
    value, at a place drawn uniformly. Values are drawn uniformly, with replacement, from the ids SPECIAL ...
    SPECIAL + values - 1; all other places hold one of the next ``noise`` ids, drawn in the same way.
    """
    bounds = segment_bounds(length, items)
    sources = rng.integers(SPECIAL + values, SPECIAL + values + noise, size=(rows, length))
    targets = rng.integers(SPECIAL, SPECIAL + values, size=(rows, items))
    places = rng.integers(bounds[:-1], bounds[1:], size=(rows, items))
    np.put_along_axis(sources, places, targets, axis=1)
    return SourceTargets(
        sources=sources.ravel(),
        source_starts=np.arange(rows + 1) * length,
        targets=targets.ravel(),
        target_starts=np.arange(rows + 1) * items,
    )


def segment_bounds(length: int, items: int) -> Integers:
    """Return where the segments begin, and the end of the last one: [items + 1]."""
    return np.arange(items + 1) * length // items


def copy_priors(items: int, values: int) -> dict[str, float]:
    """Return the expected exact match and token accuracy of guesses, computed from the definition.

    ``a_random_value`` draws each token among all values. ``an_item_of_the_row`` draws one of the row's items,
    with replacement: it knows which tokens are values, and not their order.
    """
    item = 1 / items + (1 - 1 / items) / values  # the right item is drawn, or another one with its value
    return {
        "a_random_value": values**-items,
        "a_random_value_token_accuracy": 1 / values,
        "an_item_of_the_row_token_accuracy": item,
    }
