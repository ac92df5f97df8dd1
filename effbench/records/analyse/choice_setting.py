"""The one setting that a choice is made in: a shape and machine of costs, and the setting of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from effbench.common.columns import of_role
from effbench.common.spec import UsageError
from effbench.common.wording import listed, plural, shown
from effbench.records.analyse.seeds import SETTING as OF_TRAININGS

# Costs are compared inside one of these.
SETTING = [
    name for name in of_role("identity") if name not in ("mechanism", "options", "mode", "task", "seq_len")
]
SETTING = [*SETTING, "machine"]
_MOST = 6  # settings that a message names


class Untold(Exception):
    """The records cannot answer the question; the message is one sentence that says why."""


def setting_of_costs(rows: pd.DataFrame, seq_len: int, where: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of the one setting that was measured at ``seq_len``, or on both sides of it.

    ``rows`` are rows of a summary, of one mode. ``where`` maps columns of SETTING to the value asked for; of
    ``machine`` a part of the name is enough. Raises UsageError if no row has such a value, or if several
    settings fit; Untold if none was measured at the length or on both sides of it.
    """
    for name, value in where.items():
        there = sorted(set(rows[name]))
        if name == "machine":
            rows = rows[rows[name].str.contains(str(value), case=False, regex=False)]
        else:
            rows = rows[rows[name] == value]
        if rows.empty:
            raise UsageError(f"{name} {shown(value)} was not measured; measured: {_listed(name, there)}")
    settings = [group for _, group in rows.groupby(SETTING, sort=True, dropna=False)]
    fit = [group for group in settings if group["seq_len"].min() <= seq_len <= group["seq_len"].max()]
    if not fit:
        raise Untold(f"nothing can be told about {seq_len}: {_spans(settings)}, and nothing is extrapolated")
    if len(fit) > 1:
        joined = pd.concat(fit)
        raise UsageError(
            f"{len(fit)} settings were measured at {seq_len} or on both sides of it, and they are not mixed: "
            f"{_choices(joined, {name: _option(name) for name in SETTING})}"
        )
    return fit[0]


def setting_of_trainings(
    trained: pd.DataFrame, task: str | None, task_seq_len: int | None, seq_len: int
) -> pd.DataFrame:
    """Return the trainings of one setting among rows of the raw frame, which are not empty.

    ``task`` is a task's name or its whole label. Without ``task_seq_len``, trainings at ``seq_len`` are
    preferred to others; settings that differ in their length alone leave the nearest one by ratio, of two
    equally near the longer one. Raises UsageError if none fits, or if several settings do.
    """
    conditions = {"task": task, "seq_len": task_seq_len}
    for name, value in conditions.items():
        if value is None:
            continue
        there = sorted(set(trained[name]))
        names = trained[name].map(lambda label: str(label).partition(":")[0]) if name == "task" else None
        trained = trained[(trained[name] == value) | (False if names is None else names == value)]
        if trained.empty:
            raise UsageError(
                f"{_TASK[name]} {shown(value)} has no trainings; trained: {_listed(name, there)}"
            )
    same = trained[trained["seq_len"] == seq_len]
    if task_seq_len is None and len(same):
        trained = same
    others = [name for name in OF_TRAININGS if name != "seq_len"]
    if task_seq_len is None and len(trained.drop_duplicates(others)) == 1:
        nearest = min(set(trained["seq_len"]), key=lambda n: (max(n / seq_len, seq_len / n), -n))
        trained = trained[trained["seq_len"] == nearest]
    settings = trained.drop_duplicates(OF_TRAININGS)
    if len(settings) > 1:
        options = {name: _TASK.get(name, "") for name in OF_TRAININGS}
        raise UsageError(
            f"there are trainings of {len(settings)} settings, and their scores are not mixed: "
            f"{_choices(settings, options)}"
        )
    return trained


_TASK = {"task": "--task", "seq_len": "--task-seq-len"}


def _spans(settings: Sequence[pd.DataFrame]) -> str:
    """Say which lengths were measured in each setting."""
    parts = []
    for group in settings:
        first, last = group["seq_len"].min(), group["seq_len"].max()
        span = f"{first}" if first == last else f"{first} to {last}"
        parts.append(f"{span} (batch {group['batch_size'].iloc[0]})" if len(settings) > 1 else span)
    apart = f", in {plural(len(settings), 'setting')}" if len(settings) > 1 else ""
    return f"measured were lengths {listed(parts, _MOST)}{apart}"


def _choices(rows: pd.DataFrame, options: Mapping[str, str]) -> str:
    """Say which options tell the settings apart, with their values, or else what folders must not mix."""
    varying = [name for name in options if rows[name].nunique(dropna=False) > 1]
    texts = [
        f"{options[name]} ({_listed(name, sorted(set(rows[name])))})" for name in varying if options[name]
    ]
    if texts:
        return f"choose one with {' and '.join(texts)}"
    return f"give folders whose trainings have the same {' and the same '.join(varying)}"


def _listed(name: str, values: Sequence[Any]) -> str:
    if name == "task" and len({str(value).partition(":")[0] for value in values}) == len(values):
        values = [str(value).partition(":")[0] for value in values]
    return ("; " if name in ("machine", "task") else ", ").join(map(str, values))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
