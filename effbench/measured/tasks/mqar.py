"""MQAR: multi-query associative recall, pairs of a key and a value and then the keys again, generated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from effbench.common.spec import UsageError
from effbench.measured.tasks.base import Integers, Splits, Task, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.models.training import Recipe
    from effbench.measured.tasks.base import Batch, MakeMechanism

UNLABELLED = -100  # what torch's cross-entropy leaves out

# Based's mixture: (seq_len, pairs, share of the training rows). Its tests at 512 and 1,024 tokens are left
# out: learned positions end where training does.
BASED_TRAIN = ((64, 4, 5), (128, 8, 1), (256, 16, 1), (256, 32, 1), (256, 64, 1))
BASED_TEST = ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64))

_TOKENS_PER_PAIR = 16  # Zoology's figure 2: (64, 4), (128, 8), (256, 16)
_CHUNK = 1 << 21  # random numbers at a time
_PLENTY = 20  # so many times as many rows as training has are surely enough
_REDRAWS, _AT_LEAST = 20, 1000  # of rows that training has, so many at a time
_PARTS = {"train": 0, "validation": 1, "test": 2}

IntArray = NDArray[np.int64]
Unsigned = NDArray[np.unsignedinteger[Any]]


class MQAR(Task):
    """Recall the value that followed a key earlier in the row, for several keys (multi-query recall).

    A row is ``k v k v ...``, ``pairs`` of them (a sixteenth of seq_len if not given: Zoology's figure 2),
    and then (seq_len - 2 pairs) / 2 slots of two positions. Every key stands once more at the head of a
    slot of its own, drawn without replacement with p(s) proportional to s^(alpha - 1), s = 1, 2, ...; there
    its value is to be predicted, which is never shown again. Keys are drawn from 1 ... vocab/2 - 1 and
    values from vocab/2 ... vocab - 1, both without replacement in a row. All other positions hold token 0,
    or with ``fillers`` random tokens of the whole vocabulary.

    ``mix=based`` trains on Based's mixture of lengths and numbers of pairs, (64, 4) and in a fifth of its
    number (128, 8), (256, 16), (256, 32) and (256, 64), and tests each of (64, 4), (64, 8), (64, 16),
    (128, 32) and (256, 64) with ``test`` rows; what is longer than seq_len is left out, and ``train`` is
    divided among the rest. Scores then hold an accuracy for each too, as ``accuracy_64_16``.

    No row of the validation or test part stands in the training part. The defaults are Zoology's, but for
    the schedule of the learning rate and a validation part of its own, on which the weights are chosen. The
    model has no feed-forward layers unless ``feed_forward``, and learned positions whatever the mechanism.

    The task forces no mechanism to be causal. The published results are of causal ones
    (``-m linear:causal=true``); one that is not reads the queries along with the pairs, which is easier for a
    mechanism that must choose what to remember. The answer is in neither case among what it reads.

    Read scores against the priors: ``a value of the row`` (1/pairs), and ``slot``, the pair whose query
    most often stands in that slot, since early pairs have the first choice of slots.
    """

    source = "Arora et al. 2023, Zoology (arXiv 2312.04927); Arora et al. 2024, Based (arXiv 2402.18668)"

    def __init__(
        self,
        *,
        pairs: int | None = None,
        vocab: int = 8192,
        alpha: float = 0.01,
        fillers: bool = False,
        mix: Literal["single", "based"] = "single",
        train: int = 100_000,
        validation: int = 1_000,
        test: int = 3_000,
        feed_forward: bool = False,
        epochs: int = 64,
        lr: float = 1e-3,
        dropout: float = 0.0,
        patience: int = 20,
    ) -> None:
        require(pairs is None or pairs >= 1, f"pairs must be at least 1, got {pairs}")
        require(vocab >= 4 and vocab % 2 == 0, f"vocab must be even and at least 4, got {vocab}")
        require(alpha > 0, f"alpha must be above 0, got {alpha}")
        require(mix in ("single", "based"), f"mix is {mix!r}, not single or based")
        require(mix == "single" or pairs is None, "mix=based has its own numbers of pairs: leave pairs out")
        require(min(train, validation, test) >= 1, "train, validation and test must each be at least 1")
        require(epochs >= 1, f"epochs must be at least 1, got {epochs}")
        require(lr > 0, f"lr must be above 0, got {lr}")
        require(0 <= dropout < 1, f"dropout must be at least 0 and below 1, got {dropout}")
        require(patience >= 1, f"patience must be at least 1, got {patience}")
        self.pairs, self.vocab, self.alpha, self.fillers, self.mix = pairs, vocab, alpha, fillers, mix
        self.train, self.validation, self.test = train, validation, test
        self.feed_forward = feed_forward
        self.epochs, self.lr, self.dropout, self.patience = epochs, lr, dropout, patience
        most = max(n for _, n, _ in BASED_TRAIN) if mix == "based" else (pairs or 1)
        require(
            most < vocab // 2, f"vocab={vocab} has {vocab // 2 - 1} keys, too few for {most} pairs in a row"
        )

    def check(self, data_dir: Path | None) -> str:
        """Nothing is read."""
        return ""

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:
        """A length must hold the pairs and their queries or be one of the mixture's, with enough rows."""
        possible = [_possible(self.vocab, length, pairs) for length, pairs, _ in self._shapes(seq_len)]
        if not self.fillers and min(possible) <= _PLENTY * self.train:
            self.data(seq_len, 0, data_dir)  # raises where a test cannot avoid the rows of training

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Rows of ``seq_len`` tokens, or the mixture's up to it, drawn with ``seed``."""
        shapes = self._shapes(seq_len)
        shares = np.cumsum([share for *_, share in shapes])
        sizes = np.diff(self.train * shares // shares[-1], prepend=0).tolist()
        train = Recall(
            blocks=tuple(
                self._draw(length, pairs, rows, (seed, _PARTS["train"], i))
                for i, ((length, pairs, _), rows) in enumerate(zip(shapes, sizes, strict=True))
            )
        )
        tested = [shape for shape in BASED_TEST if shape[0] <= seq_len]
        if self.mix == "single":
            tested = [(length, pairs) for length, pairs, _ in shapes]
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
            priors=priors(train, test),
            facts={"test_rows": len(test), **({"pairs": shapes[0][1]} if self.mix == "single" else {})},
        )

    def _shapes(self, seq_len: int) -> list[tuple[int, int, int]]:
        """(length, pairs, share) of the training rows."""
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

    def _draw(
        self, length: int, pairs: int, rows: int, seed: Sequence[int], train: Recall | None = None
    ) -> Block:
        """Rows of one shape, none of which is among ``train``."""
        rng = np.random.default_rng(seed)
        seen = [] if train is None else [b for b in train.blocks if b.tokens.shape[1] == length]
        hashes = [_hashes(block) for block in seen]
        kept: list[Block] = []
        missing = rows
        for redraw in range(_REDRAWS):
            number = max(missing, _AT_LEAST) if redraw else rows
            block = generate(number, length, pairs, self.vocab, self.alpha, self.fillers, rng)
            if hashes:
                block = block.take(np.flatnonzero(~np.isin(_hashes(block), np.concatenate(hashes))))
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

    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """An encoder that names a token of the vocabulary at each query."""
        from effbench.measured.models.tagger import Tagger

        return Tagger(
            make_mechanism,
            vocab_size=splits.vocab_size,
            max_len=seq_len,
            d_model=d_model,
            layers=layers,
            ffn_width=None if self.feed_forward else 0,
            dropout=self.dropout,
        )

    def batch(self, part: Recall, rows: Integers) -> Batch:  # type: ignore[override]
        """``tokens``, ``mask`` and ``labels`` [B, N]; a label is a value at a query, UNLABELLED elsewhere."""
        import torch

        shape = (len(rows), max(1, int(part.lengths[rows].max(initial=0))))
        tokens = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, UNLABELLED, dtype=np.int64)
        mask = np.zeros(shape, dtype=bool)
        first = 0
        for block in part.blocks:
            here = np.flatnonzero((rows >= first) & (rows < first + len(block.tokens)))
            taken = block.take(rows[here] - first)
            length = block.tokens.shape[1]
            tokens[here, :length] = taken.tokens
            mask[here, :length] = True
            labels[here[:, None], taken.positions] = taken.values
            first += len(block.tokens)
        return {
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
        }

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Arbitrary tokens, with as many labels in a row as a row of training has at most."""
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

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy in nats, the mean over all queries."""
        from torch.nn.functional import cross_entropy

        at = batch["labels"] != UNLABELLED
        return cross_entropy(model(batch["tokens"], batch["mask"], at), batch["labels"][at])

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """``accuracy`` over all queries, ``correct`` of ``examples``; and of a mixture, each part's own."""
        found: dict[tuple[int, int], list[int]] = {}
        for batch in batches:
            at = batch["labels"] != UNLABELLED
            right = model(batch["tokens"], batch["mask"], at).argmax(dim=-1) == batch["labels"][at]
            rows = at.nonzero()[:, 0][right].bincount(minlength=len(at))
            lengths, pairs = batch["mask"].sum(dim=1), at.sum(dim=1)
            for length, n, correct in zip(lengths.tolist(), pairs.tolist(), rows.tolist(), strict=True):
                sums = found.setdefault((length, n), [0, 0])
                sums[0] += correct
                sums[1] += n
        correct, queries = (sum(sums[i] for sums in found.values()) for i in (0, 1))
        scores: dict[str, float] = {"accuracy": correct / queries, "correct": correct, "examples": queries}
        if self.mix != "single":
            scores |= {f"accuracy_{length}_{n}": r / q for (length, n), (r, q) in sorted(found.items())}
        return scores

    def recipe(self) -> Recipe:
        """AdamW with the options of this task; the rest is the recipe's own."""
        from effbench.measured.models.training import Recipe

        return Recipe(epochs=self.epochs, lr=self.lr, patience=self.patience)


def _possible(vocab: int, length: int, pairs: int) -> int:
    """How many different rows without fillers there are: keys, values and slots, each in order."""
    half, slots = vocab // 2, (length - 2 * pairs) // 2
    return math.perm(half - 1, pairs) * math.perm(half, pairs) * math.perm(slots, pairs)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of one shape: ``tokens`` [n, length], and ``slots`` [n, pairs], the 0-based slot of each key."""

    tokens: Unsigned
    slots: Unsigned

    @property
    def positions(self) -> IntArray:
        """Where each pair's query stands, [n, pairs]."""
        found: IntArray = 2 * self.slots.shape[1] + 2 * self.slots.astype(np.int64)
        return found

    @property
    def values(self) -> IntArray:
        """Each pair's value, [n, pairs]."""
        return self.tokens[:, 1 : 2 * self.slots.shape[1] : 2].astype(np.int64)

    def take(self, rows: Integers) -> Block:
        """The given rows in the given order."""
        return Block(tokens=self.tokens[rows], slots=self.slots[rows])


@dataclass(frozen=True, kw_only=True)
class Recall:
    """A part of the data: its rows are those of the blocks, one block after the other."""

    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return sum(len(block.tokens) for block in self.blocks)

    @property
    def lengths(self) -> Integers:
        """Tokens in each row, [n]."""
        return np.concatenate([np.full(len(b.tokens), b.tokens.shape[1]) for b in self.blocks])


def generate(
    rows: int, length: int, pairs: int, vocab: int, alpha: float, fillers: bool, rng: np.random.Generator
) -> Block:
    """Rows of MQAR as :class:`MQAR` describes them."""
    half = vocab // 2
    kind = np.uint16 if max(vocab, length) <= 1 << 16 else np.uint32
    tokens: Unsigned = np.zeros((rows, length), dtype=kind)
    if fillers:
        tokens = rng.integers(vocab, size=(rows, length), dtype=kind)
    tokens[:, 0 : 2 * pairs : 2] = 1 + distinct(rows, pairs, half - 1, rng)
    tokens[:, 1 : 2 * pairs : 2] = half + distinct(rows, pairs, half, rng)
    weights = np.arange(1, (length - 2 * pairs) // 2 + 1, dtype=np.float64) ** (alpha - 1.0)
    slots = weighted(rows, pairs, weights, rng)
    where = np.arange(rows)[:, None]
    tokens[where, 2 * pairs + 2 * slots] = tokens[:, 0 : 2 * pairs : 2]
    return Block(tokens=tokens, slots=slots.astype(kind))


def distinct(rows: int, n: int, below: int, rng: np.random.Generator) -> IntArray:
    """[rows, n]: in each row n different numbers of 0 ... below - 1, all orders alike.

    Floyd's sampling (Bentley and Floyd 1987), a step for all rows at once: it needs no permutation of all
    numbers, and no more draws where n is nearly ``below``.
    """
    chosen = np.full((rows, n), -1, dtype=np.int64)
    for i in range(n):
        last = below - n + i
        drawn = rng.integers(last + 1, size=rows)
        chosen[:, i] = np.where((chosen[:, :i] == drawn[:, None]).any(axis=1), last, drawn)
    return rng.permuted(chosen, axis=1)


def weighted(rows: int, n: int, weights: NDArray[np.floating[Any]], rng: np.random.Generator) -> IntArray:
    """[rows, n]: n different places in each row, one after the other in proportion to their weights.

    An exponential race: the first n of waiting times with these rates are a draw without replacement.
    """
    chosen = np.empty((rows, n), dtype=np.int64)
    step = max(1, _CHUNK // len(weights))
    for start in range(0, rows, step):
        times = rng.standard_exponential((min(step, rows - start), len(weights))) / weights
        first = np.argpartition(times, n - 1, axis=1)[:, :n]
        order = np.take_along_axis(times, first, axis=1).argsort(axis=1)
        chosen[start : start + step] = np.take_along_axis(first, order, axis=1)
    return chosen


def priors(train: Recall, test: Recall) -> dict[str, float]:
    """Accuracies on the test queries of answers that take no recall.

    ``majority`` is training's commonest value, ``a value of the row`` the expectation of a blind choice among
    the row's values, ``slot`` the value of the pair that most often has the query's slot in training rows
    of that shape (the first pair where training has no such shape or slot).
    """
    answers = np.concatenate([block.values.ravel() for block in train.blocks])
    common = int(np.bincount(answers).argmax())
    queries = sum(block.slots.size for block in test.blocks)
    by_slot = {block.tokens.shape[1:] + block.slots.shape[1:]: _pair_of_slot(block) for block in train.blocks}
    slot_hits = 0
    for block in test.blocks:
        n = block.slots.shape[1]
        blind = np.zeros((block.tokens.shape[1] - 2 * n) // 2, dtype=np.int64)
        guess = by_slot.get((block.tokens.shape[1], n), blind)
        slot_hits += int((guess[block.slots] == np.arange(n)).sum())
    return {
        "majority": sum(int((block.values == common).sum()) for block in test.blocks) / queries,
        "a value of the row": len(test) / queries,
        "slot": slot_hits / queries,
    }


def _pair_of_slot(block: Block) -> IntArray:
    """For each slot, the pair whose query stands there most often."""
    n = block.slots.shape[1]
    slots = (block.tokens.shape[1] - 2 * n) // 2
    counts = np.zeros((slots, n), dtype=np.int64)
    np.add.at(counts, (block.slots, np.arange(n)), 1)
    likeliest: IntArray = counts.argmax(axis=1)
    return likeliest


def _hashes(block: Block) -> NDArray[np.uint64]:
    """A number for each row, the same for equal rows and, but for one pair in 2^63, for no others."""
    columns = block.tokens.shape[1]
    weights = np.empty(columns, dtype=np.uint64)
    weights[:] = np.random.default_rng(0).integers(1 << 63, size=columns)
    weights = 2 * weights + 1
    hashes = np.zeros(len(block.tokens), dtype=np.uint64)
    for column in range(columns):
        hashes += block.tokens[:, column] * weights[column]  # modulo 2^64
    return hashes
