"""Trainings compared over seeds and over documents: scores, paired differences, and their significance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from effbench.common import columns
from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.records.analyse import documents
from effbench.records.analyse.best_at_end import best_at_end
from effbench.records.analyse.documents import compare_documents
from effbench.records.analyse.scores import scores_of
from effbench.records.analyse.seeds import (
    BETTER,
    NOT_SIGNIFICANT,
    SETTING,
    WORSE,
    compare,
    seed_scores,
    trainings,
)
from effbench.records.analyse.tuned import Tuned
from effbench.show import units
from effbench.show.blocks import Block
from effbench.show.tables import each_row

EVERY = "all"
_VERDICTS = {BETTER: BETTER, WORSE: WORSE, NOT_SIGNIFICANT: "n.s."}
_OF_DOCUMENTS = {documents.HIGHER: "higher", documents.LOWER: "lower", documents.NOT_SIGNIFICANT: "n.s."}
_PAIR = [*SETTING, "metric", "mechanism", "against"]


def comparison(raw: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return the rows of :func:`effbench.records.analyse.seeds.compare` for every score; ``all``: every pair.

    If trainings score single documents, the columns of ``analyse.documents.compare_documents`` follow, with
    the prefix ``by_document_``.

    Raises UsageError if there are no trainings, or none of ``against``.
    """
    scores = scores_of(raw)
    if not scores:
        raise UsageError("there are no trainings to compare: nothing was measured with --probe accuracy")
    chosen = None if against == EVERY else against
    if chosen is not None:  # folders may hold tasks with other scores, on which it was not trained
        held = {score: at for score, at in scores.items() if chosen in set(trainings(raw, at)["label"])}
        scores = held or scores
    tables = [compare(raw, metric=at, against=chosen) for at in scores.values()]
    seeds = pd.concat([table for table in tables if not table.empty] or tables[:1], ignore_index=True)
    found = [compare_documents(raw, score=score, against=chosen) for score in scores]
    if not (found := [table for table in found if not table.empty]):
        return seeds
    paired = pd.concat(found, ignore_index=True)
    return seeds.merge(
        paired.rename(columns={name: f"by_document_{name}" for name in paired if name not in _PAIR}),
        how="left", on=_PAIR,
    )  # fmt: skip


def comparison_blocks(raw: pd.DataFrame, against: str) -> list[Block]:
    """Return a table per setting and score: means, differences with intervals, verdicts, seeds needed.

    Where trainings score single documents, a second table has the differences paired by document.
    """
    differences = comparison(raw, against)
    if differences.empty:
        return [Block(notes=[f"no training has the same setting as one of {against}"])]
    blocks = []
    names = {at: score for score, at in scores_of(raw).items()}
    scores = pd.concat([seed_scores(raw, metric=at) for at in names])
    for key, group in differences.groupby([*SETTING, "metric"], sort=False, dropna=False):
        setting = dict(zip([*SETTING, "metric"], key, strict=True))
        of_metric = scores[scores["metric"] == setting["metric"]]
        means = of_metric[_same(of_metric, setting)].set_index("mechanism")
        score = names[setting["metric"]]
        warning = best_at_end(raw[_same(raw, setting)])
        blocks.append(replace(_block(group, means, setting, score), warnings=[warning] if warning else []))
        if "by_document_verdict" in group and group["by_document_verdict"].notna().any():
            blocks.append(_document_block(group, setting, score))
    return blocks


def tuned_in_words(best: Tuned) -> list[str]:
    """Return a sentence per setting: the chosen value of each mechanism, then its other values."""
    sentences = []
    for key, group in best.choices.groupby(SETTING, sort=False, dropna=False):
        setting = dict(zip(SETTING, key, strict=True))
        written = units.written_score(str(group["metric"].iloc[0]))
        parts = []
        for name, mine in group.groupby("mechanism", sort=False):
            values = [
                f"{row.value} ({written(row.mean) if row.seeds else row.status})" for row in each_row(mine)
            ]
            parts.append(f"{name} {values[0]}" + (f", not {', '.join(values[1:])}" if values[1:] else ""))
        sentences.append(
            f"{setting['task']} at {setting['seq_len']} tokens: {best.option} by the validation score "
            f"({_seeds_of(group)}): {'; '.join(parts)}."
        )
    return sentences


def _seeds_of(choices: pd.DataFrame) -> str:
    """Return the number of seeds of the means that decided; of all means if no mechanism has two values."""
    scored = choices[choices["seeds"] > 0]
    several = scored[scored.duplicated("mechanism", keep=False)]
    seeds = sorted({int(n) for n in (several if len(several) else scored)["seeds"]}) or [0]
    return plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"


def _same(rows: pd.DataFrame, setting: dict[str, Any]) -> pd.Series:
    """Return which rows have the setting; a missing value is equal to another."""
    same = pd.Series(True, index=rows.index)
    for name in SETTING:
        same &= (rows[name] == setting[name]) | (rows[name].isna() & pd.isna(setting[name]))
    return same


def _block(group: pd.DataFrame, means: pd.DataFrame, setting: dict[str, Any], score: str) -> Block:
    share = columns.score_unit(score) == "share"
    points = _points(score)
    mean = units.percent if share else units.ratio
    rivals = group["against"].unique()
    title = _title(setting, score, rivals)
    head = ["mechanism", *(["against"] if len(rivals) > 1 else [])]
    rows = []
    for row in each_row(group.sort_values("difference", ascending=False)):
        known = pd.notna(row.low)
        rows.append(
            [
                row.mechanism,
                *([row.against] if len(rivals) > 1 else []),
                units.figure(means.loc[row.mechanism, "mean"], mean),
                "" if pd.isna(row.difference) else units.figure(row.difference, points, (row.low, row.high)),
                f"{points(row.low)} to {points(row.high)}" if known else "",
                units.p_value(row.p_holm),
                str(row.seeds),
                row.seeds_to_tell if row.verdict == NOT_SIGNIFICANT else "",
                _VERDICTS.get(row.verdict, "not tested"),
            ]
        )
    verdict = len(head) + 6
    left = [*range(len(head)), verdict]
    head += ["score", "difference", "95 % CI", "p (Holm)", "seeds", "seeds needed", "verdict"]
    notes = [_sentence(group)]
    if any(means.loc[[row.mechanism, row.against], "seeds"].max() > row.seeds for row in each_row(group)):
        notes.append("a score is the mean over all seeds, a difference that over the seeds of both")
    if any(row[verdict] == "n.s." for row in rows):
        notes.append("n.s.: not significant")
    if any(row[verdict - 1] for row in rows):
        notes.append("seeds needed: to detect the observed difference with a power of 80 %")
    keys = range(verdict - 6)
    return Block(
        title=title, head=head, rows=rows, notes=notes, left=left, keys=keys, intervals=(len(keys) + 2,)
    )


def _document_block(group: pd.DataFrame, setting: dict[str, Any], score: str) -> Block:
    """Return the table of the differences paired by document, with what they do not say."""
    rivals = group["against"].unique()
    head = ["mechanism", *(["against"] if len(rivals) > 1 else [])]
    points = _points(score)
    rows = []
    for row in each_row(group.sort_values("by_document_difference", ascending=False)):
        known = pd.notna(row.by_document_documents)
        low, high = row.by_document_low, row.by_document_high
        rows.append(
            [
                row.mechanism,
                *([row.against] if len(rivals) > 1 else []),
                units.figure(row.by_document_difference, points, (low, high)) if known else "",
                f"{points(low)} to {points(high)}" if known else "",
                units.p_value(row.by_document_p_holm),
                f"{row.by_document_documents:.0f}" if known else "",
                f"{row.by_document_seeds:.0f}",
                _OF_DOCUMENTS.get(row.by_document_verdict, "not tested"),
            ]
        )
    keys = range(len(head))
    left = [*keys, len(head) + 5]
    head += ["difference", "95 % CI", "p (Holm)", "documents", "seeds", "verdict"]
    notes = [_sentence(group, "by_document_")]
    if any(row[-1] == "n.s." for row in rows):
        notes.append("n.s.: not significant")
    notes.append("for these trained weights on other documents: the variation between seeds is not included")
    return Block(
        title=f"paired by document: {_title(setting, score, rivals)}",
        head=head,
        rows=rows,
        notes=notes,
        left=left,
        keys=keys,
        intervals=(len(keys) + 1,),
    )


def _title(setting: dict[str, Any], score: str, rivals: Sequence[str]) -> str:
    share = columns.score_unit(score) == "share"
    return (
        f"{setting['task']}: {units.score_words(score)}{' in points' if share else ''}, "
        f"N = {setting['seq_len']}, {plural(int(setting['layers']), 'block')}, d_model {setting['d_model']}, "
        f"{plural(int(setting['heads']), 'head')}, batch {setting['batch_size']}"
        f"{f', against {rivals[0]}' if len(rivals) == 1 else ''}"
    )


def _points(score: str) -> Callable[[float], str]:
    """Return the function that writes differences of a score: shares in points, others as numbers."""
    return units.points if columns.score_unit(score) == "share" else (lambda value: f"{value:+.4g}")


def _sentence(group: pd.DataFrame, prefix: str = "") -> str:
    verdicts = group[f"{prefix}verdict"]
    significant = verdicts.isin([BETTER, WORSE, documents.HIGHER, documents.LOWER])
    others = sorted(set(verdicts[~significant]))
    n = len(group)
    test = "bootstrap over documents" if prefix else "t-test paired by seed"
    sentence = f"{significant.sum()} of {plural(n, 'difference')} significant ({test}, Holm over {n})"
    return "; the others: ".join([sentence, ", ".join(others)]) if others else sentence
