"""Texts as word numbers: the tokeniser, the corpus that it makes, and vocabularies."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.cache import Arrays
from effbench.measured.data.examples import Examples, Integers
from effbench.measured.data.reading import FILE_BYTES
from effbench.measured.data.text_sets import TextSet

VERSION = 1  # of the readers and the tokeniser: raise it when their output changes
UNKNOWN = 1  # token id; 0 is padding

_WORD = r"\w+(?:'\w+)*|[!?]"
_BREAK = r"<br\s*/?>"
_MIN_COUNT = 2  # a word that training has once is unknown too, which trains the unknown token


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All texts of a text set as word numbers, in its order; rows are numbered through its parts.

    ``labels`` [n] are numbers of ``names``, the sorted names of the classes; ``numbers`` [n] are the text
    set's own; ``hashes`` [n] are 64-bit hashes of the texts; ``lexicon`` is the word of each word number.
    """

    texts: TextSet
    examples: Examples
    numbers: Integers
    hashes: Integers
    ends: Integers
    names: list[str]
    lexicon: list[str]

    @classmethod
    def of(cls, texts: TextSet, arrays: Arrays) -> Corpus:
        """Return the corpus that ``tokenise`` made of the texts."""
        return cls(
            texts=texts,
            examples=Examples(tokens=arrays["words"], starts=arrays["starts"], labels=arrays["labels"]),
            numbers=arrays["numbers"],
            hashes=arrays["texts"],
            ends=arrays["ends"],
            names=unpacked(arrays["names"]),
            lexicon=unpacked(arrays["lexicon"]),
        )

    def where(self, row: int) -> str:
        """Return the place of a row in its text set, for an error."""
        part = int(np.searchsorted(self.ends, row, side="right"))
        return self.texts.where(self.texts.parts[part], row - int(([0, *self.ends])[part]))

    def written(self, rows: Integers) -> list[str]:
        """Return the words of the rows, uncut, with a space between two."""
        return [
            " ".join([self.lexicon[word] for word in self.examples.row(i).tolist()]) for i in rows.tolist()
        ]

    def share_a_word(self, rows: Integers) -> bool:
        """True if some word stands in two of the rows."""
        seen: set[int] = set()
        for row in rows.tolist():
            words = set(self.examples.row(row).tolist())
            if not seen.isdisjoint(words):
                return True
            seen |= words
        return False


def vocabulary(tokens: Integers, lexicon_size: int, limit: int) -> Integers:
    """Return token ids of the lexicon's words [lexicon_size]: unknown but for the ``limit`` commonest."""
    return vocabulary_of(np.bincount(tokens, minlength=lexicon_size), limit)


def vocabulary_of(counts: Integers, limit: int) -> Integers:
    """Return token ids of words by their counts [lexicon_size], as ``vocabulary`` does."""
    common = np.argsort(-counts, kind="stable")[:limit]
    common = common[counts[common] >= _MIN_COUNT]
    ids = np.full(len(counts), UNKNOWN, dtype=np.int32)
    ids[common] = UNKNOWN + 1 + np.arange(len(common), dtype=np.int32)
    return ids


def splitter() -> Callable[[str], list[str]]:
    """Return what makes the words of a text: lower case, without ``<br>``.

    It takes one text at a time: the threads of the library would not survive a fork.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(_BREAK), " ")])
    pattern = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    return lambda text: [word for word, _ in pattern.pre_tokenize_str(normalizer.normalize_str(text))]


def tokenise(texts: TextSet, names: Sequence[str]) -> Arrays:
    """Return the arrays of a corpus. Raises UsageError that names the file and line of a wrong text."""
    words_of = splitter()
    lexicon: dict[str, int] = {}
    # arrays, since a packed file may hold millions of short texts
    words, lengths, labels, numbers = array("i"), array("q"), array("q"), array("q")
    hashes = bytearray()
    ends: list[int] = []
    numbered: dict[str, int] = {}
    allowed = set(names)
    held = 0
    for part in texts.parts:
        for row, (text, label, number) in enumerate(texts.read(part)):
            if (names or ends) and label not in allowed:
                raise UsageError(
                    f"{texts.where(part, row)}: the class is {shown(label)}, not one of "
                    f"{some(sorted(allowed))}"
                )
            allowed.add(label)
            held += len(text)
            if held > FILE_BYTES:
                raise UsageError(f"{texts.where(part, row)}: the texts up to here have more than 1 GiB")
            split = words_of(text)
            words.extend([lexicon.setdefault(word, len(lexicon)) for word in split])
            lengths.append(len(split))
            labels.append(numbered.setdefault(label, len(numbered)))
            numbers.append(number)
            hashes += hashlib.blake2b(text.encode(), digest_size=8).digest()
        if len(labels) == (ends[-1] if ends else 0):
            raise UsageError(f"{texts.where(part, 0)}: the {part} part is empty")
        ends.append(len(labels))
    classes = list(names) or sorted(allowed)
    place = np.array([classes.index(name) for name in numbered])
    return {
        "words": np.array(words, dtype=np.int32),
        "starts": np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
        "labels": place[np.array(labels)],
        "numbers": np.array(numbers),
        "texts": np.frombuffer(bytes(hashes), dtype=np.int64),
        "ends": np.array(ends),
        "names": packed(classes),
        "lexicon": packed(list(lexicon)),
    }


def packed(words: Sequence[str]) -> NDArray[np.uint8]:
    """Return words without zero characters as one array."""
    return np.frombuffer("\0".join(words).encode(), dtype=np.uint8)


def unpacked(joined: NDArray[np.uint8]) -> list[str]:
    """Return the words of ``packed``; nothing gives one empty word."""
    return joined.tobytes().decode().split("\0")


def some(names: Sequence[str]) -> str:
    """Return the first 25 names, and how many more there are."""
    return ", ".join(names[:25]) + (f" and {len(names) - 25} more" if len(names) > 25 else "")
