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
from effbench.records.analyse.scores import metric_of, scores_of, within_scale
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
_KEYS = [*IDENTITY, *ORIGIN]
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
# What a time's row needs of its records.
_OF_TIMES = (
    "batch_size",
    "seq_len",
    "mode",
    "precision",
    "throttled_share",
    "throttle_reasons",
    "warmed_up",
    "trend",
)
_NOTHING: dict[str, Any] = {"repeats": 0, "hosts": ""}
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
    raw = raw.reset_index(drop=True)
    # A selection of records copies every column, and there are many: so records are selected once for all
    # rows of the summary, and with few columns for each row.
    row_of = raw.groupby(_KEYS, sort=False, dropna=False).ngroup()
    good = raw["status"] == "ok"
    ok = raw[good].sort_values("repeat", kind="stable")
    times = raw[good & (raw["probe"] == "time")]
    timed = comparable(times)
    noise = noises(timed)
    priors = [name for name in raw.columns if name.startswith(columns.PRIOR)]
    values = _of_times(times, timed, row_of, noise)
    trainings = ok[ok["probe"] == "accuracy"]
    trained = {
        row: _of_trainings(rows) for row, rows in trainings.groupby(row_of[trainings.index], sort=False)
    }
    scores = dict.fromkeys(name for own in trained.values() for name in own.pop(columns.SCORES, ()))
    frame = raw.loc[~row_of.duplicated(), _KEYS].reset_index(drop=True)
    rows = []
    for row in frame.index:
        timings, scoring = values.get(row, _NOTHING), trained.get(row, _NOTHING)
        repeats = max(timings["repeats"], scoring["repeats"])
        hosts = timings["hosts"] or scoring["hosts"]
        rows.append({**timings, **scoring, "repeats": repeats, "hosts": hosts})
    parts = [_statuses(raw, row_of), _exact(ok, row_of, priors), _texts(ok, row_of), pd.DataFrame(rows)]
    frame = frame.join(parts).reindex(columns=columns.of_summary(list(scores), priors))
    frame = frame.assign(**_roofs(ok, row_of, frame))
    frame = _ratios(frame, timed, noise)
    numbers = [name for name in frame.columns if columns.column(name).unit != "text"]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    frame["repeats"] = frame["repeats"].astype(int)
    order = ["task", "scope", "batch_size", "d_model", "heads", "layers", "dtype", "device", "threads"]
    order += ["allocator", "compile", "mode", "mechanism", "options", "seq_len", *ORIGIN]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def _statuses(raw: pd.DataFrame, row_of: pd.Series) -> pd.DataFrame:
    """Return status and reason of each row of the summary."""
    statuses = pd.DataFrame({"status": "ok", "reason": ""}, index=range(row_of.max() + 1))
    failed = row_of[raw["status"] != "ok"].unique()
    records = raw.loc[row_of.isin(failed), ["status", "probe", "repeat", "reason"]]
    for row, group in records.groupby(row_of[records.index], sort=False):
        statuses.loc[row] = _status(group)
    return statuses


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


def _exact(ok: pd.DataFrame, row_of: pd.Series, priors: Sequence[str]) -> pd.DataFrame:
    """Return exact quantities of each row, by median: repeats may have measured them several times."""
    names = [name for name in (*_EXACT, *priors) if name in ok]
    found = [ok[names].astype(float).groupby(row_of[ok.index]).median()]
    if "peak_rss_bytes" in ok:
        resident = ok.loc[ok["probe"].isin(["memory", "accuracy"]), "peak_rss_bytes"].astype(float)
        found.append(resident.groupby(row_of[resident.index]).median().to_frame())
    compiling = ok[[name for name in _COMPILING if name in ok]].astype(float)
    found.append(compiling.groupby(row_of[ok.index]).max())
    return pd.concat(found, axis=1)


def _texts(ok: pd.DataFrame, row_of: pd.Series) -> pd.DataFrame:
    """Return the different parts of each text of each row, joined."""
    found: dict[str, list[str | None]] = {}
    for name in _TEXTS:
        texts = ok[name].dropna() if name in ok else pd.Series(dtype=object)
        joined = texts.groupby(row_of[texts.index]).agg(list).map(_joined).to_dict() if len(texts) else {}
        found[name] = [joined.get(row) for row in range(row_of.max() + 1)]
    return pd.DataFrame(found)


def _joined(texts: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(part for text in texts for part in text.split("; ") if part))


def _of_times(
    times: pd.DataFrame, timed: pd.DataFrame, row_of: pd.Series, noise: Mapping[str, Noise]
) -> dict[int, dict[str, Any]]:
    """Return the values of each row that has times; those of ``timed`` can be compared."""
    known = times[[name for name in _OF_TIMES if name in times]].assign(crowded=crowded_rows(times))
    every = dict(iter(known.groupby(row_of[times.index], sort=False)))
    few = timed[[name for name in ("machine", "host", "slowdown", "samples_time_s") if name in timed]]
    found = {}
    for row, quiet in few.groupby(row_of[timed.index], sort=False):
        own, first = every[row], every[row].iloc[0]
        of_machine = noise[str(quiet["machine"].iloc[0])]
        repeats = list(quiet["samples_time_s"])
        center, low, high = time_interval(repeats, of_machine)
        tokens = first["batch_size"] * (1 if first["mode"] == "decode" else first["seq_len"])
        found[row] = {
            "repeats": len(own),
            "hosts": joined_hosts(quiet["host"]),
            "time_s": center,
            "time_low_s": low,
            "time_high_s": high,
            "time_interval": of_machine.between.in_words() if len(repeats) > 1 else None,
            "slowdown": quiet["slowdown"].median() if "slowdown" in quiet else None,
            "noisy": _noisy(own, len(quiet), own_error(repeats, of_machine)),
            "tokens_per_s": float(tokens) / center,
        }
    return found


def _of_trainings(trained: pd.DataFrame) -> dict[str, Any]:
    """Return the values of a row's trainings, and the names of their scores."""
    medians = {name: trained[name].median() for name in ("tokens_per_s", "train_seconds")}
    return {"repeats": len(trained), "hosts": joined_hosts(trained["host"]), **medians, **_scores(trained)}


def _noisy(times: pd.DataFrame, quiet: int, half: float) -> str:
    """Return the reasons to distrust a time: other load, a wide interval, no steady state; empty if none.

    ``quiet`` is the number of repeats that the time was computed from.
    """
    reasons = []
    disturbed = int(times["crowded"].sum())
    if disturbed and quiet == len(times):  # too few others to leave these out
        reasons.append(f"{BESIDE_LOAD} in {disturbed} of {plural(len(times), 'repeat')}")
    asked = float(times["precision"].max()) if "precision" in times else 0.0
    if quiet < 2:
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


def _roofs(ok: pd.DataFrame, row_of: pd.Series, frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the roofline's columns of the rows with a time whose FLOPs and ceiling are known."""
    if not set(_OF_THE_ROOF) <= set(ok):
        return {}
    known = ok.loc[ok["peak_flops_per_s"].notna(), [*_OF_THE_ROOF]]
    first = known.groupby(row_of[known.index], sort=False).head(1)
    found: dict[int, dict[str, float]] = {}
    for row, of_row in zip(row_of[first.index], first.to_dict(orient="records"), strict=True):
        time_s, footprint = frame.at[row, "time_s"], frame.at[row, "peak_bytes"]
        if pd.notna(time_s):
            found[row] = roofline(
                flops=float(of_row["flops"]),
                bytes_moved=float(of_row["bytes_moved"]),
                time_s=float(time_s),
                footprint_bytes=None if pd.isna(footprint) else float(footprint),
                peak_flops_per_s=float(of_row["peak_flops_per_s"]),
                bandwidth_at_bytes=of_row["samples_bandwidth_at_bytes"],
                bandwidth_bytes_per_s=of_row["samples_bandwidth_bytes_per_s"],
            )
    return dict(pd.DataFrame.from_dict(found, orient="index").items())


def _ratios(frame: pd.DataFrame, times: pd.DataFrame, noise: Mapping[str, Noise]) -> pd.DataFrame:
    """Return the frame with each time's ratio to the fastest of its kind, and to its plain form's time."""
    place = {key: number for number, key in enumerate(frame[_KEYS].itertuples(index=False, name=None))}
    ratios: dict[int, Interval] = {}  # one assignment for each row would take seconds for thousands of rows
    rivals = [name for name in [*IDENTITY, "machine"] if name not in ("mechanism", "options")]
    for _, block in times.groupby(rivals, sort=False, dropna=False):
        samples_of = {
            place[key]: by_pair(rows) for key, rows in block.groupby(_KEYS, sort=False, dropna=False)
        }
        best = frame.loc[list(samples_of), "time_s"].idxmin()
        for number, samples in samples_of.items():
            ratios[number] = (1.0, 1.0, 1.0)
            if number != best:
                of_machine = noise[str(block["machine"].iloc[0])]
                ratios[number] = ratio_interval(samples, samples_of[best], of_machine)
    compiled = compile_ratios(times, _KEYS, noise)
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
    """Return a score's mean and interval; ``at`` is its column.

    One seed has an interval if its record has one over the test examples, and for accuracy, which is a
    proportion of them.
    """
    values = [float(value) for value in trained[at]]
    low_at, high_at, kind_at = columns.bounds(score)
    if len(values) > 1:
        mean, low, high = within_scale(mean_interval(values), score)
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
    return {score: mean, low_at: low, high_at: high, kind_at: kind}
