"""Trainings compared over seeds: scores, paired differences, and their significance."""

from __future__ import annotations

from typing import Any

import pandas as pd

from effbench.common import columns
from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.records.analyse.scores import scores_of
from effbench.records.analyse.seeds import BETTER, NOT_SIGNIFICANT, SETTING, WORSE, compare, seed_scores
from effbench.show import units
from effbench.show.blocks import Block
from effbench.show.tables import each_row

EVERY = "all"
_VERDICTS = {BETTER: BETTER, WORSE: WORSE, NOT_SIGNIFICANT: "n.s."}


def comparison(raw: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return the rows of :func:`effbench.records.analyse.seeds.compare` for every score; ``all``: every pair.

    Raises UsageError if there are no trainings, or none of ``against``.
    """
    scores = scores_of(raw)
    if not scores:
        raise UsageError("there are no trainings to compare: nothing was measured with --probe accuracy")
    chosen = None if against == EVERY else against
    tables = [compare(raw, metric=at, against=chosen) for at in scores.values()]
    return pd.concat([table for table in tables if not table.empty] or tables[:1], ignore_index=True)


def comparison_blocks(raw: pd.DataFrame, against: str) -> list[Block]:
    """Return a table per setting and score: means, differences with intervals, verdicts, seeds needed."""
    differences = comparison(raw, against)
    if differences.empty:
        return [Block(notes=[f"no training has the same setting as one of {against}"])]
    blocks = []
    names = {at: score for score, at in scores_of(raw).items()}
    scores = pd.concat([seed_scores(raw, metric=at) for at in names])
    for key, group in differences.groupby([*SETTING, "metric"], sort=False, dropna=False):
        setting = dict(zip([*SETTING, "metric"], key, strict=True))
        same = scores["metric"] == setting["metric"]
        for name in SETTING:
            same &= (scores[name] == setting[name]) | (scores[name].isna() & pd.isna(setting[name]))
        means = scores[same].set_index("mechanism")
        blocks.append(_block(group, means, setting, names[setting["metric"]]))
    return blocks


def _block(group: pd.DataFrame, means: pd.DataFrame, setting: dict[str, Any], score: str) -> Block:
    share = columns.score_unit(score) == "share"
    title = (
        f"{setting['task']}: {units.score_words(score)}{' in points' if share else ''}, "
        f"N = {setting['seq_len']}, {plural(int(setting['layers']), 'block')}, d_model {setting['d_model']}, "
        f"{setting['heads']} heads, batch {setting['batch_size']}"
    )
    points = units.points if share else (lambda value: f"{value:+.4g}")
    mean = units.percent if share else units.ratio
    rivals = group["against"].unique()
    title += f", against {rivals[0]}" if len(rivals) == 1 else ""
    head = ["mechanism", *(["against"] if len(rivals) > 1 else [])]
    rows = []
    for row in each_row(group.sort_values("difference", ascending=False)):
        known = pd.notna(row.low)
        rows.append(
            [
                row.mechanism,
                *([row.against] if len(rivals) > 1 else []),
                mean(means.loc[row.mechanism, "mean"]),
                "" if pd.isna(row.difference) else points(row.difference),
                f"{points(row.low)} to {points(row.high)}" if known else "",
                f"{row.p_holm:.3f}" if pd.notna(row.p_holm) else "",
                str(row.seeds),
                row.seeds_to_tell if row.verdict == NOT_SIGNIFICANT else "",
                _VERDICTS.get(row.verdict, "not tested"),
            ]
        )
    verdict = len(head) + 6
    left = [*range(len(head)), verdict]
    head += ["score", "difference", "95 % CI", "p (Holm)", "seeds", "seeds needed", "verdict"]
    notes = [_sentence(group)]
    if any(row[verdict] == "n.s." for row in rows):
        notes.append("n.s.: not significant")
    if any(row[verdict - 1] for row in rows):
        notes.append("seeds needed: to detect the observed difference with a power of 80 %")
    return Block(title=title, head=head, rows=rows, notes=notes, left=left)


def _sentence(group: pd.DataFrame) -> str:
    significant = group["verdict"].isin([BETTER, WORSE])
    others = sorted(set(group.loc[~significant, "verdict"]))
    n = len(group)
    sentence = (
        f"{significant.sum()} of {plural(n, 'difference')} significant (t-test paired by seed, Holm over {n})"
    )
    return "; the others: ".join([sentence, ", ".join(others)]) if others else sentence
