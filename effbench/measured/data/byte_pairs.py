"""Texts as byte pairs: a byte-level BPE that is trained here, its token ids, and the text of ids."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

from effbench.measured.data.source_targets import SPECIAL

SMALLEST = SPECIAL + 256  # ids of a vocabulary without any pair
LARGEST = 2**16  # ids fit into 16 bits
VERSION = 1  # of the training and the ids: raise it when they change

_THREADS = "TOKENIZERS_PARALLELISM"
_LEAST = 2  # occurrences of a pair that gets an id


class BytePairs:
    """A byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): any text has ids, and ids have a text.

    ``written`` is the tokenizer in the JSON of the ``tokenizers`` library, whose ids begin at 0. Here they
    begin at SPECIAL; below are padding, BEGIN and END, which no text contains. Upper and lower case, blanks
    and line ends are kept: ``decode(encode([text])[0]) == text``.
    """

    def __init__(self, written: str) -> None:
        from tokenizers import Tokenizer

        self.written = written
        self._tokenizer = Tokenizer.from_str(written)

    @cached_property
    def size(self) -> int:
        """Token ids, the special ones included: fewer than asked for where the texts had fewer pairs."""
        return SPECIAL + int(self._tokenizer.get_vocab_size())

    def pieces(self) -> dict[int, str]:
        """Return the piece of each id but the special ones; each of its characters stands for one byte."""
        return {SPECIAL + token: piece for piece, token in self._tokenizer.get_vocab().items()}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        with _one_thread():
            found = self._tokenizer.encode_batch_fast(list(texts))
        return [[SPECIAL + token for token in each.ids] for each in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, special ones left out; bytes that are not UTF-8 become U+FFFD."""
        kept = [int(token) - SPECIAL for token in ids if token >= SPECIAL]
        return str(self._tokenizer.decode(kept))


def trained(texts: Iterable[str], size: int) -> BytePairs:
    """Return byte pairs with at most ``size`` ids, trained on the texts: the same for the same texts.

    A pair that occurs only once gets no id. Raises ValueError for a size below 259 or above 65,536.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"vocabulary must be {SMALLEST} to {LARGEST:,}, got {size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - SPECIAL,
        min_frequency=_LEAST,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with _one_thread():
        tokenizer.train_from_iterator(texts, trainer)
    return BytePairs(tokenizer.to_str())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let the library start no threads, which would not survive a fork."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before
