"""Baseline scores (of predictors that need no training) as dashed lines in plots of scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
from matplotlib.axes import Axes

from effbench.common.columns import PRIOR
from effbench.records.analyse.scores import metric_of, scores_of
from effbench.show.look import GREY, score_tick


def baseline_scores(trained: pd.DataFrame) -> dict[str, float]:
    """Return the baseline scores of raw rows of one task: ``majority`` and its like.

    Only those of the task's metric: the baseline score of another score has the name of that at its end.
    """
    others = tuple(f"_{name}" for name in {"macro_f1", *scores_of(trained)} - {metric_of(trained)})
    return {
        column.removeprefix(PRIOR).replace("_", " "): float(trained[column].median())
        for column in trained.columns
        if column.startswith(PRIOR) and not column.endswith(others) and trained[column].notna().any()
    }


def score_limits(low: float, high: float, baselines: Iterable[float]) -> tuple[float, float]:
    """Axis limits for scores from ``low`` to ``high``: extended to a baseline nearby, not to one far away.

    Far means further than the range of the scores, or five points if that is more: the axis would compress
    the scores to a line.
    """
    far = max(high - low, 0.05)
    near = [value for value in baselines if low - far <= value <= high + far]
    low, high = min([low, *near]), max([high, *near])
    if 0 <= low <= high < 1e-6:  # all 0: not spread over an axis of thousandths
        return -0.01, 0.1
    margin = max(0.005, 0.08 * (high - low))
    return low - margin, high + margin


def draw_baselines(
    axes: Axes, baselines: Mapping[str, float], score: str
) -> list[tuple[float, float, str, str]]:
    """Draw a dashed line at each baseline score inside the limits; return labels for ``label_ends``."""
    low, high = axes.get_ylim()
    for name, value in baselines.items():
        if low <= value <= high:
            axes.axhline(value, color=GREY, linestyle="--", linewidth=0.9, zorder=1, gid=f"baseline-{name}")
    edge = axes.get_xlim()[1]
    return [(edge, value, _label(name, value, score), GREY) for name, value in baselines.items()]


def draw_baseline_curves(
    axes: Axes, baselines: Mapping[float, Mapping[str, float]], score: str
) -> list[tuple[float, float, str, str]]:
    """Draw a dashed line through the values of each baseline at each x, up to the edges of the axes.

    Returns labels for ``label_ends`` with the values at the right edge. Call it after the limits are set.
    """
    left, right = axes.get_xlim()
    labels = []
    for name in sorted({name for each in baselines.values() for name in each}):
        known = {x: each[name] for x, each in sorted(baselines.items()) if name in each}
        values = list(known.values())
        axes.plot([left, *known, right], [values[0], *values, values[-1]], color=GREY, linestyle="--",
                  linewidth=0.9, zorder=1, gid=f"baseline-{name}")  # fmt: skip
        labels.append((right, values[-1], _label(name, values[-1], score), GREY))
    return labels


def _label(name: str, value: float, score: str) -> str:
    return f"{name} {score_tick(score)(round(value, 3))}"
