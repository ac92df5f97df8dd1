"""Articles and summaries as read for training: token rows of every part, and the texts that are scored."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.common.files import size
from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.measured.data import byte_pairs
from effbench.measured.data.byte_pairs import BytePairs
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Integers, joined_rows
from effbench.measured.data.reading import FILE_BYTES, unchanged
from effbench.measured.data.source_targets import SourceTargets
from effbench.measured.data.summary_files import PARTS, Pair, SummaryFiles, find

VERSION = 1  # of the readers: raise it when their output changes
LEAST = 2  # pairs of a part

_TENTHS = {"validation": 8, "test": 9}  # of ten training rows, where a part has no file
_TOGETHER = 64  # texts that are encoded at a time
_FACTS = (
    "empty_articles",
    "empty_summaries",
    "validation_articles_in_train",
    "test_articles_in_train",
    "training_article_words",
    "training_summary_words",
)


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The articles and reference summaries of a part as text; ``digest`` is of both."""

    articles: Sequence[str]
    summaries: Sequence[str]
    digest: str

    def __len__(self) -> int:
        return len(self.summaries)

    def take(self, rows: Integers) -> Documents:
        """Return the given documents in the given order."""
        digest = hashlib.sha256(f"{self.digest} {rows.tolist()}".encode()).hexdigest()[:16]
        return Documents(
            articles=[self.articles[row] for row in rows],
            summaries=[self.summaries[row] for row in rows],
            digest=digest,
        )


@dataclass(frozen=True, kw_only=True)
class Summaries:
    """Articles (sources) and summaries (targets) of each part as token rows, uncut.

    ``documents`` are the texts of validation and test, in the order of their rows. ``facts`` are counts of
    empty articles and summaries, which are left out, and of articles of a part that occur in training too,
    which are kept; ``training_article_words`` and ``training_summary_words`` are mean words, rounded.
    """

    parts: Mapping[str, SourceTargets]
    documents: Mapping[str, Documents]
    byte_pairs: BytePairs
    facts: Mapping[str, int]

    @property
    def vocab_size(self) -> int:
        """Token ids, with padding, BEGIN and END."""
        return self.byte_pairs.size


def read_summaries(
    folder: Path, vocabulary: int = 8000, article: str = "", summary: str = ""
) -> tuple[Summaries, str]:
    """Return (what the files in the folder hold, digest of the files).

    ``summary_files.find`` says which files are read. Byte pairs with at most ``vocabulary`` ids are trained
    on the articles and summaries of the training part. Where there is no file of validation or test, every
    tenth pair of the training file is that part's. Raises UsageError that names the file and the row of what
    is wrong, and for a part of fewer than two pairs; ValueError for a vocabulary that is not possible.
    """
    files = find(folder, article, summary)
    digest = files.digest()
    key = {"version": VERSION, "bpe": byte_pairs.VERSION, "digest": digest, "vocabulary": vocabulary}
    again = unchanged(digest, lambda: find(folder, article, summary).digest(), folder)
    return _summaries(cached("summaries", key, lambda: _read(files, vocabulary), again)), digest


def _read(files: SummaryFiles, vocabulary: int) -> Arrays:
    """Read the files twice, so that not all texts of training are in the memory at once."""
    reading = _FirstReading(files)
    pairs = byte_pairs.trained(reading.training_texts(), vocabulary)
    reading.check_sizes()
    arrays = {
        "byte_pairs": np.frombuffer(pairs.written.encode(), dtype=np.uint8),
        **{name: np.array(value) for name, value in reading.facts().items()},
        **_tokens("train", (pair for part, pair in _kept(files) if part == "train"), pairs),
    }
    for part, kept in reading.texts.items():
        arrays |= _tokens(part, kept, pairs)
        for name in ("articles", "summaries"):
            rows = [(pair.article if name == "articles" else pair.summary).encode() for pair in kept]
            arrays[f"{part}_{name}"], arrays[f"{part}_{name}_starts"] = joined_rows(rows)
    return arrays


class _FirstReading:
    """All pairs once: texts to train byte pairs on, the texts of the other parts, and counts."""

    def __init__(self, files: SummaryFiles) -> None:
        self._files = files
        self._empty = {"empty_articles": 0, "empty_summaries": 0}
        self._hashes: dict[str, list[bytes]] = {part: [] for part in PARTS}
        self._words = [0, 0]
        self.texts: dict[str, list[Pair]] = {part: [] for part in PARTS if part != "train"}

    def training_texts(self) -> Iterator[str]:
        """Yield the articles and summaries for training; the rest is counted and kept meanwhile."""
        held = 0
        for part, pair in _kept(self._files, self._empty):
            self._hashes[part].append(hashlib.blake2b(pair.article.encode(), digest_size=8).digest())
            if part != "train":
                held += len(pair.article) + len(pair.summary)
                if held > FILE_BYTES:
                    raise UsageError(
                        f"{pair.where}: the texts of validation and test have more than {size(FILE_BYTES)}"
                    )
                self.texts[part].append(pair)
                continue
            for side, text in enumerate(pair[:2]):
                self._words[side] += len(text.split())
                yield text

    def check_sizes(self) -> None:
        """Raise UsageError for a part with too few pairs."""
        for part, hashes in self._hashes.items():
            if len(hashes) < LEAST:
                drawn = part not in self._files.parts
                where = self._files.where("train" if drawn else part)
                empty = sum(self._empty.values())
                raise UsageError(
                    f"{where}: the {part} part{' drawn from it' if drawn else ''} has "
                    f"{plural(len(hashes), 'article')} with a summary, not at least {LEAST}"
                    f"{f' ({empty} rows of all parts have an empty text)' if empty else ''}"
                )

    def facts(self) -> dict[str, int]:
        """Return the counts that stand beside a score."""
        train = set(self._hashes["train"])
        return {
            **self._empty,
            **{
                f"{part}_articles_in_train": sum(each in train for each in self._hashes[part])
                for part in self.texts
            },
            "training_article_words": round(self._words[0] / len(self._hashes["train"])),
            "training_summary_words": round(self._words[1] / len(self._hashes["train"])),
        }


def _kept(files: SummaryFiles, empty: dict[str, int] | None = None) -> Iterator[tuple[str, Pair]]:
    """Yield (part, pair) of every pair that has both texts; ``empty`` counts the others."""
    drawn = {tenth: part for part, tenth in _TENTHS.items() if part not in files.parts}
    for part in files.parts:
        row = 0
        for pair in files.read(part):
            if not pair.article or not pair.summary:
                if empty is not None:
                    empty["empty_summaries" if pair.article else "empty_articles"] += 1
                continue
            yield drawn.get(row % 10, part) if part == "train" else part, pair
            row += 1


def _tokens(part: str, pairs: Iterable[Pair], made: BytePairs) -> Arrays:
    """Return the token rows of a part as arrays of 16 bits."""
    tokens = array("H"), array("H")
    lengths = array("q"), array("q")
    waiting: tuple[list[str], list[str]] = ([], [])

    def encode() -> None:
        for side in (0, 1):
            for ids in made.encode(waiting[side]):
                tokens[side].extend(ids)
                lengths[side].append(len(ids))
            waiting[side].clear()

    for pair in pairs:
        for texts, text in zip(waiting, pair[:2], strict=True):
            texts.append(text)
        if len(waiting[0]) == _TOGETHER:
            encode()
    encode()
    arrays: Arrays = {}
    for side, name in enumerate(("source", "target")):
        arrays[f"{part}_{name}s"] = np.array(tokens[side], dtype=np.uint16)
        starts = np.concatenate(([0], np.cumsum(lengths[side], dtype=np.int64)))
        arrays[f"{part}_{name}_starts"] = starts
    return arrays


def _summaries(arrays: Arrays) -> Summaries:
    names = ("sources", "source_starts", "targets", "target_starts")
    return Summaries(
        parts={part: SourceTargets(**{name: arrays[f"{part}_{name}"] for name in names}) for part in PARTS},
        documents={part: _documents(arrays, part) for part in _TENTHS},
        byte_pairs=BytePairs(arrays["byte_pairs"].tobytes().decode()),
        facts={name: int(arrays[name]) for name in _FACTS},
    )


def _documents(arrays: Arrays, part: str) -> Documents:
    sides = [
        _split(arrays[f"{part}_{name}"], arrays[f"{part}_{name}_starts"])
        for name in ("articles", "summaries")
    ]
    digest = hashlib.sha256()
    for texts in sides:
        for text in texts:
            digest.update(hashlib.sha256(text).digest())
    articles, summaries = ([text.decode() for text in texts] for texts in sides)
    return Documents(articles=articles, summaries=summaries, digest=digest.hexdigest()[:16])


def _split(joined: NDArray[Any], starts: Integers) -> list[bytes]:
    whole = joined.tobytes()
    bounds = starts.tolist()
    return [whole[begin:end] for begin, end in itertools.pairwise(bounds)]
