"""News recommendation: rank the candidates of an impression for a user, by the titles that the user read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from effbench.common import columns
from effbench.common.bootstrap import Floats
from effbench.common.predictions import Predictions
from effbench.common.ranking import METRICS, impression_scores, intervals, mean_scores
from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.measured.data import corpus, mind_rows
from effbench.measured.data.behaviours import Impressions
from effbench.measured.data.cache import cached
from effbench.measured.data.clicks import Clicks, clicks_of
from effbench.measured.data.examples import Integers, Splits, ragged_places
from effbench.measured.data.recommending_baselines import recommending_baselines
from effbench.measured.tasks.base import require
from effbench.measured.tasks.recommendation import BehaviourSplits, Recommendation, batch_of, shown_to

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.tasks.base import Batch

_BASELINE_VERSION = 1  # of the baseline scores
_TOGETHER = 2**16  # impressions without labels that are predicted together


@dataclass(frozen=True, kw_only=True)
class NewsSplits(BehaviourSplits):
    """The parts of a recommendation task, and the table of news that they name.

    ``evaluated`` is the part of the files that ``test`` is taken from; ``unlabelled`` is the test part if it
    has no labels, with whole histories.
    """

    train: Clicks  # type: ignore[assignment]  # parts of our own: see Task
    validation: Impressions  # type: ignore[assignment]
    test: Impressions  # type: ignore[assignment]
    evaluated: str = "test"
    unlabelled: Impressions | None = None


class NewsRecommendation(Recommendation):
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
    over the history. ``blocks`` says what is around it, ``query`` is the width of the
    pooling's query, ``ids`` adds an embedding of each news to its title.
    A recommender (``-m nrms``) is a model of its own, and these options do not concern it.

    Scores are means over the impressions of the test part with a clicked and another candidate. Compare them
    with the baseline scores ``popularity`` and ``tfidf``.
    """

    source = "Wu et al. 2020, MIND: A Large-scale Dataset for News Recommendation (ACL)"
    metric = "auc"
    name = "news"
    predicts = True

    dataset: Literal["mind", "amazon-games"] = "mind"
    negatives: int = 4

    def check_options(self) -> None:
        """Refuse what no recommendation can have."""
        super().check_options()
        require(self.negatives >= 1, f"negatives must be at least 1, got {self.negatives}")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every row of the files, and refuse parts of which no impression can be scored."""
        found = super().fingerprint(data_dir)
        mind, _ = self.files.of(data_dir)
        parts = self.divided(mind, 0)
        for name in ("validation", "test"):
            of, rows = parts[name]
            if not mind.parts[of].contrasted[rows].any():
                raise UsageError(
                    f"{self.name}: no impression of the {name} part has both a clicked and another candidate "
                    f"({plural(len(rows), 'impression')}): take more with {name}="
                )
        return found

    def examples_of(self, train: Impressions) -> tuple[int, float]:
        """Return how many clicks can be trained on, and the candidates of one."""
        return len(clicks_of(train)), 1.0 + self.negatives

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> NewsSplits:
        """Return clicks to train on and impressions to score; of a history, the latest ``seq_len`` news."""
        mind, digest = self.files.of(data_dir)
        train, validation, test = self.parts(mind, seq_len, seed).values()
        news = self.news(mind, train, seed)
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
            return batch_of(impressions, of, shown)
        return batch_of(part, rows, shown_to(part, rows))

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Return full histories of news that differ as far as there are enough."""
        return self.full_rows(splits, batch_size, seq_len, 1 + self.negatives)

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
        _predictions(model, splits.test, seq_len, batches).write(folder, splits.evaluated)
        if splits.unlabelled is not None:
            _predictions(model, splits.unlabelled, seq_len, batches).write(folder, "test")

    def measurements(self, model: nn.Module, splits: Splits, seq_len: int) -> Mapping[str, float]:
        """Return how fast news and users are encoded and candidates are ranked."""
        from effbench.measured.models.recommender_speed import speeds
        from effbench.measured.recommender import Recommender

        return speeds(cast(Recommender, model), seq_len)


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
