"""Ours beside the Fastformer paper's: scores, differences to Fastformer, ranks, and ratios of times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from effbench.common.spec import UsageError
from effbench.records.analyse.load import undisturbed
from effbench.records.analyse.published_data import ALONE as ALONE
from effbench.records.analyse.published_data import PANELS, SCORES, read
from effbench.records.analyse.published_data import SCORED as SCORED
from effbench.records.analyse.seeds import SETTING, compare, holm, seed_scores, trainings
from effbench.records.analyse.statistics import LEVEL, ratio_interval
from effbench.records.analyse.summary import IDENTITY, label

LENGTHS = ("paper", "equal")

TIMED = ("figure2",)
WHAT = ("table4", "figure2", "figure3", "figure4", *ALONE)

# The scores of the paper, and the columns of the raw frame that hold ours.
METRICS = dict(zip(SCORES, ("accuracy", "test_macro_f1"), strict=True))
MODES = dict(zip(("forward", "train"), PANELS, strict=True))

_AS_PUBLISHED = ("sharing", "published")

REPRODUCED = "reproduced"
CONTRARY = "contrary"
UNTOLD_HERE = "cannot be told"
UNTOLD_THERE = "not told apart in the paper"

# What is compared stands in one group; the length is not in it, since the paper's own lengths differ.
GROUP = [name for name in SETTING if name != "seq_len"]


@cache
def published() -> dict[str, Any]:
    """The data file: what the paper reports, as printed, and where it comes from."""
    file = files("effbench.records") / "published" / "fastformer.toml"
    return read(file.read_text(encoding="utf-8"), str(file))


def published_scores(what: str) -> pd.DataFrame:
    """Scores of table4, figure3 or figure4, one row a dataset, metric and mechanism; 0 to 1, as ours are.

    Columns ``dataset``, ``metric``, ``name`` (the paper's), ``mechanism`` (as ``-m`` reads it),
    ``published``, ``published_std``; and against the paper's reference row ``published_difference``, with
    Welch's 95 % interval ``published_low``, ``published_high`` and ``published_p_holm``, corrected over the
    other rows of the same dataset and metric; and ``published_rank``, 1 for the best. What needs a spread is
    NaN where none is printed.
    """
    table = published()[what]
    rows = []
    for row, dataset, metric in itertools.product(table["row"], published()["datasets"], METRICS):
        mean, std = [*(value / 100 for value in row[dataset][metric]), math.nan][:2]
        rows.append(
            {"dataset": dataset, "metric": metric, "name": row["name"], "mechanism": row["mechanism"],
             "published": mean, "published_std": std}
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    groups = [
        _against_reference(group, table["reference"], table.get("runs", 0))
        for _, group in frame.groupby(["dataset", "metric"], sort=False)
    ]
    return pd.concat(groups, ignore_index=True)


def _against_reference(group: pd.DataFrame, reference: str, runs: int) -> pd.DataFrame:
    center = group[group["name"] == reference].iloc[0]
    found = [
        welch(row.published - center["published"], row.published_std, center["published_std"], runs)
        if row.name_ != reference
        else dict.fromkeys(("difference", "low", "high", "p"), math.nan)
        for row in group.rename(columns={"name": "name_"}).itertuples()
    ]
    others = [i for i, name in enumerate(group["name"]) if name != reference]
    corrected = dict(zip(others, holm([found[i]["p"] for i in others])[0], strict=True))
    return group.assign(
        published_difference=[one["difference"] for one in found],
        published_low=[one["low"] for one in found],
        published_high=[one["high"] for one in found],
        published_p_holm=[corrected.get(i, math.nan) for i in range(len(group))],
        published_rank=group["published"].rank(ascending=False, method="min").astype(int),
    )


def welch(
    difference: float, std: float, other_std: float, runs: int, *, level: float = LEVEL
) -> dict[str, float]:
    """``difference`` of two means of ``runs`` runs each: ``low``, ``high`` and ``p`` by Welch."""
    if math.isnan(std) or math.isnan(other_std) or runs < 2:
        return {"difference": difference, **dict.fromkeys(("low", "high", "p"), math.nan)}
    from scipy import stats

    variances = std**2 / runs, other_std**2 / runs
    error = math.sqrt(sum(variances))
    degrees = sum(variances) ** 2 / sum(v**2 / (runs - 1) for v in variances)
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    p = float(2 * stats.t.sf(abs(difference) / error, degrees))
    return {"difference": difference, "low": difference - half, "high": difference + half, "p": p}


def published_times() -> pd.DataFrame:
    """Figure 2, one row a mode, mechanism and length: ``published_ratio``, its time over Fastformer's."""
    figure = published()["figure2"]
    lines = {row["name"]: row for row in figure["row"]}
    rows = []
    for (name, row), (mode, panel) in itertools.product(lines.items(), MODES.items()):
        base = lines[figure["reference"]][panel]
        for n, time, reference in zip(figure["lengths"], row[panel], base, strict=False):  # one stops early
            rows.append(
                {"mode": mode, "name": name, "mechanism": row["mechanism"], "seq_len": n,
                 "published_time": float(time), "published_ratio": time / reference}
            )  # fmt: skip
    return pd.DataFrame(rows)


def dataset_of(task: str) -> str | None:
    """The paper's dataset that a task (with its options) is set beside; None if there is none."""
    name = task.partition(":")[0]
    for dataset, entry in published()["datasets"].items():
        if name == entry["task"] or name in entry["stand_ins"]:
            return str(dataset)
    return None


def is_stand_in(task: str) -> bool:
    """Whether a task stands in the place of the one that reads the paper's dataset."""
    return task.partition(":")[0] not in {entry["task"] for entry in published()["datasets"].values()}


def failures(what: str, raw: pd.DataFrame) -> pd.DataFrame:
    """The records of what the paper has too that failed: why a row or a length is missing beside it."""
    probe = "time" if what in TIMED else "accuracy"
    return _counterparts(what, _labelled(raw[(raw["probe"] == probe) & (raw["status"] != "ok")]))


def compare_scores(what: str, raw: pd.DataFrame, lengths: str = "paper") -> pd.DataFrame:
    """Ours beside the published scores of table4, figure3 or figure4, from the raw frame.

    One row a setting (``GROUP``), metric and row of the paper; ``ours`` is our mechanism's label, empty where
    it was not run. ``mean``, ``std``, ``low``, ``high`` are over ``seeds``; ``difference`` ...
    ``seeds_to_tell`` are of ``analyse.seeds.compare`` against the paper's reference row; ``outcome``
    is what became of the published difference, and ``rank`` and ``published_rank`` are among the rows that
    both have. Columns that start with ``published`` are those of ``published_scores``.

    ``lengths``: ``paper`` takes each mechanism at the longest length it was trained at, and the Transformer
    at the longest below the others' where the paper cut it shorter; ``equal`` takes all at one length, the
    longest of those at which most mechanisms were trained.

    Raises UsageError where no training has a counterpart in the table, or one row has several.
    """
    rows = _counterparts(what, trainings(raw))
    if rows.empty:
        raise UsageError(_nothing(what, raw))
    reference = published()[what]["reference"]
    there = published_scores(what)
    found = []
    for key, group in rows.groupby(GROUP, sort=False, dropna=False):
        setting = dict(zip(GROUP, key if isinstance(key, tuple) else (key,), strict=True))
        dataset = dataset_of(str(setting["task"]))
        group = _one_a_row(group, what)
        group = _at_lengths(group, str(dataset), reference, lengths)
        # from here on our mechanisms go by the paper's names
        ours = {str(name): mine for name, mine in group.groupby("name", sort=False)}
        renamed = group.assign(mechanism=group["name"], options="")
        for metric, column in METRICS.items():
            paper = there[(there["dataset"] == dataset) & (there["metric"] == metric)]
            if (merged := _merged(paper, renamed, ours, column, reference)) is not None:
                found.append(merged.assign(**setting, **_data_of(group)))
    frame = pd.concat(found, ignore_index=True)
    first = [*GROUP, "dataset", "metric", "name", "ours", "seq_len"]
    return frame[[*first, *(c for c in frame.columns if c not in (*first, "mechanism"))]]


def _data_of(group: pd.DataFrame) -> dict[str, Any]:
    """How much data the trainings had, and where they ran; NaN for what their task does not count."""
    counts = {n: group[n].median() if n in group else math.nan for n in ("train_examples", "test_examples")}
    return {**counts, "machine": "; ".join(sorted(set(group["machine"])))}


def _merged(
    paper: pd.DataFrame, group: pd.DataFrame, ours: Mapping[str, pd.DataFrame], column: str, reference: str
) -> pd.DataFrame | None:
    """One metric of one setting: the paper's rows with ours joined; None if ours has no such score."""
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
    told = ["difference", "difference_low", "difference_high", "p", "comparisons", "p_holm", "verdict"]
    told += ["seeds_in_common", "seeds_to_tell"]
    if reference in scores.index:
        differences = compare(group, metric=column, against=reference, within=GROUP).rename(
            columns={"low": "difference_low", "high": "difference_high", "seeds": "seeds_in_common"}
        )
        merged = merged.join(differences.set_index("mechanism")[told], on="name")
    else:
        merged[told] = math.nan
    merged["outcome"] = [
        outcome(row["published_difference"], row["published_p_holm"], row["difference"], row["p_holm"])
        if row["name"] != reference and pd.notna(row["difference"])
        else ""
        for row in merged.to_dict(orient="records")
    ]
    return merged


def outcome(
    published_difference: float, published_p: float, difference: float, p: float, *, alpha: float = 1 - LEVEL
) -> str:
    """What became of a published difference: reproduced, contrary, or which side cannot tell it.

    Ps are corrected ones. A published difference without a spread (p is NaN) is taken by its sign; ours
    without one cannot be told.
    """
    if published_difference == 0 or published_p > alpha:
        return UNTOLD_THERE
    if math.isnan(p) or p > alpha:
        return UNTOLD_HERE
    return REPRODUCED if (difference > 0) == (published_difference > 0) else CONTRARY


def rank_agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """How alike the two orders are: one row a setting and metric of what ``compare_scores`` found.

    ``spearman`` and ``kendall`` with their two-sided ``_p`` over all orders of the ``n`` rows that both have,
    and ``spearman_least``, the least size of a Spearman correlation that chance reaches at most once in 20
    times; NaN where no correlation of so few rows could be told from chance.
    """
    rows = []
    for key, group in frame.groupby([*GROUP, "dataset", "metric"], sort=False, dropna=False):
        both = group[group["mean"].notna()]
        identity = dict(zip([*GROUP, "dataset", "metric"], key, strict=True))
        rows.append({**identity, **agreement(list(both["published"]), list(both["mean"]))})
    return pd.DataFrame(rows)


def agreement(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """``n``, Spearman's and Kendall's correlation with p-values; NaN below three rows or without an order."""
    n = len(ours)
    names = ("spearman", "spearman_p", "spearman_least", "kendall", "kendall_p")
    if n < 3 or len(set(ours)) == 1 or len(set(theirs)) == 1:
        return {"n": n, **dict.fromkeys(names, math.nan)}
    from scipy import stats

    a, b = stats.rankdata(theirs), stats.rankdata(ours)
    a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    by_chance = b[np.array(list(itertools.permutations(range(n))))] @ a / n
    spearman = float(a @ b / n)
    sizes = np.sort(np.abs(by_chance))
    # the least size with at most one order in 20 at or above it
    least = next((s for s in np.unique(sizes.round(9)) if np.mean(sizes >= s - 1e-8) <= 1 - LEVEL), math.nan)
    kendall = stats.kendalltau(theirs, ours)
    p = float(np.mean(sizes >= abs(spearman) - 1e-8))
    values = (spearman, p, float(least), float(kendall.statistic), float(kendall.pvalue))
    return {"n": n, **dict(zip(names, values, strict=True))}


def compare_times(raw: pd.DataFrame) -> pd.DataFrame:
    """Ours beside Figure 2: times over Fastformer's, one row a shape, mode, mechanism and length.

    ``ratio``, ``ratio_low``, ``ratio_high`` are paired by repeat, with a 95 % interval; ``factor`` and its
    interval are ours over the published ratio, whose own error (about 2 %) is not in them. Only lengths that
    both have.

    Raises UsageError where nothing can be compared, or a mechanism was timed twice at one point.
    """
    times = raw if raw.empty else undisturbed(raw[(raw["probe"] == "time") & (raw["status"] == "ok")])
    rows = _counterparts("figure2", _labelled(times))
    point = [name for name in [*IDENTITY, "machine"] if name not in ("mechanism", "options", "task")]
    there = published_times().set_index(["mode", "name", "seq_len"])
    reference = published()["figure2"]["reference"]
    found = []
    for key, group in rows.groupby(point, sort=False, dropna=False):
        shape = dict(zip(point, key, strict=True))
        group = _one_a_row(group, "figure2")
        if len(twice := group[group.duplicated(["name", "seed", "repeat"])]):
            row = twice.iloc[0]
            raise UsageError(
                f"{row['label']} at {row['seq_len']}, {row['mode']}, repeat {row['repeat']}, was timed more "
                "than once: name folders that hold each time once"
            )
        samples = {
            str(name): dict(zip(mine["repeat"], mine["samples_time_s"], strict=True))
            for name, mine in group.groupby("name", sort=False)
        }
        for name, mine in samples.items():
            place = (shape["mode"], name, shape["seq_len"])
            if name == reference or reference not in samples or place not in there.index:
                continue
            ratio, low, high = ratio_interval(mine, samples[reference])
            theirs = float(there.loc[place, "published_ratio"])
            found.append(
                {**shape, "name": name, "ours": group.loc[group["name"] == name, "label"].iloc[0],
                 "repeats": len(mine.keys() & samples[reference].keys()), "published_ratio": theirs,
                 "ratio": ratio, "ratio_low": low, "ratio_high": high,
                 "factor": ratio / theirs, "factor_low": low / theirs, "factor_high": high / theirs}
            )  # fmt: skip
    if not found:
        raise UsageError(
            "no times to set beside figure2: it takes time cells of fastformer and of another of the paper's "
            f"mechanisms at one of the lengths {', '.join(map(str, published()['figure2']['lengths']))}"
        )
    frame = pd.DataFrame(found)
    order = {row["name"]: place for place, row in enumerate(published()["figure2"]["row"])}
    lines = [name for name in point if name not in ("seq_len", "batch_size", "mode")]
    return (
        frame.assign(place=frame["name"].map(order))
        .sort_values([*lines, "mode", "place", "seq_len"], kind="stable", ignore_index=True)
        .drop(columns="place")
    )


def _labelled(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(label=[label(m, o) for m, o in zip(rows["mechanism"], rows["options"], strict=True)])


def _counterparts(what: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose mechanism (and, for scores, task) the paper has too, with its ``name`` there."""
    names = [_name_of(what, m, o) for m, o in zip(rows["mechanism"], rows["options"], strict=True)]
    rows = rows.assign(name=names)
    known = rows["name"].notna()
    if what in SCORED:
        known &= rows["task"].map(dataset_of).notna()
    return rows[known.astype(bool)]


@cache
def _name_of(what: str, mechanism: str, options: str) -> str | None:
    """The paper's name of our mechanism; options that the paper's rows do not differ in are its setting."""
    given = settled(options)
    if given.get("causal") == "true" or given.get("variant", "paper") != "paper":
        return None  # the paper reports neither
    for row in published()[what]["row"]:
        name, _, fixed = row["mechanism"].partition(":")
        expected = published()["defaults"] | _options(fixed)
        same = all(given.get(key, usual) == expected[key] for key, usual in published()["defaults"].items())
        if name == mechanism and (name != "fastformer" or same):
            return str(row["name"])
    return None


def settled(options: str) -> dict[str, str]:
    """Options as given, without a sharing that only asks for the published one, which is the default."""
    return {name: value for name, value in _options(options).items() if (name, value) != _AS_PUBLISHED}


def _options(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if pair)


def _one_a_row(group: pd.DataFrame, what: str) -> pd.DataFrame:
    """The group, if one of our labels stands for each of the paper's: of several none can be chosen."""
    for name, mine in group.groupby("name", sort=False):
        if len(labels := sorted(set(mine["label"]))) > 1:
            raise UsageError(
                f"{len(labels)} mechanisms could be {name} in {what}: {', '.join(labels)}; "
                "name folders that hold one of them"
            )
    return group


def _at_lengths(group: pd.DataFrame, dataset: str, reference: str, lengths: str) -> pd.DataFrame:
    """The rows of one length a name, as ``compare_scores`` says."""
    if lengths == "equal":
        trained = group.groupby("seq_len")["name"].agg([lambda names: reference in set(names), "nunique"])
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
    """Why no training can be set beside the table, and what could be."""
    sets = published()["datasets"].values()
    tasks = [name for entry in sets for name in (entry["task"], *entry["stand_ins"])]
    rows = [row["mechanism"] for row in published()[what]["row"]]
    trained = trainings(raw)
    names, on = (", ".join(sorted(set(trained[column]))) for column in ("label", "task"))
    there = f"; trained were {names} on {on}"
    return (
        f"no training to set beside {what}: it takes accuracy cells of {', '.join(rows)} on one of "
        f"{', '.join(tasks)}{there if len(trained) else ''}"
    )
