"""The tables that a run ends with: costs by length, accuracies, failures, and what to be careful with."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import pandas as pd

from effbench.common import columns
from effbench.common.extent import padding_in_words
from effbench.common.wording import listed, plural
from effbench.records.analyse.drift import doubts
from effbench.records.analyse.padding import padded_lengths
from effbench.records.analyse.scores import metric_of
from effbench.records.analyse.summary import label
from effbench.records.analyse.winners import fastest, in_words
from effbench.show import units
from effbench.show.blocks import Block
from effbench.show.compile_table import compile_block
from effbench.show.generation_table import generation_block
from effbench.show.tables import SHAPE, compiled_in_words, each_row, labels, what_was_measured

ABOVE_THE_ROOF = 1.1
_OTHERS = 3  # scores beside the metric in one table
_COSTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("time_s", "time per call", units.seconds),
    ("peak_bytes", "peak memory", units.size),
    ("flops", "FLOPs", units.count),
    ("energy_j", "energy per call", units.energy),
)
_DECODE_COSTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("time_s", "time of a step, one token of each sequence after N", units.seconds),
    ("prefill_s", "time to read the N tokens before", units.seconds),
    ("state_bytes", "state after N tokens", units.size),
    ("peak_bytes", "peak memory of a step beside the state", units.size),
    ("flops", "FLOPs of a step", units.count),
    ("energy_j", "energy of a step", units.energy),
)

_TARGET = ", target ± "  # in the reason of a time whose interval is wider than was asked for
_OF_A_CELL = ("mechanism", "options", "seq_len", "status", "noisy", "time_low_s", "time_high_s")


def overview(frame: pd.DataFrame, raw: pd.DataFrame | None = None) -> list[Block]:
    """Return tables of mechanisms by lengths for each shape, then scores, then failures with their reasons.

    ``*`` marks the fastest mechanism of a length and all that are not significantly slower: their ratio to
    it, paired by repeat, differs from 1 by less than its own error. No winner is marked if a time has one
    repeat only or was measured beside other load. ``~`` marks a noisy time. With ``raw``, the warnings
    include changes of the machine during the run.
    """
    if frame.empty:
        return [Block(notes=["no results"])]
    doubtful = cautions(frame, raw)
    blocks = [Block(warnings=[f"Warning: {sentence}" for sentence in doubtful])] if doubtful else []
    keys = [*SHAPE, "machine"]
    for key, group in frame[frame["task"] == ""].groupby(keys, sort=False):
        shape = dict(zip(keys, key, strict=True))
        blocks += _cost_blocks(group, shape)
        compiled = compile_block(group, shape["compile"])
        blocks += [compiled] if compiled is not None else []
    trained = frame[frame["task"] != ""]
    keys = [*SHAPE, "machine", "task"]
    for key, group in trained.groupby(keys, sort=False):
        blocks += _score_blocks(group, dict(zip(keys, key, strict=True)))
        generation = generation_block(group)
        blocks += [generation] if generation is not None else []
    return [*blocks, *_failures(frame), *_checks(frame)]


def cautions(frame: pd.DataFrame, raw: pd.DataFrame | None = None) -> list[str]:
    """Return sentences about what to be careful with, those about the machine only with ``raw``."""
    sentences = [*mixtures(frame), *_contradictions(frame), *_side_effects(frame)]
    return sentences if raw is None else [*sentences, *doubts(raw)]


def _cost_blocks(group: pd.DataFrame, shape: dict[str, Any]) -> list[Block]:
    repeats = sorted({int(n) for n in group.loc[group["time_s"].notna(), "repeats"]})
    several = f"; {plural(repeats[0], 'repeat')}" if len(repeats) == 1 else ""
    several = f"; {repeats[0]} to {repeats[-1]} repeats" if len(repeats) > 1 else several
    title = (
        f"{what_was_measured(shape)}, batch {shape['batch_size']}, d_model {shape['d_model']}, "
        f"{plural(int(shape['heads']), 'head')}, {shape['dtype']}, {shape['device']}, "
        f"{plural(int(shape['threads']), 'thread')}, {shape['allocator']} allocator"
        f"{compiled_in_words(shape)}; {shape['machine']}"
        f"{several}"
    )
    blocks = [Block(title=title)]
    tables = [(cost, mode) for cost in _COSTS for mode in ("forward", "train")]
    tables += [(cost, "decode") for cost in _DECODE_COSTS]
    for (column, caption, pretty), mode in tables:
        rows = group[group["mode"] == mode]
        if not rows[column].notna().any():
            continue
        words = in_words(rows) if column == "time_s" else ""
        noise = _noise_in_words(rows, mode) if column == "time_s" else []
        notes = [f"{mode}: {words}."] if words else []
        blocks.append(_matrix(rows, column, f"{mode}: {caption}", pretty, notes, noise))
    return blocks


def _noise_in_words(rows: pd.DataFrame, mode: str) -> list[str]:
    """Return sentences about noisy times: one for all wide intervals, one for each other reason."""
    timed = rows[rows["time_s"].notna()]
    noisy = timed[timed["noisy"].fillna("").astype(bool)]
    reasons = noisy["noisy"].str.split("; ").explode()
    wide = reasons[reasons.str.contains(_TARGET, regex=False)]
    sentences = []
    if len(wide):
        half = wide.str.extract(r"^± ([0-9.]+) %,")[0].astype(float).fillna(math.inf) / 100
        some = "" if len(wide) == len(noisy) else f"; {plural(len(wide), 'interval')} too wide"
        sentences.append(
            f"{mode}: {len(noisy)} of {plural(len(timed), 'time')} {'is' if len(noisy) == 1 else 'are'} "
            f"noisy (~){some}: median {_percent(half.median())}, worst {_percent(half.max())}, "
            f"{wide.iloc[0].rpartition(', ')[2]}."
        )
    others = noisy.assign(reasons=noisy["noisy"].map(_without_width))
    for reason, group in others[others["reasons"] != ""].groupby("reasons", sort=False):
        where = [f"{label(row.mechanism, row.options)} at {row.seq_len}" for row in each_row(group)]
        which = "all times" if len(group) == len(timed) > 1 else listed(where, 3)
        sentences.append(f"{mode}: noisy (~): {which}: {reason}.")
    return sentences


def _without_width(noisy: str) -> str:
    return "; ".join(reason for reason in noisy.split("; ") if _TARGET not in reason)


def _percent(half: float) -> str:
    """Format a half-width; one as wide as the time itself is written as a factor."""
    return f"± {100 * half:.0f} %" if half < 1 else "± a factor of 2 or more"


def _matrix(
    rows: pd.DataFrame,
    column: str,
    title: str,
    pretty: Callable[[float], str],
    notes: list[str],
    warnings: list[str],
) -> Block:
    by_length = dict(list(rows.groupby("seq_len")))
    winners = {n: fastest(group) if column == "time_s" else [] for n, group in by_length.items()}
    needed = rows[[*dict.fromkeys((*_OF_A_CELL, column))]].to_dict(orient="records")
    at = {(row["mechanism"], row["options"], row["seq_len"]): row for row in reversed(needed)}
    texts = []
    for mechanism, options in dict.fromkeys((row["mechanism"], row["options"]) for row in needed):
        name = label(mechanism, options)
        cells = ((at.get((mechanism, options, n)), name in winners[n]) for n in by_length)
        texts.append([name, *(_written(row, column, pretty, winner) for row, winner in cells)])
    head = ["mechanism", *map(units.length, by_length)]
    return Block(title=title, head=head, rows=texts, notes=notes, warnings=warnings)


def _written(
    row: Mapping[Hashable, Any] | None, column: str, pretty: Callable[[float], str], winner: bool
) -> str:
    if row is None:
        return ""
    if pd.isna(row[column]):
        return str(row["status"]) if row["status"] != "ok" else ""
    timed = column == "time_s"
    interval = (float(row["time_low_s"]), float(row["time_high_s"])) if timed else (math.nan, math.nan)
    noisy = timed and bool(row["noisy"])
    return units.figure(float(row[column]), pretty, interval, best=winner, noisy=noisy)


def _score_blocks(group: pd.DataFrame, key: dict[str, Any]) -> list[Block]:
    """Return the table of a task's trainings: metric with interval, other scores, speed and memory.

    Many other scores have a table of their own, so that both fit into a terminal.
    """
    metric = metric_of(group)
    low, high, _ = columns.bounds(metric)
    named = [name.removesuffix("_low") for name in group.columns if name.endswith("_low")]
    others = [
        name for name in named if name not in (metric, "time", "time_ratio") and group[name].notna().any()
    ]
    # the table of generation has the state too
    stateful = group["state_bytes"].notna().any() and group["decode_tokens_per_s"].isna().all()
    apart = others if len(others) > _OTHERS else []
    beside = [] if apart else others
    written = units.written_score(metric)
    speeds = {"train_seconds": units.seconds, "tokens_per_s": units.count, "peak_bytes": units.size}
    speeds |= {"state_bytes": units.size} if stateful else {}
    head = ["mechanism", "length", units.score_words(metric), "95 % CI", *map(units.score_words, beside)]
    texts = []
    ordered = group.sort_values(["seq_len", metric], ascending=[True, columns.lower_is_better(metric)])
    rows_of = ordered.to_dict(orient="records")
    for row in rows_of:
        name = label(row["mechanism"], row["options"])
        if pd.isna(row[metric]):
            texts.append([name, units.length(row["seq_len"]), str(row["status"])])
            continue
        known = pd.notna(row[low])
        texts.append(
            [
                name,
                units.length(row["seq_len"]),
                units.figure(row[metric], written, (row[low], row[high])),
                f"{written(row[low]).removesuffix(' %')} to {written(row[high])}" if known else "",
                *(_written_score(row, other) for other in beside),
                str(row["repeats"]),
                *(units.figure(row[column], pretty) for column, pretty in speeds.items()),
            ]
        )
    head += ["seeds", "training", "tokens/s", "memory", *(["state"] if stateful else [])]
    title = (
        f"{key['task']}: test {units.score_words(metric)}, {what_was_measured(key)}, "
        f"d_model {key['d_model']}, {plural(int(key['heads']), 'head')}, batch {key['batch_size']}; "
        f"{key['machine']}"
    )
    rows = [[*row, *[""] * (len(head) - len(row))] for row in texts]
    notes = [] if apart else _baseline_scores(group, metric, others)
    short = _padding(group)
    blocks = [
        Block(title=title, head=head, rows=rows, notes=notes, warnings=short, keys=(0, 1), intervals=(3,))
    ]
    if apart:
        further = [
            [label(row["mechanism"], row["options"]), units.length(row["seq_len"]),
             *(_written_score(row, name) for name in (metric, *others))]
            for row in rows_of if pd.notna(row[metric])
        ]  # fmt: skip
        head = ["mechanism", "length", *map(units.score_words, (metric, *others))]
        notes = _baseline_scores(group, metric, others)
        blocks.append(Block(title="all scores", head=head, rows=further, notes=notes, keys=(0, 1)))
    return blocks


def _padding(group: pd.DataFrame) -> list[str]:
    """Return a sentence for each length whose rows are mostly padding."""
    return [
        f"{padding_in_words(n, mean)}: the scores are not those of inputs of this length."
        for n, mean in padded_lengths(group).items()
    ]


def _written_score(row: dict[Hashable, Any], score: str) -> str:
    return "" if pd.isna(row[score]) else units.figure(row[score], units.written_score(score))


def _baseline_scores(group: pd.DataFrame, metric: str, others: list[str]) -> list[str]:
    """Return the baseline scores in words, those of other scores than the metric in brackets behind it."""
    written = {
        name.removeprefix(columns.PRIOR): _range_of(group[name].dropna(), _score_of(name, metric, others))
        for name in group.columns
        if name.startswith(columns.PRIOR) and not name.endswith("_macro_f1") and group[name].notna().any()
    }
    of_others = {f"{name}_{score}": score for name in written for score in others}
    texts = []
    for name, text in written.items():
        if name in of_others:
            continue
        more = [
            f"{units.score_words(score)} {written[f'{name}_{score}']}"
            for score in others
            if f"{name}_{score}" in written
        ]
        behind = f" ({', '.join(more)})" if more else ""
        texts.append(f"{name.replace('_', ' ')} {text}{behind}")
    return [f"baseline scores: {', '.join(texts)}"] if texts else []


def _score_of(prior: str, metric: str, others: list[str]) -> Callable[[float], str]:
    """Return the function that formats a baseline score: that of another score if the name ends with it."""
    return units.written_score(next((name for name in others if prior.endswith(f"_{name}")), metric))


def _range_of(values: pd.Series, written: Callable[[float], str]) -> str:
    """Return a value in words, or the smallest and the largest of several, as at several lengths."""
    low, high = written(values.min()), written(values.max())
    return low if low == high else f"{low} to {high}"


def _failures(frame: pd.DataFrame) -> list[Block]:
    """Return each failure with its configuration, and one sentence for all that were not measured."""
    failed = frame[~frame["status"].isin(["ok", "interrupted"])]
    sentences = []
    for (status, name, subject, reason), group in failed.assign(
        name=labels(failed),
        subject=failed["task"].where(failed["task"] != "", failed["mode"]),
    ).groupby(["status", "name", "subject", "reason"], sort=False):
        lengths = ", ".join(str(n) for n in sorted(set(group["seq_len"])))
        sentences.append(f"{status}: {name} {subject} N={lengths}: {reason}")
    left = int((frame["status"] == "interrupted").sum())
    if left:
        reasons = frame.loc[frame["status"] == "interrupted", "reason"].value_counts()
        without = f"{plural(left, 'configuration')} without a result"
        sentences.append(f"interrupted: {without}: {reasons.index[0]}")
    return [Block(warnings=sentences)] if sentences else []


def _checks(frame: pd.DataFrame) -> list[Block]:
    """Return one note that names the mechanisms without a dense reference function."""
    if "checked" not in frame:
        return []
    bare = frame[(frame["checked"] == "laws") & frame["time_s"].notna()]
    names = sorted(set(labels(bare)))
    if not names:
        return []
    note = (
        f"{listed(names, 4)}: no dense reference function; only shape, padding, batch independence and, with "
        "causal=true, causality were checked. Run effbench audit for the other checks."
    )
    return [Block(notes=[note])]


def mixtures(frame: pd.DataFrame) -> list[str]:
    """Return sentences about rows that are not comparable: several machines or versions of the code."""
    sentences = []
    machines = sorted(frame["machine"].unique())
    if len(machines) > 1:
        sentences.append(f"measured on {len(machines)} machines: {'; '.join(machines)}")
    # version-measuring-plugin: see effbench.sweep.fingerprint
    measuring = sorted({code.rpartition("-")[0] for code in frame["code"]})
    if len(measuring) > 1:
        sentences.append(f"measured by {len(measuring)} versions of effbench: {', '.join(measuring)}")
        return sentences
    for (mechanism, _), codes in frame.groupby(["mechanism", "task"])["code"]:
        if codes.nunique() > 1:
            sentences.append(f"{mechanism} was measured in {codes.nunique()} versions of its own sources")
    return sentences


def _side_effects(frame: pd.DataFrame) -> Iterable[str]:
    """Yield sentences about changes that mechanisms made to the process that measured them."""
    if "side_effects" not in frame:
        return
    changed = frame[frame["side_effects"].fillna("") != ""]
    keys = ["mechanism", "options", "side_effects"]
    for (mechanism, options, text), group in changed.groupby(keys, sort=False):
        lengths = sorted(set(group["seq_len"]))
        yield f"{label(str(mechanism), str(options))} at N={', '.join(map(str, lengths))}: {text}"


def _contradictions(frame: pd.DataFrame) -> list[str]:
    """Return sentences about declared costs that differ from the counted ones, and about uncounted work."""
    sentences = []
    above = frame[frame["roof_share"] > ABOVE_THE_ROOF]
    if len(above):
        most = above.loc[above["roof_share"].idxmax()]
        sentences.append(
            f"{plural(len(above), 'configuration')} faster than the machine's measured ceiling (largest "
            f"ratio: {most['roof_share']:.1f}, {most['mechanism']} at {most['seq_len']}): the ceiling is "
            "too low, or the data stayed in a cache"
        )
    for (mechanism, options, mode), rows in frame.groupby(["mechanism", "options", "mode"], sort=False):
        name = label(str(mechanism), str(options))
        wrong = rows[rows["flops_analytic"].notna() & (rows["flops_analytic"] != rows["flops"])]
        if len(wrong):
            row = wrong.iloc[0]
            sentences.append(
                f"{name} declares {units.count(row['flops_analytic'])} FLOPs for {mode} at {row['seq_len']}, "
                f"{units.count(row['flops'])} were counted ({plural(len(wrong), 'length')} differ)"
            )
        for column, quantity in (("flops_left_out", "FLOPs"), ("memory_left_out", "peak memory")):
            unseen = rows[rows[column].fillna("") != ""]
            if len(unseen):
                row = unseen.loc[unseen["seq_len"].idxmax()]
                shorter = unseen["seq_len"].nunique() - 1
                others = f" and {plural(shorter, 'shorter length')}" if shorter else ""
                where = f"{row['seq_len']}{others}"
                sentences.append(f"{name}, {mode}: {quantity} without {row[column]} at {where}")
    return sentences
