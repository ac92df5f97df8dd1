"""The data file of a paper's numbers: reads it and checks the form that tables and plots rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from effbench.common import files
from effbench.common.spec import UsageError
from effbench.common.values import number, whole
from effbench.common.wording import shown

SCORED = ("table4", "table5", "table6", "figure3", "figure4")
# Printed only: no record is compared with them.
ALONE = ("table7",)
PANELS = ("inference", "training")

Form = Callable[[Any, str], None]  # (value, its place) -> raises UsageError


def read(text: str, where: str) -> dict[str, Any]:
    """Return the tables of the data file. Raises UsageError naming ``where``, key and allowed form."""
    data = files.parse_toml(text, where)
    _table(_FILE)(data, where)
    for name in SCORED:
        scores = _table(dict.fromkeys(data[name]["scores"], _list(_number, 1, 2)))
        _rows(data[name], {"name": _text}, f"{where}: {name}")
        datasets = [key for key in data["datasets"] if any(key in row for row in data[name]["row"])]
        if not datasets:
            raise UsageError(f"{where}: {name}: no row has scores of one of {', '.join(data['datasets'])}")
        _rows(data[name], {"name": _text, **dict.fromkeys(datasets, scores)}, f"{where}: {name}")
        _mechanisms(data[name], f"{where}: {name}")
    figure = data["figure2"]
    if (lengths := figure["lengths"]) != sorted(set(lengths)):
        raise UsageError(f"{where}: figure2.lengths {shown(lengths)} do not ascend")
    panel = _list(_number, 1, len(lengths))
    _rows(figure, {**_ROW, **dict.fromkeys(PANELS, panel)}, f"{where}: figure2")
    for name in ALONE:
        count = len(data[name]["columns"])
        values = {"name": _text, "values": _list(_text, count, count)}
        _rows(data[name], values, f"{where}: {name}")
        _mechanisms(data[name], f"{where}: {name}")
    return data


def _mechanisms(table: Mapping[str, Any], where: str) -> None:
    """Check the mechanisms of the rows that name one; a row without one has no counterpart here."""
    for place, row in enumerate(table["row"], start=1):
        _text(row.get("mechanism", "none"), f"{where}.row {place}: mechanism")


def _rows(table: Mapping[str, Any], form: Mapping[str, Form], where: str) -> None:
    """Check the rows of a table: their form, unique names, and the row that others are compared against."""
    for place, row in enumerate(table["row"], start=1):
        _table(form)(row, f"{where}.row {place}")
    names = [row["name"] for row in table["row"]]
    if len(set(names)) < len(names):
        raise UsageError(f"{where}: two rows have one name: {shown(names)}")
    if table.get("against", names[0]) not in names:
        raise UsageError(f"{where}: against {shown(table['against'])} is none of the rows {shown(names)}")


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where} {shown(value)} is not text")


def _date(value: Any, where: str) -> None:
    if not isinstance(value, date):
        raise UsageError(f"{where} {shown(value)} is not a date")


def _flag(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{where} {shown(value)} is not true or false")


def _whole(value: Any, where: str) -> None:
    if isinstance(value, str) or (count := whole(value)) is None or not 1 <= count < 2**63:
        raise UsageError(f"{where} {shown(value)} is not a whole number of at least 1")


def _number(value: Any, where: str) -> None:
    if isinstance(value, str) or (positive := number(value)) is None or positive <= 0:
        raise UsageError(f"{where} {shown(value)} is not a number above 0")


def _list(form: Form, least: int = 0, most: int | None = None) -> Form:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= (len(value) if most is None else most):
            count = (
                f"{least} or more" if most is None else f"{least}" if least == most else f"{least} to {most}"
            )
            raise UsageError(f"{where} {shown(value)} is not a list of {count}")
        for place, item in enumerate(value, start=1):
            form(item, f"{where} item {place}")

    return check


def _table(form: Mapping[str, Form]) -> Form:
    """Return the form of a table with at least these keys."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise UsageError(f"{where} {shown(value)} is not a table")
        for key, inner in form.items():
            if key not in value:
                raise UsageError(f"{where}: the key {key!r} is missing")
            inner(value[key], f"{where}: {key}")

    return check


def _tables(form: Mapping[str, Form]) -> Form:
    """Return the form of a table of one or more tables, whose names are free."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict) or not value:
            raise UsageError(f"{where} {shown(value)} is not a table of tables")
        for key, inner in value.items():
            _table(form)(inner, f"{where}.{shown(key)}")

    return check


_ROW: dict[str, Form] = {"name": _text, "mechanism": _text}
_TABLE: dict[str, Form] = {
    "title": _text,
    "caveats": _list(_text),
    "row": _list(lambda value, where: None, 1),
}
_SCORED: dict[str, Form] = {**_TABLE, "against": _text, "scores": _list(_text, 1)}
_FILE: dict[str, Form] = {
    "source": _table({"paper": _text, "arxiv": _text, "version": _text, "date": _date, "provenance": _text}),
    "defaults": _table(dict.fromkeys(("interaction", "sharing"), _text)),
    "task_defaults": _table({"summarization": _text}),
    "setting": _table(dict.fromkeys(("d_model", "heads"), _whole)),
    "datasets": _tables(
        {
            "task": _text,
            "same_data": _flag,
            "stand_ins": _list(_text),
            "about": _text,
            "layers": _whole,
            "batch_size": _whole,
            "unit": _text,
            "max_len": _whole,
            "max_len_transformer": _whole,
        }
    ),
    "table4": _table({**_SCORED, "runs": _whole}),
    **dict.fromkeys(("table5", "table6", "figure3", "figure4"), _table(_SCORED)),
    "figure2": _table({**_TABLE, "against": _text, "tokens_per_batch": _whole, "lengths": _list(_whole, 1)}),
    **dict.fromkeys(ALONE, _table({**_TABLE, "columns": _list(_text, 1)})),
}
