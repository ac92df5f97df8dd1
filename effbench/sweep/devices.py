"""Trainings on several GPUs of one machine: one at a time on each, each with a fork server of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from effbench.common.spec import Cell, Job, Record
from effbench.sweep.executor import Executor
from effbench.sweep.local import LocalExecutor

VISIBLE = "CUDA_VISIBLE_DEVICES"
Measure = Callable[[Job, Executor], Record]


def trains_on_any(cell: Cell) -> bool:
    """True if the cell is a training for any GPU, whose number the user left open.

    Only trainings may share the machine: a time beside other work would be that of the shared machine.
    """
    return cell.probe == "accuracy" and cell.device == "cuda"


def visible(count: int) -> list[str]:
    """Return the first ``count`` GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


class Workers:
    """An executor for each GPU, and a thread that waits for it; the decisions stay in the caller's thread."""

    def __init__(self, executors: Sequence[Executor]) -> None:
        self._free = list(executors)
        self._running: dict[Future[Record], tuple[Executor, Job]] = {}
        self._threads = ThreadPoolExecutor(len(executors))

    def start(self, job: Job, measure: Measure) -> Iterator[Record]:
        """Start a job on a free GPU; yield the records of jobs that had to end first."""
        while not self._free:
            yield from self._ended()
        executor = self._free.pop(0)
        self._running[self._threads.submit(measure, job, executor)] = executor, job

    def rest(self) -> Iterator[Record]:
        """Yield the records of the jobs that still run."""
        while self._running:
            yield from self._ended()

    def jobs(self) -> list[Job]:
        """Return the jobs that run now."""
        return [job for _, job in self._running.values()]

    def close(self) -> None:
        """End everything that runs."""
        for executor in (*self._free, *(executor for executor, _ in self._running.values())):
            executor.close()
        self._threads.shutdown(cancel_futures=True)

    def _ended(self) -> Iterator[Record]:
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            executor, _ = self._running.pop(future)
            self._free.append(executor)
            yield future.result()


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Yield workers for the first ``count`` visible GPUs, and end them."""
    made = Workers([LocalExecutor({VISIBLE: name}) for name in visible(count)])
    try:
        yield made
    finally:
        made.close()
