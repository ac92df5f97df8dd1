"""MQAR: multi-query associative recall. Rows are pairs of a key and a value, then the keys again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from effbench.common.extent import Extent
from effbench.common.spec import UsageError
from effbench.measured.data.examples import UNLABELLED, Integers, Splits
from effbench.measured.data.recall_rows import (
    Block,
    Recall,
    generate,
    possible_rows,
    recall_priors,
    row_hashes,
)
from effbench.measured.tasks.base import require
from effbench.measured.tasks.tagging import Tagging

if TYPE_CHECKING:
    from torch import nn

    from effbench.measured.tasks.base import Batch

# Based's mixture: (seq_len, pairs, share of the training rows). Its tests at 512 and 1,024 tokens are left
# out: learned positions end where training does.
BASED_TRAIN = ((64, 4, 5), (128, 8, 1), (256, 16, 1), (256, 32, 1), (256, 64, 1))
BASED_TEST = ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64))

_TOKENS_PER_PAIR = 16  # Zoology's figure 2: (64, 4), (128, 8), (256, 16)
_PLENTY = 20  # that many times as many rows as training has are enough in any case
_REDRAWS, _AT_LEAST = 20, 1000  # draws in place of rows that training has, and rows per draw
_PARTS = {"train": 0, "validation": 1, "test": 2}


class MQAR(Tagging):
    """Recall the value that followed a key earlier in the row, for several keys (multi-query recall).

    A row is ``k v k v ...`` with ``pairs`` pairs (a sixteenth of seq_len if not given: Zoology's figure 2),
    and then (seq_len - 2 pairs) / 2 slots of two positions. Every key stands once more, at the head of a
    slot of its own, drawn without replacement with p(s) proportional to s^(alpha - 1), s = 1, 2, ... There
    the model must predict its value, which is not shown again. Keys are drawn from 1 ... vocab/2 - 1 and
    values from vocab/2 ... vocab - 1, both without replacement in a row. All other positions hold token 0,
    or with ``fillers`` random tokens of the whole vocabulary.

    ``mix=based`` trains on Based's mixture of (length, pairs): (64, 4), and a fifth as many rows of each of
    (128, 8), (256, 16), (256, 32) and (256, 64). It tests each of (64, 4), (64, 8), (64, 16), (128, 32) and
    (256, 64) with ``test`` rows. Shapes longer than seq_len are left out, and ``train`` is divided among the
    rest. Each tested shape then has a score of its own, such as ``accuracy_64_16``.

    No row of the validation or test part stands in the training part. The defaults are Zoology's,
    except for the schedule of the learning rate and a separate validation part, on which the weights are
    chosen. The model has feed-forward layers only with ``feed_forward``, and learned positions with any
    mechanism.

    The task does not make a mechanism causal. The published results are of causal ones
    (``-m linear:causal=true``). A mechanism that is not causal reads the queries together with the pairs,
    which is easier if it must choose what to remember. The input never has the answer in either case.

    Compare scores with the baseline scores: ``a value of the row`` (1/pairs), and ``slot``, the value of the
    pair whose query most often stands in that slot, since early pairs have the first choice of slots.
    """

    generates = True
    source = "Arora et al. 2023, Zoology (arXiv 2312.04927); Arora et al. 2024, Based (arXiv 2402.18668)"

    pairs: int | None = None
    vocab: int = 8192
    alpha: float = 0.01
    fillers: bool = False
    mix: Literal["single", "based"] = "single"
    train: int = 100_000
    validation: int = 1_000
    test: int = 3_000
    feed_forward: bool = False
    epochs: int = 64
    dropout: float = 0.0
    patience: int = 20

    @property
    def ffn_width(self) -> int | None:
        """No feed-forward layers, unless they are asked for."""
        return None if self.feed_forward else 0

    def check_options(self) -> None:
        """Refuse mixtures and vocabularies that no row can be drawn from."""
        super().check_options()
        pairs, vocab = self.pairs, self.vocab
        require(pairs is None or pairs >= 1, f"pairs must be at least 1, got {pairs}")
        require(vocab >= 4 and vocab % 2 == 0, f"vocab must be even and at least 4, got {vocab}")
        require(self.alpha > 0, f"alpha must be above 0, got {self.alpha}")
        require(self.mix in ("single", "based"), f"mix is {self.mix!r}, not single or based")
        based = self.mix == "based"
        require(not based or pairs is None, "mix=based has its own numbers of pairs: leave pairs out")
        smallest = min(self.train, self.validation, self.test)
        require(smallest >= 1, "train, validation and test must each be at least 1")
        most = max(n for _, n, _ in BASED_TRAIN) if based else (pairs or 1)
        require(
            most < vocab // 2, f"vocab={vocab} has {vocab // 2 - 1} keys, too few for {most} pairs in a row"
        )

    def fingerprint(self, data_dir: Path | None) -> str:
        """Return "": nothing is read."""
        return ""

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:
        """Refuse a length without room for pairs and queries, outside the mixture, or with too few rows."""
        possible = [possible_rows(self.vocab, length, pairs) for length, pairs, _ in self._shapes(seq_len)]
        if not self.fillers and min(possible) <= _PLENTY * self.train:
            self.data(seq_len, 0, data_dir)  # raises where a test cannot avoid the rows of training

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the sizes, and the mean lengths of the rows of training and of the test."""
        shapes, tested = self._shapes(seq_len), self._tested(seq_len)
        shares = [share / sum(share for *_, share in shapes) for *_, share in shapes]
        means = [sum(s * shape[i] for s, shape in zip(shares, shapes, strict=True)) for i in (0, 1)]
        mean_tested = sum(length for length, _ in tested) / len(tested)
        return self.extent_of(
            np.broadcast_to(means[0], self.train),
            np.broadcast_to(mean_tested, self.validation * len(tested)),
            np.broadcast_to(mean_tested, self.test * len(tested)),
            predicted=means[1],
            vocabulary=self.vocab,
        )

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return rows of ``seq_len`` tokens, or the mixture's up to it, drawn with ``seed``."""
        shapes = self._shapes(seq_len)
        shares = np.cumsum([share for *_, share in shapes])
        sizes = np.diff(self.train * shares // shares[-1], prepend=0).tolist()
        train = Recall(
            blocks=tuple(
                self._draw(length, pairs, rows, (seed, _PARTS["train"], i))
                for i, ((length, pairs, _), rows) in enumerate(zip(shapes, sizes, strict=True))
            )
        )
        tested = self._tested(seq_len)
        parts = [
            Recall(
                blocks=tuple(
                    self._draw(length, pairs, rows, (seed, _PARTS[part], i), train)
                    for i, (length, pairs) in enumerate(tested)
                )
            )
            for part, rows in (("validation", self.validation), ("test", self.test))
        ]
        test = parts[1]
        return Splits(
            train=train,  # type: ignore[arg-type]  # parts of our own: see Task
            validation=parts[0],  # type: ignore[arg-type]
            test=test,  # type: ignore[arg-type]
            vocab_size=self.vocab,
            classes=self.vocab,
            priors=recall_priors(train, test),
            facts={"test_rows": len(test), **({"pairs": shapes[0][1]} if self.mix == "single" else {})},
        )

    def _shapes(self, seq_len: int) -> list[tuple[int, int, int]]:
        """Return (length, pairs, share) of the training rows."""
        if self.mix == "based":
            longest = max(length for length, *_ in BASED_TRAIN)
            if not min(length for length, *_ in BASED_TRAIN) <= seq_len <= longest:
                raise UsageError(f"mqar:mix=based has rows of 64 to {longest} tokens, seq_len is {seq_len}")
            return [shape for shape in BASED_TRAIN if shape[0] <= seq_len]
        pairs = self.pairs or max(1, seq_len // _TOKENS_PER_PAIR)
        if seq_len % 2 or 4 * pairs > seq_len:
            raise UsageError(
                f"mqar: seq_len {seq_len} must be even and at least 4 x pairs, which is {4 * pairs}: a pair, "
                "and a slot of two positions for its query"
            )
        if pairs >= self.vocab // 2:
            raise UsageError(f"mqar: vocab={self.vocab} has too few keys for {pairs} pairs in a row")
        return [(seq_len, pairs, 1)]

    def _tested(self, seq_len: int) -> list[tuple[int, int]]:
        """Return (length, pairs) of the rows of the validation and test parts."""
        if self.mix == "based":
            return [shape for shape in BASED_TEST if shape[0] <= seq_len]
        return [(length, pairs) for length, pairs, _ in self._shapes(seq_len)]

    def _draw(
        self, length: int, pairs: int, rows: int, seed: Sequence[int], train: Recall | None = None
    ) -> Block:
        """Return rows of one shape, none of which is in ``train``."""
        rng = np.random.default_rng(seed)
        seen = [] if train is None else [b for b in train.blocks if b.tokens.shape[1] == length]
        hashes = [row_hashes(block) for block in seen]
        kept: list[Block] = []
        missing = rows
        for redraw in range(_REDRAWS):
            number = max(missing, _AT_LEAST) if redraw else rows
            block = generate(number, length, pairs, self.vocab, self.alpha, self.fillers, rng)
            if hashes:
                block = block.take(np.flatnonzero(~np.isin(row_hashes(block), np.concatenate(hashes))))
            kept.append(block.take(np.arange(min(missing, len(block.tokens)))))
            missing -= len(kept[-1].tokens)
            if not missing:
                return Block(
                    tokens=np.concatenate([block.tokens for block in kept]),
                    slots=np.concatenate([block.slots for block in kept]),
                )
        raise UsageError(
            f"mqar: there are too few different rows of {length} tokens with {pairs} pairs of a vocabulary "
            f"of {self.vocab} for a test that training has not seen; raise vocab or seq_len, or lower train"
        )

    def batch(self, part: Recall, rows: Integers) -> Batch:  # type: ignore[override]
        """Return ``tokens``, ``mask``, ``labels`` [B, N]; labels are values at queries, else UNLABELLED."""
        import torch

        shape = (len(rows), max(1, int(part.lengths[rows].max(initial=0))))
        tokens = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, UNLABELLED, dtype=np.int64)
        mask = np.zeros(shape, dtype=bool)
        first = 0
        for block in part.blocks:
            here = np.flatnonzero((rows >= first) & (rows < first + len(block.tokens)))
            first += len(block.tokens)
            if not len(here):  # the batch may be shorter than the rows of this block
                continue
            taken = block.take(rows[here] - first + len(block.tokens))
            length = block.tokens.shape[1]
            tokens[here, :length] = taken.tokens
            mask[here, :length] = True
            labels[here[:, None], taken.positions] = taken.values
        return {
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
        }

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Return arbitrary tokens, with the largest number of labels per row that training has."""
        import torch

        train: Recall = splits.train  # type: ignore[assignment]
        most = max(block.slots.shape[1] for block in train.blocks)
        tokens = torch.arange(batch_size * seq_len).reshape(batch_size, seq_len) % self.vocab
        labels = torch.full_like(tokens, UNLABELLED)
        labels[:, -most:] = self.vocab - 1
        return {
            "tokens": tokens,
            "mask": torch.ones(batch_size, seq_len, dtype=torch.bool),
            "labels": labels,
        }

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return ``accuracy`` over all queries, ``correct`` and ``examples``; of a mixture, each shape's."""
        counts: dict[tuple[int, int], list[int]] = {}
        for batch in batches:
            at = batch["labels"] != UNLABELLED
            right = model(batch["tokens"], batch["mask"], at).argmax(dim=-1) == batch["labels"][at]
            rows = at.nonzero()[:, 0][right].bincount(minlength=len(at))
            lengths, pairs = batch["mask"].sum(dim=1), at.sum(dim=1)
            for length, n, correct in zip(lengths.tolist(), pairs.tolist(), rows.tolist(), strict=True):
                sums = counts.setdefault((length, n), [0, 0])
                sums[0] += correct
                sums[1] += n
        correct, queries = (sum(sums[i] for sums in counts.values()) for i in (0, 1))
        scores: dict[str, float] = {"accuracy": correct / queries, "correct": correct, "examples": queries}
        if self.mix != "single":
            scores |= {f"accuracy_{length}_{n}": r / q for (length, n), (r, q) in sorted(counts.items())}
        return scores
