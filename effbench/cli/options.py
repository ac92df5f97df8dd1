"""Options that two or more commands take, declared once, and the helpers that declare an option."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from effbench.cli.completion import model_names
from effbench.common.spec import UsageError

# The panels are the headings of --help.
WHAT, SHAPE, MEASURING = "What to measure", "Shape of a call", "Measuring"
LIMITS, OUTPUT, DECIDING, SHAPING = "Limits", "Output", "Deciding", "Shape of the rows"
SLURM = "On a cluster: --executor slurm"


def flag(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """Declare an option without a value."""
    return typer.Option(*names, metavar="", help=help, rich_help_panel=panel, **more)


def value(metavar: str, help: str, panel: str | None = None, *names: str, **more: Any) -> Any:
    """Declare an option with a value; ``metavar`` is the form of the value in --help."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)


def given(context: typer.Context, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of those options among ``names`` that the user gave."""
    values = {name: context.params.get(name) for name in names}
    return {name: value for name, value in values.items() if value}  # without None and empty lists


def one_of(name: str, choice: str, choices: Collection[str]) -> str:
    """Return the choice. Raises UsageError if it is not one of ``choices``."""
    if choice not in choices:
        raise UsageError(f"{name} {choice!r} is not one of {', '.join(choices)}")
    return choice


Mechanisms = Annotated[
    list[str] | None,
    value(
        "NAME[:option=value,...]",
        "Mechanism to measure; repeat the option for more. "
        "It may also be path/to/file.py:Class or package.module:Class, and for a task of news "
        "recommendation a recommender.",
        WHAT,
        "--mechanism",
        "-m",
        autocompletion=model_names,
    ),
]
Mode = Annotated[
    str | None,
    value(
        "MODE,...",
        "forward (inference), train (forward and backward pass) or decode (one more token).",
        WHAT,
    ),
]
Scope = Annotated[
    str | None,
    value(
        "SCOPE,...",
        "attention (one layer), encoder (several blocks) or user-encoder (of a news recommender, over a "
        "history of clicks).",
        WHAT,
    ),
]
SeqLen = Annotated[str | None, value("N,...|N:N:xK", "Sequence lengths: 128,512 or 512:16384:x2.", SHAPE)]
BatchSize = Annotated[str | None, value("N,...", "Sequences per call.", SHAPE)]
BatchTokens = Annotated[
    str | None, value("N,...", "Tokens per call: the batch size is this number divided by the length.", SHAPE)
]
DModel = Annotated[str | None, value("N,...", "Model width.", SHAPE)]
Heads = Annotated[str | None, value("N,...", "Attention heads; the number must divide the width.", SHAPE)]
Layers = Annotated[str | None, value("N,...", "Blocks of an encoder, or layers of a user encoder.", SHAPE)]
Dtype = Annotated[str | None, value("DTYPE,...", "float32, float64, bfloat16 or float16.", SHAPE)]
Device = Annotated[str | None, value("DEVICE,...", "cpu, cuda or cuda:N.", SHAPE)]
OneDevice = Annotated[str, value("DEVICE", "cpu, cuda or cuda:N.", MEASURING)]
Allocator = Annotated[
    str | None,
    value("NAME", "kept (freed memory is reused) or system (the default of the C library).", MEASURING),
]
Compile = Annotated[
    str | None,
    value("MODE,...", "torch.compile: none, default or max-autotune. Default: none.", SHAPE),
]
Threshold = Annotated[
    str | None,
    value("SHARE", "Report slowdowns above this share. Default: 5%.", DECIDING, show_default=False),
]
Floor = Annotated[
    str | None,
    value(
        "TIME",
        "Ignore slowdowns of less time per call than this. Default: 10us.",
        DECIDING,
        show_default=False,
    ),
]
StrictTimes = Annotated[
    bool,
    flag("--strict", help="End with exit code 4 also if a time cannot be judged.", panel=DECIDING),
]
PlotFile = Annotated[
    Path | None,
    value("FILE", "Plot the ratios with their intervals to a .png, .svg or .pdf file.", OUTPUT, "--plot"),
]
Folders = Annotated[list[Path], typer.Argument(metavar="DIR", help="Results folders.")]

TABLE_OR_JSON = ("table", "json")
Format = Annotated[str, value("FORMAT", "table or json.")]
