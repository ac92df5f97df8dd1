"""Target openmetrics: the summary as text that Prometheus and its relatives read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from effbench.common import columns
from effbench.common.spec import STATUSES
from effbench.show.export.configurations import Configuration, configurations
from effbench.show.export.safe_names import safe_names
from effbench.show.export.selection import Selection

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX = "effbench_"
ORIGIN, STATUS, CONFIGURATION = f"{PREFIX}origin", f"{PREFIX}status", f"{PREFIX}configuration"
ENDED = f"{PREFIX}ended_timestamp_seconds"
# The end of a column's name, and the unit as OpenMetrics spells it.
_UNITS = {
    "_per_s": "per_second",
    "_s": "seconds",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_share": "ratio",
    "_j": "joules",
    "_w": "watts",
}


def text(selection: Selection) -> bytes:
    """Return a gauge for each number of the summary, a state set of statuses, and information metrics.

    Samples have no time, so that a scraper gives them its own; ``effbench_ended_timestamp_seconds`` has it.

    The labels of a sample are what was measured and ``origin``, which refers to
    ``effbench_origin_info``: machine, code, data, folder.
    """
    return written(configurations(selection)).encode()


def written(rows: Sequence[Configuration]) -> str:
    """Return the text of these configurations."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.registry import Collector

    metrics = _metrics(rows)

    class Summary(Collector):
        def collect(self) -> Iterable[Metric]:
            return metrics

    registry = CollectorRegistry()
    registry.register(Summary())
    return str(generate_latest(registry).decode())


def metric_names(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return column -> (name of its metric, unit).

    ``time_low_s`` becomes ``effbench_time_low_seconds`` in seconds. The name ends with the unit; the unit is
    "" for a column without one.
    """
    found: dict[str, tuple[str, str]] = {}
    taken = {ORIGIN, f"{ORIGIN}_info", STATUS, CONFIGURATION, f"{CONFIGURATION}_info", ENDED}
    for name, safe in safe_names(names).items():
        end = next((end for end in _UNITS if safe.endswith(end)), "")
        unit = _UNITS[end] if end else "ratio" if columns.column(name).unit == "share" else ""
        full = f"{PREFIX}{safe.removesuffix(end)}{f'_{unit}' if unit else ''}"
        while full in taken:
            full, unit = f"{full}_", ""
        taken.add(full)
        found[name] = (full, unit)
    return found


def _metrics(rows: Sequence[Configuration]) -> list[Metric]:
    from prometheus_client import Metric

    origin = Metric(ORIGIN, "Where and by which code it was measured.", "info")
    for number, facts in {_origin(row): row.origin for row in rows}.items():
        origin.add_sample(f"{ORIGIN}_info", {"origin": number, **facts}, 1)
    status = Metric(STATUS, "The status of a configuration: that with 1.", "stateset")
    texts = Metric(CONFIGURATION, "The reason of the status, and the other texts of a configuration.", "info")
    for row in rows:
        labels = _labels(row)
        for known in STATUSES:
            status.add_sample(STATUS, {**labels, STATUS: known}, int(row.status == known))
        more = {name: value for name, value in {"reason": row.reason, **row.texts}.items() if value}
        safe = safe_names([*labels, *more])
        texts.add_sample(f"{CONFIGURATION}_info", {**labels, **{safe[name]: more[name] for name in more}}, 1)
    gauges = []
    for name, (full, unit) in metric_names(
        dict.fromkeys(name for row in rows for name in row.numbers)
    ).items():
        gauge = Metric(full, f"Column {name} of the summary.", "gauge", unit)
        for row in rows:
            if name in row.numbers:
                gauge.add_sample(full, _labels(row), float(row.numbers[name]))
        gauges.append(gauge)
    ended = Metric(ENDED, "When the last record of the configuration ended.", "gauge", "seconds")
    for row in rows:
        if row.ended is not None:
            ended.add_sample(ENDED, _labels(row), row.ended.timestamp())
    return [origin, status, texts, ended, *gauges]


def _labels(row: Configuration) -> dict[str, str]:
    return {**{name: str(value) for name, value in row.identity.items()}, "origin": _origin(row)}


def _origin(row: Configuration) -> str:
    content = json.dumps(row.origin, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
