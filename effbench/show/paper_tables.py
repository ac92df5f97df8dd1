"""The paper's numbers, alone or beside ours: tables, sentences about them, and caveats."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from effbench.common.wording import plural
from effbench.records.analyse import published as paper
from effbench.records.analyse.best_at_end import best_at_end
from effbench.records.analyse.seeds import ONE_SEED
from effbench.records.analyse.tuned import tuned as at_best
from effbench.show import units
from effbench.show.blocks import Block, as_text, natural_width, renderable
from effbench.show.comparison_tables import tuned_in_words
from effbench.show.overview import mixtures
from effbench.show.tables import SHAPE, each_row, plain, what_was_measured

FORMATS = ("table", "markdown", "latex", "csv", "json")
_METRICS = {
    "accuracy": "accuracy", "macro_f1": "macro-F", "auc": "AUC", "mrr": "MRR", "ndcg5": "nDCG@5",
    "ndcg10": "nDCG@10", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rouge_lsum": "ROUGE-L",
}  # fmt: skip


def report(
    what: str,
    raw: pd.DataFrame | None,
    *,
    format: str = "table",
    lengths: str = "paper",
    tuned: str | None = None,
) -> str:
    """Return a table or figure of the paper, alone or beside the records of ``raw``, in one of FORMATS.

    csv has one row per mechanism, metric and setting (or time). json has these as ``rows``, the ranks, the
    source, the warnings (``careful``) and the caveats. Both hold plain SI numbers, scores from 0 to 1.
    ``tuned`` is an option of the task: of each mechanism, the trainings with its best value by the validation
    score are taken. Raises UsageError if the records hold nothing to compare.
    """
    ranks, best = pd.DataFrame(), None
    if raw is not None and tuned is not None:
        best = at_best(raw, tuned)
        raw = best.raw
    if raw is None or what in paper.ALONE:
        frame, blocks = _published(what)
    elif what in paper.TIMED:
        frame = paper.compare_times(raw)
        blocks = _times(frame)
    else:
        frame = paper.compare_scores(what, raw, lengths)
        ranks = paper.rank_agreement(frame)
        blocks = _scores(frame, ranks, what)
    caveats = list(paper.published()[what]["caveats"])
    careful = [] if raw is None or what in paper.ALONE else _careful(what, raw)
    if best is not None:
        frame, careful = best.beside(frame, "ours"), [*careful, *tuned_in_words(best)]
    if what in paper.ALONE:
        caveats.insert(0, f"effbench compares no results with {what}: it prints what the paper reports.")
    if format == "csv":
        return str(frame.to_csv(index=False))
    if format == "json":
        return _json(what, frame, ranks, careful, caveats)
    heading = f"{paper.published()[what]['title']} ({_source()})"
    if format == "markdown":
        return _markdown(heading, blocks, [*careful, *caveats])
    if format == "latex":
        comments = [f"% {sentence}" for sentence in (*careful, *caveats)]
        return "\n".join([f"% {heading}", as_text(blocks, "latex"), *comments])
    return _terminal(heading, blocks, [*careful, *caveats])


def _careful(what: str, raw: pd.DataFrame) -> list[str]:
    """Return sentences about failed cells, too short trainings, and several machines or versions."""
    failed = [
        f"{row.status}: {row.label} {row.task or row.mode} N={row.seq_len}, repeat {row.repeat}: {row.reason}"
        for row in each_row(paper.failures(what, raw))
    ]
    used = raw[(raw["status"] == "ok") & (raw["probe"] == ("time" if what in paper.TIMED else "accuracy"))]
    names = Counter(str(task).partition(":")[0] for task in used["task"].unique())
    short = [
        f"{task if names[name := str(task).partition(':')[0]] > 1 else name}: {warning}"
        for task, own in used.groupby("task", sort=False)
        if (warning := best_at_end(own))
    ]
    return [*failed, *short, *mixtures(used)]


def _source() -> str:
    source = paper.published()["source"]
    return f"Fastformer, arXiv {source['arxiv']} {source['version']}"


def _published(what: str) -> tuple[pd.DataFrame, list[Block]]:
    """Return the paper's numbers as a frame, and as tables like the paper's."""
    table = paper.published()[what]
    if what in paper.TIMED:
        frame = paper.published_times()
        return frame, [
            Block(
                title=f"{mode} ({paper.MODES[mode]}): {title}",
                head=["mechanism", *map(units.length, table["lengths"])],
                rows=_pivot(rows, column),
            )
            for mode, rows in frame.groupby("mode", sort=False)
            for column, title in (
                ("published_time", "time in the figure's unit"),
                ("published_ratio", "time relative to Fastformer"),
            )
        ]
    if what in paper.ALONE:
        head = ["name", *table["columns"]]
        rows = [[row["name"], *row["values"]] for row in table["row"]]
        return pd.DataFrame(rows, columns=head), [Block(head=head, rows=rows)]
    frame = paper.published_scores(what)
    frame = frame.assign(score=frame["metric"].map(_METRICS))
    datasets = list(dict.fromkeys(frame["dataset"]))
    if len(datasets) == 1:
        return frame.drop(columns="score"), [_wide(frame, "score", datasets[0])]
    groups = frame.groupby("score", sort=False)
    return frame.drop(columns="score"), [_wide(scores, "dataset", str(name)) for name, scores in groups]


def _wide(scores: pd.DataFrame, across: str, title: str) -> Block:
    """Return a table of mechanisms by the values of a column."""
    rows = [
        [str(name), *(_score(row.published, row.published_std) for row in each_row(group))]
        for name, group in scores.groupby("name", sort=False)
    ]
    return Block(title=title, head=["mechanism", *dict.fromkeys(scores[across])], rows=rows)


def _pivot(rows: pd.DataFrame, column: str) -> list[list[str]]:
    lengths = sorted(set(rows["seq_len"]))
    return [
        [
            str(name),
            *(_number(dict(zip(group["seq_len"], group[column], strict=True)).get(n)) for n in lengths),
        ]
        for name, group in rows.groupby("name", sort=False)
    ]


def _scores(frame: pd.DataFrame, ranks: pd.DataFrame, what: str) -> list[Block]:
    """Return for each setting the scores side by side, then for each metric the differences."""
    reference = paper.published()[what]["against"]
    blocks = []
    keys = [*paper.GROUP, "dataset"]
    for key, group in frame.groupby(keys, sort=False, dropna=False):
        setting = dict(zip(keys, key, strict=True))
        blocks.append(_side_by_side(group, setting))
        for metric, rows in group.groupby("metric", sort=False):
            same = ranks["metric"] == metric
            for name in paper.GROUP:
                same &= ranks[name] == setting[name]
            blocks.append(_differences(rows, str(metric), reference, ranks[same].iloc[0].to_dict()))
    return blocks


def _side_by_side(group: pd.DataFrame, setting: dict[str, Any]) -> Block:
    metrics = list(dict.fromkeys(group["metric"]))
    by_metric = {metric: group[group["metric"] == metric].set_index("name") for metric in metrics}
    first = by_metric[metrics[0]]
    rows = []
    for name in first.index:
        texts = [str(name), _whole(first.loc[name, "seq_len"])]
        for metric in metrics:
            row = by_metric[metric].loc[name]
            texts += [_score(row["published"], row["published_std"]), _score(row["mean"], row["std"])]
        rows.append([*texts, _whole(first.loc[name, "seeds"])])
    head = ["mechanism", "length"]
    for metric in metrics:
        head += [f"{_METRICS[metric]}: paper", "ours"]
    options = [f"{name} is {ours}" for name, ours in first["ours"].items() if ":" in ours]
    notes = [f"Ours: {'; '.join(options)}."] if options else []
    notes += _data(setting, first)
    return Block(title=_title(setting, first), head=[*head, "seeds"], rows=rows, notes=notes)


def _title(setting: dict[str, Any], rows: pd.DataFrame) -> str:
    lengths = sorted({int(n) for n in rows["seq_len"].dropna()})
    counts = [int(n) for n in rows["seeds"].dropna()]
    seeds = sorted({min(counts), max(counts)}) if counts else []
    train = rows["train_examples"].iloc[0]
    entry = paper.published()["datasets"][setting["dataset"]]
    examples = f"{train:,.0f} training examples, " if pd.notna(train) else ""
    stand_in = " (a stand-in)" if paper.stand_in(str(setting["task"])) else ""
    return (
        f"paper: {setting['dataset']}; ours: {setting['task']}{stand_in}, {examples}"
        f"{plural(int(setting['layers']), 'layer')}, d_model {setting['d_model']}, "
        f"{plural(int(setting['heads']), 'head')}, batch {setting['batch_size']}, "
        f"truncated to {' or '.join(map(str, lengths))} {entry['unit']}, "
        f"{' to '.join(map(str, seeds))} {'seed' if seeds == [1] else 'seeds'}; {rows['machine'].iloc[0]}"
    )


def _data(setting: dict[str, Any], rows: pd.DataFrame) -> list[str]:
    entry = paper.published()["datasets"][setting["dataset"]]
    there = paper.published()["setting"]
    theirs = entry["max_len_transformer"]
    shorter = "" if theirs == entry["max_len"] and entry["unit"] != "tokens" else f" (Transformer: {theirs})"
    notes = [
        f"Paper: {entry['about']}; {plural(entry['layers'], 'layer')}, d_model {there['d_model']}, "
        f"{there['heads']} heads, batch {entry['batch_size']}, truncated to {entry['max_len']} "
        f"{entry['unit']}{shorter}."
    ]
    other = paper.stand_in(str(setting["task"])) or ("" if entry["same_data"] else entry["task"])
    if other:
        notes.append(
            f"{other} is not the paper's {setting['dataset']} data: compare ranks and differences, not "
            "scores."
        )
    return notes


def _differences(rows: pd.DataFrame, metric: str, reference: str, ranks: dict[str, Any]) -> Block:
    texts = [
        [
            row.name_,
            _difference(row.published_difference, row.published_low, row.published_high),
            _difference(row.difference, row.difference_low, row.difference_high),
            units.p_value(row.p_holm),
            row.seeds_to_tell if isinstance(row.seeds_to_tell, str) else "",
            "" if pd.isna(row.rank) else f"{row.published_rank:.0f} / {row.rank:.0f}",
            row.outcome,
        ]
        for row in each_row(rows.rename(columns={"name": "name_"}))
    ]
    head = ["mechanism", "paper: points [95 % CI]", "ours: points [95 % CI]", "p (Holm)", "seeds needed"]
    return Block(
        title=f"{_METRICS[metric]}: difference from {reference}",
        head=[*head, "rank: paper / ours", "published difference"],
        rows=texts,
        notes=[*_outcomes(rows[rows["name"] != reference], reference), _ranks_in_words(ranks)],
    )


def _outcomes(others: pd.DataFrame, reference: str) -> list[str]:
    """Return sentences: the published differences with each outcome, or why none can be compared."""
    compared = others[others["difference"].notna()]
    if compared.empty:
        return [f"No differences: {reference} and another mechanism were not both trained in this setting."]
    counts = []
    for kind in (paper.REPRODUCED, paper.CONTRARY, paper.INCONCLUSIVE, paper.NOT_SIGNIFICANT_THERE):
        names = list(compared.loc[compared["outcome"] == kind, "name"])
        counts.append(f"{len(names)} {kind}{_in_brackets(names)}")
    sentences = [f"Of {len(compared)} published differences from {reference}: {'; '.join(counts)}."]
    alone = list(compared.loc[compared["verdict"] == ONE_SEED, "name"])
    if len(alone) == len(compared):
        sentences.append("With one seed the training noise is unknown: use effbench run --repeats 5.")
    elif alone:
        sentences.append(f"With one seed in common the noise is unknown{_in_brackets(alone)}.")
    return sentences


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({'; '.join(names)})" if names else ""


def _ranks_in_words(ranks: dict[str, Any]) -> str:
    n = ranks["n"]
    if math.isnan(ranks["spearman"]):
        return f"No rank correlation: it needs three mechanisms with different scores, there are {n}."
    spearman, kendall = (
        f"{name.title()} {ranks[name]:.2f} (p {units.p_value(ranks[f'{name}_p'])})"
        for name in ("spearman", "kendall")
    )
    sentence = f"Rank correlation of {n} mechanisms: {spearman}, {kendall}"
    if math.isnan(ranks["spearman_least"]):
        return f"{sentence}; no correlation of {n} mechanisms can be significant."
    return f"{sentence}; Spearman is significant (5 %) from {ranks['spearman_least']:.2f}."


def _times(frame: pd.DataFrame) -> list[Block]:
    """Return for each shape and mode the ratios to Fastformer: mechanisms by lengths."""
    blocks = []
    shape = [*(name for name in SHAPE if name != "batch_size"), "machine"]
    for key, group in frame.groupby([*shape, "mode"], sort=False):
        setting = dict(zip([*shape, "mode"], key, strict=True))
        rows = []
        for name, series in group.groupby("name", sort=False):
            by_length = {row.seq_len: row for row in each_row(series)}
            lengths = sorted(set(group["seq_len"]))
            points = [by_length.get(n) for n in lengths]
            rows += [
                [str(name), "paper", *("" if c is None else units.ratio(c.published_ratio) for c in points)],
                ["", "ours", *("" if c is None else units.ratio(c.ratio) for c in points)],
                ["", "95 % CI", *("" if c is None else _range(c.ratio_low, c.ratio_high) for c in points)],
                ["", "ours / paper", *("" if c is None else units.ratio(c.factor) for c in points)],
                ["", "95 % CI", *("" if c is None else _range(c.factor_low, c.factor_high) for c in points)],
            ]
        title = (
            f"{setting['mode']} ({paper.MODES[str(setting['mode'])]} in the paper), time relative to "
            f"Fastformer: {what_was_measured(setting)}, d_model {setting['d_model']}, "
            f"{plural(int(setting['heads']), 'head')}, {setting['dtype']}, {setting['device']}, "
            f"{plural(int(setting['threads']), 'thread')}; {setting['machine']}"
        )
        blocks.append(
            Block(
                title=title,
                head=["mechanism", "", *(units.length(n) for n in lengths)],
                rows=rows,
                notes=[_faster(group), *_batches(group), *_others(group)],
            )
        )
    return blocks


def _faster(group: pd.DataFrame) -> str:
    """Count the points where Fastformer is faster here; in the paper it is at every published point."""
    slower, faster = (group["ratio_low"] > 1).sum(), (group["ratio_high"] < 1).sum()
    similar = len(group) - slower - faster
    return (
        f"In the paper Fastformer is faster at all of these {len(group)} points. Ours is faster at {slower}, "
        f"slower at {faster}, not significantly different at {similar} (5 % level)."
    )


def _batches(group: pd.DataFrame) -> list[str]:
    """Return a sentence about batch x length, which is constant in the paper."""
    theirs = paper.published()["figure2"]["tokens_per_batch"]
    tokens = sorted(set(group["batch_size"] * group["seq_len"]))
    if len(tokens) == 1:
        as_there = "as in the paper" if tokens[0] == theirs else f"{theirs:,} in the paper"
        return [f"Ours: batch x length is {tokens[0]:,} at every length ({as_there})."]
    batches = ", ".join(map(str, sorted(set(group["batch_size"]))))
    return [f"Ours: batch {batches}; batch x length is not constant, {theirs:,} in the paper."]


def _others(group: pd.DataFrame) -> list[str]:
    labels = sorted(ours for ours in set(group["ours"]) if ":" in ours)
    few = group["repeats"].min()
    notes = [f"Ours with options: {', '.join(labels)}."] if labels else []
    if few < 2:
        notes.append("One repeat: no confidence interval.")
    return notes


def _score(mean: float, std: float) -> str:
    if pd.isna(mean):
        return ""
    return units.percent(mean) if pd.isna(std) else f"{units.percent(mean)} ± {units.percent(std)}"


def _difference(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return ""
    return units.points(value) + ("" if pd.isna(low) else f" [{units.points(low)}, {units.points(high)}]")


def _range(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"{units.ratio(low)}-{units.ratio(high)}"


def _whole(value: float) -> str:
    return "" if pd.isna(value) else str(int(value))


def _number(value: float | None) -> str:
    return "" if value is None else units.ratio(value)


def _json(
    what: str, frame: pd.DataFrame, ranks: pd.DataFrame, careful: Sequence[str], caveats: Sequence[str]
) -> str:
    source = {key: str(value) for key, value in paper.published()["source"].items()}
    rows, orders = (
        [plain(row) for row in table.astype(object).to_dict(orient="records")] for table in (frame, ranks)
    )
    report = {"what": what, "source": source, "rows": rows, "ranks": orders}
    return json.dumps({**report, "careful": list(careful), "caveats": list(caveats)}, indent=1)


def _markdown(heading: str, blocks: Sequence[Block], caveats: Sequence[str]) -> str:
    parts = [f"**{heading}**", as_text(blocks, "markdown"), "\n".join(f"- {caveat}" for caveat in caveats)]
    return "\n\n".join(parts)


def _terminal(heading: str, blocks: Sequence[Block], caveats: Sequence[str]) -> str:
    wide = shutil.get_terminal_size((100, 24)).columns
    if not sys.stdout.isatty():  # nothing is cut in a pipe or a file
        wide = max(100, natural_width(blocks))
    out = io.StringIO()
    console = Console(file=out, width=wide, highlight=False, color_system=None)
    console.print(Text(heading))
    console.print(renderable(blocks))
    console.print(Text("\nCaveats:"))
    for caveat in caveats:
        console.print(Text(f"- {caveat}"))
    return out.getvalue()
