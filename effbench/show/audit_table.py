"""Audits as a person reads them: a line a law, a column a mechanism, and what failed in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_NAMES_WIDTH = 60  # letters that the names of all columns may have together
_STYLES = {"pass": "green", "fail": "bold red", "n/a": "dim"}


def audit_tables(audits: Mapping[str, Sequence[Mapping[str, Any]]]) -> RenderableType:
    """Findings by mechanism: one mechanism with its reasons in the table, several with them below it.

    A finding is a mapping with name, verdict, reason and number, as ``audit.Finding`` has them.
    """
    if len(audits) == 1:
        ((label, findings),) = audits.items()
        return Group(_alone(label, findings), Text(f"{label}: {summary(findings)}"))
    # Long names would fold into columns of a few letters each: numbers then stand for them.
    numbered = sum(len(label) for label in audits) > _NAMES_WIDTH
    heads = {label: str(i) if numbered else label for i, label in enumerate(audits, start=1)}
    counts = [
        Text(f"{f'{heads[label]}  ' if numbered else ''}{label}: {summary(findings)}")
        for label, findings in audits.items()
    ]
    return Group(_side_by_side(audits, heads), *_reasons(audits), *counts)


def summary(findings: Sequence[Mapping[str, Any]]) -> str:
    """``22 passed, 1 failed, 2 not applicable``"""
    words = (("pass", "passed"), ("fail", "failed"), ("n/a", "not applicable"))
    counted = ((sum(f["verdict"] == verdict for f in findings), word) for verdict, word in words)
    return ", ".join(f"{count} {word}" for count, word in counted)


def _alone(label: str, findings: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=Text(label), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("line", "verdict", "what was found"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(finding["name"], _verdict(finding), Text(finding["reason"]))
    return table


def _side_by_side(audits: Mapping[str, Sequence[Mapping[str, Any]]], heads: Mapping[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("line", no_wrap=True)
    for label in audits:
        table.add_column(Text(heads[label]), no_wrap=True)
    by_name = [{finding["name"]: finding for finding in findings} for findings in audits.values()]
    for name in dict.fromkeys(name for found in by_name for name in found):
        table.add_row(name, *(_verdict(found[name]) if name in found else "" for found in by_name))
    return table


def _reasons(audits: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Text]:
    """Failures first, then what was not applicable; mechanisms with the same reason share a line."""
    lines: list[Text] = []
    for verdict in ("fail", "n/a"):
        said: dict[tuple[str, str], list[str]] = {}
        for label, findings in audits.items():
            for finding in findings:
                if finding["verdict"] == verdict:
                    said.setdefault((finding["name"], finding["reason"]), []).append(label)
        for (name, reason), labels in said.items():
            lines.append(Text(f"{verdict}  {name}: {reason} ({', '.join(labels)})", _STYLES[verdict]))
    return lines


def _verdict(finding: Mapping[str, Any]) -> Text:
    return Text(finding["verdict"], _STYLES[finding["verdict"]])
