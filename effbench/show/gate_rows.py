"""A gate's report as plain rows of text, from which terminal, Markdown, JUnit and plot are written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from effbench.common.spec import Cell, spec_label
from effbench.common.wording import listed, one_line, plural
from effbench.gate.report import VERDICTS, Comparison, Figure, Report
from effbench.show import units

COLUMNS = ("mechanism", "mode", "N", "base", "head", "ratio", "interval", "verdict", "detects", "rounds")
FIGURE_COLUMNS = ("mechanism", "mode", "N", "figure", "base", "head", "change", "may grow by", "result")
TEXT_COLUMNS = ("mechanism", "mode", "figure", "verdict", "result")  # aligned to the left
# Kinds of rows in the order of their sentences: verdicts, then outcomes of exact figures.
KINDS = (*VERDICTS, "grew", "head lacks it", "base lacks it", "changed", "equal")
# Fields that may set configurations apart beside mechanism, mode and length.
_SHAPE = (
    "scope", "batch_size", "d_model", "heads", "layers", "dtype", "device", "threads", "allocator", "compile",
    "task", "task_options",
)  # fmt: skip
_NUMBERS = (
    "ratio", "low", "high", "error", "control_ratio", "control_low", "control_high", "threshold",
    "detectable", "base_s", "head_s", "rounds", "calls", "confirmed_in",
)  # fmt: skip
# Kinds whose configurations the conclusion names, the most important first; after a few it counts the rest.
_CLAIMS = {
    "failed": "the head cannot run", "gone": "the head lacks", "head lacks it": "the head lacks a figure of",
    "slower": "slower:", "grew": "exact figures grew:", "base-failed": "the base cannot run",
    "base lacks it": "the base lacks a figure of", "suspected": "suspected, not confirmed:",
}  # fmt: skip
_NAMED = 3

Bounds = tuple[float, float, float]  # ratio, low, high


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison or one exact figure; ``texts`` are those of the columns.

    ``numbers`` holds the numbers that are known and finite, by their names in the report.
    """

    cell: Cell
    name: str  # fastformer train at 512
    kind: str  # of KINDS
    result: Literal["passed", "failure", "error", "skipped"]
    measured: str  # 1.213 [1.172, 1.254], or FLOPs 100 -> 120 (+20 %)
    reason: str
    texts: tuple[str, ...]
    numbers: Mapping[str, float]
    bounds: Bounds | None = None  # of the head over the base
    control: Bounds | None = None  # of the base over itself

    @property
    def sentence(self) -> str:
        """Kind, numbers and reason."""
        return ": ".join(filter(None, [self.kind, self.measured, self.reason]))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A report in words. Every text is one printable line."""

    title: str
    about: str
    comparisons: Sequence[Row]
    legend: Sequence[str]
    figures: Sequence[Row]  # those that fail first
    figures_sentence: str
    sentences: Sequence[str]  # reasons and notes
    conclusion: str

    @property
    def changed(self) -> list[Row]:
        """The figures that differ between the sides."""
        return [row for row in self.figures if row.kind != "equal"]


def rows_of(report: Report) -> Rows:
    """Turn a report into rows."""
    names = _Names([*(each.cell for each in report.comparisons), *(each.cell for each in report.figures)])
    comparisons = [_comparison(each, names, report.broken) for each in report.comparisons]
    figures = sorted(
        (_figure(each, names) for each in report.figures), key=lambda row: row.result == "passed"
    )
    return Rows(
        title=f"{report.kind}: {_side(report.base)} -> {_side(report.head)}",
        about="; ".join(filter(None, [names.common(), printable(str(report.machine.get("name", "")))])),
        comparisons=comparisons,
        legend=_legend(comparisons),
        figures=figures,
        figures_sentence=_figures_sentence(figures),
        sentences=[*_reasons([*comparisons, *figures]), *(f"note: {printable(n)}" for n in report.notes)],
        conclusion=_conclusion(comparisons, figures),
    )


class _Names:
    """Names of the configurations of one report, as short as tells them apart."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        values = {name: {_value(cell, name) for cell in cells} for name in _SHAPE}
        self._varying = [name for name in _SHAPE if len(values[name]) > 1]
        self._constant = {name: min(own) for name, own in values.items() if len(own) == 1 and own != {""}}

    def apart(self, cell: Cell) -> str:
        """`` (batch_size=4)``: the shape's fields that differ between the configurations."""
        known = ", ".join(f"{name}={_value(cell, name)}" for name in self._varying)
        return f" ({known})" if known else ""

    def full(self, cell: Cell) -> str:
        """``fastformer:interaction=add train at 512 (batch_size=4)``"""
        return f"{printable(cell.label)} {cell.mode} at {cell.seq_len}{self.apart(cell)}"

    def columns(self, cell: Cell) -> tuple[str, str, str]:
        """Mechanism, mode and length."""
        return printable(cell.label) + self.apart(cell), cell.mode, units.length(cell.seq_len)

    def common(self) -> str:
        """The shape that all configurations share: ``scope attention, batch_size 1, d_model 256, ...``."""
        return ", ".join(f"{name} {value}" for name, value in self._constant.items())


def _value(cell: Cell, name: str) -> str:
    value = getattr(cell, name)
    if name == "task_options":
        value = spec_label("", value).removeprefix(":")
    return "" if value is None else printable(str(value))


def printable(text: str) -> str:
    """Return the text in one line without what a terminal or XML 1.0 cannot hold."""
    return one_line(text, 2000)


def _comparison(comparison: Comparison, names: _Names, broken: Sequence[str]) -> Row:
    cell, verdict, numbers = comparison.cell, comparison.verdict, _known(comparison, _NUMBERS)
    bounds = _bounds(numbers, "")
    ratio, low, high = map(_ratio, bounds) if bounds else ("", "", "")
    interval = f"[{low}, {high}]" if bounds else ""
    times = (units.seconds(numbers[key]) if key in numbers else "" for key in ("base_s", "head_s"))
    detects = _share(numbers["detectable"]) if "detectable" in numbers else ""
    rounds = "+".join(str(n) for n in (comparison.rounds, comparison.confirmed_in) if n)
    return Row(
        cell=cell, name=names.full(cell), kind=verdict, numbers=numbers,
        result="failure" if verdict == "slower" else "passed" if verdict in ("same", "faster")
        else "error" if verdict in (*broken, "base-failed") else "skipped",
        measured=f"{ratio} {interval}".strip(), reason=printable(comparison.reason),
        texts=(*names.columns(cell), *times, ratio, interval, verdict, detects, rounds),
        bounds=bounds, control=_bounds(numbers, "control_"),
    )  # fmt: skip


def _figure(figure: Figure, names: _Names) -> Row:
    cell, name, sides = figure.cell, _figure_name(figure.name), _known(figure, ("base", "head"))
    base, head = sides.get("base"), sides.get("head")
    kind = (
        "head lacks it" if figure.head is None else "base lacks it" if figure.base is None
        else "grew" if figure.fails else "changed" if base != head or figure.detail else "equal"
    )  # fmt: skip
    growth = _growth(base, head)
    allowed = "any" if figure.tolerance_bytes is None else f"{figure.tolerance_bytes} bytes"
    allowed = allowed if figure.tolerance is None else _share(figure.tolerance)
    measured = f"{name} {_exact(base) or 'none'} -> {_exact(head) or 'none'}"
    measured += f" ({growth})" if growth else ""
    measured += f"; may grow by {allowed}" if figure.fails and allowed != "0 %" else ""
    return Row(
        cell=cell, name=names.full(cell), kind=kind,
        result="failure" if figure.fails else "error" if kind.endswith("lacks it") else "passed",
        measured=measured, reason=f"{name}: {printable(figure.detail)}" if figure.detail else "",
        texts=(*names.columns(cell), name, _exact(base), _exact(head), growth, allowed, kind),
        numbers={f"{printable(figure.name)}_{side}": value for side, value in sides.items()},
    )  # fmt: skip


def _known(values: Comparison | Figure, keys: Sequence[str]) -> dict[str, float]:
    numbers = {key: getattr(values, key) for key in keys}
    return {key: value for key, value in numbers.items() if value is not None and math.isfinite(value)}


def _bounds(numbers: Mapping[str, float], prefix: str) -> Bounds | None:
    ratio, low, high = (numbers.get(prefix + key, 0.0) for key in ("ratio", "low", "high"))
    return (ratio, low, high) if min(ratio, low, high) > 0 else None


def _ratio(value: float) -> str:
    """``1.213``: three decimals, since a threshold is a few percent; far from 1 three significant digits."""
    return f"{value:.3f}" if 0.1 <= value < 9.9995 else f"{value:.3g}"


def _share(value: float) -> str:
    """``5 %``, ``0.25 %``"""
    return f"{100 * value:.{3 if abs(value) < 9.995 else 4}g} %"


def _figure_name(name: str) -> str:
    return {"flops": "FLOPs", "ops": "operations"}.get(name, printable(name).replace("_", " "))


def _exact(value: float | None) -> str:
    """An exact figure with all its digits: ``1,234,567``."""
    return "" if value is None else f"{value:,.0f}" if value == round(value) else f"{value:,.6g}"


def _growth(base: float | None, head: float | None) -> str:
    """``+20 %``, ``-3.1 %``; ``new`` where the base has 0; nothing where a side lacks the figure."""
    if base is None or head is None:
        return ""
    return "0 %" if base == head else f"{100 * (head - base) / base:+.3g} %" if base else "new"


def _side(side: Mapping[str, Any]) -> str:
    """``main (1a2b3c4d5, changed)``: the label, the commit, and whether the files differ from it."""
    about = [printable(str(side.get("commit") or ""))[:9], "changed" if side.get("dirty") else ""]
    known = ", ".join(filter(None, about))
    return printable(str(side.get("label", ""))) + (f" ({known})" if known else "")


def _legend(rows: Sequence[Row]) -> list[str]:
    error = 100 * max((row.numbers.get("error", 0.0) for row in rows), default=0.0)
    texts = [
        "ratio: head over base, above 1 is slower",
        f"interval: misses the ratio with a probability of at most {error:.2g} %",
        "detects: the smallest slowdown found with a probability of 80 %",
        "rounds: + those of the confirmation",
    ]
    return texts if any(row.bounds for row in rows) else []


def _figures_sentence(figures: Sequence[Row]) -> str:
    changed = sum(row.kind != "equal" for row in figures)
    failing = sum(row.result == "failure" for row in figures)
    outcome = f"{changed} changed, {failing or 'none'} more than allowed" if changed else "all equal"
    return f"exact figures: {len(figures)} compared, {outcome}" if figures else ""


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    """Each reason once, with its configurations, in the order of KINDS."""
    total = Counter(row.kind for row in rows)
    names: dict[tuple[str, str], list[str]] = {}
    for row in sorted((row for row in rows if row.reason), key=lambda row: KINDS.index(row.kind)):
        names.setdefault((row.kind, row.reason), []).append(row.name)
    for (kind, reason), own in names.items():
        yield f"{kind}: {f'all {len(own)}' if 1 < len(own) == total[kind] else ', '.join(own)}: {reason}"


def _conclusion(rows: Sequence[Row], figures: Sequence[Row]) -> str:
    """Say in one sentence, without a full stop, what a maintainer has to know.

    What breaks the gate, else for how many configurations a slowdown is excluded; then what is left open.
    """
    by_kind: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for row in sorted((*rows, *figures), key=lambda row: -row.numbers.get("ratio", 0.0)):
        by_kind[row.kind].append(row)
    passed = [row for row in rows if row.result == "passed"]
    sound = not any(row.result in ("failure", "error") for row in (*rows, *figures))
    parts = []
    if sound and passed:
        thresholds = sorted(row.numbers.get("threshold", 0.0) for row in passed)
        over = " to ".join(dict.fromkeys(map(_share, (thresholds[0], thresholds[-1]))))
        parts.append(f"no slowdown over {over} in {len(passed)} of {plural(len(rows), 'configuration')}")
    elif sound:
        timed = any(row.numbers.get("rounds") for row in rows)
        parts.append("no verdict on any time" if timed else "no times were compared")
    for kind, claim in _CLAIMS.items():
        named = [": ".join(filter(None, [row.name, row.measured])) for row in by_kind[kind]]
        parts += [f"{claim} {listed(named, _NAMED)}"] if named else []
    counted = ("faster", "inconclusive", "unfit", "new") if sound else ("inconclusive", "unfit", "new")
    parts.append(", ".join(f"{len(by_kind[kind])} {kind}" for kind in counted if by_kind[kind]))
    if sound and (by_kind["changed"] or not passed):
        parts.append(_figures_sentence(figures))
    return "; ".join(filter(None, parts))
