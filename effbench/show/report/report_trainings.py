"""The data of the charts of trainings: score against cost with the Pareto front, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from effbench.common.columns import lower_is_better, score_unit
from effbench.common.wording import plural
from effbench.records.analyse.padding import padded_lengths
from effbench.records.analyse.scores import metric_of, validation_metric_of, with_score
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.look import NothingToDraw
from effbench.show.plots.learning_curves import NEEDED, aligned
from effbench.show.plots.trainings import drawn_scores, per_figure, trainings, with_values
from effbench.show.report.report_legend import Legend
from effbench.show.report.report_sources import Source
from effbench.show.report.report_text import known, numbers
from effbench.show.tables import SHAPE, by_label, of_shape

# Column -> (words, unit of the axis, True if more is better)
COSTS: Mapping[str, tuple[str, str, bool]] = {
    "tokens_per_s": ("training throughput, tokens per second", "per_s", True),
    "train_seconds": ("time of a training", "s", False),
    "peak_bytes": ("peak memory of a training step", "bytes", False),
    "state_bytes": ("state", "bytes", False),
    "decode_tokens_per_s": ("decoding, tokens per second", "per_s", True),
    "parameters": ("parameters", "count", False),
}


def front_panels(source: Source, legend: Legend) -> list[dict[str, Any]]:
    """Return a chart per task and shape: points with score, interval and costs, the front of each cost."""
    panels = []
    keys = [*SHAPE, "task"]
    for key, rows in with_score(source.frame[source.frame["task"] != ""]).groupby(keys, sort=False):
        shape = dict(zip(keys, key, strict=True))
        scored = drawn_scores(rows[rows["score"].notna()], of_shape(source.raw, shape))
        costs = [name for name in COSTS if scored[name].notna().any()]
        if not costs:
            continue
        scores = [float(score) for score in scored["score"]]
        metric = metric_of(scored)
        panels.append(
            {
                "source": source.number,
                "title": task_name(shape["task"]),
                "shape": f"{shape['task']}; {model_in_words(shape)}",
                "metric": units.score_words(metric),
                "share": score_unit(metric) == "share",
                "mechanism": [legend.place(label(m, o)) for m, o in scored[["mechanism", "options"]].values],
                "n": [int(n) for n in scored["seq_len"]],
                "score": numbers(scores),
                "low": numbers(scored["low"]),
                "high": numbers(scored["high"]),
                "how": [known(text) for text in scored["how"]],
                "repeats": [int(n) for n in scored["repeats"]],
                "costs": {name: numbers(scored[name]) for name in costs},
                "fronts": {
                    name: pareto(
                        list(scored[name]), scores, COSTS[name][2], lower_scores=lower_is_better(metric)
                    )
                    for name in costs
                },
            }
        )
    return panels


def pareto(
    costs: Sequence[float],
    scores: Sequence[float],
    more_is_better: bool = False,
    *,
    lower_scores: bool = False,
) -> list[int]:
    """Return the places of the points that no other point beats in both, in order of their cost.

    ``more_is_better`` is about costs, such as a throughput; ``lower_scores``: the lower score is the better
    one. A point is beaten by one that is at least as good in both and better in one. Points with a missing
    number are left out.
    """
    sign = -1.0 if more_is_better else 1.0
    points = [
        (sign * cost, score if lower_scores else -score, place)
        for place, (cost, score) in enumerate(zip(costs, scores, strict=True))
        if not (np.isnan(cost) or np.isnan(score))
    ]
    front: list[tuple[float, float, int]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1] or point[:2] == front[-1][:2]:
            front.append(point)
    return [place for _, _, place in front]


def curve_panels(source: Source, legend: Legend) -> list[dict[str, Any]]:
    """Return a chart per task and length: validation score and training loss, mean and range over seeds."""
    try:
        trained = trainings(source.raw, "curves", NEEDED)
    except NothingToDraw:
        return []
    panels = []
    for group in per_figure(trained):
        drawn = with_values(group, NEEDED)
        shape = group.iloc[0].to_dict()
        against = [
            unit
            for unit in ("epoch", "seconds")
            if f"samples_curve_{unit}" in drawn and drawn[f"samples_curve_{unit}"].notna().all()
        ]
        metric = validation_metric_of(group)
        panels.append(
            {
                "source": source.number,
                "title": f"{task_name(shape['task'])} at {shape['seq_len']} tokens"
                + (", mostly padding" if padded_lengths(group) else ""),
                "shape": f"{shape['task']}; {model_in_words(shape)}",
                "metric": units.score_words(metric),
                "share": score_unit(metric) == "share",
                "series": [
                    {
                        "mechanism": legend.place(name),
                        "seeds": len(mine),
                        "score": _band(mine, NEEDED[0]),
                        "loss": _band(mine, NEEDED[1]),
                        "x": {
                            unit: numbers(aligned(mine, NEEDED[0], f"samples_curve_{unit}")[0])
                            for unit in against
                        },
                    }
                    for name, mine in by_label(drawn)
                ],
            }
        )
    return panels


def _band(mine: pd.DataFrame, column: str) -> list[list[float | int | None]]:
    """Return mean, minimum and maximum over seeds at each evaluation; seeds that ended are left out."""
    _, values = aligned(mine, column, None)
    return [numbers(part(values, axis=0)) for part in (np.nanmean, np.nanmin, np.nanmax)]


def task_name(task: str) -> str:
    """Return the name of a task without its options."""
    return task.partition(":")[0]


def model_in_words(shape: Mapping[str, Any]) -> str:
    """Return the model of a training: blocks, width, heads, batch and type of numbers."""
    return (
        f"{plural(int(shape['layers']), 'block')}, d_model {shape['d_model']}, "
        f"{plural(int(shape['heads']), 'head')}, batch {shape['batch_size']}, {shape['dtype']}, "
        f"{shape['device']}"
    )
