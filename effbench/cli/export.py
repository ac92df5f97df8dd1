"""``effbench export``: results in the forms of other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

from effbench.cli.completion import mechanism_names
from effbench.cli.options import OUTPUT, WHAT, Folders, flag, one_of, value
from effbench.cli.outputs import check_outputs
from effbench.cli.printing import printed_warnings
from effbench.common.exits import Fault
from effbench.common.files import refuse_special, replace, why
from effbench.common.spec import MODES, UsageError
from effbench.common.values import parse_lengths
from effbench.show.export.targets import HOME, TARGETS, require


def export(
    folders: Folders,
    to: Annotated[str, value("TARGET", f"{', '.join([*TARGETS][:-1])} or {[*TARGETS][-1]}.", OUTPUT)],
    out: Annotated[
        str | None,
        value(
            "PLACE",
            "A file (default: print the text); for mlflow a tracking URI such as sqlite:///runs.db, for "
            "wandb-offline a folder (defaults: those of these programs).",
            OUTPUT,
        ),
    ] = None,
    mechanism: Annotated[
        list[str] | None,
        value(
            "NAME[:option=value,...]",
            "Only this mechanism; repeat the option for more.",
            WHAT,
            "--mechanism",
            "-m",
            autocompletion=mechanism_names,
        ),
    ] = None,
    seq_len: Annotated[str | None, value("N,...|N:N:xK", "Only these lengths.", WHAT)] = None,
    mode: Annotated[str | None, value("MODE", "Only this mode: forward, train or decode.", WHAT)] = None,
    where: Annotated[
        str | None, value("CONDITION", "Only rows for which it is true, as for effbench show.", WHAT)
    ] = None,
    raw: Annotated[
        bool, flag("--raw", help="csv and parquet: one row per record, not per configuration.", panel=WHAT)
    ] = False,
    column: Annotated[str | None, value("NAME", "badge: the number to show. Default: time_s.", WHAT)] = None,
) -> None:
    """Write results for other programs: experiment trackers, tables, monitoring, documentation."""
    from effbench.show.export.selection import Wish, select

    one_of("--to", to, TARGETS)
    target = TARGETS[to]
    for name, given in (("raw", raw), ("column", column is not None)):
        if given and name not in target.options:
            takers = ", ".join(other for other, known in TARGETS.items() if name in known.options)
            raise UsageError(f"--{name} goes with --to {takers}, not {to}")
    if mode is not None:
        one_of("mode", mode, MODES)
    lengths = None if seq_len is None else parse_lengths(seq_len)
    if target.kind != "place":
        check_outputs({"out": None if out is None else Path(out)})
        if out is not None and Path(out).exists():
            refuse_special(Path(out))
    if target.kind == "binary" and out is None:
        raise UsageError(f"--to {to} writes no text: name a file with --out")
    if target.module:
        require(target.module, target.extra)
    wish = Wish(mechanisms=mechanism, lengths=lengths, mode=mode, where=where, raw=raw, column=column)
    with printed_warnings():
        selection = select(folders, wish)
    write = resolve_name(f"{HOME}.{target.function}")
    try:
        written = write(selection, out) if target.kind == "place" else write(selection)
    except ImportError as error:  # it is there, and not whole
        raise UsageError(f"--to {to}: {target.module} cannot be imported: {error}") from None
    if target.kind == "place":
        print(written)
        return
    content: bytes = written
    if out is None:
        sys.stdout.write(content.decode())
        return
    try:
        replace(Path(out), content)
    except OSError as error:
        raise Fault(f"cannot write {out}: {why(error)}") from None
    print(out)
