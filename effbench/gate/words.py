"""A report in words: what its cells are called, how its numbers are written, and what it all comes to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from effbench.common.spec import Cell, spec_label
from effbench.gate.report import Figure, Line, Report, Verdict

# What may set cells apart besides mechanism, mode and length. Not the probe: a figure's cell may be another
# probe's than that of the time.
SHAPE = (
    "scope", "batch_size", "d_model", "heads", "layers", "dtype", "device", "threads", "allocator", "task",
    "task_options",
)  # fmt: skip
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NAMED = 3  # cells that the conclusion names before it counts the others
Row = tuple[Verdict, str, tuple[str, ...]]


class Names:
    """What the cells of one report are called: as short as tells them apart, and in one printable line."""

    def __init__(self, report: Report) -> None:
        cells = [*(line.cell for line in report.lines), *(figure.cell for figure in report.figures)]
        written = {name: {_value(cell, name) for cell in cells} for name in SHAPE}
        self._varying = [name for name in SHAPE if len(written[name]) > 1]
        self.constant = {
            name: next(iter(values))
            for name, values in written.items()
            if len(values) == 1 and values != {""}
        }

    def mechanism(self, cell: Cell) -> str:
        """``fastformer:interaction=add``, with what else sets it apart: ``fastformer (batch_size=4)``."""
        return printable(cell.label) + self._apart(cell)

    def full(self, cell: Cell) -> str:
        """``fastformer train at 512``, with what else sets it apart."""
        return f"{printable(cell.label)} {cell.mode} at {cell.seq_len}{self._apart(cell)}"

    def what(self) -> str:
        """What was measured, as far as it is the same in all cells: ``one attention layer, batch 1, ...``."""
        said = self.constant
        blocks = f" of {said['layers']} blocks" if "layers" in said else ""
        scope = {"attention": "one attention layer", "encoder": f"an encoder{blocks}"}
        parts = [scope[said["scope"]]] if "scope" in said else []
        for name, form in (
            ("batch_size", "batch {}"), ("d_model", "d_model {}"), ("heads", "{} heads"), ("dtype", "{}"),
            ("device", "{}"), ("threads", "{} threads"), ("allocator", "{} allocator"), ("task", "task {}"),
        ):  # fmt: skip
            if name in said:
                parts.append(
                    "1 thread" if (name, said[name]) == ("threads", "1") else form.format(said[name])
                )
        return ", ".join(parts)

    def _apart(self, cell: Cell) -> str:
        said = [f"{name}={_value(cell, name)}" for name in self._varying]
        return f" ({', '.join(said)})" if said else ""


def _value(cell: Cell, name: str) -> str:
    value = getattr(cell, name)
    if name == "task_options":
        return printable(spec_label("", value).removeprefix(":"))
    return "" if value is None else printable(str(value))


def printable(text: str) -> str:
    """The text in one line, with U+FFFD for what neither a terminal nor XML 1.0 should be given."""
    # not printable: controls, format characters (some turn the direction of writing), surrogates, unassigned
    return "".join(
        sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in " ".join(text.split())
    )


def number(value: float | None) -> float | None:
    """The number, or None where there is none or it is not finite (JSON has no way to say so)."""
    return value if value is not None and math.isfinite(value) else None


def bounds(line: Line) -> tuple[float, float, float] | None:
    """(ratio, low, high) of a line that has them, all finite and positive."""
    return _three(line.ratio, line.low, line.high)


def control_bounds(line: Line) -> tuple[float, float, float] | None:
    """(ratio, low, high) of the base against itself, where the line has them."""
    return _three(line.control_ratio, line.control_low, line.control_high)


def _three(*values: float | None) -> tuple[float, float, float] | None:
    known = [value for value in map(number, values) if value is not None and value > 0]
    return (known[0], known[1], known[2]) if len(known) == 3 else None


def ratio(value: float) -> str:
    """``1.213``: three decimals, since a threshold is a few percent; far from 1 three significant digits."""
    return f"{value:.3f}" if 0.1 <= value < 9.9995 else f"{value:.3g}"


def interval(line: Line) -> str:
    """``[1.172, 1.254]``, or nothing where the line has no numbers."""
    found = bounds(line)
    return f"[{ratio(found[1])}, {ratio(found[2])}]" if found else ""


def measured(line: Line) -> str:
    """``1.213 [1.172, 1.254]``, or nothing where the line has no numbers."""
    found = bounds(line)
    return f"{ratio(found[0])} {interval(line)}" if found else ""


def rounds(line: Line) -> str:
    """``8``, or ``8+5`` where five more rounds of fresh workers confirmed what the eight had found."""
    return f"{line.rounds}+{line.confirmed_in}" if line.confirmed_in else str(line.rounds or "")


def share(value: float | None) -> str:
    """``5 %``, ``0.25 %``: a share with as many digits as it needs; nothing where there is none."""
    known = number(value)
    if known is None:
        return ""
    digits = 3 if abs(known) < 9.995 else 4 if abs(known) < 99.995 else 2
    return f"{100 * known:.{digits}g} %"


def figure_name(name: str) -> str:
    """``peak_bytes`` as a reader would say it: ``peak bytes``."""
    return {"flops": "FLOPs", "ops": "operations"}.get(name, printable(name).replace("_", " "))


def exact(value: float | None) -> str:
    """An exact figure with all its digits: ``1,234,567``."""
    known = number(value)
    return "" if known is None else f"{known:,.0f}" if known == round(known) else f"{known:,.6g}"


def growth(figure: Figure) -> str:
    """``+20 %``, ``-3.1 %``; ``new`` where the base has none of it, nothing where one side is not known."""
    base, head = number(figure.base), number(figure.head)
    if base is None or head is None:
        return ""
    if base == 0:
        return "new" if head else "0 %"
    return "0 %" if base == head else f"{100 * (head - base) / base:+.3g} %"


def changes(figures: Iterable[Figure]) -> list[Figure]:
    """The figures that are not the same on both sides, those that break the gate first."""
    found = [figure for figure in figures if figure.fails or figure.detail or figure.base != figure.head]
    return sorted(found, key=lambda figure: not figure.fails)


def change(figure: Figure, *, detail: bool = True) -> str:
    """``FLOPs 100 -> 120 (+20 %)``, with what changed inside of it if wanted, and what it is allowed."""
    before, after = (exact(side) or "none" for side in (figure.base, figure.head))
    text = f"{figure_name(figure.name)} {before} -> {after}"
    grown = growth(figure)
    text += f" ({grown})" if grown else ""
    text += f": {printable(figure.detail)}" if figure.detail and detail else ""
    held = figure.fails and (figure.tolerance or figure.tolerance_bytes)
    return text + (f"; may grow by {allowance(figure)}" if held else "")


def allowance(figure: Figure) -> str:
    """What a figure may grow by: ``2 %``, ``64 bytes``, or ``any`` where it is only shown."""
    if figure.tolerance is not None:
        return share(figure.tolerance)
    return "any" if figure.tolerance_bytes is None else f"{figure.tolerance_bytes} bytes"


def figures_in_words(report: Report) -> str:
    """``exact figures: 12 compared, all equal``, or how many changed and how many of them break the gate."""
    if not report.figures:
        return ""
    changed = changes(report.figures)
    if not changed:
        return f"exact figures: {len(report.figures)} compared, all equal"
    broken = sum(figure.fails for figure in changed)
    said = f", {broken} of them more than allowed" if broken else ", none more than allowed"
    return f"exact figures: {len(report.figures)} compared, {len(changed)} changed{said}"


def sides(report: Report) -> str:
    """``v1.0 (1a2b3c4d5) -> working tree (5d6e7f8a9, changed)``"""
    return f"{side(report.base)} -> {side(report.head)}"


def side(what: Any) -> str:
    """One side of a report: its label, its commit shortened, and whether its files differ from that."""
    commit = printable(str(what.get("commit") or ""))[:9]
    inside = [commit] if commit else []
    inside += ["changed"] if what.get("dirty") else []
    return printable(str(what.get("label", ""))) + (f" ({', '.join(inside)})" if inside else "")


def machine(report: Report) -> str:
    """The machine's name, or nothing."""
    return printable(str(report.machine.get("name", "")))


def reasons(report: Report) -> list[Row]:
    """(verdict, reason, names of the cells): each reason once, in the order of ``Verdict``."""
    names = Names(report)
    found: dict[tuple[Verdict, str], list[str]] = {}
    for line in sorted(report.lines, key=lambda line: VERDICTS.index(line.verdict)):
        if line.reason:
            found.setdefault((line.verdict, printable(line.reason)), []).append(names.full(line.cell))
    return [(verdict, reason, tuple(cells)) for (verdict, reason), cells in found.items()]


def conclusion(report: Report) -> str:
    """One sentence, without a full stop, that a maintainer can act on.

    What broke the gate if anything did; else why nothing can be said, if so; else what was shown about how
    many cells, and how many of which kind are left. A claim is made only of cells that have that verdict.
    """
    names = Names(report)
    parts = [
        *_failures(report, names), *_slowdowns(report, names), *_breaks(report, names),
        *_base_failures(report, names),
    ]  # fmt: skip
    counts = Counter(line.verdict for line in report.lines)
    if parts:
        left = ", ".join(_counted(counts, but=(*report.broken, "base-failed", "slower", "same", "faster")))
        return "; ".join(filter(None, [*parts, left]))
    figures = figures_in_words(report)
    if not report.lines:
        return "; ".join(filter(None, [figures, "no times were compared"]))
    if not set(counts) - {"new", "gone"}:
        said = (
            f"nothing could be compared in time: {', '.join(_counted(counts))} of {_cells(len(report.lines))}"
        )
        return "; ".join(filter(None, [said, figures]))
    passed = [line for line in report.lines if line.verdict in ("same", "faster")]
    total = len(report.lines)
    if not passed and counts["unfit"] and not counts.keys() & {"inconclusive", "suspected"}:
        said = _cannot_judge([line for line in report.lines if line.verdict == "unfit"])
        counts.pop("unfit")
    elif not passed:
        said = f"no verdict on time in any of {_cells(total)}"
    else:
        over = _thresholds(passed)
        where = f"in {len(passed)} of {_cells(total)}"
        if len(passed) == total:
            where = "in the one cell" if total == 1 else f"in any of {_cells(total)}"
        said = f"no slowdown{over} {where}"
    suspects = _listed([line for line in report.lines if line.verdict == "suspected"], names)
    suspected = [f"suspected, not confirmed: {suspects}"] if suspects else []
    left = ", ".join(_counted(counts, but=("same", "suspected")))
    changed = figures if changes(report.figures) else ""
    return "; ".join(filter(None, [said, *suspected, left, changed]))


def _failures(report: Report, names: Names) -> list[str]:
    """What of the head is broken: the cells that it cannot run, those that it lacks, the figures it lacks."""
    lacks = [f"{figure_name(f.name)} of {names.full(f.cell)}" for f in report.figures if f.head is None]
    found = []
    for verdict, said in (("failed", "the head cannot run"), ("gone", "the head lacks")):
        cells = [names.full(line.cell) for line in report.lines if line.verdict == verdict]
        if cells and verdict in report.broken:
            found.append(f"{said} {_and_more(cells[:NAMED], len(cells))}")
    return [*found, *([f"the head has no {_and_more(lacks[:NAMED], len(lacks))}"] if lacks else [])]


def _base_failures(report: Report, names: Names) -> list[str]:
    lacks = [f"{figure_name(f.name)} of {names.full(f.cell)}" for f in report.figures if f.base is None]
    cells = [names.full(line.cell) for line in report.lines if line.verdict == "base-failed"]
    said = [f"the base cannot run {_and_more(cells[:NAMED], len(cells))}, which it has"] if cells else []
    return [*said, *([f"the base has no {_and_more(lacks[:NAMED], len(lacks))}"] if lacks else [])]


def _slowdowns(report: Report, names: Names) -> list[str]:
    slower = [line for line in report.lines if line.verdict == "slower"]
    if not slower:
        return []
    confirmed = all(line.confirmed_in for line in slower)
    return [f"slower{', confirmed in fresh workers' if confirmed else ''}: {_listed(slower, names)}"]


def _breaks(report: Report, names: Names) -> list[str]:
    broken = [figure for figure in report.figures if figure.fails]
    if not broken:
        return []
    said = [f"{names.full(figure.cell)}: {change(figure, detail=False)}" for figure in broken[:NAMED]]
    return [f"exact figures grew: {_and_more(said, len(broken))}"]


def _listed(lines: Sequence[Line], names: Names) -> str:
    """The cells with their numbers, the largest ratio first; beyond a few only how many."""
    worst = sorted(lines, key=lambda line: -(number(line.ratio) or 0.0))[:NAMED]
    said = [": ".join(filter(None, [names.full(line.cell), measured(line)])) for line in worst]
    return _and_more(said, len(lines))


def _and_more(said: Sequence[str], total: int) -> str:
    more = f" and {total - len(said)} more" if total > len(said) else ""
    return ", ".join(said) + more


def _counted(counts: Counter[Verdict], but: Sequence[str] = ()) -> list[str]:
    return [f"{counts[name]} {name}" for name in VERDICTS if counts[name] and name not in but]


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"


def _thresholds(lines: Sequence[Line]) -> str:
    known = sorted(value for line in lines if (value := number(line.threshold)) is not None)
    if not known:
        return ""
    low, high = share(known[0]), share(known[-1])
    return f" over {high}" if low == high else f" over {low.removesuffix(' %')} to {high}"


def _cannot_judge(lines: Sequence[Line]) -> str:
    off = [abs(math.log(found[0])) for line in lines if (found := control_bounds(line))]
    said = f" is off by up to {share(math.expm1(max(off)))}" if off else " differs too much"
    return (
        f"this machine cannot judge as it is now: the base against itself{said} in {_cells(len(lines))}; "
        "effbench doctor says what disturbs it"
    )
