"""Rows of a data set to batches: shuffled for training, sorted by length for evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Batch = Mapping[str, Tensor]
Integers = NDArray[np.integer[Any]]

# Shuffled rows are sorted by length inside pools of this many batches: less padding, still random batches.
POOL_BATCHES = 20


def shuffled_batches(
    lengths: Integers, batch_size: int, rng: np.random.Generator, *, bucketed: bool = True
) -> Iterator[Integers]:
    """Yield one epoch: every row once, in random batches, of rows of similar length if ``bucketed``.

    The length of a pair of texts is the sum of both: pairs whose sources were cut at the same length are then
    sorted by their targets. All random numbers are drawn from ``rng`` before the first batch.
    """
    order = rng.permutation(len(lengths))
    if not bucketed:
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]
        return
    pool = POOL_BATCHES * batch_size
    batches: list[Integers] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    for i in rng.permutation(len(batches)):
        yield batches[i]


def sorted_batches(lengths: Integers, tokens: int) -> Iterator[Integers]:
    """Yield every row once, shortest first, in batches of at most ``tokens`` padded tokens (or one row).

    An empty row counts as one token.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for i in range(1, len(order) + 1):
        if i == len(order) or (i + 1 - start) * max(1, int(lengths[order[i]])) > tokens:
            yield order[start:i]
            start = i


class Count:
    """Counts the sequences of batches, and the real tokens in them."""

    def __init__(self) -> None:
        self._tokens = self._sequences = 0

    def of(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches as they are, counting what their ``mask`` [..., N] has."""
        for batch in batches:
            mask = batch["mask"]
            self._tokens += int(mask.sum())
            self._sequences += mask.numel() // mask.shape[-1]
            yield batch

    @property
    def mean(self) -> float | None:
        """The mean real tokens of a sequence; None before the first one."""
        return self._tokens / self._sequences if self._sequences else None


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on ``device``."""
    return {name: tensor.to(device) for name, tensor in batch.items()}
