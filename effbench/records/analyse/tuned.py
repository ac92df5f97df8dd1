"""Choose the value of a task's option for each mechanism, by the validation score of its trainings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from effbench.common.columns import lower_is_better
from effbench.common.spec import UsageError
from effbench.records.analyse.scores import validation_metric_of
from effbench.records.analyse.seeds import SETTING
from effbench.records.analyse.summary import label
from effbench.records.analyse.task_options import DEFAULT, options_in_words, without_option


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The raw frame of the trainings that were chosen, and all that they were chosen from.

    ``choices`` has one row per setting, ``mechanism`` (a label) and ``value`` of the option, the chosen one
    first. ``metric`` is the score that trainings stop on, and ``mean`` its mean on the validation part over
    the ``seeds`` that all values of the mechanism have in common. A value without a successful training is
    last, with its ``status`` and no mean.
    """

    raw: pd.DataFrame
    option: str
    choices: pd.DataFrame

    def beside(self, table: pd.DataFrame, *names: str) -> pd.DataFrame:
        """Return a table of mechanisms with the value that was chosen for each, in a column for each name.

        ``names`` are columns of labels. The column of ``mechanism`` is ``mechanism_tuned``: ``lr=0.008``.
        """
        chosen = self.choices.drop_duplicates([*SETTING, "mechanism"])
        chosen = chosen.assign(tuned=self.option + "=" + chosen["value"])[[*SETTING, "mechanism", "tuned"]]
        for name in names:
            own = chosen.rename(columns={"mechanism": name, "tuned": f"{name}_tuned"})
            table = table.merge(own, how="left", on=[*SETTING, name])
        return table


def tuned(raw: pd.DataFrame, option: str) -> Tuned:
    """Choose a value of a task's option, such as ``lr``, for each setting and mechanism.

    The value with the best mean validation score is chosen; the test part has no influence. Trainings with
    other values are left out, and the tasks of the others lose the option: so those of different values have
    one setting. A value without a successful training cannot be chosen.

    Raises UsageError if no training was given the option, or if the values of a mechanism have no seed in
    common.
    """
    rows = raw[raw["probe"] == "accuracy"] if len(raw) else raw
    split = [without_option(str(task), option) for task in rows["task"]]
    if all(value == DEFAULT for _, value in split):
        raise UsageError(f"no training was given the task option {option}; {options_in_words(rows['task'])}")
    rows = rows.assign(
        task=[task for task, _ in split],
        value=[value for _, value in split],
        label=[label(m, o) for m, o in zip(rows["mechanism"], rows["options"], strict=True)],
    )
    kept, choices = [], []
    for key, group in rows.groupby([*SETTING, "label"], sort=False, dropna=False):
        means = _means(group, option)
        kept.append(group[group["value"] == means.iloc[0]["value"]])
        choices.append(means.assign(**dict(zip([*SETTING, "mechanism"], key, strict=True))))
    return Tuned(
        raw=pd.concat(kept).sort_index().drop(columns=["value", "label"]),
        option=option,
        choices=pd.concat(choices, ignore_index=True),
    )


def _means(group: pd.DataFrame, option: str) -> pd.DataFrame:
    """Return ``value``, ``metric``, ``mean``, ``seeds`` and ``status`` of each value, the best first."""
    metric = validation_metric_of(group)
    column = f"validation_{metric}"
    trained = group[(group["status"] == "ok") & (group[column].notna() if column in group else False)]
    failed = group[~group["value"].isin(trained["value"])]
    failures = pd.DataFrame(
        [
            {"value": value, "metric": metric, "mean": math.nan, "seeds": 0, "status": _statuses(own)}
            for value, own in failed.groupby("value", sort=False)
        ]
    )
    if trained.empty:
        return failures
    scores = trained.pivot_table(index=["seed", "repeat"], columns="value", values=column).dropna()
    if scores.empty:
        row, values = group.iloc[0], ", ".join(sorted(set(trained["value"])))
        raise UsageError(
            f"{row['label']} on {row['task']} at {row['seq_len']}: its trainings with {option} {values} have "
            "no seed in common"
        )
    means = scores.mean().sort_values(ascending=lower_is_better(metric), kind="stable")
    tried = {"value": means.index, "metric": metric, "mean": means.to_numpy(), "seeds": len(scores)}
    return pd.concat([pd.DataFrame(tried).assign(status="ok"), failures], ignore_index=True)


def _statuses(rows: pd.DataFrame) -> str:
    """Return why a value has no score: the statuses of its trainings."""
    return ", ".join(sorted(set(rows["status"]) - {"ok"})) or "no validation score"
