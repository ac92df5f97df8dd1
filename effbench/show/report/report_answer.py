"""The answer in words: the fastest mechanism at each length, what it costs in accuracy, what is not known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from effbench.common import columns
from effbench.common.spec import UsageError
from effbench.common.wording import listed, plural
from effbench.records.analyse.best_at_end import best_at_end
from effbench.records.analyse.seeds import BETTER, SETTING, WORSE, compare, seed_scores
from effbench.records.analyse.summary import label
from effbench.records.analyse.winners import fastest, in_words, undecided
from effbench.show import units
from effbench.show.blocks import Block
from effbench.show.report.report_curves import MODES
from effbench.show.report.report_sources import Source
from effbench.show.report.report_trainings import task_name
from effbench.show.tables import each_row, labels

_YARDSTICK = "vanilla"
_MOST_NAMED = 6


def speed_sentences(rows: pd.DataFrame, panel: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Return, for each mode of one shape, who is fastest where, and by how much at the longest length."""
    sentences = []
    for mode in (mode for mode in MODES if mode in panel["modes"]):
        mine = rows[rows["mode"] == mode]
        if words := in_words(mine):
            times = how_many_times(mine, panel["modes"][mode], names)
            sentences.append(f"{mode}: {words}.{f' {times}' if times else ''}")
    return sentences


def how_many_times(rows: pd.DataFrame, mode: dict[str, Any], names: Sequence[str]) -> str:
    """Return how many times as long another takes as the fastest at the longest length that has a winner.

    The other is vanilla, or the slowest if vanilla was not timed or is the fastest.
    """
    for n, group in sorted(rows.groupby("seq_len"), reverse=True):
        if not (winners := fastest(group)):
            continue
        timed = group[group["time_s"].notna()].sort_values("time_s")
        rivals = [name for name in labels(timed) if name not in winners]
        if not rivals:
            return ""
        other = _YARDSTICK if _YARDSTICK in rivals else rivals[-1]
        ratio = ratio_at(mode, names, other, winners[0], int(n))
        if ratio is None:
            return ""
        return f"At {n}, {other} takes {_times(ratio)} as long as {winners[0]}."
    return ""


def _times(ratio: Sequence[float | None]) -> str:
    center, low, high = ratio
    bounds = "" if low is None or high is None else f" ({units.ratio(low)} to {units.ratio(high)})"
    return f"{units.ratio(float(center or 0))} times{bounds}"


def ratio_at(
    mode: dict[str, Any], names: Sequence[str], first: str, second: str, n: int
) -> tuple[float | None, float | None, float | None] | None:
    """Return (ratio, low, high) of two mechanisms' times at a length, from a chart; None if unknown."""
    series = list(enumerate(names[one["mechanism"]] for one in mode["series"]))  # several of one: its codes
    ours, theirs = ([place for place, name in series if name == wanted] for wanted in (first, second))
    for a, b in itertools.product(ours, theirs):
        lengths, ratio, low, high = mode["ratios"].get(f"{min(a, b)},{max(a, b)}", [[], [], [], []])
        if n not in lengths:
            continue
        at = lengths.index(n)
        if a < b:
            return ratio[at], low[at], high[at]
        center, most, least = (
            None if known is None else 1 / known for known in (ratio[at], low[at], high[at])
        )
        return center, least, most
    return None


def winners_block(rows: pd.DataFrame, panel: dict[str, Any], names: Sequence[str], title: str) -> Block:
    """Return a table of the fastest mechanism at each length and mode, with the ratio of vanilla's time."""
    modes = [mode for mode in MODES if mode in panel["modes"]]
    head = ["length"]
    for mode in modes:
        head += [f"{mode}: fastest", "time", f"{_YARDSTICK} takes"]
    texts = []
    for n, group in rows.groupby("seq_len"):
        row = [str(n)]
        for mode in modes:
            mine = group[group["mode"] == mode]
            winners = fastest(mine)
            if not winners:
                why = undecided(mine) if len(mine) else ""
                row += [f"not told: {why}" if why else "", "", ""]
                continue
            timed = mine[mine["time_s"].notna()].sort_values("time_s")
            best = timed[labels(timed) == winners[0]].iloc[0]
            ratio = ratio_at(panel["modes"][mode], names, _YARDSTICK, winners[0], int(n))
            others = f" (no significant difference: {', '.join(winners[1:])})" if winners[1:] else ""
            times = (
                f"{units.ratio(ratio[0])} times" if ratio and ratio[0] and winners[0] != _YARDSTICK else ""
            )
            row += [f"{winners[0]}{others}", units.seconds(float(best["time_s"])), times]
        texts.append(row)
    left = tuple(range(1, len(head), 3))
    return Block(title=title, head=head, rows=texts, left=left)


def accuracy_sentences(source: Source) -> list[str]:
    """Return, for each setting of trainings, the best score, who scores lower, and what the fastest costs.

    Differences are paired by seed, with Holm's correction over all pairs of the setting.
    """
    trained = source.raw[source.raw["probe"] == "accuracy"]
    if trained.empty:
        return []
    default = pd.Series(columns.DEFAULT_METRIC, index=trained.index)
    metrics = trained[columns.METRIC].fillna(default) if columns.METRIC in trained else default
    sentences = []
    for metric in metrics.unique():
        rows = trained[metrics == metric]
        try:
            means, pairs = seed_scores(rows, metric=metric), compare(rows, metric=metric, against=None)
        except UsageError as error:  # a training that was measured with two versions of the code
            sentences.append(f"{units.score_words(metric)}: not compared: {error}")
            continue
        means = means.sort_values(["task", "seq_len"], kind="stable")
        for key, group in means.groupby(SETTING, sort=False, dropna=False):
            own = _of_setting(source.frame, key)
            warning = best_at_end(_of_setting(rows, key)) if len(group) > 1 else ""
            text = _setting_in_words(group, _of_setting(pairs, key), own, metric)
            sentences.append(f"{text} {warning}." if warning else text)
    return sentences


def _of_setting(rows: pd.DataFrame, key: Sequence[Any]) -> pd.DataFrame:
    inside = pd.Series(True, index=rows.index)
    for name, value in zip(SETTING, key, strict=True):
        inside &= (rows[name] == value) | (rows[name].isna() & pd.isna(value))
    return rows[inside]


def _setting_in_words(means: pd.DataFrame, pairs: pd.DataFrame, frame: pd.DataFrame, score: str) -> str:
    first = means.iloc[0]
    downward = columns.lower_is_better(score)
    best = means.loc[means["mean"].idxmin() if downward else means["mean"].idxmax()]
    written = units.written_score(score)
    where = (
        f"{task_name(str(first['task']))} at {first['seq_len']} tokens, {units.score_words(score)}, "
        f"{plural(int(first['layers']), 'block')}, d_model {first['d_model']}"
    )
    interval = ""
    if pd.notna(best["low"]):
        low, high = best["low"], best["high"]
        if columns.score_unit(score) == "share":
            low, high = max(0.0, low), min(1.0, high)
        interval = f" ({written(low).removesuffix(' %')} to {written(high)}, {best['seeds']} seeds)"
    if len(means) == 1:
        return f"{where}: {best['mechanism']} scores {written(best['mean'])}{interval}; no other was trained."
    first_place = f"scores {'lowest' if downward else 'highest'}, {written(best['mean'])}{interval}"
    parts = [f"{where}: {best['mechanism']} {first_place}"]
    against = {_other(row, best["mechanism"]): row for row in each_row(pairs)
               if best["mechanism"] in (row.mechanism, row.against)}  # fmt: skip
    lower = [name for name, row in against.items() if row.verdict in (BETTER, WORSE)]
    apart = [name for name, row in against.items() if row.verdict not in (BETTER, WORSE)]
    if lower:
        differing = [f"{name} ({_difference(against[name], name, score)})" for name in lower]
        parts.append(f"significantly {'higher' if downward else 'lower'}: {listed(differing, _MOST_NAMED)}")
    if apart:
        one = all(against[name].seeds < 2 for name in apart)
        why = "one seed each, so that the noise of a training is unknown" if one else "at these seeds"
        parts.append(f"not told apart from it ({why}): {listed(apart, _MOST_NAMED)}")
    text = "; ".join(parts) + "."
    quick = frame[frame["tokens_per_s"].notna()]
    if quick.empty:
        return text
    row = quick.loc[quick["tokens_per_s"].idxmax()]
    name = label(row["mechanism"], row["options"])
    speed = f"{units.count(row['tokens_per_s'])} tokens/s"
    if name == best["mechanism"]:
        return f"{text} It also trains fastest ({speed})."
    if name not in against:
        return f"{text} {name} trains fastest ({speed})."
    sure = against[name].verdict in (BETTER, WORSE)
    ending = "" if sure else ", not significant" if against[name].seeds > 1 else ", of one seed"
    difference = _difference(against[name], name, score)
    return f"{text} {name} trains fastest ({speed}); its score differs by {difference}{ending}."


def _other(row: Any, name: str) -> str:
    return str(row.against if row.mechanism == name else row.mechanism)


def _difference(row: Any, name: str, score: str) -> str:
    sign = 1 if row.mechanism == name else -1
    value = sign * row.difference
    if columns.score_unit(score) == "share":
        return f"{units.points(value)} points"
    return f"{value:+.4g}"


def unknown_sentences(source: Source, crossings: pd.DataFrame) -> list[str]:
    """Return what these records do not tell: what is missing, failures, noise, undecided pairs."""
    frame = source.frame
    cost, trained = frame[frame["task"] == ""], frame[frame["task"] != ""]
    sentences = []
    if cost.empty:
        sentences.append("No cost against length was measured: nothing is said about speed at other lengths.")
    if trained.empty:
        sentences.append("No model was trained here: nothing is said about accuracy.")
    failed = frame[~frame["status"].isin(["ok", "interrupted"])]
    if len(failed):
        sentences.append(f"{plural(len(failed), 'configuration')} failed: see failures.")
    if left := int((frame["status"] == "interrupted").sum()):
        sentences.append(f"{plural(left, 'configuration')} without a result: the run was interrupted.")
    timed = cost[cost["time_s"].notna()]
    if noisy := int(timed["noisy"].fillna("").astype(bool).sum()):
        sentences.append(
            f"{noisy} of {plural(len(timed), 'time')} are noisy (hollow markers, ~): their intervals are "
            "wider than asked, or the machine was disturbed."
        )
    undecidable = crossings[
        crossings["crossover"].isna() & crossings["faster_before"].isna() & crossings["faster_after"].isna()
    ]
    if len(undecidable):
        sentences.append(
            f"{len(undecidable)} of {plural(len(crossings), 'comparison')} of two mechanisms over all "
            "lengths show no significant difference in time."
        )
    return sentences


def crossover_sentences(crossings: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Return the crossovers to the mechanisms that are fastest at the longest length of each mode."""
    sentences = []
    for mode, mine in rows.groupby("mode", sort=False):
        last = mine[mine["seq_len"] == mine["seq_len"].max()]
        leads = crossings[
            (crossings["mode"] == mode)
            & crossings["crossover"].notna()
            & crossings["faster_after"].isin(fastest(last)[:1])
        ]
        sentences += [f"{mode}: {row.statement}." for row in each_row(leads.sort_values("crossover"))]
    return sentences
