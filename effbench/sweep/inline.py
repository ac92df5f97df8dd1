"""Measure in this very process: for a debugger. No isolation, no limits, imports torch here."""

from __future__ import annotations

from typing import Any

from effbench.common.spec import Job, Record
from effbench.sweep.executor import Progress


class InlineExecutor:
    """Runs the worker by a plain call: breakpoints work; a crash or a hang is the caller's too."""

    def start(self) -> dict[str, Any]:
        """Import torch here."""
        from effbench.measured import worker

        return worker.prepare()

    def run(self, job: Job, progress: Progress) -> Record:
        """Measure without isolation; the limits are not enforced."""
        from effbench.measured import worker

        return worker.measure(job, progress)

    def close(self) -> None:
        """Nothing was started."""
