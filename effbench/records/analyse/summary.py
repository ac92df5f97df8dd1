"""The summary: one row per configuration, with repeats and probes merged and failures kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from effbench.common import columns
from effbench.common.wording import plural
from effbench.records.analyse.compiling import RATIO, compile_ratios
from effbench.records.analyse.load import BESIDE_LOAD, comparable, crowded_rows
from effbench.records.analyse.pairs import by_pair, joined_hosts
from effbench.records.analyse.roofline import roofline
from effbench.records.analyse.scores import metric_of, scores_of
from effbench.records.analyse.statistics import (
    mean_interval,
    proportion_interval,
)
from effbench.records.analyse.uncertainty import (
    Interval,
    Noise,
    noises,
    own_error,
    ratio_interval,
    time_interval,
)

# Columns that two records of the same row share: what was measured, and where.
IDENTITY = columns.of_role("identity")
ORIGIN = columns.of_role("origin")
_EXACT = columns.of_role("exact")
COLUMNS = columns.of_summary()

# The inputs of a configuration's roofline, from its record of FLOPs.
_OF_THE_ROOF = (
    "flops",
    "bytes_moved",
    "peak_flops_per_s",
    "samples_bandwidth_at_bytes",
    "samples_bandwidth_bytes_per_s",
)
# Texts of the records that are copied to their row.
_TEXTS = (
    "memory_method",
    "memory_left_out",
    "flops_left_out",
    "flops_method",
    "checked",
    "side_effects",
    "graph_break_reasons",
    "energy_method",
    "decoder_self_attention",
    "decoder_cross_attention",
)
# What the compiler did: the most in any repeat. Only the first one compiles, if its code is kept.
_COMPILING = ("compile_s", "graph_breaks", "recompiles")
_HITS = {"test_correct", "test_examples"}
ONE_REPEAT = "one repeat"
_TIME_RATIO = ["time_ratio", "time_ratio_low", "time_ratio_high"]
# A time that changes by more than this from the first to the last third of the samples is not steady.
TREND = 0.05

# The order in which statuses decide a row's status: faults of the mechanism first, then limits of the
# machine, then cells that were not tried.
SEVERITY = ["incorrect", "crashed", "unsupported", "oom", "timeout", "skipped", "interrupted", "ok"]


def label(mechanism: str, options: str) -> str:
    """Return a mechanism with its options, as ``-m`` reads it."""
    return f"{mechanism}:{options}" if options else mechanism


def summarise(raw: pd.DataFrame) -> pd.DataFrame:
    """Return one row per configuration from the raw frame; the columns are those of docs/results.md.

    A row's status is ``ok`` if all its records are; otherwise it is the most severe failure (``SEVERITY``),
    with its reason and, if other probes succeeded, the probe's name. The values of successful records stay.
    """
    if raw.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = []
    times = raw[(raw["probe"] == "time") & (raw["status"] == "ok")]
    timed = comparable(times)
    noise = noises(timed)
    own = {key: rows for key, rows in timed.groupby([*IDENTITY, *ORIGIN], sort=False, dropna=False)}
    for key, group in raw.groupby([*IDENTITY, *ORIGIN], sort=False, dropna=False):
        identity = dict(zip([*IDENTITY, *ORIGIN], key, strict=True))
        values = _values(group, own.get(key), noise.get(identity["machine"], Noise()))
        rows.append({**identity, **_status(group), **values})
    scores = dict.fromkeys(name for row in rows for name in row.pop(columns.SCORES, ()))
    priors = [name for name in raw.columns if name.startswith(columns.PRIOR)]
    frame = pd.DataFrame(rows).reindex(columns=columns.of_summary(list(scores), priors))
    frame = _ratios(frame, timed, noise)
    numbers = [name for name in frame.columns if columns.column(name).unit != "text"]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    frame["repeats"] = frame["repeats"].astype(int)
    order = ["task", "scope", "batch_size", "d_model", "heads", "layers", "dtype", "device", "threads"]
    order += ["allocator", "compile", "mode", "mechanism", "options", "seq_len", *ORIGIN]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def _status(group: pd.DataFrame) -> dict[str, str]:
    """Return status and reason of a row; interrupted records do not count if others are ok."""
    reached = group[group["status"] != "interrupted"]
    shown = reached if (reached["status"] == "ok").any() else group
    wrong = shown["status"] != "ok"
    if not wrong.any():
        return {"status": "ok", "reason": ""}
    failed = shown[wrong]
    rank = failed["status"].map(SEVERITY.index)
    worst = failed.assign(rank=rank).sort_values(["rank", "probe", "repeat"]).iloc[0]
    some = set(group["probe"]) != set(failed["probe"]) or len(failed) < len(group)
    prefix = f"{worst['probe']}: " if some else ""
    return {"status": str(worst["status"]), "reason": f"{prefix}{worst['reason']}"}


def _values(group: pd.DataFrame, quiet: pd.DataFrame | None, noise: Noise) -> dict[str, Any]:
    """Return a row's values; ``quiet`` are its times that can be compared, if it has any."""
    # a mask copies every column, and there are many: it is applied only where needed
    good = group["status"] == "ok"
    ok = (group if good.all() else group[good]).sort_values("repeat")
    priors = [name for name in ok.columns if name.startswith(columns.PRIOR)]
    values: dict[str, Any] = {name: _first(ok, name) for name in (*_EXACT, *priors)}
    values["peak_rss_bytes"] = None
    if "peak_rss_bytes" in ok.columns:
        measured = ok["probe"].isin(["memory", "accuracy"])
        values["peak_rss_bytes"] = _first(ok[["peak_rss_bytes"]][measured], "peak_rss_bytes")
    values |= {name: _text(ok, name) for name in _TEXTS}
    values |= {name: ok[name].max() for name in _COMPILING if name in ok}
    times = ok[ok["probe"] == "time"]
    trained = ok[ok["probe"] == "accuracy"]
    values["repeats"] = max(len(times), len(trained))
    values["hosts"] = joined_hosts((trained if quiet is None else quiet)["host"])
    if quiet is not None:
        repeats = list(quiet["samples_time_s"])
        center, low, high = time_interval(repeats, noise)
        values |= {"time_s": center, "time_low_s": low, "time_high_s": high}
        values["time_interval"] = noise.between.in_words() if len(repeats) > 1 else None
        values["slowdown"] = quiet["slowdown"].median() if "slowdown" in quiet else None
        values["noisy"] = _noisy(times, quiet, own_error(repeats, noise))
        values |= _roofline(ok, values)
        first = times.iloc[0]
        tokens = first["batch_size"] * (1 if first["mode"] == "decode" else first["seq_len"])
        values["tokens_per_s"] = float(tokens) / center
    if len(trained):
        values["tokens_per_s"] = trained["tokens_per_s"].median()
        values["train_seconds"] = trained["train_seconds"].median()
        values |= _scores(trained)
    return values


def _noisy(times: pd.DataFrame, quiet: pd.DataFrame, half: float) -> str:
    """Return the reasons to distrust a time: other load, a wide interval, no steady state; empty if none.

    ``quiet`` are the repeats that the time was computed from.
    """
    reasons = []
    disturbed = int(crowded_rows(times).sum())
    if disturbed and len(quiet) == len(times):  # too few others to leave these out
        reasons.append(f"{BESIDE_LOAD} in {disturbed} of {plural(len(times), 'repeat')}")
    asked = float(times["precision"].max()) if "precision" in times else 0.0
    if len(quiet) < 2:
        reasons.append(ONE_REPEAT)
    elif asked and half > asked:
        known = f"± {100 * half:.1f} %" if half < 1 else "± a factor of 2 or more"
        reasons.append(f"{known}, target ± {100 * asked:g} %")
    if "throttled_share" in times and (share := times["throttled_share"].max()) > 0:
        why = ", ".join(dict.fromkeys(times["throttle_reasons"].dropna()))
        reasons.append(f"the card was throttled ({why}) in up to {100 * share:.0f} % of a repeat's samples")
    if "warmed_up" in times and (times["warmed_up"] == "no").any():
        reasons.append("did not settle in the warm-up")
    if "trend" in times and abs(drift := float(times["trend"].median())) > TREND:
        reasons.append(
            f"{'slows down' if drift > 0 else 'speeds up'} by {100 * abs(drift):.0f} % while it runs"
        )
    return "; ".join(reasons)


def _roofline(ok: pd.DataFrame, values: dict[str, Any]) -> dict[str, Any]:
    """Return the roofline's columns; none if FLOPs or the machine's ceiling are unknown."""
    if "peak_flops_per_s" not in ok or not (known := ok["peak_flops_per_s"].notna()).any():
        return {}
    row = ok.loc[known, [*_OF_THE_ROOF]].iloc[0]
    return roofline(
        flops=float(row["flops"]),
        bytes_moved=float(row["bytes_moved"]),
        time_s=values["time_s"],
        footprint_bytes=None if pd.isna(values["peak_bytes"]) else float(values["peak_bytes"]),
        peak_flops_per_s=float(row["peak_flops_per_s"]),
        bandwidth_at_bytes=row["samples_bandwidth_at_bytes"],
        bandwidth_bytes_per_s=row["samples_bandwidth_bytes_per_s"],
    )


def _ratios(frame: pd.DataFrame, times: pd.DataFrame, noise: Mapping[str, Noise]) -> pd.DataFrame:
    """Return the frame with each time's ratio to the fastest of its kind, and to its plain form's time."""
    place = {
        key: number
        for number, key in enumerate(frame[[*IDENTITY, *ORIGIN]].itertuples(index=False, name=None))
    }
    ratios: dict[int, Interval] = {}  # one assignment for each row would take seconds for thousands of rows
    rivals = [name for name in [*IDENTITY, "machine"] if name not in ("mechanism", "options")]
    for _, block in times.groupby(rivals, sort=False, dropna=False):
        samples_of = {
            place[key]: by_pair(rows)
            for key, rows in block.groupby([*IDENTITY, *ORIGIN], sort=False, dropna=False)
        }
        best = frame.loc[list(samples_of), "time_s"].idxmin()
        for number, samples in samples_of.items():
            ratios[number] = (1.0, 1.0, 1.0)
            if number != best:
                of_machine = noise[str(block["machine"].iloc[0])]
                ratios[number] = ratio_interval(samples, samples_of[best], of_machine)
    compiled = compile_ratios(times, [*IDENTITY, *ORIGIN], noise)
    to_plain = {place[key]: ratio for key, ratio in compiled.items()}
    return frame.assign(**_columns(ratios, _TIME_RATIO), **_columns(to_plain, RATIO))


def _columns(ratios: Mapping[int, Interval], names: Sequence[str]) -> dict[str, pd.Series]:
    """Return a column for each part of the intervals, which are given by the number of their row."""
    return {
        name: pd.Series({number: ratio[part] for number, ratio in ratios.items()}, dtype=float)
        for part, name in enumerate(names)
    }


def _scores(trained: pd.DataFrame) -> dict[str, Any]:
    """Return each score's mean over seeds with its interval, the task's ``metric``, and all score names."""
    names = scores_of(trained)
    values: dict[str, Any] = {columns.SCORES: list(names)}
    for score, at in names.items():
        values |= _score(score, trained[trained[at].notna()], at)
    return values | ({columns.METRIC: metric_of(trained)} if names else {})


def _score(score: str, trained: pd.DataFrame, at: str) -> dict[str, Any]:
    """Return a score's mean and interval, clipped to 0 and 1 if it is a share; ``at`` is its column.

    One seed has an interval if its record has one over the test examples, and for accuracy, which is a
    proportion of them.
    """
    values = [float(value) for value in trained[at]]
    low_at, high_at, kind_at = columns.bounds(score)
    if len(values) > 1:
        mean, low, high = mean_interval(values)
        kind = f"t over {len(values)} seeds"
    elif score == "accuracy" and set(trained) >= _HITS and trained[list(_HITS)].notna().all(axis=None):
        mean, low, high = proportion_interval(
            int(trained["test_correct"].iloc[0]), int(trained["test_examples"].iloc[0])
        )
        kind = "Wilson over test examples"
    elif kind_at in trained and trained[kind_at].notna().all():
        mean, low, high = values[0], *(float(trained[at].iloc[0]) for at in (low_at, high_at))
        kind = str(trained[kind_at].iloc[0])
    else:
        return {score: values[0]}
    if columns.score_unit(score) == "share":
        low, high = max(0.0, low), min(1.0, high)
    return {score: mean, low_at: low, high_at: high, kind_at: kind}


def _text(ok: pd.DataFrame, name: str) -> str | None:
    """Return the different texts of a column, joined; None if no record has the column."""
    if name not in ok.columns or ok[name].isna().all():
        return None
    return "; ".join(dict.fromkeys(part for text in ok[name].dropna() for part in text.split("; ") if part))


def _first(ok: pd.DataFrame, name: str) -> Any:
    """Return the value of an exact quantity; the median if repeats measured it several times."""
    if name not in ok.columns:
        return None
    known = ok[name].dropna()
    return known.median() if len(known) else None
