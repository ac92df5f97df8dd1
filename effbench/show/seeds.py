"""Trainings compared over seeds: scores, paired differences, and what could be told."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from effbench.analyse.seeds import BETTER, SETTING, UNTOLD, WORSE, compare, seed_scores, trainings
from effbench.show import units
from effbench.show.tables import each_row
from effbench.spec import UsageError

METRICS = {"accuracy": "accuracy", "test_macro_f1": "macro F1"}
EVERY = "all"


def comparison(raw: pd.DataFrame, against: str) -> pd.DataFrame:
    """The rows of :func:`effbench.analyse.seeds.compare` for accuracy and macro F1; ``all``: every pair.

    Raises UsageError if there are no trainings, or none of ``against``.
    """
    if trainings(raw).empty:
        raise UsageError("there are no trainings to compare: nothing was measured with --probe accuracy")
    chosen = None if against == EVERY else against
    tables = [
        compare(raw, metric=metric, against=chosen)
        for metric in METRICS
        if metric in raw and raw[metric].any()
    ]
    return pd.concat([table for table in tables if not table.empty] or tables[:1], ignore_index=True)


def comparison_tables(raw: pd.DataFrame, against: str) -> RenderableType:
    """A table a setting and metric: means with intervals, differences, verdicts, seeds that would tell."""
    found = comparison(raw, against)
    if found.empty:
        return Text(f"nothing was trained in one setting with {against}")
    parts: list[RenderableType] = []
    scores = pd.concat([seed_scores(raw, metric=metric) for metric in METRICS if metric in raw])
    for key, group in found.groupby([*SETTING, "metric"], sort=False, dropna=False):
        setting = dict(zip([*SETTING, "metric"], key, strict=True))
        same = scores["metric"] == setting["metric"]
        for name in SETTING:
            same &= (scores[name] == setting[name]) | (scores[name].isna() & pd.isna(setting[name]))
        means = scores[same].set_index("mechanism")
        parts += [_table(group, means, setting), _sentence(group)]
    return Group(*parts)


def _table(group: pd.DataFrame, means: pd.DataFrame, setting: dict[str, Any]) -> Table:
    title = (
        f"\n{setting['task']}: {METRICS[setting['metric']]} in points, N = {setting['seq_len']}, "
        f"{setting['layers']} blocks, d_model {setting['d_model']}, {setting['heads']} heads, "
        f"batch {setting['batch_size']}"
    )
    rivals = group["against"].unique()
    title += f", against {rivals[0]}" if len(rivals) == 1 else ""
    table = Table(
        title=escape(title),
        title_justify="left",
        pad_edge=False,
        box=None,
        padding=(0, 1),
        title_style="bold",
    )
    table.add_column("mechanism", overflow="fold")
    if len(rivals) > 1:
        table.add_column("against", overflow="fold")
    for name in ("score", "difference", "95 % interval", "p, Holm", "seeds", "would tell"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in each_row(group.sort_values("difference", ascending=False)):
        known = pd.notna(row.low)
        table.add_row(
            escape(row.mechanism),
            *([escape(row.against)] if len(rivals) > 1 else []),
            units.percent(means.loc[row.mechanism, "mean"]),
            "" if pd.isna(row.difference) else units.points(row.difference),
            f"{units.points(row.low)} to {units.points(row.high)}" if known else "",
            f"{row.p_holm:.3f}" if pd.notna(row.p_holm) else "",
            str(row.seeds),
            row.seeds_to_tell if row.verdict == UNTOLD else "",
            row.verdict if row.verdict in (BETTER, WORSE) else "cannot be told",
        )
    return table


def _sentence(group: pd.DataFrame) -> Text:
    told = group["verdict"].isin([BETTER, WORSE])
    others = sorted(set(group.loc[~told, "verdict"]))
    said = f"{told.sum()} of {len(group)} differences told apart (paired by seed, Holm over the {len(group)})"
    return Text("; the others: ".join([said, ", ".join(others)]) if others else said, "dim")
