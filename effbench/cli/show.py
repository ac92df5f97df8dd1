"""``effbench show``: print results as tables or rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effbench.cli.options import SHAPING, Folders, flag, one_of, value
from effbench.cli.printing import load_both, load_raw, print_blocks
from effbench.common.spec import UsageError
from effbench.show.terminal import width

if TYPE_CHECKING:
    from pandas import DataFrame

    from effbench.show.blocks import Block


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
            help="Compare trainings with those of this mechanism, by seed and by document; all: every pair; "
            "OPTION=VALUE: with those whose task has this option.",
        ),
    ] = None,
    tuned: Annotated[
        str | None,
        typer.Option(
            metavar="OPTION",
            help="With --compare: each mechanism with the value of this option of the task, such as lr, that "
            "has the best validation score.",
        ),
    ] = None,
    columns: Annotated[str | None, value("NAME,...", "Only these columns of the rows.", SHAPING)] = None,
    where: Annotated[
        str | None,
        value("CONDITION", "Only rows for which it is true, such as \"mode == 'train'\".", SHAPING),
    ] = None,
    sort: Annotated[
        str | None, value("NAME,...", "Sort the rows by columns; -NAME is descending.", SHAPING)
    ] = None,
    pivot: Annotated[
        str | None,
        value("ROWS,COLUMNS,VALUE", "A table of one column: mechanism,seq_len,time_s.", SHAPING),
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
    if tuned is not None and compare is None:
        raise UsageError("--tuned goes with --compare")
    options = {"--columns": columns, "--where": where, "--sort": sort, "--pivot": pivot}
    given = [name for name, text in options.items() if text is not None]
    if given and chosen and not (rows or raw):
        verb = "shapes" if len(given) == 1 else "shape"
        raise UsageError(f"{' and '.join(given)} {verb} rows: give --rows or --raw, not {chosen[0]}")
    if columns is not None and pivot is not None:
        raise UsageError("--pivot names its columns: give it or --columns")
    if rows or raw or given or (not chosen and format in ("csv", "json")):
        frame = load_raw(folders) if raw else load_both(folders)[0]
        shaped = None
        if given:
            from effbench.show import shaping

            frame = frame if where is None else shaping.matching(frame, where)
            frame = frame if sort is None else shaping.ordered(frame, sort)
            shaped = shaping.chosen(frame, columns) if columns is not None else None
            shaped = shaping.pivoted(frame, pivot) if pivot is not None else shaped
        text = tables.render(shaped.frame if shaped else frame, format, width(), shaped)
        sys.stdout.write(text.rstrip("\n") + "\n")
    elif compare is not None:
        _print_comparison(folders, compare, tuned, format)
    elif complexity:
        _print_complexity(folders, format)
    else:
        from effbench.show.overview import overview

        _print_apart(load_both(folders), overview, format)


def _print_comparison(folders: list[Path], against: str, tuned: str | None, format: str) -> None:
    from effbench.records.analyse.task_options import is_task_option, over_task_option
    from effbench.records.analyse.tuned import tuned as at_best
    from effbench.show import comparison_tables, tables
    from effbench.show.blocks import Block

    if is_task_option(against) and against.partition("=")[0] == tuned:
        raise UsageError(
            f"--compare {against} compares all values of {tuned}, and --tuned {tuned} chooses one: "
            "give one of them"
        )
    raw, best = load_raw(folders), None
    if tuned is not None:
        best = at_best(raw, tuned)
        raw = best.raw
    if is_task_option(against):
        raw = over_task_option(raw, against)
    if format in ("csv", "json"):
        table = comparison_tables.comparison(raw, against)
        # over the values of another option, the mechanism is in the task
        if best is not None and not is_task_option(against):
            table = best.beside(table, "mechanism", "against")
        print(tables.render(table, format).rstrip("\n"))
    else:
        blocks = comparison_tables.comparison_blocks(raw, against)
        chosen = [] if best is None else [Block(notes=comparison_tables.tuned_in_words(best))]
        print_blocks([*blocks, *chosen], format)


def _print_complexity(folders: list[Path], format: str) -> None:
    from effbench.records.analyse.several_folders import refuse_repeated
    from effbench.show import complexity_tables

    raw = load_raw(folders)
    if format in ("csv", "json"):
        refuse_repeated(raw)
        as_text = complexity_tables.as_json if format == "json" else complexity_tables.as_csv
        print(as_text(raw).rstrip("\n"))
    else:
        _print_apart([raw], complexity_tables.complexity_blocks, format)


def _print_apart(frames: Sequence[DataFrame], tables: Callable[..., list[Block]], format: str) -> None:
    """Print the tables of the frames, those of each folder apart if folders hold the same configurations."""
    from effbench.records.analyse.several_folders import apart
    from effbench.show.blocks import Block

    blocks = []
    for name, own in apart(*frames):
        blocks += [Block(title=name)] if name else []
        blocks += tables(*own)
    print_blocks(blocks, format)
