"""News recommendation: rank the candidates of an impression for a user, by the titles that the user read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from effbench.common import columns
from effbench.common.predictions import Predictions
from effbench.common.ranking import METRICS, Floats, impression_scores, intervals, mean_scores
from effbench.common.spec import UsageError
from effbench.measured.data import corpus, mind_rows
from effbench.measured.data.behaviours import Impressions, Mind, held_out_users, read_mind
from effbench.measured.data.cache import cached
from effbench.measured.data.clicks import Clicks, clicks_of, padded
from effbench.measured.data.examples import Integers, Splits, ragged_places
from effbench.measured.data.news_titles import News
from effbench.measured.data.reading import folder_of
from effbench.measured.data.recommending_baselines import recommending_baselines
from effbench.measured.tasks.base import LastRead, TrainedTask, require
from effbench.measured.tasks.text import WordVectors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.recommender import MakeRecommender
    from effbench.measured.tasks.base import Batch, MakeMechanism

FOLDERS = {"mind": ("mind", "MIND"), "amazon-games": ("amazon-games-mind", "amazon-games")}
LOCATION = "https://huggingface.co/datasets/yjw1029/MIND (MINDsmall_train.zip and MINDsmall_dev.zip)"
UNLABELLED = -1  # the label of padding behind the candidates of an impression

_BASELINE_VERSION = 1  # of the baseline scores
_TOGETHER = 2**16  # impressions without labels that are predicted together


@dataclass(frozen=True, kw_only=True)
class NewsSplits(Splits):
    """The parts of a recommendation task, and the table of news that they name.

    ``evaluated`` is the part of the files that ``test`` is taken from; ``unlabelled`` is the test part if it
    has no labels, with whole histories.
    """

    train: Clicks  # type: ignore[assignment]  # parts of our own: see Task
    validation: Impressions  # type: ignore[assignment]
    test: Impressions  # type: ignore[assignment]
    news: News
    evaluated: str = "test"
    unlabelled: Impressions | None = None


class NewsRecommendation(TrainedTask, WordVectors):
    """Rank the news that a user was shown by the titles of those that the user clicked before (MIND).

    Reads MIND's ``news.tsv`` and ``behaviors.tsv`` from the data folder, or its folder ``mind`` or ``MIND``:
    plain, packed with xz or gzip, or in the zips as distributed, of a training part and a dev or test part.
    ``dataset=amazon-games`` reads the same format from ``amazon-games-mind``: purchases of games, not news,
    whose negatives were sampled.

    seq_len is the longest history: the latest clicks are kept. ``title`` words of each title are read.
    A model is trained on each click beside ``negatives`` candidates of the same impression without a click,
    drawn anew each epoch, by the cross-entropy of the click among them. ``validation`` impressions, of users
    that are left out of the training part, choose the weights; ``train`` training and ``test`` test
    impressions are drawn by the seed (0: all).

    A mechanism (``-m fastformer``) stands in a hierarchical model, once over the words of a title and once
    over the history. ``blocks`` says what is around it, ``ids`` adds an embedding of each news to its title.
    A recommender (``-m nrms``) is a model of its own, and these two options do not concern it.

    Scores are means over the impressions of the test part with a clicked and another candidate. Compare them
    with the baseline scores ``popularity`` and ``tfidf``.
    """

    source = "Wu et al. 2020, MIND: A Large-scale Dataset for News Recommendation (ACL)"
    metric = "auc"
    recommends = True
    predicts = True
    evaluations: ClassVar[int] = 1

    dataset: Literal["mind", "amazon-games"] = "mind"
    title: int = 30
    negatives: int = 4
    train: int = 0
    validation: int = 2_000
    test: int = 0
    vocabulary: int = 50_000
    blocks: Literal["plain", "residual", "encoder"] = "plain"
    ids: bool = False
    epochs: int = 3
    lr: float = 1e-4
    dropout: float = 0.2

    def check_options(self) -> None:
        """Refuse other data, and sizes that no recommendation can have."""
        super().check_options()
        self.check_vectors()
        require(self.dataset in FOLDERS, f"dataset is {self.dataset!r}, not {' or '.join(FOLDERS)}")
        for name in ("title", "negatives", "validation", "vocabulary"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}")
        for name in ("train", "test"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be at least 0 (all), got {value}")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every row of the files."""
        mind, digest = self._files.anew(data_dir)
        self._divided(mind, 0)
        return "-".join(filter(None, (digest, self.vectors_fingerprint())))

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Compute the baseline scores."""
        self.data(seq_len, seed, data_dir)

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> NewsSplits:
        """Return clicks to train on and impressions to score; of a history, the latest ``seq_len`` news."""
        mind, digest = self._files.of(data_dir)
        parts = self._divided(mind, seed)
        train = mind.parts["train"].take(parts["train"], seq_len)
        validation = mind.parts["train"].take(parts["validation"], seq_len)
        test = mind.parts[mind.evaluated].take(parts["test"], seq_len)
        trained = mind.occurs(train)
        ids = mind.titles.vocabulary(trained, self.vocabulary)
        news = News(
            titles=mind.titles.written(),
            tokens=mind.titles.tokens(ids, self.title),
            vocab_size=int(ids.max(initial=1)) + 1,
            vectors=self.vectors_of(ids, mind.titles.lexicon, seed),
            trained=trained,
        )
        clicks = clicks_of(train)
        key = {
            "version": _BASELINE_VERSION,
            "mind": mind_rows.VERSION,
            "words": corpus.VERSION,
            "digest": digest,
            "seed": seed,
            "sizes": (self.train, self.validation, self.test),
            "seq_len": seq_len,
        }

        def baselines() -> dict[str, np.ndarray]:
            scores = recommending_baselines(mind.titles, train, test)
            return {
                f"{name}_{metric}": np.array(of[metric]) for name, of in scores.items() for metric in METRICS
            }

        stored = cached("news-baselines", key, baselines)
        return NewsSplits(
            train=clicks,
            validation=validation,
            test=test,
            vocab_size=news.vocab_size,
            classes=2,
            priors={name.removesuffix(f"_{self.metric}"): float(score) for name, score in stored.items()},
            facts={**mind.facts, **test.facts(), "train_clicks": len(clicks), "news": len(news) - 1},
            news=news,
            evaluated=mind.evaluated,
            unlabelled=mind.parts.get("test") if mind.evaluated == "dev" else None,
        )

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

        news = cast(NewsSplits, splits).news
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
            ids=self.ids,
        )

    def batch(self, part: Clicks | Impressions, rows: Integers) -> Batch:  # type: ignore[override]
        """Return news rows ``history`` [B, H], ``mask`` [B, H] and ``candidates`` [B, C].

        Of clicks, the clicked news is candidate 0 of 1 + negatives. Of impressions, candidates are all that
        were shown, and there are ``labels`` [B, C], -1 behind the last candidate, and ``users`` [B].
        """
        import torch

        if isinstance(part, Clicks):
            impressions, of = part.impressions, part.impression[rows]
            random = torch.rand(part.negatives_of(rows)).numpy()  # torch's state is part of a checkpoint
            shown = {"candidates": part.candidates(rows, self.negatives, random)}
        else:
            impressions, of = part, rows
            starts = impressions.candidate_starts
            shown = {
                "candidates": padded(impressions.candidates, starts, rows)[0],
                "labels": padded(impressions.labels, starts, rows, fill=UNLABELLED)[0],
                "users": impressions.users[rows],
            }
        history, mask = padded(impressions.history, impressions.history_starts, of)
        arrays = {"history": history, "mask": mask, **shown}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Return full histories of news that differ as far as there are enough."""
        import torch

        count = len(cast(NewsSplits, splits).news) - 1
        rows = torch.arange(batch_size * (seq_len + 1 + self.negatives)) % count + 1
        history, candidates = rows.split((batch_size * seq_len, batch_size * (1 + self.negatives)))
        return {
            "history": history.reshape(batch_size, seq_len),
            "mask": torch.ones(batch_size, seq_len, dtype=torch.bool),
            "candidates": candidates.reshape(batch_size, 1 + self.negatives),
        }

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the click among its candidates."""
        import torch

        scores = model(batch["history"], batch["mask"], batch["candidates"])
        clicked = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        return torch.nn.functional.cross_entropy(scores, clicked)

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
        """Return MIND's metrics with their intervals over users, and how many impressions they count."""
        scores, labels, users, sizes = [], [], [], []
        for batch, given in _ranked(model, batches):
            shown = batch["candidates"] != 0
            scores.append(given)
            labels.append(batch["labels"][shown].cpu().numpy())
            users.append(batch["users"].cpu().numpy())
            sizes.append(shown.sum(dim=1).cpu().numpy())
        starts = np.concatenate(([0], np.cumsum(np.concatenate(sizes))))
        each = impression_scores(np.concatenate(scores), np.concatenate(labels), starts)
        found: dict[str, Any] = {**mean_scores(each)}
        for metric, (low, high) in intervals(each, np.concatenate(users)).items():
            found |= dict(zip(columns.bounds(metric), (low, high, "bootstrap over users"), strict=True))
        return found

    def write_predictions(
        self,
        model: nn.Module,
        splits: Splits,
        seq_len: int,
        batches: Callable[[Any], Iterator[tuple[Integers, Batch]]],
        folder: Path,
    ) -> None:
        """Write the scores and ranks of the scored part, and of a test part without labels."""
        splits = cast(NewsSplits, splits)
        parts = {splits.evaluated: splits.test, "test": splits.unlabelled}
        for name, part in parts.items():
            if part is not None:
                _predictions(model, part, seq_len, batches).write(folder, name)

    def speeds(self, model: nn.Module, splits: Splits, seq_len: int) -> Mapping[str, float]:
        """Return how fast news and users are encoded and candidates are ranked."""
        from effbench.measured.models.recommender_speed import speeds
        from effbench.measured.recommender import Recommender

        return speeds(cast(Recommender, model), seq_len)

    @cached_property
    def _files(self) -> LastRead[tuple[Mind, str]]:
        return LastRead(self._read)

    def _read(self, data_dir: Path | None) -> tuple[Mind, str]:
        folder = folder_of(data_dir, *FOLDERS[self.dataset])
        if folder is None:
            raise UsageError(
                "news needs impressions in MIND's format: pass --data-dir DIR with news.tsv and "
                f"behaviors.tsv of a train and a dev part, such as {LOCATION}"
            )
        return read_mind(folder)

    def _divided(self, mind: Mind, seed: int) -> dict[str, Integers]:
        """Return the rows of each part, in the order of the files."""
        rng = np.random.default_rng(seed)
        left, held_out = held_out_users(mind.parts["train"], self.validation, rng)
        test = np.arange(len(mind.parts[mind.evaluated]))
        rows = {"train": left, "validation": held_out, "test": test}
        for name, count in (("train", self.train), ("test", self.test)):
            if count > len(rows[name]):
                raise UsageError(
                    f"news: {name}={count} exceeds the {len(rows[name])} impressions that there are"
                )
            if count:
                rows[name] = np.sort(rng.choice(rows[name], count, replace=False))
        return rows


def _ranked(model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Floats]]:
    """Yield each batch with the scores of all its real candidates, row after row."""
    import torch

    from effbench.measured.recommender import Recommender

    recommender = cast(Recommender, model)
    device = next(model.parameters()).device
    features = recommender.encode(torch.arange(recommender.news_rows, device=device))
    for batch in batches:
        given = recommender.score(features[batch["history"]], batch["mask"], features[batch["candidates"]])
        yield batch, given[batch["candidates"] != 0].float().cpu().numpy()


def _predictions(
    model: nn.Module,
    part: Impressions,
    seq_len: int,
    batches: Callable[[Any], Iterator[tuple[Integers, Batch]]],
) -> Predictions:
    """Return the scores of all candidates of a part, in its order; histories are cut to ``seq_len``."""
    scores = np.empty(len(part.candidates), dtype=np.float32)
    for first in range(0, len(part), _TOGETHER):
        piece = part.take(np.arange(first, min(first + _TOGETHER, len(part))), seq_len)
        order: list[Integers] = []

        def ordered(piece: Impressions = piece, order: list[Integers] = order) -> Iterator[Batch]:
            for rows, batch in batches(piece):
                order.append(rows)
                yield batch

        given = np.concatenate([given for _, given in _ranked(model, ordered())])
        places, _ = ragged_places(piece.candidate_starts, np.concatenate(order))
        scores[part.candidate_starts[first] + places] = given
    return Predictions(
        scores=scores,
        labels=part.labels,
        starts=part.candidate_starts,
        users=part.users,
        ids=part.ids,
    )
