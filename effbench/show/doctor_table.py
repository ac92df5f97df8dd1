"""Show a checkup: its findings, the smallest differences that can be detected, and the verdict."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from effbench.sweep.checkup import Checkup
from effbench.sweep.diagnosis import call_name, findings, verdict
from effbench.sweep.noise_estimate import BUDGETS_S, smallest_in_pairs, smallest_in_sweep

_STYLES = {"ok": "green", "warn": "yellow", "bad": "red"}


def report(seen: Checkup) -> RenderableType:
    """Return findings with advice, the smallest differences detected in 1, 10 and 60 s, and the verdict."""
    judged = findings(seen)
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    for finding in judged:
        style = _STYLES[finding.verdict]
        advice = f"\n[{style}]-> {escape(finding.advice)}[/]" if finding.advice else ""
        table.add_row(f"[{style}]{finding.verdict}[/]", finding.name, f"{escape(finding.value)}{advice}")
    differences = Table(
        title="smallest difference that can be detected (95 % confidence, 80 % power)", box=None,
        pad_edge=False, padding=(0, 1), title_justify="left",
    )  # fmt: skip
    for name in ("a call of", "how", *(f"in {budget:g} s" for budget in BUDGETS_S)):
        differences.add_column(name, justify="left" if name == "how" else "right")
    for noise in seen.noise:
        call = call_name(noise, seen)
        for how, smallest in (
            ("two mechanisms in a sweep", smallest_in_sweep),
            ("A/B call by call in one process", smallest_in_pairs),
        ):
            differences.add_row(call, how, *(_share(smallest(noise, budget)) for budget in BUDGETS_S))
            call = ""
    name, words = verdict(judged)
    style = {"fit": "green", "fit with care": "yellow", "unfit": "red"}[name]
    return Group(table, Text(""), differences, Text(f"\nThis machine is {words}.", f"bold {style}"))


def as_json(seen: Checkup) -> str:
    """Return everything as JSON; null where a budget is too short for a result."""
    judged = findings(seen)
    differences = [
        {
            "seq_len": noise.seq_len,
            "threads": noise.threads,
            "budget_s": budget,
            "in_sweep": _finite(smallest_in_sweep(noise, budget)),
            "in_pairs": _finite(smallest_in_pairs(noise, budget)),
        }
        for noise in seen.noise
        for budget in BUDGETS_S
    ]
    whole = {
        "verdict": verdict(judged)[0],
        "findings": [asdict(finding) for finding in judged],
        "smallest_difference": differences,
        "checkup": asdict(seen),
    }
    return json.dumps(whole, indent=1)


def _share(value: float) -> str:
    return f"{100 * value:.2g} %" if math.isfinite(value) and value < 10 else "not detectable"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
