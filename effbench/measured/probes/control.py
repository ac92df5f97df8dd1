"""The control: a short fixed operation that is timed beside each sample, to see the machine's speed.

A machine has slow phases, in which every call takes longer: another virtual machine uses the second hardware
thread of a core, or the clock is lower. They last from a second to hours. The control slows down with the
samples beside it, so that a sample of a slow phase can be told from that of a slow mechanism.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

# Sizes that fit into a core's private cache, and that torch divides among all threads.
_WARM_UP = 10  # readings
_WIDTH, _PRODUCTS, _NUMBERS, _SMALL = 128, 4, 2**16, 10


# A reading takes about this share of the time of a sample, with so many operations at least and at most. Two
# thirds of them are not timed: the first operations after a call find their data out of the caches, for up to
# about a tenth of the call's time, and by how much depends on the mechanism (benchmarks/cold_control.py).
_SHARE, _LEAST, _MOST = 0.1, 3, 300
_UNTIMED = 2 / 3


def counts(sample_s: float, operation_s: float) -> tuple[int, int]:
    """Return how many operations of a reading are not timed, and how many are, beside such samples."""
    count = max(_LEAST, min(_MOST, round(_SHARE * sample_s / operation_s)))
    untimed = round(_UNTIMED * count)
    return untimed, count - untimed


class Control:
    """The control of one process; call ``read`` before the first sample and after each one.

    The operation takes about 0.1 ms: products of matrices, a function of many numbers, and operations that
    are too small for several threads. It runs on the CPU, on the threads of the measured call, and allocates
    nothing.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        generator = torch.Generator().manual_seed(0)  # leaves the state of torch's own generator as it is
        self._clock_ns = clock_ns
        self._a = torch.randn(_WIDTH, _WIDTH, generator=generator)
        self._product = torch.empty_like(self._a)
        self._numbers = torch.rand(_NUMBERS, generator=generator)
        self._result = torch.empty_like(self._numbers)
        self._few = torch.zeros(16)
        self._untimed, self._timed = counts(0.0, 1.0)
        self.times_s: list[float] = []

    def warm_up(self, sample_s: float) -> None:
        """Get ready for readings beside samples of so many seconds; earlier readings are forgotten."""
        for _ in range(_WARM_UP):
            self.read()
        self._untimed, self._timed = counts(sample_s, min(self.times_s))
        self.times_s.clear()

    def read(self) -> None:
        """Run the operation until it is as fast as it gets, and keep the mean time of those after that."""
        with torch.inference_mode():
            for _ in range(self._untimed):
                self.operate()
            start = self._clock_ns()
            for _ in range(self._timed):
                self.operate()
            self.times_s.append((self._clock_ns() - start) / 1e9 / self._timed)

    def operate(self) -> None:
        """Run the operation once, in inference mode."""
        for _ in range(_PRODUCTS):
            torch.mm(self._a, self._a, out=self._product)
        torch.exp(self._numbers, out=self._result)
        for _ in range(_SMALL):
            self._few.add_(1)

    def beside_samples(self) -> tuple[float, ...]:
        """Return for each sample the mean of the readings before and after it, in seconds."""
        return tuple((a + b) / 2 for a, b in zip(self.times_s, self.times_s[1:], strict=False))
