"""The options of text classification that begin with a pre-trained language model, and its tokens."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from effbench.common import weights
from effbench.common.spec import Cell, UsageError
from effbench.common.weights import BYTE_PAIRS, WeightsFile
from effbench.measured.data import byte_pairs
from effbench.measured.data.byte_pairs import BytePairs
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Examples, Integers
from effbench.measured.data.text_sets import TextSet
from effbench.measured.tasks.base import require

if TYPE_CHECKING:
    from torch import nn

_TOGETHER = 64  # texts that are encoded at a time


class Pretrained:
    """Options of how a classifier begins.

    ``pretrained`` is a file of weights of ``masked-language`` or ``causal-language`` (``effbench run
    --weights``): texts are read with its byte pairs, and embeddings and encoder begin with its weights. With
    ``start=random`` they begin with random weights of the same shape, the control that shows what the
    pre-training is worth. Empty: words and random weights.
    """

    pretrained: str = ""
    start: Literal["pretrained", "random"] = "pretrained"

    def check_pretrained(self, vectors: str) -> None:
        """Raise ValueError for values that do not fit together."""
        require(self.start in ("pretrained", "random"), f"start is {self.start!r}, not pretrained or random")
        known = bool(self.pretrained) or self.start == "pretrained"
        require(known, "start=random takes the shape of a file of weights: name it with pretrained=PATH")
        words = f"vectors is {vectors!r}, which are of words: pretrained reads byte pairs"
        require(not self.pretrained or vectors == "none", words)

    def require_fit(self, cell: Cell) -> None:
        """Raise UsageError unless the file has a language model of the cell's mechanism and shape."""
        if self.pretrained:
            self.weights_file.require_fit(cell)

    @cached_property
    def weights_file(self) -> WeightsFile:
        """The header of the file. Raises UsageError if it has no language model."""
        found = weights.read_header(Path(self.pretrained).expanduser())
        if BYTE_PAIRS not in found.kept:
            raise UsageError(f"{found.path}: its weights are of {found.task}, which is no language model")
        return found

    def pretrained_fingerprint(self) -> str:
        """Return a digest of the file as it is now, "" without one."""
        self.__dict__.pop("weights_file", None)
        return self.weights_file.digest if self.pretrained else ""

    def byte_pairs(self) -> BytePairs:
        """Return the tokeniser of the file."""
        return BytePairs(self.weights_file.kept[BYTE_PAIRS])

    def encoded(self, texts: TextSet, labels: Integers, name: str, confirm: Callable[[], None]) -> Examples:
        """Return the texts of all parts in the file's byte pairs, uncut."""
        written = self.weights_file.kept[BYTE_PAIRS]
        key = {"version": 1, "bpe": byte_pairs.VERSION, "digest": texts.digest, "parts": texts.parts,
               "byte_pairs": written}  # fmt: skip
        rows = (row.text for part in texts.parts for row in texts.read(part))
        arrays = cached(f"{name}-byte-pairs", key, lambda: _encoded(rows, BytePairs(written)), confirm)
        return Examples(tokens=arrays["tokens"], starts=arrays["starts"], labels=labels)

    def pretrained_facts(self) -> dict[str, str]:
        """Return ``pretrained_by``: the training that the model began with; nothing if there was none."""
        if not self.pretrained or self.start == "random":
            return {}
        found = self.weights_file
        return {"pretrained_by": f"{found.mechanism} on {found.task}, {found.digest}"}

    def begin(self, model: nn.Module) -> None:
        """Copy the file's weights into a classifier, unless it begins with random ones."""
        if self.pretrained and self.start == "pretrained":
            from effbench.measured.models.kept_weights import begin_with

            begin_with(model, self.weights_file.path)


def _encoded(texts: Iterable[str], made: BytePairs) -> Arrays:
    tokens, starts = array("H"), array("q", [0])
    waiting: list[str] = []

    def encode() -> None:
        for ids in made.encode(waiting):
            tokens.extend(ids)
            starts.append(len(tokens))
        waiting.clear()

    for text in texts:
        waiting.append(text)
        if len(waiting) == _TOGETHER:
            encode()
    encode()
    return {"tokens": np.array(tokens, dtype=np.uint16), "starts": np.array(starts, dtype=np.int64)}
