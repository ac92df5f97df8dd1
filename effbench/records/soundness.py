"""The checks of a record's content: the types and ranges that tables and pictures rely on."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from effbench.common import columns
from effbench.common.growth import Growth
from effbench.common.spec import Record
from effbench.common.wording import shown

# Facts of the machine that are no columns of their own.
_NUMBER_FACTS = ("cores", "memory_bytes", "threads", "cpu_quota_cores", *columns.of_role("fact"))
_TEXT_FACTS = (
    *("name", "processor", "system", "libc", "python", "torch", "cpu_capability", "gpu"),
    *("host", "slurm_job", "slurm_cluster"),
)
_OF_A_ROOF = ("flops", "bytes_moved")
_OF_A_TRAINING = ("tokens_per_s", "train_seconds")


def check_content(record: Record, taken: Collection[str]) -> None:
    """Raise ValueError if the content cannot come from the record's probe.

    ``taken`` are the columns that every row has: no value may have the name of one.
    """
    values, facts, samples = record.values, record.machine, record.samples
    _require(values, filter(columns.is_text, values), (str,), "text")
    _require(values, filter(columns.is_number, values), (int, float), "a number")
    _require(values, columns.record_scores(values).values(), (int, float), "a number")
    _require(facts, _NUMBER_FACTS, (int, float), "a number")
    _require(facts, _TEXT_FACTS, (str,), "text")
    if clash := {*values, *(f"samples_{name}" for name in samples)} & set(taken):
        raise ValueError(f"{min(clash)} is no name of a value: every record has a column of that name")
    for name in ("declared_order", "declared_memory_order"):
        if values.get(name):
            Growth.parse(str(values[name]))
    if any(time <= 0 for time in samples.get("time_s", ())):
        raise ValueError("samples.time_s holds a time that is not above 0")
    _check_hits(values)
    if "ceiling" in facts:
        check_ceiling(facts["ceiling"])
    if "history" in facts:
        _check_history(facts["history"])
    if control := samples.get("control_s"):
        if len(control) != len(samples.get("time_s", ())):
            raise ValueError("samples.control_s has not one time for each of samples.time_s")
        if any(time <= 0 for time in control):
            raise ValueError("samples.control_s holds a time that is not above 0")
    if record.status == "ok":
        _check_measured(record)


def check_ceiling(ceiling: object) -> None:
    """Raise ValueError unless this is a machine's ceiling as effbench.sweep.machine_ceiling records it."""
    if not isinstance(ceiling, dict):
        raise ValueError(f"ceiling is {shown(ceiling)}, not an object")
    if isinstance(ceiling.get("reason"), str):
        return
    sizes, speeds = ceiling.get("bandwidth_at_bytes"), ceiling.get("bandwidth_bytes_per_s")
    if not isinstance(sizes, list) or not isinstance(speeds, list) or not len(sizes) == len(speeds) > 0:
        raise ValueError("ceiling has no bandwidths, each with a size")
    for number in (ceiling.get("peak_flops_per_s"), *sizes, *speeds):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise ValueError(f"ceiling holds {shown(number)}, not a number above 0")
    if sorted(set(sizes)) != sizes:
        raise ValueError("ceiling has sizes that do not ascend")


def _check_history(history: object) -> None:
    """Raise ValueError unless this is what effbench.records.analyse.runs.learn returns."""
    if not isinstance(history, dict):
        raise ValueError(f"history is {shown(history)}, not an object")
    for name in ("runs", "control_s", "time_sd", "time_degrees", "own_sd", "own_degrees"):
        number = history.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            raise ValueError(f"history.{name} is {shown(number)}, not a number of at least 0")
    if not history["control_s"]:
        raise ValueError("history.control_s is 0")


def _require(place: Mapping[str, Any], names: Iterable[str], kinds: tuple[type, ...], word: str) -> None:
    for name in names:
        value = place.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ValueError(f"{name} is {shown(value)}, not {word}")


def _check_hits(values: Mapping[str, Any]) -> None:
    hits, examples = values.get("test_correct"), values.get("test_examples")
    if hits is None:  # its task counts none
        return
    if type(hits) is not int or type(examples) is not int or not 0 <= hits <= examples or not examples:
        raise ValueError(f"test_correct of test_examples is {shown(hits)} of {shown(examples)}")


def _check_measured(record: Record) -> None:
    """Raise ValueError if a record that is ok lacks a value that tables need."""
    cell = record.cell
    needed: tuple[str, ...] = ()
    if cell.probe == "time" and not record.samples.get("time_s"):
        raise ValueError("samples.time_s is missing or empty, although the status is ok")
    if "peak_flops_per_s" in (record.machine.get("ceiling") or {}):
        needed = _OF_A_ROOF
    elif cell.probe == "accuracy":
        needed = _OF_A_TRAINING
    for name in needed:
        if record.values.get(name) is None:
            raise ValueError(f"values.{name} is missing, although the status is ok")
    if cell.probe == "accuracy" and cell.task is None:
        raise ValueError("task is missing, although accuracy was measured")
