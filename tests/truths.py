"""Planted mechanisms whose cost is known by construction, for the probes to report."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import time
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional as F

from effbench import Mechanism

MIB = 2**20
OVERRUNS = "EFFBENCH_TRUTHS_OVERRUNS"  # names a folder in which Busy leaves by how much each call overran
_CALLS = 2**17


def busy(seconds: float) -> int:
    """Spin for this long by the clock that the probe reads; the nanoseconds by which it became longer.

    It becomes longer where the system takes the processor away while it spins.
    """
    end = time.perf_counter_ns() + round(seconds * 1e9)
    while (now := time.perf_counter_ns()) < end:
        pass
    return now - end


@cache
def _shared(name: str) -> memoryview | None:
    """A file of 64-bit integers that outlives this process: the count of calls, then one for each."""
    if OVERRUNS not in os.environ:
        return None
    path = Path(os.environ[OVERRUNS]) / f"{name}@{time.time_ns()}"
    with path.open("w+b") as file:
        file.truncate(8 * _CALLS)
        return memoryview(mmap.mmap(file.fileno(), 8 * _CALLS)).cast("q")


def overruns(folder: Path, name: str) -> list[list[int]]:
    """For each process that ran Busy as ``name`` (see there), in their order: each call's overrun in ns."""
    found = []
    for path in sorted(folder.glob(f"{name}@*")):
        numbers = memoryview(path.read_bytes()).cast("q")
        found.append(list(numbers[1 : 1 + numbers[0]]))
    return found


class Holds(Mechanism):
    """Holds ``mib`` MiB and its output at its peak."""

    def __init__(self, d_model, heads, *, max_len, causal=False, mib: int = 1):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.mib = mib

    def forward(self, x, mask=None):
        large = torch.empty(self.mib * MIB, dtype=torch.uint8)
        out = x.clone()
        del large
        return out


class _Keep(torch.autograd.Function):
    @staticmethod
    def forward(context, x, size):
        context.save_for_backward(torch.empty(size, dtype=torch.uint8))
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        (kept,) = context.saved_tensors
        assert kept.dtype == torch.uint8
        return gradient.clone(), None


class Saves(Mechanism):
    """Keeps exactly ``size`` bytes for its backward pass."""

    def __init__(self, d_model, heads, *, max_len, causal=False, size: int = 1000):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.size = size

    def forward(self, x, mask=None):
        return _Keep.apply(x, self.size)


class Multiplies(Mechanism):
    """Does K multiply-adds a token and feature through one family of operations; K is 8."""

    def __init__(
        self,
        d_model,
        heads,
        *,
        max_len,
        causal=False,
        family: Literal["mm", "bmm", "addmm", "mv", "dot", "einsum", "conv", "attention"] = "mm",
    ):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.family = family

    def forward(self, x, mask=None):
        b, n, d = x.shape
        rows = x.reshape(b * n * d, 1)
        if self.family == "mm":
            rows @ x.new_ones(1, 8)
        elif self.family == "bmm":
            x.new_ones(8, b * n, d) @ x.new_ones(8, d, 1)
        elif self.family == "addmm":
            torch.addmm(x.new_ones(8), rows, x.new_ones(1, 8))
        elif self.family == "mv":
            x.new_ones(b * n * d, 8) @ x.new_ones(8)
        elif self.family == "dot":
            for _ in range(8):
                rows.flatten() @ rows.flatten()
        elif self.family == "einsum":
            torch.einsum("bnd,dk->bnk", x, x.new_ones(d, 8))
        elif self.family == "conv":
            F.conv1d(x.reshape(1, 1, b * n * d), x.new_ones(8, 1, 1))
        else:
            # N queries of width D/2 see 8 keys: products with the keys and with the values
            F.scaled_dot_product_attention(
                x[None, ..., : d // 2], x.new_ones(1, b, 8, d // 2), x.new_ones(1, b, 8, d // 2)
            )
        return x * 1.0


class Busy(Mechanism):
    """Spins for ``us`` microseconds, times N^power (log N)^logs / (the same at 64 tokens).

    Where the environment names a folder, it leaves the overrun of each call there as US,POWER,LOGS,MAX_LEN.
    """

    def __init__(
        self, d_model, heads, *, max_len, causal=False, us: int = 1000, power: float = 0.0, logs: int = 0
    ):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.us, self.power, self.logs = us, power, logs

    def forward(self, x, mask=None):
        n = x.shape[1]
        kept = _shared(f"{self.us},{self.power},{self.logs},{self.max_len}")
        over = busy(self.us * 1e-6 * (n / 64) ** self.power * (math.log(n) / math.log(64)) ** self.logs)
        if kept is not None:
            kept[0] += 1
            kept[kept[0]] = over
        return x  # no operation, whose own time would come on top


class SlowFirst(Mechanism):
    """Spins for 1 ms, but for 200 ms in its first call."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.calls = 0

    def forward(self, x, mask=None):
        self.calls += 1
        busy(0.2 if self.calls == 1 else 0.001)
        return x.view_as(x)


class Changes(Mechanism):
    """Spins for 1 ms at first and longer by ``step`` of it with every call; or for 40 ms and ever shorter."""

    def __init__(self, d_model, heads, *, max_len, causal=False, step: float = 0.01):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.longer = step
        self.calls = 0

    def forward(self, x, mask=None):
        self.calls += 1
        drift = 1 + abs(self.longer) * self.calls
        busy(0.001 * drift if self.longer > 0 else 0.04 / drift)
        return x.view_as(x)


class Outside(Mechanism):
    """Takes ``mib`` MiB from the C library, past torch's allocator, touches and frees it."""

    def __init__(self, d_model, heads, *, max_len, causal=False, mib: int = 64):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.mib = mib

    def forward(self, x, mask=None):
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        place = libc.malloc(ctypes.c_size_t(self.mib * MIB))
        ctypes.memset(place, 1, self.mib * MIB)
        libc.free(ctypes.c_void_p(place))
        return x.view_as(x)
