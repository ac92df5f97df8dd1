"""Rows of results in the shape that a user asks for: chosen rows and columns, an order, a pivot."""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import pandas as pd

from effbench.common import columns
from effbench.common.spec import UsageError
from effbench.common.wording import listed, one_line, shown
from effbench.records.analyse.winners import fastest
from effbench.records.table_files import SERIES
from effbench.show.tables import SHAPE, interval_columns, labels

_LONGEST = 1000  # characters of a condition
_KEYS = ("mechanism", "options", "task", "mode", "seq_len", "probe", "repeat")
# What a condition may consist of: comparisons of columns and constants; no call, no attribute, no index.
_NODES = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub, ast.UAdd,
    ast.BinOp, ast.BitAnd, ast.BitOr, ast.Add, ast.Sub, ast.Mult, ast.Div,
    ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn,
    ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple,
)  # fmt: skip
_REFUSED = (
    AttributeError, KeyError, MemoryError, NotImplementedError, OverflowError, RecursionError, SyntaxError,
    TypeError, ValueError, ZeroDivisionError, pd.errors.UndefinedVariableError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shaped:
    """Rows in the shape that was asked for.

    ``quantity`` maps a column that is not named after what it holds, one of a pivot, to what it holds.
    ``keys`` are the columns that identify a row. ``intervals`` (low, high), ``best`` and ``noisy`` are by
    row, counted from 0, and column.
    """

    frame: pd.DataFrame
    keys: Sequence[str]
    title: str = ""
    quantity: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[tuple[int, str], tuple[float, float]] = field(default_factory=dict)
    best: Set[tuple[int, str]] = frozenset()
    noisy: Set[tuple[int, str]] = frozenset()


def chosen(frame: pd.DataFrame, names: str) -> Shaped:
    """Return these columns, ``mechanism,seq_len,time_s``, in this order.

    Raises UsageError for an unknown column.
    """
    named = _names("--columns", names)
    check_columns("--columns", frame, named, series=True)
    return Shaped(frame=frame[named], keys=[name for name in named if name in _KEYS])


def matching(frame: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Return the rows for which a condition in the syntax of pandas' ``query`` is true.

    It may compare columns, numbers, texts and lists of these, and combine comparisons with and, or and not.
    Raises UsageError for everything else, before anything is evaluated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(condition.strip()[: _LONGEST + 1], mode="eval")
        _check_condition(frame, condition, tree)
        _check_comparisons(frame, condition, tree)
        inside = frame.eval(condition.strip(), engine="python", local_dict={}, global_dict={})
    except UsageError:
        raise
    except SyntaxError:
        raise _bad(condition, "this is no condition such as mode == 'train' and seq_len > 512") from None
    except _REFUSED as error:
        raise _bad(condition, one_line(str(error), 200)) from None
    if not isinstance(inside, pd.Series) or inside.dtype != bool:
        raise _bad(condition, "it is not true or false for each row")
    return frame[inside]


def ordered(frame: pd.DataFrame, names: str) -> pd.DataFrame:
    """Return the rows sorted by columns, ``mode,-time_s``: ``-`` is descending; missing values are last."""
    named = _names("--sort", names)
    plain = [name.removeprefix("-") for name in named]
    check_columns("--sort", frame, plain)
    frame = frame.reset_index(drop=True)  # that of several folders has numbers twice
    for name, column in reversed(list(zip(named, plain, strict=True))):  # stable: the first column is last
        values = frame[column]
        if not _is_number(values):
            values = values.where(values.isna(), values.astype(str))
        order = values.sort_values(kind="stable", ascending=name == column, na_position="last").index
        frame = frame.loc[order]
    return frame


def pivoted(frame: pd.DataFrame, names: str) -> Shaped:
    """Return a table of one column's values: ``mechanism,seq_len,time_s`` are rows, columns, values.

    Rows may be identified by several columns, ``mechanism+options``. They keep their order; columns of
    numbers are sorted. A place without a value is empty. The fastest of a column are marked if the values
    are times of rows that can be compared, and noisy times too.

    Raises UsageError for an unknown column, and if several values are at one place.
    """
    named = _names("--pivot", names)
    if len(named) != 3:
        raise UsageError(f"--pivot {shown(names)} does not name three columns: rows, columns, values")
    rows, across, value = named[0].split("+"), named[1], named[2]
    every = [*rows, across, value]
    _names("--pivot", ",".join(every))
    check_columns("--pivot", frame, every)
    # a row that was not asked for the value has no place; one that failed has an empty place
    held = frame[frame[value].notna() | (frame["status"] != "ok")].reset_index(drop=True)
    held = held.assign(
        **{name: held[name].astype(object).where(held[name].notna(), "") for name in every[:-1]}
    )
    known = held[held[value].notna()]
    _check_single(known, every[:-1], names)
    places = list(held[rows].drop_duplicates().itertuples(index=False, name=None))
    heads = list(held[across].unique())
    heads = heads if any(isinstance(head, str) for head in heads) else sorted(heads)
    low, high = ends if {*(ends := interval_columns(value))} <= {*frame} else (value, value)
    table = {name: [place[i] for place in places] for i, name in enumerate(rows)}
    intervals, best, noisy = {}, set(), set()
    for head in heads:
        column = known[known[across] == head]
        name = f"{across}={head}" if str(head) in ("", *rows) else str(head)
        at = {tuple(row[key] for key in rows): row for row in column.to_dict(orient="records")}
        table[name] = [at[place][value] if place in at else None for place in places]
        winners = _winners(column, value)
        for number, place in enumerate(places):
            if place in at and low != value:
                intervals[number, name] = (float(at[place][low]), float(at[place][high]))
            if place in at and (at[place]["mechanism"], at[place]["options"]) in winners:
                best.add((number, name))
            if place in at and value == "time_s" and at[place].get("noisy", ""):
                noisy.add((number, name))
    quantity = dict.fromkeys([name for name in table if name not in rows], value)
    shape = pd.DataFrame(table, columns=[*table], dtype=object)
    return Shaped(
        frame=shape,
        keys=rows,
        title=f"{value} by {across}",
        quantity=quantity,
        intervals=intervals,
        best=best,
        noisy=noisy,
    )


def _winners(column: pd.DataFrame, value: str) -> set[tuple[str, str]]:
    """Return (mechanism, options) of the fastest and its ties, if the fastest of all is among the rows."""
    alike = [name for name in (*SHAPE, "machine", "mode", "seq_len") if name in column]
    if value != "time_s" or "time_ratio" not in column or len(column[alike].drop_duplicates()) != 1:
        return set()
    if (column["time_ratio"] == 1).sum() != 1:
        return set()
    names = labels(column)
    won = names.isin(fastest(column))
    return set(column.loc[won, ["mechanism", "options"]].itertuples(index=False, name=None))


def _check_single(known: pd.DataFrame, keys: Sequence[str], names: str) -> None:
    """Raise UsageError if several rows have the same keys; it names the columns in which they differ."""
    for key, group in known.groupby(list(keys), sort=False):
        if len(group) < 2:
            continue
        differ = differences(group)
        where = ", ".join(f"{name} {shown(part)}" for name, part in zip(keys, key, strict=True))
        raise UsageError(
            f"--pivot {shown(names)}: {len(group)} values at {where}; these rows differ in "
            f"{', '.join(differ.values()) or 'nothing'}: choose one with --where, or name rows like "
            f"{keys[0]}+{next(iter(differ), 'options')}"
        )


def differences(rows: pd.DataFrame) -> dict[str, str]:
    """Return the columns in which these rows differ: ``mode`` -> ``mode (forward, train)``."""
    held = [name for name in _what(rows) if len(set(rows[name].dropna())) + rows[name].isna().any() > 1]
    return {name: f"{name} ({listed(list(map(str, rows[name].unique())), 4)})" for name in held}


def _what(frame: pd.DataFrame) -> list[str]:
    """Return the columns that say what was measured, in which process and where."""
    named = [*columns.of_role("identity"), "probe", "repeat", "seed", *columns.of_role("origin"), "folder"]
    return [name for name in named if name in frame]


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise UsageError(f"{option} {shown(text)} has an empty name")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{option} {shown(text)} names {', '.join(twice)} twice")
    return names


def check_columns(option: str, frame: pd.DataFrame, names: Sequence[str], *, series: bool = False) -> None:
    """Raise UsageError for a name that is no column, or is one of series unless these are allowed."""
    for name in names:
        if name not in frame:
            raise UsageError(f"{option}: {_unknown(frame, name)}")
        if name.startswith(SERIES) and not series:
            raise UsageError(f"{option}: {name} is a series of numbers, not one number a row")


def _unknown(frame: pd.DataFrame, name: str) -> str:
    near = difflib.get_close_matches(name[:100], [str(column) for column in frame], n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return f"unknown column {shown(name)}{hint} {_there_are(frame)}"


def _there_are(frame: pd.DataFrame) -> str:
    held = [str(name) for name in frame if not str(name).startswith(SERIES) and frame[name].notna().any()]
    return f"there are: {', '.join(held) or 'none'}"


def _bad(condition: str, why: str) -> UsageError:
    return UsageError(f"--where {shown(condition)}: {why}")


def _check_comparisons(frame: pd.DataFrame, condition: str, tree: ast.Expression) -> None:
    """Raise UsageError for ``in`` without a list, and for an order between a text and a number."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, sides, sides[1:], strict=False):
            if isinstance(operator, ast.In | ast.NotIn) and not isinstance(right, ast.List | ast.Tuple):
                raise _bad(condition, "in needs a list, such as seq_len in [128, 512]")
            if isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                for one, other in ((left, right), (right, left)):
                    number = isinstance(other, ast.Constant) and not isinstance(other.value, str)
                    if number and isinstance(one, ast.Name) and not _is_number(frame[one.id]):
                        raise _bad(condition, f"{one.id} is a text, not a number")


def _is_number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column))


def _check_condition(frame: pd.DataFrame, condition: str, tree: ast.Expression) -> None:
    """Raise UsageError unless the condition consists of comparisons of columns and constants alone."""
    if len(condition.strip()) > _LONGEST:
        raise _bad(condition, f"it has more than {_LONGEST} characters")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and (node.id not in frame or node.id.startswith(SERIES)):
            raise UsageError(f"--where: {_unknown(frame, node.id)}; texts are in quotes: mode == 'train'")
        constant = not isinstance(node, ast.Constant) or isinstance(node.value, str | int | float)
        if not isinstance(node, _NODES) or not constant:
            raise _bad(condition, "only comparisons of columns, numbers, texts and lists are allowed")
        if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitAnd | ast.BitOr):
            for part in ast.walk(node):
                text = isinstance(part, ast.Name) and not _is_number(frame[part.id])
                text |= isinstance(part, ast.Constant) and isinstance(part.value, str)
                if text or isinstance(part, ast.List | ast.Tuple):
                    raise _bad(condition, "+, -, * and / are for numbers only")
