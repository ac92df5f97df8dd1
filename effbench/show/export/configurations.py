"""A configuration as a run of a tracker: parameters, numbers, texts, curves, and where they come from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from effbench.common import columns
from effbench.common.spec import Record
from effbench.records.analyse.summary import label
from effbench.show.export.selection import FOLDER, Selection, keys_of

# What a run of a tracker holds: another number writes every run again.
FORMAT = "effbench run 1"
IDENTITY = columns.of_role("identity")
ORIGIN = columns.of_role("origin")
_OTHERS = {*IDENTITY, *ORIGIN, FOLDER, "status", "reason"}
_FACTS = ("python", "torch", "system", "libc", "cpu_capability")
# Series with one value at each evaluation of a training; the others have one at each sample or step.
_CURVES = ("curve_", "validation_", "train_loss", "learning_rate")
_STEP = "curve_step"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series of a record: ``values`` at whole numbers, ``steps``.

    The steps of a learning curve (``evaluations``) are those of the training, as far as the record has them.
    Other steps are 0, 1, 2 ... ``repeat`` is that of the record, or the next free number if the configuration
    has two records of one repeat, with other seeds.
    """

    name: str
    repeat: int
    steps: Sequence[int]
    values: Sequence[float]
    evaluations: bool


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One row of the summary with the series of its records.

    ``key`` identifies it: a digest of the folder's name, ``identity`` (what was measured), machine, code and
    data; equal for every export. ``origin`` has these three, the folder and facts of the machine. ``numbers``
    and ``texts`` are the other columns of the row, without empty texts and without what is no finite number.
    ``started`` and ``ended`` are None if the records do not say when they were measured.
    """

    key: str
    label: str
    identity: Mapping[str, str | int]
    origin: Mapping[str, str]
    status: str
    reason: str
    numbers: Mapping[str, float]
    texts: Mapping[str, str]
    series: Sequence[Series]
    started: datetime | None
    ended: datetime | None

    def digest(self) -> str:
        """Return a digest of all that is exported: another one means that the configuration changed."""
        text = json.dumps([FORMAT, asdict(self)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def configurations(selection: Selection) -> list[Configuration]:
    """Return the configurations of the chosen rows of the summary, in their order."""
    places: dict[Any, list[int]] = {}
    for place, key in enumerate(keys_of(selection.raw)):
        places.setdefault(key, []).append(place)
    rows = selection.rows.to_dict(orient="records")
    return [
        _configuration(
            {str(name): value for name, value in row.items()},
            [selection.records[place] for place in places[key]],
            selection.names,
        )
        for row, key in zip(rows, keys_of(selection.rows), strict=True)
    ]


def _configuration(
    row: Mapping[str, Any], records: Sequence[Record], names: Mapping[str, str]
) -> Configuration:
    folder = names[row[FOLDER]] if FOLDER in row else next(iter(names.values()))
    identity = {name: row[name] if isinstance(row[name], str) else int(row[name]) for name in IDENTITY}
    origin = {"folder": folder, **{name: str(row[name]) for name in ORIGIN}}
    key = hashlib.sha256(json.dumps([identity, origin], sort_keys=True).encode()).hexdigest()[:16]
    for fact in _FACTS:
        known = dict.fromkeys(str(record.machine[fact]) for record in records if record.machine.get(fact))
        origin |= {fact: "; ".join(known)} if known else {}
    rest = {name: value for name, value in row.items() if name not in _OTHERS and _known(value)}
    started, ended = _span(records)
    return Configuration(
        key=key,
        label=label(str(identity["mechanism"]), str(identity["options"])),
        identity=identity,
        origin=origin,
        status=str(row["status"]),
        reason=str(row["reason"]),
        numbers={name: value for name, value in rest.items() if not isinstance(value, str)},
        texts={name: value for name, value in rest.items() if isinstance(value, str)},
        series=_series(records),
        started=started,
        ended=ended,
    )


def _known(value: Any) -> bool:
    """True for a text that is not empty and for a finite number."""
    return value != "" if isinstance(value, str) else value is not None and math.isfinite(value)


def _series(records: Sequence[Record]) -> list[Series]:
    found: dict[tuple[str, int], Series] = {}
    for record in sorted(records, key=lambda record: (record.cell.repeat, record.cell.seed)):
        steps_of_curve = [int(step) for step in record.samples.get(_STEP, ())]
        for name, values in record.samples.items():
            curve = name.startswith(_CURVES)
            known = curve and len(steps_of_curve) == len(values)
            steps = steps_of_curve if known else list(range(len(values)))
            repeat = record.cell.repeat
            while (name, repeat) in found:
                repeat += 1
            found[name, repeat] = Series(
                name=name, repeat=repeat, steps=steps, values=values, evaluations=curve
            )
    return list(found.values())


def _span(records: Sequence[Record]) -> tuple[datetime | None, datetime | None]:
    """Return when the first record was started and the last one ended."""
    spans = []
    for record in records:
        try:
            start = datetime.fromisoformat(record.started)
        except ValueError:  # a text that is no time, or none
            continue
        if start.tzinfo is not None:
            spans.append((start, start + timedelta(seconds=record.seconds)))
    if not spans:
        return None, None
    return min(start for start, _ in spans), max(end for _, end in spans)
