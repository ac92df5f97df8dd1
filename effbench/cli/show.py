"""``effbench show``: print results as tables or rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from effbench.cli.options import Folders, flag, one_of
from effbench.cli.printing import load_both, load_raw, print_blocks
from effbench.common.spec import UsageError
from effbench.show.terminal import width


def show(
    folders: Folders,
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="table, csv, json, markdown or latex.")
    ] = "table",
    summary: Annotated[
        bool,
        flag("--summary", help="The tables that a run ends with; csv and json print rows by default."),
    ] = False,
    rows: Annotated[bool, flag("--rows", help="One row per configuration, with all columns.")] = False,
    raw: Annotated[
        bool, flag("--raw", help="One row per record; repeats and probes are not merged.")
    ] = False,
    complexity: Annotated[
        bool,
        flag("--complexity", help="Measured and declared growth with N, and the crossover lengths."),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="MECHANISM",
            help="Compare trainings with those of this mechanism, by seed and by document; all: every pair.",
        ),
    ] = None,
) -> None:
    """Print results: by default the tables that a run ends with."""
    from effbench.show import blocks, tables

    one_of("format", format, blocks.FORMATS)
    kinds = {"--summary": summary, "--rows": rows, "--raw": raw, "--complexity": complexity,
             "--compare": compare is not None}  # fmt: skip
    chosen = [name for name, is_given in kinds.items() if is_given]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} are different tables: give one of them")
    if rows or raw or (not chosen and format in ("csv", "json")):
        frame = load_raw(folders) if raw else load_both(folders)[0]
        sys.stdout.write(tables.render(frame, format, width()).rstrip("\n") + "\n")
    elif compare is not None:
        _print_comparison(folders, compare, format)
    elif complexity:
        _print_complexity(folders, format)
    else:
        from effbench.show.overview import overview

        print_blocks(overview(*load_both(folders)), format)


def _print_comparison(folders: list[Path], against: str, format: str) -> None:
    from effbench.show import comparison_tables, tables

    raw = load_raw(folders)
    if format in ("csv", "json"):
        print(tables.render(comparison_tables.comparison(raw, against), format).rstrip("\n"))
    else:
        print_blocks(comparison_tables.comparison_blocks(raw, against), format)


def _print_complexity(folders: list[Path], format: str) -> None:
    from effbench.show import complexity_tables

    raw = load_raw(folders)
    if format in ("csv", "json"):
        as_text = complexity_tables.as_json if format == "json" else complexity_tables.as_csv
        print(as_text(raw).rstrip("\n"))
    else:
        print_blocks(complexity_tables.complexity_blocks(raw), format)
