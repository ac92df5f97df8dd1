"""An executor that measures nothing and a device that computes nothing, each with a table of answers."""

from __future__ import annotations

from typing import Any

from effbench.common import host
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
        if status == "ok" and cell.probe == "accuracy":
            values = {"accuracy": 0.5, "tokens_per_s": 1e4, "train_seconds": 1.0}
        return Record(
            cell=cell,
            status=status,
            reason=reason,
            samples=samples,
            values=values,
            machine=host.identity(),
            code=job.code,
            data=job.data,
            limits=job.limits,
            started="2026-01-01T00:00:00+00:00",
        )

    def close(self):
        self.closed += 1


class FakeEvent:
    """A moment of the fake device's clock."""

    def __init__(self, device: FakeDevice) -> None:
        self._device, self.at_s = device, -1.0

    def record(self) -> None:
        """Mark the moment."""
        self.at_s = self._device.now_s

    def elapsed_time(self, end_event: Any, /) -> float:
        """Return milliseconds."""
        assert self._device.waited, "a moment is read only after the device has done its work"
        return 1e3 * float(end_event.at_s - self.at_s)


class FakeDevice:
    """A device on which a call takes ``call_s``, cold ones 3 times as long, and a flush 1 ms."""

    def __init__(self, call_s: float, *, graphs: bool = True, throttled_after: int = 10**9) -> None:
        self.call_s, self._graphs, self._throttled_after = call_s, graphs, throttled_after
        self.now_s, self.calls, self.cold, self.waited = 0.0, 0, False, True
        self.replays = 0

    def call(self) -> None:
        """Take the time of one call."""
        self.waited = False
        self.calls += 1
        self.now_s += self.call_s * (3 if self.cold else 1)
        self.cold = False

    def event(self) -> FakeEvent:
        """Return a moment."""
        return FakeEvent(self)

    def synchronize(self) -> None:
        """Wait."""
        self.waited = True

    def flush(self) -> None:
        """Make the next call cold."""
        self.cold = True
        self.now_s += 1e-3

    def graph(self, work):
        """Return the work itself, or refuse as CUDA does."""
        if not self._graphs:
            raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

        def replay() -> None:
            self.replays += 1
            work()

        return replay

    def status(self):
        """Tell a card that another process uses, before anything was called."""
        assert not self.calls, "the workload's own memory is not that of other processes"
        return {"memory_free_bytes": 3 * 2**30, "sm_clock_max_hz": 2e9, "other_processes": 1}

    def clock(self):
        """Return 1.5 GHz, and 1 GHz with a reason once throttled."""
        assert self.waited, "the clock is read when the device has done its work"
        return (1e9, ("power cap",)) if self.calls > self._throttled_after else (1.5e9, ())
