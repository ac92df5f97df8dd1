"""``effbench doctor``: examine the machine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from effbench.cli.options import TABLE_OR_JSON, Format, OneDevice, flag, one_of, value
from effbench.cli.printing import console
from effbench.common.exits import Exit, Fault
from effbench.common.values import parse_device, parse_whole


def doctor(
    threads: Annotated[str | None, value("N", "Threads of an operation. Default: all cores.")] = None,
    device: OneDevice = "cpu",
    format: Format = "table",
    strict: Annotated[
        bool, flag("--strict", help="End with exit code 4 if the machine is unfit to measure.")
    ] = False,
) -> None:
    """Examine the machine: its clock, noise, load and limits, and the smallest difference it can detect."""
    from effbench.show.doctor_table import as_json, report
    from effbench.sweep.checkup import examine
    from effbench.sweep.diagnosis import findings, verdict
    from effbench.sweep.local import LocalExecutor

    one_of("format", format, TABLE_OR_JSON)
    count = None if threads is None else parse_whole("threads", threads)
    place = parse_device(device)
    executor = LocalExecutor()

    def progress(message: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)

    try:
        diagnosis = examine(executor, threads=count, device=place, progress=progress)
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except RuntimeError as error:  # the workload does not run here, which is an answer too
        raise Fault(str(error)) from None
    finally:
        executor.close()
        progress("")
    if format == "json":
        print(as_json(diagnosis))
    else:
        console().print(report(diagnosis))
    if strict and verdict(findings(diagnosis))[0] == "unfit":
        raise typer.Exit(Exit.UNDECIDED)
