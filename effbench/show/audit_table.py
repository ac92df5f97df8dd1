"""Audits as tables: a row per check, a column per mechanism, and the reasons of failures below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_NAMES_WIDTH = 60  # characters that the names of all columns may have together
_STYLES = {"pass": "green", "fail": "bold red", "n/a": "dim"}


def audit_tables(audits: Mapping[str, Sequence[Mapping[str, Any]]]) -> RenderableType:
    """Lay out findings by mechanism.

    One mechanism: its reasons are in the table. Several: a column per mechanism, and the reasons below. A
    finding is a mapping with check, verdict, reason and number, as ``effbench.measured.audit.Finding`` has.
    """
    if len(audits) == 1:
        ((label, findings),) = audits.items()
        return Group(_single(label, findings), Text(f"{label}: {summary(findings)}"))
    # Long names would be folded into columns of a few characters: use numbers as headings instead.
    numbered = sum(len(label) for label in audits) > _NAMES_WIDTH
    headings = {label: str(i) if numbered else label for i, label in enumerate(audits, start=1)}
    counts = [
        Text(f"{f'{headings[label]}  ' if numbered else ''}{label}: {summary(findings)}")
        for label, findings in audits.items()
    ]
    return Group(_side_by_side(audits, headings), *_reasons(audits), *counts)


def summary(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return the counts: ``22 passed, 1 failed, 2 not applicable``."""
    words = (("pass", "passed"), ("fail", "failed"), ("n/a", "not applicable"))
    counted = ((sum(f["verdict"] == verdict for f in findings), word) for verdict, word in words)
    return ", ".join(f"{count} {word}" for count, word in counted)


def _single(label: str, findings: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=Text(label), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("check", "verdict", "result"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(finding["check"], _verdict(finding), Text(finding["reason"]))
    return table


def _side_by_side(audits: Mapping[str, Sequence[Mapping[str, Any]]], headings: Mapping[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("check", no_wrap=True)
    for label in audits:
        table.add_column(Text(headings[label]), no_wrap=True)
    by_check = [{finding["check"]: finding for finding in findings} for findings in audits.values()]
    for check in dict.fromkeys(check for findings in by_check for check in findings):
        cells = (_verdict(findings[check]) if check in findings else "" for findings in by_check)
        table.add_row(check, *cells)
    return table


def _reasons(audits: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Text]:
    """Return failures, then what was not applicable; mechanisms with the same reason share a row."""
    rows: list[Text] = []
    for verdict in ("fail", "n/a"):
        labels_of: dict[tuple[str, str], list[str]] = {}
        for label, findings in audits.items():
            for finding in findings:
                if finding["verdict"] == verdict:
                    labels_of.setdefault((finding["check"], finding["reason"]), []).append(label)
        for (check, reason), labels in labels_of.items():
            rows.append(Text(f"{verdict}  {check}: {reason} ({', '.join(labels)})", _STYLES[verdict]))
    return rows


def _verdict(finding: Mapping[str, Any]) -> Text:
    return Text(finding["verdict"], _STYLES[finding["verdict"]])
