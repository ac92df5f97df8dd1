"""Texts as rows of byte pairs for language modelling: parts by document, packed rows, masking, bytes."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effbench.common.files import size
from effbench.common.spec import UsageError
from effbench.measured.data import byte_pairs
from effbench.measured.data.byte_pairs import BytePairs
from effbench.measured.data.cache import Arrays
from effbench.measured.data.examples import Integers
from effbench.measured.data.reading import FILE_BYTES
from effbench.measured.data.source_targets import BEGIN, END, SPECIAL

VERSION = 1  # of the parts and the rows: raise it when they change
PARTS = ("train", "validation", "test")
MASK = BEGIN  # what a model reads in the place of a masked token: no text contains this id

MASKED_SHARE = 0.15  # of the tokens of a row that are predicted (Devlin et al. 2019)
_REPLACED_SHARE = 0.8  # of these that are MASK in the input
_RANDOM_SHARE = 0.1  # of these that are a random token in the input; the rest stay as they are

_TOGETHER = 64  # texts that are encoded at a time


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Rows [n, N] of tokens without padding, cut one after the other from the documents of a part.

    END follows each document. Of an evaluated part of masked tokens, ``inputs`` [n, N] are the rows with
    masked tokens replaced, and ``chosen`` [n, N] is True for a token to predict; both are None for training,
    where each batch draws its own.
    """

    tokens: Integers
    inputs: Integers | None = None
    chosen: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> Integers:
        """Tokens of each row, [n]."""
        return np.full(len(self.tokens), self.tokens.shape[1])


def documents_of(texts: Iterable[str], where: str) -> tuple[list[str], int]:
    """Return (different texts in their order, blank ones left out; how many were left out as repeated).

    Raises UsageError where they have more than 1 GiB together.
    """
    seen: set[bytes] = set()
    kept: list[str] = []
    repeated = held = 0
    for text in texts:
        if not text.strip():
            continue
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in seen:
            repeated += 1
            continue
        seen.add(digest)
        held += len(text)
        if held > FILE_BYTES:
            raise UsageError(f"{where}: the texts have more than {size(FILE_BYTES)}")
        kept.append(text)
    return kept, repeated


def divided(count: int, sizes: Sequence[int], seed: int) -> dict[str, Integers]:
    """Return the documents of each part, drawn with ``seed``; 0 training documents are all that are left.

    Test and validation come first in the order that is drawn: they do not depend on the size of training.
    Raises ValueError where there are fewer than asked for.
    """
    train, validation, test = sizes
    if test + validation + max(train, 1) > count:
        raise ValueError(
            f"train={train}, validation={validation} and test={test} together exceed the {count} documents"
        )
    order = np.random.default_rng((seed, 0)).permutation(count)
    tests, validations, rest = np.split(order, [test, test + validation])
    return {"train": rest[: train or None], "validation": validations, "test": tests}


def encoded(documents: Sequence[str], parts: dict[str, Integers], vocabulary: int) -> Arrays:
    """Return byte pairs trained on the training part, and the tokens of each part with END after documents.

    Raises ValueError for a vocabulary that is not possible.
    """
    made = byte_pairs.trained((documents[i] for i in parts["train"].tolist()), vocabulary)
    arrays: Arrays = {"byte_pairs": np.frombuffer(made.written.encode(), dtype=np.uint8)}
    for part, rows in parts.items():
        tokens = array("H")
        for start in range(0, len(rows), _TOGETHER):
            for ids in made.encode([documents[i] for i in rows[start : start + _TOGETHER].tolist()]):
                tokens.extend(ids)
                tokens.append(END)
        arrays[part] = np.array(tokens, dtype=np.uint16)
    return arrays


def packed_rows(tokens: Integers, seq_len: int) -> Integers:
    """Return the tokens [n seq_len + rest] as rows [n, seq_len]; the rest, less than a row, is left out."""
    rows = len(tokens) // seq_len
    return tokens[: rows * seq_len].reshape(rows, seq_len)


def bytes_of_tokens(made: BytePairs) -> Integers:
    """Return the bytes of text that each token id stands for [size]; 0 for padding, BEGIN and END."""
    lengths = np.zeros(made.size, dtype=np.int64)
    for token, written in made.pieces().items():
        lengths[token] = len(written)  # each character of a byte-level piece is one byte
    return lengths


def masked(tokens: Integers, vocab_size: int, rng: np.random.Generator) -> tuple[Integers, NDArray[np.bool_]]:
    """Return (inputs [n, N], chosen [n, N]) of rows of tokens, masked as in BERT (Devlin et al. 2019).

    15 % of the tokens of each row are chosen, rounded and at least one; END never is. Of these 80 % become
    MASK, 10 % a random token of text, and 10 % stay.
    """
    real = tokens >= SPECIAL
    count = np.minimum(max(1, round(MASKED_SHARE * tokens.shape[1])), real.sum(axis=1))
    draw = np.where(real, rng.random(tokens.shape), 2.0)
    rank = draw.argsort(axis=1).argsort(axis=1)
    chosen = rank < count[:, None]
    fate = rng.random(tokens.shape)
    random = rng.integers(SPECIAL, vocab_size, tokens.shape)
    inputs = tokens.astype(np.int64)
    inputs = np.where(chosen & (fate < _REPLACED_SHARE), MASK, inputs)
    swapped = chosen & (fate >= _REPLACED_SHARE) & (fate < _REPLACED_SHARE + _RANDOM_SHARE)
    return np.where(swapped, random, inputs), chosen


def bits(nats: float, units: int) -> float:
    """Return so many nats as bits for each of ``units``, such as bytes."""
    return float(nats / np.log(2) / units)
