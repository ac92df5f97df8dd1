"""The base class of tasks on behaviours: their options, files and parts, and the models that they train."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import numpy as np

from effbench.common.extent import Extent
from effbench.common.spec import UsageError
from effbench.measured.data.behaviours import Impressions, Mind, held_out_users, read_mind
from effbench.measured.data.examples import Integers, Splits, padded
from effbench.measured.data.news_titles import News
from effbench.measured.data.reading import folder_of
from effbench.measured.tasks.base import LastRead, TrainedTask, require
from effbench.measured.tasks.text import WordVectors

if TYPE_CHECKING:
    from torch import nn

    from effbench.measured.recommender import MakeRecommender
    from effbench.measured.tasks.base import Batch, MakeMechanism

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "mind": ("mind", "MIND"),
    "amazon-games": ("amazon-games-mind", "amazon-games"),
}
LOCATION = "https://huggingface.co/datasets/yjw1029/MIND (MINDsmall_train.zip and MINDsmall_dev.zip)"
UNLABELLED = -1  # the label of padding behind the candidates of an impression

Rows = dict[str, tuple[str, Integers]]  # part of a task -> part of the files and rows of it


@dataclass(frozen=True, kw_only=True)
class BehaviourSplits(Splits):
    """Parts of behaviours, and the table of news (or other items) that they name."""

    news: News


class Recommendation(TrainedTask, WordVectors):
    """A task on histories and candidates, in MIND's format.

    A subclass brings its ``name`` for messages, ``data``, ``loss`` and ``score``.
    """

    recommends = True
    evaluations: ClassVar[int] = 1
    name: ClassVar[str]
    folders: ClassVar[Mapping[str, tuple[str, ...]]] = FOLDERS

    dataset: str = "mind"  # a subclass says which there are: the keys of ``folders``
    title: int = 30
    train: int = 0
    validation: int = 2_000
    test: int = 0
    vocabulary: int = 50_000
    blocks: Literal["plain", "residual", "encoder"] = "plain"
    ids: bool = False
    query: int = 200
    epochs: int = 3
    lr: float = 1e-4
    dropout: float = 0.2

    def check_options(self) -> None:
        """Refuse other data, and sizes that no recommendation can have."""
        super().check_options()
        self.check_vectors()
        *most, last = self.folders
        allowed = f"{', '.join(most)} or {last}"
        require(self.dataset in self.folders, f"dataset is {self.dataset!r}, not {allowed}")
        for name in ("title", "validation", "vocabulary", "query"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}")
        for name in ("train", "test"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be at least 0 (all), got {value}")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every row of the files."""
        mind, digest = self.files.anew(data_dir)
        self.divided(mind, 0)
        return "-".join(filter(None, (digest, self.vectors_fingerprint())))

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Compute the baseline scores."""
        self.data(seq_len, seed, data_dir)

    @cached_property
    def files(self) -> LastRead[tuple[Mind, str]]:
        """The files of a data folder as they were read, and their digest."""
        return LastRead(self._read)

    def read(self, folder: Path) -> tuple[Mind, str]:
        """Return the behaviours in a folder and the digest of the files."""
        return read_mind(folder)

    def rows(self, mind: Mind, rng: np.random.Generator) -> Rows:
        """Return the rows of train, validation and test in the order of the files."""
        left, held_out = held_out_users(mind.parts["train"], self.validation, rng)
        test = np.arange(len(mind.parts[mind.evaluated]))
        return {"train": ("train", left), "validation": ("train", held_out), "test": (mind.evaluated, test)}

    def divided(self, mind: Mind, seed: int) -> Rows:
        """Return ``rows``, of which the options ``train`` and ``test`` can take fewer, drawn by the seed."""
        rng = np.random.default_rng(seed)
        rows = self.rows(mind, rng)
        for name, count in (("train", self.train), ("test", self.test)):
            of, there = rows[name]
            if count > len(there):
                raise UsageError(
                    f"{self.name}: {name}={count} exceeds the {len(there)} impressions that there are"
                )
            if count:
                rows[name] = of, np.sort(rng.choice(there, count, replace=False))
        return rows

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the impressions of each part, with the news of a history that are kept.

        For an example, a model reads the words of as many titles as history and candidates have. What is
        scored needs each title once.
        """
        mind, _ = self.files.of(data_dir)
        train, validation, test = (
            mind.parts[of].take(rows, seq_len) for of, rows in self.divided(mind, seed).values()
        )
        words = float(np.minimum(np.diff(mind.titles.starts), self.title).mean())
        history, scored = (float(part.lengths.mean()) for part in (train, test))
        examples, candidates = self.examples_of(train)
        extent = self.extent_of(
            train.lengths,
            validation.lengths,
            test.lengths,
            passes=((history + candidates, words), (1, history)),
            scored=((1, scored), (len(mind.titles) / max(1, len(test)), words)),
            vocabulary=self.vocabulary,
        )
        return replace(extent, train=examples)

    def examples_of(self, train: Impressions) -> tuple[int, float]:
        """Return how many examples these impressions are in training, and the mean candidates of one."""
        return len(train), len(train.candidates) / max(1, len(train))

    def parts(self, mind: Mind, seq_len: int, seed: int) -> dict[str, Impressions]:
        """Return the impressions of each part; of a history, the latest ``seq_len`` news."""
        return {
            name: mind.parts[of].take(rows, seq_len) for name, (of, rows) in self.divided(mind, seed).items()
        }

    def news(self, mind: Mind, train: Impressions, seed: int) -> News:
        """Return the table of news, with words by the training part."""
        ids = mind.vocabulary(train, self.vocabulary)
        return News(
            titles=mind.titles.written(),
            tokens=mind.titles.tokens(ids, self.title),
            vocab_size=int(ids.max(initial=1)) + 1,
            vectors=self.vectors_of(ids, mind.titles.lexicon, seed),
            trained=mind.occurs(train),
        )

    @abstractmethod
    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> BehaviourSplits:
        """Return what to train on and impressions to score; of a history, the latest ``seq_len`` news."""

    def model(
        self,
        make_mechanism: MakeMechanism | MakeRecommender,
        *,
        splits: Splits,
        seq_len: int,
        d_model: int,
        layers: int,
    ) -> nn.Module:
        """Return the recommender that the cell names, or the hierarchical model around its mechanism."""
        from effbench.measured.models.hierarchical import Hierarchical
        from effbench.measured.recommender import MakeRecommender

        news = cast(BehaviourSplits, splits).news
        if isinstance(make_mechanism, MakeRecommender):
            return make_mechanism(news, max_len=seq_len, dropout=self.dropout)
        return Hierarchical(
            make_mechanism,
            news,
            d_model=d_model,
            layers=layers,
            max_len=seq_len,
            dropout=self.dropout,
            blocks=self.blocks,
            query=self.query,
            ids=self.ids,
        )

    def full_rows(self, splits: Splits, batch_size: int, seq_len: int, candidates: int) -> Batch:
        """Return full histories and so many candidates, of news that differ as far as there are enough."""
        import torch

        count = len(cast(BehaviourSplits, splits).news) - 1
        rows = torch.arange(batch_size * (seq_len + candidates)) % count + 1
        history, shown = rows.split((batch_size * seq_len, batch_size * candidates))
        return {
            "history": history.reshape(batch_size, seq_len),
            "mask": torch.ones(batch_size, seq_len, dtype=torch.bool),
            "candidates": shown.reshape(batch_size, candidates),
        }

    def _read(self, data_dir: Path | None) -> tuple[Mind, str]:
        folder = folder_of(data_dir, *self.folders[self.dataset])
        if folder is None:
            raise UsageError(f"{self.name} needs {self.needs}")
        return self.read(folder)

    @property
    def needs(self) -> str:
        """The data that the task needs, for a message."""
        return (
            "impressions in MIND's format: pass --data-dir DIR with news.tsv and "
            f"behaviors.tsv of a train and a dev part, such as {LOCATION}"
        )


def shown_to(impressions: Impressions, rows: Integers) -> dict[str, Integers]:
    """Return ``candidates`` [B, C] of impressions, their ``labels`` [B, C], and ``users`` [B].

    Behind the last candidate, candidates are 0 and labels -1.
    """
    starts = impressions.candidate_starts
    return {
        "candidates": padded(impressions.candidates, starts, rows)[0],
        "labels": padded(impressions.labels, starts, rows, fill=UNLABELLED)[0],
        "users": impressions.users[rows],
    }


def batch_of(impressions: Impressions, rows: Integers, shown: Mapping[str, Integers]) -> Batch:
    """Return tensors of ``history`` [B, H] and ``mask`` [B, H] of impressions, and of what was shown."""
    import torch

    history, mask = padded(impressions.history, impressions.history_starts, rows)
    arrays = {"history": history, "mask": mask, **shown}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
