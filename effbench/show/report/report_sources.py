"""The sources of a report: the records of each folder and machine, which are never mixed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from effbench.common.files import why
from effbench.common.spec import Record, UsageError
from effbench.common.wording import shown
from effbench.records.analyse.summary import summarise
from effbench.records.frame import raw_frame
from effbench.records.store import Store, refuse_twice

SWEEP = "sweep.toml"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The records of one machine in one folder: ``raw``, one per row, and ``frame``, their summary.

    ``number`` is its place in the report, ``sweep`` the text of the folder's sweep.toml, "" if it has none.
    """

    number: int
    name: str
    folder: Path
    machine: str
    raw: pd.DataFrame
    frame: pd.DataFrame
    records: Sequence[Record]
    problems: Sequence[str] = field(default_factory=tuple)
    sweep: str = ""


def read_sources(folders: Sequence[Path]) -> list[Source]:
    """Return the sources of results folders, in order; a folder with several machines is several sources.

    Files that are not sound records are left out, with a warning, and named in ``problems``. Raises
    UsageError for a folder that is given twice, is no results folder or has no records.
    """
    refuse_twice(folders)
    places = [folder.resolve() for folder in folders]
    last = [place.name for place in places]
    names = [place.name if last.count(place.name) == 1 else str(folder)
             for place, folder in zip(places, folders, strict=True)]  # fmt: skip
    sources: list[Source] = []
    for folder, name in zip(folders, names, strict=True):
        records, problems = Store(folder).read()
        for problem in problems:
            warnings.warn(f"ignored {problem}", stacklevel=2)
        if not records:
            raise UsageError(f"{shown(str(folder))} has no records: there is nothing to report")
        raw = raw_frame(records)
        frame = summarise(raw)
        machines = list(dict.fromkeys(raw["machine"]))
        for machine in machines:
            here = raw["machine"] == machine
            sources.append(
                Source(
                    number=len(sources),
                    name=name if len(machines) == 1 else f"{name}, {machine}",
                    folder=folder,
                    machine=str(machine),
                    raw=raw[here].reset_index(drop=True),
                    frame=frame[frame["machine"] == machine].reset_index(drop=True),
                    records=[record for record, inside in zip(records, here, strict=True) if inside],
                    problems=[str(problem) for problem in problems],
                    sweep=_sweep(folder / SWEEP),
                )
            )
    return sources


def _sweep(path: Path) -> str:
    """Return the text of a sweep.toml; a sentence if it is there and cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"# {path.name} cannot be read: {why(error)}"
