"""Data that several trainings share, prepared once before the first of them, outside its time limit."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from effbench.common import registry
from effbench.common.spec import Job
from effbench.sweep.executor import Progress


class Preparation:
    """The data prepared so far. A task keeps what it prepares in the cache on disk, by content."""

    def __init__(self) -> None:
        self._done: set[tuple[str, int, int]] = set()

    def of(self, job: Job, progress: Progress) -> None:
        """Prepare the data of a training, unless an earlier one had the same."""
        cell = job.cell
        key = (cell.task_label, cell.seq_len, cell.seed)
        if key in self._done:
            return
        self._done.add(key)
        progress(0.0, "preparing data")
        with suppress(Exception):  # the training meets the same error, and its record says it
            task = registry.load(registry.find(cell.task or "", "task"))(**cell.task_options)
            task.prepare(cell.seq_len, cell.seed, Path(job.data_dir) if job.data_dir else None)
