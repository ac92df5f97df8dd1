"""From one row a record to one row a cell: repeats and probes merged, failures kept."""

from __future__ import annotations

from typing import Any

import pandas as pd

from effbench.analyse.roofline import roofline
from effbench.analyse.statistics import (
    half_width,
    mean_interval,
    median_interval,
    proportion_interval,
    ratio_interval,
)

# What makes two records belong to the same row.
IDENTITY = [
    "mechanism",
    "options",
    "scope",
    "mode",
    "task",
    "seq_len",
    "batch_size",
    "d_model",
    "heads",
    "layers",
    "dtype",
    "device",
    "threads",
    "allocator",
]
ORIGIN = ["machine", "code", "data"]
# What an accuracy is to be read against: scores of predictors that do without a mechanism.
PRIORS = [
    "prior_majority",
    "prior_root_operator",
    "prior_tfidf_logreg",
    "prior_logreg_pixels",
    "prior_tfidf_cosine",
    "prior_a_value_of_the_row",
    "prior_slot",
]
MEASURED = [
    "status",
    "reason",
    "time_s",
    "time_low_s",
    "time_high_s",
    "noisy",
    "time_ratio",
    "time_ratio_low",
    "time_ratio_high",
    "tokens_per_s",
    "peak_bytes",
    "saved_bytes",
    "parameter_bytes",
    "rss_growth_bytes",
    "peak_rss_bytes",
    "memory_method",
    "flops",
    "flops_analytic",
    "flops_useful",
    "flops_other",
    "uncounted_share",
    "bytes_moved",
    "arithmetic_intensity",
    "flops_per_s",
    "roof_flops_per_s",
    "roof_share",
    "parameters",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_interval",
    "macro_f1",
    "macro_f1_low",
    "macro_f1_high",
    *PRIORS,
    "train_seconds",
    "repeats",
]
COLUMNS = [*IDENTITY, *MEASURED, *ORIGIN]

_TEXTS = ("noisy", "memory_method", "accuracy_interval")
_EXACT = (
    "peak_bytes",
    "saved_bytes",
    "parameter_bytes",
    "rss_growth_bytes",
    "flops",
    "flops_analytic",
    "flops_useful",
    "flops_other",
    "uncounted_share",
    "bytes_moved",
    "parameters",
    *PRIORS,
)
# What the roofline of a cell is made of, from its record of FLOPs.
_OF_THE_ROOF = (
    "flops",
    "bytes_moved",
    "peak_flops_per_s",
    "samples_bandwidth_at_bytes",
    "samples_bandwidth_bytes_per_s",
)
# A time that changes by more than this from the first to the last third of the samples has not settled.
TREND = 0.05

# Of a row's records the status that says most: what is wrong with the mechanism before what the machine or
# its limits did, and what was not tried last.
SEVERITY = ["incorrect", "crashed", "unsupported", "oom", "timeout", "skipped", "interrupted", "ok"]


def label(mechanism: str, options: str) -> str:
    """A mechanism with its options, as ``-m`` reads it."""
    return f"{mechanism}:{options}" if options else mechanism


def summarise(raw: pd.DataFrame) -> pd.DataFrame:
    """One row a cell from the frame of ``effbench.store.raw_frame``; columns as in docs/results.md.

    A row's status is ``ok`` if all its records are; otherwise the most telling failure, with its reason and,
    where other probes succeeded, the probe's name. What the successful records measured stays.
    """
    if raw.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = []
    for key, group in raw.groupby([*IDENTITY, *ORIGIN], sort=False, dropna=False):
        identity = dict(zip([*IDENTITY, *ORIGIN], key, strict=True))
        rows.append({**identity, **_status(group), **_values(group)})
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    frame = _ratios(frame, raw)
    numbers = [c for c in MEASURED if c not in ("status", "reason", *_TEXTS)]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    frame["repeats"] = frame["repeats"].astype(int)
    order = ["task", "scope", "batch_size", "d_model", "heads", "layers", "dtype", "device", "threads"]
    order += ["allocator", "mode", "mechanism", "options", "seq_len", *ORIGIN]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def _status(group: pd.DataFrame) -> dict[str, str]:
    wrong = group["status"] != "ok"
    if not wrong.any():
        return {"status": "ok", "reason": ""}
    failed = group[wrong]
    rank = failed["status"].map(SEVERITY.index)
    worst = failed.assign(rank=rank).sort_values(["rank", "probe", "repeat"]).iloc[0]
    some = set(group["probe"]) != set(failed["probe"]) or len(failed) < len(group)
    prefix = f"{worst['probe']}: " if some else ""
    return {"status": str(worst["status"]), "reason": f"{prefix}{worst['reason']}"}


def _values(group: pd.DataFrame) -> dict[str, Any]:
    # a mask copies every column, and there are many: it is applied to those that are looked at
    good = group["status"] == "ok"
    ok = (group if good.all() else group[good]).sort_values("repeat")
    found: dict[str, Any] = {name: _first(ok, name) for name in _EXACT}
    found["peak_rss_bytes"] = None
    if "peak_rss_bytes" in ok.columns:
        measured = ok["probe"].isin(["memory", "accuracy"])
        found["peak_rss_bytes"] = _first(ok[["peak_rss_bytes"]][measured], "peak_rss_bytes")
    if "memory_method" in ok and len(methods := ok["memory_method"].dropna()):
        found["memory_method"] = methods.iloc[0]
    times = ok[ok["probe"] == "time"]
    trained = ok[ok["probe"] == "accuracy"]
    found["repeats"] = max(len(times), len(trained))
    if len(times):
        center, low, high = median_interval(list(times["samples_time_s"]))
        found |= {"time_s": center, "time_low_s": low, "time_high_s": high}
        found["noisy"] = _noisy(times, half_width((center, low, high)))
        found |= _roofline(ok, found)
        found["tokens_per_s"] = float(times["batch_size"].iloc[0] * times["seq_len"].iloc[0]) / center
    if len(trained):
        found["tokens_per_s"] = trained["tokens_per_s"].median()
        found["train_seconds"] = trained["train_seconds"].median()
        if "accuracy" in trained and trained["accuracy"].notna().any():
            found |= _accuracy(trained[trained["accuracy"].notna()])
        if "test_macro_f1" in trained and (scores := trained["test_macro_f1"].dropna()).size:
            found |= _macro_f1([float(score) for score in scores])
    return found


def _noisy(times: pd.DataFrame, half: float) -> str:
    """Why not to lean on a time: its interval is wider than asked, or it never settled; empty if neither."""
    said = []
    asked = float(times["precision"].max()) if "precision" in times else 0.0
    if asked and len(times) < 2:
        said.append("one repeat")
    elif asked and half > asked:
        known = f"+-{100 * half:.1f} %" if half < 1 else "no better than a factor of 2"
        said.append(f"{known}, {100 * asked:g} % asked")
    if "warmed_up" in times and (times["warmed_up"] == "no").any():
        said.append("did not settle in the warm-up")
    if "trend" in times and abs(drift := float(times["trend"].median())) > TREND:
        said.append(f"{'slows down' if drift > 0 else 'speeds up'} by {100 * abs(drift):.0f} % while it runs")
    return "; ".join(said)


def _roofline(ok: pd.DataFrame, found: dict[str, Any]) -> dict[str, Any]:
    """The roofline's columns, where FLOPs and the machine's ceiling are known."""
    if "peak_flops_per_s" not in ok or not (known := ok["peak_flops_per_s"].notna()).any():
        return {}
    row = ok.loc[known, [*_OF_THE_ROOF]].iloc[0]
    return roofline(
        flops=float(row["flops"]),
        bytes_moved=float(row["bytes_moved"]),
        time_s=found["time_s"],
        footprint_bytes=None if pd.isna(found["peak_bytes"]) else float(found["peak_bytes"]),
        peak_flops_per_s=float(row["peak_flops_per_s"]),
        bandwidth_at_bytes=row["samples_bandwidth_at_bytes"],
        bandwidth_bytes_per_s=row["samples_bandwidth_bytes_per_s"],
    )


def _ratios(frame: pd.DataFrame, raw: pd.DataFrame) -> pd.DataFrame:
    """Each time over the fastest at the same shape, mode and length, paired by repeat."""
    times = raw[(raw["probe"] == "time") & (raw["status"] == "ok")]
    place = {
        key: number
        for number, key in enumerate(frame[[*IDENTITY, *ORIGIN]].itertuples(index=False, name=None))
    }
    rivals = [name for name in [*IDENTITY, "machine"] if name not in ("mechanism", "options")]
    for _, block in times.groupby(rivals, sort=False, dropna=False):
        cells = {
            place[key]: dict(zip(cell["repeat"], cell["samples_time_s"], strict=True))
            for key, cell in block.groupby([*IDENTITY, *ORIGIN], sort=False, dropna=False)
        }
        best = frame.loc[list(cells), "time_s"].idxmin()
        for number, samples in cells.items():
            ratio = (1.0, 1.0, 1.0) if number == best else ratio_interval(samples, cells[best])
            frame.loc[number, ["time_ratio", "time_ratio_low", "time_ratio_high"]] = ratio
    return frame


def _accuracy(trained: pd.DataFrame) -> dict[str, Any]:
    scores = [float(score) for score in trained["accuracy"]]
    if len(scores) > 1:
        mean, low, high = mean_interval(scores)
        kind = f"t over {len(scores)} seeds"
    elif not {"test_correct", "test_examples"} <= set(trained.columns):
        return {"accuracy": scores[0]}  # its task counts no examples: there is nothing to make an interval of
    else:
        mean, low, high = proportion_interval(
            int(trained["test_correct"].iloc[0]), int(trained["test_examples"].iloc[0])
        )
        kind = "Wilson over test examples"
    return {
        "accuracy": mean,
        "accuracy_low": max(0.0, low),
        "accuracy_high": min(1.0, high),
        "accuracy_interval": kind,
    }


def _macro_f1(scores: list[float]) -> dict[str, Any]:
    """Its mean over seeds, with an interval where there are two: it is no share of the test examples."""
    if len(scores) == 1:
        return {"macro_f1": scores[0]}
    mean, low, high = mean_interval(scores)
    return {"macro_f1": mean, "macro_f1_low": max(0.0, low), "macro_f1_high": min(1.0, high)}


def _first(ok: pd.DataFrame, name: str) -> Any:
    """The value of an exact quantity; the median where repeats measured it several times."""
    if name not in ok.columns:
        return None
    known = ok[name].dropna()
    return known.median() if len(known) else None
