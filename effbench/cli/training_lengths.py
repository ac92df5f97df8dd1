"""The sentences about trainings that ``effbench run`` prints first: their number, lengths and time limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from effbench.common.extent import mostly_padding, padding_in_words
from effbench.common.wording import plural

if TYPE_CHECKING:
    from effbench.sweep.estimate import Estimate
    from effbench.sweep.planning import Plan

NO_TRAININGS = "only costs are measured. To train too, name a task, such as --task lookup, or --preset quick."
_COSTS = "time,memory,flops"


def without_unasked(axes: Mapping[str, Any], named: bool) -> dict[str, Any]:
    """Return the axes that a user gave; costs alone, if that leaves nothing that asks for a training.

    ``named``: the user named the sweep, so that its trainings are asked for. Without a name and without an
    axis, the default sweep is measured as it is.
    """
    if named or not axes or {"task", "probe"} & axes.keys():
        return dict(axes)
    return {**axes, "probe": _COSTS}


def cautions(todo: Plan, estimate: Estimate, *, moved: bool) -> list[str]:
    """Return sentences about the trainings of a plan.

    ``moved``: a length was given that is now that of trainings which nobody asked for by task or probe.
    """
    cells = [job.cell for job in todo.jobs if job.cell.probe == "accuracy"]
    sentences = []
    if moved and cells:
        lengths = sorted({cell.seq_len for cell in cells})
        span = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        tasks = ", ".join(sorted({str(cell.task) for cell in cells}))
        minutes = sum(estimate.seconds(cell) for cell in cells) / 60
        sentences.append(
            f"careful: --seq-len is also that of {plural(len(cells), 'training')} on {tasks}, at {span} "
            f"tokens, about {minutes:.0f} min. Leave them out with --probe {_COSTS}."
        )
    for task, n in dict.fromkeys((cell.task_label, cell.seq_len) for cell in cells):
        extent = todo.extents.get((task, n))
        if extent is not None and mostly_padding(n, extent.tokens):
            rows = padding_in_words(n, extent.tokens)
            sentences.append(f"careful: {task}: {rows}. Scores are not those of inputs of this length.")
    return [*sentences, *_too_long(todo, estimate)]


def _too_long(todo: Plan, estimate: Estimate) -> list[str]:
    """Return a sentence if trainings on the CPU are expected to need more than the time limit of a cell."""
    trainings = [job for job in todo.jobs if job.cell.probe == "accuracy" and job.cell.device == "cpu"]
    expected = [(estimate.seconds(job.cell), job.limits.timeout_s) for job in trainings]
    long = [(seconds, limit) for seconds, limit in expected if seconds > limit]
    if not long:
        return []
    longest, limit = max(long)
    number = f"{len(long)} of {plural(len(trainings), 'training')}"
    return [
        f"careful: {number} may not end within the time limit of one measurement, {limit:g} s: the longest "
        f"takes about {_rounded_up(longest)}. To give it more time: --timeout {_rounded_up(2 * longest)}."
    ]


def _rounded_up(seconds: float) -> str:
    """Write whole seconds, minutes or hours as options take them, and never less time."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds > 1.5 * size:
            return f"{math.ceil(seconds / size)}{unit}"
    return f"{math.ceil(seconds)}s"
