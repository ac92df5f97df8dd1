"""From one row a record to one row a cell: repeats and probes merged, failures kept."""

from __future__ import annotations

from typing import Any

import pandas as pd

from effbench.analyse.statistics import mean_interval, median_interval, proportion_interval

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
MEASURED = [
    "status",
    "reason",
    "time_s",
    "time_low_s",
    "time_high_s",
    "tokens_per_s",
    "peak_bytes",
    "flops",
    "parameters",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_interval",
    "prior_majority",
    "prior_root_operator",
    "train_seconds",
    "repeats",
]
COLUMNS = [*IDENTITY, *MEASURED, *ORIGIN]

# Of a row's records the status that says most: what is wrong with the mechanism before what the machine or
# its limits did, and what was not tried last.
SEVERITY = ["incorrect", "crashed", "unsupported", "oom", "timeout", "skipped", "interrupted", "ok"]


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
    numbers = [c for c in MEASURED if c not in ("status", "reason", "accuracy_interval")]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    frame["repeats"] = frame["repeats"].astype(int)
    order = ["task", "scope", "batch_size", "d_model", "heads", "layers", "dtype", "device", "threads"]
    order += ["allocator", "mode", "mechanism", "options", "seq_len", *ORIGIN]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def _status(group: pd.DataFrame) -> dict[str, str]:
    failed = group[group["status"] != "ok"]
    if failed.empty:
        return {"status": "ok", "reason": ""}
    rank = failed["status"].map(SEVERITY.index)
    worst = failed.assign(rank=rank).sort_values(["rank", "probe", "repeat"]).iloc[0]
    some = set(group["probe"]) != set(failed["probe"]) or len(failed) < len(group)
    prefix = f"{worst['probe']}: " if some else ""
    return {"status": str(worst["status"]), "reason": f"{prefix}{worst['reason']}"}


def _values(group: pd.DataFrame) -> dict[str, Any]:
    ok = group[group["status"] == "ok"].sort_values("repeat")
    found: dict[str, Any] = {
        name: _first(ok, name)
        for name in ("peak_bytes", "flops", "parameters", "prior_majority", "prior_root_operator")
    }
    times = ok[ok["probe"] == "time"]
    trained = ok[ok["probe"] == "accuracy"]
    found["repeats"] = max(len(times), len(trained))
    if len(times):
        center, low, high = median_interval(list(times["samples_time_s"]))
        found |= {"time_s": center, "time_low_s": low, "time_high_s": high}
        found["tokens_per_s"] = float(times["batch_size"].iloc[0] * times["seq_len"].iloc[0]) / center
    if len(trained):
        found["tokens_per_s"] = trained["tokens_per_s"].median()
        found["train_seconds"] = trained["train_seconds"].median()
        if "accuracy" in trained and trained["accuracy"].notna().any():
            found |= _accuracy(trained[trained["accuracy"].notna()])
    return found


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


def _first(ok: pd.DataFrame, name: str) -> Any:
    """The value of an exact quantity; the median where repeats measured it several times."""
    if name not in ok.columns:
        return None
    known = ok[name].dropna()
    return known.median() if len(known) else None
