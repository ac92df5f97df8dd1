"""A gate's report on a terminal, in Markdown for a step summary, and as JUnit XML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from effbench.gate.report import Report
from effbench.show.gate_rows import COLUMNS, FIGURE_COLUMNS, TEXT_COLUMNS, Row, printable, rows_of

_COLOURS = {
    "slower": "bold red", "suspected": "red", "failed": "bold red", "base-failed": "bold red", "gone": "cyan",
    "new": "cyan", "inconclusive": "yellow", "unfit": "magenta", "faster": "green", "grew": "bold red",
}  # fmt: skip


def gate_tables(report: Report) -> RenderableType:
    """Return the report for a terminal: tables, reasons, notes and the conclusion."""
    rows = rows_of(report)
    code, strict = report.exit_code(), report.exit_code(strict=True)
    colour = "red" if code in (3, 4, 6) else "yellow" if strict else "green"
    parts: list[RenderableType] = [Text(rows.title, "bold"), *([Text(rows.about)] if rows.about else [])]
    if rows.comparisons:
        parts += [Text(""), _table(COLUMNS, rows.comparisons), Text("; ".join(rows.legend), "dim")]
    if rows.figures:
        parts += [Text(f"\n{rows.figures_sentence}")]
    if rows.changed:
        parts += [_table(FIGURE_COLUMNS, rows.changed)]
    parts += [Text(""), *map(Text, rows.sentences)] if rows.sentences else []
    return Group(*parts, Text(f"\n{rows.conclusion}", f"bold {colour}"))


def _table(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    # one space between columns: ten of them leave room for a mechanism's name in 100 characters
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(
            name, justify="left" if name in TEXT_COLUMNS else "right", overflow="fold",
            no_wrap=columns is COLUMNS and name != "mechanism", min_width=9 if name == "mechanism" else None,
        )  # fmt: skip
    for row in rows:
        table.add_row(*(Text(text, _COLOURS.get(text, "")) for text in row.texts))
    return table


def markdown(report: Report) -> str:
    """Return the report in GitHub's Markdown, for ``$GITHUB_STEP_SUMMARY``."""
    rows = rows_of(report)
    parts = [
        f"### effbench: {_escaped(rows.conclusion)}",
        _escaped(rows.title),
        _markdown_table(COLUMNS, rows.comparisons),
        "; ".join(rows.legend),
        rows.figures_sentence,
        _markdown_table(FIGURE_COLUMNS, rows.changed),
        "\n".join(f"- {_escaped(sentence)}" for sentence in rows.sentences),
        _escaped(rows.about),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown_table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    rule = ["---" if name in TEXT_COLUMNS else "---:" for name in columns]
    loud = {row.kind for row in rows if row.result in ("failure", "error")}
    texts = [
        [f"**{_escaped(text)}**" if text in loud else _escaped(text) for text in row.texts] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *texts)) if rows else ""


def _escaped(text: str) -> str:
    """Escape what Markdown or HTML would take for markup."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]~|]|^[#>+=-])", r"\\\1", safe)


def junit(report: Report) -> str:
    """Return JUnit XML: for each configuration a test case for its time and one for its exact figures.

    Failures are slowdowns and figures that grew by more than allowed. Errors are configurations that a side
    cannot run or that the head of a gate lacks, and figures that a side lacks. Comparisons without a verdict
    are skipped. The report's numbers are properties; ``time`` is the head's median in seconds.
    """
    rows = rows_of(report)
    root = ElementTree.Element("testsuites", name="effbench gate", time=f"{report.seconds:.3f}")
    for name, of_suite in (("time", rows.comparisons), ("exact", rows.figures)):
        if not of_suite:
            continue
        suite = ElementTree.SubElement(root, "testsuite", name=f"effbench.gate.{name}")
        suite.set("timestamp", printable(report.started))
        _properties(suite, {"title": rows.title, "about": rows.about, "conclusion": rows.conclusion})
        cases: dict[str, list[Row]] = {}
        for row in of_suite:
            cases.setdefault(row.cell.key, []).append(row)
        for case in cases.values():
            _case(suite, f"effbench.gate.{name}", case)
    for element in (*root, root):
        for attribute, tag in (
            ("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped"),
        ):  # fmt: skip
            element.set(attribute, str(len([*element.iter(tag)])))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, classname: str, rows: Sequence[Row]) -> None:
    seconds = f"{rows[0].numbers.get('head_s', 0.0):.9f}"
    case = ElementTree.SubElement(suite, "testcase", classname=classname, name=rows[0].name, time=seconds)
    numbers = {name: str(value) for row in rows for name, value in row.numbers.items()}
    _properties(case, {"verdict": ", ".join(row.kind for row in rows), **numbers})
    for result in ("failure", "error", "skipped"):
        own = [row for row in rows if row.result == result]
        if own:
            message = "; ".join(row.sentence for row in own)
            ElementTree.SubElement(case, result, type=own[0].kind, message=message)
    changed = [row.sentence for row in rows if row.kind == "changed"]
    if changed:
        ElementTree.SubElement(case, "system-out").text = "\n".join(changed)


def _properties(element: ElementTree.Element, values: dict[str, str]) -> None:
    properties = ElementTree.SubElement(element, "properties")
    for name, value in values.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
