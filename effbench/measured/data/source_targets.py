"""Pairs of token rows for an encoder and a decoder: the source that is read and the target to write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from effbench.measured.data.examples import Integers, ragged_places

BEGIN = 1  # token id that a decoder reads first; 0 is padding
END = 2  # token id after the last one of a target
SPECIAL = 3  # the first id of a real token


@dataclass(frozen=True, kw_only=True)
class SourceTargets:
    """Ragged rows of tokens in pairs.

    Source i is ``sources[source_starts[i]:source_starts[i + 1]]``, and likewise targets. All are integer
    arrays; the starts are [n + 1]. No row has padding, BEGIN or END: a batch adds them.
    """

    sources: Integers
    source_starts: Integers
    targets: Integers
    target_starts: Integers

    def __len__(self) -> int:
        return len(self.source_starts) - 1

    @property
    def lengths(self) -> Integers:
        """Tokens of each source and its target together, [n]: what batches are sorted by."""
        return self.source_lengths + self.target_lengths

    @property
    def source_lengths(self) -> Integers:
        """Tokens of each source, [n]."""
        return np.diff(self.source_starts)

    @property
    def target_lengths(self) -> Integers:
        """Tokens of each target, [n]."""
        return np.diff(self.target_starts)

    def source(self, i: int) -> Integers:
        """Return the tokens of source i."""
        return self.sources[self.source_starts[i] : self.source_starts[i + 1]]

    def target(self, i: int) -> Integers:
        """Return the tokens of target i."""
        return self.targets[self.target_starts[i] : self.target_starts[i + 1]]

    def take(
        self, rows: Integers, longest_source: int | None = None, longest_target: int | None = None
    ) -> SourceTargets:
        """Return the given pairs in the given order, both sides cut to their first tokens."""
        sources, source_starts = ragged_places(self.source_starts, rows, longest_source)
        targets, target_starts = ragged_places(self.target_starts, rows, longest_target)
        return SourceTargets(
            sources=self.sources[sources],
            source_starts=source_starts,
            targets=self.targets[targets],
            target_starts=target_starts,
        )

    def truncated(self, longest_source: int, longest_target: int) -> dict[str, float]:
        """Return the share of sources and of targets that are longer than this, from 0 to 1."""
        return {
            "source_truncated_share": float((self.source_lengths > longest_source).mean()),
            "target_truncated_share": float((self.target_lengths > longest_target).mean()),
        }
