"""An executor that measures nothing: the loop and the commands are tested without torch."""

from __future__ import annotations

from typing import Any

from effbench.common import machine
from effbench.common.spec import Job, Record


class Fake:
    """Answers from a table of failures, (mechanism, mode, length) -> (status, reason), and counts."""

    def __init__(
        self,
        fails: dict[Any, Any] | None = None,
        interrupt_at: int | None = None,
        noise: dict[str, float] | None = None,
    ):
        self.fails = fails or {}
        self.noise = noise or {}
        self.interrupt_at = interrupt_at
        self.ran: list[Job] = []
        self.closed = 0

    def start(self):
        return {"torch": "2", "cuda_devices": 0}

    def run(self, job, progress):
        self.ran.append(job)
        if len(self.ran) == self.interrupt_at:
            raise KeyboardInterrupt
        cell = job.cell
        status, reason = self.fails.get((cell.mechanism, cell.mode, cell.seq_len), ("ok", ""))
        if callable(status):
            status = status(job.limits)
        samples, values = {}, {}
        if status == "ok" and cell.probe == "time":
            noise = self.noise.get(cell.mechanism, 0.0) * (1 if cell.repeat % 2 else -1)
            samples = {"time_s": (1e-6 * cell.seq_len**2 * (1 + noise),) * 3}
        if status == "ok" and cell.probe == "memory":
            values = {"peak_bytes": 1000 * cell.seq_len}
        return Record(
            cell=cell,
            status=status,
            reason=reason,
            samples=samples,
            values=values,
            machine={"name": machine.name()},
            code=job.code,
            data=job.data,
            limits=job.limits,
            started="2026-01-01T00:00:00+00:00",
        )

    def close(self):
        self.closed += 1
