"""``effbench compare``: compare two results folders of one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from effbench.cli.options import OUTPUT, Floor, PlotFile, StrictTimes, Threshold, one_of, value
from effbench.cli.outputs import check_outputs, save_forest
from effbench.cli.printing import console
from effbench.common.spec import UsageError
from effbench.common.values import parse_share, parse_time_s


def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Results folder to compare with.")],
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="Another results folder of the same machine.")],
    threshold: Threshold = "5%",
    floor: Floor = "10us",
    strict: StrictTimes = False,
    format: Annotated[str, value("FORMAT", "table, json or markdown.", OUTPUT)] = "table",
    plot_file: PlotFile = None,
) -> None:
    """Compare two results folders of one machine by configuration.

    The exit code is 3 if HEAD is slower or an exact figure grew, and 6 if a measurement of HEAD failed.
    """
    from effbench.gate import stored

    check_outputs({"plot": plot_file})
    one_of("format", format, ("table", "json", "markdown"))
    share, floor_s = parse_share("threshold", threshold), parse_time_s(floor, "floor", zero=True, unit=True)
    if base.resolve() == head.resolve():  # everything would be equal, whatever the folder holds
        raise UsageError(f"BASE and HEAD are the same folder, {str(base)!r}: name two")
    report = stored.compare(base, head, threshold=share, floor_s=floor_s)
    save_forest(report, plot_file)
    if format == "json":
        print(json.dumps(report.to_json(), indent=2))
    elif format == "markdown":
        from effbench.show.gate_tables import markdown

        print(markdown(report).rstrip("\n"))
    else:
        from effbench.show.gate_tables import gate_tables

        console().print(gate_tables(report))
    if code := report.exit_code(strict=strict):
        raise typer.Exit(code)
