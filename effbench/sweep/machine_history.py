"""The history of this machine's runs: their speed and times, kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from effbench.common import files, machine
from effbench.common.spec import Record, to_json
from effbench.common.strict_json import parse_json
from effbench.records.analyse.load import has_control, is_crowded
from effbench.records.analyse.runs import Run, learn
from effbench.records.analyse.uncertainty import Between, variance_of_median
from effbench.records.frame import QUICK

_MOST_RUNS, _MOST_TIMES = 60, 300  # kept: the newest runs, and of each so many configurations
_CONTROL = 2  # counts the forms of measured/probes/control.py: times beside different ones are not compared
_FEWEST = 2  # repeats of a configuration that is kept, and cells of a run


class History:
    """The earlier runs of this machine: records get what is known from them, and each new run is added."""

    def __init__(self) -> None:
        digest = hashlib.sha256(machine.name().encode()).hexdigest()[:16]
        self._path = machine.cache_dir() / f"history-{_CONTROL}-{digest}.json"
        text = files.read_checked(self._path)
        self._runs = [_run(one) for one in parse_json(text)] if text is not None else []
        self._known: dict[str, dict[str, Any] | None] = {}

    def beside(self, record: Record) -> Record:
        """Return a record of time with what the history tells in its machine's facts; others unchanged."""
        if not _is_kept(record):
            return record
        group = _group(record)
        if group not in self._known:
            self._known[group] = learn([run for run in self._runs if run.group == group])
        told = self._known[group]
        return record if told is None else replace(record, machine={**record.machine, "history": told})

    def between(self, threads: int) -> Between:
        """Return the noise between runs that the intervals of a run with so many threads include."""
        return Between.told(learn([run for run in self._runs if run.group.endswith(f", {threads} threads")]))

    def keep(self, records: Iterable[Record]) -> None:
        """Add the records that one run measured, and write the history if the cache folder is writable."""
        new = runs_of(records)
        if not new:
            return
        runs = [*self._runs, *new][-_MOST_RUNS:]
        files.keep_checked(self._path, json.dumps([asdict(run) for run in runs], separators=(",", ":")))


def runs_of(records: Iterable[Record]) -> list[Run]:
    """Return what is kept of these records of one run, a Run for each group."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if _is_kept(record) and not is_crowded(record):
            groups[_group(record)].append(record)
    runs = []
    for group, own in groups.items():
        if len(own) < _FEWEST:
            continue
        times: dict[str, list[float]] = defaultdict(list)
        for record in own:
            series = record.samples["time_s"], record.samples["control_s"]
            times[_configuration(record)].append(float(np.median(np.log(series[0]) - np.log(series[1]))))
        controls = [float(np.median(record.samples["control_s"])) for record in own]
        runs.append(
            Run(
                group=group,
                started=own[0].started,
                control_s=float(np.quantile(controls, QUICK)),
                times={
                    key: (float(np.median(logs)), variance_of_median(np.array(logs)).value)
                    for key, logs in list(times.items())[:_MOST_TIMES]
                    if len(logs) >= _FEWEST
                },
            )
        )
    return runs


def _is_kept(record: Record) -> bool:
    return record.cell.probe == "time" and record.status == "ok" and has_control(record)


def _group(record: Record) -> str:
    return f"torch {record.machine.get('torch')}, {record.cell.threads} threads"


def _configuration(record: Record) -> str:
    """Return a key of what repeats share: the cell without its sampling, and the mechanism's own code."""
    cell = replace(record.cell, repeat=0, seed=0, seconds=0.0, precision=0.0)
    return hashlib.sha256(f"{to_json(cell)} {record.code.rpartition('-')[2]}".encode()).hexdigest()[:12]


def _run(data: Mapping[str, Any]) -> Run:
    times: Mapping[str, Sequence[float]] = data["times"]
    return Run(
        group=str(data["group"]),
        started=str(data["started"]),
        control_s=float(data["control_s"]),
        times={key: (float(value[0]), float(value[1])) for key, value in times.items()},
    )
