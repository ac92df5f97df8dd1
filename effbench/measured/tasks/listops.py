"""ListOps: nested list operations to evaluate, generated as in Long Range Arena or read from its files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from effbench.common.extent import Extent
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.baseline_scores import prior
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Examples, Integers, Splits
from effbench.measured.data.listops_trees import IDS, ROOTS, TOKENS, VERSION, Shape, evaluate, generate
from effbench.measured.data.reading import decoded, digest_of, folder_of, lines, unchanged
from effbench.measured.tasks.base import Classification, require

FILES = ("basic_train.tsv", "basic_val.tsv", "basic_test.tsv")
PARTS = ("train", "validation", "test")
# Folders inside a data folder that may hold the files, LRA's unpacked release among them.
FOLDERS = ("listops-1000", "lra_release/lra_release/listops-1000", "lra_samples/listops", "listops")

ORIGINS = ("auto", "generated", "files")

_TRIED = 1000  # trees drawn to see whether a shape has any


class ListOps(Classification):
    """Evaluate nested MIN, MAX, MEDIAN and SUM-modulo-10 of digits (Long Range Arena's ListOps), 10 classes.

    Trees come from LRA's sampler: an argument is an operator with probability 0.25 until ``max_depth``, an
    operator has 2 to ``max_args`` arguments, and a tree is kept when it has more than ``min_length`` and
    fewer than seq_len tokens, operators, digits and closing brackets counted. No tree occurs twice in
    ``train``, ``validation`` and ``test`` examples together.

    By default trees fill seq_len: ``min_length`` is three quarters of it, and ``max_depth`` the depth at
    which a tree of the sampler has seq_len tokens in the mean. Trees kept then have 0.87 of seq_len in the
    mean: 56 tokens at 64, 447 at 512, 1,750 at 2,000 and 3,550 at 4,096. LRA's own data is
    ``max_depth=10,max_args=10,min_length=500`` at 2,000: 1,050 tokens in the mean.

    With a data folder its ``basic_{train,val,test}.tsv`` (header Source, Target), or those in a folder
    listops-1000, listops or LRA's unpacked release in it, are read instead, and the generator's options are
    not used. ``data=generated`` generates trees also with a data folder.

    Compare scores with both baseline scores: at LRA's setting always answering the commonest class scores
    17.5 %, and knowing only the outermost operator scores 37.3 %.
    """

    source = "Nangia and Bowman 2018 (arXiv 1804.06028); Tay et al. 2021, Long Range Arena (arXiv 2011.04006)"

    max_depth: int | None = None
    max_args: int = 10
    min_length: int | None = None
    train: int = 96_000
    validation: int = 2_000
    test: int = 2_000
    data_: Literal["auto", "generated", "files"] = "auto"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Examples of the training, validation and test parts."""
        return self.train, self.validation, self.test

    def check_options(self) -> None:
        """Refuse shapes without a tree, and empty parts."""
        super().check_options()
        depth, least = self.max_depth, self.min_length
        require(depth is None or depth >= 2, f"max_depth must be at least 2, got {depth}")
        require(self.max_args >= 2, f"max_args must be at least 2, got {self.max_args}")
        require(least is None or least >= 1, f"min_length must be at least 1, got {least}")
        require(min(self.sizes) >= 1, "train, validation and test must each be at least 1")
        require(self.data_ in ORIGINS, f"data is {self.data_!r}, not auto, generated or files")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read and evaluate every row of LRA's files, if the task uses them."""
        folder = self._folder(data_dir)
        return "" if folder is None else _files(folder)[1]

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:
        """Refuse a length below the files' longest tree, or one that no tree can be drawn for."""
        folder = self._folder(data_dir)
        if folder is None:
            rows = generate(min(sum(self.sizes), _TRIED), self._shape(seq_len), np.random.default_rng(0))
            self._tried[seq_len] = rows.lengths
        else:
            self._from_files(folder, seq_len)

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the sizes, and the lengths of the files' rows or of trees that were drawn as a trial."""
        if (folder := self._folder(data_dir)) is not None:
            return self.extent_of(*(part.lengths for part in self._from_files(folder, seq_len)))
        if seq_len not in self._tried:
            self.check_length(seq_len, data_dir)
        return self.extent_of(*(np.resize(self._tried[seq_len], size) for size in self.sizes))

    @cached_property
    def _tried(self) -> dict[int, Integers]:
        """The lengths of some trees by seq_len."""
        return {}

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Draw the trees."""
        if self._folder(data_dir) is None:
            self._generated(seq_len, seed)

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return trees of fewer than ``seq_len`` tokens drawn with ``seed``, or the files' rows."""
        folder = self._folder(data_dir)
        if folder is not None:
            train, validation, test = self._from_files(folder, seq_len)
        else:
            train, validation, test = self._generated(seq_len, seed)
        return Splits(
            train=train,
            validation=validation,
            test=test,
            vocab_size=len(TOKENS),
            classes=10,
            priors={
                "majority": prior(train, test),
                "root operator": prior(train, test, lambda part: part.tokens[part.starts[:-1]]),
            },
        )

    def _folder(self, data_dir: Path | None) -> Path | None:
        if self.data_ == "files" and data_dir is None:
            raise UsageError("listops:data=files needs --data-dir DIR, with " + ", ".join(FILES))
        return None if self.data_ == "generated" else folder_of(data_dir, *FOLDERS)

    def _from_files(self, folder: Path, seq_len: int) -> list[Examples]:
        arrays, _ = _files(folder)
        parts = [_part(arrays, name) for name in PARTS]
        for name, part in zip(FILES, parts, strict=True):
            longest = int(part.lengths.argmax())
            if part.lengths[longest] > seq_len:
                raise UsageError(
                    f"{folder / name}:{longest + 2}: {part.lengths[longest]} tokens, and a tree cannot be "
                    f"cut: seq_len {seq_len} must be at least that"
                )
        return parts

    def _shape(self, seq_len: int) -> Shape:
        return Shape.of(seq_len, self.max_depth, self.max_args, self.min_length)

    def _generated(self, seq_len: int, seed: int) -> list[Examples]:
        shape = self._shape(seq_len)
        key = {"version": VERSION, "roots": ROOTS, "seed": seed, "sizes": self.sizes, **vars(shape)}

        def make() -> Arrays:
            rows = generate(sum(self.sizes), shape, np.random.default_rng(seed))
            return {"tokens": rows.tokens, "starts": rows.starts, "labels": rows.labels}

        arrays = cached("listops", key, make)
        rows = Examples(tokens=arrays["tokens"], starts=arrays["starts"], labels=arrays["labels"])
        ends = np.cumsum(self.sizes)
        return [
            rows.take(np.arange(end - size, end)) for end, size in zip(ends.tolist(), self.sizes, strict=True)
        ]


# LRA's files.


def _files(folder: Path) -> tuple[Arrays, str]:
    """Return (arrays of all three parts, fingerprint); rows of new files are parsed and evaluated."""
    paths = [folder / name for name in FILES]
    try:
        fingerprint = digest_of(paths)
    except UsageError as error:
        raise UsageError(
            f"{error}; listops reads {', '.join(FILES)} there (listops:data=generated needs no files)"
        ) from None

    def make() -> Arrays:
        arrays: Arrays = {}
        for part, path in zip(PARTS, paths, strict=True):
            rows = list(_rows(path))
            if not rows:
                raise UsageError(f"{path}:2: there is no row below the header")
            arrays[f"{part}_tokens"] = np.concatenate([tokens for tokens, _ in rows])
            arrays[f"{part}_starts"] = np.concatenate(([0], np.cumsum([len(tokens) for tokens, _ in rows])))
            arrays[f"{part}_labels"] = np.array([target for _, target in rows])
        return arrays

    again = unchanged(fingerprint, lambda: digest_of(paths), folder)
    return cached("listops-files", {"version": VERSION, "digest": fingerprint}, make, again), fingerprint


def _part(arrays: Arrays, name: str) -> Examples:
    return Examples(
        tokens=arrays[f"{name}_tokens"], starts=arrays[f"{name}_starts"], labels=arrays[f"{name}_labels"]
    )


def _rows(path: Path) -> Iterator[tuple[Integers, int]]:
    """Yield (token ids, target) of each row of one of LRA's files."""
    header = None
    for number, line in lines(path):
        where = f"{path}:{number}"
        text = decoded(line, where)
        if header is not None:
            yield _row(text, where)
        else:
            header = text
            if header.split("\t") != ["Source", "Target"]:
                raise UsageError(f"{where}: the header is {shown(header)}, not 'Source<TAB>Target'")
    if header is None:
        raise UsageError(f"{path}:1: the file is empty")


def _row(line: str, where: str) -> tuple[Integers, int]:
    columns = line.split("\t")
    if len(columns) != 2:
        raise UsageError(f"{where}: {len(columns)} columns, not Source<TAB>Target")
    tokens = columns[0].replace("(", " ").replace(")", " ").split()
    try:
        value = evaluate(tokens)
    except ValueError as error:
        raise UsageError(f"{where}: column Source: {error}") from None
    if columns[1] not in tuple("0123456789"):
        raise UsageError(f"{where}: column Target is {shown(columns[1])}, not a digit")
    if int(columns[1]) != value:
        raise UsageError(f"{where}: column Target is {columns[1]}, but Source evaluates to {value}")
    return np.array([IDS[token] for token in tokens], dtype=np.uint8), value
