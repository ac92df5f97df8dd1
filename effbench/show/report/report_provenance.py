"""The origin of the numbers: machine, code, versions, the sweep, and reasons to doubt them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from effbench import __version__
from effbench.common.wording import plural
from effbench.show import units
from effbench.show.blocks import Block
from effbench.show.overview import cautions
from effbench.show.report.report_sources import Source
from effbench.show.report.report_text import known

# A machine's facts that say what it is; those that change from record to record are in raw.csv.
_FACTS = ("name", "processor", "gpu", "cores", "machine_cores", "cpu_quota_cores", "memory_bytes",
          "cpu_capability", "system", "libc", "python", "torch", "host", "slurm_cluster")  # fmt: skip
_MOST_VALUES = 6


def provenance(source: Source) -> Block:
    """Return what identifies the machine, the code and the data of a source's records."""
    rows = [["folder", source.name], ["records", str(len(source.records))]]
    started = sorted(filter(None, (known(text) for text in source.raw["started"])))
    if started:
        rows.append(["measured", f"{started[0]} to {started[-1]}"])
    seconds = float(source.raw["seconds"].fillna(0).sum())
    rows.append(["time of all cells", units.seconds(seconds)])
    for fact in _FACTS:
        values = (record.machine.get(fact) for record in source.records)
        rows += _row(f"machine: {fact}", (_written(fact, value) for value in values if value is not None))
    rows += _row("code (version-measuring-plugin)", source.raw["code"])
    rows += _row("data", source.raw["data"])
    for column in ("libraries", "implementation", "timed_by"):
        if column in source.raw:
            rows += _row(column, (known(text) for text in source.raw[column]))
    rows.append(["report by", f"effbench {__version__}"])
    return Block(title=f"provenance of {source.name}", head=["what", "value"], rows=rows, left=(0, 1))


def careful(source: Source) -> list[str]:
    """Return doubts about the machine while it measured, contradictions, and files that could not be read."""
    problems = source.problems
    ignored = [f"{plural(len(problems), 'file')} ignored: {problem}" for problem in problems[:1]]
    return [*cautions(source.frame, source.raw), *ignored, *problems[1:]]


def _written(fact: str, value: Any) -> str:
    return units.size(float(value)) if fact.endswith("_bytes") else str(value)


def _row(name: str, values: Iterable[str]) -> list[list[str]]:
    different = [value for value in dict.fromkeys(values) if value]
    if not different:
        return []
    more = f" and {len(different) - _MOST_VALUES} more" if len(different) > _MOST_VALUES else ""
    return [[name, f"{'; '.join(different[:_MOST_VALUES])}{more}"]]
