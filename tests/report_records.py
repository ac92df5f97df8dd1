"""Records of machines that never were as the sources of a report, with failures and with names like HTML."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from frames import SIX, Failures, cost_records

from effbench.common.spec import Record
from effbench.records.analyse.summary import summarise
from effbench.records.frame import raw_frame
from effbench.show.report.report_sources import Source

FAILS: Failures = {
    ("vanilla", "train", 512): ("oom", "out of memory within 1 GiB"),
    ("bigbird", "forward", 256): ("crashed", 'SIGSEGV in <kernel> & "more"'),
}
NASTY = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quoted\" & 'single' <b>bold</b>",
    "&lt;b&gt; %{x} ${1} <!--",
)


def costs(mechanisms: Iterable[str] = SIX, **more: Any) -> list[Record]:
    """Costs at three lengths with two repeats."""
    return cost_records(mechanisms, (128, 256, 512), repeats=2, **more)


def source(records: list[Record], number: int = 0, name: str = "one") -> Source:
    """The records as one folder of one machine."""
    raw = raw_frame(records)
    return Source(number=number, name=name, folder=Path(name), machine=str(raw["machine"].iloc[0]), raw=raw,
                  frame=summarise(raw), records=records, sweep='name = "</pre>"')  # fmt: skip
