"""``effbench paper``: results beside what the Fastformer paper reports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from effbench.cli.options import one_of, value
from effbench.cli.printing import load_raw
from effbench.common.spec import UsageError


def paper(
    what: Annotated[
        str,
        typer.Argument(metavar="WHAT", help="table4, table5, table6, table7, figure2, figure3 or figure4."),
    ],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR", help="Results folders. Default: print the paper's numbers alone."),
    ] = None,
    format: Annotated[str, value("FORMAT", "table, markdown, latex, csv or json.")] = "table",
    lengths: Annotated[
        str | None,
        value("WHICH", "paper (the Transformer at its shorter length) or equal. Default: paper."),
    ] = None,
    tuned: Annotated[
        str | None,
        value(
            "OPTION", "Each mechanism with the value of this task option that has the best validation score."
        ),
    ] = None,
) -> None:
    """Print results beside those of the Fastformer paper, and say which differences are reproduced."""
    from effbench.common import registry
    from effbench.records.analyse.published import LENGTHS, SCORED, WHAT
    from effbench.show.paper_tables import FORMATS, report

    if what not in WHAT:
        raise UsageError(registry.unknown("table or figure", what, WHAT, "there are"))
    one_of("format", format, FORMATS)
    if lengths is not None:
        one_of("lengths", lengths, LENGTHS)
    for name, given in (("--lengths", lengths), ("--tuned", tuned)):
        if given is not None and (what not in SCORED or not folders):
            raise UsageError(f"{name} goes with folders and one of {', '.join(SCORED)}")
    raw = load_raw(folders) if folders else None
    text = report(what, raw, format=format, lengths=lengths or "paper", tuned=tuned)
    sys.stdout.write(text.rstrip("\n") + "\n")
