"""Retrieval: tell whether two long texts belong together, of Long Range Arena or from newsgroups."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from effbench.common.extent import Extent
from effbench.common.spec import UsageError
from effbench.measured.data.baseline_scores import prior, tfidf_cosine
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import PAD, Examples, Integers, Splits, stratified_order
from effbench.measured.data.reading import folder_of
from effbench.measured.data.text_pairs import (
    FILES,
    PARTS,
    VERSION,
    Pairs,
    aan_index,
    aan_pairs,
    divided_posts,
    post_pairs,
    read_posts,
)
from effbench.measured.tasks.base import LastRead, Sized, require
from effbench.measured.tasks.lra_text import BYTES

if TYPE_CHECKING:
    from torch import nn

    from effbench.measured.tasks.base import Batch, MakeMechanism

# Folders inside a data folder that may hold the files, LRA's unpacked release among them.
AAN_FOLDERS = ("tsv_data", "lra_release/lra_release/tsv_data", "aan", "retrieval")
POSTS_FOLDERS = ("newsgroups20", "newsgroups")

_BASELINE_VERSION = 1  # of the cosine


class Retrieval(Sized):
    """Tell whether two documents are related, from the bytes of both (Long Range Arena's Retrieval).

    ``dataset=aan`` reads LRA's pairs of papers, of which one cites the other or not, from the data folder's
    ``new_aan_pairs.{train,eval,test}.tsv`` (label, id1, id2, text1, text2 by tabs, no header), or from those
    in LRA's unpacked release. ``quoting`` reads a field in quotation marks as CSV does, with tabs, line ends
    and doubled quotation marks inside (S4); without it they are text like any other (LRA). ``train``,
    ``validation`` and ``test`` pairs are drawn from their files, stratified by label (0: all).

    ``dataset=newsgroups`` is not in LRA: pairs of 20 Newsgroups posts from ``{train,test}.jsonl[.xz|.gz]``
    (label and text in each object), half of the same group, half of two groups. A tenth of the training
    posts, stratified by group, are kept for validation pairs; a post stands in pairs of one part only, and a
    text that occurs again is left out. ``train``, ``validation`` and ``test`` pairs are drawn from the part's
    posts (0: as many as it has posts, each of them once as the first text).

    Each text is its unchanged bytes, cut to seq_len (LRA: 4,000); byte b has id b + 1. The encoder is
    shared by both sides (models/two_towers.py), so a step encodes 2 batch_size rows.

    Compare scores with the baseline score ``tfidf_cosine``: a threshold on the cosine of the texts' TF-IDF
    vectors. Threshold and vectors come from the same bytes of at most 10,000 training pairs.
    """

    source = (
        "Tay et al. 2021, Long Range Arena (arXiv 2011.04006); Radev et al. 2013, the ACL Anthology Network"
    )

    dataset: Literal["aan", "newsgroups"] = "aan"
    quoting: bool = False

    def check_options(self) -> None:
        """Refuse other data sets, and quotation marks of posts."""
        super().check_options()
        aan = self.dataset == "aan"
        require(aan or self.dataset == "newsgroups", f"dataset is {self.dataset!r}, not aan or newsgroups")
        require(aan or not self.quoting, "quoting is for dataset=aan, whose files have quotation marks")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every row of the files."""
        arrays, digest = self._files.anew(data_dir)
        if self.dataset == "aan":
            self._drawn(arrays, 0)
        else:
            divided_posts(arrays, 0)
        return digest

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the pairs of each part, with the bytes of a side after the cut.

        Of pairs of posts, which are drawn later, a side is a post of its part.
        """
        arrays, _ = self._files.of(data_dir)
        if self.dataset == "aan":
            drawn = self._drawn(arrays, seed)
            lengths = {part: arrays[f"{part}_lengths"][rows] for part, rows in drawn.items()}
        else:
            lengths = {
                part: np.resize(np.diff(arrays[f"{split}_starts"])[rows], self.sizes[part] or len(rows))
                for part, (split, rows) in divided_posts(arrays, seed).items()
            }
        sides = (np.minimum(lengths[part], seq_len) for part in PARTS)
        train, validation, test = (side if side.ndim == 1 else side.mean(axis=1) for side in sides)
        return self.extent_of(train, validation, test, passes=((2, float(train.mean())),))

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Compute the baseline score."""
        self.data(seq_len, seed, data_dir)

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return pairs of texts of at most ``seq_len`` bytes; ``seed`` draws subsets, or pairs of posts."""
        arrays, digest = self._files.of(data_dir)
        if self.dataset == "aan":
            rows = self._drawn(arrays, seed)
            parts = aan_pairs(_aan_folder(data_dir), arrays, rows, seq_len, quoting=self.quoting)
        else:
            parts = post_pairs(arrays, self.sizes, seq_len, seed)
        key = {
            "version": _BASELINE_VERSION,
            "pairs": VERSION,
            "digest": digest,
            "dataset": self.dataset,
            "quoting": self.quoting,
            "seed": seed,
            "sizes": self.sizes,
            "seq_len": seq_len,
        }
        train, test = parts["train"], parts["test"]
        cosine = cached(
            "retrieval-prior", key, lambda: {"accuracy": np.array(tfidf_cosine(train.sides, test.sides))}
        )
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
        """Return two towers that share their encoder."""
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
        """Return ``tokens`` and ``mask`` [B, 2, N], ``labels`` [B], N being the longest side of the pairs."""
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
        """Return arbitrary tokens and labels, both sides full: memory does not depend on their values."""
        import torch

        tokens = torch.arange(batch_size * 2 * seq_len) % (splits.vocab_size - 1) + 1
        return {
            "tokens": tokens.reshape(batch_size, 2, seq_len),
            "mask": torch.ones(batch_size, 2, seq_len, dtype=torch.bool),
            "labels": torch.arange(batch_size) % splits.classes,
        }

    @cached_property
    def _files(self) -> LastRead[tuple[Arrays, str]]:
        return LastRead(self._read)

    def _read(self, data_dir: Path | None) -> tuple[Arrays, str]:
        """Return (index of AAN's files, or all posts; digest of all bytes)."""
        if self.dataset == "aan":
            return aan_index(_aan_folder(data_dir), quoting=self.quoting)
        folder = folder_of(data_dir, *POSTS_FOLDERS)
        if folder is None:
            raise UsageError(
                "retrieval:dataset=newsgroups needs --data-dir DIR with train.jsonl and test.jsonl"
            )
        return read_posts(folder)

    def _drawn(self, index: Arrays, seed: int) -> dict[str, Integers]:
        """Return the rows of each part, stratified by label."""
        rows: dict[str, Integers] = {}
        for i, part in enumerate(PARTS):
            labels = index[f"{part}_labels"]
            count = self.sizes[part] or len(labels)
            if count > len(labels):
                raise UsageError(
                    f"retrieval: {part}={count} exceeds the {len(labels)} pairs of {FILES[part]}"
                )
            order = stratified_order(labels, np.random.default_rng((seed, i)))
            rows[part] = np.sort(order[:count])
        return rows


def _aan_folder(data_dir: Path | None) -> Path:
    folder = folder_of(data_dir, *AAN_FOLDERS)
    if folder is None:
        raise UsageError(
            f"retrieval needs --data-dir DIR with {', '.join(FILES.values())} of Long Range Arena's "
            "release, or for dataset=newsgroups with newsgroups20/"
        )
    return folder
