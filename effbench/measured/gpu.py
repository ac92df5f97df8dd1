"""A CUDA device as timer, gate, doctor and energy probe see it; tests drive them with a fake one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import Any, Protocol

import torch

_FLUSH_BYTES = 2**28  # written between calls if the size of the L2 cache is not known
_FLUSH_TIMES = 2  # times the L2 cache
# Why a card's clock may be lower than asked for, by the names of NVML's bits; "idle" and the user's own
# settings are none of these.
_BIT = "nvmlClocksThrottleReason"
_THROTTLES = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SwThermalSlowdown": "thermal limit of the driver",
    "HwThermalSlowdown": "thermal limit of the hardware",
    "HwPowerBrakeSlowdown": "power brake",
}


class Event(Protocol):
    """A moment on the device, as torch.cuda.Event."""

    def record(self) -> None:
        """Mark the moment after all work that was queued so far."""

    def elapsed_time(self, end_event: Any, /) -> float:
        """Return the milliseconds from this moment to ``end_event``."""


class Device(Protocol):
    """The methods of a device that are called to measure on it."""

    def event(self) -> Event:
        """Return a new moment that can be timed."""

    def synchronize(self) -> None:
        """Wait until the device has done all queued work."""

    def flush(self) -> None:
        """Queue a write over the L2 cache, so that a call finds nothing of the call before it there."""

    def graph(self, work: Callable[[], object]) -> Callable[[], None]:
        """Capture ``work`` as a CUDA graph and return its replay. Raises RuntimeError if it cannot be."""

    def clock(self) -> tuple[float | None, tuple[str, ...]]:
        """Return the clock of the multiprocessors in Hz, None if unknown, and why it is throttled."""

    def status(self) -> dict[str, float | int | str | None]:
        """Return ``memory_free_bytes`` and, None if unknown, ``sm_clock_max_hz`` and ``other_processes``.

        The latter is the number of processes that compute on the device, without this one.
        """


class CudaDevice:
    """The device of a tensor, through torch and, where nvidia-ml-py is installed, NVML."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    # Both are made when they are first used: the gate, which has a device for each call, uses neither.
    @cached_property
    def _nvml(self) -> Nvml | None:
        return Nvml.of(self._device)

    @cached_property
    def _over(self) -> torch.Tensor:
        cache = getattr(torch.cuda.get_device_properties(self._device), "L2_cache_size", 0)
        return torch.empty(_FLUSH_TIMES * cache or _FLUSH_BYTES, dtype=torch.uint8, device=self._device)

    def event(self) -> torch.cuda.Event:
        """Return a new moment that can be timed."""
        return torch.cuda.Event(enable_timing=True)

    def synchronize(self) -> None:
        """Wait until the device has done all queued work."""
        torch.cuda.synchronize(self._device)

    def flush(self) -> None:
        """Queue a write over twice the L2 cache."""
        self._over.zero_()

    def graph(self, work: Callable[[], object]) -> Callable[[], None]:
        """Capture ``work`` as a CUDA graph, after three calls on the capturing stream."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            work()
        return graph.replay

    def clock(self) -> tuple[float | None, tuple[str, ...]]:
        """Return the clock of the multiprocessors in Hz and why it is throttled; (None, ()) without NVML."""
        return (None, ()) if self._nvml is None else self._nvml.clock()

    def status(self) -> dict[str, float | int | str | None]:
        """Return the free bytes and, with NVML, the highest clock in Hz and the number of other processes."""
        free, _ = torch.cuda.mem_get_info(self._device)
        highest, others = (None, None) if self._nvml is None else self._nvml.status()
        return {"memory_free_bytes": free, "sm_clock_max_hz": highest, "other_processes": others}


class Nvml:
    """One card through NVIDIA's management library."""

    def __init__(self, library: ModuleType, handle: Any) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def of(cls, device: torch.device) -> Nvml | None:
        """Return the card of a torch device; None if nvidia-ml-py or the driver's library is missing."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        except pynvml.NVMLError:
            return None

    def clock(self) -> tuple[float | None, tuple[str, ...]]:
        """Return the clock of the multiprocessors in Hz, None if not told, and why it is throttled."""
        library, handle = self._library, self._handle
        try:
            hertz = 1e6 * library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)
            reasons = library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        except library.NVMLError:
            return None, ()
        bits = {text: getattr(library, f"{_BIT}{name}") for name, text in _THROTTLES.items()}
        return hertz, tuple(text for text, bit in bits.items() if reasons & bit)

    def status(self) -> tuple[float | None, int | None]:
        """Return the highest clock in Hz and the number of other processes that compute; None if not told.

        This process is one of those that are listed, but inside a container maybe not by its own number.
        """
        library, handle = self._library, self._handle
        try:
            hertz = 1e6 * library.nvmlDeviceGetMaxClockInfo(handle, library.NVML_CLOCK_SM)
            listed = library.nvmlDeviceGetComputeRunningProcesses(handle)
        except library.NVMLError:
            return None, None
        return hertz, max(0, len(listed) - 1)

    def energy_j(self) -> float:
        """Return the joules that the card has used since its driver was loaded. Raises OSError."""
        try:
            return float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._library.NVMLError as error:
            raise OSError(f"NVML does not tell the card's energy: {error}") from None

    def driver(self) -> str:
        """Return the driver's version."""
        return str(self._library.nvmlSystemGetDriverVersion())
