"""``effbench pack`` and ``effbench unpack``: the records of a results folder in one file, and back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from effbench.cli.options import Folders
from effbench.common.wording import plural

if TYPE_CHECKING:
    from effbench.records.packing import Moved


def pack(folders: Folders) -> None:
    """Pack the records of each folder into one file, records.jsonl; every command reads it as before."""
    from effbench.records import packing

    for folder in folders:
        moved = packing.pack(folder)
        _print(moved, f"{moved.file}: {_counts(moved)}, {moved.file.stat().st_size} bytes")


def unpack(folders: Folders) -> None:
    """Unpack records.jsonl of each folder: every record becomes its own file again, byte for byte."""
    from effbench.records import packing

    for folder in folders:
        moved = packing.unpack(folder)
        _print(moved, f"{folder}: {_counts(moved)} unpacked")


def _counts(moved: Moved) -> str:
    more = f" and {moved.superseded} superseded" if moved.superseded else ""
    return f"{plural(moved.records, 'record')}{more}"


def _print(moved: Moved, text: str) -> None:
    for problem in moved.problems:
        print(f"effbench: left as it is: {problem}", file=sys.stderr)
    print(text)
