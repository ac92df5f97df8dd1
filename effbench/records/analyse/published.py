"""Our results compared with the Fastformer paper's: scores, differences, ranks and ratios of times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from effbench.common.spec import UsageError
from effbench.records.analyse.load import comparable
from effbench.records.analyse.pairs import by_pair, shared_repeats
from effbench.records.analyse.published_data import ALONE as ALONE
from effbench.records.analyse.published_data import PANELS, read
from effbench.records.analyse.published_data import SCORED as SCORED
from effbench.records.analyse.seeds import SETTING, compare, holm, seed_scores, trainings
from effbench.records.analyse.statistics import LEVEL, agreement, welch
from effbench.records.analyse.summary import IDENTITY, label
from effbench.records.analyse.uncertainty import noises, ratio_interval

LENGTHS = ("paper", "equal")

TIMED = ("figure2",)
WHAT = ("table4", "table5", "table6", "figure2", "figure3", "figure4", *ALONE)

MODES = dict(zip(("forward", "train"), PANELS, strict=True))

_AS_PUBLISHED = ("sharing", "published")

REPRODUCED = "reproduced"
CONTRARY = "contrary"
INCONCLUSIVE = "inconclusive"
NOT_SIGNIFICANT_THERE = "not significant in the paper"

# Trainings are compared inside one group. The length is not part of it: the paper's own lengths differ.
GROUP = [name for name in SETTING if name != "seq_len"]


@cache
def published() -> dict[str, Any]:
    """Return the data file: the numbers that the paper reports, as printed, and their source."""
    file = files("effbench.records") / "published" / "fastformer.toml"
    return read(file.read_text(encoding="utf-8"), str(file))


def metrics(what: str) -> dict[str, str]:
    """Return the scores of a table of the paper, and the columns of the raw frame that hold ours."""
    first, *others = published()[what]["scores"]
    return {first: first, **{score: f"test_{score}" for score in others}}


def published_scores(what: str) -> pd.DataFrame:
    """Return the scores (0 to 1) of a table in SCORED: one row per dataset, metric and mechanism.

    Columns ``dataset``, ``metric``, ``name`` (the paper's), ``mechanism`` (as ``-m`` reads it; "" if none),
    ``published``, ``published_std``, and ``published_rank``, 1 for the best. ``published_difference`` is that
    from the row that the table is compared against, with Welch's 95 % interval ``published_low``,
    ``published_high`` and with ``published_p_holm``, corrected over the other rows of the same dataset and
    metric. Columns that need a standard deviation are NaN if the paper prints none.
    """
    table = published()[what]
    rows = []
    datasets = [name for name in published()["datasets"] if name in table["row"][0]]
    for row, dataset, metric in itertools.product(table["row"], datasets, table["scores"]):
        mean, std = [*(value / 100 for value in row[dataset][metric]), math.nan][:2]
        rows.append(
            {"dataset": dataset, "metric": metric, "name": row["name"], "mechanism": row.get("mechanism", ""),
             "published": mean, "published_std": std}
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    groups = [
        _with_differences(group, table["against"], table.get("runs", 0))
        for _, group in frame.groupby(["dataset", "metric"], sort=False)
    ]
    return pd.concat(groups, ignore_index=True)


def _with_differences(group: pd.DataFrame, against: str, runs: int) -> pd.DataFrame:
    base = group[group["name"] == against].iloc[0]
    tests = [
        welch(row["published"] - base["published"], row["published_std"], base["published_std"], runs)
        if row["name"] != against
        else dict.fromkeys(("difference", "low", "high", "p"), math.nan)
        for row in group.to_dict(orient="records")
    ]
    others = [i for i, name in enumerate(group["name"]) if name != against]
    corrected = dict(zip(others, holm([tests[i]["p"] for i in others])[0], strict=True))
    return group.assign(
        published_difference=[test["difference"] for test in tests],
        published_low=[test["low"] for test in tests],
        published_high=[test["high"] for test in tests],
        published_p_holm=[corrected.get(i, math.nan) for i in range(len(group))],
        published_rank=group["published"].rank(ascending=False, method="min").astype(int),
    )


def published_times() -> pd.DataFrame:
    """Return Figure 2: one row per mode, mechanism and length.

    ``published_time`` is in the figure's unknown unit, ``published_ratio`` is over Fastformer's time.
    """
    figure = published()["figure2"]
    by_name = {row["name"]: row for row in figure["row"]}
    rows = []
    for (name, row), (mode, panel) in itertools.product(by_name.items(), MODES.items()):
        bases = by_name[figure["against"]][panel]
        for n, time, base in zip(figure["lengths"], row[panel], bases, strict=False):  # one stops early
            rows.append(
                {"mode": mode, "name": name, "mechanism": row["mechanism"], "seq_len": n,
                 "published_time": float(time), "published_ratio": time / base}
            )  # fmt: skip
    return pd.DataFrame(rows)


def dataset_of(task: str, what: str) -> str | None:
    """Return the dataset of a table that a task with its options is compared with; None if there is none."""
    for dataset, entry in published()["datasets"].items():
        named = (entry["task"], *entry["stand_ins"])
        if dataset in published()[what]["row"][0] and any(_is(task, other) for other in named):
            return str(dataset)
    return None


def stand_in(task: str) -> str | None:
    """Return the stand-in that a task is, with the options that tell it; None if it is no stand-in."""
    others = (other for entry in published()["datasets"].values() for other in entry["stand_ins"])
    return next((str(other) for other in others if _is(task, other)), None)


def _is(task: str, other: str) -> bool:
    """True if a task has the name and at least the options of another one."""
    name, _, options = task.partition(":")
    other_name, _, needed = other.partition(":")
    given = _options(published()["task_defaults"].get(name, "")) | _options(options)
    return name == other_name and _options(needed).items() <= given.items()


def failures(what: str, raw: pd.DataFrame) -> pd.DataFrame:
    """Return the failed records of rows that the paper has: the reasons for missing rows and lengths."""
    probe = "time" if what in TIMED else "accuracy"
    return _counterparts(what, _labelled(raw[(raw["probe"] == probe) & (raw["status"] != "ok")]))


def compare_scores(what: str, raw: pd.DataFrame, lengths: str = "paper") -> pd.DataFrame:
    """Compare trainings of the raw frame with the published scores of a table in SCORED.

    One row per setting (``GROUP``), metric and row of the paper. ``ours`` is our mechanism's label, empty if
    it was not run. ``mean``, ``std``, ``low``, ``high`` are over ``seeds``. ``difference`` to
    ``seeds_to_tell`` come from ``analyse.seeds.compare`` against the row that the table is compared against.
    ``outcome`` says whether the published difference was reproduced. ``rank`` and ``published_rank`` are
    among the rows that both have. Columns that start with ``published`` are those of ``published_scores``.

    ``lengths="paper"`` takes each mechanism at the longest length it was trained at, and the Transformer at
    the longest below the others' if the paper truncated it more; ``"equal"`` takes all at one length, the
    longest of those at which most mechanisms were trained.

    Raises UsageError if no training has a counterpart in the table, or if one row has several.
    """
    columns = metrics(what)
    rows = _counterparts(what, trainings(raw, next(iter(columns))))
    if rows.empty:
        raise UsageError(_nothing(what, raw))
    against = published()[what]["against"]
    scores = published_scores(what)
    tables = []
    for key, group in rows.groupby(GROUP, sort=False, dropna=False):
        setting = dict(zip(GROUP, key if isinstance(key, tuple) else (key,), strict=True))
        dataset = dataset_of(str(setting["task"]), what)
        group = _one_per_row(group, what)
        group = _at_lengths(group, str(dataset), against, lengths)
        # from here on our mechanisms have the paper's names
        ours = {str(name): mine for name, mine in group.groupby("name", sort=False)}
        renamed = group.assign(mechanism=group["name"], options="")
        for metric, column in columns.items():
            paper = scores[(scores["dataset"] == dataset) & (scores["metric"] == metric)]
            if (merged := _merged(paper, renamed, ours, column, against)) is not None:
                tables.append(merged.assign(**setting, **_data_of(group)))
    frame = pd.concat(tables, ignore_index=True)
    first = [*GROUP, "dataset", "metric", "name", "ours", "seq_len"]
    return frame[[*first, *(c for c in frame.columns if c not in (*first, "mechanism"))]]


def _data_of(group: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of examples (NaN if the task does not count them) and the machines of trainings."""
    counts = {n: group[n].median() if n in group else math.nan for n in ("train_examples", "test_examples")}
    return {**counts, "machine": "; ".join(sorted(set(group["machine"])))}


def _merged(
    paper: pd.DataFrame, group: pd.DataFrame, ours: Mapping[str, pd.DataFrame], column: str, against: str
) -> pd.DataFrame | None:
    """Return the paper's rows of one metric and setting with ours joined; None if ours has no such score."""
    scores = seed_scores(group, metric=column, within=GROUP).set_index("mechanism")
    if scores.empty:
        return None
    known = ["seeds", "mean", "std", "low", "high"]
    merged = paper.join(scores[known], on="name")
    merged["ours"] = (
        merged["name"].map({name: mine["label"].iloc[0] for name, mine in ours.items()}).fillna("")
    )
    length = {name: mine["seq_len"].iloc[0] for name, mine in ours.items()}
    merged["seq_len"] = merged["name"].map(length)
    shared = merged["mean"].notna()
    # ranks of both among the same rows
    merged["published_rank"] = merged.loc[shared, "published"].rank(ascending=False, method="min")
    merged["rank"] = merged["mean"].rank(ascending=False, method="min")
    compared = ["difference", "difference_low", "difference_high", "p", "comparisons", "p_holm", "verdict"]
    compared += ["seeds_in_common", "seeds_to_tell"]
    if against in scores.index:
        differences = compare(group, metric=column, against=against, within=GROUP).rename(
            columns={"low": "difference_low", "high": "difference_high", "seeds": "seeds_in_common"}
        )
        merged = merged.join(differences.set_index("mechanism")[compared], on="name")
    else:
        merged[compared] = math.nan
    merged["outcome"] = [
        outcome(row["published_difference"], row["published_p_holm"], row["difference"], row["p_holm"])
        if row["name"] != against and pd.notna(row["difference"])
        else ""
        for row in merged.to_dict(orient="records")
    ]
    return merged


def outcome(
    published_difference: float, published_p: float, difference: float, p: float, *, alpha: float = 1 - LEVEL
) -> str:
    """Return whether a published difference was reproduced, and if not, which side is not significant.

    The p-values are corrected ones. A published difference without a spread (p is NaN) is taken by its sign;
    ours without one is inconclusive.
    """
    if published_difference == 0 or published_p > alpha:
        return NOT_SIGNIFICANT_THERE
    if math.isnan(p) or p > alpha:
        return INCONCLUSIVE
    return REPRODUCED if (difference > 0) == (published_difference > 0) else CONTRARY


def rank_agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rank correlations of ours and the paper's scores: one row per setting and metric.

    ``frame`` is that of ``compare_scores``; the columns are those of :func:`statistics.agreement` over the
    ``n`` rows that both have.
    """
    rows = []
    for key, group in frame.groupby([*GROUP, "dataset", "metric"], sort=False, dropna=False):
        both = group[group["mean"].notna()]
        identity = dict(zip([*GROUP, "dataset", "metric"], key, strict=True))
        rows.append({**identity, **agreement(list(both["published"]), list(both["mean"]))})
    return pd.DataFrame(rows)


def compare_times(raw: pd.DataFrame) -> pd.DataFrame:
    """Compare times with Figure 2, as ratios to Fastformer: one row per shape, mode, mechanism and length.

    ``ratio`` is paired by repeat and has the 95 % interval ``ratio_low``, ``ratio_high``. ``factor`` and its
    interval are our ratio over the published one, whose own error (about 2 %) they do not include. Lengths
    that only one of the two has, or that were measured on different hosts, are left out.

    Raises UsageError if nothing can be compared, or if a mechanism was timed twice at one point.
    """
    times = raw if raw.empty else comparable(raw[(raw["probe"] == "time") & (raw["status"] == "ok")])
    noise = noises(times)
    rows = _counterparts("figure2", _labelled(times))
    point = [name for name in [*IDENTITY, "machine"] if name not in ("mechanism", "options", "task")]
    published_ratios = published_times().set_index(["mode", "name", "seq_len"])["published_ratio"]
    against = published()["figure2"]["against"]
    ratios = []
    for key, group in rows.groupby(point, sort=False, dropna=False):
        shape = dict(zip(point, key, strict=True))
        group = _one_per_row(group, "figure2")
        if len(twice := group[group.duplicated(["name", "seed", "repeat"])]):
            row = twice.iloc[0]
            raise UsageError(
                f"{row['label']} at {row['seq_len']}, {row['mode']}, repeat {row['repeat']}, was timed more "
                "than once: name folders that hold each time once"
            )
        samples = {str(name): by_pair(mine) for name, mine in group.groupby("name", sort=False)}
        for name, mine in samples.items():
            place = (shape["mode"], name, shape["seq_len"])
            if name == against or against not in samples or place not in published_ratios.index:
                continue
            ratio, low, high = ratio_interval(mine, samples[against], noise[shape["machine"]])
            if math.isnan(ratio):  # measured on different hosts
                continue
            theirs = float(published_ratios.loc[place])
            ratios.append(
                {**shape, "name": name, "ours": group.loc[group["name"] == name, "label"].iloc[0],
                 "repeats": shared_repeats(mine, samples[against]), "published_ratio": theirs,
                 "ratio": ratio, "ratio_low": low, "ratio_high": high,
                 "factor": ratio / theirs, "factor_low": low / theirs, "factor_high": high / theirs}
            )  # fmt: skip
    if not ratios:
        raise UsageError(
            "no times to compare with figure2: it needs times of fastformer and of another of the paper's "
            f"mechanisms at one of the lengths {', '.join(map(str, published()['figure2']['lengths']))}"
        )
    frame = pd.DataFrame(ratios)
    order = {row["name"]: place for place, row in enumerate(published()["figure2"]["row"])}
    shapes = [name for name in point if name not in ("seq_len", "batch_size", "mode")]
    return (
        frame.assign(place=frame["name"].map(order))
        .sort_values([*shapes, "mode", "place", "seq_len"], kind="stable", ignore_index=True)
        .drop(columns="place")
    )


def _labelled(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(label=[label(m, o) for m, o in zip(rows["mechanism"], rows["options"], strict=True)])


def _counterparts(what: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose mechanism (and, for scores, task) the paper has, with its ``name`` there."""
    names = [_name_of(what, m, o) for m, o in zip(rows["mechanism"], rows["options"], strict=True)]
    rows = rows.assign(name=names)
    known = rows["name"].notna()
    if what in SCORED:
        known &= rows["task"].map(lambda task: dataset_of(task, what)).notna()
    return rows[known.astype(bool)]


@cache
def _name_of(what: str, mechanism: str, options: str) -> str | None:
    """Return the paper's name of our mechanism; None if the paper does not have it.

    Options in which the paper's rows do not differ belong to our setting.
    """
    given = settled(options)
    if given.get("causal") == "true" or given.get("variant", "paper") != "paper":
        return None  # the paper reports neither
    fitting = []
    for row in published()[what]["row"]:
        name, _, fixed = row.get("mechanism", "").partition(":")
        usual = published()["defaults"] if name == "fastformer" else {}
        expected = usual | _options(fixed)
        if ("ensemble" in given) != ("ensemble" in expected):
            continue  # several models are not to be compared with one
        if name == mechanism and all(given.get(key, usual.get(key)) == expected[key] for key in expected):
            fitting.append((len(_options(fixed)), str(row["name"])))
    # the row that names the most of our options
    return max(fitting)[1] if fitting else None


def settled(options: str) -> dict[str, str]:
    """Return the options given, without ``sharing=published``, which is the default."""
    return {name: value for name, value in _options(options).items() if (name, value) != _AS_PUBLISHED}


def _options(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if pair)


def _one_per_row(group: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return the group. Raises UsageError if several of our mechanisms correspond to one row of the paper."""
    for name, mine in group.groupby("name", sort=False):
        if len(labels := sorted(set(mine["label"]))) > 1:
            raise UsageError(
                f"{len(labels)} mechanisms could be {name} in {what}: {', '.join(labels)}; "
                "name folders that hold only one of them"
            )
    return group


def _at_lengths(group: pd.DataFrame, dataset: str, against: str, lengths: str) -> pd.DataFrame:
    """Return the rows of one length per name, as ``compare_scores`` says."""
    if lengths == "equal":
        trained = group.groupby("seq_len")["name"].agg([lambda names: against in set(names), "nunique"])
        best = max(trained.itertuples(name=None), key=lambda row: (row[1], row[2], row[0]))
        return group[group["seq_len"] == best[0]]
    entry = published()["datasets"][dataset]
    longest: dict[Hashable, int] = dict(group.groupby("name")["seq_len"].max())
    others = [n for name, n in longest.items() if name != "Transformer"]
    shorter = group[(group["name"] == "Transformer") & (group["seq_len"] < max(others, default=0))]
    if entry["max_len_transformer"] < entry["max_len"] and len(shorter):
        longest["Transformer"] = int(shorter["seq_len"].max())
    return group[group["seq_len"] == group["name"].map(longest)]


def _nothing(what: str, raw: pd.DataFrame) -> str:
    """Return the reason why no training can be compared with the table, and what could be."""
    there = published()[what]["row"][0]
    sets = [entry for name, entry in published()["datasets"].items() if name in there]
    tasks = [name for entry in sets for name in (entry["task"], *entry["stand_ins"])]
    rows = [row["mechanism"] for row in published()[what]["row"] if "mechanism" in row]
    trained = trainings(raw, next(iter(metrics(what))))
    names, on = (", ".join(sorted(set(trained[column]))) for column in ("label", "task"))
    present = f"; the folders have trainings of {names} on {on}" if len(trained) else ""
    return (
        f"no training to compare with {what}: it needs trainings of {', '.join(rows)} on one of "
        f"{', '.join(tasks)}{present}"
    )
