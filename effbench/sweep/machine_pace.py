"""How long cells took on this machine, kept in the cache folder: a first correction of later estimates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from effbench.common import files, machine
from effbench.common.strict_json import parse_json
from effbench.sweep.estimate import Estimate, Key
from effbench.sweep.planning import Plan

_VERSION = 1  # of the cost model in estimate.py: sums of another one say nothing
_MOST_KEYS = 500  # kept, the newest ones
_MOST_S = 20.0  # that earlier runs weigh: new cells soon outweigh them


def estimate_of(plan: Plan) -> Estimate:
    """Return the estimate of a plan's cells, with all that is known on this machine."""
    return Estimate(plan.done, plan.extents, read())


def read() -> dict[Key, tuple[float, float]]:
    """Return what ``Estimate.sums`` were at the end of the last run on this machine; none if not known."""
    text = files.read_checked(_path())
    rows = parse_json(text) if text is not None else []
    return {(probe, task, label): (actual, guessed) for probe, task, label, actual, guessed in rows}


def keep(sums: Mapping[Key, tuple[float, float]]) -> None:
    """Keep the sums for the next run, if the cache folder is writable."""
    rows = []
    for key, (actual, guessed) in list(sums.items())[-_MOST_KEYS:]:
        weight = min(1.0, _MOST_S / guessed)
        rows.append([*key, weight * actual, weight * guessed])
    if rows:
        files.keep_checked(_path(), json.dumps(rows, separators=(",", ":")))


def _path() -> Path:
    digest = hashlib.sha256(machine.name().encode()).hexdigest()[:16]
    return machine.cache_dir() / f"pace-{_VERSION}-{digest}.json"
