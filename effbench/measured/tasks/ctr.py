"""Click-through rates: predict how likely a user clicks a candidate, by what the user clicked before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from effbench.common import columns
from effbench.common.spec import UsageError
from effbench.measured.data import corpus, hashed_logreg, mind_rows
from effbench.measured.data.behaviour_table import VERSION as TABLE_VERSION
from effbench.measured.data.behaviour_table import TableColumns, read_table
from effbench.measured.data.behaviours import Impressions, Mind, held_out_users
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.click_scores import calibration_bins, click_intervals, click_scores
from effbench.measured.data.examples import Integers, Splits
from effbench.measured.tasks.base import require
from effbench.measured.tasks.recommendation import (
    FOLDERS,
    BehaviourSplits,
    Recommendation,
    Rows,
    batch_of,
    shown_to,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.models.pointwise import Pointwise
    from effbench.measured.recommender import MakeRecommender, Recommender
    from effbench.measured.tasks.base import Batch, MakeMechanism

_BASELINE_VERSION = 1  # of the baseline scores


@dataclass(frozen=True, kw_only=True)
class ClickSplits(BehaviourSplits):
    """The parts, whose impressions all have labels, and the share of the training candidates clicked."""

    train: Impressions  # type: ignore[assignment]  # parts of our own: see Task
    validation: Impressions  # type: ignore[assignment]
    test: Impressions  # type: ignore[assignment]
    rate: float


class ClickThrough(Recommendation):
    """Predict the probability that a user clicks what the user is shown (MIND, or a table of behaviour).

    Reads the files of the task ``news``. ``dataset=table`` reads ``train`` and ``test`` as .csv or .parquet
    from the data folder, or its folder ``ctr``: a row for each item that was shown, with the columns that the
    options ``history`` (item ids with blanks or | between, or a list), ``item`` and ``label`` (0 or 1) name.
    A column of users is named by ``user``, or is called user. ``items.csv`` or ``items.parquet`` may have the
    columns item and title; without it, an item's only word is its id.

    ``split=files`` scores the part of the files that is for it; ``split=users`` leaves users out of the
    training part and scores them instead: ``test`` impressions of them (0: a tenth). Use it where the two
    parts have other shares of clicks because negatives were sampled: a rate learned on one cannot be right on
    the other. The row has both shares.

    Models and options are those of ``news``. Every candidate that was shown is an example, by the
    cross-entropy of its label; a batch is ``batch_size`` impressions with all of their candidates. Training
    stops on the AUC of the validation part, a share of 1 as plots of scores expect.

    Scores count all candidates of the test part together. Compare them with the baseline scores of
    ``base_rate``, the training part's share of clicks for everyone, and of ``logreg``, logistic regression on
    hashed features.
    """

    source = "Wu et al. 2021, Fastformer (arXiv 2108.09084), section 5: future work; scores: He et al. 2014"
    metric = "auc"
    name = "ctr"
    folders: ClassVar[Mapping[str, tuple[str, ...]]] = {**FOLDERS, "table": ("ctr",)}

    dataset: Literal["mind", "amazon-games", "table"] = "mind"
    split: Literal["files", "users"] = "files"
    user: str = ""
    history: str = "history"
    item: str = "item"
    label: str = "label"

    def check_options(self) -> None:
        """Refuse another split, and names of columns that cannot be."""
        super().check_options()
        require(self.split in ("files", "users"), f"split is {self.split!r}, not files or users")
        named = [name for name in (self.user, self.history, self.item, self.label) if name]
        for option in ("history", "item", "label"):
            require(getattr(self, option) != "", f"{option} is empty, not the name of a column")
        require(len(set(named)) == len(named), "user, history, item and label must be different columns")

    @property
    def needs(self) -> str:
        """The data that the task needs, for a message."""
        if self.dataset == "table":
            return "a table of behaviour: pass --data-dir DIR with train and test as .csv or .parquet"
        return super().needs

    def read(self, folder: Path) -> tuple[Mind, str]:
        """Return the behaviours in a folder and the digest of the files."""
        if self.dataset != "table":
            return super().read(folder)
        named = TableColumns(user=self.user, history=self.history, item=self.item, label=self.label)
        return read_table(folder, named)

    def rows(self, mind: Mind, rng: np.random.Generator) -> Rows:
        """Return the rows of each part whose candidates have labels. Raises UsageError for equal labels."""
        if self.split == "files":
            rows = super().rows(mind, rng)
        else:
            train = mind.parts["train"]
            left, test = held_out_users(train, self.test or max(1, len(train) // 10), rng, "test")
            kept, validation = held_out_users(train.take(left), self.validation, rng)
            rows = {name: ("train", of) for name, of in
                    (("train", left[kept]), ("validation", left[validation]), ("test", test))}  # fmt: skip
        return {name: (part, of[mind.parts[part].labelled[of]]) for name, (part, of) in rows.items()}

    def divided(self, mind: Mind, seed: int) -> Rows:
        """Return the rows of each part. Raises UsageError where all candidates of one have the same label."""
        rows = super().divided(mind, seed)
        for name, (part, of) in rows.items():
            candidates = mind.parts[part].take(of, 0)
            if not 0 < int(candidates.clicks.sum()) < len(candidates.labels):
                raise UsageError(
                    f"ctr: of the {len(candidates.labels)} candidates of the {name} part all or none were "
                    "clicked; it needs both"
                )
        return rows

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> ClickSplits:
        """Return impressions to train on and to score; of a history, the latest ``seq_len`` items."""
        mind, digest = self.files.of(data_dir)
        parts = self.parts(mind, seq_len, seed)
        train, test = parts["train"], parts["test"]
        rate = float((train.labels == 1).mean())
        news = self.news(mind, train, seed)
        key = {
            "version": (_BASELINE_VERSION, hashed_logreg.VERSION),
            "files": (mind_rows.VERSION, TABLE_VERSION),
            "words": corpus.VERSION,
            "digest": digest,
            "seed": seed,
            "sizes": (self.train, self.validation, self.test, self.split),
            "seq_len": seq_len,
        }

        def baselines() -> Arrays:
            log_odds = hashed_logreg.hashed_logreg(mind.titles, **parts, seed=seed)
            constant = np.full(len(test.labels), np.log(rate / (1 - rate)))
            arrays = {
                f"prior_{name}_{score}": np.array(value)
                for name, given in (("base_rate", constant), ("logreg", log_odds))
                for score, value in click_scores(given, test.labels).items()
            }
            bins = calibration_bins(log_odds, test.labels)
            return arrays | {f"logreg_bin_{name}": values for name, values in bins.items()}

        stored = cached("ctr-baselines", key, baselines)
        return ClickSplits(
            **parts,  # type: ignore[arg-type]
            vocab_size=news.vocab_size,
            classes=2,
            priors={
                name.removeprefix("prior_").removesuffix(f"_{self.metric}"): float(score)
                for name, score in stored.items()
                if name.startswith("prior_")
            },
            facts={
                **mind.facts,
                "without_history": test.facts()["without_history"],
                "without_labels": sum(
                    int((~mind.parts[part].labelled).sum()) for part in self._read_from(mind)
                ),
                "train_click_share": rate,
                "test_click_share": float((test.labels == 1).mean()),
                "train_candidates": len(train.labels),
                "news": len(news) - 1,
            },
            series={
                name: tuple(values.tolist())
                for name, values in stored.items()
                if name.startswith("logreg_bin_")
            },
            news=news,
            rate=rate,
        )

    def _read_from(self, mind: Mind) -> set[str]:
        """Return the parts of the files that the task's parts are made of."""
        return {"train"} if self.split == "users" else {"train", mind.evaluated}

    def model(
        self,
        make_mechanism: MakeMechanism | MakeRecommender,
        *,
        splits: Splits,
        seq_len: int,
        d_model: int,
        layers: int,
    ) -> nn.Module:
        """Return the model of ``news`` with a learned scale and bias of its scores."""
        from effbench.measured.models.pointwise import Pointwise

        made = super().model(make_mechanism, splits=splits, seq_len=seq_len, d_model=d_model, layers=layers)
        return Pointwise(cast("Recommender", made), cast(ClickSplits, splits).rate)

    def batch(self, part: Impressions, rows: Integers) -> Batch:  # type: ignore[override]
        """Return news rows ``history`` [B, H] with ``mask``, ``candidates`` [B, C], ``labels`` and ``users``.

        Behind the last candidate of an impression, candidates are 0 and labels -1.
        """
        return batch_of(part, rows, shown_to(part, rows))

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Return full histories, with the most candidates of a training impression."""
        import torch

        train = cast(ClickSplits, splits).train
        batch = self.full_rows(splits, batch_size, seq_len, int(np.diff(train.candidate_starts).max()))
        labels = torch.arange(batch["candidates"].numel()).reshape(batch["candidates"].shape) % 2
        return {**batch, "labels": labels}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the labels of all candidates, in nats."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        log_odds = model(batch["history"], batch["mask"], batch["candidates"])
        shown = batch["labels"] >= 0
        return binary_cross_entropy_with_logits(log_odds[shown], batch["labels"][shown].float())

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
        """Return ``click_scores`` with intervals over users, counts, and the bins of the calibration."""
        import torch

        pointwise = cast("Pointwise", model)
        recommender = pointwise.recommender
        features = recommender.encode(torch.arange(recommender.news_rows, device=pointwise.bias.device))
        given, truth, readers = [], [], []
        for batch in batches:
            shown = batch["labels"] >= 0
            scores = recommender.score(
                features[batch["history"]], batch["mask"], features[batch["candidates"]]
            )
            given.append(pointwise.log_odds(scores)[shown].cpu().numpy())
            truth.append(batch["labels"][shown].cpu().numpy())
            readers.append(batch["users"][:, None].expand(shown.shape)[shown].cpu().numpy())
        log_odds, labels, users = (np.concatenate(values) for values in (given, truth, readers))
        found: dict[str, Any] = {**click_scores(log_odds, labels)}
        for name, (low, high) in click_intervals(log_odds, labels, users).items():
            found |= dict(zip(columns.bounds(name), (low, high, "bootstrap over users"), strict=True))
        bins = calibration_bins(log_odds, labels)
        found |= {f"bin_{name}": tuple(values.tolist()) for name, values in bins.items()}
        return found | {"candidates": len(labels), "clicks": int(labels.sum())}

    def measurements(self, model: nn.Module, splits: Splits, seq_len: int) -> Mapping[str, float]:
        """Return how fast items and users are encoded and candidates are scored."""
        from effbench.measured.models.recommender_speed import speeds

        return speeds(cast("Pointwise", model).recommender, seq_len)
