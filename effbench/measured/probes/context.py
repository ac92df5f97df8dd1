"""The context of a probe: the job, its workload, and the watch over the process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from effbench.common.spec import Cell, Job
from effbench.measured.probes.effects import Watch
from effbench.measured.workload import Workload, build

Progress = Callable[[float, str], None]
Samples = dict[str, tuple[float, ...]]
Values = dict[str, float | int | str | None]
Result = tuple[Samples, Values]


@dataclass
class Context:
    """The job of a probe and what it may use.

    ``progress(fraction, text)`` reports how far a long measurement is. ``watch`` notices and undoes what the
    mechanism does to the process. ``memory_tested``: the memory probe has passed its self-test in another
    process, and is not to run it in this one.
    """

    job: Job
    progress: Progress
    watch: Watch
    memory_tested: bool = False

    @property
    def cell(self) -> Cell:
        """The cell to measure."""
        return self.job.cell

    @cached_property
    def workload(self) -> Workload:
        """The module, its input and the call; built on first use. Raises Unsupported."""
        workload = build(self.cell)
        self.watch.undo("its constructor")
        return workload
