"""Texts without labels, for language modelling: the training parts of data sets that other tasks read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from effbench.common.spec import UsageError
from effbench.measured.data.reading import folder_of
from effbench.measured.data.summary_files import find, parts_in
from effbench.measured.tasks.imdb import IMDB
from effbench.measured.tasks.newsgroups import Newsgroups
from effbench.measured.tasks.text import TextClassification

SEPARATOR = "+"  # between the names of several data sets
_SUMPUBMED = "https://github.com/vgupta123/sumpubmed"


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts that can be read again and again, and a digest of the files that they come from."""

    read: Callable[[], Iterable[str]]
    digest: str


def unlabelled(names: str, data_dir: Path | None) -> Texts:
    """Return the texts of data sets, named as ``imdb+newsgroups``, in this order.

    Of a data set with a test part only the training part is read. Raises UsageError for files that are
    missing or wrong.
    """
    sources = [NAMES[name](data_dir) for name in names.split(SEPARATOR)]

    def read() -> Iterator[str]:
        for source in sources:
            yield from source.read()

    if len(sources) == 1:
        return sources[0]
    joined = hashlib.sha256(" ".join(source.digest for source in sources).encode()).hexdigest()[:16]
    return Texts(read=read, digest=joined)


def _labelled(kind: Callable[[], TextClassification]) -> Callable[[Path | None], Texts]:
    def texts(data_dir: Path | None) -> Texts:
        found = kind().texts_in(data_dir)
        return Texts(read=lambda: (row.text for row in found.read("train")), digest=found.digest)

    return texts


def _articles(data_dir: Path | None) -> Texts:
    """Return the articles of SumPubMed, without their summaries."""
    folder = folder_of(data_dir, "sumpubmed")
    if folder is None or (folder.name != "sumpubmed" and not parts_in(folder)):
        where = f"{folder}: there is no folder sumpubmed in it" if folder else "texts=sumpubmed needs files"
        raise UsageError(f"{where}: pass --data-dir DIR with sumpubmed/train.jsonl, from {_SUMPUBMED}")
    files = find(folder)
    return Texts(read=lambda: (pair.article for pair in files.read("train")), digest=files.digest())


NAMES: dict[str, Callable[[Path | None], Texts]] = {
    "imdb": _labelled(IMDB),
    "newsgroups": _labelled(Newsgroups),
    "sumpubmed": _articles,
}
