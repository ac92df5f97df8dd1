"""The interface of executors, which run cells, and of the progress that they report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from effbench.common.spec import Job, Record

Progress = Callable[[float, str], None]

# The choices of ``effbench run --isolate``: module:class, called without arguments. A new executor is one
# file and an entry here.
EXECUTORS = {
    "process": "effbench.sweep.local:LocalExecutor",
    "inline": "effbench.sweep.inline:InlineExecutor",
}


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
