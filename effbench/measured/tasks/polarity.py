"""Pang and Lee's polarity data: whole movie reviews, positive or negative, from a zip or folders of files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effbench.common.files import entries, is_dir, size, why
from effbench.common.spec import UsageError
from effbench.measured.data.corpus import Corpus
from effbench.measured.data.reading import FILE_BYTES, LINE_BYTES, decoded, digest_of, folder_of
from effbench.measured.data.text_sets import WHOLE, Text, TextFile, TextSet, text_files
from effbench.measured.tasks.base import require
from effbench.measured.tasks.text import TextClassification

POLARITIES = ("neg", "pos")
TEST_FOLDS = (8, 9)  # cv800 to cv999
LOCATION = "https://www.cs.cornell.edu/people/pabo/movie-review-data/review_polarity.tar.gz"

_MEMBER = re.compile(r"(?:.*/)?(neg|pos)/(cv[0-9]{3}_[^/]*\.txt)")


class Polarity(TextClassification):
    """Sentiment of whole movie reviews (Pang and Lee's polarity data 2.0), 2 polarities, 2,000 reviews.

    Reads from the data folder, or its folder ``polarity``, ``movie_reviews_polarity2`` or
    ``review_polarity``, the files ``{pos,neg}/cvNNN_*.txt``: as the raw ``txt_sentoken/``, as
    ``movie_reviews/``, or inside one ``*.zip`` such as NLTK's movie_reviews.zip. Nothing is dropped. A data
    folder is needed: the files are at www.cs.cornell.edu/people/pabo/movie-review-data.

    There is no official split. cv800 to cv999 of both polarities are the test part, or with ``fold`` 0 to 9
    the hundred of that number (cv000 to cv099 is fold 0), as in ten-fold cross-validation. ``test`` of these
    reviews are scored (0: all). The others are divided, stratified by class, into ``validation`` reviews and
    ``train`` ones (0: all others). Words, ``vocabulary`` and ``vectors`` are as in ``imdb``.
    """

    source = "Pang and Lee 2004, A Sentimental Education (ACL)"
    name = "polarity"
    unit = "reviews"
    names = POLARITIES

    fold: int | None = None
    validation: int = 200
    test: int = 0
    epochs: int = 20
    patience: int = 10

    def check_options(self) -> None:
        """Refuse folds that are not 0 to 9."""
        super().check_options()
        require(self.fold is None or 0 <= self.fold <= 9, f"fold must be none or 0 to 9, got {self.fold}")

    def texts_in(self, data_dir: Path | None) -> TextSet:
        """Return the reviews, with NNN of cvNNN as number."""
        folder = folder_of(data_dir, "polarity", "movie_reviews_polarity2", "review_polarity")
        if folder is None:
            raise UsageError(
                f"polarity needs its reviews: pass --data-dir DIR with txt_sentoken/ unpacked from "
                f"{LOCATION}, or NLTK's movie_reviews.zip"
            )
        reviews = _folders(folder) or _zip(folder)
        if reviews is None:
            raise UsageError(
                f"{folder}: there is neither txt_sentoken/ with pos/ and neg/ nor a .zip of them"
            )
        return reviews

    def held_out(self, corpus: Corpus) -> NDArray[np.bool_]:
        """Return a mask of the reviews from cv800 on, or of the fold."""
        hundreds = corpus.numbers // 100
        return np.isin(hundreds, TEST_FOLDS if self.fold is None else self.fold)


def _number(name: str, where: str) -> int:
    match = re.match(r"cv([0-9]{3})_", name)
    if match is None:
        raise UsageError(f"{where}: its name is not cvNNN_*.txt")
    return int(match[1])


def _folders(folder: Path) -> TextSet | None:
    inside = ("", "txt_sentoken", "review_polarity/txt_sentoken", "movie_reviews")
    root = next((folder / name for name in inside if is_dir(folder / name / "pos")), None)
    if root is None:
        return None
    files: list[TextFile] = []
    for label in POLARITIES:
        if not is_dir(root / label):
            raise UsageError(f"{root / label}: there is no such folder")
        paths = [path for path in entries(root / label) if path.suffix == ".txt"]
        if not paths:
            raise UsageError(f"{root / label}: there is no cvNNN_*.txt")
        files += [TextFile(path=path, label=label, number=_number(path.name, str(path))) for path in paths]
    return text_files(root, {WHOLE[0]: files})


def _zip(folder: Path) -> TextSet | None:
    paths = [path for path in entries(folder) if path.suffix == ".zip"]
    if not paths:
        return None
    if len(paths) > 1:
        raise UsageError(
            f"{folder}: there are {len(paths)} .zip files, not one: {', '.join(p.name for p in paths)}"
        )
    path = paths[0]
    digest = digest_of([path])
    with _opened(path) as archive:
        reviews = {info.filename: info for info in archive.infolist() if _MEMBER.fullmatch(info.filename)}
    # Sorted as the folders are, so that both make the same data.
    members = sorted(((*_of_member(name), info) for name, info in reviews.items()), key=lambda m: m[:2])
    for label in POLARITIES:
        if not any(of == label for of, *_ in members):
            raise UsageError(f"{path}: there is no {label}/cvNNN_*.txt in it")
    _refuse_large(path, [info for *_, info in members])

    def read(part: str) -> Iterator[Text]:
        with _opened(path) as archive:
            for label, file, info in members:
                where = f"{path}:{info.filename}"
                try:
                    with archive.open(info) as member:
                        content = member.read(info.file_size + 1)
                except Exception as error:  # a damaged archive raises nearly anything
                    raise UsageError(f"{where}: cannot be unpacked: {why(error)}") from None
                yield Text(decoded(content, where), label, _number(file, where))

    return TextSet(
        digest=digest, parts=WHOLE, read=read, where=lambda part, row: f"{path}:{members[row][2].filename}"
    )


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # a damaged archive raises nearly anything
        raise UsageError(f"{path}: cannot be unpacked: {why(error)}") from None


def _of_member(name: str) -> tuple[str, str]:
    """Return (label, file name) of a review in the archive."""
    match = _MEMBER.fullmatch(name)
    assert match is not None
    return match[1], match[2]


def _refuse_large(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise UsageError where unpacking would take too much memory, or a method that cannot be bounded."""
    total = 0
    for info in members:
        total += info.file_size
        if info.file_size > LINE_BYTES or total > FILE_BYTES:
            most = size(LINE_BYTES if info.file_size > LINE_BYTES else FILE_BYTES)
            raise UsageError(f"{path}:{info.filename}: the reviews up to here have more than {most}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UsageError(f"{path}:{info.filename}: packed by method {info.compress_type}, not deflate")
