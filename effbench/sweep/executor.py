"""The seam of execution: Executor, and what it tells while a cell runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from effbench.common.spec import Job, Record

Progress = Callable[[float, str], None]


class Executor(Protocol):
    """Runs one job at a time. A cell's failure is a record; only a failure of ours raises."""

    def start(self) -> dict[str, Any]:
        """Get ready; returns ``torch`` (version) and ``cuda_devices`` (how many) of where cells run."""
        ...

    def run(self, job: Job, progress: Progress) -> Record:
        """Measure the job's cell and return its record; ``progress(fraction, text)`` may be called."""
        ...

    def close(self) -> None:
        """End what was started; safe to call twice, and while a cell runs."""
        ...
