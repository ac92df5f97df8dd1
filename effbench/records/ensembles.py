"""Ensembles: the mean score of several trainings of one model, scored anew and recorded like a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from effbench.common import columns, predictions
from effbench.common.predictions import Predictions
from effbench.common.ranking import METRICS, impression_scores, intervals, mean_scores
from effbench.common.spec import Cell, Record, UsageError
from effbench.common.wording import shown
from effbench.records.store import Store

OPTION = "ensemble"  # of the mechanism in the cell of an ensemble: its number of trainings
_SUMMED = ("parameters", "train_seconds", "test_seconds")


def ensembles(store: Store, labels: Sequence[str] = ()) -> list[Record]:
    """Return a record for each configuration of which two or more trainings have predictions.

    Its scores are those of the mean of the trainings' scores of each candidate, with 95 % intervals by a
    bootstrap over users. Its cell is that of the first training with the option ``ensemble``, the number of
    trainings. Parameters, training time and evaluation time are sums over the trainings. ``labels``, if any,
    are the models wanted, as ``-m`` reads them.

    Raises UsageError if there is none, for a damaged file of predictions, and where the trainings of one
    configuration are of different code or data.
    """
    records = [r for r in store.read()[0] if r.cell.probe == "accuracy" and OPTION not in r.cell.options]
    members: dict[str, list[Record]] = {}
    for record in records:
        if record.status == "ok" and store.predictions(record.cell).is_dir():
            members.setdefault(replace(record.cell, repeat=0).key, []).append(record)
    known = {of[0].cell.label for of in members.values()}
    for label in labels:
        if label not in known:
            there = ", ".join(sorted(known)) or "none"
            raise UsageError(
                f"{shown(label)} has no predictions in {store.folder}; models that have: {there}"
            )
    found = [
        _ensemble(store, sorted(of, key=lambda r: r.cell.repeat))
        for of in members.values()
        if len(of) > 1 and (not labels or of[0].cell.label in labels)
    ]
    if not found:
        raise UsageError(
            f"{store.folder} has no two trainings of one model with predictions: run the sweep with "
            "--predictions and --repeats of 2 or more"
        )
    return found


def _ensemble(store: Store, members: Sequence[Record]) -> Record:
    """Return the record of the members' mean, and write the mean's predictions."""
    first = members[0]
    if len({(r.code, r.data) for r in members}) > 1:
        raise UsageError(
            f"the trainings of {first.cell.label} are of different code or data: measure them again"
        )
    cell = _cell(first.cell, len(members))
    folder = store.predictions(cell)
    store.drop_predictions(cell)
    found: dict[str, float | int | str | None] = {}
    for name, mean in _means([store.predictions(r.cell) for r in members]).items():
        mean.write(folder, name)
        if (mean.labels == 1).any():
            found = _scored(mean)
    if not found:
        raise UsageError(f"the predictions of {first.cell.label} have no labels: there is nothing to score")
    priors = [name for name in first.values if name.startswith(columns.PRIOR)]
    speeds = [(_number(r, "train_seconds"), _number(r, "tokens_per_s")) for r in members]
    seconds = sum(spent for spent, _ in speeds)
    return replace(
        first,
        cell=cell,
        samples={},
        values={
            **{name: first.values[name] for name in (columns.METRIC, columns.SCORES, *priors)},
            **{name: sum(_number(r, name) for r in members) for name in _SUMMED},
            **found,
            "tokens_per_s": sum(spent * speed for spent, speed in speeds) / seconds,
            "ensemble_of": ",".join(str(r.cell.repeat) for r in members),
        },
        seconds=sum(r.seconds for r in members),
    )


def _number(record: Record, name: str) -> float:
    return float(record.values[name] or 0)


def _cell(cell: Cell, count: int) -> Cell:
    return replace(cell, options=dict(sorted({**cell.options, OPTION: count}.items())), repeat=0)


def _means(folders: Sequence[Path]) -> dict[str, Predictions]:
    """Return the mean of the members' scores for each part that the first member predicted."""
    means = {}
    for path in sorted(folders[0].glob(f"*{predictions.SCORES}")):
        parts = [predictions.read(folder / path.name) for folder in folders]
        if not all(part.is_of_the_same(parts[0]) for part in parts):
            raise UsageError(f"{path} and the predictions of the other trainings are of different candidates")
        scores = np.mean([part.scores for part in parts], axis=0)
        means[path.stem] = replace(parts[0], scores=scores)
    return means


def _scored(mean: Predictions) -> dict[str, float | int | str | None]:
    """Return the scores with their intervals, named as in a record of a training."""
    each = impression_scores(mean.scores, mean.labels, mean.starts)
    found: dict[str, float | int | str | None] = {
        name if name == METRICS[0] else f"test_{name}": value for name, value in mean_scores(each).items()
    }
    for metric, (low, high) in intervals(each, mean.users).items():
        found |= dict(zip(columns.bounds(metric), (low, high, "bootstrap over users"), strict=True))
    return found
