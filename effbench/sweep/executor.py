"""The interface of executors, which run cells, and of the progress that they report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from effbench.common.spec import Job, Record, UsageError

Progress = Callable[[float, str], None]

# The choices of ``effbench run --executor`` that measure here: module:class, called without arguments. A
# new executor is one file and an entry here.
EXECUTORS = {
    "process": "effbench.sweep.local:LocalExecutor",
    "inline": "effbench.sweep.inline:InlineExecutor",
}


def refuse_missing(devices: Collection[str], offers: Mapping[str, Any]) -> None:
    """Raise UsageError if one of these devices is not there; ``offers`` is what ``start`` returned."""
    wanted = set(devices) - {"cpu"}
    if wanted and not offers["cuda_devices"]:
        raise UsageError(
            f"device {min(wanted)!r}: torch {offers['torch']} finds no CUDA device here; choose cpu"
        )


class Executor(Protocol):
    """Run one job at a time. A cell that fails is a record; only a failure of effbench raises."""

    def start(self) -> dict[str, Any]:
        """Get ready; return ``torch`` (version) and ``cuda_devices`` (number) of where cells run."""
        ...

    def run(self, job: Job, progress: Progress) -> Record:
        """Measure the job's cell and return its record; ``progress(fraction, text)`` may be called."""
        ...

    def close(self) -> None:
        """End everything that was started; may be called twice, and while a cell runs."""
        ...
