"""Trainings of one mechanism compared over the values of an option of their task, instead of mechanisms."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from effbench.common.spec import UsageError
from effbench.records.analyse.summary import label

DEFAULT = "default"  # the value of an option that a task was not given


def is_task_option(text: str) -> bool:
    """True for ``start=random``, the value of an option; False for ``linear:causal=true``, a mechanism."""
    return "=" in text.partition(":")[0]


def over_task_option(raw: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return the raw frame of trainings with the option of ``against`` in the place of the mechanism.

    ``against`` is ``option=value``. The mechanism of a row becomes ``option=value`` of its own, and its task
    gets the mechanism and loses the option: so trainings that differ in nothing but this option are those of
    one setting, and what compares mechanisms compares its values. A task that was not given the option has
    the value ``default``.

    Raises UsageError if no training has this value.
    """
    name = against.partition("=")[0]
    rows = raw[raw["probe"] == "accuracy"] if len(raw) else raw
    split = [without_option(str(task), name) for task in rows["task"]]
    values = [value for _, value in split]
    if against not in (found := sorted({f"{name}={value}" for value in values})):
        raise UsageError(f"no training has the task option {against}; there are {', '.join(found) or 'none'}")
    names = [label(m, o) for m, o in zip(rows["mechanism"], rows["options"], strict=True)]
    return rows.assign(
        mechanism=[f"{name}={value}" for value in values],
        options="",
        task=[f"{mechanism} on {task}" for mechanism, (task, _) in zip(names, split, strict=True)],
    )


def options_in_words(tasks: Iterable[object]) -> str:
    """Return ``the tasks have: epochs, lr``, the options that tasks were given."""
    names = {part.partition("=")[0] for task in tasks for part in str(task).partition(":")[2].split(",")}
    return f"the tasks have: {', '.join(sorted(names - {''})) or 'no options'}"


def without_option(task: str, name: str) -> tuple[str, str]:
    """Return (the task without the option, the option's value)."""
    at = rf"(?<=[:,]){re.escape(name)}=(?P<value>[^,]*)(?:,|$)"
    match = re.search(at, task)
    if match is None:
        return task, DEFAULT
    return (task[: match.start()] + task[match.end() :]).rstrip(":,"), match["value"]
