"""An executor of your own: it decides where a cell is measured. This one repeats a cell that crashed, once.

Use it:  effbench.run(sweep, "results/mine", executor=RetryOnce(LocalExecutor()))
"""

from __future__ import annotations

from typing import Any

from effbench.common.spec import Job, Record
from effbench.sweep.executor import Executor, Progress


class RetryOnce:
    """Run each job with another executor; run it a second time if the first attempt crashed.

    An executor has three methods. ``run`` always returns a record, and effbench stores it.
    """

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.retried = 0

    def start(self) -> dict[str, Any]:
        """Start the inner executor; return its torch version and number of CUDA devices."""
        return self.inner.start()

    def run(self, job: Job, progress: Progress) -> Record:
        """Measure the job's cell, twice if need be."""
        record = self.inner.run(job, progress)
        if record.status == "crashed":
            self.retried += 1
            progress(0.0, "crashed; trying once more")
            record = self.inner.run(job, progress)
        return record

    def close(self) -> None:
        """End the inner executor's processes."""
        self.inner.close()
