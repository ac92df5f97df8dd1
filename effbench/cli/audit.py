"""``effbench audit``: check that a mechanism is what it declares."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from effbench.cli.completion import mechanism_names
from effbench.cli.options import (
    LIMITS,
    MEASURING,
    SHAPE,
    TABLE_OR_JSON,
    Format,
    OneDevice,
    one_of,
    value,
)
from effbench.cli.printing import console
from effbench.common.exits import Exit
from effbench.common.spec import DTYPES, Cell, Dtype, Job, UsageError
from effbench.common.values import parse_device, parse_time_s, parse_whole

if TYPE_CHECKING:
    from effbench.sweep.executor import Executor


def audit(
    mechanism: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MECHANISM",
            help="NAME[:option=value,...] or path/to/file.py:Class. Default: all installed mechanisms.",
            autocompletion=mechanism_names,
        ),
    ] = None,
    d_model: Annotated[str, value("N", "Model width.", SHAPE)] = "64",
    heads: Annotated[str, value("N", "Attention heads; the number must divide the width.", SHAPE)] = "4",
    seq_len: Annotated[str, value("N", "Longest sequence length to try.", SHAPE)] = "2048",
    device: OneDevice = "cpu",
    dtype: Annotated[
        str,
        value(
            "DTYPE",
            "Compare outputs and gradients in this dtype too, not in float64 alone: float32, bfloat16, "
            "float16.",
            MEASURING,
        ),
    ] = "float64",
    timeout: Annotated[str | None, value("TIME", "Time limit of one mechanism: 60s, 5m.", LIMITS)] = None,
    format: Format = "table",
) -> None:
    """Check the laws, gradients and declared costs of mechanisms. The exit code is 6 if a check fails."""
    from effbench.common import registry
    from effbench.sweep.executor import refuse_missing
    from effbench.sweep.local import LocalExecutor
    from effbench.sweep.sweep import Sweep

    one_of("format", format, TABLE_OR_JSON)
    width, split = parse_whole("d_model", d_model), parse_whole("heads", heads)
    if width % split:
        raise UsageError(f"heads {split} does not divide d_model {width}")
    longest, place = parse_whole("seq_len", seq_len), parse_device(device)
    chosen = cast(Dtype, one_of("dtype", dtype, DTYPES))
    limits = Sweep(name="audit", timeout_s=parse_time_s(timeout) if timeout else None).limits("audit")
    specs = dict.fromkeys(mechanism or registry.names("mechanism"))
    cells = [
        Cell(
            mechanism=name, options=options, probe="audit", mode="train", seq_len=longest,
            d_model=width, heads=split, seconds=0.0, device=place, dtype=chosen,
        )
        for name, options in (registry.parse(text, "mechanism") for text in specs)
    ]  # fmt: skip
    executor = LocalExecutor()
    audits: dict[str, list[dict[str, Any]]] = {}
    try:
        refuse_missing({place}, executor.start())
        for cell in cells:
            label = cell.label
            print(f"{label} ...", file=sys.stderr)
            audits[label] = _findings(executor, Job(cell=cell, limits=limits))
    finally:
        executor.close()
    if format == "json":
        print(json.dumps([{"mechanism": k, "findings": v} for k, v in audits.items()], indent=2))
    else:
        from effbench.show.audit_table import audit_tables

        console().print(audit_tables(audits))
    if any(finding["verdict"] == "fail" for findings in audits.values() for finding in findings):
        raise typer.Exit(Exit.BROKEN)


def _findings(executor: Executor, job: Job) -> list[dict[str, Any]]:
    """Return the findings of an audit.

    If the process ended before it was done, there is one finding that names the check it was at.
    """
    begun: list[str] = []
    record = executor.run(job, lambda fraction, check: begun.append(check))
    if record.status == "ok":
        return list(json.loads(str(record.values["findings"])))
    verdict = "n/a" if record.status == "unsupported" else "fail"
    reason = f"{record.status}: {record.reason}" + (f"; while checking {begun[-1]!r}" if begun else "")
    return [{"check": "audit", "verdict": verdict, "reason": reason, "number": None}]
