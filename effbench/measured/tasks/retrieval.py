"""Retrieval: do two long texts belong together? Long Range Arena's AAN pairs, or pairs of newsgroup posts."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from effbench.common import values
from effbench.common.files import size, why
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.reading import LINE_BYTES, digest_of, lines, packed_file, unchanged, whole_lines
from effbench.measured.data.sources import json_object, text_column
from effbench.measured.tasks.base import (
    PAD,
    Classification,
    Examples,
    Integers,
    Splits,
    folder_of,
    prior,
    require,
)
from effbench.measured.tasks.lra_text import BYTES, decoded
from effbench.measured.tasks.text import stratified_order

if TYPE_CHECKING:
    from torch import nn

    from effbench.measured.tasks.base import Batch, MakeMechanism

PARTS = ("train", "validation", "test")
FILES = dict(
    zip(PARTS, ("new_aan_pairs.train.tsv", "new_aan_pairs.eval.tsv", "new_aan_pairs.test.tsv"), strict=True)
)
COLUMNS = ("label", "id1", "id2", "text1", "text2")
# Where a data folder may hold the files, if not itself: LRA's release, unpacked, among them.
AAN_FOLDERS = ("tsv_data", "lra_release/lra_release/tsv_data", "aan", "retrieval")
POSTS_FOLDERS = ("newsgroups20", "newsgroups")

_VERSION = 1  # of the readers: raise it when their output changes
_PRIOR_VERSION = 1  # of the cosine
_PRIOR_PAIRS = 10_000  # TF-IDF weights and a threshold gain little from more


@dataclass(frozen=True, kw_only=True)
class Pairs(Examples):
    """Labelled pairs of ragged token rows.

    ``tokens`` and ``starts`` are the first sides, ``second_tokens`` and ``second_starts`` the second ones.
    """

    second_tokens: Integers
    second_starts: Integers

    @property
    def sides(self) -> tuple[Examples, Examples]:
        """The first and the second sides, each with the pairs' labels."""
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
        """The given pairs in the given order, each side cut to its first ``longest`` tokens."""
        first, second = (side.take(rows, longest) for side in self.sides)
        return pairs_of(first, second)


def pairs_of(first: Examples, second: Examples) -> Pairs:
    """Two sides with the same labels as pairs."""
    return Pairs(
        tokens=first.tokens,
        starts=first.starts,
        second_tokens=second.tokens,
        second_starts=second.starts,
        labels=first.labels,
    )


class Retrieval(Classification):
    """Tell whether two documents are related, from the bytes of both (Long Range Arena's Retrieval).

    ``dataset=aan`` reads LRA's pairs of papers, of which one cites the other or not, from the data folder's
    ``new_aan_pairs.{train,eval,test}.tsv`` (label, id1, id2, text1, text2 by tabs, no header), or from those
    in LRA's unpacked release. ``quoting`` reads a field in quotation marks as CSV does, with tabs, line ends
    and doubled quotation marks inside (S4); without it they are text like any other (LRA). ``train``,
    ``validation`` and ``test`` draw so many pairs of their files, stratified by label (0: all).

    ``dataset=newsgroups`` is not in LRA: pairs of 20 Newsgroups posts from ``{train,test}.jsonl[.xz|.gz]``
    (label and text an object), half of the same group, half of two groups. A tenth of the training posts,
    stratified by group, are kept for validation pairs; a post stands in pairs of one part only, and a text
    that occurs again is left out. ``train``, ``validation`` and ``test`` draw so many pairs of the part's
    posts (0: as many as it has posts, each of them once as the first text).

    Each text is its bytes as they stand, cut to seq_len (LRA: 4,000); byte b has id b + 1. The encoder is
    shared by both sides (models/two_towers.py), so a step encodes 2 batch_size rows.

    Read scores against ``tfidf_cosine``: a threshold on the cosine of the texts' TF-IDF vectors, both from
    at most 10,000 training pairs and the same bytes.
    """

    source = (
        "Tay et al. 2021, Long Range Arena (arXiv 2011.04006); Radev et al. 2013, the ACL Anthology Network"
    )

    def __init__(
        self,
        *,
        dataset: Literal["aan", "newsgroups"] = "aan",
        quoting: bool = False,
        train: int = 0,
        validation: int = 0,
        test: int = 0,
        epochs: int = 10,
        lr: float = 1e-3,
        dropout: float = 0.1,
        patience: int = 3,
    ) -> None:
        super().__init__(epochs=epochs, lr=lr, dropout=dropout, patience=patience)
        require(dataset in ("aan", "newsgroups"), f"dataset is {dataset!r}, not aan or newsgroups")
        require(
            dataset == "aan" or not quoting, "quoting is for dataset=aan, whose files have quotation marks"
        )
        for name, count in (("train", train), ("validation", validation), ("test", test)):
            require(count >= 0, f"{name} must be at least 0 (all), got {count}")
        self.dataset, self.quoting = dataset, quoting
        self.sizes = {"train": train, "validation": validation, "test": test}

    def check(self, data_dir: Path | None) -> str:
        """Read every row of the files."""
        if self.dataset == "aan":
            index, digest = self._index(data_dir)
            for name in PARTS:
                self._drawn(index, name, 0)
            return digest
        arrays, digest = self._posts(data_dir)
        _post_parts(arrays, 0)
        return digest

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Pairs of texts of at most ``seq_len`` bytes; ``seed`` draws subsets, or the pairs of posts."""
        if self.dataset == "aan":
            parts, digest = self._papers(seq_len, seed, data_dir)
        else:
            parts, digest = self._paired_posts(seq_len, seed, data_dir)
        key = {
            "version": _PRIOR_VERSION,
            "pairs": _VERSION,
            "digest": digest,
            "dataset": self.dataset,
            "quoting": self.quoting,
            "seed": seed,
            "sizes": self.sizes,
            "seq_len": seq_len,
        }
        train, test = parts["train"], parts["test"]
        cosine = cached("retrieval-prior", key, lambda: {"accuracy": np.array(_tfidf_cosine(train, test))})
        return Splits(
            train=train,
            validation=parts["validation"],
            test=test,
            vocab_size=BYTES + 1,
            classes=2,
            priors={"majority": prior(train, test), "tfidf_cosine": float(cosine["accuracy"])},
        )

    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """Two towers that share their encoder."""
        from effbench.measured.models.two_towers import TwoTowers

        return TwoTowers(
            make_mechanism,
            vocab_size=splits.vocab_size,
            classes=splits.classes,
            max_len=seq_len,
            d_model=d_model,
            layers=layers,
            dropout=self.dropout,
        )

    def batch(self, part: Examples, rows: Integers) -> Batch:
        """``tokens`` and ``mask`` [B, 2, N], ``labels`` [B], N being the longest side of the pairs."""
        import torch

        assert isinstance(part, Pairs)
        taken = part.take(rows)
        places = np.arange(max(1, int(taken.lengths.max(initial=0))))
        mask = np.stack([places < side.lengths[:, None] for side in taken.sides], axis=1)
        tokens = np.full(mask.shape, PAD, dtype=np.int64)
        for i, side in enumerate(taken.sides):
            tokens[:, i][mask[:, i]] = side.tokens  # row-major on both sides
        return {
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(taken.labels.astype(np.int64)),
        }

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Arbitrary tokens and labels, both sides full: memory does not depend on which."""
        import torch

        tokens = torch.arange(batch_size * 2 * seq_len) % (splits.vocab_size - 1) + 1
        return {
            "tokens": tokens.reshape(batch_size, 2, seq_len),
            "mask": torch.ones(batch_size, 2, seq_len, dtype=torch.bool),
            "labels": torch.arange(batch_size) % splits.classes,
        }

    # LRA's files. They have gigabytes: labels and the places of rows are kept, texts are read where needed.

    def _index(self, data_dir: Path | None) -> tuple[Arrays, str]:
        """({part}_labels [n] and {part}_places [n + 1], the byte where a row begins; digest of all bytes)."""
        folder = self._aan_folder(data_dir)
        digest = _digest(folder)

        def make() -> Arrays:
            arrays: Arrays = {}
            for part, name in FILES.items():
                labels: list[int] = []
                places = [0]
                for end, fields, where in _rows(folder / name, quoting=self.quoting):
                    labels.append(_label(fields, where))
                    places.append(end)
                if not labels:
                    raise UsageError(f"{folder / name}:1: the file is empty")
                arrays[f"{part}_labels"], arrays[f"{part}_places"] = np.array(labels), np.array(places)
            return arrays

        key = {"version": _VERSION, "digest": digest, "quoting": self.quoting}
        again = unchanged(digest, lambda: _digest(folder), folder)
        return cached("retrieval-aan", key, make, again), digest

    def _aan_folder(self, data_dir: Path | None) -> Path:
        folder = folder_of(data_dir, *AAN_FOLDERS)
        if folder is None:
            raise UsageError(
                f"retrieval needs --data-dir DIR with {', '.join(FILES.values())} of Long Range Arena's "
                "release, or for dataset=newsgroups with newsgroups20/"
            )
        return folder

    def _drawn(self, index: Arrays, part: str, seed: int) -> Integers:
        labels = index[f"{part}_labels"]
        count = self.sizes[part] or len(labels)
        if count > len(labels):
            raise UsageError(f"retrieval: {part}={count} exceeds the {len(labels)} pairs of {FILES[part]}")
        order = stratified_order(labels, np.random.default_rng((seed, PARTS.index(part))))
        return np.sort(order[:count])

    def _papers(self, seq_len: int, seed: int, data_dir: Path | None) -> tuple[dict[str, Pairs], str]:
        index, digest = self._index(data_dir)
        folder = self._aan_folder(data_dir)
        parts: dict[str, Pairs] = {}
        for part, name in FILES.items():
            rows, places = self._drawn(index, part, seed), index[f"{part}_places"]
            texts: tuple[list[bytes], list[bytes]] = ([], [])
            for fields in _rows_at(folder / name, rows, places, quoting=self.quoting):
                for side, text in zip(texts, fields[3:], strict=True):
                    side.append(text[:seq_len])
            labels = index[f"{part}_labels"][rows]
            parts[part] = pairs_of(*(_examples(side, labels) for side in texts))
        return parts, digest

    # Newsgroup posts.

    def _posts(self, data_dir: Path | None) -> tuple[Arrays, str]:
        """({train,test}_bytes, _starts and _groups, numbers of groups; digest of all bytes)."""
        folder = folder_of(data_dir, *POSTS_FOLDERS)
        if folder is None:
            raise UsageError(
                "retrieval:dataset=newsgroups needs --data-dir DIR with train.jsonl and test.jsonl"
            )
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
                for group, text in _read_posts(path):
                    if text not in seen:
                        seen.add(text)
                        texts.append(text)
                        labels.append(groups.setdefault(group, len(groups)))
                if not texts:
                    raise UsageError(f"{path}:1: there is no post that did not occur before")
                arrays[f"{split}_bytes"] = np.frombuffer(b"".join(texts), dtype=np.uint8)
                arrays[f"{split}_starts"] = np.concatenate(([0], np.cumsum([len(text) for text in texts])))
                arrays[f"{split}_groups"] = np.array(labels)
            return arrays

        again = unchanged(digest, lambda: digest_of(paths.values()), folder)
        return cached("retrieval-posts", {"version": _VERSION, "digest": digest}, make, again), digest

    def _paired_posts(self, seq_len: int, seed: int, data_dir: Path | None) -> tuple[dict[str, Pairs], str]:
        arrays, digest = self._posts(data_dir)
        parts: dict[str, Pairs] = {}
        for i, (part, (split, posts)) in enumerate(_post_parts(arrays, seed).items()):
            rng = np.random.default_rng((seed, i))
            groups = arrays[f"{split}_groups"][posts]
            first, second, labels = paired(groups, self.sizes[part] or len(posts), rng)
            whole = Examples(
                tokens=arrays[f"{split}_bytes"],
                starts=arrays[f"{split}_starts"],
                labels=arrays[f"{split}_groups"],
            )
            sides = (whole.take(posts[side], longest=seq_len) for side in (first, second))
            parts[part] = pairs_of(
                *(
                    Examples(tokens=side.tokens.astype(np.int16) + 1, starts=side.starts, labels=labels)
                    for side in sides
                )
            )
        return parts, digest


def paired(groups: Integers, count: int, rng: np.random.Generator) -> tuple[Integers, Integers, Integers]:
    """(first, second, label), each [count]: posts, given each post's group, and whether of the same group.

    First posts go through all posts in random order, again and again; labels alternate; the second post is
    drawn from the same group's other posts or from all other groups'.
    """
    order = stratified_order(groups, rng)
    first = np.resize(order, count)
    # Shuffled, since a stratified order has a period that labels must not fall in step with.
    labels = rng.permutation(np.arange(count) % 2)
    by_group = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    begins = np.cumsum(sizes) - sizes
    place = np.empty(len(groups), dtype=np.int64)  # of a post among its group's
    place[by_group] = np.arange(len(groups)) - np.repeat(begins, sizes)
    own = groups[first]
    size, begin = sizes[own], begins[own]
    u = rng.random(count)
    # So many places after the first post, around the circle of its group's posts or of all others'.
    inside = (place[first] + 1 + (u * (size - 1)).astype(np.int64)) % size + begin
    outside = (begin + size + (u * (len(groups) - size)).astype(np.int64)) % len(groups)
    return first, by_group[np.where(labels == 1, inside, outside)], labels


def _post_parts(arrays: Arrays, seed: int) -> dict[str, tuple[str, Integers]]:
    """(official split, its posts) of each part; UsageError where a part cannot give both kinds of pairs."""
    groups = arrays["train_groups"]
    order = stratified_order(groups, np.random.default_rng((seed, len(PARTS))))
    kept = len(order) // 10
    parts = {
        "train": ("train", np.sort(order[kept:])),
        "validation": ("train", np.sort(order[:kept])),
        "test": ("test", np.arange(len(arrays["test_groups"]))),
    }
    for name, (split, posts) in parts.items():
        sizes = np.bincount(arrays[f"{split}_groups"][posts])
        sizes = sizes[sizes > 0]
        if len(sizes) < 2 or sizes.min() < 2:
            raise UsageError(
                f"retrieval: the {len(posts)} posts for {name} cannot be paired: it takes two groups at "
                "least, and two posts of each group"
            )
    return parts


def _examples(texts: list[bytes], labels: Integers) -> Examples:
    return Examples(
        tokens=np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int16) + 1,
        starts=np.concatenate(([0], np.cumsum([len(text) for text in texts], dtype=np.int64))),
        labels=labels,
    )


def _tfidf_cosine(train: Pairs, test: Pairs) -> float:
    """Test accuracy of "related where the cosine of TF-IDF vectors is above the best training threshold"."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    chosen = train.take(np.linspace(0, len(train) - 1, min(len(train), _PRIOR_PAIRS)).astype(np.int64))
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    texts = [decoded(side) for side in chosen.sides]
    try:
        vectorizer.fit(texts[0] + texts[1])
    except ValueError:  # there is not one word in the training texts
        return prior(train, test)

    def cosines(first: list[str], second: list[str]) -> Any:
        a, b = vectorizer.transform(first), vectorizer.transform(second)
        return np.asarray(a.multiply(b).sum(axis=1)).ravel()

    threshold = best_threshold(cosines(*texts), chosen.labels)
    found = cosines(*(decoded(side) for side in test.sides)) > threshold
    return float((found == (test.labels == 1)).mean())


def best_threshold(values: Any, labels: Integers) -> float:
    """The t for which "label 1 where value > t" is right most often; half-way between two values, or ±inf."""
    order = np.argsort(values, kind="stable")
    ordered, ones = values[order], labels[order] == 1
    # Right answers if the first i values are answered 0 and the others 1.
    right = np.concatenate(([0], np.cumsum(~ones))) + ones.sum() - np.concatenate(([0], np.cumsum(ones)))
    possible = np.concatenate(([True], ordered[1:] > ordered[:-1], [True]))  # equal values are not parted
    best = int(np.where(possible, right, -1).argmax())
    if best == 0:
        return -math.inf
    return math.inf if best == len(ordered) else float((ordered[best - 1] + ordered[best]) / 2)


# Reading.


def _digest(folder: Path) -> str:
    try:
        return digest_of(folder / name for name in FILES.values())
    except UsageError as error:
        raise UsageError(
            f"{error}; retrieval reads {', '.join(FILES.values())} there, or with dataset=newsgroups pairs "
            "of newsgroup posts"
        ) from None


@contextmanager
def _large_fields() -> Iterator[None]:
    """The csv module refuses fields above 128 KiB unless told, for the whole process; papers are longer."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows(path: Path, *, quoting: bool) -> Iterator[tuple[int, list[bytes], str]]:
    """(byte after the row, its fields, file:line) of each row; with quoting a row may have several lines."""
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
            yield line.decode("latin-1")  # a character a byte, there and back

    with _large_fields():
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
    """The fields of the rows, which lie between these places of the file."""
    try:
        with path.open("rb") as file, _large_fields():
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
    found = csv.reader((line.decode("latin-1") for line in io.BytesIO(row)), delimiter="\t")
    return [field.encode("latin-1") for fields in found for field in fields]


def _label(fields: list[bytes], where: str) -> int:
    """The label of a row whose fields are checked."""
    if len(fields) != len(COLUMNS):
        raise UsageError(f"{where}: {len(fields)} columns, not {len(COLUMNS)}: {', '.join(COLUMNS)}")
    text = fields[0].decode("latin-1")
    number = values.number(text)
    if number not in (0, 1):
        raise UsageError(f"{where}: column label is {shown(text)}, not 0 or 1")
    return int(number)


def _read_posts(path: Path) -> Iterator[tuple[str, bytes]]:
    """(group, text) of each line of JSON."""
    for number, line in lines(path):
        where = f"{path}:{number}"
        row = json_object(line, where, ("label", "text"))
        yield text_column(row, "label", where), text_column(row, "text", where).encode()
