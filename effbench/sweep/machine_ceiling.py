"""The machine's ceiling (peak FLOP/s, bandwidth): measured once per machine and kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from effbench.common import files, machine
from effbench.common.spec import MACHINE, Cell, Job, Limits, Record
from effbench.common.strict_json import parse_json
from effbench.records.soundness import check_ceiling
from effbench.sweep.executor import Executor

_LIMITS = Limits(timeout_s=120.0, memory_bytes=4 * 2**30)
_ATTEMPTS = 3
_QUIET_CORES = 0.25  # at most this much other load
_VERSION = 3  # of the method; a ceiling of another version is measured again


class Ceilings:
    """The machine's peak FLOP/s and bandwidth for a record's dtype, device, threads and allocator."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._known: dict[str, Mapping[str, Any]] = {}

    def beside(self, record: Record) -> Record:
        """Return the record of a FLOPs cell with the ceiling in its machine's facts; any other unchanged.

        The ceiling is measured on first use and kept in the cache folder, by the machine's name, its GPU,
        torch's version and the settings. Other load would make it too low: if there is other load in all of
        three attempts, or if the ceiling cannot be measured, the record holds a reason instead.
        """
        if record.cell.probe != "flops" or record.status != "ok":
            return record
        cell = Cell(
            mechanism=MACHINE,
            probe="ceiling",
            seq_len=1,
            dtype=record.cell.dtype,
            device=record.cell.device,
            threads=record.cell.threads,
            allocator=record.cell.allocator,
        )
        if cell.key not in self._known:
            self._known[cell.key] = self._find(cell, str(record.machine.get("gpu") or ""))
        return replace(record, machine={**record.machine, "ceiling": self._known[cell.key]})

    def _find(self, cell: Cell, gpu: str) -> Mapping[str, Any]:
        # nodes of equal processors and other GPUs may share the cache
        key = f"{_VERSION} {cell.key} {machine.name()} {version('torch')} {gpu}".rstrip()
        path = machine.cache_dir() / f"ceiling-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        kept = _read(path)
        if kept is not None:
            return kept
        for _ in range(_ATTEMPTS):
            record = self._executor.run(Job(cell=cell, limits=_LIMITS), lambda fraction, text: None)
            if record.status != "ok":
                return {"reason": f"{record.status}: {record.reason}"}
            series = {name: list(values) for name, values in record.samples.items()}
            others = float(record.machine.get("others_cores") or 0.0)
            ceiling: dict[str, Any] = {**series, **record.values, "measured": record.started}
            if others <= _QUIET_CORES:
                break
        else:
            return {"reason": f"other processes kept {others:.1f} cores busy while the ceiling was measured"}
        files.keep_checked(path, json.dumps(ceiling))
        return ceiling


def _read(path: Path) -> Mapping[str, Any] | None:
    """Return a ceiling kept earlier; None if there is none, or if the file was changed."""
    text = files.read_checked(path)
    if text is None:
        return None
    try:
        ceiling = parse_json(text)
        check_ceiling(ceiling)
    except ValueError:
        return None
    return dict(ceiling)
