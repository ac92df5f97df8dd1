"""ListOps: nested list operations to evaluate, generated as in Long Range Arena or read from its files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.reading import decoded, digest_of, lines, unchanged
from effbench.measured.tasks.base import Classification, Examples, Integers, Splits, folder_of, prior, require

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
TOKENS = ("<pad>", *OPERATORS, "]", *"0123456789")
IDS = {token: i for i, token in enumerate(TOKENS)}
CLOSE, ZERO = IDS["]"], IDS["0"]
FILES = ("basic_train.tsv", "basic_val.tsv", "basic_test.tsv")
PARTS = ("train", "validation", "test")
# Where a data folder may hold the files, if not itself: LRA's release, unpacked, among them.
FOLDERS = ("listops-1000", "lra_release/lra_release/listops-1000", "lra_samples/listops", "listops")

_P_OPERATOR = 0.25  # an argument is an operator with this probability, else a digit
_VERSION = 1  # of the generator and the reader: raise it when their output changes
_ROOTS = 4096  # trees drawn at a time; part of what the random state decides
_TRIED = 1000  # trees drawn to see whether a shape has any
_MAX_BARREN = 50  # draws in a row that add less than one new tree in 1,000 roots

IntArray = NDArray[np.int64]


class ListOps(Classification):
    """Evaluate nested MIN, MAX, MEDIAN and SUM-modulo-10 of digits (Long Range Arena's ListOps), 10 classes.

    Trees come from LRA's sampler: an argument is an operator with probability 0.25 until ``max_depth``, an
    operator has 2 to ``max_args`` arguments, and a tree is kept when it has more than ``min_length`` and
    fewer than seq_len tokens, operators, digits and closing brackets counted (LRA: 500 and 2000; so
    ``min_length`` is a quarter of seq_len unless given). No tree occurs twice in ``train``, ``validation``
    and ``test`` examples together. The defaults are LRA's.

    With a data folder its ``basic_{train,val,test}.tsv`` (header Source, Target), or those in a folder
    listops-1000, listops or LRA's unpacked release in it, are read instead, and the generator's options are
    not used; ``data=generated`` generates all the same.

    Read scores against both priors: at LRA's settings always answering the commonest class scores 17.5 %,
    and knowing only the outermost operator 37.3 %.
    """

    source = "Nangia and Bowman 2018 (arXiv 1804.06028); Tay et al. 2021, Long Range Arena (arXiv 2011.04006)"

    def __init__(
        self,
        *,
        max_depth: int = 10,
        max_args: int = 10,
        min_length: int | None = None,
        train: int = 96_000,
        validation: int = 2_000,
        test: int = 2_000,
        data: Literal["auto", "generated", "files"] = "auto",
        epochs: int = 10,
        lr: float = 1e-3,
        dropout: float = 0.1,
        patience: int = 3,
    ) -> None:
        super().__init__(epochs=epochs, lr=lr, dropout=dropout, patience=patience)
        require(max_depth >= 2, f"max_depth must be at least 2, got {max_depth}")
        require(max_args >= 2, f"max_args must be at least 2, got {max_args}")
        require(min_length is None or min_length >= 1, f"min_length must be at least 1, got {min_length}")
        require(min(train, validation, test) >= 1, "train, validation and test must each be at least 1")
        require(data in ("auto", "generated", "files"), f"data is {data!r}, not auto, generated or files")
        self.max_depth, self.max_args, self.min_length = max_depth, max_args, min_length
        self.sizes = (train, validation, test)
        self.origin = data

    def check(self, data_dir: Path | None) -> str:
        """Read and evaluate every row of LRA's files, if those are to be used."""
        folder = self._folder(data_dir)
        return "" if folder is None else _files(folder)[1]

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:
        """A length must hold the files' longest tree, or be one that trees can be drawn for."""
        folder = self._folder(data_dir)
        if folder is None:
            generate(min(sum(self.sizes), _TRIED), self._shape(seq_len), np.random.default_rng(0))
        else:
            self._from_files(folder, seq_len)

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Trees of fewer than ``seq_len`` tokens drawn with ``seed``, or the files' rows."""
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
        if self.origin == "files" and data_dir is None:
            raise UsageError("listops:data=files needs --data-dir DIR, with " + ", ".join(FILES))
        return None if self.origin == "generated" else folder_of(data_dir, *FOLDERS)

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
        return Shape(
            max_depth=self.max_depth,
            max_args=self.max_args,
            min_length=seq_len // 4 if self.min_length is None else self.min_length,
            max_length=seq_len,
        )

    def _generated(self, seq_len: int, seed: int) -> list[Examples]:
        shape = self._shape(seq_len)
        key = {"version": _VERSION, "roots": _ROOTS, "seed": seed, "sizes": self.sizes, **vars(shape)}

        def make() -> Arrays:
            rows = generate(sum(self.sizes), shape, np.random.default_rng(seed))
            return {"tokens": rows.tokens, "starts": rows.starts, "labels": rows.labels}

        arrays = cached("listops", key, make)
        rows = Examples(tokens=arrays["tokens"], starts=arrays["starts"], labels=arrays["labels"])
        ends = np.cumsum(self.sizes)
        return [
            rows.take(np.arange(end - size, end)) for end, size in zip(ends.tolist(), self.sizes, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Which trees are kept: depth (the root's is 1), arguments, and min_length < tokens < max_length."""

    max_depth: int
    max_args: int
    min_length: int
    max_length: int


def evaluate(tokens: Sequence[str]) -> int:
    """The value of a tree written as tokens, brackets included; ValueError says what is wrong with it."""
    stack: list[tuple[str, list[int]]] = []
    for position, token in enumerate(tokens, start=1):
        if token in OPERATORS:
            stack.append((token, []))
            continue
        if token == "]":
            if not stack or not stack[-1][1]:
                raise ValueError(f"token {position} closes nothing")
            value = _apply(*stack.pop())
        elif len(token) == 1 and token in "0123456789":
            value = int(token)
        else:
            raise ValueError(
                f"token {position} is {shown(token)}, not a digit, ] or one of {' '.join(OPERATORS)}"
            )
        if not stack:
            if position != len(tokens):
                raise ValueError(f"the tree ends at token {position} of {len(tokens)}")
            return value
        stack[-1][1].append(value)
    raise ValueError(f"{len(stack)} brackets are not closed" if stack else "there is no tree")


def _apply(operator: str, values: list[int]) -> int:
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[SM":
        return sum(values) % 10
    ordered = sorted(values)
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) // 2  # LRA truncates the median


# The generator: many trees at once, level by level; a Python loop over nodes takes milliseconds a tree.


@dataclass(frozen=True, kw_only=True)
class _Level:
    """The nodes of one depth: their tree, and their number of arguments, 0 for a digit.

    The arguments of a level's operators are the next level's nodes, in order.
    """

    tree: IntArray
    args: IntArray


def generate(count: int, shape: Shape, rng: np.random.Generator) -> Examples:
    """``count`` different trees as token ids (uint8) with their values, in the order they were drawn."""
    _check_shape(shape)
    seen: set[bytes] = set()
    tokens: list[NDArray[Any]] = []
    lengths: list[int] = []
    labels: list[int] = []
    barren = 0
    while len(labels) < count:
        before = len(labels)
        found = _draw(shape, rng)
        for i in range(len(found)):
            row = found.row(i)
            digest = hashlib.blake2b(row.tobytes(), digest_size=12).digest()
            if digest in seen or len(labels) == count:
                continue
            seen.add(digest)
            tokens.append(row)
            lengths.append(len(row))
            labels.append(int(found.labels[i]))
        barren = barren + 1 if len(labels) - before < _ROOTS // 1000 else 0
        if barren == _MAX_BARREN and len(labels) < count:
            raise UsageError(
                f"listops: found only {len(labels)} of {count} different trees with more than "
                f"{shape.min_length} and fewer than {shape.max_length} tokens, max_depth={shape.max_depth} "
                f"and max_args={shape.max_args}; ask for fewer examples, a lower min_length or larger trees"
            )
    return Examples(
        tokens=np.concatenate(tokens),
        starts=np.concatenate(([0], np.cumsum(lengths))),
        labels=np.array(labels, dtype=np.int64),
    )


def _check_shape(shape: Shape) -> None:
    largest = 1
    for _ in range(shape.max_depth - 1):
        largest = min(2 + shape.max_args * largest, shape.max_length)
    least = max(shape.min_length + 1, 4)  # an operator, two digits, a bracket
    if min(largest, shape.max_length - 1) < least:
        raise UsageError(
            f"listops: no tree has more than {shape.min_length} and fewer than {shape.max_length} (seq_len) "
            f"tokens at max_depth={shape.max_depth} and max_args={shape.max_args} (at most {largest}); "
            "change min_length, max_depth or seq_len"
        )


def _draw(shape: Shape, rng: np.random.Generator) -> Examples:
    """The trees of ``_ROOTS`` draws that have a kept length.

    All roots are operators, since a lone digit has one token and ``min_length`` is at least 1.
    """
    levels, lengths = _shapes(shape, rng)
    keep = (lengths > shape.min_length) & (lengths < shape.max_length)
    number = np.cumsum(keep) - 1
    levels = [
        _Level(tree=number[level.tree[keep[level.tree]]], args=level.args[keep[level.tree]])
        for level in levels
    ]
    levels = [level for level in levels if len(level.tree)]  # the deepest may hold none that is kept
    starts = np.concatenate(([0], np.cumsum(lengths[keep])))
    # An operator or a digit a node, whichever it needs.
    operators = [rng.integers(len(OPERATORS), size=len(level.tree)) for level in levels]
    digits = [rng.integers(10, size=len(level.tree)) for level in levels]

    values: IntArray = np.empty(0, dtype=np.int64)
    sizes: list[IntArray] = []
    for depth in reversed(range(len(levels))):
        inner = levels[depth].args > 0
        size = np.ones(len(inner), dtype=np.int64)
        value = digits[depth].copy()
        if inner.any():
            args = levels[depth].args[inner]
            size[inner] = 2 + np.add.reduceat(sizes[-1], _firsts(args))
            value[inner] = _apply_all(operators[depth][inner], args, values)
        sizes.append(size)
        values = value
    sizes.reverse()

    tokens = np.zeros(int(starts[-1]), dtype=np.uint8)
    place = starts[:-1]
    for depth, level in enumerate(levels):
        inner = level.args > 0
        tokens[place] = np.where(inner, 1 + operators[depth], ZERO + digits[depth])
        tokens[(place + sizes[depth] - 1)[inner]] = CLOSE
        if inner.any():
            args = level.args[inner]
            before = np.cumsum(sizes[depth + 1]) - sizes[depth + 1]
            place = np.repeat(place[inner] + 1 - before[_firsts(args)], args) + before
    return Examples(tokens=tokens, starts=starts, labels=values)


def _shapes(shape: Shape, rng: np.random.Generator) -> tuple[list[_Level], IntArray]:
    """Trees without operators and digits, and their lengths; those that grow too long are left unfinished."""
    lengths = np.zeros(_ROOTS, dtype=np.int64)
    tree = np.arange(_ROOTS)
    levels: list[_Level] = []
    while len(tree):
        depth = len(levels) + 1
        args = np.zeros(len(tree), dtype=np.int64)
        if depth < shape.max_depth:
            inner = rng.random(len(tree)) <= (1.0 if depth == 1 else _P_OPERATOR)
            args[inner] = rng.integers(2, shape.max_args + 1, size=int(inner.sum()))
        lengths += np.bincount(tree, weights=np.where(args > 0, 2, 1), minlength=_ROOTS).astype(np.int64)
        # Each argument will be one token at least.
        pending = np.bincount(tree, weights=args, minlength=_ROOTS).astype(np.int64)
        lost = lengths + pending >= shape.max_length
        lengths[lost] = shape.max_length
        alive = ~lost[tree]
        levels = [_of_living(level, lost) for level in levels]
        levels.append(_Level(tree=tree[alive], args=args[alive]))
        tree = np.repeat(tree[alive], args[alive])
    return levels, lengths


def _of_living(level: _Level, lost: NDArray[np.bool_]) -> _Level:
    alive = ~lost[level.tree]
    return _Level(tree=level.tree[alive], args=level.args[alive])


def _firsts(args: IntArray) -> IntArray:
    """Where each operator's arguments begin among the next level's nodes."""
    return np.cumsum(args) - args


def _apply_all(operators: IntArray, args: IntArray, values: IntArray) -> IntArray:
    """The operators' results [n], given their numbers of arguments [n] and all arguments in a row."""
    first = _firsts(args)
    ordered = values[np.lexsort((values, np.repeat(np.arange(len(args)), args)))]
    middle = (ordered[first + (args - 1) // 2] + ordered[first + args // 2]) // 2
    results = np.stack(
        [ordered[first], ordered[first + args - 1], middle, np.add.reduceat(values, first) % 10]
    )
    chosen: IntArray = results[operators, np.arange(len(args))]
    return chosen


# LRA's files.


def _files(folder: Path) -> tuple[Arrays, str]:
    """(arrays of all three parts, fingerprint); every row is parsed and evaluated when the files are new."""
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
    return cached("listops-files", {"version": _VERSION, "digest": fingerprint}, make, again), fingerprint


def _part(arrays: Arrays, name: str) -> Examples:
    return Examples(
        tokens=arrays[f"{name}_tokens"], starts=arrays[f"{name}_starts"], labels=arrays[f"{name}_labels"]
    )


def _rows(path: Path) -> Iterator[tuple[Integers, int]]:
    """(token ids, target) of each row of one of LRA's files."""
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
