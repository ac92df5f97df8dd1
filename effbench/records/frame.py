"""The raw frame: records as rows of a DataFrame, one row per record."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING, Any

from effbench.common import columns
from effbench.common.spec import Cell, Record, spec_label

if TYPE_CHECKING:
    from pandas import DataFrame


def raw_frame(records: Iterable[Record]) -> DataFrame:
    """Return the raw frame, one row per record; series of samples are lists in columns ``samples_NAME``."""
    import pandas as pd

    rows = [_row(record) for record in records]
    first = list(_row(_EMPTY)) if not rows else []
    return pd.DataFrame(rows, columns=first or None)


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
        **{name: record.machine.get(name) for name in columns.of_role("fact")},
        "torch": record.machine.get("torch"),
        "machine": _machine_name(record),
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


def _machine_name(record: Record) -> str:
    gpu = record.machine.get("gpu")
    return f"{record.machine.get('name', '')}{f', {gpu}' if gpu else ''}"


_EMPTY = Record(cell=Cell(mechanism="", probe="time", seq_len=1), status="ok")
COLUMNS = frozenset(_row(_EMPTY))  # the columns that every row has
