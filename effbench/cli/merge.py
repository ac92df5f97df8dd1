"""``effbench merge``: the records of several results folders in one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from effbench.cli.options import Folders, flag, value
from effbench.common.wording import plural


def merge(
    folders: Folders,
    out: Annotated[Path, value("DIR", "Results folder to merge into; it may hold records already.")],
    strict: Annotated[
        bool,
        flag(
            "--strict", help="Refuse folders with damaged files or with conflicts of code, data or machine."
        ),
    ] = False,
) -> None:
    """Merge results folders, such as those of the shards of a sweep. The folders stay as they are.

    Where several hold a record of the same cell, the newest one stays, and the others are kept in
    DIR/superseded; docs/results.md has the whole rule. Merging again changes nothing.
    """
    from effbench.records import merging

    merged = merging.merge(folders, out, strict=strict)
    for problem in merged.problems:
        print(f"effbench: left out: {problem}", file=sys.stderr)
    for sentence in merged.conflicts:
        print(f"effbench: conflict: {sentence}", file=sys.stderr)
    for folder, (stay, count) in merged.kept.items():
        print(f"{folder}: {stay} of {plural(count, 'record')}")
    more = f", {merged.superseded} superseded" if merged.superseded else ""
    print(f"merged: {plural(merged.records, 'record')}{more} in {out}  (effbench show {out})")
