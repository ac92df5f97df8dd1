"""A report for other programs: Markdown, JUnit's XML, the JSON of pytest-benchmark and of a GitHub action."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from effbench.gate import words
from effbench.gate.report import Figure, Line, Report

PYTEST_BENCHMARK = "5.3.1"  # whose JSON pytest_benchmark has the shape of
_COLUMNS = (
    "mechanism", "mode", "N", "base (ms)", "head (ms)", "ratio", "interval", "verdict", "smallest found",
    "rounds", "reason",
)  # fmt: skip
_LOUD = ("slower", "suspected", "failed", "base-failed")  # verdicts in bold
_NUMBERS = (
    "ratio", "low", "high", "error", "control_ratio", "control_low", "control_high", "threshold",
    "detectable", "base_s", "head_s", "rounds", "calls", "confirmed_in",
)  # fmt: skip


def markdown(report: Report) -> str:
    """GitHub's Markdown, for ``$GITHUB_STEP_SUMMARY``: what it comes to, the cells, exact figures, notes."""
    names = words.Names(report)
    parts = [f"### effbench {report.kind}: {_text(words.conclusion(report))}", _text(words.sides(report))]
    if report.lines:
        rows = [_row(line, names, report.broken) for line in report.lines]
        parts.append(_table(_COLUMNS, rows, right=range(2, 6)))
        parts.append(
            "ratio: head over base, more than 1 is slower; smallest found: the smallest slowdown that these "
            "rounds find with a chance of 80 %"
        )
    changed = words.changes(report.figures)
    if report.figures:
        parts.append(_text(words.figures_in_words(report)))
    if changed:
        columns = ("mechanism", "mode", "N", "figure", "base", "head", "change", "may grow by", "", "detail")
        parts.append(_table(columns, [_figure_row(each, names) for each in changed], right=(2, 4, 5, 6, 7)))
    notes = [f"- {_text(note)}" for note in report.notes]
    parts.append("\n".join(notes))
    parts.append(_text("; ".join(filter(None, [names.what(), words.machine(report)]))))
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(line: Line, names: words.Names, broken: Sequence[str]) -> list[str]:
    found = words.bounds(line)
    loud = line.verdict in _LOUD or line.verdict in broken
    verdict = f"**{line.verdict}**" if loud else line.verdict
    return [
        _text(names.mechanism(line.cell)), line.cell.mode, str(line.cell.seq_len), _milliseconds(line.base_s),
        _milliseconds(line.head_s), words.ratio(found[0]) if found else "", _text(words.interval(line)),
        verdict, words.share(line.detectable), words.rounds(line), _text(line.reason),
    ]  # fmt: skip


def _figure_row(figure: Figure, names: words.Names) -> list[str]:
    return [
        _text(names.mechanism(figure.cell)), figure.cell.mode, str(figure.cell.seq_len),
        _text(words.figure_name(figure.name)), words.exact(figure.base), words.exact(figure.head),
        words.growth(figure), words.allowance(figure), "**fails**" if figure.fails else "",
        _text(figure.detail),
    ]  # fmt: skip


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int]) -> str:
    to_right = set(right)
    rule = ["---:" if i in to_right else "---" for i in range(len(columns))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))


def _text(text: str) -> str:
    """The text in one line, with what Markdown or HTML would take for markup escaped."""
    safe = words.printable(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]~|]|^[#>+=-])", r"\\\1", safe)


def _milliseconds(seconds: float | None) -> str:
    known = words.number(seconds)
    return "" if known is None else f"{1e3 * known:.4g}"


def junit(report: Report) -> str:
    """JUnit XML: a test case a cell for its time, and one a cell for its exact figures.

    A slowdown and a figure that grew beyond its tolerance are failures. A cell that one side cannot run, or
    that a gate was asked for and the head lacks, is an error, and so is a figure that one side lacks. What
    could not be judged is skipped, with the reason. A case's ``time`` is the head's median in seconds, and
    its numbers are properties.
    """
    names = words.Names(report)
    root = ElementTree.Element("testsuites", name="effbench gate", time=_seconds(report.seconds))
    if report.lines:
        suite = _suite(root, "time", report)
        for line in report.lines:
            _time_case(suite, line, names, report.broken)
    figures: dict[str, list[Figure]] = {}
    for figure in report.figures:
        figures.setdefault(names.full(figure.cell), []).append(figure)
    if figures:
        suite = _suite(root, "exact", report)
        for name, each in figures.items():
            _exact_case(suite, name, each)
    for suite in root:
        _count(suite, [suite])
    _count(root, list(root))
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written.decode("utf-8") + "\n"


def _suite(root: ElementTree.Element, name: str, report: Report) -> ElementTree.Element:
    suite = ElementTree.SubElement(root, "testsuite", name=f"effbench.gate.{name}")
    if report.started:
        suite.set("timestamp", words.printable(report.started))
    found = {
        "base": words.side(report.base),
        "head": words.side(report.head),
        "machine": words.machine(report),
        "conclusion": words.conclusion(report),
    }
    _properties(suite, found)
    return suite


def _time_case(suite: ElementTree.Element, line: Line, names: words.Names, broken: Sequence[str]) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname="effbench.gate.time", name=names.full(line.cell),
        time=_seconds(words.number(line.head_s) or 0.0),
    )  # fmt: skip
    found = {"verdict": line.verdict, **{name: words.number(getattr(line, name)) for name in _NUMBERS}}
    _properties(case, {name: str(value) for name, value in found.items() if value is not None})
    said = ": ".join(filter(None, [line.verdict, words.measured(line), words.printable(line.reason)]))
    if line.verdict == "slower":
        ElementTree.SubElement(case, "failure", type="slower", message=said).text = _slower(line)
    elif line.verdict in (*broken, "base-failed"):
        ElementTree.SubElement(case, "error", type=line.verdict, message=said)
    elif line.verdict not in ("same", "faster"):
        ElementTree.SubElement(case, "skipped", message=said)


def _slower(line: Line) -> str:
    parts = [f"head over base: {words.measured(line)}"]
    if words.number(line.threshold) is not None:
        parts.append(f"held to: {words.share(line.threshold)}")
    if line.confirmed_in:
        parts.append(f"found again in {line.confirmed_in} rounds of fresh workers")
    return "\n".join(parts)


def _exact_case(suite: ElementTree.Element, name: str, figures: Sequence[Figure]) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname="effbench.gate.exact", name=name, time="0")
    sides = {
        f"{words.printable(figure.name)}_{side}": str(known)
        for figure in figures
        for side in ("base", "head")
        if (known := words.number(getattr(figure, side))) is not None
    }
    _properties(case, sides)
    broken = [words.change(figure) for figure in figures if figure.fails]
    if broken:
        failure = ElementTree.SubElement(case, "failure", type="exact figure", message="; ".join(broken))
        failure.text = "\n".join(broken)
    lacking = [words.change(figure) for figure in figures if None in (figure.base, figure.head)]
    if lacking:
        ElementTree.SubElement(case, "error", type="no figure", message="; ".join(lacking))
    said = {*broken, *lacking}
    allowed = [text for text in map(words.change, words.changes(figures)) if text not in said]
    if allowed:
        ElementTree.SubElement(case, "system-out").text = "\n".join(allowed)


def _properties(element: ElementTree.Element, values: Mapping[str, str]) -> None:
    properties = ElementTree.SubElement(element, "properties")
    for name, value in values.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)


def _count(element: ElementTree.Element, suites: Sequence[ElementTree.Element]) -> None:
    for attribute, tag in (
        ("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped"),
    ):  # fmt: skip
        element.set(attribute, str(sum(len(list(suite.iter(tag))) for suite in suites)))


def _seconds(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")  # XML's decimals have no exponent


def pytest_benchmark(report: Report) -> dict[str, Any]:
    """The head's times in the shape of pytest-benchmark's ``--benchmark-json``, for what reads that.

    A benchmark a cell that has ``head_samples_s``: its statistics are over these, in seconds a call, and
    ``extra_info`` holds the verdict with its numbers. What is not known is None or an empty string.
    """
    names = words.Names(report)
    return {
        "machine_info": _machine_info(report.machine),
        "commit_info": {
            "id": str(report.head.get("commit") or "unknown"),
            "time": None,
            "author_time": None,
            "dirty": bool(report.head.get("dirty")),
            "project": str(report.head.get("project", "")),
            "branch": str(report.head.get("branch", "(unknown)")),
        },
        "benchmarks": [_benchmark(line, names) for line in report.lines if line.head_samples_s],
        "datetime": report.started,
        "version": PYTEST_BENCHMARK,
    }


def _machine_info(machine: Mapping[str, Any]) -> dict[str, Any]:
    system, _, release = str(machine.get("system", "")).partition(" ")
    plain = (str, int, bool)
    return {
        "node": str(machine.get("name", "")),
        "processor": str(machine.get("processor", "")),
        "machine": str(machine.get("machine", "")),
        "python_implementation": str(machine.get("implementation", "CPython")),
        "python_version": str(machine.get("python", "")),
        "release": release,
        "system": system,
        "cpu": {"brand_raw": str(machine.get("processor", "")), "count": machine.get("cores")},
        # what pytest-benchmark has no name for: torch, threads, the C library
        "effbench": {name: value for name, value in machine.items() if isinstance(value, plain)},
    }


def _benchmark(line: Line, names: words.Names) -> dict[str, Any]:
    cell = line.cell
    inside = f"{names.mechanism(cell)}-{cell.seq_len}"
    name = f"{cell.mode}[{inside}]"
    numbers = {key: words.number(getattr(line, key)) for key in _NUMBERS}
    return {
        "group": f"{cell.mode} at {cell.seq_len}",
        "name": name,
        "fullname": f"effbench::{name}",
        "params": {"mechanism": names.mechanism(cell), "mode": cell.mode, "seq_len": cell.seq_len},
        "param": inside,
        "extra_info": {"verdict": line.verdict, "reason": words.printable(line.reason), **numbers},
        "options": {
            "disable_gc": True,
            "timer": "perf_counter_ns",
            "warmup": True,
            "min_rounds": line.rounds,
        },
        "stats": statistics(line.head_samples_s),
    }


def statistics(samples_s: Sequence[float]) -> dict[str, Any]:
    """The statistics that pytest-benchmark gives of times, in seconds a call; ``ops`` is calls a second.

    Its quartiles are Hazen's: (i - 1/2) / n is the share below the i-th of n. ``ld15iqr`` and ``hd15iqr`` are
    the lowest and highest call within 1.5 times the interquartile range of the quartiles, and ``outliers``
    counts calls beyond one standard deviation of the mean, and beyond those fences.
    """
    data = np.asarray(samples_s, dtype=float)
    mean, total = float(data.mean()), float(data.sum())
    stddev = float(data.std(ddof=1)) if len(data) > 1 else 0.0
    q1, median, q3 = (float(q) for q in np.quantile(data, [0.25, 0.5, 0.75], method="hazen"))
    iqr = q3 - q1
    low, high = q1 - 1.5 * iqr, q3 + 1.5 * iqr
    inside = data[(data >= low) & (data <= high)]
    beyond_iqr = len(data) - len(inside)
    beyond_stddev = int((np.abs(data - mean) > stddev).sum())
    return {
        "min": float(data.min()),
        "max": float(data.max()),
        "mean": mean,
        "stddev": stddev,
        "rounds": len(data),
        "median": median,
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": beyond_iqr,
        "stddev_outliers": beyond_stddev,
        "outliers": f"{beyond_stddev};{beyond_iqr}",
        "ld15iqr": float(inside.min()),
        "hd15iqr": float(inside.max()),
        "ops": len(data) / total if total else 0.0,
        "total": total,
        "data": data.tolist(),
        "iterations": 1,
    }


def github_action_benchmark(report: Report) -> list[dict[str, Any]]:
    """The head's median times in milliseconds, for github-action-benchmark's ``customSmallerIsBetter``.

    An entry a cell that was timed. ``range`` is half the interval of the ratio, as a time of the head; it is
    left out where there is none. ``extra`` says what the gate made of it.
    """
    names = words.Names(report)
    found = []
    for line in report.lines:
        head_s = words.number(line.head_s)
        if head_s is None:
            continue
        entry: dict[str, Any] = {"name": names.full(line.cell), "unit": "ms", "value": 1e3 * head_s}
        three = words.bounds(line)
        if three:
            half = (three[2] - three[1]) / 2 / three[0]
            entry["range"] = f"± {1e3 * head_s * half:.6f}"  # its reader wants a plain decimal
        said = [
            f"{line.verdict} {words.measured(line)}".rstrip(),
            words.sides(report),
            words.printable(line.reason),
            words.machine(report),
        ]
        entry["extra"] = "\n".join(filter(None, said))
        found.append(entry)
    return found
