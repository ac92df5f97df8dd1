"""Measure in the calling process, for a debugger: no isolation, no limits; imports torch here."""

from __future__ import annotations

from typing import Any

from effbench.common.spec import Job, Record
from effbench.sweep.executor import Progress


class InlineExecutor:
    """Call the worker directly: breakpoints work; a crash or a hang also ends or blocks the caller."""

    def start(self) -> dict[str, Any]:
        """Import torch here."""
        from effbench.measured import worker

        return worker.prepare()

    def run(self, job: Job, progress: Progress) -> Record:
        """Measure without isolation; the limits are not enforced."""
        from effbench.measured import worker

        return worker.measure(job, progress)

    def close(self) -> None:
        """Do nothing: nothing was started."""
