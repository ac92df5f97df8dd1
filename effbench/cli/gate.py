"""``effbench gate``: compare the working tree with another revision."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effbench.cli.options import (
    DECIDING,
    LIMITS,
    MEASURING,
    OUTPUT,
    WHAT,
    Allocator,
    BatchSize,
    BatchTokens,
    Compile,
    Device,
    DModel,
    Dtype,
    Floor,
    Heads,
    Layers,
    Mechanisms,
    Mode,
    PlotFile,
    Scope,
    SeqLen,
    StrictTimes,
    Threshold,
    flag,
    given,
    value,
)
from effbench.cli.outputs import check_outputs, save_forest
from effbench.cli.printing import console
from effbench.common.exits import Exit

if TYPE_CHECKING:
    from effbench.gate.report import Report

# The options that are settings too: see docs/gate.md.
_SETTINGS = (
    "mechanism", "mode", "scope", "seq_len", "batch_size", "batch_tokens", "d_model", "heads", "layers",
    "dtype", "device", "threads", "allocator", "compile", "threshold", "floor", "error", "budget",
)  # fmt: skip


def gate(
    context: typer.Context,
    base: Annotated[str, value("REF|DIR", "Revision or folder to compare the working tree with.", WHAT)],
    mechanism: Mechanisms = None,
    mode: Mode = None,
    scope: Scope = None,
    config: Annotated[
        Path | None,
        value("FILE.toml", "Settings. Default: the table tool.effbench.gate in pyproject.toml.", WHAT),
    ] = None,
    exact_only: Annotated[
        bool,
        flag(
            "--exact-only",
            help="Compare FLOPs, memory, parameters and operations only; measure no times.",
            panel=WHAT,
        ),
    ] = False,
    seq_len: SeqLen = None,
    batch_size: BatchSize = None,
    batch_tokens: BatchTokens = None,
    d_model: DModel = None,
    heads: Heads = None,
    layers: Layers = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Annotated[str | None, value("N", "Threads of an operation. Default: 1.", MEASURING)] = None,
    allocator: Allocator = None,
    compile: Compile = None,
    threshold: Threshold = None,
    floor: Floor = None,
    error: Annotated[
        str | None,
        value(
            "SHARE",
            "Probability that any confidence interval of the gate misses the true value. Default: 1%.",
            DECIDING,
        ),
    ] = None,
    strict: StrictTimes = False,
    budget: Annotated[
        str | None, value("TIME", "Time limit of the whole gate: 90s, 3m. Default: 2m.", LIMITS)
    ] = None,
    json_file: Annotated[
        Path | None, value("FILE|-", "Write the full report as JSON; - prints it instead.", OUTPUT, "--json")
    ] = None,
    plot_file: PlotFile = None,
    junit: Annotated[Path | None, value("FILE", "Write JUnit XML.", OUTPUT)] = None,
    markdown: Annotated[Path | None, value("FILE", "Write a table in Markdown.", OUTPUT)] = None,
    quiet: Annotated[bool, flag("--quiet", "-q", help="Print no progress.", panel=OUTPUT)] = False,
) -> None:
    """Compare the working tree with a revision. The exit code is 3 if it is slower and 6 if it is broken.

    Defaults: 512 and 2048 tokens, forward and train, one attention layer, batch 1, d_model 256, 16 heads.
    """
    from effbench.gate.checkout import checked_out, working_tree
    from effbench.gate.judge import judge
    from effbench.gate.paths import inside
    from effbench.gate.settings import read
    from effbench.gate.workers import WorkerDied

    outputs = {
        "json": json_file,
        "plot": plot_file,
        "junit": junit,
        "markdown": markdown,
    }
    check_outputs(outputs)
    flags = given(context, _SETTINGS)
    if exact_only:
        flags["time"] = False
    listener = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    try:
        here = Path.cwd()
        head = working_tree(here)
        settings = read(head.root, config, flags, here)
        # dotted names are looked up where they were written, like the paths of files
        place = here if mechanism else config.absolute().parent if config else head.root
        with checked_out(head, base) as tree:
            report = judge(settings, head, tree, inside=inside(place, head.root), listener=listener)
    except KeyboardInterrupt:
        print("interrupted; nothing was judged, and nothing stays behind", file=sys.stderr)
        raise typer.Exit(Exit.INTERRUPTED) from None
    except WorkerDied as error:
        raise WorkerDied(error.side, f"the {error.side}'s process ended: {error}") from None
    incomplete = deliver(report, outputs)
    raise typer.Exit(report.exit_code(strict=strict) or int(incomplete))


def deliver(report: Report, outputs: dict[str, Path | None]) -> bool:
    """Print a report and write it to the files in ``outputs``; return True if one could not be written."""
    from effbench.show import gate_tables

    printed = outputs.get("json")
    if printed is not None and str(printed) == "-":
        print(json.dumps(report.to_json(), indent=2))
    else:
        console().print(gate_tables.gate_tables(report))
    texts: dict[str, Callable[[], str]] = {
        "json": lambda: json.dumps(report.to_json(), indent=2),
        "junit": lambda: gate_tables.junit(report),
        "markdown": lambda: gate_tables.markdown(report),
    }
    failed = False

    def write(name: str, path: Path, work: Callable[[], object]) -> None:
        nonlocal failed
        try:
            work()
        except OSError as error:  # a full disk, or a folder that was removed: the verdict stands
            print(f"effbench: {name} {str(path)!r}: {error.strerror or error}", file=sys.stderr)
            failed = True

    for name, text in texts.items():
        path = outputs.get(name)
        if path is not None and (name, str(path)) != ("json", "-"):
            write(f"--{name}", path, partial(path.write_text, text() + "\n", encoding="utf-8"))
    if plot := outputs.get("plot"):
        write("--plot", plot, partial(save_forest, report, plot))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        place = Path(summary)
        write("GITHUB_STEP_SUMMARY", place, partial(_append, place, gate_tables.markdown(report) + "\n"))
    return failed


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
