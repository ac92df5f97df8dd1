"""The scores of one setting's trainings, as a choice needs them: means, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from effbench.common.columns import lower_is_better
from effbench.common.spec import UsageError
from effbench.records.analyse.choice_setting import setting_of_trainings
from effbench.records.analyse.scores import metric_of, scores_of
from effbench.records.analyse.seeds import BETTER, SETTING, WORSE, compare, seed_scores
from effbench.records.analyse.summary import label


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The trainings of one setting: ``setting`` says which, ``score`` is the name of the task's metric.

    ``means`` has one row per label, as ``seeds.seed_scores`` returns it.
    """

    raw: pd.DataFrame
    setting: dict[str, Any]
    score: str
    column: str
    means: pd.DataFrame

    @classmethod
    def of(cls, raw: pd.DataFrame, task: str | None, task_seq_len: int | None, seq_len: int) -> Scores:
        """Take the trainings of one setting. Raises UsageError if there are none, or several settings."""
        trained = raw[(raw["probe"] == "accuracy") & (raw["status"] == "ok")]
        if trained.empty:
            raise UsageError("there are no trainings in these folders, and scores come from trainings")
        own = setting_of_trainings(trained, task, task_seq_len, seq_len)
        score = metric_of(own)
        column = scores_of(own).get(score)
        if column is None:
            raise UsageError(f"the trainings of {own['task'].iloc[0]} hold no {score}")
        means = seed_scores(own, metric=column).set_index("mechanism")
        first = own.iloc[0]
        return cls(
            raw=own,
            setting={name: plain(first[name]) for name in SETTING},
            score=score,
            column=column,
            means=means,
        )

    @property
    def lower(self) -> bool:
        """True if the lower score is the better one."""
        return lower_is_better(self.score)

    def best(self, scores: pd.Series) -> str:
        """Return the label of the best of these scores, which are indexed by label."""
        return str(scores.idxmin() if self.lower else scores.idxmax())

    def differences(self, labels: Sequence[str], best: str) -> pd.DataFrame:
        """Return ``seeds.compare`` of the labels with ``best``, by label; Holm's correction is over them."""
        return compare(self._only([*labels, best]), metric=self.column, against=best).set_index("mechanism")

    def worse(self, labels: Sequence[str]) -> dict[str, pd.Series]:
        """Return the labels that score significantly worse than another, each with its largest difference.

        Every pair is compared, and Holm's correction is over all pairs.
        """
        pairs = compare(self._only(labels), metric=self.column, against=None)
        turned = pairs.rename(columns={"mechanism": "against", "against": "mechanism"})
        turned = turned.assign(difference=-pairs["difference"], low=-pairs["high"], high=-pairs["low"])
        turned["verdict"] = pairs["verdict"].replace({WORSE: BETTER, BETTER: WORSE})
        both = pd.concat([pairs, turned], ignore_index=True)
        lost = both[both["verdict"] == WORSE].sort_values(
            ["difference", "against"], ascending=[not self.lower, True]
        )
        return {str(name): group.iloc[0] for name, group in lost.groupby("mechanism")}

    def _only(self, labels: Sequence[str]) -> pd.DataFrame:
        names = [label(m, o) for m, o in zip(self.raw["mechanism"], self.raw["options"], strict=True)]
        return self.raw[pd.Series(names, index=self.raw.index).isin(list(labels))]


def plain(value: Any) -> Any:
    """Return a number of numpy as one of Python."""
    return value.item() if hasattr(value, "item") else value
