"""``effbench choose``: which mechanism to use at one length, under limits."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from effbench.cli.options import LIMITS, OUTPUT, SHAPE, WHAT, Folders, one_of, value
from effbench.cli.printing import load_raw, print_blocks
from effbench.common.exits import Exit
from effbench.common.spec import UsageError
from effbench.common.values import number, parse_bytes, parse_share, parse_time_s, parse_whole
from effbench.common.wording import shown

_MODES = ("forward", "train", "decode")
_COUNTS = ("batch_size", "d_model", "heads", "layers", "threads")


def choose(
    context: typer.Context,
    folders: Folders,
    seq_len: Annotated[
        str, value("N", "Length; it need not be measured, but shorter and longer ones must.", WHAT)
    ],
    mode: Annotated[str, value("MODE", "forward, train or decode.", WHAT)] = "forward",
    memory: Annotated[str | None, value("SIZE", "Most memory that a call may hold.", LIMITS)] = None,
    time_within: Annotated[
        str | None,
        value("FACTOR|TIME", "Most time of a call: 1.2 or 20% above the fastest; 5ms.", LIMITS),
    ] = None,
    accuracy_within: Annotated[
        str | None, value("SHARE", "Most points that the score may be below the best: 1%.", LIMITS)
    ] = None,
    task: Annotated[str | None, value("NAME", "Task whose scores count, if there are several.", WHAT)] = None,
    task_seq_len: Annotated[
        str | None, value("N", "Length of its trainings, if there are several.", WHAT)
    ] = None,
    machine: Annotated[str | None, value("TEXT", "Machine: a part of its name.", SHAPE)] = None,
    scope: Annotated[str | None, value("SCOPE", "attention, encoder or user-encoder.", SHAPE)] = None,
    batch_size: Annotated[str | None, value("N", "Sequences per call.", SHAPE)] = None,
    d_model: Annotated[str | None, value("N", "Model width.", SHAPE)] = None,
    heads: Annotated[str | None, value("N", "Attention heads.", SHAPE)] = None,
    layers: Annotated[str | None, value("N", "Blocks of an encoder.", SHAPE)] = None,
    dtype: Annotated[str | None, value("DTYPE", "float32, float64, bfloat16 or float16.", SHAPE)] = None,
    device: Annotated[str | None, value("DEVICE", "cpu, cuda or cuda:N.", SHAPE)] = None,
    threads: Annotated[str | None, value("N", "Threads of an operation.", SHAPE)] = None,
    allocator: Annotated[str | None, value("NAME", "kept or system.", SHAPE)] = None,
    compile: Annotated[str | None, value("MODE", "none, default or max-autotune.", SHAPE)] = None,
    format: Annotated[str, value("FORMAT", "table, json or markdown.", OUTPUT)] = "table",
) -> None:
    """Recommend a mechanism at one length from stored results, under limits on memory, time and score.

    The exit code is 4 if the records cannot tell, and 5 if no mechanism is within the limits.
    """
    from effbench.records.analyse.choice import Most
    from effbench.records.analyse.choice import choose as decide
    from effbench.records.analyse.choice_setting import SETTING, Untold
    from effbench.show.choice_text import as_json, choice_blocks

    one_of("format", format, ("table", "json", "markdown"))
    one_of("mode", mode, _MODES)
    length = parse_whole("seq_len", seq_len)
    factor, seconds = _time_within(time_within)
    most = Most(
        memory_bytes=None if memory is None else parse_bytes(memory, "memory"),
        time_factor=factor,
        time_s=seconds,
        points=None if accuracy_within is None else parse_share("accuracy-within", accuracy_within),
    )
    where: dict[str, Any] = {
        name: context.params[name] for name in SETTING if context.params[name] is not None
    }
    where |= {name: parse_whole(name, where[name]) for name in _COUNTS if name in where}
    of_task = None if task_seq_len is None else parse_whole("task_seq_len", task_seq_len)
    raw = load_raw(folders)
    try:
        choice = decide(
            raw, seq_len=length, mode=mode, most=most, where=where, task=task, task_seq_len=of_task
        )
    except Untold as error:
        print(f"effbench: {error}", file=sys.stderr)
        raise typer.Exit(Exit.UNDECIDED) from None
    if format == "json":
        print(as_json(choice))
    else:
        print_blocks(choice_blocks(choice), format)
    if code := choice.exit_code():
        raise typer.Exit(code)


def _time_within(text: str | None) -> tuple[float | None, float | None]:
    """Return (times the fastest, None) for ``1.2`` or ``20%``, (None, seconds) for ``5ms``."""
    if text is None:
        return None, None
    bare = text.strip()
    share = number(bare.removesuffix("%")) if bare.endswith("%") else None
    factor = number(bare) if share is None else 1 + share / 100
    if factor is not None and factor >= 1:
        return factor, None
    wrong = UsageError(
        f"time-within {shown(text)} is neither a factor of at least 1, a percentage nor a time; "
        "write 1.2, 20% or 5ms"
    )
    if factor is not None:
        raise wrong
    try:
        return None, parse_time_s(text)
    except UsageError:
        raise wrong from None
