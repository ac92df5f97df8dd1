"""Pairs of long texts as bytes: Long Range Arena's AAN files, and pairs made of newsgroup posts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effbench.common import values
from effbench.common.files import size, why
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Examples, Integers, joined_rows, stratified_order
from effbench.measured.data.reading import (
    LINE_BYTES,
    digest_of,
    large_fields,
    lines,
    packed_file,
    unchanged,
    whole_lines,
)
from effbench.measured.data.text_sets import json_object, text_column

PARTS = ("train", "validation", "test")
FILES = dict(
    zip(PARTS, ("new_aan_pairs.train.tsv", "new_aan_pairs.eval.tsv", "new_aan_pairs.test.tsv"), strict=True)
)
COLUMNS = ("label", "id1", "id2", "text1", "text2")
VERSION = 2  # of the readers: raise it when their output changes


@dataclass(frozen=True, kw_only=True)
class Pairs(Examples):
    """Labelled pairs of ragged token rows.

    ``tokens`` and ``starts`` are the first sides, ``second_tokens`` and ``second_starts`` the second ones.
    """

    second_tokens: Integers
    second_starts: Integers

    @property
    def sides(self) -> tuple[Examples, Examples]:
        """The first and the second sides, both with the pairs' labels."""
        return (
            Examples(tokens=self.tokens, starts=self.starts, labels=self.labels),
            Examples(tokens=self.second_tokens, starts=self.second_starts, labels=self.labels),
        )

    @property
    def lengths(self) -> Integers:
        """Tokens in the longer side of each pair, [n]."""
        first, second = self.sides
        return np.maximum(first.lengths, second.lengths)

    def take(self, rows: Integers, longest: int | None = None) -> Pairs:
        """Return the given pairs in the given order, each side cut to its first ``longest`` tokens."""
        first, second = (side.take(rows, longest) for side in self.sides)
        return pairs_of(first, second)


def pairs_of(first: Examples, second: Examples) -> Pairs:
    """Return two sides with the same labels as pairs."""
    return Pairs(
        tokens=first.tokens,
        starts=first.starts,
        second_tokens=second.tokens,
        second_starts=second.starts,
        labels=first.labels,
    )


# LRA's files. They have gigabytes: labels and the places of rows are kept, texts are read where needed.


def aan_index(folder: Path, *, quoting: bool) -> tuple[Arrays, str]:
    """Return (arrays of each part, digest of all bytes).

    The arrays are {part}_labels [n], {part}_lengths [n, 2], the bytes of both texts, and {part}_places
    [n + 1], the byte where a row begins. Raises UsageError that names the file and line of a row that is
    wrong.
    """
    digest = _digest(folder)

    def make() -> Arrays:
        arrays: Arrays = {}
        for part, name in FILES.items():
            labels: list[int] = []
            lengths: list[list[int]] = []
            places = [0]
            for end, fields, where in _rows(folder / name, quoting=quoting):
                labels.append(_label(fields, where))
                lengths.append([len(text) for text in fields[3:]])
                places.append(end)
            if not labels:
                raise UsageError(f"{folder / name}:1: the file is empty")
            arrays[f"{part}_labels"], arrays[f"{part}_places"] = np.array(labels), np.array(places)
            arrays[f"{part}_lengths"] = np.array(lengths)
        return arrays

    key = {"version": VERSION, "digest": digest, "quoting": quoting}
    again = unchanged(digest, lambda: _digest(folder), folder)
    return cached("retrieval-aan", key, make, again), digest


def aan_pairs(
    folder: Path, index: Arrays, rows: Mapping[str, Integers], seq_len: int, *, quoting: bool
) -> dict[str, Pairs]:
    """Return the given rows of each part, each text cut to its first ``seq_len`` bytes."""
    parts: dict[str, Pairs] = {}
    for part, name in FILES.items():
        texts: tuple[list[bytes], list[bytes]] = ([], [])
        for fields in _rows_at(folder / name, rows[part], index[f"{part}_places"], quoting=quoting):
            for side, text in zip(texts, fields[3:], strict=True):
                side.append(text[:seq_len])
        labels = index[f"{part}_labels"][rows[part]]
        parts[part] = pairs_of(*(_examples(side, labels) for side in texts))
    return parts


def _digest(folder: Path) -> str:
    try:
        return digest_of(folder / name for name in FILES.values())
    except UsageError as error:
        raise UsageError(
            f"{error}; retrieval reads {', '.join(FILES.values())} there, or with dataset=newsgroups pairs "
            "of newsgroup posts"
        ) from None


def _rows(path: Path, *, quoting: bool) -> Iterator[tuple[int, list[bytes], str]]:
    """Yield (byte after the row, its fields, file:line) of each row; a quoted row may have several lines."""
    end = first = number = 0
    if not quoting:
        for number, line in whole_lines(path, most=None):
            end += len(line)
            yield end, _fields(line, quoting=False), f"{path}:{number}"
        return
    began = 0  # the byte where the row began

    def texts() -> Iterator[str]:
        nonlocal end, number
        for count, line in whole_lines(path, most=None):
            number, end = count, end + len(line)
            if end - began > LINE_BYTES:
                raise UsageError(
                    f"{path}:{first + 1}: the row has more than {size(LINE_BYTES)}; is a quotation mark not "
                    "closed?"
                )
            yield line.decode("latin-1")  # one character per byte, and back below

    with large_fields():
        reader = csv.reader(texts(), delimiter="\t")
        while True:
            first, began = number, end
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UsageError(f"{path}:{first + 1}: {error}") from None
            yield end, [field.encode("latin-1") for field in fields], f"{path}:{first + 1}"


def _rows_at(path: Path, rows: Integers, places: Integers, *, quoting: bool) -> Iterator[list[bytes]]:
    """Yield the fields of the rows, which lie between these places of the file."""
    try:
        with path.open("rb") as file, large_fields():
            for row in rows:
                file.seek(places[row])
                fields = _fields(file.read(places[row + 1] - places[row]), quoting=quoting)
                if len(fields) != len(COLUMNS):
                    raise UsageError(f"{path}: the file changed while it was read; run it again")
                yield fields
    except OSError as error:
        raise UsageError(f"{path}: {why(error)}") from None


def _fields(row: bytes, *, quoting: bool) -> list[bytes]:
    if not quoting:
        return row.removesuffix(b"\n").removesuffix(b"\r").split(b"\t")
    reader = csv.reader((line.decode("latin-1") for line in io.BytesIO(row)), delimiter="\t")
    return [field.encode("latin-1") for fields in reader for field in fields]


def _label(fields: list[bytes], where: str) -> int:
    """Return the label of a row. Raises UsageError for wrong fields."""
    if len(fields) != len(COLUMNS):
        raise UsageError(f"{where}: {len(fields)} columns, not {len(COLUMNS)}: {', '.join(COLUMNS)}")
    text = fields[0].decode("latin-1")
    number = values.number(text)
    if number not in (0, 1):
        raise UsageError(f"{where}: column label is {shown(text)}, not 0 or 1")
    return int(number)


def _examples(texts: list[bytes], labels: Integers) -> Examples:
    tokens, starts = joined_rows(texts)
    return Examples(tokens=tokens.astype(np.int16) + 1, starts=starts, labels=labels)


# Newsgroup posts.


def read_posts(folder: Path) -> tuple[Arrays, str]:
    """Return ({train,test}_bytes, _starts and _groups, numbers of groups; digest of all bytes).

    A text that occurs again is left out. Raises UsageError for what is missing or wrong.
    """
    paths: dict[str, Path] = {}
    for split in ("train", "test"):
        path = packed_file(folder, f"{split}.jsonl")
        if path is None:
            raise UsageError(f"{folder}: there is no {split}.jsonl (or .jsonl.xz, .jsonl.gz)")
        paths[split] = path
    digest = digest_of(paths.values())

    def make() -> Arrays:
        arrays: Arrays = {}
        groups: dict[str, int] = {}
        seen: set[bytes] = set()
        for split, path in paths.items():
            texts: list[bytes] = []
            labels: list[int] = []
            for group, text in _posts(path):
                if text not in seen:
                    seen.add(text)
                    texts.append(text)
                    labels.append(groups.setdefault(group, len(groups)))
            if not texts:
                raise UsageError(f"{path}:1: there is no post that did not occur before")
            arrays[f"{split}_bytes"], arrays[f"{split}_starts"] = joined_rows(texts)
            arrays[f"{split}_groups"] = np.array(labels)
        return arrays

    again = unchanged(digest, lambda: digest_of(paths.values()), folder)
    return cached("retrieval-posts", {"version": VERSION, "digest": digest}, make, again), digest


def post_pairs(posts: Arrays, sizes: Mapping[str, int], seq_len: int, seed: int) -> dict[str, Pairs]:
    """Return pairs of posts for each part, half of them of one group; a size of 0 takes each post once."""
    parts: dict[str, Pairs] = {}
    for i, (part, (split, chosen)) in enumerate(divided_posts(posts, seed).items()):
        rng = np.random.default_rng((seed, i))
        groups = posts[f"{split}_groups"][chosen]
        first, second, labels = paired(groups, sizes[part] or len(chosen), rng)
        whole = Examples(
            tokens=posts[f"{split}_bytes"], starts=posts[f"{split}_starts"], labels=posts[f"{split}_groups"]
        )
        sides = (whole.take(chosen[side], longest=seq_len) for side in (first, second))
        parts[part] = pairs_of(
            *(
                Examples(tokens=side.tokens.astype(np.int16) + 1, starts=side.starts, labels=labels)
                for side in sides
            )
        )
    return parts


def paired(groups: Integers, count: int, rng: np.random.Generator) -> tuple[Integers, Integers, Integers]:
    """Return (first, second, label), each [count]: pairs of posts, given each post's group.

    The label is 1 for posts of the same group. First posts go through all posts in random order, again and
    again; half of the labels are 1; the second post is drawn from the other posts of the same group or from
    all other groups.
    """
    order = stratified_order(groups, rng)
    first = np.resize(order, count)
    # Shuffled, since a stratified order has a period that alternating labels could match.
    labels = rng.permutation(np.arange(count) % 2)
    by_group = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    begins = np.cumsum(sizes) - sizes
    place = np.empty(len(groups), dtype=np.int64)  # of a post among its group's
    place[by_group] = np.arange(len(groups)) - np.repeat(begins, sizes)
    own = groups[first]
    size, begin = sizes[own], begins[own]
    u = rng.random(count)
    # A number of places after the first post, around the circle of its group's posts or of all others'.
    inside = (place[first] + 1 + (u * (size - 1)).astype(np.int64)) % size + begin
    outside = (begin + size + (u * (len(groups) - size)).astype(np.int64)) % len(groups)
    return first, by_group[np.where(labels == 1, inside, outside)], labels


def divided_posts(posts: Arrays, seed: int) -> dict[str, tuple[str, Integers]]:
    """Return (official split, its posts) of each part.

    Raises UsageError where a part cannot give both kinds of pairs.
    """
    groups = posts["train_groups"]
    order = stratified_order(groups, np.random.default_rng((seed, len(PARTS))))
    kept = len(order) // 10
    parts = {
        "train": ("train", np.sort(order[kept:])),
        "validation": ("train", np.sort(order[:kept])),
        "test": ("test", np.arange(len(posts["test_groups"]))),
    }
    for name, (split, chosen) in parts.items():
        sizes = np.bincount(posts[f"{split}_groups"][chosen])
        sizes = sizes[sizes > 0]
        if len(sizes) < 2 or sizes.min() < 2:
            raise UsageError(
                f"retrieval: the {len(chosen)} posts for {name} cannot be paired: it takes two groups at "
                "least, and two posts of each group"
            )
    return parts


def _posts(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (group, text) of each line of JSON."""
    for number, line in lines(path):
        where = f"{path}:{number}"
        row = json_object(line, where, ("label", "text"))
        yield text_column(row, "label", where), text_column(row, "text", where).encode()
