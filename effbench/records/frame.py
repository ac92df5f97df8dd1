"""The raw frame: records as rows of a DataFrame, one row per record."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING, Any

from effbench.common import columns
from effbench.common.host import host_of
from effbench.common.spec import Cell, Record, spec_label

if TYPE_CHECKING:
    from pandas import DataFrame, Series

QUICK = 0.1  # the share of a run's controls that are at least as quick as the machine in its quick phases


def raw_frame(records: Iterable[Record]) -> DataFrame:
    """Return the raw frame, one row per record; series of samples are lists in columns ``samples_NAME``."""
    import pandas as pd

    rows = [_row(record) for record in records]
    first = list(_row(_EMPTY)) if not rows else []
    frame = pd.DataFrame(rows, columns=first or None)
    return frame.assign(slowdown=_slowdowns(frame)) if "control_s" in frame else frame


def _row(record: Record) -> dict[str, Any]:
    cell = record.cell
    times = record.samples.get("time_s")
    return {
        "mechanism": cell.mechanism,
        "options": spec_label("", cell.options).removeprefix(":"),
        "probe": cell.probe,
        "scope": cell.scope,
        "mode": cell.mode,
        "task": cell.task_label,
        "seq_len": cell.seq_len,
        "batch_size": cell.batch_size,
        "d_model": cell.d_model,
        "heads": cell.heads,
        "layers": cell.layers,
        "dtype": cell.dtype,
        "device": cell.device,
        "threads": cell.threads,
        "allocator": cell.allocator,
        "compile": cell.compile,
        "seconds_budget": cell.seconds,
        "precision": cell.precision,
        "seed": cell.seed,
        "repeat": cell.repeat,
        "status": record.status,
        "reason": record.reason,
        "time_s": median(times) if times else None,
        **{f"samples_{name}": list(series) for name, series in record.samples.items()},
        **record.values,
        **_ceiling(record),
        **_history(record),
        **{name: record.machine.get(name) for name in columns.of_role("fact")},
        "torch": record.machine.get("torch"),
        "machine": machine_name(record),
        "host": host_of(record.machine),
        "slurm_job": record.machine.get("slurm_job"),
        "code": record.code,
        "data": record.data,
        "started": record.started,
        "seconds": record.seconds,
    }


def _ceiling(record: Record) -> dict[str, Any]:
    """Return the columns of the machine's ceiling, which effbench.sweep.machine_ceiling measures."""
    ceiling = record.machine.get("ceiling") or {}
    return {
        "peak_flops_per_s": ceiling.get("peak_flops_per_s"),
        "no_ceiling": ceiling.get("reason"),
        "samples_bandwidth_at_bytes": ceiling.get("bandwidth_at_bytes"),
        "samples_bandwidth_bytes_per_s": ceiling.get("bandwidth_bytes_per_s"),
    }


def _history(record: Record) -> dict[str, Any]:
    """Return the columns of what effbench.sweep.machine_history told of earlier runs, and of the control."""
    known = record.machine.get("history") or {}
    control = record.samples.get("control_s")
    own = {"control_s": median(control)} if control else {}
    return own | {f"history_{name}": value for name, value in known.items()}


def _slowdowns(frame: DataFrame) -> Series[float]:
    """Return how many times slower than in its quick phases the machine was during each time; else NaN.

    It is the time of the control beside the samples over that in quick phases: what earlier runs of the
    machine told, or else a value below which a tenth of the frame's own controls are. (A minimum would
    depend on the number of records.)
    """
    quickest = frame["control_s"].copy()
    timed = frame["control_s"].notna()
    for _, group in frame[timed].groupby(["machine", "torch", "threads"], dropna=False):
        reference = group["control_s"].quantile(QUICK)
        if "history_control_s" in group and (known := group[group["history_control_s"].notna()]).shape[0]:
            reference = known.loc[known["started"].astype(str).idxmax(), "history_control_s"]
        quickest.loc[group.index] = reference
    return frame["control_s"] / quickest


def machine_name(record: Record) -> str:
    """Return the machine's name with its GPU: nodes of equal hardware have the same."""
    gpu = record.machine.get("gpu")
    return f"{record.machine.get('name', '')}{f', {gpu}' if gpu else ''}"


_EMPTY = Record(cell=Cell(mechanism="", probe="time", seq_len=1), status="ok")
COLUMNS = frozenset(_row(_EMPTY))  # the columns that every row has
